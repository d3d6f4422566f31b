"""The training loop: steps, checks, checkpoints."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae._extras import needs_extra
from vae.model import VAE
from vae.training.alarms import Alarms
from vae.training.arguments import dtype_of
from vae.training.batches import Batches, Plan, Rows
from vae.training.checkpoints import (
    BEST,
    FORMAT,
    KEY,
    LAST,
    PREFIX,
    parameters_of,
    remove_leftovers,
    write_checkpoint,
)
from vae.training.fingerprint import Settings
from vae.training.heldout import HeldOut, most_rows
from vae.training.losses import Losses
from vae.training.means import RunningMeans, TrainingDiverged
from vae.training.metrics import Row, append_metrics, read_metrics, write_metrics
from vae.training.signals import StopSignals

with needs_extra():
    from lightning.fabric import Fabric
    from tqdm import tqdm

History = list[Row]
"""One row per check, as in metrics.csv: ``step`` and ``epoch`` done, the means since the last row
of ``loss`` and what it is made of, ``heldout_…`` of the same, ``learning_rate``, ``schedule`` (of
the rate, now), ``seconds``."""

CRITIC_BETAS = (0.5, 0.999)  # Radford, Metz & Chintala 2016 (arXiv:1511.06434), sec. 4
CLASSES = {"adam": "Adam", "adamw": "AdamW", "nadam": "NAdam", "radam": "RAdam"}  # of torch.optim
FINITE_EVERY = 50  # steps between looks at whether all was finite
REDRAW_EVERY = 5.0  # seconds between pictures, at least
TERMINATED = 128 + 15  # the exit code of a process that SIGTERM ended
NOT_IN_BAR = frozenset({"step", "epoch", "learning_rate", "schedule", "seconds"})


class Training:
    """One training: model, optimizers and what a checkpoint holds besides. ``fabric`` is launched;
    without a ``folder`` nothing is written; ``shown``: with a progress bar; ``draw`` is called with
    the history and a path now and then, for a live plot."""

    draw: Callable[[History, Path], None] | None = None

    def __init__(
        self, fabric: Fabric, model: VAE, settings: Settings, rows: Rows, plan: Plan, *,
        folder: Path | None, compiled: bool, shown: bool,
    ) -> None:  # fmt: skip
        self.fabric, self.model, self.settings = fabric, model, settings
        self.rows, self.plan, self.folder, self.shown = rows, plan, folder, shown
        self.every = settings.check_every or plan.steps_per_epoch
        self.step, self.history, self.means = 0, History(), RunningMeans()
        self.best, self.best_step, self.seconds, self.stopped_early = math.inf, 0, 0.0, False
        self._clock = self._drawn = time.monotonic()
        schedule, prior = model.objective.rate.schedule, model.objective.matches_prior
        self.alarms = Alarms(say, n_steps=plan.n_steps, schedule_steps=schedule.length, prior=prior)
        self.heldout = None
        if rows.heldout is not None:
            chosen = rows.heldout.to(rows.dtype)
            self.heldout = HeldOut(
                chosen, batch_size=plan.batch_size, seed=settings.seed, most=most_rows(model)
            )
        self.adversarial = model.objective.adversarial
        losses = Losses(
            model, batch_size=plan.batch_size, seed=settings.seed, rank=fabric.global_rank,
            world_size=fabric.world_size, compiled=compiled, keep=self.heldout is None,
        )  # fmt: skip
        make = getattr(torch.optim, CLASSES[settings.optimizer])
        first = make(model.autoencoder_parameters(), lr=settings.learning_rate)
        self.optimizers: list[torch.optim.Optimizer] = [first]
        if self.adversarial:
            critics, rate = list(model.objective.parameters()), settings.critic_learning_rate
            self.optimizers.append(torch.optim.Adam(critics, lr=rate, betas=CRITIC_BETAS))
        self.losses = losses
        self._wrapped, *self._stepping = fabric.setup(losses, *self.optimizers)

    @property
    def ended(self) -> bool:
        return self.stopped_early or self.step == self.plan.n_steps

    @property
    def decay(self) -> float:
        """Of the autoencoder's learning rate, now: a cosine to 0 at the end of the run, or none."""
        if self.settings.decay == "none":
            return 1.0
        return 0.5 + 0.5 * math.cos(math.pi * self.step / self.plan.n_steps)

    # --- The loop ---

    def train(self) -> None:
        """The steps that are left, with a check after every ``every`` of them and at the end.

        Raises:
            KeyboardInterrupt, SystemExit, TrainingDiverged, OSError: see `fit`.
        """
        self._clock = self._drawn = time.monotonic()
        saved = True
        batches = Batches(
            self.rows, self.plan, seed=self.settings.seed, start=self.step,
            rank=self.fabric.global_rank, world_size=self.fabric.world_size,
        )  # fmt: skip
        with StopSignals() as signals, self._bar() as bar:
            try:
                for x in batches:
                    self.take_step(x.to(self.fabric.device))
                    due = self.step % self.every == 0 or self.step == self.plan.n_steps
                    stop = self._any(signals.received)
                    if due or stop or self.step % FINITE_EVERY == 0:
                        self._refuse_divergence(parameters=due or stop)
                    if due:
                        self.check()
                    elif stop:
                        self.save(LAST)
                    self._advance(bar)
                    if stop or self.ended:
                        break
            except KeyboardInterrupt:
                saved = False
        if signals.terminated:
            raise SystemExit(TERMINATED)
        if signals.interrupted or not saved:
            raise KeyboardInterrupt(self._interrupted(saved=saved))

    def take_step(self, x: Tensor) -> None:
        """One step of the autoencoder, and after it those of its critics, on rows [b, …]."""
        for group in self.optimizers[0].param_groups:  # critics have to follow to the end
            group["lr"] = self.settings.learning_rate * self.decay
        loss, parts = self._wrapped(x, self.step)
        self._descend(0, loss)
        if self.adversarial:
            critic_loss = loss
            for part in range(1, self.settings.critic_steps + 1):
                critic_loss, _ = self._wrapped(x, self.step, part)
                self._descend(1, critic_loss)
                self.model.objective.after_critic_step()
            parts = {**parts, "critic_loss": critic_loss}
        self.means.add({"loss": loss, **parts}, self.step)
        self.step += 1

    def _descend(self, which: int, loss: Tensor) -> None:
        self._stepping[which].zero_grad()
        self.fabric.backward(loss)
        if which == 0 and self.settings.clip_norm is not None:
            self.fabric.clip_gradients(
                self._wrapped, self._stepping[0], max_norm=self.settings.clip_norm
            )
        self._stepping[which].step()

    # --- Checks ---

    def check(self) -> None:
        """A row of metrics, alarms, checkpoints, perhaps the end of the training."""
        row = self._row()
        self.means.clear()
        for name, value in row.items():
            if not math.isfinite(value):
                raise self._diverged(f"{name} is {value:g}")
        self.history.append(row)
        if self.folder is not None and self.fabric.is_global_zero:
            append_metrics(self.folder / "metrics.csv", row)
        step = int(row["step"])
        self.fabric.log_dict({n: v for n, v in row.items() if n != "step"}, step)
        self.fabric.call("on_check", model=self.model, row=row)
        # critics move: their losses at different steps do not compare, and the newest is the best
        better = self.adversarial or row.get("heldout_loss", math.inf) < self.best
        if self.heldout is not None and better:
            self.best, self.best_step = row["heldout_loss"], self.step
            self.save(BEST)
        patience = self.settings.patience
        if patience is not None:
            waited = self.step - self.best_step
            self.stopped_early = waited >= patience * self.plan.steps_per_epoch
        if self.ended:
            self.alarms.finish()
            self.fabric.call("on_train_end", model=self.model)
        self.save(LAST)
        if self.draw is not None and self.folder is not None and self.fabric.is_global_zero:
            now = time.monotonic()
            if self.ended or now - self._drawn > REDRAW_EVERY:
                self.draw(self.history, self.folder / "curves.png")
                self._drawn = now

    def _row(self) -> Row:
        """The same on every process."""
        row: Row = {"step": self.step, "epoch": self.step / self.plan.steps_per_epoch}
        means = self.fabric.all_reduce(self.means.means(), reduce_op="mean")
        assert isinstance(means, Tensor)
        row.update(zip(self.means.names, means.tolist(), strict=True))
        row.update(self.fabric.broadcast(self._look() if self.fabric.is_global_zero else {}))
        row["learning_rate"] = self.settings.learning_rate * self.decay
        row["schedule"] = float(self.model.objective.rate.schedule(self.step))
        row["seconds"] = round(self._elapsed(), 3)
        return row

    def _look(self) -> Row:
        """Held-out losses; the alarms look at the same rows, or at those of the latest batch."""
        if self.heldout is None:
            assert self.losses.latest is not None
            self.alarms.check(self.losses.latest, self.step)
            return {}
        terms, loss = self.heldout(
            self.model,
            device=self.fabric.device,
            dtype=dtype_of(self.model),
            context=self.fabric.autocast(),
        )
        self.alarms.check(terms, self.step)
        parts = {"loss": loss.total, **loss.parts}
        return {f"heldout_{name}": float(value) for name, value in parts.items()}

    def _refuse_divergence(self, *, parameters: bool) -> None:
        """Before anything is written: what is there stays the last that was good."""
        if self._any(self.means.bad):
            raise self.means.diverged(self.plan.steps_per_epoch)
        if parameters:
            for name, parameter in self.model.named_parameters():
                if not parameter.detach().isfinite().all():
                    raise self._diverged(f"the parameter {name} is not finite")

    def _diverged(self, what: str) -> TrainingDiverged:
        epoch = (self.step - 1) // self.plan.steps_per_epoch + 1
        return TrainingDiverged(f"{what} after step {self.step} (epoch {epoch})")

    def _any(self, flag: bool) -> bool:
        """On any process."""
        if self.fabric.world_size == 1:
            return flag
        flags = self.fabric.all_reduce(torch.tensor(float(flag)), reduce_op="sum")
        return bool(flags)

    # --- The bar and the message of an interruption ---

    def _bar(self) -> Any:
        done = self.step // self.plan.steps_per_epoch
        return tqdm(
            total=self.plan.epochs, initial=done, desc="training", unit="epoch",
            disable=not self.shown, file=sys.stderr, dynamic_ncols=True,
        )  # fmt: skip

    def _advance(self, bar: Any) -> None:
        done = self.step // self.plan.steps_per_epoch
        if done == bar.n:
            return
        if self.history:
            shown = {n: v for n, v in self.history[-1].items() if n not in NOT_IN_BAR}
            bar.set_postfix({n: f"{v:.4g}" for n, v in shown.items()}, refresh=False)
        bar.update(done - bar.n)

    def _interrupted(self, *, saved: bool) -> str:
        ended = self.ended and saved
        done = self.step // self.plan.steps_per_epoch
        text = (
            f"training {'ended before Ctrl-C could stop it,' if ended else 'interrupted'} after "
            f"{done} of {self.plan.epochs} epochs (step {self.step} of {self.plan.n_steps})"
        )
        if self.folder is None:
            return text
        if not saved:
            return f"{text}; not saved since the last check"
        text += f"; {self.folder / 'checkpoints' / LAST} holds its state"
        return text if ended else f"{text}: resume goes on from there"

    # --- Files ---

    def open_folder(self) -> None:
        """Reads the rows of metrics up to now, to which the file is cut."""
        if self.folder is None:
            return
        path = self.folder / "metrics.csv"
        self.history = read_metrics(path, up_to=self.step) if self.step else []
        if self.fabric.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder / "checkpoints")
            write_metrics(path, self.history)

    def save(self, name: str) -> None:
        """Writes a checkpoint, on the first process."""
        if self.folder is not None and self.fabric.is_global_zero:
            write_checkpoint(self.folder / "checkpoints" / name, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """As ``vae.training.checkpoints.SCHEMA`` says."""
        return {
            "state_dict": {PREFIX + n: v for n, v in self.model.state_dict().items()},
            "optimizer_states": [optimizer.state_dict() for optimizer in self.optimizers],
            "callbacks": {
                "Checks": {
                    "best": self.best,
                    "best_step": self.best_step,
                    "seconds": self._elapsed(),
                    "stopped_early": self.stopped_early,
                    "alarms": self.alarms.state_dict(),
                }
            },
            KEY: {
                "format": FORMAT,
                "step": self.step,
                "n_steps": self.plan.n_steps,
                "settings": asdict(self.settings),
                "watch": self.means.state_dict(),
            },
        }

    def load_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError for optimizers of another training."""
        self.model.load_state_dict(parameters_of(checkpoint))
        try:
            states = zip(self.optimizers, checkpoint["optimizer_states"], strict=True)
            for optimizer, state in states:
                optimizer.load_state_dict(state)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{LAST} is of another training: {error}") from error
        checks = checkpoint["callbacks"]["Checks"]
        self.best, self.best_step = checks["best"], checks["best_step"]
        self.seconds, self.stopped_early = checks["seconds"], checks["stopped_early"]
        self.alarms.load_state_dict(checks["alarms"])
        self.step = checkpoint[KEY]["step"]
        self.means.load_state_dict(checkpoint[KEY]["watch"])

    def _elapsed(self) -> float:
        """Seconds of training, those before a resume included."""
        return self.seconds + time.monotonic() - self._clock


def say(text: str) -> None:
    """A line on stderr that leaves the bar where it is."""
    tqdm.write(f"warning: {text}", file=sys.stderr)
