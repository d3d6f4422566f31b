"""Are x and y independent given z? A kernel test of the residuals of regressions on z."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .dependence import DEFAULT_BANDWIDTH, as_pairs
from .features import nystrom_features
from .goodness_of_fit import kernel_label
from .independence import IndependenceResult, KernelPairRow
from .kernels import Bandwidth, Kernel
from .kernels.bandwidth import MEDIAN_ROWS
from .kernels.kernel import as_kernel
from .resampling import TIE, permutation_pvalue, progress
from .samples import (
    Rng,
    as_sample,
    check_resamples,
    column_names,
    complete_rows,
    generator_of,
    is_constant,
    warn_constant,
)
from .scaling import Scale, check_scale, scaled, without_units

LANDMARKS = 200  # rows at which the kernels of x, y and z are known; all, if there are no more
OUTPUTS, RELEVANT = 100, 1e-3  # principal features of x and y, and their least share of the first
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the kernels of z, in medians of the distances
RIDGES = tuple(np.geomspace(1e-4, 30.0, 12).tolist())
TILE = 1024  # rows of the matrix of products that exist at a time
FEW = 200  # rows below which a note is made
FEWEST = 10


@dataclass(frozen=True, eq=False, kw_only=True)
class ConditionalIndependenceResult(IndependenceResult):
    """The outcome of ``conditional_independence_test``; see ``IndependenceResult``.

    ``d`` counts the columns of x, y and z together. ``explained`` are the shares of the variance of
    the features of x and of y that their regressions on z explain, leaving one row out.
    ``coefficients`` has the "cka" of the residuals, which is 0 on average where x and y are
    independent given z and the regressions right; ``effect_size`` is that, or 0 if it is negative.
    """

    dz: int
    explained: tuple[float, float]

    question: ClassVar[str] = "test of independence of x and y given z"
    resample: ClassVar[str] = "signs"

    @property
    def sizes(self) -> str:
        return f"n = {self.n}, dx = {self.dx}, dy = {self.dy}, dz = {self.dz}"


def conditional_independence_test(
    x: Any,
    y: Any,
    z: Any,
    *,
    kernel_x: Kernel | str | None = None,
    kernel_y: Kernel | str | None = None,
    bandwidth_x: Bandwidth | None = None,
    bandwidth_y: Bandwidth | None = None,
    n_resamples: int = 999,
    rng: Rng = None,
    scale: Scale | None = "auto",
    drop_nan: bool = False,
    show_progress: bool | None = None,
) -> ConditionalIndependenceResult:
    """Test of independence of x [n, dx] and y [n, dy] given z [n, dz], row by row, n ≥ 10.

    Kernel features of x and of y are regressed on z; the statistic is ‖Σ εᵢ ⊗ ξᵢ‖² of the residuals
    without the terms i = j, the generalised covariance measure of features (Shah & Peters 2020;
    Lundborg, Shah & Peters 2022), as KCI but for its kernel of z (Zhang et al., UAI 2011). Its null
    distribution is that under random signs of the rows (wild bootstrap).

    **Asymptotic, and under an assumption**: conditional means of the features of x and y, as
    functions of z, are found by ridge regressions so well that the product of their errors falls
    faster than n^−½. What a regression misses on both sides is taken for dependence. No test of
    this hypothesis is valid for every distribution of continuous z (Shah & Peters 2020). If z
    takes few values, ``independence_test(x, y, strata=z)`` is exact. Measured on post-nonlinear
    models at n = 100 and level .05: .05, .07 and .10 of true hypotheses are rejected for dz = 1, 3
    and 5 (``bench/results/level.csv``), and no fewer at n = 300.

    Args:
        x, y, z: torch tensors (CPU or CUDA), anything with ``__dlpack__``, or anything numpy
            converts.
        kernel_x, kernel_y, bandwidth_x, bandwidth_y: as of ``independence_test`` with "hsic",
            positive definite ones; a Gaussian of the median distance if None.
        n_resamples: B ≥ 1 vectors of signs.
        rng: as of ``independence_test``.
        scale: as of ``two_sample_test``, for x, y and z by themselves.
        drop_nan: leave out rows with NaN and say how many; else they are refused.
        show_progress: a bar; None shows it on a terminal once the test has taken some seconds.

    The regressions are kernel ridge regressions with Gaussian kernels of all columns of z, and with
    means of kernels of its columns, of five bandwidths; kernel, bandwidth and ridge are chosen for
    each principal feature of x and y by leave-one-out errors. Above 200 rows kernels are
    approximated by 200 landmarks (Nyström).

    Raises:
        ValueError, TypeError: shapes that do not fit, fewer than ten rows, non-finite entries
            (counted), kernels that are not positive definite, B < 1.

    Time is O(n²B) and 10⁷ operations a row, memory O(n(d + B)) and 20 kB a row.

    Examples:
        >>> import numpy as np
        >>> from divergences import conditional_independence_test
        >>> rng = np.random.default_rng(0)
        >>> z = rng.normal(size=100)
        >>> x, y = z + 0.5 * rng.normal(size=100), z**2 + 0.5 * rng.normal(size=100)
        >>> conditional_independence_test(x, y, z, n_resamples=199, rng=0).pvalue > 0.05
        True
        >>> conditional_independence_test(x, y + x, z, n_resamples=199, rng=0).pvalue
        0.005
    """
    check_scale(scale)
    n_resamples = check_resamples(n_resamples)
    names = column_names(x), column_names(y), column_names(z)
    notes: tuple[str, ...] = ()
    if drop_nan:
        (x, y, z), _, notes = complete_rows((x, y, z), ("x", "y", "z"), together=True)
    x, y = as_pairs(x, y)
    z = as_sample(z, "z").double()
    if len(z) != len(x) or z.device != x.device:
        raise ValueError(
            "row i of x, y and z belong together, on one device; got "
            f"x {list(x.shape)} on {x.device}, z {list(z.shape)} on {z.device}"
        )
    if len(x) < FEWEST:
        raise ValueError(f"at least {FEWEST} rows are needed; got {len(x)}")
    generator, seed = generator_of(rng)
    for sample, name in ((x, "x"), (y, "y")):
        if is_constant(sample):
            warn_constant(name)
    free = without_units(kernel_x, bandwidth_x), without_units(kernel_y, bandwidth_y), True
    of = [
        scaled(sample, scale, auto=auto, name=name, columns=columns)
        for sample, auto, name, columns in zip((x, y, z), free, "xyz", names, strict=True)
    ]
    done = {side.done for side in of}
    kx = _kernel("x", kernel_x, bandwidth_x, of[0].rows, generator)
    ky = _kernel("y", kernel_y, bandwidth_y, of[1].rows, generator)
    regressors = list(_regressors(of[2].rows, generator))
    a = _regress(_outputs(of[0].rows, kx, generator), regressors)
    b = _regress(_outputs(of[1].rows, ky, generator), regressors)
    found = _signed(a.residuals, b.residuals, n_resamples, generator, show_progress)
    pvalue = permutation_pvalue(found.statistic, found.null, found.tolerance)
    row = KernelPairRow(
        kernel=f"{kernel_label(kx)} × {kernel_label(ky)}",
        bandwidth=kx.terms[0].scale,
        bandwidth_y=ky.terms[0].scale,
        statistic=found.statistic,
        pvalue=pvalue,
    )
    return ConditionalIndependenceResult(
        statistic=found.statistic,
        pvalue=pvalue,
        null_distribution=found.null,
        method="hsic",
        n=len(x),
        d=sum(side.rows.shape[1] for side in of),
        dx=x.shape[1],
        dy=y.shape[1],
        dz=z.shape[1],
        explained=(a.explained, b.explained),
        effect_size=max(0.0, found.correlation),
        coefficients={"cka": found.correlation},
        seed=seed,
        scale=of[0].done
        if len(done) == 1
        else ", ".join(f"{side.done} ({name})" for side, name in zip(of, "xyz", strict=True)),
        notes=(*notes, *(note for side in of for note in side.notes), *_notes(z, a, b)),
        kernels=(row,),
    )


def _notes(z: Tensor, a: _Regression, b: _Regression) -> tuple[str, ...]:
    n, kinds = len(z), len(np.unique(z.cpu().numpy(), axis=0))
    notes = [
        f"asymptotic, where regressions on z are right: they explain {a.explained:.0%} of the "
        f"features of x and {b.explained:.0%} of those of y"
    ]
    if n < FEW:
        notes.append(f"at n = {n} the level is approximate, the more the higher dz is")
    if kinds <= n // 5:
        notes.append(f"z takes {kinds} values: independence_test(x, y, strata=z) is exact")
    return tuple(notes)


def _kernel(
    side: str,
    kernel: Kernel | str | None,
    bandwidth: Bandwidth | None,
    sample: Tensor,
    generator: np.random.Generator,
) -> Kernel:
    named = as_kernel("gaussian" if kernel is None else kernel, bandwidth, DEFAULT_BANDWIDTH)
    if any(t.function.definiteness != "positive" for t in named.terms):
        raise ValueError(f"kernel_{side} must be positive definite; got {named!r}")
    return named.resolve(_drawn(sample, MEDIAN_ROWS, generator))


def _drawn(rows: Tensor, count: int, generator: np.random.Generator) -> Tensor:
    found: Tensor = rows[torch.from_numpy(generator.permutation(len(rows))[:count]).to(rows.device)]
    return found


def _outputs(sample: Tensor, kernel: Kernel, generator: np.random.Generator) -> Tensor:
    """Principal features [n, r] of a sample, centred: what is regressed on z."""
    features = nystrom_features(kernel, _drawn(sample, LANDMARKS, generator))(sample)
    left, values, _ = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    kept = values.square() > RELEVANT * values[0].square()
    outputs: Tensor = (left * values)[:, kept][:, :OUTPUTS]
    return outputs


# --- Regressions ---------------------------------------------------------------------------------


class _Regressor(NamedTuple):
    """Left singular vectors [n, m] of features of z, and squares of their singular values [m]."""

    vectors: Tensor
    squares: Tensor


def _regressors(z: Tensor, generator: np.random.Generator) -> Iterator[_Regressor]:
    """Of Gaussian kernels of all columns, and of means of Gaussian kernels of each."""
    each = [z[:, j : j + 1] for j in range(z.shape[1])]
    for parts in [[z], each] if len(each) > 1 else [[z]]:
        order = torch.from_numpy(generator.permutation(len(z))[:LANDMARKS]).to(z.device)
        units = []
        for part in parts:
            distances = torch.pdist(part[order])
            positive = distances[distances > 0]
            units.append(part / (positive.median() if len(positive) else 1.0))
        for width in WIDTHS:
            distances = torch.stack([torch.cdist(u, u[order]) for u in units])
            gram = torch.exp(-0.5 * (distances / width).square()).mean(0)
            values, vectors = torch.linalg.eigh(gram[order])
            kept = values > 1e-10 * values[-1]
            features = gram @ (vectors[:, kept] / values[kept].sqrt())
            left, singular, _ = torch.linalg.svd(features, full_matrices=False)
            yield _Regressor(left, singular.square())


class _Regression(NamedTuple):
    residuals: Tensor  # [n, r], centred
    explained: float  # of the variance, leaving one row out


def _regress(outputs: Tensor, regressors: list[_Regressor]) -> _Regression:
    """Each output by the regressor and the ridge of the smallest leave-one-out error.

    The residuals are those of the fit to all rows: leave-one-out ones, which are larger where rows
    have much weight, reject a true hypothesis more often.
    """
    least = torch.full_like(outputs[0], torch.inf)
    residuals = torch.empty_like(outputs)
    for vectors, squares in regressors:
        rotated = vectors.T @ outputs
        for ridge in RIDGES:
            kept = squares / (squares + ridge)
            found = outputs - vectors @ (kept.unsqueeze(1) * rotated)
            out_of_sample = 1.0 - vectors.square() @ kept  # of each row, 1 − its leverage
            errors = (found / out_of_sample.unsqueeze(1)).square().sum(0)
            better = errors < least
            least = torch.where(better, errors, least)
            residuals[:, better] = found[:, better]
    whole = float(outputs.square().sum())
    explained = max(0.0, 1.0 - float(least.sum()) / whole) if whole > 0.0 else 0.0
    return _Regression(residuals - residuals.mean(0), explained)


# --- Wild bootstrap ------------------------------------------------------------------------------


class _Signed(NamedTuple):
    statistic: float
    null: NDArray[np.float64]  # [B]
    correlation: float
    tolerance: float


def _signed(
    a: Tensor,
    b: Tensor,
    n_resamples: int,
    generator: np.random.Generator,
    show_progress: bool | None,
) -> _Signed:
    """Σ_{i≠j} qᵢqⱼ⟨aᵢ, aⱼ⟩⟨bᵢ, bⱼ⟩/n(n−1) for q = 1 and for B vectors of random signs."""
    n = len(a)
    draws = generator.random((n, n_resamples)) < 0.5
    signs = torch.from_numpy(2.0 * draws - 1.0).to(a.device)
    signs = torch.cat([torch.ones_like(signs[:, :1]), signs], 1)
    forms, norms, total = signs.new_zeros(signs.shape[1]), signs.new_zeros(2), 0.0
    with progress(-(-n // TILE), "wild bootstrap", show_progress) as tick:
        for start in range(0, n, TILE):
            rows = slice(start, start + TILE)
            of_a, of_b = a[rows] @ a.T, b[rows] @ b.T
            for gram in (of_a, of_b):
                gram.diagonal(start).zero_()
            product = of_a * of_b
            forms += (signs[rows] * (product @ signs)).sum(0)
            norms += torch.stack([of_a.square().sum(), of_b.square().sum()])
            total += float(product.abs().sum())
            tick()
    values = forms.cpu().numpy() / (n * (n - 1))
    largest = math.sqrt(float(norms[0])) * math.sqrt(float(norms[1]))
    return _Signed(
        statistic=float(values[0]),
        null=values[1:],
        correlation=float(forms[0]) / largest if largest > 0.0 else 0.0,
        tolerance=TIE * total / (n * (n - 1)),
    )
