"""Designs: rows that come in pairs, strata, whole groups or blocks of time.

A design says which relabellings are as likely as the observed one (``resampling.Restriction``),
and what statistic respects it. With strata, let p be the share of x in the stratum of a row, N_s =
n_s + m_s, w_s = n_s m_s/N_s and W = Σ w_s. Then, v marking the rows of x, over pairs i ≠ j

    T = [(v − p)ᵀK(v − p) − its mean over relabellings] / (W² − Σ w_s²/(N_s − 1))

is the squared norm of the weighted mean over strata of the differences between x and y within each,
‖Σ w_s (μ_x,s − μ_y,s)/W‖²: 0 on average where P = Q within each stratum, whatever differs between
them, and unbiased where the difference is the same in each. A single balanced stratum gives the
usual unbiased statistic, n pairs its form without the terms k(xᵢ, yᵢ). The stratified tests of van
Elteren (1960) do the same with ranks.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .forms import Forms, Pairs, SortedForms, Source, Tick
from .kernel_matrix import MatrixForms
from .kernels import Kernel, potential
from .kernels.reference.tiles import Span
from .kernels.statistics.permuted import Centred, pairs_of_spans
from .kernels.statistics.quadratic_forms import QuadraticForms, product
from .kernels.statistics.sharing import current_share
from .resampling import Restriction
from .samples import as_labels, as_strata

TABLE = 2**27  # numbers: means of kernel rows over strata
LEAST_SERIES = 20  # rows of which serial dependence is asked
LINE = 512  # rows of a group of numbers from which its sums are taken by sorting
Labels = ArrayLike | Tensor | None
Blocks = int | Literal["shift"]


class Design(NamedTuple):
    """What may be relabelled, in words for a report, and what a reader should know of it."""

    restriction: Restriction = Restriction()
    words: str = ""
    notes: tuple[str, ...] = ()


def check_one_design(
    *, paired: bool, strata: Labels, groups: Labels, blocks: Blocks | None
) -> None:
    """Raises ValueError where several designs are given, TypeError for a wrong ``paired``."""
    if not isinstance(paired, bool | np.bool_):
        raise TypeError(f"paired must be True or False; got {paired!r}")
    given = {"paired": paired or None, "strata": strata, "groups": groups, "blocks": blocks}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"{' and '.join(names)} do not go together; choose one")


def design_of(
    sizes: tuple[int, ...],
    *,
    paired: bool = False,
    strata: Labels = None,
    groups: Labels = None,
    blocks: Blocks | None = None,
    together: bool = False,
) -> Design:
    """The design of samples of these sizes, pooled in this order.

    ``together``: the rows are those of one paired sample, whose pairs are permuted, not samples
    whose labels are. Raises ValueError or TypeError where options do not fit each other or the
    sizes.
    """
    check_one_design(paired=paired, strata=strata, groups=groups, blocks=blocks)
    count = sum(sizes)
    if paired:
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"paired=True needs as many rows in y as in x, row i of both being a pair; got "
                f"{sizes[0]} and {sizes[1]}"
            )
        pairs = np.tile(np.arange(sizes[0], dtype=np.int64), 2)
        return Design(Restriction(strata=pairs), "paired")
    if blocks is not None:
        return _blocks(sizes, blocks)
    kept, units = as_strata(strata, count), as_strata(groups, count, "groups")
    if kept is not None:
        return Design(Restriction(strata=kept), f"{int(kept.max()) + 1} strata")
    if units is None or groups is None:
        return Design()
    if not together:
        sample = np.repeat(np.arange(len(sizes)), sizes)
        torn = np.flatnonzero(sample != sample[np.unique(units, return_index=True)[1]][units])
        if len(torn):
            label = as_labels(groups, count, "groups").tolist()[torn[0]]
            raise ValueError(
                f"group {label!r} has rows in several samples; a group moves as a "
                "whole (use strata for groups that are in all samples)"
            )
    return Design(Restriction(units=units), f"{int(units.max()) + 1} groups that move as a whole")


def _blocks(sizes: tuple[int, ...], blocks: Blocks) -> Design:
    blocks = int(blocks) if isinstance(blocks, np.integer) else blocks
    far = "where the series is cut" if blocks == "shift" else f"beyond about {blocks} rows"
    approximate = f"approximate: the series is taken for stationary, and independent {far}"
    if blocks == "shift":
        return Design(Restriction(shifts=True), "circular shifts", (approximate,))
    if isinstance(blocks, bool) or not isinstance(blocks, int) or blocks < 1:
        raise ValueError(f"blocks must be a number of rows ≥ 1 or 'shift'; got {blocks!r}")
    if any(size < 2 * blocks for size in sizes):
        raise ValueError(
            f"blocks of {blocks} rows need samples of at least {2 * blocks}; got {sizes}"
        )
    units, above = [], 0
    for size in sizes:
        own = np.minimum(np.arange(size) // blocks, size // blocks - 1)  # the last takes the rest
        units.append(above + own)
        above += size // blocks
    return Design(
        Restriction(units=np.concatenate(units)), f"blocks of {blocks} rows", (approximate,)
    )


def serial_notes(samples: dict[str, Tensor]) -> tuple[str, ...]:
    """A note for samples whose consecutive rows are nearer than others: a lag-1 distance
    autocorrelation above .1 and above four standard errors."""
    found = []
    for name, z in samples.items():
        z = z.double()
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(z))).to(z.device)
        near, far = ((s[1:] - s[:-1]).norm(dim=1) for s in (z, z[order]))
        if len(near) < LEAST_SERIES or float(far.mean()) == 0.0:
            continue
        serial = 1.0 - float(near.mean() / far.mean())
        error = math.sqrt(float(near.var() + far.var()) / len(near)) / float(far.mean())
        if serial > max(0.1, 4.0 * error):
            found.append(
                f"consecutive rows of {name} are nearer than others (lag-1 distance "
                f"autocorrelation {serial:.2f}): in a series in time p is too small; see blocks="
            )
    return tuple(found)


# --- Sums within groups of rows ------------------------------------------------------------------


def sums_within(
    source: Source, z: Tensor, kernel: Kernel | MatrixForms, groups: NDArray[np.int64]
) -> Tensor:
    """Σ k(zᵢ, zⱼ) over the other rows j of the group of row i, [C, N] in fp64, per kernel term."""
    if isinstance(kernel, MatrixForms):
        return kernel.within(groups)
    if isinstance(source, SortedForms) and z.shape[1] > 1:  # a term for each column
        alone = (z[:, [column]] for column in range(z.shape[1]))
        return torch.cat([sums_within(SortedForms(c), c, kernel, groups) for c in alone])
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)[np.unique(groups)]
    ends = np.cumsum(sizes)
    found = torch.zeros(len(kernel.terms), len(z), dtype=torch.float64, device=z.device)
    sorts = isinstance(source, SortedForms)
    for size in np.unique(sizes).tolist():
        starts = (ends - sizes)[sizes == size]
        rows = torch.from_numpy(order[starts[:, None] + np.arange(size)]).to(z.device)
        if sorts and size > LINE:
            for one in rows:
                found[:, one] = SortedForms(z[one]).against(torch.ones(size, dtype=torch.float64))
        elif size > 1:
            forms = QuadraticForms(z[rows], kernel, backend="reference")
            forms(torch.ones(rows.numel(), 1, dtype=torch.int8, device=z.device))
            found[:, rows.flatten()] = forms.row_sums.flatten(1)
    return found


def weighted_sums(
    source: Source, z: Tensor, kernel: Kernel | MatrixForms, weights: Tensor
) -> Tensor:
    """Σ_{j≠i} wⱼ k(zᵢ, zⱼ) for weights w [N], per kernel term, [C, N] in fp64."""
    if isinstance(kernel, MatrixForms):
        return kernel.against(weights)
    if isinstance(source, SortedForms):
        return source.against(weights)
    z, found = z.double(), []
    for term in kernel.terms:
        alone = Kernel((replace(term, coefficient=1.0),), term.label)
        sums = potential(z, z, kernel=alone, weights=weights)
        found.append(sums - weights * alone.diagonal(z))
    return torch.stack(found)


# --- Statistics ----------------------------------------------------------------------------------


class Stratified(NamedTuple):
    """What T above is made of, beside the forms of a labelling."""

    weighted: Tensor  # [C, N]: Σ_j p_j k(zᵢ, zⱼ)
    constant: Tensor  # [C, 1]
    norm: float
    between: Tensor  # [C]: Σ w_s/W times the observed mean of k(x, y) in stratum s
    shares: Tensor  # [N]: of k(z, z) of a row in Σ w_s/W (mean k(x, x) + mean k(y, y))

    def statistic(self, forms: Forms, v: Tensor) -> Tensor:
        """T [C, B] of labels v [N, B]."""
        return (forms.quadratic - 2.0 * product(self.weighted, v) + self.constant) / self.norm


def stratified(
    z: Tensor,
    kernel: Kernel | MatrixForms,
    source: Source,
    strata: NDArray[np.int64],
    marked: NDArray[np.bool_],
) -> Stratified:
    """Of pooled rows z [N, d], of which those ``marked`` are one sample, for a resolved kernel."""
    size, n = np.bincount(strata), np.bincount(strata, marked)
    m = size - n
    w = n * m / size
    total = max(w.sum(), 1e-300)  # no stratum has rows of both: v = p throughout, and T = 0

    def of_rows(per_stratum: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(per_stratum[strata]).to(z.device)

    p = of_rows(n / size)
    spread = of_rows(n * m / size**2 / np.maximum(size - 1, 1))
    weighted = weighted_sums(source, z, kernel, p)
    inside = sums_within(source, z, kernel, strata)
    own = sums_within(source, z, kernel, 2 * strata + marked)
    mask = torch.from_numpy(marked).to(z.device)
    norm = total**2 - float((w**2 / np.maximum(size - 1, 1)).sum())
    of_marked, of_others = (of_rows(w / total / np.maximum(k, 1)) for k in (n, m))
    return Stratified(
        weighted=weighted,
        constant=(weighted @ p + inside @ spread).unsqueeze(1),
        norm=norm if norm > 1e-9 * total**2 else torch.inf,
        between=(inside - own) @ (mask * of_rows(1.0 / (size * total))),
        shares=torch.where(mask, of_marked, of_others),
    )


class GroupedForms:
    """Forms of a source over the pairs of rows in different groups; the rows of a group have one
    label, and numbers of marked rows vary. ``inside`` [C, N] are the ``sums_within`` groups; None
    keeps all pairs."""

    def __init__(self, source: Source, units: NDArray[np.int64], inside: Tensor | None) -> None:
        self._source, self._inside = source, inside
        sizes = np.bincount(units)[units] if inside is not None else np.ones(len(units))
        self._sizes = torch.from_numpy(sizes.astype(np.float64))
        self.coefficients = source.coefficients

    @property
    def steps(self) -> int:
        return self._source.steps

    @property
    def squares(self) -> Tensor:
        return self._source.squares

    @property
    def rounding(self) -> Tensor:
        return self._source.rounding

    def __call__(self, v: Tensor, tick: Tick) -> Forms:
        quadratic, linear, total, pairs = self._source(v, tick)
        if self._inside is not None:
            own = product(self._inside, v)
            quadratic, linear = quadratic - own, linear - own
            total = total - self._inside.sum(1, keepdim=True)
        if pairs is None:
            sizes = self._sizes.to(v.device)
            marked = v.sum(0, dtype=torch.float64)
            rest = len(v) - marked
            alike = product(sizes.unsqueeze(0), v)[0]  # pairs that are left out, with i = j
            pairs = Pairs(
                (marked**2 - alike).clamp_min(1.0),
                (rest**2 - (sizes.sum() - alike)).clamp_min(1.0),
                marked * rest,
            )
        return Forms(quadratic, linear, total, pairs)


class CentredWithin(Centred):
    """The kernel matrices of one sample, centred within strata, for tests of independence.

    Within a stratum they are U-centred as those of ``Centred``, between strata s and t doubly:
    k̃ᵢⱼ = kᵢⱼ − r_it/n_t − r_js/n_s + g_st, with r_it = Σ_{j∈t} kᵢⱼ. Rows sum to zero over every
    stratum, so that Σ k̃ l needs no more of l, has mean 0 over permutations within strata, and with
    one stratum is that of ``Centred``. Memory is O(n S) for S strata.
    """

    def __init__(self, z: Tensor, kernel: Kernel, strata: NDArray[np.int64]) -> None:
        self._strata = torch.from_numpy(strata).to(z.device)
        self._sizes = torch.bincount(self._strata).double()
        if len(kernel.terms) * len(z) * len(self._sizes) > TABLE:
            raise ValueError(
                f"{len(self._sizes):,} strata of {len(z):,} rows are too many: means over each of "
                "them are held for every row; use fewer, or fewer rows"
            )
        super().__init__(z, kernel)
        own = (self._sizes * (self._sizes - 3.0)).clamp_min(0.0).sum()
        apart = (self._sizes - 1.0).sum() ** 2 - (self._sizes - 1.0).square().sum()
        self.pairs = max(1.0, float(own + apart))

    def tile(self, i: Span, j: Span) -> Tensor:
        """k̃ of rows i and j, [C, I, J]."""
        found = super().tile(i, j)
        at, to = slice(i.start, i.stop), slice(j.start, j.stop)
        found.sub_(self._table[:, at][:, :, self._strata[to]])
        found.sub_(self._table[:, to][:, :, self._strata[at]].mT)
        alike = self._strata[at, None] == self._strata[to]
        found.masked_fill_(alike & (self._sizes[self._strata[at]] < 3.0)[:, None], 0.0)
        if i.number == j.number:
            found.diagonal(dim1=1, dim2=2).zero_()
        return found

    def _products(self) -> Tensor:
        self.centres = torch.zeros_like(self.centres)
        one_of = torch.nn.functional.one_hot(self._strata, len(self._sizes)).double()
        sums = self.z.new_zeros(len(self.kernel.terms), self.count, len(self._sizes))  # r
        for i, j in current_share().of(pairs_of_spans(self.count, 1, self.z)):
            k = super().tile(i, j)
            at, to = slice(i.start, i.stop), slice(j.start, j.stop)
            sums[:, at] += k @ one_of[to]
            if i.number != j.number:
                sums[:, to] += k.mT @ one_of[at]
        current_share().total(sums)
        n, rows = self._sizes, torch.arange(self.count, device=self.z.device)
        means = one_of.T @ sums / torch.outer(n, n)  # g [C, S, S]
        own = sums[:, rows, self._strata]  # of the row's own stratum
        of_own = n[self._strata]
        inside = own @ one_of / ((n - 1.0) * (n - 2.0)).clamp_min(1.0)
        self._table = sums / n - 0.5 * means[:, self._strata]
        self._table[:, rows, self._strata] = (
            own / (of_own - 2.0).clamp_min(1.0) - 0.5 * inside[:, self._strata]
        )
        return super()._products()
