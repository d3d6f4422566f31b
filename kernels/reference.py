"""The pure-PyTorch backend: blocked, one triangle, in place; any device, fp32 and fp64.

Memory is O(n·d) plus a few tiles; no N×M matrix exists. A tile of distances comes from one matrix
product of augmented rows, [−2u, |u|², 1]·[v, 1, |v|²] with centred points u and v, is turned into
kernel values in place, summed, and multiplied with the points once more for the gradient.

Cancellation. A Gram product in the input dtype leaves an error of about eps·(|u|² + |v|²) in d².
Where that is too much for the function at hand (not smooth at 0, or narrow against the spread of
the data) the tile is computed again in fp64, and distances below 2⁻²³ of the norms are 0 there: so
identical rows are exactly 0 apart. The decision needs numbers on the host; on CUDA, where that
would synchronise, every tile is an fp64 tile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .functions import Metric, Rate
from .plan import Blocks, Component, Sweep, Wanted, block_names, metric_of
from .subsample import pooled_rows

TILE = 1024  # rows and columns of a tile on a CPU: 4 MB in fp32
TILE_CUDA = 4096  # fewer launches
CENTRE_ROWS = 33
SNAP = 2.0**-46  # of |u|² + |v|²: below it a distance from an fp64 Gram product is rounding noise
CANCELLATION = 2.0**-7  # of |u|² + |v|²: below it an fp32 d² has lost too many digits for its root
EXPONENT_ERROR = 1e-5  # largest error of rate·d² that a smooth function may take from the product


class Span(NamedTuple):
    """A range of rows, and its number among the row blocks."""

    start: int
    stop: int
    number: int


class Side(NamedTuple):
    """One sample, prepared."""

    sample: Tensor  # [B, n, d], as given
    centre: Tensor | None  # [B, 1, d]
    points: Tensor  # [B, n, d], centred where the metric allows
    weights: Tensor | None  # [B, n]
    left: Tensor  # [B, n, d+2] or the points: first factor of the distance product
    right: Tensor  # [B, n, d+2] or the points: second factor
    moments: Tensor  # [B, n, d]: w·points, the factor of the gradient product
    largest: list[float]  # the largest |u|² of each row block; empty on CUDA

    def exact(self, items: slice, rows: Span) -> Tensor:
        """Centred rows in fp64, without the rounding that centring in fp32 has."""
        points = self.sample[items, rows.start : rows.stop].double()
        if self.centre is not None:
            points = points - self.centre[items].double()
        return points + points * 0.0

    def exact_moments(self, items: slice, rows: Span) -> Tensor:
        """``moments`` of centred rows in fp64."""
        points = self.exact(items, rows)
        w = _slice(self.weights, items, rows)
        return points if w is None else points * w.unsqueeze(-1)


class Tile(NamedTuple):
    """A block of pairs. ``itself``: of a sample with itself, where only one triangle is visited;
    ``diagonal``: this tile holds the self-pairs."""

    i: Span
    j: Span
    itself: bool

    @property
    def diagonal(self) -> bool:
        return self.itself and self.i.number == self.j.number

    @property
    def mirrored(self) -> bool:
        return self.itself and self.i.number != self.j.number


class Role(NamedTuple):
    """A sample's part in a block: where its results go."""

    side: Side
    moments: Tensor | None  # Σⱼ slope·wⱼ·vⱼ in fp64, if its gradient is wanted
    masses: Tensor | None  # Σⱼ slope·wⱼ in fp64, beside it
    potential: Tensor | None  # accumulator of ∂L/∂w, if wanted


class Chunk(NamedTuple):
    """The batch items that share tiles, with their rates and this block's coefficients."""

    items: slice
    block: int
    rates: list[Rate]
    coefs: list[Rate]


def _spans(length: int, tile: int) -> list[Span]:
    return [Span(i, min(i + tile, length), i // tile) for i in range(0, length, tile)]


def _centre(x: Tensor, y: Tensor | None, metric: Metric) -> Tensor | None:
    """The coordinate-wise median of a few pooled rows: distances do not change under it, their
    rounding does, and unlike a mean it does not follow an outlier."""
    if metric == "inner" or x.shape[1] + (0 if y is None else y.shape[1]) == 0:
        return None
    return pooled_rows(x, y, CENTRE_ROWS).median(-2, keepdim=True).values


def _prepare(
    x: Tensor, w: Tensor | None, centre: Tensor | None, metric: Metric, tile: int, gradients: bool
) -> Side:
    points = x if centre is None else x - centre
    points = points + points * 0.0  # inf becomes NaN, so that it cannot end in a plausible number
    left = right = moments = points
    largest: list[float] = []
    if metric == "sqeuclidean":
        norms = points.square().sum(-1, keepdim=True)
        ones = torch.ones_like(norms)
        left = torch.cat([points * -2.0, norms, ones], -1)
        right = torch.cat([points, ones, norms], -1)
        if not x.is_cuda:
            largest = [float(part.max()) for part in torch.split(norms, tile, 1) if part.numel()]
    if w is not None and gradients:
        moments = moments * w.unsqueeze(-1)
    return Side(x, centre, points, w, left, right, moments, largest)


class _Distances:
    """Tiles of the metric s, each a freely overwritable [b, i, j]."""

    def __init__(self, metric: Metric, smooth: bool, rate: float, buffer: Tensor) -> None:
        self.metric, self.smooth, self.rate, self.buffer = metric, smooth, rate, buffer

    def __call__(self, a: Side, b: Side, items: slice, tile: Tile) -> tuple[Tensor, bool]:
        """The tile, and whether it was formed in fp64."""
        i, j = tile.i, tile.j
        left, right = a.left[items, i.start : i.stop], b.right[items, j.start : j.stop]
        if self.metric == "l1":
            return torch.cdist(left, right, p=1.0), False
        shape = (left.shape[0], left.shape[1], right.shape[1])
        s = self.buffer[: shape[0] * shape[1] * shape[2]].view(shape)
        if self.metric == "inner":
            return _matmul(left, right.mT, s), False
        double = s.dtype == torch.float64
        if not a.largest:  # CUDA: no look at the numbers
            if double and self.smooth:
                return _matmul(left, right.mT, s), False
            return self._exact(a, b, items, tile, s), True
        norm = a.largest[i.number] + b.largest[j.number]
        error = 4.0 * torch.finfo(torch.float32).eps * norm * self.rate
        if self.smooth and not double and error > EXPONENT_ERROR:
            return self._exact(a, b, items, tile, s), True
        _matmul(left, right.mT, s)
        if not self.smooth:
            if tile.diagonal:
                s.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
            if float(s.amin()) < (SNAP if double else CANCELLATION) * norm:
                return self._exact(a, b, items, tile, s), True
        return s, False

    def _exact(self, a: Side, b: Side, items: slice, tile: Tile, s: Tensor) -> Tensor:
        u, v = a.exact(items, tile.i), b.exact(items, tile.j)
        norms = u.square().sum(-1).unsqueeze(-1) + v.square().sum(-1).unsqueeze(-2)
        exact = torch.baddbmm(norms, u, v.mT, alpha=-2.0)
        # NaN compares false and is not filled.
        return s.copy_(exact.masked_fill_(exact < norms.mul_(SNAP), 0.0))


def _role(
    sample: Tensor,
    w: Tensor | None,
    centre: Tensor | None,
    metric: Metric,
    tile: int,
    slopes: bool,
    gradient: bool,
    potential: bool,
) -> Role:
    side = _prepare(sample, w, centre, metric, tile, slopes)
    return Role(
        side,
        torch.zeros_like(side.points, dtype=torch.float64) if gradient else None,
        sample.new_zeros(sample.shape[:2], dtype=torch.float64) if gradient else None,
        sample.new_zeros(sample.shape[:2]) if potential else None,
    )


def _matmul(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Batched matrix product; a batch of one takes the unbatched call, which is faster."""
    if left.shape[0] != 1:
        return torch.bmm(left, right) if out is None else torch.bmm(left, right, out=out)
    if out is None:
        return torch.mm(left[0], right[0]).unsqueeze(0)
    torch.mm(left[0], right[0], out=out[0])
    return out


def _row_sums(matrix: Tensor, w: Tensor | None) -> Tensor:
    """[b, i] sums over j of matrix [b, i, j]·w [b, j]."""
    if w is None:
        return matrix.sum(-1)
    return torch.matmul(matrix, w.to(matrix.dtype).unsqueeze(-1)).squeeze(-1)


def _slice(w: Tensor | None, items: slice, rows: Span) -> Tensor | None:
    return None if w is None else w[items, rows.start : rows.stop]


def _per_item(numbers: Sequence[float] | Tensor, items: slice) -> list[Rate]:
    """K numbers shared by the batch, or [B, K]: as floats where possible, else [b, 1, 1]."""
    if not isinstance(numbers, Tensor):
        return list(numbers)
    if numbers.shape[0] == 1 and not numbers.is_cuda:
        return list(numbers[0].tolist())
    return [column.view(-1, 1, 1) for column in numbers[items].unbind(-1)]


@contextlib.contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Neither autocast nor a lowered fp32-product setting may reach the products inside."""
    precision = torch.get_float32_matmul_precision()
    with torch.autocast(device_type, enabled=False):
        if precision == "highest":
            yield
            return
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)


@torch.no_grad()
def sweep(
    x: Tensor,
    y: Tensor | None,
    wx: Tensor | None,
    wy: Tensor | None,
    components: tuple[Component, ...],
    rates: Sequence[float] | Tensor,
    coefs: Sequence[float] | Tensor | None,
    blocks: Blocks,
    wanted: Wanted,
) -> Sweep:
    """See ``plan``. x [B, n, d], y [B, m, d], fp32 or fp64; rates C numbers or [B, C]; coefs
    blocks·C numbers, block-major, or [B, blocks, C]."""
    with full_precision(x.device.type):
        return Sweeper(x, y, wx, wy, components, blocks, wanted).run(rates, coefs)


class Sweeper:
    """The state of one sweep: prepared samples, accumulators and tile buffers."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None,
        wx: Tensor | None,
        wy: Tensor | None,
        components: tuple[Component, ...],
        blocks: Blocks,
        wanted: Wanted,
    ) -> None:
        self.components, self.blocks, self.wanted = components, block_names(blocks), wanted
        self.metric = metric_of(components)
        self.smooth = all(c.function.smooth for c in components)
        self.slopes = wanted.grad_x or wanted.grad_y
        self.tile_rows = TILE_CUDA if x.is_cuda else TILE
        centre = _centre(x, y, self.metric)
        prepared = self.metric, self.tile_rows, self.slopes
        self.x = _role(x, wx, centre, *prepared, wanted.grad_x, wanted.grad_wx)
        self.y = (
            self.x if y is None else _role(y, wy, centre, *prepared, wanted.grad_y, wanted.grad_wy)
        )
        self.count, n = x.shape[:2]
        m = 0 if y is None else y.shape[1]
        shape = (self.count, len(self.blocks), len(components)) if wanted.sums else (0,)
        self.sums = x.new_zeros(shape, dtype=torch.float64)
        rows = min(max(n, m), self.tile_rows)
        self.batch = max(1, (self.tile_rows // max(rows, 1)) ** 2)  # items that share a tile
        area = min(self.batch, self.count) * rows * rows
        several = len(components) > 1
        self.distance = x.new_empty(area)
        self.value = x.new_empty(area if several else 0)
        self.slope = x.new_empty(area if self.slopes else 0)
        self.total = x.new_empty(area if self.slopes and several else 0)

    def run(self, rates: Sequence[float] | Tensor, coefs: Sequence[float] | Tensor | None) -> Sweep:
        width = len(self.components)
        if coefs is None:
            coefs = [0.0] * (len(self.blocks) * width)
        elif isinstance(coefs, Tensor):
            coefs = coefs.flatten(1)
        for start in range(0, self.count, self.batch):
            items = slice(start, min(start + self.batch, self.count))
            item_rates, item_coefs = _per_item(rates, items), _per_item(coefs, items)
            for k, name in enumerate(self.blocks):
                block_coefs = item_coefs[k * width : (k + 1) * width]
                self._block(name, Chunk(items, k, item_rates, block_coefs))
        # Without y, the role of y is that of x: its results are returned once, as those of x.
        y = self.y if self.y is not self.x else Role(self.x.side, None, None, None)
        return Sweep(
            self.sums,
            self._gradient(self.x),
            self._gradient(y),
            self._or_empty(self.x.potential),
            self._or_empty(y.potential),
        )

    def _or_empty(self, result: Tensor | None) -> Tensor:
        return self.distance.new_empty(0) if result is None else result

    def _gradient(self, role: Role) -> Tensor:
        moments, side = role.moments, role.side
        if moments is None:
            return self._or_empty(None)
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
        rate = 0.0
        if a.side.largest:  # on a CPU, where reading a number costs nothing
            rate = max(
                float(r.abs().max()) if isinstance(r, Tensor) else abs(r) for r in chunk.rates
            )
        distances = _Distances(self.metric, self.smooth, rate, self.distance)
        for i in _spans(a.side.points.shape[1], self.tile_rows):
            for j in _spans(b.side.points.shape[1], self.tile_rows):
                if name == "xy" or j.number >= i.number:
                    tile = Tile(i, j, name != "xy")
                    s, exact = distances(a.side, b.side, chunk.items, tile)
                    self._tile(s, exact, tile, a, b, chunk)

    def _tile(self, s: Tensor, exact: bool, tile: Tile, a: Role, b: Role, chunk: Chunk) -> None:
        """Turn a tile of distances into its share of every output. ``exact``: they were formed in
        fp64, and so are the moments of the gradient."""
        total: Tensor | None = None
        factor: Rate = 1.0
        last = len(self.components) - 1
        slope_buffer = self.slope[: s.numel()].view(s.shape) if self.slopes else None
        for c, component in enumerate(self.components):
            t = s if c == last else self.value[: s.numel()].view(s.shape).copy_(s)
            function = component.function
            k = function.evaluate_(
                t, chunk.rates[c], component.shape, component.offset, slope_buffer
            )
            if tile.diagonal:
                k.value.diagonal(dim1=-2, dim2=-1).zero_()
                if k.slope is not k.value:
                    k.slope.diagonal(dim1=-2, dim2=-1).zero_()
            self.add_values(k.value, k.value_scale, c, tile, a, b, chunk)
            if not self.slopes:
                continue
            factor = chunk.coefs[c] * k.slope_scale
            if last == 0:
                total = k.slope
            elif c == 0:
                total = torch.mul(k.slope, factor, out=self.total[: s.numel()].view(s.shape))
            else:
                assert total is not None
                total.addcmul_(k.slope, torch.as_tensor(factor, dtype=s.dtype, device=s.device))
        if total is not None:
            if exact and total.dtype != torch.float64:
                total = total.double()
            self._add_slopes(total, factor if last == 0 else 1.0, tile, a, b, chunk.items)

    def add_values(
        self, value: Tensor, scale: float, c: int, tile: Tile, a: Role, b: Role, chunk: Chunk
    ) -> None:
        items, i, j = chunk.items, tile.i, tile.j
        wa, wb = _slice(a.side.weights, items, i), _slice(b.side.weights, items, j)
        rows = None
        if self.wanted.sums or a.potential is not None:
            rows = _row_sums(value, wb)
        if self.wanted.sums:
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
            b.potential[items, j.start : j.stop] += _row_sums(value.mT, wa) * coef

    def _add_slopes(
        self, total: Tensor, factor: Rate, tile: Tile, a: Role, b: Role, items: slice
    ) -> None:
        i, j = tile.i, tile.j
        if isinstance(factor, Tensor):
            total, factor = total.mul_(factor), 1.0
        factor = 2.0 * factor if tile.itself else factor
        ends = [(a, i, b, j, False)]
        if not tile.diagonal:
            ends.append((b, j, a, i, True))
        for to, to_rows, other, other_rows, transposed in ends:
            if to.moments is None:
                continue
            out = to.moments[items, to_rows.start : to_rows.stop]
            slopes = total.mT if transposed else total
            if self.metric == "l1":
                out.add_(_signed_sums(slopes, to, to_rows, other, other_rows, items), alpha=factor)
                continue
            moments = other.side.moments[items, other_rows.start : other_rows.stop]
            if total.dtype != moments.dtype:
                moments = other.side.exact_moments(items, other_rows)
            out.add_(_matmul(slopes, moments), alpha=factor)
            if self.metric == "sqeuclidean" and to.masses is not None:
                w = _slice(other.side.weights, items, other_rows)
                masses = to.masses[items, to_rows.start : to_rows.stop]
                masses.add_(_row_sums(slopes, w), alpha=factor)


def _signed_sums(
    slopes: Tensor, to: Role, to_rows: Span, other: Role, other_rows: Span, items: slice
) -> Tensor:
    """Σⱼ slopeᵢⱼ·wⱼ·sign(uᵢ − vⱼ) [b, i, d]: the derivative of L1 distances, by the kernel that
    autograd uses (autograd itself is off inside a custom operator)."""
    w = _slice(other.side.weights, items, other_rows)
    u = to.side.points[items, to_rows.start : to_rows.stop]
    v = other.side.points[items, other_rows.start : other_rows.stop]
    weighted = (slopes if w is None else slopes * w.unsqueeze(-2)).contiguous()
    signed: Tensor = torch.ops.aten._cdist_backward(weighted, u, v, 1.0, weighted)
    return signed
