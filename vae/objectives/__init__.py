"""Objectives: distortion + KL regulariser (rate) + weight · D(q(z)‖p(z))."""

from vae.objectives.critics import (
    AdversarialDivergence,
    AdversarialKL,
    CodeCritic,
    DataCritic,
    WassersteinCritic,
)
from vae.objectives.divergences import DIVERGENCES, Divergence
from vae.objectives.lambda_heuristic import propose_lambda
from vae.objectives.objective import InfoVAE, Objective, lambda_from_pixel_mean
from vae.objectives.rates import Capacity, Rate, SampledKL, TotalCorrelation, WeightedKL
from vae.objectives.schedules import Anneal, Constant, Cyclical, Schedule

__all__ = [
    "DIVERGENCES",
    "AdversarialDivergence",
    "AdversarialKL",
    "Anneal",
    "Capacity",
    "CodeCritic",
    "Constant",
    "Cyclical",
    "DataCritic",
    "Divergence",
    "InfoVAE",
    "Objective",
    "Rate",
    "SampledKL",
    "Schedule",
    "TotalCorrelation",
    "WassersteinCritic",
    "WeightedKL",
    "lambda_from_pixel_mean",
    "propose_lambda",
]
