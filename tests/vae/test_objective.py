"""The objective against an independent fp64 formula, its weights, its refusals, its slot."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from vae import (
    DIVERGENCES,
    VAE,
    GaussianLikelihood,
    InfoVAE,
    StandardNormal,
    lambda_from_pixel_mean,
    mlp,
)

B, D, M = 7, 5, 3


def build(objective: InfoVAE, variance: float = 0.3) -> VAE:
    torch.manual_seed(0)
    model = VAE(
        mlp(D, 2 * M), mlp(M, D), GaussianLikelihood(variance), objective, StandardNormal(M)
    )
    return model.double()


def data(rows: int = B) -> Tensor:
    return torch.rand(rows, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gaussian_mmd2(z: Tensor, p: Tensor) -> Tensor:
    """U-statistic with exp(−‖z−z'‖²/M), written out."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-(a[:, None] - b[None]).square().sum(-1) / M).exp()

    def off_diagonal_mean(k: Tensor) -> Tensor:
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    return (
        off_diagonal_mean(kernel(z, z)) + off_diagonal_mean(kernel(p, p)) - 2 * kernel(z, p).mean()
    )


def energy_distance(z: Tensor, p: Tensor) -> Tensor:
    def off_diagonal_mean(c: Tensor) -> Tensor:
        return c.sum() / (len(c) * (len(c) - 1))

    return (
        2 * torch.cdist(z, p).mean()
        - off_diagonal_mean(torch.cdist(z, z))
        - off_diagonal_mean(torch.cdist(p, p))
    )


@pytest.mark.parametrize(("alpha", "lambda_"), [(1.0, 32.0), (0.0, 10.0), (0.25, 0.75)])
@pytest.mark.parametrize("name", ["mmd", "energy"])
def test_loss_is_the_formula(alpha: float, lambda_: float, name: str) -> None:
    model = build(InfoVAE(alpha, lambda_, DIVERGENCES[name]))
    x = data()
    output = model(x, generator=torch.Generator().manual_seed(2))

    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(B, M, generator=generator, dtype=torch.float64)
    prior_sample = torch.randn(B, M, generator=generator, dtype=torch.float64)
    encoded = model.encoder(x)
    posterior = Independent(Normal(encoded[:, :M], (encoded[:, M:] / 2).exp()), 1)
    prior = Independent(Normal(torch.zeros(M).double(), torch.ones(M).double()), 1)
    z = posterior.mean + posterior.stddev * noise
    likelihood = Independent(Normal(model.decoder(z), 0.3**0.5), 1)
    distortion = -likelihood.log_prob(x)
    kl = kl_divergence(posterior, prior)
    divergence = {"mmd": gaussian_mmd2, "energy": energy_distance}[name](z, prior_sample)
    loss = (distortion + (1 - alpha) * kl).mean() + (alpha + lambda_ - 1) * divergence

    torch.testing.assert_close(output.z, z)
    torch.testing.assert_close(output.distortion, distortion)
    torch.testing.assert_close(output.kl, kl)
    torch.testing.assert_close(output.elbo, -distortion - kl)
    torch.testing.assert_close(output.loss, loss, rtol=1e-10, atol=1e-10)


def test_exact_normal_mmd_is_the_limit_of_many_prior_samples() -> None:
    z = 0.5 + torch.randn(40, M, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = torch.randn(4000, M, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = DIVERGENCES["mmd-normal"](z, p[:2])
    assert abs(exact - gaussian_mmd2(z, p)) < 5e-3
    assert exact > 0.03


def test_kl_of_known_gaussians() -> None:
    mean = torch.tensor([[0.0, 0.0], [1.0, -2.0]], dtype=torch.float64)
    log_variance = torch.tensor([[0.0, 0.0], [math.log(4.0), 0.0]], dtype=torch.float64)
    kl = StandardNormal(2).kl(mean, log_variance)
    # second row: ½(1 + 4 − 1 − log 4) + ½·4
    torch.testing.assert_close(kl, torch.tensor([0, 4 - 0.5 * math.log(4)], dtype=torch.float64))


def test_terms_are_nats_per_sample() -> None:
    """Every term of a row is a sum over its dimensions, whatever the batch around it."""
    likelihood = GaussianLikelihood(variance=2.0)
    x, decoded = torch.ones(4, 3, 2), torch.zeros(4, 3, 2)
    expected = -6 / (2 * 2.0) - 3 * math.log(2 * math.pi * 2.0)
    torch.testing.assert_close(likelihood.log_prob(x, decoded), torch.full((4,), expected))
    torch.testing.assert_close(likelihood.log_prob(x[:1], decoded[:1]), torch.tensor([expected]))


@pytest.mark.parametrize(
    ("alpha", "lambda_", "beta", "weight"),
    [(0.0, 1.0, 1.0, 0.0), (-3.0, 4.0, 4.0, 0.0), (1.0, 32.0, 0.0, 32.0), (0.5, 10.0, 0.5, 9.5)],
)
def test_effective_weights(alpha: float, lambda_: float, beta: float, weight: float) -> None:
    objective = InfoVAE(alpha, lambda_)
    assert (objective.beta, objective.divergence_weight) == (beta, weight)
    line = build(objective).weights()
    assert f"β = 1−α = {beta:g} " in line
    assert f"α+λ−1 = {weight:g} on mmd" in line
    assert "σ² = 0.3" in line


def test_lambda_conversion_scales_the_original_loss() -> None:
    assert lambda_from_pixel_mean(28 * 28) == 392
    assert lambda_from_pixel_mean(64) == 32
    variance, weight = 0.3, 1.7
    x, decoded = data(), data().flip(0)
    divergence = 0.42
    original = (x - decoded).square().mean() + weight * divergence
    distortion = -GaussianLikelihood(variance).log_prob(x, decoded).mean()
    constant = 0.5 * D * math.log(2 * math.pi * variance)
    ours = distortion - constant + lambda_from_pixel_mean(D, variance, weight) * divergence
    torch.testing.assert_close(ours, original * D / (2 * variance))


def test_plain_vae_does_not_evaluate_the_divergence() -> None:
    def forbidden(z: Tensor, prior_sample: Tensor) -> Tensor:
        raise AssertionError((z, prior_sample))

    output = build(InfoVAE(0, 1, forbidden))(data(1))
    assert output.divergence is None
    torch.testing.assert_close(output.loss, -output.elbo.mean())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradients_reach_encoder_and_decoder(name: str) -> None:
    model = build(InfoVAE(1, 5, DIVERGENCES[name]))
    model(data()).loss.backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0


def test_refuses_to_reward_leaving_the_prior() -> None:
    with pytest.raises(ValueError, match=r"got alpha=0.5, lambda=0.25: take lambda >= 0.5"):
        InfoVAE(0.5, 0.25)


@pytest.mark.parametrize(("alpha", "lambda_"), [(math.nan, 1.0), (0.0, math.inf)])
def test_refuses_non_finite_weights(alpha: float, lambda_: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        InfoVAE(alpha, lambda_)


def test_warns_where_a_large_kl_is_rewarded() -> None:
    with pytest.warns(UserWarning, match=r"alpha = 1.5 > 1 .* rewards a large KL"):
        InfoVAE(1.5, 1)


def test_one_row_has_no_divergence() -> None:
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        build(InfoVAE())(data(1))


def test_a_divergence_by_name_is_refused() -> None:
    with pytest.raises(TypeError, match=r"divergence must be a function .* got 'mmd'"):
        InfoVAE(divergence="mmd")  # type: ignore[arg-type]
