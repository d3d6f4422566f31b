"""Stein kernel sums against autograd of the definition, dense in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from divergences.kernels import Energy, Gaussian, InverseMultiquadric, Kernel, RationalQuadratic
from divergences.kernels.statistics.stein import stein_steps, stein_sums

KERNELS = [
    InverseMultiquadric(1.3),
    InverseMultiquadric(0.8, exponent=1.5),
    Gaussian(1.1),
    RationalQuadratic(0.9, alpha=2.0),
    Gaussian([0.5, 2.0]) + 3.0 * InverseMultiquadric(2.0),
]


def points(n: int, d: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def log_density(x: Tensor) -> Tensor:
    """Unnormalised, neither symmetric nor Gaussian. x [d]."""
    steps = torch.arange(1, len(x) + 1, dtype=x.dtype)
    return -(0.5 * x.square() / steps + torch.cosh(0.7 * x - 0.3).log()).sum() + x.prod().sin()


def base(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    s = (x - y).square().sum()
    return torch.stack(
        [t.coefficient * t.function.value(s, t.rate, t.shape, t.offset) for t in kernel.terms]
    ).sum()


def dense(kernel: Kernel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [n, d] and the matrix u with a zero diagonal, from the definition, by autograd."""
    scores = vmap(grad(log_density))(x)

    def u(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor) -> Tensor:
        def k(a: Tensor, b: Tensor) -> Tensor:
            return base(kernel, a, b)

        trace = jacrev(jacrev(k, argnums=1), argnums=0)(a, b).diagonal().sum()
        by_b, by_a = grad(k, argnums=1)(a, b), grad(k, argnums=0)(a, b)
        return sa @ sb * k(a, b) + sa @ by_b + sb @ by_a + trace

    rows = vmap(u, in_dims=(None, None, 0, 0))
    return scores, vmap(rows, in_dims=(0, 0, None, None))(x, scores, x, scores).fill_diagonal_(0.0)


@pytest.mark.parametrize("tile", [5, 1024])
@pytest.mark.parametrize("d", [1, 5])
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_against_autograd(
    kernel: Kernel, d: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("divergences.kernels.reference.tiles.TILE", tile)
    monkeypatch.setattr("divergences.kernels.statistics.stein.COLUMNS", 4)
    x = points(13, d)
    x[5] = x[0]  # a duplicate
    signs = torch.where(points(13, 7, seed=1) > 0, 1, -1).to(torch.int8)
    scores, u = dense(kernel, x)
    ticks: list[None] = []
    found = stein_sums(x, scores, kernel, signs, tick=lambda: ticks.append(None))
    v, atol = signs.double(), 1e-13 * float(u.abs().sum())
    torch.testing.assert_close(found.forms, (v * (u @ v)).sum(0), rtol=0, atol=atol)
    torch.testing.assert_close(found.row_sums, u.sum(1), rtol=0, atol=atol)
    assert found.squares == pytest.approx(float(u.square().sum()), rel=1e-11)
    across = -(-13 // tile)
    assert len(ticks) == stein_steps(x) == across * (across + 1) // 2
    assert len(stein_sums(x, scores, kernel).forms) == 0


def test_far_from_the_origin() -> None:
    """Offsets of the points and of the scores cost no digits: u depends on differences of points,
    and the part of a constant score is s·s φ alone."""
    x, kernel = points(40, 4), InverseMultiquadric(1.0)
    scores = -x
    near = stein_sums(x, scores, kernel).row_sums
    far = stein_sums(x + 1e6, scores, kernel).row_sums
    assert (far - near).abs().max() < 1e-8 * near.abs().max()  # x + 1e6 has ten digits


def test_narrow_products_within_their_bound() -> None:
    x = points(1500, 5)
    signs = torch.where(points(1500, 300, seed=1) > 0, 1, -1).to(torch.int8)
    wide = stein_sums(x, -x, InverseMultiquadric(2.0), signs)
    narrow = stein_sums(x, -x, InverseMultiquadric(2.0), signs, narrow=True)
    error = (narrow.forms - wide.forms).abs().max()
    assert 0 < error < narrow.rounding < 1e-4 * wide.forms.std()
    torch.testing.assert_close(narrow.row_sums, wide.row_sums, rtol=0, atol=0)


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_mean_under_the_model_is_zero(kernel: Kernel) -> None:
    """E u(x, Y) = 0 for Y ~ N(0, I), within four standard errors; not for the score of another."""
    x = points(800, 2, seed=3)
    found = stein_sums(x, -x, kernel)
    error = (2.0 * found.squares) ** 0.5
    assert abs(float(found.row_sums.sum())) < 4.0 * error
    assert float(stein_sums(x, -(x - 0.5), kernel).row_sums.sum()) > 20.0 * error


def test_kernels_without_two_derivatives_are_refused() -> None:
    with pytest.raises(ValueError, match="no Stein kernel"):
        stein_sums(points(3, 1), points(3, 1), Energy())
