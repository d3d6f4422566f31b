"""Lightning Fabric: devices, precision and processes of a training."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from vae._extras import needs_extra
from vae.model import VAE

with needs_extra():
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy


def make_fabric(
    model: VAE, accelerator: str, devices: int, precision: str,
    loggers: Sequence[Any] = (), callbacks: Sequence[Any] = (),
) -> Fabric:  # fmt: skip
    """With as many processes as devices once launched. Raises ValueError for hardware that is
    not there."""
    strategy: Any = "auto"
    if devices > 1:
        # critics wait while the autoencoder steps, and a prior's weights may be in no loss
        unused = model.objective.adversarial or any(True for _ in model.prior.parameters())
        strategy = DDPStrategy(find_unused_parameters=unused)
    with quiet():
        try:
            return Fabric(
                accelerator=accelerator,
                devices=devices,
                strategy=strategy,
                precision=precision,  # type: ignore[arg-type]
                loggers=list(loggers),
                callbacks=list(callbacks),
            )
        except RuntimeError as error:
            raise ValueError(str(error)) from error


@contextmanager
def reproducible(fabric: Fabric) -> Iterator[None]:
    """Within, algorithms on a CPU are deterministic and gradients are on; torch's generators and
    settings are restored."""
    on_cpu = fabric.device.type == "cpu"
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    gpus = [] if on_cpu or fabric.device.type != "cuda" else [fabric.device]
    try:
        if on_cpu:
            torch.use_deterministic_algorithms(True)
        with (
            quiet(),
            torch.random.fork_rng(devices=gpus),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning without its reports of devices and tips."""
    logger = logging.getLogger("lightning.fabric")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 asks torch 2.13 in ways that are deprecated there
            warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
            yield
    finally:
        logger.setLevel(level)
