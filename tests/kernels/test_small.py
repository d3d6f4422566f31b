"""Small problems: the short way is taken, gives the oracle's numbers, and yields where it must."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from oracle import gram
from torch import Tensor

from divergences.energy import energy_distance
from divergences.kernels import Energy, Gaussian, Kernel, Laplace, Matern, operations
from divergences.kernels.problem import PairProblem
from divergences.kernels.reference import small, tiles, traced
from divergences.mmd import mmd2, mmd2_to_normal


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense(kernel: Kernel, z: Tensor) -> Tensor:
    """K of the pooled sample, by the textbook."""
    return torch.stack(
        [
            t.coefficient * gram(t.function.name, z, z, float(t.rate), t.shape, t.offset)
            for t in kernel.terms
        ]
    ).sum(0)


@contextlib.contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """For every small problem, whether it went the short way to its end."""
    short = []
    prepare = small._prepare

    def spy(*arguments: object) -> object:
        found = prepare(*arguments)  # type: ignore[arg-type]
        short.append(found is not None)
        return found

    monkeypatch.setattr(small, "_prepare", spy)
    yield short


@pytest.mark.parametrize(
    "kernel",
    [Gaussian(2.0), Gaussian([1.0, 2.0, 5.0]), Energy(), Laplace(1.0) + Gaussian(1.0), Matern(2.0)],
    ids=repr,
)
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize("needs", ["x", "y", "both"])
def test_values_and_gradients_are_the_oracles(
    kernel: Kernel, estimator: str, needs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = normal(0, 37, 5) + 20.0, normal(1, 52, 5) + 20.0
    x.requires_grad_(needs != "y")
    y.requires_grad_(needs != "x")
    inputs = [t for t in (x, y) if t.requires_grad]
    with counted(monkeypatch) as short:
        ours = mmd2(x, y, kernel=kernel, estimator=estimator)  # type: ignore[arg-type]
    assert short == [True]
    k = dense(kernel, torch.cat([x, y]))
    n, m, less = len(x), len(y), 1 if estimator == "unbiased" else 0
    diagonal = 0.0 if less else (n * k[0, 0] / n**2 + m * k[0, 0] / m**2).detach()
    off = k - torch.diag(k.diagonal())
    truth = (
        off[:n, :n].sum() / (n * (n - less))
        + off[n:, n:].sum() / (m * (m - less))
        - 2 * k[:n, n:].mean()
        + diagonal
    )
    torch.testing.assert_close(ours, truth, rtol=1e-11, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(truth, inputs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kernel", [Gaussian(12.0), Energy()], ids=repr)
def test_many_columns(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The product of x and y is made once, and mirrored."""
    monkeypatch.setattr(small, "MANY_PRODUCTS", 1000)
    x, y = normal(0, 37, 60).requires_grad_(), normal(1, 52, 60).requires_grad_() * 1.1
    with counted(monkeypatch) as short:
        ours = mmd2(x, y, kernel=kernel)
    assert short == [True]
    k = dense(kernel, torch.cat([x, y]))
    off = k - torch.diag(k.diagonal())
    truth = (
        off[:37, :37].sum() / (37 * 36) + off[37:, 37:].sum() / (52 * 51) - 2 * k[:37, 37:].mean()
    )
    torch.testing.assert_close(ours, truth, rtol=1e-11, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(ours, (x, y)), torch.autograd.grad(truth, (x, y)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_one_sample_against_a_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    z = normal(0, 60, 4)
    with counted(monkeypatch) as short:
        ours = mmd2_to_normal(z)
    assert short == [True]
    assert abs(float(ours) - float(mmd2(z, normal(1, 900, 4), bandwidth="dimension"))) < 2e-2


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (normal(0, 30, 5).float(), normal(1, 20, 5).float() + 1e5),  # digits would be lost
        (torch.zeros(9, 2), torch.zeros(7, 2)),
        (torch.full((9, 2), torch.nan), torch.zeros(7, 2)),
        (normal(0, 9, 2).float() * 1e-20, normal(1, 7, 2).float() * 1e-20),
    ],
    ids=["offset", "equal", "nan", "tiny"],
)
def test_it_gives_way(x: Tensor, y: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch) as short:
        ours = mmd2(x, y, bandwidth=1.0)
    assert short == [False]
    wide = mmd2(x.double().unsqueeze(0), y.double().unsqueeze(0), bandwidth=1.0)
    torch.testing.assert_close(ours.double(), wide[0], rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("kernel", [Gaussian(0.3), Gaussian([0.2, 2.0])], ids=repr)
def test_narrow_kernels_have_fp64_distances(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bandwidths far below the spread: fp32 distances would cost four digits of k."""
    x, y = normal(0, 60, 8).float() + 50.0, normal(1, 40, 8).float() * 0.2 + 53.0
    y[:20] = x[:20] + 0.1 * y[20:]
    x.requires_grad_()
    with counted(monkeypatch) as short:
        ours = mmd2(x, y, kernel=kernel)
    assert short == [True]
    z = x.detach().double().requires_grad_()
    k = dense(kernel, torch.cat([z, y.double()]))
    off = k - torch.diag(k.diagonal())
    n, m = len(x), len(y)
    truth = off[:n, :n].sum() / (n * (n - 1)) + off[n:, n:].sum() / (m * (m - 1))
    truth = truth - 2 * k[:n, n:].mean()
    torch.testing.assert_close(ours.double(), truth, rtol=1e-6, atol=0)
    (ours,), (truth,) = torch.autograd.grad(ours, x), torch.autograd.grad(truth, z)
    assert (ours.double() - truth).abs().max() < 2e-6 * truth.abs().max()


@pytest.mark.parametrize("kernel", [Energy(), Laplace(1.0), Gaussian(1e-3)], ids=repr)
@pytest.mark.parametrize("d", [1, 2, 3])
def test_few_columns_are_compared_by_differences(
    kernel: Kernel, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near, equal and far pairs, at an offset: every distance has its digits."""
    x, y = normal(0, 40, d).float() + 1e3, normal(1, 30, d).float() + 1e3
    x[10:20] = x[:10]
    y[:10] = x[:10] + 1e-3
    x.requires_grad_()
    with counted(monkeypatch) as short:
        ours = mmd2(x, y, kernel=kernel)
    assert short == [True]
    z = x.detach().double().requires_grad_()
    gap = torch.cat([z, y.double()])[:, None] - torch.cat([z, y.double()])
    zero = (gap == 0).all(-1)
    r = gap.masked_fill(zero.unsqueeze(-1), 1.0).square().sum(-1).sqrt().masked_fill(zero, 0.0)
    k = {"Energy(1.0)": -r, "Laplace(1.0)": torch.exp(-r)}.get(
        repr(kernel), torch.exp(-0.5e6 * r.square())
    )
    n, m = len(x), len(y)
    off = k - torch.diag(k.diagonal())
    truth = off[:n, :n].sum() / (n * (n - 1)) + off[n:, n:].sum() / (m * (m - 1))
    truth = truth - 2 * k[:n, n:].mean()
    assert abs(ours.item() - truth.item()) < 2e-6 * k.abs().mean().item()
    (ours,), (truth,) = torch.autograd.grad(ours, x), torch.autograd.grad(truth, z)
    assert (ours.double() - truth).abs().max() < 2e-6 * truth.abs().max()


@pytest.mark.parametrize("n", [60, 700])
@pytest.mark.parametrize("gap", [3e-2, 1e-4, 0.0])
def test_near_pairs_of_the_energy_distance_keep_their_digits(
    gap: float, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs that an fp32 product does not resolve, and some that an fp64 one does not either."""
    x, y = normal(0, n, 6).float(), normal(1, n, 6).float()
    y[:20] = x[:20] + gap * y[:20]
    x.requires_grad_()
    with counted(monkeypatch) as short:
        ours = energy_distance(x, y)
    assert short == ([gap == 3e-2] if n == 60 else [])
    z, fixed = x.detach().double().requires_grad_(), y.double()
    differences = [a[:, None] - b for a, b in ((z, z), (fixed, fixed), (z, fixed))]
    xx, yy, xy = (
        g.masked_fill((g == 0).all(-1, keepdim=True), 1e-200).square().sum(-1).sqrt().sum()
        for g in differences
    )
    truth = 2 * xy / n**2 - (xx + yy) / (n * (n - 1))
    assert abs(ours.item() - truth.item()) < 1e-6
    (ours,), (truth,) = torch.autograd.grad(ours, x), torch.autograd.grad(truth, z)
    assert (ours.double() - truth).abs().max() < 4e-6 * truth.abs().max()


def test_near_pairs_of_the_energy_distance_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(0, 40, 6).float()
    with counted(monkeypatch) as short:
        energy_distance(torch.cat([x, x[:1]]), normal(1, 30, 6).float())
    assert short == [False]


def test_second_derivatives_are_the_general_ones() -> None:
    x, y = normal(0, 12, 3).requires_grad_(), normal(1, 9, 3)

    def penalty(x: Tensor) -> Tensor:
        (g,) = torch.autograd.grad(mmd2(x, y, bandwidth=1.0), x, create_graph=True)
        return g.square().sum()

    torch.autograd.gradcheck(penalty, (x,), atol=1e-7)
    ours = torch.autograd.grad(penalty(x), x)[0]
    hessian = torch.func.grad(lambda v: torch.func.grad(
        lambda u: mmd2(u, y, bandwidth=1.0))(v).square().sum())(x.detach())  # fmt: skip
    torch.testing.assert_close(ours, hessian)


def test_what_it_leaves_to_the_general_way(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(0, 20, 3), normal(1, 20, 3)
    with counted(monkeypatch) as short:
        mmd2(x.unsqueeze(0), y.unsqueeze(0), bandwidth=1.0)  # a batch
        mmd2(x, y, bandwidth=1.0, weights_x=torch.ones(20).double())
        mmd2(x, y, kernel="polynomial")
        mmd2(normal(0, 600, 2), normal(1, 600, 2), bandwidth=1.0)
        assert short == []
        torch.func.grad(lambda v: mmd2(v, y, bandwidth=1.0))(x)
    assert short == [True]


def test_a_gradient_survives_two_backwards() -> None:
    x, y = normal(0, 20, 3).requires_grad_(), normal(1, 20, 3)
    loss = mmd2(x, y, bandwidth=1.0)
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    other = mmd2(x * 2, y, bandwidth=1.0)  # reuses the scratch memory
    other.backward()
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], first, rtol=0, atol=0)


@pytest.mark.parametrize("kernel", [Gaussian("median"), Energy()], ids=repr)
def test_a_second_backward_raises_as_torch_does(kernel: Kernel) -> None:
    x, y = normal(0, 20, 3).requires_grad_(), normal(1, 20, 3)
    loss = mmd2(x, y, kernel=kernel)
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@pytest.mark.parametrize("kernel", [Gaussian(1.5), Energy()], ids=repr)
@pytest.mark.parametrize("follow", [lambda x: 2 * x + 1, lambda x: x, lambda x: x[:5]])
def test_a_sample_made_of_the_other_counts_once(
    kernel: Kernel, follow: Callable[[Tensor], Tensor]
) -> None:
    x = normal(0, 9, 5).requires_grad_()
    plain = torch.autograd.grad(mmd2(x, follow(x), kernel=kernel), x)[0]
    graph = torch.autograd.grad(mmd2(x, follow(x), kernel=kernel), x, create_graph=True)[0]
    torch.testing.assert_close(graph.detach(), plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
@pytest.mark.parametrize("n", [50, 600])
def test_the_scale_of_data_and_matern_kernel_changes_nothing(n: int, scale: float) -> None:
    """Its rate is that of a distance, not of a squared one."""
    x, y = normal(0, n, 8), normal(1, n, 8)
    x[0] += 3000.0
    ours = mmd2((x * scale).float(), (y * scale).float(), kernel=Matern(scale, nu=2.5))
    truth = mmd2(x.unsqueeze(0), y.unsqueeze(0), kernel=Matern(1.0, nu=2.5))
    torch.testing.assert_close(ours.double(), truth[0], rtol=1e-5, atol=0)


def test_what_a_trace_leaves_behind_is_not_used() -> None:
    empty = torch.empty(9, 5, device="meta")
    with pytest.raises(ValueError, match="the device 'meta', which holds no numbers"):
        mmd2(empty, empty, bandwidth=1.0)
    x, y = normal(0, 9, 5), normal(1, 8, 5)
    expected = mmd2(x, y, bandwidth=1.0)
    with torch.device("meta"):
        found = mmd2(x, y, bandwidth=1.0)
    assert found.device.type == "cpu" and torch.equal(found, expected)


def test_distances_far_below_the_others() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1e-17], [0.0, 0.0]], requires_grad=True)
    y = -torch.ones(2, 2)
    (ours,) = torch.autograd.grad(mmd2(x, y, kernel=Energy()), x)
    z = x.detach().double().requires_grad_()
    (truth,) = torch.autograd.grad(mmd2(z, y.double(), kernel=Energy()), z)
    torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-6)


def test_tight_clusters_under_a_narrow_kernel() -> None:
    """The gradient is a difference of two large terms, both in fp64."""
    x, y = normal(0, 40, 8) * 1e-3, normal(1, 30, 8) * 1e-3
    x[:20, 0] += 4.0
    y[:15, 0] += 4.0
    x, y = x.float().requires_grad_(), y.float()
    (ours,) = torch.autograd.grad(mmd2(x, y, bandwidth=0.05), x)
    z = x.detach().double().requires_grad_()
    (truth,) = torch.autograd.grad(mmd2(z, y.double(), bandwidth=0.05), z)
    assert (ours.double() - truth).abs().max() < 1e-5 * truth.abs().max()


def test_autocast_does_not_reach_the_products() -> None:
    x, y = normal(0, 40, 8).float().requires_grad_(), normal(1, 30, 8).float()
    (expected,) = torch.autograd.grad(mmd2(x, y, bandwidth=2.0), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = torch.autograd.grad(mmd2(x, y, bandwidth=2.0), x)
    assert torch.equal(found, expected)


@contextlib.contextmanager
def operators(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The rows of every problem that is not plain operations of a compiled graph."""
    rows = []
    form = operations.PairForm.forward

    def spy(problem: PairProblem) -> object:
        rows.append(problem.x.shape[-2])
        return form(problem)

    monkeypatch.setattr(operations.PairForm, "forward", staticmethod(spy))
    yield rows


@pytest.mark.parametrize(
    ("columns", "estimator"), [(2, "biased"), (12, "biased"), (20, "unbiased")]
)
@pytest.mark.parametrize(
    "kernel", [Gaussian("median"), Gaussian([1.0, 3.0]), Energy(), Matern(6.0)], ids=repr
)
def test_a_compiled_small_problem_is_plain_operations(
    kernel: Kernel, estimator: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the operator, at the digits of fp32; the oracle is the fp64 one of this file."""
    torch._dynamo.reset()
    x, y = normal(0, 30, columns).float(), normal(1, 40, columns).float() + 0.5
    inputs = x.requires_grad_(), y.requires_grad_()
    through = torch.compile(mmd2, fullgraph=True, backend="aot_eager", dynamic=False)
    with operators(monkeypatch) as rows:
        ours = through(x, y, kernel=kernel, estimator=estimator)
        gradients = torch.autograd.grad(ours, inputs)
    assert rows == ([] if traced.TRACEABLE else [30])
    wide = [t.detach().double().requires_grad_() for t in inputs]
    k = dense(kernel.resolve(x.detach(), y.detach()), torch.cat(wide))
    n, m, less = len(x), len(y), 1 if estimator == "unbiased" else 0
    truth = k[:n, :n].sum() / (n * (n - less)) + k[n:, n:].sum() / (m * (m - less))
    truth = truth - 2 * k[:n, n:].mean() - less * (1 / (n - 1) + 1 / (m - 1)) * k[0, 0].detach()
    assert abs(ours.item() - truth.item()) < 2e-6 * k.abs().mean().item()
    for a, b in zip(gradients, torch.autograd.grad(truth, wide), strict=True):
        assert (a.double() - b).abs().max() < 2e-6 * b.abs().max()


@pytest.mark.parametrize("change", ["far", "equal", "tiny", "nan"])
@pytest.mark.parametrize("columns", [2, 20])
@pytest.mark.parametrize("kernel", [Gaussian(0.5), Energy()], ids=repr)
def test_a_compiled_graph_hands_over_what_loses_digits(
    kernel: Kernel, columns: int, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One graph for all; the eager way, which has tests of its own, is the oracle."""
    x, y = normal(0, 30, columns).float(), normal(1, 40, columns).float()
    if change == "far":
        y[3] += 1e6
    elif change == "equal":
        x[5:15], y[:9] = x[15:25], x[:9]
    elif change == "nan":
        x[3, 1] = torch.nan
    else:
        x, y = x * 1e-22, y * 1e-22
    x.requires_grad_()
    (expected,) = torch.autograd.grad(mmd2(x, y, kernel=kernel), x)
    through = torch.compile(mmd2, fullgraph=True, backend="aot_eager", dynamic=False)
    with operators(monkeypatch) as rows:
        (found,) = torch.autograd.grad(through(x, y, kernel=kernel), x)
    if change in ("tiny", "nan") or columns == 20:
        assert rows == [30]
    if change == "nan":
        assert expected.isnan().all() and found.isnan().all()
    else:
        error = (found.double() - expected.double()).abs().max()
        assert error <= 4e-6 * expected.double().abs().max()


def test_a_second_size_takes_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that vary share the graph of the operator."""
    torch._dynamo.reset()
    through = torch.compile(energy_distance, fullgraph=True, backend="aot_eager")
    pairs = [(normal(0, n, 5).float(), normal(1, n, 5).float()) for n in (30, 40, 50)]
    expected = torch.stack([energy_distance(x, y) for x, y in pairs])
    with operators(monkeypatch) as rows:
        found = torch.stack([through(x, y) for x, y in pairs])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert rows == [*([] if traced.TRACEABLE else [30]), 40, 50]


@pytest.mark.parametrize(("rows", "most"), [(256, 8), (600, 10)])
def test_few_frames_before_the_first_distance(
    rows: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the caller of ``mmd2`` and the first distance: of one tile in all, and of several."""
    depths = []

    def spy(function: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            frame, names = sys._getframe(1), [""]
            while frame.f_code.co_name != "test_few_frames_before_the_first_distance":
                names.append(frame.f_code.co_name)
                assert frame.f_back is not None
                frame = frame.f_back
            depths.append(len(names) - 1)
            return function(*arguments)

        return counted

    monkeypatch.setattr(small, "_prepare", spy(small._prepare))
    monkeypatch.setattr(tiles.Distances, "__call__", spy(tiles.Distances.__call__))
    x = normal(0, rows, 5).requires_grad_()
    mmd2(x, normal(1, rows, 5), bandwidth=1.0)
    assert depths and depths[0] <= most
