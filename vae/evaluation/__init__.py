"""Evaluation of a trained model: bounds of log p(x), codes, tests, probes, disentanglement.

Needs scikit-learn: pip install "divergences[vae]".
"""

from vae.evaluation.bounds import ImportanceBound, elbo, importance_weighted_bound
from vae.evaluation.codes import CodeMeasures, PriorTests
from vae.evaluation.disentanglement import (
    DCI,
    Disentanglement,
    dci,
    factor_vae_score,
    mutual_information_gap,
)
from vae.evaluation.evaluate import evaluate
from vae.evaluation.probes import ClassShares, Probe
from vae.evaluation.result import Evaluation, ImportanceSummary
from vae.evaluation.samples import GeneratedTests
from vae.evaluation.tables import comparison_table

__all__ = [
    "DCI",
    "ClassShares",
    "CodeMeasures",
    "Disentanglement",
    "Evaluation",
    "GeneratedTests",
    "ImportanceBound",
    "ImportanceSummary",
    "PriorTests",
    "Probe",
    "comparison_table",
    "dci",
    "elbo",
    "evaluate",
    "factor_vae_score",
    "importance_weighted_bound",
    "mutual_information_gap",
]
