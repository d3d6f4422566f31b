"""What only a GPU can show: both backends there, graphs, no synchronisation, bit-equal repeats."""

from __future__ import annotations

from dataclasses import replace

import oracle
import pytest
import synchronisation
import torch
from tolerances import assert_close
from torch import Tensor

from divergences.energy import energy_distance
from divergences.kernels import Energy, Gaussian, Kernel, Laplace, Matern, Polynomial, potential
from divergences.kernels.functions import REGISTRY
from divergences.kernels.problem import Component, QuadraticSums
from divergences.mmd import MMDLoss, mmd2

pytestmark = pytest.mark.gpu

KERNELS = [
    Gaussian("multiscale"), Energy(), Laplace("median", norm="l1"), Matern(2.0), Polynomial()
]  # fmt: skip
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
    scale = float(sum(abs(t.coefficient) for t in kernel.terms)) + abs(float(truth.detach()))
    assert abs(float(ours.detach()) - float(truth.detach())) < 1e-5 * scale
    for a, b in zip(gradients, expected, strict=True):
        assert_close(a.cpu(), b, 2e-5)


@pytest.mark.parametrize("loss", [mmd2, energy_distance])
def test_no_synchronisation_and_bit_equal(loss: object) -> None:
    x, y = (normal(s, 4000, 32).float().cuda().requires_grad_() for s in (0, 1))

    def step() -> tuple[Tensor, ...]:
        value = loss(x, y)  # type: ignore[operator]
        return (value.detach(), *torch.autograd.grad(value, (x, y)))

    step()
    with synchronisation.refused():
        runs = [step(), step()]
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


class TestQuadraticForms:
    """Of as many rows as permutation tests have; fp64 on the same device is the truth."""

    @pytest.fixture(autouse=True)
    def _on_gpu(self) -> None:
        from divergences.kernels.triton_backend import quadratic_forms

        self.constants = quadratic_forms
        self.sweep = quadratic_forms.label_sweep

    def labels(self, count: int, columns: int) -> Tensor:
        generator = torch.Generator(device="cuda").manual_seed(2)
        signs = torch.randint(0, 2, (count, columns), generator=generator, device="cuda") * 2 - 1
        return signs.to(torch.int8)

    def dense(self, name: str, z: Tensor, rate: float, shape: float) -> tuple[Tensor, Tensor]:
        """K in fp64 with a diagonal of 0, and the centres that double centring subtracts."""
        s = torch.cdist(z.double(), z.double(), compute_mode="donot_use_mm_for_euclid_dist")
        k = oracle.profile(name, s.square_(), rate, shape, 0.0).fill_diagonal_(0.0)
        means = k.sum(1) / (len(z) - 1)
        return k, means - 0.5 * means.mean()

    @pytest.mark.parametrize(("n", "d", "columns"), [(16384, 64, 1024), (5001, 3, 1000)])
    @pytest.mark.parametrize(
        ("name", "rate", "shape"),
        [("gaussian", 1 / 128, 0.0), ("energy", 1.0, 1.0), ("laplace", 0.1, 0.0)],
    )
    def test_against_fp64(
        self, name: str, rate: float, shape: float, n: int, d: int, columns: int
    ) -> None:
        """The error in units of the null's standard deviation."""
        z, v = normal(0, n, d).float().cuda(), self.labels(n, columns)
        k, a = self.dense(name, z, rate, shape)
        sums = self.sweep(z, (Component(REGISTRY[name], shape),), [rate], a[None], v)
        hat = (k - a - a[:, None]).fill_diagonal_(0.0)
        forms = torch.cat([(p * (hat @ p)).sum(0) for p in v.double().split(128, 1)])
        row_sums, squares, size = hat.sum(1), hat.square().sum(), hat.abs_().sum(1)
        del hat
        k -= k.mean(0) + k.mean(1, keepdim=True) - k.mean()
        deviation = (2.0 * k.square_().sum()).sqrt()
        errors = (sums.forms[0] - forms) / deviation
        assert errors.abs().max() < 1e-3
        assert errors.square().mean().sqrt() < 3e-4
        assert ((sums.row_sums[0] - row_sums).abs() < 2.0**-11 * size).all()
        assert (sums.squares[0] / squares - 1).abs() < 1e-3

    @pytest.mark.parametrize("d", [3, 64, 300])
    def test_no_synchronisation_and_bit_equal(self, d: int) -> None:
        z, v = normal(0, 6000, d).float().cuda(), self.labels(6000, 200)
        centres = torch.zeros(2, 6000, dtype=torch.float64, device="cuda")
        components = (Component(REGISTRY["gaussian"]), Component(REGISTRY["energy"], 1.0))

        def step() -> QuadraticSums:
            return self.sweep(z, components, [0.1, 1.0], centres, v)

        step()
        with synchronisation.refused():
            runs = [step(), step()]
        for a, b in zip(*runs, strict=True):
            assert torch.equal(a, b)
            assert a.isfinite().all()

    def test_caller_settings_do_not_reach_it(self) -> None:
        z, v = normal(0, 3000, 32).float().cuda(), self.labels(3000, 64)
        centres = torch.zeros(1, 3000, dtype=torch.float64, device="cuda")
        arguments = (z, (Component(REGISTRY["gaussian"]),), [0.02], centres, v)
        expected = self.sweep(*arguments)
        settings = torch.backends.cuda.matmul
        before = settings.allow_fp16_accumulation
        settings.allow_fp16_accumulation = True
        try:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                sums = self.sweep(*arguments)
            assert settings.allow_fp16_accumulation
        finally:
            settings.allow_fp16_accumulation = before
        for ours, theirs in zip(sums, expected, strict=True):
            assert torch.equal(ours, theirs)

    def test_memory_is_bounded(self) -> None:
        """K would take 2.1 GB in fp16; the labels' fp16 and int8 copies take N·B each."""
        count, columns = 32768, 1024
        z, v = normal(0, count, 64).float().cuda(), self.labels(count, columns)
        centres = torch.zeros(1, count, dtype=torch.float64, device="cuda")
        arguments = (z, (Component(REGISTRY["gaussian"]),), [0.01], centres, v)
        self.sweep(*arguments)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.sweep(*arguments)
        torch.cuda.synchronize()
        used = torch.cuda.max_memory_allocated() - before
        limit = self.constants.PANEL_BYTES + 2 * self.constants.PRODUCT_BYTES
        assert used < limit + 2 * 2 * count * columns + 2**27
