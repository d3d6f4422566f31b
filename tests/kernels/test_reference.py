"""Values and gradients of the reference backend against the dense fp64 oracle."""

from __future__ import annotations

from typing import Any

import oracle
import pytest
import torch
from tolerances import GRADIENT, RELATIVE, assert_close
from torch import Tensor

from divergences.kernels.functions import REGISTRY, KernelFunction
from divergences.kernels.problem import Component, PairProblem, Wanted
from divergences.kernels.reference import blocked, tiles

PROBES = [
    pytest.param(function, *probe, id=f"{function.name}-{probe[1]:g}")
    for function in REGISTRY.values()
    for probe in function.probe
]
EVERYTHING = Wanted(True, True, True, True, True)


def sweep(
    x: Tensor, y: Tensor | None, wx: Tensor | None, wy: Tensor | None, components: Any,
    rates: Any, coefs: Any, blocks: Any, wanted: Wanted,
) -> Any:  # fmt: skip
    return blocked.sweep(PairProblem(x, y, wx, wy, rates, coefs, components, blocks, wanted))


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles, full and partial, from small samples."""
    monkeypatch.setattr(tiles, "TILE", 32)


@pytest.fixture(autouse=True)
def fresh_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers are not used again, so that reading one before it is written shows as NaN."""

    def fresh(_purpose: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return like.new_empty(shape)

    monkeypatch.setattr(tiles._scratch, "take", fresh)


def samples(
    n: int, m: int, d: int, dtype: torch.dtype, batch: tuple[int, ...] = (2,)
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(n * 1000 + m * 10 + d)
    x = torch.randn(*batch, n, d, generator=generator, dtype=torch.float64).to(dtype) + 0.5
    y = torch.randn(*batch, m, d, generator=generator, dtype=torch.float64).to(dtype) * 1.2
    wx = torch.rand(*batch, n, generator=generator, dtype=torch.float64).to(dtype)
    wy = torch.rand(*batch, m, generator=generator, dtype=torch.float64).to(dtype)
    return x, y, wx, wy


def truth(
    function: KernelFunction,
    rate: float,
    shape: float,
    offset: float,
    tensors: tuple[Tensor, ...],
    coefs: Tensor,
) -> tuple[Tensor, ...]:
    """Sums, and the gradients of Σ coefs·sums by autograd of the oracle."""
    leaves = [t.double().clone().requires_grad_() for t in tensors]
    x, y, wx, wy = leaves
    sums = oracle.sums(function.name, x, y, rate, shape, offset, wx, wy)
    gradients = torch.autograd.grad((sums * coefs.double()).sum(), leaves)
    return sums.detach(), *gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("n", "m", "d"), [(1, 2, 1), (2, 17, 2), (63, 33, 5), (129, 64, 20)])
@pytest.mark.parametrize(("function", "rate", "shape", "offset"), PROBES)
def test_sums_and_gradients(
    function: KernelFunction,
    rate: float,
    shape: float,
    offset: float,
    n: int,
    m: int,
    d: int,
    dtype: torch.dtype,
) -> None:
    tensors = samples(n, m, d, dtype)
    coefs = torch.tensor([0.7, -1.3, 0.4])
    rate = rate / d
    expected = truth(function, rate, shape, offset, tensors, coefs)
    component = (Component(function, shape, offset),)
    out = sweep(*tensors, component, [rate], coefs.tolist(), "all", EVERYTHING)
    assert_close(out.sums[..., 0], expected[0], RELATIVE[dtype])
    for ours, gradient in zip(out[1:], expected[1:], strict=True):
        assert_close(ours, gradient, GRADIENT[dtype])


@pytest.mark.parametrize("function", REGISTRY.values(), ids=lambda f: f.name)
def test_without_weights_is_with_ones(function: KernelFunction) -> None:
    x, y, wx, wy = samples(40, 35, 3, torch.float64)
    rate, shape, offset = function.probe[0]
    component = (Component(function, shape, offset),)
    arguments = (component, [rate], [0.7, -1.3, 0.4], "all", EVERYTHING)
    plain = sweep(x, y, None, None, *arguments)
    ones = sweep(x, y, torch.ones_like(wx), torch.ones_like(wy), *arguments)
    for a, b in zip(plain, ones, strict=True):
        assert_close(a, b, 1e-12)


@pytest.mark.parametrize("wanted_index", range(1, 5))
def test_each_gradient_alone(wanted_index: int) -> None:
    """What is not wanted is None; what is wanted does not depend on the rest."""
    tensors = samples(40, 35, 3, torch.float64)
    component = (Component(REGISTRY["laplace"]),)
    arguments = (component, [0.5], [0.7, -1.3, 0.4], "all")
    full = sweep(*tensors, *arguments, EVERYTHING)
    flags = [False] * 5
    flags[wanted_index] = True
    single = sweep(*tensors, *arguments, Wanted(*flags))
    for position, (a, b) in enumerate(zip(single, full, strict=True)):
        if position == wanted_index:
            assert torch.equal(a, b)
        else:
            assert a is None


def test_only_the_wanted_side_is_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of x alone visits neither the yy tiles nor the products for y."""
    tiles: list[bool] = []
    original = blocked._Sweeper._tile

    def counted(
        self: blocked._Sweeper,
        s: Tensor,
        form: str,
        near: Tensor | None,
        tile: tiles.Tile,
        *rest: object,
    ) -> None:
        tiles.append(tile.itself)
        original(self, s, form, near, tile, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(blocked._Sweeper, "_tile", counted)
    x, y, _, _ = samples(30, 30, 3, torch.float64, ())
    component = (Component(REGISTRY["gaussian"]),)
    sweep(x[None], y[None], None, None, component, [0.5], [1.0] * 3, "all", Wanted(grad_x=True))
    assert tiles == [True, False]  # xx, xy


@pytest.mark.parametrize("as_tensor", [False, True])
def test_components_share_a_sweep(as_tensor: bool) -> None:
    """Several components in one sweep equal one sweep each."""
    tensors = samples(50, 37, 4, torch.float64)
    names = ["gaussian", "laplace", "matern", "energy", "inverse_power"]
    shapes = [0.0, 0.0, 2.5, 1.0, 0.5]
    components = tuple(
        Component(REGISTRY[n], shape) for n, shape in zip(names, shapes, strict=True)
    )
    rates = [0.3, 0.5, 0.7, 1.0, 0.2]
    coefs = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given_rates = torch.tensor([rates, rates], dtype=torch.float64) if as_tensor else rates
    given_coefs = coefs.expand(2, 3, 5) if as_tensor else coefs.flatten().tolist()
    out = sweep(*tensors, components, given_rates, given_coefs, "all", EVERYTHING)
    gradients = [torch.zeros_like(t) for t in out[1:]]
    for c, component in enumerate(components):
        single = sweep(*tensors, (component,), [rates[c]], coefs[:, c].tolist(), "all", EVERYTHING)
        assert_close(out.sums[..., c], single.sums[..., 0], 1e-12)
        gradients = [total + part for total, part in zip(gradients, single[1:], strict=True)]
    for ours, expected in zip(out[1:], gradients, strict=True):
        assert_close(ours, expected, 1e-12)


def test_batch_equals_a_loop() -> None:
    x, y, wx, wy = samples(20, 23, 3, torch.float64, (5,))
    component = (Component(REGISTRY["gaussian"]),)
    rates = torch.rand(5, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    arguments = ([1.0, 2.0, 3.0], "all", EVERYTHING)
    batch = sweep(x, y, wx, wy, component, rates, *arguments)
    for b in range(5):
        one = slice(b, b + 1)
        single = sweep(x[one], y[one], wx[one], wy[one], component, rates[one], *arguments)
        for a, c in zip(batch, single, strict=True):
            assert_close(a[one], c, 1e-12)


@pytest.mark.parametrize("blocks", ["xx", "xy"])
def test_single_blocks(blocks: str) -> None:
    x, y, wx, wy = samples(40, 35, 3, torch.float64)
    component = (Component(REGISTRY["gaussian"]),)
    expected = truth(
        REGISTRY["gaussian"],
        0.5,
        0.0,
        0.0,
        (x, y, wx, wy),
        torch.eye(3)[0 if blocks == "xx" else 2],
    )
    if blocks == "xx":
        out = sweep(
            x, None, wx, None, component, [0.5], [1.0], "xx", Wanted(True, True, False, True)
        )
        assert_close(out.sums[:, 0, 0], expected[0][:, 0], 1e-12)
        assert_close(out.grad_x, expected[1], 1e-11)
        assert_close(out.grad_wx, expected[3], 1e-11)
        assert out.grad_y is None and out.grad_wy is None
    else:
        out = sweep(x, y, wx, wy, component, [0.5], [1.0], "xy", EVERYTHING)
        assert_close(out.sums[:, 0, 0], expected[0][:, 2], 1e-12)
        for ours, gradient in zip(out[1:], expected[1:], strict=True):
            assert_close(ours, gradient, 1e-11)


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_empty_and_single_samples(n: int, m: int) -> None:
    x, y, wx, wy = samples(n, m, 3, torch.float32)
    component = (Component(REGISTRY["energy"], 1.0),)
    out = sweep(x, y, wx, wy, component, [1.0], [1.0] * 3, "all", EVERYTHING)
    expected = oracle.sums("energy", x, y, 1.0, 1.0, 0.0, wx, wy)
    assert_close(out.sums[..., 0], expected, RELATIVE[torch.float32])
    assert out.grad_x.shape == x.shape
    assert out.grad_y.shape == y.shape
    assert not any(t.isnan().any() for t in out)


def test_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing larger than a few tiles is allocated, whatever n."""
    monkeypatch.setattr(tiles, "TILE", 64)
    x = torch.randn(1, 2000, 4)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    with Watch():
        sweep(
            x,
            x + 1,
            None,
            None,
            (Component(REGISTRY["gaussian"]),),
            [0.5],
            [1.0] * 3,
            "all",
            Wanted(True, True, True),
        )
    assert largest <= 2000 * 6  # the augmented sample; the dense matrix would be 4,000,000


@pytest.mark.parametrize("scale", [1e-24, 1.0, 1e24])
@pytest.mark.parametrize("name", ["gaussian", "energy"])
@pytest.mark.parametrize(
    ("d", "dtype"), [(5, torch.float32), (5, torch.float64), (20, torch.float32)]
)
def test_without_a_look_at_the_numbers(
    name: str, d: int, dtype: torch.dtype, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: units that fp32 does not hold; of few columns, rows that an fp64 product does
    not resolve."""
    x, y, *_ = (t * scale for t in samples(40, 35, d, dtype, (1,)))
    x[:, 20:] = x[:, :20] + 1e-5 * scale * torch.randn(20, d).to(dtype)
    widths = 1e-3 if d > tiles.DIFFERENCE_COLUMNS else 1e-7 if dtype == torch.float64 else 1e-5
    x[:, 30:] = x[:, :10] + widths * scale * torch.randn(10, d).to(dtype)
    function, shape = REGISTRY[name], float(name == "energy")
    rate = 0.5 / (widths * scale) ** 2
    coefs = torch.tensor([0.7, -1.3, 0.4])
    ones = [torch.ones(t.shape[:2]) for t in (x, y)]
    expected = truth(function, rate, shape, 0.0, (x, y, *ones), coefs)
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda _: True))
    out = sweep(
        x, y, None, None, (Component(function, shape),), [rate], coefs.tolist(), "all",
        Wanted(True, True, True),
    )  # fmt: skip
    assert_close(out.sums[..., 0], expected[0], RELATIVE[torch.float32])
    for ours, gradient in zip(out[1:3], expected[1:3], strict=True):
        assert_close(ours, gradient, GRADIENT[torch.float32])
