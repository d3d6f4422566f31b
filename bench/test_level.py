"""Levels at length: 1,000 samples under the null for every test and kind of data.

    python -m pytest bench/test_level.py -m slow -s

asserts that p-values are super-uniform within one-sided 1 − 1e-4 binomial bounds and appends the
rejection rates to bench/results/level.csv.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import lfilter

from divergences.conditional import conditional_independence_test
from divergences.effect import effect_size
from divergences.goodness_of_fit import goodness_of_fit_test
from divergences.independence import independence_test
from divergences.k_sample import k_sample_test
from divergences.localization import localize
from divergences.sequential import ChangeDetector, SequentialTwoSampleTest
from divergences.two_sample import two_sample_test

from .conditional import post_nonlinear
from .measure import append, commit

pytestmark = pytest.mark.filterwarnings("ignore:all rows of")  # tiny tied samples, by chance
REPEATS, RESAMPLES = 1000, 199
ALPHAS = (0.01, 0.05, 0.1)
Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Array]
DATA: dict[str, Draw] = {
    "continuous": lambda r, k: r.normal(size=(k, 2)),
    "binary": lambda r, k: r.integers(0, 2, size=(k, 2)).astype(float),
    "tied": lambda r, k: r.poisson(1.5, size=(k, 1)).astype(float),
    "heavy-tailed": lambda r, k: r.standard_cauchy(size=(k, 2)),
}
SIZES = {"n=5, m=7": (5, 7), "n=60, m=9": (60, 9), "n=m=40": (40, 40)}
TWO_SAMPLE = ("fuse", "fuse-original", "mmd", "energy", "mmd-block", "mmd-incomplete",
              "mmd-fourier", "mmd-nystrom")  # fmt: skip
INDEPENDENCE = ("hsic", "dcov", "hsic-aggregated")


def check(test: str, data: str, size: str, pvalues: list[float], slack: float = 1.0) -> None:
    rates = [float(np.mean(np.array(pvalues) <= alpha)) for alpha in ALPHAS]
    record(test, data, size, len(pvalues), rates)
    for rate, alpha in zip(rates, ALPHAS, strict=True):
        assert rate * len(pvalues) <= stats.binom.ppf(
            1 - 1e-4, len(pvalues), min(1.0, slack * alpha)
        )


def record(test: str, data: str, size: str, repeats: int, rates: list[float]) -> None:
    row = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "test": test,
        "data": data,
        "size": size,
        "repeats": repeats,
        **{f"rejected at {alpha}": rate for alpha, rate in zip(ALPHAS, rates, strict=True)},
    }
    append("level", [row])
    print(f"\n{test:28s} {data:14s} {size:12s} {rates}", end="")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("method", TWO_SAMPLE)
def test_two_sample(method: Any, data: str, size: str) -> None:
    r, draw, (n, m) = np.random.default_rng(1), DATA[data], SIZES[size]
    options: dict[str, Any] = {"method": method, "n_resamples": RESAMPLES, "rng": r}
    found = [two_sample_test(draw(r, n), draw(r, m), **options).pvalue for _ in range(REPEATS)]
    check(f"two-sample {method}", data, size, found)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("data", ["continuous", "heavy-tailed"])
@pytest.mark.parametrize("scale", ["robust", "std", "rank", "whiten"])
def test_scales(scale: Any, data: str, size: str) -> None:
    """Columns in units that differ by a thousand."""
    r, draw, (n, m) = np.random.default_rng(6), DATA[data], SIZES[size]
    options: dict[str, Any] = {"method": "energy", "n_resamples": RESAMPLES, "rng": r}
    units = np.array([1.0, 1e3])
    found = [
        two_sample_test(draw(r, n) * units, draw(r, m) * units, scale=scale, **options).pvalue
        for _ in range(REPEATS)
    ]
    check(f"two-sample energy, {scale}", data, size, found)


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("method", ["fuse", "energy", "mmd-fourier"])
@pytest.mark.parametrize("design", ["paired", "strata", "groups"])
def test_designs(design: str, method: Any, data: str) -> None:
    """Rows of a pair, stratum or group share what is three times as large as the rest."""
    r, draw = np.random.default_rng(7), DATA[data]
    labels = {"paired": np.tile(np.arange(12), 2), "strata": np.array([0, 0, 1, 2] * 6),
              "groups": np.arange(24) // 3}[design]  # fmt: skip
    given = {"paired": True} if design == "paired" else {design: labels}
    options: dict[str, Any] = {"method": method, "n_resamples": RESAMPLES, "rng": r} | given
    found = []
    for _ in range(REPEATS):
        z = draw(r, 24) + 3.0 * draw(r, 12)[labels]
        found.append(two_sample_test(z[:12], z[12:], **options).pvalue)
    check(f"two-sample {method}, {design}", data, "n=m=12", found)


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("design", ["strata", "groups"])
def test_designs_of_others(design: str, data: str) -> None:
    r, draw = np.random.default_rng(8), DATA[data]
    labels = np.array([0, 0, 1, 2] * 6) if design == "strata" else np.arange(24) // 3
    options: dict[str, Any] = {"n_resamples": RESAMPLES, "rng": r, design: labels}
    found: dict[str, list[float]] = {"k-sample energy": [], "independence dcov": []}
    for _ in range(REPEATS):
        x, y = (draw(r, 24) + 3.0 * draw(r, 8)[labels] for _ in range(2))
        k = k_sample_test(x[:6], x[6:15], x[15:], pairwise=False, **options)
        found["k-sample energy"].append(k.pvalue)
        pair = independence_test(x, y, method="dcov", **options)
        found["independence dcov"].append(pair.pvalue)
    for test, pvalues in found.items():
        check(f"{test}, {design}", data, "N=24", pvalues)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("kind", ["columns", "columns and correlations", "learned"])
def test_localize(kind: str, data: str, size: str) -> None:
    """Naming any column or pair. Some columns are others with their signs changed."""
    r, draw, (n, m) = np.random.default_rng(10), DATA[data], SIZES[size]
    if kind == "learned" and min(n, m) < 8:
        pytest.skip("too few rows for halves")
    options: dict[str, Any] = {
        "n_resamples": RESAMPLES,
        "rng": r,
        "correlations": "correlations" in kind,
    }
    method: Any = "learned" if kind == "learned" else "marginal"
    named, whole = [], []
    for _ in range(REPEATS):
        x, y = (np.hstack([z := draw(r, k), -z, draw(r, k)]) for k in (n, m))
        result = localize(x, y, method=method, **options)
        named.append(result.columns[0].adjusted)
        whole.append(result.pvalue)
    check(f"localize, {kind}", data, size, named)
    if kind == "learned":
        check("localize, learned kernel", data, size, whole)


@pytest.mark.slow
@pytest.mark.parametrize("design", ["paired", "strata", "groups"])
def test_localize_designs(design: str) -> None:
    r = np.random.default_rng(11)
    labels = {"paired": np.tile(np.arange(12), 2), "strata": np.array([0, 0, 1, 2] * 6),
              "groups": np.arange(24) // 3}[design]  # fmt: skip
    given: Any = {"paired": True} if design == "paired" else {design: labels}
    found = []
    for _ in range(REPEATS):
        z = r.normal(size=(24, 3)) + 3.0 * r.normal(size=(12, 3))[labels]
        result = localize(z[:12], z[12:], correlations=True, n_resamples=RESAMPLES, rng=r, **given)
        found.append(result.columns[0].adjusted)
    check(f"localize, {design}", "continuous", "n=m=12", found)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [50, 100, "shift"])
@pytest.mark.parametrize("phi", [0.8, 0.95])
def test_series(phi: float, blocks: Any) -> None:
    """Approximate: recorded, and bounded by a multiple of the level."""
    slack = 2.5 if phi < 0.9 else 5.0
    r, found = np.random.default_rng(9), []
    options: dict[str, Any] = {"method": "energy", "n_resamples": RESAMPLES, "rng": r}
    for _ in range(REPEATS):
        noise = r.normal(size=(2, 700))
        x, y = lfilter([1.0], [1.0, -phi], noise)[:, 200:]
        found.append(two_sample_test(x, y, blocks=blocks, **options).pvalue)
    check(f"two-sample energy, blocks={blocks}", f"AR(1), {phi}", "n=m=500", found, slack)


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA)
def test_k_sample(data: str) -> None:
    r, draw = np.random.default_rng(2), DATA[data]
    options: dict[str, Any] = {"n_resamples": RESAMPLES, "rng": r, "pairwise": False}
    found = [
        k_sample_test(draw(r, 5), draw(r, 12), draw(r, 8), **options).pvalue for _ in range(REPEATS)
    ]
    check("k-sample energy", data, "5, 12, 8", found)


@pytest.mark.slow
@pytest.mark.parametrize("n", [7, 40])
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("method", INDEPENDENCE)
def test_independence(method: Any, data: str, n: int) -> None:
    r, draw = np.random.default_rng(3), DATA[data]
    options: dict[str, Any] = {"method": method, "n_resamples": RESAMPLES, "rng": r}
    found = [independence_test(draw(r, n), draw(r, n), **options).pvalue for _ in range(REPEATS)]
    check(f"independence {method}", data, f"n={n}", found)


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 300])
@pytest.mark.parametrize("dz", [1, 3, 5])
def test_conditional_independence(dz: int, n: int) -> None:
    """Asymptotic, and of regressions that n rows find more or less: up to 2.5 times the level."""
    r, found = np.random.default_rng(15), []
    for repetition in range(REPEATS):
        x, y, z = post_nonlinear(r, n, dz, first=repetition % 2 == 0)
        result = conditional_independence_test(x, y, z, n_resamples=RESAMPLES, rng=r)
        found.append(result.pvalue)
    check("conditional independence", f"post-nonlinear, dz={dz}", f"n={n}", found, 2.5)


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, 40])
@pytest.mark.parametrize("estimate", [False, True], ids=["N(0, I)", "some normal"])
@pytest.mark.parametrize("method", ["energy", "mmd"])
def test_normality(method: Any, estimate: bool, n: int) -> None:
    """Exact by simulation; with estimated parameters, for data of any mean and covariance."""
    r = np.random.default_rng(4)
    mix = np.array([[2.0, 0.0], [1.5, 0.3]]) if estimate else np.eye(2)
    shift = 5.0 if estimate else 0.0
    found = [
        goodness_of_fit_test(
            shift + r.normal(size=(n, 2)) @ mix,
            "normal",
            method=method,
            estimate=estimate,
            n_resamples=RESAMPLES,
            rng=r,
        ).pvalue
        for _ in range(REPEATS)
    ]
    check(f"normality {method}, estimate={estimate}", "normal", f"n={n}", found)


def shift_effect(shift: float) -> float:
    """E/2E|x − y| of N(0, 1) and N(shift, 1)."""
    between, within = (float(stats.foldnorm(c / 2**0.5, scale=2**0.5).mean()) for c in (shift, 0.0))
    return (between - within) / between


@pytest.mark.slow
@pytest.mark.parametrize("size", ["n=50, m=50", "n=150, m=75"])
@pytest.mark.parametrize("shift", [0.2, 0.5, 1.0])
def test_effect_size(shift: float, size: str) -> None:
    """Asymptotic: equivalence at the margin, and what intervals miss, up to twice the level."""
    r, found, missed = np.random.default_rng(12), [], 0
    n, m = (50, 50) if size == "n=50, m=50" else (150, 75)
    margin = shift_effect(shift)
    for _ in range(REPEATS):
        result = effect_size(r.normal(size=n), r.normal(shift, 1.0, m), margin=margin)
        assert result.pvalue is not None
        found.append(result.pvalue)
        low, high = result.confidence_interval
        missed += not low <= margin <= high
    print(f"\nintervals miss {missed / REPEATS:.3f}", end="")
    assert missed <= stats.binom.ppf(1 - 1e-4, REPEATS, 0.1)
    check("effect size below its value", f"shift {shift}", size, found, 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 100])
def test_stein(n: int) -> None:
    """Asymptotic, so on continuous data and not for tiny samples."""
    r = np.random.default_rng(5)
    found = [
        goodness_of_fit_test(
            r.normal(size=(n, 2)), "normal", method="ksd", n_resamples=RESAMPLES, rng=r
        ).pvalue
        for _ in range(REPEATS)
    ]
    check("goodness-of-fit ksd", "normal", f"n={n}", found)


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA)
def test_sequential(data: str) -> None:
    """The smallest p-value at any of 400 pairs."""
    r, draw, found = np.random.default_rng(13), DATA[data], []
    for _ in range(REPEATS):
        result = SequentialTwoSampleTest(rng=r).update(draw(r, 400), draw(r, 400))
        found.append(result.pvalue)
    check("two-sample betting, sequential", data, "n=m=400", found)


@pytest.mark.slow
@pytest.mark.parametrize(("data", "n", "m"), [("continuous", 20, 4), ("tied", 100, 20)])
def test_change_detector(data: str, n: int, m: int) -> None:
    """Alarms for each batch without a change: 1 over the mean run length, of streams that end after
    400 batches at the latest."""
    r, draw, streams = np.random.default_rng(14), DATA[data], 300
    lengths = np.full((streams, len(ALPHAS)), 400.0)
    for found in lengths:
        detector = ChangeDetector(draw(r, n), 0.01, method="energy", n_resamples=39, rng=r)
        for batch in range(1, 401):
            result = detector.update(draw(r, m))
            reached = result.statistic >= 1.0 / np.array(ALPHAS)
            found[reached] = np.minimum(found[reached], batch)
            if result.alarm:
                break
    mean, error = lengths.mean(0), lengths.std(0) / streams**0.5
    record("change detector, each batch", data, f"n={n}, m={m}", streams, (1.0 / mean).tolist())
    assert (mean - 3.0 * error >= 1.0 / np.array(ALPHAS)).all()
