"""KL regularisers of q(z|x), the rate of an objective, in nats per sample."""

import math
import warnings

from torch import Tensor, nn

from divergences.kl import gaussian_log_density
from divergences.kl_decomposition import MinibatchEstimator, decompose_kl_minibatch
from vae.forward_output import ForwardOutput, Loss
from vae.objectives.schedules import Constant, Schedule

LAST = 2**62  # a step at which every schedule has finished


class Rate(nn.Module):
    """The part of an objective that looks at single codes.

    ``needs_density``: it is undefined for deterministic and implicit encoders.
    ``linear``: it is a mean over the rows of the batch.
    ``schedule``: what changes with the step.
    """

    needs_density = True
    linear = True
    schedule: Schedule = Constant(1.0)

    def forward(self, terms: ForwardOutput, step: int) -> Loss:
        raise NotImplementedError

    def critic_loss(self, terms: ForwardOutput) -> Tensor | None:  # noqa: ARG002
        """The loss of the rate's critic; None without one."""
        return None

    def describe(self) -> str:
        raise NotImplementedError


class WeightedKL(Rate):
    """β(t)·KL(q(z|x)‖p(z)): the VAE at β = 1 (Kingma & Welling 2014), the β-VAE otherwise
    (Higgins et al. 2017).

    Args:
        beta: a number or a schedule. Below 0 at its end it rewards a large KL, and a warning
            says so.

    Examples:
        >>> from vae import Anneal, WeightedKL
        >>> rate = WeightedKL(Anneal(0.0, 1.0, length=1000))
        >>> rate.describe()
        'β = 1−α = 0 → 1 in 1000 steps (linear) on KL'
    """

    def __init__(self, beta: float | Schedule = 1.0) -> None:
        super().__init__()
        self.schedule = beta if callable(beta) else Constant(float(beta))
        self.needs_density = not (isinstance(self.schedule, Constant) and self.beta == 0)
        if self.beta < 0:
            warnings.warn(
                f"the KL has a weight of {self.beta:g} < 0 (alpha = {1 - self.beta:g} > 1): "
                "the objective rewards a large KL",
                stacklevel=2,
            )

    @property
    def beta(self) -> float:
        """The weight at the end of the schedule."""
        return self.schedule.final

    def forward(self, terms: ForwardOutput, step: int) -> Loss:
        if not self.needs_density:
            return Loss(terms.distortion.new_zeros(()), {})
        assert terms.kl is not None
        kl = terms.kl.mean()
        return Loss(self.schedule(step) * kl, {})

    def describe(self) -> str:
        return f"β = 1−α = {self.schedule} on KL"


class SampledKL(WeightedKL):
    """β(t)·(log q(z|x) − log p(z)) at the drawn z: the KL of `WeightedKL` by a single sample
    (Kingma & Welling 2014, arXiv:1312.6114, eq. 6). Unbiased; it needs no closed form, and its
    noise goes into the gradient. The part ``sampled_kl`` has its values beside those of ``kl``."""

    def forward(self, terms: ForwardOutput, step: int) -> Loss:
        if not self.needs_density:
            return Loss(terms.distortion.new_zeros(()), {})
        assert terms.mean is not None and terms.log_variance is not None
        log_q = gaussian_log_density(terms.z, terms.mean, terms.log_variance).sum(1)
        kl = (log_q - terms.prior.log_prob(terms.z)).mean()
        return Loss(self.schedule(step) * kl, {"sampled_kl": kl})

    def describe(self) -> str:
        return f"{super().describe()} at one sample"


class Capacity(Rate):
    """γ·|KL − C(t)|, the KL averaged over the batch *before* the absolute value (Burgess et al.
    2018, arXiv:1804.03599, eq. 8).

    Args:
        gamma: γ ≥ 0.
        capacity: C(t) in nats, a number or a schedule.
    """

    linear = False

    def __init__(self, gamma: float, capacity: float | Schedule) -> None:
        super().__init__()
        if not (gamma >= 0 and math.isfinite(gamma)):
            raise ValueError(f"gamma must be finite and at least 0, got {gamma}")
        self.gamma = gamma
        self.schedule = capacity if callable(capacity) else Constant(float(capacity))

    def forward(self, terms: ForwardOutput, step: int) -> Loss:
        assert terms.kl is not None
        return Loss(self.gamma * (terms.kl.mean() - self.schedule(step)).abs(), {})

    def describe(self) -> str:
        return f"γ = {self.gamma:g} on |KL − C|, C = {self.schedule} nats"


class TotalCorrelation(Rate):
    """α·I(z; n) + β·TC + γ·Σ_j KL(q(z_j)‖p(z_j)), the β-TCVAE (Chen et al. 2018,
    arXiv:1802.04942, eq. 4), estimated in the batch by ``decompose_kl_minibatch``.

    Args:
        alpha, beta, gamma: the three weights.
        n_data: N, the size of the training set; training sets it where it is None.
        estimator: "stratified" or "weighted".
    """

    linear = False

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 6.0,
        gamma: float = 1.0,
        *,
        n_data: int | None = None,
        estimator: MinibatchEstimator = "stratified",
    ) -> None:
        super().__init__()
        if not all(math.isfinite(w) for w in (alpha, beta, gamma)):
            raise ValueError(f"the weights must be finite, got {alpha}, {beta}, {gamma}")
        self.weights = (alpha, beta, gamma)
        self.n_data = n_data
        self.estimator: MinibatchEstimator = estimator

    def forward(self, terms: ForwardOutput, step: int) -> Loss:  # noqa: ARG002
        if self.n_data is None:
            raise ValueError(
                "the total correlation needs the size of the training set: "
                "TotalCorrelation(..., n_data=N)"
            )
        assert terms.mean is not None and terms.log_variance is not None
        mutual, correlation, by_dimension = decompose_kl_minibatch(
            terms.z,
            terms.mean,
            terms.log_variance,
            max(self.n_data, len(terms.z)),
            estimator=self.estimator,
            prior_log_density=terms.prior.log_density,
        )
        dimension_wise = by_dimension.sum()
        alpha, beta, gamma = self.weights
        return Loss(
            alpha * mutual + beta * correlation + gamma * dimension_wise,
            {
                "mutual_information": mutual,
                "total_correlation": correlation,
                "dimension_wise_kl": dimension_wise,
            },
        )

    def describe(self) -> str:
        alpha, beta, gamma = self.weights
        return f"{alpha:g}·MI + β = {beta:g} on TC + {gamma:g}·dimension-wise KL ({self.estimator})"
