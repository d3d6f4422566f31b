"""What people run today, kept apart from our own code. Used only to be measured against.

All in fp32 with the kernel and the estimator of what they are measured against. Functions are of
this module or partials of them, so that a fresh process can be handed one.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]

# --- Losses --------------------------------------------------------------------------------------


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    return a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2.0 * a @ b.T


def gaussian_snippet(x: Tensor, y: Tensor, *, sigma: float) -> Tensor:
    """The snippet that is copied between repositories: three dense matrices, biased."""
    rate = 0.5 / sigma**2
    xx, yy, xy = (torch.exp(-rate * squared_distances(a, b)) for a, b in ((x, x), (y, y), (x, y)))
    return xx.mean() + yy.mean() - 2.0 * xy.mean()


def mixture_snippet(x: Tensor, y: Tensor, *, sigmas: Sequence[float] | Tensor) -> Tensor:
    """The same for the average of Gaussian kernels: the matrices of distances are shared."""

    def mean(a: Tensor, b: Tensor) -> Tensor:
        squared = squared_distances(a, b)
        return sum((torch.exp(-0.5 / s**2 * squared).mean() for s in sigmas), squared.new_zeros(()))

    return (mean(x, x) + mean(y, y) - 2.0 * mean(x, y)) / len(sigmas)


def multiscale_snippet(x: Tensor, y: Tensor, *, scales: Sequence[float]) -> Tensor:
    """Bandwidths in units of the median of all pooled distances, as the heuristic is coded."""
    with torch.no_grad():
        z = torch.cat([x, y])
        median = torch.pdist(z).median()
    return mixture_snippet(x, y, sigmas=[scale * median for scale in scales])


def energy_snippet(x: Tensor, y: Tensor) -> Tensor:
    """Energy distance by three ``torch.cdist`` matrices, biased."""
    xx, yy, xy = (torch.cdist(a, b) for a, b in ((x, x), (y, y), (x, y)))
    return 2.0 * xy.mean() - xx.mean() - yy.mean()


def laplace_snippet(x: Tensor, y: Tensor, *, width: float) -> Tensor:
    """exp(−r₁/width) by three dense matrices, biased."""
    xx, yy, xy = (torch.exp(torch.cdist(a, b, p=1.0) / -width) for a, b in ((x, x), (y, y), (x, y)))
    return xx.mean() + yy.mean() - 2.0 * xy.mean()


def imq_snippet(x: Tensor, y: Tensor, *, squares: Sequence[float]) -> Tensor:
    """Σ_C C/(C + r²) over the given C, unbiased, by three dense matrices."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = squared_distances(a, b)
        return sum((c / (c + squared) for c in squares), torch.zeros_like(squared))

    def within(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2.0 * kernel(x, y).mean()


def pythae_like(z: Tensor, prior_sample: Tensor, *, squares: Sequence[float]) -> Tensor:
    """The same as pythae's WAE and InfoVAE compute it: norms of [B, B, M] differences, anew for
    each scale, and squared again."""
    batch = len(z)

    def kernel(a: Tensor, b: Tensor, c: float) -> Tensor:
        return c / (c + torch.norm(a.unsqueeze(1) - b.unsqueeze(0), dim=-1) ** 2)

    total = z.new_zeros(())
    for c in squares:
        zz, pp = kernel(z, z, c), kernel(prior_sample, prior_sample, c)
        off = (zz - zz.diag().diag()).sum() + (pp - pp.diag().diag()).sum()
        total = total + off / (batch * (batch - 1))
        total = total - 2.0 * kernel(z, prior_sample, c).sum() / batch**2
    return total


def sklearn_gaussian(x: Tensor, y: Tensor, *, sigma: float) -> Tensor:
    """``rbf_kernel`` three times; no gradient."""
    from sklearn.metrics.pairwise import rbf_kernel

    a, b = x.numpy(), y.numpy()
    xx, yy, xy = (rbf_kernel(u, v, gamma=0.5 / sigma**2) for u, v in ((a, a), (b, b), (a, b)))
    return torch.tensor(xx.mean() + yy.mean() - 2.0 * xy.mean())


def scipy_energy(x: Tensor, y: Tensor) -> Tensor:
    """Of one dimension, squared, since SciPy's is the square root; in fp64."""
    from scipy.stats import energy_distance

    return torch.tensor(energy_distance(x.flatten().numpy(), y.flatten().numpy()) ** 2)


def geomloss(x: Tensor, y: Tensor, *, name: str, sigma: float = 1.0, backend: str) -> Tensor:
    """GeomLoss "gaussian" or "energy", doubled to ours; "tensorized" is PyTorch, "online" KeOps."""
    value: Tensor = 2.0 * _samples_loss(name, sigma, backend)(x, y)
    return value


@functools.cache
def _samples_loss(name: str, sigma: float, backend: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        from geomloss import SamplesLoss
    return SamplesLoss(name, blur=sigma, backend=backend)


def compiled(loss: Loss) -> Loss:
    """Under ``torch.compile``, for each shape anew."""
    torch._dynamo.config.recompile_limit = 64  # beyond it code would run uncompiled
    return torch.compile(loss, dynamic=False)


@contextlib.contextmanager
def hints_ignored() -> Iterator[None]:
    """Inductor's hint that TF32 would be faster is no reason to leave a rival out where warnings
    are errors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
        yield


def installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


# --- Permutation tests ---------------------------------------------------------------------------


def reindexed_energy_null(x: Tensor, y: Tensor, n_resamples: int) -> Tensor:
    """The loop most libraries have: one distance matrix, gathered anew for every permutation."""
    n, z = len(x), torch.cat([x, y])
    distance = torch.cdist(z, z)
    m = len(z) - n
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(n_resamples):
        order = torch.randperm(len(z), generator=generator)
        d = distance[order][:, order]
        within = d[:n, :n].sum() / (n * (n - 1)) + d[n:, n:].sum() / (m * (m - 1))
        found.append(2.0 * d[:n, n:].mean() - within)
    return torch.stack(found)


def materialised_forms(z: Tensor, v: Tensor, *, sigma: float) -> Tensor:
    """Σ_{i≠j} vᵢvⱼ exp(−r²/2σ²) for every column of v [N, B]: a whole K [N, N] and one product."""
    k = torch.exp_(squared_distances(z, z).mul_(-0.5 / sigma**2)).fill_diagonal_(0.0)
    return (v * (k @ v)).sum(0)


def materialised_fuse(x: Tensor, y: Tensor, widths: list[tuple[str, float]], v: Tensor) -> Tensor:
    """MMD-FUSE as its authors compute it, with whole kernel matrices, here one at a time: T for
    every column of labels v [N, B] = ±1. kernels exp(−r²/2σ²) ("gaussian") or exp(−r₁/σ)."""
    z, n, m = torch.cat([x, y]), len(x), len(y)
    squared, absolute = torch.cdist(z, z).square(), torch.cdist(z, z, p=1.0)
    smaller = min(n, m)
    pairs = smaller * (smaller - 1)
    a = (v > 0).to(z.dtype)
    terms = []
    for family, sigma in widths:
        k = torch.exp(-squared / (2 * sigma**2) if family == "gaussian" else -absolute / sigma)
        k.fill_diagonal_(0.0)
        ka, kb = k @ a, k @ (1.0 - a)
        xx, yy, xy = (a * ka).sum(0), ((1.0 - a) * kb).sum(0), (a * kb).sum(0)
        u = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2.0 * xy / (n * m)
        terms.append(pairs * u / (k.square().sum() / pairs).sqrt())
    stacked = torch.stack(terms)
    return torch.logsumexp(stacked, 0) - torch.log(torch.tensor(float(len(widths))))
