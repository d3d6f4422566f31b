"""Divergences D(q(z)‖p(z)) estimated from a batch of codes and of prior draws."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from divergences.energy import energy_distance, energy_distance_to_normal
from divergences.kernels import InverseMultiquadric, Kernel
from divergences.mmd import mmd2, mmd2_to_normal
from divergences.wasserstein import sliced_wasserstein

Divergence = Callable[[Tensor, Tensor], Tensor]
"""``divergence(z, prior_sample)``: [B, M] codes and [B, M] draws from the prior to a 0-d tensor."""

IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_IMQ: dict[int, Kernel] = {}  # by M


def mmd(z: Tensor, prior_sample: Tensor) -> Tensor:
    """Unbiased squared MMD with k(z, z') = exp(−‖z−z'‖²/M): half the squared distance to expect
    between draws of N(0, I) is in the exponent's scale.

    The authors' code of the MMD-VAE has exp(−‖z−z'‖²/M²) and the V-statistic, whose optimum in a
    mini-batch is narrower than the prior: ``mmd2(z, p, bandwidth=M / 2**0.5, estimator="biased")``.
    """
    return mmd2(z, prior_sample, kernel="gaussian", bandwidth="dimension")


def energy(z: Tensor, prior_sample: Tensor) -> Tensor:
    """Unbiased energy distance 2E‖z−p‖ − E‖z−z'‖ − E‖p−p'‖: no bandwidth to choose."""
    return energy_distance(z, prior_sample)


def mmd_normal(z: Tensor, prior_sample: Tensor) -> Tensor:  # noqa: ARG001 (one signature for all)
    """The MMD of `mmd` to N(0, I) itself, in closed form: no noise from prior samples."""
    return mmd2_to_normal(z, kernel="gaussian", bandwidth="dimension")


def energy_normal(z: Tensor, prior_sample: Tensor) -> Tensor:  # noqa: ARG001
    """The energy distance to N(0, I) itself, in closed form."""
    return energy_distance_to_normal(z)


def imq(z: Tensor, prior_sample: Tensor) -> Tensor:
    """Unbiased squared MMD with Σ_s C_s/(C_s + ‖z−z'‖²), C_s = 2M·s, s of ``IMQ_SCALES``.

    The kernel of the Wasserstein autoencoder's code (Tolstikhin et al. 2018, arXiv:1711.01558) for
    a prior of variance 1, summed over scales as there, not averaged.
    """
    return mmd2(z, prior_sample, kernel=_imq_kernel(z.shape[1]))


def _imq_kernel(m: int) -> Kernel:
    """Made once: seven objects at every step would take longer than their sums in a small batch."""
    kernel = _IMQ.get(m)
    if kernel is None:
        kernels = [InverseMultiquadric((2 * m * s) ** 0.5, exponent=1.0) for s in IMQ_SCALES]
        kernel = sum(kernels[1:], start=kernels[0])
        if not torch.compiler.is_compiling():
            _IMQ[m] = kernel
    return kernel


def sliced(z: Tensor, prior_sample: Tensor) -> Tensor:
    """Squared 2-Wasserstein distance averaged over 50 random lines (Kolouri et al. 2018,
    arXiv:1804.01947). Biased upwards in a batch; in squared units of z."""
    return sliced_wasserstein(z, prior_sample, n_projections=50)


DIVERGENCES: Mapping[str, Divergence] = MappingProxyType(
    {
        "mmd": mmd,
        "energy": energy,
        "mmd-normal": mmd_normal,
        "energy-normal": energy_normal,
        "imq": imq,
        "sliced": sliced,
    }
)

TO_STANDARD_NORMAL = frozenset({mmd_normal, energy_normal})
"""Those that look at N(0, I) rather than at the prior's draws."""


def name_of(divergence: Divergence) -> str:
    """The name that is printed."""
    for name, known in DIVERGENCES.items():
        if divergence is known:
            return name
    named: str = getattr(divergence, "__name__", type(divergence).__name__)
    return named
