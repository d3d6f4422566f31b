"""The form of one small problem: a few hundred rows on a CPU, without weights or batch dimensions.

There the number of Python and torch calls decides, not their size. K of the pooled sample comes
from one product and is multiplied by a kept matrix of coefficients C, which has the estimator's
factors and a diagonal of zeros; then L = ½ Σ C∘K, and ∂L/∂uᵢ = Σⱼ (C∘slope)ᵢⱼ (uᵢ − uⱼ) for rows of
both samples alike. Where fp32 would lose too many digits, the general way takes over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..functions import Rate
from ..problem import Component, Means, PairProblem, mean_counts
from .tiles import (
    CANCELLATION,
    EXPONENT_ERROR,
    FEW_COLUMNS,
    RANGE,
    TILE,
    UNRESOLVED,
    UNRESOLVED_IN_FP32,
    add_scaled,
    differences,
    doubles_suffice,
    equal_rows,
    exponent_error,
    full_precision,
    has_tiny,
    is_lowered,
    largest_rate,
    scratch,
    squared_differences,
)

# From so many columns and products on, the pairs of yx cost more than a copy and four calls.
MANY_COLUMNS, MANY_PRODUCTS = 48, 2**20

Results = tuple[Tensor, Tensor | None, Tensor | None, None, None]
"""L, ∂L/∂x, ∂L/∂y, and nothing of weights."""


def is_small(problem: PairProblem) -> bool:
    """One problem [n, d], [m, d] without weights that fits into a tile on a CPU."""
    x, y = problem.x, problem.y
    return (
        x.dim() == 2
        and x.is_cpu
        and problem.wx is None
        and problem.wy is None
        and 0 < len(x) + (0 if y is None else len(y)) <= TILE
        and len(x) > 0
        and (y is None or len(y) > 0)
        and not isinstance(problem.coefs, Tensor)
    )


def form(problem: PairProblem) -> Results | None:
    """None unless it is a small one of squared Euclidean distances, with block coefficients that
    are whole numbers (see ``_pair_coefficients``), whose distances and gradients keep their digits
    this way and are finite."""
    if problem.metric != "sqeuclidean" or not is_small(problem):
        return None
    apart = problem.apart
    if apart is None or any(a != int(a) for a in apart[0]):
        return None
    blocks, of_components = apart
    x, y, components, wanted = problem.x, problem.y, problem.components, problem.wanted
    wide = x.dtype == torch.float32 and is_lowered("cpu")
    if wide:
        x, y = x.double(), None if y is None else y.double()
    rates = problem.rates.tolist() if isinstance(problem.rates, Tensor) else problem.rates
    n, m = len(x), 0 if y is None else len(y)
    gradients = wanted.grad_x or wanted.grad_y
    with full_precision("cpu"):
        prepared = _prepare(x, y, largest_rate(components, rates), problem.smooth, gradients)
        if prepared is None:
            return None
        s, points = prepared
        pairs, scale = _pair_coefficients(n, m, blocks, problem.means, s.dtype)
        k = mixture(s, components, rates, [scale * a for a in of_components], gradients)
        value = k.value.mul_(pairs)
        rows = value.sum(1)
        total = 0.5 * k.value_scale * float(rows.sum(dtype=torch.float64)) + problem.constant
        if k.slope is not value and gradients:
            rows = k.slope.mul_(pairs).sum(1)
        grad_x = _gradient(k, rows, points, 0, n) if wanted.grad_x else None
        grad_y = _gradient(k, rows, points, n, n + m) if wanted.grad_y else None
    if wide:
        grad_x, grad_y = (None if g is None else g.float() for g in (grad_x, grad_y))
    # whatever the default device is
    return torch.tensor(total, dtype=problem.dtype, device="cpu"), grad_x, grad_y, None, None


@lru_cache(maxsize=4)  # up to 8 MB each
def _pair_coefficients(
    n: int, m: int, block_coefs: tuple[float, ...], means: Means, dtype: torch.dtype
) -> tuple[Tensor, float]:
    """C [n+m, n+m], for a matrix that holds every pair in both orders, and a factor apart from it.

    The entries are whole numbers, and small ones: a rounded one would err in the same direction for
    all pairs of a block."""
    counts = mean_counts(n, m, "all" if m else "xx", means)
    common = math.lcm(*counts)
    entries = [a * (common // count) for a, count in zip(block_coefs, counts, strict=True)]
    with torch.inference_mode(False):
        matrix = torch.empty(n + m, n + m, dtype=dtype, device="cpu")
        matrix[:n, :n] = 2.0 * entries[0]
        if m:
            matrix[n:, n:] = 2.0 * entries[1]
            matrix[:n, n:] = matrix[n:, :n] = entries[2]
        return matrix.fill_diagonal_(0.0), 1.0 / common


def _prepare(
    x: Tensor, y: Tensor | None, rate: float, smooth: bool, gradients: bool
) -> tuple[Tensor, Tensor] | None:
    """s of the pooled rows [N, d] with themselves, whose diagonal is of no use, and what the
    gradient is made of: the centred rows, in fp64 where fp32 distances would not do; or, of a few
    columns, these [1, d, N], whose differences are taken."""
    n, single = len(x), x.dtype == torch.float32
    if single and rate > RANGE[1]:
        return None
    if x.shape[1] <= FEW_COLUMNS:
        columns = _pooled(x, y).T.contiguous().unsqueeze(0)
        s = scratch("distance", (1, columns.shape[2], columns.shape[2]), x)
        if single and not smooth and has_tiny(columns):
            return None
        squared_differences(columns, columns, s)
        return (s[0], columns) if _in_range(float(s.amax())) else None
    u = _centred(x, y)
    norms = u.square().sum(1)
    top = float(norms.max())
    if not _in_range(top):
        return None
    if smooth:
        if gradients and _repeats(norms) and equal_rows(x, y) is not None:
            return None
        enough = exponent_error(2.0 * top, rate, x.dtype) <= EXPONENT_ERROR[x.dtype]
        if enough:
            return _gram_distances(u, norms, n), u
        if not (single and doubles_suffice(2.0 * top, rate)):
            return None
    else:
        s = _gram_distances(u, norms, n)
        s.diagonal().fill_(4.0 * top)  # as far as two rows can be
        if float(s.amin()) >= 2.0 * (CANCELLATION if single else UNRESOLVED) * top:
            return s, u
        if not single:
            return None
    u = _centred(x.double(), None if y is None else y.double())
    s = _gram_distances(u, u.square().sum(1), n)
    if not smooth:
        s.diagonal().fill_(4.0 * top)
        if not float(s.amin()) >= 2.0 * UNRESOLVED_IN_FP32 * top:
            return None
    return scratch("distance", s.shape, x).copy_(s), u


def _pooled(x: Tensor, y: Tensor | None) -> Tensor:
    return x if y is None else torch.cat([x, y])


def _centred(x: Tensor, y: Tensor | None) -> Tensor:
    """Pooled rows around their mean."""
    z = _pooled(x, y)
    mean = z.mean(0)
    return z - mean if y is None else z.sub_(mean)


def _in_range(squared: float) -> bool:
    """Whether fp32 holds it with all its digits; NaN is not."""
    return RANGE[0] < squared < RANGE[1]


def _repeats(norms: Tensor) -> bool:
    """Equal rows have equal norms, and few others do."""
    return len(set(norms.tolist())) < len(norms)  # at these sizes faster than sorting them


def _gram_distances(u: Tensor, norms: Tensor, n: int) -> Tensor:
    """In scratch memory. ``n``: rows of the first sample."""
    s = torch.add(norms, norms.unsqueeze(1), out=scratch("distance", (len(u), len(u)), u))
    d = u.shape[1]
    if d < MANY_COLUMNS or n * (len(u) - n) * d < MANY_PRODUCTS:
        return s.addmm_(u, u.T, alpha=-2.0)
    s[:n].addmm_(u[:n], u.T, alpha=-2.0)
    s[n:, n:].addmm_(u[n:], u[n:].T, alpha=-2.0)
    s[n:, :n] = s[:n, n:].T
    return s


class Mixture(NamedTuple):
    """Σ over components, ``value * value_scale`` and ``slope * slope_scale``; the two matrices may
    be one."""

    value: Tensor
    value_scale: float
    slope: Tensor
    slope_scale: Rate


def mixture(
    s: Tensor,
    components: tuple[Component, ...],
    rates: Sequence[Rate],
    coefficients: Sequence[float],
    gradients: bool,
) -> Mixture:
    """``s`` is overwritten."""
    buffer = scratch("slope", s.shape, s) if gradients else None
    if len(components) == 1:
        (c,) = components
        k = c.function.evaluate(s, rates[0], c.shape, c.offset, buffer, s)
        a = coefficients[0]
        return Mixture(k.value, a * k.value_scale, k.slope, a * k.slope_scale)
    out, value = scratch("value", s.shape, s), scratch("values", s.shape, s).zero_()
    slope = scratch("total", s.shape, s).zero_() if gradients else value
    for c, rate, a in zip(components, rates, coefficients, strict=True):
        k = c.function.evaluate(s, rate, c.shape, c.offset, buffer, out)
        value.add_(k.value, alpha=a * k.value_scale)
        if gradients:
            add_scaled(slope, k.slope, a * k.slope_scale)
    return Mixture(value, 1.0, slope, 1.0)


def _gradient(k: Mixture, row_sums: Tensor, u: Tensor, start: int, stop: int) -> Tensor:
    """Σⱼ slopeᵢⱼ·(uᵢ − uⱼ) of some rows [r, d], in the dtype of the slopes; u as ``_prepare``
    made it."""
    slopes, masses = k.slope[start:stop], row_sums[start:stop]
    if u.dim() == 3:
        own = u[:, :, start:stop]
        terms = (differences(own, u, c)[0].mul_(slopes).sum(1) for c in range(u.shape[1]))
        return torch.stack([*terms], 1).mul_(k.slope_scale)
    if u.dtype != slopes.dtype:  # in fp64 throughout, as the two terms may cancel
        slopes = slopes.to(u.dtype)
        masses = slopes.sum(1)
    own = u[start:stop] * masses.unsqueeze(1)
    scale = float(k.slope_scale)
    gradient = torch.addmm(own, slopes, u, beta=scale, alpha=-scale)
    return gradient.to(k.slope.dtype)
