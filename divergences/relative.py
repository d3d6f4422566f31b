"""Which of two models is closer to the data? Relative tests, asymptotically normal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .goodness_of_fit import kernel_label, stein_kernel
from .kernels import Bandwidth, Kernel, potential
from .kernels.bandwidth import MEDIAN_ROWS
from .kernels.kernel import as_kernel
from .kernels.statistics.stein import stein_sums
from .kernels.subsample import pooled_rows
from .kernels.validation import check_rows
from .mmd import DEFAULT_BANDWIDTH
from .results import Record, p_in_words
from .samples import as_sample, as_samples
from .scores import describe, scores_at

Method = Literal["mmd", "ksd"]
Alternative = Literal["two-sided", "p-closer", "q-closer"]


@dataclass(frozen=True, eq=False, kw_only=True)
class RelativeResult(Record):
    """The outcome of ``relative_test``.

    ``statistic`` = ``discrepancy_p`` − ``discrepancy_q``, unbiased estimates of the squared
    discrepancies between data and models: negative where p is closer. It is ``z`` times its
    ``standard_error``; ``confidence_interval`` is the two-sided one at level 1 − ``alpha``.
    ``closer`` is "p" or "q" where ``pvalue`` ≤ ``alpha`` says so, else None.
    """

    statistic: float
    standard_error: float
    z: float
    pvalue: float
    confidence_interval: tuple[float, float]
    alternative: Alternative
    alpha: float
    closer: Literal["p", "q"] | None
    discrepancy_p: float
    discrepancy_q: float
    method: str
    n: int
    d: int
    models: tuple[str, str]
    kernel: str

    def __iter__(self) -> Iterator[float]:
        """``statistic, pvalue = result``, as in SciPy."""
        return iter((self.statistic, self.pvalue))

    def __str__(self) -> str:
        low, high = self.confidence_interval
        verdict = "cannot tell" if self.closer is None else self.closer
        lines = [
            f"{self.method}: relative test, which of p and q is closer to the data",
            f"  n = {self.n}, d = {self.d}; p is {self.models[0]}, q is {self.models[1]}",
            f"  discrepancy  {self.discrepancy_p:.4g} (p), {self.discrepancy_q:.4g} (q)",
            f"  difference   {self.statistic:.4g} ± {self.standard_error:.2g}, "
            f"{100 * (1 - self.alpha):g} % interval {low:.3g} to {high:.3g}",
            f"  p-value      {p_in_words(self.pvalue, 4)} ({self.alternative}, z = {self.z:.2f})",
            f"  closer       {verdict} (at level {self.alpha:g})",
            f"  kernel       {self.kernel}",
        ]
        return "\n".join(lines)


def relative_test(
    x: Any,
    p: Any,
    q: Any,
    *,
    method: Method = "mmd",
    kernel: Kernel | str | None = None,
    bandwidth: Bandwidth | None = None,
    alternative: Alternative = "two-sided",
    alpha: float = 0.05,
    backend: str | None = None,
) -> RelativeResult:
    """Test whether two models are equally far from the data x [n, d], neither being taken for true.

    Which of two autoencoders? With samples of both, drawn for the purpose:

        relative_test(images, vae_1.sample(2000), vae_2.sample(2000))

    Is one Gaussian or are two the better fit? With scores, no samples (fit them to other data than
    x: what was fitted to x is too close to it):

        one = MultivariateNormal(mean, covariance)
        two = MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances))
        relative_test(x, one, two, method="ksd").closer      # "p", "q" or None

    Args:
        x: torch tensor (CPU or CUDA), anything with ``__dlpack__``, or anything numpy converts.
        p, q: for "mmd" samples [m, d] and [l, d] of the models, independent of x and each other.
            For "ksd" models with a score, as ``goodness_of_fit_test`` takes them.
        method: "mmd", the relative MMD (Bounliphone et al. 2016): D = MMD²(x, p) − MMD²(x, q); or
            "ksd", the relative kernel Stein discrepancy (Jitkrittum et al. 2018): D = KSD²_p −
            KSD²_q on the same x.
        kernel, bandwidth: for "mmd" as ``divergences.mmd.mmd2``, kernel="energy" included; rules
            look at equally many rows of each sample. For "ksd" as ``goodness_of_fit_test``.
        alternative: "two-sided", or what to show: "p-closer" (D < 0) or "q-closer" (D > 0).
        alpha: level of ``closer`` and of the confidence interval.
        backend: None (automatic), "reference" or "triton"; for "mmd".

    Returns:
        RelativeResult. D is a U-statistic, and normal as the samples grow with the variance of its
        first-order influence functions: Σ over samples of Var(influence)/size. So the p-value is
        asymptotic. Where both models are (nearly) the distribution of the data the first order
        vanishes and the test of samples is conservative, as good as never rejecting: whether
        either differs from the data at all, ``two_sample_test`` can tell.

    Raises:
        ValueError, TypeError: as ``two_sample_test`` or ``goodness_of_fit_test``; unknown methods
            and alternatives, alpha outside (0, 1).

    Work is O((n + m)² + (n + l)²) kernel values, streamed; memory O((n + m + l) d).

    Examples:
        >>> import numpy as np
        >>> from divergences import relative_test
        >>> rng = np.random.default_rng(0)
        >>> data, p, q = rng.normal(size=(3, 300, 2))
        >>> relative_test(data, p + 0.3, q + 1.0).closer
        'p'
    """
    for name, value, known in (
        ("method", method, Method),
        ("alternative", alternative, Alternative),
    ):
        if value not in get_args(known):
            options = ", ".join(map(repr, get_args(known)))
            raise ValueError(f"unknown {name} {value!r}; known are {options}")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must lie in (0, 1); got {alpha!r}")
    if method == "ksd":
        x = as_sample(x, "x").double()
        check_rows(x, "x", 2, "a test needs at least two rows")
        scores = [scores_at(p, x, "p"), scores_at(q, x, "q")]
        chosen = stein_kernel(kernel, bandwidth, x, *scores)
        found = _stein(x, scores, chosen)
        models = describe(p), describe(q)
    else:
        (x, p), (_, q) = as_samples(x, p, names=("x", "p")), as_samples(x, q, names=("x", "q"))
        named = as_kernel("gaussian" if kernel is None else kernel, bandwidth, DEFAULT_BANDWIDTH)
        rows = [pooled_rows(s, None, MEDIAN_ROWS // 3) for s in (x, p, q)]
        chosen = named.resolve(torch.cat(rows))
        found = _mmd(x, p, q, chosen, backend)
        models = f"a sample of {len(p)}", f"a sample of {len(q)}"
    difference = found.to_p - found.to_q
    if not math.isfinite(found.error):
        raise ValueError(
            f"the statistic overflows (largest entry {float(x.abs().max()):.3g}); rescale the data"
        )
    z = _ratio(difference, found.error)
    pvalue = _pvalue(z, alternative)
    reach = -NormalDist().inv_cdf(alpha / 2) * found.error
    closer: Literal["p", "q"] = "p" if difference < 0 else "q"
    return RelativeResult(
        statistic=difference,
        standard_error=found.error,
        z=z,
        pvalue=pvalue,
        confidence_interval=(difference - reach, difference + reach),
        alternative=alternative,
        alpha=alpha,
        closer=closer if pvalue <= alpha else None,
        discrepancy_p=found.to_p,
        discrepancy_q=found.to_q,
        method=method,
        n=x.shape[0],
        d=x.shape[1],
        models=models,
        kernel=kernel_label(chosen),
    )


class _Estimate(NamedTuple):
    to_p: float
    to_q: float
    error: float  # the standard error of their difference


def _mmd(x: Tensor, p: Tensor, q: Tensor, kernel: Kernel, backend: str | None) -> _Estimate:
    """Influence functions are twice the row means of the kernel, with the signs of D."""

    def between(a: Tensor, b: Tensor) -> Tensor:
        return potential(a, b, kernel=kernel, backend=backend).double() / len(b)

    def within(a: Tensor) -> Tensor:
        sums = potential(a, a, kernel=kernel, backend=backend).double() - kernel.diagonal(a)
        return sums / (len(a) - 1)

    xp, xq, pp, qq = between(x, p), between(x, q), within(p), within(q)
    influences = (xq - xp, pp - between(p, x), between(q, x) - qq)
    variance = sum(4.0 * float(h.var()) / len(h) for h in influences)
    xx = float(within(x).mean())
    to_p, to_q = (xx + float(own.mean() - 2.0 * far.mean()) for own, far in ((pp, xp), (qq, xq)))
    return _Estimate(to_p, to_q, math.sqrt(variance))


def _stein(x: Tensor, scores: list[Tensor], kernel: Kernel) -> _Estimate:
    to_p, to_q = (stein_sums(x, s, kernel).row_sums / (len(x) - 1) for s in scores)
    influence = 2.0 * (to_p - to_q)
    error = float(influence.std()) / math.sqrt(len(x))
    return _Estimate(float(to_p.mean()), float(to_q.mean()), error)


def _ratio(difference: float, error: float) -> float:
    """z, or 0 where the rows show no spread to judge a difference by."""
    return difference / error if error > 0.0 else 0.0


def _pvalue(z: float, alternative: str) -> float:
    if alternative == "two-sided":
        return math.erfc(abs(z) / math.sqrt(2.0))
    return 0.5 * math.erfc((-z if alternative == "p-closer" else z) / math.sqrt(2.0))
