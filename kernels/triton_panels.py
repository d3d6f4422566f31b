"""The Triton kernels of label forms: centres, panels of centred kernel values, and what labels make
of them.

``panel_kernel`` writes Pᵢⱼ = fp16(scale·(kᵢⱼ − aᵢ − aⱼ)) for the pairs i < j of some rows and
columns, and 0 everywhere else: every pair has one rounded value, in one place. (The a come scaled
by the same power of two, which makes that one rounding.) Only tiles on the diagonal and the last
ones are masked. What it sums, if asked to, are the rounded values. A tile is summed in fp32, where
128 numbers of 11 bits within a factor of 64 add up exactly, along its rows and along its columns;
a program keeps one fp64 partial per row, of the values and of their squares, and leaves one partial
per column for each tile.

``fold_kernel`` adds up the products of some chunks of columns and multiplies with the labels of the
rows; it adds to one fp64 partial per tile of rows and label vector, whose only writer it is.

``centre_kernel`` takes the means of k between the rows and some landmarks, of which it leaves out
those that equal the row. ``moments_kernel`` reads each label once, for Σv, Σav and Σav² in fp64.
"""

# The compiler reads this file, and wants some things said in its own way.
# ruff: noqa: PIE808, RUF005, RUF059
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"

from __future__ import annotations

import triton.language as tl

from .triton_kernels import PADDING, entry, first_slice, metric_tile


@entry
def centre_kernel(
    centre, rates, d, x0, n, x_sn, x_sd, y0, m, y_sn, y_sd,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr,
    METRIC: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = len(SHAPES)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    total = (tl.zeros([BM], tl.float32),) * C
    count = tl.zeros([BM], tl.float32)
    for first in range(0, m, BN):
        cols = first + tl.arange(0, BN)
        s = metric_tile(
            x0, x0, x0, rows, n, x_sn, x_sd, y0, y0, y0, cols, m, y_sn, y_sd,
            0, 0, 0, 0, 1.0, d, METRIC, False, D, 1, False,
        )  # fmt: skip
        others = (cols < m)[None, :] & ((s != 0.0) | (METRIC == "inner"))
        count += tl.sum(others.to(tl.float32), 1)
        totals = ()
        for c in tl.static_range(C):
            k, slope = FUNCTIONS[c](s, tl.load(rates + c), SHAPES[c], OFFSETS[c])
            totals = totals + (total[c] + tl.sum(tl.where(others, k, 0.0), 1),)
        total = totals
    for c in tl.static_range(C):
        to = centre + c * n.to(tl.int64) + rows
        tl.store(to, total[c] / tl.maximum(count, 1.0), mask=rows < n)


@entry
def panel_kernel(
    panel, partial, sums, centre, scale, rates, scale_inverse, d,
    first_row, rows_count, first_column, tiles, across, each, centre_stride,
    x0, x1, x_norm, n, x_sn, x_sd,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr,
    METRIC: tl.constexpr, GRAM: tl.constexpr, SUMMED: tl.constexpr,
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
    rows = first_row + lanes
    inverse = 1.0
    row_norm = rows.to(tl.float32)
    if GRAM:
        inverse = tl.load(scale_inverse)
        inverse = inverse * inverse
        row_norm = tl.load(x_norm + rows)
    row_hi, row_lo = first_slice(x0, x1, rows, GRAM, D, BK)
    span = tl.arange(0, BN)
    at = lanes * (across * BN)  # [BM]
    page = rows_count.to(tl.int64) * (across * BN)
    column_at = sums + tile.to(tl.int64) * (across * BN) + span
    column_page = tiles.to(tl.int64) * (across * BN)
    begin = tl.maximum(first_row + tile * BM - first_column, 0) // BN
    end = tl.cdiv(n - first_column, BN)
    for t in range(first, last):
        if (t < begin) | (t >= end):
            for c in tl.static_range(C):
                into = panel + c * page + t * BN + at[:, None] + span[None, :]
                tl.store(into, tl.zeros([BM, BN], tl.float16))
                if SUMMED:
                    tl.store(column_at + c * column_page + t * BN, tl.zeros([BN], tl.float32))
    rate = ()
    factor = ()
    row_centre = ()
    for c in tl.static_range(C):
        rate = rate + (tl.load(rates + c),)
        factor = factor + (tl.load(scale + c),)
        middle = centre + c * centre_stride.to(tl.int64) * PADDING
        row_centre = row_centre + (tl.load(middle + rows),)
    total = (tl.zeros([BM], tl.float64),) * C
    square = (tl.zeros([BM], tl.float64),) * C
    for t in range(tl.maximum(first, begin), tl.minimum(last, end)):
        start = first_column + t * BN
        cols = start + span
        col_hi, col_lo = first_slice(x0, x1, cols, GRAM, D, BK)
        s = metric_tile(
            x0, x1, row_norm, rows, n, x_sn, x_sd,
            x0, x1, x_norm, cols, n, x_sn, x_sd,
            row_hi, row_lo, col_hi, col_lo, inverse, d, METRIC, GRAM, D, BK, False,
        )  # fmt: skip
        edge = (start < first_row + (tile + 1) * BM) | (start + BN > n)
        totals = ()
        squares = ()
        for c in tl.static_range(C):
            k, slope = FUNCTIONS[c](s, rate[c], SHAPES[c], OFFSETS[c])
            middle = centre + c * centre_stride.to(tl.int64) * PADDING
            both = row_centre[c][:, None] + tl.load(middle + cols)[None, :]
            half = (k * factor[c] - both).to(tl.float16)
            if edge:
                half = tl.where((cols[None, :] > rows[:, None]) & (cols < n)[None, :], half, 0.0)
            tl.store(panel + c * page + t * BN + at[:, None] + span[None, :], half)  # [BM, BN]
            if SUMMED:
                rounded = half.to(tl.float32)
                tl.store(column_at + c * column_page + t * BN, tl.sum(rounded, 0))
                totals = totals + (total[c] + tl.sum(rounded, 1).to(tl.float64),)
                squares = squares + (square[c] + tl.sum(rounded * rounded, 1).to(tl.float64),)
        if SUMMED:
            total = totals
            square = squares
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
