"""The steps: one optimizer, or one for the autoencoder and one for its critics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from vae._extras import needs_extra
from vae.model import VAE
from vae.terms import Loss, Terms
from vae.training.batches import Batches
from vae.training.checkpoints import FORMAT
from vae.training.distributed import detached, gather
from vae.training.draws import Stream, generator, seed_global, seed_of
from vae.training.identity import RunSettings
from vae.training.records import KEY
from vae.training.watch import Watch

with needs_extra():
    import lightning

CRITIC_BETAS = (0.5, 0.999)  # Radford, Metz & Chintala 2016 (arXiv:1511.06434), sec. 4


class TrainingModule(lightning.LightningModule):
    """Adam with a cosine decay to zero over the run, and for critics at a constant rate; every
    draw is a function of (seed, step).

    Args:
        model: to be trained.
        settings: of the run.
        batches: of the steps that are left.
        compiled: encoder, decoder and terms go through ``torch.compile``.

    Attributes:
        step: steps done.
        watch: the means of what the losses are made of since the last look.
        latest: the terms of the latest step, detached, of this process.
    """

    def __init__(
        self, model: VAE, settings: RunSettings, batches: Batches, *, compiled: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.batches = batches
        self.n_steps = batches.plan.n_steps
        self.step = batches.start
        self.watch = Watch()
        self.latest: Terms | None = None
        self.adversarial = model.objective.adversarial
        self.automatic_optimization = not self.adversarial
        self._terms_of = _compiled(model) if compiled else model.terms

    # --- Steps ---

    def training_step(self, x: Tensor) -> Tensor | None:
        self._set_learning_rate()
        terms, loss = self.evaluate(x)
        parts = {"loss": loss.total, **loss.parts}
        if self.adversarial:
            parts["critic_loss"] = self._adversarial_step(x, loss.total)
        self.watch.add(parts, self.step)
        self.latest = detached(terms)
        self.step += 1
        return None if self.adversarial else loss.total

    def evaluate(self, x: Tensor) -> tuple[Terms, Loss]:
        """Terms and loss of this process's rows [b, …]; the loss is of the whole batch where the
        objective is not linear in its rows."""
        terms = self._terms(x, part=0)
        self._seed(Stream.OBJECTIVE, 0)
        return terms, self.model.objective(terms, self.step)

    def _adversarial_step(self, x: Tensor, loss: Tensor) -> Tensor:
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        autoencoder, critics = optimizers
        autoencoder.zero_grad()
        self.manual_backward(loss)
        autoencoder.step()
        critic_loss = loss.new_zeros(())
        for part in range(1, self.settings.critic_steps + 1):
            with torch.no_grad():
                terms = self._terms(x, part)
            self._seed(Stream.OBJECTIVE, part)
            critic_loss = self.model.objective.critic_loss(terms)
            critics.zero_grad()
            self.manual_backward(critic_loss)
            critics.step()
            self.model.objective.after_critic_step()
        return critic_loss

    def _terms(self, x: Tensor, part: int) -> Terms:
        seed = seed_of(self.settings.seed, Stream.NOISE, self.step, part)
        draws = generator(x.device, seed)
        size, dim = self.settings.batch_size, self.model.prior.dim
        # drawn for the whole batch, so that a row's noise does not depend on the processes
        noise = torch.randn(size, dim, generator=draws, device=x.device, dtype=x.dtype)
        prior_sample = self.model.prior.sample(size, generator=draws, like=noise)
        own = slice(self.global_rank * len(x), (self.global_rank + 1) * len(x))
        self._seed(Stream.NETWORK, part, self.global_rank)
        terms: Terms = self._terms_of(x, noise[own], prior_sample[own])
        return gather(terms, self._all_gather) if self._gathers else terms

    # --- Details ---

    def train_dataloader(self) -> Batches:
        return replace(
            self.batches, rank=self.trainer.global_rank, world_size=self.trainer.world_size
        )

    @property
    def _gathers(self) -> bool:
        objective = self.model.objective
        # a critic of codes may draw points between them; one of data would decode all of a batch
        codes = objective.divergence is not None and objective.data_critic is None
        return self.trainer.world_size > 1 and (objective.nonlinear or codes)

    def _all_gather(self, rows: Tensor) -> Tensor:
        gathered = self.all_gather(rows, sync_grads=rows.requires_grad)
        assert isinstance(gathered, Tensor)
        return gathered

    def _seed(self, stream: Stream, part: int, rank: int | None = None) -> None:
        if rank is None:
            rank = 0 if self._gathers else self.global_rank
        seed_global(self.device, seed_of(self.settings.seed, stream, self.step, part, rank))

    @property
    def decay(self) -> float:
        """Of the learning rate, now."""
        return 0.5 + 0.5 * math.cos(math.pi * self.step / self.n_steps)

    def _set_learning_rate(self) -> None:
        """Of the autoencoder. Critics keep theirs: they have to follow it to the end."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.settings.learning_rate * self.decay

    def configure_optimizers(self) -> Any:
        autoencoder = torch.optim.Adam(
            self.model.autoencoder_parameters(), lr=self.settings.learning_rate
        )
        if not self.adversarial:
            return autoencoder
        critics = torch.optim.Adam(
            self.model.objective.parameters(),
            lr=self.settings.critic_learning_rate,
            betas=CRITIC_BETAS,
        )
        return [autoencoder, critics]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = {
            "format": FORMAT,
            "step": self.step,
            "n_steps": self.n_steps,
            "settings": asdict(self.settings),
            "watch": self.watch.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.watch.load_state_dict(checkpoint[KEY]["watch"])


def _compiled(model: VAE) -> Callable[[Tensor, Tensor, Tensor], Terms]:
    """``model.terms``, compiled."""
    networks = torch.compile(model.terms)

    def terms(x: Tensor, noise: Tensor, prior_sample: Tensor) -> Terms:
        # the compiler looks at .grad of what it is given, which warns for a learned prior's draws
        return replace(networks(x, noise, prior_sample.detach()), prior_sample=prior_sample)

    return terms
