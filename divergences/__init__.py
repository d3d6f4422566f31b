"""Compare two distributions from samples.

Losses: ``divergences.mmd`` and ``divergences.energy``. Tests: ``two_sample_test``,
``k_sample_test``, ``independence_test``, ``goodness_of_fit_test``, ``relative_test``; from a shell,
``python -m divergences``. Strength of dependence: ``distance_correlation``, ``cka``,
``mutual_information``. The engine under all of them, with the kernels they take:
``divergences.kernels``.
"""

from .classifier import ClassifierResult, classifier_test
from .density_ratio import DensityRatio, fit_density_ratio
from .dependence import cka, distance_correlation, distance_covariance, hsic
from .energy import EnergyLoss, energy_distance, energy_distance_to_normal
from .goodness_of_fit import GoodnessOfFitResult, goodness_of_fit_test
from .independence import IndependenceResult, independence_test
from .information import MutualInformation, mutual_information
from .k_sample import KSampleResult, k_sample_test
from .mmd import MMDLoss, mmd2, mmd2_to_gaussian_mixture, mmd2_to_normal, witness
from .relative import RelativeResult, relative_test
from .results import HypothesisResult, TwoSampleResult
from .scores import score_of
from .two_sample import two_sample_test

__version__ = "0.1.0"

__all__ = [
    "ClassifierResult",
    "DensityRatio",
    "EnergyLoss",
    "GoodnessOfFitResult",
    "HypothesisResult",
    "IndependenceResult",
    "KSampleResult",
    "MMDLoss",
    "MutualInformation",
    "RelativeResult",
    "TwoSampleResult",
    "cka",
    "classifier_test",
    "distance_correlation",
    "distance_covariance",
    "energy_distance",
    "energy_distance_to_normal",
    "fit_density_ratio",
    "goodness_of_fit_test",
    "hsic",
    "independence_test",
    "k_sample_test",
    "mmd2",
    "mmd2_to_gaussian_mixture",
    "mmd2_to_normal",
    "mutual_information",
    "relative_test",
    "score_of",
    "two_sample_test",
    "witness",
]
