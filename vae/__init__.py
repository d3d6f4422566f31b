"""Variational autoencoders of the InfoVAE family on the losses of `divergences`.

Models and objectives need torch alone. Training (`vae.fit`), data (`vae.load`), evaluation
(`vae.evaluate`), figures and the commands (`python -m vae`) need the extra:
pip install "divergences[vae]".
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vae.forward_output import VAEOutput
from vae.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    GaussianLikelihood,
    LaplaceLikelihood,
    Likelihood,
    PixelGaussianLikelihood,
    TokenLikelihood,
)
from vae.model import VAE, Code
from vae.networks import (
    ConvCritic,
    GRUDecoder,
    GRUEncoder,
    ImplicitEncoder,
    conv_decoder,
    conv_encoder,
    mlp,
)
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
    SampledKL,
    TotalCorrelation,
    WassersteinCritic,
    WeightedKL,
    lambda_from_pixel_mean,
    propose_lambda,
)
from vae.priors import LearnedGaussian, LearnedMixture, Prior, StandardNormal

if TYPE_CHECKING:
    from vae.data import Data, load
    from vae.evaluation import evaluate
    from vae.training import fit

# imported at their first use: they bring scikit-learn and lightning
_LATER = {
    "Data": "vae.data",
    "evaluate": "vae.evaluation",
    "fit": "vae.training",
    "load": "vae.data",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
    "ConvCritic",
    "Cyclical",
    "Data",
    "DataCritic",
    "Divergence",
    "GRUDecoder",
    "GRUEncoder",
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
    "SampledKL",
    "StandardNormal",
    "TokenLikelihood",
    "TotalCorrelation",
    "VAEOutput",
    "WassersteinCritic",
    "WeightedKL",
    "conv_decoder",
    "conv_encoder",
    "evaluate",
    "fit",
    "lambda_from_pixel_mean",
    "load",
    "mlp",
    "propose_lambda",
]
