"""Variational autoencoders of the InfoVAE family on the losses of `divergences`.

The models and objectives need torch alone. Training (`vae.training`), data (`vae.data`), figures
(`vae.figures`) and the demo (`python -m vae demo`) need the extra: pip install "divergences[vae]".
"""

from vae.models import VAE, GaussianLikelihood, StandardNormal, VAEOutput, mlp
from vae.objective import DIVERGENCES, Divergence, InfoVAE, lambda_from_pixel_mean

__all__ = [
    "DIVERGENCES",
    "VAE",
    "Divergence",
    "GaussianLikelihood",
    "InfoVAE",
    "StandardNormal",
    "VAEOutput",
    "lambda_from_pixel_mean",
    "mlp",
]
