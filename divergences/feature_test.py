"""The two-sample tests with random features, of rows that are read in chunks: in memory, or not.

The rows are read twice: bandwidth, landmarks and spread of the columns come from rows drawn at
random the first time, Φᵀv of all labellings v from chunk by chunk the second time. The labels of a
chunk are made for it alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import chunks
from .checkpoint import Checkpoint
from .chunks import Rows, rows_of
from .designs import serial_notes
from .evaluation import evaluate_spans, split
from .features import FeatureForms, Features, fourier_features, nystrom_features
from .kernels import Bandwidth, Kernel
from .kernels.bandwidth import MEDIAN_ROWS
from .kernels.kernel import as_kernel
from .mmd import DEFAULT_BANDWIDTH
from .resampling import Relabellings, permutation_pvalue
from .results import TwoSampleResult
from .samples import Rng, check_alike, check_columns, generator_of, warn_constant
from .scaling import Scale, fitted, without_units

SHUFFLED = 2**20  # rows up to which all are put in random order; of more, those that are looked at


def feature_test(
    x: Any,
    y: Any,
    *,
    method: str,
    kernel: Kernel | str | None,
    bandwidth: Bandwidth | None,
    n_resamples: int,
    rng: Rng,
    scale: Scale | None,
    n_features: int,
    show_progress: bool | None,
    names: list[str] | None = None,
    checkpoint: Checkpoint | None = None,
) -> TwoSampleResult:
    """``two_sample_test`` without a design, of samples that may be larger than memory; ``names`` of
    the columns, where they are not those of x. ``scale`` is none of "rank" and "whiten"."""
    a, b = rows_of(x, "x"), rows_of(y, "y")
    check_columns(a, b, ("x", "y"))
    check_alike(a, b)
    generator, seed = generator_of(rng)
    pooled, most = a + b, max(chunks.CHUNK, n_features)
    some, constant = pooled.survey(_scattered(generator, len(pooled), most))
    if constant:
        warn_constant("x and y")
    where = "the pooled sample"
    if len(some) < len(pooled):
        where = f"{len(some):,} of the {len(pooled):,} pooled rows"
    auto = without_units(kernel, bandwidth)
    columns = fitted(some, scale, auto=auto, columns=names or a.column_names, where=where)
    notes = columns.notes + serial_notes(
        {"x": columns.scaled(a.head()), "y": columns.scaled(b.head())}
    )
    some, pooled = columns.scaled(some), pooled.map(columns.scaled)
    named = as_kernel("gaussian" if kernel is None else kernel, bandwidth, DEFAULT_BANDWIDTH)
    chosen = named.resolve(some[:MEDIAN_ROWS])
    plan = Relabellings((len(a), len(b)), n_resamples, generator)
    some, offset = some.double(), some.new_zeros(a.d).double()
    if all(t.function.metric != "inner" for t in chosen.terms):
        offset = some[:MEDIAN_ROWS].median(0).values  # offsets cost features their digits
    features: Features
    if method == "mmd-fourier":
        features = fourier_features(chosen, a.d, n_features, generator)
    else:
        features = nystrom_features(chosen, some[:n_features] - offset)
    source = FeatureForms(pooled.map(lambda z: z.double() - offset), features, some - offset)
    found = evaluate_spans(source, plan, a.device, show_progress, checkpoint)
    statistics, tolerance = found.weighted()
    observed, null = split(statistics, plan.exact)
    return TwoSampleResult(
        statistic=observed,
        pvalue=permutation_pvalue(observed, null, tolerance, exact=plan.exact),
        null_distribution=null,
        method=method,
        n=len(a),
        m=len(b),
        d=a.d,
        effect_size=found.effect_over(
            _mean_diagonal(chosen, a.map(columns.scaled))
            + _mean_diagonal(chosen, b.map(columns.scaled))
        ),
        enumerated=plan.exact,
        seed=seed,
        scale=columns.done,
        kernels=found.rows(chosen.terms, plan.exact),
        notes=notes,
        _samples=None
        if a.held is None or b.held is None
        else (columns.scaled(a.held), columns.scaled(b.held)),
        _kernel=chosen,
    )


def _scattered(generator: np.random.Generator, count: int, most: int) -> NDArray[np.int64]:
    """Numbers of at most ``most`` of ``count`` rows, drawn at random, in random order."""
    if count <= SHUFFLED:
        return generator.permutation(count)[:most]
    return generator.choice(count, most, replace=False)


def _mean_diagonal(kernel: Kernel, rows: Rows) -> float:
    """The mean of k(z, z)."""
    if all(t.function.metric != "inner" for t in kernel.terms):
        return float(kernel.diagonal(torch.empty(0, rows.d)))
    sums = (torch.as_tensor(kernel.diagonal(z.double())).sum() for z in rows.chunks())
    return float(sum(sums)) / len(rows)
