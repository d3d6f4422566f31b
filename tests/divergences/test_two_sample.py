"""The permutation test: its statistic is the loss, its p-value counts right and is valid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from divergences.energy import energy_distance
from divergences.mmd import mmd2
from divergences.two_sample import two_sample_test


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m"), [(2, 2), (30, 17), (1100, 40)])
def test_statistic_is_the_loss(n: int, m: int, dtype: torch.dtype) -> None:
    x, y = normal(0, n, 3).to(dtype), (normal(1, m, 3) + 0.5).to(dtype)
    rtol = 1e-9 if dtype == torch.float64 else 2e-4
    result = two_sample_test(x, y, n_resamples=5, rng=0)
    assert result.statistic == pytest.approx(energy_distance(x, y).item(), rel=rtol)
    result = two_sample_test(x, y, method="mmd", bandwidth=1.3, n_resamples=5, rng=0)
    assert result.statistic == pytest.approx(mmd2(x, y, bandwidth=1.3).item(), rel=rtol)
    assert (result.n, result.m, result.n_resamples) == (n, m, 5)


def test_pvalue_against_scipy_on_every_split() -> None:
    """Small enough to list all splits: the Monte Carlo p-value converges to the exact one."""
    x, y = normal(0, 4, 1), normal(1, 5, 1) + 1.0
    z = torch.cat([x, y])
    values = []
    for rows in itertools.combinations(range(9), 4):
        mask = torch.zeros(9, dtype=torch.bool)
        mask[list(rows)] = True
        values.append(energy_distance(z[mask], z[~mask]).item())
    observed = energy_distance(x, y).item()
    exact = np.mean(np.array(values) >= observed - 1e-12)
    ours = two_sample_test(x, y, n_resamples=20_000, rng=0).pvalue
    assert abs(ours - exact) < 4 * np.sqrt(exact * (1 - exact) / 20_000) + 1 / 20_001


def test_power_and_smallest_pvalue() -> None:
    result = two_sample_test(normal(0, 60, 2), normal(1, 60, 2) + 2.0, n_resamples=99, rng=0)
    assert result.pvalue == 0.01
    assert (result.null_distribution < result.statistic).all()


CASES = {
    "continuous": lambda r, k: r.normal(size=(k, 2)),
    "binary": lambda r, k: r.integers(0, 2, size=(k, 2)).astype(float),
    "cauchy": lambda r, k: r.standard_cauchy(size=(k, 1)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", ["energy", "mmd"])
def test_level(case: str, method: str) -> None:
    """Under P = Q, P(p ≤ α) ≤ α: one-sided 1 − 1e-4 binomial bounds, n ≠ m, ties included."""
    generator = np.random.default_rng(7)
    repeats = 200
    pvalues = np.array(
        [
            two_sample_test(
                CASES[case](generator, 5),
                CASES[case](generator, 7),
                method=method,  # type: ignore[arg-type]
                n_resamples=39,
                rng=generator,
            ).pvalue
            for _ in range(repeats)
        ]
    )
    for alpha in (0.05, 0.1, 0.25):
        assert (pvalues <= alpha).sum() <= stats.binom.ppf(1 - 1e-4, repeats, alpha)
    assert pvalues.min() >= 1 / 40


def test_random_generators() -> None:
    x, y = normal(0, 20, 2), normal(1, 20, 2)
    first = two_sample_test(x, y, n_resamples=50, rng=3)
    assert np.array_equal(
        first.null_distribution, two_sample_test(x, y, n_resamples=50, rng=3).null_distribution
    )
    assert not np.array_equal(
        first.null_distribution, two_sample_test(x, y, n_resamples=50, rng=4).null_distribution
    )
    same = two_sample_test(x, y, n_resamples=50, rng=np.random.default_rng(3))
    assert np.array_equal(first.null_distribution, same.null_distribution)
    by_torch = [
        two_sample_test(x, y, n_resamples=50, rng=torch.Generator().manual_seed(1)).pvalue
        for _ in range(2)
    ]
    assert by_torch[0] == by_torch[1]


def test_arrays_integers_and_vectors() -> None:
    x, y = np.arange(20), np.arange(10, 30)
    result = two_sample_test(x, y, n_resamples=99, rng=0)
    assert (result.n, result.m) == (20, 20)
    assert isinstance(result.statistic, float)
    assert result == result
    assert not result.null_distribution.flags.writeable
    assert len(repr(result)) < 200
    near = two_sample_test(np.arange(100) + 10**9, np.arange(100, 200) + 10**9, rng=0)
    assert near.statistic == pytest.approx(
        two_sample_test(np.arange(100.0), np.arange(100.0, 200.0), rng=0).statistic
    )
    assert "energy two-sample test" in str(result)
    assert "p-value" in str(result)


def test_overflow_is_refused_and_never_a_verdict() -> None:
    x = normal(0, 20, 2) * 1e160
    with pytest.raises(ValueError, match=r"overflows .* rescale"):
        two_sample_test(x, x + 1, n_resamples=19, rng=0)
    big = two_sample_test(normal(0, 30, 2).float() * 1e20, normal(1, 30, 2).float() * 1e20, rng=0)
    plain = two_sample_test(normal(0, 30, 2).float(), normal(1, 30, 2).float(), rng=0)
    assert big.pvalue == plain.pvalue


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_tie_tolerance_swallows_no_effect(offset: float) -> None:
    """A kernel whose values are huge against the statistic, and an outlier in the energy test."""
    x, y = normal(0, 100, 2) + offset, normal(1, 100, 2) + offset + 1.0
    assert two_sample_test(x, y, method="mmd", kernel="linear", rng=0).pvalue == 0.001
    y[0] = 1e8
    assert two_sample_test(x, y, rng=0).pvalue <= 0.01


def test_any_real_numpy_array() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 30, 3))
    expected = two_sample_test(x, y, n_resamples=50, rng=0)
    frozen = x.copy()
    frozen.flags.writeable = False
    for variant in (
        x.astype(">f8"),
        np.asfortranarray(x),
        x.astype(np.longdouble),
        frozen,
        x.tolist(),
    ):
        same = two_sample_test(variant, y, n_resamples=np.int64(50), rng=0)  # type: ignore[arg-type]
        assert same.pvalue == expected.pvalue
    assert two_sample_test(x[::-1], y, n_resamples=50, rng=0).statistic == pytest.approx(
        expected.statistic
    )
    masked = np.ma.masked_array(x, mask=x > 1)
    with pytest.raises(TypeError, match="masked array; drop"):
        two_sample_test(masked, y)
    with pytest.raises(TypeError, match="not a real number"):
        two_sample_test(np.array([["a"]]), y)


def test_constant_data() -> None:
    with pytest.warns(UserWarning, match="all rows of x and y are equal"):
        result = two_sample_test(np.ones((5, 2)), np.ones((6, 2)), n_resamples=19, rng=0)
    assert result.pvalue == 1.0


@pytest.mark.parametrize(
    ("x", "y", "arguments", "message"),
    [
        (np.zeros((5, 2)), np.zeros((5, 3)), {}, "share d"),
        (np.zeros((1, 2)), np.zeros((5, 2)), {}, "x has 1 row"),
        (np.zeros((0, 2)), np.zeros((5, 2)), {}, "x is empty"),
        (np.full((5, 2), np.nan), np.zeros((5, 2)), {}, "5 rows of 5 with NaN"),
        (np.zeros((5, 2)), np.zeros((5, 2)), dict(n_resamples=0), "positive integer; got 0"),
        (np.zeros((5, 2)), np.zeros((5, 2)), dict(method="t"), "'energy' or 'mmd'; got 't'"),
        (np.zeros((5, 2)), np.zeros((5, 2)), dict(bandwidth=1.0), "has its own kernel"),
        (np.zeros((5, 2, 2)), np.zeros((5, 2)), {}, r"\[n, d\] or \[n\]"),
    ],
)
def test_bad_input(x: object, y: object, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two_sample_test(x, y, **arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="rng must be"):
        two_sample_test(np.arange(5.0), np.arange(4.0), rng="seed")  # type: ignore[arg-type]
