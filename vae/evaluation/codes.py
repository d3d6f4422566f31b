"""Measures of the codes of a set of rows: rate, active units, parts of the KL, tests of q(z)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from divergences.kl import monte_carlo_kl
from divergences.kl_decomposition import decompose_kl
from divergences.results import Record, TwoSampleResult
from divergences.two_sample import two_sample_test
from vae.evaluation.bounds import no_density
from vae.evaluation.passes import Encoded, generator_for, like
from vae.model import VAE, Code

ACTIVE = 0.01  # least variance of E[z_j|x] over x of an active unit (Burda et al. 2016, sec. 5.2)

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class CodeMeasures(Record):
    """Measures of n rows with codes in d dimensions, in nats per row, means over rows; standard
    errors are those of the mean. None: not defined, and ``not_available`` says why.

    The parts of the KL are those of the aggregate q(z) = 1/m Σ q(z|x_i) of the first m =
    ``aggregate_n`` rows, and depend on m. ``mutual_information`` is at most log m; where it is
    there, ``total_correlation`` and ``aggregate_kl``, KL(q(z)‖p), are larger than of more rows.
    ``aggregate_kl`` is ``total_correlation`` + ``dimension_wise_kl`` where the prior factorises.
    """

    n: int
    d: int
    aggregate_n: int  # m
    distortion: float  # −log p(x|z)
    distortion_standard_error: float
    squared_error: float  # ‖x − E[x|z]‖², summed over pixels: compares across likelihoods
    kl: float | None  # KL(q(z|x)‖p), the rate
    kl_per_dimension: Vector | None = field(repr=False)  # [d]
    elbo: float | None
    elbo_standard_error: float | None
    active_units: int | None
    mutual_information: float | None  # I(z; row)
    total_correlation: float | None
    dimension_wise_kl: float | None  # Σ_j KL(q(z_j)‖p(z_j))
    aggregate_kl: float | None
    log_det_covariance: float | None  # of the sampled codes, divisor n − 1
    not_available: Mapping[str, str] = field(default_factory=dict, repr=False)


def measure_codes(model: VAE, encoded: Encoded, *, aggregate_n: int | None = None) -> CodeMeasures:
    """The measures of rows that ``encode`` has seen; the parts of the KL are of the first
    `aggregate_n` (None: all), in O(m²·d) time for the exact aggregate."""
    z, absent = encoded.z, {}
    n, d = z.shape
    m = n if aggregate_n is None else min(aggregate_n, n)
    elbo = None if encoded.kl is None else -encoded.distortion - encoded.kl
    if elbo is None:
        absent["kl"] = absent["elbo"] = no_density(model)
    if encoded.kl_per_dimension is None:
        absent["kl_per_dimension"] = no_density(model) if elbo is None else _whole(model)
    active = active_units(encoded)
    if active is None:
        absent["active_units"] = f"a {model.posterior} encoder does not give E[z|x]"
    log_det = log_det_covariance(z)
    if log_det is None:
        absent["log_det_covariance"] = f"the covariance of {n} codes in {d} dimensions is singular"
    parts, reasons = _parts_of_kl(model, encoded, m)
    return CodeMeasures(
        n=n,
        d=d,
        aggregate_n=m,
        distortion=float(encoded.distortion.mean()),
        distortion_standard_error=standard_error(encoded.distortion),
        squared_error=float(encoded.squared_error.mean()),
        kl=None if encoded.kl is None else float(encoded.kl.mean()),
        kl_per_dimension=kl_per_dimension(encoded),
        elbo=None if elbo is None else float(elbo.mean()),
        elbo_standard_error=None if elbo is None else standard_error(elbo),
        active_units=active,
        log_det_covariance=log_det,
        not_available=absent | reasons,
        **parts,
    )


def kl_per_dimension(encoded: Encoded) -> Vector | None:
    """[d] mean KL(q(z_j|x)‖p(z_j)) of every coordinate, where they are defined."""
    if encoded.kl_per_dimension is None:
        return None
    return np.asarray(encoded.kl_per_dimension.mean(0).numpy(), dtype=np.float64)


def active_units(encoded: Encoded) -> int | None:
    """Number of coordinates with Var_x E[z_j|x] > .01; None where the encoder gives no mean."""
    if encoded.mean is None or len(encoded.mean) < 2:
        return None
    return int((encoded.mean.var(0) > ACTIVE).sum())


def log_det_covariance(z: Tensor) -> float | None:
    """log det Cov of codes [n, d]; 0 under N(0, I). None where it is singular."""
    if len(z) <= z.shape[1]:
        return None
    sign, log_det = torch.linalg.slogdet(torch.cov(z.double().T).reshape(z.shape[1], z.shape[1]))
    return float(log_det) if sign > 0 and bool(log_det.isfinite()) else None


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of [n]; NaN for one."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def overlap(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Bhattacharyya coefficients ∫√(q_i q_j) of R diagonal Gaussians [R, M], [R, R]: 1 where two
    are the same, 0 where they have nothing in common."""
    variance = log_variance.exp()
    middle = (variance.unsqueeze(0) + variance.unsqueeze(1)) / 2
    logs = 0.5 * log_variance
    exponent = (mean.unsqueeze(0) - mean.unsqueeze(1)).square() / (8 * middle)
    return ((logs.unsqueeze(0) + logs.unsqueeze(1) - middle.log()) / 2 - exponent).sum(-1).exp()


def _whole(model: VAE) -> str:
    return f"the prior {model.prior} does not factorise over dimensions"


def _parts_of_kl(
    model: VAE, encoded: Encoded, m: int
) -> tuple[dict[str, float | None], dict[str, str]]:
    names = ("mutual_information", "total_correlation", "dimension_wise_kl", "aggregate_kl")
    if encoded.mean is None or encoded.log_variance is None:
        return dict.fromkeys(names), dict.fromkeys(names, no_density(model))
    z, mean, log_variance = encoded.z[:m], encoded.mean[:m], encoded.log_variance[:m]
    prior = model.prior
    device = like(model).device
    factorises = prior.factorises
    found = decompose_kl(
        mean,
        log_variance,
        z,
        # without a prior that factorises its part is not looked at
        prior_log_density=(lambda t: prior.log_density(t.to(device)).cpu()) if factorises else None,
    )
    parts: dict[str, float | None] = {
        "mutual_information": found.mutual_information,
        "total_correlation": found.total_correlation,
    }
    if factorises:
        parts["dimension_wise_kl"] = float(found.dimension_wise.sum())
        parts["aggregate_kl"] = found.aggregate_kl
        return parts, {}
    with torch.no_grad():
        log_p = prior.log_prob(z.to(device)).cpu()
    rate = monte_carlo_kl(Code(mean, log_variance, z).log_density(z), log_p).kl
    parts["dimension_wise_kl"] = None
    parts["aggregate_kl"] = float(rate) - found.mutual_information  # at the same draws
    return parts, {"dimension_wise_kl": _whole(model)}


class Tests(Record):
    """Results of two-sample tests."""

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON, without the null distributions."""
        found = {}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            test = isinstance(value, TwoSampleResult)
            found[f.name] = value.to_dict(null_distribution=False) if test else value
        return found


# --- q(z) against the prior ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class PriorTests(Tests):
    """Permutation tests of draws from q(z) against as many from the prior. The statistics are the
    unbiased estimates, the MMD's with k = exp(−‖z−z'‖²/M)."""

    mmd: TwoSampleResult
    energy: TwoSampleResult


def against_prior(
    model: VAE, z: Tensor, *, n_resamples: int, seed: int, show_progress: bool | None = False
) -> PriorTests:
    """Two-sample tests of q(z) = p(z), from codes z [n, M] of independent rows, one draw each."""
    generator = generator_for(model, seed, "prior")
    with torch.no_grad():
        prior = model.prior.sample(len(z), generator=generator, like=like(model)).cpu()
    shared = partial(
        two_sample_test,
        z,
        prior,
        n_resamples=n_resamples,
        rng=seed,
        scale=None,
        show_progress=show_progress,
    )
    return PriorTests(
        mmd=shared(method="mmd", kernel="gaussian", bandwidth="dimension"),
        energy=shared(method="energy"),
    )
