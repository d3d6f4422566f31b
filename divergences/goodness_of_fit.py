"""Does a sample come from a model? Exact tests of Gaussian models, and the kernel Stein discrepancy
for any model with a score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .distributed import Group
from .gaussian_models import Embedded, EmbeddedEnergy, Mixture, standardise, whiten
from .kernels import Bandwidth, Kernel
from .kernels.kernel import as_kernel
from .kernels.statistics.sharing import current_share
from .kernels.statistics.stein import check_stein_kernel, stein_steps, stein_sums
from .kernels.validation import check_rows
from .resampling import TIE, permutation_pvalue, progress
from .results import HypothesisResult, KernelRow
from .samples import Rng, as_sample, check_resamples, complete_rows, generator_of
from .scores import describe, scores_at
from .sharded import takes_group

Method = Literal["energy", "mmd", "ksd"]
WIDE_WORK = 2**32  # N²·B up to which products with signs are formed in fp64
SIGN_BYTES = 2**29  # of the sign vectors drawn at a time, at nine bytes a sign
SIMULATED = {"cpu": 2**18, "cuda": 2**22}  # numbers simulated at a time
FEW_LEFT = 10  # rows more than columns, below which estimating them leaves little to test
FEW = 50  # rows below which the level of the wild bootstrap is off by more than chance shows
ASYMPTOTIC = "the wild bootstrap is valid as n grows"


@dataclass(frozen=True, eq=False, kw_only=True)
class GoodnessOfFitResult(HypothesisResult):
    """The outcome of ``goodness_of_fit_test``; see ``HypothesisResult``. ``estimated``: mean and
    covariance of the model were fitted to the sample."""

    model: str
    estimated: bool = False

    question: ClassVar[str] = "goodness-of-fit test"
    resample: ClassVar[str] = "resamples"

    @property
    def sizes(self) -> str:
        fitted = ", mean and covariance estimated" if self.estimated else ""
        return f"n = {self.n}, d = {self.d}, model {self.model}{fitted}"


@takes_group("x")
def goodness_of_fit_test(
    x: Any,
    model: Any = "normal",
    *,
    method: Method | None = None,
    kernel: Kernel | str | None = None,
    bandwidth: Bandwidth | None = None,
    estimate: bool = False,
    drop_nan: bool = False,
    n_resamples: int = 999,
    rng: Rng = None,
    group: Group | None = None,  # noqa: ARG001, which the decorator takes
    show_progress: bool | None = None,
) -> GoodnessOfFitResult:
    """Test that the rows of x [n, d] are independent draws from a model.

        goodness_of_fit_test(z)                                    # N(0, I), exact at every n
        goodness_of_fit_test(x, estimate=True)                     # multivariate normality
        goodness_of_fit_test(x, torch.distributions.StudentT(3.0))
        goodness_of_fit_test(x, score_network)                     # [n, d] → ∇ log p, [n, d]
        goodness_of_fit_test(x, score_of(log_density))             # [n, d] → log p + const, [n]

    Args:
        x: torch tensor (CPU or CUDA), anything with ``__dlpack__``, or anything numpy converts.
        model: "normal" for N(0, I); a ``torch.distributions.Distribution`` whose draws are rows
            of x; an object with a method ``score`` or ``log_prob``; or a callable, which is taken
            for the score ∇ log p (for a log density, ``divergences.scores.score_of``). Densities
            need not be normalised.
        method: what to test with; None is "energy" for a Gaussian model, "ksd" for others.

            * "energy": the energy distance to the model, whose expectations are known exactly
              (Székely & Rizzo 2005). Gaussian models: "normal", ``Normal``, ``MultivariateNormal``.
              No parameter.
            * "mmd": the squared MMD to the model, in closed form for Gaussian kernels: the BHEP
              test (Henze & Zirkler 1990). Also for ``MixtureSameFamily`` of isotropic normals.
            * "ksd": the squared kernel Stein discrepancy (Liu, Lee & Jordan 2016; Chwialkowski,
              Strathmann & Gretton 2016). Any model with a score on all of ℝᵈ.

        kernel, bandwidth: for "mmd" Gaussian kernels (default bandwidth "dimension", σ² = d/2, in
            units of the standardised sample); for "ksd" inverse multiquadric ones (the default,
            (1 + r²/c²)^−½, which does not lose sight of the tails: Gorham & Mackey 2017), rational
            quadratic or Gaussian, with c = √(d / E‖s(x)‖²) unless given: the scale on which
            the score changes. The customary "median" distance of the rows is that between modes
            where there are several, and nearly blind then.
        estimate: with model "normal" and "energy" or "mmd": mean and covariance are estimated, and
            again in every simulated sample. The statistic is affine invariant: the test is exact.
            n ≥ d + 2 rows are needed, and n near d leaves little power, which a note says.
        drop_nan: leave out rows with NaN and say how many; else they are refused.
        n_resamples: B ≥ 1. "energy" and "mmd" simulate samples of the model; "ksd" flips signs
            (the wild bootstrap for independent rows).
        rng: seed, ``numpy.random.Generator`` or ``torch.Generator``; fresh entropy if None, whose
            seed is in the result.
        group: as of ``divergences.two_sample.two_sample_test``.
        show_progress: a bar; None shows it on a terminal once the test has taken some seconds.

    Returns:
        GoodnessOfFitResult. ``statistic`` of "energy" and "mmd" is the biased estimate, on which
        the published tests rest (n times it is Székely and Rizzo's statistic, and BHEP's up to the
        divisor of the covariance, n − 1 here); of "ksd" it is the unbiased one. ``effect_size`` is
        the unbiased discrepancy over the mean squared distance E‖φ(x) − φ(Z)‖² between features of
        data and model, in [0, 1]; for "ksd" there is none. p-values of "energy" and "mmd" are
        exact at every n: P(p ≤ α) ≤ α; that of "ksd" as n grows.

    Raises:
        ValueError, TypeError: shapes that do not fit, non-finite entries (counted), fewer than two
            rows, a model without a score or on a bounded support, n ≤ d + 1 or a singular
            covariance where that is estimated, options that do not go together.

    Work is O(n²(d + B)) for "ksd", O(B n² d) for the others (O(B n log n) for "energy" at d = 1);
    memory O(n(d + B)), never n².

    Examples:
        >>> import numpy as np
        >>> from divergences import goodness_of_fit_test
        >>> x = np.random.default_rng(0).exponential(size=(50, 1))
        >>> goodness_of_fit_test(x, rng=0).pvalue  # N(0, 1)?
        0.001
        >>> goodness_of_fit_test(x, estimate=True, rng=0).pvalue  # any normal distribution?
        0.001
    """
    left_out: tuple[str, ...] = ()
    if drop_nan:
        (x,), _, left_out = complete_rows((x,), ("x",))
    x = as_sample(x, "x").double()
    check_rows(x, "x", 2, "a test needs at least two rows")
    n_resamples = check_resamples(n_resamples)
    if isinstance(model, str) and model != "normal":
        raise ValueError(f"unknown model {model!r}; the one known by name is 'normal'")
    exact = standardise(model, x)
    method = _method(method, exact)
    if method == "energy" and (kernel is not None or bandwidth is not None):
        raise ValueError("method 'energy' has its own kernel; use 'mmd' or 'ksd' with a kernel")
    if estimate and (method == "ksd" or not isinstance(model, str)):
        raise ValueError("estimate=True goes with model='normal' and method 'energy' or 'mmd'")
    if estimate and len(x) == x.shape[1] + 1:
        raise ValueError(
            f"estimate=True needs n ≥ d + 2 rows; got n = {len(x)}, d = {x.shape[1]}, where all "
            "samples are alike once mean and covariance are taken out (p = 1)"
        )
    generator, seed = generator_of(rng)
    if method == "ksd":
        found = _stein(x, model, kernel, bandwidth, n_resamples, generator, show_progress)
    else:
        assert exact is not None
        points, target = exact
        statistic = (
            EmbeddedEnergy(target) if method == "energy" else _bhep(target, kernel, bandwidth)
        )
        found = _simulate(points, statistic, estimate, n_resamples, generator, show_progress)
    found["notes"] = left_out + found.get("notes", ())
    return GoodnessOfFitResult(
        method=method,
        n=x.shape[0],
        d=x.shape[1],
        seed=seed,
        model="N(0, I)" if isinstance(model, str) and not estimate else describe(model),
        estimated=estimate,
        **found,
    )


def _method(method: str | None, exact: tuple[Tensor, Mixture] | None) -> Method:
    gaussian = exact is not None and len(exact[1].scales) == 1
    if method is None:
        return "energy" if gaussian else "ksd"
    if method not in get_args(Method):
        known = ", ".join(map(repr, get_args(Method)))
        raise ValueError(f"unknown method {method!r}; known are {known}")
    if method == "energy" and not gaussian:
        raise ValueError("method 'energy' needs a Gaussian model; use 'ksd'")
    if method == "mmd" and exact is None:
        raise ValueError(
            "method 'mmd' needs a Gaussian model or a mixture of isotropic Gaussians; use 'ksd'"
        )
    return method  # type: ignore[return-value]


# --- Kernel Stein discrepancy --------------------------------------------------------------------


def stein_kernel(
    kernel: Kernel | str | None, bandwidth: Bandwidth | None, x: Tensor, *scores: Tensor
) -> Kernel:
    """The base kernel of Stein discrepancies on x with the scores [n, d] of one or more models,
    resolved. A name without a bandwidth gets √(d / E‖s(x)‖²), the width of the Gaussian of as much
    Fisher information, with E from the median (over that of χ²_d/d), which outliers do not move."""
    name = "inverse_multiquadric" if kernel is None else kernel
    chosen = as_kernel(name, bandwidth, "median")
    check_stein_kernel(chosen)
    d = x.shape[1]
    information = float(torch.cat(scores).square().sum(1).median()) / (1.0 - 2.0 / (9.0 * d)) ** 3
    if bandwidth is None and isinstance(name, str) and 0.0 < information < math.inf:
        chosen = as_kernel(name, math.sqrt(d / information), "median")
    return chosen.resolve(x)


def _stein(
    x: Tensor,
    model: Any,
    kernel: Kernel | str | None,
    bandwidth: Bandwidth | None,
    n_resamples: int,
    generator: np.random.Generator,
    show_progress: bool | None,
) -> dict[str, Any]:
    scores = scores_at(model, x)
    current_share().check_same("model", scores)
    chosen = stein_kernel(kernel, bandwidth, x, scores)
    n = len(x)
    width = max(1, min(n_resamples, SIGN_BYTES // (9 * n)))
    narrow = n**2 * n_resamples > WIDE_WORK
    forms, total, rounding = [], 0.0, 0.0
    steps = -(-n_resamples // width) * stein_steps(x)
    with progress(steps, "wild bootstrap", show_progress) as tick:
        for start in range(0, n_resamples, width):
            draws = generator.random((min(width, n_resamples - start), n)) < 0.5
            signs = torch.from_numpy(np.ascontiguousarray(2 * draws.T.view(np.int8) - 1))
            sums = stein_sums(x, scores, chosen, signs.to(x.device), narrow=narrow, tick=tick)
            forms.append(sums.forms.cpu().numpy())
            total, rounding = float(sums.row_sums.sum()), sums.rounding
    pairs = n * (n - 1)
    null = np.concatenate(forms) / pairs
    note = ASYMPTOTIC if n >= FEW else f"{ASYMPTOTIC}; at n = {n} its level is approximate"
    return _outcome(total / pairs, null, rounding / pairs, chosen) | {"notes": (note,)}


# --- Exact tests of Gaussian models --------------------------------------------------------------


def _bhep(target: Mixture, kernel: Kernel | str | None, bandwidth: Bandwidth | None) -> Embedded:
    return Embedded(
        target, as_kernel("gaussian" if kernel is None else kernel, bandwidth, "dimension")
    )


def _simulate(
    x: Tensor,
    statistic: Embedded,
    estimate: bool,
    n_resamples: int,
    generator: np.random.Generator,
    show_progress: bool | None,
) -> dict[str, Any]:
    """x is standardised; every simulated sample goes through what the observed one does."""
    n, d = x.shape
    x = whiten(x) if estimate else x
    observed = statistic(x.unsqueeze(0))
    null = torch.zeros(n_resamples, dtype=torch.float64, device=x.device)
    among = current_share()
    among.check_same("model", observed.biased, observed.between)
    width = min(max(1, SIMULATED[x.device.type] // (n * d)), -(-n_resamples // among.size))
    starts = range(0, n_resamples, width)
    with progress(len(starts), "simulations", show_progress) as tick:
        for part, start in enumerate(starts):
            count = min(width, n_resamples - start)
            draws = np.stack([statistic.target.draw(n, generator) for _ in range(count)])
            if part % among.size == among.rank:
                z = torch.from_numpy(draws).to(x.device)
                null[start : start + count] = statistic(whiten(z) if estimate else z).biased
            tick()
    among.total(null)
    between = float(observed.between)
    kernel = statistic.kernel.resolve(x)
    found = _outcome(float(observed.biased), null.cpu().numpy(), TIE * between, kernel)
    few = estimate and n - d < max(FEW_LEFT, d)
    note = f"n − d = {n - d}: estimating mean and covariance leaves little of the sample to test"
    return found | {
        "effect_size": min(1.0, max(0.0, float(observed.unbiased) / between)),
        "notes": (note,) if few else (),
    }


def kernel_label(kernel: Kernel) -> str:
    """A resolved kernel with its bandwidths in numbers."""
    if len(kernel.terms) == 1:
        return kernel.terms[0].label
    return " + ".join(f"{t.coefficient:g} * {t.label}" for t in kernel.terms)


def _outcome(
    statistic: float, null: NDArray[np.float64], tolerance: float, kernel: Kernel
) -> dict[str, Any]:
    """The fields of a result that both kinds of test share."""
    if not (math.isfinite(statistic) and np.isfinite(null).all()):
        raise ValueError(f"the statistic is {statistic:.3g}: it overflows; rescale data and model")
    pvalue = permutation_pvalue(statistic, null, tolerance)
    row = KernelRow(
        kernel=kernel_label(kernel),
        bandwidth=kernel.terms[0].scale if len(kernel.terms) == 1 else None,
        statistic=statistic,
        pvalue=pvalue,
    )
    return dict(statistic=statistic, pvalue=pvalue, null_distribution=null, kernels=(row,))
