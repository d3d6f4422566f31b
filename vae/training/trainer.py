"""Lightning, told as little as possible: one pass over the steps that are left."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vae._extras import needs_extra
from vae.training.checkpoints import AtomicCheckpoints
from vae.training.heldout import set_modes
from vae.training.module import TrainingModule

with needs_extra():
    import lightning
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.strategies import DDPStrategy
    from lightning.pytorch.utilities.exceptions import SIGTERMException
    from lightning_utilities.core.rank_zero import rank_zero_only

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # Lightning sets it to be deterministic
TERMINATED = 128 + 15  # the exit code of a process that SIGTERM ended


def on_first_process() -> bool:
    """Whether this process is the one that prints and writes."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


@dataclass(frozen=True)
class Hardware:
    """Lightning's names for it."""

    accelerator: str
    devices: int
    precision: str

    @property
    def on_cpu(self) -> bool:
        return self.accelerator == "cpu" or not torch.cuda.is_available()


def train(
    module: TrainingModule,
    callbacks: list[lightning.Callback],
    hardware: Hardware,
    checkpoint: Path | None,
) -> bool:
    """Run the steps that are left.

    To Lightning a run is a single epoch over them: its own counting of epochs, batches and restarts
    has nothing to do with ours.

    Args:
        module: with its batches.
        callbacks: of the trainer.
        hardware: where.
        checkpoint: to go on from.

    Returns:
        Whether a second Ctrl-C tore it down.

    Raises:
        ValueError: hardware that is not there.
        SystemExit: SIGTERM, after the current step and a checkpoint.
    """
    modes = {part: part.training for part in module.model.modules()}
    module.train()
    gpus = [] if hardware.on_cpu else list(range(torch.cuda.device_count()))
    try:
        with (
            _quiet(),
            torch.random.fork_rng(devices=gpus),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            trainer = _trainer(module, callbacks, hardware)
            trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
        if trainer.received_sigterm:
            raise SystemExit(TERMINATED)
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    except SIGTERMException:
        raise SystemExit(TERMINATED) from None
    except SystemExit as exit_:
        if not isinstance(exit_.__context__, KeyboardInterrupt):
            raise
        return True  # Lightning turns Ctrl-C into an exit
    finally:
        set_modes(modes)
    return False


def _trainer(
    module: TrainingModule, callbacks: list[lightning.Callback], hardware: Hardware
) -> lightning.Trainer:
    # critics wait while the autoencoder steps, and a prior's weights may be in no loss
    unused = module.adversarial or any(True for _ in module.model.prior.parameters())
    strategy: Any = DDPStrategy(find_unused_parameters=unused) if hardware.devices > 1 else "auto"
    return lightning.Trainer(
        max_epochs=1,
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        precision=hardware.precision,  # type: ignore[arg-type]
        strategy=strategy,
        deterministic=hardware.on_cpu or None,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=callbacks,
        plugins=[AtomicCheckpoints()],
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning without its device report and tips; what it sets for all is restored."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    workspace = os.environ.get(WORKSPACE)
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            # Lightning 2.6 asks torch 2.13 in ways that are deprecated there
            warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
            warnings.filterwarnings("ignore", message=".*functional.all_gather is deprecated")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        os.environ.pop(WORKSPACE, None)
        if workspace is not None:
            os.environ[WORKSPACE] = workspace
