"""Where forms come from: sorted numbers, blocks and features, each against dense fp64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from divergences.chunks import held_rows
from divergences.energy import energy_distance
from divergences.evaluation import evaluate_spans
from divergences.features import FeatureForms, fourier_features, nystrom_features
from divergences.forms import BlockForms, Forms, Pairs, SortedForms, Source, group_sums
from divergences.kernels import Energy, Gaussian, Kernel, Laplace
from divergences.mmd import mmd2
from divergences.resampling import Relabellings
from divergences.two_sample import two_sample_test


def draw(count: int, d: int, columns: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, d, generator=generator, dtype=torch.float64)
    v = torch.randint(0, 2, (count, columns), generator=generator)
    return z, v.to(torch.int8)


def ignore() -> None:
    """Progress."""


def check(source: Source, k: Tensor, v: Tensor, rtol: float = 1e-10) -> Forms:
    """Against a dense k [N, N] whose diagonal is 0."""
    forms = source(v, ignore)
    labels = v.double()
    scale = float(k.abs().sum())
    torch.testing.assert_close(
        forms.quadratic[0], (labels * (k @ labels)).sum(0), rtol=0, atol=rtol * scale
    )
    torch.testing.assert_close(forms.linear[0], k.sum(0) @ labels, rtol=0, atol=rtol * scale)
    torch.testing.assert_close(forms.total[0, 0], k.sum(), rtol=0, atol=rtol * scale)
    return forms


@pytest.mark.parametrize("offset", [0.0, 1e7])
def test_sorted_numbers(offset: float) -> None:
    z, v = draw(101, 1)
    z[40:50] = z[0]  # ties
    z = z + offset
    k = -(z - z.T).abs()
    source = SortedForms(z)
    check(source, k, v)
    torch.testing.assert_close(source.squares[0], k.square().sum())


def test_sorted_is_the_pair_engine() -> None:
    z, _ = draw(90, 1)
    fast = two_sample_test(z[:40], z[40:], method="energy", rng=0)
    slow = two_sample_test(z[:40], z[40:], method="energy", rng=0, backend="reference")
    np.testing.assert_allclose(fast.null_distribution, slow.null_distribution, atol=1e-12)
    assert fast.pvalue == slow.pvalue
    assert fast.statistic == pytest.approx(energy_distance(z[:40], z[40:]).item(), rel=1e-9)


def test_group_sums_of_unequal_groups() -> None:
    z, _ = draw(30, 2)
    k = torch.exp(-torch.cdist(z, z)).fill_diagonal_(0.0)
    labels = torch.zeros(30, 1, dtype=torch.float64)
    labels[:11] = 1.0
    sums = group_sums(
        Forms(labels.T @ k @ labels, labels.T @ k.sum(1, keepdim=True), k.sum().view(1, 1))
    )
    for found, part in zip(sums, (k[:11, :11], k[11:, 11:], k[:11, 11:]), strict=True):
        torch.testing.assert_close(found.squeeze(), part.sum())


def test_blocks_against_dense() -> None:
    """Only pairs within a block count, and their numbers follow the labels."""
    z, v = draw(60, 2)
    index = torch.randperm(60, generator=torch.Generator().manual_seed(1)).view(4, 15)
    inside = torch.zeros(60, 60, dtype=torch.float64)
    for block in index:
        inside[block[:, None], block] = 1.0
    k = torch.exp(-0.5 * torch.cdist(z, z).square()).fill_diagonal_(0.0) * inside
    forms = check(BlockForms(z, Gaussian(1.0), index, narrow=False), k, v)
    assert isinstance(forms.pairs, Pairs)
    x = v.double()
    pairs = inside - torch.eye(60)
    for found, (a, b) in zip(forms.pairs, ((x, x), (1 - x, 1 - x), (x, 1 - x)), strict=True):
        torch.testing.assert_close(found, (a * (pairs @ b)).sum(0))


def test_one_block_is_everything() -> None:
    x, y = draw(40, 2)[0], draw(40, 2, seed=1)[0]
    for method in ("mmd-block", "mmd-incomplete"):
        result = two_sample_test(x, y, method=method, bandwidth=1.0, block_size=80, rng=0)
        assert result.statistic == pytest.approx(mmd2(x, y, bandwidth=1.0).item(), rel=1e-9)


def test_block_statistic_is_the_mean_over_blocks() -> None:
    x, y = draw(50, 2)[0], draw(30, 2, seed=1)[0]
    result = two_sample_test(x, y, method="mmd-block", bandwidth=1.0, block_size=16, rng=0)
    assert (result.n, result.m) == (50, 30)
    assert result._samples is not None
    dealt = zip(*(sample.view(5, -1, 2) for sample in result._samples), strict=True)
    expected = np.mean([mmd2(a, b, bandwidth=1.0).item() for a, b in dealt])
    assert result.statistic == pytest.approx(expected, rel=1e-9)


MIXTURE = Gaussian([0.7, 2.0]) + 0.5 * Laplace(3.0, norm="l1")


def test_fourier_features_tend_to_the_kernel() -> None:
    """Independent frequencies: the error falls as 1/√F, to within 6 standard errors of a cosine."""
    z, _ = draw(40, 3)
    count = 20_000
    phi = fourier_features(MIXTURE, 3, count, np.random.default_rng(0))(z)
    k = _dense(MIXTURE, z)
    assert float((phi @ phi.T - k).abs().max()) < 6 * 1.5 * (0.5 * 3 / count) ** 0.5
    torch.testing.assert_close((phi @ phi.T).diagonal(), k.diagonal())


def test_nystrom_with_every_row_is_the_kernel() -> None:
    z, _ = draw(40, 3)
    phi = nystrom_features(MIXTURE, z)(z)
    torch.testing.assert_close(phi @ phi.T, _dense(MIXTURE, z), rtol=0, atol=1e-8)
    result = two_sample_test(z[:20], z[20:], method="mmd-nystrom", kernel=MIXTURE, rng=0)
    expected = mmd2(z[:20], z[20:], kernel=MIXTURE).item()
    assert result.statistic == pytest.approx(expected, abs=1e-6)


def _dense(kernel: Kernel, z: Tensor) -> Tensor:
    difference = z[:, None] - z[None]
    squared, absolute = difference.square().sum(-1), difference.abs().sum(-1)
    total = torch.zeros(len(z), len(z), dtype=torch.float64)
    for t in kernel.terms:
        assert t.scale is not None
        gaussian = t.function.name == "gaussian"
        k = (-0.5 * squared / t.scale**2).exp() if gaussian else (-absolute / t.scale).exp()
        total += t.coefficient * k
    return total


@pytest.mark.parametrize("chunk", [8, 1000])
def test_forms_of_features(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("divergences.chunks.CHUNK", chunk)
    z, v = draw(50, 3)
    features = fourier_features(Gaussian(1.0), 3, 40, np.random.default_rng(0))
    phi = features(z)
    check(FeatureForms(held_rows(z), features, z), (phi @ phi.T).fill_diagonal_(0.0), v, rtol=1e-6)


def test_kernels_without_features() -> None:
    with pytest.raises(ValueError, match="random Fourier features are for Gaussian"):
        fourier_features(Energy(), 2, 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match="needs a positive definite kernel"):
        nystrom_features(Energy(), torch.randn(5, 2, dtype=torch.float64))


@pytest.mark.parametrize("sort", [False, True])
def test_what_rounding_leaves_is_little_and_bounded(sort: bool) -> None:
    """Against fp64 throughout. Eight values in order are the worst for fp32 sums; and what counts
    as a tie is a small part of the spread of the null, also of many rows."""
    count, generator = 100_000, np.random.default_rng(0)
    values = np.repeat(np.arange(8.0), count // 8)[:, None]
    z = np.concatenate([values if sort else generator.permutation(values), values])
    features = fourier_features(Gaussian(1.0), 1, 8, generator)
    plan = Relabellings((count, count), 9, generator)
    rows = torch.from_numpy(z)
    source = FeatureForms(held_rows(rows), features, rows[::50])
    found = evaluate_spans(source, plan, rows.device, False)
    (labels,) = plan.batches(100)
    phi = features(rows).numpy()
    means = [np.stack([phi[v == g].mean(0) for v in labels.T]) for g in (0, 1)]
    squares = [np.stack([(phi[v == g] ** 2).sum() for v in labels.T]) for g in (0, 1)]
    unbiased = sum((count * (m**2).sum(1) - s / count) / (count - 1)
                   for m, s in zip(means, squares, strict=True))  # fmt: skip
    expected = unbiased - 2.0 * (means[0] * means[1]).sum(1)
    assert np.abs(found.each[0] - expected).max() < found.tolerances[0]
    assert found.tolerances[0] < 0.02 * expected[1:].std()
