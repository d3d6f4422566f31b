"""Forward output of a model, and the loss of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from vae.priors import Prior


@dataclass(frozen=True, kw_only=True)
class ForwardOutput:
    """One forward pass of B rows with M latent dimensions; all terms in nats per sample.

    What an encoder does not define is None: a deterministic one has no density, an implicit one
    has neither density nor mean.
    """

    x: Tensor  # [B, …]
    mean: Tensor | None  # [B, M] of q(z|x)
    log_variance: Tensor | None  # [B, M] of q(z|x)
    z: Tensor  # [B, M] drawn from q(z|x)
    prior_sample: Tensor  # [B, M] drawn from p(z)
    decoded: Tensor  # [B, …] mean of p(x|z)
    distortion: Tensor  # [B] −log p(x|z)
    kl: Tensor | None  # [B] KL(q(z|x)‖p(z)), the rate; at the sampled z for a mixture prior
    kl_per_dimension: Tensor | None  # [B, M]; None where the prior does not factorise, too
    prior: Prior = field(repr=False)
    decode: Callable[[Tensor], Tensor] = field(repr=False)  # [B, M] to the mean of p(x|z)


@dataclass(frozen=True)
class Loss:
    """The loss, 0-d in nats per sample, and its parts by name, 0-d: ``divergence`` is D itself,
    before its weight."""

    total: Tensor
    parts: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class VAEOutput(ForwardOutput):
    """One forward pass with its loss."""

    loss: Tensor  # [] the objective, mean over the batch
    parts: Mapping[str, Tensor]  # of the loss, [] each

    @property
    def divergence(self) -> Tensor | None:
        """D(q(z)‖p(z)) of the batch, []; None where it has no weight."""
        return self.parts.get("divergence")

    @property
    def elbo(self) -> Tensor:
        """[B], log p(x|z) − KL(q(z|x)‖p(z)) with the sampled z, whatever was minimised.

        Raises:
            ValueError: the posterior has no density, so that there is no ELBO.
        """
        if self.kl is None:
            raise ValueError("a deterministic or implicit encoder has no density and no ELBO")
        return -self.distortion - self.kl
