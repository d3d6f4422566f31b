"""A VAE put together from its parts: encoder, decoder, likelihood, objective, prior."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from divergences.kl import gaussian_kl
from vae.objective import InfoVAE


def mlp(n_in: int, n_out: int, hidden: int = 300) -> nn.Sequential:
    """Linear(n_in, hidden) → ReLU → Linear(hidden, n_out), the textbook encoder and decoder.

    The encoder of D pixels to M codes is `mlp(D, 2 * M)`, its mirror image `mlp(M, D)`.
    """
    return nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, n_out))


@dataclass(frozen=True)
class StandardNormal:
    """The prior p(z) = N(0, I) on `dim` dimensions."""

    dim: int

    def sample(self, n: int, *, generator: Generator | None = None, like: Tensor) -> Tensor:
        """[n, dim] draws, with the device and dtype of `like`."""
        return torch.randn(n, self.dim, generator=generator, device=like.device, dtype=like.dtype)

    def kl(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """KL(N(mean, diag exp(log_variance))‖N(0, I)): [B, M] and [B, M] to [B], nats.

        ½ Σ (μ² + σ² − 1 − log σ²): Kingma & Welling 2014 (arXiv:1312.6114), appendix B.
        """
        return gaussian_kl(mean, log_variance).sum(1)


class GaussianLikelihood(nn.Module):
    """p(x|z) = N(x; decoder(z), σ²I) with a fixed σ².

    Args:
        variance: σ², in squared units of the data.

    Raises:
        ValueError: σ² is not positive and finite.
    """

    def __init__(self, variance: float = 1.0) -> None:
        super().__init__()
        if not (variance > 0 and math.isfinite(variance)):
            raise ValueError(f"the variance must be positive and finite, got {variance}")
        self.variance = variance

    def log_prob(self, x: Tensor, decoded: Tensor) -> Tensor:
        """log p(x|z) with its normaliser, [B, …] and [B, …] to [B], nats (sum over dimensions).

        Raises:
            ValueError: the shapes differ (broadcasting would hide it).
        """
        if x.shape != decoded.shape:
            raise ValueError(
                f"data and decoder output must have one shape, "
                f"got {list(x.shape)} and {list(decoded.shape)}"
            )
        squared_error = (x - decoded).square().flatten(1)
        normaliser = 0.5 * squared_error.shape[1] * math.log(2 * math.pi * self.variance)
        return -squared_error.sum(1) / (2 * self.variance) - normaliser

    def extra_repr(self) -> str:
        return f"variance={self.variance:g}"


@dataclass(frozen=True)
class VAEOutput:
    """One forward pass. B rows, M latent dimensions; all terms in nats per sample."""

    mean: Tensor  # [B, M] of q(z|x)
    log_variance: Tensor  # [B, M] of q(z|x)
    z: Tensor  # [B, M] drawn from q(z|x)
    decoded: Tensor  # [B, …] mean of p(x|z)
    distortion: Tensor  # [B] −log p(x|z)
    kl: Tensor  # [B] KL(q(z|x)‖p(z)), the rate
    divergence: Tensor | None  # [] D(q(z)‖p(z)) of the batch; None where it has no weight
    loss: Tensor  # [] the objective, mean over the batch

    @property
    def elbo(self) -> Tensor:
        """[B], log p(x|z) − KL(q(z|x)‖p(z)) with the sampled z, whatever was minimised."""
        return -self.distortion - self.kl


class VAE(nn.Module):
    """Encoder, decoder, likelihood, objective and prior in one module.

    Args:
        encoder: x [B, …] to [B, 2M], the means and log variances of q(z|x) side by side.
        decoder: z [B, M] to [B, …], the parameter of the likelihood.
        likelihood: p(x|z).
        objective: what `loss` is.
        prior: p(z).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: GaussianLikelihood,
        objective: InfoVAE,
        prior: StandardNormal,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.objective = objective
        self.prior = prior

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), [B, M] each.

        Raises:
            ValueError: the encoder's output is not [B, 2M].
        """
        encoded: Tensor = self.encoder(x)
        expected = [len(x), 2 * self.prior.dim]
        if list(encoded.shape) != expected:
            raise ValueError(
                f"the encoder must return the means and log variances side by side, "
                f"{expected}, got {list(encoded.shape)}"
            )
        mean, log_variance = encoded.chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """Mean of p(x|z): [B, M] to [B, …]."""
        decoded: Tensor = self.decoder(z)
        return decoded

    def forward(self, x: Tensor, *, generator: Generator | None = None) -> VAEOutput:
        """Encode, draw z by reparametrisation, decode, and evaluate every term.

        Args:
            x: [B, …] data.
            generator: source of all draws; None is torch's global one.

        Raises:
            ValueError: shapes that do not fit, or one row where D needs two.
        """
        mean, log_variance = self.encode(x)
        noise = self.prior.sample(len(x), generator=generator, like=mean)
        z = mean + (0.5 * log_variance).exp() * noise
        decoded = self.decode(z)
        distortion = -self.likelihood.log_prob(x, decoded)
        kl = self.prior.kl(mean, log_variance)
        prior_sample = self.prior.sample(len(x), generator=generator, like=mean)
        loss, divergence = self.objective(distortion, kl, z, prior_sample)
        return VAEOutput(mean, log_variance, z, decoded, distortion, kl, divergence, loss)

    def sample(self, n: int, *, generator: Generator | None = None) -> Tensor:
        """[n, …] forward samples: the decoder's mean at draws from the prior, no pixel noise."""
        like = next(self.decoder.parameters())
        return self.decode(self.prior.sample(n, generator=generator, like=like))

    def weights(self) -> str:
        """One line with the effective weights: β, λ, the divergence's weight, σ²."""
        objective = self.objective
        name = getattr(objective.divergence, "__name__", repr(objective.divergence))
        return (
            f"β = 1−α = {objective.beta:g} on KL, λ = {objective.lambda_:g} "
            f"(α+λ−1 = {objective.divergence_weight:g} on {name}), "
            f"σ² = {self.likelihood.variance:g}; nats per sample"
        )
