"""What `fit` was asked for, refused where it makes no sense."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vae.model import VAE
from vae.objectives.rates import TotalCorrelation
from vae.training.batches import Plan, Rows
from vae.training.heldout import set_modes


def make_plan(rows: Rows, epochs: int, batch_size: int, seed: int, devices: int) -> Plan:
    """Raises ValueError for numbers that cannot be trained with."""
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
    return Plan(len(rows), min(batch_size, len(rows)) // devices * devices, epochs)


def check_options(
    model: VAE,
    rows: Rows,
    *,
    critic_steps: int,
    patience: int | None,
    check_every: int | None,
) -> None:
    """Raises ValueError."""
    counts = {"critic_steps": critic_steps, "patience": patience, "check_every": check_every}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if patience is None:
        return
    if rows.heldout is None:
        raise ValueError("patience needs held-out rows: fit(..., heldout=rows)")
    if model.objective.adversarial:
        raise ValueError(
            "patience needs held-out losses that compare, but this objective has critics: what "
            "they estimate at different steps does not; train for a number of epochs"
        )


def warn_of_schedule(model: VAE, plan: Plan) -> None:
    """Where the run cuts it short."""
    schedule = model.objective.rate.schedule
    missing = schedule.length - plan.n_steps
    if missing > 0:
        warnings.warn(
            f"the schedule {schedule} ends {missing} steps after the training, which takes "
            f"{plan.n_steps}: shorten it, or train for "
            f"{-(-schedule.length // plan.steps_per_epoch)} epochs",
            stacklevel=3,
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


def dtype_of(model: VAE, precision: str) -> torch.dtype:
    """Of the rows: the model's, where Lightning does not widen it."""
    if str(precision).startswith("64"):
        return torch.float64
    dtypes = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(dtypes, torch.get_default_dtype())


@torch.inference_mode(False)
@torch.no_grad()
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
    modes = {module: module.training for module in model.modules()}
    devices = [] if like.device.type == "cpu" else [like.device]
    try:
        model.eval()
        with torch.random.fork_rng(devices=devices, device_type=like.device.type):
            _pass(model, x, noise)
    finally:
        set_modes(modes)


def _pass(model: VAE, x: torch.Tensor, noise: torch.Tensor) -> None:
    try:
        code = model.encode(x, noise=noise)
    except RuntimeError as error:
        raise ValueError(
            f"the encoder cannot take rows of shape {list(x.shape[1:])}: {_line(error)}"
        ) from error
    try:
        model.likelihood.log_prob(x, model._decoded(code.z, x))
    except RuntimeError as error:
        raise ValueError(
            f"the decoder cannot take codes of shape {list(code.z.shape[1:])} for rows of shape "
            f"{list(x.shape[1:])}: {_line(error)}"
        ) from error


def _line(error: RuntimeError) -> str:
    return str(error).partition("\n")[0]
