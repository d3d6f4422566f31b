"""Sums of kernel values within and between two groups of rows, for many labellings at once.

Labels v mark the rows of one group by 1, all others by 0. A *form* is Σ vᵢvⱼkᵢⱼ over the pairs
i ≠ j, or over a part of them, or with features in place of k. With the sums over j of k it yields
the sums within the group, within the rest and between them. The group marked is the smaller one:
what is summed within it are then few numbers, and not the difference of two large sums.
Methods of testing differ in where their forms come from:

    PairForms      every pair, K tile by tile
    SortedForms    every pair of numbers on a line under −|z − z′|, in O(N log N)
    BlockForms     the pairs within blocks of rows
    FeatureForms   φ(zᵢ)·φ(zⱼ) (``features``)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .kernels import Kernel
from .kernels.statistics.quadratic_forms import QuadraticForms, column_parts, product
from .kernels.statistics.sharing import current_share

Tick = Callable[[], object]
ROWS = 2**15  # of sorted numbers: with fewer, several labellings are summed at once


class Pairs(NamedTuple):
    """Numbers of ordered pairs within the marked group and within the rest, and of pairs between:
    one for all labellings, or one for each [B]."""

    own: Tensor | float
    rest: Tensor | float
    between: Tensor | float


class Forms(NamedTuple):
    """Per kernel term c and labelling b, in fp64."""

    quadratic: Tensor  # [C, B]: Σ_{i≠j} vᵢvⱼ k
    linear: Tensor  # [C, B]: Σᵢ vᵢ Σ_{j≠i} k
    total: Tensor  # [C, 1]: Σ_{i≠j} k
    pairs: Pairs | None = None  # None: every pair of the pooled rows


class Source(Protocol):
    """Where forms come from. Labels are used in the call alone."""

    @property
    def steps(self) -> int:
        """How often a call reports progress."""
        ...

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """Of the C terms, in the kernel [C]."""
        ...

    def __call__(self, v: Tensor, tick: Tick) -> Forms:
        """Forms of v [N, B], int8, 0 or 1."""
        ...

    @property
    def squares(self) -> Tensor:
        """Σ_{i≠j} k² [C], after the first call."""
        ...

    @property
    def rounding(self) -> Tensor:
        """[C]: a bound on what rounding does to a form with half of the rows marked, after the
        first call; with fewer it is less in proportion."""
        ...


class GroupSums(NamedTuple):
    """Sums of k over ordered pairs i ≠ j within the marked group and within the rest, and over the
    pairs between them, [C, B]."""

    own: Tensor
    rest: Tensor
    between: Tensor


def group_sums(forms: Forms) -> GroupSums:
    q, linear, total = forms.quadratic, forms.linear, forms.total
    return GroupSums(q, total - 2.0 * linear + q, linear - q)


class _FromLabels:
    """What sources on ``QuadraticForms`` share."""

    def __init__(self, forms: QuadraticForms, kernel: Kernel) -> None:
        self._labels = forms
        self.coefficients = np.array([t.coefficient for t in kernel.terms])

    @property
    def steps(self) -> int:
        return self._labels.steps

    @property
    def squares(self) -> Tensor:
        return self._labels.squares

    @property
    def rounding(self) -> Tensor:
        return self._labels.rounding


class PairForms(_FromLabels):
    """All pairs of the pooled rows z [N, d], for a resolved kernel."""

    def __init__(self, z: Tensor, kernel: Kernel, *, narrow: bool, backend: str | None) -> None:
        super().__init__(QuadraticForms(z, kernel, narrow=narrow, backend=backend), kernel)

    def __call__(self, v: Tensor, tick: Tick) -> Forms:
        quadratic = self._labels(v, tick)
        total = self._labels.row_sums.sum(1, keepdim=True)
        return Forms(quadratic, self._labels.linear(v), total)


class BlockForms(_FromLabels):
    """The pairs within blocks of the pooled rows z [N, d]; ``index`` [G, s] holds row numbers."""

    def __init__(self, z: Tensor, kernel: Kernel, index: Tensor, *, narrow: bool) -> None:
        super().__init__(QuadraticForms(z[index], kernel, narrow=narrow), kernel)
        self._index = index

    def __call__(self, v: Tensor, tick: Tick) -> Forms:
        labels = v[self._index]  # [G, s, B]
        quadratic = self._labels(labels, tick)
        total = self._labels.row_sums.flatten(1).sum(1, keepdim=True)
        x = labels.sum(1, dtype=torch.float64)  # marked rows, [G, B]
        y = self._index.shape[1] - x
        pairs = Pairs(
            *(p.sum(0).clamp_min(1.0) for p in (x * (x - 1.0), y * (y - 1.0), x * y))
        )  # none in a group: its sum is 0 too
        return Forms(quadratic, self._labels.linear(labels), total, pairs)


class SortedForms:
    """k = −|z − z′| of the numbers in each column of z [N, d], from their sorted gaps alone; every
    column is a term.

    With g_r the gap above the r-th number, C_r the sum of the labels up to there and C that of all,
    Σᵢⱼ vᵢvⱼ|zᵢ − zⱼ| = 2 Σ_r g_r C_r (C − C_r).
    """

    def __init__(self, z: Tensor) -> None:
        ordered, self._order = z.T.double().sort(1)
        self._gaps = ordered.diff(dim=1)
        count, self.steps = z.shape
        self.coefficients = np.ones(self.steps)
        self._ordered = ordered - ordered[:, count // 2, None]
        self._row_sums = self.against(torch.ones_like(ordered[0]))
        spread = self._ordered - self._ordered.mean(1, keepdim=True)
        self.squares = 2.0 * count * spread.square().sum(1)
        self.rounding = -1e-13 * self._row_sums.sum(1)

    def against(self, weights: Tensor) -> Tensor:
        """Σⱼ wⱼ k(zᵢ, zⱼ) for weights w [N], [d, N]."""
        z, w = self._ordered, weights[self._order]
        mass, moment = w.cumsum(1), (w * z).cumsum(1)
        away = z * (2.0 * mass - mass[:, -1:]) - 2.0 * moment + moment[:, -1:]
        return torch.empty_like(away).scatter_(1, self._order, -away)

    def __call__(self, v: Tensor, tick: Tick) -> Forms:
        quadratic = self._gaps.new_zeros(len(self._gaps), v.shape[1])
        step = max(1, ROWS // len(v))  # a running sum over one row is faster than over many
        among = current_share()
        for sums, order, gaps in zip(quadratic, self._order, self._gaps, strict=True):
            for columns in among.of(column_parts(v)):
                part = v[:, columns][order].T.contiguous()
                for first in range(0, len(part), step):
                    through = part[first : first + step].double().cumsum(1)
                    rest = through[:, -1:] - through
                    found = (through * rest)[:, :-1] @ (-2.0 * gaps)
                    sums[columns][first : first + step] = found
            tick()
        among.total(quadratic)
        linear = product(self._row_sums, v)
        return Forms(quadratic, linear, self._row_sums.sum(1, keepdim=True))
