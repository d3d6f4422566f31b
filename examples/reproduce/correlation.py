"""β on the total correlation against β on the whole KL (Chen et al. 2018, arXiv:1802.04942)."""

import torch
from finding import EARLIER, Finding
from torch import Tensor
from training import one_thread, trained

from divergences.kl_decomposition import KLDecomposition, decompose_kl
from vae import (
    VAE,
    BernoulliLikelihood,
    Objective,
    StandardNormal,
    TotalCorrelation,
    WeightedKL,
    mlp,
)
from vae.data import shapes
from vae.objectives import Rate

ROWS, HELDOUT, DIM, STEPS = 4000, 2000, 6, 1500
BETA = 6.0


def tc_against_beta(progress: bool = True, steps: int = STEPS) -> list[Finding]:
    """Sprites of 32×32 pixels, six codes: VAE, β-VAE and β-TCVAE at the same β."""
    data = shapes(train=ROWS, heldout=HELDOUT)
    x, heldout = data.rows("train"), data.rows("heldout")
    rates: list[Rate] = [WeightedKL(), WeightedKL(BETA), TotalCorrelation(1, BETA, 1)]
    vae, beta, tc = (parts(rate, x, heldout, steps, progress=progress) for rate in rates)
    return [
        Finding(
            "total correlation, β-TCVAE / VAE",
            tc.total_correlation / vae.total_correlation, 0.5, 0, EARLIER, "below",
        ),
        Finding(
            "mutual information, β-TCVAE / VAE",
            tc.mutual_information / vae.mutual_information, 0.7, 0, EARLIER, "above",
        ),
        Finding(
            "mutual information, β-VAE / VAE",
            beta.mutual_information / vae.mutual_information, 0.7, 0, EARLIER, "below",
        ),
    ]  # fmt: skip


def parts(rate: Rate, x: Tensor, heldout: Tensor, steps: int, *, progress: bool) -> KLDecomposition:
    """Of the codes of held-out rows, exact but for one draw each."""
    with one_thread():
        n_pixels = x.shape[1]
        model = VAE(
            mlp(n_pixels, 2 * DIM),
            mlp(DIM, n_pixels),
            BernoulliLikelihood(),
            Objective(rate),
            StandardNormal(DIM),
        )
        trained(model, x, steps=steps, batch_size=100, progress=progress)
        with torch.no_grad():
            code = model.encode(heldout, generator=torch.Generator().manual_seed(1))
        return decompose_kl(code.mean, code.log_variance, code.z)
