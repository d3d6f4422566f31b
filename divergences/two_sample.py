"""Do P and Q differ? Two-sample tests by permutation, valid at any n, m and d."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .checkpoint import Checkpoint, Location, checkpoint_of
from .chunks import CHUNK, gathered, held_rows
from .designs import Blocks, Labels, check_one_design, design_of, serial_notes
from .distributed import Group
from .evaluation import Evaluation, evaluate, share, split
from .feature_test import feature_test
from .features import FeatureForms, Features, fourier_features, nystrom_features
from .forms import BlockForms, PairForms, SortedForms, Source
from .fuse import fuse_kernel, published_fuse, standardised_fuse
from .kernel_matrix import KernelMatrix, MatrixForms, is_kernel_matrix
from .kernels import Bandwidth, Energy, Kernel, pair_sums
from .kernels.bandwidth import MEDIAN_ROWS
from .kernels.kernel import as_kernel
from .mmd import DEFAULT_BANDWIDTH
from .resampling import Relabellings, Restriction, permutation_pvalue
from .results import TwoSampleResult
from .samples import (
    Rng,
    as_samples,
    check_resamples,
    column_names,
    complete_rows,
    fits_narrow,
    generator_of,
    is_constant,
    warn_constant,
)
from .scaling import Scale, Scaled, check_scale, scaled, without_units
from .sharded import takes_group

Method = Literal[
    "fuse",
    "fuse-original",
    "mmd",
    "energy",
    "classifier",
    "mmd-block",
    "mmd-incomplete",
    "mmd-fourier",
    "mmd-nystrom",
]
WIDE_WORK = 2**32  # pairs·terms·labellings up to which products with labels are formed in fp64
FEATURES = 256  # frequencies or landmarks
FEATURE_METHODS = ("mmd-fourier", "mmd-nystrom")
PAIRLESS = ("fuse-original", "mmd-incomplete")  # methods whose statistics know no pairs
PARTITIONS = 4  # of the rows into blocks, for the incomplete statistic


@takes_group("x", "y", labels=("strata", "groups"), aligned="paired")
def two_sample_test(
    x: Any,
    y: Any,
    *,
    method: Method = "fuse",
    kernel: Kernel | KernelMatrix | str | None = None,
    bandwidth: Bandwidth | None = None,
    n_resamples: int | None = None,
    rng: Rng = None,
    paired: bool = False,
    strata: Labels = None,
    groups: Labels = None,
    blocks: Blocks | None = None,
    scale: Scale | None = "auto",
    drop_nan: bool = False,
    n_features: int | None = None,
    block_size: int | None = None,
    backend: str | None = None,
    group: Group | None = None,  # noqa: ARG001, which the decorator takes
    checkpoint: Location | Checkpoint | None = None,
    show_progress: bool | None = None,
) -> TwoSampleResult:
    """Permutation test of P = Q from samples x [n, d] and y [m, d].

    Args:
        x, y: torch tensors (CPU or CUDA), anything with ``__dlpack__``, or anything numpy converts.
            "mmd-fourier" and "mmd-nystrom", without a design, read what is not in memory in chunks
            (``divergences.chunks``): ``np.memmap``, the arrays of h5py and zarr, .parquet files
            and data sets that pyarrow has opened, ``divergences.chunks.Batches``. "energy" reads
            one such column. Results are those of the array.
        method: what to test with; see docs/choosing-a-test.md.

            * "fuse": MMD-FUSE (Biggs, Schrab & Gretton 2023), ten Gaussian and ten L1-Laplace
              kernels aggregated into one statistic and one p-value. No scale to choose. Bandwidths
              are log-spaced between half the 5 % and twice the 95 % quantile of pooled distances,
              and each kernel is standardised by its permutation distribution; "fuse-original"
              spaces them linearly and has the paper's normaliser (``divergences.fuse`` has both).
            * "mmd": the squared MMD of one kernel, or of a mixture.
            * "energy": the energy distance; no parameter, and O(N log N) for d = 1.
            * "classifier": ``divergences.classifier.classifier_test``, for comparison.

            For samples too large for all pairs, with the exact permutation p-value of a weaker
            statistic, O(N) for each relabelling:

            * "mmd-block": the mean over blocks of √N rows, labels permuted within blocks (Zaremba,
              Gretton & Blaschko 2013).
            * "mmd-incomplete": the pairs within blocks of √N rows, for four random partitions,
              labels permuted over all rows.
            * "mmd-fourier": random Fourier features (Zhao & Meng 2015).
            * "mmd-nystrom": features of random landmarks (Chatalic et al. 2022).
        kernel, bandwidth: for the MMD methods, as ``divergences.mmd.mmd2``. A bandwidth rule is
            applied to a uniformly drawn subsample of the pooled rows, blind to the labels. For
            "mmd" also a matrix [n + m, n + m] of the values between the rows of x, then of y
            (which then give n and m alone), or a function of two samples that gives such a matrix;
            a distance D is passed as −D. It must be finite and symmetric; a note tells whether it
            is positive definite. Memory is then O(N²).
        n_resamples: B ≥ 1 relabellings (999; 1999 for "fuse"). The smallest possible p-value is
            1/(B + 1). If no more than B + 1 relabellings exist, all of them are listed instead.
        rng: seed, ``numpy.random.Generator`` or ``torch.Generator``; fresh entropy if None, whose
            seed is in the result.
        paired: row i of x and row i of y are a pair, n = m. Relabellings swap within pairs: exact
            if (xᵢ, yᵢ) and (yᵢ, xᵢ) have one distribution. What is tested are the differences
            x − y against y − x, with the effect size of these; "fuse" gives half of its weight to
            their energy distance, and half to its kernels on the rows as they are, which see
            differences of spread. Not for "fuse-original", "mmd-block" and "mmd-incomplete".
        strata: [n + m] labels of the rows of x, then of y: relabellings stay within strata (sites,
            batches). The hypothesis is then P = Q within each, and statistic and effect size are
            those of the weighted mean over strata of the differences within each
            (``divergences.designs``), but for the methods for large samples, whose statistic
            remains that of the pooled rows.
        groups: [n + m] labels of the rows of x, then of y: the rows of a group (of one subject,
            all of them in x or all in y) keep one label and are relabelled together. Statistics
            leave out pairs of rows of one group (those of the methods for large samples do not); a
            sample that is one group has no effect size.
        blocks: for rows in the order of time, each of which depends on those before: so many
            consecutive rows keep one label, as a group does, or "shift": the labels of the whole
            series, x and then y, are moved along around its end. Approximate, for stationary
            series: the p-value is valid as blocks (the series) grow long against the dependence.
            Only one of ``paired``, ``strata``, ``groups`` and ``blocks`` can be given.
        scale: what is done to the columns of the pooled sample, blind to the labels.

            * "robust": divided by their spread, which a few rows far out or a value that most rows
              share do not set (``divergences.scaling``).
            * "std", "rank", "whiten": by their standard deviations; ranks in their place; the
              whole by the square root of the covariance (N > d, not singular).
            * "auto": "robust" where spreads differ by more than a factor of 5, else nothing, and
              nothing where a kernel object or a bandwidth in numbers sets the units.
            * None: nothing.

            "mmd-fourier" and "mmd-nystrom" without a design go by 8192 rows drawn at random, where
            there are more. Of pairs, "auto", "robust" and "std" go by the spread of the differences
            within them.
        drop_nan: leave out rows with NaN (pairs with any) and say how many; else they are refused.
        n_features: frequencies or landmarks of the feature methods (256).
        block_size: rows in a block (√N).
        backend: None (automatic), "reference" or "triton".
        group: a ProcessGroup or one-dimensional DeviceMesh, whose processes all call this with
            their own rows: the test of the rows of all (``divergences.sharded``).
        checkpoint: a file for long tests, written after every 128 labellings (which take longer so,
            by the time it takes to form K once for each): the same call goes on from it, also with
            another number of processes. Needs a seed. Not for "classifier".
        show_progress: a bar; None shows it on a terminal once the test has taken some seconds.

    Returns:
        TwoSampleResult. The p-value is valid at every sample size: under P = Q, P(p ≤ α) ≤ α.

    Raises:
        ValueError, TypeError: shapes that do not fit, fewer than two rows, non-finite entries
            (counted), unknown methods, B < 1, options of another method.

    Memory is O(N (d + B)) bytes for N = n + m, never N²; of samples read in chunks, that of a dozen
    chunks of 8192 rows or their features, at any N.

    Examples:
        >>> import numpy as np
        >>> from divergences import two_sample_test
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(100, 2)), rng.normal(size=(80, 2)) + 0.5
        >>> result = two_sample_test(x, y, rng=0)
        >>> print(f"p = {result.pvalue:.3f}, effect size {result.effect_size:.2f}")
        p = 0.003, effect size 0.03
    """
    _check_options(method, kernel, bandwidth, n_features, block_size)
    check_scale(scale)
    named = column_names(x)
    left_out: tuple[str, ...] = ()
    check_one_design(paired=paired, strata=strata, groups=groups, blocks=blocks)
    in_chunks = method in FEATURE_METHODS and scale not in ("rank", "whiten")
    in_chunks = in_chunks and not paired and strata is groups is blocks is None
    if drop_nan or not in_chunks:
        x, y = gathered(x, "x"), gathered(y, "y")
    if drop_nan:
        (x, y), (strata, groups), left_out = complete_rows(
            (x, y), ("x", "y"), {"strata": strata, "groups": groups}, together=paired
        )
    if method == "classifier":
        for name, value in (
            ("paired", paired or None), ("strata", strata), ("groups", groups), ("blocks", blocks),
            ("checkpoint", checkpoint),
        ):  # fmt: skip
            if value is not None:
                raise ValueError(f"method 'classifier' does not take {name}")
        told = _classifier(x, y, n_resamples, rng, scale, show_progress)
        return replace(told, notes=left_out + told.notes)
    fuse = method.startswith("fuse")
    n_resamples = check_resamples((1999 if fuse else 999) if n_resamples is None else n_resamples)
    saved = checkpoint_of(checkpoint, rng)
    if in_chunks:
        assert kernel is None or isinstance(kernel, Kernel | str)
        told = feature_test(
            x,
            y,
            method=method,
            kernel=kernel,
            bandwidth=bandwidth,
            n_resamples=n_resamples,
            rng=rng,
            scale=scale,
            n_features=n_features or FEATURES,
            show_progress=show_progress,
            names=named,
            checkpoint=saved,
        )
        return replace(told, notes=left_out + told.notes)
    x, y = as_samples(x, y)
    design = design_of((len(x), len(y)), paired=paired, strata=strata, groups=groups, blocks=blocks)
    if design.words and method in ("mmd-block", *(PAIRLESS if paired else ())):
        raise ValueError(f"method {method!r} does not go with a design; got one of {design.words}")
    generator, seed = generator_of(rng)
    auto = without_units(kernel, bandwidth)
    rows_count = is_kernel_matrix(kernel) and not callable(kernel)  # and nothing else of x and y
    if rows_count and (paired or scale not in ("auto", None)):
        raise ValueError("a kernel matrix has no rows to scale or to take differences of")
    if rows_count:
        columns = Scaled(torch.cat([x, y]), None, ())
    else:
        within = torch.cat([x - y, y - x]) if paired else None  # the same whichever is x
        columns = scaled(torch.cat([x, y]), scale, auto=auto, columns=named, spread_of=within)
    x, y = columns.rows[: len(x)], columns.rows[len(x) :]
    notes = left_out + columns.notes + design.notes
    if not design.words and not rows_count:
        notes += serial_notes({"x": x, "y": y})
    restriction = design.restriction
    if method == "mmd-block":
        given = len(x) + len(y)
        x, y, own = _blocks(x, y, block_size, generator)
        restriction = Restriction(strata=own)
        left = given - len(x) - len(y)
        if left:
            notes += (f"{left} of {given} rows do not fill a block and are left out",)
    both = x - y if paired else x  # what is left of a pair without what its rows share
    if paired and method != "fuse":
        x, y = both, -both
    pooled = torch.cat([x, y])
    if is_constant(pooled) and not rows_count:
        warn_constant("x − y and y − x" if paired and method != "fuse" else "x and y")
    order = torch.from_numpy(generator.permutation(len(pooled))).to(pooled.device)
    chosen: Kernel | MatrixForms
    if kernel is None or isinstance(kernel, Kernel | str):
        chosen = choose_kernel(method, kernel, bandwidth, pooled, order)
    else:
        chosen = MatrixForms(kernel, pooled)
    plan = Relabellings((len(x), len(y)), n_resamples, generator, *restriction)
    setting = _Setting(
        pooled, chosen, order, plan, generator, n_features or FEATURES, block_size, saved
    )
    found = _evaluate(method, setting, backend, show_progress)
    if isinstance(chosen, MatrixForms):
        rows = found.rows((chosen,), plan.exact)
        notes += chosen.notes
    else:
        rows = found.rows(chosen.terms, plan.exact)
    effect: float | None = None
    if method == "fuse" and paired:
        energy = setting._replace(pooled=torch.cat([both, -both]), kernel=Energy())
        other = _evaluate("energy", energy, backend, show_progress)
        effect = other.effect(Energy(), both, -both)
        (row,) = other.rows(Energy().terms, plan.exact)
        rows += (replace(row, kernel=f"{row.kernel} of x − y"),)
        each = np.concatenate([found.each, other.each])
        weights = np.array([0.5 / len(found.each)] * len(found.each) + [0.5])
        tolerances = np.concatenate([found.tolerances, other.tolerances])
        statistics, tolerance = standardised_fuse(each, tolerances, weights)
    elif method == "fuse":
        statistics, tolerance = standardised_fuse(found.each, found.tolerances)
    elif method == "fuse-original":
        smaller = min(len(x), len(y))
        statistics, tolerance = published_fuse(found.each, found.squares, found.tolerances, smaller)
    else:
        statistics, tolerance = found.weighted()
    observed, null = split(statistics, plan.exact)
    if effect is None:
        effect = _energy_effect(setting, x, y, backend) if fuse else found.effect(chosen, x, y)
    units = plan.units
    if units is not None and not method.startswith("mmd-"):
        least = min(len(np.unique(part)) for part in np.split(units, [len(x)]))
        if least < 2:  # then no pairs within a sample are left, and their mean counts as 0
            effect = None
            notes += ("a sample is one group: statistic without the pairs in it, no effect size",)
    return TwoSampleResult(
        statistic=observed,
        pvalue=permutation_pvalue(observed, null, tolerance, exact=plan.exact),
        null_distribution=null,
        method=method,
        n=len(x),
        m=len(y),
        d=x.shape[1],
        effect_size=effect,
        enumerated=plan.exact,
        seed=seed,
        scale=columns.done,
        kernels=rows,
        design=design.words or None,
        notes=notes,
        _samples=None if isinstance(chosen, MatrixForms) else (x, y),
        _kernel=None if isinstance(chosen, MatrixForms) else chosen,
    )


def _check_options(
    method: str,
    kernel: Kernel | KernelMatrix | str | None,
    bandwidth: Bandwidth | None,
    n_features: int | None,
    block_size: int | None,
) -> None:
    if method not in get_args(Method):
        known = ", ".join(map(repr, get_args(Method)))
        raise ValueError(f"unknown method {method!r}; known are {known}")
    if is_kernel_matrix(kernel) and (method != "mmd" or bandwidth is not None):
        raise ValueError(
            "a kernel matrix or function goes with method 'mmd' and has its own bandwidth; got "
            f"method={method!r}, bandwidth={bandwidth!r}"
        )
    if not method.startswith("mmd") and (kernel is not None or bandwidth is not None):
        raise ValueError(f"method {method!r} has its own kernels; use method='mmd' with a kernel")
    for name, value, users in (
        ("n_features", n_features, FEATURE_METHODS),
        ("block_size", block_size, ("mmd-block", "mmd-incomplete")),
    ):
        if value is None:
            continue
        if method not in users:
            raise ValueError(
                f"{name} is an option of {users[0]!r} and {users[1]!r}, not {method!r}"
            )
        least = 4 if name == "block_size" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer ≥ {least}; got {value!r}")


def _classifier(
    x: Any,
    y: Any,
    n_resamples: int | None,
    rng: Rng,
    scale: Scale | None,
    show_progress: bool | None,
) -> TwoSampleResult:
    from .classifier import classifier_test  # which brings torch's optimisers

    if scale not in ("auto", None):
        raise ValueError(f"method 'classifier' scales by its training half; got scale={scale!r}")
    resamples = 999 if n_resamples is None else n_resamples
    return classifier_test(x, y, n_resamples=resamples, rng=rng, show_progress=show_progress)


def choose_kernel(
    method: str,
    kernel: Kernel | str | None,
    bandwidth: Bandwidth | None,
    pooled: Tensor,
    order: Tensor,
) -> Kernel:
    """The resolved kernel; its bandwidths depend on the pooled rows alone."""
    if method.startswith("fuse"):
        return fuse_kernel(pooled, order, "linear" if method == "fuse-original" else "log")
    if method == "energy":
        return Energy()
    named = as_kernel("gaussian" if kernel is None else kernel, bandwidth, DEFAULT_BANDWIDTH)
    return named.resolve(pooled[order[:MEDIAN_ROWS]])


class _Setting(NamedTuple):
    pooled: Tensor
    kernel: Kernel | MatrixForms
    order: Tensor  # a random permutation of the pooled rows
    plan: Relabellings
    generator: np.random.Generator
    n_features: int
    block_size: int | None
    checkpoint: Checkpoint | None


def _evaluate(
    method: str, s: _Setting, backend: str | None, show_progress: bool | None
) -> Evaluation:
    """The statistics of all relabellings, as the design of the plan has them."""
    source = _source(method, s, backend)
    every_pair = isinstance(source, PairForms | SortedForms | MatrixForms)
    kernel = s.kernel if every_pair else None
    return evaluate(source, s.plan, s.pooled, show_progress, kernel, s.checkpoint)


def _source(method: str, s: _Setting, backend: str | None) -> Source:
    count, d = s.pooled.shape
    if isinstance(s.kernel, MatrixForms):
        return s.kernel
    if method in FEATURE_METHODS:
        z = s.pooled.double()
        if all(t.function.metric != "inner" for t in s.kernel.terms):
            z = z - z[s.order[:MEDIAN_ROWS]].median(0).values  # offsets cost features their digits
        features: Features
        if method == "mmd-fourier":
            features = fourier_features(s.kernel, d, s.n_features, s.generator)
        else:
            features = nystrom_features(s.kernel, z[s.order[: s.n_features]])
        return FeatureForms(held_rows(z), features, z[s.order[:CHUNK]])
    if method == "energy" and d == 1 and backend is None:
        return SortedForms(s.pooled)
    index = None
    if method == "mmd-block":
        assert s.plan.strata is not None
        blocks = int(s.plan.strata.max()) + 1
        index = torch.from_numpy(np.argsort(s.plan.strata, kind="stable")).view(blocks, -1)
    elif method == "mmd-incomplete":
        size = min(count, s.block_size or default_block(count))
        parts = [s.generator.permutation(count)[: count // size * size] for _ in range(PARTITIONS)]
        index = torch.from_numpy(np.concatenate(parts)).view(-1, size)
    pairs = count**2 if index is None else index.numel() * index.shape[1]
    much = pairs * len(s.kernel.terms) * s.plan.columns > WIDE_WORK
    narrow = much and fits_narrow(s.pooled)
    if index is None:
        return PairForms(s.pooled, s.kernel, narrow=narrow, backend=backend)
    return BlockForms(s.pooled, s.kernel, index.to(s.pooled.device), narrow=narrow)


def default_block(count: int) -> int:
    return max(16, math.isqrt(count))


def _blocks(
    x: Tensor, y: Tensor, block_size: int | None, generator: np.random.Generator
) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    """Rows of x and y dealt at random to blocks with equally many of each, and their blocks.
    Rows that do not fill a block are left out."""
    count = len(x) + len(y)
    blocks = max(1, count // (block_size or default_block(count)))
    blocks = min(blocks, len(x) // 2, len(y) // 2)
    dealt, numbers = [], []
    for sample in (x, y):
        each = len(sample) // blocks
        rows = generator.permutation(len(sample))[: each * blocks]
        dealt.append(sample[torch.from_numpy(rows).to(sample.device)])
        numbers.append(np.repeat(np.arange(blocks), each))
    return dealt[0], dealt[1], np.concatenate(numbers)


def _energy_effect(s: _Setting, x: Tensor, y: Tensor, backend: str | None) -> float:
    """Energy distance over 2E‖x − y‖, in [0, 1]."""
    if s.plan.strata is not None or s.plan.units is not None:
        observed = copy.copy(s.plan)
        observed.columns = 1
        energy = s._replace(kernel=Energy(), plan=observed, checkpoint=None)
        return _evaluate("energy", energy, backend, False).effect(Energy(), x, y)
    sums = pair_sums(x, y, kernel=Energy(), backend=backend)
    n, m = len(x), len(y)
    between = -2.0 * float(sums.xy) / (n * m)
    within = float(sums.xx) / (n * (n - 1)) + float(sums.yy) / (m * (m - 1))
    return share(between + within, between)
