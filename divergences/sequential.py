"""As rows arrive: a two-sample test that may be stopped at any time, and a detector of changes.

Both multiply e-values, nonnegative numbers whose mean, given what came before, is at most 1 under
the null hypothesis: the wealth of one who bets against it at fair odds (Ramdas, Grünwald, Vovk &
Shafer, Statist. Sci. 2023).
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .fuse import bandwidth_range
from .kernels import Bandwidth, Kernel
from .kernels.validation import check_rows
from .results import Record, TwoSampleResult
from .samples import Rng, as_sample, column_names, generator_of
from .scaling import TOO_FAR, Scale, robust_spread
from .two_sample import Method, two_sample_test

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WARM_UP = 8  # pairs that set scale and bandwidths, and are not bet on
FREQUENCIES, BANDWIDTHS = 64, 5  # of the features
RIDGES = (4.0, 32.0)  # of the bettors
GROWTH = 8  # bettors learn anew where the pairs have grown by one part in so many
CHUNK = 4096  # pairs whose features are held at a time
SCALES = (1, 4, 16)  # batches that a detector tests together
EXPONENTS = (0.125, 0.25, 0.5, 0.75)  # κ of the bets κ·p^(κ−1) on their p-value
HELD = 1000  # batches whose statistic is kept for the figure
TIE = 1e-9  # of the largest statistic: values this near are ties
LARGEST = 1e250  # of wealth, so that products, and the ends of an axis, are finite


class Followed(Record):
    """What is followed in time up to a threshold of 1/alpha: its ``path`` [k, 2] has times and
    values."""

    alpha: float
    path: NDArray[np.float64]
    question: ClassVar[str]
    axes: ClassVar[tuple[str, str]]

    def plot(self) -> Figure:
        """A figure of the path, with the threshold. Needs matplotlib: pip install
        "divergences[plot]"."""
        from .plots.sequential import plot_path

        return plot_path(self)


@dataclass(frozen=True, eq=False, kw_only=True)
class SequentialResult(Followed):
    """Where a ``SequentialTwoSampleTest`` stands after ``n`` pairs of rows.

    ``evalue`` is the wealth now, 1 at the beginning; ``pvalue`` is 1 over the largest so far, and
    ``rejected`` whether it is at most ``alpha``, as it was after ``rejected_at`` pairs first.
    ``waiting``: rows of x and of y that have not been used yet.
    """

    evalue: float
    pvalue: float
    rejected: bool
    rejected_at: int | None
    alpha: float
    n: int
    d: int | None
    waiting: tuple[int, int]
    seed: int | None
    path: NDArray[np.float64] = field(repr=False)

    question: ClassVar[str] = "betting: sequential two-sample test of P = Q"
    axes: ClassVar[tuple[str, str]] = ("pairs of rows", "e-value")

    def __str__(self) -> str:
        verdict = f"rejected after {self.rejected_at} pairs" if self.rejected else "not rejected"
        sizes = f"{self.n} pairs" + ("" if self.d is None else f", d = {self.d}")
        waiting = " and ".join(map(str, self.waiting))
        seed = "" if self.seed is None else f", seed {self.seed}"
        return "\n".join(
            [
                self.question,
                f"  {sizes}; {waiting} rows wait{seed}",
                f"  e-value      {self.evalue:.4g}",
                f"  p-value      {self.pvalue:.4g} (at any time)",
                f"  P = Q        {verdict} (alpha = {self.alpha:g})",
            ]
        )


class SequentialTwoSampleTest:
    """Two-sample test of P = Q by betting, as rows arrive: look at any time, stop when you like.

    Row t of x and row t of y, in the order in which they arrive, are a pair. A wealth of 1 is
    multiplied by 2σ(θ·φ(xₜ) − θ·φ(yₜ)) with the logistic function σ: the best bet where θ·φ is
    log p/q. φ are random Fourier features of Gaussian kernels of five bandwidths; θ is a ridge
    regression on the pairs before t. There are two bettors, of two ridges, and the e-value is the
    mean of their wealth. The first 8 pairs set the scale and the bandwidths and are not bet on.

    Wherever (xₜ, yₜ) and (yₜ, xₜ) have one distribution given the pairs before, as for independent
    rows with P = Q, the e-value is a nonnegative martingale: the chance that it ever reaches 1/α is
    at most α (Ville), with any number of looks. P and Q may change in time, together. After
    Shekhar & Ramdas (IEEE Trans. Inf. Theory 2023) and Podkopaev & Ramdas (NeurIPS 2023), with
    other bets.

    Args:
        alpha: the level, in (0, 1).
        scale: "robust" divides columns by their spread in the first 8 pairs; "auto" does where
            spreads differ by more than a factor of 5; None never.
        rng: seed, ``numpy.random.Generator`` or ``torch.Generator`` of the frequencies; fresh
            entropy if None, whose seed is in the result.

    What is kept does not grow with the stream, but for rows that wait for a partner; a pair takes
    O(128 (d + 128)) operations. How rows are cut into updates does not matter. A test can be
    pickled and resumed.

    Examples:
        >>> import numpy as np
        >>> from divergences import SequentialTwoSampleTest
        >>> rng = np.random.default_rng(0)
        >>> test = SequentialTwoSampleTest(alpha=0.05, rng=0)
        >>> for day in range(100):
        ...     x, y = rng.normal(size=(20, 2)), rng.normal(0.5, 1.0, size=(20, 2))
        ...     if test.update(x, y).rejected:
        ...         break
        >>> day < 50
        True
    """

    def __init__(
        self,
        alpha: float = 0.05,
        *,
        scale: Literal["auto", "robust"] | None = "auto",
        rng: Rng = None,
    ) -> None:
        self.alpha = _check_alpha(alpha)
        if scale not in ("auto", "robust", None):
            raise ValueError(f"unknown scale {scale!r}; known are 'auto', 'robust' and None")
        self.scale = scale
        self._generator, self.seed = generator_of(rng)
        self._columns = _Columns()
        self._waiting: list[Tensor] = []  # rows of x, of y
        self._features: _Features | None = None
        count = 2 * FREQUENCIES
        # of differences of features: Σ ΔΔᵀ and Σ Δ
        self._squares, self._sum = _zeros(count, count), _zeros(count)
        self._bettors = _zeros(count, len(RIDGES))
        self._log_wealth, self._log_largest = _zeros(len(RIDGES)), 0.0
        self._pairs, self._learn_at = 0, WARM_UP
        self._rejected_at: int | None = None
        self._path = [(0.0, 1.0)]

    def update(self, x: Any = None, y: Any = None) -> SequentialResult:
        """Take rows x [a, d] of the first sample, y [b, d] of the second, or both; rows without a
        partner wait for it.

        Raises ValueError or TypeError, and leaves the test as it was, for neither of them, empty
        ones, other columns than before, and NaN or infinite entries (counted).
        """
        given = [(name, rows) for name, rows in (("x", x), ("y", y)) if rows is not None]
        if not given:
            raise ValueError("update needs rows of x, of y or of both; got neither")
        columns, waiting = self._columns, dict(zip("xy", self._waiting, strict=False))
        for name, rows in given:
            columns, taken = columns.take(rows, name)
            taken = taken.double().cpu()
            waiting[name] = torch.cat([waiting[name], taken]) if name in waiting else taken
        width = columns.width or 0
        x, y = (waiting.get(name, _zeros(0, width)) for name in "xy")
        count = min(len(x), len(y))
        if self._features is None and count >= WARM_UP:
            first = torch.cat([x[:WARM_UP], y[:WARM_UP]])
            self._features = _Features(first, self.scale, self._generator)
        self._columns = columns
        if self._features is not None:
            self._bet(x[:count], y[:count], self._features)
            x, y = x[count:].clone(), y[count:].clone()
        self._waiting = [x, y]
        return self.result

    @property
    def result(self) -> SequentialResult:
        """Where the test stands."""
        path = [*self._path, (float(self._pairs), self._evalue())]
        x, y = (len(rows) for rows in self._waiting or ((), ()))
        return SequentialResult(
            evalue=path[-1][1],
            pvalue=max(1.0 / LARGEST, math.exp(-self._log_largest)),
            rejected=self._rejected_at is not None,
            rejected_at=self._rejected_at,
            alpha=self.alpha,
            n=self._pairs,
            d=self._columns.width,
            waiting=(x, y),
            seed=self.seed,
            path=np.array(path),
        )

    def _evalue(self) -> float:
        return min(LARGEST, float(_log_mean_exp(self._log_wealth).exp()))

    def _bet(self, x: Tensor, y: Tensor, features: _Features) -> None:
        start = 0
        while start < len(x):
            end = min(len(x), start + CHUNK, start + self._learn_at - self._pairs)
            differences = features(x[start:end]) - features(y[start:end])
            gains = math.log(2.0) + torch.nn.functional.logsigmoid(differences @ self._bettors)
            log_wealth = self._log_wealth + gains.cumsum(0)
            logs = _log_mean_exp(log_wealth)
            self._log_wealth = log_wealth[-1]
            self._log_largest = max(self._log_largest, float(logs.max()))
            reached = torch.exp(-logs) <= self.alpha
            if self._rejected_at is None and reached.any():
                self._rejected_at = self._pairs + int(reached.int().argmax()) + 1
            self._squares += differences.T @ differences
            self._sum += differences.sum(0)
            self._pairs += end - start
            start = end
            if self._pairs == self._learn_at:
                self._learn()

    def _learn(self) -> None:
        """The θ that maximises Σ (u/2 − u²/8) − ridge·|θ|²/8 over the pairs so far, u = θ·Δ: to
        second order the logarithm of the wealth that it would have earned."""
        identity = torch.eye(len(self._sum), dtype=torch.float64)
        for column, ridge in zip(self._bettors.T, RIDGES, strict=True):
            column.copy_(2.0 * torch.linalg.solve(self._squares + ridge * identity, self._sum))
        self._learn_at += max(1, self._learn_at // GROWTH)
        self._path.append((float(self._pairs), self._evalue()))


@dataclass(frozen=True, eq=False, kw_only=True)
class ChangeResult(Followed):
    """Where a ``ChangeDetector`` stands after ``batches`` of them.

    ``alarm``: whether ``statistic`` is 1/``alpha`` or more; ``alarm_at``: the batch, counted from
    1, at which it was first (None: never). ``since``: the batch from which on the evidence is
    largest. ``pvalue`` and ``effect_size`` are those of the last batch alone.
    """

    statistic: float
    alarm: bool
    alarm_at: int | None
    since: int
    pvalue: float
    effect_size: float | None
    alpha: float
    batches: int
    method: str
    n: int
    d: int
    seed: int | None
    path: NDArray[np.float64] = field(repr=False)

    question: ClassVar[str] = "detector of changes from the reference"
    axes: ClassVar[tuple[str, str]] = ("batches", "statistic")

    def __str__(self) -> str:
        verdict = "none" if self.alarm_at is None else f"first at batch {self.alarm_at}"
        seed = "" if self.seed is None else f", seed {self.seed}"
        return "\n".join(
            [
                f"{self.method}: {self.question}",
                f"  batch {self.batches} against n = {self.n}, d = {self.d}{seed}",
                f"  statistic    {self.statistic:.4g} (alarm from {1.0 / self.alpha:.4g} on)",
                f"  alarm        {verdict}; evidence since batch {self.since}",
                f"  p-value      {self.pvalue:.4g} (of this batch alone)",
            ]
        )


class ChangeDetector:
    """Detector of changes in a stream of batches from the distribution of a reference [n, d].

    Without a change there are 1/α batches on average before an alarm, or more (the average run
    length), and the chance of one within the first T batches is at most αT/2: for any reference and
    sizes of batches, where all rows are exchangeable.

    Batches by themselves, and 4 and 16 of them together, for small changes, are compared by
    ``two_sample_test`` with pools of rows, at first the reference. The rank p among relabellings,
    ties broken at random, is uniform and independent of all before: the rows tested join the pool,
    of which as many drawn at random are then left out (conformal p-values: Vovk, Gammerman & Shafer
    2005). The bets κp^(κ−1), κ = ⅛, ¼, ½, ¾, are e-values, which add up to Shiryaev–Roberts sums,
    M ← (M + 1)·κp^(κ−1), in the mean over κ (e-detector: Shin, Ramdas & Rinaldo, NEJSDS 2024). The
    statistic is the largest wM/6 of the three, each of w batches.

    Args:
        reference: rows without a change, at least two; better some times as many as those of the
            batches in which a change is to be found, as these join the pool.
        alpha: 1 over the average run length in batches, in (0, 1).
        method, kernel, bandwidth, scale, n_resamples: of ``two_sample_test``.
        memory: rows of the pool, at most; of a larger reference as many are drawn.
        rng: as of ``two_sample_test``.

    Time and memory of an update are those of tests with at most ``memory`` rows; nothing grows
    with the stream. A detector can be pickled and resumed. After an alarm make a new one, whose
    reference is of after the change.

    Raises ValueError and TypeError as ``two_sample_test``.

    Examples:
        >>> import numpy as np
        >>> from divergences import ChangeDetector
        >>> rng = np.random.default_rng(0)
        >>> reference = rng.normal(size=(200, 2))
        >>> detector = ChangeDetector(reference, alpha=0.001, method="energy", rng=0)
        >>> for day in range(100):
        ...     if detector.update(rng.normal(day >= 20, 1.0, size=(20, 2))).alarm:
        ...         break
        >>> 20 <= day < 40
        True
    """

    def __init__(
        self,
        reference: Any,
        alpha: float = 0.01,
        *,
        method: Method = "fuse",
        kernel: Kernel | str | None = None,
        bandwidth: Bandwidth | None = None,
        scale: Scale | None = "auto",
        memory: int = 1000,
        n_resamples: int = 499,
        rng: Rng = None,
    ) -> None:
        self.alpha = _check_alpha(alpha)
        if isinstance(memory, bool) or not isinstance(memory, int) or memory < 2:
            raise ValueError(f"memory must be an integer ≥ 2; got {memory!r}")
        self._generator, self.seed = generator_of(rng)
        self._columns, pool = _Columns().take(reference, "the reference")
        check_rows(pool, "the reference", 2, "a test needs at least two rows")
        pool = _drawn(pool, min(memory, len(pool)), self._generator)
        self._options: dict[str, Any] = {
            "method": method,
            "kernel": kernel,
            "bandwidth": bandwidth,
            "scale": scale,
            "n_resamples": n_resamples,
            "show_progress": False,
        }
        with warnings.catch_warnings():  # settings are refused now; a few rows may all be equal
            warnings.simplefilter("ignore")
            two_sample_test(pool[:4], pool[-4:], rng=0, **self._options | {"n_resamples": 1})
        self._scales = [_Scale(width, pool) for width in SCALES]
        self._batches = 0
        self._alarm_at: int | None = None
        self._path: deque[tuple[float, float]] = deque([(0.0, 0.0)], HELD)

    def update(self, batch: Any) -> ChangeResult:
        """Take a batch [m, d], m ≥ 2.

        Raises ValueError or TypeError, and leaves the detector as it was, for fewer than two rows,
        other columns than those of the reference, and NaN or infinite entries (counted).
        """
        columns, rows = self._columns.take(batch, "the batch")
        check_rows(rows, "the batch", 2, "a test needs at least two rows; collect more of them")
        self._columns = columns
        self._batches += 1
        for scale in self._scales:
            scale.take(rows, self._batches, self._generator, self._options)
        clearest = max(self._scales, key=lambda scale: scale.statistic)
        alarm = clearest.statistic >= 1.0 / self.alpha
        if alarm and self._alarm_at is None:
            self._alarm_at = self._batches
        self._path.append((float(self._batches), clearest.statistic))
        alone = self._scales[0]
        assert alone.result is not None
        return ChangeResult(
            statistic=clearest.statistic,
            alarm=alarm,
            alarm_at=self._alarm_at,
            since=clearest.since,
            pvalue=alone.result.pvalue,
            effect_size=alone.result.effect_size,
            alpha=self.alpha,
            batches=self._batches,
            method=alone.result.method,
            n=len(alone.pool),
            d=rows.shape[1],
            seed=self.seed,
            path=np.array(self._path),
        )


class _Scale:
    """The sums of a detector that tests ``width`` batches together."""

    def __init__(self, width: int, pool: Tensor) -> None:
        self.width, self.pool = width, pool
        self.waiting: list[Tensor] = []
        self.sums, self.products = np.zeros(len(EXPONENTS)), np.zeros(len(EXPONENTS))
        self.starts = np.ones(len(EXPONENTS), dtype=np.int64)
        self.result: TwoSampleResult | None = None

    @property
    def statistic(self) -> float:
        """Reaches A within T batches with a chance of at most T/(2A·len(SCALES)) (Doob)."""
        return float(self.sums.mean()) * self.width / (2.0 * len(SCALES))

    @property
    def since(self) -> int:
        """The first batch of the largest product of bets up to now."""
        return int(self.starts[self.products.argmax()])

    def take(
        self, rows: Tensor, batch: int, generator: np.random.Generator, options: dict[str, Any]
    ) -> None:
        self.waiting.append(rows.to(self.pool))
        if len(self.waiting) < self.width:
            return
        rows, self.waiting = torch.cat(self.waiting), []
        self.result = result = two_sample_test(self.pool, rows, rng=generator, **options)
        null = result.null_distribution
        tie = TIE * max(abs(result.statistic), float(np.abs(null).max()))
        above = int((null > result.statistic + tie).sum()) / (len(null) + (not result.enumerated))
        p = result.pvalue - generator.random() * (result.pvalue - above)
        self.pool = _drawn(torch.cat([self.pool, rows]), len(self.pool), generator)
        kappa = np.array(EXPONENTS)
        evalues = kappa * p ** (kappa - 1.0)
        self.sums = np.minimum(LARGEST, (self.sums + 1.0) * evalues)
        self.starts[self.products <= 1.0] = batch - self.width + 1
        self.products = np.minimum(LARGEST, np.maximum(1.0, self.products) * evalues)


class _Columns(NamedTuple):
    """The columns of a stream, known from its first rows on."""

    width: int | None = None
    names: tuple[str, ...] | None = None

    def take(self, x: Any, name: str) -> tuple[_Columns, Tensor]:
        """The rows, with these columns from now on. Raises ValueError for others."""
        rows, found = as_sample(x, name), column_names(x)
        check_rows(rows, name, 1, "leave out updates without rows")
        if self.width not in (None, rows.shape[1]):
            raise ValueError(f"{name} has {rows.shape[1]} columns; rows before had {self.width}")
        names = self.names if found is None else tuple(found)
        if self.names not in (None, names):
            raise ValueError(
                f"the columns differ: {name} has {', '.join(names or ())}; rows before had "
                f"{', '.join(self.names or ())}; choose those to compare, in one order"
            )
        return _Columns(rows.shape[1], names), rows.clone()  # rows wait; x may be filled again


class _Features:
    """Random Fourier features [k, 2·FREQUENCIES] of rows, |φ| = 1; scale and bandwidths are those
    of the ``first`` rows."""

    def __init__(self, first: Tensor, scale: str | None, generator: np.random.Generator) -> None:
        spread = robust_spread(first)
        varying = spread[spread > 0]
        far = len(varying) > 1 and float(varying.max() / varying.min()) > TOO_FAR
        keep = scale is None or (scale == "auto" and not far)
        self.spread = torch.where((spread > 0) & (not keep), spread, 1.0)
        self.centre = first.median(0).values
        bandwidths = bandwidth_range(torch.pdist(self._scaled(first)), BANDWIDTHS, "log")
        draws = generator.standard_normal((FREQUENCIES, first.shape[1]))
        each = np.resize(bandwidths, FREQUENCIES)
        self.frequencies = torch.from_numpy((draws / each[:, None]).T.copy())

    def _scaled(self, rows: Tensor) -> Tensor:
        return (rows - self.centre) / self.spread

    def __call__(self, rows: Tensor) -> Tensor:
        angles = (self._scaled(rows) @ self.frequencies).nan_to_num(0.0, 0.0, 0.0)
        return torch.cat([angles.cos(), angles.sin()], 1) / math.sqrt(FREQUENCIES)


def _drawn(rows: Tensor, count: int, generator: np.random.Generator) -> Tensor:
    order = torch.from_numpy(generator.permutation(len(rows))[:count])
    return rows[order.to(rows.device)]


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


def _log_mean_exp(logs: Tensor) -> Tensor:
    """Over the last dimension."""
    return logs.logsumexp(-1) - math.log(logs.shape[-1])


def _check_alpha(alpha: float) -> float:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must be a number in (0, 1); got {alpha!r}")
    return float(alpha)
