"""Do P and Q differ? Two-sample tests by permutation, valid at any n, m and d."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .forms import Forms, GroupSums, PairForms, SortedForms, Source, group_sums
from .fuse import fuse_kernel, fuse_statistic
from .kernels import Bandwidth, Energy, Kernel, pair_sums
from .kernels.bandwidth import MEDIAN_ROWS
from .kernels.kernel import as_kernel
from .mmd import DEFAULT_BANDWIDTH
from .resampling import TIE, Relabellings, permutation_pvalue, progress
from .results import HypothesisResult, KernelRow
from .samples import (
    Rng,
    as_samples,
    as_strata,
    check_resamples,
    generator_of,
    is_constant,
    warn_constant,
)

Method = Literal["fuse", "fuse-original", "mmd", "energy"]
WIDE_WORK = 2**32  # N²·terms·labellings up to which products with labels are formed in fp64
LABEL_BYTES = {"cpu": 2**29, "cuda": 2**32}  # of the label vectors held at a time
BYTES_PER_LABEL = {False: 4, True: 24}  # with strata they are drawn by sorting


@dataclass(frozen=True, eq=False, kw_only=True)
class TwoSampleResult(HypothesisResult):
    """The outcome of ``two_sample_test``; see ``HypothesisResult``.

    ``statistic`` is the unbiased estimate, that of ``energy_distance`` or ``mmd2`` (for "fuse" the
    aggregate of them, which has no unit).
    """

    m: int
    _samples: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    _kernel: Kernel | None = field(default=None, repr=False)

    question: ClassVar[str] = "two-sample test of P = Q"

    @property
    def sizes(self) -> str:
        return f"n = {self.n}, m = {self.m}, d = {self.d}"


def two_sample_test(
    x: Any,
    y: Any,
    *,
    method: Method = "fuse",
    kernel: Kernel | str | None = None,
    bandwidth: Bandwidth | None = None,
    n_resamples: int | None = None,
    rng: Rng = None,
    strata: ArrayLike | Tensor | None = None,
    backend: str | None = None,
    show_progress: bool | None = None,
) -> TwoSampleResult:
    """Permutation test of P = Q from samples x [n, d] and y [m, d].

    Args:
        x, y: torch tensors (CPU or CUDA), anything with ``__dlpack__``, or anything numpy converts.
        method: what to test with.

            * "fuse": MMD-FUSE (Biggs, Schrab & Gretton 2023), ten Gaussian and ten L1-Laplace
              kernels aggregated into one statistic and one p-value. No scale to choose. Bandwidths
              are log-spaced between half the 5 % and twice the 95 % quantile of pooled distances;
              "fuse-original" spaces them linearly, as the paper does.
            * "mmd": the squared MMD of one kernel (or mixture of kernels).
            * "energy": the energy distance; no parameter, O(N log N) for d = 1.
        kernel, bandwidth: for the MMD methods, as ``divergences.mmd.mmd2``. A bandwidth rule is
            applied to a uniformly drawn subsample of the pooled rows, blind to the labels.
        n_resamples: B ≥ 1 relabellings (999; 1999 for "fuse"). The smallest possible p-value is
            1/(B + 1). If no more than B + 1 relabellings exist, all of them are listed instead.
        rng: seed, ``numpy.random.Generator`` or ``torch.Generator``; fresh entropy if None, whose
            seed is in the result.
        strata: [n + m] labels of the rows of x, then of y: labels are permuted within strata only
            (blocks, batches, matched pairs). The hypothesis is then P = Q within each.
        backend: None (automatic), "reference" or "triton".
        show_progress: a bar; None shows it on a terminal once the test has taken some seconds.

    Returns:
        TwoSampleResult. The p-value is valid at every sample size: under P = Q, P(p ≤ α) ≤ α.

    Raises:
        ValueError, TypeError: shapes that do not fit, fewer than two rows, non-finite entries
            (counted), unknown methods, B < 1.

    Memory is O(N (d + B)) bytes for N = n + m, never N².
    """
    if method not in get_args(Method):
        known = ", ".join(map(repr, get_args(Method)))
        raise ValueError(f"unknown method {method!r}; known are {known}")
    fuse = method.startswith("fuse")
    n_resamples = check_resamples((1999 if fuse else 999) if n_resamples is None else n_resamples)
    x, y = as_samples(x, y)
    pooled = torch.cat([x, y])
    groups = as_strata(strata, len(pooled))
    generator, seed = generator_of(rng)
    if is_constant(pooled):
        warn_constant("x and y")
    chosen = _kernel(method, kernel, bandwidth, pooled, generator)
    plan = Relabellings((len(x), len(y)), n_resamples, generator, groups)
    source = _source(method, pooled, chosen, plan.columns, backend)
    found = evaluate(source, plan, pooled, show_progress)
    statistics, tolerance = (
        fuse_statistic(found.each, found.squares, found.tolerances, min(len(x), len(y)))
        if fuse
        else found.weighted(chosen)
    )
    observed, null = split(statistics, plan.exact)
    return TwoSampleResult(
        statistic=observed,
        pvalue=permutation_pvalue(observed, null, tolerance, exact=plan.exact),
        null_distribution=null,
        method=method,
        n=len(x),
        m=len(y),
        d=x.shape[1],
        effect_size=_energy_effect(x, y, backend) if fuse else found.effect(chosen, x, y),
        exact=plan.exact,
        seed=seed,
        kernels=found.rows(chosen, plan.exact),
        _samples=(x, y),
        _kernel=chosen,
    )


def _kernel(
    method: str,
    kernel: Kernel | str | None,
    bandwidth: Bandwidth | None,
    pooled: Tensor,
    generator: np.random.Generator,
) -> Kernel:
    """The resolved kernel; its bandwidths depend on the pooled rows alone."""
    if not method.startswith("mmd") and (kernel is not None or bandwidth is not None):
        raise ValueError(f"method {method!r} has its own kernels; use method='mmd' with a kernel")
    rows = torch.from_numpy(generator.permutation(len(pooled))).to(pooled.device)
    if method.startswith("fuse"):
        return fuse_kernel(pooled, rows, "linear" if method == "fuse-original" else "log")
    if method == "energy":
        return Energy()
    named = as_kernel("gaussian" if kernel is None else kernel, bandwidth, DEFAULT_BANDWIDTH)
    return named.resolve(pooled[rows[:MEDIAN_ROWS]])


def _source(
    method: str, pooled: Tensor, kernel: Kernel, columns: int, backend: str | None
) -> Source:
    if method == "energy" and pooled.shape[1] == 1 and backend is None:
        return SortedForms(pooled)
    work = len(pooled) ** 2 * len(kernel.terms) * columns
    return PairForms(pooled, kernel, narrow=work > WIDE_WORK, backend=backend)


# --- Statistics of all relabellings --------------------------------------------------------------


class Evaluation(NamedTuple):
    """Unbiased statistics of every kernel term and labelling, the observed labelling first."""

    each: NDArray[np.float64]  # [C, B]
    squares: NDArray[np.float64]  # [C]: Σ_{i≠j} k² over the pooled rows
    tolerances: NDArray[np.float64]  # [C]: statistics this near are ties
    between: NDArray[np.float64]  # [C]: the observed mean of k(x, y)

    def weighted(self, kernel: Kernel) -> tuple[NDArray[np.float64], float]:
        """The statistics [B] of the kernel as a whole, and their tolerance."""
        coefs = np.array([t.coefficient for t in kernel.terms])
        return coefs @ self.each, float(coefs @ self.tolerances)

    def effect(self, kernel: Kernel, x: Tensor, y: Tensor) -> float:
        """MMD² over the mean squared distance E‖φ(x) − φ(y)‖² in feature space, in [0, 1]."""
        coefs = np.array([t.coefficient for t in kernel.terms])
        own = sum(float(torch.as_tensor(kernel.diagonal(s)).double().mean()) for s in (x, y))
        return _share(float(coefs @ self.each[:, 0]), own - 2.0 * float(coefs @ self.between))

    def rows(self, kernel: Kernel, exact: bool) -> tuple[KernelRow, ...]:
        found = []
        for term, values, tolerance in zip(kernel.terms, self.each, self.tolerances, strict=True):
            observed, null = split(values, exact)
            pvalue = permutation_pvalue(observed, null, float(tolerance), exact=exact)
            found.append(
                KernelRow(
                    kernel=term.label, bandwidth=term.scale, statistic=observed, pvalue=pvalue
                )
            )
        return tuple(found)


def split(values: NDArray[np.float64], exact: bool) -> tuple[float, NDArray[np.float64]]:
    """The observed statistic and the null distribution, which holds the observed one if exact."""
    return float(values[0]), values if exact else values[1:]


def evaluate(
    source: Source, plan: Relabellings, pooled: Tensor, show_progress: bool | None
) -> Evaluation:
    """The statistics of all labellings. Raises ValueError where they are not finite."""
    n = int((plan.observed == 0).sum())
    m = len(pooled) - n
    width = LABEL_BYTES[pooled.device.type] // BYTES_PER_LABEL[plan.strata is not None]
    width = max(1, min(plan.columns, width // len(pooled)))
    each, between = [], None
    steps = -(-plan.columns // width) * source.steps
    with progress(steps, "permutations", show_progress) as tick:
        for labels in plan.batches(width):
            v = torch.from_numpy(1 - 2 * labels).to(pooled.device)
            forms = source(v, tick)
            sums = group_sums(forms)
            each.append(unbiased(sums, n, m, forms).cpu().numpy())
            if between is None:
                between = (sums.xy[:, 0] / (n * m)).cpu().numpy()
    values = np.concatenate(each, axis=1)
    if not np.isfinite(values).all():
        raise ValueError(
            f"the statistic overflows (largest entry {float(pooled.abs().max()):.3g}); rescale "
            "the data"
        )
    scale = forms.total.abs().squeeze(1).cpu().numpy() / len(pooled) ** 2
    factor = 0.25 * (1.0 / (n * (n - 1)) + 1.0 / (m * (m - 1)) + 2.0 / (n * m))
    rounding = source.rounding.cpu().numpy() * factor
    assert between is not None
    return Evaluation(values, source.squares.cpu().numpy(), TIE * scale + rounding, between)


def unbiased(sums: GroupSums, n: int, m: int, forms: Forms) -> Tensor:
    """mean k(x, x′) + mean k(y, y′) − 2 mean k(x, y) over the pairs there are, [C, B]."""
    xx, yy, xy = forms.pairs or (n * (n - 1), m * (m - 1), n * m)
    return sums.xx / xx + sums.yy / yy - 2.0 * sums.xy / xy


def _energy_effect(x: Tensor, y: Tensor, backend: str | None) -> float:
    """Energy distance over 2E‖x − y‖, in [0, 1]."""
    sums = pair_sums(x, y, kernel=Energy(), backend=backend)
    n, m = len(x), len(y)
    between = -2.0 * float(sums.xy) / (n * m)
    within = float(sums.xx) / (n * (n - 1)) + float(sums.yy) / (m * (m - 1))
    return _share(between + within, between)


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0.0 else 0.0
