"""Power: of a test on data such as a pilot sample, and on a benchmark with published numbers.

``power_of`` says how many rows a difference like that of two pilot samples needs.
``benchmark_power`` is the perturbed uniform, on which published kernel tests are compared: X has
the density 1 + e·scale·Σ_j θ_j G(px − j) on [0, 1], j = 1 … p, with random signs θ_j = ±1; Y is
uniform. G is a smooth bump on (−1, −½) followed by its negative on (−½, 0): with more of them the
difference is at a finer scale. Its largest value is 1/e, so that the density lies within 1 ± scale,
and scale = 1 is the strongest perturbation there is (Schrab et al., "MMD Aggregated Two-Sample
Test", JMLR 2023, §5.2).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .kernels import Bandwidth
from .samples import Rng, as_samples, complete_rows, generator_of
from .two_sample import Method, two_sample_test

SCALES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
PUBLISHED = {  # over SCALES; Biggs, Schrab & Gretton, NeurIPS 2023: 200 repetitions, B = 2000
    "fuse-original": (0.045, 0.085, 0.18, 0.505, 0.825, 0.975),
    "mmd": (0.04, 0.06, 0.105, 0.29, 0.465, 0.675),  # Gaussian kernel, median bandwidth
}


class PilotRow(NamedTuple):
    """Power of a test of ``n`` and ``m`` rows, its binomial standard ``error``, and the power that
    pilots of their sizes have ``by_chance``, their rows dealt to x and y at random."""

    n: int
    m: int
    power: float
    error: float
    by_chance: float
    repetitions: int


class PowerRow(NamedTuple):
    """``power``: the share of tests with p ≤ level, ``error`` its binomial standard error.
    ``published``: that of the paper, for the same test at the same setting."""

    method: str
    scale: float
    power: float
    error: float
    repetitions: int
    published: float | None


def perturbed_uniform_density(
    x: ArrayLike, scale: float, signs: Sequence[float]
) -> NDArray[np.float64]:
    """The density at x (any shape) with one perturbation of the uniform for each of ``signs``.

    Examples:
        >>> from divergences.power import perturbed_uniform_density
        >>> perturbed_uniform_density([0.1, 0.4, 0.6, 2.0], 0.5, signs=[1, -1]).round(3).tolist()
        [1.48, 0.52, 0.52, 0.0]
    """
    x = np.asarray(x, dtype=np.float64)
    bumps = np.zeros_like(x)
    for j, sign in enumerate(signs, start=1):
        t = len(signs) * x - j
        for centre, direction in ((-0.75, 1.0), (-0.25, -1.0)):
            inside = 1.0 - (4.0 * (t - centre)) ** 2
            positive = inside > 0
            bump = np.exp(-1.0 / np.where(positive, inside, 1.0))
            bumps += sign * direction * np.where(positive, bump, 0.0)
    density = 1.0 + math.e * scale * bumps
    return np.where((x >= 0.0) & (x <= 1.0), density, 0.0)


def perturbed_uniform(
    n: int, scale: float, *, signs: Sequence[float] | None = None, perturbations: int = 2, rng: Rng
) -> NDArray[np.float64]:
    """A sample [n, 1] by rejection; ``signs`` of the perturbations are drawn if None.

    Examples:
        >>> from divergences.power import perturbed_uniform
        >>> x = perturbed_uniform(1000, 0.5, rng=0)
        >>> x.shape, bool(x.min() >= 0 and x.max() <= 1)
        ((1000, 1), True)
    """
    _check_scale(scale)
    generator, _ = generator_of(rng)
    if signs is None:
        signs = generator.choice([-1.0, 1.0], size=perturbations).tolist()
    found = np.empty(0)
    while len(found) < n:
        x = generator.random(2 * n)
        heights = generator.random(2 * n) * (1.0 + scale)
        found = np.concatenate([found, x[heights < perturbed_uniform_density(x, scale, signs)]])
    return found[:n, None]


def power_of(
    x: Any,
    y: Any,
    *,
    n: int | Sequence[int],
    level: float = 0.05,
    repetitions: int = 200,
    n_resamples: int = 199,
    rng: Rng = None,
    paired: bool = False,
    **options: Any,
) -> list[PilotRow]:
    """Power of ``two_sample_test`` with n rows of x, estimated from pilot samples x [a, d] and
    y [b, d]: a row for each n.

    Each repetition draws n rows of x and n·b/a rows of y with replacement (pairs, if ``paired``)
    and tests them. That takes the pilots for the distributions: what differs between them by chance
    counts as a difference, so that power is overestimated for small pilots. ``by_chance`` shows by
    how much at most: the same of pilots that differ by chance alone. Where it is near ``power``,
    the pilots are too small to say; take it into account for n beyond their sizes.

    Args:
        x, y: as ``two_sample_test`` takes them.
        n: rows of x, ≥ 2; several give a row each.
        level: a test with p ≤ level has found the difference.
        repetitions: tests for each n, and as many for ``by_chance``.
        n_resamples, rng: see ``two_sample_test``; here 199 relabellings are enough.
        options: method, kernel, bandwidth, scale and others of ``two_sample_test``, but for its
            strata, groups and blocks, which a resampled pilot does not keep.

    Raises:
        ValueError, TypeError: as ``two_sample_test``; n below 2, a level outside (0, 1).

    Examples:
        >>> import numpy as np
        >>> from divergences.power import power_of
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(100, 2)), rng.normal(size=(80, 2)) + 0.5
        >>> rows = power_of(x, y, n=[10, 40], repetitions=20, method="energy", rng=0)
        >>> rows[0].power < rows[1].power
        True
    """
    for name in ("strata", "groups", "blocks"):
        if name in options:
            raise ValueError(f"power_of takes no {name}: resampled rows do not keep them")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1); got {level!r}")
    sizes = [n] if isinstance(n, int | np.integer) else list(n)
    wrong = [
        k for k in sizes if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 2
    ]
    if wrong or not sizes:
        raise ValueError(f"n must be integers ≥ 2; got {wrong[0] if wrong else sizes!r}")
    if repetitions < 1:
        raise ValueError(f"repetitions is too small; got {repetitions}")
    if options.pop("drop_nan", False):
        (x, y), _, _ = complete_rows((x, y), ("x", "y"), together=paired)
    first, second = as_samples(x, y)
    a, b = len(first), len(second)
    if paired and a != b:
        raise ValueError(f"paired=True needs as many rows in y as in x; got {a} and {b}")
    settings = {"n_resamples": n_resamples, "show_progress": False, "paired": paired} | options
    generator, _ = generator_of(rng)
    rows = []
    for size in map(int, sizes):
        other = max(2, round(size * b / a))
        found, by_chance = 0, 0
        for _ in range(repetitions):
            for shuffle in (False, True):
                pilots = _dealt(first, second, paired, generator) if shuffle else (first, second)
                rows_x = torch.from_numpy(generator.integers(a, size=size)).to(first.device)
                rows_y = torch.from_numpy(generator.integers(b, size=other)).to(first.device)
                drawn = pilots[0][rows_x], pilots[1][rows_x if paired else rows_y]
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "all rows of")  # that were drawn
                    pvalue = two_sample_test(*drawn, rng=generator, **settings).pvalue
                found += pvalue <= level and not shuffle
                by_chance += pvalue <= level and shuffle
        power = found / repetitions
        error = math.sqrt(power * (1.0 - power) / repetitions)
        rows.append(PilotRow(size, other, power, error, by_chance / repetitions, repetitions))
    return rows


def _dealt(
    x: Tensor, y: Tensor, paired: bool, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """The pilots as they are where nothing differs: pairs swapped, or rows dealt, at random."""
    if paired:
        swapped = torch.from_numpy(generator.random(len(x)) < 0.5).to(x.device)[:, None]
        return torch.where(swapped, y, x), torch.where(swapped, x, y)
    pooled = torch.cat([x, y])
    pooled = pooled[torch.from_numpy(generator.permutation(len(pooled))).to(x.device)]
    return pooled[: len(x)], pooled[len(x) :]


def benchmark_power(
    methods: Sequence[Method] = ("fuse", "fuse-original", "mmd", "energy"),
    *,
    scales: Sequence[float] = SCALES,
    repetitions: int = 200,
    n: int = 500,
    perturbations: int = 2,
    level: float = 0.05,
    bandwidth: Bandwidth = "median",
    n_resamples: int | None = None,
    rng: Rng = None,
) -> Iterator[PowerRow]:
    """Power of two-sample tests with n = m rows, a row at a time as it is found.

    Repetition r depends on the seed, r and the scale alone: methods see the same data, and a row is
    the same by itself as among others.

    Args:
        methods: of ``two_sample_test``.
        scales: of the perturbation, in [0, 1]; 0 is the level of the test.
        repetitions: pairs of samples for each row; signs are drawn anew for each.
        bandwidth: of method "mmd".
        n_resamples: of each test; its own default if None.
        rng: see ``two_sample_test``.

    Raises:
        ValueError: before the first row.

    Examples:
        >>> from divergences.power import benchmark_power
        >>> row = next(benchmark_power(["energy"], scales=[0.5], repetitions=5, n=100, rng=0))
        >>> row.method, row.scale, row.repetitions
        ('energy', 0.5, 5)
    """
    for method in methods:
        if method not in get_args(Method):
            known = ", ".join(map(repr, get_args(Method)))
            raise ValueError(f"unknown method {method!r}; known are {known}")
    for scale in scales:
        _check_scale(scale)
    for name, count in (("repetitions", repetitions), ("n", n), ("perturbations", perturbations)):
        if count < (2 if name == "n" else 1):
            raise ValueError(f"{name} is too small; got {count}")
    generator, seed = generator_of(rng)
    seed = int(generator.integers(2**62)) if seed is None else seed
    usual = (n, perturbations, level, bandwidth) == (500, 2, 0.05, "median")

    def row(method: Method, scale: float) -> PowerRow:
        rejected = 0
        for repetition in range(repetitions):
            data = np.random.default_rng([seed, repetition])
            x = perturbed_uniform(n, scale, perturbations=perturbations, rng=data)
            y = data.random((n, 1))
            result = two_sample_test(
                x,
                y,
                method=method,
                bandwidth=bandwidth if method == "mmd" else None,
                n_resamples=n_resamples,
                rng=data,
                show_progress=False,
            )
            rejected += result.pvalue <= level
        power = rejected / repetitions
        error = math.sqrt(power * (1.0 - power) / repetitions)
        published = dict(zip(SCALES, PUBLISHED.get(method, ()), strict=False))
        return PowerRow(
            method, scale, power, error, repetitions, published.get(scale) if usual else None
        )

    return (row(method, scale) for method in methods for scale in scales)


def _check_scale(scale: float) -> None:
    if not 0.0 <= scale <= 1.0:
        raise ValueError(f"scale must be in [0, 1], or the density is negative; got {scale!r}")
