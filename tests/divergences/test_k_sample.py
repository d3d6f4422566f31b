"""The k-sample test against dense DISCO, Holm's correction, its level and its power."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.distance import cdist

from divergences.k_sample import holm, k_sample_test
from divergences.resampling import Relabellings


def disco(z: NDArray[np.float64], groups: NDArray[np.int64]) -> tuple[float, float]:
    """F and S/T by dense matrices (Rizzo & Székely 2010, eq. 2.5 and 2.7)."""
    distance, k = cdist(z, z), int(groups.max()) + 1
    total = len(z) / 2 * distance.mean()
    within = sum(
        (groups == g).sum() / 2 * distance[np.ix_(groups == g, groups == g)].mean()
        for g in range(k)
    )
    between = total - within
    return (between / (k - 1)) / (within / (len(z) - k)), between / total


@pytest.mark.parametrize("d", [1, 3])
def test_against_dense(d: int) -> None:
    generator = np.random.default_rng(0)
    a, b, c = (generator.normal(m, 1, (n, d)) for m, n in ((0, 20), (0.3, 31), (0.5, 12)))
    result = k_sample_test(a, b, c, n_resamples=20, rng=0, pairwise=False)
    f, effect = disco(np.concatenate([a, b, c]), np.repeat([0, 1, 2], [20, 31, 12]))
    assert result.statistic == pytest.approx(f, rel=1e-9)
    assert result.effect_size == pytest.approx(effect, rel=1e-9)
    assert (result.n, result.sample_sizes, result.pairs) == (63, (20, 31, 12), ())


def test_every_labelling() -> None:
    generator = np.random.default_rng(1)
    z = np.concatenate([generator.normal(m, 1, (n, 2)) for m, n in ((0, 3), (2, 2), (4, 2))])
    result = k_sample_test(z[:3], z[3:5], z[5:], rng=0)
    labellings = set(itertools.permutations([0, 0, 0, 1, 1, 2, 2]))
    expected = [disco(z, np.array(groups))[0] for groups in labellings]
    assert result.enumerated
    np.testing.assert_allclose(np.sort(result.null_distribution), np.sort(expected), rtol=1e-9)
    assert result.pvalue == np.mean(np.array(expected) >= result.statistic - 1e-9)


def test_two_samples_agree_with_the_energy_distance() -> None:
    """S is nm/2N times the biased energy distance (Rizzo & Székely 2010, eq. 2.4)."""
    generator = np.random.default_rng(2)
    x, y = generator.normal(size=(30, 2)), generator.normal(0.5, 1, (20, 2))
    result = k_sample_test(x, y, rng=0)
    energy = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
    total = 25 * cdist(np.concatenate([x, y]), np.concatenate([x, y])).mean()
    assert result.effect_size == pytest.approx(30 * 20 / 100 * energy / total, rel=1e-9)
    (pair,) = result.pairs
    assert (pair.first, pair.second, pair.adjusted) == (0, 1, pair.pvalue)


@pytest.mark.parametrize("method", ["energy", "mmd"])
def test_power_finds_the_odd_one_out(method: str) -> None:
    generator = np.random.default_rng(3)
    samples = [generator.normal(m, 1, (60, 2)) for m in (0.0, 0.0, 1.5, 0.0)]
    result = k_sample_test(*samples, method=method, rng=0, n_resamples=199)  # type: ignore[arg-type]
    assert result.pvalue == 1 / 200
    assert {(p.first, p.second) for p in result.pairs if p.adjusted <= 0.05} == {
        (0, 2), (1, 2), (2, 3),
    }  # fmt: skip
    text = str(result)
    assert "k-sample test" in text
    assert "60 + 60 + 60 + 60" in text
    assert text.count(" and ") == 6


@pytest.mark.parametrize("ties", [False, True])
def test_level(ties: bool) -> None:
    generator = np.random.default_rng(4)
    pvalues = []
    for _ in range(200):
        samples = [generator.normal(size=(n, 1)) for n in (5, 8, 6)]
        samples = [np.sign(s) for s in samples] if ties else samples
        pvalues.append(
            k_sample_test(*samples, n_resamples=39, rng=generator, pairwise=False).pvalue
        )
    for alpha in (0.05, 0.1, 0.25):
        assert (np.array(pvalues) <= alpha).sum() <= stats.binom.ppf(1 - 1e-4, 200, alpha)


def test_ties_stay_ties() -> None:
    """Binary rows in groups of very unequal size: p counts labellings of equal counts as ties."""
    generator = np.random.default_rng(0)
    z = generator.integers(0, 2, size=(1210, 2)).astype(float)
    sizes = (5, 5, 1200)
    x, y, rest = np.split(z, [5, 10])
    result = k_sample_test(
        x, y, rest, n_resamples=200, rng=np.random.default_rng(3), pairwise=False
    )
    replay = np.random.default_rng(3)
    replay.permutation(1210)
    (labels,) = Relabellings(sizes, 200, replay).batches(1000)
    kinds = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    of_kind = (z[:, None] == kinds).all(2).astype(float)  # [N, 4]
    counts = [of_kind.T @ (labels == g) for g in range(3)]  # [4, B] each
    within = sum(
        np.einsum("kb,kl,lb->b", c, cdist(kinds, kinds), c) / (2 * n)
        for c, n in zip(counts, sizes, strict=True)
    )
    reached = within[1:] <= within[0] + 1e-10
    assert len(np.unique(within.round(9))) < 201  # there are ties
    assert result.pvalue == (1 + reached.sum()) / 201


def test_holm() -> None:
    """The worked example: sorted p times k, k − 1, …, made monotone, cut at 1."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])


def test_groups_without_spread() -> None:
    """W = 0: F is infinite, p is still a count."""
    result = k_sample_test(np.zeros(4), np.ones(4), np.full(4, 2.0), n_resamples=50, rng=0)
    assert np.isinf(result.statistic)
    assert result.pvalue == 1 / 51
    with pytest.warns(UserWarning, match="are equal: p = 1"):
        constant = k_sample_test(np.ones(4), np.ones(5), rng=0, n_resamples=20, pairwise=False)
    assert constant.pvalue == 1.0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="at least two samples are needed; got 1"):
        k_sample_test(np.ones(4))
    with pytest.raises(ValueError, match=r"sample 0 \[4, 1\], sample 2 \[4, 2\]"):
        k_sample_test(np.arange(4.0), np.arange(4.0), np.ones((4, 2)))
    with pytest.raises(ValueError, match="'energy' or 'mmd'; got 'fuse'"):
        k_sample_test(np.arange(4.0), np.arange(4.0), method="fuse")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sample 1 has 1 rows of 3 with NaN"):
        k_sample_test(np.arange(4.0), np.array([0.0, np.nan, 1.0]))
