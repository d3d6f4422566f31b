"""Quadratic forms against dense fp64, with K never stored and every tile size."""

from __future__ import annotations

import pytest
import torch
from oracle import pair_matrices
from torch import Tensor

from divergences.kernels import Energy, Gaussian, Kernel, Laplace, Linear, Matern, Polynomial
from divergences.kernels.statistics.quadratic_forms import QuadraticForms

KERNELS = [
    Gaussian(1.0),
    Energy(),
    Gaussian([1.0, 2.0]) + Linear(),
    Laplace(2.0, norm="l1") + Matern(1.5) + Energy(0.7),
    Polynomial(3),
]


def samples(n: int, d: int, columns: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n * d)
    z = torch.randn(n, d, generator=generator, dtype=torch.float64)
    z[n // 2] = z[0]  # a duplicate
    v = torch.randint(0, 2, (n, columns), generator=generator)
    return z, v.to(torch.int8)


def null_deviation(k: Tensor) -> Tensor:
    """The standard deviation of vᵀKv over relabellings, √(2 Σ k̃²)."""
    centred = k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()
    return (2.0 * centred.square().sum()).sqrt()


@pytest.mark.parametrize("tile", [16, 64])
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_against_dense(kernel: Kernel, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("divergences.kernels.reference.tiles.TILE", tile)
    monkeypatch.setattr("divergences.kernels.statistics.quadratic_forms.PRODUCTS", 100)
    z, v = samples(45, 3, 7)
    kernel = kernel.resolve(z)
    forms = QuadraticForms(z, kernel)
    found = forms(v)
    for c, k in enumerate(pair_matrices(z, kernel)):
        scale = float(k.abs().sum())
        expected = (v.double() * (k @ v.double())).sum(0)
        torch.testing.assert_close(found[c], expected, rtol=0, atol=1e-13 * scale)
        torch.testing.assert_close(forms.row_sums[c], k.sum(1), rtol=0, atol=1e-13 * scale)
        torch.testing.assert_close(forms.squares[c], k.square().sum(), rtol=1e-11, atol=0)
    torch.testing.assert_close(forms(v), found, rtol=0, atol=0)  # what is known stays so


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("kernel", [Gaussian(3.0), Energy(), Laplace(9.0, norm="l1")], ids=repr)
def test_narrow_products_within_their_bound(kernel: Kernel, offset: float) -> None:
    """fp32 products, K in fp64: far below the spread of the null, with an outlier and an offset."""
    z, v = samples(1500, 8, 300)
    z = z + offset
    z[3] += 1e4
    forms = QuadraticForms(z, kernel, narrow=True)
    (k,) = pair_matrices(z, kernel)
    error = (forms(v)[0] - (v.double() * (k @ v.double())).sum(0)).abs().max()
    assert 0 < error < forms.rounding[0]
    assert forms.rounding[0] < 1e-3 * null_deviation(k)


def test_centres_leave_out_the_diagonal() -> None:
    """Of a kernel so narrow that K is 0 but for its diagonal, nothing is left to subtract."""
    z, _ = samples(300, 8, 1)
    z[150] = z[0] + 1.0  # no duplicates
    assert float(QuadraticForms(z, Gaussian(1e-3)).centres.abs().max()) == 0.0


@pytest.mark.parametrize("kernel", [Gaussian([1.0, 3.0]) + Linear(), Energy()], ids=repr)
def test_triton_backend_behind_the_same_door(kernel: Kernel) -> None:
    """In the interpreter: its sums of centred values are turned into those of K here."""
    z, v = samples(90, 3, 5)
    forms = QuadraticForms(z.float(), kernel, backend="triton")
    found = forms(v)
    for c, k in enumerate(pair_matrices(z.float().double(), kernel)):
        error = (found[c] - (v.double() * (k @ v.double())).sum(0)).abs().max()
        assert error < 1e-3 * null_deviation(k)
        scale = float(k.abs().sum(1).max())
        torch.testing.assert_close(forms.row_sums[c], k.sum(1), rtol=0, atol=1e-3 * scale)
        linear = forms.row_sums[c] @ v.double()
        torch.testing.assert_close(forms.linear(v)[c], linear, rtol=1e-13, atol=1e-13 * scale)
        torch.testing.assert_close(forms.squares[c], k.square().sum(), rtol=1e-3, atol=0)
    assert (forms.rounding > 0).all()


@pytest.mark.parametrize("shape", [(20, 2), (70, 2), (7, 10, 2), (3, 40, 2)], ids=str)
def test_progress_is_reported(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("divergences.kernels.reference.tiles.TILE", 16)
    z = torch.randn(shape, dtype=torch.float64)
    forms = QuadraticForms(z, Gaussian([1.0, 2.0]) + Laplace(1.0, norm="l1") + Linear())
    ticks: list[int] = []
    forms(torch.ones(*shape[:-1], 3, dtype=torch.int8), lambda: ticks.append(1))
    assert len(ticks) == forms.steps


def test_blocks_are_apart() -> None:
    """[G, N, d] is G problems, summed."""
    z, v = samples(60, 3, 9)
    kernel = Gaussian(1.0) + Energy()
    forms = QuadraticForms(z.view(4, 15, 3), kernel)
    found = forms(v.view(4, 15, 9))
    parts = [QuadraticForms(part, kernel) for part in z.view(4, 15, 3)]
    each = [part(labels) for part, labels in zip(parts, v.view(4, 15, 9), strict=True)]
    torch.testing.assert_close(found, torch.stack(each).sum(0))
    torch.testing.assert_close(forms.row_sums, torch.stack([p.row_sums for p in parts], 1))
    torch.testing.assert_close(forms.squares, torch.stack([p.squares for p in parts]).sum(0))
