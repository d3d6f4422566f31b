"""Permuted sums Σ_{i≠j} k(xᵢ, xⱼ) l(y_π(i), y_π(j)) for many permutations π: tests of independence.

No product with label vectors gives them, so the pairs of y are visited anew for every permutation,
tile by tile, from gathered rows: a tile of K is formed once and meets all permutations.

K is *centred* first, doubly and without its diagonal (U-centred: Székely & Rizzo, "Partial distance
correlation", Ann. Statist. 2014, eq. 2.1):

    k̃ᵢⱼ = kᵢⱼ − aᵢ − aⱼ,   aᵢ = rᵢ/(n−2) − R/(2(n−1)(n−2)),   rᵢ = Σ_{j≠i} kᵢⱼ,   R = Σ rᵢ.

Rows of k̃ sum to zero, so that Σ k̃ᵢⱼ l = Σ k̃ᵢⱼ l̃ whatever the permutation: centring one side is
enough, only what permutations can change is in the products, and over n(n−3) these sums are the
unbiased HSIC and distance covariance, with no further term.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..kernel import Kernel
from ..problem import Component, metric_of
from ..reference.tiles import (
    Distances,
    Side,
    Span,
    Tile,
    centre,
    evaluations,
    full_precision,
    largest_rate,
    matmul,
    prepare,
    scratch,
    tiles,
)
from .quadratic_forms import QuadraticForms
from .sharing import current_share

STEP = {"cpu": 2**19, "cuda": 2**25}  # pairs, of all permutations in hand, formed at a time
TILE = 256  # rows of a tile that many permutations meet: K stays in the cache
LEAST_TILE = 64
WIDE_TIE = 1e-11  # of √(Σk̃²·Σl²): what rounding does to a sum at most; as tiles.EXPONENT_ERROR
NARROW_TIE = 2e-7
CENTRING = 1e-14  # of √(Σk²·Σl²)


class _Group(NamedTuple):
    """The terms of one metric, which share distances."""

    side: Side
    distances: dict[bool, Distances]  # by ``narrow``
    terms: list[tuple[int, Component, float]]  # position in the kernel, function, rate


class Centred:
    """The kernel matrices of one sample z [n, d], n ≥ 4, term by term, U-centred; none is stored.

    ``row_sums`` r [C, n] and ``centres`` a [C, n]; ``products`` Σ_{i≠j} k̃_b k̃_c [C, C], exactly
    0 for terms that are constant up to rounding; ``squares`` Σ_{i≠j} k² [C]. All fp64,
    coefficients of terms not applied. The kernel is resolved.
    """

    def __init__(self, z: Tensor, kernel: Kernel) -> None:
        self.z, self.kernel, self.count = z.double(), kernel, len(z)
        forms = QuadraticForms(self.z, kernel, backend="reference")
        forms(torch.ones(self.count, 1, dtype=torch.int8, device=z.device))
        self.row_sums, self.squares = forms.row_sums, forms.squares
        n, total = self.count, self.row_sums.sum(1, keepdim=True)
        self.centres = self.row_sums / (n - 2) - total / (2 * (n - 1) * (n - 2))
        self._groups = _groups(self.z, kernel)
        self.products = self._products()

    def tile(self, i: Span, j: Span) -> Tensor:
        """k̃ of rows i and j, [C, I, J]."""
        rows = torch.arange(self.count, device=self.z.device).unsqueeze(0)
        found = self.z.new_empty(len(self.kernel.terms), i.stop - i.start, j.stop - j.start)
        diagonal = i.number == j.number
        at, to = slice(i.start, i.stop), slice(j.start, j.stop)
        for c, value, scale in self.values(rows[:, at], rows[:, to], diagonal, narrow=False):
            torch.mul(value[0], scale, out=found[c])
        found.sub_(self.centres[:, at, None]).sub_(self.centres[:, None, to])
        if diagonal:
            found.diagonal(dim1=1, dim2=2).zero_()
        return found

    def values(
        self, i: Tensor, j: Tensor, diagonal: bool, narrow: bool
    ) -> Iterator[tuple[int, Tensor, float]]:
        """For each term its position, k of the rows i [b, I] and j [b, J] as a buffer [b, I, J]
        that the next item overwrites, and the factor that goes with it."""
        tile = Tile(Span(0, i.shape[1], 0), Span(0, j.shape[1], 0 if diagonal else 1), True)
        for side, distances, terms in self._groups:
            left, right = _rows(side, i, "left"), _rows(side, j, "right")
            s, _ = distances[narrow](left, right, slice(None), tile)
            if narrow:
                like = s.new_empty(0, dtype=torch.float32)
                s = scratch("permuted distance", s.shape, like).copy_(s)
                s = s if distances[narrow].metric == "inner" else s.clamp_min_(0.0)
            positions, components, rates = zip(*terms, strict=True)
            each = evaluations(s, components, rates, diagonal=diagonal)
            for position, k in zip(positions, each, strict=True):
                yield position, k.value, k.value_scale

    def _products(self) -> Tensor:
        found = self.z.new_zeros(len(self.kernel.terms), len(self.kernel.terms))
        with full_precision(self.z.device.type):
            for i, j in current_share().of(pairs_of_spans(self.count, 1, self.z)):
                k = self.tile(i, j).flatten(1)
                found.add_(k @ k.T, alpha=2.0 if i.number != j.number else 1.0)
        current_share().total(found)
        constant = found.diagonal() <= (1e-12**2) * self.squares
        return found.masked_fill_(constant, 0.0).masked_fill_(constant.unsqueeze(1), 0.0)


def _groups(z: Tensor, kernel: Kernel) -> list[_Group]:
    found = []
    for group in kernel.groups(torch.Size()):
        components = group.components
        rates = [float(kernel.terms[p].rate) for p in group.positions]
        metric, points = metric_of(components), z.unsqueeze(0)
        side = prepare(points, None, centre(points, None, metric), metric, len(z), False)
        rough = [c.function for c in components if not c.function.smooth]
        rated = [(c, r) for c, r in zip(components, rates, strict=True) if c.function.rate_power]
        rate = largest_rate(*zip(*rated, strict=True)) if rated else 0.0
        distances = {
            False: Distances(metric, not rough, rate),
            # An fp64 Gram product leaves at most 1e-8 of the spread in ‖y − y′‖: enough for fp32.
            True: Distances(metric, all(f.rate_power == 0 for f in rough), rate),
        }
        terms = list(zip(group.positions, components, rates, strict=True))
        found.append(_Group(side, distances, terms))
    return found


def _rows(side: Side, rows: Tensor, factor: Literal["left", "right"]) -> Side:
    """What one factor of a product of distances is made of, for rows [b, I] of the sample."""
    chosen = {factor: getattr(side, factor)[0][rows]}
    return side._replace(sample=side.sample[0][rows], largest=side.largest * 2, **chosen)


def pairs_of_spans(count: int, permutations: int, z: Tensor) -> list[tuple[Span, Span]]:
    """One triangle of tiles, small enough to skip most of the other and for K to stay in cache."""
    side = max(TILE, math.isqrt(STEP[z.device.type] // permutations))
    side = min(side, max(LEAST_TILE, -(-count // 4)))
    return [(tile.i, tile.j) for tile in tiles(count, count, side, itself=True)]


class PermutedSums:
    """Σ_{i≠j} k̃(xᵢ, xⱼ) l(y_π(i), y_π(j)) for every term of k and of l and every permutation π.

    x, y: ``Centred`` of equally many rows. K is formed in fp64, and so is L unless ``narrow``,
    which rounds it to fp32 behind the distances: up to three times as fast. ``rounding`` [Cx, Cy]
    bounds what this and the order of additions do to a sum.
    """

    def __init__(self, x: Centred, y: Centred, *, narrow: bool = False) -> None:
        self.x, self.y, self.narrow = x, y, narrow
        tie = NARROW_TIE if narrow else WIDE_TIE
        self.rounding = tie * torch.outer(x.products.diagonal(), y.squares).sqrt()
        # what centring leaves of K, which is all there is of it where x is constant but for a row
        self.rounding += CENTRING * torch.outer(x.squares, y.squares).sqrt()

    def steps(self, permutations: int) -> int:
        """How often a call with so many reports progress."""
        return current_share().count(len(pairs_of_spans(self.x.count, permutations, self.x.z)))

    @torch.no_grad()
    def __call__(self, permutations: Tensor, tick: Callable[[], object] | None = None) -> Tensor:
        """[Cx, Cy, B] in fp64, for permutations [B, n], int64. ``tick`` is called after each of
        ``steps``."""
        x, y = self.x, self.y
        found = x.z.new_zeros(len(x.kernel.terms), len(y.kernel.terms), len(permutations))
        with full_precision(x.z.device.type):
            for i, j in current_share().of(pairs_of_spans(x.count, len(permutations), x.z)):
                self._add(found, i, j, permutations)
                if tick is not None:
                    tick()
        current_share().total(found)
        return found

    def _add(self, found: Tensor, i: Span, j: Span, permutations: Tensor) -> None:
        k = self.x.tile(i, j).flatten(1).to(torch.float32 if self.narrow else torch.float64)
        twice = 2.0 if i.number != j.number else 1.0
        gathered = 2 * (i.stop - i.start) * self.y.z.shape[1]
        step = max(1, STEP[k.device.type] // max(k.shape[1], gathered))
        for start in range(0, len(permutations), step):
            part = slice(start, start + step)
            at, to = permutations[part, i.start : i.stop], permutations[part, j.start : j.stop]
            for c, value, scale in self.y.values(at, to, i.number == j.number, self.narrow):
                products = matmul(k.unsqueeze(0), value.flatten(1).T.unsqueeze(0))[0]
                found[:, c, part].add_(products, alpha=scale * twice)
