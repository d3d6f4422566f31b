"""A VAE put together from its parts: encoder, decoder, likelihood, objective, prior."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args

import torch
from torch import Generator, Tensor, nn

from divergences.kl import gaussian_log_density
from vae.forward_output import ForwardOutput, VAEOutput
from vae.likelihoods import Likelihood
from vae.networks import GRUDecoder
from vae.objectives.objective import Objective
from vae.priors import Prior

Posterior = Literal["gaussian", "deterministic", "implicit"]


class Code(NamedTuple):
    """q(z|x) of B rows and a draw from it, [B, M] each; None where the encoder defines none."""

    mean: Tensor | None
    log_variance: Tensor | None
    z: Tensor

    def log_density(self, z: Tensor) -> Tensor:
        """log q(z|x) at z [B, M] (or [S, B, M]), in nats: [B] (or [S, B]).

        Raises:
            ValueError: the encoder is deterministic or implicit.
        """
        if self.mean is None or self.log_variance is None:
            raise ValueError("a deterministic or implicit encoder has no density q(z|x)")
        return gaussian_log_density(z, self.mean, self.log_variance).sum(-1)


class VAE(nn.Module):
    """Encoder, decoder, likelihood, objective and prior in one module.

    Args:
        encoder: "gaussian": x [B, …] to [B, 2M], the means and log variances of q(z|x) side by
            side; "deterministic": x to z [B, M]; "implicit": x and noise [B, M] ~ N(0, I) to
            z [B, M].
        decoder: z [B, M] to the parameters of the likelihood, [B, …].
        likelihood: p(x|z).
        objective: what `loss` is.
        prior: p(z), with M dimensions.
        posterior: "gaussian", "deterministic" or "implicit".

    Raises:
        ValueError: an unknown posterior, or an objective that needs what encoder or prior lack.

    Examples:
        >>> import torch
        >>> from vae import VAE, GaussianLikelihood, InfoVAE, StandardNormal, mlp
        >>> likelihood, prior = GaussianLikelihood(variance=0.1), StandardNormal(2)
        >>> model = VAE(mlp(64, 4), mlp(2, 64), likelihood, InfoVAE(alpha=1.0), prior)
        >>> output = model(torch.rand(8, 64))
        >>> output.z.shape, model.sample(3).shape
        (torch.Size([8, 2]), torch.Size([3, 64]))
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        objective: Objective,
        prior: Prior,
        posterior: Posterior = "gaussian",
    ) -> None:
        super().__init__()
        if posterior not in get_args(Posterior):
            raise ValueError(
                f"posterior must be one of {', '.join(get_args(Posterior))}, got {posterior!r}"
            )
        objective.check(posterior, prior)
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.objective = objective
        self.prior = prior
        self.posterior: Posterior = posterior

    # --- Parts ---

    def encode(
        self, x: Tensor, *, noise: Tensor | None = None, generator: Generator | None = None
    ) -> Code:
        """q(z|x) and a draw from it.

        Args:
            x: [B, …].
            noise: [B, M] draws from N(0, I); made from `generator` if None.

        Raises:
            ValueError: the encoder's output has another shape than `posterior` asks for.
        """
        if noise is None:
            noise = self._noise(x, generator)
        if self.posterior == "implicit":
            return Code(None, None, self._checked(self.encoder(x, noise), noise))
        encoded = self._checked(self.encoder(x), noise)
        if self.posterior == "deterministic":
            return Code(encoded, None, encoded)
        mean, log_variance = encoded.chunk(2, dim=1)
        return Code(mean, log_variance, mean + (0.5 * log_variance).exp() * noise)

    def decode(self, z: Tensor) -> Tensor:
        """Mean of p(x|z), of text the most probable bytes: [B, M] to [B, …]."""
        if isinstance(self.decoder, GRUDecoder):
            return self.decoder.generate(z, generator=None, draw=False)
        return self.likelihood.mean(self.decoder(z))

    def sample(
        self, n: int, *, generator: Generator | None = None, pixel_noise: bool = False
    ) -> Tensor:
        """[n, …] forward samples: the mean of p(x|z) at draws from the prior, or with
        ``pixel_noise`` a draw from p(x|z)."""
        like = next(self.decoder.parameters(), torch.empty(0))
        z = self.prior.sample(n, generator=generator, like=like)
        if not pixel_noise:
            return self.decode(z)
        if isinstance(self.decoder, GRUDecoder):
            return self.decoder.generate(z, generator=generator, draw=True)
        return self.likelihood.sample(self.decoder(z), generator=generator)

    # --- A pass ---

    def terms(self, x: Tensor, noise: Tensor, prior_sample: Tensor) -> ForwardOutput:
        """Encode, decode and evaluate every term, from given draws [B, M] of N(0, I) and p(z)."""
        code = self.encode(x, noise=noise)
        parameters = self._decoded(code.z, x)
        kl, kl_per_dimension = self.kl(code)
        return ForwardOutput(
            x=x,
            mean=code.mean,
            log_variance=code.log_variance,
            z=code.z,
            prior_sample=prior_sample,
            decoded=self.likelihood.mean(parameters),
            distortion=-self.likelihood.log_prob(x, parameters),
            kl=kl,
            kl_per_dimension=kl_per_dimension,
            prior=self.prior,
            decode=self.decode,
        )

    def forward(
        self, x: Tensor, *, step: int | None = None, generator: Generator | None = None
    ) -> VAEOutput:
        """Encode, draw z by reparametrisation, decode, and evaluate every term.

        Args:
            x: [B, …] data.
            step: number of steps taken, for the schedules; None is their end.
            generator: source of z and of the prior's draws; None is torch's global one.

        Raises:
            ValueError: shapes that do not fit, or one row where D needs two.
        """
        noise = self._noise(x, generator)
        prior_sample = self.prior.sample(len(x), generator=generator, like=noise)
        terms = self.terms(x, noise, prior_sample)
        loss = self.objective(terms, step)
        return VAEOutput(**vars(terms), loss=loss.total, parts=loss.parts)

    def weights(self) -> str:
        """One line with the effective weights: β, λ, the divergence's weight, σ²."""
        return f"{self.objective.describe()}, {self.likelihood.describe()}; nats per sample"

    def autoencoder_parameters(self) -> list[nn.Parameter]:
        """All but those of the objective's critics."""
        critics = {id(parameter) for parameter in self.objective.parameters()}
        return [p for p in self.parameters() if id(p) not in critics]

    # --- Details ---

    def _decoded(self, z: Tensor, x: Tensor) -> Tensor:
        """Parameters of p(x|z) for the x being explained, which an autoregressive one reads."""
        reads = isinstance(self.decoder, GRUDecoder)
        decoded: Tensor = self.decoder(z, x) if reads else self.decoder(z)
        return decoded

    def _noise(self, x: Tensor, generator: Generator | None) -> Tensor:
        dtype = [*(p.dtype for p in self.encoder.parameters()), x.dtype][0]
        return torch.randn(
            len(x), self.prior.dim, generator=generator, device=x.device, dtype=dtype
        )

    def kl(self, code: Code) -> tuple[Tensor | None, Tensor | None]:
        """KL(q(z|x)‖p(z)) [B] in nats, at the sampled z for a prior that does not factorise, and
        by dimension [B, M]; None where encoder or prior does not define it."""
        if code.mean is None or code.log_variance is None:
            return None, None
        if self.prior.factorises:
            per_dimension = self.prior.kl(code.mean, code.log_variance)
            return per_dimension.sum(1), per_dimension
        return code.log_density(code.z) - self.prior.log_prob(code.z), None

    def _checked(self, encoded: Tensor, noise: Tensor) -> Tensor:
        """In the dtype of the noise: under autocast q(z|x) is that of fp32 codes."""
        gaussian = self.posterior == "gaussian"
        expected = [len(noise), (2 if gaussian else 1) * self.prior.dim]
        if list(encoded.shape) != expected:
            what = (
                "the means and log variances side by side"
                if gaussian
                else f"z under a {self.posterior} posterior"
            )
            raise ValueError(
                f"the encoder must return {what}, {expected}, got {list(encoded.shape)}"
            )
        return encoded.to(noise.dtype)


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Within, a module is in training or evaluation mode; every submodule's own is restored."""
    modes = [(part, part.training) for part in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients."""
    with in_mode(module, training=False), torch.no_grad():
        yield
