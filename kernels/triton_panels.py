"""The Triton kernels of label forms: panels of centred kernel values, and what labels make of them.

``panel_kernel`` writes Pᵢⱼ = fp16(scale·(kᵢⱼ − aᵢ − aⱼ)) for the pairs i < j of some rows and
columns, and 0 everywhere else: every pair has one rounded value, in one place. What it sums are
the rounded values. A tile is summed in fp32, where 128 numbers of 11 bits within a factor of 64
add up exactly, along its rows and along its columns; a program keeps one fp64 partial per row, of
the values and of their squares, and leaves one partial per column for each tile.

A panel is stored as chunks of columns, a chunk after the other: each is a matrix of its own,
multiplied with all labels by a library. ``fold_kernel`` adds up the products of some chunks and
multiplies with the labels of the rows; it adds to one fp64 partial per tile of rows and label
vector, whose only writer it is.
"""

# The compiler reads this file, and wants some things said in its own way.
# ruff: noqa: PIE808, RUF005, RUF059
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"

from __future__ import annotations

import triton.language as tl

from .triton_kernels import PADDING, entry, first_slice, metric_tile


@entry
def panel_kernel(
    panel, partial, sums, centre, scale, rates, scale_inverse, d,
    first_row, rows_count, first_column, tiles, chunk, chunks, each, centre_stride,
    x0, x1, x_norm, n, x_sn, x_sd,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr,
    METRIC: tl.constexpr, GRAM: tl.constexpr,
    D: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = len(SHAPES)
    program = tl.program_id(0)
    tile = program % tiles
    group = program // tiles
    groups = tl.num_programs(0) // tiles
    across = chunk * chunks
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
    at = lanes * (chunk * BN)  # [BM]
    page = rows_count.to(tl.int64) * (across * BN)
    column_at = sums + tile.to(tl.int64) * (across * BN) + span
    column_page = tiles.to(tl.int64) * (across * BN)
    begin = tl.maximum(first_row + tile * BM - first_column, 0) // BN
    end = tl.cdiv(n - first_column, BN)
    for t in range(first, last):
        if (t < begin) | (t >= end):
            to = panel + (t // chunk).to(tl.int64) * (rows_count * chunk * BN) + t % chunk * BN
            for c in tl.static_range(C):
                into = to + c * page + at[:, None] + span[None, :]
                tl.store(into, tl.zeros([BM, BN], tl.float16))
                tl.store(column_at + c * column_page + t * BN, tl.zeros([BN], tl.float32))
    total = (tl.zeros([BM], tl.float64),) * C
    square = (tl.zeros([BM], tl.float64),) * C
    for t in range(tl.maximum(first, begin), tl.minimum(last, end)):
        cols = first_column + t * BN + span
        col_hi, col_lo = first_slice(x0, x1, cols, GRAM, D, BK)
        s = metric_tile(
            x0, x1, row_norm, rows, n, x_sn, x_sd,
            x0, x1, x_norm, cols, n, x_sn, x_sd,
            row_hi, row_lo, col_hi, col_lo, inverse, d, METRIC, GRAM, D, BK, False,
        )  # fmt: skip
        kept = (cols[None, :] > rows[:, None]) & (cols < n)[None, :]
        to = panel + (t // chunk).to(tl.int64) * (rows_count * chunk * BN) + t % chunk * BN
        totals = ()
        squares = ()
        for c in tl.static_range(C):
            k, slope = FUNCTIONS[c](s, tl.load(rates + c), SHAPES[c], OFFSETS[c])
            middle = centre + c * centre_stride.to(tl.int64) * PADDING
            k -= tl.load(middle + rows)[:, None] + tl.load(middle + cols)[None, :]
            half = tl.where(kept, k * tl.load(scale + c), 0.0).to(tl.float16)
            tl.store(to + c * page + at[:, None] + span[None, :], half)  # [BM, BN]
            rounded = half.to(tl.float32)  # [BM, BN]
            tl.store(column_at + c * column_page + t * BN, tl.sum(rounded, 0))
            totals = totals + (total[c] + tl.sum(rounded, 1).to(tl.float64),)
            squares = squares + (square[c] + tl.sum(rounded * rounded, 1).to(tl.float64),)
        total = totals
        square = squares
    for c in tl.static_range(C):
        to = (c * groups + group).to(tl.int64) * (2 * rows_count) + lanes
        tl.store(partial + to, total[c])
        tl.store(partial + to + rows_count, square[c])


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
