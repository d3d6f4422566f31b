"""Permutation tests on a CPU against what people run: python -m pytest bench/test_tests_cpu.py.

Beyond ``WHOLE`` rows rivals take minutes: they are timed with ``RIVAL_RESAMPLES`` permutations, and
their time is scaled to as many as ours has, with what they do once before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from divergences.energy import energy_distance
from divergences.independence import distance_correlation, independence_test
from divergences.two_sample import two_sample_test

from . import rivals
from .conftest import Compare
from .permutations import Array, check_fuse, check_method, fuse_case, samples

FILE = "tests_cpu"
RESAMPLES = 999
WHOLE = 500
RIVAL_RESAMPLES = 49


def rival_resamples(n: int) -> int:
    return RESAMPLES if n <= WHOLE else RIVAL_RESAMPLES


def scaled(n: int) -> float:
    return (RESAMPLES + 1) / (rival_resamples(n) + 1)


def without_missing(compare: Compare, workload: str, variants: dict[str, Any]) -> None:
    """Leave out the rivals that are not installed."""
    for module in ("dcor", "hyppo"):
        if module in variants and not rivals.installed(module):
            compare.leave_out(workload, module, "it is not installed")
            del variants[module]


def dcor_energy(x: Array, y: Array) -> Any:
    import dcor

    return dcor.homogeneity.energy_test(x, y, num_resamples=rival_resamples(len(x)), random_state=0)


def hyppo_energy(x: Array, y: Array) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports, too
        from hyppo.ksample import Energy

        return Energy().test(x, y, reps=rival_resamples(len(x)), auto=False)


def reindexed(x: Array, y: Array) -> Any:
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    return rivals.reindexed_energy_null(a, b, rival_resamples(len(x)))


def ours(x: Array, y: Array, **options: Any) -> Any:
    return two_sample_test(x, y, n_resamples=RESAMPLES, rng=0, **options)


def check_energy_rivals(d: int) -> None:
    """dcor's statistic is ours, biased, times n/2; the re-indexing loop has our null."""
    x, y = samples(200, d)
    a, b = (torch.from_numpy(s) for s in (x, y))
    biased = float(energy_distance(a, b, estimator="biased"))
    if rivals.installed("dcor"):
        assert dcor_energy(x, y).statistic == pytest.approx(biased * len(x) / 2, rel=1e-6)
    result = ours(x, y, method="energy")
    assert result.statistic == pytest.approx(float(energy_distance(a, b)), rel=1e-4)
    null = rivals.reindexed_energy_null(a, b, 200).numpy()
    assert null.std() == pytest.approx(result.null_distribution.std(), rel=0.3)


@pytest.mark.parametrize(("n", "d"), [(200, 4), (2000, 16)])
def test_energy(compare: Compare, n: int, d: int) -> None:
    name = f"two-sample energy, n=m={n}, d={d}, B={RESAMPLES}"
    x, y = samples(n, d)
    check_energy_rivals(d)
    variants: dict[str, Callable[[], Any]] = {
        "ours": partial(ours, x, y, method="energy"),
        "re-indexing": partial(reindexed, x, y),
        "dcor": partial(dcor_energy, x, y),
    }
    if n <= WHOLE:  # its permutations take a process pool and minutes beyond
        variants["hyppo"] = partial(hyppo_energy, x, y)
    without_missing(compare, name, variants)
    slow = {k: scaled(n) for k in variants if k != "ours"}
    compare(name, variants, file=FILE, scale=slow)


@pytest.mark.parametrize(("n", "d"), [(500, 10), (2000, 16)])
def test_fuse(compare: Compare, n: int, d: int) -> None:
    check_fuse(n, d)
    fresh = {name: partial(fuse_case, n, d, RESAMPLES, name) for name in ("ours", "materialised K")}
    name = f"MMD-FUSE, 20 kernels, n=m={n}, d={d}, B={RESAMPLES}"
    compare(name, {k: setup() for k, setup in fresh.items()}, file=FILE, fresh=fresh)


def dcor_independence(x: Array, y: Array) -> Any:
    import dcor

    return dcor.independence.distance_covariance_test(
        x, y, num_resamples=rival_resamples(len(x)), random_state=0
    )


def hyppo_independence(x: Array, y: Array) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hyppo.independence import Dcorr

        return Dcorr().test(x, y, reps=rival_resamples(len(x)), auto=False)


@pytest.mark.parametrize("n", [500, 2000])
def test_distance_covariance(compare: Compare, n: int) -> None:
    name = f"independence dcov, n={n}, d=5+5, B={RESAMPLES}"
    x, y = samples(n, 5)
    if rivals.installed("dcor"):
        import dcor

        truth = dcor.u_distance_correlation_sqr(x, y)
        assert distance_correlation(x, y) == pytest.approx(truth, abs=1e-9)
    variants: dict[str, Callable[[], Any]] = {
        "ours": partial(independence_test, x, y, method="dcov", n_resamples=RESAMPLES, rng=0),
        "dcor": partial(dcor_independence, x, y),
        "hyppo": partial(hyppo_independence, x, y),
    }
    without_missing(compare, name, variants)
    compare(name, variants, file=FILE, scale={"dcor": scaled(n), "hyppo": scaled(n)})


def options_of(method: str) -> dict[str, Any]:
    return {} if method == "energy" else {"bandwidth": "median"}


def large_case(method: Any, n: int, d: int, resamples: int) -> Callable[[], Any]:
    """Ready to run, also in a fresh process."""
    options = {**options_of(method), "method": method, "n_resamples": resamples, "rng": 0}
    two_sample_test(*samples(500, d), **options)
    return partial(two_sample_test, *samples(n, d), **options)


def test_twenty_thousand_rows(compare: Compare) -> None:
    """n = m = 20,000, B = 999 in under 1 GB; K alone would be 12.8 GB."""
    check_method("energy", 16, {})
    name = f"two-sample energy, n=m=20000, d=16, B={RESAMPLES}"
    fresh = {"ours": partial(large_case, "energy", 20_000, 16, RESAMPLES)}
    rows = compare(name, {"ours": fresh["ours"]()}, file=FILE, fresh=fresh)
    assert all(row.peak_mb < 1000 for row in rows)


LARGE = [
    ("energy", 100_000, 1),
    ("mmd-block", 100_000, 16),
    ("mmd-incomplete", 100_000, 16),
    ("mmd-fourier", 100_000, 16),
    ("mmd-nystrom", 100_000, 16),
    pytest.param("mmd-fourier", 1_000_000, 16, marks=pytest.mark.slow),  # a minute: -m slow
]


@pytest.mark.parametrize(("method", "n", "d"), LARGE)
def test_scale_tiers(compare: Compare, method: str, n: int, d: int) -> None:
    """The methods for many rows, B = 199."""
    check_method(method, d, options_of(method))
    name = f"two-sample {method}, n=m={n}, d={d}, B=199"
    fresh = {"ours": partial(large_case, method, n, d, 199)}
    compare(name, {"ours": fresh["ours"]()}, file=FILE, fresh=fresh)
