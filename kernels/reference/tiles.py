"""What the reference backend's sweeps are made of: prepared samples and tiles of distances.

A tile comes from one matrix product of augmented rows, [−2u, |u|², 1]·[v, 1, |v|²] with centred
points u and v; or, of a few columns, from their differences.

Cancellation. A Gram product in the input dtype leaves an error of about eps·(|u|² + |v|²) in d².
Where that is too much for the function at hand (not smooth at 0, or narrow against the spread of
the data) the tile is computed again in fp64, near pairs by differences: so identical rows are
exactly 0 apart. The decision needs numbers on the host; on CUDA, where that would synchronise, all
is computed in fp64, by differences up to 16 columns, and beyond them by a Gram product in which,
for functions that are not smooth, distances below 2⁻²³ of the norms are 0.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import _torch
from ..functions import Evaluation, Metric, Rate
from ..problem import Component
from ..subsample import hashed_rows, pooled_rows

TILE = 1024  # rows and columns of a tile on a CPU: 4 MB in fp32
TILE_CUDA = 4096  # fewer launches
CENTRE_ROWS = 33
UNRESOLVED = 2.0**-14  # of |u|² + |v|²: below it an fp64 Gram product leaves d² under 11 digits
UNRESOLVED_IN_FP32 = 2.0**-22  # below it such a d² of fp32 samples has fewer digits than they do
SNAP = 2.0**-46  # of |u|² + |v|²: below it (on CUDA) such a d² is rounding noise, and taken for 0
NEAR = 2.0**-34  # below it a difference of fp64 moments leaves its gradient under 11 digits
DIFFERENCE_COLUMNS = 16
FEW_COLUMNS = 3  # where a product of so few terms is slower than their differences
NEAR_PAIRS = 2**14  # recomputed at a time
CANCELLATION = 2.0**-7  # of |u|² + |v|²: below it an fp32 d² has lost too many digits for its root
EXPONENT_ERROR = {torch.float32: 1e-5, torch.float64: 1e-11}  # largest allowed in rate·d²
LEAST = 1e-36  # positive d² that fp32 holds with all its digits
LEAST_SIZE = 2.0**25 * LEAST**0.5  # fp32 coordinates below it may differ by less than its root
RANGE = 1e-30, 1e30  # of |u|²: outside it fp32 samples are computed in fp64
BY_DIFFERENCES = "donot_use_mm_for_euclid_dist"


class _Scratch(threading.local):
    """Tile buffers kept between calls, a few MB per thread: fresh memory costs a page fault every
    4 kB, which for small samples is more than the arithmetic."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, purpose: str, shape: Sequence[int], like: Tensor) -> Tensor:
        count = math.prod(shape)
        if not like.is_cpu or count > TILE**2:  # CUDA has an allocator that keeps memory
            return like.new_empty(shape)
        key = purpose, like.dtype
        buffer = self.buffers.get(key)
        if buffer is None or buffer.numel() < count:
            with torch.inference_mode(False):
                buffer = like.new_empty(count)
            if type(buffer) is Tensor:  # not the fake one of a trace
                self.buffers[key] = buffer
        return buffer[:count].view(shape)


_scratch = _Scratch()


def scratch(purpose: str, shape: Sequence[int], like: Tensor) -> Tensor:
    """An uninitialised tensor that nothing outside the running sweep may keep."""
    if torch.compiler.is_compiling():
        return like.new_empty(shape)
    return _scratch.take(purpose, shape, like)


def tile_rows(x: Tensor) -> int:
    return TILE_CUDA if x.is_cuda else TILE


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

    def raw(self, items: slice, rows: Span) -> Tensor:
        """Rows as given, in fp64: what differences are formed of."""
        points = self.sample[items, rows.start : rows.stop].double()
        return points + points * 0.0

    def columns(self, items: slice, rows: Span) -> Tensor:
        """Rows as given, transposed [b, d, i]."""
        columns = self.sample[items, rows.start : rows.stop].mT.contiguous()
        return columns + columns * 0.0

    def exact(self, items: slice, rows: Span) -> Tensor:
        """Centred rows in fp64, without the rounding that centring in fp32 has."""
        points = self.raw(items, rows)
        return points if self.centre is None else points - self.centre[items].double()

    def exact_moments(self, items: slice, rows: Span) -> Tensor:
        """``moments`` of centred rows in fp64."""
        points = self.exact(items, rows)
        w = weights_of(self.weights, items, rows)
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


def tiles(n: int, m: int, size: int, *, itself: bool) -> Iterator[Tile]:
    """The tiles of n×m pairs, row by row; of a sample with ``itself`` those of one triangle."""

    def spans(length: int) -> list[Span]:
        return [Span(k, min(k + size, length), k // size) for k in range(0, length, size)]

    return (
        Tile(i, j, itself) for i in spans(n) for j in spans(m) if not itself or j.number >= i.number
    )


def evaluations(
    s: Tensor,
    components: Sequence[Component],
    rates: Sequence[Rate],
    *,
    slopes: bool = False,
    diagonal: bool = False,
) -> Iterator[Evaluation]:
    """Of each component in turn, in buffers that the next one overwrites; the last overwrites s.
    ``diagonal``: pairs i = i are in s, and are made 0."""
    slope_buffer = scratch("slope", s.shape, s) if slopes else None
    for number, (c, rate) in enumerate(zip(components, rates, strict=True), 1):
        out = s if number == len(components) else scratch("value", s.shape, s)
        k = c.function.evaluate(s, rate, c.shape, c.offset, slope_buffer, out)
        if diagonal:
            k.drop_diagonal()
        yield k


def centre(x: Tensor, y: Tensor | None, metric: Metric) -> Tensor | None:
    """The coordinate-wise median of a few pooled rows: distances do not change under it, their
    rounding does, and unlike a mean it does not follow an outlier. L1 distances are differences
    anyway, and their gradient, a sign, would feel the rounding of the centred coordinates."""
    if metric != "sqeuclidean" or x.shape[1] + (0 if y is None else y.shape[1]) == 0:
        return None
    return pooled_rows(x, y, CENTRE_ROWS, remember=not x.is_cuda).median(-2, keepdim=True).values


def prepare(
    x: Tensor, w: Tensor | None, middle: Tensor | None, metric: Metric, tile: int, gradients: bool
) -> Side:
    points = x if middle is None else x - middle
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
            if x.dtype == torch.float32 and not _fits(x, points, norms):
                raise OutOfRange
    if w is not None and gradients:
        moments = moments * w.unsqueeze(-1)
    return Side(x, middle, points, w, left, right, moments, largest)


def equal_rows(x: Tensor, y: Tensor | None) -> Tensor | None:
    """Numbers [..., n+m] of the pooled rows, the same for equal ones, whose pairs gradients leave
    out: where slope·uᵢ and slope·uⱼ are in different sums, rounding leaves noise that may be all
    there is of a narrow kernel. None where no two are equal, which is looked for on a CPU only."""

    both = [t.detach() for t in (x, y) if t is not None]
    if x.is_cpu:  # eight bytes of each row tell most apart
        columns = 8 // x.element_size()
        heads = np.concatenate([t.numpy()[..., :columns] for t in both], -2) + 0.0
        keys = heads.view(np.int64)[..., 0]
        keys.sort(-1)
        if not (keys[..., 1:] == keys[..., :-1]).any():
            return None
    z = torch.cat(both, -2) + 0.0  # −0.0 is 0.0
    bits = z.view(torch.int32)
    factors = hashed_rows(2 * bits.shape[-1], 2**32, z.device).view(2, -1)
    order = (bits * ((factors[0] << 32) + factors[1])).sum(-1).argsort(-1)
    rows = z.gather(-2, order.unsqueeze(-1).expand_as(z))
    new = (rows[..., 1:, :] != rows[..., :-1, :]).any(-1)
    if x.is_cpu and new.all():
        return None
    numbers = torch.nn.functional.pad(new.long().cumsum(-1), (1, 0))
    return torch.empty_like(order).scatter_(-1, order, numbers)


def drop_equal(slopes: Tensor, left: Tensor, right: Tensor) -> None:
    """Slopes [b, i, j] of pairs with equal numbers [b, i] and [b, j] become 0, in place."""
    slopes.masked_fill_(left.unsqueeze(-1) == right.unsqueeze(-2), 0.0)


def _fits(x: Tensor, points: Tensor, norms: Tensor) -> bool:
    """Whether fp32 holds the squared distances of every item of a batch. Those of many columns are
    seen in the tiles; of few, where they are not, only tiny coordinates have tiny differences."""
    if x.shape[2] <= FEW_COLUMNS and has_tiny(x):
        return False
    tops = norms.amax((1, 2)) if norms.numel() else norms
    outside = ~((tops > RANGE[0]) & (tops < RANGE[1]))  # NaN is
    return not bool((outside & (points != 0.0).flatten(1).any(1)).any()) if outside.any() else True


def has_tiny(x: Tensor) -> bool:
    """Coordinates so near 0 that they may differ by less than √``LEAST``."""
    sizes = x.abs()
    return bool(((sizes < LEAST_SIZE) & (sizes > 0.0)).any())


class OutOfRange(Exception):
    """fp32 samples whose squared distances fp32 does not hold (or that are not finite), or rates
    that it does not."""


def exponent_error(norm: Rate, rate: Rate, dtype: torch.dtype) -> Any:
    """Of rate·d² from a Gram product, for ``norm`` = |u|² + |v|²."""
    return 4.0 * torch.finfo(dtype).eps * norm * rate


def doubles_suffice(norm: Rate, rate: Rate) -> Any:
    """Whether an fp64 Gram product of fp32 samples leaves no error that fp32 shows."""
    return exponent_error(norm, rate, torch.float64) <= 1e-9


Form = Literal["input", "double", "differences"]
"""How a tile was formed, and its gradient is to be: by a Gram product in the dtype of the input or
in fp64, or by differences."""


class Distances:
    """Tiles of the metric s, each a freely overwritable [b, i, j].

    ``near``: numbers [K, 3] of the pairs of the last tile that are too near for a difference of
    moments, in either order; see ``pull_near``."""

    near: Tensor | None = None

    def __init__(self, metric: Metric, smooth: bool, rate: float) -> None:
        self.metric, self.smooth, self.rate = metric, smooth, rate

    def __call__(self, a: Side, b: Side, items: slice, tile: Tile) -> tuple[Tensor, Form]:
        """The tile, and how it was formed."""
        self.near = None
        i, j = tile.i, tile.j
        left, right = a.left[items, i.start : i.stop], b.right[items, j.start : j.stop]
        if self.metric == "l1":
            return _l1_distances(left, right), "input"
        s = scratch("distance", (left.shape[0], left.shape[1], right.shape[1]), left)
        if self.metric == "inner":
            return matmul(left, right.mT, s), "input"
        if a.sample.shape[-1] <= FEW_COLUMNS:
            return squared_differences(a.columns(items, i), b.columns(items, j), s), "differences"
        double = s.dtype == torch.float64
        if not a.largest:  # CUDA: no look at the numbers
            if double and self.smooth and a.sample.shape[-1] > DIFFERENCE_COLUMNS:
                return matmul(left, right.mT, s), "input"
            return self._exact(a, b, items, tile, s)
        norm = a.largest[i.number] + b.largest[j.number]
        error = exponent_error(norm, self.rate, s.dtype)
        if self.smooth and not error <= EXPONENT_ERROR[s.dtype]:  # also where a norm is NaN
            if not double and doubles_suffice(norm, self.rate):
                u, v = a.exact(items, i), b.exact(items, j)
                return s.copy_(_gram_distances(u, v)[0]), "double"
            return self._exact(a, b, items, tile, s)
        matmul(left, right.mT, s)
        if not self.smooth:
            if tile.diagonal:
                s.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
            if not float(s.amin()) >= (UNRESOLVED if double else CANCELLATION) * norm:
                return self._exact(a, b, items, tile, s)
        return s, "input"

    def _exact(self, a: Side, b: Side, items: slice, tile: Tile, s: Tensor) -> tuple[Tensor, Form]:
        """From rows in fp64: by their Gram product, where it cannot resolve a pair by differences,
        of this pair or, of few columns, of the whole tile."""
        few = a.sample.shape[-1] <= DIFFERENCE_COLUMNS
        if few and (s.is_cuda or s.dtype == torch.float64):
            return self._by_differences(a, b, items, tile, s)
        u, v = a.exact(items, tile.i), b.exact(items, tile.j)
        exact, norms = _gram_distances(u, v)
        if s.is_cuda:  # counting them would synchronise; NaN compares false and is not filled
            return s.copy_(exact.masked_fill_(exact < norms.mul_(SNAP), 0.0)), "double"
        if few:
            if tile.diagonal:
                exact.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
            if bool((exact < norms.mul_(UNRESOLVED_IN_FP32)).any()):
                return self._by_differences(a, b, items, tile, s)
            return self._narrowed(s, exact), "double"
        near = (exact < norms.mul_(UNRESOLVED)).nonzero()
        u, v = a.raw(items, tile.i), b.raw(items, tile.j)  # centring rounds what is near 0
        nearer = []
        for part in torch.split(near, NEAR_PAIRS):
            item, row, column = part.unbind(-1)
            squares = (u[item, row] - v[item, column]).square_().sum(-1)
            exact[item, row, column] = squares
            limits = norms[item, row, column] * (NEAR / UNRESOLVED)
            nearer.append(part[(squares > 0.0) & (squares < limits)])
        self.near = torch.cat(nearer) if any(len(part) for part in nearer) else None
        return self._narrowed(s, exact), "double"

    def _by_differences(
        self, a: Side, b: Side, items: slice, tile: Tile, s: Tensor
    ) -> tuple[Tensor, Form]:
        u, v = a.raw(items, tile.i), b.raw(items, tile.j)
        squares = torch.cdist(u, v, compute_mode=BY_DIFFERENCES).square_()
        return self._narrowed(s, squares), "differences"

    def _narrowed(self, s: Tensor, squares: Tensor) -> Tensor:
        """Exact squared distances, in ``s``. Roots of those below the range of fp32 would be off;
        functions that are smooth do not tell them from 0."""
        if s.dtype == torch.float32 and not self.smooth and not s.is_cuda:
            least = torch.where(squares > 0.0, squares, torch.inf).amin()
            if float(least) < LEAST:
                raise OutOfRange
        return s.copy_(squares)


def _gram_distances(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """d² [b, i, j] from a Gram product, and |u|² + |v|²."""
    norms = u.square().sum(-1).unsqueeze(-1) + v.square().sum(-1).unsqueeze(-2)
    return torch.baddbmm(norms, u, v.mT, alpha=-2.0), norms


def _l1_distances(left: Tensor, right: Tensor) -> Tensor:
    """torch.cdist adds coordinates one after the other; in pieces the sum keeps its digits."""
    pieces = zip(torch.split(left, 64, -1), torch.split(right, 64, -1), strict=True)
    first, *others = (torch.cdist(u, v, p=1.0) for u, v in pieces)
    if not others:
        return first
    total = first.double()
    for piece in others:
        total.add_(piece)
    return total.to(left.dtype)


def distances(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    """The metric of all pairs of a few rows, [n, m]."""
    if metric == "inner":
        return x @ y.T
    s = torch.cdist(x, y, p=1.0 if metric == "l1" else 2.0, compute_mode=BY_DIFFERENCES)
    return s if metric == "l1" else s.square()


def matmul(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Batched matrix product, in fp64 where fp32 ones are lowered (TF32, bf16); a batch of one
    takes the unbatched call, which is faster."""
    if left.dtype == torch.float32 and is_lowered(left.device.type):
        wide = matmul(left.double(), right.double())
        return wide.float() if out is None else out.copy_(wide)
    if left.shape[0] != 1:
        return torch.bmm(left, right) if out is None else torch.bmm(left, right, out=out)
    if out is None:
        return torch.mm(left[0], right[0]).unsqueeze(0)
    torch.mm(left[0], right[0], out=out[0])
    return out


def row_sums(matrix: Tensor, w: Tensor | None) -> Tensor:
    """[b, i] sums over j of matrix [b, i, j]·w [b, j]."""
    if w is None:
        return matrix.sum(-1)
    return matmul(matrix, w.to(matrix.dtype).unsqueeze(-1)).squeeze(-1)


def weights_of(w: Tensor | None, items: slice, rows: Span) -> Tensor | None:
    return None if w is None else w[items, rows.start : rows.stop]


def per_item(numbers: Sequence[float] | Tensor, items: slice) -> list[Rate]:
    """K numbers shared by the batch, or [B, K]: as floats where possible, else [b, 1, 1]."""
    if not isinstance(numbers, Tensor):
        return list(numbers)
    if numbers.shape[0] == 1 and not numbers.is_cuda:
        return list(numbers[0].tolist())
    return [column.view(-1, 1, 1) for column in numbers[items].unbind(-1)]


def largest_rate(components: Sequence[Component], rates: Sequence[Rate]) -> float:
    """By which an error of d² reaches φ at most. On the host, so for a CPU only."""
    sizes = (float(r.abs().max()) if isinstance(r, Tensor) else abs(r) for r in rates)
    pairs = zip(components, sizes, strict=True)
    return float(max(c.function.steepness(rate, c.shape) for c, rate in pairs))


def add_scaled(out: Tensor, addend: Tensor, factor: Rate) -> None:
    """out += factor·addend, for a number or a tensor."""
    if isinstance(factor, Tensor):
        out.addcmul_(addend, factor.to(out.dtype))
    else:
        out.add_(addend, alpha=factor)


def signed_sums(slopes: Tensor, u: Tensor, v: Tensor, w: Tensor | None) -> Tensor:
    """Σⱼ slopeᵢⱼ·wⱼ·sign(uᵢ − vⱼ) [b, i, d]: the derivative of L1 distances, by the kernel that
    autograd uses (autograd itself is off inside a custom operator)."""
    weighted = (slopes if w is None else slopes * w.unsqueeze(-2)).contiguous()
    signed: Tensor = torch.ops.aten._cdist_backward(weighted, u, v, 1.0, weighted)
    return signed


def differences(u: Tensor, v: Tensor, column: int) -> Tensor:
    """uᵢ − vⱼ of one coordinate, [b, i, j], of transposed rows."""
    out = scratch("difference", (u.shape[0], u.shape[2], v.shape[2]), u)
    return torch.sub(u[:, column].unsqueeze(-1), v[:, column].unsqueeze(-2), out=out)


def squared_differences(u: Tensor, v: Tensor, out: Tensor) -> Tensor:
    """‖uᵢ − vⱼ‖² [b, i, j] of transposed rows [b, d, i] and [b, d, j]."""
    first = differences(u, v, 0)
    torch.mul(first, first, out=out)
    for column in range(1, u.shape[1]):
        difference = differences(u, v, column)
        out.addcmul_(difference, difference)
    return out


def difference_sums(slopes: Tensor, a: Side, i: Span, b: Side, j: Span, items: slice) -> Tensor:
    """Σⱼ slopeᵢⱼ·wⱼ·(uᵢ − vⱼ) [b, i, d] of the rows u of a and v of b, term by term: for pairs so
    near that the difference of the moments has no digits left."""
    w = weights_of(b.weights, items, j)
    if a.sample.shape[-1] <= FEW_COLUMNS:
        u, v = a.columns(items, i), b.columns(items, j)
        terms = (differences(u, v, k).mul_(slopes) for k in range(u.shape[1]))
        return torch.stack([row_sums(term, w) for term in terms], -1)
    u, v = a.raw(items, i), b.raw(items, j)
    r = torch.cdist(u, v, compute_mode=BY_DIFFERENCES)
    weighted = slopes * r if w is None else slopes * r * w.unsqueeze(-2)
    summed: Tensor = torch.ops.aten._cdist_backward(weighted, u, v, 2.0, r)
    return summed


def pull_near(
    slopes: Tensor, near: Tensor, a: Side, i: Span, b: Side, j: Span, items: slice
) -> tuple[Tensor, Tensor]:
    """Takes the slopes of near pairs out of [b, i, j], in place, and returns their
    Σⱼ slope·wⱼ·(uᵢ − vⱼ) [b, i, d] and Σᵢ slope·wᵢ·(vⱼ − uᵢ) [b, j, d], term by term in fp64."""
    u, v = a.raw(items, i), b.raw(items, j)
    wu, wv = weights_of(a.weights, items, i), weights_of(b.weights, items, j)
    to_u, to_v = torch.zeros_like(u), torch.zeros_like(v)
    for item, row, column in (part.unbind(-1) for part in torch.split(near, NEAR_PAIRS)):
        slope = slopes[item, row, column].double().unsqueeze(-1)
        pull = slope * (u[item, row] - v[item, column])
        of_u = pull if wv is None else pull * wv[item, column].unsqueeze(-1)
        of_v = pull if wu is None else pull * wu[item, row].unsqueeze(-1)
        to_u.index_put_((item, row), of_u, accumulate=True)
        to_v.index_put_((item, column), -of_v, accumulate=True)
        slopes[item, row, column] = 0.0
    return to_u, to_v


def is_lowered(device_type: str) -> bool:
    """Whether the process has fp32 products made with fewer digits. The setting is read and never
    written: another thread may be computing under it."""
    return _torch.fp32_precision(device_type) not in ("none", "ieee")


# A constant of a trace, which guards the setting: as ``torch.compiler.assume_constant_result``
# says it, but for the import of the whole compiler.
is_lowered._dynamo_marked_constant = True  # type: ignore[attr-defined]


def full_precision(device_type: str) -> contextlib.AbstractContextManager[object]:
    """Autocast, which is of this thread, does not reach the products inside; ``matmul`` sees to
    what is of the process."""
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()
