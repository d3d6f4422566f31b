"""Compare two distributions from samples.

Losses: ``divergences.mmd`` and ``divergences.energy``. Tests: ``two_sample_test``,
``k_sample_test``, ``independence_test``, ``goodness_of_fit_test``, ``relative_test``; from a shell,
``python -m divergences``. The engine under all of them, with the kernels they take:
``divergences.kernels``.
"""

from .energy import EnergyLoss, energy_distance, energy_distance_to_normal
from .k_sample import KSampleResult, k_sample_test
from .mmd import MMDLoss, mmd2, mmd2_to_gaussian_mixture, mmd2_to_normal, witness
from .results import HypothesisResult, TwoSampleResult
from .two_sample import two_sample_test

__version__ = "0.1.0"

__all__ = [
    "EnergyLoss",
    "HypothesisResult",
    "KSampleResult",
    "MMDLoss",
    "TwoSampleResult",
    "energy_distance",
    "energy_distance_to_normal",
    "k_sample_test",
    "mmd2",
    "mmd2_to_gaussian_mixture",
    "mmd2_to_normal",
    "two_sample_test",
    "witness",
]
