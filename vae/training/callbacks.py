"""Checks at intervals: metrics, alarms, checkpoints, early stopping; the bar; the way out."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from vae._extras import needs_extra
from vae.training.alarms import Alarms
from vae.training.batches import Plan
from vae.training.checkpoints import BEST, LAST
from vae.training.errors import TrainingDiverged
from vae.training.heldout import HeldOut
from vae.training.interruption import Interruption
from vae.training.metrics import Row, append_metrics
from vae.training.module import TrainingModule

with needs_extra():
    from lightning import Callback, Trainer
    from tqdm import tqdm

WATCH_EVERY = 50  # steps between looks at whether all was finite
REDRAW_EVERY = 5.0  # seconds between pictures, at least


class Checks(Callback):
    """Every ``every`` steps: a row of metrics, alarms, checkpoints, perhaps the end.

    Args:
        plan: of the run.
        every: steps between checks; there is one at the end in any case.
        heldout: the loss that selects; None for none.
        patience: steps without a better held-out loss after which the training stops.
        folder: where everything goes; None writes nothing.
        rows: of the metrics so far.
        interruption: asked after every step.
        alarms: told the terms of every check.
        draw: called with all rows and a path now and then, for a live plot.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        every: int,
        heldout: HeldOut | None,
        patience: int | None,
        folder: Path | None,
        rows: list[Row],
        interruption: Interruption,
        alarms: Alarms,
        draw: Callable[[list[Row], Path], None] | None,
    ) -> None:
        self.plan, self.every, self.heldout = plan, every, heldout
        self.patience, self.folder, self.rows = patience, folder, rows
        self.interruption, self.alarms, self.draw = interruption, alarms, draw
        self.best, self.best_step, self.seconds = math.inf, 0, 0.0
        self.stopped_early = self.interrupted = False
        self._clock = self._drawn = time.monotonic()

    # --- Hooks ---

    def on_train_start(self, *_: object) -> None:
        self._clock = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: object) -> None:
        step = module.step
        due = step % self.every == 0 or step == self.plan.n_steps
        leaving = self._leaving(trainer)
        if due or leaving or step % WATCH_EVERY == 0:
            self._refuse_divergence(trainer, module, thorough=due or leaving)
        if due:
            self._check(trainer, module)
        elif leaving:
            self._save(trainer, LAST)
        if leaving and step < self.plan.n_steps:
            self.interrupted = trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        now = self.seconds + time.monotonic() - self._clock
        return {
            "best": self.best,
            "best_step": self.best_step,
            "seconds": now,
            "stopped_early": self.stopped_early,
            "alarms": self.alarms.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_step = state["best"], state["best_step"]
        self.seconds = state["seconds"]
        self.alarms.load_state_dict(state["alarms"])

    # --- A check ---

    def _check(self, trainer: Trainer, module: TrainingModule) -> None:
        row = self._row(trainer, module)
        module.watch.clear()
        if not all(map(math.isfinite, row.values())):
            name = next(name for name, value in row.items() if not math.isfinite(value))
            raise self._diverged(f"{name} is {row[name]:g}", module)
        self.rows.append(row)
        if self.folder is not None and trainer.is_global_zero:
            append_metrics(self.folder / "metrics.csv", row)
        # critics move: their losses at different steps do not compare, and the newest is the best
        better = module.adversarial or row.get("heldout_loss", math.inf) < self.best
        if self.heldout is not None and better:
            self.best, self.best_step = row["heldout_loss"], module.step
            self._save(trainer, BEST)
        waited = module.step - self.best_step
        if self.patience is not None and waited >= self.patience:
            self.stopped_early = trainer.should_stop = True
        ended = self.stopped_early or module.step == self.plan.n_steps
        if ended:
            self.alarms.finish()
        self._save(trainer, LAST)
        self._redraw(trainer, last=ended or trainer.should_stop)

    def _row(self, trainer: Trainer, module: TrainingModule) -> Row:
        """The same on every process."""
        means = trainer.strategy.reduce(module.watch.means(), reduce_op="mean")
        assert isinstance(means, Tensor)
        row: Row = {"step": module.step, "epoch": module.step / self.plan.steps_per_epoch}
        row.update(zip(module.watch.names, means.tolist(), strict=True))
        row.update(trainer.strategy.broadcast(self._look(trainer, module)))
        rate = module.model.objective.rate
        row["learning_rate"] = module.settings.learning_rate * module.decay
        row["schedule"] = float(rate.schedule(module.step))
        row["seconds"] = round(self.seconds + time.monotonic() - self._clock, 3)
        return row

    def _look(self, trainer: Trainer, module: TrainingModule) -> Row:
        """Held-out losses and alarms, on one process alone."""
        if not trainer.is_global_zero:
            return {}
        if self.heldout is None:
            assert module.latest is not None
            self.alarms.check(module.latest, module.step)
            return {}
        plugin = trainer.precision_plugin
        terms, loss = self.heldout(
            module.model,
            device=module.device,
            dtype=plugin.convert_input(self.heldout.rows[:0]).dtype,
            context=plugin.forward_context(),
        )
        self.alarms.check(terms, module.step)
        parts = {"loss": loss.total, **loss.parts}
        return {f"heldout_{name}": float(value) for name, value in parts.items()}

    def _save(self, trainer: Trainer, name: str) -> None:
        if self.folder is not None:
            trainer.save_checkpoint(self.folder / "checkpoints" / name)

    def _redraw(self, trainer: Trainer, *, last: bool) -> None:
        if self.draw is None or self.folder is None or not trainer.is_global_zero:
            return
        if last or time.monotonic() - self._drawn > REDRAW_EVERY:
            self.draw(self.rows, self.folder / "curves.png")
            self._drawn = time.monotonic()

    # --- Ends ---

    def _leaving(self, trainer: Trainer) -> bool:
        """Ctrl-C or SIGTERM, on any process."""
        asked = self.interruption.requested or trainer.received_sigterm
        if trainer.world_size == 1:
            return asked
        return bool(trainer.strategy.reduce_boolean_decision(asked, all=False))

    def _refuse_divergence(
        self, trainer: Trainer, module: TrainingModule, *, thorough: bool
    ) -> None:
        """Before anything is written: what is there stays the last that was good."""
        bad = module.watch.bad
        if trainer.world_size > 1:
            bad = bool(trainer.strategy.reduce_boolean_decision(bad, all=False))
        if bad:
            raise module.watch.diverged(self.plan.steps_per_epoch)
        if thorough:
            for name, parameter in module.model.named_parameters():
                if not parameter.detach().isfinite().all():
                    raise self._diverged(f"the parameter {name} is not finite", module)

    def _diverged(self, what: str, module: TrainingModule) -> TrainingDiverged:
        return TrainingDiverged(
            f"training diverged: {what} after step {module.step} (epoch "
            f"{(module.step - 1) // self.plan.steps_per_epoch + 1}); "
            "try a smaller λ or learning rate, or a larger σ²"
        )


class Progress(Callback):
    """One bar over all epochs (Lightning's own has one per epoch)."""

    def __init__(self, plan: Plan, checks: Checks, *, visible: bool) -> None:
        self.plan, self.checks = plan, checks
        self._bar = tqdm(
            total=plan.epochs,
            desc="training",
            unit="epoch",
            disable=not visible,
            file=sys.stderr,
            dynamic_ncols=True,
        )

    def on_train_start(self, _: Trainer, module: Any) -> None:
        self._bar.initial = self._bar.n = module.step // self.plan.steps_per_epoch
        self._bar.unpause()

    def on_train_batch_end(self, _: Trainer, module: Any, *__: object) -> None:
        done = module.step // self.plan.steps_per_epoch
        if done == self._bar.n:
            return
        if self.checks.rows:
            shown = {n: v for n, v in self.checks.rows[-1].items() if n not in UNSHOWN}
            self._bar.set_postfix({n: f"{v:.4g}" for n, v in shown.items()}, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        self._bar.close()


UNSHOWN = frozenset({"step", "epoch", "learning_rate", "schedule", "seconds"})


def say(text: str) -> None:
    """A line on stderr that leaves the bar where it is."""
    tqdm.write(f"warning: {text}", file=sys.stderr)
