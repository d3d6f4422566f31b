"""Relative tests: D and its standard error against dense formulas, level, power, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal
from torch.distributions import Normal as Normals

from divergences.energy import energy_distance
from divergences.kernels import Gaussian, InverseMultiquadric, Polynomial
from divergences.mmd import mmd2
from divergences.relative import relative_test

EYE = torch.eye(2, dtype=torch.float64)


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def shifted(by: float) -> MultivariateNormal:
    return MultivariateNormal(torch.tensor([by, 0.0], dtype=torch.float64), EYE)


# --- Statistics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [Gaussian(1.2), Polynomial(2) + 0.5 * Gaussian(2.0)], ids=repr)
def test_discrepancies_are_the_losses(kernel: Any) -> None:
    x, p, q = normal(0, 30, 3), normal(1, 20, 3) + 0.5, normal(2, 25, 3) * 2.0
    found = relative_test(x, p, q, kernel=kernel)
    assert found.discrepancy_p == pytest.approx(mmd2(x, p, kernel=kernel).item(), rel=1e-10)
    assert found.discrepancy_q == pytest.approx(mmd2(x, q, kernel=kernel).item(), rel=1e-10)
    assert found.statistic == pytest.approx(found.discrepancy_p - found.discrepancy_q, rel=1e-12)
    assert found.z == pytest.approx(found.statistic / found.standard_error)
    energy = relative_test(x, p, q, kernel="energy")
    assert energy.discrepancy_q == pytest.approx(energy_distance(x, q).item(), rel=1e-10)


def jackknife(value: Callable[..., float], *samples: Tensor) -> float:
    """The standard error by leaving out one row of one sample at a time."""
    total = 0.0
    for s, sample in enumerate(samples):
        n = len(sample)
        rows = [torch.arange(n) != i for i in range(n)]
        left = np.array([value(*samples[:s], sample[r], *samples[s + 1 :]) for r in rows])
        total += (n - 1) / n * ((left - left.mean()) ** 2).sum()
    return float(np.sqrt(total))


def test_standard_error_is_the_jackknife() -> None:
    """Up to ((n − 1)/(n − 2))² in the variance."""
    x, p, q = normal(0, 60, 2), normal(1, 40, 2) + 0.8, normal(2, 50, 2) * 1.5

    def difference(x: Tensor, p: Tensor, q: Tensor) -> float:
        return (mmd2(x, p, bandwidth=1.0) - mmd2(x, q, bandwidth=1.0)).item()

    found = relative_test(x, p, q, bandwidth=1.0)
    assert found.standard_error == pytest.approx(jackknife(difference, x, p, q), rel=0.03)

    def stein(x: Tensor) -> float:
        kernel = InverseMultiquadric(1.0)
        return relative_test(x, shifted(0.3), shifted(-1.0), method="ksd", kernel=kernel).statistic

    found = relative_test(
        x, shifted(0.3), shifted(-1.0), method="ksd", kernel=InverseMultiquadric(1.0)
    )
    assert found.standard_error == pytest.approx(jackknife(stein, x), rel=0.03)


@pytest.mark.parametrize("rows", [40, 400])  # below and above what the bandwidth looks at
def test_exchanging_the_models(rows: int) -> None:
    x, p, q = normal(0, rows, 2), normal(1, rows, 2) + 0.3, normal(2, rows + 7, 2) - 1.0
    one, two = relative_test(x, p, q), relative_test(x, q, p)
    assert one.z == pytest.approx(-two.z, rel=1e-9)
    assert one.pvalue == pytest.approx(two.pvalue, rel=1e-6)
    assert (one.closer, two.closer) == ("p", "q")
    models: tuple[Any, Any] = shifted(0.1), shifted(1.0)
    one, two = (relative_test(x, *m, method="ksd") for m in (models, models[::-1]))
    assert one.z == pytest.approx(-two.z, rel=1e-9)
    assert (one.closer, two.closer) == ("p", "q")


def test_alternatives_and_interval() -> None:
    x, p, q = normal(0, 80, 2), normal(1, 80, 2) + 0.3, normal(2, 80, 2) - 0.5
    both, less, more = (
        relative_test(x, p, q, alternative=a)  # type: ignore[arg-type]
        for a in ("two-sided", "p-closer", "q-closer")
    )
    assert both.statistic < 0
    assert both.pvalue == pytest.approx(2 * less.pvalue)
    assert less.pvalue + more.pvalue == pytest.approx(1.0)
    assert (less.closer, more.closer) == ("p" if less.pvalue <= 0.05 else None, None)
    edge = relative_test(x, p, q, alpha=both.pvalue)  # the interval just touches 0
    assert edge.confidence_interval[1] == pytest.approx(0.0, abs=1e-9)
    assert edge.closer == "p"
    assert relative_test(x, p, q, alpha=both.pvalue * 0.99).closer is None


# --- Level and power -----------------------------------------------------------------------------


def check_level(pvalues: list[float]) -> None:
    for alpha in (0.05, 0.1, 0.25):
        count = sum(p <= alpha for p in pvalues)
        # Nominal as n grows only: a point in 25 is allowed for that.
        assert stats.binom.ppf(1e-4, len(pvalues), 0.96 * alpha) <= count
        assert count <= stats.binom.ppf(1 - 1e-4, len(pvalues), 1.04 * alpha)


REPEATS = [200, pytest.param(1000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("repeats", REPEATS)
@pytest.mark.parametrize("sizes", [(100, 100, 100), (150, 60, 200)])
def test_level_of_samples(sizes: tuple[int, int, int], repeats: int) -> None:
    """Both models shifted from the data by as much, to either side."""
    g = np.random.default_rng(3)
    pvalues = []
    for _ in range(repeats):
        x, p, q = (g.normal((s, 0), size=(k, 2)) for k, s in zip(sizes, (0, 1, -1), strict=True))
        pvalues.append(relative_test(x, p, q).pvalue)
    check_level(pvalues)


@pytest.mark.parametrize("repeats", REPEATS)
def test_level_of_scores(repeats: int) -> None:
    g = np.random.default_rng(4)
    check_level(
        [
            relative_test(g.normal(size=(100, 2)), shifted(0.5), shifted(-0.5), method="ksd").pvalue
            for _ in range(repeats)
        ]
    )


def test_conservative_where_both_models_are_right() -> None:
    g = np.random.default_rng(5)
    pvalues = [relative_test(*g.normal(size=(3, 50, 2))).pvalue for _ in range(200)]
    assert sum(p <= 0.05 for p in pvalues) <= stats.binom.ppf(1 - 1e-4, 200, 0.05)


def test_power() -> None:
    g = np.random.default_rng(6)
    found = [
        relative_test(
            g.normal(size=(200, 2)), g.normal(size=(200, 2)) + 0.1, g.normal(size=(200, 2)) + 0.5
        )
        for _ in range(20)
    ]
    assert sum(r.closer == "p" for r in found) >= 18
    assert all(r.closer != "q" for r in found)


def test_one_or_two_gaussians() -> None:
    """The example of the docstring: parameters from one half of the data, asked about the other."""
    g = np.random.default_rng(7)
    data = torch.from_numpy(g.normal(size=(600, 2)) + 2.0 * g.choice([-1.0, 1.0], (600, 1)))
    fit, x = data[:300], data[300:]
    one = MultivariateNormal(fit.mean(0), fit.T.cov())
    side = fit.sum(1) > 0
    means = torch.stack([fit[side].mean(0), fit[~side].mean(0)])
    scales = torch.stack([fit[side].std(0), fit[~side].std(0)])
    two = MixtureSameFamily(
        Categorical(torch.ones(2, dtype=torch.float64)), Independent(Normals(means, scales), 1)
    )
    assert relative_test(x, one, two, method="ksd").closer == "q"
    # The median distance is that between the modes: too wide to see what either model misses.
    assert relative_test(x, one, two, method="ksd", bandwidth="median").closer is None
    torch.manual_seed(0)
    assert relative_test(x, one.sample((300,)), two.sample((300,))).closer == "q"
    single = torch.from_numpy(g.normal(size=(300, 2)))
    wrong = MixtureSameFamily(
        Categorical(torch.ones(2, dtype=torch.float64)),
        Independent(Normals(means, torch.ones(2, 2, dtype=torch.float64)), 1),
    )
    assert relative_test(single, shifted(0.0), wrong, method="ksd").closer == "p"


# --- Edges ---------------------------------------------------------------------------------------


def test_the_same_model_twice() -> None:
    x = normal(0, 30, 2)
    found = relative_test(x, shifted(1.0), shifted(1.0), method="ksd")
    assert (found.statistic, found.z, found.pvalue, found.closer) == (0.0, 0.0, 1.0, None)


def test_dtypes_and_vectors() -> None:
    x, p, q = normal(0, 30, 1), normal(1, 20, 1), normal(2, 25, 1) + 2.0
    truth = relative_test(x, p, q)
    mixed = relative_test(x[:, 0].numpy(), p.float(), q[:, 0].tolist())
    assert mixed.pvalue == pytest.approx(truth.pvalue, rel=1e-4)


def test_refusals() -> None:
    x = normal(0, 10, 2)
    bad: list[tuple[str, type[Exception], dict[str, Any]]] = [
        ("unknown method", ValueError, dict(method="energy")),
        ("unknown alternative", ValueError, dict(alternative="less")),
        ("alpha", ValueError, dict(alpha=1.0)),
        ("x and p", ValueError, dict(p=x[:, :1])),
        ("x and q", ValueError, dict(q=x[:, :1])),
        ("two rows", ValueError, dict(q=x[:1])),
        ("NaN or infinite", ValueError, dict(p=x / 0.0)),
        ("p has no score", TypeError, dict(method="ksd", p=3)),
        ("q has events", ValueError, dict(method="ksd", p=shifted(0), q=Normals(0.0, 1.0))),
        ("overflows", ValueError, dict(p=1e200 * x, kernel="energy")),
    ]
    for message, kind, options in bad:
        with pytest.raises(kind, match=message):
            relative_test(**({"x": x, "p": x + 1.0, "q": x + 2.0} | options))


def test_report() -> None:
    x, p, q = normal(0, 50, 2), normal(1, 60, 2), normal(2, 70, 2) + 1.0
    found = relative_test(x, p, q, bandwidth=1.5)
    text = str(found)
    assert "which of p and q is closer" in text
    assert "p is a sample of 60, q is a sample of 70" in text
    assert "closer       p (at level 0.05)" in text
    assert "Gaussian(1.5)" in text
    loaded = json.loads(found.to_json())
    assert loaded["closer"] == "p"
    assert loaded["confidence_interval"] == list(found.confidence_interval)
    assert "cannot tell" in str(relative_test(x, x + 1.0, x - 1.0))


def test_no_p_value_is_zero() -> None:
    x = normal(0, 200, 2)
    found = relative_test(x, x + 1e-3 * normal(1, 200, 2), x + 100.0, kernel="energy")
    assert found.pvalue < 1e-300
    assert "  p-value      < 1e-300 (two-sided" in str(found)


def test_no_spread_is_no_certainty() -> None:
    """Two rows have equal influence: their standard error of 0 says nothing."""
    x = np.array([[0.0], [1.0]])
    result = relative_test(x, lambda t: 1.0 - t, lambda t: -1.0 - t, method="ksd")
    assert (result.z, result.pvalue, result.closer) == (0.0, 1.0, None)
