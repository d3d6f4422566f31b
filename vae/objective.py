"""The InfoVAE objective and the divergences that fit its slot. Everything in nats per sample."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from divergences.energy import energy_distance
from divergences.mmd import mmd2, mmd2_to_normal

Divergence = Callable[[Tensor, Tensor], Tensor]
"""`divergence(z, prior_sample)`: [B, M] codes and [B, M] draws from the prior to a 0-d tensor."""


def mmd(z: Tensor, prior_sample: Tensor) -> Tensor:
    """Unbiased squared MMD with k(z, z') = exp(−‖z−z'‖²/M), the kernel of the InfoVAE paper's code.

    The U-statistic, since the V-statistic's optimum in a mini-batch is narrower than the prior.
    """
    return mmd2(z, prior_sample, kernel="gaussian", bandwidth="dimension")


def energy(z: Tensor, prior_sample: Tensor) -> Tensor:
    """Unbiased energy distance 2E‖z−p‖ − E‖z−z'‖ − E‖p−p'‖: no bandwidth to choose."""
    return energy_distance(z, prior_sample)


def mmd_normal(z: Tensor, prior_sample: Tensor) -> Tensor:  # noqa: ARG001 (one slot for all)
    """The MMD of `mmd` to N(0, I) itself, in closed form: no noise from prior samples."""
    return mmd2_to_normal(z, kernel="gaussian", bandwidth="dimension")


DIVERGENCES: Mapping[str, Divergence] = MappingProxyType(
    {"mmd": mmd, "energy": energy, "mmd-normal": mmd_normal}
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
    """
    return weight * n_pixels / (2 * variance)


@dataclass(frozen=True)
class InfoVAE:
    """E_q[−log p(x|z)] + (1−α)·KL(q(z|x)‖p(z)) + (α+λ−1)·D(q(z)‖p(z)), minimised.

    Zhao, Song & Ermon 2017 (arXiv:1706.02262), equation 6, with the sign turned. α=0, λ=1 is the
    VAE; α+λ=1 the β-VAE with β=1−α; α=1 the MMD-VAE and the Wasserstein autoencoders. Sums over
    the data and latent dimensions, mean over the batch: λ counts nats per unit of D, and
    `lambda_from_pixel_mean` converts from codes that average over pixels.

    Args:
        alpha: α. Above 1 the objective rewards a large KL, and a warning says so.
        lambda_: λ. The default, 32, is the original MMD-VAE's for 64 pixels at σ² = 1.
        divergence: D, any `divergence(z, prior_sample)`, see `DIVERGENCES`.

    Raises:
        ValueError: α or λ is not finite, or α+λ−1 < 0, which would reward leaving the prior.
    """

    alpha: float = 1.0
    lambda_: float = 32.0
    divergence: Divergence = mmd

    def __post_init__(self) -> None:
        if not callable(self.divergence):
            raise TypeError(
                f"divergence must be a function of (z, prior_sample), such as those in DIVERGENCES "
                f"({', '.join(DIVERGENCES)}); got {self.divergence!r}"
            )
        if not (math.isfinite(self.alpha) and math.isfinite(self.lambda_)):
            raise ValueError(
                f"alpha and lambda must be finite, got alpha={self.alpha}, lambda={self.lambda_}"
            )
        if self.divergence_weight < 0:
            raise ValueError(
                f"alpha + lambda - 1 must be at least 0 (below, the objective rewards leaving the "
                f"prior), got alpha={self.alpha:g}, lambda={self.lambda_:g}: "
                f"take lambda >= {1 - self.alpha:g}"
            )
        if self.alpha > 1:
            warnings.warn(
                f"alpha = {self.alpha:g} > 1 gives the KL a weight of {self.beta:g} < 0: "
                "the objective rewards a large KL",
                stacklevel=3,
            )

    @property
    def beta(self) -> float:
        """1 − α: the weight of KL(q(z|x)‖p(z))."""
        return 1 - self.alpha

    @property
    def divergence_weight(self) -> float:
        """α + λ − 1: the weight of D(q(z)‖p(z))."""
        return self.alpha + self.lambda_ - 1

    def __call__(
        self, distortion: Tensor, kl: Tensor, z: Tensor, prior_sample: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The loss and the value of D.

        Args:
            distortion: −log p(x|z), [B], nats.
            kl: KL(q(z|x)‖p(z)), [B], nats.
            z: codes drawn from q(z|x), [B, M].
            prior_sample: draws from p(z), [B, M].

        Returns:
            The loss (0-d, nats per sample) and D (0-d; None where its weight is 0: not evaluated).

        Raises:
            ValueError: a batch of one row, for which D of a batch is undefined.
        """
        loss = distortion.mean() + self.beta * kl.mean()
        if self.divergence_weight == 0:
            return loss, None
        if len(z) < 2:
            raise ValueError(
                f"a divergence of the batch needs at least 2 rows, got {len(z)}: "
                "drop or merge the short batch"
            )
        divergence = self.divergence(z, prior_sample)
        return loss + self.divergence_weight * divergence, divergence
