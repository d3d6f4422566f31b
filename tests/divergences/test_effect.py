"""Intervals for the effect size, and equivalence to a margin."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from divergences.effect import effect_size
from divergences.kernels import Gaussian
from divergences.two_sample import two_sample_test


def shift_effect(shift: float) -> float:
    """E/2E|x − y| of N(0, 1) and N(shift, 1), in closed form."""
    between, within = (float(stats.foldnorm(c / 2**0.5, scale=2**0.5).mean()) for c in (shift, 0.0))
    return (between - within) / between


@pytest.mark.parametrize("kernel", ["energy", "gaussian"])
def test_estimate_variance_and_interval_by_definition(kernel: str) -> None:
    r = np.random.default_rng(0)
    x, y = r.normal(size=(30, 2)), r.normal(0.8, 1.0, (20, 2))
    options: dict[str, Any] = {} if kernel == "energy" else {"kernel": Gaussian(1.5)}
    result = effect_size(x, y, margin=0.1, **options)
    z, n, m = np.concatenate([x, y]), 30, 20
    k = -cdist(z, z) if kernel == "energy" else np.exp(-(cdist(z, z) ** 2) / 4.5)
    kx, ky, kxy = k[:n, :n], k[n:, n:], k[:n, n:]
    own = 0.0 if kernel == "energy" else 2.0
    hx = (kx.sum(1) - np.diag(kx)) / (n - 1)
    hy = (ky.sum(1) - np.diag(ky)) / (m - 1)
    whole = own - 2.0 * kxy.mean()
    theta = (hx.mean() + hy.mean() - 2.0 * kxy.mean()) / whole
    first = 0.0
    for h, b, size in ((hx, kxy.mean(1), n), (hy, kxy.mean(0), m)):
        first += (2.0 * (h - b) + 2.0 * theta * b).var(ddof=1) / size / whole**2
    biased = (kx.mean() + ky.mean() - 2.0 * kxy.mean()) / whole
    c = k - np.diag(np.diag(k))
    rows, size = c.sum(1) / (n + m - 2), n + m
    c = c - rows[:, None] - rows + c.sum() / ((size - 1) * (size - 2))
    np.fill_diagonal(c, 0.0)
    null = 2.0 * (1 / n + 1 / m) ** 2 * (c**2).sum() / (size * (size - 3)) / whole**2
    at = lambda value: first / biased * value + null  # noqa: E731
    assert result.value == pytest.approx(theta, rel=1e-9)
    assert result.standard_error == pytest.approx(math.sqrt(at(theta)), rel=1e-9)
    assert result.pvalue == pytest.approx(stats.norm.cdf((theta - 0.1) / math.sqrt(at(0.1))))
    for end in result.confidence_interval:
        assert (end - theta) ** 2 == pytest.approx(1.959963985**2 * at(end), rel=1e-7)
    if kernel == "energy":
        other = two_sample_test(x, y, method="energy", n_resamples=1, rng=0)
        assert result.value == pytest.approx(other.effect_size, rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_intervals_cover(shift: float) -> None:
    """Asymptotic: 95 % intervals of 60 and 40 rows may miss .1, no more."""
    truth, missed, equivalent = shift_effect(shift), 0, 0
    for seed in range(150):
        r = np.random.default_rng([1, seed])
        found = effect_size(r.normal(size=60), r.normal(shift, 1.0, 40), margin=truth or 1e-6)
        low, high = found.confidence_interval
        missed += not low <= truth <= high
        equivalent += (found.pvalue or 0.0) <= 0.05
    bound = stats.binom.ppf(1 - 1e-3, 150, 0.1)
    assert missed <= bound and equivalent <= bound


def test_equivalence_of_equal_distributions_is_found() -> None:
    r = np.random.default_rng(2)
    result = effect_size(r.normal(size=(300, 3)), r.normal(size=(300, 3)), margin=0.05)
    assert result.pvalue is not None and result.pvalue < 1e-3
    assert result.confidence_interval[0] == 0.0 and result.confidence_interval[1] < 0.05
    assert "(that it is 0.05 or more)" in str(result) and result.to_dict()["margin"] == 0.05
    assert effect_size(r.normal(size=30), r.normal(5.0, 1.0, 30)).pvalue is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0}, r"margin must be a number in \(0, 1\); got 0"),
        ({"margin": True}, "margin must be a number"),
        ({"confidence": 95}, r"confidence must be a number in \(0, 1\); got 95"),
        ({"kernel": "gaussian"}, "fixed beforehand, not chosen from the data by 'median'"),
        ({"kernel": Gaussian("mean")}, "fixed beforehand, not chosen from the data by 'mean'"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 6, 2))
    with pytest.raises(ValueError, match=message):
        effect_size(x, y, **options)
    with pytest.raises(ValueError, match="all rows of x and y are equal"):
        effect_size(np.ones(5), np.ones(4))
