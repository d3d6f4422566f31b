"""Numbers that others get wrong: offsets, duplicates, clusters, outliers, NaN, low precision."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import oracle
import pytest
import torch
from tolerances import GRADIENT, assert_close, assert_no_worse_than_eager
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from divergences.kernels import (
    Energy,
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplace,
    Linear,
    Matern,
    Polynomial,
    RationalQuadratic,
    pair_sums,
    potential,
)
from divergences.kernels._torch import fp32_precision
from divergences.kernels.api import pair_form
from divergences.kernels.functions import REGISTRY
from divergences.kernels.reference import small, tiles
from divergences.kernels.statistics.permuted import Centred, PermutedSums
from divergences.kernels.statistics.quadratic_forms import QuadraticForms
from divergences.kernels.statistics.stein import stein_sums

COEFS = (1.0, 1.0, -2.0)


def normal(seed: int, n: int, d: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def value_and_gradients(kernel: Kernel, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = pair_form(x, y, kernel.resolve(x, y), COEFS, means="unbiased")
    gx, gy = torch.autograd.grad(value, (x, y))
    return value.detach(), gx, gy


def dense(
    kernel: Kernel, x: Tensor, y: Tensor, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Value and gradients from dense matrices of differences: the truth in fp64, eager in fp32."""
    x, y = x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()
    n, m = len(x), len(y)
    coefs = torch.tensor([1 / (n * (n - 1)), 1 / (m * (m - 1)), -2 / (n * m)], dtype=dtype)
    value = torch.zeros((), dtype=dtype)
    for t in kernel.resolve(x, y).terms:
        sums = oracle.sums(t.function.name, x, y, float(t.rate), t.shape, t.offset, dtype=dtype)
        value = value + t.coefficient * (sums * coefs).sum()
    gx, gy = torch.autograd.grad(value, (x, y))
    return value.detach(), gx, gy


def eager_snippet(rate: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The copied three-matrix Gaussian MMD, as people use it."""

    def gram(a: Tensor, b: Tensor) -> Tensor:
        s = a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T
        return torch.exp(-rate * s)

    def function(x: Tensor, y: Tensor) -> Tensor:
        n, m = len(x), len(y)
        xx = (gram(x, x).sum() - n) / (n * (n - 1))
        yy = (gram(y, y).sum() - m) / (m * (m - 1))
        return xx + yy - 2 * gram(x, y).mean()

    return function


@pytest.mark.parametrize("offset", [0.0, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("kernel", [Gaussian(2.0), Energy(), Laplace(3.0), Matern(2.0)], ids=repr)
def test_translation_changes_nothing(kernel: Kernel, offset: float) -> None:
    """Against the fp64 truth of the very numbers given (the shift rounds the data itself)."""
    x, y = normal(0, 130, 10) + offset, normal(1, 90, 10) * 1.1 + offset
    ours = value_and_gradients(kernel, x, y)
    truth = dense(kernel, x, y)
    for a, b in zip(ours, truth, strict=True):
        assert_close(a, b, 2e-5)


def test_fp32_level_over_seeds() -> None:
    """RMS over seeds, so that averaging at one seed cannot hide a low precision."""
    rate = 1.0 / 32.0
    snippet, kernel = eager_snippet(rate), Gaussian(4.0)
    ours, eager, largest = [], [], [0.0, 0.0]
    for seed in range(20):
        x, y = normal(2 * seed, 150, 16), normal(2 * seed + 1, 140, 16)
        truth = dense(kernel, x, y)
        found = value_and_gradients(kernel, x, y)
        ours.append(found[0] - truth[0])
        eager.append(snippet(x, y).double() - truth[0])
        leaf = x.clone().requires_grad_()
        (plain,) = torch.autograd.grad(snippet(leaf, y), leaf)
        for k, gradient in enumerate((found[1], plain)):
            largest[k] = max(largest[k], float((gradient - truth[1]).abs().max()))
    zero = torch.zeros(())
    rms = [torch.stack(e).square().mean().sqrt() for e in (ours, eager)]
    assert_no_worse_than_eager(rms[0], rms[1], zero, floor=1e-9)
    assert largest[0] <= 2.0 * largest[1]


@pytest.mark.parametrize("kernel", [Energy(), Laplace(1.0), Energy(0.5)], ids=repr)
def test_duplicates_are_at_distance_zero(kernel: Kernel) -> None:
    """Identical rows among generic ones, in fp32, far from the origin, D large enough to expand."""
    base = normal(0, 100, 20) + 50.0
    x, y = base[torch.arange(100) % 60], base[40:]
    ours, truth = value_and_gradients(kernel, x, y), dense(kernel, x, y)
    for a, b, eager in zip(ours, truth, dense(kernel, x, y, torch.float32), strict=True):
        assert_no_worse_than_eager(a, eager, b, floor=3e-6 * float(b.abs().max()))


def test_all_points_coincident() -> None:
    """The gradient of the energy distance is 0 there, not NaN, and the value exactly 0."""
    x = torch.full((40, 5), 3.7)
    value, gx, gy = value_and_gradients(Energy(), x, x[:30].clone())
    assert value == 0.0
    assert not gx.any()
    assert not gy.any()


def test_clusters_much_narrower_than_their_distance() -> None:
    """A spread 1000 times the cluster width, and a bandwidth that resolves the clusters."""
    centres = 1000.0 * normal(5, 8, 12)
    x = centres[torch.arange(160) % 8] + normal(6, 160, 12)
    y = centres[torch.arange(150) % 8] + 1.5 * normal(7, 150, 12)
    for kernel in (Gaussian(3.0), Energy(), Laplace(3.0)):
        ours, truth = value_and_gradients(kernel, x, y), dense(kernel, x, y)
        for a, b in zip(ours, truth, strict=True):
            assert_close(a, b, 1e-5)


def test_one_outlier_does_not_cost_the_others() -> None:
    x, y = normal(0, 200, 10), normal(1, 200, 10)
    x[17] = 1e6
    for kernel in (Gaussian(3.0), Matern(3.0)):
        ours, truth = value_and_gradients(kernel, x, y), dense(kernel, x, y)
        assert_close(ours[0], truth[0], 1e-4)
        assert_close(ours[1], truth[1], 1e-4)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    "kernel",
    [Gaussian(1.0), Energy(), Laplace(1.0, norm="l1"), Polynomial(), Linear(), Gaussian("median")],
    ids=repr,
)
@pytest.mark.parametrize("d", [1, 2, 20])
def test_non_finite_in_is_nan_out(kernel: Kernel, bad: float, d: int) -> None:
    x, y = normal(0, 30, d), normal(1, 25, d)
    x[4, 0] = bad
    value, gx, _ = value_and_gradients(kernel, x, y)
    assert value.isnan()
    assert gx[4].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs(dtype: torch.dtype) -> None:
    """Computed in fp32 on the rounded numbers; every gradient in its input's dtype."""
    x, y = normal(0, 60, 8).to(dtype), normal(1, 50, 8)
    leaf, other = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = pair_form(leaf.float(), other, Gaussian(2.0), COEFS)
    value.backward()
    assert leaf.grad is not None and leaf.grad.dtype == dtype
    assert other.grad is not None and other.grad.dtype == torch.float32
    sums = oracle.sums("gaussian", x, y, 0.125)
    truth = (sums * torch.tensor(COEFS)).sum()
    assert_close(value, truth, 2e-6 * float(sums.abs().max() / truth.abs()))


class Watched(TorchDispatchMode):
    """Refuses matrix products in fp32, which the process may have lowered."""

    products = ("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "matmul", "linear")

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.name().removeprefix("aten::").split(".")[0].rstrip("_")
        tensors = [t for t in args if isinstance(t, Tensor)]
        if name in self.products and tensors[0].dtype in (torch.float32, torch.bfloat16):
            raise AssertionError(f"{name} of {tensors[0].dtype}")
        return function(*args, **(kwargs or {}))


def lowered_losses(x: Tensor, y: Tensor) -> list[Tensor]:
    """Everything that multiplies matrices in fp32, on every path."""
    w = x.detach()[:, 0].square() + 0.1
    found = list(value_and_gradients(Linear(), x, y))
    for kernel in (Gaussian(8.0), Energy(), Gaussian(8.0) + Laplace(9.0)):
        found += value_and_gradients(kernel, x, y)
        found.append(potential(x, y, kernel=kernel, weights=w))
        found.append(pair_sums(x, y, kernel=kernel, weights_x=w, weights_y=w).xy)
        leaf = x.clone().requires_grad_()
        value = pair_form(leaf, y, kernel, COEFS, means="unbiased")
        (g,) = torch.autograd.grad(value, leaf, create_graph=True)
        found.append(torch.autograd.grad(g.square().sum(), leaf)[0])
    signs = (x[:, :3] > 0).to(torch.int8) * 2 - 1
    found.append(QuadraticForms(x, Gaussian(8.0), narrow=True)(signs))
    found.append(stein_sums(x, -x, Gaussian(8.0), signs, narrow=True).forms)
    orders = torch.stack([torch.arange(len(x)), torch.arange(len(x)).flip(0)])
    centred = Centred(x.double(), Gaussian(8.0)), Centred(y.double(), Gaussian(8.0))
    found.append(PermutedSums(*centred, narrow=True)(orders))
    return found


@pytest.mark.parametrize("tile", [1024, 64])
def test_lowered_products_are_made_in_double(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 and bf16 products of the process, and autocast; nothing is switched for the call."""
    monkeypatch.setattr(small, "TILE", tile)
    monkeypatch.setattr(tiles, "TILE", tile)
    x, y = normal(0, 100, 40), normal(1, 100, 40)
    plain = lowered_losses(x, y)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with monkeypatch.context() as patch:
            patch.setattr(torch._C, "_set_fp32_precision_setter", None, raising=False)
            patch.setattr(torch._C, "_set_float32_matmul_precision", None)
            with torch.autocast("cpu", dtype=torch.bfloat16), Watched():
                lowered = lowered_losses(x, y)
    finally:
        torch.set_float32_matmul_precision(before)
    for a, b in zip(plain, lowered, strict=True):
        assert_close(b, a, GRADIENT[torch.float32])


def test_threads_under_autocast_leave_the_settings_alone() -> None:
    x, y = normal(0, 90, 24), normal(1, 90, 24)
    truth = dense(Gaussian(8.0), x, y)
    before, seen = fp32_precision("cpu"), set()

    def work(lowered: int) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(lowered % 2)):
            found = [value_and_gradients(Gaussian(8.0), x, y)[1] for _ in range(30)]
            seen.add((fp32_precision("cpu"), torch.is_autocast_enabled("cpu") == bool(lowered % 2)))
        return found

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(8)):
            for gradient in found:
                assert_close(gradient, truth[1], GRADIENT[torch.float32])
    assert seen == {(before, True)} and fp32_precision("cpu") == before


def test_non_contiguous_and_expanded_inputs() -> None:
    wide = normal(0, 40, 24, torch.float64)
    cases = [
        (wide[:, ::2], wide[::2, 1::2]),
        (wide.T[:20, :12], wide.T[:15, 5:17]),
        (wide[:1].expand(20, 24), wide[::2]),
    ]
    for x, y in cases:
        assert not (x.is_contiguous() and y.is_contiguous())
        a = value_and_gradients(Energy(), x, y)
        b = value_and_gradients(Energy(), x.contiguous(), y.contiguous())
        for left, right in zip(a, b, strict=True):
            assert_close(left, right, 1e-12)


def test_registry_is_what_the_design_names() -> None:
    assert set(REGISTRY) == {
        "gaussian",
        "laplace",
        "laplace_l1",
        "energy",
        "inverse_power",
        "matern",
        "polynomial",
    }


@pytest.mark.parametrize("distance", [1e6, 1e7, 1e9])
@pytest.mark.parametrize("d", [2, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_clusters(distance: float, d: int, dtype: torch.dtype) -> None:
    """The numbers given are the truth, however little fp32 leaves of the clusters' shape."""
    x, y = normal(0, 60, d, torch.float64), normal(1, 50, d, torch.float64)
    x[30:] += distance
    y[25:] += distance
    x, y = x.to(dtype), y.to(dtype)
    for kernel in (Gaussian(1.0), Matern(1.0), InverseMultiquadric(1.0), Energy(), Laplace(1.0)):
        ours, truth = value_and_gradients(kernel, x, y), dense(kernel, x, y)
        level = 1e-9 if dtype == torch.float64 else 2e-5
        sums = 2.0 * distance if repr(kernel) == "Energy(1.0)" else 2.0
        assert abs(float(ours[0] - truth[0])) <= level * sums
        for a, b in zip(ours[1:], truth[1:], strict=True):
            assert_close(a, b, 1e-6 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("d", [1, 2, 16])
@pytest.mark.parametrize("kernel", [Energy(0.5), Energy(), Laplace(1.0)], ids=repr)
def test_nearly_coincident_pairs_in_double(kernel: Kernel, d: int) -> None:
    x, y = normal(0, 40, d, torch.float64), normal(1, 30, d, torch.float64)
    x[20:] = x[:20] + 3e-7 * normal(2, 20, d, torch.float64)
    y[20:] = x[5:15] + 1e-9 * normal(3, 10, d, torch.float64)
    for a, b in zip(value_and_gradients(kernel, x, y), dense(kernel, x, y), strict=True):
        assert_close(a, b, 1e-9)


def test_nan_in_one_batch_item_leaves_the_others_alone() -> None:
    """Also their precision: narrow clusters beside it are still resolved."""
    base = torch.stack([normal(0, 40, 2), normal(1, 40, 2)]) * 1e-3
    base[:, 20:] += 1.0
    other = torch.stack([normal(2, 40, 2), normal(3, 40, 2)]) * 1e-3
    clean = pair_form(base, other, Gaussian(1e-3), COEFS)
    base[1, 0, 0] = torch.nan
    for kernel in (Gaussian(1e-3), Energy()):
        value = pair_form(base, other, kernel, COEFS)
        assert value[1].isnan()
        assert value[0].isfinite()
    assert_close(pair_form(base, other, Gaussian(1e-3), COEFS)[0], clean[0], 1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-18, 1e18, 1e20, 1e30])
def test_scale_of_fp32_data_changes_nothing(scale: float) -> None:
    """A power of ten, where squared distances leave the range of fp32."""
    x, y = normal(0, 40, 3), normal(1, 30, 3) + 0.5
    big_x, big_y = x.double().mul(scale).float(), y.double().mul(scale).float()
    value = value_and_gradients(Gaussian("median"), x, y)[0]
    assert_close(value_and_gradients(Gaussian("median"), big_x, big_y)[0], value, 1e-4)
    plain, scaled = (value_and_gradients(Energy(), *s) for s in ((x, y), (big_x, big_y)))
    assert_close(scaled[0] / scale, plain[0], 1e-5)
    assert_close(scaled[1], plain[1], 1e-4)


def test_l1_in_many_dimensions() -> None:
    x, y = normal(0, 30, 3072), normal(1, 30, 3072)
    kernel = Laplace(1000.0, norm="l1")
    ours, truth = value_and_gradients(kernel, x, y), dense(kernel, x, y)
    eager = dense(kernel, x, y, torch.float32)
    for a, b, c in zip(ours, truth, eager, strict=True):
        assert_no_worse_than_eager(a, c, b, floor=1e-6 * float(b.abs().max()))


@pytest.mark.skipif(torch.__version__ < (2, 9), reason="torch has them since 2.9")
def test_the_newer_precision_settings_do_not_reach_in_either() -> None:
    """Mixed with the older setting, torch refuses to answer which one holds."""
    code = """
import torch
from divergences import mmd2
x, y = torch.randn(40, 64), torch.randn(40, 64)
plain = mmd2(x.double(), y.double())
torch.backends.mkldnn.matmul.fp32_precision = "bf16"
torch.backends.cuda.matmul.fp32_precision = "tf32"
torch.testing.assert_close(mmd2(x, y).double(), plain, rtol=0, atol=1e-6)
assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
print("held")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "held\n", result.stderr


def discrete(kind: str, seed: int, n: int, d: int) -> Tensor:
    """Rows that repeat, within a sample and between two."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "one-hot":
        return torch.eye(d)[torch.randint(d, (n,), generator=generator)]
    if kind == "binary":
        rows = torch.randint(2, (n, 4), generator=generator).float()
    else:
        rows = 0.5 * (1.5 * normal(seed, n, 4)).round() + 0.25
    return rows.repeat(1, -(-d // 4))[:, :d]


DISCRETE = (
    Gaussian(0.16),
    Gaussian([0.16, 0.3, 2.0]),
    RationalQuadratic(0.2, alpha=2.0),
    InverseMultiquadric(0.3),
    Laplace(0.2),
    Laplace(0.3, norm="l1"),
    Gaussian(0.16) + Laplace(0.1),
    Matern(0.2, nu=1.5),
    Matern(0.3, nu=2.5),
    Energy(),
    Energy(0.5),
    Polynomial(),
    Linear(),
)


def test_every_function_meets_discrete_data() -> None:
    met = {t.function.name for kernel in DISCRETE for t in kernel.terms}
    assert met == set(REGISTRY)


@pytest.mark.parametrize("tile", [1024, 64])
@pytest.mark.parametrize("kind", ["one-hot", "binary", "rounded"])
@pytest.mark.parametrize("kernel", DISCRETE, ids=repr)
def test_coincident_rows_leave_no_noise(
    kernel: Kernel, kind: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a narrow kernel the coincident pairs are nearly all of K, and none of the gradient."""
    monkeypatch.setattr(small, "TILE", tile)
    monkeypatch.setattr(tiles, "TILE", tile)
    for d in (5, 17):
        for dtype in (torch.float32, torch.float64):
            x, y = (discrete(kind, d + k, n, d).to(dtype) for k, n in enumerate((70, 50)))
            eager, truth = dense(kernel, x, y, dtype)[1:], dense(kernel, x, y)[1:]
            three = [t.expand(3, -1, -1).clone().requires_grad_() for t in (x, y)]
            batch = pair_form(*three, kernel.resolve(x, y), COEFS, means="unbiased")
            ours = value_and_gradients(kernel, x, y)[1:]
            other = [g[2] for g in torch.autograd.grad(batch.sum(), three)]
            for a, b, plain, exact in zip(ours, other, eager, truth, strict=True):
                floor = GRADIENT[dtype] * float(exact.abs().max())
                assert_no_worse_than_eager(a, plain, exact, floor)
                assert_no_worse_than_eager(b, plain, exact, floor)


def test_zeros_of_either_sign_are_one_row() -> None:
    x = torch.eye(9).repeat(5, 1)
    y = torch.where(x == 0, -0.0, x)[:40]
    ours, truth = value_and_gradients(Gaussian(0.16), x, y), dense(Gaussian(0.16), x, y)
    for a, b in zip(ours[1:], truth[1:], strict=True):
        assert_close(a, b, GRADIENT[torch.float32])


@pytest.mark.parametrize("n", [30, 600])
@pytest.mark.parametrize("sigma", [1e-100, 1e-50, 1e-22, 1e-18, 1e22, 1e100])
@pytest.mark.parametrize(
    "make",
    [Gaussian, Laplace, InverseMultiquadric, Matern, RationalQuadratic],
    ids=lambda m: m.__name__,
)
def test_bandwidths_that_leave_fp32(make: Any, sigma: float, n: int) -> None:
    """Alone, in a list, and as tensors of a batch: a kernel that sees nothing adds nothing."""
    x, y = normal(0, n, 5), normal(1, n, 5)
    both, alone = make([sigma, 1.0]), make(1.0)
    shared = 0.5 * torch.tensor(value_and_gradients(make(sigma), x, y)[0].item())
    for a, b in zip(value_and_gradients(both, x, y), value_and_gradients(alone, x, y), strict=True):
        torch.testing.assert_close(
            a, 0.5 * b + (shared if a.dim() == 0 else 0.0), rtol=1e-4, atol=1e-9
        )
    batch = torch.stack([x, x]).requires_grad_()
    kernel = make(torch.tensor([sigma, 1.0], dtype=torch.float64))
    value = pair_form(batch, y.expand(2, -1, -1), kernel, COEFS, means="unbiased")
    (gradient,) = torch.autograd.grad(value.sum(), batch)
    truth = value_and_gradients(alone, x, y)
    torch.testing.assert_close(gradient[1], truth[1], rtol=1e-4, atol=1e-7)
    assert gradient[0].abs().max() <= 1e-6 and value[0].abs() <= 0.2


@pytest.fixture(params=[1024, 64])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Samples in one tile, and in several."""
    monkeypatch.setattr(small, "TILE", request.param)
    monkeypatch.setattr(tiles, "TILE", request.param)
    return int(request.param)


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("d", [2, 5, 20])
@pytest.mark.parametrize(
    "kernel", [Energy(), Energy(0.5), Laplace(1e-15), Laplace(1e-15) + Gaussian(1e-14)], ids=repr
)
def test_squares_below_fp32(kernel: Kernel, d: int) -> None:
    """Distances of 1e-21 beside 1e-14: the squares of the former are no fp32 numbers."""
    x, y = normal(0, 60, d) * 1e-14, normal(1, 50, d) * 1e-14
    x[30:] *= 1e-7
    y[25:] *= 1e-7
    ours, truth = value_and_gradients(kernel, x, y), dense(kernel, x, y)
    for a, b in zip(ours, truth, strict=True):
        assert_close(a, b, GRADIENT[torch.float32])


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("d", [2, 5, 20])
@pytest.mark.parametrize("scale", [1e-24, 1e24])
def test_every_item_of_a_batch_has_its_range(d: int, scale: float) -> None:
    scales = torch.tensor([1.0, scale]).view(2, 1, 1)
    x = torch.stack([normal(0, 40, d), normal(1, 40, d)]) * scales
    y = torch.stack([normal(2, 30, d), normal(3, 30, d)]) * scales
    widths = scales.flatten().double()
    for make in (lambda _: Energy(), Laplace, Gaussian):
        leaf = x.clone().requires_grad_()
        value = pair_form(leaf, y, make(widths), COEFS, means="unbiased")
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        for k in (0, 1):
            truth = dense(make(float(widths[k])), x[k], y[k])
            assert_close(value[k], truth[0], 1e-5)
            assert_close(gradient[k], truth[1], GRADIENT[torch.float32])


@pytest.mark.usefixtures("tile")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("d", [3, 17, 30])
@pytest.mark.parametrize(
    "kernel",
    [
        Energy(),
        Laplace(1e-12),
        Gaussian(1e-12),
        Gaussian([1e-12, 1.0]),
        RationalQuadratic(1e-12, alpha=2.0),
        Matern(1e-12),
    ],
    ids=repr,
)
def test_a_cluster_at_zero_with_the_rest_far_away(kernel: Kernel, d: int, weighted: bool) -> None:
    """Its rows have digits that those less any centre do not."""
    x, y = normal(0, 60, d, torch.float64), normal(1, 50, d, torch.float64)
    x, y = (t / t.norm(dim=1, keepdim=True) for t in (x, y))
    x[:15] *= 1e-12
    y[:12] *= 1e-12
    if not weighted:
        ours, truth = value_and_gradients(kernel, x, y), dense(kernel, x, y)
        for a, b in zip(ours, truth, strict=True):
            assert_close(a, b, GRADIENT[torch.float64])
        return
    wx, wy = (
        normal(2, 60, 1, torch.float64)[:, 0].abs(),
        normal(3, 50, 1, torch.float64)[:, 0].abs(),
    )
    x.requires_grad_()
    y.requires_grad_()
    found = pair_form(x, y, kernel, COEFS, weights_x=wx, weights_y=wy)
    truths = [
        t.coefficient * oracle.sums(t.function.name, x, y, float(t.rate), t.shape, t.offset, wx, wy)
        for t in kernel.terms
    ]
    exact = (torch.stack(truths).sum(0) * torch.tensor(COEFS)).sum()
    for a, b in zip(*(torch.autograd.grad(v, (x, y)) for v in (found, exact)), strict=True):
        assert_close(a, b, GRADIENT[torch.float64])
