"""One small problem of inner-product kernels on a CPU (KID, CORAL) in few torch calls.

Whole products of the samples, as there are few pairs; functions of them and totals in fp64. What a
product in fp32 may not hold goes the general way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..problem import PairProblem
from .small import Results, is_small
from .tiles import RANGE, full_precision, is_lowered


def form(problem: PairProblem) -> Results | None:
    """None unless it is small, of two samples and of inner products, and where products in fp32 are
    lowered or leave its range, or the result is not finite."""
    if problem.y is None or problem.metric != "inner" or not is_small(problem):
        return None
    if problem.x.dtype == torch.float32 and is_lowered("cpu"):
        return None
    with full_precision("cpu"):
        return _evaluate(problem, problem.x, problem.y)


def _evaluate(problem: PairProblem, x: Tensor, y: Tensor) -> Results | None:
    components, rates = problem.components, problem.rates
    if isinstance(rates, Tensor):
        rates = rates.tolist()
    coefs, width = problem.sum_coefs, len(components)
    value, slopes = problem.constant, []
    need_x, need_y = problem.wanted[1:3]
    for k, (u, v, needed) in enumerate(((x, x, need_x), (y, y, need_y), (x, y, need_x or need_y))):
        product, whole = u @ v.mT, k == 2 or problem.diagonal
        if k < 2 and not RANGE[0] < float(product.amax()) < RANGE[1]:
            return None  # the largest is on the diagonal
        s, ends = product.double(), 1.0 if k == 2 else 2.0
        block: Tensor | None = None
        for c, rate, coef in zip(components, rates, coefs[k * width :], strict=False):
            base = torch.mul(s, rate).add_(c.offset)
            power = base ** (c.shape - 1.0)
            phi = base * power
            part = float(phi.sum())
            value += coef * (part if whole else part - float(phi.trace()))
            if needed:
                slope = power.mul_(coef * rate * c.shape * ends)
                block = slope if block is None else block.add_(slope)
        if block is not None and not whole:
            block.fill_diagonal_(0.0)
        slopes.append(x if block is None else block.to(x.dtype))
    grad_x = torch.addmm(slopes[0] @ x, slopes[2], y) if need_x else None
    grad_y = torch.addmm(slopes[1] @ y, slopes[2].mT, x) if need_y else None
    held = all(g is None or math.isfinite(float(g.sum())) for g in (grad_x, grad_y))
    if not (held and math.isfinite(value)):
        return None
    total = torch.tensor(value, dtype=problem.dtype, device="cpu")
    return total, grad_x, grad_y, None, None
