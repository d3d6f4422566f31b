"""How much do x and y depend on one another? HSIC, distance covariance and their correlations.

All are one inner product. For kernel matrices K of x and L of y, U-centred to k̃ and l̃ (doubly,
without the diagonals: Székely & Rizzo, "Partial distance correlation", Ann. Statist. 2014),

    ⟨K, L⟩ = 1/(n(n−3)) Σ_{i≠j} k̃ᵢⱼ l̃ᵢⱼ

is the unbiased HSIC (Song et al., JMLR 2012, eq. 5), and for k = l = −‖·‖^β the bias-corrected
squared distance covariance; no factor stands between the two families but that of the kernels.
⟨K, L⟩/√(⟨K, K⟩⟨L, L⟩) is the unbiased CKA and the bias-corrected squared distance correlation. The
biased (V-statistic) forms use tr(KHLH)/n², H = I − 11ᵀ/n, in the same places.

Nothing n×n is stored: O(n²d) time, O(nd) memory. Everything is squared, as in the rest of the
package: take the root of a biased form for the distance covariance or correlation themselves.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .kernels import Bandwidth, Energy, Kernel
from .kernels.kernel import as_kernel
from .kernels.statistics.permuted import Centred, PermutedSums
from .samples import as_sample

DEFAULT_BANDWIDTH = "median"


def distance_covariance(
    x: Any, y: Any, *, bias_corrected: bool = True, exponent: float = 1.0
) -> float:
    """Squared distance covariance of paired rows x [n, dx] and y [n, dy], n ≥ 4 (else n ≥ 3).

    In the units of x and y to the power ``exponent`` (0 < β < 2), multiplied. Bias-corrected
    (Székely & Rizzo 2014; dcor's ``u_distance_covariance_sqr``) it is 0 on average for independent
    x and y, and may be negative; else it is the V-statistic of Székely, Rizzo & Bakirov (Ann.
    Statist. 2007; dcor's ``distance_covariance_sqr``), never negative.

    Raises ValueError or TypeError on shapes that do not fit and non-finite rows (counted).

    Examples:
        >>> from divergences import distance_covariance
        >>> x, y = [[0.0], [1.0], [2.0], [5.0]], [[0.0], [2.0], [4.0], [10.0]]
        >>> print(f"{distance_covariance(x, y):.3f}")
        1.333
    """
    a, b = as_pairs(x, y, bias_corrected)
    energy = Energy(exponent)
    return products(Centred(a, energy), Centred(b, energy), unbiased=bias_corrected).xy


def distance_correlation(
    x: Any, y: Any, *, bias_corrected: bool = True, exponent: float = 1.0
) -> float:
    """Squared distance correlation of paired rows x [n, dx] and y [n, dy]: no unit, at most 1.

    Bias-corrected (Székely & Rizzo 2014; dcor's ``u_distance_correlation_sqr``) it can be compared
    across n and d, and may be negative; the V-statistic (dcor's ``distance_correlation_sqr``) tends
    to 1 as d grows, for independent x and y too. 0 if x or y is constant. Otherwise as
    ``distance_covariance``.

    Examples:
        >>> from divergences import distance_correlation
        >>> x = [[0.0], [1.0], [2.0], [5.0]]
        >>> print(f"{distance_correlation(x, x):.2f}")
        1.00
    """
    a, b = as_pairs(x, y, bias_corrected)
    energy = Energy(exponent)
    return products(Centred(a, energy), Centred(b, energy), unbiased=bias_corrected).correlation


def hsic(
    x: Any,
    y: Any,
    *,
    kernel_x: Kernel | str = "gaussian",
    kernel_y: Kernel | str = "gaussian",
    bandwidth_x: Bandwidth | None = None,
    bandwidth_y: Bandwidth | None = None,
    unbiased: bool = True,
) -> float:
    """Hilbert-Schmidt independence criterion of paired rows x [n, dx] and y [n, dy], n ≥ 4 (n ≥ 3
    if not unbiased).

    Kernels and bandwidths are those of ``divergences.mmd.mmd2``; the default is the median of the
    positive distances, of either side by itself. Unbiased (Song et al. 2012), or tr(KHLH)/n²
    (Gretton et al., NeurIPS 2008; ALT 2005 has (n−1)² in place of n²).

    Raises ValueError or TypeError on shapes that do not fit and non-finite rows (counted).

    Examples:
        >>> from divergences import hsic
        >>> x, y = [[0.0], [1.0], [2.0], [5.0]], [[0.0], [2.0], [4.0], [10.0]]
        >>> print(f"{hsic(x, y):.3f} {hsic(x, y, unbiased=False):.3f}")
        0.027 0.096
    """
    a, b = as_pairs(x, y, unbiased)
    kx = as_kernel(kernel_x, bandwidth_x, DEFAULT_BANDWIDTH).resolve(a)
    ky = as_kernel(kernel_y, bandwidth_y, DEFAULT_BANDWIDTH).resolve(b)
    return products(Centred(a, kx), Centred(b, ky), unbiased=unbiased).xy


def cka(
    x: Any,
    y: Any,
    *,
    kernel: Kernel | str = "linear",
    bandwidth: Bandwidth | None = None,
    unbiased: bool = True,
) -> float:
    """Centred kernel alignment of paired representations x [n, dx] and y [n, dy], n ≥ 4; at most 1.

    The correlation that belongs to HSIC (Cortes, Mohri & Rostamizadeh, JMLR 2012; Kornblith et al.,
    ICML 2019). ``unbiased`` forms it of unbiased HSICs (Nguyen, Raghu & Kornblith, ICLR 2021), so
    that wide representations of few rows do not look alike; it may be negative. A bandwidth rule is
    applied to either side by itself. 0 if x or y is constant. Raises as ``hsic``.

    Examples:
        >>> import numpy as np
        >>> from divergences import cka
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> other = 5 * x[:, [2, 0, 1]]  # the same representation in other coordinates
        >>> print(f"{cka(x, other):.3f} {abs(cka(x, x[::-1])):.1f}")
        1.000 0.2
    """
    a, b = as_pairs(x, y, unbiased)
    named = as_kernel(kernel, bandwidth, DEFAULT_BANDWIDTH)
    sides = (Centred(sample, named.resolve(sample)) for sample in (a, b))
    return products(*sides, unbiased=unbiased).correlation


# --- Inner products ------------------------------------------------------------------------------


class Products(NamedTuple):
    """⟨K, L⟩, ⟨K, K⟩ and ⟨L, L⟩."""

    xy: float
    xx: float
    yy: float

    @property
    def correlation(self) -> float:
        """⟨K, L⟩/√(⟨K, K⟩⟨L, L⟩), 0 where a side does not vary."""
        scale = math.sqrt(max(0.0, self.xx)) * math.sqrt(max(0.0, self.yy))
        return min(1.0, self.xy / scale) if scale > 0.0 else 0.0


def products(x: Centred, y: Centred, *, unbiased: bool = True) -> Products:
    """Of the kernels as a whole, coefficients of their terms applied."""
    identity = torch.arange(x.count, device=x.z.device).unsqueeze(0)
    cross = PermutedSums(x, y)(identity).squeeze(2)
    found = []
    for a, b, sums in ((x, y, cross), (x, x, x.products), (y, y, y.products)):
        total = float(coefficients(a) @ sums @ coefficients(b))
        total = total if unbiased else _with_diagonal(total, a, b)
        found.append(total / (x.count * (x.count - 3 if unbiased else x.count)))
    return Products(*found)


def coefficients(side: Centred) -> Tensor:
    """[C] of the terms of its kernel."""
    return side.z.new_tensor([t.coefficient for t in side.kernel.terms])


def _with_diagonal(total: float, a: Centred, b: Centred) -> float:
    """tr(KHLH) from the sum of U-centred products: Σ_{i≠j} k l again, then all pairs, centred."""
    n = a.count
    r, s = coefficients(a) @ a.row_sums, coefficients(b) @ b.row_sums
    total += float(2.0 / (n - 2) * (r @ s) - r.sum() * s.sum() / ((n - 1) * (n - 2)))
    p, q = (torch.as_tensor(c.kernel.diagonal(c.z)).to(r).expand(n) for c in (a, b))
    r, s = r + p, s + q
    return total + float(p @ q - 2.0 / n * (r @ s) + r.sum() * s.sum() / n**2)


def as_pairs(x: Any, y: Any, unbiased: bool = True) -> tuple[Tensor, Tensor]:
    """Paired samples [n, dx] and [n, dy] in fp64 on one device; n ≥ 4, which the unbiased forms
    divide by n(n−3) for, else n ≥ 3."""
    a, b = as_sample(x, "x").double(), as_sample(y, "y").double()
    if len(a) != len(b):
        raise ValueError(
            "x and y must have as many rows, which are pairs; got "
            f"x {list(a.shape)}, y {list(b.shape)}"
        )
    if a.device != b.device:
        raise ValueError(f"x and y must be on one device; got {a.device} and {b.device}")
    if len(a) < (4 if unbiased else 3):
        least = "four pairs are needed" if unbiased else "three pairs are needed"
        raise ValueError(f"at least {least}; got x {list(a.shape)}, y {list(b.shape)}")
    return a, b
