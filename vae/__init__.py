"""Variational autoencoders of the InfoVAE family on the losses of `divergences`.

Models and objectives need torch alone. Training (`vae.training`), data (`vae.data`), evaluation
(`vae.evaluation`), figures and the commands (`python -m vae`) need the extra:
pip install "divergences[vae]".
"""

from vae.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    GaussianLikelihood,
    LaplaceLikelihood,
    Likelihood,
    PixelGaussianLikelihood,
)
from vae.model import VAE, Code
from vae.networks import ImplicitEncoder, conv_decoder, conv_encoder, mlp
from vae.objectives import (
    DIVERGENCES,
    AdversarialKL,
    Anneal,
    Capacity,
    CodeCritic,
    Constant,
    Cyclical,
    DataCritic,
    Divergence,
    InfoVAE,
    Objective,
    TotalCorrelation,
    WassersteinCritic,
    WeightedKL,
    lambda_from_pixel_mean,
    propose_lambda,
)
from vae.priors import LearnedGaussian, LearnedMixture, Prior, StandardNormal
from vae.terms import VAEOutput

__all__ = [
    "DIVERGENCES",
    "VAE",
    "AdversarialKL",
    "Anneal",
    "BernoulliLikelihood",
    "Capacity",
    "CategoricalLikelihood",
    "Code",
    "CodeCritic",
    "Constant",
    "Cyclical",
    "DataCritic",
    "Divergence",
    "GaussianLikelihood",
    "ImplicitEncoder",
    "InfoVAE",
    "LaplaceLikelihood",
    "LearnedGaussian",
    "LearnedMixture",
    "Likelihood",
    "Objective",
    "PixelGaussianLikelihood",
    "Prior",
    "StandardNormal",
    "TotalCorrelation",
    "VAEOutput",
    "WassersteinCritic",
    "WeightedKL",
    "conv_decoder",
    "conv_encoder",
    "lambda_from_pixel_mean",
    "mlp",
    "propose_lambda",
]
