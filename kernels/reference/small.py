"""The form of one small problem: a few hundred rows on a CPU, without weights, in eager mode.

There the number of Python and torch calls decides, not their size. K of the pooled sample comes
from one product and is multiplied by a kept matrix of coefficients C, which has the estimator's
factors and a diagonal of zeros; then L = ½ Σ C∘K, and ∂L/∂uᵢ = Σⱼ (C∘slope)ᵢⱼ (uᵢ − uⱼ) for rows of
both samples alike. Where fp32 would lose too many digits, and where it is differentiated twice, the
general way takes over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backends import choose, run
from ..functions import Rate
from ..kernel import Group, Kernel
from ..plan import (
    Blocks,
    Component,
    Form,
    Means,
    Wanted,
    decode,
    form_coefs,
    mean_counts,
    metric_of,
)
from ..validation import transforms_active
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


class Problem(NamedTuple):
    """What is asked of the samples; the form has a coefficient for each block."""

    group: Group
    form: Form
    general: Callable[[Tensor, Tensor | None], Tensor]  # the same, differentiable twice


def applies(
    x: Tensor,
    y: Tensor | None,
    kernel: Kernel,
    block_coefs: tuple[float, ...],
    backend: str | None,
) -> bool:
    """One problem [n, d], [m, d] that fits into a tile, on squared Euclidean distances, with whole
    numbers for block coefficients (see ``_pair_coefficients``)."""
    if torch.compiler.is_compiling():  # first: nothing below is to be traced
        return False
    return (
        x.dim() == 2
        and x.is_cpu
        and 0 < len(x) + (0 if y is None else len(y)) <= TILE
        and len(x) > 0
        and (y is None or (y.dim() == 2 and len(y) > 0))
        and kernel.metric == "sqeuclidean"
        and all(a == int(a) for a in block_coefs)
        and choose(x, backend) == "reference"
        and not transforms_active()
    )


def form(x: Tensor, y: Tensor | None, problem: Problem) -> Tensor:
    """The form, 0-d."""
    if torch.is_grad_enabled() and (x.requires_grad or (y is not None and y.requires_grad)):
        out: Tensor = _Form.apply(x, y, problem)  # type: ignore[no-untyped-call]
        return out
    return _scalar(_solve(x, y, problem, Wanted()).value, problem)


def sweep(
    x: Tensor,
    y: Tensor | None,
    rates: list[float] | Tensor,
    form: Form,
    components: str,
    wanted: Wanted,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The form [1] in fp64 and its gradients [1, n, d], [1, m, d] (or [0]) for the operator that a
    compiler sees; None unless it is one problem as ``applies`` has it."""
    rows = x.shape[1] + (0 if y is None else y.shape[1])
    if (
        len(x) != 1
        or not x.is_cpu
        or not 0 < rows <= TILE
        or (y is not None and y.shape[1] == 0)
        or x.shape[1] == 0
    ):
        return None
    if metric_of(decode(components)) != "sqeuclidean":
        return None
    width = components.count("|") + 1
    coefs = form.coefs
    blocks = tuple(a / coefs[0] for a in coefs[::width])
    if any(a != int(a) for a in blocks):
        return None
    group = Group(components, rates, list(coefs[:width]), [])
    problem = Problem(group, form._replace(coefs=blocks), _no_other_way)
    found = _solve(x[0], None if y is None else y[0], problem, wanted)
    gx, gy = (x.new_empty(0) if g is None else g.unsqueeze(0) for g in found[1:])
    return x.new_tensor([found.value], dtype=torch.float64), gx, gy


def _no_other_way(x: Tensor, y: Tensor | None) -> Tensor:
    raise NotImplementedError


def _scalar(value: float, problem: Problem) -> Tensor:
    dtype = problem.form.dtype
    return torch.tensor(value, dtype=dtype, device="cpu")  # whatever the default one is


class _Form(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None, problem: Problem) -> Tensor:
        found = _solve(x, y, problem, Wanted(False, *ctx.needs_input_grad[:2]))
        ctx.general = problem.general
        ctx.save_for_backward(x, y, *found[1:])
        return _scalar(found.value, problem)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        *samples, grad_x, grad_y = ctx.saved_tensors  # raises where the graph was freed
        if torch.is_grad_enabled():
            # Views: what leads from one sample to the other is the engine's to follow.
            inputs = [None if t is None else t.view_as(t) for t in samples]
            pairs = zip(inputs, ctx.needs_input_grad, strict=False)
            needed = [t for t, need in pairs if t is not None and need]
            found = iter(torch.autograd.grad(ctx.general(*inputs), needed, grad, create_graph=True))
            gradients = [next(found) if need else None for need in ctx.needs_input_grad[:2]]
        else:
            gradients = [None if g is None else g * grad for g in (grad_x, grad_y)]
        return *gradients, None


class _Found(NamedTuple):
    value: float
    grad_x: Tensor | None  # [n, d]
    grad_y: Tensor | None  # [m, d]


def _solve(x: Tensor, y: Tensor | None, problem: Problem, wanted: Wanted) -> _Found:
    components, rates = decode(problem.group.components), problem.group.rates
    numbers = rates[0].tolist() if isinstance(rates, Tensor) else rates
    wide = x.dtype == torch.float32 and is_lowered("cpu")
    given = x, y
    if wide:
        x, y = x.double(), None if y is None else y.double()
    with full_precision("cpu"):
        found = _evaluate(x, y, problem, components, numbers, wanted)
    if found is None:
        found = _through_tiles(*given, problem, components, numbers, wanted)
    elif wide:
        found = _Found(found.value, *(None if g is None else g.float() for g in found[1:]))
    return found._replace(value=found.value + problem.form.constant)


def _through_tiles(
    x: Tensor,
    y: Tensor | None,
    problem: Problem,
    components: tuple[Component, ...],
    rates: Sequence[float],
    wanted: Wanted,
) -> _Found:
    blocks: Blocks = "xx" if y is None else "all"
    full = tuple(a * c for a in problem.form.coefs for c in problem.group.coefficients)
    form = problem.form._replace(coefs=full)
    coefs = form_coefs(form, len(x), 0 if y is None else len(y), blocks)
    other = None if y is None else y.unsqueeze(0)
    found = run(
        "reference", x.unsqueeze(0), other, None, None, components, rates, coefs, blocks,
        wanted._replace(sums=True),
    )  # fmt: skip
    value = sum(a * b for a, b in zip(coefs, found.sums.flatten().tolist(), strict=True))
    gradients = (
        part[0] if flag else None
        for part, flag in ((found.grad_x, wanted.grad_x), (found.grad_y, wanted.grad_y))
    )
    return _Found(value, *gradients)


def _evaluate(
    x: Tensor,
    y: Tensor | None,
    problem: Problem,
    components: tuple[Component, ...],
    rates: Sequence[float],
    wanted: Wanted,
) -> _Found | None:
    """None where distances or gradients would lose too many digits, or are not finite."""
    n, m = len(x), 0 if y is None else len(y)
    smooth = all(c.function.smooth for c in components)
    gradients = wanted.grad_x or wanted.grad_y
    prepared = _prepare(x, y, largest_rate(components, rates), smooth, gradients)
    if prepared is None:
        return None
    s, points = prepared
    pairs, scale = _pair_coefficients(n, m, problem.form.coefs, problem.form.means, s.dtype)
    coefficients = [scale * a for a in problem.group.coefficients]
    k = mixture(s, components, rates, coefficients, gradients)
    value = k.value.mul_(pairs)
    rows = value.sum(1)
    total = 0.5 * k.value_scale * float(rows.sum(dtype=torch.float64))
    if not gradients:
        return _Found(total, None, None)
    if k.slope is not value:
        rows = k.slope.mul_(pairs).sum(1)
    return _Found(
        total,
        _gradient(k, rows, points, 0, n) if wanted.grad_x else None,
        _gradient(k, rows, points, n, n + m) if wanted.grad_y else None,
    )


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
