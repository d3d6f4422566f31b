"""The Triton kernels that form again, by differences of the rows as given, what the kernels of the
Gram form left out (see ``gram``): the same programs, each of which adds to the partials that
it wrote there. Where nothing was flagged a program reads its flags and ends. Panels of label forms
are formed again in fp64: what centring takes out of a far row is all but a few digits of it.
"""

# The compiler reads this file, and wants some things said in its own way.
# ruff: noqa: PIE808, RUF005, RUF059
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"

from __future__ import annotations

import triton
import triton.language as tl

from .differences import PADDING, column_of, difference_tile, entry, in_pair, program_of
from .gram import FRAME, add_values, evaluate, gradient_pair, value_block, value_unit
from .panels import put_values

COORDINATES = tl.constexpr(16)  # whose gradients are accumulated at a time


@triton.jit
def _metric(
    a, rows, n, a_sn, a_sd, b, cols, m, b_sn, b_sd, d, scale, METRIC: tl.constexpr
):  # fmt: skip
    s = tl.zeros([rows.shape[0], cols.shape[0]], tl.float32)
    for k in range(0, d):
        u = column_of(a, rows, n, a_sn, a_sd, k)[:, None]
        v = column_of(b, cols, m, b_sn, b_sd, k)[None, :]
        if METRIC == "inner":
            s += (u * scale) * (v * scale)
        else:
            difference = (u - v) * scale
            s += difference * difference
    return s + s * 0.0  # [BM, BN]: what overflows is NaN


@entry
def redo_value_kernel(
    sums, flags, frame, programs, programs_xx, programs_yy, chunk, sums_stride, flags_stride,
    flags_yy, flags_xy, d,
    x, n, x_sb, x_sn, x_sd, x_weight, padded_x, y, m, y_sb, y_sn, y_sd, y_weight, padded_y,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr, POWERS: tl.constexpr,
    METRIC: tl.constexpr, WEIGHTED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = len(SHAPES)
    PER: tl.constexpr = BM // BN
    program, batch = program_of(programs)
    on_x, triangle, first, step = value_block(program, programs, programs_xx, programs_yy)
    flags += batch * flags_stride + tl.where(on_x, 0, tl.where(triangle, flags_yy, flags_xy))
    x += batch * x_sb
    y += batch * y_sb
    x_weight += batch * padded_x * PADDING
    y_weight += batch * padded_y * PADDING
    a, a_weight, rows_n, a_sn, a_sd = x, x_weight, n, x_sn, x_sd
    b, b_weight, cols_n, b_sn, b_sd = y, y_weight, m, y_sn, y_sd
    if on_x:
        b, b_weight, cols_n, b_sn, b_sd = x, x_weight, n, x_sn, x_sd
    elif triangle:
        a, a_weight, rows_n, a_sn, a_sd = y, y_weight, m, y_sn, y_sd
    tiles = tl.cdiv(rows_n, BM)
    width = tl.cdiv(cols_n, BM)
    wrap = 2147483647
    if triangle:
        wrap = width * PER
        width = tiles // 2 + 1
    frame += batch * (FRAME + 2 * C)
    scale = tl.load(frame + 2)
    numbers = ()
    for c in tl.static_range(C):
        numbers = numbers + (tl.load(frame + FRAME + c),)
    at = batch * sums_stride + program.to(tl.int64) * (C * BM) + tl.arange(0, BM)
    units = tl.cdiv(width, chunk).to(tl.int64) * tiles
    for unit in range(first.to(tl.int64), units, step.to(tl.int64)):
        if tl.load(flags + unit) != 0:
            i, start, stop = value_unit(unit, tiles, width, chunk, triangle)
            rows = i * BM + tl.arange(0, BM)
            part = (tl.zeros([BM], tl.float64),) * C
            base = tl.where(triangle, i * PER, 0)
            for t in range(start * PER, stop * PER):
                j = base + t
                j = tl.where(j >= wrap, j - wrap, j)
                cols = j * BN + tl.arange(0, BN)
                s = _metric(
                    a, rows, rows_n, a_sn, a_sd, b, cols, cols_n, b_sn, b_sd, d, scale, METRIC
                )
                above = tl.where(triangle & (t < PER), rows, -1)
                kept = (cols[None, :] > above[:, None]) & (cols < cols_n)[None, :]
                weight = 0.0
                if WEIGHTED:
                    weight = tl.load(b_weight + cols, mask=cols < cols_n, other=0.0)
                part = add_values(part, s, kept, weight, numbers, FUNCTIONS, SHAPES, OFFSETS,
                                  POWERS, True, WEIGHTED)  # fmt: skip
            row_weight = (rows < rows_n).to(tl.float64)
            if WEIGHTED:
                row_weight = tl.load(a_weight + rows).to(tl.float64)
            row_weight *= tl.where(triangle, 2.0, 1.0)
            for c in tl.static_range(C):
                rate, wide, place = in_pair(numbers, c, POWERS[c])
                gain = tl.load(frame + FRAME + C + place)
                to = sums + at + place * BM
                tl.store(to, tl.load(to) + part[c] * row_weight * gain)


@triton.jit
def _add_weighted(
    gradient, weight, a, rows, n, a_sn, a_sd, b, cols, m, b_sn, b_sd, first, d, scale,
    METRIC: tl.constexpr,
):  # fmt: skip
    span = tl.arange(0, gradient.shape[1])
    for k in range(0, tl.minimum(d - first, gradient.shape[1])):
        v = column_of(b, cols, m, b_sn, b_sd, first + k)[None, :]
        if METRIC == "inner":
            moved = v
        else:
            moved = column_of(a, rows, n, a_sn, a_sd, first + k)[:, None] - v
        found = tl.sum(weight * (moved * scale), 1)
        gradient += tl.where(span[None, :] == k, found[:, None], 0.0)
    return gradient  # [BM, COORDINATES]


@entry
def redo_gradient_kernel(
    partial, potential, sums, flags, frame, coefs, coef_stride, programs, d,
    first_x, tiles_x, first_y, tiles_y, splits_x, splits_y, sums_stride, flags_stride, words, slots,
    x, n, x_sb, x_sn, x_sd, x_weight, padded_x, y, m, y_sb, y_sn, y_sd, y_weight, padded_y,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr, METRIC: tl.constexpr,
    WEIGHTED: tl.constexpr, GRADIENT: tl.constexpr, PANEL: tl.constexpr, POTENTIAL: tl.constexpr,
    SUMS: tl.constexpr, BLOCKS: tl.constexpr, D: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """``TILE``: columns of a tile of the kernel that left it out."""
    C: tl.constexpr = len(SHAPES)
    program, batch = program_of(programs)
    of_x, on_x, local, _, _, _ = gradient_pair(program, tiles_x, tiles_y, 1, 1, BLOCKS)
    splits = tl.where(on_x, splits_x, splits_y)
    # The first program that met these rows and columns there, and its slot.
    xx = tl.where(BLOCKS == "xy", 0, tiles_x * splits_x)
    xy = tl.where(BLOCKS == "xx", 0, tiles_x * splits_y)
    origin = tl.where(of_x, tl.where(on_x, 0, xx), xx + xy)
    origin += tl.where(of_x | on_x, 0, tiles_y * splits_x) + local * splits
    slot = tl.where(on_x | (BLOCKS == "xy"), 0, splits_x)
    if PANEL:
        slot = tl.where(on_x, 0, 1)
    flags += batch * flags_stride + origin.to(tl.int64) * words
    count = splits * words
    found = 0
    for at in range(0, count):
        found |= tl.load(flags + at)
    if found != 0:
        x += batch * x_sb
        y += batch * y_sb
        x_weight += batch * padded_x * PADDING
        y_weight += batch * padded_y * PADDING
        a, a_weight, rows_n, a_sn, a_sd = x, x_weight, n, x_sn, x_sd
        b, b_weight, cols_n, b_sn, b_sd = x, x_weight, n, x_sn, x_sd
        if not of_x:
            a, a_weight, rows_n, a_sn, a_sd = y, y_weight, m, y_sn, y_sd
        if not on_x:
            b, b_weight, cols_n, b_sn, b_sd = y, y_weight, m, y_sn, y_sd
        same = of_x == on_x
        tile = local + tl.where(of_x, first_x, first_y)
        across = tl.cdiv(cols_n, TILE)
        each = tl.cdiv(across, splits)
        coefs += batch * coef_stride
        if BLOCKS == "all":
            coefs += tl.where(same, tl.where(of_x, 0, 1), 2) * C
        frame += batch * (FRAME + 2 * C)
        scale = tl.load(frame + 2)
        numbers = ()
        factors = ()
        for c in tl.static_range(C):
            numbers = numbers + (tl.load(frame + FRAME + c),)
            gain = tl.load(frame + FRAME + C + c) * tl.where(same, 2.0, 1.0)
            factors = factors + (tl.load(coefs + c) * gain,)
        rows = tile * BM + tl.arange(0, BM)
        lanes = (local + tl.where(of_x, 0, tiles_x)).to(tl.int64) * BM + tl.arange(0, BM)
        all_lanes = (tiles_x + tiles_y).to(tl.int64) * BM
        row_weight = (rows < rows_n).to(tl.float64)
        if WEIGHTED:
            row_weight = tl.load(a_weight + rows).to(tl.float64)
        for first_d in range(0, d, COORDINATES):
            total = (tl.zeros([BM], tl.float64),) * C
            weighted = tl.zeros([BM], tl.float64)
            gradient = tl.zeros([BM, COORDINATES], tl.float32)
            for at in range(0, count * 32):
                if (tl.load(flags + at // 32) >> (at % 32)) & 1:
                    t = at // 32 // words * each + at // 32 % words * 32 + at % 32
                    for part in range(0, TILE // BN):
                        cols = t * TILE + part * BN + tl.arange(0, BN)
                        s = _metric(
                            a, rows, rows_n, a_sn, a_sd, b, cols, cols_n, b_sn, b_sd, d, scale,
                            METRIC,
                        )  # fmt: skip
                        kept = (cols < cols_n)[None, :] & ~(same & (rows[:, None] == cols[None, :]))
                        weight = 0.0
                        if WEIGHTED:
                            weight = tl.load(b_weight + cols, mask=cols < cols_n, other=0.0)
                        slopes, values, across_row = evaluate(
                            s, kept, weight, numbers, factors, FUNCTIONS, SHAPES, OFFSETS,
                            SUMS, True, WEIGHTED, False,
                        )  # fmt: skip
                        if SUMS:
                            grown = ()
                            for c in tl.static_range(C):
                                grown = grown + (total[c] + values[c].to(tl.float64),)
                            total = grown
                        weighted += across_row.to(tl.float64)
                        if GRADIENT:
                            gradient = _add_weighted(
                                gradient, slopes, a, rows, rows_n, a_sn, a_sd,
                                b, cols, cols_n, b_sn, b_sd, first_d, d, scale, METRIC,
                            )  # fmt: skip
            if first_d == 0:
                if SUMS:
                    for c in tl.static_range(C):
                        gain = tl.load(frame + FRAME + C + c)
                        to = origin.to(tl.int64) * (C * BM) + c * BM + tl.arange(0, BM)
                        to += sums + batch * sums_stride
                        tl.store(to, tl.load(to) + total[c] * row_weight * gain)
                if POTENTIAL:
                    to = potential + (batch * slots + slot) * all_lanes + lanes
                    tl.store(to, tl.load(to) + weighted)
            if GRADIENT:
                span = first_d + tl.arange(0, COORDINATES)
                slot_count = slots
                if PANEL:
                    slot_count = 2
                to = ((batch * slot_count + slot) * all_lanes + lanes)[:, None] * D + span[None, :]
                tl.store(partial + to, tl.load(partial + to) + gradient)


@entry
def redo_panel_kernel(
    panel, partial, sums, flags, centre, scale, frame, d,
    first_row, rows_count, first_column, tiles, across, each, centre_stride,
    x, n, x_sn, x_sd,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr, METRIC: tl.constexpr,
    SUMMED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """``TILE``: columns of a tile of the kernel that left it out."""
    C: tl.constexpr = len(SHAPES)
    program = tl.program_id(0)
    word = tl.load(flags + program)
    if word != 0:
        tile = program % tiles
        group = program // tiles
        groups = tl.num_programs(0) // tiles
        lanes = tile * BM + tl.arange(0, BM)
        rows = first_row * BM + lanes
        width = across * TILE
        page = rows_count.to(tl.int64) * width
        sums += tile.to(tl.int64) * width
        sums_page = tiles.to(tl.int64) * width
        centre_page = centre_stride.to(tl.int64) * PADDING
        power = tl.load(frame + 2).to(tl.float64)
        rate = ()
        factor = ()
        row_centre = ()
        for c in tl.static_range(C):
            rate = rate + (tl.load(frame + FRAME + c),)
            factor = factor + (tl.load(scale + c) * tl.load(frame + FRAME + C + c),)
            row_centre = row_centre + (tl.load(centre + c * centre_page + rows),)
        total = (tl.zeros([BM], tl.float64),) * C
        square = (tl.zeros([BM], tl.float64),) * C
        for at in range(0, 32 * (TILE // BN)):
            bit = at // (TILE // BN)
            if (word >> bit) & 1:
                column = group * each * TILE + at * BN
                start = first_column * TILE + column
                cols = start + tl.arange(0, BN)
                s = difference_tile(
                    x, rows, n, x_sn, x_sd, x, cols, n, x_sn, x_sd, d, METRIC, 0, False, tl.float64
                )
                total, square = put_values(
                    total, square, s * (power * power), True, False, rows, start, n, rate, factor,
                    row_centre, centre, centre_page, panel + column, page, lanes * width,
                    sums + column + tl.arange(0, BN), sums_page, FUNCTIONS, SHAPES, OFFSETS, SUMMED,
                )  # fmt: skip
        if SUMMED:
            for c in tl.static_range(C):
                to = (c * groups + group).to(tl.int64) * (2 * rows_count) + lanes
                tl.store(partial + to, tl.load(partial + to) + total[c])
                to += rows_count
                tl.store(partial + to, tl.load(partial + to) + square[c])
