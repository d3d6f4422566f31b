"""Likelihoods p(x|z) of the decoder's output. Log densities in nats, summed over data dimensions.

Squared error is the Gaussian's with a fixed σ², mean absolute error the Laplace's, binary and
categorical cross entropy the Bernoulli's and the categorical's: a weight beside one of them is a
statement about σ², b or β.
"""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, softplus

from divergences.kl import gaussian_log_density


class Likelihood(nn.Module):
    """A factorised p(x|z) whose parameters a decoder returns, ``channels`` per number of x.

    The decoder maps z to [B, channels·C, …] for data [B, C, …] (flat data: [B, channels·D]), the
    channels one block after the other.
    """

    channels = 1

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """log p(x|z) [B] in nats, at least fp32, from data [B, C, …] and the decoder's output; NaN
        for data outside the support. Raises ValueError where the shapes do not fit."""
        expected = [len(x), self.channels * x.shape[1], *x.shape[2:]]
        if list(parameters.shape) != expected:
            raise ValueError(
                f"the decoder must return {expected} for data {list(x.shape)} under a "
                f"{type(self).__name__}, got {list(parameters.shape)}"
            )
        wide = torch.promote_types(parameters.dtype, torch.float32)  # autocast leaves 16 bits
        return self._log_density(x, parameters.to(wide)).flatten(1).sum(1)

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x|z], [B, C, …]; the parameters themselves unless a class says otherwise."""
        return parameters

    def sample(self, parameters: Tensor, *, generator: Generator | None = None) -> Tensor:
        """x ~ p(x|z), [B, C, …]: pixel noise included."""
        raise NotImplementedError

    def check(self, x: Tensor) -> None:
        """Raises ValueError where data lie outside the support (NaN is never inside)."""
        outside = int((~x.flatten(1).isfinite().all(1)).sum())
        if outside:
            raise ValueError(f"{outside} of {len(x)} rows are not finite")

    def describe(self) -> str:
        """The effective scale, for the line of weights."""
        raise NotImplementedError

    def _log_density(self, x: Tensor, parameters: Tensor) -> Tensor:
        raise NotImplementedError


def _positive(value: float, name: str) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"the {name} must be positive and finite, got {value}")
    return value


class GaussianLikelihood(Likelihood):
    """N(x; decoder(z), σ²I): −log p = ‖x − x̂‖²/2σ² + ½D log 2πσ².

    Args:
        variance: σ², in squared units of the data.
        learned: σ² is a parameter, one for all dimensions, that starts at ``variance`` (σ-VAE,
            Rybkin, Daniilidis & Levine 2021, arXiv:2006.13202). Its optimum is the mean squared
            error, so β = 1 needs no tuning.

    Raises:
        ValueError: σ² is not positive and finite.

    Examples:
        >>> import torch
        >>> from vae import GaussianLikelihood
        >>> likelihood = GaussianLikelihood(variance=0.25)
        >>> likelihood.log_prob(torch.zeros(1, 2), torch.ones(1, 2)).round(decimals=4)
        tensor([-4.4516])
    """

    def __init__(self, variance: float = 1.0, *, learned: bool = False) -> None:
        super().__init__()
        start = torch.tensor(math.log(_positive(variance, "variance")))
        self.fixed_variance = None if learned else variance
        self.log_variance = nn.Parameter(start) if learned else None

    @property
    def variance(self) -> float:
        """σ², now."""
        if self.fixed_variance is not None:
            return self.fixed_variance
        assert self.log_variance is not None
        return float(self.log_variance.detach().exp())

    def _log_density(self, x: Tensor, parameters: Tensor) -> Tensor:
        if self.log_variance is not None:
            return gaussian_log_density(x, parameters, self.log_variance)
        assert self.fixed_variance is not None
        normaliser = 0.5 * math.log(2 * math.pi * self.fixed_variance)  # on the host, in fp64
        deviation: Tensor = (x - parameters).square() / (2 * self.fixed_variance)
        return -deviation - normaliser

    def sample(self, parameters: Tensor, *, generator: Generator | None = None) -> Tensor:
        return parameters + math.sqrt(self.variance) * _noise(parameters, generator)

    def describe(self) -> str:
        return f"σ² = {self.variance:.4g}{'' if self.log_variance is None else ' (learned)'}"

    def extra_repr(self) -> str:
        return f"variance={self.variance:g}, learned={self.log_variance is not None}"


class PixelGaussianLikelihood(Likelihood):
    """N(x; μ(z), diag σ²(z)), both from the decoder: [μ, s] with σ² = floor + softplus(s).

    Without a floor the likelihood is unbounded: a pixel that never changes has σ → 0 and any
    number of nats (Mattei & Frellsen 2018, arXiv:1802.04826).

    Args:
        floor: least σ², in squared units of the data.

    Raises:
        ValueError: the floor is not positive and finite.
    """

    channels = 2

    def __init__(self, floor: float = 1e-3) -> None:
        super().__init__()
        self.floor = _positive(floor, "floor")

    def _moments(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = parameters.chunk(2, dim=1)
        return mean, self.floor + softplus(scale)

    def _log_density(self, x: Tensor, parameters: Tensor) -> Tensor:
        mean, variance = self._moments(parameters)
        return gaussian_log_density(x, mean, variance.log())

    def mean(self, parameters: Tensor) -> Tensor:
        return self._moments(parameters)[0]

    def sample(self, parameters: Tensor, *, generator: Generator | None = None) -> Tensor:
        mean, variance = self._moments(parameters)
        return mean + variance.sqrt() * _noise(mean, generator)

    def describe(self) -> str:
        return f"σ² per pixel ≥ {self.floor:g}"

    def extra_repr(self) -> str:
        return f"floor={self.floor:g}"


class LaplaceLikelihood(Likelihood):
    """Laplace(x; decoder(z), b): −log p = ‖x − x̂‖₁/b + D log 2b.

    An L1 term of weight λ is b = 1/λ.

    Args:
        scale: b, in units of the data.

    Raises:
        ValueError: b is not positive and finite.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = _positive(scale, "scale")

    def _log_density(self, x: Tensor, parameters: Tensor) -> Tensor:
        return -(x - parameters).abs() / self.scale - math.log(2 * self.scale)

    def sample(self, parameters: Tensor, *, generator: Generator | None = None) -> Tensor:
        u = torch.empty_like(parameters).exponential_(generator=generator)
        v = torch.empty_like(parameters).exponential_(generator=generator)
        return parameters + self.scale * (u - v)

    def describe(self) -> str:
        return f"Laplace scale b = {self.scale:g}"

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}"


class BernoulliLikelihood(Likelihood):
    """Bernoulli(x; sigmoid(decoder(z))): binary cross entropy on logits.

    x in [0, 1]. Between 0 and 1 it is a cross entropy, not a log likelihood (its normaliser is
    missing: Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845): binarise, or take another.

    Examples:
        >>> import torch
        >>> from vae import BernoulliLikelihood
        >>> x, logits = torch.tensor([[0.0, 1.0, 1.0]]), torch.zeros(1, 3)  # probabilities of ½
        >>> BernoulliLikelihood().log_prob(x, logits).round(decimals=4)
        tensor([-2.0794])
    """

    def _log_density(self, x: Tensor, parameters: Tensor) -> Tensor:
        cost = binary_cross_entropy_with_logits(parameters, x, reduction="none")
        return -torch.where((x >= 0) & (x <= 1), cost, math.nan)  # a check would synchronise

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters.sigmoid()

    def sample(self, parameters: Tensor, *, generator: Generator | None = None) -> Tensor:
        return torch.bernoulli(parameters.sigmoid(), generator=generator)

    def check(self, x: Tensor) -> None:
        super().check(x)
        _check_unit(x, "a Bernoulli likelihood")

    def describe(self) -> str:
        return "Bernoulli"


class CategoricalLikelihood(Likelihood):
    """Every number of x is one of ``levels`` values evenly spaced on [0, 1]; cross entropy.

    The decoder returns the logits of level 0 for all dimensions, then of level 1, and so on.

    Args:
        levels: K, 256 for 8-bit images. x is rounded to the nearest level.

    Raises:
        ValueError: fewer than two levels.
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"levels must be at least 2, got {levels}")
        self.channels = levels

    def _logits(self, parameters: Tensor) -> Tensor:
        rows = parameters.shape
        return parameters.reshape(rows[0], self.channels, -1, *rows[2:])  # [B, K, C, …]

    def _log_density(self, x: Tensor, parameters: Tensor) -> Tensor:
        inside = (x >= 0) & (x <= 1)
        level = torch.where(inside, x * (self.channels - 1), 0).round().long()
        cost = cross_entropy(self._logits(parameters), level, reduction="none")
        return -torch.where(inside, cost, math.nan)

    def mean(self, parameters: Tensor) -> Tensor:
        shares = self._logits(parameters).softmax(1)
        level = torch.linspace(0, 1, self.channels, dtype=shares.dtype, device=shares.device)
        return shares.movedim(1, -1) @ level

    def sample(self, parameters: Tensor, *, generator: Generator | None = None) -> Tensor:
        shares = self._logits(parameters).softmax(1).movedim(1, -1)
        drawn = torch.multinomial(shares.reshape(-1, self.channels), 1, generator=generator)
        return drawn.reshape(shares.shape[:-1]).to(shares) / (self.channels - 1)

    def check(self, x: Tensor) -> None:
        super().check(x)
        _check_unit(x, "a categorical likelihood")

    def describe(self) -> str:
        return f"categorical with {self.channels} levels"

    def extra_repr(self) -> str:
        return f"levels={self.channels}"


class TokenLikelihood(CategoricalLikelihood):
    """Every number of x is one of 256 tokens without an order, such as bytes of text; cross
    entropy. ``mean`` is the most probable token. Values as those of a `CategoricalLikelihood`."""

    def __init__(self) -> None:
        super().__init__(256)

    def mean(self, parameters: Tensor) -> Tensor:
        token = self._logits(parameters).argmax(1)
        return token.to(parameters.dtype) / (self.channels - 1)

    def describe(self) -> str:
        return f"categorical over {self.channels} tokens"


def _noise(like: Tensor, generator: Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _check_unit(x: Tensor, what: str) -> None:
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"{what} needs values in [0, 1], got [{low:g}, {high:g}]: rescale the data, or take a "
            "Gaussian or Laplace likelihood"
        )
