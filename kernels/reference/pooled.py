"""The sweep of small samples: x and y side by side in one tile, in a third of the operations.

On a CPU a problem of a few hundred rows is bound by the number of torch calls. Here K of the pooled
sample is formed once, and the sums and gradients of its blocks are read from its quarters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..functions import Rate
from ..problem import PairProblem, Sweep, Wanted
from .tiles import (
    Distances,
    Form,
    Side,
    Span,
    Tile,
    add_scaled,
    centre,
    difference_sums,
    drop_equal,
    equal_rows,
    evaluations,
    largest_rate,
    matmul,
    per_item,
    prepare,
    pull_near,
    row_sums,
    scratch,
    signed_sums,
    tile_rows,
)

_ALL = slice(None)


def fits(problem: PairProblem) -> bool:
    """Both samples, of the whole batch, in one tile. (The xy block alone would waste half.)"""
    if problem.blocks == "xy":
        return False
    rows = sum(problem.sizes)
    return 0 < problem.x.shape[0] * rows**2 <= tile_rows(problem.x) ** 2


def sweep(problem: PairProblem) -> Sweep:
    """Sums and gradients of a flat problem that ``fits``."""
    x, y, wx, wy = problem.x, problem.y, problem.wx, problem.wy
    components, wanted = problem.components, problem.wanted
    n = x.shape[1]
    z = x if y is None else torch.cat([x, y], 1)
    total = z.shape[1]
    w = None
    if wx is not None or wy is not None:
        parts = [(x, wx)] if y is None else [(x, wx), (y, wy)]
        w = torch.cat([t.new_ones(t.shape[:2]) if v is None else v for t, v in parts], 1)
    metric, smooth = problem.metric, problem.smooth
    slopes = wanted.grad_x or wanted.grad_y
    side = prepare(z, w, centre(z, None, metric), metric, total, slopes)
    numbers = per_item(problem.rates, _ALL)
    distances = Distances(
        metric, smooth, largest_rate(components, numbers) if side.largest else 0.0
    )
    everything = Span(0, total, 0)
    s, form = distances(side, side, _ALL, Tile(everything, everything, itself=True))
    quarters = _Quarters(n, total, y is not None, problem.coefs, len(components))
    out = _Outputs(z, w, n, len(quarters.blocks), len(components), wanted)
    weighted_slopes = None
    each = evaluations(s, components, numbers, slopes=slopes, diagonal=not problem.diagonal)
    for c, k in enumerate(each):
        out.add_values(k.value, k.value_scale, c, quarters)
        if slopes:
            # The only component is scaled where it stands; several are gathered.
            alone = len(components) == 1
            if weighted_slopes is None:
                weighted_slopes = k.slope if alone else scratch("total", s.shape, s).zero_()
            for rows, columns, block in quarters.wanted(wanted):
                factor = quarters.coefficient(block, c) * k.slope_scale
                part = weighted_slopes[:, rows, columns]
                if alone:
                    part.mul_(factor)
                else:
                    add_scaled(part, k.slope[:, rows, columns], factor)
    gradient_x = gradient_y = None
    if weighted_slopes is not None:
        if metric == "sqeuclidean" and form != "differences":
            alike = equal_rows(z, None)
            if alike is not None:
                drop_equal(weighted_slopes, alike, alike)
        pull = None
        if distances.near is not None:
            sides = side, everything, side, everything
            pull = pull_near(weighted_slopes, distances.near, *sides, _ALL)[0]
        if wanted.grad_x:
            gradient_x = _gradient(weighted_slopes, side, slice(0, n), metric, form, pull)
        if wanted.grad_y:
            gradient_y = _gradient(weighted_slopes, side, slice(n, total), metric, form, pull)
    return Sweep(out.sums, gradient_x, gradient_y, *out.potentials)


class _Quarters:
    """The blocks of the pooled matrix, and the coefficients of each."""

    def __init__(
        self,
        n: int,
        total: int,
        two: bool,
        coefs: Sequence[float] | Tensor,
        components: int,
    ) -> None:
        first, second = slice(0, n), slice(n, total)
        self.blocks = [(first, first), (second, second), (first, second)][: 3 if two else 1]
        self.components = components
        flat = coefs.flatten(1) if isinstance(coefs, Tensor) else coefs or [0.0] * (3 * components)
        self.coefs = per_item(flat, _ALL)

    def coefficient(self, block: int, component: int) -> Rate:
        """∂L/∂(Σ over this quarter), for a matrix that holds every pair in both orders."""
        factor = self.coefs[block * self.components + component]
        return factor if block == 2 else factor * 2.0

    def wanted(self, wanted: Wanted) -> list[tuple[slice, slice, int]]:
        """(rows, columns, block) of the quarters whose slopes the gradients need."""
        found = []
        for block, (rows, columns) in enumerate(self.blocks):
            if wanted.grad_y if block == 1 else wanted.grad_x:
                found.append((rows, columns, block))
            if block == 2 and wanted.grad_y:
                found.append((columns, rows, block))
        return found


class _Outputs:
    """Sums and potentials."""

    def __init__(
        self,
        z: Tensor,
        w: Tensor | None,
        n: int,
        blocks: int,
        components: int,
        wanted: Wanted,
    ) -> None:
        batch, total = z.shape[:2]
        self.sums: Tensor | None = None
        if wanted.sums:
            self.sums = z.new_empty((batch, blocks, components), dtype=torch.float64)
        self.w, self.n = w, n
        self.potentials = [
            z.new_zeros((batch, length)) if flag else None
            for length, flag in ((n, wanted.grad_wx), (total - n, wanted.grad_wy))
        ]

    def add_values(self, value: Tensor, scale: float, c: int, quarters: _Quarters) -> None:
        of_x, of_y = self.potentials
        if self.sums is None and of_x is None and of_y is None:
            return
        for block, (rows, columns) in enumerate(quarters.blocks):
            wa = None if self.w is None else self.w[:, rows]
            wb = None if self.w is None else self.w[:, columns]
            quarter = value[:, rows, columns]
            sums = row_sums(quarter, wb)
            if self.sums is not None:
                weighted = sums.double() if wa is None else sums.double() * wa
                torch.mul(weighted.sum(-1), scale, out=self.sums[:, block, c])
            factor = quarters.coefficient(block, c) * scale
            factor = factor.view(-1, 1) if isinstance(factor, Tensor) else factor
            if block != 1 and of_x is not None:
                of_x.add_(sums * factor)
            if block == 1 and of_y is not None:
                of_y.add_(sums * factor)
            if block == 2 and of_y is not None:
                of_y.add_(row_sums(quarter.mT, wa) * factor)


def _gradient(
    slopes: Tensor, side: Side, rows: slice, metric: str, form: Form, pull: Tensor | None
) -> Tensor:
    """∂L/∂z of some rows, from the weighted slopes against all columns; ``pull``: the part of near
    pairs [B, N, d]."""
    part, w = slopes[:, rows], side.weights
    if metric == "l1":
        result = signed_sums(part, side.points[:, rows], side.points, w)
    else:
        points, moments = side.points, side.moments
        everything = Span(0, points.shape[1], 0)
        if form == "differences":
            span = Span(rows.start, rows.stop, 0)
            result = difference_sums(part, side, span, side, everything, _ALL)
        else:
            if form == "double":
                points = side.exact(_ALL, everything)
                moments, part = side.exact_moments(_ALL, everything), part.double()
            result = matmul(part, moments)
            if metric == "sqeuclidean":
                masses = row_sums(part, w).unsqueeze(-1)
                result = torch.addcmul(-result, points[:, rows], masses)
            if pull is not None:
                result = result + pull[:, rows]
    if w is not None:
        result = result * w[:, rows].unsqueeze(-1)
    return result.to(side.points.dtype)
