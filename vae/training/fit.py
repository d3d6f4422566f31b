"""Training a model: `fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from vae.config import Decay, OptimizerName
from vae.data.data import Data
from vae.model import VAE, in_mode
from vae.training.arguments import prepare, size_known
from vae.training.checkpoints import KEY, LAST, check_fit, locked, parameters_of, read_checkpoint
from vae.training.devices import make_fabric, reproducible
from vae.training.fingerprint import Settings
from vae.training.loop import History, Training, say


def fit(
    model: VAE,
    data: Tensor | NDArray[Any] | Data,
    *,
    epochs: int,
    batch_size: int = 100,
    learning_rate: float = 2e-3,
    seed: int = 0,
    critic_learning_rate: float | None = None,
    critic_steps: int = 1,
    decay: Decay = "cosine",
    optimizer: OptimizerName = "adam",
    clip_norm: float | None = None,
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
    loggers: Sequence[Any] = (),
    callbacks: Sequence[Any] = (),
) -> History:
    """Train ``model`` in place; on a CPU, at one number of threads, two calls with the same
    arguments are bit-equal, also where one of them was killed and resumed.

    Adam with a cosine decay to zero over the run; critics have an Adam of their own, whose rate
    stays.
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
        decay: of the learning rate over the run, "cosine" to zero or "none".
        optimizer: of the autoencoder, torch's with its defaults: "adam", "adamw", "nadam", "radam".
        clip_norm: scale the autoencoder's gradient to at most this norm; None leaves it.
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
        loggers: Lightning's (TensorBoardLogger, CSVLogger, WandbLogger …); get every row of the
            history.
        callbacks: objects with any of the methods ``on_check(model, row)``, after a check, and
            ``on_train_end(model)``.

    Returns:
        The history, one row per check, those before a resume included.

    Raises:
        ValueError: arguments out of range; data that cannot be trained on; a checkpoint that is
            damaged or of another training.
        TrainingDiverged: a term became infinite or NaN (a ValueError).
        FileNotFoundError: nothing to resume.
        FileExistsError: the folder holds a training, and ``resume`` is not set.
        BlockingIOError: another process trains in the folder.
        OSError: the folder cannot be written; checkpoints that are there stay as they are.
        KeyboardInterrupt: Ctrl-C, after the current step and a checkpoint; a second one at once.
            Also where the training ended before it could stop.
        SystemExit: SIGTERM, after the current step and a checkpoint, with status 143.

    Examples:
        >>> from vae import VAE, BernoulliLikelihood, InfoVAE, StandardNormal, fit, load, mlp
        >>> likelihood, prior = BernoulliLikelihood(), StandardNormal(2)
        >>> model = VAE(mlp(64, 4), mlp(2, 64), likelihood, InfoVAE(lambda_=100.0), prior)
        >>> history = fit(model, load("digits"), epochs=2, accelerator="cpu", progress=False)
        >>> history[1]["loss"] < history[0]["loss"]
        True
    """
    folder = None if folder is None else Path(folder)
    if folder is None and (resume or live_plots):
        raise ValueError("resume and live_plots need a folder")
    rows, plan, settings = prepare(
        model, data, heldout, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        critic_learning_rate=critic_learning_rate, critic_steps=critic_steps, seed=seed,
        devices=devices, precision=str(precision), patience=patience, check_every=check_every,
        decay=decay, optimizer=optimizer, clip_norm=clip_norm,
    )  # fmt: skip
    if folder is not None:
        checksum, heldout_checksum = rows.checksums()
        settings = replace(settings, checksum=checksum, heldout=heldout_checksum)
    with ExitStack() as held:
        checkpoint = None
        if folder is not None:
            held.enter_context(locked(folder))
            checkpoint = _start(folder, model, settings, resume=resume)
        fabric = make_fabric(model, accelerator, devices, precision, loggers, callbacks)
        fabric.launch()
        shown = progress and fabric.is_global_zero
        home = next(model.parameters(), torch.empty(0)).device
        held.callback(model.to, home)
        training = Training(
            fabric, model, settings, rows, plan, folder=folder, compiled=compile, shown=shown
        )
        for context in (
            reproducible(fabric),
            in_mode(model, training=True),
            size_known(model, len(rows)),
        ):
            held.enter_context(context)
        if checkpoint is not None:
            training.load_state_dict(checkpoint)
        if shown:
            print(model.weights(), flush=True)
        training.open_folder()
        if not training.ended:
            if batch_size > len(rows) and fabric.is_global_zero:
                say(f"batch_size {batch_size} > {len(rows)} rows: {plan.batch_size} are used")
            training.draw = _drawing() if live_plots else None
            training.train()
        elif shown:
            done = f"after {training.step} of {plan.n_steps} steps"
            print(f"this training has ended, {done}: nothing to do")
        return training.history


def _start(folder: Path, model: VAE, settings: Settings, *, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to resume from, if it is of the same training; None to start anew."""
    path = folder / "checkpoints" / LAST
    if not resume:
        if path.exists():
            raise FileExistsError(
                f"{path} is there: resume that training (resume=True), or take another folder"
            )
        return None
    checkpoint = read_checkpoint(path)
    settings.check(path, checkpoint[KEY]["settings"])
    check_fit(path, parameters_of(checkpoint), model)
    return checkpoint


def _drawing() -> Callable[[History, Path], None]:
    """Imported before the training, so that it does not fail in the middle of it."""
    from divergences.plots.style import save_figure
    from vae.figures.charts import curves_figure

    return lambda rows, path: save_figure(curves_figure(rows), path)
