"""The engine: sums of kernel functions over pairs of points, without the matrix of pairs.

Kernels are objects (``Gaussian(1.0)``, ``Energy()``, ``0.5 * Laplace("median") + Linear()``);
the operations are ``pair_sums`` and ``potential``. Losses and tests live in ``divergences``.
"""

from .api import PairSums, pair_sums, potential
from .kernel import (
    Bandwidth,
    Energy,
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplace,
    Linear,
    Matern,
    Polynomial,
    RationalQuadratic,
)

__all__ = [
    "Bandwidth",
    "Energy",
    "Gaussian",
    "InverseMultiquadric",
    "Kernel",
    "Laplace",
    "Linear",
    "Matern",
    "PairSums",
    "Polynomial",
    "RationalQuadratic",
    "pair_sums",
    "potential",
]
