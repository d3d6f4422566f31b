"""What only a GPU can show: both backends there, graphs, no synchronisation, bit-equal repeats."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tolerances import assert_close
from torch import Tensor

from divergences.energy import energy_distance
from divergences.kernels import Energy, Gaussian, Kernel, Laplace, Matern, Polynomial, potential
from divergences.mmd import MMDLoss, mmd2

pytestmark = pytest.mark.gpu

KERNELS = [Gaussian("multiscale"), Energy(), Laplace(2.0, norm="l1"), Matern(2.0), Polynomial()]
SIZES = [(1, 2, 3), (65, 300, 1), (1000, 700, 16), (3000, 2500, 64), (2100, 900, 300)]


def normal(seed: int, n: int, d: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def on_host(kernel: Kernel) -> Kernel:
    """Data-driven bandwidths as numbers, so that both devices use the same."""
    terms = [
        replace(t, bandwidth=float(t.bandwidth)) if isinstance(t.bandwidth, Tensor) else t
        for t in kernel.terms
    ]
    return Kernel(terms, repr(kernel))


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@pytest.mark.parametrize(("n", "m", "d"), SIZES)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_value_and_gradients(kernel: Kernel, n: int, m: int, d: int, backend: str) -> None:
    """Against the reference in fp64 on the CPU."""
    x, y = normal(0, n, d), normal(1, m, d) * 1.1
    kernel = on_host(kernel.resolve(x, y))
    leaves = [t.clone().requires_grad_() for t in (x, y)]
    truth = mmd2(*leaves, kernel=kernel, estimator="biased")
    expected = torch.autograd.grad(truth, leaves)
    on_gpu = [t.float().cuda().requires_grad_() for t in (x, y)]
    ours = mmd2(*on_gpu, kernel=kernel, estimator="biased", backend=backend)
    gradients = torch.autograd.grad(ours, on_gpu)
    scale = float(sum(abs(t.coefficient) for t in kernel.terms)) + abs(float(truth))
    assert abs(float(ours) - float(truth)) < 1e-5 * scale
    for a, b in zip(gradients, expected, strict=True):
        assert_close(a.cpu(), b, 2e-5)


@pytest.mark.parametrize("loss", [mmd2, energy_distance])
def test_no_synchronisation_and_bit_equal(loss: object) -> None:
    x, y = (normal(s, 4000, 32).float().cuda().requires_grad_() for s in (0, 1))

    def step() -> tuple[Tensor, ...]:
        value = loss(x, y)  # type: ignore[operator]
        return (value.detach(), *torch.autograd.grad(value, (x, y)))

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        runs = [step(), step()]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


def test_captured_in_a_cuda_graph() -> None:
    x = normal(0, 256, 16).float().cuda().requires_grad_()
    y = normal(1, 256, 16).float().cuda()
    loss = MMDLoss()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(loss(x, y), x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss(x, y)
        (gradient,) = torch.autograd.grad(value, x)
    with torch.no_grad():
        x.mul_(1.5)
    graph.replay()
    torch.testing.assert_close(value, loss(x, y))
    torch.testing.assert_close(gradient, torch.autograd.grad(loss(x, y), x)[0])


def test_potential() -> None:
    x, y = normal(0, 900, 20), normal(1, 1100, 20)
    truth = potential(x, y, kernel=Gaussian(3.0))
    ours = potential(x.float().cuda(), y.float().cuda(), kernel=Gaussian(3.0))
    assert_close(ours.cpu(), truth, 1e-5)
