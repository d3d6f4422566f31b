"""KL divergences of Gaussians in closed form, and of anything with densities by sampling. In nats.

``divergences.kl_decomposition`` takes apart the KL of a whole data set of codes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .kernels.validation import computation_dtype


def gaussian_log_density(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(z; mean, exp(log_variance)) of every coordinate, in nats: ``.sum(-1)`` is that of a
    diagonal Gaussian. Shapes broadcast.

    Examples:
        >>> import torch
        >>> from divergences.kl import gaussian_log_density
        >>> gaussian_log_density(*torch.zeros(3)).round(decimals=4)  # −½ log 2π
        tensor(-0.9189)
    """
    deviation = ((z - mean) * (-0.5 * log_variance).exp()).square()  # 0 at the mean of any spike
    return -0.5 * (math.log(2.0 * math.pi) + log_variance + deviation)


def gaussian_kl(
    mean: Tensor,
    log_variance: Tensor,
    prior_mean: Tensor | None = None,
    prior_log_variance: Tensor | None = None,
) -> Tensor:
    """KL(N(mean, exp(log_variance))‖N(prior_mean, exp(prior_log_variance))) of every coordinate.

        ½(eʳ − 1 − r + (μ − μ_p)² exp(−log σ_p²)),    r = log σ² − log σ_p²

    As in ``torch.distributions``, coordinates are not summed (free bits need them apart):
    ``.sum(-1)`` is the KL of diagonal Gaussians, the rate of a VAE per data point.

    Args:
        mean, log_variance: [..., M] of q.
        prior_mean, prior_log_variance: of p, shapes that broadcast; 0 if None, together N(0, I).

    Returns:
        [..., M] in nats, ≥ 0, differentiable, in the promoted dtype, at least fp32.

    Raises:
        ValueError, TypeError: not floating point tensors, or shapes that do not broadcast.

    Examples:
        >>> import torch
        >>> from divergences.kl import gaussian_kl
        >>> mean, log_variance = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
        >>> gaussian_kl(mean, log_variance).tolist()  # ½μ² of each dimension
        [[0.5, 0.0]]
    """
    zero = torch.zeros((), dtype=torch.float32, device="cpu")  # 0-d meets any device
    mean, log_variance, prior_mean, prior_log_variance = promoted(
        mean=mean,
        log_variance=log_variance,
        prior_mean=zero if prior_mean is None else prior_mean,
        prior_log_variance=zero if prior_log_variance is None else prior_log_variance,
    )
    log_ratio = log_variance - prior_log_variance
    deviation = (mean - prior_mean).square() * (-prior_log_variance).exp()
    return 0.5 * (torch.expm1(log_ratio) - log_ratio + deviation)  # expm1: digits near p


class MonteCarloKL(NamedTuple):
    """An estimate of a KL divergence in nats; the standard error carries no gradient."""

    kl: Tensor
    standard_error: Tensor


def monte_carlo_kl(log_q: Tensor, log_p: Tensor) -> MonteCarloKL:
    """KL(q‖p) = E_q[log q − log p] where there is no closed form, such as for a mixture prior.

    Args:
        log_q, log_p: [S, ...], log densities in nats at S independent draws from q: of one q, or of
            one draw from the q of each data point, whose KL is then averaged.

    Returns:
        ``kl`` [...], the mean over draws: unbiased, so it may be negative, and differentiable where
        the draws are reparametrised. ``standard_error`` [...], NaN for a single draw.

    Raises:
        ValueError, TypeError: not floating point tensors of one shape, or no draws.

    Examples:
        >>> import torch
        >>> from divergences.kl import monte_carlo_kl
        >>> p, q = torch.distributions.Laplace(0.0, 1.0), torch.distributions.Normal(0.0, 1.0)
        >>> z = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
        >>> monte_carlo_kl(q.log_prob(z), p.log_prob(z)).kl.round(decimals=2)
        tensor(0.0700)
    """
    q, p = promoted(log_q=log_q, log_p=log_p)
    if q.shape != p.shape or q.dim() == 0 or len(q) == 0:
        raise ValueError(
            "log_q and log_p must share a shape [S, ...] with at least one draw; got "
            f"{shapes(log_q=log_q, log_p=log_p)}"
        )
    difference = q - p
    detached = difference.detach()
    if len(q) == 1:
        error = torch.full_like(detached[0], math.nan)
    else:
        error = detached.std(0) / math.sqrt(len(q))
    return MonteCarloKL(difference.mean(0), error)


def promoted(**tensors: Tensor) -> list[Tensor]:
    """In their promoted dtype, at least fp32. Raises unless they are floating point tensors whose
    shapes broadcast."""
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name} must be a floating point tensor; got {got}")
    try:
        torch.broadcast_shapes(*(t.shape for t in tensors.values()))  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ValueError(f"shapes do not broadcast; got {shapes(**tensors)}") from None
    dtype = computation_dtype(*tensors.values())
    return [t.to(dtype) for t in tensors.values()]


def shapes(**tensors: Tensor) -> str:
    """What was received, for a message."""
    return ", ".join(f"{name} {list(value.shape)}" for name, value in tensors.items())
