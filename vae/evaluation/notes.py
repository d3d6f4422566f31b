"""Notes on an evaluation: limits of its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vae.diagnostics import collapsed, off_prior
from vae.evaluation.codes import CodeMeasures
from vae.evaluation.passes import Encoded, generator_for, like
from vae.evaluation.probes import Probe
from vae.evaluation.result import ImportanceSummary
from vae.likelihoods import BernoulliLikelihood
from vae.model import VAE

TRUSTED = 0.8  # accuracy of a classifier below which a note says so
LOOSE = 0.02  # of the draws of a bound: mean effective number below which it is loose
CEILING = 0.1  # nats below log n from which the mutual information is no more than that
PRIOR_DRAWS = 10_000  # for the prior's moments


def notes(
    model: VAE,
    rows: Tensor,
    encoded: Encoded,
    measured: CodeMeasures,
    importance: ImportanceSummary | None,
    probe: Probe | None,
    *,
    seed: int,
) -> Iterator[str]:
    """The notes that apply to held-out rows [H, D], their codes and the measures."""
    text = collapsed(encoded.kl, encoded.kl_per_dimension)
    if text is not None:
        yield text
    if model.objective.matches_prior:
        with torch.no_grad():
            generator = generator_for(model, seed, "moments")
            prior = model.prior.sample(PRIOR_DRAWS, generator=generator, like=like(model))
        text = off_prior(encoded.z, prior)
        if text is not None:
            yield text
    most, information = math.log(measured.aggregate_n), measured.mutual_information
    if information is not None and information > most - CEILING:
        yield (
            f"I(z; row) is at its ceiling, log {measured.aggregate_n} = {most:.2f}: the total "
            "correlation and KL(q(z)‖p) of so few rows are usually too large"
        )
    if importance is not None and importance.mean_ess < LOOSE * importance.k:
        yield (
            f"of the {importance.k} draws of the IWAE bound {importance.mean_ess:.1f} count (mean "
            "effective sample size): it is loose, and log p(x) may lie well above it"
        )
    if isinstance(model.likelihood, BernoulliLikelihood) and bool(((rows > 0) & (rows < 1)).any()):
        yield "between 0 and 1 a Bernoulli's −log p(x|z) is a cross entropy, no likelihood"
    if probe is not None and probe.pixels < TRUSTED:
        yield (
            f"the classifier is right about {probe.pixels:.0%} of held-out rows only: what it says "
            "of the classes of samples means little"
        )
