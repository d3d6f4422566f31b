"""A linear VAE with a learned σ reaches probabilistic PCA: at its optimum the ELBO is tight (Lucas,
Tucker, Grosse & Norouzi 2019, "Don't Blame the ELBO!", arXiv:1911.02469)."""

import torch
from finding import Finding
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from training import one_thread, trained

from vae import VAE, GaussianLikelihood, Objective, StandardNormal, WeightedKL

K = 5
STEPS = 6000


def linear_vae(progress: bool = True, steps: int = STEPS, tolerance: float = 0.03) -> list[Finding]:
    """The 8×8 digits / 16, k = 5, ELBO in closed form against scikit-learn's ``PCA.score``."""
    pixels = load_digits().data / 16
    pca = PCA(K).fit(pixels)
    with one_thread():
        model = build(pixels.shape[1])
        x = torch.as_tensor(pixels, dtype=torch.float32)
        trained(model, x, steps=steps, batch_size=599, learning_rate=0.02, progress=progress)
    double = model.double()
    rows = torch.as_tensor(pixels)
    best = float(pca.score(pixels))
    source = "scikit-learn, PCA(5).score"
    return [
        Finding("ELBO, nats per digit", float(elbo(double, rows).mean()), best, tolerance, source),
        Finding(
            "marginal likelihood, nats per digit",
            float(log_likelihood(double, rows).mean()),
            best,
            tolerance,
            source,
        ),
        Finding(
            "σ²",
            noise_variance(double),
            float(pca.noise_variance_),
            0.05 * float(pca.noise_variance_),
            "mean of the other eigenvalues",
        ),
    ]


def build(n_pixels: int) -> VAE:
    """One linear layer each way."""
    return VAE(
        nn.Linear(n_pixels, 2 * K),
        nn.Linear(K, n_pixels),
        GaussianLikelihood(0.1, learned=True),
        Objective(WeightedKL()),
        StandardNormal(K),
    )


@torch.no_grad()
def elbo(model: VAE, x: Tensor) -> Tensor:
    """[B] in nats, without sampling: E‖x − Wz − b‖² = ‖x − Wμ − b‖² + Σ_j σ_j²‖w_j‖²."""
    code = model.encode(x)
    assert code.mean is not None and code.log_variance is not None
    weight, _ = _decoder(model)
    spread: Tensor = code.log_variance.exp() @ weight.square().sum(0)
    at_the_mean = model.likelihood.log_prob(x, model.decoder(code.mean))
    rate = model.prior.kl(code.mean, code.log_variance).sum(1)
    return at_the_mean - spread / (2 * noise_variance(model)) - rate


@torch.no_grad()
def log_likelihood(model: VAE, x: Tensor) -> Tensor:
    """log N(x; b, WWᵀ + σ²I), [B] in nats."""
    weight, bias = _decoder(model)
    covariance = weight @ weight.mT + noise_variance(model) * torch.eye(len(weight), dtype=x.dtype)
    return MultivariateNormal(bias, covariance).log_prob(x)  # type: ignore[no-untyped-call,no-any-return]


def noise_variance(model: VAE) -> float:
    """σ²."""
    assert isinstance(model.likelihood, GaussianLikelihood)
    return model.likelihood.variance


def _decoder(model: VAE) -> tuple[Tensor, Tensor]:
    """W [D, K] and b [D]."""
    assert isinstance(model.decoder, nn.Linear)
    return model.decoder.weight, model.decoder.bias
