"""What the KL of a whole data set of Gaussian codes consists of. In nats.

With codes q(z|n) = N(μ_n, diag σ_n²) of data points n = 1 … N, each of probability 1/N, and their
aggregate q(z) = 1/N Σ_n q(z|n),

    1/N Σ_n KL(q(z|n)‖p) = I(z; n)              index-code mutual information
                         + KL(q(z)‖Π_j q(z_j))  total correlation
                         + Σ_j KL(q(z_j)‖p(z_j))  dimension-wise KL

for a prior that factorises (Chen et al., "Isolating Sources of Disentanglement in Variational
Autoencoders", 2018, eq. 2); the last two make up KL(q(z)‖p) (Hoffman & Johnson, "ELBO surgery",
2016). ``decompose_kl`` forms q(z) from all N codes; ``decompose_kl_minibatch`` estimates it from a
batch, with gradients, for training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .kernels.validation import check_points, check_rows
from .kl import gaussian_log_density, promoted, shapes
from .results import Record
from .samples import Rng, as_sample, generator_of

TILE = 2**19  # entries of a tile of codes × data points × dimensions: 4 MB in fp64

MinibatchEstimator = Literal["stratified", "weighted"]
_MINIBATCH_ESTIMATORS = get_args(MinibatchEstimator)

LogDensity = Callable[[Tensor], Tensor]
"""log p(z_j) of every coordinate, [n, M], at points [n, M]."""


# --- A data set ----------------------------------------------------------------------------------


class AggregateLogDensity(NamedTuple):
    """log q(z), [K], and log q(z_j) of every coordinate, [K, M], in nats and fp64."""

    joint: Tensor
    marginal: Tensor


@torch.no_grad()
def aggregate_log_density(z: Any, mean: Any, log_variance: Any) -> AggregateLogDensity:
    """Density of the aggregate q(z) = 1/N Σ_n N(z; μ_n, diag σ_n²) and of its coordinates.

    z: points [K, M]; mean, log_variance: [N, M]; what ``two_sample_test`` takes. All N components
    enter, tile by tile, in log space and fp64: O(K·N·M) time, memory for the results and one tile.
    No gradient; ``decompose_kl_minibatch`` has one. Raises ValueError or TypeError for shapes that
    do not fit and non-finite entries.

    Examples:
        >>> from divergences.kl_decomposition import aggregate_log_density
        >>> found = aggregate_log_density([[0.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]])
        >>> found.joint.round(decimals=4), found.marginal.round(decimals=4)
        (tensor([-1.8379], dtype=torch.float64), tensor([[-0.9189, -0.9189]], dtype=torch.float64))
    """
    z = as_sample(z, "z").double()
    mean, log_variance = _codes(mean, log_variance)
    if z.shape[1] != mean.shape[1] or z.device != mean.device:
        raise ValueError(
            "z and mean must share the number of columns and the device; got z "
            f"{list(z.shape)} on {z.device}, mean {list(mean.shape)} on {mean.device}"
        )
    n, d = mean.shape
    width = max(1, min(n, math.isqrt(TILE // d)))
    height = max(1, TILE // (d * width))
    joints, marginals = [], []
    columns = [  # [M, c]: the sums below run along contiguous data points
        (m.mT.contiguous(), v.mT.contiguous())
        for m, v in zip(torch.split(mean, width), torch.split(log_variance, width), strict=True)
    ]
    for points in torch.split(z, height):
        joint = z.new_full((len(points),), -math.inf)
        marginal = torch.full_like(points, -math.inf)
        for m, v in columns:
            log_density = gaussian_log_density(points.unsqueeze(-1), m, v)  # [r, M, c]
            joint = torch.logaddexp(joint, log_density.sum(1).logsumexp(-1))
            marginal = torch.logaddexp(marginal, log_density.logsumexp(-1))
        joints.append(joint - math.log(n))
        marginals.append(marginal - math.log(n))
    return AggregateLogDensity(torch.cat(joints), torch.cat(marginals))


@dataclass(frozen=True, eq=False, kw_only=True)
class KLDecomposition(Record):
    """What the mean KL of n codes consists of, in nats; see ``decompose_kl``.

    ``total`` = ``mutual_information`` + ``total_correlation`` + Σ ``dimension_wise`` [M]
    (read-only). Standard errors are those of the draws z; they count the spread between data points
    too, which was not drawn, and are rather too large.
    """

    mutual_information: float
    mutual_information_standard_error: float
    total_correlation: float
    total_correlation_standard_error: float
    dimension_wise: NDArray[np.float64] = field(repr=False)
    total: float
    n: int
    d: int
    seed: int | None = None

    def __post_init__(self) -> None:
        values = np.array(self.dimension_wise, dtype=np.float64)
        values.flags.writeable = False
        object.__setattr__(self, "dimension_wise", values)

    @property
    def aggregate_kl(self) -> float:
        """KL(q(z)‖p) = total − mutual information: how far the aggregate is from the prior."""
        return self.total - self.mutual_information


@torch.no_grad()
def decompose_kl(
    mean: Any,
    log_variance: Any,
    z: Any = None,
    *,
    prior_log_density: LogDensity | None = None,
    rng: Rng = None,
) -> KLDecomposition:
    """Mutual information, total correlation and dimension-wise KL of the codes of a data set.

    The aggregate is the exact mean over all n codes at every draw z_n ~ q(z|n); only the
    expectation over z is Monte Carlo, one draw per data point. So the mutual information is at most
    log n, and what is near 0 may come out slightly negative.
    O(n²·M) time and O(n·M) memory: 5 to 10 s of one core at n = 10,000, M = 10.

    Args:
        mean, log_variance: [n, M]; torch tensors, or anything numpy converts.
        z: [n, M], row i drawn from code i; drawn from ``rng`` if None.
        prior_log_density: [n, M] to log p(z_j) [n, M] in fp64, for a prior that factorises;
            N(0, I) if None.
        rng: seed, ``numpy.random.Generator`` or ``torch.Generator``; fresh entropy if None.

    Returns:
        KLDecomposition. No gradient; ``decompose_kl_minibatch`` is for training.

    Raises:
        ValueError, TypeError: shapes that do not fit, non-finite entries (counted).

    Examples:
        >>> import torch
        >>> from divergences.kl_decomposition import decompose_kl
        >>> mean = torch.tensor([[-2.0, 0.0], [2.0, 0.0]]).repeat(100, 1)  # two kinds of rows
        >>> found = decompose_kl(mean, torch.full((200, 2), -4.0), rng=0)
        >>> print(f"{found.mutual_information:.2f}")  # log 2
        0.69
    """
    mean, log_variance = _codes(mean, log_variance)
    seed = None
    if z is None:
        generator, seed = generator_of(rng)
        noise = torch.from_numpy(generator.standard_normal(mean.shape)).to(mean.device)
        z = mean + (0.5 * log_variance).exp() * noise
    z = as_sample(z, "z").double()
    if z.shape != mean.shape:
        raise ValueError(f"z must hold a draw from each code; got {shapes(z=z, mean=mean)}")
    own = gaussian_log_density(z, mean, log_variance).sum(1)
    aggregate = aggregate_log_density(z, mean, log_variance)
    parts = _parts(own, aggregate, _prior(z, prior_log_density))
    mi, tc, dimension_wise = (part.mean(0) for part in parts)
    return KLDecomposition(
        mutual_information=float(mi),
        mutual_information_standard_error=_standard_error(parts[0]),
        total_correlation=float(tc),
        total_correlation_standard_error=_standard_error(parts[1]),
        dimension_wise=dimension_wise.cpu().numpy(),
        total=float(mi + tc + dimension_wise.sum()),
        n=len(mean),
        d=mean.shape[1],
        seed=seed,
    )


# --- A batch -------------------------------------------------------------------------------------


class MinibatchKL(NamedTuple):
    """Estimates from one batch, in nats: 0-d, 0-d and [M]."""

    mutual_information: Tensor
    total_correlation: Tensor
    dimension_wise: Tensor


def decompose_kl_minibatch(
    z: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    n_data: int,
    *,
    estimator: MinibatchEstimator = "stratified",
    prior_log_density: LogDensity | None = None,
) -> MinibatchKL:
    """The terms of ``decompose_kl`` estimated from a batch, differentiable: the β-TCVAE's objective
    is α·``mutual_information`` + β·``total_correlation`` + γ·``dimension_wise.sum()``.

    log q(z_i) ≈ log Σ_j w_ij q(z_i|n_j), and likewise for each coordinate, with the weights of
    ``minibatch_log_weights``. Whatever the weights, the terms add up to the batch mean of
    log q(z|n) − log p(z), an unbiased estimate of the mean KL. The logarithm of a noisy average is
    too small on average, so the mutual information is too large; in many dimensions, where a batch
    holds no other code near z, it tends to log N ("stratified": own weight 1/N).

    Args:
        z, mean, log_variance: [B, M], row i of z drawn from code i. Under data parallelism pass the
            gathered batch: the estimate is not linear in its rows. B²·M numbers are held.
        n_data: N, the size of the training set.
        estimator: "stratified" or "weighted", see ``minibatch_log_weights``.
        prior_log_density: [B, M] to log p(z_j) [B, M], for a prior that factorises; N(0, I) if
            None.

    Returns:
        MinibatchKL, in the promoted dtype, at least fp32. Non-finite inputs give NaN or infinity.

    Raises:
        ValueError, TypeError: shapes that do not fit; n_data below B or no integer.

    Examples:
        >>> import torch
        >>> from divergences.kl_decomposition import decompose_kl_minibatch
        >>> mean = torch.tensor([[-2.0, 0.0], [2.0, 0.0]], requires_grad=True)
        >>> found = decompose_kl_minibatch(mean, mean, torch.zeros(2, 2), n_data=2)
        >>> found.mutual_information.backward()
        >>> mean.grad[:, 0].sign().tolist()  # a step downhill brings the two codes together
        [-1.0, 1.0]
    """
    for name, value in (("z", z), ("mean", mean), ("log_variance", log_variance)):
        check_points(value, name)
    if not z.shape == mean.shape == log_variance.shape or z.dim() != 2:
        raise ValueError(
            "z, mean and log_variance must share shape [B, M]; got "
            f"{shapes(z=z, mean=mean, log_variance=log_variance)}"
        )
    z, mean, log_variance = promoted(z=z, mean=mean, log_variance=log_variance)
    log_weights = minibatch_log_weights(len(z), n_data, estimator, device=z.device).to(z)
    log_density = gaussian_log_density(z.unsqueeze(1), mean, log_variance)  # [B, B, M]
    joint = log_density.sum(2)
    aggregate = AggregateLogDensity(
        (joint + log_weights).logsumexp(1), (log_density + log_weights.unsqueeze(2)).logsumexp(1)
    )
    parts = _parts(joint.diagonal(), aggregate, _prior(z, prior_log_density))
    return MinibatchKL(*(part.mean(0) for part in parts))


def minibatch_log_weights(
    n_batch: int,
    n_data: int,
    estimator: MinibatchEstimator = "stratified",
    *,
    device: torch.device | None = None,
) -> Tensor:
    """log w [B, B] such that q(z_i) ≈ Σ_j w_ij q(z_i|n_j), z_i a draw from code i of a batch of B
    different data points out of N.

    "stratified" (Chen et al. 2018, app. C.2, with M = B − 1): unbiased for q(z_i). On the diagonal
    1/N, since z_i's own code is always in the batch; (N − M)/(NM) for one other, here the next row,
    the last row's being the first; 1/M for the rest. Rows sum to one. Of a batch of one (M = 0)
    nothing can be learned about the others: its weight is 1, so q(z) is taken to be q(z|n).

    "weighted" (their eq. 5): 1/(NB) for all, whose E log q(z) is a lower bound. Where codes overlap
    every log q(z) and log q(z_j) comes out log N too small, and the total correlation of d
    coordinates (d − 1) log N too large: a constant, which has no gradient.

    This differs from several repositories, which put the first two into columns 0 and 1.

    Returns:
        [B, B] in fp64.

    Raises:
        ValueError, TypeError: n_batch below 1, n_data below n_batch or no integer, or an unknown
            estimator.

    Examples:
        >>> from divergences.kl_decomposition import minibatch_log_weights
        >>> minibatch_log_weights(3, 10).exp().round(decimals=2).tolist()
        [[0.1, 0.4, 0.5], [0.5, 0.1, 0.4], [0.4, 0.5, 0.1]]
    """
    if estimator not in _MINIBATCH_ESTIMATORS:
        raise ValueError(f"estimator must be 'stratified' or 'weighted'; got {estimator!r}")
    if isinstance(n_data, bool) or not isinstance(n_data, (int, np.integer)):
        raise TypeError(f"n_data must be an integer, the size of the data set; got {n_data!r}")
    if n_batch < 1:
        raise ValueError(f"a batch needs at least one row; got {n_batch}")
    if n_data < n_batch:
        raise ValueError(
            f"n_data is the size of the training set, at least the {n_batch} rows of the batch; "
            f"got {n_data}"
        )
    square = torch.ones(n_batch, n_batch, dtype=torch.float64, device=device)
    if estimator == "weighted":
        # A number that depends on a symbolic size would be baked into a compiled graph.
        return -(math.log(n_data) + square.sum(1, keepdim=True).log()) * square
    others = n_batch - 1
    if others == 0:
        return 0.0 * square
    weights = square / others
    row = torch.arange(n_batch, device=device)
    weights[row, row] = 1.0 / n_data
    weights[row, (row + 1) % n_batch] = (n_data - others) / (n_data * others)
    return weights.log()


# --- Shared --------------------------------------------------------------------------------------


def _standard_normal(z: Tensor) -> Tensor:
    return gaussian_log_density(z, torch.zeros_like(z), torch.zeros_like(z))


def _prior(z: Tensor, log_density: LogDensity | None) -> Tensor:
    """log p(z_j), [n, M]."""
    found = (_standard_normal if log_density is None else log_density)(z)
    if not isinstance(found, Tensor) or found.shape != z.shape:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"prior_log_density must return log p(z_j) of every coordinate, {list(z.shape)} for "
            f"these points; got {got}. A prior that does not factorise has no dimension-wise KL: "
            "use monte_carlo_kl with aggregate_log_density(...).joint for KL(q(z)‖p)"
        )
    return found


def _codes(mean: Any, log_variance: Any) -> tuple[Tensor, Tensor]:
    """[n, M] each, n ≥ 1, in fp64 on one device."""
    m, v = as_sample(mean, "mean").double(), as_sample(log_variance, "log_variance").double()
    if m.shape != v.shape or m.device != v.device:
        raise ValueError(
            "mean and log_variance must share shape [n, M] and device; got "
            f"{shapes(mean=m, log_variance=v)} on {m.device} and {v.device}"
        )
    check_rows(m, "mean", 1, "at least one code is needed")
    return m, v


def _parts(
    own: Tensor, aggregate: AggregateLogDensity, prior: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The three terms at each draw, [n], [n] and [n, M], from log q(z|n) [n], log q(z) and
    log p(z_j) [n, M]."""
    joint, marginal = aggregate
    return own - joint, joint - marginal.sum(1), marginal - prior


def _standard_error(values: Tensor) -> float:
    """Of the mean over [n]; NaN for one."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
