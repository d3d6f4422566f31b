"""What the machine can do at most: rates of the operations that pairwise sums are made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from .measure import Run

GEMM_SIZE, NUMBERS = 2048, 2**18  # 1 MB of numbers stays in the cache


class Operation(NamedTuple):
    """``count`` flop of a matrix product, or results of a function of each number, per run."""

    workload: str
    count: float
    setup: Callable[[], Run]


def _gemm() -> Run:
    a, b = torch.randn(2, GEMM_SIZE, GEMM_SIZE)
    return partial(torch.mm, a, b, out=torch.empty_like(a))


def _elementwise(function: Callable[..., object]) -> Run:
    x = torch.rand(NUMBERS)
    return partial(function, x, out=torch.empty_like(x))


OPERATIONS = {
    "gemm": Operation("hardware: fp32 GEMM, 2048³", 2.0 * GEMM_SIZE**3, _gemm),
    "exp2": Operation("hardware: fp32 exp2, 2¹⁸", NUMBERS, partial(_elementwise, torch.exp2)),
    "sqrt": Operation("hardware: fp32 sqrt, 2¹⁸", NUMBERS, partial(_elementwise, torch.sqrt)),
}


def least_seconds(kernel: str, n: float, d: int, gradient: bool, rates: dict[str, float]) -> float:
    """What a loss of n = m rows takes if matrix products and exp2 (energy: sqrt) run at the given
    rates per second, one after the other since a CPU does both with the same vector units.

    Every pair is visited once, n² of xy and n²/2 each of xx and yy: 2n² functions, 2d flop each for
    the product. The gradient of x takes 2d flop for each pair and side that is x: 2n².
    """
    pairs = 2.0 * n * n
    flop = 2.0 * d * pairs * (2 if gradient else 1)
    function = "exp2" if kernel == "gaussian" else "sqrt"
    return flop / rates["gemm"] + pairs / rates[function]
