"""The loss on held-out rows: fixed rows, fixed draws, schedules at their end."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from vae.model import VAE
from vae.objectives.rates import TotalCorrelation
from vae.terms import Loss, Terms
from vae.training.distributed import concatenate
from vae.training.draws import Stream, generator, seed_global, seed_of

MOST_ROWS = 2000
MOST_NUMBERS = 10**7  # in the matrices of pairs and dimensions of the total correlation


class HeldOut:
    """At most ``most`` held-out rows, drawn once.

    The loss of all of them as one batch is what selects best.ckpt and stops early: it does not
    depend on a schedule's state. With critics it selects nothing: they keep moving, and an
    adversarial term of an early step does not compare with one of a late step.

    Args:
        rows: [H, …].
        most: number of them to look at.
        batch_size: rows at a time through the networks.
        seed: of the choice of rows and of all draws.
    """

    def __init__(self, rows: Tensor, *, batch_size: int, seed: int, most: int = MOST_ROWS) -> None:
        draws = generator("cpu", seed_of(seed, Stream.HELDOUT))
        chosen = torch.randperm(len(rows), generator=draws)[:most].sort().values
        self.rows = rows[chosen.to(rows.device)]
        self.batch_size, self.seed = max(batch_size, 2), seed

    @torch.no_grad()
    def __call__(
        self,
        model: VAE,
        *,
        device: torch.device,
        dtype: torch.dtype,
        context: AbstractContextManager[None],
    ) -> tuple[Terms, Loss]:
        """The terms of all rows and their loss; the model's modes are left as they are."""
        draws = generator(device, seed_of(self.seed, Stream.HELDOUT, 1))
        seed_global(device, seed_of(self.seed, Stream.HELDOUT, 2))
        noise = torch.randn(
            len(self.rows), model.prior.dim, generator=draws, device=device, dtype=dtype
        )
        prior_sample = model.prior.sample(len(noise), generator=draws, like=noise)
        modes = {module: module.training for module in model.modules()}
        model.eval()
        try:
            with context:
                terms = concatenate(
                    [
                        model.terms(x.to(device, dtype), e, p)
                        for x, e, p in zip(
                            torch.split(self.rows, self.batch_size),
                            torch.split(noise, self.batch_size),
                            torch.split(prior_sample, self.batch_size),
                            strict=True,
                        )
                    ]
                )
                return terms, model.objective(terms, None)
        finally:
            set_modes(modes)


def most_rows(model: VAE) -> int:
    """How many rows at once an objective bears."""
    if isinstance(model.objective.rate, TotalCorrelation):
        return min(MOST_ROWS, math.isqrt(MOST_NUMBERS // model.prior.dim))
    return MOST_ROWS


def set_modes(modes: dict[torch.nn.Module, bool]) -> None:
    """Training or evaluation, module by module."""
    for module, training in modes.items():
        module.training = training
