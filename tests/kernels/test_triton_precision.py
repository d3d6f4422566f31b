"""The Gram form of the Triton backend on samples that its products do not resolve: near rows, far
rows, units beyond the range of fp32, narrow kernels. Against the dense fp64 oracle, and no worse
than the reference backend, which has a ladder of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import torch
from test_triton import CUBIC, ENERGY, EVERYTHING, GAUSSIAN, LAPLACE, LINEAR, MATERN, Problem, Spec
from torch import Tensor

from divergences.kernels.functions import REGISTRY
from divergences.kernels.problem import Component, PairProblem, Sweep, Wanted
from divergences.kernels.reference import blocked
from divergences.kernels.triton_backend import launcher, sweeps

pytestmark = pytest.mark.usefixtures("gram")
D = 20


@pytest.fixture
def gram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "SMALL", 0)


def normal(rows: int) -> Tensor:
    return torch.randn(1, rows, D)


def clusters(width: float) -> Callable[[int], Tensor]:
    def draw(rows: int) -> Tensor:
        centres = torch.randn(4, D, generator=torch.Generator().manual_seed(5))
        return (centres[torch.arange(rows) % 4] + width * torch.randn(rows, D)).unsqueeze(0)

    return draw


def one_hot(rows: int) -> Tensor:
    return torch.eye(D)[torch.randint(D, (1, rows))]


def far_rows(rows: int) -> Tensor:
    x = normal(rows)
    x[0, 3], x[0, 11] = 1e8, -1e5
    return x


def mostly_constant(rows: int) -> Tensor:
    x = torch.full((1, rows, D), 3.0)
    x[0, ::5] += torch.randn(len(x[0, ::5]), D)
    return x


def scaled(by: float, offset: float = 0.0) -> Callable[[int], Tensor]:
    return lambda rows: normal(rows) * by + offset


NARROW: Spec = ("gaussian", 1e6, 0.0, 0.0)
PEAK: Spec = ("inverse_power", 1e5, 2.0, 0.0)
CASES = {
    "clusters 1e-3": (clusters(1e-3), [ENERGY, LAPLACE, NARROW]),
    "clusters 1e-4": (clusters(1e-4), [ENERGY, MATERN]),
    "one-hot": (one_hot, [ENERGY, LAPLACE, GAUSSIAN, ("gaussian", 19.5, 0.0, 0.0), PEAK]),
    "far rows": (far_rows, [ENERGY, GAUSSIAN, LINEAR]),
    "mostly constant": (mostly_constant, [ENERGY, GAUSSIAN, CUBIC]),
    "offset": (scaled(1.0, 1e4), [ENERGY, GAUSSIAN, LAPLACE]),
    "units 1e18": (scaled(1e18), [ENERGY, ("gaussian", 0.05e-36, 0.0, 0.0)]),
    "units 1e-18": (scaled(1e-18), [ENERGY, ("laplace", 0.3e18, 0.0, 0.0)]),
    "units 1e15": (scaled(1e15), [("matern", 0.3e-15, 2.5, 0.0), ("energy", 1.0, 0.5, 0.0)]),
}


def problem_of(name: str, spec: Spec, weighted: bool) -> Problem:
    draw, _ = CASES[name]
    problem = Problem(24, 18, D, [spec], weighted=weighted, coef=1.0)
    torch.manual_seed(3)
    problem.x, problem.y = draw(24), draw(18)
    return problem


def on_the_reference(problem: Problem, wanted: Wanted) -> Sweep:
    components = tuple(Component(REGISTRY[f], s, o) for f, _, s, o in problem.specs)
    rates = cast(list[float], problem.rates)
    given = problem.x, problem.y, problem.wx, problem.wy, rates, problem.coefs, components
    return blocked.sweep(PairProblem(*given, problem.blocks, wanted))


@pytest.mark.parametrize(
    ("name", "spec"), [(n, s) for n, (_, specs) in CASES.items() for s in specs]
)
def test_as_exact_as_the_reference(name: str, spec: Spec) -> None:
    problem = problem_of(name, spec, weighted=spec is ENERGY)
    values_too = spec is CASES[name][1][0]
    for wanted in (EVERYTHING, Wanted(sums=True))[: 1 + values_too]:
        ours, theirs = problem.sweep(wanted), on_the_reference(problem, wanted)
        for field, mine, other, truth in zip(
            Sweep._fields, ours, theirs, problem.truth(), strict=True
        ):
            if mine is None:
                continue
            scale = truth.abs().max().item()
            error = (mine.double() - truth).abs().max().item()
            allowed = 2.0 * (other.double() - truth).abs().max().item() + 2e-6 * scale
            assert error <= allowed, f"{field}: {error / scale:.1e}"


@pytest.mark.parametrize("d", [20, 130])
def test_rows_in_a_cluster_keep_their_gradient(d: int) -> None:
    """Each row by itself, half of them 1e-4 apart."""
    torch.manual_seed(0)
    problem = Problem(30, 20, d, [ENERGY], weighted=False, coef=1.0)
    problem.x[0, :15] = problem.x[0, 0] + 1e-4 * torch.randn(15, d)
    ours, truth = problem.sweep(), problem.truth()
    for mine, exact in ((ours.grad_x[0], truth.grad_x[0]), (ours.grad_y[0], truth.grad_y[0])):
        assert ((mine.double() - exact).norm(dim=1) <= 2e-6 * exact.norm(dim=1)).all()


@pytest.mark.parametrize("blocks", ["xx", "xy"])
def test_in_every_block(blocks: str) -> None:
    problem = problem_of("clusters 1e-3", ENERGY, weighted=True)
    problem.blocks = blocks  # type: ignore[assignment]
    problem.coefs = problem.coefs[:, :1]
    problem.check()


def test_items_of_a_batch_are_scaled_apart() -> None:
    """A tiny one beside a large one."""
    torch.manual_seed(1)
    problem = Problem(20, 18, D, [ENERGY], batch=2, weighted=False, coef=1.0)
    for sample in (problem.x, problem.y):
        sample[0] *= 1e-17
    ours, truth = problem.sweep(), problem.truth()
    for item in range(2):
        for mine, exact in zip(ours, truth, strict=True):
            error = (mine[item].double() - exact[item]).abs().max()
            assert error <= 2e-6 * exact[item].abs().max()


def test_what_overflows_is_nan() -> None:
    """Rows so far apart that fp32 does not hold their squared distance, beside typical ones."""
    problem = problem_of("offset", GAUSSIAN, weighted=False)
    problem.x[0, 0] = 1e30
    out = problem.sweep()
    assert out.sums[0, [0, 2]].isnan().all()
    assert out.grad_x[0, 0].isnan().all()


def test_flags_of_more_than_32_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Near rows in the first, the 33rd and the last tile of columns, which two programs share."""
    monkeypatch.setattr(sweeps, "MAX_SPLITS", 2)
    torch.manual_seed(2)
    problem = Problem(3, 66 * 32 + 5, D, [ENERGY], weighted=False, coef=1.0)
    for row, column in ((0, 7), (1, 32 * 33 + 4), (2, 66 * 32 + 2)):
        problem.y[0, column] = problem.x[0, row] + 1e-4 * torch.randn(D)
    problem.blocks, problem.coefs = "xy", problem.coefs[:, :1]
    ours, truth = problem.sweep(Wanted(True, True)), problem.truth()
    error = (ours.grad_x[0].double() - truth.grad_x[0]).norm(dim=1)
    assert (error <= 2e-6 * truth.grad_x[0].norm(dim=1)).all()
