"""The pure-PyTorch backend: blocked, one triangle, in place; any device, fp32 and fp64.

Memory is O(n·d) plus a few tiles; no N×M matrix exists. Each tile of distances (see ``tiles``) is
turned into kernel values in place, summed, and multiplied with the points once more for the
gradient. Samples that fit into one tile together take the shorter way of ``pooled``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..functions import Metric, Rate
from ..problem import PairProblem, Sweep, block_names, tensors_of
from . import pooled
from .tiles import (
    FEW_COLUMNS,
    RANGE,
    Distances,
    Form,
    OutOfRange,
    Side,
    Span,
    Tile,
    add_scaled,
    centre,
    difference_sums,
    drop_equal,
    equal_rows,
    evaluations,
    full_precision,
    largest_rate,
    matmul,
    per_item,
    prepare,
    pull_near,
    row_sums,
    scratch,
    signed_sums,
    tile_rows,
    tiles,
    weights_of,
)


class Role(NamedTuple):
    """A sample's part in a block: where its results go."""

    side: Side
    alike: Tensor | None  # [B, n] numbers of rows, see ``equal_rows``
    moments: Tensor | None  # Σⱼ slope·wⱼ·vⱼ in fp64, if its gradient is wanted
    masses: Tensor | None  # Σⱼ slope·wⱼ in fp64, beside it
    potential: Tensor | None  # accumulator of ∂L/∂w, if wanted


class Chunk(NamedTuple):
    """The batch items that share tiles, with their rates and this block's coefficients."""

    items: slice
    block: int
    rates: list[Rate]
    coefs: list[Rate]


def _role(
    sample: Tensor,
    w: Tensor | None,
    alike: Tensor | None,
    middle: Tensor | None,
    metric: Metric,
    tile: int,
    slopes: bool,
    gradient: bool,
    potential: bool,
) -> Role:
    side = prepare(sample, w, middle, metric, tile, slopes)
    return Role(
        side,
        alike,
        torch.zeros_like(side.points, dtype=torch.float64) if gradient else None,
        sample.new_zeros(sample.shape[:2], dtype=torch.float64) if gradient else None,
        sample.new_zeros(sample.shape[:2]) if potential else None,
    )


def sweep(problem: PairProblem) -> Sweep:
    """Sums and gradients of a flat problem in fp32 or fp64."""
    x = problem.x
    with full_precision(x.device.type):
        try:
            # On a GPU a look at the numbers, which says whether fp32 holds them, would synchronise.
            if x.dtype == torch.float32 and (x.is_cuda or _too_steep(problem)):
                raise OutOfRange
            return (pooled if pooled.fits(problem) else _Sweeper(problem)).sweep(problem)
        except OutOfRange:
            *samples, rates, coefs = tensors_of(problem)
            doubles = [None if t is None else t.double() for t in samples]
            wide = sweep(problem.with_tensors([*doubles, rates, coefs]))
            return Sweep(wide.sums, *(None if t is None else t.float() for t in wide[1:]))


def _too_steep(problem: PairProblem) -> bool:
    """Whether a rate, or the slope it scales, leaves fp32."""
    rates: Sequence[Rate] = problem.rates  # type: ignore[assignment]
    if isinstance(problem.rates, Tensor):
        if problem.rates.numel() == 0:
            return False
        rates = problem.rates.unbind(-1)
    return largest_rate(problem.components, rates) > RANGE[1]


class _Sweeper:
    """The state of one sweep: prepared samples, accumulators and tile buffers."""

    def __init__(self, problem: PairProblem) -> None:
        x, y, wx, wy = problem.x, problem.y, problem.wx, problem.wy
        components, wanted = problem.components, problem.wanted
        self.components, self.wanted = components, wanted
        self.blocks, self.diagonal = block_names(problem.blocks), problem.diagonal
        self.metric, self.smooth = problem.metric, problem.smooth
        self.slopes = wanted.grad_x or wanted.grad_y
        self.tile_rows = tile_rows(x)
        self.count, n = x.shape[:2]
        m = 0 if y is None else y.shape[1]
        alike_x = alike_y = None
        if self.slopes and self.metric == "sqeuclidean" and x.shape[2] > FEW_COLUMNS:
            alike = equal_rows(x, y)
            if alike is not None:
                alike_x, alike_y = alike[:, :n], alike[:, n:]
        middle = centre(x, y, self.metric)
        prepared = middle, self.metric, self.tile_rows, self.slopes
        self.x = self.y = _role(x, wx, alike_x, *prepared, wanted.grad_x, wanted.grad_wx)
        if y is not None:
            self.y = _role(y, wy, alike_y, *prepared, wanted.grad_y, wanted.grad_wy)
        shape = self.count, len(self.blocks), len(components)
        self.sums = x.new_zeros(shape, dtype=torch.float64) if wanted.sums else None
        rows = min(max(n, m), self.tile_rows)
        self.batch = max(1, (self.tile_rows // max(rows, 1)) ** 2)  # items that share a tile

    def sweep(self, problem: PairProblem) -> Sweep:
        width, rates, coefs = len(self.components), problem.rates, problem.coefs
        if isinstance(coefs, Tensor):
            coefs = coefs.flatten(1)
        elif not coefs:
            coefs = [0.0] * (len(self.blocks) * width)
        for start in range(0, self.count, self.batch):
            items = slice(start, min(start + self.batch, self.count))
            item_rates, item_coefs = per_item(rates, items), per_item(coefs, items)
            for k, name in enumerate(self.blocks):
                block_coefs = item_coefs[k * width : (k + 1) * width]
                self._block(name, Chunk(items, k, item_rates, block_coefs))
        # Without y, the role of y is that of x: its results are returned once, as those of x.
        y = self.y if self.y is not self.x else Role(self.x.side, None, None, None, None)
        return Sweep(
            self.sums,
            self._gradient(self.x),
            self._gradient(y),
            self.x.potential,
            y.potential,
        )

    def _gradient(self, role: Role) -> Tensor | None:
        moments, side = role.moments, role.side
        if moments is None:
            return None
        if role.masses is not None and self.metric == "sqeuclidean":
            points = side.exact(slice(None), Span(0, side.points.shape[1], 0))
            moments = points.mul_(role.masses.unsqueeze(-1)).sub_(moments)
        if side.weights is not None:
            moments = moments * side.weights.unsqueeze(-1)
        return moments.to(side.points.dtype)

    def _block(self, name: str, chunk: Chunk) -> None:
        a = self.y if name == "yy" else self.x
        b = self.x if name == "xx" else self.y
        outputs = (a.moments, a.potential, b.moments, b.potential)
        if not self.wanted.sums and all(o is None for o in outputs):
            return
        rate = largest_rate(self.components, chunk.rates) if a.side.largest else 0.0
        distances = Distances(self.metric, self.smooth, rate)
        n, m = a.side.points.shape[1], b.side.points.shape[1]
        for tile in tiles(n, m, self.tile_rows, itself=name != "xy"):
            s, form = distances(a.side, b.side, chunk.items, tile)
            self._tile(s, form, distances.near, tile, a, b, chunk)

    def _tile(
        self,
        s: Tensor,
        form: Form,
        near: Tensor | None,
        tile: Tile,
        a: Role,
        b: Role,
        chunk: Chunk,
    ) -> None:
        """Turn a tile of distances into its share of every output."""
        total: Tensor | None = None
        factor: Rate = 1.0
        last = len(self.components) - 1
        slopes = a.moments is not None or b.moments is not None
        dropped = tile.diagonal and not self.diagonal
        each = evaluations(s, self.components, chunk.rates, slopes=slopes, diagonal=dropped)
        for c, k in enumerate(each):
            self._add_values(k.value, k.value_scale, c, tile, a, b, chunk)
            if not slopes:
                continue
            factor = chunk.coefs[c] * k.slope_scale
            if last == 0:
                total = k.slope
            elif c == 0:
                total = torch.mul(k.slope, factor, out=scratch("total", s.shape, s))
            else:
                assert total is not None
                add_scaled(total, k.slope, factor)
        if total is not None:
            factor = factor if last == 0 else 1.0
            if form != "differences" and a.alike is not None and b.alike is not None:
                left = a.alike[chunk.items, tile.i.start : tile.i.stop]
                right = b.alike[chunk.items, tile.j.start : tile.j.stop]
                drop_equal(total, left, right)
            total = total.double() if form == "double" else total
            self._add_slopes(total, form, near, factor, tile, a, b, chunk.items)

    def _add_values(
        self, value: Tensor, scale: float, c: int, tile: Tile, a: Role, b: Role, chunk: Chunk
    ) -> None:
        items, i, j = chunk.items, tile.i, tile.j
        wa, wb = weights_of(a.side.weights, items, i), weights_of(b.side.weights, items, j)
        rows = None
        if self.sums is not None or a.potential is not None:
            rows = row_sums(value, wb)
        if self.sums is not None:
            assert rows is not None
            weighted = rows.double() if wa is None else rows.double() * wa
            twice = 2.0 if tile.mirrored else 1.0
            self.sums[items, chunk.block, c].add_(weighted.sum(-1), alpha=scale * twice)
        coef = chunk.coefs[c] * (2.0 * scale if tile.itself else scale)
        coef = coef.view(-1, 1) if isinstance(coef, Tensor) else coef
        if a.potential is not None:
            assert rows is not None
            a.potential[items, i.start : i.stop] += rows * coef
        if b.potential is not None and not tile.diagonal:
            b.potential[items, j.start : j.stop] += row_sums(value.mT, wa) * coef

    def _add_slopes(
        self,
        total: Tensor,
        form: Form,
        near: Tensor | None,
        factor: Rate,
        tile: Tile,
        a: Role,
        b: Role,
        items: slice,
    ) -> None:
        i, j = tile.i, tile.j
        if isinstance(factor, Tensor):
            total, factor = total.mul_(factor), 1.0
        factor = 2.0 * factor if tile.itself else factor
        pulls = None if near is None else pull_near(total, near, a.side, i, b.side, j, items)
        ends = [(a, i, b, j, False)]
        if not tile.diagonal:
            ends.append((b, j, a, i, True))
        for to, to_rows, other, other_rows, transposed in ends:
            if to.moments is None:
                continue
            out = to.moments[items, to_rows.start : to_rows.stop]
            slopes = total.mT if transposed else total
            if self.metric == "l1":
                u = to.side.points[items, to_rows.start : to_rows.stop]
                v = other.side.points[items, other_rows.start : other_rows.stop]
                w = weights_of(other.side.weights, items, other_rows)
                out.add_(signed_sums(slopes, u, v, w), alpha=factor)
                continue
            if form == "differences":
                # The final step subtracts moments from masses·u; here both are in the sum.
                part = difference_sums(slopes, to.side, to_rows, other.side, other_rows, items)
                out.sub_(part, alpha=factor)
                continue
            moments = other.side.moments[items, other_rows.start : other_rows.stop]
            if form == "double":
                moments = other.side.exact_moments(items, other_rows)
            out.add_(matmul(slopes, moments), alpha=factor)
            if pulls is not None:  # as for differences
                out.sub_(pulls[int(transposed)], alpha=factor)
            if self.metric == "sqeuclidean" and to.masses is not None:
                w = weights_of(other.side.weights, items, other_rows)
                masses = to.masses[items, to_rows.start : to_rows.stop]
                masses.add_(row_sums(slopes, w), alpha=factor)
