"""The losses on a CPU against what people use: python -m pytest bench/test_losses_cpu.py."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from divergences.energy import energy_distance

from . import rivals
from .conftest import Compare
from .rivals import Loss
from .workloads import Problem, measure_problem

FILE = "losses_cpu"
ALONG_N = [(n, 16) for n in (32, 64, 128, 256, 512, 1000, 2000, 4000)]
ALONG_D = [*((2000, d) for d in (1, 2, 3, 64, 784)), (1000, 3072)]
LARGE = [(8000, 64)]  # half a minute each
OURS_ALONE = [  # a dense matrix takes 4 and 40 GB
    Problem("gaussian", 32_000, 16),
    Problem("gaussian", 32_000, 16, True),
    Problem("energy", 32_000, 16, True),
    Problem("gaussian", 100_000, 16),
]
MEMORY_FROM = 1000  # rows; below it is noise
both = pytest.mark.parametrize("gradient", [False, True], ids=["value", "value+gradient"])
pytestmark = [  # torch's own compiler uses what torch deprecates
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@both
@pytest.mark.parametrize(("n", "d"), [*ALONG_N, *ALONG_D, *LARGE])
@pytest.mark.parametrize("kernel", ["gaussian", "energy"])
def test_loss(compare: Compare, kernel: str, n: int, d: int, gradient: bool) -> None:
    """At most 100 MB and eight times the inputs, where eager code holds several [n, n] matrices."""
    problem = Problem(kernel, n, d, gradient)
    rows = measure_problem(compare, problem, FILE, memory=n >= MEMORY_FROM)
    if rows and n >= MEMORY_FROM:
        assert rows[0].peak_mb < 100 + 8 * (2 * 4 * n * d / 2**20)


@pytest.mark.parametrize("problem", OURS_ALONE, ids=str)
def test_large(compare: Compare, problem: Problem) -> None:
    measure_problem(compare, problem, FILE, memory=True)


@both
@pytest.mark.parametrize("kernel", ["five bandwidths", "MMDLoss()", "imq mixture"])
def test_mixtures(compare: Compare, kernel: str, gradient: bool) -> None:
    measure_problem(compare, Problem(kernel, 256, 16, gradient), FILE)


@pytest.mark.parametrize("n", [200, 500, 1000])
@pytest.mark.parametrize("kernel", ["gaussian", "five bandwidths"])
def test_gradient_penalty(compare: Compare, kernel: str, n: int) -> None:
    """The gradient of |∇D|²: a second derivative, in fp64 within."""
    problem = Problem(kernel, n, 16)
    x, y = problem.samples()
    losses = {"ours": problem.ours(), "eager": problem.eager()}
    truth = penalty_gradient(problem.eager(), x.double(), y.double())
    found = {name: penalty_gradient(loss, x, y) for name, loss in losses.items()}
    errors = {k: float((g - truth).abs().max() / truth.abs().max()) for k, g in found.items()}
    assert errors["ours"] <= 2.0 * errors["eager"] + 1e-6, errors
    cases = {name: partial(penalty_gradient, loss, x, y) for name, loss in losses.items()}
    compare(f"{kernel}, gradient penalty, n=m={n}, d=16", cases, file=FILE, errors=errors)


def penalty_gradient(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x, y), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    return second


@both
def test_million_numbers(compare: Compare, gradient: bool) -> None:
    """The energy distance on the line, O(n log n), against SciPy's, which has no gradient."""
    problem = Problem("energy", 1_000_000, 1, gradient)
    x, y = problem.samples()
    ours = partial(energy_distance, estimator="biased")
    truth = rivals.scipy_energy(x.double(), y.double())
    error = abs(float(ours(x, y) - truth) / float(truth))
    assert error < 1e-6
    losses = {"ours": ours} if gradient else {"ours": ours, "scipy": rivals.scipy_energy}
    errors = {} if gradient else {"ours": error}
    compare(str(problem), problem.cases(losses), file=FILE, errors=errors)
