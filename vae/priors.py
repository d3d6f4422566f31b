"""p(z): the standard normal, or one that is learned. Log densities in nats."""

import math

import torch
from torch import Generator, Tensor, nn

from divergences.kl import gaussian_kl, gaussian_log_density


class Prior(nn.Module):
    """A density on ``dim`` latent dimensions. ``factorises``: it is a product over them."""

    factorises = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"a prior needs at least one dimension, got {dim}")
        self.dim = dim

    def sample(self, n: int, *, generator: Generator | None = None, like: Tensor) -> Tensor:
        """[n, dim] draws with the device and dtype of ``like``; gradients reach the parameters."""
        raise NotImplementedError

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z): [B, dim] to [B]."""
        return self.log_density(z).sum(1)

    def log_density(self, z: Tensor) -> Tensor:
        """log p(z_j) of every coordinate, [B, dim] to [B, dim], where the prior factorises."""
        raise NotImplementedError

    def kl(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """KL(N(mean, diag exp(log_variance))‖p) per coordinate, [B, dim], where it factorises."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class StandardNormal(Prior):
    """p(z) = N(0, I).

    Examples:
        >>> import torch
        >>> from vae import StandardNormal
        >>> StandardNormal(2).log_prob(torch.zeros(1, 2)).round(decimals=4)  # −log 2π
        tensor([-1.8379])
    """

    def sample(self, n: int, *, generator: Generator | None = None, like: Tensor) -> Tensor:
        return _normal(n, self.dim, generator, like)

    def log_density(self, z: Tensor) -> Tensor:
        zero = torch.zeros((), dtype=z.dtype, device=z.device)
        return gaussian_log_density(z, zero, zero)

    def kl(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """½(μ² + σ² − 1 − log σ²): Kingma & Welling 2014 (arXiv:1312.6114), appendix B."""
        return gaussian_kl(mean, log_variance)


class LearnedGaussian(Prior):
    """p(z) = N(m, diag s²) with learned m and s, N(0, I) at the start."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.mean = nn.Parameter(torch.zeros(dim))
        self.log_variance = nn.Parameter(torch.zeros(dim))

    def sample(self, n: int, *, generator: Generator | None = None, like: Tensor) -> Tensor:
        noise = _normal(n, self.dim, generator, like)
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def log_density(self, z: Tensor) -> Tensor:
        return gaussian_log_density(z, self.mean, self.log_variance)

    def kl(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        return gaussian_kl(mean, log_variance, self.mean, self.log_variance)


class LearnedMixture(Prior):
    """p(z) = Σ_k w_k N(m_k, diag s_k²), all learned.

    The KL to it has no closed form and is taken at the sampled z. Draws carry gradients to means
    and scales, not to the weights: those are learned through the KL alone and stay even where it
    has no weight.

    Args:
        dim: number of latent dimensions.
        components: K. Their means start at draws from N(0, I), their scales at ½.
    """

    factorises = False

    def __init__(self, dim: int, components: int = 10) -> None:
        super().__init__(dim)
        if components < 1:
            raise ValueError(f"a mixture needs at least one component, got {components}")
        self.means = nn.Parameter(torch.randn(components, dim))
        self.log_variances = nn.Parameter(torch.full((components, dim), 2 * math.log(0.5)))
        self.logits = nn.Parameter(torch.zeros(components))

    def sample(self, n: int, *, generator: Generator | None = None, like: Tensor) -> Tensor:
        shares = self.logits.detach().softmax(0)
        k = torch.multinomial(shares, n, replacement=True, generator=generator)
        noise = _normal(n, self.dim, generator, like)
        return self.means[k] + (0.5 * self.log_variances[k]).exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        by_component = gaussian_log_density(z.unsqueeze(1), self.means, self.log_variances).sum(2)
        return (by_component + self.logits.log_softmax(0)).logsumexp(1)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, components={len(self.logits)}"


def _normal(n: int, dim: int, generator: Generator | None, like: Tensor) -> Tensor:
    return torch.randn(n, dim, generator=generator, device=like.device, dtype=like.dtype)
