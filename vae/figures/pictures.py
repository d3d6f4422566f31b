"""Decoded rows for figures: reconstructions, traversals, interpolations; [.., D] on the CPU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vae.evaluation.passes import Encoded, encode, features, generator_for, like
from vae.model import VAE, evaluating

LIMIT = 3.0


def decode(model: VAE, z: Tensor) -> Tensor:
    """Means of p(x|z), [..., M] to [..., D], in evaluation mode."""
    with evaluating(model):
        rows = model.decode(z.reshape(-1, z.shape[-1]).to(like(model)))
    return rows.flatten(1).float().cpu().reshape(*z.shape[:-1], -1)


def reconstruct(model: VAE, x: Tensor, *, seed: int = 0) -> Tensor:
    """Mean of p(x|z) at one draw z ~ q(z|x), [N, D], of rows [N, …]."""
    return decode(model, encode(model, x, generator=generator_for(model, seed, "pictures")).z)


class Ranking(NamedTuple):
    """Dimensions, the most used first, and what their use is measured by."""

    order: list[int]
    values: Tensor  # [M], by dimension
    what: str

    def label(self, j: int) -> str:
        """For the row of dimension j."""
        return f"$z_{{{j}}}$  {float(self.values[j]):.2f}"


def rank(encoded: Encoded) -> Ranking:
    """By mean KL in nats, or by the variance of z where there is none."""
    if encoded.kl_per_dimension is not None:
        values, what = encoded.kl_per_dimension.mean(0), "KL in nats"
    else:
        values, what = encoded.z.var(0), "variance"
    return Ranking(values.argsort(descending=True).tolist(), values, what)


def traverse(
    model: VAE, z: Tensor, dimensions: list[int], *, steps: int = 11, limit: float = LIMIT
) -> Tensor:
    """[R, steps, D]: the code z [M] decoded with one of R dimensions after the other replaced by
    values from −limit to limit."""
    grid = torch.linspace(-limit, limit, steps, dtype=z.dtype)
    codes = z.repeat(len(dimensions), steps, 1)
    for row, dimension in enumerate(dimensions):
        codes[row, :, dimension] = grid
    return decode(model, codes)


def interpolate(
    model: VAE, first: Tensor, second: Tensor, *, steps: int = 9, seed: int = 0
) -> Tensor:
    """[P, steps, D]: straight lines between the codes E[z|x] of P rows and P others, decoded."""
    generator = generator_for(model, seed, "pictures")
    a, b = (features(model, x, generator=generator) for x in (first, second))
    share = torch.linspace(0, 1, steps, dtype=a.dtype).view(-1, 1)
    return decode(model, torch.lerp(a.unsqueeze(1), b.unsqueeze(1), share))
