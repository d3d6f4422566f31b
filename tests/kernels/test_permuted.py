"""Permuted sums against dense fp64, for every permutation, tile size and width of a step."""

from __future__ import annotations

import pytest
import torch
from oracle import pair_matrices
from torch import Tensor

from divergences.kernels import Energy, Gaussian, Kernel, Laplace, Linear, Matern, Polynomial
from divergences.kernels.statistics import permuted as engine
from divergences.kernels.statistics.permuted import Centred, PermutedSums

KERNELS = [
    Gaussian(1.0),
    Energy(),
    Gaussian([0.3, 1.0, 2.0]),
    Laplace(2.0, norm="l1") + Matern(1.5) + Energy(0.7),
    Polynomial(3) + Linear(),
]


def samples(n: int, dx: int, dy: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + dx)
    x = torch.randn(n, dx, generator=generator, dtype=torch.float64)
    y = torch.randn(n, dy, generator=generator, dtype=torch.float64) + x[:, :1]
    x[n // 2], y[n // 3] = x[0], y[1]  # duplicates
    return x, y


def permutations(n: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    drawn = [torch.randperm(n, generator=generator) for _ in range(count - 1)]
    return torch.stack([torch.arange(n), *drawn])


def song(k: Tensor, m: Tensor) -> Tensor:
    """n(n−3)·HSIC of two matrices with zero diagonals (Song et al. 2012, eq. 5)."""
    n = len(k)
    means = k.sum() * m.sum() / ((n - 1) * (n - 2))
    return (k @ m).trace() + means - 2.0 / (n - 2) * (k @ m).sum()


@pytest.mark.parametrize(("tile", "step"), [(8, 64), (16, 2**19), (64, 2**19)])
@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_against_dense(
    kernel: Kernel, tile: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "TILE", tile)
    monkeypatch.setattr(engine, "LEAST_TILE", tile)
    monkeypatch.setitem(engine.STEP, "cpu", step)
    x, y = samples(37, 3, 2)
    other = Gaussian(0.7) + Energy()
    a, b = Centred(x, kernel.resolve(x)), Centred(y, other)
    p = permutations(37, 6)
    sums = PermutedSums(a, b)
    ticks: list[int] = []
    found = sums(p, lambda: ticks.append(1))
    assert len(ticks) == sums.steps(6) > (tile == 8)
    for c, k in enumerate(pair_matrices(x, kernel.resolve(x))):
        torch.testing.assert_close(a.row_sums[c], k.sum(1), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(a.squares[c], k.square().sum(), rtol=1e-11, atol=0)
        torch.testing.assert_close(a.products[c, c], song(k, k), rtol=1e-9, atol=0)
        for e, m in enumerate(pair_matrices(y, other)):
            for number, rows in enumerate(p):
                error = abs(float(found[c, e, number] - song(k, m[rows][:, rows])))
                assert error < sums.rounding[c, e]


@pytest.mark.parametrize("d", [1, 5, 20])
@pytest.mark.parametrize("kernel", [Gaussian([0.2, 2.0]), Energy(), Laplace(2.0)], ids=repr)
def test_narrow_within_its_bound(kernel: Kernel, d: int) -> None:
    """fp32 values of L: far below the spread of the null, with an offset, ties and an outlier."""
    x, y = samples(300, 2, d)
    y = (4.0 * y).round() / 4.0 + 1e4
    y[7] += 1e3
    a, b = Centred(x, Gaussian(1.0)), Centred(y, kernel)
    p = permutations(300, 50)
    wide, narrow = PermutedSums(a, b)(p), PermutedSums(a, b, narrow=True)
    error = (narrow(p) - wide).abs().amax(2)
    assert (error > 0).all()
    assert (error < narrow.rounding).all()
    assert (narrow.rounding < 1e-2 * wide.std(2)).all()


def test_tiles_of_k_are_centred_and_those_of_constants_are_nothing() -> None:
    x, _ = samples(20, 3, 1)
    a = Centred(x, Gaussian(1.0) + Gaussian(1e9))
    (i, j), *others = engine.pairs_of_spans(20, 1, x)
    assert not others
    assert a.tile(i, j).sum(2).abs().max() < 1e-14
    assert a.products[0, 0] > 0
    assert a.products[1].eq(0).all() and a.products[:, 1].eq(0).all()


@pytest.mark.parametrize(("count", "permutations"), [(4, 1), (100, 999), (1000, 999), (5000, 1)])
def test_spans_are_one_triangle(count: int, permutations: int) -> None:
    seen = torch.zeros(count, count, dtype=torch.int8)
    for i, j in engine.pairs_of_spans(count, permutations, seen):
        seen[i.start : i.stop, j.start : j.stop] += 1
        if i.number != j.number:
            seen[j.start : j.stop, i.start : i.stop] += 1
    assert (seen == 1).all()


@pytest.mark.gpu
@pytest.mark.parametrize("narrow", [False, True])
def test_on_cuda(narrow: bool) -> None:
    x, y = samples(700, 3, 2)
    p = permutations(700, 9)
    kernel = Gaussian([0.5, 2.0]) + Energy() + Laplace(1.0, norm="l1")
    expected = PermutedSums(Centred(x, kernel), Centred(y, kernel))(p)
    sums = PermutedSums(Centred(x.cuda(), kernel), Centred(y.cuda(), kernel), narrow=narrow)
    assert ((sums(p.cuda()) - expected.cuda()).abs().amax(2) < sums.rounding).all()
