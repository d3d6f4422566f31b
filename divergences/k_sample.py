"""Do k samples share one distribution, and if not, which of them differ?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .checkpoint import Arrays, Checkpoint, Location, checkpoint_of, in_batches
from .designs import Blocks, Labels, design_of, serial_notes, sums_within, weighted_sums
from .distributed import Group
from .evaluation import label_width, share, split
from .forms import PairForms, SortedForms, Source
from .kernels import Bandwidth, Kernel
from .resampling import TIE, Relabellings, permutation_pvalue, progress
from .results import HypothesisResult, KernelRow
from .samples import (
    Rng,
    as_sample,
    as_samples,
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
from .two_sample import WIDE_WORK, choose_kernel, two_sample_test

Method = Literal["energy", "mmd"]


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """Samples ``first`` and ``second`` (numbered from 0) against each other. ``adjusted`` is the
    p-value after Holm's correction for all pairs: below α, these two differ at level α."""

    first: int
    second: int
    statistic: float
    effect_size: float
    pvalue: float
    adjusted: float


@dataclass(frozen=True, eq=False, kw_only=True)
class KSampleResult(HypothesisResult):
    """The outcome of ``k_sample_test``; see ``HypothesisResult``. ``n`` counts all rows."""

    sample_sizes: tuple[int, ...]
    pairs: tuple[PairRow, ...] = field(default=(), repr=False)

    question: ClassVar[str] = "k-sample test of P₁ = … = Pₖ"

    @property
    def sizes(self) -> str:
        return f"n = {' + '.join(map(str, self.sample_sizes))}, d = {self.d}"

    def __str__(self) -> str:
        lines = [super().__str__()]
        if self.pairs:
            lines.append("  pairs        effect     p        p (Holm)")
        lines += [
            f"    {p.first} and {p.second:<4} {p.effect_size:<10.3g} {p.pvalue:<8.4g} "
            f"{p.adjusted:.4g}"
            for p in self.pairs
        ]
        return "\n".join(lines)


@takes_group("samples", labels=("strata", "groups"))
def k_sample_test(
    *samples: Any,
    method: Method = "energy",
    kernel: Kernel | str | None = None,
    bandwidth: Bandwidth | None = None,
    n_resamples: int = 999,
    rng: Rng = None,
    strata: Labels = None,
    groups: Labels = None,
    blocks: Blocks | None = None,
    scale: Scale | None = "auto",
    drop_nan: bool = False,
    pairwise: bool = True,
    backend: str | None = None,
    group: Group | None = None,  # noqa: ARG001, which the decorator takes
    checkpoint: Location | Checkpoint | None = None,
    show_progress: bool | None = None,
) -> KSampleResult:
    """Permutation test that k ≥ 2 samples [nᵢ, d] come from one distribution (DISCO).

    The statistic is the F ratio of Rizzo & Székely (2010) for the distance ρ = ½‖φ(z) − φ(z′)‖² of
    the kernel's feature space, which is ‖z − z′‖ for "energy": with T = N/2·mean ρ over all pairs
    of rows, W = Σᵢ nᵢ/2·mean ρ within sample i and S = T − W,

        F = (S/(k − 1)) / (W/(N − k)).

    ``effect_size`` = S/T, in [0, 1], is the share of the dispersion that lies between samples, as
    R² in an analysis of variance. Each pair of samples is tested by ``two_sample_test`` too, with
    Holm's correction (``pairwise=False`` leaves that out).

    Within ``strata`` T is the sum over strata of their own, S = Σᵢ ‖Σ (v − p) φ(z)‖²/2nᵢ over all
    rows, where v marks those of sample i and p is its share in the stratum of a row, and N − k is
    less the number of strata but one.

    Args:
        samples: as x of ``two_sample_test``, which also explains the other arguments.

    Raises:
        ValueError, TypeError: as ``two_sample_test``; fewer than two samples.

    Examples:
        >>> import numpy as np
        >>> from divergences import k_sample_test
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(100, 2)), rng.normal(size=(80, 2)) + 0.5
        >>> result = k_sample_test(x, y, y[:40] + 0.1, rng=0)
        >>> [(row.first, row.second) for row in result.pairs if row.adjusted <= 0.05]
        [(0, 1), (0, 2)]
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be 'energy' or 'mmd'; got {method!r}")
    if len(samples) < 2:
        raise ValueError(
            f"at least two samples are needed; got {len(samples)} (a list of samples is passed as "
            "k_sample_test(*samples))"
        )
    check_scale(scale)
    n_resamples = check_resamples(n_resamples)
    saved = checkpoint_of(checkpoint, rng)
    named = column_names(samples[0])
    left_out: tuple[str, ...] = ()
    if drop_nan:
        names = [f"sample {k}" for k in range(len(samples))]
        kept, (strata, groups), left_out = complete_rows(
            samples, names, {"strata": strata, "groups": groups}
        )
        samples = tuple(kept)
    given = _as_samples(samples)
    sizes = [len(s) for s in given]
    generator, seed = generator_of(rng)
    auto = without_units(kernel, bandwidth)
    columns = scaled(torch.cat(given), scale, auto=auto, columns=named)
    pooled = columns.rows
    given = list(torch.split(pooled, sizes))
    if is_constant(pooled):
        warn_constant("the samples")
    order = torch.from_numpy(generator.permutation(len(pooled))).to(pooled.device)
    chosen = choose_kernel(method, kernel, bandwidth, pooled, order)
    design = design_of(tuple(sizes), strata=strata, groups=groups, blocks=blocks)
    serial = {} if design.words else {f"sample {k}": s for k, s in enumerate(given)}
    plan = Relabellings(sizes, n_resamples, generator, *design.restriction)
    source: Source
    if method == "energy" and pooled.shape[1] == 1 and backend is None:
        source = SortedForms(pooled)
    else:
        work = len(pooled) ** 2 * len(chosen.terms) * plan.columns * len(sizes)
        narrow = work > WIDE_WORK and fits_narrow(pooled)
        source = PairForms(pooled, chosen, narrow=narrow, backend=backend)
    diagonal = pooled.new_ones(len(pooled), dtype=torch.float64) * chosen.diagonal(pooled)
    problem = source, plan, sizes, pooled, diagonal, show_progress, saved
    if plan.strata is None:
        within, total, tolerance = _dispersions(*problem)
    else:
        within, total, tolerance = _dispersions_within(*problem, chosen, plan.strata)
    several = 0 if plan.strata is None else int(plan.strata.max())
    free = len(pooled) - len(sizes) - several
    if several and free <= 0:
        raise ValueError(
            f"{len(pooled)} rows in {len(sizes)} samples and {several + 1} strata leave no rows to "
            "estimate what varies within them: N − k − S + 1 must be at least 1; merge strata"
        )
    ratio = free / (len(sizes) - 1)
    # F rises with S: permutations are compared by it, which stays finite where W = 0
    between, null = split(total - within, plan.exact)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistics = np.nan_to_num(ratio * (total - within) / within, nan=0.0, posinf=np.inf)
    observed, null_ratios = split(statistics, plan.exact)
    pairs: tuple[PairRow, ...] = ()
    if pairwise:
        seeds = generator.integers(2**62, size=len(sizes) * (len(sizes) - 1) // 2)
        options: dict[str, Any] = {}
        if method == "mmd":
            options = {"kernel": kernel, "bandwidth": bandwidth}
        options |= {"n_resamples": n_resamples, "backend": backend, "show_progress": show_progress}
        options["checkpoint"] = saved
        labels: dict[str, Any] = {"strata": plan.strata, "groups": plan.units}
        if blocks == "shift":
            options["blocks"] = "shift"
        pairs = _pairs(given, labels, seeds, method=method, scale=None, **options)
    pvalue = permutation_pvalue(between, null, tolerance, exact=plan.exact)
    label = " + ".join(t.label for t in chosen.terms)
    width = chosen.terms[0].scale if len(chosen.terms) == 1 else None
    row = KernelRow(kernel=label, bandwidth=width, statistic=observed, pvalue=pvalue)
    return KSampleResult(
        statistic=observed,
        pvalue=pvalue,
        null_distribution=null_ratios,
        method=method,
        n=len(pooled),
        d=pooled.shape[1],
        effect_size=share(between, total),
        enumerated=plan.exact,
        seed=seed,
        scale=columns.done,
        design=design.words or None,
        notes=left_out + columns.notes + design.notes + serial_notes(serial),
        kernels=(row,),
        sample_sizes=tuple(sizes),
        pairs=pairs,
    )


def _as_samples(samples: Sequence[Any]) -> list[Tensor]:
    first = as_sample(samples[0], "sample 0")
    found = [first]
    for k, other in enumerate(samples[1:], 1):
        a, b = as_samples(first, other, names=("sample 0", f"sample {k}"))
        found[0] = a if k == 1 else found[0]
        found.append(b)
    dtype = max((s.dtype for s in found), key=lambda t: t.itemsize)
    return [s.to(dtype) for s in found]


def _dispersions(
    source: Source,
    plan: Relabellings,
    sizes: Sequence[int],
    pooled: Tensor,
    diagonal: Tensor,
    show_progress: bool | None,
    checkpoint: Checkpoint | None,
) -> tuple[NDArray[np.float64], float, float]:
    """W of every labelling [B], T, and the tolerance for ties of W.

    With ρ = ½(k(z,z) + k(z′,z′)) − k(z,z′), Σ ρ over the ordered pairs of a group of n rows is
    n·Σk(z,z) − Σk(z,z) − Σ_{i≠j} k.
    """
    coefs = torch.from_numpy(source.coefficients).to(pooled.device)
    width = max(1, label_width(plan, pooled.device.type, checkpoint) // len(sizes))
    steps = -(-plan.columns // width) * source.steps

    def statistics(groups: Tensor) -> Arrays:
        one_of = [(groups == g).to(torch.int8) for g in range(len(sizes))]
        forms = source(torch.cat(one_of, 1), tick)
        inside = (coefs @ forms.quadratic).view(len(sizes), -1)  # [k, B]
        within = torch.zeros(groups.shape[1], dtype=torch.float64, device=pooled.device)
        for g in range(len(sizes)):
            marked = (groups == g).double()
            n = marked.sum(0)  # one number, or several where groups of rows are moved
            within += ((n - 1.0) * (diagonal @ marked) - inside[g]) / (2.0 * n)
        return within.cpu().numpy(), (coefs @ forms.total).cpu().numpy()

    with progress(steps, "permutations", show_progress) as tick:
        batches = plan.tensors(width, pooled.device)
        found = in_batches(batches, plan.columns, statistics, checkpoint, tick, source.steps)
    values, totals = zip(*found, strict=True)
    count, whole = len(pooled), float(totals[0][0])
    total = ((count - 1) * float(diagonal.sum()) - whole) / (2.0 * count)
    # a form of n marked rows has 2n/N of the rounding, and W divides it by 2n
    rounding = float(coefs @ source.rounding) * len(sizes) / count
    return np.concatenate(values), total, rounding + TIE * abs(whole) / count


def _dispersions_within(
    source: Source,
    plan: Relabellings,
    sizes: Sequence[int],
    pooled: Tensor,
    diagonal: Tensor,
    show_progress: bool | None,
    checkpoint: Checkpoint | None,
    kernel: Kernel,
    strata: NDArray[np.int64],
) -> tuple[NDArray[np.float64], float, float]:
    """As ``_dispersions``, within strata: W = T − S."""
    coefs = torch.from_numpy(source.coefficients).to(pooled.device)
    counts = np.bincount(strata)
    shares = [np.bincount(strata, plan.observed == g)[strata] / counts[strata]
              for g in range(len(sizes))]  # fmt: skip
    p = [torch.from_numpy(share).to(pooled.device) for share in shares]
    against = [coefs @ weighted_sums(source, pooled, kernel, share) for share in p]  # [N] each
    size = torch.from_numpy(counts[strata]).to(diagonal)
    inside = coefs @ sums_within(source, pooled, kernel, strata)
    total = float((((size - 1.0) * diagonal - inside) / (2.0 * size)).sum())
    width = max(1, label_width(plan, pooled.device.type, checkpoint) // len(sizes))
    steps = -(-plan.columns // width) * source.steps

    def statistics(groups: Tensor) -> Arrays:
        one_of = [(groups == g).to(torch.int8) for g in range(len(sizes))]
        forms = source(torch.cat(one_of, 1), tick)
        quadratic = (coefs @ forms.quadratic).view(len(sizes), -1)  # [k, B]
        between = torch.zeros(groups.shape[1], dtype=torch.float64, device=pooled.device)
        for g, n in enumerate(sizes):
            linear = (diagonal * (1.0 - 2.0 * p[g]) - 2.0 * against[g]) @ one_of[g].double()
            constant = p[g] @ against[g] + p[g].square() @ diagonal
            between += (quadratic[g] + linear + constant) / (2.0 * n)
        return total - between.cpu().numpy(), (coefs @ forms.total).cpu().numpy()

    with progress(steps, "permutations", show_progress) as tick:
        batches = plan.tensors(width, pooled.device)
        found = in_batches(batches, plan.columns, statistics, checkpoint, tick, source.steps)
    values, totals = zip(*found, strict=True)
    whole = float(totals[0][0])
    rounding = float(coefs @ source.rounding) * len(sizes) / len(pooled)
    return np.concatenate(values), total, rounding + TIE * abs(whole) / len(pooled)


def _pairs(
    samples: Sequence[Tensor],
    labels: dict[str, NDArray[np.int64] | None],
    seeds: NDArray[np.int64],
    **options: Any,
) -> tuple[PairRow, ...]:
    indices = list(itertools.combinations(range(len(samples)), 2))
    ends = np.cumsum([len(s) for s in samples])
    rows = [np.arange(end - len(s), end) for s, end in zip(samples, ends, strict=True)]
    results = []
    for (a, b), seed in zip(indices, seeds, strict=True):
        both = np.concatenate([rows[a], rows[b]])
        own = {name: of[both] for name, of in labels.items() if of is not None}
        results.append(two_sample_test(samples[a], samples[b], rng=int(seed), **own, **options))
    adjusted = holm([r.pvalue for r in results])
    return tuple(
        PairRow(
            first=a,
            second=b,
            statistic=r.statistic,
            effect_size=r.effect_size or 0.0,
            pvalue=r.pvalue,
            adjusted=float(p),
        )
        for (a, b), r, p in zip(indices, results, adjusted, strict=True)
    )


def holm(pvalues: Sequence[float]) -> NDArray[np.float64]:
    """Holm's (1979) step-down adjusted p-values: the family-wise error stays below α, whatever the
    dependence.

    Examples:
        >>> from divergences.k_sample import holm
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    given = np.asarray(pvalues, dtype=np.float64)
    order = np.argsort(given)
    steps = given[order] * np.arange(len(given), 0, -1)
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted
