"""Are x and y independent? Tests by permuting the pairs, valid at any n, dx and dy.

The statistics are those of ``dependence``: inner products of centred kernel matrices, one of x and
one of y, of which only the second is permuted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor

from .checkpoint import BATCH, Arrays, Checkpoint, Location, checkpoint_of, in_batches
from .dependence import (
    DEFAULT_BANDWIDTH,
    as_pairs,
    coefficients,
    products,
)
from .designs import Blocks, CentredWithin, Labels, design_of, serial_notes
from .distributed import Group
from .fuse import SHARPNESS, bandwidth_range
from .kernels import Bandwidth, Energy, Gaussian, Kernel
from .kernels.backends import check_backend
from .kernels.bandwidth import MEDIAN_ROWS
from .kernels.functions import ENERGY
from .kernels.kernel import as_kernel
from .kernels.statistics.permuted import Centred, PermutedSums
from .resampling import Permutations, permutation_pvalue, progress
from .results import HypothesisResult, KernelRow
from .samples import (
    Rng,
    check_resamples,
    column_names,
    complete_rows,
    fits_narrow,
    generator_of,
    is_constant,
    warn_constant,
)
from .scaling import Scale, check_scale, scaled, without_units
from .sharded import takes_group

Method = Literal["hsic-aggregated", "hsic", "dcov"]
BANDWIDTHS = 5  # of either side of the aggregated test
GRID_ROWS = 1000  # rows whose distances set their range
WIDE_WORK = 2**30  # n²·terms·permutations up to which L is formed in fp64
BATCH_BYTES = {"cpu": 2**28, "cuda": 2**31}  # of the permutations held at a time


@dataclass(frozen=True, kw_only=True)
class KernelPairRow(KernelRow):
    """A kernel of x, whose ``bandwidth`` this is, with a kernel of y."""

    bandwidth_y: float | None


@dataclass(frozen=True, eq=False, kw_only=True)
class IndependenceResult(HypothesisResult):
    """The outcome of ``independence_test``; see ``HypothesisResult``.

    ``d`` counts the columns of x and y together. ``coefficients`` are estimates of squared
    correlations that do not grow with n, negative by chance only: "distance_correlation", and for
    "hsic" the "cka" of its kernels. ``effect_size`` is the one that belongs to the method (for
    "hsic-aggregated" the distance correlation), or 0 if that is negative.
    """

    dx: int
    dy: int
    coefficients: dict[str, float] = field(default_factory=dict)

    question: ClassVar[str] = "test of independence of x and y"

    @property
    def sizes(self) -> str:
        return f"n = {self.n}, dx = {self.dx}, dy = {self.dy}"


@takes_group("x", "y", labels=("strata", "groups"), aligned=True)
def independence_test(
    x: Any,
    y: Any,
    *,
    method: Method = "hsic-aggregated",
    kernel_x: Kernel | str | None = None,
    kernel_y: Kernel | str | None = None,
    bandwidth_x: Bandwidth | None = None,
    bandwidth_y: Bandwidth | None = None,
    n_resamples: int | None = None,
    rng: Rng = None,
    strata: Labels = None,
    groups: Labels = None,
    blocks: Blocks | None = None,
    scale: Scale | None = "auto",
    drop_nan: bool = False,
    backend: str | None = None,
    group: Group | None = None,  # noqa: ARG001, which the decorator takes
    checkpoint: Location | Checkpoint | None = None,
    show_progress: bool | None = None,
) -> IndependenceResult:
    """Permutation test of independence from paired rows x [n, dx] and y [n, dy], n ≥ 4.

    Args:
        x, y: torch tensors (CPU or CUDA), anything with ``__dlpack__``, or anything numpy converts.
        method: what to test with.

            * "hsic-aggregated": Gaussian kernels of 5 bandwidths for x with 5 for y, log-spaced
              between half the 5 % and twice the 95 % quantile of the positive distances of either
              side, aggregated into one statistic and one p-value as in MMD-FUSE (Biggs, Schrab &
              Gretton 2023); see ``aggregate``. No scale to choose.
            * "hsic": the unbiased HSIC of one kernel (or mixture) for either side (Gretton et al.
              2005, 2008; Song et al. 2012).
            * "dcov": the bias-corrected squared distance covariance (Székely, Rizzo & Bakirov 2007;
              Székely & Rizzo 2014); other exponents by ``kernel_x=Energy(0.5)`` and so on.
        kernel_x, kernel_y, bandwidth_x, bandwidth_y: for "hsic", as ``divergences.mmd.mmd2``; a
            Gaussian of the median distance if None. A bandwidth rule is applied to either side by
            itself, to rows drawn at random: it cannot see which row is paired with which.
        n_resamples: B ≥ 1 permutations of the rows of y (999; 1999 for "hsic-aggregated"). The
            smallest possible p-value is 1/(B + 1). If no more than B + 1 permutations exist, all of
            them are listed instead.
        rng: seed, ``numpy.random.Generator`` or ``torch.Generator``; fresh entropy if None, whose
            seed is in the result.
        strata: [n] labels: rows of y are permuted within strata only. The hypothesis is then
            independence within each (given the stratum), and statistic, coefficients and effect
            size are those of kernels centred within strata: what differs between strata is no
            dependence.
        groups: [n] labels: the rows of y in a group are moved together, in their order, and groups
            of one size only change places.
        blocks: for rows in the order of time, each of which depends on those before: so many
            consecutive rows of y are moved as one, or "shift": the whole of y is moved along, its
            end around to its beginning. Approximate, for stationary series: valid as the blocks
            (the series) grow long against the dependence. Only one of ``strata``, ``groups`` and
            ``blocks`` can be given.
        drop_nan: leave out pairs with NaN and say how many; else they are refused.
        scale: as of ``divergences.two_sample.two_sample_test``, for x and for y by itself.
        backend: None or "reference"; there is no other for this test.
        group, checkpoint: as of ``divergences.two_sample.two_sample_test``; pairs are in one
            process.
        show_progress: a bar; None shows it on a terminal once the test has taken some seconds.

    Returns:
        IndependenceResult. ``statistic`` is that of ``hsic`` or ``distance_covariance`` (for
        "hsic-aggregated" the aggregate, which has no unit). The p-value is valid at every n: for
        independent x and y, P(p ≤ α) ≤ α.

    Raises:
        ValueError, TypeError: shapes that do not fit, fewer than four pairs, non-finite entries
            (counted), unknown methods, kernels that the method does not take, B < 1.

    Time is O(n²(d + B)), memory O(n (d + B)), never n².

    Examples:
        >>> import numpy as np
        >>> from divergences import independence_test
        >>> x = np.random.default_rng(0).normal(size=100)
        >>> result = independence_test(x, x**2, rng=0)
        >>> print(f"p = {result.pvalue:.3f}, {result.coefficients['distance_correlation']:.2f}")
        p = 0.001, 0.32
    """
    _check(method, backend, (kernel_x, kernel_y, bandwidth_x, bandwidth_y))
    check_scale(scale)
    aggregated = method == "hsic-aggregated"
    n_resamples = check_resamples(
        (1999 if aggregated else 999) if n_resamples is None else n_resamples
    )
    names = column_names(x), column_names(y)
    left_out: tuple[str, ...] = ()
    if drop_nan:
        (x, y), (strata, groups), left_out = complete_rows(
            (x, y), ("x", "y"), {"strata": strata, "groups": groups}, together=True
        )
    saved = checkpoint_of(checkpoint, rng)
    x, y = as_pairs(x, y)
    design = design_of((len(x),), strata=strata, groups=groups, blocks=blocks, together=True)
    serial = {} if design.words else serially_dependent(x, y)
    generator, seed = generator_of(rng)
    for sample, name in ((x, "x"), (y, "y")):
        if is_constant(sample):
            warn_constant(name)
    free = without_units(kernel_x, bandwidth_x), without_units(kernel_y, bandwidth_y)
    of_x = scaled(x, scale, auto=free[0], name="x", columns=names[0])
    of_y = scaled(y, scale, auto=free[1], name="y", columns=names[1])
    x, y = of_x.rows, of_y.rows
    kx = _kernel(method, "x", kernel_x, bandwidth_x, x, generator)
    ky = _kernel(method, "y", kernel_y, bandwidth_y, y, generator)
    within = design.restriction.strata
    a, b = _centred(x, kx, within), _centred(y, ky, within)
    plan = Permutations(len(x), n_resamples, generator, *design.restriction)
    found = _evaluate(a, b, plan, show_progress, saved)
    statistics, tolerance = aggregate(found, a, b) if aggregated else found.weighted(a, b)
    own = 0.0 if aggregated else products(a, b).correlation
    measured = {"cka": own} if method == "hsic" else {"distance_correlation": own}
    if method != "dcov":
        energies = (_centred(sample, Energy(), within) for sample in (x, y))
        measured["distance_correlation"] = products(*energies).correlation
        own = own if method == "hsic" else measured["distance_correlation"]
    null = statistics if plan.exact else statistics[1:]
    return IndependenceResult(
        statistic=float(statistics[0]),
        pvalue=permutation_pvalue(statistics[0], null, tolerance, exact=plan.exact),
        null_distribution=null,
        method=method,
        n=len(x),
        d=x.shape[1] + y.shape[1],
        dx=x.shape[1],
        dy=y.shape[1],
        effect_size=max(0.0, own),
        coefficients=measured,
        enumerated=plan.exact,
        seed=seed,
        scale=of_x.done if of_x.done == of_y.done else f"{of_x.done} (x), {of_y.done} (y)",
        design=design.words or None,
        notes=left_out + of_x.notes + of_y.notes + design.notes + serial_notes(serial),
        kernels=found.rows(a, b, plan.exact),
    )


def _check(method: str, backend: str | None, given: tuple[object, ...]) -> None:
    if method not in get_args(Method):
        known = ", ".join(map(repr, get_args(Method)))
        raise ValueError(f"unknown method {method!r}; known are {known}")
    check_backend(backend)
    if backend == "triton":
        raise ValueError("independence_test has no backend 'triton'; leave backend=None")
    if method == "hsic-aggregated" and any(g is not None for g in given):
        raise ValueError(
            "method 'hsic-aggregated' has its own kernels; use method='hsic' with a kernel"
        )


def serially_dependent(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The samples, if both are: permutations of pairs need one of them to be exchangeable."""
    samples = {"x": x, "y": y}
    return samples if all(serial_notes({name: s}) for name, s in samples.items()) else {}


def _centred(z: Tensor, kernel: Kernel, strata: NDArray[np.int64] | None) -> Centred:
    return Centred(z, kernel) if strata is None else CentredWithin(z, kernel, strata)


def _pairs(side: Centred) -> float:
    """What sums of products are divided by, n(n − 3) without strata."""
    return side.pairs if isinstance(side, CentredWithin) else side.count * (side.count - 3)


def _kernel(
    method: str,
    side: str,
    kernel: Kernel | str | None,
    bandwidth: Bandwidth | None,
    sample: Tensor,
    generator: np.random.Generator,
) -> Kernel:
    """The resolved kernel of one side. The rows it looks at are drawn for each side anew: the same
    for both would tell pairs from others."""
    rows = torch.from_numpy(generator.permutation(len(sample))).to(sample.device)
    if method == "hsic-aggregated":
        distances = torch.pdist(sample[rows[:GRID_ROWS]])
        return Gaussian(bandwidth_range(distances, BANDWIDTHS, "log"))
    default = "energy" if method == "dcov" else "gaussian"
    chosen = as_kernel(default if kernel is None else kernel, bandwidth, DEFAULT_BANDWIDTH)
    if method == "dcov" and any(t.function is not ENERGY for t in chosen.terms):
        raise ValueError(
            f"method 'dcov' takes kernels Energy(exponent); got kernel_{side}={chosen!r} (use "
            "method='hsic')"
        )
    return chosen.resolve(sample[rows[:MEDIAN_ROWS]])


# --- Statistics of all permutations --------------------------------------------------------------


class _Evaluation(NamedTuple):
    """⟨K, L⟩ of every pair of terms and permutation, the identity first."""

    each: NDArray[np.float64]  # [Cx, Cy, B]
    tolerances: NDArray[np.float64]  # [Cx, Cy]: statistics this near are ties

    def weighted(self, a: Centred, b: Centred) -> tuple[NDArray[np.float64], float]:
        """⟨K, L⟩ [B] of the kernels as a whole, and its tolerance."""
        weights = torch.outer(coefficients(a), coefficients(b)).cpu().numpy()
        values = np.einsum("xy,xyb->b", weights, self.each)
        return values, float((weights * self.tolerances).sum())

    def rows(self, a: Centred, b: Centred, exact: bool) -> tuple[KernelPairRow, ...]:
        found = []
        for c, of_x in enumerate(a.kernel.terms):
            for e, of_y in enumerate(b.kernel.terms):
                values = self.each[c, e]
                null = values if exact else values[1:]
                tie = float(self.tolerances[c, e])
                found.append(
                    KernelPairRow(
                        kernel=f"{of_x.label} × {of_y.label}",
                        bandwidth=of_x.scale,
                        bandwidth_y=of_y.scale,
                        statistic=float(values[0]),
                        pvalue=permutation_pvalue(values[0], null, tie, exact=exact),
                    )
                )
        return tuple(found)


def aggregate(found: _Evaluation, a: Centred, b: Centred) -> tuple[NDArray[np.float64], float]:
    """T = log mean exp(τ Z) over all pairs of terms, [B], and its tolerance for ties.

    Z = √(n(n−3)/2)·⟨K, L⟩/√(⟨K, K⟩⟨L, L⟩) has mean 0 and variance near 1 over permutations, for
    every kernel: K and L are U-centred, so that only the shapes of their null distributions differ.
    The denominator is a function of K times one of L, which no permutation changes. A soft maximum:
    log mean exp moves no more than its largest argument does.
    """
    norms = torch.outer(a.products.diagonal(), b.products.diagonal()).sqrt().cpu().numpy()
    pairs = _pairs(a)
    norms = np.where(norms > 0, norms / pairs, np.inf)
    scale = SHARPNESS * np.sqrt(0.5 * pairs) / norms
    values = logsumexp(scale[..., None] * found.each, axis=(0, 1)) - np.log(scale.size)
    return np.asarray(values), float((scale * found.tolerances).max())


def _evaluate(
    a: Centred,
    b: Centred,
    plan: Permutations,
    show_progress: bool | None,
    checkpoint: Checkpoint | None,
) -> _Evaluation:
    """The statistics of all permutations. Raises ValueError where they are not finite."""
    much = a.count**2 * len(b.kernel.terms) * plan.columns > WIDE_WORK
    narrow = much and fits_narrow(a.z) and fits_narrow(b.z)
    sums = PermutedSums(a, b, narrow=narrow)
    width = max(1, min(plan.columns, BATCH_BYTES[a.z.device.type] // (24 * a.count)))
    width = width if checkpoint is None else min(width, BATCH)
    total = -(-plan.columns // width) * sums.steps(width)

    def statistics(permutations: NDArray[np.int64]) -> Arrays:
        return (sums(torch.from_numpy(permutations).to(a.z.device), tick).cpu().numpy(),)

    with progress(total, "permutations", show_progress) as tick:
        batches = plan.batches(width)
        found = in_batches(batches, plan.columns, statistics, checkpoint, tick, sums.steps(width))
    values = np.concatenate([each for (each,) in found], 2)
    if not np.isfinite(values).all():
        largest = max(float(side.z.abs().max()) for side in (a, b))
        raise ValueError(f"the statistic overflows (largest entry {largest:.3g}); rescale the data")
    pairs = _pairs(a)
    return _Evaluation(values / pairs, sums.rounding.cpu().numpy() / pairs)
