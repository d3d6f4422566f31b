"""The test of independence: its statistics are those of the field, its p-values are valid."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from divergences import independence
from divergences.dependence import cka, distance_correlation, distance_covariance, hsic
from divergences.independence import independence_test
from divergences.kernels import Energy, Gaussian, Linear
from divergences.resampling import Permutations

METHODS = ["hsic-aggregated", "hsic", "dcov"]
Array = NDArray[np.float64]


def dependent(n: int, seed: int = 0) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 3))
    return x, x[:, :2] ** 2 + generator.normal(size=(n, 2))


def song(x: Array, y: Array, sigma_x: float, sigma_y: float) -> float:
    """Unbiased HSIC, dense (Song et al. 2012, eq. 5)."""
    n = len(x)
    k, m = (
        np.exp(-((z[:, None] - z[None]) ** 2).sum(-1) / (2 * sigma**2)) - np.eye(n)
        for z, sigma in ((x, sigma_x), (y, sigma_y))
    )
    mixed = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()
    return float((np.trace(k @ m) + mixed) / (n * (n - 3)))


def centred(z: Array, beta: float, unbiased: bool) -> Array:
    """Distances to the power β, doubly centred (Székely, Rizzo & Bakirov 2007, eq. 2.8) or, without
    the diagonal, U-centred (Székely & Rizzo 2014, eq. 2.1)."""
    n = len(z)
    a = np.sqrt(((z[:, None] - z[None]) ** 2).sum(-1)) ** beta
    less, most = (2, (n - 1) * (n - 2)) if unbiased else (0, n * n)
    rows = a.sum(0) / (n - less)
    found = a - rows - rows[:, None] + a.sum() / most
    return found * (1 - np.eye(n)) if unbiased else found


def test_biased_forms_of_three_pairs() -> None:
    x, y = dependent(3)
    a, b = (centred(z, 1.0, False) for z in (x, y))
    found = distance_covariance(x, y, bias_corrected=False)
    assert found == pytest.approx((a * b).sum() / 9, rel=1e-10)
    expected = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    assert distance_correlation(x, y, bias_corrected=False) == pytest.approx(expected, rel=1e-10)
    assert hsic(x, y, unbiased=False) >= 0.0
    with pytest.raises(ValueError, match="at least three pairs are needed"):
        distance_correlation(x[:2], y[:2], bias_corrected=False)
    with pytest.raises(ValueError, match="at least four pairs are needed"):
        distance_correlation(x, y)


@pytest.mark.parametrize("beta", [1.0, 0.5, 1.7])
@pytest.mark.parametrize("unbiased", [True, False])
def test_distance_measures_against_dense(unbiased: bool, beta: float) -> None:
    x, y = dependent(90)
    a, b = (centred(z, beta, unbiased) for z in (x, y))
    chosen: Any = dict(bias_corrected=unbiased, exponent=beta)
    pairs = 90 * 87 if unbiased else 90 * 90
    assert distance_covariance(x, y, **chosen) == pytest.approx((a * b).sum() / pairs, rel=1e-10)
    expected = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    assert distance_correlation(x, y, **chosen) == pytest.approx(expected, rel=1e-10)


DCOR = [
    (False, 2.938307641667423, 0.6986867922407333),
    (True, -0.8475659871887586, -0.40504792102511283),
]


def test_distance_measures_against_dcor() -> None:
    """Values of dcor 0.7 for the matrices of its documentation, a fourth row added."""
    x = np.arange(1.0, 17.0).reshape(4, 4)
    y = np.array([[1, 0, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 1]])
    for unbiased, covariance, correlation in DCOR:
        found = distance_covariance(x, y, bias_corrected=unbiased)
        assert found == pytest.approx(covariance, rel=1e-10)
        found = distance_correlation(x, y, bias_corrected=unbiased)
        assert found == pytest.approx(correlation, rel=1e-10)


def test_kernel_measures_against_dense() -> None:
    x, y = dependent(90)
    assert hsic(x, y, bandwidth_x=1.3, bandwidth_y=0.8) == pytest.approx(
        song(x, y, 1.3, 0.8), rel=1e-10
    )
    h = np.eye(90) - 1 / 90
    k, m = x @ x.T, y @ y.T
    biased = np.trace(k @ h @ m @ h)
    assert hsic(x, y, kernel_x="linear", kernel_y="linear", unbiased=False) == pytest.approx(
        biased / 90**2, rel=1e-10
    )
    norms = np.trace(k @ h @ k @ h) * np.trace(m @ h @ m @ h)
    assert cka(x, y, unbiased=False) == pytest.approx(biased / np.sqrt(norms), rel=1e-10)


def test_cka_is_an_invariant_correlation() -> None:
    x, y = dependent(200)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    for unbiased in (True, False):
        value = cka(x, y, unbiased=unbiased)
        assert cka(3.0 * x @ rotation, y + 5.0, unbiased=unbiased) == pytest.approx(value, rel=1e-8)
        assert cka(x, 2.0 * x, unbiased=unbiased) == pytest.approx(1.0)
    noise = np.random.default_rng(2).normal(size=(2, 50, 2000))
    assert cka(*noise, unbiased=False) > 0.9  # wide representations of few rows look alike
    assert abs(cka(*noise)) < 0.1


@pytest.mark.parametrize("shape", [(4, 1, 1), (40, 2, 3), (300, 1, 2)])
def test_statistic_is_the_measure(shape: tuple[int, int, int]) -> None:
    n, dx, dy = shape
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(n, dx)), generator.normal(size=(n, dy))
    result = independence_test(x, y, method="dcov", n_resamples=9, rng=0)
    assert result.statistic == pytest.approx(distance_covariance(x, y), rel=1e-9, abs=1e-14)
    assert result.coefficients["distance_correlation"] == pytest.approx(distance_correlation(x, y))
    assert (result.n, result.dx, result.dy, result.d) == (n, dx, dy, dx + dy)
    kernels = dict(kernel_x=Gaussian([0.5, 1.0]), kernel_y=0.3 * Linear() + Gaussian(2.0))
    result = independence_test(x, y, method="hsic", n_resamples=9, rng=0, **kernels)
    assert result.statistic == pytest.approx(hsic(x, y, **kernels), rel=1e-9, abs=1e-14)
    assert result.n_resamples == (24 if n == 4 and result.enumerated else 9)


def test_exact_enumeration() -> None:
    """All 120 orders of five rows, against itertools and the dense statistic."""
    x, y = dependent(5)
    values = [song(x, y[list(p)], 1.0, 1.0) for p in itertools.permutations(range(5))]
    expected = np.mean(np.array(values) >= values[0] - 1e-12)
    result = independence_test(x, y, method="hsic", bandwidth_x=1.0, bandwidth_y=1.0)
    assert result.enumerated and result.n_resamples == 120
    assert result.pvalue == pytest.approx(expected)
    np.testing.assert_allclose(np.sort(result.null_distribution), np.sort(values), atol=1e-14)
    drawn = independence_test(x, y, method="hsic", bandwidth_x=1.0, bandwidth_y=1.0, n_resamples=99)
    assert not drawn.enumerated


def test_every_permutation_within_strata() -> None:
    strata = np.array([1, 0, 1, 0, 1])
    plan = Permutations(5, 11, np.random.default_rng(0), strata)
    rows = np.concatenate(list(plan.batches(5)))
    assert plan.exact and len({tuple(r) for r in rows}) == len(rows) == 12
    assert (strata[rows] == strata).all() and (rows[0] == np.arange(5)).all()
    drawn = Permutations(5, 10, np.random.default_rng(0), strata)
    rows = np.concatenate(list(drawn.batches(11)))
    assert not drawn.exact and len(rows) == 11 and (strata[rows] == strata).all()


CASES: dict[str, Callable[[np.random.Generator], tuple[Array, Array]]] = {
    "continuous": lambda r: (r.normal(size=(9, 2)), r.normal(size=(9, 1))),
    "binary": lambda r: (
        r.integers(0, 2, size=(9, 1)).astype(float),
        r.integers(0, 2, size=(9, 2)).astype(float),
    ),
    "cauchy": lambda r: (r.standard_cauchy(size=(9, 1)), r.standard_cauchy(size=(9, 2))),
    "tiny": lambda r: (r.normal(size=(5, 1)), r.integers(0, 3, size=(5, 1)).astype(float)),
}


def check_level(case: str, method: Any, repeats: int) -> None:
    """Under independence P(p ≤ α) ≤ α: one-sided 1 − 1e-4 binomial bounds, ties included."""
    generator = np.random.default_rng(7)
    pvalues = []
    while len(pvalues) < repeats:
        x, y = CASES[case](generator)
        if np.ptp(x) > 0 and np.ptp(y) > 0:  # constants warn, and have p = 1
            result = independence_test(x, y, method=method, n_resamples=39, rng=generator)
            pvalues.append(result.pvalue)
    for alpha in (0.05, 0.1, 0.25):
        count = (np.array(pvalues) <= alpha).sum()
        assert count <= stats.binom.ppf(1 - 1e-4, repeats, alpha), alpha
    assert min(pvalues) >= 1 / 40


@pytest.mark.parametrize(
    ("case", "method"),
    [*((case, "hsic-aggregated") for case in CASES), ("binary", "hsic"), ("binary", "dcov")],
)
def test_level(case: str, method: str) -> None:
    check_level(case, method, 200)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_level_closely(case: str, method: str) -> None:
    check_level(case, method, 2000)


def test_power() -> None:
    """A sine of two periods: seen at many scales, hardly by the median; noise by none."""
    generator = np.random.default_rng(0)
    found: dict[str, list[float]] = {m: [] for m in METHODS}
    for _ in range(8):
        x = generator.uniform(-1, 1, 100)
        y = np.sin(4 * np.pi * x) + 0.5 * generator.normal(size=100)
        for method in METHODS:
            result = independence_test(x, y, method=method, n_resamples=99, rng=generator)  # type: ignore[arg-type]
            found[method].append(result.pvalue)
    rejected = {m: sum(p <= 0.05 for p in values) for m, values in found.items()}
    assert rejected["hsic-aggregated"] >= 7
    assert rejected["hsic-aggregated"] >= rejected["hsic"]
    x, y = generator.normal(size=(2, 100))
    assert all(
        independence_test(x, y, method=m, n_resamples=99, rng=0).pvalue > 0.05 for m in METHODS
    )  # type: ignore[arg-type]


def test_strata_explain_dependence_away() -> None:
    """Simpson's: both rise from stratum to stratum; within each they are independent."""
    generator = np.random.default_rng(0)
    strata = np.repeat(["a", "b", "c"], 40)
    shift = np.repeat([0.0, 2.0, 4.0], 40)
    x, y = shift + generator.normal(size=(2, 120))
    for method in METHODS:
        chosen: dict[str, Any] = dict(method=method, n_resamples=99, rng=1)
        assert independence_test(x, y, **chosen).pvalue == 0.01
        assert independence_test(x, y, strata=strata, **chosen).pvalue > 0.05
        assert independence_test(x, y + x, strata=strata, **chosen).pvalue == 0.01


@pytest.mark.parametrize("method", METHODS)
def test_seeds_and_batches(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = dependent(30)
    first = independence_test(x, y, method=method, n_resamples=50, rng=3)
    for batch_bytes in (2**28, 1, 24 * 30 * 7):
        monkeypatch.setitem(independence.BATCH_BYTES, "cpu", batch_bytes)
        same = independence_test(x, y, method=method, n_resamples=50, rng=first.seed)
        assert same.pvalue == first.pvalue
        np.testing.assert_allclose(
            same.null_distribution, first.null_distribution, rtol=1e-9, atol=1e-12
        )
    other = independence_test(x, y, method=method, n_resamples=50, rng=4)
    assert not np.allclose(other.null_distribution, first.null_distribution)


@pytest.mark.parametrize("method", METHODS)
def test_narrow_products_change_no_verdict(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = dependent(120)
    y = y.round(1)
    wide = independence_test(x, y[::-1], method=method, n_resamples=99, rng=0)
    monkeypatch.setattr(independence, "WIDE_WORK", 0)
    narrow = independence_test(x, y[::-1], method=method, n_resamples=99, rng=0)
    assert narrow.statistic != wide.statistic
    assert narrow.pvalue == wide.pvalue


def test_units_offsets_and_row_order_do_not_matter() -> None:
    x, y = dependent(40)
    order = np.random.default_rng(0).permutation(40)
    for method in METHODS:
        chosen: dict[str, Any] = dict(method=method, n_resamples=19, rng=0)
        base = independence_test(x, y, **chosen)
        moved = independence_test(1e3 * x + 1e4, 1e-3 * y - 7.0, **chosen)
        assert moved.statistic == pytest.approx(base.statistic, rel=1e-6)
        assert moved.effect_size == pytest.approx(base.effect_size, rel=1e-6)
        again = independence_test(x[order], y[order], **chosen)
        assert again.statistic == pytest.approx(base.statistic, rel=1e-9)


def test_result() -> None:
    x, y = dependent(60)
    result = independence_test(x[:, 0], torch.from_numpy(y), n_resamples=19, rng=0)
    assert len(result.kernels) == 25
    assert {(r.bandwidth, r.bandwidth_y) for r in result.kernels} == {  # type: ignore[attr-defined]
        (a, b)
        for a in {r.bandwidth for r in result.kernels}
        for b in {r.bandwidth_y for r in result.kernels}  # type: ignore[attr-defined]
    }
    assert "test of independence of x and y" in str(result) and "dx = 1, dy = 2" in str(result)
    assert '"distance_correlation"' in result.to_json()
    assert result.effect_size == max(0.0, result.coefficients["distance_correlation"])
    hsic_result = independence_test(x, y, method="hsic", n_resamples=19, rng=0)
    assert hsic_result.effect_size == hsic_result.coefficients["cka"]
    beta = independence_test(x, y, method="dcov", kernel_x=Energy(0.5), n_resamples=19, rng=0)
    assert "Energy(0.5) × Energy(1)" in str(beta)


@pytest.mark.parametrize("method", METHODS)
def test_constant_data(method: Any) -> None:
    x = np.arange(12.0)
    with pytest.warns(UserWarning, match="all rows of y are equal: p = 1"):
        result = independence_test(x, np.full((12, 2), 0.1), method=method, n_resamples=19, rng=0)
    assert result.pvalue == 1.0
    assert result.effect_size == 0.0
    with pytest.warns(UserWarning, match="all rows of x are equal"):
        independence_test(np.ones(12), x, method=method, n_resamples=19, rng=0)


@pytest.mark.parametrize(
    ("x", "y", "arguments", "message"),
    [
        (np.zeros((5, 2)), np.zeros((6, 2)), {}, r"are pairs; got x \[5, 2\], y \[6, 2\]"),
        (np.zeros((3, 2)), np.zeros((3, 1)), {}, "at least four pairs"),
        (np.arange(6.0), np.full((6, 2), np.nan), {}, "y has 6 rows of 6 with NaN"),
        (np.arange(6.0), np.arange(6.0), dict(n_resamples=0), "positive integer; got 0"),
        (np.arange(6.0), np.arange(6.0), dict(method="t"), "'hsic', 'dcov'"),
        (np.arange(6.0), np.arange(6.0), dict(kernel_x="energy"), "has its own kernels"),
        (np.arange(6.0), np.arange(6.0), dict(method="dcov", kernel_y="linear"), "kernel_y="),
        (np.arange(6.0), np.arange(6.0), dict(backend="triton"), "no backend 'triton'"),
        (np.arange(6.0), np.arange(6.0), dict(strata=[1, 2]), r"shape \[6\]; got \[2\]"),
        (1e200 * np.arange(6.0), np.arange(6.0), dict(method="dcov"), "overflows .* rescale"),
    ],
)
def test_bad_input(x: object, y: object, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        independence_test(x, y, **arguments)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_units_do_not_matter_for_much_work(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("divergences.independence.WIDE_WORK", 0)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 1))
    y = x + 0.1 * generator.normal(size=(60, 1))
    for method in ("dcov", "hsic", "hsic-aggregated"):
        result = independence_test(x * scale, y * scale, method=method, n_resamples=99, rng=0)
        assert result.pvalue == 0.01


@pytest.mark.parametrize("method", ["dcov", "hsic", "hsic-aggregated"])
def test_a_sample_that_is_constant_but_for_one_row(method: Any) -> None:
    """Its U-centred kernel matrix is 0: all permutations are ties."""
    x = np.zeros((100, 1))
    x[7] = 0.7
    y = np.random.default_rng(0).normal(size=(100, 1))
    for pair in ((x, y), (y, x)):
        assert independence_test(*pair, method=method, n_resamples=99, rng=0).pvalue == 1.0
