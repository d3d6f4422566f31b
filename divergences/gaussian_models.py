"""Models whose kernel embedding is known exactly: Gaussians, and mixtures of isotropic ones.

The sample is standardised (affinely for a Gaussian, by a shift and one factor for a mixture), so
that what is tested is always a mixture of N(m_k, s_k²I) of unit size, often N(0, I) alone.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from .expected_distance import distance_table
from .kernels import Energy, Kernel
from .kernels.api import pair_form
from .mmd import mixture_embedding
from .scores import check_event

SINGULAR = 1e-12  # of a column's norm: what is left of it beside the others, if nothing is


class Mixture(NamedTuple):
    """Σ w_k N(m_k, s_k²I), in fp64."""

    means: Tensor  # [K, d]
    scales: Tensor  # [K]
    weights: Tensor  # [K]

    def draw(self, n: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """A sample [n, d]."""
        z = generator.standard_normal((n, self.means.shape[1]))
        if len(self.scales) == 1:
            return z
        k = generator.choice(len(self.scales), size=n, p=self.weights.cpu().numpy())
        means, scales = self.means.cpu().numpy(), self.scales.cpu().numpy()
        return np.asarray(means[k] + scales[k, None] * z)


def standardise(model: Any, x: Tensor, name: str = "model") -> tuple[Tensor, Mixture] | None:
    """The sample [n, d] and the model in coordinates where the latter is N(0, I), or a mixture
    whose mean is 0 and whose variances are 1 on average; None for a model of another kind."""
    if isinstance(model, str) and model == "normal":
        return x, _standard(x)
    if not isinstance(model, Distribution):
        return None
    gaussian = _gaussian(model)
    mixture = _mixture(model, x)
    if gaussian is None and mixture is None:
        return None
    check_event(model, x.shape[1], name)
    if gaussian is not None:
        loc, factor = (t.detach().to(x) for t in gaussian)
        return torch.linalg.solve_triangular(factor, (x - loc).T, upper=False).T, _standard(x)
    assert mixture is not None
    m, s, w = mixture
    mean = w @ m
    size = (w @ (s.square() + (m - mean).square().mean(1))).sqrt()
    return (x - mean) / size, Mixture((m - mean) / size, s / size, w)


def _standard(x: Tensor) -> Mixture:
    return Mixture(torch.zeros_like(x[:1]), x.new_ones(1), x.new_ones(1))


def _gaussian(model: Distribution) -> tuple[Tensor, Tensor] | None:
    """Mean [d] and a lower triangular factor [d, d] of the covariance."""
    base: Any = model.base_dist if isinstance(model, Independent) else model
    if isinstance(base, Normal):
        return base.loc.reshape(-1), base.scale.reshape(-1).diag()
    if isinstance(base, MultivariateNormal):
        return base.loc, base.scale_tril
    if isinstance(base, LowRankMultivariateNormal):
        return base.loc, torch.linalg.cholesky(base.covariance_matrix)
    return None


def _mixture(model: Distribution, x: Tensor) -> Mixture | None:
    if not isinstance(model, MixtureSameFamily):
        return None
    parts: Any = model.component_distribution
    base = parts.base_dist if isinstance(parts, Independent) else parts
    if not isinstance(base, Normal) or len(model.batch_shape) > 0:
        return None
    w = model.mixture_distribution.probs.detach().to(x)
    m, s = (t.detach().to(x).reshape(len(w), -1) for t in (base.loc, base.scale))
    return Mixture(m, s[:, 0], w / w.sum()) if bool((s == s[:, :1]).all()) else None


def whiten(x: Tensor, name: str = "x") -> Tensor:
    """Samples [..., n, d] moved to mean 0 and sample covariance I (divisor n − 1).

    Coordinates depend on the data by a rotation that no statistic here sees. Raises ValueError
    where the covariance is singular.
    """
    n, d = x.shape[-2:]
    if n <= d:
        raise ValueError(
            f"a covariance of {d} columns cannot be estimated from {n} rows; n > d is needed"
        )
    q, r = torch.linalg.qr(x - x.mean(-2, keepdim=True))
    left = r.diagonal(dim1=-2, dim2=-1).abs()
    singular = (left <= SINGULAR * torch.linalg.vector_norm(x, dim=-2)).reshape(-1, d).any(0)
    if bool(singular.any()):
        raise ValueError(
            f"the covariance of {name} is singular: column {int(singular.nonzero()[0])} is "
            "constant or a linear combination of those before it; leave such columns out"
        )
    white: Tensor = q * math.sqrt(n - 1)
    return white


# --- Statistics ----------------------------------------------------------------------------------


class Discrepancy(NamedTuple):
    """Between samples and a model, [b] in fp64. Z is a draw of the model, φ the feature map."""

    biased: Tensor  # V-statistic of the squared MMD
    unbiased: Tensor  # pairs i ≠ j
    between: Tensor  # the mean of ‖φ(x) − φ(Z)‖²


class Embedded:
    """The squared MMD between samples [b, n, d] and a mixture, in closed form."""

    def __init__(self, target: Mixture, kernel: Kernel) -> None:
        self.target, self.kernel = target, kernel

    def __call__(self, z: Tensor) -> Discrepancy:
        kernel = self.kernel.resolve(z)
        within = pair_form(z, None, kernel, (1.0,), means="unbiased")
        cross, own = mixture_embedding(z, *self.target, kernel)
        return _discrepancy(len(z[0]), within, cross, own, kernel.diagonal(z))


class EmbeddedEnergy(Embedded):
    """The energy distance between samples [b, n, d] and N(0, I), in closed form."""

    def __init__(self, target: Mixture) -> None:
        super().__init__(target, Energy())
        d = target.means.shape[1]
        self.expected = distance_table(d, target.means.device)
        gap = 2.0 * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))  # E‖Z − Z′‖
        self.own = target.means.new_tensor(-gap)

    def __call__(self, z: Tensor) -> Discrepancy:
        if z.shape[-1] == 1:
            within = _within_line(z)
        else:
            within = pair_form(z, None, self.kernel, (1.0,), means="unbiased")
        cross = -self.expected(z.square().sum(-1)).mean(-1)
        return _discrepancy(len(z[0]), within, cross, self.own, 0.0)


def _within_line(z: Tensor) -> Tensor:
    """The mean of −|z − z′| over pairs of numbers [b, n, 1], by sorting."""
    n = z.shape[-2]
    rank = torch.arange(1 - n, n, 2, dtype=z.dtype, device=z.device)
    return -2.0 * (z.squeeze(-1).sort(-1).values @ rank) / (n * (n - 1))


def _discrepancy(
    n: int, within: Tensor, cross: Tensor, own: Tensor, diagonal: Tensor | float
) -> Discrepancy:
    """From the means of k(z, z′) over i ≠ j, of k(z, Z) and of k(Z, Z′), and k(z, z)."""
    unbiased = within - 2.0 * cross + own
    biased = unbiased + (diagonal - within) / n
    return Discrepancy(biased, unbiased, 2.0 * (diagonal - cross))
