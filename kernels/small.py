"""The form of one small problem: a few hundred rows on a CPU, without weights, in eager mode.

There the number of Python and torch calls decides, not their size. K of the pooled sample comes
from one product, its sums and gradients from two sums of rows and one more product. Where fp32
would lose too many digits, and where it is differentiated twice, the general way takes over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .backends import choose, run
from .kernel import Group
from .plan import Component, Wanted, decode, metric_of
from .tiles import CANCELLATION, EXPONENT_ERROR, RANGE, TILE, UNRESOLVED, full_precision, scratch

# A transform of torch.func needs the general Function; without this query every call takes it.
_transforms_active: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: True
)


def applies(x: Tensor, y: Tensor | None, groups: Sequence[Group], backend: str | None) -> bool:
    """One problem [n, d], [m, d] that fits into a tile, on squared Euclidean distances."""
    if torch.compiler.is_compiling():  # first: nothing below is to be traced
        return False
    return (
        x.dim() == 2
        and not x.is_cuda
        and 0 < len(x) + (0 if y is None else len(y)) <= TILE
        and len(x) > 0
        and (y is None or (y.dim() == 2 and len(y) > 0))
        and len(groups) == 1
        and metric_of(decode(groups[0].components)) == "sqeuclidean"
        and choose(x, backend) == "reference"
        and not _transforms_active()
    )


class Form(torch.autograd.Function):
    """(x, y, group, coefs, wanted, general) -> Σ coefs·S in fp64, 0-d.

    ``coefs`` [blocks·C] are numbers; ``general(x, y)`` is the same form, differentiable twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor | None,
        group: Group,
        coefs: Sequence[float],
        wanted: Wanted,
        general: Callable[[Tensor, Tensor | None], Tensor],
    ) -> Tensor:
        components, rates = decode(group.components), group.rates
        numbers = rates[0].tolist() if isinstance(rates, Tensor) else rates
        with full_precision("cpu"):
            found = _evaluate(x, y, components, numbers, coefs, wanted)
        if found is None:
            found = _through_tiles(x, y, components, numbers, coefs, wanted)
        ctx.general, ctx.gradients = general, found[1:]
        ctx.save_for_backward(x, y)
        return torch.tensor(found.value, dtype=torch.float64)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if torch.is_grad_enabled():
            inputs = ctx.saved_tensors
            needed = [t for t, need in zip(inputs, ctx.needs_input_grad, strict=False) if need]
            found = iter(torch.autograd.grad(ctx.general(*inputs), needed, grad, create_graph=True))
            gradients = [next(found) if need else None for need in ctx.needs_input_grad[:2]]
        else:
            gradients = [None if g is None else g * grad.to(g.dtype) for g in ctx.gradients]
        return *gradients, None, None, None, None


class _Found(NamedTuple):
    value: float
    grad_x: Tensor | None  # [n, d]
    grad_y: Tensor | None  # [m, d]


def _through_tiles(
    x: Tensor,
    y: Tensor | None,
    components: tuple[Component, ...],
    rates: Sequence[float],
    coefs: Sequence[float],
    wanted: Wanted,
) -> _Found:
    blocks = "xx" if y is None else "all"
    other = None if y is None else y.unsqueeze(0)
    found = run(
        "reference", x.unsqueeze(0), other, None, None, components, rates, coefs, blocks,
        wanted._replace(sums=True),
    )  # fmt: skip
    gradients = (
        part[0] if flag else None
        for part, flag in ((found.grad_x, wanted.grad_x), (found.grad_y, wanted.grad_y))
    )
    return _Found(_total(found.sums.flatten().tolist(), coefs), *gradients)


def _total(sums: Sequence[float], coefs: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(coefs, sums, strict=True))


def _evaluate(
    x: Tensor,
    y: Tensor | None,
    components: tuple[Component, ...],
    rates: Sequence[float],
    coefs: Sequence[float],
    wanted: Wanted,
) -> _Found | None:
    """None where the distances would lose too many digits in this dtype, or are not finite."""
    n = len(x)
    z = x if y is None else torch.cat([x, y])
    u = z - z.mean(0)
    s = _distances(u, max(map(abs, rates)), all(c.function.smooth for c in components))
    if s is None:
        return None
    blocks, width = 1 if y is None else 3, len(components)
    slopes = wanted.grad_x or wanted.grad_y
    buffer = scratch("slope", s.shape, s) if slopes else None
    total = scratch("total", s.shape, s).zero_() if slopes and width > 1 else None
    value, halves, factors = 0.0, None, [1.0, 1.0, 1.0]  # of the slopes in xx, yy and xy
    matrix = s
    for c, (component, rate) in enumerate(zip(components, rates, strict=True)):
        out = s if c == width - 1 else scratch("value", s.shape, s)
        k = component.function.evaluate(s, rate, component.shape, component.offset, buffer, out)
        k.value.diagonal().zero_()
        own = [coefs[b * width + c] for b in range(blocks)]
        halves = _row_sums(k.value, n)
        value += k.value_scale * _total(_block_sums(halves, n, blocks), own)
        if not slopes:
            continue
        if k.slope is not k.value:
            k.slope.diagonal().zero_()
            halves = None
        # for a matrix that holds every pair of a block in both orders
        scale = float(k.slope_scale)
        scales = [a * scale * (1.0 if b == 2 else 2.0) for b, a in enumerate(own)]
        if total is None:
            matrix, factors[:blocks] = k.slope, scales
        else:
            _accumulate(total, k.slope, n, scales)
            matrix, halves = total, None
    if not slopes:
        return _Found(value, None, None)
    sums = _row_sums(matrix, n) if halves is None else halves
    xx, yy, xy = factors
    return _Found(
        value,
        _gradient(matrix, u, sums, n, slice(0, n), xx, xy) if wanted.grad_x else None,
        _gradient(matrix, u, sums, n, slice(n, len(z)), xy, yy) if wanted.grad_y else None,
    )


def _distances(u: Tensor, rate: float, smooth: bool) -> Tensor | None:
    norms = u.square().sum(1)
    top = float(norms.max())
    if not RANGE[0] < top < RANGE[1]:  # also where it is NaN
        return None
    if smooth and not 8.0 * torch.finfo(u.dtype).eps * top * rate <= EXPONENT_ERROR[u.dtype]:
        return None
    s = scratch("distance", (len(u), len(u)), u)
    torch.addmm(norms, u, u.T, alpha=-2.0, out=s).add_(norms.unsqueeze(1))
    if not smooth:
        s.diagonal().fill_(torch.inf)
        least = UNRESOLVED if u.dtype == torch.float64 else CANCELLATION
        if not float(s.amin()) >= 2.0 * least * top:
            return None
    return s


def _row_sums(matrix: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Over the columns of x and those of y, [n+m] each."""
    return matrix[:, :n].sum(1), matrix[:, n:].sum(1)


def _block_sums(halves: tuple[Tensor, Tensor], n: int, blocks: int) -> list[float]:
    """xx, yy, xy, summed in fp64."""
    first, second = halves
    parts = (first[:n], second[n:], second[:n])[:blocks]
    return [float(part.sum(dtype=torch.float64)) for part in parts]


def _accumulate(total: Tensor, slope: Tensor, n: int, scales: Sequence[float]) -> None:
    total[:n, :n].add_(slope[:n, :n], alpha=scales[0])
    if len(scales) > 1:
        total[n:, n:].add_(slope[n:, n:], alpha=scales[1])
        total[:n, n:].add_(slope[:n, n:], alpha=scales[2])
        total[n:, :n].add_(slope[n:, :n], alpha=scales[2])


def _gradient(
    slopes: Tensor,
    u: Tensor,
    sums: tuple[Tensor, Tensor],
    n: int,
    rows: slice,
    first: float,
    second: float,
) -> Tensor:
    """Σⱼ factorⱼ·slopeᵢⱼ·(uᵢ − uⱼ) of some rows [r, d]; ``first`` and ``second`` are the factors of
    the columns of x and of y."""
    masses = torch.add(sums[0][rows] * first, sums[1][rows], alpha=second)
    weighted = torch.cat([u[:n] * first, u[n:] * second])
    return torch.addcmul(-(slopes[rows] @ weighted), u[rows], masses.unsqueeze(1))
