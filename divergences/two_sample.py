"""Do P and Q differ? Two-sample tests by permutation, valid at any n, m and d."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .kernels import Bandwidth, Energy, Kernel
from .kernels.bandwidth import MEDIAN_ROWS
from .kernels.kernel import as_kernel
from .kernels.labels import label_forms
from .kernels.validation import check_rows, check_samples
from .mmd import DEFAULT_BANDWIDTH

Method = Literal["energy", "mmd"]
Rng = int | np.random.Generator | torch.Generator | None
TIE = 1e-11  # of E|k|: labellings this close to the observed one count as ties; sums are fp64
LABEL_COLUMNS = 1024  # permutations processed at a time


@dataclass(frozen=True, eq=False)
class TwoSampleResult:
    """The outcome of ``two_sample_test``.

    ``statistic`` is the unbiased estimate, that of ``energy_distance`` or ``mmd2`` (with the
    bandwidth that ``rng`` drew the rows for), ``pvalue`` = (1 + #{T_b ≥ T})/(B + 1) with
    ``null_distribution`` T_b [B], read-only.
    """

    statistic: float
    pvalue: float
    null_distribution: NDArray[np.float64] = field(repr=False)
    method: str
    kernel: str
    n: int
    m: int

    @property
    def n_resamples(self) -> int:
        return len(self.null_distribution)

    def __str__(self) -> str:
        return (
            f"{self.method} two-sample test, {self.kernel}\n"
            f"  n = {self.n}, m = {self.m}, {self.n_resamples} permutations\n"
            f"  statistic {self.statistic:.6g} "
            f"(under P = Q: {self.null_distribution.mean():.2g} ± "
            f"{self.null_distribution.std():.2g})\n"
            f"  p-value   {self.pvalue:.4g}"
        )


def two_sample_test(
    x: Any,
    y: Any,
    *,
    method: Method = "energy",
    kernel: Kernel | str | None = None,
    bandwidth: Bandwidth | None = None,
    n_resamples: int = 999,
    rng: Rng = None,
) -> TwoSampleResult:
    """Permutation test of P = Q from samples x [n, d] and y [m, d].

    Args:
        x, y: torch tensors or anything numpy can convert, of any real dtype; computed in fp64.
        method: "energy" (no parameter) or "mmd".
        kernel, bandwidth: for "mmd", as ``divergences.mmd.mmd2``. A bandwidth rule is applied to
            a uniformly drawn subsample of the pooled rows, blind to the labels.
        n_resamples: B ≥ 1 random relabellings; the smallest possible p-value is 1/(B + 1).
        rng: seed, ``numpy.random.Generator`` or ``torch.Generator``; fresh entropy if None.

    Returns:
        TwoSampleResult. The p-value is valid at every sample size (Phipson & Smyth 2010): under
        P = Q, P(p ≤ α) ≤ α.

    Raises:
        ValueError, TypeError: shapes that do not fit, fewer than two rows, non-finite entries
            (counted), unknown methods, B < 1.
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be 'energy' or 'mmd'; got {method!r}")
    if isinstance(n_resamples, np.integer):
        n_resamples = int(n_resamples)
    if isinstance(n_resamples, bool) or not isinstance(n_resamples, int) or n_resamples < 1:
        raise ValueError(f"n_resamples must be a positive integer; got {n_resamples!r}")
    x, y = check_samples(_as_sample(x, "x"), _as_sample(y, "y"))
    check_rows(x, "x", 2, "a two-sample test needs at least two rows")
    check_rows(y, "y", 2, "a two-sample test needs at least two rows")
    generator = _generator(rng)
    chosen = _kernel(method, kernel, bandwidth)
    pooled = torch.cat([x, y])
    if bool((pooled == pooled[0]).all()):
        warnings.warn("all rows of x and y are equal: p = 1", stacklevel=2)
    subset = generator.permutation(len(pooled))[:MEDIAN_ROWS]
    chosen = chosen.resolve(pooled[torch.from_numpy(subset).to(pooled.device)])
    observed, null, scale = _statistics(pooled, len(x), chosen, n_resamples, generator)
    if not np.isfinite([observed, scale, *null]).all():
        raise ValueError(
            f"the statistic overflows (largest entry {float(pooled.abs().max()):.3g}); rescale "
            "the data"
        )
    exceed = int((null >= observed - TIE * scale).sum())
    return TwoSampleResult(
        statistic=observed,
        pvalue=(1 + exceed) / (n_resamples + 1),
        null_distribution=null,
        method=method,
        kernel=repr(chosen),
        n=len(x),
        m=len(y),
    )


def _kernel(method: str, kernel: Kernel | str | None, bandwidth: Bandwidth | None) -> Kernel:
    if method == "energy":
        if kernel is not None or bandwidth is not None:
            raise ValueError("method 'energy' has its own kernel; use method='mmd' with a kernel")
        return Energy()
    return as_kernel("gaussian" if kernel is None else kernel, bandwidth, DEFAULT_BANDWIDTH)


def _statistics(
    pooled: Tensor, n: int, kernel: Kernel, n_resamples: int, generator: np.random.Generator
) -> tuple[float, NDArray[np.float64], float]:
    """The observed U-statistic, those of the relabellings [B], and the size of their sums.

    With labels v = ±1, within and between sums follow from vᵀKv, vᵀK1 and 1ᵀK1. The observed
    labelling is a column like the others.
    """
    count = len(pooled)
    m = count - n
    first = np.ones((count, 1), dtype=np.float32)
    first[n:] = -1.0
    coefs = torch.tensor([t.coefficient for t in kernel.terms], dtype=torch.float64)
    values = []
    scale = 0.0
    for start in range(0, n_resamples + 1, LABEL_COLUMNS):
        size = min(LABEL_COLUMNS, n_resamples + 1 - start)
        labels = generator.permuted(np.repeat(first, size, axis=1), axis=0)
        if start == 0:
            labels[:, 0] = first[:, 0]
        v = torch.from_numpy(labels).to(pooled.device)
        forms, row_sums = label_forms(pooled, v, kernel=kernel)
        forms, row_sums = forms.cpu(), row_sums.cpu()
        linear = row_sums @ v.cpu().double()  # vᵀK1 [C, B]
        total = row_sums.sum(1, keepdim=True)
        xx = (forms + 2.0 * linear + total) / 4.0
        yy = (forms - 2.0 * linear + total) / 4.0
        xy = (total - forms) / 4.0
        u = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2.0 * xy / (n * m)
        values.append((coefs @ u).numpy())
        scale = float((coefs.unsqueeze(1) * total.abs()).sum()) / count**2
    statistics = np.concatenate(values)
    statistics.flags.writeable = False
    return float(statistics[0]), statistics[1:], scale


def _as_sample(x: Any, name: str) -> Tensor:
    """A floating tensor [n, d] of finite numbers."""
    try:
        sample = x.detach() if isinstance(x, Tensor) else torch.from_numpy(_native(x))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} cannot be converted to a tensor: {error}") from None
    if sample.is_complex():
        raise TypeError(f"{name} must be real; got {sample.dtype}")
    sample = sample.double()
    sample = sample.unsqueeze(-1) if sample.dim() == 1 else sample
    if sample.dim() != 2:
        raise ValueError(f"{name} must have shape [n, d] or [n]; got {list(sample.shape)}")
    bad = int((~torch.isfinite(sample)).any(1).sum())
    if bad:
        raise ValueError(f"{name} has {bad} rows of {len(sample)} with NaN or infinite entries")
    return sample


def _native(x: Any) -> NDArray[np.float64]:
    """A writable contiguous fp64 copy, whatever the byte order, strides and width."""
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise TypeError("a masked array; drop its masked rows first, or fill them")
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"dtype {array.dtype} is not a real number")
    return np.array(array, dtype=np.float64, order="C")


def _generator(rng: Rng) -> np.random.Generator:
    if isinstance(rng, torch.Generator):
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        return np.random.default_rng(seed)
    if rng is None or isinstance(rng, int | np.integer | np.random.Generator):
        return np.random.default_rng(rng)
    raise TypeError(
        "rng must be a seed, a numpy Generator, a torch Generator or None; "
        f"got {type(rng).__name__}"
    )
