"""Small problems of inner-product kernels, which have few calls of their own."""

from __future__ import annotations

import pytest
import torch
from tolerances import GRADIENT, RELATIVE, assert_close
from torch import Tensor

from divergences import mmd2, naive
from divergences.kernels import Kernel, Linear, Polynomial
from divergences.kernels.reference import inner

KERNELS = [
    Linear(),
    Polynomial(3, gamma=0.2),
    Polynomial(2, gamma=0.3, offset=0.0) + 0.5 * Linear(),
]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each problem was held, as it comes."""
    evaluate, seen = inner._evaluate, []

    def counted(*arguments: object) -> object:
        found = evaluate(*arguments)  # type: ignore[arg-type]
        seen.append(found is not None)
        return found

    monkeypatch.setattr(inner, "_evaluate", counted)
    return seen


def samples(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.randn(30, 7, dtype=dtype), 0.2 + torch.randn(21, 7, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_value_and_derivatives(
    kernel: Kernel, estimator: str, dtype: torch.dtype, taken: list[bool]
) -> None:
    x, y = (z.requires_grad_() for z in samples(dtype))
    loss = mmd2(x, y, kernel=kernel, estimator=estimator)
    u, v = (z.detach().double().requires_grad_() for z in (x, y))
    truth = naive.mmd2(u, v, kernel, estimator)
    assert taken == [True]
    assert loss.dtype == dtype
    assert_close(loss, truth, 10 * RELATIVE[dtype])
    found = torch.autograd.grad(loss, (x, y), create_graph=True)
    right = torch.autograd.grad(truth, (u, v), create_graph=True)
    for a, b in zip(found, right, strict=True):
        assert_close(a, b, GRADIENT[dtype])
    second = torch.autograd.grad(sum(g.square().sum() for g in found), (x, y))
    correct = torch.autograd.grad(sum(g.square().sum() for g in right), (u, v))
    for a, b in zip(second, correct, strict=True):
        assert_close(a, b, GRADIENT[dtype])
    (alone,) = torch.autograd.grad(mmd2(x.detach(), y, kernel=kernel, estimator=estimator), y)
    assert_close(alone, right[1], GRADIENT[dtype])


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_what_fp32_does_not_hold_goes_the_general_way(scale: float, taken: list[bool]) -> None:
    x, y = samples(torch.float32)
    found = mmd2(scale * x, scale * y, kernel=Polynomial(2, gamma=scale**-2, offset=0.0))
    assert taken == [False]
    truth = naive.mmd2(x, y, Polynomial(2, gamma=1.0, offset=0.0))
    assert_close(found, truth, 10 * RELATIVE[torch.float32])
    assert mmd2(x * float("nan"), y, kernel="linear").isnan()
