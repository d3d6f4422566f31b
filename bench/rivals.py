"""What people run today, kept apart from our own code. Used only to be measured against."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def eager_gaussian(sigma: float) -> Loss:
    """The snippet that is copied between repositories: three dense matrices, biased."""
    rate = 0.5 / sigma**2

    def squared(a: Tensor, b: Tensor) -> Tensor:
        return a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2.0 * a @ b.T

    def loss(x: Tensor, y: Tensor) -> Tensor:
        xx, yy, xy = (torch.exp(-rate * squared(a, b)) for a, b in ((x, x), (y, y), (x, y)))
        return xx.mean() + yy.mean() - 2.0 * xy.mean()

    return loss


def eager_energy(x: Tensor, y: Tensor) -> Tensor:
    """Energy distance by three ``torch.cdist`` matrices, biased."""
    xx, yy, xy = (torch.cdist(a, b) for a, b in ((x, x), (y, y), (x, y)))
    return 2.0 * xy.mean() - xx.mean() - yy.mean()


def geomloss_gaussian(sigma: float) -> Loss:
    """GeomLoss, tensorized, doubled to the squared MMD."""
    from geomloss import SamplesLoss

    loss = SamplesLoss("gaussian", blur=sigma, backend="tensorized")
    return lambda x, y: 2.0 * loss(x, y)


def geomloss_energy() -> Loss:
    """GeomLoss's energy distance, tensorized, doubled."""
    from geomloss import SamplesLoss

    loss = SamplesLoss("energy", backend="tensorized")
    return lambda x, y: 2.0 * loss(x, y)


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
