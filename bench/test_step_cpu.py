"""What a divergence adds to a training step: python -m pytest bench/test_step_cpu.py -s.

The step without it is the yardstick ("ours" in the CSV): encoder, decoder, squared error, backward,
Adam. The divergence may cost a tenth of it at batch 256 and 28×28 pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vae import DIVERGENCES, VAE, Divergence, GaussianLikelihood, InfoVAE, StandardNormal, mlp

from . import rivals
from .measure import interleaved, record

BATCH, LATENT = 256, 10
SECONDS = 20.0


def step(pixels: int, divergence: Divergence | None) -> Callable[[], object]:
    """One step on one batch; λ = 1 − α leaves D out."""
    torch.manual_seed(0)
    lambda_, chosen = (0.0, DIVERGENCES["mmd"]) if divergence is None else (1.0, divergence)
    model = VAE(
        mlp(pixels, 2 * LATENT),
        mlp(LATENT, pixels),
        GaussianLikelihood(),
        InfoVAE(1.0, lambda_, chosen),
        StandardNormal(LATENT),
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x = torch.rand(BATCH, pixels)

    def run() -> None:
        optimizer.zero_grad()
        model(x).loss.backward()
        optimizer.step()

    return run


def snippet(z: Tensor, prior_sample: Tensor) -> Tensor:
    """What is copied into training loops, with the same kernel."""
    return rivals.eager_gaussian((LATENT / 2) ** 0.5)(z, prior_sample)


@pytest.mark.parametrize("pixels", [64, 784])
def test_training_step(pixels: int) -> None:
    torch.set_num_threads(2)
    variants = {
        "ours": step(pixels, None),
        "with mmd": step(pixels, DIVERGENCES["mmd"]),
        "with mmd-normal": step(pixels, DIVERGENCES["mmd-normal"]),
        "with energy": step(pixels, DIVERGENCES["energy"]),
        "with imq": step(pixels, DIVERGENCES["imq"]),
        "with the snippet": step(pixels, snippet),
    }
    z, p = torch.randn(BATCH, LATENT), torch.randn(BATCH, LATENT)
    biased = DIVERGENCES["mmd"](z, p) - snippet(z, p)  # the diagonals, 2·(1 − mean k)/(n − 1)
    assert abs(float(biased)) < 2.0 / (BATCH - 1)
    medians = interleaved(variants, SECONDS)
    for row in record(
        f"training step, {pixels} pixels, batch {BATCH}", "step_cpu", medians=medians
    ):
        print(f"{row.workload}: {row.variant} {row.median_ms} ms, {row.ratio}×")
