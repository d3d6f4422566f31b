"""Unbiased two-sample statistics of every relabelling, and what a result reports of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .checkpoint import BATCH, Arrays, Checkpoint, in_batches
from .designs import GroupedForms, stratified, sums_within
from .features import FeatureForms
from .forms import Forms, GroupSums, Pairs, Source, group_sums
from .kernel_matrix import MatrixForms
from .kernels import Kernel
from .kernels.statistics.quadratic_forms import PART
from .resampling import TIE, Relabellings, permutation_pvalue, progress
from .results import KernelRow

LABEL_BYTES = {"cpu": 2**29, "cuda": 2**32}  # of the label vectors held at a time
BYTES_PER_LABEL = 4


def label_width(plan: Relabellings, device: str, checkpoint: Checkpoint | None = None) -> int:
    """How many labellings are held at a time."""
    each = len(plan.observed) * BYTES_PER_LABEL
    most = plan.columns if checkpoint is None else min(plan.columns, BATCH)
    return max(1, min(most, LABEL_BYTES[device] // each))


class Named(Protocol):
    """A term of a kernel, as a report shows it."""

    @property
    def label(self) -> str: ...

    @property
    def scale(self) -> float | None: ...


class Evaluation(NamedTuple):
    """Unbiased statistics of every kernel term and labelling, the observed labelling first."""

    each: NDArray[np.float64]  # [C, B]
    coefficients: NDArray[np.float64]  # [C]: of the terms in the kernel
    squares: NDArray[np.float64]  # [C]: Σ_{i≠j} k² over the pooled rows
    tolerances: NDArray[np.float64]  # [C]: statistics this near are ties
    between: NDArray[np.float64]  # [C]: the observed mean of k(x, y)
    shares: Tensor | None  # [N]: of the rows in mean k(x, x) + mean k(y, y); None is 1/n and 1/m

    def weighted(self) -> tuple[NDArray[np.float64], float]:
        """The statistics [B] of the kernel as a whole, and their tolerance."""
        return self.coefficients @ self.each, float(self.coefficients @ self.tolerances)

    def effect(self, kernel: Kernel | MatrixForms, x: Tensor, y: Tensor) -> float:
        """MMD² over the mean squared distance E‖φ(x) − φ(y)‖² in feature space, in [0, 1]."""
        diagonal: Tensor | float
        if isinstance(kernel, MatrixForms):
            diagonal = kernel.diagonal
        else:
            diagonal = kernel.diagonal(torch.cat([x, y]).double())
        if self.shares is not None:
            own = float((self.shares * diagonal).sum())
        elif isinstance(diagonal, Tensor):
            own = float(diagonal[: len(x)].mean() + diagonal[len(x) :].mean())
        else:
            own = 2.0 * diagonal
        return self.effect_over(own)

    def effect_over(self, own: float) -> float:
        """``effect``, where ``own`` is the mean of k(x, x) and that of k(y, y), added up."""
        between = float(self.coefficients @ self.between)
        return share(float(self.coefficients @ self.each[:, 0]), own - 2.0 * between)

    def rows(self, terms: Sequence[Named], exact: bool) -> tuple[KernelRow, ...]:
        """A row for each term; none where the source has the kernel as a whole only."""
        if len(terms) != len(self.each):
            return ()
        found = []
        for term, values, tolerance in zip(terms, self.each, self.tolerances, strict=True):
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
    source: Source,
    plan: Relabellings,
    pooled: Tensor,
    show_progress: bool | None,
    kernel: Kernel | MatrixForms | None,
    checkpoint: Checkpoint | None = None,
) -> Evaluation:
    """The statistics of all labellings of the pooled rows, as the strata or units of the plan have
    them where the source sums a ``kernel`` over every pair of rows; None: it does not. Raises
    ValueError where they are not finite."""
    within = None
    if plan.units is not None:
        inside = None if kernel is None else sums_within(source, pooled, kernel, plan.units)
        source = GroupedForms(source, plan.units, inside)
    elif plan.strata is not None and kernel is not None:
        few_of = plan.observed == fewer_of(plan.observed)
        within = stratified(pooled, kernel, source, plan.strata, few_of)
    few, many = sorted(np.bincount(plan.observed, minlength=2).tolist())
    marked = fewer_of(plan.observed)
    width = label_width(plan, pooled.device.type, checkpoint)
    steps = -(-plan.columns // width) * source.steps

    def statistics(labels: Tensor) -> Arrays:
        v = (labels == marked).view(torch.int8)
        forms = source(v, tick)
        pairs = forms.pairs or Pairs(few * (few - 1), many * (many - 1), few * many)
        rounding = source.rounding * (2.0 * few / len(pooled) if plan.units is None else 2.0)
        if within is None:
            sums = group_sums(forms)
            each, between = unbiased(sums, pairs), (sums.between / pairs.between)[:, 0]
            tolerance = _tolerance(forms, pairs, rounding)
        else:
            each, between = within.statistic(forms, v), within.between
            tie = TIE * forms.total.abs().squeeze(1) / len(pooled) ** 2
            tolerance = tie + rounding / within.norm
        return each.cpu().numpy(), tolerance.cpu().numpy(), between.cpu().numpy()

    with progress(steps, "permutations", show_progress) as tick:
        batches = plan.tensors(width, pooled.device)
        found = in_batches(batches, plan.columns, statistics, checkpoint, tick, source.steps)
    each, tolerances, between = zip(*found, strict=True)
    values = np.concatenate(each, axis=1)
    if not np.isfinite(values).all():
        raise ValueError(
            f"the statistic overflows (largest entry {float(pooled.abs().max()):.3g}); rescale "
            "the data"
        )
    return Evaluation(
        values,
        source.coefficients,
        source.squares.cpu().numpy(),
        np.max(tolerances, axis=0),
        between[0],
        None if within is None else within.shares,
    )


def evaluate_spans(
    source: FeatureForms,
    plan: Relabellings,
    device: torch.device,
    show_progress: bool | None,
    checkpoint: Checkpoint | None = None,
) -> Evaluation:
    """``evaluate`` where labels are made for the rows that are read, and never held for all."""
    few, many = sorted(plan.sizes)
    marked = int(np.argmin(plan.sizes))
    pairs = Pairs(few * (few - 1), many * (many - 1), few * many)
    width = plan.columns if checkpoint is None else BATCH
    batches = [range(plan.columns)[at : at + width] for at in range(0, plan.columns, width)]
    steps = -(-width // PART) + source.steps

    def statistics(numbers: range) -> Arrays:
        parts = []
        for at in range(numbers.start, numbers.stop, PART):
            parts.append(plan.shared_cuts(at, min(at + PART, numbers.stop), device))
            tick()
        cuts = np.concatenate(parts)

        def labels(start: int, stop: int) -> Tensor:
            return (plan.labels(cuts, start, stop, device) == marked).view(torch.int8)

        forms = source.of_spans(labels, len(numbers), tick)
        sums, rounding = group_sums(forms), source.rounding * (2.0 * few / (few + many))
        each, between = unbiased(sums, pairs), (sums.between / pairs.between)[:, 0]
        tolerance = _tolerance(forms, pairs, rounding)
        return each.cpu().numpy(), tolerance.cpu().numpy(), between.cpu().numpy()

    with progress(len(batches) * steps, "permutations", show_progress) as tick:
        found = in_batches(batches, plan.columns, statistics, checkpoint, tick, steps)
    each, tolerances, between = zip(*found, strict=True)
    values = np.concatenate(each, axis=1)
    if not np.isfinite(values).all():
        raise ValueError("the statistic overflows; rescale the data")
    squares = source.squares.cpu().numpy()
    tolerance = np.max(tolerances, axis=0)
    return Evaluation(values, source.coefficients, squares, tolerance, between[0], None)


def fewer_of(labels: NDArray[np.int8]) -> int:
    """The group of fewer rows, which forms mark."""
    return int(np.bincount(labels, minlength=2).argmin())


def _tolerance(forms: Forms, pairs: Pairs, rounding: Tensor) -> Tensor:
    """[C]: what rounding may do to a statistic: in fp64 sums, and in the quadratic form."""
    own, rest, between = (float(p.min()) if isinstance(p, Tensor) else float(p) for p in pairs)
    mean = forms.total.abs().squeeze(1) / (own + rest + 2.0 * between)
    return TIE * mean + rounding * (1.0 / own + 1.0 / rest + 2.0 / between)


def unbiased(sums: GroupSums, pairs: Pairs) -> Tensor:
    """mean k(x, x′) + mean k(y, y′) − 2 mean k(x, y), [C, B]."""
    within = sums.own / pairs.own + sums.rest / pairs.rest
    return within - 2.0 * sums.between / pairs.between


def share(part: float, whole: float) -> float:
    """part/whole in [0, 1]; 0 where there is nothing."""
    return min(1.0, max(0.0, part / whole)) if whole > 0.0 else 0.0
