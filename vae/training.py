"""Training by Lightning: devices and precision are its business, the draws are ours."""

import logging
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from vae._extras import needs_extra
from vae.model import VAE

with needs_extra():
    import lightning
    from tqdm import tqdm

History = list[dict[str, float]]
"""One entry per epoch: the mean over its batches of `loss`, `distortion`, `kl`, `divergence`."""


class TrainingModule(lightning.LightningModule):
    """Adam with a cosine decay to zero. Each step's draws depend on (seed, step) alone."""

    def __init__(self, model: VAE, *, learning_rate: float, n_steps: int, seed: int) -> None:
        super().__init__()
        self.model = model
        self.learning_rate = learning_rate
        self.n_steps = n_steps
        self.seed = seed

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        (x,) = batch
        generator = torch.Generator(x.device).manual_seed((self.seed << 32) + self.global_step)
        output = self.model(x, generator=generator)
        terms = {
            "loss": output.loss,
            "distortion": output.distortion.mean(),
            "kl": output.kl.mean(),
        }
        if output.divergence is not None:
            terms["divergence"] = output.divergence
        self.log_dict(
            {name: term.detach() for name, term in terms.items()},
            on_step=False,
            on_epoch=True,
            batch_size=len(x),
        )
        loss: Tensor = output.loss
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.n_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class _Progress(lightning.Callback):
    """Keeps the history and draws one bar over all epochs (Lightning's own has one per epoch)."""

    def __init__(self, epochs: int, *, visible: bool) -> None:
        self.history: History = []
        self._bar = tqdm(
            total=epochs,
            desc="training",
            unit="epoch",
            disable=not visible,
            file=sys.stderr,
            dynamic_ncols=True,
        )

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        terms = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not math.isfinite(terms["loss"]):
            raise ValueError(
                f"training diverged: loss {terms['loss']:g} in epoch {len(self.history) + 1}; "
                "try a smaller λ or learning rate, or a larger σ²"
            )
        self.history.append(terms)
        self._bar.set_postfix(
            {name: f"{value:.4g}" for name, value in terms.items()}, refresh=False
        )
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning without its device report, tips and advice on workers; restored afterwards."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            # the data are in memory: worker processes would only slow it down
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # Lightning 2.6 asks torch 2.13 in a way that is deprecated there
            warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        torch.use_deterministic_algorithms(deterministic)


def fit(
    model: VAE,
    data: Tensor,
    *,
    epochs: int,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    seed: int = 0,
    accelerator: str = "auto",
    progress: bool = True,
) -> History:
    """Train `model` in place; on a CPU two calls with the same arguments are bit-equal.

    A last batch of a single row is dropped, since a divergence of one row is undefined; any other
    short batch is used.

    Args:
        model: to be trained.
        data: [N, …], finite.
        epochs: passes over the data.
        batch_size: rows per step, at least 2.
        learning_rate: of Adam at the first step; it decays to zero on a cosine.
        seed: of the order of the rows and of every draw. torch's global state is left alone.
        accelerator: Lightning's, e.g. "auto" or "cpu".
        progress: show the bar and the line of effective weights.

    Returns:
        The history, one entry per epoch.

    Raises:
        ValueError: fewer than 2 rows, epochs < 1, batch_size < 2, a seed outside [0, 2³¹),
            non-finite data, or a training that diverged.
        KeyboardInterrupt: Ctrl-C; says after how many epochs, which the model has kept.
    """
    if epochs < 1 or batch_size < 2 or len(data) < 2:
        raise ValueError(
            f"training needs epochs >= 1, batch_size >= 2 and 2 rows, "
            f"got epochs={epochs}, batch_size={batch_size}, {len(data)} rows"
        )
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed must be between 0 and 2^31 - 1, got {seed}")
    finite = data.flatten(1).isfinite().all(1)
    if not finite.all():
        raise ValueError(f"{int((~finite).sum())} of {len(data)} rows are not finite")

    loader = DataLoader(
        TensorDataset(data),
        batch_size=batch_size,
        shuffle=True,
        drop_last=len(data) % batch_size == 1,
        generator=torch.Generator().manual_seed(seed),
    )
    module = TrainingModule(
        model, learning_rate=learning_rate, n_steps=epochs * len(loader), seed=seed
    )
    if progress:
        print(model.weights(), flush=True)
    bar = _Progress(epochs, visible=progress)
    try:
        with _quiet():
            trainer = lightning.Trainer(
                max_epochs=epochs,
                accelerator=accelerator,
                devices=1,
                deterministic=True,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[bar],
            )
            trainer.fit(module, loader)
    except SystemExit as exit_:
        if not isinstance(exit_.__context__, KeyboardInterrupt):
            raise
        # Lightning turns Ctrl-C into an exit
        done = len(bar.history)
        raise KeyboardInterrupt(f"training interrupted after {done} of {epochs} epochs") from None
    finally:
        bar.close()
    return bar.history
