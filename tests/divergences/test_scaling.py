"""Columns on one scale: what is done to them, that it knows no labels, and what tests gain."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from divergences.energy import energy_distance
from divergences.independence import independence_test
from divergences.k_sample import k_sample_test
from divergences.kernels import Gaussian
from divergences.scaling import Scale, scaled
from divergences.two_sample import two_sample_test

Array = NDArray[np.float64]


def mixed_units(n: int, shift: float, seed: int) -> tuple[Array, Array]:
    """One deviation apart in the first column, beside noise of 10,000."""
    r = np.random.default_rng(seed)
    units = np.array([1.0, 1e4])
    return r.normal(size=(n, 2)) * units, (r.normal(size=(n, 2)) + np.array([shift, 0.0])) * units


def rows(z: Array, scale: Any) -> Array:
    return np.asarray(scaled(torch.from_numpy(z), scale).rows)


def test_std_and_ranks() -> None:
    z = np.random.default_rng(0).poisson(3.0, (40, 3)) * np.array([1.0, 30.0, 0.1])
    found = rows(z, "std")
    np.testing.assert_allclose(found.std(0), 1.0)
    np.testing.assert_allclose(np.ptp(found, 0), np.ptp(z, 0) / z.std(0))
    ranks = stats.rankdata(z, axis=0) * np.sqrt(12.0) / 40
    np.testing.assert_allclose(rows(z, "rank"), ranks)
    white = rows(z + 1e-3 * np.arange(40)[:, None], "whiten")
    np.testing.assert_allclose(np.cov(white.T), np.eye(3), atol=1e-12)


def test_robust_spread() -> None:
    """Normal columns get unit variance whatever lies far out in one row of a hundred; a column that
    is mostly one value is divided by how far its other entries are; rounding is not blown up."""
    r = np.random.default_rng(1)
    z = r.normal(size=(2000, 5)) * np.array([1e-3, 1.0, 1e5, 1.0, 1.0])
    z[:10, 1] = 1e8
    z[:, 3] = 0.0
    z[100:150, 3] = 12.0  # the edge of a picture
    z[:, 4] = 0.1 + 1e-9 * z[:, 4]
    found = rows(z, "robust")
    np.testing.assert_allclose(found[10:, :3].std(0), 1.0, atol=0.1)
    assert set(found[:, 3]) == {0.0, 1.0}
    assert np.ptp(found[:, 4]) < 1e-8


@pytest.mark.parametrize("scale", get_args(Scale))
def test_scaling_knows_no_labels(scale: Any) -> None:
    """Rows in another order are scaled to the same rows in that order."""
    r = np.random.default_rng(2)
    z = r.standard_cauchy((60, 3)).round(1) * np.array([1.0, 1e3, 1.0])
    order = r.permutation(60)
    if scale == "whiten":  # up to a rotation
        there, back = (s @ s.T for s in (rows(z, scale), rows(z[order], scale)))
        np.testing.assert_allclose(back, there[order][:, order], atol=1e-9)
    else:
        np.testing.assert_allclose(rows(z[order], scale), rows(z, scale)[order], rtol=1e-12)


@pytest.mark.parametrize("method", ["fuse", "energy", "mmd"])
def test_units_do_not_hide_a_shift(method: Any) -> None:
    x, y = mixed_units(60, 1.0, 3)
    options: dict[str, Any] = {"method": method, "n_resamples": 99, "rng": 0}
    assert two_sample_test(x, y, **options).pvalue == 0.01
    hidden = two_sample_test(x, y, scale=None, **options)
    assert hidden.pvalue > 0.05 and hidden.scale is None
    assert "spreads of the columns differ by a factor of" in hidden.notes[0]
    found = k_sample_test(x, y, n_resamples=99, rng=0)
    assert (found.scale, found.pvalue, found.pairs[0].pvalue) == ("robust", 0.01, 0.01)
    told = independence_test(x, x[:, 0] + y[:, 0], method="dcov", n_resamples=99, rng=0)
    assert (told.scale, told.pvalue) == ("robust (x), None (y)", 0.01)
    assert independence_test(
        x, x[:, 0] + y[:, 0], method="dcov", n_resamples=99, rng=0, scale=None
    ).pvalue > 0.05  # fmt: skip


def test_the_default_leaves_one_unit_alone() -> None:
    r = np.random.default_rng(4)
    x, y = (r.normal(size=(50, 3)) * np.array([1.0, 2.0, 3.0]) for _ in range(2))
    options: dict[str, Any] = {"method": "energy", "n_resamples": 99, "rng": 0}
    plain = two_sample_test(x, y, scale=None, **options)
    assert two_sample_test(x, y, **options).pvalue == plain.pvalue
    assert (plain.scale, plain.notes) == (None, ())
    wide = np.array([1.0, 1.0, 20.0])
    assert two_sample_test(x * wide, y * wide, **options).scale == "robust"


@pytest.mark.parametrize("method", ["fuse", "energy", "mmd"])
def test_what_pairs_share_sets_no_unit(method: Any) -> None:
    """Pairs at ±1000 in one column, where all of them move by 1.5: divided by the spread of the
    rows, that column's differences would be a thousandth of the noise in the other."""
    r = np.random.default_rng(8)
    pairs = r.normal(size=(30, 2)) * np.array([1000.0, 1.0])
    x, y = (pairs + r.normal(size=(30, 2)) for _ in range(2))
    options: dict[str, Any] = {"method": method, "paired": True, "n_resamples": 199, "rng": 0}
    moved = y + np.array([1.5, 0.0])
    assert two_sample_test(x, moved, **options).pvalue <= 0.05
    units = np.array([1.0, 1e4])
    result = two_sample_test(x * units, moved * units, **options)
    assert result.pvalue <= 0.05 and result.scale == "robust"
    assert "their spread in the differences within pairs" in str(result)


def test_bandwidths_in_units_of_the_data_are_kept() -> None:
    x, y = mixed_units(30, 0.0, 5)
    options: dict[str, Any] = {"method": "mmd", "n_resamples": 19, "rng": 0}
    for setting in ({"bandwidth": 2.0}, {"kernel": Gaussian()}, {"bandwidth": "dimension"}):
        assert two_sample_test(x, y, **setting, **options).scale is None
    assert two_sample_test(x, y, bandwidth=2.0, scale="std", **options).scale == "std"


def test_the_statistic_is_the_loss_of_the_scaled_sample() -> None:
    x, y = mixed_units(40, 0.5, 6)
    result = two_sample_test(x, y, method="energy", scale="std", n_resamples=19, rng=0)
    z = np.concatenate([x, y])
    z = torch.from_numpy(z / z.std(0))
    expected = energy_distance(z[:40], z[40:]).item()
    assert result.statistic == pytest.approx(expected, rel=1e-9)
    assert "note: columns: divided by their standard deviation" in str(result)


@pytest.mark.parametrize("scale", ["robust", "rank", "whiten"])
def test_level(scale: Any) -> None:
    """Under P = Q, P(p ≤ α) ≤ α, for columns of different units and few rows."""
    r = np.random.default_rng(7)
    units = np.array([1.0, 1e3])
    pvalues = []
    for _ in range(80):
        x, y = (r.standard_t(2, (n, 2)) * units for n in (5, 8))
        pvalues.append(
            two_sample_test(x, y, method="energy", scale=scale, n_resamples=39, rng=r).pvalue
        )
    for alpha in (0.05, 0.1, 0.25):
        assert (np.array(pvalues) <= alpha).sum() <= stats.binom.ppf(1 - 1e-4, 80, alpha)


def test_bad_input() -> None:
    x = np.random.default_rng(8).normal(size=(20, 2))
    for test in (two_sample_test, k_sample_test, independence_test):
        with pytest.raises(ValueError, match="unknown scale 'minmax'; known are 'auto', 'robust'"):
            test(x, x + 1.0, scale="minmax")  # type: ignore[operator]
    with pytest.raises(ValueError, match="the pooled rows is singular: column 1 is constant"):
        two_sample_test(x[:, [0, 0]], x[:, [0, 0]], scale="whiten")
    with pytest.raises(ValueError, match="'classifier' scales by its training half; got scale='r"):
        two_sample_test(x, x, method="classifier", scale="rank")
