"""One small problem of inner-product kernels on a CPU (KID, CORAL) in few torch calls.

Whole products of the samples, as there are few pairs; functions of them and totals in fp64. What a
product in fp32 may not hold goes the general way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..backends import choose
from ..kernel import Kernel
from ..plan import Form, decode, form_coefs
from ..validation import transforms_active
from . import small
from .small import Problem
from .tiles import RANGE, TILE, full_precision, is_lowered


def applies(x: Tensor, y: Tensor, kernel: Kernel, backend: str | None) -> bool:
    """Two samples [n, d], [m, d] that fit into a tile."""
    if torch.compiler.is_compiling():  # first: nothing below is to be traced
        return False
    return (
        x.dim() == 2
        and x.is_cpu
        and y.dim() == 2
        and min(len(x), len(y)) > 0
        and len(x) + len(y) <= TILE
        and kernel.metric == "inner"
        and choose(x, backend) == "reference"
        and not transforms_active()
    )


def form(x: Tensor, y: Tensor, problem: Problem, diagonals: bool) -> Tensor:
    """The form, 0-d, where sums within a sample have the pairs i = i or have not."""
    needs = torch.is_grad_enabled() and x.requires_grad, torch.is_grad_enabled() and y.requires_grad
    with torch.no_grad(), full_precision("cpu"):
        found = _solve(x, y, problem, diagonals, needs)
    if found is None:
        return problem.general(x, y)
    if not any(needs):
        return small._scalar(found.value, problem)
    out: Tensor = _Form.apply(x, y, problem, found)  # type: ignore[no-untyped-call]
    return out


class _Form(small._Form):
    """With the gradients that came with the value."""

    @staticmethod
    def forward(ctx, x, y, problem, found):  # type: ignore[no-untyped-def, override]
        ctx.general = problem.general
        ctx.save_for_backward(x, y, *found[1:])
        return small._scalar(found.value, problem)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return *small._Form.backward(ctx, grad), None


def _solve(
    x: Tensor, y: Tensor, problem: Problem, diagonals: bool, needs: tuple[bool, bool]
) -> small._Found | None:
    """None where products in fp32 are lowered or leave its range, or the result is not finite."""
    if x.dtype == torch.float32 and is_lowered("cpu"):
        return None
    group = problem.group
    rates = group.rates[0].tolist() if isinstance(group.rates, Tensor) else group.rates
    full = tuple(a * c for a in problem.form.coefs for c in group.coefficients)
    coefs = form_coefs(Form(full, problem.form.means), len(x), len(y), "all")
    components, width = decode(group.components), len(group.coefficients)
    value, slopes = problem.form.constant, []
    sloped = *needs, any(needs)
    for k, (u, v) in enumerate(((x, x), (y, y), (x, y))):
        product = u @ v.mT
        if k < 2 and not RANGE[0] < float(product.amax()) < RANGE[1]:
            return None  # the largest is on the diagonal
        s, ends = product.double(), 1.0 if k == 2 else 2.0
        block: Tensor | None = None
        for c, rate, coef in zip(components, rates, coefs[k * width :], strict=False):
            base = torch.mul(s, rate).add_(c.offset)
            power = base ** (c.shape - 1.0)
            phi = base * power
            total = float(phi.sum())
            value += coef * (total if k == 2 or diagonals else total - float(phi.trace()))
            if sloped[k]:
                slope = power.mul_(coef * rate * c.shape * ends)
                block = slope if block is None else block.add_(slope)
        if block is not None and k < 2 and not diagonals:
            block.fill_diagonal_(0.0)
        slopes.append(x if block is None else block.to(x.dtype))
    grad_x = torch.addmm(slopes[0] @ x, slopes[2], y) if needs[0] else None
    grad_y = torch.addmm(slopes[1] @ y, slopes[2].mT, x) if needs[1] else None
    held = all(g is None or math.isfinite(float(g.sum())) for g in (grad_x, grad_y))
    return small._Found(value, grad_x, grad_y) if held and math.isfinite(value) else None
