"""Values and gradients of the Triton backend against the dense fp64 oracle; interpreted without
a GPU. The tolerance is the rule of ``tolerances``: twice what plain fp32 torch makes of the
differences x − y, plus a few ulps of the largest entry."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import synchronisation
import torch
from tolerances import assert_no_worse_than_eager
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from divergences.kernels.functions import REGISTRY
from divergences.kernels.problem import Blocks, Component, PairProblem, Sweep, Wanted
from divergences.kernels.triton_backend import launcher, sweeps

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOOR = 4 * 2.0**-23
EVERYTHING = Wanted(True, True, True, True, True)


def sweep(
    x: Tensor, y: Tensor | None, wx: Tensor | None, wy: Tensor | None, components: Any,
    rates: Any, coefs: Any, blocks: Any, wanted: Wanted,
) -> Any:  # fmt: skip
    return sweeps.sweep(PairProblem(x, y, wx, wy, rates, coefs, components, blocks, wanted))


BLOCKS: dict[Blocks, list[int]] = {"xx": [0], "xy": [2], "all": [0, 1, 2]}
Spec = tuple[str, float, float, float]  # function, rate, shape, offset
PROBES = [
    pytest.param((f.name, *probe), id=f"{f.name}-{probe[1]:g}")
    for f in REGISTRY.values()
    for probe in f.probe
]
GAUSSIAN: Spec = ("gaussian", 0.7, 0.0, 0.0)
LAPLACE: Spec = ("laplace", 0.7, 0.0, 0.0)
LAPLACE_L1: Spec = ("laplace_l1", 0.7, 0.0, 0.0)
ENERGY: Spec = ("energy", 1.0, 1.0, 0.0)
MATERN: Spec = ("matern", 1.2, 2.5, 0.0)
CUBIC: Spec = ("polynomial", 0.25, 3.0, 1.0)
LINEAR: Spec = ("polynomial", 0.5, 1.0, 0.0)


@pytest.fixture
def gram(monkeypatch: pytest.MonkeyPatch) -> None:
    """The split Gram form for samples that are small enough for the interpreter."""
    monkeypatch.setattr(launcher, "SMALL", 0)


@pytest.fixture
def ordered_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted matrix products that form each entry in the same order, as a tensor core does
    and BLAS does not: entries of equal rows must be equal."""

    def matmul(a: np.ndarray, b: np.ndarray, dtype: np.dtype) -> np.ndarray:
        return (a.astype(dtype)[:, :, None] * b.astype(dtype)[None]).sum(1)

    monkeypatch.setattr(np, "matmul", matmul)


Launches = list[tuple[str, int, dict[str, object]]]  # kernel, programs, arguments


class Problem:
    """Two samples with weights, and what a sweep over them should give."""

    def __init__(
        self, n: int, m: int, d: int, specs: list[Spec], batch: int = 1, weighted: bool = True,
        blocks: Blocks = "all", seed: int = 0, coef: float | None = None,
    ) -> None:  # fmt: skip
        generator = torch.Generator().manual_seed(seed + 1000 * n + 10 * m + d)
        spread = 1 / math.sqrt(d)
        self.x = torch.randn(batch, n, d, generator=generator) * spread
        self.y = torch.randn(batch, m, d, generator=generator) * spread * 1.2 + 0.1
        self.wx = torch.rand(batch, n, generator=generator) + 0.5 if weighted else None
        self.wy = torch.rand(batch, m, generator=generator) - 0.3 if weighted else None
        self.specs, self.blocks = specs, blocks
        shape = (batch, len(BLOCKS[blocks]), len(specs))
        self.coefs = torch.randn(shape, generator=generator)
        if coef is not None:
            self.coefs.fill_(coef)
        self.rates: list[float] | Tensor = [rate for _, rate, _, _ in specs]

    def sweep(self, wanted: Wanted = EVERYTHING) -> Sweep:
        if self.blocks == "xx":
            wanted = wanted._replace(grad_y=False, grad_wy=False)
        components = tuple(Component(REGISTRY[f], s, o) for f, _, s, o in self.specs)
        x, y, wx, wy = (
            None if t is None else t.to(DEVICE) for t in (self.x, self.y, self.wx, self.wy)
        )
        assert x is not None
        if self.blocks == "xx":
            y = wy = None
        rates = self.rates.to(DEVICE) if isinstance(self.rates, Tensor) else self.rates
        coefs = self.coefs.to(DEVICE)
        out = sweep(x, y, wx, wy, components, rates, coefs, self.blocks, wanted)
        return Sweep(*(None if t is None else t.cpu() for t in out))

    def truth(self, eager: bool = False) -> Sweep:
        """By the oracle in fp64, or by the same formulas in fp32; gradients by autograd."""
        dtype = torch.float32 if eager else torch.float64
        wx = torch.ones(self.x.shape[:2]) if self.wx is None else self.wx
        wy = torch.ones(self.y.shape[:2]) if self.wy is None else self.wy
        leaves = [t.detach().to(dtype).requires_grad_() for t in (self.x, self.y, wx, wy)]
        x, y, wx, wy = leaves
        columns = [
            _eager(name, x, y, rate, shape, offset, wx, wy)
            if eager
            else oracle.sums(name, x, y, rate, shape, offset, wx, wy)
            for name, rate, shape, offset in self.specs
        ]
        sums = torch.stack(columns, -1)[:, BLOCKS[self.blocks]]
        loss = (sums * self.coefs.to(dtype)).sum()
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        return Sweep(sums.detach(), *(torch.empty(0) if g is None else g for g in grads))

    def check(self, out: Sweep | None = None, wanted: Wanted = EVERYTHING) -> None:
        out = self.sweep(wanted) if out is None else out
        for name, ours, eager, truth in zip(
            Sweep._fields, out, self.truth(eager=True), self.truth(), strict=True
        ):
            if ours is None or ours.numel() == 0:
                continue
            assert ours.shape == truth.shape, name
            assert ours.dtype == (torch.float64 if name == "sums" else torch.float32)
            floor = FLOOR * truth.abs().max().item()
            assert_no_worse_than_eager(ours, eager, truth, floor)


def _eager(
    name: str, x: Tensor, y: Tensor, a: float, shape: float, offset: float, wx: Tensor, wy: Tensor
) -> Tensor:
    def block(u: Tensor, v: Tensor, wu: Tensor, wv: Tensor, drop: bool) -> Tensor:
        difference = u.unsqueeze(-2) - v.unsqueeze(-3)
        if name == "polynomial":
            s = u @ v.mT
        elif name == "laplace_l1":
            s = difference.abs().sum(-1)
        else:
            s = difference.square().sum(-1)
        k = oracle.profile(name, s, a, shape, offset)
        if drop:
            k = k * (1 - torch.eye(k.shape[-1]))
        return torch.einsum("...i,...ij,...j->...", wu, k, wv)

    blocks = (block(x, x, wx, wx, True), block(y, y, wy, wy, True), block(x, y, wx, wy, False))
    return torch.stack(blocks, -1)


@pytest.mark.parametrize("spec", PROBES)
class TestEveryFunction:
    def test_few_coordinates(self, spec: Spec) -> None:
        Problem(17, 33, 3, [spec]).check()

    def test_small_problem(self, spec: Spec) -> None:
        Problem(17, 9, 17, [spec]).check()

    @pytest.mark.usefixtures("gram")
    def test_many_coordinates(self, spec: Spec) -> None:
        Problem(33, 9, 33, [spec]).check()

    @pytest.mark.usefixtures("gram")
    def test_values_alone(self, spec: Spec) -> None:
        Problem(40, 9, 20, [spec]).check(wanted=Wanted(sums=True))


@pytest.mark.parametrize(
    ("n", "m", "d"), [(1, 1, 1), (1, 2, 2), (2, 17, 5), (63, 1, 16), (129, 3, 1), (2, 1, 40)]
)
def test_odd_shapes(n: int, m: int, d: int) -> None:
    Problem(n, m, d, [GAUSSIAN]).check()
    Problem(n, m, d, [ENERGY], weighted=False).check()


@pytest.mark.usefixtures("gram")
@pytest.mark.parametrize(
    ("n", "m", "d", "batch"), [(1, 2, 17, 1), (2, 65, 64, 2), (129, 3, 128, 1), (63, 33, 300, 1)]
)
def test_odd_shapes_of_the_gram_form(n: int, m: int, d: int, batch: int) -> None:
    Problem(n, m, d, [LAPLACE], batch).check()


@pytest.mark.usefixtures("gram")
@pytest.mark.parametrize("spec", [GAUSSIAN, LAPLACE_L1, CUBIC, ENERGY], ids=lambda s: s[0])
def test_panels(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """More coordinates than fit in registers, in several bounded panels of weights."""
    monkeypatch.setattr(sweeps, "PANEL_BYTES", 1)
    d = 17 if spec[0] == "laplace_l1" else 130
    Problem(40, 10, d, [spec]).check()
    Problem(10, 34, d, [spec], blocks="xy").check()


@pytest.mark.parametrize("tiles", [1, 2, 3, 4, 5, 6])
def test_every_pair_of_tiles_is_visited_once(tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "CHUNK", 2)
    problem = Problem(32 * tiles - 1, 32, 1, [GAUSSIAN])
    problem.check(wanted=Wanted(sums=True))


@pytest.mark.parametrize("target", [64, 132, 528, 577])
@pytest.mark.parametrize("units", [(4352, 4352, 8192), (1, 1, 100_000), (5, 70, 3), (1000,)])
def test_programs_fill_the_device_and_no_more(units: tuple[int, ...], target: int) -> None:
    named = dict(zip(("xx", "yy", "xy"), units, strict=False))
    shares = sweeps._shares(named, target)
    assert sum(shares.values()) == min(target, sum(units))
    assert all(1 <= shares[name] <= unit for name, unit in named.items())


def test_several_components_share_a_sweep() -> None:
    Problem(20, 33, 2, [GAUSSIAN, ENERGY, MATERN, ("energy", 1.0, 0.5, 0.0)]).check()
    Problem(20, 33, 2, [CUBIC, LINEAR]).check()


@pytest.mark.usefixtures("gram")
def test_several_components_share_a_gram_sweep() -> None:
    Problem(20, 33, 20, [GAUSSIAN, ENERGY, MATERN]).check()


DOUBLING = [0.25, 1.0, 4.0]


@pytest.mark.parametrize("name", ["gaussian", "laplace_l1", "laplace"])
@pytest.mark.parametrize(
    ("rates", "known"),
    [
        (DOUBLING, (1, 3, 0)),
        (DOUBLING[::-1], (1, 3, 0)),
        ([0.5, 0.5, 0.1, 0.4000001], (0, 0, 0, 0)),
        ([1.1, 0.3, 0.7, 2.8], (0, 0, 1, 3)),
    ],
    ids=str,
)
def test_bandwidths_that_double(name: str, rates: list[float], known: tuple[int, ...]) -> None:
    """The fourth power of one exponential is another, whether the host sees it or the device."""
    exponential = name != "laplace"
    specs = [(name, rate, 0.0, 0.0) for rate in rates]
    components = (Component(REGISTRY[name]),) * len(rates)
    expected = known if exponential else (0,) * len(rates)
    assert launcher.powers(components, rates) == expected
    problem = Problem(20, 33, 3, specs)
    wanted = Wanted(sums=True)
    listed = problem.sweep(wanted)
    problem.check(listed)
    problem.rates = torch.tensor([rates])
    pairs = (1, 2) * (len(rates) // 2) + (0,) * (len(rates) % 2)
    found = launcher.powers(components, problem.rates)
    assert found == (pairs if exponential else (0,) * len(rates))
    assert torch.equal(problem.sweep(wanted).sums, listed.sums)


def test_fourth_powers_are_of_equal_functions() -> None:
    gaussian, l1 = (Component(REGISTRY[name]) for name in ("gaussian", "laplace_l1"))
    assert launcher.powers((gaussian, l1), [1.0, 4.0]) == (0, 0)
    assert launcher.powers((l1, gaussian, gaussian), [1.0, 4.0, 1.0]) == (0, 1, 3)


@pytest.mark.parametrize("d", [2, 20])
def test_rates_of_each_batch_item(d: int) -> None:
    problem = Problem(9, 12, d, [GAUSSIAN, LAPLACE], batch=2)
    rates = torch.tensor([[0.3, 1.1], [0.9, 0.2]])
    problem.rates = rates
    ours = problem.sweep()
    for item in range(2):
        alone = Problem(9, 12, d, [GAUSSIAN, LAPLACE])
        for name in ("x", "y", "wx", "wy", "coefs"):
            setattr(alone, name, getattr(problem, name)[item : item + 1])
        alone.rates = rates[item].tolist()
        for whole, part in zip(ours, alone.sweep(), strict=True):
            torch.testing.assert_close(whole[item : item + 1], part, rtol=1e-6, atol=1e-6)


def test_coefficients_as_numbers() -> None:
    problem = Problem(9, 12, 2, [GAUSSIAN, LAPLACE])
    components = tuple(Component(REGISTRY[f], s, o) for f, _, s, o in problem.specs)
    listed = sweep(
        problem.x.to(DEVICE), problem.y.to(DEVICE), problem.wx.to(DEVICE), problem.wy.to(DEVICE),
        components, problem.rates, problem.coefs.flatten().tolist(), "all", EVERYTHING,
    )  # fmt: skip
    for ours, theirs in zip(listed, problem.sweep(), strict=True):
        assert torch.equal(ours.cpu(), theirs)


@pytest.mark.parametrize("d", [2, 20])
def test_the_form_of_one_block(d: int) -> None:
    g = torch.Generator().manual_seed(d)
    x, y = torch.randn(1, 9, d, generator=g), torch.randn(1, 12, d, generator=g)
    problem = PairProblem(
        x.to(DEVICE), y.to(DEVICE), None, None, [0.3], (0.7,),
        (Component(REGISTRY["gaussian"]),), "xy", Wanted(grad_x=True),
    )  # fmt: skip
    value, gradient, *_ = sweeps.form(problem)
    assert value is not None
    assert gradient is not None
    leaf = x.double().requires_grad_()
    expected = 0.7 * torch.exp(-0.3 * torch.cdist(leaf, y.double()).square()).sum((1, 2))
    (slope,) = torch.autograd.grad(expected, leaf)
    torch.testing.assert_close(value.cpu(), expected.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.cpu().double(), slope, rtol=1e-5, atol=1e-6)


class TestNumbersOnTheDevice:
    """A captured CUDA graph reads the rates and coefficients where they lay at its capture."""

    def test_they_are_never_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kept: dict[object, Tensor] = {}
        monkeypatch.setattr(launcher, "_constants", kept)
        monkeypatch.setattr(launcher, "KEPT", 3)
        problem = Problem(5, 4, 2, [GAUSSIAN])
        problem.rates = [0.7]
        expected = problem.sweep()
        before = dict(kept)
        for rate in (0.1, 0.2, 0.3, 0.4):
            problem.rates = [rate]
            problem.sweep()
        assert len(kept) == 3
        assert all(kept[key] is tensor for key, tensor in before.items())
        problem.rates = [0.7]
        assert torch.equal(problem.sweep().sums, expected.sums)

    def test_beyond_that_they_are_written_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(launcher, "_constants", {})
        monkeypatch.setattr(launcher, "KEPT", 0)
        Problem(5, 4, 2, [GAUSSIAN, LAPLACE], weighted=False).check()
        assert not launcher._constants

    @pytest.mark.gpu
    def test_numbers_first_met_during_a_capture(self) -> None:
        x = torch.randn(1, 100, 3, device="cuda")
        components = (Component(REGISTRY["gaussian"]),)

        def step(rate: float) -> Sweep:
            numbers = ([rate], [1.0, 1.0, -2.0 * rate])
            wanted = Wanted(True, True)
            return sweep(x, x, None, None, components, *numbers, "all", wanted)

        step(0.7)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step(0.123)
        graph.replay()
        expected = step(0.123)
        for ours, theirs in zip(captured, expected, strict=True):
            assert torch.equal(ours, theirs)


SUBSETS = [Wanted(*flags) for flags in itertools.product([False, True], repeat=5) if any(flags)]


@pytest.mark.parametrize("blocks", BLOCKS)
def test_each_subset_of_outputs(blocks: Blocks) -> None:
    problem = Problem(5, 4, 2, [GAUSSIAN], blocks=blocks)
    for wanted in SUBSETS:
        out = problem.sweep(wanted)
        problem.check(out)
        for name, tensor in zip(Sweep._fields, out, strict=True):
            made = getattr(wanted, name) and not (blocks == "xx" and name in ("grad_y", "grad_wy"))
            assert (tensor is not None and tensor.numel() > 0) == made, (wanted, name)


@pytest.mark.usefixtures("gram")
@pytest.mark.parametrize("d", [20, 130])
@pytest.mark.parametrize(
    "wanted", [Wanted(True, True), Wanted(grad_y=True), Wanted(True, False, False, True)], ids=str
)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_subsets_of_the_gram_form(blocks: Blocks, wanted: Wanted, d: int) -> None:
    if blocks == "xx" and wanted.grad_y:
        pytest.skip("there is no y")
    Problem(35, 33, d, [GAUSSIAN], blocks=blocks).check(wanted=wanted)


class TestTranslation:
    """Coordinates on a grid, so that adding the offset rounds nothing."""

    def problem(self, d: int, spec: Spec, offset: float) -> Problem:
        problem = Problem(34, 20, d, [spec])
        problem.x = (problem.x * 256).round() / 256 + offset
        problem.y = (problem.y * 256).round() / 256 + offset
        return problem

    @pytest.mark.usefixtures("gram")
    @pytest.mark.parametrize("offset", [1.0, 100.0, 1e4])
    @pytest.mark.parametrize("d", [3, 20])
    @pytest.mark.parametrize("spec", [GAUSSIAN, ENERGY], ids=lambda s: s[0])
    def test_an_offset_changes_nothing(self, spec: Spec, d: int, offset: float) -> None:
        truth = self.problem(d, spec, 0.0).truth()
        for ours, exact in zip(self.problem(d, spec, offset).sweep(), truth, strict=True):
            error = (ours.double() - exact).abs().max()
            assert error <= 1e-6 * exact.abs().max()

    @pytest.mark.usefixtures("gram")
    def test_one_far_point_costs_the_others_little(self) -> None:
        problem = Problem(40, 20, 20, [GAUSSIAN])
        problem.x[0, 0] += 100.0
        exact = problem.truth()
        ours = problem.sweep()
        error = (ours.grad_x[:, 1:].double() - exact.grad_x[:, 1:]).abs().max()
        assert error <= 1e-5 * exact.grad_x.abs().max()


@pytest.mark.usefixtures("ordered_products")
class TestCoincidentPoints:
    @pytest.mark.usefixtures("gram")
    @pytest.mark.parametrize(
        ("d", "offset"), [*((d, at) for d in (2, 16, 40) for at in (0.0, 1e4)), (130, 1e4)]
    )
    def test_they_are_exactly_0_apart(self, d: int, offset: float) -> None:
        """Away from the centre, where points of weight 0 lie."""
        problem = Problem(35, 5, d, [ENERGY], coef=1.0)
        problem.x, problem.y = (torch.randn(d) + offset).expand(2, 1, 40, d).clone()
        problem.y = problem.y[:, :5]
        problem.x[:, :30] = torch.randn(30, d) + offset + 2.0
        problem.x = problem.x[:, :35]
        problem.wx = torch.cat([torch.zeros(1, 30), torch.ones(1, 5)], 1)
        out = problem.sweep()
        for tensor in (out.sums, out.grad_x, out.grad_y):
            assert torch.equal(tensor, torch.zeros_like(tensor))

    @pytest.mark.usefixtures("gram")
    @pytest.mark.parametrize("d", [2, 40])
    @pytest.mark.parametrize("spec", [ENERGY, LAPLACE, MATERN], ids=lambda s: s[0])
    def test_shared_rows(self, spec: Spec, d: int) -> None:
        problem = Problem(40, 40, d, [spec])
        problem.x[:, 5:20] = problem.y[:, :15]
        problem.x[:, 30:] = problem.x[:, 20:30]
        problem.check()


def flushing(function: Callable[[np.ndarray], np.ndarray]) -> Callable[..., TensorHandle]:
    """An instruction ``.approx.ftz`` of a GPU: what is below the smallest normal number is 0."""
    tiny = np.finfo(np.float32).tiny

    def flushed(x: np.ndarray) -> np.ndarray:
        return np.where(np.abs(x) < tiny, np.copysign(np.float32(0.0), x), x)

    def create(_: object, argument: TensorHandle) -> TensorHandle:
        found = flushed(function(flushed(argument.data))).astype(argument.data.dtype)
        return TensorHandle(found, argument.dtype.scalar)

    return create


@pytest.mark.skipif(DEVICE == "cuda", reason="the GPU's own instructions are used there")
@pytest.mark.parametrize(
    "spec", [p for p in PROBES if REGISTRY[p.values[0][0]].metric == "sqeuclidean"]
)
def test_rows_whose_squared_distance_is_not_a_normal_number(
    spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the outputs of a softmax may be: they count as coincident, and nothing is infinite."""
    roots = {"rsqrt": lambda x: 1.0 / np.sqrt(x), "sqrt": np.sqrt, "exp2": np.exp2, "log2": np.log2}
    for name, function in roots.items():
        monkeypatch.setattr(InterpreterBuilder, f"create_{name}", flushing(function))
    problem = Problem(9, 5, 2, [spec])
    for near in (problem.x[:, 3], problem.x[:, 5], problem.y[:, 2]):
        near.zero_()
    coincident = problem.truth(eager=True), problem.truth()
    problem.x[:, 3, 0], problem.y[:, 2, 1] = 1e-20, -3e-20
    for ours, eager, truth in zip(problem.sweep(), *coincident, strict=True):
        floor = FLOOR * truth.abs().max().item()
        assert_no_worse_than_eager(ours, eager, truth, floor)


class TestNotANumber:
    @pytest.mark.usefixtures("gram")
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("d", [2, 20])
    @pytest.mark.parametrize("spec", [GAUSSIAN, ENERGY, CUBIC], ids=lambda s: s[0])
    def test_it_comes_out_as_nan(self, spec: Spec, d: int, bad: float) -> None:
        problem = Problem(6, 7, d, [spec])
        problem.x[0, 2, 1] = bad
        out = problem.sweep()
        assert out.sums[0, 0].isnan().all()
        assert out.sums[0, 2].isnan().all()
        assert out.grad_x[0, 2].isnan().all()
        assert out.grad_wx.isnan().all()
        assert out.grad_wy.isnan().all()

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_small_problems(self, bad: float) -> None:
        for spec in (LAPLACE, LAPLACE_L1):
            problem = Problem(6, 7, 20, [spec])
            problem.y[0, 2, 1] = bad
            out = problem.sweep()
            assert out.sums[0, 1:].isnan().all()
            assert out.grad_x.isnan().all()

    @pytest.mark.usefixtures("gram")
    @pytest.mark.parametrize("d", [2, 20])
    def test_it_stays_in_its_batch_item(self, d: int) -> None:
        problem = Problem(6, 7, d, [GAUSSIAN], batch=2)
        problem.x[1, 0, 0] = math.nan
        for tensor in problem.sweep():
            assert tensor[0].isfinite().all()


@pytest.mark.usefixtures("gram")
@pytest.mark.parametrize("d", [3, 20, 130])
def test_repeats_are_bit_equal(d: int) -> None:
    problem = Problem(40, 33, d, [GAUSSIAN, ENERGY])
    first = problem.sweep()
    for ours, again in zip(first, problem.sweep(), strict=True):
        assert torch.equal(ours, again)


@pytest.mark.usefixtures("gram")
@pytest.mark.parametrize("d", [3, 20])
def test_any_strides(d: int) -> None:
    problem = Problem(12, 10, d, [GAUSSIAN])
    plain = problem.sweep()
    problem.x = problem.x.mT.contiguous().mT
    problem.y = problem.y.repeat_interleave(2, 1)[:, ::2]
    problem.wx = torch.stack([problem.wx, problem.wx], -1)[..., 0]
    for ours, expected in zip(problem.sweep(), plain, strict=True):
        assert torch.equal(ours, expected)
    shared = Problem(12, 10, d, [GAUSSIAN], batch=2)
    shared.x = problem.x[:1].expand(2, 12, d)
    shared.wx = torch.ones(1).expand(2, 12)
    shared.check()


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    found: Launches = []
    launch = launcher.launch

    def counted(kernel: object, grid: tuple[int, ...], config: object, **arguments: object) -> None:
        found.append((kernel.__name__, grid[0], arguments))
        launch(kernel, grid, config, **arguments)

    monkeypatch.setattr(launcher, "launch", counted)
    return found


@pytest.mark.parametrize("d", [2, 17])
@pytest.mark.parametrize("wanted", [Wanted(True, True), Wanted(True)], ids=["gradient", "value"])
def test_small_problems_take_two_launches(launches: Launches, wanted: Wanted, d: int) -> None:
    Problem(100, 90, d, [GAUSSIAN], batch=2 if d == 2 else 1).sweep(wanted)
    assert len(launches) <= 2
    assert launches[0][1] >= 64


def test_the_launches_are_all_that_touches_the_device_of_a_small_problem() -> None:
    """No memset, no copy: profiled by the operators that torch dispatches."""
    problem = Problem(20, 20, 3, [GAUSSIAN])
    problem.sweep()
    with torch.profiler.profile() as profile:
        problem.sweep()
    names = {event.key for event in profile.key_averages()}
    assert not names & {"aten::zero_", "aten::zeros", "aten::sum", "aten::cat"}


@pytest.mark.gpu
@pytest.mark.parametrize("d", [3, 64, 300])
def test_no_synchronisation_and_graph_capture(d: int) -> None:
    problem = Problem(3000, 2000, d, [GAUSSIAN])
    components = (Component(REGISTRY["gaussian"]),)
    x, y = problem.x.cuda(), problem.y.cuda()
    numbers = ([0.7], [1.0, 1.0, -2.0])

    def step() -> Sweep:
        return sweep(x, y, None, None, components, *numbers, "all", EVERYTHING)

    expected = step()
    with synchronisation.refused():
        step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
    graph.replay()
    for ours, theirs in zip(captured, expected, strict=True):
        assert torch.equal(ours, theirs)


class TestNoWorkInVain:
    @pytest.mark.usefixtures("gram")
    def test_rows_without_a_wanted_gradient(self, launches: Launches) -> None:
        Problem(40, 34, 20, [GAUSSIAN]).sweep(Wanted(grad_x=True))
        names = [name for name, _, _ in launches]
        assert "gram_value_kernel" not in names
        (arguments,) = (a for name, _, a in launches if name == "gram_gradient_kernel")
        assert arguments["tiles_y"] == 0
        assert not arguments["SUMS"]
        assert not arguments["POTENTIAL"]

    @pytest.mark.usefixtures("gram")
    def test_values_of_several_panels(
        self, launches: Launches, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each panel adds the sums of its rows; only pairs in y are left for the values."""
        monkeypatch.setattr(sweeps, "PANEL_BYTES", 1)
        problem = Problem(40, 34, 130, [GAUSSIAN, ENERGY])
        problem.check(wanted=Wanted(True, True))
        (arguments,) = (a for name, _, a in launches if name == "gram_value_kernel")
        assert arguments["programs"] == arguments["programs_yy"]
        assert sum(name == "gram_gradient_kernel" for name, _, _ in launches) == 2
        launches.clear()
        problem.check()
        assert not any(name == "gram_value_kernel" for name, _, _ in launches)

    @pytest.mark.usefixtures("gram")
    def test_values_beside_the_gradient_of_x_add_one_triangle(self, launches: Launches) -> None:
        Problem(40, 34, 20, [GAUSSIAN]).sweep(Wanted(True, True))
        (arguments,) = (a for name, _, a in launches if name == "gram_value_kernel")
        assert arguments["programs_xx"] == 0
        assert arguments["programs"] == arguments["programs_yy"]


def test_unavailable() -> None:
    assert sweeps.unavailable(torch.zeros(1, device=DEVICE)) is None
    assert "float32" in (sweeps.unavailable(torch.zeros(1).double()) or "")
