"""Wasserstein distances against SciPy, linear programming and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from tolerances import assert_close
from torch import Tensor

from divergences.wasserstein import sliced_wasserstein, wasserstein_1d


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def weights(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


# --- On the line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 6), (7, 7), (7, 12), (30, 20)])
@pytest.mark.parametrize("weighted", ["", "x", "y", "xy"])
def test_order_one_is_scipys(n: int, m: int, weighted: str) -> None:
    x, y = normal(0, n), 1.5 * normal(1, m) + 0.3
    wx = weights(2, n) if "x" in weighted else None
    wy = weights(3, m) if "y" in weighted else None
    truth = stats.wasserstein_distance(
        x.numpy(),
        y.numpy(),
        None if wx is None else wx.numpy(),
        None if wy is None else wy.numpy(),
    )
    assert wasserstein_1d(x, y, wx, wy).item() == pytest.approx(truth, rel=1e-12)


def transport(x: Tensor, y: Tensor, wx: Tensor, wy: Tensor, p: float) -> float:
    """The least cost of moving wx to wy, as the linear programme it is defined by."""
    n, m = len(x), len(y)
    wx, wy = (w.double() / w.double().sum() for w in (wx, wy))
    cost = (x.unsqueeze(1) - y).abs() ** p
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    found = optimize.linprog(
        cost.flatten().numpy(),
        A_eq=np.concatenate([rows, columns]),
        b_eq=np.concatenate([wx.numpy(), wy.numpy()]),
    )
    return float(found.fun)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize(("n", "m"), [(6, 6), (5, 8)])
def test_any_order_is_the_cheapest_transport(p: float, n: int, m: int) -> None:
    x, y, wx, wy = normal(0, n), 2 * normal(1, m), weights(2, n), weights(3, m)
    wx[2] = 0  # a row without weight
    found = wasserstein_1d(x, y, wx, wy, p=p).item()
    assert found == pytest.approx(transport(x, y, wx, wy, p), rel=1e-9)
    found = wasserstein_1d(x, y, p=p).item()
    even = transport(x, y, torch.ones(n), torch.ones(m), p)
    assert found == pytest.approx(even, rel=1e-9)


def test_weights_are_repetitions() -> None:
    x, y = normal(0, 5), normal(1, 4)
    counts = torch.tensor([3.0, 1.0, 0.0, 2.0, 2.0], dtype=torch.float64)
    repeated = x.repeat_interleave(counts.long())
    for p in (1, 2):
        assert_close(wasserstein_1d(x, y, counts, p=p), wasserstein_1d(repeated, y, p=p), 1e-14)
    assert_close(wasserstein_1d(x.repeat(3), y, p=2), wasserstein_1d(x, y, p=2), 1e-14)
    assert wasserstein_1d(x, x.flip(0).repeat(2), p=2).item() == 0.0


def test_gaussians() -> None:
    """W₂² = (μ₁ − μ₂)² + (σ₁ − σ₂)², from quantiles at mid-levels and from draws."""
    level = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    z = math.sqrt(2) * torch.erfinv(2 * level - 1)
    truth = 1.5**2 + 1.3**2
    assert wasserstein_1d(z, 1.5 + 2.3 * z, p=2).item() == pytest.approx(truth, rel=1e-4)
    x, y = normal(0, 20_000), 1.5 + 2.3 * normal(1, 30_000)
    assert wasserstein_1d(x, y, p=2).item() == pytest.approx(truth, rel=0.05)
    assert wasserstein_1d(z, 1.5 + z).item() == pytest.approx(1.5)


@pytest.mark.parametrize("m", [4, 6])
@pytest.mark.parametrize("weighted", ["", "x", "xy"])
def test_batches(m: int, weighted: str) -> None:
    x, y = normal(0, 3, 2, 4), normal(1, 2, m)
    wx = weights(2, 2, 4) if "x" in weighted else None
    wy = weights(3, 3, 2, m) if "y" in weighted else None
    found = wasserstein_1d(x, y, wx, wy, p=2)
    assert found.shape == (3, 2)
    for i, j in itertools.product(range(3), range(2)):
        one = wasserstein_1d(
            x[i, j],
            y[j],
            None if wx is None else wx[j],
            None if wy is None else wy[i, j],
            p=2,
        )
        assert_close(found[i, j], one, 1e-14)


@pytest.mark.parametrize("p", [1, 1.5, 2])
@pytest.mark.parametrize("m", [5, 7])
def test_gradients_on_the_line(p: float, m: int) -> None:
    x, y = normal(0, 5).requires_grad_(), normal(1, m).requires_grad_()
    wx, wy = weights(2, 5).requires_grad_(), weights(3, m).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: wasserstein_1d(x, y, p=p), (x, y))
    assert torch.autograd.gradcheck(
        lambda x, y, wx, wy: wasserstein_1d(x, y, wx, wy, p=p), (x, y, wx, wy)
    )


@pytest.mark.parametrize("p", [1, 1.5, 2])
def test_equal_samples_have_no_gradient(p: float) -> None:
    x = normal(0, 6).requires_grad_()
    (gradient,) = torch.autograd.grad(wasserstein_1d(x, x.detach().clone(), p=p), x)
    assert torch.equal(gradient, torch.zeros_like(x))


# --- On many lines -------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(9, 9), (9, 6)])
@pytest.mark.parametrize("p", [1, 2])
def test_sliced_is_the_mean_over_lines(n: int, m: int, p: float) -> None:
    x, y, lines = normal(0, n, 3), normal(1, m, 3) + 0.5, 7 * normal(2, 11, 3)
    units = lines / lines.square().sum(1, keepdim=True).sqrt()
    truth = np.mean([transport(x @ u, y @ u, torch.ones(n), torch.ones(m), p) for u in units])
    assert sliced_wasserstein(x, y, p=p, projections=lines).item() == pytest.approx(truth, rel=1e-9)


def test_sliced_of_a_shift() -> None:
    """‖t‖²/d on average; in one dimension, exactly the Wasserstein distance."""
    x, t = normal(0, 40, 5), torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    generator = torch.Generator().manual_seed(0)
    found = sliced_wasserstein(x, x + t, n_projections=20_000, generator=generator)
    assert found.item() == pytest.approx(t.square().sum().item() / 5, rel=0.03)
    y = normal(1, 30, 1)
    assert_close(
        sliced_wasserstein(x[:, :1], y, n_projections=3),
        wasserstein_1d(x[:, 0], y[:, 0], p=2),
        1e-14,
    )


@pytest.mark.parametrize("point", [(1.0, 0.0, 0.0), (0.0, 0.6, 0.8)])
def test_lines_are_uniform_on_the_sphere(point: tuple[float, ...]) -> None:
    """Between 0 and a unit vector e, W₂² on a line is ⟨θ, e⟩², of law Beta(½, (d−1)/2)."""
    end = torch.tensor([point])
    draws = [
        sliced_wasserstein(
            torch.zeros(1, 3), end, n_projections=1, generator=torch.Generator().manual_seed(k)
        ).item()
        for k in range(500)
    ]
    assert stats.kstest(draws, stats.beta(0.5, 1.0).cdf).pvalue > 1e-4


@pytest.mark.parametrize("m", [4, 6])
def test_sliced_batches(m: int) -> None:
    x, y, lines = normal(0, 3, 2, 4, 3), normal(1, 2, m, 3), normal(2, 5, 3)
    found = sliced_wasserstein(x, y, projections=lines)
    assert found.shape == (3, 2)
    for i, j in itertools.product(range(3), range(2)):
        assert_close(found[i, j], sliced_wasserstein(x[i, j], y[j], projections=lines), 1e-14)


def test_deterministic_and_apart_from_the_global_generator() -> None:
    x, y = normal(0, 20, 4), normal(1, 20, 4)
    state = torch.get_rng_state()
    one, two, other = (
        sliced_wasserstein(x, y, generator=torch.Generator().manual_seed(seed))
        for seed in (5, 5, 6)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    generator = torch.Generator().manual_seed(5)
    first, second = (sliced_wasserstein(x, y, generator=generator) for _ in range(2))
    assert torch.equal(first, one)
    assert not torch.equal(second, one)  # new lines in each step


@pytest.mark.parametrize("m", [6, 4])
def test_gradients_of_sliced(m: int) -> None:
    x, y, lines = (t.requires_grad_() for t in (normal(0, 6, 3), normal(1, m, 3), normal(2, 4, 3)))
    assert torch.autograd.gradcheck(
        lambda x, y, lines: sliced_wasserstein(x, y, projections=lines), (x, y, lines)
    )


def test_under_the_transforms_of_torch() -> None:
    x, y, lines = normal(0, 2, 6, 3), normal(1, 5, 3), normal(2, 4, 3)

    def loss(x: Tensor) -> Tensor:
        return sliced_wasserstein(x, y, projections=lines)

    assert_close(torch.compile(loss, fullgraph=True, backend="eager")(x), loss(x), 1e-14)
    assert_close(torch.func.vmap(loss)(x), loss(x), 1e-14)
    leaf = x[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    assert_close(torch.func.grad(loss)(x[0]), gradient, 1e-14)


def test_dtypes_offsets_and_autocast() -> None:
    """Fp32 samples at an offset of 1000 lose no digits beyond those of their own rounding."""
    x, y, lines = (
        (1000 + normal(0, 50, 3)).float(),
        (1000 + normal(1, 50, 3)).float(),
        normal(2, 9, 3),
    )
    truth = sliced_wasserstein(x.double(), y.double(), projections=lines)
    found = sliced_wasserstein(x, y, projections=lines)
    assert found.dtype == torch.float32
    assert_close(found, truth, 1e-7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sliced_wasserstein(x, y, projections=lines), found)
    assert sliced_wasserstein(x.bfloat16(), y, projections=lines).dtype == torch.float32
    assert wasserstein_1d(x[:, 0].half(), y[:, 0].half()).dtype == torch.float32


def test_a_missing_value_is_not_hidden() -> None:
    x, y = normal(0, 6, 2), normal(1, 4, 2)
    x[2, 1] = math.nan
    assert sliced_wasserstein(x, y).isnan()
    assert wasserstein_1d(x[:, 1], y[:, 0]).isnan()


def test_messages() -> None:
    x, y = torch.zeros(5, 3), torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"share d; got x \[5, 3\], y \[4, 2\]"):
        sliced_wasserstein(x, y[:, :2])
    with pytest.raises(ValueError, match=r"y is empty \(shape \[0, 3\]\)"):
        sliced_wasserstein(x, y[:0])
    with pytest.raises(ValueError, match=r"shape \[L, 3\] with L ≥ 1; got \[7, 2\]"):
        sliced_wasserstein(x, y, projections=torch.ones(7, 2))
    with pytest.raises(ValueError, match="1 of 2 projections are 0"):
        sliced_wasserstein(x, y, projections=torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    with pytest.raises(TypeError, match=r"projections must be a floating point tensor \[L, d\]"):
        sliced_wasserstein(x, y, projections=torch.ones(7, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="projections or a generator"):
        sliced_wasserstein(x, y, projections=torch.ones(7, 3), generator=torch.Generator())
    with pytest.raises(ValueError, match="n_projections must be a positive integer; got 0"):
        sliced_wasserstein(x, y, n_projections=0)
    with pytest.raises(ValueError, match=r"n_projections must be a positive integer; got 10\.5"):
        sliced_wasserstein(x, y, n_projections=10.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, .* got Generator"):
        sliced_wasserstein(x, y, generator=np.random.default_rng(0))  # type: ignore[arg-type]
    for p in (0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match="p must be finite and at least 1"):
            sliced_wasserstein(x, y, p=p)
    with pytest.raises(TypeError, match="y must be a torch tensor; got list"):
        wasserstein_1d(x[:, 0], [1.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"x must hold at least one number, \[..., n\]; got \[0\]"):
        wasserstein_1d(x[:0, 0], y[:, 0])
    with pytest.raises(ValueError, match=r"weights_x must be ≥ 0; got 1 negative of 5"):
        wasserstein_1d(x[:, 0], y[:, 0], torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="weights_y sums to zero"):
        wasserstein_1d(x[:, 0], y[:, 0], None, torch.zeros(4))
    with pytest.raises(ValueError, match=r"weights_x must have shape \[5\]; got \[4\]"):
        wasserstein_1d(x[:, 0], y[:, 0], torch.ones(4))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sample", [0, 1])
def test_what_is_no_number_counts_without_weight(bad: float, sample: int) -> None:
    points = [torch.tensor([1.0, 2.0, bad]), torch.tensor([1.0, 3.0, 2.0])][:: 1 - 2 * sample]
    weights = [torch.tensor([1.0, 1.0, 0.0]), None][:: 1 - 2 * sample]
    assert not wasserstein_1d(*points, *weights).isfinite()


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_projections_have_no_length(scale: float) -> None:
    x, y = (torch.randn(20, 3, dtype=torch.float64) for _ in range(2))
    lines = torch.randn(7, 3, dtype=torch.float64)
    found = sliced_wasserstein(x, y, projections=lines * scale)
    torch.testing.assert_close(found, sliced_wasserstein(x, y, projections=lines))
