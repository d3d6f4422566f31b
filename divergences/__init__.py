"""Compare two distributions from samples.

Losses: ``divergences.mmd`` and ``divergences.energy``. Tests: ``divergences.two_sample``. The
engine under both, with the kernels they take: ``divergences.kernels``.
"""

from .energy import EnergyLoss, energy_distance, energy_distance_to_normal
from .mmd import MMDLoss, mmd2, mmd2_to_gaussian_mixture, mmd2_to_normal, witness
from .two_sample import TwoSampleResult, two_sample_test

__version__ = "0.1.0"

__all__ = [
    "EnergyLoss",
    "MMDLoss",
    "TwoSampleResult",
    "energy_distance",
    "energy_distance_to_normal",
    "mmd2",
    "mmd2_to_gaussian_mixture",
    "mmd2_to_normal",
    "two_sample_test",
    "witness",
]
