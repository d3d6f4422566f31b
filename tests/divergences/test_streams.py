"""Sums of features by bins: what is in them, however rows come, and the test they give."""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from divergences.chunks import Batches
from divergences.kernels import Gaussian, Laplace
from divergences.streams import FeatureSums

Array = NDArray[np.float64]
OPTIONS: dict[str, Any] = dict(n_features=5, bins=8, rng=0, bandwidth=1.0, scale="robust")
PILOT = np.random.default_rng(9).normal(size=(100, 2)) * [1.0, 20.0] + 3.0


def rows(count: int, seed: int, shift: float = 0.0) -> Array:
    return (np.random.default_rng(seed).normal(size=(count, 2)) + shift) * [1.0, 20.0] + 3.0


def start(**options: Any) -> FeatureSums:
    return FeatureSums(PILOT, **(OPTIONS | options))


def features(sums: FeatureSums, z: Array) -> Array:
    state = sums.state_dict()
    angles = (z - state["offset"]) / state["spread"] @ state["frequencies"].T
    return np.hstack([np.cos(angles), np.sin(angles)]) * np.tile(state["amplitudes"], 2)


def assert_same(a: FeatureSums, b: FeatureSums) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    for name, array in first.items():
        if array.dtype.kind in "US":
            assert array == second[name]
        else:
            np.testing.assert_allclose(array, second[name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("count", [1, 8, 9, 16, 17, 100, 1000])
def test_bins_are_of_consecutive_rows(count: int) -> None:
    """At most eight of the largest size, 2ᵏ rows, and one of each size below."""
    sums, z = start(), rows(count, 0)
    sums.update(x=z)
    levels = [v for k, v in sums.state_dict().items() if k[0] == "x"]
    assert len(levels[-1]) <= 8 and all(len(v) <= 1 for v in levels[:-1])
    assert len(levels) == 1 or len(levels[-1]) >= 4
    assert (sums.n, sums.m) == (count, 0)
    first = 0
    for k, level in reversed([*enumerate(levels)]):
        parts = features(sums, z[first : first + len(level) * 2**k]).reshape(len(level), 2**k, 10)
        np.testing.assert_allclose(level, parts.sum(1), rtol=1e-10, atol=1e-12)
        first += len(level) * 2**k
    assert first == count


@pytest.mark.parametrize("sizes", [(1,) * 50, (7, 30, 13), (49, 1)], ids=str)
def test_pieces_of_any_size_give_the_same(sizes: tuple[int, ...]) -> None:
    x, y = rows(50, 0), rows(50, 1)
    whole, pieces = start(), start()
    whole.update(x=x, y=y)
    for first, last in itertools.pairwise([0, *itertools.accumulate(sizes)]):
        pieces.update(x=x[first:last])
        pieces.update(y=torch.from_numpy(y[first:last]))
    assert_same(pieces, whole)


@pytest.mark.parametrize("cut", [0, 1, 37, 64, 199])
def test_merging_loses_no_row(cut: int) -> None:
    """Into states with larger and with smaller bins; where they end with a bin, to the same."""
    x, y = rows(200, 0), rows(90, 1)
    whole = start()
    whole.update(x=x, y=y)
    for first, second in itertools.permutations([(x[:cut], y), (x[cut:], y[:0])]):
        merged, other = start(), start()
        for sums, given in ((merged, first), (other, second)):
            for name, z in zip("xy", given, strict=True):
                if len(z):
                    sums.update(**{name: z})
        merged.merge(other)
        assert (merged.n, merged.m) == (200, 90)
        totals = [
            sum(v.sum(0) for k, v in sums.state_dict().items() if k[0] == "x")
            for sums in (merged, whole)
        ]
        np.testing.assert_allclose(*totals, rtol=1e-10)
        if cut == 64 and len(first[1]):
            assert_same(merged, whole)


def test_statistic_is_that_of_the_bins() -> None:
    """The unbiased MMD² over pairs of rows in different bins, over all rows that fill one."""
    x, y = rows(70, 0), rows(45, 1, 0.5)
    sums = start(kernel=Gaussian(1.0) + 0.5 * Laplace(2.0, norm="l1"), bandwidth=None)
    sums.update(x=x, y=y)
    found = sums.test(n_resamples=9, rng=0)
    assert (found.n, found.m, found.scale) == (64, 40, "robust")
    assert "8 bins of x and 5 of y, of 8 rows each; 11 rows do not" in found.notes[0]
    a, b = features(sums, x[:64]), features(sums, y[:40])
    bin_x, bin_y = np.arange(64) // 8, np.arange(40) // 8
    apart_x, apart_y = (np.not_equal.outer(bins, bins) for bins in (bin_x, bin_y))
    expected = (a @ a.T)[apart_x].mean() + (b @ b.T)[apart_y].mean() - 2 * (a @ b.T).mean()
    assert found.statistic == pytest.approx(expected, rel=1e-6)
    between = 3.0 - 2.0 * (a @ b.T).mean()  # k(z, z) is 1.5
    assert found.effect_size == pytest.approx(expected / between, rel=1e-6)
    assert found.enumerated is False and found.seed == 0


def test_state_is_saved_and_goes_on(tmp_path: pathlib.Path) -> None:
    sums = start()
    sums.update(x=rows(75, 0), y=rows(31, 1))
    np.savez(tmp_path / "sums.npz", **sums.state_dict())
    with np.load(tmp_path / "sums.npz", allow_pickle=False) as state:
        loaded = FeatureSums.from_state_dict(state)
    assert_same(loaded, sums)
    for both in (sums, loaded):
        both.update(x=rows(33, 2), y=rows(60, 3))
    assert loaded.test(rng=1).to_dict() == sums.test(rng=1).to_dict()


def test_level_and_power() -> None:
    """p ≤ 0.2 in one of five tests of rows from one distribution, whatever their numbers; and what
    differs is found."""
    reached, empty = 0, start().state_dict()
    for seed in range(100):
        sums = FeatureSums.from_state_dict(empty)
        sums.update(x=rows(300, 2 * seed), y=rows(170, 2 * seed + 1))
        reached += sums.test(n_resamples=19, rng=seed).pvalue <= 0.2
    assert stats.binomtest(reached, 100, 0.2).pvalue > 1e-3
    sums = start(bins=64)
    sums.update(x=rows(3000, 0), y=rows(3000, 1, 0.3))
    assert sums.test(rng=0).pvalue == 0.001


def test_what_is_refused() -> None:
    sums = start()
    with pytest.raises(ValueError, match="got neither"):
        sums.update()
    with pytest.raises(ValueError, match="y has 3 columns; the pilot sample has 2"):
        sums.update(x=rows(4, 0), y=np.eye(3))
    assert sums.n == 0
    with pytest.raises(ValueError, match="1 rows of 2 with NaN"):
        sums.update(x=[[1.0, 2.0], [np.nan, 0.0]])
    late = Batches([rows(9000, 0), [[1.0, np.inf]]])  # in its second chunk
    with pytest.raises(ValueError, match=r"y\[9000:9001\] has 1 rows"):
        sums.update(x=rows(4, 0), y=late)
    assert (sums.n, sums.m) == (0, 0)
    with pytest.raises(ValueError, match="their rows would count twice"):
        sums.merge(sums)
    sums.update(x=rows(1000, 0), y=rows(130, 1))
    with pytest.raises(ValueError, match="there are 7 bins of x and 1 of y, of 128 rows each"):
        sums.test()
    for other, name in (
        (start(rng=1), "frequencies"),
        (start(scale="std"), "spread"),
        (start(bins=16), "bins"),
    ):
        with pytest.raises(ValueError, match=rf"do not merge \({name} differs\)"):
            sums.merge(other)
    with pytest.raises(ValueError, match="has 'frequencies', and this has not"):
        FeatureSums.from_state_dict({"x0": np.eye(2)})
    for options, message in (
        (dict(bins=3), "bins must be an integer ≥ 4"),
        (dict(n_features=True), "n_features must be an integer ≥ 1"),
        (dict(scale="rank"), "needs all rows at once"),
        (dict(kernel="energy", bandwidth=None), "random Fourier features are for"),
    ):
        with pytest.raises(ValueError, match=message):
            start(**options)
