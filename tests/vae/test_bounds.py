"""ELBO and IWAE bound against a linear Gaussian model whose log p(x) is known in closed form."""

import math

import pytest
import torch
from torch import Tensor, nn

from vae import VAE, GaussianLikelihood, ImplicitEncoder, InfoVAE, LearnedMixture, StandardNormal
from vae.evaluation import elbo, importance_weighted_bound
from vae.evaluation.passes import encode
from vae.likelihoods import BernoulliLikelihood
from vae.model import evaluating

D, M, VARIANCE = 6, 2, 0.3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class LinearGaussian:
    """z ~ N(0, I), x = Wz + b + σε with orthogonal columns of W: the posterior is diagonal."""

    def __init__(self) -> None:
        q = torch.linalg.qr(torch.randn(D, M, generator=seeded(), dtype=torch.float64))[0]
        self.weight = q * torch.tensor([2.0, 0.7], dtype=torch.float64)
        self.bias = torch.randn(D, generator=seeded(1), dtype=torch.float64)
        self.posterior_variance = 1 / (1 + self.weight.square().sum(0) / VARIANCE)  # [M]

    def log_density(self, x: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + VARIANCE * torch.eye(D, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(self.bias, covariance).log_prob(x)

    def sample(self, n: int) -> Tensor:
        z = torch.randn(n, M, generator=seeded(2), dtype=torch.float64)
        noise = torch.randn(n, D, generator=seeded(3), dtype=torch.float64)
        return z @ self.weight.T + self.bias + VARIANCE**0.5 * noise

    def vae(self, *, wider: float = 1.0, shift: float = 0.0) -> VAE:
        """The model with its true posterior, the standard deviation times `wider` and the mean
        moved by `shift`."""
        encoder, decoder = nn.Linear(D, 2 * M).double(), nn.Linear(M, D).double()
        gain = self.posterior_variance.unsqueeze(1) * self.weight.T / VARIANCE  # [M, D]
        with torch.no_grad():
            encoder.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
            log_variance = (self.posterior_variance * wider**2).log()
            encoder.bias.copy_(torch.cat([shift - gain @ self.bias, log_variance]))
            decoder.weight.copy_(self.weight)
            decoder.bias.copy_(self.bias)
        likelihood = GaussianLikelihood(VARIANCE)
        return VAE(encoder, decoder, likelihood, InfoVAE(0, 1), StandardNormal(M))

    def gap(self, *, wider: float, shift: float) -> float:
        """KL(q(z|x)‖p(z|x)) of that encoder, the same for every x."""
        variance = self.posterior_variance
        terms = wider**2 - 1 - 2 * math.log(wider) + shift**2 / variance
        return float(0.5 * terms.sum())


TRUE = LinearGaussian()


@pytest.mark.parametrize("k", [1, 7, 64])
def test_at_the_true_posterior_the_bound_is_exact_and_every_draw_counts(k: int) -> None:
    """p(x, z)/q(z|x) = p(x) whatever z."""
    x = TRUE.sample(20)
    bound, ess = importance_weighted_bound(TRUE.vae(), x, k=k, generator=seeded(), chunk=10)
    torch.testing.assert_close(bound, TRUE.log_density(x), atol=1e-10, rtol=0)
    torch.testing.assert_close(ess, torch.full((20,), float(k), dtype=torch.float64))


def test_mean_elbo_is_log_density_minus_the_gap() -> None:
    x = TRUE.sample(1).expand(40_000, D)
    wrong = {"wider": 1.4, "shift": 0.3}
    for options in ({"wider": 1.0, "shift": 0.0}, wrong):
        found = elbo(TRUE.vae(**options), x, generator=seeded())
        expected = float(TRUE.log_density(x[:1])) - TRUE.gap(**options)
        error = float(found.std()) / math.sqrt(len(found))
        assert abs(float(found.mean()) - expected) < 4 * error
        assert error < 0.02
    assert TRUE.gap(**wrong) > 0.5  # the two are told apart


def test_the_posterior_mean_would_promise_more() -> None:
    """The ELBO is that of drawn z: at the mean the distortion is smaller."""
    x = TRUE.sample(2000)
    model = TRUE.vae()
    with torch.no_grad():
        code = model.encode(x)
        decoded = model.decode(code.mean)
        at_mean = -(x - decoded).square().sum(1) / (2 * VARIANCE)
    at_mean = at_mean - 0.5 * D * math.log(2 * math.pi * VARIANCE)
    promised = at_mean - model.prior.kl(code.mean, code.log_variance).sum(1)
    gain = float((promised - elbo(model, x, generator=seeded())).mean())
    # E‖W(z − μ)‖²/2σ² = ½ Σ_j ‖w_j‖² s_j²/σ²
    weights = TRUE.weight.square().sum(0)
    assert gain == pytest.approx(
        float((weights * TRUE.posterior_variance).sum() / (2 * VARIANCE)), abs=0.06
    )


def test_bound_lies_between_elbo_and_log_density() -> None:
    x = TRUE.sample(400)
    model = TRUE.vae(wider=1.5, shift=0.4)
    exact = float(TRUE.log_density(x).mean())
    bounds = [
        float(importance_weighted_bound(model, x, k=k, generator=seeded()).bound.mean())
        for k in (1, 8, 64, 512)
    ]
    assert bounds == sorted(bounds)
    assert exact - 0.02 < bounds[-1] < exact + 0.02
    assert bounds[0] < exact - 0.5
    ess = importance_weighted_bound(model, x, k=512, generator=seeded()).ess
    assert float(ess.min()) >= 1
    assert float(ess.mean()) < 400


def test_chunks_are_summed_as_a_whole() -> None:
    """Against the formula on all draws at once."""
    x, k = TRUE.sample(5), 12
    model = TRUE.vae(wider=1.5)
    found = importance_weighted_bound(model, x, k=k, generator=seeded(), chunk=5)
    generator = seeded()
    torch.randn(5, M, generator=generator, dtype=torch.float64)  # of the first encoding
    draws = [
        torch.randn(size, 5, M, generator=generator, dtype=torch.float64) for size in (5, 5, 2)
    ]
    with torch.no_grad():
        code = model.encode(x)
        scale = (0.5 * code.log_variance).exp()
        z = code.mean + scale * torch.cat(draws)
        normal = torch.distributions.Normal
        log_w = (
            normal(model.decoder(z), VARIANCE**0.5).log_prob(x).sum(-1)
            + normal(0.0, 1.0).log_prob(z).sum(-1)
            - normal(code.mean, scale).log_prob(z).sum(-1)
        )
    weights = log_w.exp()
    torch.testing.assert_close(found.bound, weights.mean(0).log(), atol=1e-10, rtol=0)
    torch.testing.assert_close(
        found.ess, weights.sum(0).square() / weights.square().sum(0), atol=0, rtol=1e-9
    )


def test_single_precision_is_summed_in_double() -> None:
    x = TRUE.sample(30)
    bound, _ = importance_weighted_bound(TRUE.vae().float(), x, k=32, generator=seeded())
    assert bound.dtype == torch.float64
    torch.testing.assert_close(bound, TRUE.log_density(x), atol=2e-5, rtol=0)


def test_mixture_prior() -> None:
    """One component N(0, I) is the standard normal; the KL is then that at the sampled z."""
    mixture = LearnedMixture(M, components=1).double()
    with torch.no_grad():
        mixture.means.zero_()
        mixture.log_variances.zero_()
    model, x = TRUE.vae(), TRUE.sample(10)
    model.prior = mixture
    for found in (
        importance_weighted_bound(model, x, k=3, generator=seeded()).bound,
        elbo(model, x, generator=seeded()),
    ):
        torch.testing.assert_close(found, TRUE.log_density(x), atol=1e-10, rtol=0)


def test_discrete_data() -> None:
    """A Bernoulli decoder that ignores z: the bound is log p(x) itself, and K draws all count."""
    decoder = nn.Linear(M, D)
    with torch.no_grad():
        decoder.weight.zero_()
    encoder = nn.Linear(D, 2 * M)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias.zero_()
    model = VAE(encoder, decoder, BernoulliLikelihood(), InfoVAE(0, 1), StandardNormal(M))
    x = torch.bernoulli(torch.full((9, D), 0.4), generator=seeded())
    expected = torch.distributions.Bernoulli(logits=decoder.bias.double()).log_prob(x.double())
    bound, ess = importance_weighted_bound(model, x, k=5, generator=seeded())
    torch.testing.assert_close(bound, expected.detach().sum(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(ess, torch.full((9,), 5.0, dtype=torch.float64))


def test_draws_come_from_the_generator_alone() -> None:
    x, model = TRUE.sample(8), TRUE.vae(wider=2.0)

    def bound(seed: int) -> Tensor:
        return importance_weighted_bound(model, x, k=4, generator=seeded(seed)).bound

    state = torch.get_rng_state()
    assert torch.equal(bound(5), bound(5))
    assert not torch.equal(bound(5), bound(0))
    assert torch.equal(state, torch.get_rng_state())


def test_evaluation_mode_is_temporary() -> None:
    model = TRUE.vae()
    model.encoder = nn.Sequential(nn.Dropout(0.9), model.encoder)
    model.decoder.eval()
    x = TRUE.sample(50)
    torch.testing.assert_close(
        importance_weighted_bound(model, x, k=1, generator=seeded()).bound, TRUE.log_density(x)
    )
    assert model.encoder.training and model.encoder[0].training and not model.decoder.training
    try:
        with evaluating(model):
            assert not model.encoder.training
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert model.encoder.training


@pytest.mark.parametrize("posterior", ["deterministic", "implicit"])
def test_encoders_without_a_density_have_no_bounds(posterior: str) -> None:
    encoder = nn.Linear(D, M) if posterior == "deterministic" else ImplicitEncoder(D, M)
    model = VAE(
        encoder, nn.Linear(M, D), GaussianLikelihood(), InfoVAE(), StandardNormal(M), posterior
    )
    x = torch.rand(4, D)
    with pytest.raises(ValueError, match=f"a {posterior} encoder has no density, and no ELBO"):
        elbo(model, x)
    with pytest.raises(ValueError, match=f"a {posterior} encoder has no density"):
        importance_weighted_bound(model, x, k=2)


def test_refusals() -> None:
    model, x = TRUE.vae(), TRUE.sample(3)
    with pytest.raises(ValueError, match="got k=0, chunk=50"):
        importance_weighted_bound(model, x, k=0)
    with pytest.raises(ValueError, match="at least one row"):
        encode(model, x[:0])
    x[1, 0] = math.nan
    with pytest.raises(ValueError, match="1 of 3 rows are not finite: the training diverged"):
        elbo(model, x)
