"""From a model and data to a trained model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from vae.data.data import Data
from vae.model import VAE
from vae.training.alarms import Alarms
from vae.training.arguments import (
    check_networks,
    check_options,
    dtype_of,
    make_plan,
    size_known,
    warn_of_schedule,
)
from vae.training.batches import Batches, Plan, Rows
from vae.training.callbacks import Checks, Progress, say
from vae.training.checkpoints import (
    LAST,
    check_fit,
    check_optimizers,
    load_weights,
    parameters_of,
    read_checkpoint,
    remove_leftovers,
)
from vae.training.heldout import HeldOut, most_rows
from vae.training.identity import RunSettings, describe
from vae.training.interruption import Interruption
from vae.training.metrics import Row, read_metrics, write_metrics
from vae.training.module import TrainingModule
from vae.training.records import KEY
from vae.training.trainer import Hardware, on_first_process, train

History = list[Row]
"""One row per check, as in metrics.csv: ``step`` and ``epoch`` done, the means since the last row
of ``loss`` and what it is made of, ``heldout_…`` of the same, ``learning_rate``, ``schedule`` (of
the rate, now), ``seconds``."""


def fit(
    model: VAE,
    data: Tensor | NDArray[Any] | Data,
    *,
    epochs: int,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    seed: int = 0,
    critic_learning_rate: float | None = None,
    critic_steps: int = 1,
    heldout: Tensor | NDArray[Any] | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    precision: str = "32-true",
    compile: bool = False,
    patience: int | None = None,
    check_every: int | None = None,
    folder: Path | str | None = None,
    resume: bool = False,
    live_plots: bool = False,
    progress: bool = True,
) -> History:
    """Train ``model`` in place; on a CPU, at one number of threads, two calls with the same
    arguments are bit-equal, also where one of them was killed and resumed.

    Adam with a cosine decay to zero over the run; critics have one of their own, whose rate stays.
    Every epoch is a new permutation of the rows, less those that do not fill a last batch. torch's
    global generators, and the modes of the model, are left as they were.

    Args:
        model: to be trained.
        data: ``Data``, or training rows [N, …], finite and within the likelihood's support; floats
            of any width, trained on in the model's.
        epochs: passes over the data.
        batch_size: rows per step, all devices together, at least 2; N if that is less, which is
            said.
        learning_rate: at the first step.
        seed: of the order of the rows and of every draw, in [0, 2³¹).
        critic_learning_rate: of adversarial objectives, constant; ``learning_rate`` if None.
        critic_steps: steps of the critics to one of the autoencoder.
        heldout: [H, …] rows for the loss that selects; those of ``Data`` if None. At most 2000 are
            looked at.
        accelerator: Lightning's, e.g. "auto" or "cpu".
        devices: number of them; an objective that is not linear in its rows sees all of a batch.
            Dropout is drawn on each device; all else is as on one, up to rounding.
        precision: Lightning's, e.g. "bf16-mixed"; "64-true" leaves the model in fp64.
        compile: encoder, decoder and terms by ``torch.compile``.
        patience: stop after so many epochs without a better held-out loss; this cuts the decay of
            the learning rate short. Not with critics, whose estimates at different steps do not
            compare.
        check_every: steps between checks; one epoch if None.
        folder: for checkpoints/last.ckpt, checkpoints/best.ckpt (least held-out loss, schedules at
            their end; with critics the newest) and metrics.csv; None writes nothing.
        resume: go on from checkpoints/last.ckpt with the same model, settings and data; another
            accelerator is allowed. Of a finished training it only loads the weights.
        live_plots: redraw curves.png in the folder as the training goes.
        progress: show the bar and the line of effective weights.

    Returns:
        The history, one row per check, those before a resume included.

    Raises:
        ValueError: arguments out of range; data that cannot be trained on; a checkpoint that is
            damaged or of another run.
        TrainingDiverged: a term became infinite or NaN (a ValueError).
        FileNotFoundError: nothing to resume.
        FileExistsError: the folder holds a training, and ``resume`` is not set.
        OSError: the folder cannot be written; checkpoints that are there stay as they are.
        KeyboardInterrupt: Ctrl-C, after the current step and a checkpoint; a second one at once.
            Also where the training ended before it could stop.
    """
    folder = None if folder is None else Path(folder)
    if folder is None and (resume or live_plots):
        raise ValueError("resume and live_plots need a folder")
    rows = Rows.of(data, heldout, dtype_of(model, precision))
    plan = make_plan(rows, epochs, batch_size, seed, devices)
    check_options(
        model, rows, critic_steps=critic_steps, patience=patience, check_every=check_every
    )
    rows.check(model)
    check_networks(model, rows)
    warn_of_schedule(model, plan)
    checksum, heldout_checksum = (0, 0) if folder is None else rows.checksums()
    settings = RunSettings(
        epochs=epochs,
        batch_size=plan.batch_size,
        learning_rate=learning_rate,
        critic_learning_rate=(
            learning_rate if critic_learning_rate is None else critic_learning_rate
        ),
        critic_steps=critic_steps,
        seed=seed,
        devices=devices,
        precision=str(precision),
        patience=patience,
        check_every=check_every,
        rows=len(rows),
        checksum=checksum,
        heldout=heldout_checksum,
        model=describe(model),
    )
    checkpoint = None if folder is None else folder / "checkpoints" / LAST
    start, finished = _start(model, checkpoint, settings, resume=resume)
    shown = progress and on_first_process()
    if shown:
        print(model.weights(), flush=True)
    history = _open_folder(folder, start)
    if finished:
        assert checkpoint is not None
        load_weights(model, checkpoint)
        if shown:
            print(f"this training has ended, after {start} of {plan.n_steps} steps: nothing to do")
        return history

    if batch_size > len(rows) and on_first_process():
        say(f"batch_size {batch_size} > {len(rows)} rows: {plan.batch_size} are used")
    module = TrainingModule(
        model, settings, Batches(rows, plan, seed=seed, start=start), compiled=compile
    )
    with size_known(model, len(rows)), Interruption() as interruption:
        checks = Checks(
            plan,
            every=plan.steps_per_epoch if check_every is None else check_every,
            heldout=_heldout(model, rows, plan, seed),
            patience=None if patience is None else patience * plan.steps_per_epoch,
            folder=folder,
            rows=history,
            interruption=interruption,
            alarms=Alarms(
                say, n_steps=plan.n_steps, schedule_steps=model.objective.rate.schedule.length
            ),
            draw=_drawing() if live_plots else None,
        )
        bar = Progress(plan, checks, visible=shown)
        try:
            torn = train(
                module,
                [checks, bar],
                Hardware(accelerator, devices, precision),
                checkpoint if start else None,
            )
        finally:
            bar.close()
    if torn or checks.interrupted or interruption.requested:
        ended = checks.stopped_early or module.step == plan.n_steps
        raise KeyboardInterrupt(
            _interrupted(plan, module.step, checkpoint, saved=not torn, ended=ended and not torn)
        )
    return history


# --- Before ---------------------------------------------------------------------------------------


def _heldout(model: VAE, rows: Rows, plan: Plan, seed: int) -> HeldOut | None:
    if rows.heldout is None:
        return None
    chosen = rows.heldout.to(rows.dtype)
    return HeldOut(chosen, batch_size=plan.batch_size, seed=seed, most=most_rows(model))


def _start(
    model: VAE, path: Path | None, settings: RunSettings, *, resume: bool
) -> tuple[int, bool]:
    """The steps that are done, and whether that is all of them."""
    if path is None:
        return 0, False
    if not resume:
        if path.exists():
            raise FileExistsError(
                f"{path} is there: resume that training (resume=True), or take another folder"
            )
        return 0, False
    checkpoint = read_checkpoint(path)
    record = checkpoint[KEY]
    settings.check(path, record["settings"])
    check_fit(path, parameters_of(checkpoint), model)
    check_optimizers(path, checkpoint["optimizer_states"], model)
    ended = (
        record["step"] >= record["n_steps"] or checkpoint["callbacks"]["Checks"]["stopped_early"]
    )
    return record["step"], bool(ended)


def _open_folder(folder: Path | None, start: int) -> History:
    """The rows of metrics up to ``start``, to which the file is cut."""
    if folder is None:
        return []
    path = folder / "metrics.csv"
    history = read_metrics(path, up_to=start) if start else []
    if on_first_process():
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder / "checkpoints")
        write_metrics(path, history)
    return history


def _drawing() -> Callable[[list[Row], Path], None]:
    """Imported before the training, so that it does not fail in the middle of it."""
    from vae.training.curves import save_curves

    return save_curves


def _interrupted(
    plan: Plan, step: int, checkpoint: Path | None, *, saved: bool, ended: bool
) -> str:
    done = step // plan.steps_per_epoch
    text = (
        f"training {'ended before Ctrl-C could stop it,' if ended else 'interrupted'} after {done} "
        f"of {plan.epochs} epochs (step {step} of {plan.n_steps})"
    )
    if checkpoint is None:
        return text
    if not saved:
        return f"{text}; not saved since the last check"
    return f"{text}; {checkpoint} holds its state" + (
        "" if ended else ": resume goes on from there"
    )
