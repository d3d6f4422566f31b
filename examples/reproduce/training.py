"""Training, as the experiments share it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vae import VAE, fit
from vae.processes import threads


@contextmanager
def one_thread(seed: int = 0) -> Iterator[None]:
    """Initial weights from ``seed``, and numbers that do not depend on the number of cores; the
    caller's generators and threads are given back."""
    with threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def trained(
    model: VAE,
    x: Tensor,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float = 1e-3,
    progress: bool,
) -> VAE:
    """The model after about so many steps on rows x [N, …], in evaluation mode."""
    fit(
        model,
        x,
        epochs=max(1, round(steps / (len(x) // min(batch_size, len(x))))),
        batch_size=batch_size,
        learning_rate=learning_rate,
        accelerator="cpu",
        progress=progress,
    )
    return model.eval()
