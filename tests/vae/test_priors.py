"""Priors against torch.distributions and quadrature in fp64; their draws and gradients."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

from vae import (
    VAE,
    GaussianLikelihood,
    InfoVAE,
    LearnedGaussian,
    LearnedMixture,
    Objective,
    Prior,
    StandardNormal,
    WeightedKL,
    mlp,
)

M, K = 3, 4


def make(name: str) -> Prior:
    """With parameters away from their start."""
    torch.manual_seed(0)
    prior = {
        "standard": lambda: StandardNormal(M),
        "gaussian": lambda: LearnedGaussian(M),
        "mixture": lambda: LearnedMixture(M, K),
    }[name]().double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return prior


def reference(prior: Prior) -> Distribution:
    if isinstance(prior, LearnedMixture):
        components = Independent(Normal(prior.means, (0.5 * prior.log_variances).exp()), 1)
        return MixtureSameFamily(Categorical(logits=prior.logits), components)
    if isinstance(prior, LearnedGaussian):
        return Independent(Normal(prior.mean, (0.5 * prior.log_variance).exp()), 1)
    return Independent(Normal(torch.zeros(M).double(), torch.ones(M).double()), 1)


def normal(*size: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", ["standard", "gaussian", "mixture"])
def test_log_density_is_that_of_torch(name: str) -> None:
    prior, z = make(name), 2 * normal(9, M)
    torch.testing.assert_close(prior.log_prob(z), reference(prior).log_prob(z))
    if prior.factorises:
        torch.testing.assert_close(prior.log_density(z).sum(1), prior.log_prob(z))


@pytest.mark.parametrize("name", ["standard", "gaussian"])
def test_kl_per_dimension_is_that_of_torch(name: str) -> None:
    prior, mean, log_variance = make(name), normal(9, M), normal(9, M, seed=2)
    base = reference(prior).base_dist
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), base)
    torch.testing.assert_close(prior.kl(mean, log_variance), expected)


@pytest.mark.parametrize("name", ["standard", "gaussian", "mixture"])
def test_draws_have_the_moments_and_dtype_asked_for(name: str) -> None:
    n = 20_000
    prior = make(name)
    generator = torch.Generator().manual_seed(4)
    z = prior.sample(n, generator=generator, like=torch.zeros(1, dtype=torch.float64)).detach()
    assert z.shape == (n, M)
    assert z.dtype == torch.float64
    truth = reference(prior)
    variance = truth.variance.detach()
    assert ((z.mean(0) - truth.mean).abs() < 4.5 * (variance / n).sqrt()).all()
    fourth = (z - z.mean(0)).pow(4).mean(0)
    assert ((z.var(0) - variance).abs() < 4.5 * ((fourth - variance**2) / n).sqrt()).all()
    if name == "standard":
        assert prior.sample(2, like=torch.zeros(1)).dtype == torch.float32


def test_draws_carry_gradients_to_means_and_scales() -> None:
    """d/dm E f(z) and d/ds E f(z) of f = z² by reparametrisation: 2m and 2s·s' in expectation."""
    prior = LearnedGaussian(1).double()
    with torch.no_grad():
        prior.mean.fill_(0.7)
        prior.log_variance.fill_(math.log(0.25))
    like = torch.zeros(1, dtype=torch.float64)
    z = prior.sample(200_000, generator=torch.Generator().manual_seed(0), like=like)
    z.square().mean().backward()
    assert abs(float(prior.mean.grad) - 1.4) < 0.01
    assert abs(float(prior.log_variance.grad) - 0.25) < 0.01  # d(m² + eʳ)/dr = eʳ


def test_draws_of_a_mixture_leave_its_weights_alone() -> None:
    prior = make("mixture")
    prior.sample(50, like=torch.zeros(1, dtype=torch.float64)).square().sum().backward()
    assert prior.means.grad.abs().sum() > 0
    assert prior.log_variances.grad.abs().sum() > 0
    assert prior.logits.grad is None


def test_draws_of_a_mixture_follow_its_weights() -> None:
    prior = LearnedMixture(1, 3).double()
    weights = torch.tensor([0.1, 0.3, 0.6]).double()
    with torch.no_grad():
        prior.means.copy_(torch.tensor([[-10.0], [0.0], [10.0]]))
        prior.logits.copy_(weights.log() + 5)  # a constant changes nothing
    n = 10_000
    z = prior.sample(n, generator=torch.Generator().manual_seed(0), like=torch.zeros(1))
    z = z.detach()
    shares = torch.stack([(z < -5).double().mean(), (z.abs() < 5).double().mean()])
    assert ((shares - weights[:2]).abs() < 4.5 * (weights[:2] * (1 - weights[:2]) / n).sqrt()).all()


def test_the_kl_to_a_mixture_is_unbiased() -> None:
    """One draw per row of one code, averaged, against quadrature on the line."""
    prior = LearnedMixture(1, 3).double()
    with torch.no_grad():
        prior.means.copy_(torch.tensor([[-2.0], [0.5], [3.0]]))
        prior.log_variances.copy_(torch.tensor([[0.0], [-1.0], [0.5]]))
        prior.logits.copy_(torch.tensor([0.3, -0.4, 0.1]))
    mean, log_variance = 0.4, math.log(0.6)
    n = 40_000
    encoder = torch.nn.Linear(1, 2).double()
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias.copy_(torch.tensor([mean, log_variance]))
    model = VAE(
        encoder, mlp(1, 1).double(), GaussianLikelihood(), Objective(WeightedKL()), prior
    )  # fmt: skip
    output = model(
        torch.zeros(n, 1, dtype=torch.float64), generator=torch.Generator().manual_seed(0)
    )
    kl = output.kl.detach()
    assert output.kl_per_dimension is None

    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    q = Normal(torch.tensor(mean).double(), math.exp(0.5 * log_variance))
    components = Normal(prior.means[:, 0], (0.5 * prior.log_variances[:, 0]).exp())
    p = MixtureSameFamily(Categorical(logits=prior.logits), components)
    density = q.log_prob(grid).exp()
    exact = torch.trapezoid(density * (q.log_prob(grid) - p.log_prob(grid)), grid)
    assert abs(torch.trapezoid(density, grid) - 1) < 1e-10
    assert exact > 0.1
    assert abs(kl.mean() - exact) < 4.5 * kl.std() / math.sqrt(n)


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
@pytest.mark.parametrize("objective", ["vae", "mmd"])
def test_the_loss_teaches_the_prior(name: str, objective: str) -> None:
    """Through the KL, and where that has no weight through D; the mixture's weights by KL alone."""
    torch.manual_seed(0)
    made = Objective(WeightedKL()) if objective == "vae" else InfoVAE()
    model = VAE(mlp(5, 2 * M).double(), mlp(M, 5).double(), GaussianLikelihood(), made, make(name))
    model(normal(8, 5)).loss.backward()
    for parameter_name, parameter in model.prior.named_parameters():
        if parameter_name == "logits" and objective == "mmd":
            assert parameter.grad is None
        else:
            assert parameter.grad.isfinite().all()
            assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("prior", [StandardNormal, LearnedGaussian, LearnedMixture])
def test_a_prior_needs_a_dimension(prior: type[Prior]) -> None:
    with pytest.raises(ValueError, match="at least one dimension, got 0"):
        prior(0)


def test_a_mixture_needs_a_component() -> None:
    with pytest.raises(ValueError, match="at least one component, got 0"):
        LearnedMixture(2, 0)


def test_a_learned_gaussian_starts_at_the_standard_normal() -> None:
    mean, log_variance = normal(4, M), normal(4, M, seed=2)
    ours, standard = LearnedGaussian(M).double(), StandardNormal(M)
    torch.testing.assert_close(ours.kl(mean, log_variance), standard.kl(mean, log_variance))
