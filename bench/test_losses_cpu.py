"""The losses on a CPU against the copied snippet and GeomLoss: python -m pytest bench -s."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from divergences.energy import energy_distance
from divergences.mmd import mmd2

from . import rivals
from .measure import interleaved, peak_memory, record
from .rivals import Loss

SIGMA_PER_ROOT_D = 1.0
SIZES = [(64, 16), (256, 16), (2000, 16), (8000, 64), (8000, 2), (4000, 784)]


def ours_gaussian(sigma: float) -> Loss:
    return partial(mmd2, bandwidth=sigma, estimator="biased")


def ours_energy() -> Loss:
    return partial(energy_distance, estimator="biased")


def losses(family: str, d: int) -> dict[str, Loss]:
    sigma = SIGMA_PER_ROOT_D * d**0.5
    if family == "gaussian":
        found = {"ours": ours_gaussian(sigma), "eager": rivals.eager_gaussian(sigma)}
        if importlib.util.find_spec("geomloss"):
            found["geomloss"] = rivals.geomloss_gaussian(sigma)
        return found
    found = {"ours": ours_energy(), "eager": rivals.eager_energy}
    if importlib.util.find_spec("geomloss"):
        found["geomloss"] = rivals.geomloss_energy()
    return found


def samples(n: int, d: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator)
    return x, torch.randn(n, d, generator=generator) * 1.1


def value(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return loss(x, y)


def value_and_gradient(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    loss(x, y).backward()
    assert x.grad is not None
    return x.grad


def workload(family: str, n: int, d: int, gradient: bool) -> str:
    what = "value+gradient" if gradient else "value"
    return f"{family}, {what}, n=m={n}, d={d}"


def memory_case(family: str, name: str, n: int, d: int, gradient: bool) -> Callable[[], Tensor]:
    """Set up in a fresh process; a small call loads everything lazily loaded."""
    torch.set_num_threads(2)
    loss, run = losses(family, d)[name], value_and_gradient if gradient else value
    run(loss, *samples(100, d))
    return partial(run, loss, *samples(n, d))


@pytest.mark.parametrize("gradient", [False, True], ids=["value", "value+gradient"])
@pytest.mark.parametrize(("n", "d"), SIZES)
@pytest.mark.parametrize("family", ["gaussian", "energy"])
def test_loss(family: str, n: int, d: int, gradient: bool) -> None:
    torch.set_num_threads(2)
    x, y = samples(n, d)
    found = losses(family, d)
    run = value_and_gradient if gradient else value
    # Correctness first, on a size whose fp64 truth is cheap.
    a, b = samples(min(n, 1000), d)
    truth = run(found["eager"], a.double(), b.double())
    errors = {
        name: float((run(loss, a, b).double() - truth).abs().max() / truth.abs().max())
        for name, loss in found.items()
    }
    assert errors["ours"] <= 2.0 * errors["eager"] + 1e-6
    medians = interleaved(
        {name: partial(run, loss, x, y) for name, loss in found.items()},
        seconds=2.0 if n < 8000 else 8.0,
    )
    rows = record(workload(family, n, d, gradient), "losses_cpu", medians=medians, errors=errors)
    for row in rows:
        print(
            f"\n{row.workload:45s} {row.variant:9s} {row.median_ms:10.2f} ms  ×{row.ratio:<6.2f}"
            f" error {row.error:.1e}",
            end="",
        )


@pytest.mark.parametrize("gradient", [False, True], ids=["value", "value+gradient"])
@pytest.mark.parametrize(("n", "d"), [size for size in SIZES if size[0] >= 4000])
@pytest.mark.parametrize("family", ["gaussian", "energy"])
def test_peak_memory(family: str, n: int, d: int, gradient: bool) -> None:
    """At most 100 MB and six times the inputs, where eager holds several n² matrices."""
    peaks = {
        name: peak_memory(partial(memory_case, family, name, n, d, gradient))
        for name in losses(family, d)
    }
    record(workload(family, n, d, gradient), "memory_cpu", peaks=peaks)
    print(f"\n{workload(family, n, d, gradient):45s} {peaks}", end="")
    assert peaks["ours"] < 100 + 6 * (2 * 4 * n * d / 2**20)


def test_a_hundred_thousand_rows() -> None:
    """n = m = 100,000 runs, where a dense matrix would take 40 GB."""
    torch.set_num_threads(2)
    x, y = samples(100_000, 16)
    medians = interleaved({"ours": partial(value, ours_gaussian(4.0), x, y)}, seconds=0.0)
    record("gaussian, value, n=m=100000, d=16", "losses_cpu", medians=medians)
    print(f"\nn = m = 100,000: {medians['ours'] / 1e3:.1f} s")
    assert value(ours_gaussian(4.0), x, y).isfinite()
