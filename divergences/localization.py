"""Which columns differ? A p-value for each column, and for pairs of columns, with joint control."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .designs import Blocks, Labels, check_one_design, design_of, serial_notes
from .evaluation import evaluate, label_width, share, split
from .forms import SortedForms
from .fuse import standardised_fuse
from .kernels import Energy
from .kernels.statistics.quadratic_forms import product
from .resampling import Relabellings, permutation_pvalue
from .results import HypothesisResult
from .samples import (
    Rng,
    as_samples,
    check_resamples,
    column_names,
    complete_rows,
    generator_of,
    is_constant,
    warn_constant,
)
from .scaling import scaled
from .two_sample import two_sample_test

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["marginal", "learned"]
Correction = Literal["max-t", "bh"]

LISTED = 10  # columns in a report
TABLE = 2**28  # statistics of pairs that are held
PRODUCTS = 2**24  # of ranks of two columns, held at a time
CONSTANT = 1e-6  # of the variance of ranks: with less in a sample, its correlations count as 0
ROUNDING = 1e-9  # of a squared difference of correlations
TRAINED = 256  # rows of either sample that weights are learned from, at most
STEPS, RATE = 150, 0.1  # of Adam


@dataclass(frozen=True, kw_only=True)
class ColumnRow:
    """A column, or a pair of them, and whether it differs between x and y.

    ``positions`` count from 0. ``of_x`` and ``of_y`` are means; for a pair rank correlations.
    ``effect_size`` is that of ``two_sample_test(method="energy")`` of the column alone; for a pair
    half of the difference of the correlations, without its sign. ``pvalue`` is its own,
    ``adjusted`` corrected for all columns and pairs: up to α, it differs at level α. ``weight`` is
    its share in a learned kernel.
    """

    column: str
    positions: tuple[int, ...]
    of_x: float
    of_y: float
    effect_size: float
    pvalue: float
    adjusted: float
    weight: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalizationResult(HypothesisResult):
    """The outcome of ``localize``; see ``HypothesisResult``. ``columns`` are those tested, the
    clearest first. ``statistic`` is the largest of theirs, and ``pvalue`` tests that no column (no
    pair) differs; of "learned", both are those of the learned kernel."""

    m: int
    correction: str
    columns: tuple[ColumnRow, ...] = field(repr=False)
    _samples: tuple[Tensor, Tensor] | None = field(repr=False)

    question: ClassVar[str] = "which columns of x and y differ?"

    @property
    def sizes(self) -> str:
        return f"n = {self.n}, m = {self.m}, d = {self.d}"

    def __str__(self) -> str:
        shown = self.columns[:LISTED]
        width = max(len("column"), *(len(row.column) for row in shown))
        heads = f"{'of x':<10}{'of y':<10}{'effect':<10}{'p':<10}p ({self.correction})"
        lines = [super().__str__(), f"  {'column':<{width}}  {heads}"]
        for row in shown:
            numbers = (
                f"{row.of_x:<10.3g}{row.of_y:<10.3g}{row.effect_size:<10.3g}{row.pvalue:<10.4g}"
            )
            lines.append(f"  {row.column:<{width}}  {numbers}{row.adjusted:.4g}")
        rest = self.columns[LISTED:]
        if rest:
            lines.append(f"  and {len(rest)} others, p ≥ {rest[0].adjusted:.4g}")
        return "\n".join(lines)

    def plot(self, *, names: tuple[str, str] = ("x", "y")) -> Figure:
        """A figure: the p-values of the clearest columns, and what they hold. ``names`` are what to
        call the two samples. Needs matplotlib: pip install "divergences[plot]"."""
        from .plots.columns import plot_columns

        return plot_columns(self, names)


def localize(
    x: Any,
    y: Any,
    *,
    method: Method = "marginal",
    correlations: bool = False,
    correction: Correction = "max-t",
    n_resamples: int = 999,
    rng: Rng = None,
    paired: bool = False,
    strata: Labels = None,
    groups: Labels = None,
    blocks: Blocks | None = None,
    drop_nan: bool = False,
    show_progress: bool | None = None,
) -> LocalizationResult:
    """Test which columns differ between x [n, d] and y [m, d], all by the same relabellings.

    The statistic of a column is the soft maximum, as in "fuse", of two energy distances: of its
    pooled ranks (which is the Cramér–von Mises statistic, and sees where values lie) and of the
    distances of its values from the pooled median (which sees their spread). Units do not matter.
    That of a pair of columns is the squared difference between its rank correlations in x and in y,
    which no single column shows.

    "max-t" compares each statistic with the largest over all columns of the same relabelling, by
    steps from the clearest column down (Westfall & Young 1993, free step-down): columns that depend
    on each other cost little. Then the chance of naming any column that does not differ is at most
    α where none differs, at every n. Where some do, this holds for the others if these together
    have one distribution in x and y (subset pivotality), and not only each by itself: a pair whose
    correlation alone changes may spoil it for its columns.

    Args:
        x, y: as ``two_sample_test`` takes them; columns of data frames are called by their names.
        method: "marginal" tests every column. "learned" first learns a weight for each column on
            one half of the rows, by the signal-to-noise ratio of the energy distance of the
            weighted columns; then tests, on the other half, that kernel and the columns with more
            than a share 1/d of the weight: fewer columns, of fewer rows. Takes no design.
        correlations: test all d(d − 1)/2 pairs of columns too, in one family with the columns.
        correction: "max-t", or "bh": of the columns named, a share of at most α does not differ on
            average (Benjamini & Hochberg 1995), if statistics depend on each other positively.
        n_resamples, rng, paired, strata, groups, blocks, drop_nan, show_progress: as
            ``two_sample_test``. With ``paired`` ranks are those of the differences x − y and y − x,
            spread and correlations those of the rows. Correlations are those within ``strata``.

    Returns:
        LocalizationResult, with a row for each column (and pair) tested in ``columns``.

    Raises:
        ValueError, TypeError: as ``two_sample_test``; more pairs than fit into memory.

    Examples:
        >>> import numpy as np
        >>> from divergences import localize
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(100, 2)), rng.normal(size=(80, 2)) + 0.5
        >>> y[:, 1] -= 0.5  # only the first column differs
        >>> [row.column for row in localize(x, y, rng=0).columns if row.adjusted <= 0.05]
        ['column 1']
    """
    _check(method, correlations, correction)
    n_resamples = check_resamples(n_resamples)
    names = column_names(x) or column_names(y)
    notes: tuple[str, ...] = ()
    check_one_design(paired=paired, strata=strata, groups=groups, blocks=blocks)
    if drop_nan:
        (x, y), (strata, groups), notes = complete_rows(
            (x, y), ("x", "y"), {"strata": strata, "groups": groups}, together=paired
        )
    x, y = as_samples(x, y)
    design = design_of((len(x), len(y)), paired=paired, strata=strata, groups=groups, blocks=blocks)
    notes += design.notes
    if not design.words:
        notes += serial_notes({"x": x, "y": y})
    if is_constant(torch.cat([x, y])):
        warn_constant("x and y")
    titles = names or [f"column {c + 1}" for c in range(x.shape[1])]
    generator, seed = generator_of(rng)
    whole: HypothesisResult | None = None
    weights: Tensor | None = None
    kept, total = list(range(x.shape[1])), (len(x), len(y), x.shape[1])
    if method == "learned":
        if design.words:
            raise ValueError(f"method 'learned' takes no design; got one of {design.words}")
        (x, y), scaled_rows, weights = _learned(x, y, generator)
        options: dict[str, Any] = {"n_resamples": n_resamples, "show_progress": show_progress}
        own_seed = int(generator.integers(2**62))
        weighted = (rows * weights for rows in scaled_rows)
        whole = two_sample_test(*weighted, method="energy", scale=None, rng=own_seed, **options)
        kept = torch.nonzero(weights > 1.0 / len(weights)).flatten().tolist() or kept
        notes += (
            f"{len(kept)} of {total[2]} columns were chosen, and the kernel learned, on "
            f"{total[0] - len(x)} and {total[1] - len(y)} rows; the test is of the others",
        )
    plan = Relabellings((len(x), len(y)), n_resamples, generator, *design.restriction)
    if plan.units is not None:
        least = min(len(np.unique(part)) for part in np.split(plan.units, [len(x)]))
        if least < 2:
            raise ValueError("a sample is one group; columns are compared between several in each")
    count = math.comb(len(kept), 2)
    if correlations and count * plan.columns > TABLE:
        raise ValueError(
            f"{len(kept):,} columns have {count:,} pairs, too many for {plan.columns:,} "
            "relabellings of each; choose columns, or fewer n_resamples"
        )
    family = _columns(x[:, kept], y[:, kept], plan, paired, show_progress)
    if correlations:
        family += _correlations(torch.cat([x, y])[:, kept], plan, paired)
    each = np.stack([member.statistics for member in family])
    tolerances = np.array([member.tolerance for member in family])
    largest, null = split(each.max(0), plan.exact)
    pvalue = permutation_pvalue(largest, null, tolerances.max(), exact=plan.exact)
    own = _pvalues(each, tolerances, plan.exact)
    if correction == "bh":
        from scipy.stats import false_discovery_control  # half a second, which imports need not

        adjusted = false_discovery_control(own)
        if len(family) > 0.05 * (n_resamples + 1) and not plan.exact:
            notes += (
                f"with {n_resamples} relabellings one of {len(family)} columns and pairs cannot "
                f"reach .05 alone by the correction of Benjamini and Hochberg: n_resamples="
                f"{20 * len(family)} lets it",
            )
    else:
        adjusted = step_down(each, tolerances.max(), plan.exact)
    rows = []
    for member, p, corrected in zip(family, own.tolist(), adjusted.tolist(), strict=True):
        places = [kept[c] for c in member.positions]
        rows.append(
            ColumnRow(
                column=" and ".join(titles[c] for c in places),
                positions=tuple(places),
                of_x=member.of_x,
                of_y=member.of_y,
                effect_size=member.effect,
                pvalue=p,
                adjusted=corrected,
                weight=None if weights is None else float(weights[places].sum()),
            )
        )
    order = sorted(range(len(rows)), key=lambda k: (rows[k].adjusted, rows[k].pvalue, -each[k, 0]))
    return LocalizationResult(
        statistic=largest if whole is None else whole.statistic,
        pvalue=pvalue if whole is None else whole.pvalue,
        null_distribution=null if whole is None else whole.null_distribution,
        method=method,
        n=total[0],
        m=total[1],
        d=total[2],
        effect_size=None if whole is None else whole.effect_size,
        enumerated=plan.exact,
        seed=seed,
        design=design.words or None,
        notes=notes,
        correction=correction,
        columns=tuple(rows[k] for k in order),
        _samples=(x, y),
    )


def _check(method: str, correlations: bool, correction: str) -> None:
    for name, value, known in (("method", method, Method), ("correction", correction, Correction)):
        if value not in get_args(known):
            options = ", ".join(map(repr, get_args(known)))
            raise ValueError(f"unknown {name} {value!r}; known are {options}")
    if not isinstance(correlations, bool | np.bool_):
        raise TypeError(f"correlations must be True or False; got {correlations!r}")


# --- Joint control -------------------------------------------------------------------------------


def _pvalues(
    each: NDArray[np.float64], tolerances: NDArray[np.float64], exact: bool
) -> NDArray[np.float64]:
    """Permutation p-values [C] of the statistics [C, B], the observed ones first."""
    parts = zip((split(row, exact) for row in each), tolerances.tolist(), strict=True)
    return np.array([permutation_pvalue(*part, tie, exact=exact) for part, tie in parts])


def step_down(each: NDArray[np.float64], tolerance: float, exact: bool) -> NDArray[np.float64]:
    """Max-T adjusted p-values [C] of statistics [C, B] of every relabelling, the observed first.

    Westfall & Young (1993, algorithm 4.1'): each is compared with the largest of its relabelling
    among those whose observed value is no larger; adjusted values rise with the unadjusted.
    """
    order = np.argsort(-each[:, 0], kind="stable")
    tails = np.maximum.accumulate(each[order][::-1], axis=0)[::-1]
    found = np.empty(len(each))
    found[order] = np.maximum.accumulate(_pvalues(tails, np.full(len(each), tolerance), exact))
    return found


# --- Statistics ----------------------------------------------------------------------------------


class _Member(NamedTuple):
    """A column, or a pair of them, of those tested."""

    positions: tuple[int, ...]
    statistics: NDArray[np.float64]  # [B], the observed one first
    tolerance: float
    of_x: float
    of_y: float
    effect: float


def _columns(
    x: Tensor, y: Tensor, plan: Relabellings, paired: bool, show_progress: bool | None
) -> list[_Member]:
    rows = torch.cat([x, y]).double()
    d = rows.shape[1]
    level = torch.cat([x - y, y - x]).double() if paired else rows
    spread = (rows - rows.median(0).values).abs()
    terms = torch.cat([scaled(level, "rank").rows, spread], 1)  # two for each column
    found = evaluate(SortedForms(terms), plan, terms, show_progress, Energy())
    alone = copy.copy(plan)
    alone.columns = 1
    energy = evaluate(SortedForms(level), alone, level, False, Energy())
    members = []
    for c, (of_x, of_y) in enumerate(zip(x.mean(0).tolist(), y.mean(0).tolist(), strict=True)):
        both = [c, c + d]
        statistics, tolerance = standardised_fuse(found.each[both], found.tolerances[both])
        effect = share(float(energy.each[c, 0]), -2.0 * float(energy.between[c]))
        members.append(_Member((c,), statistics, tolerance, of_x, of_y, effect))
    return members


def _correlations(z: Tensor, plan: Relabellings, paired: bool) -> list[_Member]:
    """Squared differences between the rank correlations of either sample, of all pairs of the
    columns of the pooled rows z [N, d]."""
    first, second = torch.triu_indices(z.shape[1], z.shape[1], 1)
    a = scaled(z, "rank").rows.double()
    a = a - a.mean(0)
    if plan.strata is not None and not paired:  # what differs between strata is no correlation
        of = torch.from_numpy(plan.strata).to(a.device)
        sums = a.new_zeros(int(of.max()) + 1, a.shape[1]).index_add_(0, of, a)
        a = a - (sums / torch.bincount(of).unsqueeze(1))[of]
    moments = torch.cat([a, a.square()], 1).T
    parts = list(zip(*(torch.split(k, max(1, PRODUCTS // len(a))) for k in (first, second)),
                     strict=True))  # fmt: skip
    found: list[Tensor] = []
    observed: tuple[list[float], list[float]] = ([], [])
    for labels in plan.tensors(label_width(plan, z.device.type), z.device):
        v = (labels == 0).to(torch.int8)
        n = v.sum(0, dtype=torch.float64)
        own = product(moments, v)
        rest = moments.sum(1, keepdim=True) - own
        batch = []
        for i, j in parts:
            products = (a[:, i] * a[:, j]).T
            inside = product(products, v)
            outside = products.sum(1, keepdim=True) - inside
            of_x = _correlation(inside / n, own / n, i, j)
            of_y = _correlation(outside / (len(a) - n), rest / (len(a) - n), i, j)
            batch.append((of_x - of_y).square())
            if not found:
                observed[0].extend(of_x[:, 0].tolist())
                observed[1].extend(of_y[:, 0].tolist())
        found.append(torch.cat(batch))
    values = torch.cat(found, 1).cpu().numpy()
    members = []
    for k, places in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        statistics, tolerance = standardised_fuse(values[[k]], np.array([ROUNDING]))
        r_x, r_y = observed[0][k], observed[1][k]
        members.append(_Member(places, statistics, tolerance, r_x, r_y, 0.5 * abs(r_x - r_y)))
    return members


def _correlation(products: Tensor, moments: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Of columns i and j for every labelling, [P, B], from the means of their products [P, B], and
    the means and mean squares of all columns [2d, B]."""
    mean, square = moments.chunk(2)
    variance = square - mean.square()
    scale = (variance[i] * variance[j]).sqrt()
    varies = (variance[i] > CONSTANT) & (variance[j] > CONSTANT)
    return torch.where(varies, (products - mean[i] * mean[j]) / scale, 0.0)


# --- Learned weights -----------------------------------------------------------------------------


class _Halves(NamedTuple):
    held_out: tuple[Tensor, Tensor]  # rows as given
    scaled: tuple[Tensor, Tensor]  # the same rows, each column divided by its pooled spread
    weights: Tensor  # [d], of the scaled columns; they add up to 1


def _learned(x: Tensor, y: Tensor, generator: np.random.Generator) -> _Halves:
    if min(len(x), len(y)) < 8:
        raise ValueError(
            f"method 'learned' needs at least 8 rows of each sample; got {len(x)} and {len(y)}"
        )
    columns = scaled(torch.cat([x, y]), "robust").rows.double()
    trained, held, held_scaled = [], [], []
    for given, rows in ((x, columns[: len(x)]), (y, columns[len(x) :])):
        order = torch.from_numpy(generator.permutation(len(given))).to(given.device)
        half = len(given) // 2
        trained.append(rows[order[:half]][:TRAINED])
        held.append(given[order[half:]])
        held_scaled.append(rows[order[half:]])
    weights = learn_weights(*trained)
    return _Halves((held[0], held[1]), (held_scaled[0], held_scaled[1]), weights)


def learn_weights(x: Tensor, y: Tensor) -> Tensor:
    """Weights [d] of columns, adding up to 1, that make the energy distance of the weighted rows
    x [n, d] and y [m, d] large against its spread over relabellings.

    That spread is √Σ_{i≠j} k̃² but for a factor that weights do not change, with k̃ the doubly
    centred distances of the pooled rows: the signal-to-noise ratio of Sutherland et al. (ICLR
    2017), at the null hypothesis. By Adam, from equal weights.
    """
    z = torch.cat([x, y]).detach().double()
    n, m = len(x), len(y)
    sign = torch.cat([z.new_full((n,), 1.0 / n), z.new_full((m,), -1.0 / m)])
    outer = torch.outer(sign, sign).fill_diagonal_(0.0)
    scores = z.new_zeros(z.shape[1], requires_grad=True)
    optimiser = torch.optim.Adam([scores], RATE)
    with torch.enable_grad():
        for _ in range(STEPS):
            rows = z * scores.softmax(0)
            k = -torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
            k = k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()
            k = k - k.diagonal().diag()
            loss = -(outer * k).sum() / k.square().sum().sqrt().clamp_min(1e-300)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return scores.detach().softmax(0)
