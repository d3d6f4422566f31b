"""What an operation is asked for and what a backend gives back: the one interface between them.

A sweep visits the pairs of one or two samples once and forms, for weights w (ones if None) and
every kernel component c,

    S[xx, c] = Σ_{i≠j} wxᵢ wxⱼ k_c(xᵢ, xⱼ),   S[yy, c] likewise,
    S[xy, c] = Σ_{i,j} wxᵢ wyⱼ k_c(xᵢ, yⱼ)

and, for coefficients a[block, c], the derivatives of L = Σ a·S with respect to x, y, wx and wy.
∂L/∂wx of the xy block alone is the potential p_i = Σⱼ wyⱼ k(xᵢ, yⱼ).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .functions import REGISTRY, KernelFunction, Metric

Blocks = Literal["xx", "xy", "all"]  # "all" is xx, yy, xy, in this order
Means = Literal["sums", "unbiased", "biased"]
"""Whether coefficients are those of the sums, or of means over the pairs of a block, without or
with i = j in their number. Operators are told this and not the factors, which depend on n:
``torch.compile`` may bake a number of a symbolic size into the graph."""


class Component(NamedTuple):
    """The static part of one kernel component; its rate is a number or a device tensor."""

    function: KernelFunction
    shape: float = 0.0
    offset: float = 0.0


def encode(components: Sequence[Component]) -> str:
    """A string that custom operators can carry as an argument."""
    return "|".join(f"{c.function.name}:{c.shape!r}:{c.offset!r}" for c in components)


@lru_cache(maxsize=256)
def decode(text: str) -> tuple[Component, ...]:
    parts = (item.split(":") for item in text.split("|"))
    return tuple(
        Component(REGISTRY[name], float(shape), float(offset)) for name, shape, offset in parts
    )


class Wanted(NamedTuple):
    """Which outputs a sweep computes; work for the others is not done."""

    sums: bool = False
    grad_x: bool = False
    grad_y: bool = False
    grad_wx: bool = False
    grad_wy: bool = False


class PairProblem(NamedTuple):
    """The pairs of one or two samples, and what is asked of their sums.

    All tensors have the batch dimensions [...] of the samples; ``flat`` makes them one, [B].
    """

    x: Tensor  # [..., n, d]
    y: Tensor | None  # [..., m, d]
    wx: Tensor | None  # [..., n]
    wy: Tensor | None  # [..., m]
    rates: Tensor | Sequence[float]  # [..., C], or C numbers
    coefs: Tensor | Sequence[float]  # [..., blocks, C], or blocks·C numbers; none for sums alone
    components: tuple[Component, ...]  # C of them
    blocks: Blocks
    wanted: Wanted = Wanted()
    means: Means = "sums"
    diagonal: bool = False  # whether xx and yy have the pairs i = i (inner products, no Triton)
    constant: float = 0.0  # added to the total, which has this dtype
    dtype: torch.dtype = torch.float64
    backend: str = "reference"
    key: str = ""  # of the components, for operators; see ``encode``

    def without_tensors(self) -> PairProblem:
        """What is left to say beside ``tensors_of``."""
        rates, coefs = (() if isinstance(t, Tensor) else t for t in self[4:6])
        return PairProblem(None, None, None, None, rates, coefs, *self[6:])  # type: ignore[arg-type]

    def with_tensors(self, tensors: Sequence[Tensor | None]) -> PairProblem:
        """The same with other ``tensors_of``; where rates or coefs are None there, with these."""
        x, y, wx, wy, rates, coefs = tensors
        rates = self.rates if rates is None else rates  # type: ignore[assignment]
        coefs = self.coefs if coefs is None else coefs  # type: ignore[assignment]
        return PairProblem(x, y, wx, wy, rates, coefs, *self[6:])  # type: ignore[arg-type]

    def flat(self) -> PairProblem:
        """With one batch dimension [B]."""
        if self.x.dim() == 3:
            return self
        first, count = self.x.dim() - 2, self.batch.numel()
        tensors = [
            t.reshape(count, *t.shape[first:]) if isinstance(t, Tensor) else t
            for t in tensors_of(self)
        ]
        return self.with_tensors(tensors)

    @property
    def batch(self) -> torch.Size:
        return self.x.shape[:-2]

    @property
    def sizes(self) -> tuple[int, int]:
        """n and m, 0 without y."""
        return self.x.shape[-2], 0 if self.y is None else self.y.shape[-2]

    @property
    def metric(self) -> Metric:
        """The one metric that all components share."""
        return metric_of(self.components)

    @property
    def smooth(self) -> bool:
        return all(c.function.smooth for c in self.components)

    @property
    def sum_coefs(self) -> list[float]:
        """The coefficients of sums, where those that are given may be of means."""
        assert not isinstance(self.coefs, Tensor)
        return factors(self.coefs, *self.sizes, self.blocks, self.means)

    @property
    def apart(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """The coefficients of blocks, the first of which is 1, and of components; None where those
        of both together are not products of these."""
        return _apart(tuple(self.coefs), len(self.components))


@lru_cache(maxsize=256)
def _apart(
    coefs: tuple[float, ...], components: int
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    first = coefs[:components]
    blocks = tuple(a / first[0] if first[0] else 0.0 for a in coefs[::components])
    products = tuple(block * a for block in blocks for a in first)
    return (blocks, first) if products == coefs else None


def factors(coefs: Sequence[float], n: int, m: int, blocks: Blocks, means: Means) -> list[float]:
    """The coefficients of sums: those of means, block-major, times the factor of each block."""
    counts = mean_counts(n, m, blocks, means)
    width = len(coefs) // len(counts)
    return [c * (1.0 / counts[k // width]) for k, c in enumerate(coefs)]


def tensors_of(p: PairProblem) -> tuple[Tensor | None, ...]:
    """What can be differentiated, traced or vectorised: x, y, wx, wy, rates, coefs. (No property:
    the compiler of torch 2.6 does not know those of a named tuple.)"""
    rates = p.rates if isinstance(p.rates, Tensor) else None
    coefs = p.coefs if isinstance(p.coefs, Tensor) else None
    return p.x, p.y, p.wx, p.wy, rates, coefs


def metric_of(components: Sequence[Component]) -> Metric:
    (metric,) = {c.function.metric for c in components}
    return metric


def block_names(blocks: Blocks) -> tuple[str, ...]:
    return ("xx", "yy", "xy") if blocks == "all" else (blocks,)


def mean_counts(n: int, m: int, blocks: Blocks, means: Means) -> list[int]:
    """What each block's sum is divided by."""
    if means == "sums":
        return [1] * len(block_names(blocks))
    less = 1 if means == "unbiased" else 0
    counts = {"xx": n * (n - less), "yy": m * (m - less), "xy": n * m}
    return [counts[name] for name in block_names(blocks)]


class Sweep(NamedTuple):
    """Outputs of a sweep over a batch of B problems; those not wanted are None. No two share
    memory, nor with an input: they are the outputs of a custom operator."""

    sums: Tensor | None  # [B, blocks, C] float64
    grad_x: Tensor | None  # [B, n, d]
    grad_y: Tensor | None  # [B, m, d]
    grad_wx: Tensor | None  # [B, n]
    grad_wy: Tensor | None  # [B, m]


class QuadraticSums(NamedTuple):
    """What the pairs of one sample z [N, d] give for labels v [N, B] and row centres a [C, N],
    with k̂ᵢⱼ = k(zᵢ, zⱼ) − aᵢ − aⱼ per kernel component; fp64."""

    forms: Tensor  # [C, B]: Σ_{i≠j} vᵢvⱼ k̂ᵢⱼ
    row_sums: Tensor  # [C, N]: Σ_{j≠i} k̂ᵢⱼ
    squares: Tensor  # [C]: Σ_{i≠j} k̂ᵢⱼ²
