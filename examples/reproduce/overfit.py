"""With few data the KL of single codes lets the aggregate q(z) leave the prior; D(q(z)‖p) does not
(Zhao, Song & Ermon 2017, arXiv:1706.02262, sec. 5: log det Cov q(z) against 0)."""

import torch
from finding import EARLIER, Finding
from torch import Tensor
from training import one_thread, trained

from vae import VAE, GaussianLikelihood, InfoVAE, Objective, StandardNormal, WeightedKL, mlp
from vae.data import digits

ROWS, DIM, STEPS = 500, 5, 4000
VARIANCE = 0.01
LAMBDA = 50 * 64.0


def kl_overfits(progress: bool = True, steps: int = STEPS) -> list[Finding]:
    """500 digits, five codes, one σ² for both objectives."""
    x = digits().train[:ROWS]
    elbo = log_det(Objective(WeightedKL()), x, steps, progress=progress)
    mmd = log_det(InfoVAE(1, LAMBDA), x, steps, progress=progress)
    return [
        Finding("log det Cov q(z), ELBO", elbo, 1.5, 0, EARLIER, "above"),
        Finding("log det Cov q(z), MMD-VAE", mmd, 0.0, 0.3, "0 for the prior"),
    ]


def log_det(objective: Objective, x: Tensor, steps: int, *, progress: bool) -> float:
    """Of the training rows' codes, twenty draws each."""
    with one_thread():
        model = VAE(
            mlp(x.shape[1], 2 * DIM),
            mlp(DIM, x.shape[1]),
            GaussianLikelihood(VARIANCE),
            objective,
            StandardNormal(DIM),
        )
        trained(model, x, steps=steps, batch_size=100, progress=progress)
        with torch.no_grad():
            z = model.encode(x.repeat(20, 1), generator=torch.Generator().manual_seed(1)).z
    return float(torch.logdet(torch.cov(z.double().mT)))
