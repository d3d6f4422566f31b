"""What a divergence adds to a training step: python -m pytest bench/test_step_cpu.py.

A step is encoder, decoder, squared error, divergence, backward and Adam, in eager mode; "without"
leaves the divergence out. It may cost a tenth of a step at batch 256 and 28×28 pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from vae import DIVERGENCES, VAE, Divergence, GaussianLikelihood, InfoVAE, StandardNormal, mlp
from vae.objectives.divergences import IMQ_SCALES

from . import rivals
from .conftest import Compare

BATCH, LATENT = 256, 10
SNIPPET = partial(rivals.gaussian_snippet, sigma=(LATENT / 2) ** 0.5)
PYTHAE = partial(rivals.pythae_like, squares=tuple(2.0 * LATENT * s for s in IMQ_SCALES))
VARIANTS: dict[str, Divergence | None] = {
    "ours": DIVERGENCES["mmd"],
    "without": None,
    "ours, mmd-normal": DIVERGENCES["mmd-normal"],
    "ours, energy": DIVERGENCES["energy"],
    "ours, imq": DIVERGENCES["imq"],
    "eager": SNIPPET,
    "pythae-like": PYTHAE,
}


def step(pixels: int, divergence: Divergence | None, device: str = "cpu") -> Callable[[], object]:
    """One step on one batch; λ = 1 − α leaves D out."""
    torch.manual_seed(0)
    lambda_, chosen = (0.0, DIVERGENCES["mmd"]) if divergence is None else (1.0, divergence)
    model = VAE(
        mlp(pixels, 2 * LATENT),
        mlp(LATENT, pixels),
        GaussianLikelihood(),
        InfoVAE(1.0, lambda_, chosen),
        StandardNormal(LATENT),
    ).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x = torch.rand(BATCH, pixels).to(device)

    def run() -> None:
        optimizer.zero_grad()
        model(x).loss.backward()
        optimizer.step()

    return run


def check_rivals(z: Tensor, p: Tensor) -> None:
    """The rivals are the same losses: the snippet up to its diagonals, 2·(1 − mean k)/(n − 1)."""
    assert abs(float(DIVERGENCES["mmd"](z, p) - SNIPPET(z, p))) < 2.0 / (BATCH - 1)
    torch.testing.assert_close(DIVERGENCES["imq"](z, p), PYTHAE(z, p), rtol=1e-3, atol=1e-5)


@pytest.mark.benchmark(max_time=10.0)
@pytest.mark.parametrize("pixels", [64, 784])
def test_training_step(compare: Compare, pixels: int) -> None:
    check_rivals(torch.randn(BATCH, LATENT), torch.randn(BATCH, LATENT))
    variants = {name: step(pixels, divergence) for name, divergence in VARIANTS.items()}
    compare(f"training step, {pixels} pixels, batch {BATCH}", variants, file="step_cpu")
