"""A kernel function is one block: here a new one, (1 + as)·exp(−as), goes through every layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tolerances import assert_close
from torch import Tensor

from divergences import mmd2
from divergences.kernels import Kernel
from divergences.kernels.functions import (
    REGISTRY,
    Evaluation,
    KernelFunction,
    Rate,
    SlopeDerivative,
    register,
)
from divergences.kernels.kernel import Term

tl: Any = None
RATE = 0.4


def value(s: Tensor, a: Rate, shape: float, offset: float) -> Tensor:
    return (1.0 + s * a) * torch.exp(-a * s)


def evaluate(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor | None, out: Tensor
) -> Evaluation:
    decay = torch.exp(s * -a)
    if slope is not None:
        torch.mul(s, decay, out=slope)
    k = torch.mul(s, a, out=out).add_(1.0).mul_(decay)
    return Evaluation(k, 1.0, k if slope is None else slope, -2.0 * a * a)


def slope_derivative(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor, out: Tensor
) -> SlopeDerivative:
    return SlopeDerivative(torch.exp(s * -a) * (1.0 - s * a), 1.0)


def device(s, a, shape, offset):  # type: ignore[no-untyped-def]
    decay = tl.exp2(s * (a * -1.4426950408889634))
    return (1.0 + s * a) * decay, s * decay * (-2.0 * a * a)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    function = register(
        KernelFunction("toy", "sqeuclidean", value, evaluate, slope_derivative, device)
    )
    yield Kernel([Term(function, factor=RATE)], "Toy()")
    del REGISTRY["toy"]


def dense(x: Tensor, y: Tensor) -> Tensor:
    """The biased MMD², by plain torch operations."""

    def mean(a: Tensor, b: Tensor) -> Tensor:
        s = (a.unsqueeze(1) - b).square().sum(-1)
        return ((1.0 + RATE * s) * torch.exp(-RATE * s)).mean()

    return mean(x, x) + mean(y, y) - 2.0 * mean(x, y)


@pytest.mark.parametrize("rows", [9, 1100], ids=["one tile", "several tiles"])
def test_value_and_derivatives(kernel: Kernel, rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (rows, 7)]
    results = []
    for loss in (lambda x, y: mmd2(x, y, kernel=kernel, estimator="biased"), dense):
        x, y = (t.clone().requires_grad_() for t in given)
        found = loss(x, y)
        first = torch.autograd.grad(found, (x, y), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, y))
        results.append([found, *first, *second])
    for ours, right in zip(*results, strict=True):
        assert_close(ours, right, 1e-11)


@pytest.mark.parametrize("d", [3, 20])
def test_on_triton(kernel: Kernel, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences of few columns and products of many; interpreted without a GPU."""
    triton_language = pytest.importorskip("triton.language")
    from divergences.kernels.triton_backend import launcher

    monkeypatch.setattr(launcher, "SMALL", 0)
    monkeypatch.setitem(globals(), "tl", triton_language)
    on = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, d, generator=generator).to(on).requires_grad_() for n in (9, 7))
    ours = mmd2(x, y, kernel=kernel, estimator="biased", backend="triton")
    u, v = (t.detach().double().requires_grad_() for t in (x, y))
    right = dense(u, v)
    assert_close(ours, right, 1e-5)
    found, expected = torch.autograd.grad(ours, (x, y)), torch.autograd.grad(right, (u, v))
    for mine, theirs in zip(found, expected, strict=True):
        assert_close(mine, theirs, 1e-4)
