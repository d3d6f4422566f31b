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
