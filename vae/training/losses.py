"""The losses of one training step, with every draw a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from vae.forward_output import ForwardOutput
from vae.model import VAE
from vae.training.distributed import detached, gather
from vae.training.rng import Stream, generator, seed_global, seed_of


class Losses(nn.Module):
    """The objective and the critics' loss of a batch: the module that Fabric wraps, for DDP too.

    Args:
        batch_size: rows of a step, all processes together.
        compiled: encoder, decoder and their terms go through ``torch.compile``.
        keep: have the forward output of the latest step in ``latest``, detached, of this process's
            rows or, where the objective is not a mean over rows, of all.
    """

    def __init__(
        self,
        model: VAE,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        compiled: bool = False,
        keep: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.batch_size, self.seed, self.rank, self.keep = batch_size, seed, rank, keep
        objective = model.objective
        # a critic of codes may draw points between them; one of data would decode all of a batch
        codes = objective.divergence is not None and objective.data_critic is None
        # an objective that is not a mean over rows sees the whole batch
        self.whole = world_size > 1 and (objective.nonlinear or codes)
        self.latest: ForwardOutput | None = None
        self._terms_of = _compiled(model) if compiled else model.terms

    def forward(self, x: Tensor, step: int, part: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this process's rows and what it is made of.

        Args:
            x: [b, …].
            step: number of steps taken.
            part: 0 for the autoencoder's loss; k ≥ 1 for that of the critics' k-th step, which
                has draws of its own and comes without parts.
        """
        with torch.set_grad_enabled(part == 0):
            terms = self.terms(x, step, part)
        self._seed(x.device, Stream.OBJECTIVE, step, part, 0 if self.whole else self.rank)
        if part > 0:
            return self.model.objective.critic_loss(terms), {}
        if self.keep:
            self.latest = detached(terms)
        loss = self.model.objective(terms, step)
        return loss.total, dict(loss.parts)

    def terms(self, x: Tensor, step: int, part: int) -> ForwardOutput:
        """Forward output of rows [b, …], gathered where the objective needs it."""
        draws = generator(x.device, seed_of(self.seed, Stream.NOISE, step, part))
        # drawn for the whole batch, so that a row's noise does not depend on the processes
        size = (self.batch_size, self.model.prior.dim)
        noise = torch.randn(size, generator=draws, device=x.device, dtype=x.dtype)
        prior_sample = self.model.prior.sample(self.batch_size, generator=draws, like=noise)
        own = slice(self.rank * len(x), (self.rank + 1) * len(x))
        self._seed(x.device, Stream.NETWORK, step, part, self.rank)
        terms = self._terms_of(x, noise[own], prior_sample[own])
        return gather(terms) if self.whole else terms

    def _seed(self, device: torch.device, stream: Stream, step: int, part: int, rank: int) -> None:
        seed_global(device, seed_of(self.seed, stream, step, part, rank))


def _compiled(model: VAE) -> Callable[[Tensor, Tensor, Tensor], ForwardOutput]:
    networks = torch.compile(model.terms)

    def terms(x: Tensor, noise: Tensor, prior_sample: Tensor) -> ForwardOutput:
        # the compiler looks at .grad of what it is given, which warns for a learned prior's draws
        return replace(networks(x, noise, prior_sample.detach()), prior_sample=prior_sample)

    return terms
