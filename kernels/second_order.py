"""The derivative of the gradients: what a double backward (a gradient penalty) asks for.

For L = Σ a·S (see ``problem``) and directions (u, v, p, q) of (x, y, wx, wy), the derivative along
them,

    h = Σᵢⱼ a·[wᵢw′ⱼ·σ·l + (pᵢw′ⱼ + wᵢqⱼ)·k],   σ the slope of ``functions``,

with l = ⟨u − v, x − y⟩ (l1: ⟨u − v, sign(x − y)⟩; inner products: ⟨u, y⟩ + ⟨x, v⟩) is
differentiated in its turn. With A = a·[ww′·l·∂σ + (pw′ + wq)·σ], where ∂σ is the derivative of σ
along x − y, and B = a·ww′·σ,

    ∂h/∂xᵢ = Σⱼ Aᵢⱼ(xᵢ − yⱼ) + Bᵢⱼ(uᵢ − vⱼ)

(l1: A·sign(x − y); inner products: A·y + B·v). Tiles of pairs are formed in fp64 by plain torch
operations, so it is the same on every device and for both backends, and nothing N×M is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .functions import Rate
from .problem import Component, PairProblem, block_names, tensors_of
from .reference.tiles import (
    UNRESOLVED,
    Span,
    add_scaled,
    centre,
    matmul,
    per_item,
    row_sums,
    scratch,
    tiles,
)

TILE, TILE_CUDA = 512, 2048  # rows and columns
LEAST_ROWS = 16
DIFFERENCES, DIFFERENCES_CUDA = 2**20, 2**24  # [B, c, i, j] of some columns, held at a time
MANY_NEAR = 2**-5  # of the pairs of a tile: from so many on all are formed by differences


class _Side(NamedTuple):
    """One sample in fp64, its directions, and its results."""

    raw: Tensor  # [B, n, d], as given
    z: Tensor  # [B, n, d], centred
    u: Tensor | None  # [B, n, d], None for zeros
    w: Tensor | None  # [B, n], None for ones
    p: Tensor | None  # [B, n], None for zeros
    grad_z: Tensor | None  # None if not needed
    grad_w: Tensor | None

    def rows(self, span: Span) -> _Side:
        some = slice(span.start, span.stop)
        return _Side(*(None if t is None else t[:, some] for t in self))  # type: ignore[arg-type]


@torch.no_grad()
def pair_hessian(problem: PairProblem, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
    """Derivatives of h with respect to x, y, wx and wy, where the gradients are ``wanted`` (else
    None), and to coefs [..., blocks, C]. ``directions``: u [..., n, d], v [..., m, d], p [..., n],
    q [..., m] or None for 0."""
    flat, first, turns = problem.flat(), problem.x.dim() - 2, list(directions)
    if flat is not problem:
        count = problem.batch.numel()
        turns = [t if t is None else t.reshape(count, *t.shape[first:]) for t in directions]
    most = TILE_CUDA if flat.x.is_cuda else TILE
    limit = (most // LEAST_ROWS) ** 2  # batch items at a time
    parts = []
    for start in range(0, max(1, flat.x.shape[0]), limit):
        tensors, along = (
            [t if t is None else t[start : start + limit] for t in each]
            for each in (tensors_of(flat), turns)
        )
        parts.append(_hessian(flat.with_tensors(tensors), along, most))
    found = (_joined(column) for column in zip(*parts, strict=True))
    return tuple(t if t is None else t.reshape((*problem.batch, *t.shape[1:])) for t in found)


def _joined(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    held = [t for t in parts if t is not None]
    return torch.cat(held) if len(held) > 1 else parts[0]


def _hessian(
    problem: PairProblem, directions: Sequence[Tensor | None], most: int
) -> tuple[Tensor | None, ...]:
    """``pair_hessian`` of a flat problem, in tiles of ``most`` rows."""
    x, y, coefs, wanted = problem.x, problem.y, problem.coefs, problem.wanted
    assert isinstance(coefs, Tensor)
    u, v, p, q = directions
    metric = problem.metric
    middle = centre(x, y, metric)
    first = _side(x, problem.wx, u, p, middle, wanted.grad_x, wanted.grad_wx)
    second = first
    if y is not None:
        second = _side(y, problem.wy, v, q, middle, wanted.grad_y, wanted.grad_wy)
    ends = {"xx": (first, first), "yy": (second, second), "xy": (first, second)}
    grad_coefs = torch.zeros_like(coefs, dtype=torch.float64)
    everything = slice(None)
    rates = problem.rates.double() if isinstance(problem.rates, Tensor) else problem.rates
    numbers = per_item(rates, everything)
    step = max(LEAST_ROWS, math.isqrt(most**2 // max(1, x.shape[0])))
    for k, block in enumerate(block_names(problem.blocks)):
        a, b = ends[block]
        if len(x) == 0 or all(t is None for t in (a.u, b.u, a.p, b.p)):
            continue
        block_coefs = per_item(coefs[:, k].double(), everything)
        for tile in tiles(a.z.shape[1], b.z.shape[1], step, itself=block != "xy"):
            grad_coefs[:, k] += _tile(
                a.rows(tile.i),
                b.rows(tile.j),
                problem.components,
                numbers,
                block_coefs,
                metric,
                tile.itself,
                tile.diagonal,
                problem.diagonal,
            )
    results = first.grad_z, second.grad_z, first.grad_w, second.grad_w
    pairs = zip(results, wanted[1:], strict=True)
    gradients = (t.to(x.dtype) if flag and t is not None else None for t, flag in pairs)
    return *gradients, grad_coefs.to(coefs.dtype)


def _side(
    x: Tensor,
    w: Tensor | None,
    u: Tensor | None,
    p: Tensor | None,
    middle: Tensor | None,
    need_z: bool,
    need_w: bool,
) -> _Side:
    raw = x.double()
    raw = raw + raw * 0.0  # inf becomes NaN
    return _Side(
        raw,
        raw if middle is None else raw - middle.double(),
        None if u is None else u.double(),
        None if w is None else w.double(),
        None if p is None else p.double(),
        torch.zeros_like(raw) if need_z else None,
        raw.new_zeros(raw.shape[:2]) if need_w else None,
    )


def _tile(
    a: _Side,
    b: _Side,
    components: tuple[Component, ...],
    rates: Sequence[Rate],
    coefs: Sequence[Rate],
    metric: str,
    itself: bool,
    diagonal: bool,
    kept: bool,
) -> Tensor:
    """Add the share of one tile to the gradients of a and b; returns that of the C ``coefs``,
    [B, C]. ``itself``: of pairs of one sample, which stand for both orders; ``diagonal``: with the
    pairs i = i, which count if ``kept``."""
    pairs = _pairs(a, b, metric, diagonal)
    s, along = pairs.s, pairs.along
    weights, turned = _weights(a, b)
    weighted = along if weights is None else along * weights
    k, slope, slope_derivative = (
        scratch(name, s.shape, s).zero_() for name in ("k", "slopes", "slope derivatives")
    )
    shares = []
    for c, rate, coef in zip(components, rates, coefs, strict=True):
        buffers = scratch("slope", s.shape, s), scratch("value", s.shape, s)
        e = c.function.evaluate(s, rate, c.shape, c.offset, *buffers)
        if diagonal and not kept:
            e.drop_diagonal()
        share = _inner(e.slope, weighted) * _column(e.slope_scale)
        if turned is not None:
            share = share + e.value_scale * _inner(e.value, turned)
            add_scaled(k, e.value, coef * e.value_scale)
        shares.append(share)
        add_scaled(slope, e.slope, coef * e.slope_scale)
        own = e.value if e.value is not e.slope else buffers[0]
        d = c.function.slope_derivative(s, rate, c.shape, c.offset, e.slope, own)
        # Along x − y: σ is a function of ‖x − y‖², whose derivative is twice that, else of l's.
        twice = 2.0 if metric == "sqeuclidean" else 1.0
        add_scaled(slope_derivative, d.value, coef * e.slope_scale * d.scale * twice)
    if diagonal and not kept:
        slope_derivative.diagonal(dim1=-2, dim2=-1).zero_()
    if a.grad_w is not None or b.grad_w is not None:
        _add_to_weights(a, b, slope * along, k, 2.0 if itself else 1.0, diagonal)
    slope_derivative.mul_(weighted)
    if turned is not None:
        slope_derivative.addcmul_(turned, slope)
    if weights is not None:
        slope.mul_(weights)
    if a.grad_z is not None:
        a.grad_z.add_(pairs.left(slope_derivative, slope), alpha=2.0 if itself else 1.0)
    if b.grad_z is not None and not diagonal:  # which holds both orders of every pair
        b.grad_z.add_(pairs.right(slope_derivative, slope), alpha=2.0 if itself else 1.0)
    return torch.stack(shares, -1) * (2.0 if itself and not diagonal else 1.0)


def _inner(matrix: Tensor, other: Tensor) -> Tensor:
    """Σᵢⱼ of the product, [B]."""
    return matmul(matrix.flatten(1).unsqueeze(1), other.flatten(1).unsqueeze(2)).flatten()


def _column(rate: Rate) -> Rate:
    """A number, or [B, 1, 1] as [B]."""
    return rate.flatten() if isinstance(rate, Tensor) else rate


def _weights(a: _Side, b: _Side) -> tuple[Tensor | None, Tensor | None]:
    """wᵢw′ⱼ and pᵢw′ⱼ + wᵢqⱼ [B, i, j]; None for ones and for zeros."""

    def outer(left: Tensor | None, right: Tensor | None) -> Tensor:
        i = torch.ones_like(a.z[..., 0]) if left is None else left
        j = torch.ones_like(b.z[..., 0]) if right is None else right
        return i.unsqueeze(-1) * j.unsqueeze(-2)

    weights = None if a.w is None and b.w is None else outer(a.w, b.w)
    turned = None if a.p is None else outer(a.p, b.w)
    if b.p is not None:
        other = outer(a.w, b.p)
        turned = other if turned is None else turned.add_(other)
    return weights, turned


def _add_to_weights(
    a: _Side, b: _Side, along_slope: Tensor, k: Tensor, factor: float, diagonal: bool
) -> None:
    """∂h/∂wᵢ = Σⱼ a·(w′ⱼσl + qⱼk), and the same of w′."""
    ends = [(a, b, along_slope, k)]
    if not diagonal:
        ends.append((b, a, along_slope.mT, k.mT))
    for to, other, first, second in ends:
        if to.grad_w is None:
            continue
        to.grad_w.add_(row_sums(first, other.w), alpha=factor)
        if other.p is not None:
            to.grad_w.add_(row_sums(second, other.p), alpha=factor)


# --- Distances, and sums over differences --------------------------------------------------------


class _Pairs:
    """The pairs of a tile: s and l [B, i, j]; ``left`` and ``right`` are the gradients of its rows
    [B, i, d] and columns [B, j, d] from A and B, which they may overwrite at first."""

    s: Tensor
    along: Tensor

    def __init__(self, a: _Side, b: _Side) -> None:
        self.a, self.b = a, b
        self.shape = *a.z.shape[:2], b.z.shape[1]

    def left(self, total_a: Tensor, total_b: Tensor) -> Tensor:
        raise NotImplementedError

    def right(self, total_a: Tensor, total_b: Tensor) -> Tensor:
        raise NotImplementedError

    def buffer(self, name: str) -> Tensor:
        return scratch(name, self.shape, self.a.z)

    def products_along(self) -> Tensor:
        """⟨uᵢ, yⱼ⟩ + ⟨xᵢ, vⱼ⟩."""
        a, b, out = self.a, self.b, self.buffer("along")
        if a.u is None:
            return out.zero_() if b.u is None else matmul(a.z, b.u.mT, out)
        if b.u is None:
            return matmul(a.u, b.z.mT, out)
        return matmul(torch.cat([a.u, a.z], -1), torch.cat([b.z, b.u], -1).mT, out)


def _pairs(a: _Side, b: _Side, metric: str, diagonal: bool) -> _Pairs:
    if metric == "inner":
        return _InnerProducts(a, b)
    if metric == "sqeuclidean" and not a.z.is_cuda:
        products = _Products(a, b, diagonal)
        if products.suffice:
            return products
    return _Differences(a, b, metric)


def _moments(side: _Side, total_a: Tensor, total_b: Tensor) -> Tensor:
    """Σⱼ Aᵢⱼyⱼ + Bᵢⱼvⱼ."""
    moments = matmul(total_a, side.z)
    return moments if side.u is None else moments.add_(matmul(total_b, side.u))


class _InnerProducts(_Pairs):
    def __init__(self, a: _Side, b: _Side) -> None:
        super().__init__(a, b)
        self.s = matmul(a.z, b.z.mT, self.buffer("distance"))
        self.along = self.products_along()

    def left(self, total_a: Tensor, total_b: Tensor) -> Tensor:
        return _moments(self.b, total_a, total_b)

    def right(self, total_a: Tensor, total_b: Tensor) -> Tensor:
        return _moments(self.a, total_a.mT, total_b.mT)


class _Products(_Pairs):
    """From Gram products in fp64, and from the differences of pairs that these do not resolve.
    They ``suffice`` unless such pairs are many."""

    def __init__(self, a: _Side, b: _Side, diagonal: bool) -> None:
        super().__init__(a, b)
        rows, columns = a.z.square().sum(-1), b.z.square().sum(-1)
        s = matmul(a.z * -2.0, b.z.mT, self.buffer("distance"))
        s.add_(rows.unsqueeze(-1)).add_(columns.unsqueeze(-2))
        if diagonal:
            s.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
        near: tuple[Tensor, ...] = ()
        if not float(s.amin()) >= UNRESOLVED * float(rows.max() + columns.max()):
            near = torch.where(s < UNRESOLVED * (rows.unsqueeze(-1) + columns.unsqueeze(-2)))
        self.suffice = not near or len(near[0]) <= MANY_NEAR * s.numel()
        if not self.suffice:
            return
        if diagonal:
            s.diagonal(dim1=-2, dim2=-1).zero_()
        along = self.products_along().neg_()
        if a.u is not None:
            along.add_((a.z * a.u).sum(-1).unsqueeze(-1))
        if b.u is not None:
            along.add_((b.z * b.u).sum(-1).unsqueeze(-2))
        self.s, self.along, self.near = s, along, near
        if near:
            item, i, j = near
            self.apart = a.raw[item, i] - b.raw[item, j]  # [pairs, d]
            self.turn = torch.zeros_like(self.apart)
            if a.u is not None:
                self.turn += a.u[item, i]
            if b.u is not None:
                self.turn -= b.u[item, j]
            s[near], along[near] = self.apart.square().sum(-1), (self.apart * self.turn).sum(-1)

    def left(self, total_a: Tensor, total_b: Tensor) -> Tensor:
        return self._sums(self.a, self.b, total_a, total_b, self._take(total_a, total_b), 1)

    def right(self, total_a: Tensor, total_b: Tensor) -> Tensor:
        shares = self._take(total_a, total_b)
        return self._sums(self.b, self.a, total_a.mT, total_b.mT, shares, 2)

    def _take(self, total_a: Tensor, total_b: Tensor) -> Tensor | None:
        """The shares [pairs, d] of near pairs, which leave A and B."""
        if not self.near:
            return None
        if self.shares is None:
            self.shares = total_a[self.near].unsqueeze(-1) * self.apart
            self.shares += total_b[self.near].unsqueeze(-1) * self.turn
            total_a[self.near] = total_b[self.near] = 0.0
        return self.shares

    shares: Tensor | None = None

    def _sums(
        self,
        to: _Side,
        other: _Side,
        total_a: Tensor,
        total_b: Tensor,
        shares: Tensor | None,
        axis: int,
    ) -> Tensor:
        """Σⱼ A(xᵢ − yⱼ) + B(uᵢ − vⱼ)."""
        result = to.z * total_a.sum(-1, keepdim=True)
        if to.u is not None:
            result.addcmul_(to.u, total_b.sum(-1, keepdim=True))
        result -= _moments(other, total_a, total_b)
        if shares is not None:
            shares = shares if axis == 1 else -shares
            result.index_put_((self.near[0], self.near[axis]), shares, accumulate=True)
        return result


class _Differences(_Pairs):
    """From the differences of some coordinates at a time."""

    def __init__(self, a: _Side, b: _Side, metric: str) -> None:
        super().__init__(a, b)
        self.l1 = metric == "l1"
        held = DIFFERENCES_CUDA if a.z.is_cuda else DIFFERENCES
        d, width = a.z.shape[2], max(1, held // max(1, math.prod(self.shape)))
        self.spans = [slice(c, min(c + width, d)) for c in range(0, d, width)]
        self.s, self.along = self.buffer("distance").zero_(), self.buffer("along").zero_()
        for span in self.spans:
            difference, turn = self._apart(span), self._turn(span)
            if self.l1:
                self.s += difference.abs().sum(1)
                difference.sign_()
            self.along += turn.mul_(difference).sum(1)
            if not self.l1:
                self.s += difference.square_().sum(1)

    def left(self, total_a: Tensor, total_b: Tensor) -> Tensor:
        parts = [self._shares(span, total_a, total_b).sum(-1).mT for span in self.spans]
        return torch.cat(parts, -1)

    def right(self, total_a: Tensor, total_b: Tensor) -> Tensor:
        parts = [self._shares(span, total_a, total_b).sum(-2).mT for span in self.spans]
        return torch.cat(parts, -1).neg_()

    def _shares(self, span: slice, total_a: Tensor, total_b: Tensor) -> Tensor:
        apart = self._apart(span)
        if self.l1:
            return apart.sign_().mul_(total_a.unsqueeze(1))
        return apart.mul_(total_a.unsqueeze(1)).addcmul_(self._turn(span), total_b.unsqueeze(1))

    def _apart(self, span: slice) -> Tensor:
        """xᵢ − yⱼ, [B, c, i, j]."""
        left, right = self.a.raw[..., span].mT, self.b.raw[..., span].mT
        return left.unsqueeze(-1) - right.unsqueeze(-2)

    def _turn(self, span: slice) -> Tensor:
        """uᵢ − vⱼ, [B, c, i, j]."""
        u, v = (
            torch.zeros_like(side.z[..., span].mT) if side.u is None else side.u[..., span].mT
            for side in (self.a, self.b)
        )
        return u.unsqueeze(-1) - v.unsqueeze(-2)
