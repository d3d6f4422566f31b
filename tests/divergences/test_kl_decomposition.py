"""The parts of the KL of a data set: exact sums, closed forms, unbiased weights."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from tolerances import assert_close
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from divergences import kl_decomposition
from divergences.kl import gaussian_kl
from divergences.kl_decomposition import (
    MinibatchEstimator,
    aggregate_log_density,
    decompose_kl,
    decompose_kl_minibatch,
    minibatch_log_weights,
)


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def codes(seed: int, n: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draws, means and log variances."""
    mean, log_variance = normal(seed, n, d), 0.5 * normal(seed + 1, n, d) - 1
    return mean + (0.5 * log_variance).exp() * normal(seed + 2, n, d), mean, log_variance


def mixture_log_density(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log 1/N Σ_n N(z; μ_n, diag σ_n²) by torch.distributions, all N·K·M numbers at once."""
    scale = (0.5 * log_variance).exp()
    parts = Independent(Normal(mean, scale), 1)
    uniform = Categorical(torch.ones(len(mean), dtype=torch.float64))
    return MixtureSameFamily(uniform, parts).log_prob(z)


# --- A data set ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [1, 7, 100, 2**19])
def test_aggregate_density_against_the_full_sum(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kl_decomposition, "TILE", tile)
    z, mean, log_variance = codes(0, 23, 4)
    z = torch.cat([z, 1e3 * z[:2]])  # far from every code: densities of exp(−1e6)
    joint, marginal = aggregate_log_density(z, mean, log_variance)
    assert_close(joint, mixture_log_density(z, mean, log_variance), 1e-13)
    for j in range(4):
        column = slice(j, j + 1)
        truth = mixture_log_density(z[:, column], mean[:, column], log_variance[:, column])
        assert_close(marginal[:, j], truth, 1e-13)


def test_memory_is_one_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor made on the way has more entries than a tile, or a sample."""
    largest = 0
    inner = kl_decomposition.gaussian_log_density

    def watched(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        nonlocal largest
        found = inner(z, mean, log_variance)
        largest = max(largest, found.numel())
        return found

    monkeypatch.setattr(kl_decomposition, "TILE", 2**16)
    monkeypatch.setattr(kl_decomposition, "gaussian_log_density", watched)
    z, mean, log_variance = codes(0, 500, 5)
    aggregate_log_density(z, mean, log_variance)
    assert 1000 < largest <= kl_decomposition.TILE


def test_decomposition_against_the_full_sum() -> None:
    z, mean, log_variance = codes(0, 50, 3)
    found = decompose_kl(mean, log_variance, z)
    own = Normal(mean, (0.5 * log_variance).exp()).log_prob(z)
    prior = Normal(0.0, 1.0).log_prob(z)
    joint = mixture_log_density(z, mean, log_variance)
    marginal = torch.stack(
        [
            mixture_log_density(z[:, j : j + 1], mean[:, j : j + 1], log_variance[:, j : j + 1])
            for j in range(3)
        ],
        1,
    )
    assert found.mutual_information == pytest.approx((own.sum(1) - joint).mean().item())
    assert found.total_correlation == pytest.approx((joint - marginal.sum(1)).mean().item())
    assert found.dimension_wise == pytest.approx((marginal - prior).mean(0).numpy())
    assert found.total == pytest.approx((own - prior).sum(1).mean().item())
    assert found.aggregate_kl == pytest.approx((joint - prior.sum(1)).mean().item())
    spread = (own.sum(1) - joint).std().item() / math.sqrt(50)
    assert found.mutual_information_standard_error == pytest.approx(spread)
    spread = (joint - marginal.sum(1)).std().item() / math.sqrt(50)
    assert found.total_correlation_standard_error == pytest.approx(spread)
    assert (found.n, found.d, found.seed) == (50, 3, None)


def test_equal_codes_tell_nothing_about_the_data() -> None:
    mean = torch.tensor([0.5, -1.0]).expand(40, 2)
    found = decompose_kl(mean, torch.zeros(40, 2), rng=0)
    assert found.mutual_information == pytest.approx(0, abs=1e-13)
    assert found.total_correlation == pytest.approx(0, abs=1e-13)
    z = normal(0, 40, 2)
    shift = decompose_kl(mean, torch.zeros(40, 2), mean + z).dimension_wise
    truth = (Normal(mean, 1.0).log_prob(mean + z) - Normal(0.0, 1.0).log_prob(mean + z)).mean(0)
    assert shift == pytest.approx(truth.numpy())


def test_codes_far_apart_tell_everything() -> None:
    """MI = log n, exactly the bound; codes on a diagonal: TC = (d − 1) log n."""
    mean = 1e3 * torch.arange(32.0).unsqueeze(1).expand(32, 3)
    found = decompose_kl(mean, torch.zeros(32, 3), rng=0)
    assert found.mutual_information == pytest.approx(math.log(32), rel=1e-13)
    assert found.total_correlation == pytest.approx(2 * math.log(32), rel=1e-12)


def test_gaussian_aggregate_of_known_covariance() -> None:
    """Means from N(0, S − vI) make q(z) ≈ N(0, S): TC = −½ log(1 − ρ²) for unit variances,
    MI = ½ log(det S / vᵈ), dimension-wise 0."""
    rho, v, n = 0.8, 0.1, 1600
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    factor = torch.linalg.cholesky(covariance - v * torch.eye(2, dtype=torch.float64))
    means = torch.cat([normal(0, n // 2, 2), -normal(0, n // 2, 2)]) @ factor.T
    found = decompose_kl(means, torch.full((n, 2), math.log(v)), rng=1)
    mutual_information = 0.5 * math.log((1 - rho**2) / v**2)
    # Of a finite number of components the entropy is smaller by about 1/n per effective cell.
    assert found.mutual_information == pytest.approx(mutual_information, abs=0.04)
    assert found.total_correlation == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.04)
    assert found.dimension_wise == pytest.approx(np.zeros(2), abs=0.02)
    closed = gaussian_kl(means, torch.full((n, 2), math.log(v), dtype=torch.float64)).sum(1).mean()
    assert found.total == pytest.approx(closed.item(), abs=0.06)


def test_prior_seed_and_records() -> None:
    _, mean, log_variance = codes(0, 30, 2)
    wide = Normal(torch.tensor([0.0, 1.0]).double(), 3.0)
    one = decompose_kl(mean, log_variance, rng=7, prior_log_density=wide.log_prob)
    two = decompose_kl(mean.numpy(), log_variance.numpy(), rng=7)
    assert one.seed == 7
    assert one.mutual_information == two.mutual_information
    assert one.total_correlation == two.total_correlation
    assert not np.allclose(one.dimension_wise, two.dimension_wise)
    assert not one.dimension_wise.flags.writeable
    assert json.loads(one.to_json())["dimension_wise"] == pytest.approx(one.dimension_wise)
    generator = torch.Generator().manual_seed(3)
    again = decompose_kl(mean, log_variance, rng=generator).seed
    assert isinstance(again, int)
    single = decompose_kl(mean[:1], log_variance[:1], rng=0)
    assert single.mutual_information == 0
    assert math.isnan(single.mutual_information_standard_error)


# --- A batch -------------------------------------------------------------------------------------


def test_stratified_weights_as_published() -> None:
    """N = 10, M + 1 = 4: own 1/10, one other 7/30, the rest 1/3."""
    own, one, rest = 1 / 10, 7 / 30, 1 / 3
    truth = [
        [own, one, rest, rest],
        [rest, own, one, rest],
        [rest, rest, own, one],
        [one, rest, rest, own],
    ]
    assert minibatch_log_weights(4, 10).exp().numpy() == pytest.approx(np.array(truth), rel=1e-14)


@pytest.mark.parametrize("n_data", [2, 5, 100, 10**7])
def test_rows_of_stratified_weights_sum_to_one(n_data: int) -> None:
    for n_batch in {1, 2, min(5, n_data)}:
        weights = minibatch_log_weights(n_batch, n_data)
        assert_close(weights.exp().sum(1), torch.ones(n_batch), 1e-14)


@pytest.mark.parametrize(("n_batch", "n_data"), [(2, 4), (3, 5), (4, 5), (5, 5), (1, 1)])
def test_stratified_weights_are_unbiased(n_batch: int, n_data: int) -> None:
    """The mean over all ordered batches that hold z's own code is q(z), exactly."""
    z, mean, log_variance = codes(0, n_data, 2)
    scale = (0.5 * log_variance).exp()
    density = Normal(mean, scale).log_prob(z.unsqueeze(1)).sum(2).exp()  # [z, code]
    weights = minibatch_log_weights(n_batch, n_data).exp()
    found: list[list[float]] = [[] for _ in range(n_data)]
    for batch in itertools.permutations(range(n_data), n_batch):
        estimate = (weights * density[list(batch)][:, list(batch)]).sum(1)
        for row, value in zip(batch, estimate.tolist(), strict=True):
            found[row].append(value)
    truth = mixture_log_density(z, mean, log_variance).exp()
    assert_close(torch.tensor([np.mean(values) for values in found]), truth, 1e-13)


def test_weighted_estimator_is_its_formula() -> None:
    """E log q(z) ≈ 1/B Σ_i log 1/(NB) Σ_j q(z_i|n_j): lower bound, in mean over batches."""
    n_data, n_batch = 6, 3
    z, mean, log_variance = codes(0, n_data, 2)
    values = []
    for batch in itertools.combinations(range(n_data), n_batch):
        rows = list(batch)
        found = decompose_kl_minibatch(
            z[rows], mean[rows], log_variance[rows], n_data, estimator="weighted"
        )
        own = Normal(mean[rows], (0.5 * log_variance[rows]).exp()).log_prob(z[rows]).sum(1)
        joint = mixture_log_density(z[rows], mean[rows], log_variance[rows]) - math.log(n_data)
        assert found.mutual_information.item() == pytest.approx((own - joint).mean().item())
        values.append(joint.mean().item())
    assert np.mean(values) < mixture_log_density(z, mean, log_variance).mean().item()


@pytest.mark.parametrize("estimator", ["stratified", "weighted"])
def test_terms_add_up_whatever_the_weights(estimator: MinibatchEstimator) -> None:
    z, mean, log_variance = codes(0, 12, 5)
    mi, tc, dimension_wise = decompose_kl_minibatch(
        z, mean, log_variance, 1000, estimator=estimator
    )
    assert mi.shape == tc.shape == ()
    assert dimension_wise.shape == (5,)
    own = Normal(mean, (0.5 * log_variance).exp()).log_prob(z)
    truth = (own - Normal(0.0, 1.0).log_prob(z)).sum(1).mean()
    assert_close(mi + tc + dimension_wise.sum(), truth, 1e-13)


def test_stratified_batches_against_the_formula() -> None:
    """Log-space sums equal the sums of densities themselves, joint and by coordinate."""
    z, mean, log_variance = codes(0, 6, 2)
    found = decompose_kl_minibatch(z, mean, log_variance, 20)
    own, one, rest = 1 / 20, 15 / (20 * 5), 1 / 5
    joint, marginal = [], []
    for i in range(6):
        q = Normal(mean, (0.5 * log_variance).exp()).log_prob(z[i]).exp()
        w = torch.full((6, 1), rest, dtype=torch.float64)
        w[i], w[(i + 1) % 6] = own, one
        joint.append((w[:, 0] * q.prod(1)).sum().log())
        marginal.append((w * q).sum(0).log())
    total_correlation = (torch.stack(joint) - torch.stack(marginal).sum(1)).mean()
    assert_close(found.total_correlation, total_correlation, 1e-12)
    dimension_wise = (torch.stack(marginal) - Normal(0.0, 1.0).log_prob(z)).mean(0)
    assert_close(found.dimension_wise, dimension_wise, 1e-12)


def test_batches_estimate_what_the_data_set_has() -> None:
    """In two dimensions with wide codes the bias of the logarithm is small."""
    factor = torch.linalg.cholesky(torch.tensor([[0.75, 0.6], [0.6, 0.75]], dtype=torch.float64))
    mean = normal(0, 1000, 2) @ factor.T
    log_variance = torch.full_like(mean, math.log(0.25))
    z = mean + 0.5 * normal(1, 1000, 2)
    whole = decompose_kl(mean, log_variance, z)
    batches = torch.split(torch.randperm(1000, generator=torch.Generator().manual_seed(0)), 250)
    found = [decompose_kl_minibatch(z[b], mean[b], log_variance[b], 1000) for b in batches]
    mi, tc, dimension_wise = (torch.stack(part).mean(0) for part in zip(*found, strict=True))
    assert mi.item() == pytest.approx(whole.mutual_information, abs=0.03)
    assert tc.item() == pytest.approx(whole.total_correlation, abs=0.03)
    assert dimension_wise.numpy() == pytest.approx(whole.dimension_wise, abs=0.03)


@pytest.mark.parametrize("n_data", [1, 50])
def test_a_batch_of_one(n_data: int) -> None:
    """M = 0: q(z) is taken to be q(z|n), finite with finite gradients."""
    z, mean, log_variance = (t.requires_grad_() for t in codes(0, 1, 3))
    mi, tc, dimension_wise = decompose_kl_minibatch(z, mean, log_variance, n_data)
    assert mi.item() == pytest.approx(0, abs=1e-14)
    assert tc.item() == pytest.approx(0, abs=1e-14)
    gradients = torch.autograd.grad(mi + 6 * tc + dimension_wise.sum(), (z, mean, log_variance))
    assert all(torch.isfinite(g).all() for g in gradients)
    weighted = decompose_kl_minibatch(z, mean, log_variance, n_data, estimator="weighted")
    assert weighted.mutual_information.item() == pytest.approx(math.log(n_data), abs=1e-14)


@pytest.mark.parametrize("estimator", ["stratified", "weighted"])
def test_gradients(estimator: MinibatchEstimator) -> None:
    inputs = [t.requires_grad_() for t in codes(0, 5, 2)]

    def parts(z: Tensor, mean: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return decompose_kl_minibatch(z, mean, log_variance, 40, estimator=estimator)

    assert torch.autograd.gradcheck(parts, inputs)
    assert torch.autograd.gradgradcheck(parts, inputs)


def test_under_the_transforms_of_torch() -> None:
    z, mean, log_variance = codes(0, 6, 2)

    def loss(z: Tensor) -> Tensor:
        return decompose_kl_minibatch(z, mean, log_variance, 40).total_correlation

    assert_close(torch.compile(loss, fullgraph=True, backend="eager")(z), loss(z), 1e-14)
    several = torch.stack([z, z + 0.1])
    assert_close(torch.func.vmap(loss)(several), torch.stack([loss(s) for s in several]), 1e-14)
    leaf = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    assert_close(torch.func.grad(loss)(z), gradient, 1e-14)


def test_stable_where_densities_vanish() -> None:
    """256 dimensions, codes far apart: densities of exp(−1e7) in fp32."""
    mean = 300 * normal(0, 8, 256).float().requires_grad_()
    log_variance = torch.zeros(8, 256, requires_grad=True)
    z = mean + normal(1, 8, 256).float()
    mi, tc, dimension_wise = decompose_kl_minibatch(z, mean, log_variance, 60_000)
    assert mi.dtype == torch.float32
    assert mi.item() == pytest.approx(math.log(60_000), rel=1e-4)
    gradients = torch.autograd.grad(mi + tc + dimension_wise.sum(), (mean, log_variance))
    assert all(torch.isfinite(g).all() for g in gradients)
    low = decompose_kl_minibatch(*(t.bfloat16() for t in (z, mean, log_variance)), 60_000)
    assert low.total_correlation.dtype == torch.float32


def test_messages() -> None:
    z, mean, log_variance = codes(0, 8, 2)
    with pytest.raises(ValueError, match="at least the 8 rows of the batch; got 7"):
        decompose_kl_minibatch(z, mean, log_variance, 7)
    with pytest.raises(ValueError, match="'stratified' or 'weighted'; got 'mss'"):
        decompose_kl_minibatch(z, mean, log_variance, 9, estimator="mss")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got z \[7, 2\], mean \[8, 2\], log_variance \[8, 2\]"):
        decompose_kl_minibatch(z[:7], mean, log_variance, 9)
    with pytest.raises(ValueError, match=r"share shape \[B, M\]; got z \[1, 8, 2\]"):
        decompose_kl_minibatch(z[None], mean[None], log_variance[None], 9)
    with pytest.raises(ValueError, match="at least one row; got 0"):
        decompose_kl_minibatch(z[:0], mean[:0], log_variance[:0], 9)
    with pytest.raises(TypeError, match="z must be floating point"):
        decompose_kl_minibatch(z.long(), mean, log_variance, 9)
    with pytest.raises(ValueError, match=r"mean \[8, 2\], log_variance \[8, 1\]"):
        decompose_kl(mean, log_variance[:, :1])
    with pytest.raises(ValueError, match=r"a draw from each code; got z \[7, 2\], mean \[8, 2\]"):
        decompose_kl(mean, log_variance, z[:7])
    with pytest.raises(ValueError, match="log_variance has 1 rows of 8 with NaN"):
        decompose_kl(mean, log_variance.index_fill(0, torch.tensor([3]), math.inf))
    with pytest.raises(ValueError, match="mean is empty"):
        decompose_kl(mean[:0], log_variance[:0])
    with pytest.raises(ValueError, match="share the number of columns"):
        aggregate_log_density(z[:, :1], mean, log_variance)
    with pytest.raises(ValueError, match=r"\[8, 2\] for these points; got \[8\]"):
        decompose_kl(mean, log_variance, prior_log_density=lambda z: z.sum(1))


@pytest.mark.parametrize("n_data", [100.5, 100.0, "100", True, None])
def test_n_data_is_an_integer(n_data: int) -> None:
    z = torch.zeros(4, 2)
    with pytest.raises(TypeError, match="n_data must be an integer"):
        decompose_kl_minibatch(z, z, z, n_data)
