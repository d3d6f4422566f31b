"""Measures of planted codes: rate, active units, parts of the KL, covariance, q(z) against p(z)."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from divergences.energy import energy_distance_to_normal
from divergences.mmd import mmd2_to_normal
from vae import (
    VAE,
    GaussianLikelihood,
    ImplicitEncoder,
    InfoVAE,
    LearnedGaussian,
    LearnedMixture,
    Prior,
    StandardNormal,
)
from vae.evaluation.codes import CodeMeasures, against_prior, log_det_covariance, measure_codes
from vae.evaluation.passes import Encoded, encode, features, generator_for


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Planted(nn.Module):
    """Returns its input, [N, 2M]: the means and log variances themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x


def model_of(dim: int, prior: Prior | None = None) -> VAE:
    decoder = nn.Linear(dim, 2 * dim).double()
    prior = StandardNormal(dim) if prior is None else prior.double()
    return VAE(Planted(), decoder, GaussianLikelihood(), InfoVAE(0, 1), prior)


def planted(mean: Tensor, log_variance: Tensor) -> Encoded:
    x = torch.cat([mean, log_variance], 1)
    model = model_of(mean.shape[1])
    return encode(model, x, generator=generator_for(model, 0, "test"))


def measured(mean: Tensor, log_variance: Tensor, prior: Prior | None = None) -> CodeMeasures:
    model = model_of(mean.shape[1], prior)
    x = torch.cat([mean, log_variance], 1)
    return measure_codes(model, encode(model, x, generator=generator_for(model, 0, "test")))


def test_collapsed_codes() -> None:
    found = measured(torch.zeros(800, 3, dtype=torch.float64), torch.zeros(800, 3))
    assert found.kl == 0
    assert found.active_units == 0
    for name in ("mutual_information", "total_correlation", "dimension_wise_kl", "aggregate_kl"):
        assert getattr(found, name) == pytest.approx(0, abs=1e-9)
    assert found.log_det_covariance == pytest.approx(0, abs=0.25)  # sd √(2·3/800) = .09
    assert found.not_available == {}
    assert found.elbo == pytest.approx(-found.distortion)


def test_codes_far_apart() -> None:
    """Every row is told from every other: I(z; row) = log n, whatever the prior."""
    n = 50
    mean = torch.stack([torch.arange(n) * 10.0, -torch.arange(n) * 10.0], 1).double()
    log_variance = torch.full_like(mean, 2 * math.log(0.1))
    found = measured(mean, log_variance)
    normal_ = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(
        normal_(mean, (0.5 * log_variance).exp()), normal_(torch.zeros(2).double(), 1.0)
    )
    assert found.kl == pytest.approx(float(kl.sum(1).mean()))
    np.testing.assert_allclose(found.kl_per_dimension, kl.mean(0), rtol=1e-6)
    assert found.mutual_information == pytest.approx(math.log(n))
    assert found.total_correlation == pytest.approx(math.log(n))  # z_2 follows from z_1
    assert found.aggregate_kl == pytest.approx(found.kl - math.log(n), rel=0.01)
    assert found.active_units == 2


def test_parts_of_the_kl_of_some_of_the_rows() -> None:
    """As of these rows alone; everything else is of all."""
    x = torch.cat([2 * normal(90, 2), torch.zeros(90, 2) - 3], 1)
    model = model_of(2)
    encoded = encode(model, x, generator=generator_for(model, 0, "test"))
    few = replace(
        encoded, z=encoded.z[:40], mean=encoded.mean[:40], log_variance=encoded.log_variance[:40],
        kl=encoded.kl[:40], kl_per_dimension=encoded.kl_per_dimension[:40],
        distortion=encoded.distortion[:40], squared_error=encoded.squared_error[:40],
    )  # fmt: skip
    found, alone = measure_codes(model, encoded, aggregate_n=40), measure_codes(model, few)
    whole = measure_codes(model, encoded, aggregate_n=1000)
    assert (found.n, found.aggregate_n, whole.aggregate_n) == (90, 40, 90)
    for name in ("mutual_information", "total_correlation", "dimension_wise_kl", "aggregate_kl"):
        assert getattr(found, name) == getattr(alone, name) != getattr(whole, name)
    assert found.kl == whole.kl != alone.kl


def test_active_units_vary_by_more_than_a_hundredth() -> None:
    mean = normal(4000, 4) * torch.tensor([1.0, 0.011**0.5, 0.009**0.5, 0.0]).double()
    mean = mean / mean.std(0).clamp_min(1e-9) * torch.tensor([1.0, 0.011, 0.009, 0]).sqrt()
    assert measured(mean + 3, torch.zeros(4000, 4)).active_units == 2


def test_log_det_of_the_covariance() -> None:
    z = normal(500, 3) @ torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 3, 0.1]]).double()
    expected = np.linalg.slogdet(np.cov(z.numpy().T))[1]
    assert log_det_covariance(z) == pytest.approx(expected)
    assert log_det_covariance(z[:, :1]) == pytest.approx(float(z[:, 0].var().log()))
    assert log_det_covariance(z[:3]) is None  # three rows, three dimensions
    assert log_det_covariance(torch.zeros(9, 2)) is None


def test_the_learned_prior_is_the_one_that_counts() -> None:
    prior = LearnedGaussian(2)
    with torch.no_grad():
        prior.mean += torch.tensor([3.0, -1.0])
        prior.log_variance += torch.tensor([1.0, -2.0])
    mean = prior.mean.detach().double().expand(300, 2)
    log_variance = prior.log_variance.detach().double().expand(300, 2)
    found = measured(mean, log_variance, prior)
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert found.dimension_wise_kl == pytest.approx(0, abs=1e-6)
    assert measured(mean, log_variance).dimension_wise_kl > 3


def test_a_mixture_prior() -> None:
    """With one component it is a Gaussian, by another way; by dimension it has no KL."""
    gaussian, mixture = LearnedGaussian(2), LearnedMixture(2, components=1)
    with torch.no_grad():
        gaussian.mean += torch.tensor([0.5, -1.0])
        mixture.means.copy_(gaussian.mean)
        mixture.log_variances.zero_()
    mean, log_variance = normal(400, 2), normal(400, 2, seed=1) - 1
    one, other = measured(mean, log_variance, gaussian), measured(mean, log_variance, mixture)
    assert other.mutual_information == one.mutual_information
    assert other.total_correlation == one.total_correlation
    assert other.aggregate_kl == pytest.approx(one.aggregate_kl, abs=1e-6)
    assert other.kl == pytest.approx(one.kl, abs=0.1)  # at sampled z
    assert other.dimension_wise_kl is None and other.kl_per_dimension is None
    reason = "the prior LearnedMixture(dim=2, components=1) does not factorise over dimensions"
    assert set(other.not_available) == {"dimension_wise_kl", "kl_per_dimension"}
    assert set(other.not_available.values()) == {reason}


def test_deterministic_and_implicit_encoders() -> None:
    x = normal(100, 4).float()
    for encoder, posterior, absent in (
        (nn.Linear(4, 2), "deterministic", set()),
        (ImplicitEncoder(4, 2), "implicit", {"active_units"}),
    ):
        model = VAE(
            encoder, nn.Linear(2, 4), GaussianLikelihood(), InfoVAE(), StandardNormal(2), posterior
        )
        found = measure_codes(model, encode(model, x))
        undefined = {
            "kl", "kl_per_dimension", "elbo", "mutual_information", "total_correlation",
            "dimension_wise_kl", "aggregate_kl",
        }  # fmt: skip
        assert set(found.not_available) == undefined | absent
        assert all(getattr(found, name) is None for name in found.not_available)
        assert found.not_available["elbo"] == f"q(z|x) of a {posterior} encoder has no density"
        assert found.log_det_covariance is not None
        assert math.isfinite(found.distortion)


def test_features_are_means_where_there_are_any() -> None:
    x = torch.cat([normal(50, 2), torch.zeros(50, 2)], 1)
    assert torch.equal(features(model_of(2), x), x[:, :2])
    assert not torch.equal(planted(x[:, :2], x[:, 2:]).z, x[:, :2])


def test_draws_from_the_prior_pass_the_tests_and_others_do_not() -> None:
    model = model_of(3)
    same = against_prior(model, normal(500, 3), n_resamples=199, seed=0)
    assert same.mmd.pvalue > 0.05
    assert same.energy.pvalue > 0.05
    z = 0.6 * normal(500, 3) + 0.4
    off = against_prior(model, z, n_resamples=199, seed=0)
    assert off.mmd.pvalue == off.energy.pvalue == 1 / 200
    # the prior's draws are new ones: their noise is what the two may differ by
    exact = float(mmd2_to_normal(z, kernel="gaussian", bandwidth="dimension"))
    assert off.mmd.statistic == pytest.approx(exact, rel=0.25)
    assert off.energy.statistic == pytest.approx(float(energy_distance_to_normal(z)), rel=0.25)
    assert off.energy.effect_size > 10 * same.energy.effect_size
    assert "null_distribution" not in off.to_dict()["mmd"]


def test_a_learned_prior_is_tested_against() -> None:
    prior = LearnedGaussian(3)
    with torch.no_grad():
        prior.mean += 5
    model = model_of(3, prior)
    assert against_prior(model, normal(200, 3) + 5, n_resamples=99, seed=0).energy.pvalue > 0.05
    assert against_prior(model, normal(200, 3), n_resamples=99, seed=0).energy.pvalue == 0.01
