"""Permutation workloads that run on any device: quadratic forms and MMD-FUSE."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from divergences.energy import energy_distance
from divergences.kernels import Gaussian
from divergences.kernels.statistics.quadratic_forms import QuadraticForms
from divergences.mmd import mmd2
from divergences.resampling import Relabellings
from divergences.two_sample import two_sample_test

from . import rivals
from .measure import OURS, Run

Array = NDArray[np.float64]
Widths = list[tuple[str, float]]
CHECKED_ROWS = 1000


def samples(n: int, d: int) -> tuple[Array, Array]:
    r = np.random.default_rng(0)
    return r.normal(size=(n, d)), r.normal(0.05, 1.0, (n, d))


def on(device: str, *arrays: Array) -> list[Any]:
    """NumPy for a CPU, as people hand it; fp32 tensors for a GPU."""
    if device == "cpu":
        return list(arrays)
    return [torch.from_numpy(array).float().to(device) for array in arrays]


def kernel_widths(result: Any) -> Widths:
    return [(row.kernel.split("(")[0].lower(), row.bandwidth or 1.0) for row in result.kernels]


def check_fuse(n: int, d: int, device: str = "cpu") -> None:
    """The statistic is the one that the rival computes, in fp64; on a GPU of all rows."""
    x, y = samples(n if device == "cuda" else min(n, CHECKED_ROWS), d)
    result = two_sample_test(*on(device, x, y), method="fuse-original", n_resamples=19, rng=0)
    v = torch.ones(2 * len(x), 1)
    v[len(x) :] = -1.0
    a, b = (torch.from_numpy(s).to(device) for s in (x, y))
    dense = float(rivals.materialised_fuse(a, b, kernel_widths(result), v.to(a)))
    assert abs(result.statistic - dense) <= 1e-3 * abs(dense), (result.statistic, dense)


def check_method(method: Any, d: int, options: dict[str, Any]) -> None:
    """A statistic estimates the discrepancy of its method, here of samples far apart: the exact
    ones give it, the others within a tenth and what labels alone scatter."""
    x, y = samples(CHECKED_ROWS, d)
    y = y + 0.5
    found = two_sample_test(x, y, method=method, n_resamples=99, rng=0, **options)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    if method == "energy":
        wanted, slack = float(energy_distance(a, b)), 0.0
    else:
        wanted = float(mmd2(a, b, bandwidth=found.kernels[0].bandwidth))
        slack = 0.1 * wanted + 4.0 * float(found.null_distribution.std())
    difference = abs(found.statistic - wanted)
    assert difference <= 1e-6 * wanted + slack, (method, found.statistic, wanted)


def fuse_case(n: int, d: int, resamples: int, name: str, device: str = "cpu") -> Run:
    """Ready to run, also in a fresh process; a small call loads everything lazily loaded."""
    options: dict[str, Any] = {"n_resamples": resamples, "rng": 0}
    x, y = samples(n, d)
    if name == OURS:
        two_sample_test(*on(device, *samples(50, d)), **options)
        return partial(two_sample_test, *on(device, x, y), **options)
    widths = kernel_widths(two_sample_test(x[:50], y[:50], n_resamples=20, rng=0))
    (labels,) = Relabellings((n, n), resamples, np.random.default_rng(0)).batches(10_000)
    v = torch.from_numpy(1 - 2 * labels).to(device)
    a, b = (torch.from_numpy(s).float().to(device) for s in (x, y))
    return partial(rivals.materialised_fuse, a, b, widths, v)


def balanced_labels(rows: int, count: int, device: str) -> Tensor:
    """[rows, count] of ±1 in int8, as many of each."""
    generator = torch.Generator().manual_seed(1)
    signs = torch.ones(rows, dtype=torch.int8)
    signs[rows // 2 :] = -1
    columns = [signs[torch.randperm(rows, generator=generator)] for _ in range(count)]
    return torch.stack(columns, 1).to(device)


def label_forms(
    rows: int, d: int, count: int, device: str
) -> tuple[dict[str, Callable[[], Tensor]], Tensor]:
    """Forms of ours, whose row sums are taken too as in a test, and of a whole fp32 K; and z."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(rows, d, generator=generator).to(device)
    v, sigma = balanced_labels(rows, count, device), float(d**0.5)
    variants: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: QuadraticForms(z, Gaussian(sigma).resolve(z), narrow=True)(v)[0],
        "materialised K": lambda: rivals.materialised_forms(z, v.float(), sigma=sigma),
    }
    return variants, z


def exact_forms(z: Tensor, v: Tensor, *, sigma: float, rows: int = 1024) -> Tensor:
    """``rivals.materialised_forms`` in fp64, some rows of K at a time."""
    z, v = z.double(), v.double()
    total = v.new_zeros(v.shape[1])
    for first in range(0, len(z), rows):
        block = slice(first, first + rows)
        k = torch.exp(rivals.squared_distances(z[block], z).mul_(-0.5 / sigma**2))
        k[:, block].fill_diagonal_(0.0)
        total += (v[block] * (k @ v)).sum(0)
    return total


def checked_forms(rows: int, d: int, count: int, device: str) -> dict[str, float]:
    """Largest errors in standard deviations of the forms over labels, which is what a p-value sees.
    fp16 values of K may cost a hundredth of one, as a p-value cannot tell. On a GPU of all rows."""
    checked_rows = rows if device == "cuda" else min(rows, CHECKED_ROWS)
    variants, z = label_forms(checked_rows, d, count, device)
    truth = exact_forms(z, balanced_labels(len(z), count, device), sigma=float(d**0.5))
    errors = {
        name: float((run().double() - truth).abs().max() / truth.std())
        for name, run in variants.items()
    }
    assert max(errors.values()) < 1e-2, errors
    return errors
