"""Relabellings of pooled rows, permutations of paired rows, p-values and progress: what every
resampling test shares."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .kernels.statistics.sharing import current_share
from .random_keys import (
    KEYS,
    Array,
    as_kind,
    as_numpy,
    order_statistics,
    random_keys,
    smallest_key,
    zeros,
)

TIE = 1e-11  # of E|k|: what fp64 sums leave between labellings whose statistics are equal
PROGRESS_AFTER = 3.0  # seconds before a bar appears


def permutation_pvalue(
    observed: float, null: NDArray[np.float64], tolerance: float, *, exact: bool = False
) -> float:
    """P(T_b ≥ T), where values nearer than ``tolerance`` count as ties.

    (1 + #)/(B + 1) for drawn relabellings (Phipson & Smyth 2010); #/B where ``null`` lists all of
    them, the observed one among them.
    """
    reached = int((null >= observed - tolerance).sum())
    return reached / len(null) if exact else (1 + reached) / (1 + len(null))


class Restriction(NamedTuple):
    """Which relabellings of rows, or permutations of pairs, are as likely as the observed one.

    strata: [N] numbers 0 … S−1; rows stay within theirs. units: [N] numbers 0 … G−1; the rows of a
    unit move as one, in their order: a unit has one label, and permutations exchange units of one
    size only. shifts: rows stay in their order, all of which is moved along, around the end.
    """

    strata: NDArray[np.int64] | None = None
    units: NDArray[np.int64] | None = None
    shifts: bool = False


class Relabellings:
    """Group numbers for the pooled rows: the observed ones, and B others.

    Column 0 of the first batch is the observed labelling: rows in groups 0, 1, … of the ``sizes``
    given, in this order. The others permute it, as far as a ``Restriction`` allows. If there are no
    more than B + 1 different labellings, all of them are listed (``exact``), else B are drawn, each
    from its number and a seed that ``generator`` gives: batches of any width, on any device, give
    the same ones.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        n_resamples: int,
        generator: np.random.Generator,
        strata: NDArray[np.int64] | None = None,
        units: NDArray[np.int64] | None = None,
        shifts: bool = False,
    ) -> None:
        if len(sizes) > np.iinfo(np.int8).max:
            raise ValueError(f"at most 127 groups can be relabelled; got {len(sizes)}")
        self.sizes, self.strata, self.units = tuple(sizes), strata, units
        self.seed = int(generator.integers(-(2**63), 2**63))
        self._strata = strata  # of units, if rows move in them
        if units is not None and strata is not None:
            self._strata = strata[np.unique(units, return_index=True)[1]]
        self._shifts: NDArray[np.int64] | None = None
        if shifts:
            self._shifts, self.exact = _draw_shifts(sum(sizes), n_resamples, generator)
            self.columns = len(self._shifts)
            return
        counts: list[Sequence[int]] = [self.sizes]  # of each group, in each stratum
        if strata is not None or units is not None:
            counts = [np.bincount(self._labels[rows]).tolist() for rows in self._strata_rows()]
        log_count = sum(map(_log_count, counts))
        self.exact = log_count < math.log(n_resamples + 1.5)
        self.columns = round(math.exp(log_count)) if self.exact else n_resamples + 1
        self._ends = self._group_ends(len(sizes))

    @cached_property
    def observed(self) -> NDArray[np.int8]:
        return np.repeat(np.arange(len(self.sizes), dtype=np.int8), self.sizes)

    @cached_property
    def _labels(self) -> NDArray[np.int8]:
        """The observed ones of units, or of rows if these move one by one."""
        if self.units is None:
            return self.observed
        return self.observed[np.unique(self.units, return_index=True)[1]]

    def batches(self, width: int) -> Iterator[NDArray[np.int8]]:
        """Labels [N, ≤ width], ``columns`` columns in all."""
        return (labels.numpy() for labels in self.tensors(width, torch.device("cpu")))

    def tensors(self, width: int, device: torch.device) -> Iterator[Tensor]:
        """``batches`` on a device, and drawn there."""
        listed = self._all() if self.exact or self._shifts is not None else None
        units = None if self.units is None else torch.from_numpy(self.units).to(device)
        for start in range(0, self.columns, width):
            size = min(width, self.columns - start)
            if listed is not None:
                labels = torch.from_numpy(np.stack([*itertools.islice(listed, size)])).to(device)
            elif units is None and current_share().size > 1:
                cuts = self.shared_cuts(start, start + size, device)
                labels = self.labels(cuts, 0, sum(self.sizes), device).T
            else:
                drawn = zeros((size, len(self._labels)), device)
                self._fill(drawn, start)
                labels = torch.as_tensor(drawn)
            yield labels.T.contiguous() if units is None else labels.T[units]

    def _group_ends(self, groups: int) -> NDArray[np.int64]:
        """[G − 1, S]: where groups 0 … G − 2 end among rows sorted by stratum and then by group."""
        if self.strata is None and self.units is None:
            return np.cumsum(self.sizes)[:-1, None]
        strata = np.zeros(len(self._labels), np.int64) if self._strata is None else self._strata
        sizes = np.bincount(strata)
        inside = [np.bincount(strata[self._labels <= g], None, len(sizes)) for g in range(groups)]
        return np.stack(inside[:-1]) + np.cumsum(sizes) - sizes

    def _fill(self, labels: Array, start: int) -> None:
        """Labellings number ``start``, ``start`` + 1, …, into the zeros ``labels`` [b, N]."""
        first = 1 if start == 0 else 0
        labels[:first] = as_kind(self._labels, labels)
        device = labels.device.type if isinstance(labels, Tensor) else "cpu"
        step = max(1, KEYS[device] // len(self._labels))
        for part in range(first, len(labels), step):
            self._draw(labels[part : part + step], start + part)

    def _draw(self, labels: Array, number: int) -> None:
        """Labellings from ``number`` on, into zeros: of the random keys of the rows, the smallest
        (in each stratum) are those of group 0, and so on. Where keys on both sides of a cut are
        equal the labelling is drawn again, and all stay equally likely."""
        _, tied = self._label(labels, random_keys(labels, number, self.seed))
        for row, again in enumerate(tied.tolist()):
            if again:
                labels[row] = 0
                self._draw(labels[row : row + 1], number + row + self.columns)

    def _label(self, labels: Array, keys: Array) -> tuple[Array, Array]:
        """Labels [b, N] by the keys of all rows, into zeros. Returns the cuts [b, (G − 1)·S], and
        which labellings [b] are tied."""
        keys, stratum = self._by_stratum(keys, slice(None))
        cuts = order_statistics(keys, self._ends.ravel() - 1)
        self._add_cuts(labels, keys, cuts, stratum)
        return cuts, labels.sum(1) != int(self._labels.sum())

    def _by_stratum(self, keys: Array, rows: slice) -> tuple[Array, Array | None]:
        """Keys of these rows that sort by stratum first, and their strata."""
        if self._strata is None:
            return keys, None
        stratum = as_kind(self._strata[rows], keys)
        return keys + (stratum << 32), stratum

    def _add_cuts(self, labels: Array, keys: Array, cuts: Array, stratum: Array | None) -> None:
        """To each label the number of cuts below the key."""
        for ends in np.split(np.arange(self._ends.size), len(self._ends)):
            cut = cuts[:, ends[0] : ends[-1] + 1]
            labels += keys > (cut if stratum is None else cut[:, stratum])

    # --- Labels of some of the rows -------------------------------------------------------------

    def cuts(self, first: int, last: int, device: torch.device) -> NDArray[np.int64]:
        """What the labels of any rows follow from in the labellings ``first`` … ``last`` − 1,
        [b, 1 + (G − 1)·S] for S strata: the number whose keys they take (0 for the observed
        labels), and the largest key of each group but the last in each stratum. Parts of it may be
        made by several processes. Without strata that takes O(√N) memory.

        Raises ValueError where rows do not move one by one."""
        if self.units is not None or self._shifts is not None:
            raise ValueError("rows that move in units or by shifts are labelled together")
        found = np.zeros((last - first, 1 + self._ends.size), np.int64)
        found[:, 0] = np.arange(first, last)
        step = max(1, KEYS[device.type] // sum(self.sizes))
        for part in np.split(found, range(step, len(found), step)):
            again = (part[:, 0] > 0) & (not self.exact)
            while again.any():
                part[again, 1:], tied = self._draw_cuts(part[again, 0], device)
                again[again] = tied
                part[again, 0] += self.columns
        return found

    def shared_cuts(self, first: int, last: int, device: torch.device) -> NDArray[np.int64]:
        """``cuts``, of which every process of a group finds some."""
        among = current_share()
        found = np.zeros((last - first, 1 + self._ends.size), np.int64)
        own = among.span(last - first)
        found[own] = self.cuts(first + own.start, first + own.stop, device)
        whole = torch.from_numpy(found).to(device)
        among.total(whole)
        return whole.cpu().numpy()

    def _draw_cuts(
        self, numbers: NDArray[np.int64], device: torch.device
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The cuts of these labellings, and which are tied."""
        count, most = sum(self.sizes), KEYS[device.type]
        if self._strata is None and count > most:
            like, ends = zeros((1, most), device), self._ends[:, 0].tolist()
            ((number),) = numbers.tolist()
            keys, ties = zip(
                *(smallest_key(like, number, e, self.seed, count) for e in ends), strict=True
            )
            return np.array([keys]), np.array([any(ties)])
        labels = zeros((len(numbers), count), device)
        cuts, tied = self._label(labels, random_keys(labels, numbers, self.seed))
        return as_numpy(cuts), as_numpy(tied)

    def labels(
        self, cuts: NDArray[np.int64], start: int, stop: int, device: torch.device
    ) -> Tensor:
        """Labels [n, b], int8, of the rows ``start`` … ``stop`` − 1 in the labellings of ``cuts``,
        those that ``tensors`` has for them."""
        if self.exact:
            listed = np.stack([*self._all()])
            return torch.from_numpy(listed[cuts[:, 0], start:stop]).to(device).T
        found = zeros((len(cuts), stop - start), device)
        step = max(1, KEYS[device.type] // (stop - start))
        for at in range(0, len(cuts), step):
            part, of = found[at : at + step], cuts[at : at + step]
            keys = random_keys(part, of[:, 0], self.seed, start, sum(self.sizes))
            keys, stratum = self._by_stratum(keys, slice(start, stop))
            cut = of[:, 1:] if stratum is not None else of[:, 1:].astype(np.int32)
            self._add_cuts(part, keys, as_kind(cut, part), stratum)
        ends = np.cumsum(self.sizes)[:-1]
        observed = np.searchsorted(ends, np.arange(start, stop), side="right").astype(np.int8)
        found[as_kind(cuts[:, 0] == 0, found)] = as_kind(observed, found)
        return torch.as_tensor(found).T

    def _strata_rows(self) -> list[NDArray[np.int64]]:
        if self._strata is None:
            return [np.arange(len(self._labels))]
        order = np.argsort(self._strata, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self._strata[order])) + 1)

    def _all(self) -> Iterator[NDArray[np.int8]]:
        """Every labelling once, the observed one first."""
        if self._shifts is not None:
            yield from (np.roll(self.observed, shift) for shift in self._shifts.tolist())
            return
        yield self._labels
        strata = self._strata_rows()
        for parts in itertools.product(*(_arrangements(self._labels[rows]) for rows in strata)):
            labels = np.empty_like(self._labels)
            for rows, part in zip(strata, parts, strict=True):
                labels[rows] = part
            if not np.array_equal(labels, self._labels):
                yield labels


def _draw_shifts(
    count: int, n_resamples: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], bool]:
    """0 and B other numbers below ``count``, and whether that is all of them."""
    others = 1 + generator.permutation(count - 1)[:n_resamples]
    return np.concatenate([[0], others]), len(others) == count - 1


def _log_count(counts: Sequence[int]) -> float:
    """Logarithm of the number of distinct arrangements of so many labels of each kind."""
    return math.lgamma(sum(counts) + 1) - sum(math.lgamma(count + 1) for count in counts)


def _arrangements(labels: NDArray[np.int8]) -> Iterator[NDArray[np.int8]]:
    groups = np.unique(labels)
    if len(groups) <= 1:
        yield labels.copy()
        return
    first = int((labels == groups[0]).sum())
    rest = np.sort(labels[labels != groups[0]])
    for chosen in itertools.combinations(range(len(labels)), first):
        others = np.delete(np.arange(len(labels)), chosen)
        for arrangement in _arrangements(rest):
            found = np.full(len(labels), groups[0], dtype=np.int8)
            found[others] = arrangement
            yield found


class Permutations:
    """Permutations of n rows: the identity first, and B others.

    They are those that a ``Restriction`` allows. If there are no more than B + 1 of them, all are
    listed (``exact``), else B are drawn from ``generator``: batches of any width give the same.
    """

    def __init__(
        self,
        count: int,
        n_resamples: int,
        generator: np.random.Generator,
        strata: NDArray[np.int64] | None = None,
        units: NDArray[np.int64] | None = None,
        shifts: bool = False,
    ) -> None:
        self.generator = generator
        self._rows: NDArray[np.int64] | None = None  # sorted by unit
        if units is not None:
            self._rows = np.argsort(units, kind="stable")
            sizes = np.bincount(units)
            self._starts, self._unit = np.cumsum(sizes) - sizes, units[self._rows]
            self._place = np.arange(count) - self._starts[self._unit]
            of_units = np.zeros(len(sizes), np.int64)
            if strata is not None:
                of_units = strata[self._rows[self._starts]]
            kinds = np.stack([of_units, sizes], 1)  # units of one stratum and size are exchanged
            strata = np.unique(kinds, axis=0, return_inverse=True)[1].reshape(-1)
        self.strata = np.zeros(count, dtype=np.int64) if strata is None else strata
        self._shifts: NDArray[np.int64] | None = None
        if shifts:
            self._shifts, self.exact = _draw_shifts(count, n_resamples, generator)
            self.columns = len(self._shifts)
            return
        self._order = np.argsort(self.strata, kind="stable")
        sizes = np.bincount(self.strata)
        log_count = sum(math.lgamma(size + 1) for size in sizes.tolist())
        self.exact = log_count < math.log(n_resamples + 1.5)
        self.columns = round(math.exp(log_count)) if self.exact else n_resamples + 1
        self._parts = np.split(self._order, np.cumsum(sizes)[:-1])

    def batches(self, width: int) -> Iterator[NDArray[np.int64]]:
        """Permutations [≤ width, n], ``columns`` of them in all."""
        if self._shifts is not None:
            rows = np.arange(len(self.strata))
            for start in range(0, self.columns, width):
                yield (rows + self._shifts[start : start + width, None]) % len(rows)
            return
        for found in self._of_units(width):
            if self._rows is None:
                yield found
                continue
            moved = np.empty((len(found), len(self._rows)), np.int64)
            moved[:, self._rows] = self._rows[self._starts[found[:, self._unit]] + self._place]
            yield moved

    def _of_units(self, width: int) -> Iterator[NDArray[np.int64]]:
        """Permutations of units, or of rows if these move one by one."""
        parts = self._parts if self.exact else []  # product() makes lists of what it is given
        listed = itertools.product(*(itertools.permutations(p.tolist()) for p in parts))
        for start in range(0, self.columns, width):
            size = min(width, self.columns - start)
            found = np.empty((size, len(self.strata)), dtype=np.int64)
            if self.exact:
                rows = itertools.islice(listed, size)
                found[:, self._order] = [[*itertools.chain(*combined)] for combined in rows]
            else:
                # Sorting by stratum, then at random, permutes each stratum within its own places.
                keys = self.strata + self.generator.random(found.shape)
                found[:, self._order] = np.argsort(keys, axis=1)
            if start == 0:
                found[0] = np.arange(len(self.strata))
            yield found


@contextmanager
def progress(total: int, what: str, show: bool | None) -> Iterator[Callable[[], Any]]:
    """A function to call ``total`` times. ``show``: True, False, or None for a bar on a terminal
    once the work has taken some seconds. Without tqdm there is no bar."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield lambda: None
        return
    hidden = None if show is None else not show
    with tqdm(
        total=total, desc=what, disable=hidden, delay=PROGRESS_AFTER, leave=False, unit="step"
    ) as bar:
        yield bar.update
