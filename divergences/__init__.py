"""Compare two distributions from samples.

Losses: ``divergences.mmd`` and ``divergences.energy``. Tests: ``two_sample_test``,
``k_sample_test``, ``independence_test``, ``goodness_of_fit_test``, ``relative_test``; which columns
differ: ``localize``; as rows arrive: ``SequentialTwoSampleTest``, ``ChangeDetector``; from a shell,
``python -m divergences``. Strength of dependence: ``distance_correlation``, ``cka``,
``mutual_information``. The engine under all of them, with the kernels they take:
``divergences.kernels``.
"""

import importlib
import pathlib
import sys
import types
from typing import TYPE_CHECKING, Any, NoReturn

if pathlib.Path(__file__).with_name("kernels").is_file():
    raise ImportError(
        "divergences/kernels is a file where a symbolic link to ../kernels belongs: git made this "
        "clone without links. Run `git config core.symlinks true`, remove divergences/kernels and "
        "run `git checkout -- divergences/kernels` (on Windows, in developer mode), or install a "
        "wheel"
    )

from .classifier import ClassifierResult, classifier_test
from .conditional import ConditionalIndependenceResult, conditional_independence_test
from .density_ratio import DensityRatio, fit_density_ratio
from .dependence import cka, distance_correlation, distance_covariance, hsic
from .effect import EffectSize, effect_size
from .energy import EnergyLoss, energy_distance, energy_distance_to_normal
from .goodness_of_fit import GoodnessOfFitResult, goodness_of_fit_test
from .independence import IndependenceResult, independence_test
from .information import MutualInformation, mutual_information
from .k_sample import KSampleResult, k_sample_test
from .localization import LocalizationResult, localize
from .mmd import MMDLoss, mmd2, mmd2_to_gaussian_mixture, mmd2_to_normal, witness
from .relative import RelativeResult, relative_test
from .results import HypothesisResult, TwoSampleResult
from .scores import score_of
from .sequential import ChangeDetector, ChangeResult, SequentialResult, SequentialTwoSampleTest
from .two_sample import two_sample_test

if TYPE_CHECKING:
    from . import callbacks as callbacks
    from . import density_ratio as density_ratio
    from . import drift as drift
    from . import kernels as kernels
    from . import kl as kl
    from . import kl_decomposition as kl_decomposition
    from . import metrics as metrics
    from . import naive as naive
    from . import plots as plots
    from . import power as power
    from . import wasserstein as wasserstein

__version__ = "0.1.0"

__all__ = [
    "ChangeDetector",
    "ChangeResult",
    "ClassifierResult",
    "ConditionalIndependenceResult",
    "DensityRatio",
    "EffectSize",
    "EnergyLoss",
    "GoodnessOfFitResult",
    "HypothesisResult",
    "IndependenceResult",
    "KSampleResult",
    "LocalizationResult",
    "MMDLoss",
    "MutualInformation",
    "RelativeResult",
    "SequentialResult",
    "SequentialTwoSampleTest",
    "TwoSampleResult",
    "cka",
    "classifier_test",
    "conditional_independence_test",
    "distance_correlation",
    "distance_covariance",
    "effect_size",
    "energy_distance",
    "energy_distance_to_normal",
    "fit_density_ratio",
    "goodness_of_fit_test",
    "hsic",
    "independence_test",
    "k_sample_test",
    "localize",
    "mmd2",
    "mmd2_to_gaussian_mixture",
    "mmd2_to_normal",
    "mutual_information",
    "relative_test",
    "score_of",
    "two_sample_test",
    "witness",
]

# --- Modules -------------------------------------------------------------------------------------

_LAZY = (
    *("callbacks", "density_ratio", "drift", "kl", "kl_decomposition"),
    *("metrics", "naive", "plots", "power", "wasserstein"),
)


class _Module(types.ModuleType):
    """A module of this package that says what to call when it is called itself."""

    def __call__(self, *_: object, **__: object) -> NoReturn:
        functions = [
            name
            for name, value in vars(self).items()
            if isinstance(value, types.FunctionType)
            and value.__module__ == self.__name__
            and not name.startswith("_")
        ]
        short = self.__name__.removeprefix("divergences.")
        known = ", ".join(
            f"divergences.{f}" if f in __all__ else f"divergences.{short}.{f}" for f in functions
        )
        raise TypeError(f"{self.__name__} is a module, not a function; call {known}")


if not TYPE_CHECKING:  # a type checker would take any name for one that is there

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f".{name}", __name__)
        module.__class__ = _Module
        return module


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


for _name, _module in list(sys.modules.items()):
    if _name.startswith(f"{__name__}.") and _name.count(".") == 1:
        _module.__class__ = _Module
