"""Relabellings: the right ones, each as often as it should be, whatever the batch width."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from divergences.resampling import Relabellings, permutation_pvalue

Strata = NDArray[np.int64] | None


def columns(
    sizes: tuple[int, ...], resamples: int, strata: Strata = None, width: int = 1000, seed: int = 0
) -> NDArray[np.int8]:
    plan = Relabellings(sizes, resamples, np.random.default_rng(seed), strata)
    found = np.concatenate(list(plan.batches(width)), axis=1)
    assert found.shape == (sum(sizes), plan.columns)
    assert np.array_equal(found[:, 0], plan.observed)
    return found


def test_every_labelling_once() -> None:
    found = columns((3, 2, 2), 300)
    assert found.shape[1] == 210  # 7!/(3! 2! 2!)
    listed = {tuple(c) for c in found.T.tolist()}
    assert listed == set(itertools.permutations([0, 0, 0, 1, 1, 2, 2]))


@pytest.mark.parametrize(("resamples", "exact"), [(34, True), (33, False)])
def test_listed_if_no_more_than_asked_for(resamples: int, exact: bool) -> None:
    """comb(7, 3) = 35 labellings, the observed one among them."""
    plan = Relabellings((3, 4), resamples, np.random.default_rng(0))
    assert plan.exact == exact
    assert plan.columns == (comb(7, 3) if exact else resamples + 1)


def test_every_labelling_within_strata_once() -> None:
    strata = np.array([0, 1, 0, 1, 1, 0])
    found = columns((3, 3), 100, strata)
    first = (0, 0, 0, 1, 1, 1)

    def counts(labels: tuple[int, ...]) -> list[int]:
        return [sum(np.array(labels)[strata == s]) for s in (0, 1)]

    expected = {p for p in itertools.permutations(first) if counts(p) == counts(first)}
    assert len(expected) == found.shape[1] == 9
    assert {tuple(c) for c in found.T.tolist()} == expected


EQUAL = np.tile(np.arange(4), 10)
UNEQUAL = np.array([0] * 15 + [1] * 25)[np.random.default_rng(1).permutation(40)]


@pytest.mark.parametrize("strata", [None, EQUAL, UNEQUAL], ids=["none", "equal", "unequal"])
def test_batches_of_any_width_give_the_same(strata: Strata) -> None:
    whole = columns((18, 22), 99, strata)
    for width in (1, 7, 50):
        assert np.array_equal(columns((18, 22), 99, strata, width), whole)
    assert not np.array_equal(columns((18, 22), 99, strata, seed=1), whole)


@pytest.mark.parametrize("strata", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
def test_strata_keep_their_counts(strata: NDArray[np.int64]) -> None:
    found = columns((18, 22), 200, strata)
    for s in range(strata.max() + 1):
        counts = found[strata == s].sum(0)
        assert (counts == counts[0]).all()
    assert len({tuple(c) for c in found.T.tolist()}) > 190


@pytest.mark.parametrize("strata", [None, np.array([0, 1, 1, 0, 0, 1, 1])], ids=["none", "strata"])
def test_labellings_are_equally_likely(strata: Strata) -> None:
    """Drawn often from few: χ² against the uniform distribution."""
    plan = Relabellings((3, 4), 20_000, np.random.default_rng(5), strata)
    plan.exact, plan.columns = False, 20_001
    drawn = np.concatenate(list(plan.batches(3000)), axis=1)[:, 1:]
    _, counts = np.unique(drawn, axis=1, return_counts=True)
    assert len(counts) == (35 if strata is None else 3 * 6)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_pvalues_count_ties_and_the_observed() -> None:
    null = np.array([0.0, 1.0, 2.0, 2.0 - 1e-9])
    assert permutation_pvalue(2.0, null, 1e-8) == 3 / 5
    assert permutation_pvalue(2.0, null, 0.0) == 2 / 5
    assert permutation_pvalue(2.0, null, 1e-8, exact=True) == 2 / 4
    assert permutation_pvalue(9.0, null, 0.0) == 1 / 5
