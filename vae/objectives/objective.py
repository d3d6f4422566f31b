"""The objective of the family: distortion + rate + weight · divergence, in nats per sample."""

import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vae.forward_output import ForwardOutput, Loss
from vae.objectives.critics import AdversarialDivergence, DataCritic
from vae.objectives.divergences import DIVERGENCES, TO_STANDARD_NORMAL, Divergence, mmd, name_of
from vae.objectives.rates import LAST, Rate, TotalCorrelation, WeightedKL
from vae.priors import Prior, StandardNormal


class Objective(nn.Module):
    """E_q[−log p(x|z)] + rate + weight·D(q(z)‖p(z)) (+ data critic), minimised.

    Its parameters, where it has any, are those of critics: they follow ``critic_loss``, never the
    loss, whose gradient they do not get.

    Args:
        rate: the KL regulariser.
        divergence: D, any ``divergence(z, prior_sample)``, see ``DIVERGENCES``; None for none.
        weight: of D, at least 0.
        data_critic: of reconstructions and samples (α-GAN); None for none.

    Raises:
        TypeError: a divergence that cannot be called, or with parameters but no critic_loss.
        ValueError: a weight that is negative or not finite.

    Examples:
        >>> from vae import DIVERGENCES, Objective, WeightedKL
        >>> objective = Objective(WeightedKL(0.5), DIVERGENCES["energy"], weight=10.0)
        >>> print(objective.describe())
        β = 1−α = 0.5 on KL, 10 on energy
    """

    def __init__(
        self,
        rate: Rate,
        divergence: Divergence | None = None,
        weight: float = 1.0,
        data_critic: DataCritic | None = None,
    ) -> None:
        super().__init__()
        if divergence is not None and not callable(divergence):
            raise TypeError(
                f"divergence must be a function of (z, prior_sample), such as those in DIVERGENCES "
                f"({', '.join(DIVERGENCES)}); got {divergence!r}"
            )
        learned = isinstance(divergence, nn.Module) and any(True for _ in divergence.parameters())
        if learned and not isinstance(divergence, AdversarialDivergence):
            raise TypeError(
                f"{type(divergence).__name__} has parameters, which would follow no loss: derive "
                "it from AdversarialDivergence, with a critic_loss"
            )
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"the weight of D must be finite and at least 0, got {weight}")
        self.rate = rate
        self.divergence = divergence
        self.divergence_weight = weight if divergence is not None else 0.0
        self.data_critic = data_critic

    # --- Evaluation ---

    def check(self, posterior: str, prior: Prior) -> None:
        """Raises ValueError where encoder or prior lack what a part needs."""
        if self.rate.needs_density and posterior != "gaussian":
            raise ValueError(
                f"{self.rate.describe()} needs the density of q(z|x), which a {posterior} encoder "
                "does not have: take a Gaussian one, β = 0 or AdversarialKL"
            )
        if isinstance(self.rate, TotalCorrelation) and not prior.factorises:
            raise ValueError(
                f"the total correlation needs a prior that is a product over dimensions, got "
                f"{prior}: take StandardNormal or LearnedGaussian"
            )
        exact = any(self.divergence is known for known in TO_STANDARD_NORMAL)
        if exact and self.divergence_weight > 0 and not isinstance(prior, StandardNormal):
            raise ValueError(
                f"{self.divergence_name} measures the distance to N(0, I), but the prior is "
                f"{prior}: take 'mmd' or 'energy'"
            )

    @property
    def nonlinear(self) -> bool:
        """It is not a mean over rows: processes must see the whole batch. Critics look at rows."""
        of_batch = not isinstance(self.divergence, AdversarialDivergence)
        return not self.rate.linear or (self.divergence_weight > 0 and of_batch)

    @property
    def matches_prior(self) -> bool:
        """Some part is there to bring codes to the prior; a plain autoencoder has none."""
        plain = isinstance(self.rate, WeightedKL) and not self.rate.needs_density
        return self.divergence is not None or not plain

    @property
    def adversarial(self) -> bool:
        """There are critics, which need steps of their own."""
        return any(True for _ in self.parameters())

    def forward(self, terms: ForwardOutput, step: int | None = None) -> Loss:
        """The loss and its parts.

        Args:
            terms: of the whole batch.
            step: number of steps taken, for schedules; None is the end of them all, of which
                there is a warning where a schedule is in training.

        Raises:
            ValueError: a batch of one row, for which D of a batch is undefined.
        """
        if step is None and self.training and self.rate.schedule.length > 0:
            warnings.warn(
                f"the schedule {self.rate.schedule} stands at its end: give the number of steps "
                "taken, model(x, step=…), or call eval() if that is meant",
                stacklevel=3,
            )
        rate = self.rate(terms, LAST if step is None else step)
        distortion = terms.distortion.mean()
        total = distortion + rate.total
        parts = {"distortion": distortion}
        if terms.kl is not None:
            parts["kl"] = terms.kl.mean()
        parts.update(rate.parts)
        if self.divergence is not None and self.divergence_weight > 0:
            if len(terms.z) < 2:
                raise ValueError(
                    f"a divergence of the batch needs at least 2 rows, got {len(terms.z)}: "
                    "drop or merge the short batch"
                )
            value = self.divergence(terms.z, terms.prior_sample)
            if value.dim() != 0:
                raise ValueError(
                    f"a divergence must return one number for the batch, a 0-d tensor; "
                    f"{self.divergence_name} returned {list(value.shape)}"
                )
            parts["divergence"] = value
            total = total + self.divergence_weight * parts["divergence"]
        if self.data_critic is not None:
            parts["data_critic"] = self.data_critic(terms)
            total = total + parts["data_critic"]
        return Loss(total, parts)

    def critic_loss(self, terms: ForwardOutput) -> Tensor:
        """The sum of the critics' losses, 0-d; no gradient reaches the autoencoder.

        Raises:
            ValueError: there are no critics.
        """
        losses = list(self._critic_losses(terms))
        if not losses:
            raise ValueError("this objective has no critics")
        return torch.stack(losses).sum()

    def _critic_losses(self, terms: ForwardOutput) -> Iterator[Tensor]:
        of_rate = self.rate.critic_loss(terms)
        if of_rate is not None:
            yield of_rate
        if isinstance(self.divergence, AdversarialDivergence):
            yield self.divergence.critic_loss(terms.z, terms.prior_sample)
        if self.data_critic is not None:
            yield self.data_critic.critic_loss(terms)

    def after_critic_step(self) -> None:
        """Clips the critics' weights again, where a constraint asks for it."""
        if isinstance(self.divergence, AdversarialDivergence):
            self.divergence.after_step()

    # --- Description ---

    @property
    def divergence_name(self) -> str:
        return "no divergence" if self.divergence is None else name_of(self.divergence)

    def describe(self) -> str:
        """The effective weights, nats per sample."""
        parts = [self.rate.describe()]
        if self.divergence_weight > 0:
            parts.append(f"{self.divergence_weight:g} on {self.divergence_name}")
        if self.data_critic is not None:
            parts.append("1 on the data critic")
        return ", ".join(parts)


class InfoVAE(Objective):
    """E_q[−log p(x|z)] + (1−α)·KL(q(z|x)‖p(z)) + (α+λ−1)·D(q(z)‖p(z)), minimised.

    Zhao, Song & Ermon 2017 (arXiv:1706.02262), equation 6, with the sign turned. α=0, λ=1 is the
    VAE; α+λ=1 the β-VAE with β=1−α; α=1 the MMD-VAE and the Wasserstein autoencoders. Sums over
    the data and latent dimensions, mean over the batch: λ counts nats per unit of D, and
    `lambda_from_pixel_mean` converts from codes that average over pixels.

    Args:
        alpha: α. Above 1 the objective rewards a large KL, and a warning says so.
        lambda_: λ. The default, 32, is the original MMD-VAE's for 64 pixels at σ² = 1.
        divergence: D, any ``divergence(z, prior_sample)``, see ``DIVERGENCES``.

    Raises:
        ValueError: α or λ is not finite, or α+λ−1 < 0, which would reward leaving the prior.

    Examples:
        >>> from vae import DIVERGENCES, InfoVAE
        >>> print(InfoVAE(alpha=1.0, lambda_=392.0).describe())
        β = 1−α = 0 on KL, λ = 392 (α+λ−1 = 392 on mmd)
        >>> print(InfoVAE(alpha=0.0, lambda_=100.0, divergence=DIVERGENCES["energy"]).describe())
        β = 1−α = 1 on KL, λ = 100 (α+λ−1 = 99 on energy)
    """

    def __init__(
        self, alpha: float = 1.0, lambda_: float = 32.0, divergence: Divergence = mmd
    ) -> None:
        if not (math.isfinite(alpha) and math.isfinite(lambda_)):
            raise ValueError(
                f"alpha and lambda must be finite, got alpha={alpha}, lambda={lambda_}"
            )
        weight = alpha + lambda_ - 1
        if weight < 0:
            raise ValueError(
                f"alpha + lambda - 1 must be at least 0 (below, the objective rewards leaving the "
                f"prior), got alpha={alpha:g}, lambda={lambda_:g}: take lambda >= {1 - alpha:g}"
            )
        super().__init__(WeightedKL(1 - alpha), divergence, weight)
        self.alpha, self.lambda_ = alpha, lambda_

    @property
    def beta(self) -> float:
        """1 − α: the weight of KL(q(z|x)‖p(z))."""
        return 1 - self.alpha

    def describe(self) -> str:
        return (
            f"{self.rate.describe()}, λ = {self.lambda_:g} "
            f"(α+λ−1 = {self.divergence_weight:g} on {self.divergence_name})"
        )


def lambda_from_pixel_mean(n_pixels: int, variance: float = 1.0, weight: float = 1.0) -> float:
    """λ in nats that equals `weight` · D beside a *pixel-mean* squared error (at α = 1).

    −log N(x; x̂, σ²I) = Σ(x−x̂)²/2σ² + constant, so (1/D)Σ(x−x̂)² + weight·D is that objective
    scaled by 2σ²/D, and λ = weight·D/2σ². The original MMD-VAE, pixel-mean squared error + 1·MMD
    (Zhao, Song & Ermon 2017, arXiv:1706.02262, the authors' code), is λ = 392 for 28×28 pixels and
    32 for the 8×8 digits, both at σ² = 1.

    Args:
        n_pixels: data dimension D.
        variance: σ² of the Gaussian likelihood.
        weight: the divergence's weight beside the pixel mean.

    Examples:
        >>> from vae import lambda_from_pixel_mean
        >>> lambda_from_pixel_mean(28 * 28), lambda_from_pixel_mean(64, variance=0.1)
        (392.0, 320.0)
    """
    return weight * n_pixels / (2 * variance)
