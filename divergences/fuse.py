"""MMD-FUSE: many kernels, one statistic (Biggs, Schrab & Gretton, NeurIPS 2023).

A soft maximum over kernels k, T = log mean_k exp S_k: one p-value, no correction for having looked
at several scales. With U_k the unbiased squared MMD and n the smaller sample size,

    S_k = n(n−1)·U_k / √(Σ_{i≠j} k² / n(n−1))      as published ("fuse-original"), over pooled pairs
    S_k = 2 (U_k − mean U_k) / sd U_k              here ("fuse"), over all relabellings drawn

The published S_k has the temperature of the released code, to which the published power belongs.
Its null distribution is the wider the narrower the kernel, so that the narrowest rule the maximum
and differences that wide kernels see are lost (docs/power.md). Standardised by its own permutation
distribution, which no relabelling changes, every kernel weighs the same.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor

from .kernels import Gaussian, Kernel, Laplace

BANDWIDTHS = 10  # of each family
SHARPNESS = 2.0  # of the soft maximum, per standard deviation of the null
ROWS = 1000  # pooled rows whose distances set the range of the bandwidths
Spacing = Literal["log", "linear"]


def fuse_kernel(pooled: Tensor, order: Tensor, spacing: Spacing) -> Kernel:
    """Ten Gaussian and ten L1-Laplace kernels, as the terms of one.

    pooled: [N, d]; order: a random permutation of its rows, whose first ``ROWS`` are looked at.
    Bandwidths λ run from half the 5 % to twice the 95 % quantile of the positive Euclidean and L1
    distances; the Laplace kernel is exp(−√2·‖x−y‖₁/λ).
    """
    rows = pooled[order[:ROWS]].double()
    gaussian = bandwidth_range(torch.pdist(rows), BANDWIDTHS, spacing)
    laplace = bandwidth_range(torch.pdist(rows, p=1.0), BANDWIDTHS, spacing)
    return Gaussian(gaussian) + Laplace([w / math.sqrt(2.0) for w in laplace], norm="l1")


def bandwidth_range(distances: Tensor, count: int, spacing: Spacing) -> list[float]:
    """``count`` bandwidths between half the 5 % and twice the 95 % quantile of the positive
    distances. Raises ValueError where these are not finite."""
    positive = distances[distances > 0].cpu().numpy()
    if not np.isfinite(positive).all():
        raise ValueError("distances overflow; rescale the data")
    low, high = (quantile(positive, q) if len(positive) else 1.0 for q in (0.05, 0.95))
    make = np.geomspace if spacing == "log" else np.linspace
    found: list[float] = make(0.5 * low, 2.0 * high, count).tolist()
    return found


def quantile(values: NDArray[np.float64], q: float) -> float:
    """As ``np.quantile``, which selects both neighbours at a time: six times as slow."""
    at = q * (len(values) - 1)
    below = math.floor(at)
    ordered = np.partition(values, below)
    lower = float(ordered[below])
    upper = float(ordered[below + 1 :].min(initial=ordered.max()))
    return lower + (at - below) * (upper - lower)


def standardised_fuse(
    each: NDArray[np.float64],
    tolerances: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], float]:
    """T [B] of the statistics U [C, B] of every kernel and relabelling, and its tolerance for ties.
    ``weights`` [C] of the soft maximum add up to 1; all are 1/C if None. A kernel that tells no two
    relabellings apart counts as 0."""
    weights = np.full(len(each), 1.0 / len(each)) if weights is None else weights
    spread = each.std(axis=1)
    scale = SHARPNESS / np.where(spread > 10.0 * tolerances, spread, np.inf)
    arguments = scale[:, None] * (each - each.mean(axis=1, keepdims=True))
    values = logsumexp(arguments + np.log(weights)[:, None], axis=0)
    return np.asarray(values), float((scale * tolerances).max())


def published_fuse(
    each: NDArray[np.float64],
    squares: NDArray[np.float64],
    tolerances: NDArray[np.float64],
    smaller: int,
) -> tuple[NDArray[np.float64], float]:
    """T [B] of the statistics U [C, B] of every kernel, and its tolerance for ties: log mean exp
    moves no more than its largest argument does."""
    pairs = smaller * (smaller - 1)
    scale = pairs / np.sqrt(np.where(squares > 0, squares, np.inf) / pairs)
    values = logsumexp(scale[:, None] * each, axis=0) - math.log(len(each))
    return np.asarray(values), float((scale * tolerances).max())
