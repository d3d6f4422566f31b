"""Checks of the arguments of `fit`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch

from vae.config import Decay, OptimizerName
from vae.model import VAE, evaluating
from vae.objectives.rates import TotalCorrelation
from vae.training.batches import Plan, Rows

DECAYS, OPTIMIZERS = get_args(Decay), get_args(OptimizerName)


def check(
    model: VAE,
    rows: Rows,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    devices: int,
    critic_steps: int,
    patience: int | None,
    check_every: int | None,
    decay: str,
    optimizer: str,
    clip_norm: float | None,
) -> Plan:
    """The plan of a training; warns of a schedule that the run cuts short.

    Raises:
        ValueError: arguments out of range, rows or networks that do not fit.
    """
    if epochs < 1 or batch_size < 2 or len(rows) < 2:
        raise ValueError(
            f"training needs epochs >= 1, batch_size >= 2 and 2 rows, "
            f"got epochs={epochs}, batch_size={batch_size}, {len(rows)} rows"
        )
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed must be between 0 and 2^31 - 1, got {seed}")
    if devices < 1 or batch_size % devices or len(rows) < devices:
        raise ValueError(
            f"batch_size must be a multiple of devices, and rows as many, got "
            f"batch_size={batch_size}, devices={devices}, {len(rows)} rows"
        )
    for name, value, known in (("decay", decay, DECAYS), ("optimizer", optimizer, OPTIMIZERS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm must be positive, got {clip_norm}")
    counts = {"critic_steps": critic_steps, "patience": patience, "check_every": check_every}
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if patience is not None and rows.heldout is None:
        raise ValueError("patience needs held-out rows: fit(..., heldout=rows)")
    if patience is not None and model.objective.adversarial:
        raise ValueError(
            "patience needs held-out losses that compare, but this objective has critics: what "
            "they estimate at different steps does not; train for a number of epochs"
        )
    plan = Plan(len(rows), min(batch_size, len(rows)) // devices * devices, epochs)
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
    return plan


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
