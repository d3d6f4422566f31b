"""Small problems on CUDA, two launches each: totals and gradients against the dense fp64 oracle;
interpreted without a GPU. The tolerance is the rule of ``tolerances``."""

from __future__ import annotations

import math
from typing import Any

import oracle
import pytest
import torch
from tolerances import RELATIVE, assert_no_worse_than_eager
from torch import Tensor

from divergences.kernels.functions import REGISTRY
from divergences.kernels.problem import Blocks, Component, Means, PairProblem, Wanted
from divergences.kernels.triton_backend import launcher, small
from divergences.mmd import mmd2

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOOR = 4 * 2.0**-23
Spec = tuple[str, float, float, float]  # function, rate, shape, offset
PROBES = [
    pytest.param((f.name, *probe), id=f"{f.name}-{probe[1]:g}")
    for f in REGISTRY.values()
    for probe in f.probe
]
GAUSSIAN: Spec = ("gaussian", 0.7, 0.0, 0.0)
ENERGY: Spec = ("energy", 1.0, 1.0, 0.0)
LAPLACE: Spec = ("laplace", 0.7, 0.0, 0.0)
LAPLACE_L1: Spec = ("laplace_l1", 0.7, 0.0, 0.0)
CUBIC: Spec = ("polynomial", 0.25, 3.0, 1.0)


def samples(n: int, m: int, d: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * n + 10 * m + d)
    x = torch.randn(batch, n, d, generator=generator) / math.sqrt(d)
    return x, torch.randn(batch, m, d, generator=generator) * 1.2 / math.sqrt(d) + 0.1


def solve(
    x: Tensor, y: Tensor | None, specs: list[Spec], means: Means = "unbiased",
    wanted: Wanted | None = None, rates: Tensor | None = None, **options: Any,
) -> list[Tensor]:  # fmt: skip
    """Ours, for coefficients that fall with the number of the component."""
    components = tuple(Component(REGISTRY[f], s, o) for f, _, s, o in specs)
    coefs = tuple(b * a for b in blocks_of(y) for a in own(specs))
    wanted = Wanted(True, True, y is not None) if wanted is None else wanted
    numbers: Any = [rate for _, rate, _, _ in specs] if rates is None else rates.to(DEVICE)
    on_device = [None if t is None else t.to(DEVICE) for t in (x, y)]
    blocks: Blocks = "xx" if y is None else "all"
    problem = PairProblem(
        *on_device, None, None, numbers, coefs, components, blocks, wanted, means, **options
    )
    assert small.applies(problem)
    return [t if t is None else t.cpu() for t in small.form(problem)[:3]]


def own(specs: list[Spec]) -> list[float]:
    return [1.0 / (c + 2) for c in range(len(specs))]


def blocks_of(y: Tensor | None) -> tuple[float, ...]:
    return (1.0,) if y is None else (1.0, 1.0, -2.0)


def truth(
    x: Tensor, y: Tensor | None, specs: list[Spec], means: Means = "unbiased", eager: bool = False
) -> list[Tensor]:
    """The oracle in fp64, or the same in fp32 from differences; gradients by autograd."""
    dtype = torch.float32 if eager else torch.float64
    u = x.detach().to(dtype).requires_grad_()
    v = (x if y is None else y).detach().to(dtype).requires_grad_()
    n, m, less = x.shape[1], v.shape[1], int(means == "unbiased")
    pairs = [1, 1, 1] if means == "sums" else [n * (n - less), m * (m - less), n * m]
    total = torch.zeros(len(x), dtype=dtype)
    for a, (name, rate, shape, offset) in zip(own(specs), specs, strict=True):
        sums = oracle.sums(name, u, v, rate, shape, offset, dtype=dtype)
        for at, b in enumerate(blocks_of(y)):
            total = total + a * b * sums[:, at] / pairs[at]
    grads = torch.autograd.grad(total.sum(), (u, v), allow_unused=True)
    return [total.detach(), *(torch.empty(0) if g is None else g for g in grads)]


def check(x: Tensor, y: Tensor | None, specs: list[Spec], means: Means = "unbiased") -> None:
    ours = solve(x, y, specs, means)
    eager, exact = truth(x, y, specs, means, eager=True), truth(x, y, specs, means)
    scale = sum(  # of what the total is a difference of
        a * float(part)
        for a, (f, r, s, o) in zip(own(specs), specs, strict=True)
        for part in oracle.gram(f, x, x if y is None else y, r, s, o).abs().amax((0, 1, 2))[None]
    )
    if means == "sums":
        scale *= x.shape[1] ** 2
    assert ours[0].dtype == torch.float64
    assert (ours[0] - exact[0]).abs().max() <= RELATIVE[torch.float32] * scale
    for mine, theirs, right in zip(ours[1:], eager[1:], exact[1:], strict=True):
        if right.numel() and mine is not None:
            assert_no_worse_than_eager(mine, theirs, right, FLOOR * right.abs().max().item())
    assert ours[1].numel() == x.numel()


@pytest.mark.parametrize("spec", PROBES)
def test_every_function(spec: Spec) -> None:
    check(*samples(6, 4, 3), [spec])


@pytest.mark.parametrize(
    ("n", "m", "d"), [(2, 2, 1), (2, 67, 2), (5, 3, 16), (6, 4, 17), (3, 66, 5), (258, 1, 1)]
)
def test_odd_shapes(n: int, m: int, d: int) -> None:
    check(*samples(n, m, d), [LAPLACE], "biased")


@pytest.mark.parametrize("spec", [LAPLACE, CUBIC, LAPLACE_L1], ids=lambda s: s[0])
def test_one_sample(spec: Spec) -> None:
    check(samples(6, 2, 2)[0], None, [spec], "sums")


def test_one_row() -> None:
    check(*samples(1, 1, 3), [ENERGY], "biased")


def test_several_components_and_a_batch() -> None:
    specs = [GAUSSIAN, ENERGY, LAPLACE, ("matern", 1.2, 2.5, 0.0), ("gaussian", 2.8, 0.0, 0.0)]
    check(*samples(5, 3, 4, batch=2), specs)
    check(*samples(3, 2, 2), [*specs, *specs])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rates_of_each_batch_item(dtype: torch.dtype) -> None:
    x, y = samples(6, 5, 3, batch=2)
    rates = torch.tensor([[0.3, 1.1], [0.9, 0.2]], dtype=dtype)
    ours = solve(x, y, [GAUSSIAN, LAPLACE], rates=rates)
    for item in range(2):
        specs = [
            (f, float(rates[item, c]), 0.0, 0.0) for c, f in enumerate(("gaussian", "laplace"))
        ]
        alone = solve(x[item : item + 1], y[item : item + 1], specs)
        for whole, part in zip(ours, alone, strict=True):
            torch.testing.assert_close(whole[item : item + 1], part, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("wanted", [Wanted(True), Wanted(True, True), Wanted(True, False, True)])
def test_what_is_not_wanted_is_none(wanted: Wanted) -> None:
    x, y = samples(6, 5, 3)
    full = solve(x, y, [GAUSSIAN])
    ours = solve(x, y, [GAUSSIAN], wanted=wanted)
    for mine, all_, flag in zip(ours, full, wanted, strict=False):
        assert torch.equal(mine, all_) if flag else mine is None


def test_strides() -> None:
    x, y = samples(6, 5, 3, batch=2)
    plain = solve(x, y, [GAUSSIAN])
    turned = solve(x.mT.contiguous().mT, y.repeat_interleave(2, 1)[:, ::2], [GAUSSIAN])
    assert all(torch.equal(a, b) for a, b in zip(turned, plain, strict=True))
    shared = solve(x[:1].expand(2, -1, -1), y, [GAUSSIAN])
    assert torch.equal(shared[0][0], plain[0][0])


def test_a_constant_and_the_dtype_of_the_result() -> None:
    x, y = samples(6, 5, 3)
    plain = solve(x, y, [GAUSSIAN])[0]
    shifted = solve(x, y, [GAUSSIAN], constant=1.0 / 3.0)[0]
    assert torch.equal(shifted, plain + 1.0 / 3.0)
    rounded = solve(x, y, [GAUSSIAN], constant=1.0 / 3.0, dtype=torch.float32)[0]
    assert torch.equal(rounded, shifted.float())


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("spec", [ENERGY, LAPLACE, LAPLACE_L1], ids=lambda s: s[0])
def test_coincident_rows(spec: Spec, offset: float) -> None:
    """Exactly 0 apart wherever they lie."""
    x = (torch.randn(1, 5) + offset).expand(1, 6, 5).contiguous()
    total, *gradients = solve(x, x[:, :4], [spec], "biased")
    at_zero = REGISTRY[spec[0]].at_zero
    excluded = at_zero * 0.5 * (6 * 5 / 36 + 4 * 3 / 16 - 2)  # i = j is left out
    assert abs(float(total) - excluded) <= 1e-12
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)


def test_an_offset_changes_nothing() -> None:
    x, y = ((t * 256).round() / 256 for t in samples(6, 5, 3))
    near, far = solve(x, y, [GAUSSIAN]), solve(x + 1e4, y + 1e4, [GAUSSIAN])
    assert all(torch.equal(a, b) for a, b in zip(near, far, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("spec", [GAUSSIAN, LAPLACE_L1, ENERGY, CUBIC], ids=lambda s: s[0])
def test_not_a_number(spec: Spec, bad: float) -> None:
    """Also where squared distances overflow; the other items of the batch keep theirs."""
    if bad == 3e38 and spec == LAPLACE_L1:
        pytest.skip("a distance that fp32 holds")
    x, y = samples(3, 4, 2, batch=2)
    x[1, 2, 1] = bad
    total, grad_x, grad_y = solve(x, y, [spec])
    assert total.isnan().tolist() == [False, True]
    for gradient in (grad_x[1], grad_y[1]):
        lost = gradient.isinf() | gradient.isnan() if bad == 3e38 else gradient.isnan()
        assert lost.any(-1).all()
    assert grad_x[0].isfinite().all()
    assert grad_y[0].isfinite().all()


def test_repeats_are_bit_equal() -> None:
    x, y = samples(9, 5, 3)
    first, again = solve(x, y, [GAUSSIAN, ENERGY]), solve(x, y, [GAUSSIAN, ENERGY])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_what_goes_the_general_way() -> None:
    x, y = samples(6, 5, 3)
    components = (Component(REGISTRY["gaussian"]), Component(REGISTRY["laplace"]))
    coefs = (0.5, 0.25, 0.5, 0.25, -1.0, -0.5)
    problem = PairProblem(x, y, None, None, [0.7, 0.7], coefs, components, "all")
    assert small.applies(problem)
    large = torch.empty(1, small.ROWS + 1, 1, device="meta")
    wide = torch.empty(1, 512, 100, device="meta")
    for other in (
        {"wx": x[..., 0]}, {"wy": y[..., 0]}, {"y": y[:, :0]}, {"x": x[:0], "y": y[:0]},
        {"x": x[:, :0], "y": None, "blocks": "xx", "coefs": coefs[:2]},
        {"coefs": (0.5, 0.25, 0.5, 0.25, -1.0, 0.5)}, {"x": large}, {"x": wide, "y": wide},
    ):  # fmt: skip
        assert not small.applies(problem._replace(**other))


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_through_the_loss(estimator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value, gradients and a gradient penalty of ``mmd2``, in two launches and a multiplication."""
    names = []
    launch = launcher.launch
    monkeypatch.setattr(
        launcher,
        "launch",
        lambda k, *a, **o: (names.append((k.__name__, a[0])), launch(k, *a, **o)),
    )
    x, y = (t[0].to(DEVICE).requires_grad_() for t in samples(9, 6, 3))
    options: dict[str, Any] = {"bandwidth": [0.5, 1.0], "estimator": estimator}
    ours = mmd2(x, y, backend="triton", **options)
    assert [name for name, _ in names] == ["pooled_kernel", "total_kernel"]
    right = mmd2(x.double(), y.double(), backend="reference", **options)
    assert ours.dtype == torch.float32
    assert abs(float(ours.detach() - right.detach())) <= RELATIVE[torch.float32]
    found, exact = (torch.autograd.grad(v, (x, y), create_graph=True) for v in (ours, right))
    penalties = [sum(g.square().sum() for g in grads) for grads in (found, exact)]
    second = [torch.autograd.grad(p, x)[0] for p in penalties]
    for mine, theirs in (*zip(found, exact, strict=True), second):
        error = (mine - theirs).detach().abs().max()
        assert error <= 1e-5 * theirs.detach().abs().max()


def test_programs_enough_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = []
    monkeypatch.setattr(launcher, "launch", lambda _, grid, *__, **___: grids.append(grid))
    x = torch.empty(1, 256, 16)
    components = (Component(REGISTRY["gaussian"]),)
    given = x, x, None, None, [0.7], (1.0, 1.0, -2.0), components, "all", Wanted(True, True)
    small.form(PairProblem(*given, "unbiased"))
    assert grids[0][0] >= 64
    assert len(grids) == 2
