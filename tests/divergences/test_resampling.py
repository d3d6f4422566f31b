"""Relabellings: the right ones, each as often as it should be, whatever the batch width."""

from __future__ import annotations

import itertools
from math import comb
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from divergences import resampling
from divergences.random_keys import KEYS, random_keys
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
LAST = np.array([1] * 30 + [0] * 10)  # a first stratum of rows of the last group only
ALL_STRATA = pytest.mark.parametrize(
    "strata", [None, EQUAL, UNEQUAL, LAST], ids=["none", "equal", "unequal", "last"]
)


@ALL_STRATA
def test_batches_of_any_width_give_the_same(
    strata: Strata, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = columns((18, 22), 99, strata)
    for width in (1, 7, 50):
        assert np.array_equal(columns((18, 22), 99, strata, width), whole)
    monkeypatch.setitem(KEYS, "cpu", 3 * 40)
    assert np.array_equal(columns((18, 22), 99, strata), whole)
    assert not np.array_equal(columns((18, 22), 99, strata, seed=1), whole)


def by_spans(plan: Relabellings, ends: tuple[int, ...]) -> NDArray[np.int8]:
    """The labels [N, B] of spans of rows between these ends, from cuts made in two parts."""
    cpu = torch.device("cpu")
    half = plan.columns // 2
    cuts = np.concatenate([plan.cuts(0, half, cpu), plan.cuts(half, plan.columns, cpu)])
    spans = itertools.pairwise(ends)
    return np.concatenate([plan.labels(cuts, *span, cpu).numpy() for span in spans])


@ALL_STRATA
@pytest.mark.parametrize("sizes", [(18, 22), (11, 8, 21)], ids=str)
@pytest.mark.parametrize("most", [2**16, 16])
def test_spans_of_rows_have_the_same_labels(
    strata: Strata, sizes: tuple[int, ...], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a labelling's keys are made a span at a time (16 of 40)."""
    whole = columns(sizes, 99, strata)
    monkeypatch.setitem(KEYS, "cpu", most)
    plan = Relabellings(sizes, 99, np.random.default_rng(0), strata)
    assert np.array_equal(by_spans(plan, (0, 1, 17, 18, 33, 40)), whole)


def test_spans_of_listed_labellings() -> None:
    plan = Relabellings((3, 4), 99, np.random.default_rng(0))
    assert plan.exact
    assert np.array_equal(by_spans(plan, (0, 2, 7)), columns((3, 4), 99))


@pytest.mark.parametrize("bits", [2, 5])
def test_spans_where_keys_tie(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labellings whose cut falls between equal keys are drawn again, as whole ones are; and keys
    that are not uniform are found all the same."""

    def coarse(*given: Any) -> Any:
        return random_keys(*given) & (2**bits - 1)

    monkeypatch.setattr(resampling, "random_keys", coarse)
    monkeypatch.setattr("divergences.random_keys.random_keys", coarse)
    whole = columns((3, 5), 50)
    monkeypatch.setitem(KEYS, "cpu", 4)
    plan = Relabellings((3, 5), 50, np.random.default_rng(0))
    assert np.array_equal(by_spans(plan, (0, 3, 8)), whole)


def test_rows_that_move_together_have_no_spans() -> None:
    plan = Relabellings((4, 4), 99, np.random.default_rng(0), units=np.arange(8) // 2)
    with pytest.raises(ValueError, match="labelled together"):
        plan.cuts(0, 3, torch.device("cpu"))


@ALL_STRATA
@pytest.mark.parametrize("sizes", [(18, 22), (11, 8, 21)], ids=str)
def test_counts_are_kept(strata: Strata, sizes: tuple[int, ...]) -> None:
    """In every group, of every stratum; and no two labellings of 201 are the same."""
    found = columns(sizes, 200, strata)
    for s in np.unique(np.zeros(40, int) if strata is None else strata):
        rows = found if strata is None else found[strata == s]
        for g in range(len(sizes)):
            counts = (rows == g).sum(0)
            assert (counts == counts[0]).all()
    assert len({tuple(c) for c in found.T.tolist()}) == 201


@ALL_STRATA
@pytest.mark.parametrize("sizes", [(18, 22), (11, 8, 21)], ids=str)
def test_torch_draws_what_numpy_draws(strata: Strata, sizes: tuple[int, ...]) -> None:
    """The way of a GPU, on a CPU."""
    plan = Relabellings(sizes, 99, np.random.default_rng(3), strata)
    (expected,) = plan.batches(1000)
    found = torch.zeros(100, 40, dtype=torch.int8)
    plan._fill(found, 0)
    assert np.array_equal(found.T.numpy(), expected)


@pytest.mark.gpu
@ALL_STRATA
@pytest.mark.parametrize("sizes", [(18, 22), (11, 8, 21)], ids=str)
def test_drawn_on_cuda(strata: Strata, sizes: tuple[int, ...]) -> None:
    plan = Relabellings(sizes, 99, np.random.default_rng(3), strata)
    found = list(plan.tensors(40, torch.device("cuda")))
    assert all(labels.is_cuda for labels in found)
    expected = np.concatenate(list(plan.batches(1000)), axis=1)
    assert np.array_equal(torch.cat(found, 1).cpu().numpy(), expected)


FEW = np.array([0, 1, 1, 0, 0, 1, 1])


@pytest.mark.parametrize("bits", [-1, 7], ids=["keys", "ties"])
@pytest.mark.parametrize(
    ("sizes", "strata", "number"),
    [((3, 4), None, 35), ((2, 2, 3), None, 210), ((3, 4), FEW, 3 * 6), ((2, 2, 3), FEW, 6 * 12)],
    ids=["two", "three", "strata", "three in strata"],
)
def test_labellings_are_equally_likely(
    sizes: tuple[int, ...],
    strata: Strata,
    number: int,
    bits: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Drawn often from few: χ² against the uniform distribution, also where equal keys abound."""
    monkeypatch.setattr(resampling, "random_keys", lambda *given: random_keys(*given) & bits)
    draws = 100 * number
    plan = Relabellings(sizes, draws, np.random.default_rng(5), strata)
    assert plan.exact
    plan.exact, plan.columns = False, draws + 1
    drawn = np.concatenate(list(plan.batches(3000)), axis=1)[:, 1:]
    _, counts = np.unique(drawn, axis=1, return_counts=True)
    assert len(counts) == number
    assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4


def test_keys_are_those_of_splitmix() -> None:
    """The first outputs after the seed 1234567, as they are published with the generator."""
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    keys = random_keys(np.zeros((1, 10), dtype=np.int8), 0, 1234567)
    assert np.ascontiguousarray(keys).view(np.uint64).tolist() == [published]
    rows = random_keys(np.zeros((3, 5), dtype=np.int8), 7, 1)  # the last half of each row unused
    (alone,) = random_keys(np.zeros((1, 5), dtype=np.int8), 9, 1)
    assert np.array_equal(rows[2], alone)
    assert len(np.unique(rows)) == 15


def test_pvalues_count_ties_and_the_observed() -> None:
    null = np.array([0.0, 1.0, 2.0, 2.0 - 1e-9])
    assert permutation_pvalue(2.0, null, 1e-8) == 3 / 5
    assert permutation_pvalue(2.0, null, 0.0) == 2 / 5
    assert permutation_pvalue(2.0, null, 1e-8, exact=True) == 2 / 4
    assert permutation_pvalue(9.0, null, 0.0) == 1 / 5
