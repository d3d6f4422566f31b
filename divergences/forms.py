"""Sums of kernel values within and between two groups of rows, for many labellings at once.

A *form* of labels v = ±1 is vᵀKv over the pairs i ≠ j (or over a design of pairs, or of features in
place of K). With vᵀK1 and 1ᵀK1 it yields the sums within either group and between them, for any
group sizes. Tests differ in where their forms come from, and in nothing else:

    PairForms      every pair, K tile by tile; exact
    SortedForms    every pair of numbers on a line, −|z − z′|, in O(N log N)
    BlockForms     the pairs within blocks of rows
    FeatureForms   φ(zᵢ)·φ(zⱼ) for random Fourier or Nyström features
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .kernels import Kernel
from .kernels.labels import LabelForms

Tick = Callable[[], object]
PART = 256  # label vectors converted to fp64 at a time


class Forms(NamedTuple):
    """Per kernel term c and labelling b, in fp64."""

    quadratic: Tensor  # [C, B]: Σ_{i≠j} vᵢvⱼ k
    linear: Tensor  # [C, B]: Σᵢ vᵢ Σ_{j≠i} k
    total: Tensor  # [C, 1]: Σ_{i≠j} k
    pairs: tuple[Tensor, Tensor, Tensor] | None = None  # numbers of pairs, if not all: see counts


class Source(Protocol):
    """Where forms come from. Nothing in it depends on labels but what it is called with."""

    steps: int  # how often a call reports progress

    def __call__(self, v: Tensor, tick: Tick) -> Forms:
        """Forms of v [N, B], int8, ±1."""
        ...

    @property
    def squares(self) -> Tensor:
        """Σ_{i≠j} k² [C], after the first call."""
        ...

    @property
    def rounding(self) -> Tensor:
        """[C]: a bound on what rounding does to a quadratic form, after the first call."""
        ...


class GroupSums(NamedTuple):
    """Sums of k over ordered pairs within each group (i ≠ j) and over pairs between, [C, B]."""

    xx: Tensor
    yy: Tensor
    xy: Tensor


def group_sums(forms: Forms) -> GroupSums:
    q, linear, total = forms.quadratic, forms.linear, forms.total
    return GroupSums((q + 2.0 * linear + total) / 4.0, (q - 2.0 * linear + total) / 4.0,
                     (total - q) / 4.0)  # fmt: skip


class PairForms:
    """All pairs of the pooled rows z [N, d], for a resolved kernel."""

    def __init__(self, z: Tensor, kernel: Kernel, *, narrow: bool, backend: str | None) -> None:
        self._labels = LabelForms(z, kernel, narrow=narrow, backend=backend)
        self.steps = self._labels.steps

    def __call__(self, v: Tensor, tick: Tick) -> Forms:
        quadratic = self._labels(v, tick)
        sums = self._labels.row_sums
        return Forms(quadratic, product(sums, v), sums.sum(1, keepdim=True))

    @property
    def squares(self) -> Tensor:
        return self._labels.squares

    @property
    def rounding(self) -> Tensor:
        return self._labels.rounding


def product(a: Tensor, v: Tensor) -> Tensor:
    """a @ v in fp64 for int8 labels, a few columns at a time."""
    return torch.cat([a @ part.to(a.dtype) for part in torch.split(v, PART, 1)], 1)


class SortedForms:
    """k = −|z − z′| of numbers z [N, 1], from their sorted gaps g_r alone.

    With C_r = Σ of the first r + 1 labels in order, Σᵢⱼ vᵢvⱼ|zᵢ − zⱼ| = 2 Σ_r g_r C_r (C_N − C_r).
    """

    steps = 1

    def __init__(self, z: Tensor) -> None:
        ordered, self._order = z.squeeze(1).double().sort()
        self._gaps = ordered.diff()
        count = len(z)
        rank = torch.arange(1, count, device=z.device, dtype=torch.float64)
        centred = ordered - ordered[count // 2]
        # Σⱼ|zᵢ − zⱼ| = zᵢ(2i − N) − 2 Σ_{j<i} zⱼ + Σ zⱼ + …, in order and around the middle
        before = torch.nn.functional.pad(centred.cumsum(0)[:-1], (1, 0))
        index = torch.arange(count, device=z.device, dtype=torch.float64)
        away = centred * (2.0 * index - count) - 2.0 * before + centred.sum()
        self._row_sums = torch.empty_like(away).scatter_(0, self._order, -away).unsqueeze(0)
        self._total = -2.0 * (self._gaps * rank * (count - rank)).sum()
        spread = centred.sub(centred.mean())
        self.squares = 2.0 * count * spread.square().sum().unsqueeze(0)
        self.rounding = 1e-13 * self._total.abs().unsqueeze(0)

    def __call__(self, v: Tensor, tick: Tick) -> Forms:
        quadratic = []
        for part in torch.split(v, PART, 1):
            sums = part[self._order].cumsum(0, dtype=torch.int64)
            through, total = sums[:-1].double(), sums[-1].double()
            quadratic.append(-2.0 * (self._gaps @ (through * (total - through))))
        tick()
        return Forms(
            torch.cat(quadratic).unsqueeze(0),
            product(self._row_sums, v),
            self._total.view(1, 1),
        )
