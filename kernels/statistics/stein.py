"""Sums of the Stein kernel u_p over pairs of points, without its matrix.

For a density p with score s = ∇ log p and a base kernel k(x, y) = φ(‖x − y‖²) (Liu, Lee & Jordan
2016, eq. 9; Chwialkowski, Strathmann & Gretton 2016, eq. 4),

    u(x, y) = s(x)·s(y) k + s(x)·∇_y k + s(y)·∇_x k + tr ∇_x∇_y k
            = s(x)·s(y) φ + 2φ′ (s(y) − s(x))·(x − y) − 2d φ′ − 4‖x − y‖² φ″,

whose mean over y ~ p is 0 for every x. A tile of it takes three matrix products (of distances, of
scores, and of (s(y) − s(x))·(x − y)), and meets all sign vectors of the wild bootstrap while at
hand. Only one triangle is visited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernel import Kernel, Term
from ..reference.tiles import (
    Distances,
    Tile,
    centre,
    full_precision,
    matmul,
    prepare,
    scratch,
    tile_rows,
    tiles,
)
from .sharing import current_share

COLUMNS = 1024  # sign vectors that meet a tile at a time
TIE = {False: 1e-13, True: 2e-5}  # of √Σu²: what fp64 and fp32 products may leave in a form


class SteinSums(NamedTuple):
    """Sums over pairs i ≠ j, in fp64."""

    forms: Tensor  # [B]: Σ vᵢvⱼ u(xᵢ, xⱼ) of each sign vector v
    row_sums: Tensor  # [N]: Σⱼ u(xᵢ, xⱼ)
    squares: float  # Σ u²
    rounding: float  # a bound on what rounding does to a form


@torch.no_grad()
def stein_sums(
    x: Tensor,
    scores: Tensor,
    kernel: Kernel,
    signs: Tensor | None = None,
    *,
    narrow: bool = False,
    tick: Callable[[], object] | None = None,
) -> SteinSums:
    """Sums of u over the pairs of points x [N, d] with scores s(x) [N, d].

    kernel: resolved; a sum of Gaussian, inverse multiquadric and rational quadratic kernels, whose
    second derivatives are bounded. signs: [N, B], int8, ±1. u is formed in fp64; ``narrow`` rounds
    it to fp32 for the products with signs. ``tick`` is called after each of ``stein_steps(N)``.
    Memory is O(N·(d + B)) and a few tiles. Raises ValueError for other kernels.
    """
    check_stein_kernel(kernel)
    x, scores = x.double(), scores.double()
    with full_precision(x.device.type):
        sweep = _Sweep(x, scores, kernel, signs, torch.float32 if narrow else torch.float64)
        for tile in current_share().of(tiles(len(x), len(x), tile_rows(x), itself=True)):
            sweep.visit(tile)
            if tick is not None:
                tick()
    current_share().total(sweep.forms, sweep.row_sums, sweep.squares)
    squares = float(sweep.squares)
    return SteinSums(sweep.forms, sweep.row_sums, squares, TIE[narrow] * squares**0.5)


def stein_steps(x: Tensor) -> int:
    """How often ``stein_sums`` reports progress."""
    across = -(-len(x) // tile_rows(x))
    return current_share().count(across * (across + 1) // 2)


def check_stein_kernel(kernel: Kernel) -> None:
    for t in kernel.terms:
        if t.function.stein is None:
            raise ValueError(
                f"{kernel!r} has no Stein kernel here, which needs two derivatives at 0; use "
                "InverseMultiquadric, RationalQuadratic or Gaussian kernels"
            )


class _Sweep:
    """Prepared factors of the three products, and accumulators."""

    def __init__(
        self, x: Tensor, scores: Tensor, kernel: Kernel, signs: Tensor | None, dtype: torch.dtype
    ) -> None:
        self.terms, self.scores, self.dtype = kernel.terms, scores, dtype
        self.signs = x.new_empty(len(x), 0, dtype=torch.int8) if signs is None else signs
        middle = centre(x.unsqueeze(0), None, "sqeuclidean")
        self.side = prepare(x.unsqueeze(0), None, middle, "sqeuclidean", tile_rows(x), False)
        rates = [abs(float(t.rate)) for t in kernel.terms]
        self.distances = Distances("sqeuclidean", smooth=True, rate=max(rates))
        # (s(y) − s(x))·(x − y) keeps its digits where both are centred, which does not change it.
        points = self.side.points[0]
        s = scores - scores.median(0).values
        own, ones = (s * points).sum(1, keepdim=True), torch.ones_like(s[:, :1])
        self.left = torch.cat([s, points, -own, -ones], 1)
        self.right = torch.cat([points, s, ones, own], 1)
        self.forms = x.new_zeros(self.signs.shape[1])
        self.row_sums = x.new_zeros(len(x))
        self.squares = x.new_zeros(())

    def visit(self, tile: Tile) -> None:
        i, j = slice(tile.i.start, tile.i.stop), slice(tile.j.start, tile.j.stop)
        u = self._values(tile, i, j)
        if tile.diagonal:
            u.diagonal().zero_()
        self.row_sums[i] += u.sum(1)
        if tile.mirrored:
            self.row_sums[j] += u.sum(0)
        twice = 2.0 if tile.mirrored else 1.0
        self.squares.add_(u.flatten().dot(u.flatten()), alpha=twice)
        if self.signs.shape[1] == 0:
            return
        u = scratch("stein rounded", u.shape, u.new_empty(0, dtype=self.dtype)).copy_(u)
        for start in range(0, self.signs.shape[1], COLUMNS):
            columns = slice(start, start + COLUMNS)
            right = self.signs[j, columns].to(self.dtype)
            products = scratch("stein products", (u.shape[0], right.shape[1]), u)
            matmul(u[None], right[None], products[None])
            products.mul_(self.signs[i, columns])
            self.forms[columns].add_(products.sum(0), alpha=twice)

    def _values(self, tile: Tile, i: slice, j: slice) -> Tensor:
        """u of a tile, self-pairs included."""
        s = self.distances(self.side, self.side, slice(0, 1), tile)[0][0]
        gram, cross, total = (scratch(name, s.shape, s) for name in ("gram", "cross", "stein"))
        torch.mm(self.scores[i], self.scores[j].T, out=gram)
        torch.mm(self.left[i], self.right[j].T, out=cross)
        for k, term in enumerate(self.terms):
            _add_stein(term, s, gram, cross, self.scores.shape[1], total, first=k == 0)
        return total


def _add_stein(
    t: Term, s: Tensor, gram: Tensor, cross: Tensor, d: int, total: Tensor, *, first: bool
) -> None:
    """total += coefficient·φ·(gram − g·(cross − d + h)), where g = −2φ′/φ and h = −2sφ″/φ′. The
    block of a function makes −g·(cross − d + h) of cross, in place, and φ."""
    assert t.function.stein is not None
    inner, phi = scratch("stein inner", s.shape, s).copy_(cross), scratch("stein phi", s.shape, s)
    t.function.stein(s, float(t.rate), t.shape, d, inner, phi)
    inner.add_(gram)
    if first:
        torch.mul(inner, phi, out=total).mul_(t.coefficient)
    else:
        total.addcmul_(inner, phi, value=t.coefficient)
