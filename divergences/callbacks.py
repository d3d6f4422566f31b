"""A callback for Lightning that tests two samples while a model trains. Needs Lightning and
torchmetrics: pip install "divergences[lightning]"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .metrics import TwoSampleTest

try:
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'{error.name} is not installed: pip install "divergences[lightning]"', name=error.name
    ) from None

__all__ = ["TwoSampleCallback"]


class TwoSampleCallback(Callback):
    """Tests at the end of validation epochs whether two samples differ, such as what a model
    generates and held-out data, or its codes and the prior; logs statistic, p-value and effect size
    as ``prefix/statistic``, ``prefix/pvalue`` and ``prefix/effect_size``.

    Args:
        samples: called with the module, without gradients; gives x [n, d] and y [m, d]. Each
            process of several gives rows of its own, and the test is that of all.
        every: validation epochs from one test to the next. The check before training counts not.
        prefix: of the logged names.
        rng: seed of the relabellings, the same in every epoch.
        options: method, kernel and others of ``two_sample_test``.

    Examples:
        >>> import torch
        >>> from divergences.callbacks import TwoSampleCallback
        >>> def codes_and_prior(module):
        ...     z = module.encode(module.heldout)
        ...     return z, torch.randn_like(z)
        >>> callback = TwoSampleCallback(codes_and_prior, every=5, method="energy")
    """

    def __init__(
        self,
        samples: Callable[[LightningModule], tuple[Tensor, Tensor]],
        *,
        every: int = 1,
        prefix: str = "two_sample",
        rng: int = 0,
        **options: Any,
    ) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a number of epochs ≥ 1; got {every!r}")
        if not callable(samples):
            raise TypeError(f"samples must be a function of the module; got {samples!r}")
        self.samples, self.every, self.prefix = samples, every, prefix
        self.rng, self.options = rng, options
        self._epochs = 0

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._epochs += 1
        if self._epochs % self.every:
            return
        metric = TwoSampleTest(rng=self.rng, test_options=self.options).to(pl_module.device)
        metric.update(*self.samples(pl_module))
        found = {f"{self.prefix}/{name}": value.float() for name, value in metric.compute().items()}
        pl_module.log_dict(found, sync_dist=False)  # the same on every process
