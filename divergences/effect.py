"""How large is a difference, and is it small enough? Asymptotic intervals and equivalence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from .dependence import products
from .evaluation import share
from .kernels import Bandwidth, Kernel, potential
from .kernels.kernel import as_kernel
from .kernels.statistics.permuted import Centred
from .results import Record, p_in_words
from .samples import as_samples, column_names
from .scaling import scaled


@dataclass(frozen=True, eq=False, kw_only=True)
class EffectSize(Record):
    """The outcome of ``effect_size``: asymptotic. ``value`` is the estimate, in [0, 1], with its
    ``standard_error`` and ``confidence_interval`` at the level ``confidence``. ``pvalue`` tests
    that the effect is ``margin`` or more: at most α, the samples are equivalent at level α."""

    value: float
    standard_error: float
    confidence_interval: tuple[float, float]
    confidence: float
    margin: float | None
    pvalue: float | None
    n: int
    m: int
    d: int
    kernel: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        low, high = self.confidence_interval
        lines = [
            "effect size of the difference between x and y (asymptotic)",
            f"  n = {self.n}, m = {self.m}, d = {self.d}",
            f"  effect size  {self.value:.4g} ± {self.standard_error:.2g}, "
            f"{100 * self.confidence:g} % interval {low:.3g} to {high:.3g}",
        ]
        if self.pvalue is not None:
            p = p_in_words(self.pvalue, 4)
            lines.append(f"  p-value      {p} (that it is {self.margin:g} or more)")
        lines.append(f"  kernel       {self.kernel}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def effect_size(
    x: Any,
    y: Any,
    *,
    margin: float | None = None,
    kernel: Kernel | str = "energy",
    bandwidth: Bandwidth | None = None,
    confidence: float = 0.95,
) -> EffectSize:
    """The effect size of x [n, d] and y [m, d], with a confidence interval, and whether it is below
    a margin.

    The effect size is that of ``two_sample_test``: θ = MMD²/E‖φ(x) − φ(y)‖² in the feature space of
    the kernel, E/2E‖x − y‖ for "energy". The estimate θ̂ is a ratio of U-statistics, normal as n and
    m grow with a variance of aθ + c: c is what MMD² has where P = Q, 2(1/n + 1/m)²E k̃² for the
    centred kernel k̃, and aθ that of the first-order influences, which vanish there; a is estimated
    beside the biased θ̂, which vanishes with them. The interval holds the θ for which (θ̂ − θ)² ≤
    z²(aθ + c), as Wilson's for a proportion; the p-value is that of θ̂ at θ = margin. Asymptotic:
    rows are independent, and each sample has tens of them at least.

    Args:
        x, y: as ``two_sample_test`` takes them. Columns are not scaled.
        margin: in (0, 1); tests θ ≥ margin against θ < margin (equivalence).
        kernel, bandwidth: fixed beforehand, in the units of the data: a bandwidth in numbers, no
            rule.
        confidence: of the two-sided interval.

    Raises:
        ValueError, TypeError: as ``two_sample_test``; a bandwidth that is a rule; a margin or a
            confidence outside (0, 1); all rows equal.

    Work is O((n + m)²) kernel values, memory O((n + m) d).

    Examples:
        >>> import numpy as np
        >>> from divergences import effect_size
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(100, 2)), rng.normal(size=(80, 2)) + 0.5
        >>> found = effect_size(x, y, margin=0.2)
        >>> low, high = found.confidence_interval
        >>> print(f"{found.value:.2f} in [{low:.2f}, {high:.2f}]")
        0.03 in [0.01, 0.08]
        >>> found.pvalue < 0.05  # less than the margin
        True
    """
    for name, value in (("margin", margin), ("confidence", confidence)):
        if value is not None and not (
            isinstance(value, int | float) and not isinstance(value, bool) and 0.0 < value < 1.0
        ):
            raise ValueError(f"{name} must be a number in (0, 1); got {value!r}")
    chosen = as_kernel(kernel, bandwidth, "median")
    rules = [term.bandwidth for term in chosen.terms if isinstance(term.bandwidth, str)]
    if rules:
        raise ValueError(
            f"the bandwidth must be fixed beforehand, not chosen from the data by {rules[0]!r}: "
            "give it as a number, in the units of the data"
        )
    names = column_names(x)
    x, y = as_samples(x, y)
    pooled = torch.cat([x, y]).double()
    n, m = len(x), len(y)
    x, y = pooled[:n], pooled[n:]
    within = [_row_means(a, a, chosen) for a in (x, y)]
    between = [_row_means(a, b, chosen) for a, b in ((x, y), (y, x))]
    diagonal = pooled.new_ones(n + m) * chosen.diagonal(pooled)
    own = [diagonal[:n], diagonal[n:]]
    mean = float(between[0].mean())
    squared = float(within[0].mean() + within[1].mean()) - 2.0 * mean
    whole = float(own[0].mean() + own[1].mean()) - 2.0 * mean
    if not whole > 0.0:
        raise ValueError("all rows of x and y are equal: there is no effect size")
    ratio = squared / whole
    first, biased = 0.0, -2.0 * mean
    for inside, across, alone in zip(within, between, own, strict=True):
        influence = 2.0 * (inside - across) - ratio * (alone - 2.0 * across)
        first += float(influence.var()) / len(inside) / whole**2
        biased += float(((len(inside) - 1.0) * inside + alone).mean()) / len(inside)
    slope = first * whole / biased if biased > 0.0 else 0.0
    centred = Centred(pooled, chosen)
    null = products(centred, centred).xx if n + m > 3 else 0.0
    constant = 2.0 * (1.0 / n + 1.0 / m) ** 2 * max(0.0, null) / whole**2
    z = -NormalDist().inv_cdf(0.5 * (1.0 - confidence))
    middle = ratio + 0.5 * z**2 * slope
    reach = math.sqrt(max(0.0, middle**2 - ratio**2 + z**2 * constant))
    pvalue = None
    if margin is not None:
        error = math.sqrt(slope * margin + constant)
        pvalue = 0.5 * math.erfc((margin - ratio) / (error * math.sqrt(2.0))) if error else 1.0
    return EffectSize(
        value=share(squared, whole),
        standard_error=math.sqrt(slope * max(0.0, ratio) + constant),
        confidence_interval=(share(middle - reach, 1.0), share(middle + reach, 1.0)),
        confidence=confidence,
        margin=margin,
        pvalue=pvalue,
        n=n,
        m=m,
        d=pooled.shape[1],
        kernel=" + ".join(term.label for term in chosen.terms),
        notes=scaled(pooled, None, columns=names).notes,
    )


def _row_means(a: Tensor, b: Tensor, kernel: Kernel) -> Tensor:
    """Means of k(aᵢ, ·) over the rows of b, or over the other rows of a where b is a."""
    sums = potential(a, b, kernel=kernel).double()
    return (sums - kernel.diagonal(a)) / (len(a) - 1) if a is b else sums / len(b)
