"""The Triton kernels of label forms: centres, panels of centred kernel values, and what labels make
of them.

``panel_kernel`` writes Pᵢⱼ = fp16(scale·(kᵢⱼ − aᵢ − aⱼ)) for the pairs i < j of some rows and
columns, and 0 everywhere else: every pair has one rounded value, in one place. (The a come scaled
by the same power of two, which makes that one rounding.) Only tiles on the diagonal and the last
ones are masked. What it sums, if asked to, are the rounded values. A tile is summed in fp32, where
128 numbers of 11 bits within a factor of 64 add up exactly, along its rows and along its columns;
a program keeps one fp64 partial per row, of the values and of their squares, and leaves one partial
per column for each tile. Tiles that the products of the Gram form do not resolve (see
``gram``) are left out of the partials of the rows and flagged, one bit of the program's word
each; ``redo`` writes them. ``WIDE``: differences of small problems, in fp64.

``fold_kernel`` adds up the products of some chunks of columns and multiplies with the labels of the
rows; it adds to one fp64 partial per tile of rows and label vector, whose only writer it is.

``centre_kernel`` takes trimmed means of k between the rows and some landmarks, in fp64, and leaves
out landmarks that equal the row. ``moments_kernel`` reads each label once, for Σv, Σav and Σav² in
fp64.
"""

# The compiler reads this file, and wants some things said in its own way.
# ruff: noqa: PIE808, RUF005, RUF059
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"

from __future__ import annotations

import triton
import triton.language as tl

from .differences import PADDING, difference_tile, entry, gram
from .gram import CANCELLATION, FRAME, GROUP, LARGEST


@entry
def centre_kernel(
    centre, rates, d, x0, n, x_sn, x_sd, y0, m, y_sn, y_sd,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr,
    METRIC: tl.constexpr, TRIMMED: tl.constexpr, D: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.arange(0, BN)
    s = difference_tile(
        x0, rows, n, x_sn, x_sd, y0, cols, m, y_sn, y_sd, d, METRIC, D, False, tl.float64
    )
    others = (cols < m)[None, :] & ((s != 0.0) | (METRIC == "inner"))
    count = tl.sum(others.to(tl.int32), 1)
    trimmed = count // TRIMMED
    for c in tl.static_range(len(SHAPES)):
        k, slope = FUNCTIONS[c](s, tl.load(rates + c), SHAPES[c], OFFSETS[c])
        total = tl.sum(tl.where(others, k * 0.0, 0.0), 1)  # NaN where one is not finite
        k = tl.where(others, k, float("inf"))
        rank = tl.zeros([BM, BN], tl.int32)
        for j in range(0, m):
            other = tl.sum(tl.where(cols[None, :] == j, k, 0.0), 1)[:, None]
            rank += ((other < k) | ((other == k) & (cols > j)[None, :])).to(tl.int32)
        inside = others & (rank >= trimmed[:, None]) & (rank < (count - trimmed)[:, None])
        total += tl.sum(tl.where(inside, k, 0.0), 1)
        to = centre + c * n.to(tl.int64) + rows
        mean = total / tl.maximum(count - 2 * trimmed, 1)
        tl.store(to, mean, mask=rows < n)


@triton.jit
def _kept(rows, cols, n):
    return (cols[None, :] > rows[:, None]) & (cols < n)[None, :]


@triton.jit
def put_values(
    total, square, s, masked, left_out, rows, start, n, rate, factor, row_centre, centre,
    centre_page, panel, page, at, sums, sums_page,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr, SUMMED: tl.constexpr,
):  # fmt: skip
    """Writes the centred values of a tile and, if ``SUMMED``, the sums of its columns, and adds
    those of its rows, unless it is ``left_out``."""
    span = tl.arange(0, s.shape[1])
    totals = ()
    squares = ()
    for c in tl.static_range(len(SHAPES)):
        k, slope = FUNCTIONS[c](s, rate[c], SHAPES[c], OFFSETS[c])
        col_centre = tl.load(centre + c * centre_page + start + span).to(s.dtype)
        both = row_centre[c].to(s.dtype)[:, None] + col_centre[None, :]
        half = (k * factor[c] - both).to(tl.float32).to(tl.float16)
        if masked:
            half = tl.where(_kept(rows, start + span, n), half, 0.0)
        into = panel + c * page + at[:, None] + span[None, :]
        tl.store(into, half)  # [BM, BN]
        if SUMMED:
            rounded = half.to(tl.float32)
            tl.store(sums + c * sums_page, tl.sum(rounded, 0))
            row, of_squares = tl.sum(rounded, 1), tl.sum(rounded * rounded, 1)
            totals = totals + (total[c] + tl.where(left_out, 0.0, row).to(tl.float64),)
            squares = squares + (square[c] + tl.where(left_out, 0.0, of_squares).to(tl.float64),)
    if SUMMED:
        return totals, squares
    return total, square


@entry
def panel_kernel(
    panel, partial, sums, flags, centre, scale, rates, frame, d,
    first_row, rows_count, first_column, tiles, across, each, centre_stride,
    x0, x1, x_norm, x_most, n, x_sn, x_sd,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr,
    METRIC: tl.constexpr, GRAM: tl.constexpr, NEAR: tl.constexpr, WIDE: tl.constexpr,
    SUMMED: tl.constexpr,
    D: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = len(SHAPES)
    program = tl.program_id(0)
    tile = program % tiles
    group = program // tiles
    groups = tl.num_programs(0) // tiles
    first = group * each
    last = tl.minimum(first + each, across)
    lanes = tile * BM + tl.arange(0, BM)
    row = (first_row + tile) * BM
    rows = row + tl.arange(0, BM)
    span = tl.arange(0, BN)
    at = lanes * (across * BN)  # [BM]
    page = rows_count.to(tl.int64) * (across * BN)
    column_at = sums + tile.to(tl.int64) * (across * BN) + span
    column_page = tiles.to(tl.int64) * (across * BN)
    begin = tl.maximum(row // BN - first_column, 0)
    end = tl.cdiv(n, BN) - first_column
    for t in range(first, last):
        if (t < begin) | (t >= end):
            for c in tl.static_range(C):
                into = panel + c * page + t * BN + at[:, None] + span[None, :]
                tl.store(into, tl.zeros([BM, BN], tl.float16))
                if SUMMED:
                    tl.store(column_at + c * column_page + t * BN, tl.zeros([BN], tl.float32))
    if GRAM:
        limit = tl.load(frame)
        nearest = tl.load(frame + 1)
        row_norm = tl.load(x_norm + rows)
        reach = tl.max(tl.load(x_most + row // GROUP + tl.arange(0, BM // GROUP)), 0)
        row_at = tl.arange(0, BM)[:, None] * D + tl.arange(0, BK)[None, :]
        col_at = span[:, None] * D + tl.arange(0, BK)[None, :]
        a0 = x0 + row.to(tl.int64) * D
        a1 = x1 + row.to(tl.int64) * D
        row_hi, row_lo = tl.load(a0 + row_at), tl.load(a1 + row_at)
    centre_page = centre_stride.to(tl.int64) * PADDING
    rate = ()
    factor = ()
    row_centre = ()
    for c in tl.static_range(C):
        row_centre = row_centre + (tl.load(centre + c * centre_page + rows),)
        if GRAM:
            rate = rate + (tl.load(frame + FRAME + c),)
            factor = factor + (tl.load(scale + c) * tl.load(frame + FRAME + C + c),)
        else:
            rate = rate + (tl.load(rates + c),)
            factor = factor + (tl.load(scale + c),)
    total = (tl.zeros([BM], tl.float64),) * C
    square = (tl.zeros([BM], tl.float64),) * C
    nothing = tl.zeros([], tl.int64)
    word = 0
    for t in range(tl.maximum(first, begin), tl.minimum(last, end)):
        start = (first_column + t) * BN
        cols = start + span
        edge = (start < row + BM) | (start + BN > n)
        bad = False
        if GRAM:
            b0 = x0 + (nothing + start) * D
            b1 = x1 + (nothing + start) * D
            col_hi, col_lo = tl.load(b0 + col_at), tl.load(b1 + col_at)
            s = gram(a0, a1, row_at, b0, b1, col_at, row_hi, row_lo, col_hi, col_lo, D, BK)
            norms = tl.load(x_most + start // GROUP)
            if BN > GROUP:
                norms = tl.maximum(norms, tl.load(x_most + start // GROUP + 1))
            norms += reach
            bad = not (norms <= limit)
            if METRIC == "sqeuclidean":
                s = row_norm[:, None] + tl.load(x_norm + start + span)[None, :] - 2.0 * s
                if NEAR:
                    if edge:
                        closest = tl.min(tl.where(_kept(rows, cols, n), s, float("inf")), 1)
                    else:
                        closest = tl.min(s, 1)
                    bad = bad | (tl.min(closest, 0) < norms * CANCELLATION + nearest)
                else:
                    s = tl.maximum(s, 0.0)
            else:
                s = tl.minimum(
                    s, LARGEST
                )  # Triton 3.6 does not compile a product that branches take
            word = word | (tl.where(bad, 1, 0) << (t - first))
        else:
            dtype: tl.constexpr = tl.float64 if WIDE else tl.float32
            s = difference_tile(
                x0, rows, n, x_sn, x_sd, x0, cols, n, x_sn, x_sd, d, METRIC, D, False, dtype
            )
        total, square = put_values(
            total, square, s, edge, bad, rows, start, n, rate, factor, row_centre, centre,
            centre_page, panel + t * BN, page, at, column_at + t * BN, column_page,
            FUNCTIONS, SHAPES, OFFSETS, SUMMED,
        )  # fmt: skip
    if GRAM:
        tl.store(flags + program, word)
    if SUMMED:
        for c in tl.static_range(C):
            to = (c * groups + group).to(tl.int64) * (2 * rows_count) + lanes
            tl.store(partial + to, total[c])
            tl.store(partial + to + rows_count, square[c])


@entry
def moments_kernel(
    x, coefs, sums, n, columns, x_sn, x_sd, each, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    share = tl.program_id(0)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    component = tl.program_id(2).to(tl.int64)
    coefs += component * n
    count = tl.zeros([BM, BN], tl.int32)
    linear = tl.zeros([BM, BN], tl.float64)
    square = tl.zeros([BM, BN], tl.float64)
    for first in range(share * each, tl.minimum((share + 1) * each, n), BM):
        rows = first + tl.arange(0, BM)
        at = rows.to(tl.int64)[:, None] * x_sn + cols.to(tl.int64)[None, :] * x_sd  # [BM, BN]
        kept = (rows < n)[:, None] & (cols < columns)[None, :]
        label = tl.load(x + at, mask=kept, other=0).to(tl.int32)
        a = tl.load(coefs + rows, mask=rows < n, other=0.0)
        weighted = a[:, None] * label.to(tl.float64)
        count += label
        linear += weighted
        square += weighted * label.to(tl.float64)
    to = sums + (component * tl.num_programs(0) + share) * 3 * columns + cols
    held = cols < columns
    tl.store(to, tl.sum(count, 0).to(tl.float64), mask=held)
    tl.store(to + columns, tl.sum(linear, 0), mask=held)
    tl.store(to + 2 * columns, tl.sum(square, 0), mask=held)


@entry
def fold_kernel(
    panel, coefs, sums, chunks, rows_count, columns, coef_stride, sums_stride,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0).to(tl.int64)
    rows = tile * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    at = rows[:, None] * (columns * PADDING) + cols[None, :]  # [BM, BN]
    page = rows_count.to(tl.int64) * (columns * PADDING)
    products = tl.zeros([BM, BN], tl.float32)
    for chunk in range(0, chunks):
        products += tl.load(panel + chunk * page + at)
    label = tl.load(coefs + rows[:, None] * (coef_stride * PADDING) + cols[None, :])
    found = tl.sum((products * label.to(tl.float32)).to(tl.float64), 0)
    to = sums + tile * (sums_stride * PADDING) + cols
    tl.store(to, tl.load(to) + found)
