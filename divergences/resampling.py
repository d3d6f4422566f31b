"""Relabellings of pooled rows, permutations of paired rows, p-values and progress: what every
resampling test shares."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .random_keys import KEYS, Array, as_kind, order_statistics, random_keys

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


class Relabellings:
    """Group numbers for the pooled rows: the observed ones, and B others.

    Column 0 of the first batch is the observed labelling: rows in groups 0, 1, … of the ``sizes``
    given, in this order. The others permute it, within ``strata`` if given [N]. If there are no
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
    ) -> None:
        if len(sizes) > np.iinfo(np.int8).max:
            raise ValueError(f"at most 127 groups can be relabelled; got {len(sizes)}")
        self.observed = np.repeat(np.arange(len(sizes), dtype=np.int8), sizes)
        self.strata, self.seed = strata, int(generator.integers(-(2**63), 2**63))
        log_count = sum(_log_count(self.observed[rows]) for rows in self._strata_rows())
        self.exact = log_count < math.log(n_resamples + 1.5)
        self.columns = round(math.exp(log_count)) if self.exact else n_resamples + 1
        self._ends = self._group_ends(len(sizes))

    def batches(self, width: int) -> Iterator[NDArray[np.int8]]:
        """Labels [N, ≤ width], ``columns`` columns in all."""
        return (labels.numpy() for labels in self.tensors(width, torch.device("cpu")))

    def tensors(self, width: int, device: torch.device) -> Iterator[Tensor]:
        """``batches`` on a device, and drawn there."""
        listed = self._all() if self.exact else iter(())
        for start in range(0, self.columns, width):
            size = min(width, self.columns - start)
            if self.exact:
                labels = torch.from_numpy(np.stack([*itertools.islice(listed, size)])).to(device)
            elif device.type == "cpu":
                host = np.zeros((size, len(self.observed)), dtype=np.int8)
                self._fill(host, start)
                labels = torch.from_numpy(host)
            else:
                shape = size, len(self.observed)
                labels = torch.zeros(shape, dtype=torch.int8, device=device)
                self._fill(labels, start)
            yield labels.T.contiguous()

    def _group_ends(self, groups: int) -> NDArray[np.int64]:
        """[G − 1, S]: where groups 0 … G − 2 end among rows sorted by stratum and then by group."""
        strata = np.zeros(len(self.observed), np.int64) if self.strata is None else self.strata
        sizes = np.bincount(strata)
        inside = [np.bincount(strata[self.observed <= g], None, len(sizes)) for g in range(groups)]
        return np.stack(inside[:-1]) + np.cumsum(sizes) - sizes

    def _fill(self, labels: Array, start: int) -> None:
        """Labellings number ``start``, ``start`` + 1, …, into the zeros ``labels`` [b, N]."""
        first = 1 if start == 0 else 0
        labels[:first] = as_kind(self.observed, labels)
        device = labels.device.type if isinstance(labels, Tensor) else "cpu"
        step = max(1, KEYS[device] // len(self.observed))
        for part in range(first, len(labels), step):
            self._draw(labels[part : part + step], start + part)

    def _draw(self, labels: Array, number: int) -> None:
        """Labellings from ``number`` on, into zeros: of the random keys of the rows, the smallest
        (in each stratum) are those of group 0, and so on. Where keys on both sides of a cut are
        equal the labelling is drawn again, and all stay equally likely."""
        keys = random_keys(labels, number, self.seed)
        stratum = None if self.strata is None else as_kind(self.strata, labels)
        if stratum is not None:
            keys = keys + (stratum << 32)
        cuts = order_statistics(keys, self._ends.ravel() - 1)
        for ends in np.split(np.arange(self._ends.size), len(self._ends)):
            cut = cuts[:, ends[0] : ends[-1] + 1]
            labels += keys > (cut if stratum is None else cut[:, stratum])
        tied = labels.sum(1) != int(self.observed.sum())
        for row, again in enumerate(tied.tolist()):
            if again:
                labels[row] = 0
                self._draw(labels[row : row + 1], number + row + self.columns)

    def _strata_rows(self) -> list[NDArray[np.int64]]:
        if self.strata is None:
            return [np.arange(len(self.observed))]
        order = np.argsort(self.strata, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self.strata[order])) + 1)

    def _all(self) -> Iterator[NDArray[np.int8]]:
        """Every labelling once, the observed one first."""
        yield self.observed
        strata = self._strata_rows()
        for parts in itertools.product(*(_arrangements(self.observed[rows]) for rows in strata)):
            labels = np.empty_like(self.observed)
            for rows, part in zip(strata, parts, strict=True):
                labels[rows] = part
            if not np.array_equal(labels, self.observed):
                yield labels


def _log_count(labels: NDArray[np.int8]) -> float:
    """Logarithm of the number of distinct arrangements of these labels."""
    counts = np.unique(labels, return_counts=True)[1].tolist()
    return math.lgamma(len(labels) + 1) - sum(math.lgamma(count + 1) for count in counts)


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

    They stay within ``strata`` if given [n]. If there are no more than B + 1 of them, all are
    listed (``exact``), else B are drawn from ``generator``: batches of any width give the same.
    """

    def __init__(
        self,
        count: int,
        n_resamples: int,
        generator: np.random.Generator,
        strata: NDArray[np.int64] | None = None,
    ) -> None:
        self.generator = generator
        self.strata = np.zeros(count, dtype=np.int64) if strata is None else strata
        self._order = np.argsort(self.strata, kind="stable")
        sizes = np.bincount(self.strata)
        log_count = sum(math.lgamma(size + 1) for size in sizes.tolist())
        self.exact = log_count < math.log(n_resamples + 1.5)
        self.columns = round(math.exp(log_count)) if self.exact else n_resamples + 1
        self._parts = np.split(self._order, np.cumsum(sizes)[:-1])

    def batches(self, width: int) -> Iterator[NDArray[np.int64]]:
        """Permutations [≤ width, n], ``columns`` of them in all."""
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
