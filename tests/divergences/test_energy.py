"""Energy distance: published values, SciPy's convention, the sorted path, coincident points."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from tolerances import assert_close
from torch import Tensor

from divergences.energy import EnergyLoss, energy_distance


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense(x: Tensor, y: Tensor, estimator: str, exponent: float = 1.0) -> Tensor:
    def mean(a: Tensor, b: Tensor, within: bool) -> Tensor:
        s = (a[:, None] - b[None]).square().sum(-1)
        zero = s == 0
        r = torch.where(zero, 0.0, torch.where(zero, 1.0, s) ** (exponent / 2))
        pairs = len(a) * (len(a) - 1) if within and estimator == "unbiased" else r.numel()
        return r.sum() / pairs

    return 2 * mean(x, y, False) - mean(x, x, True) - mean(y, y, True)


def test_published_values() -> None:
    """The example of dcor's documentation."""
    x = torch.arange(1.0, 17.0, dtype=torch.float64).view(4, 4)
    y = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]], dtype=torch.float64)
    assert abs(energy_distance(x, y, estimator="biased").item() - 20.5780594) < 5e-8
    value = energy_distance(x, y, exponent=1.5, estimator="biased").item()
    assert abs(value - 99.786395559) < 5e-9


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_scipy_is_the_root_of_the_biased_form(backend: str | None, weighted: bool) -> None:
    x, y = normal(0, 80, 1), normal(1, 70, 1) * 1.5 + 0.3
    wx, wy = (normal(2, 80).abs(), normal(3, 70).abs()) if weighted else (None, None)
    theirs = stats.energy_distance(
        x[:, 0], y[:, 0], None if wx is None else wx, None if wy is None else wy
    )
    ours = energy_distance(x, y, estimator="biased", weights_x=wx, weights_y=wy, backend=backend)
    assert_close(ours.sqrt(), torch.tensor(theirs), 1e-12)


def test_on_the_line_it_is_twice_the_cramer_distance() -> None:
    """∫(F − G)² of the distribution functions of the samples, which are steps."""
    x, y = normal(0, 40, 1), 1.5 * normal(1, 30, 1) + 0.3
    at = torch.cat([x, y]).flatten().sort().values
    f, g = ((sample.flatten() <= at[:, None]).double().mean(1) for sample in (x, y))
    cramer = ((f - g)[:-1].square() * at.diff()).sum()
    assert_close(energy_distance(x, y, estimator="biased"), 2 * cramer, 1e-12)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize("d", [1, 2, 7])
def test_value_and_gradients(estimator: str, exponent: float, d: int) -> None:
    x, y = normal(0, 40, d).requires_grad_(), (normal(1, 30, d) + 0.5).requires_grad_()
    ours = energy_distance(x, y, exponent=exponent, estimator=estimator)  # type: ignore[arg-type]
    truth = dense(x, y, estimator, exponent)
    assert_close(ours, truth, 1e-11)
    for a, b in zip(
        torch.autograd.grad(ours, (x, y)), torch.autograd.grad(truth, (x, y)), strict=True
    ):
        assert_close(a, b, 1e-10)


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_sorted_path_with_ties(estimator: str) -> None:
    """Integers: many ties within and between; the gradient counts them on neither side."""
    x = normal(0, 60, 1).mul(2).round().requires_grad_()
    y = normal(1, 50, 1).mul(2).round().requires_grad_()
    ours, truth = energy_distance(x, y, estimator=estimator), dense(x, y, estimator)  # type: ignore[arg-type]
    assert_close(ours, truth, 1e-12)
    for a, b in zip(
        torch.autograd.grad(ours, (x, y)), torch.autograd.grad(truth, (x, y)), strict=True
    ):
        assert_close(a, b, 1e-12)


def test_sorted_path_weights_have_gradients() -> None:
    x, y, w = normal(0, 12, 1), normal(1, 9, 1), normal(2, 12).abs().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: energy_distance(x, y, weights_x=w), (w,))
    pairwise = energy_distance(x, y, weights_x=w, backend="reference")
    assert_close(energy_distance(x, y, weights_x=w), pairwise, 1e-11)


def test_sorted_path_is_batched_and_transforms() -> None:
    x, y = normal(0, 3, 20, 1), normal(1, 3, 15, 1)
    loop = torch.stack([dense(a, b, "unbiased") for a, b in zip(x, y, strict=True)])
    assert_close(energy_distance(x, y), loop, 1e-11)
    assert_close(torch.func.vmap(energy_distance)(x, y), loop, 1e-11)
    leaf = x[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(dense(leaf, y[0], "unbiased"), leaf)
    assert_close(torch.func.grad(energy_distance)(x[0], y[0]), expected, 1e-11)
    compiled = torch.compile(energy_distance, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x[0], y[0]), loop[0], 1e-11)


def test_a_million_rows_in_one_dimension() -> None:
    """N(0, 1) against N(1, 1): E = 2 E|Z − Z′ − 1| − 2 E|Z − Z′|, in closed form."""
    n = 1_000_000
    x, y = normal(0, n, 1), normal(1, n, 1) + 1.0
    spread = stats.norm(1.0, 2**0.5)
    absolute = 2 * 2**0.5 * stats.norm.pdf(1 / 2**0.5) + 1 - 2 * spread.cdf(0.0)
    truth = 2 * absolute - 2 * 2 / torch.pi**0.5
    assert abs(energy_distance(x, y).item() - truth) < 0.005


@pytest.mark.parametrize("d", [1, 3, 20])
def test_coincident_points_have_zero_gradient(d: int) -> None:
    x = torch.ones(6, d).requires_grad_()
    value = energy_distance(x, torch.ones(4, d))
    value.backward()
    assert value == 0.0
    assert x.grad is not None and not x.grad.any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("d", [1, 3])
def test_non_finite_in_is_nan_out(bad: float, d: int) -> None:
    x = normal(0, 10, d)
    x[3, 0] = bad
    assert energy_distance(x, normal(1, 12, d)).isnan()
    assert energy_distance(normal(1, 12, d), x).isnan()


@pytest.mark.parametrize("d", [1, 3])
def test_nan_reaches_every_gradient(d: int) -> None:
    x, y = normal(0, 10, d), normal(1, 12, d)
    y[3, 0] = torch.nan
    x.requires_grad_()
    energy_distance(x, y).backward()
    assert x.grad is not None and x.grad[:, 0].isnan().all()


@pytest.mark.parametrize("d", [1, 3])
def test_gradient_penalty(d: int) -> None:
    x, y = normal(0, 10, d).requires_grad_(), normal(1, 12, d)
    (first,) = torch.autograd.grad(energy_distance(x, y), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert torch.isfinite(second).all()
    assert bool(second.any()) == (d > 1)  # in one dimension it is piecewise linear


@pytest.mark.parametrize("d", [1, 3])
def test_weights_that_leave_no_estimate(d: int) -> None:
    x, y = normal(0, 10, d), normal(1, 12, d)
    one = torch.zeros(10)
    with pytest.raises(ValueError, match="weights_x sums to zero"):
        energy_distance(x, y, weights_x=one)
    one[3] = 2.0
    with pytest.raises(ValueError, match="all weight on one row"):
        energy_distance(x, y, weights_x=one)
    assert energy_distance(x, y, weights_x=one, estimator="biased") > 0


def test_sorted_path_takes_any_strides() -> None:
    x = normal(0, 9, 3, dtype=torch.float32).T.unsqueeze(-1)
    y = normal(1, 8, 3, dtype=torch.float32).T.unsqueeze(-1)
    expected = energy_distance(x.contiguous(), y.contiguous())
    assert torch.equal(energy_distance(x, y), expected)


def test_module() -> None:
    loss = EnergyLoss(exponent=1.5, estimator="biased")
    assert repr(loss) == "EnergyLoss(exponent=1.5, estimator='biased')"
    assert not loss.state_dict()
    x, y = normal(0, 10, 2), normal(1, 12, 2)
    assert loss(x, y) == energy_distance(x, y, exponent=1.5, estimator="biased")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(exponent=2.0), r"\(0, 2\); got 2.0"),
        (dict(exponent=0.0), "positive and finite; got 0.0"),
        (dict(estimator="v"), "'unbiased' or 'biased'"),
    ],
)
def test_bad_configuration(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnergyLoss(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        energy_distance(torch.zeros(3, 1), torch.zeros(3, 1), **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="y has 1 row"):
        energy_distance(torch.zeros(3, 1), torch.zeros(1, 1))


def test_geomloss_energy_is_half() -> None:
    """Up to GeomLoss's floor of 1e-4 under a distance, which its self-distances meet."""
    geomloss = pytest.importorskip("geomloss")
    x, y = normal(0, 40, 3), normal(1, 30, 3)
    theirs = geomloss.SamplesLoss("energy", backend="tensorized")(x, y)
    floor = 0.5 * 1e-4 * (1 / 40 + 1 / 30)
    assert_close(0.5 * energy_distance(x, y, estimator="biased") - floor, theirs, 1e-8)


def test_univariate_ranks_do_not_depend_on_the_first_row() -> None:
    a = torch.tensor([[1e17], [0.0], [1.0], [2.0]], dtype=torch.float64)
    b = torch.tensor([[0.5], [1.5]], dtype=torch.float64, requires_grad=True)
    for rows in (a, a.flip(0)):
        (gradient,) = torch.autograd.grad(energy_distance(rows, b), b)
        assert torch.equal(gradient, torch.tensor([[0.5], [-1.0]], dtype=torch.float64))
