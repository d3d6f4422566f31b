"""The loss on held-out rows: fixed rows, fixed draws, schedules at their end."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from vae.forward_output import ForwardOutput, Loss
from vae.model import VAE, evaluating
from vae.objectives.rates import TotalCorrelation
from vae.training.distributed import concatenate
from vae.training.rng import Stream, generator, seed_global, seed_of

MOST_ROWS = 2000
MOST_NUMBERS = 10**7  # in the matrices of pairs and dimensions of the total correlation


class HeldOut:
    """The loss of at most ``most`` held-out rows as one batch, which selects best.ckpt and stops
    early: it does not depend on a schedule's state. With critics it selects nothing: they keep
    moving, and an adversarial term of an early step does not compare with one of a late step.

    Args:
        rows: [H, …], of which ``most`` are looked at, ``batch_size`` at a time.
        seed: of the choice of rows and of all draws.
    """

    def __init__(self, rows: Tensor, *, batch_size: int, seed: int, most: int = MOST_ROWS) -> None:
        draws = generator("cpu", seed_of(seed, Stream.HELDOUT))
        chosen = torch.randperm(len(rows), generator=draws)[:most].sort().values
        self.rows = rows[chosen.to(rows.device)]
        self.batch_size, self.seed = max(batch_size, 2), seed

    def __call__(
        self,
        model: VAE,
        *,
        device: torch.device,
        dtype: torch.dtype,
        context: AbstractContextManager[None],
    ) -> tuple[ForwardOutput, Loss]:
        """Forward output of all rows and their loss; the model's modes are left as they are."""
        draws = generator(device, seed_of(self.seed, Stream.HELDOUT, 1))
        seed_global(device, seed_of(self.seed, Stream.HELDOUT, 2))
        size = (len(self.rows), model.prior.dim)
        with evaluating(model), context:
            noise = torch.randn(size, generator=draws, device=device, dtype=dtype)
            prior_sample = model.prior.sample(len(noise), generator=draws, like=noise)
            batches = (torch.split(t, self.batch_size) for t in (self.rows, noise, prior_sample))
            terms = concatenate(
                [model.terms(x.to(device, dtype), e, p) for x, e, p in zip(*batches, strict=True)]
            )
            return terms, model.objective(terms, None)


def most_rows(model: VAE) -> int:
    """The largest number of rows at which an objective is evaluated."""
    if isinstance(model.objective.rate, TotalCorrelation):
        return min(MOST_ROWS, math.isqrt(MOST_NUMBERS // model.prior.dim))
    return MOST_ROWS
