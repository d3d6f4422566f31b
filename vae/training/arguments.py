"""Checks of the arguments of `fit`."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor

from vae.config import Decay, OptimizerName
from vae.data.data import Data
from vae.model import VAE, evaluating
from vae.objectives.rates import TotalCorrelation
from vae.training.batches import Plan, Rows
from vae.training.fingerprint import Settings, describe

DECAYS, OPTIMIZERS = get_args(Decay), get_args(OptimizerName)


def prepare(
    model: VAE,
    data: Tensor | NDArray[Any] | Data,
    heldout: Tensor | NDArray[Any] | None = None,
    **options: Any,
) -> tuple[Rows, Plan, Settings]:
    """Rows, numbers of steps and settings of a training by the arguments of `fit`, checked; warns
    of a schedule that the run cuts short.

    Raises:
        ValueError: arguments out of range, rows or networks that do not fit.
    """
    rows = Rows.of(data, heldout, dtype_of(model, options["precision"]))
    if options["critic_learning_rate"] is None:
        options["critic_learning_rate"] = options["learning_rate"]
    settings = Settings(**options, rows=len(rows), model=describe(model))
    _check(model, rows, settings)
    n, devices = len(rows), settings.devices
    plan = Plan(n, min(settings.batch_size, n) // devices * devices, settings.epochs)
    rows.check(model)
    check_networks(model, rows)
    schedule = model.objective.rate.schedule
    missing = schedule.length - plan.n_steps
    if missing > 0:
        warnings.warn(
            f"the schedule {schedule} ends {missing} steps after the training, which takes "
            f"{plan.n_steps}: shorten it, or train for "
            f"{-(-schedule.length // plan.steps_per_epoch)} epochs",
            stacklevel=3,
        )
    return rows, plan, dataclasses.replace(settings, batch_size=plan.batch_size)


def _check(model: VAE, rows: Rows, settings: Settings) -> None:
    """Raises ValueError for settings out of range."""
    epochs, batch_size, devices = settings.epochs, settings.batch_size, settings.devices
    if epochs < 1 or batch_size < 2 or len(rows) < 2:
        raise ValueError(
            f"training needs epochs >= 1, batch_size >= 2 and 2 rows, "
            f"got epochs={epochs}, batch_size={batch_size}, {len(rows)} rows"
        )
    if not 0 <= settings.seed < 2**31:
        raise ValueError(f"seed must be between 0 and 2^31 - 1, got {settings.seed}")
    if devices < 1 or batch_size % devices or len(rows) < devices:
        raise ValueError(
            f"batch_size must be a multiple of devices, and rows as many, got "
            f"batch_size={batch_size}, devices={devices}, {len(rows)} rows"
        )
    for name, known in (("decay", DECAYS), ("optimizer", OPTIMIZERS)):
        if getattr(settings, name) not in known:
            got = getattr(settings, name)
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {got!r}")
    if settings.clip_norm is not None and not settings.clip_norm > 0:
        raise ValueError(f"clip_norm must be positive, got {settings.clip_norm}")
    for name in ("critic_steps", "patience", "check_every"):
        count = getattr(settings, name)
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    patience = settings.patience
    if patience is not None and rows.heldout is None:
        raise ValueError("patience needs held-out rows: fit(..., heldout=rows)")
    if patience is not None and model.objective.adversarial:
        raise ValueError(
            "patience needs held-out losses that compare, but this objective has critics: what "
            "they estimate at different steps does not; train for a number of epochs"
        )


@contextmanager
def size_known(model: VAE, n: int) -> Iterator[None]:
    """Within, a total correlation that was given no N takes this one."""
    rate = model.objective.rate
    if not isinstance(rate, TotalCorrelation) or rate.n_data is not None:
        yield
        return
    rate.n_data = n
    try:
        yield
    finally:
        rate.n_data = None


def dtype_of(model: VAE, precision: str = "") -> torch.dtype:
    """The dtype of the rows: the model's, where the precision does not widen it."""
    if str(precision).startswith("64"):
        return torch.float64
    dtypes = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(dtypes, torch.get_default_dtype())


@torch.inference_mode(False)
def check_networks(model: VAE, rows: Rows) -> None:
    """Encodes and decodes two rows, in evaluation mode.

    Raises:
        ValueError: a network that does not take what it is given, with the shapes.
    """
    parameters = list(model.parameters())
    if any(parameter.is_inference() for parameter in parameters):
        raise ValueError(
            "the model was made within torch.inference_mode() and cannot be trained: make it "
            "outside"
        )
    like = next((p for p in parameters if p.is_floating_point()), torch.empty(0))
    x = rows.some(2).to(like)
    noise = torch.zeros(2, model.prior.dim).to(like)
    devices = [] if like.device.type == "cpu" else [like.device]
    with (
        evaluating(model),
        torch.random.fork_rng(devices=devices, device_type=like.device.type),
        _named(f"the encoder cannot take rows of shape {list(x.shape[1:])}"),
    ):
        z = model.encode(x, noise=noise).z
        what = f"codes of shape {list(z.shape[1:])} for rows of shape {list(x.shape[1:])}"
        with _named(f"the decoder cannot take {what}"):
            model.likelihood.log_prob(x, model._decoded(z, x))


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Turns a RuntimeError into a ValueError that says what failed, with its first line."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError(f"{what}: {str(error).partition(chr(10))[0]}") from error
