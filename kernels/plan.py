"""What a backend is asked for, and what it gives back: the one interface between ops and backends.

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
"""What a form totals: the sums, or means over the pairs of a block, without or with i = j in their
number. Operators are told this and not the numbers, which depend on n: ``torch.compile`` may bake a
number of a symbolic size into the graph."""


class Form(NamedTuple):
    """Σ coefs·S + constant in ``dtype``, where S are sums or means; ``coefs`` [blocks·C]."""

    coefs: tuple[float, ...]
    means: Means
    constant: float = 0.0
    dtype: torch.dtype = torch.float64


class Component(NamedTuple):
    """The static part of one kernel component; its rate is a number or a device tensor."""

    function: KernelFunction
    shape: float = 0.0
    offset: float = 0.0


def encode(components: Sequence[Component]) -> str:
    """A string that operators can carry as an argument."""
    return "|".join(f"{c.function.name}:{c.shape!r}:{c.offset!r}" for c in components)


@lru_cache(maxsize=256)
def decode(text: str) -> tuple[Component, ...]:
    parts = (item.split(":") for item in text.split("|"))
    return tuple(
        Component(REGISTRY[name], float(shape), float(offset)) for name, shape, offset in parts
    )


def metric_of(components: Sequence[Component]) -> Metric:
    """The one metric that all components of a sweep share."""
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


def mean_factors(n: int, m: int, blocks: Blocks, means: Means) -> list[float]:
    """The factor of each block's sum."""
    return [1.0 / count for count in mean_counts(n, m, blocks, means)]


def form_coefs(form: Form, n: int, m: int, blocks: Blocks) -> list[float]:
    """The coefficients of sums [blocks·C]: those of the form, each times the factor of its
    block."""
    factors = mean_factors(n, m, blocks, form.means)
    width = len(form.coefs) // len(factors)
    return [c * factors[k // width] for k, c in enumerate(form.coefs)]


class Wanted(NamedTuple):
    """Which outputs a sweep computes; work for the others is not done."""

    sums: bool = False
    grad_x: bool = False
    grad_y: bool = False
    grad_wx: bool = False
    grad_wy: bool = False


class Sweep(NamedTuple):
    """Outputs of a sweep over a batch of B problems; those not wanted are empty tensors [0]. No
    two share memory, nor with an input: they are the outputs of a custom operator."""

    sums: Tensor  # [B, blocks, C] float64
    grad_x: Tensor  # [B, n, d]
    grad_y: Tensor  # [B, m, d]
    grad_wx: Tensor  # [B, n]
    grad_wy: Tensor  # [B, m]


class LabelSums(NamedTuple):
    """What the pairs of one sample z [N, d] give for labels v [N, B] and row centres a [C, N],
    with k̂ᵢⱼ = k(zᵢ, zⱼ) − aᵢ − aⱼ per kernel component; fp64."""

    forms: Tensor  # [C, B]: Σ_{i≠j} vᵢvⱼ k̂ᵢⱼ
    row_sums: Tensor  # [C, N]: Σ_{j≠i} k̂ᵢⱼ
    squares: Tensor  # [C]: Σ_{i≠j} k̂ᵢⱼ²
