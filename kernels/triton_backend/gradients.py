"""The Triton kernels of the difference form: gradients and potentials; and the sums of partials.

``gradient_kernel`` lets a tile of rows meet all columns of one sample (or its share of them) and
accumulates Gᵢ = Σⱼ Wᵢⱼ(xᵢ − xⱼ), Wᵢⱼ = wⱼ Σ_c a_c slope_c(sᵢⱼ), or stores W (``PANEL``) for
``finish_kernel`` where there are too many coordinates to accumulate in registers.

*Lanes* number the rows of a launch: those of x, then those of y. *Slots* number the partials of a
row: the programs that share its columns, those on x before those on y.
"""

# The compiler reads this file, and wants some things said in its own way.
# ruff: noqa: PIE808, RUF005, SIM102
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"

from __future__ import annotations

import triton
import triton.language as tl

from .differences import (
    PADDING,
    by_column,
    by_row,
    column_of,
    difference_tile,
    entry,
    program_of,
    weight_of,
)


@triton.jit
def _weighted_column(weight, a, b, METRIC: tl.constexpr, TURNED: tl.constexpr):
    COLUMNS: tl.constexpr = 0 if TURNED else 1
    if METRIC == "inner":
        return tl.sum(weight * by_column(b, TURNED), COLUMNS)
    difference = by_row(a, TURNED) - by_column(b, TURNED)
    if METRIC == "l1":
        sign = tl.where(difference > 0.0, 1.0, tl.where(difference < 0.0, -1.0, 0.0))
        return tl.sum(weight * sign, COLUMNS)
    return tl.sum(weight * difference, COLUMNS)


@triton.jit
def _add_weighted_columns(
    gradient, weight, a0, rows, n, a_sn, a_sd, b0, cols, m, b_sn, b_sd, first, d,
    METRIC: tl.constexpr,
):  # fmt: skip
    span = tl.arange(0, gradient.shape[1])
    for k in range(0, tl.minimum(d - first, gradient.shape[1])):
        p = column_of(a0, rows, n, a_sn, a_sd, first + k)
        q = column_of(b0, cols, m, b_sn, b_sd, first + k)
        column = _weighted_column(weight, p, q, METRIC, False)
        gradient += tl.where(span[None, :] == k, column[:, None], 0.0)
    return gradient  # [BM, BD]


@entry
def gradient_kernel(
    partial, potential, sums, panel, rates, rate_stride, coefs, coef_stride, d,
    programs, programs_xx, programs_xy, programs_yx, first_x, tiles_x, first_y, tiles_y,
    splits_xx, splits_xy, splits_yx, splits_yy, sums_stride, panel_stride, panel_y, slots,
    x0, wx, n, x_sb, x_sn, x_sd, wx_sb, wx_sn,
    y0, wy, m, y_sb, y_sn, y_sd, wy_sb, wy_sn,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr,
    METRIC: tl.constexpr, WEIGHTED: tl.constexpr,
    GRADIENT: tl.constexpr, PANEL: tl.constexpr, POTENTIAL: tl.constexpr, SUMS: tl.constexpr,
    BLOCKS: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = len(SHAPES)
    program, batch = program_of(programs)
    x0 += batch * x_sb
    y0 += batch * y_sb
    wx += batch * wx_sb
    wy += batch * wy_sb
    of_x = program < programs_xx + programs_xy
    on_x = (program < programs_xx) | (
        (program >= programs_xx + programs_xy) & (program < programs_xx + programs_xy + programs_yx)
    )
    a0, aw, rows_n, a_sn, a_sd, aw_sn = x0, wx, n, x_sn, x_sd, wx_sn
    b0, bw, cols_n, b_sn, b_sd, bw_sn = x0, wx, n, x_sn, x_sd, wx_sn
    if not of_x:
        a0, aw, rows_n, a_sn, a_sd, aw_sn = y0, wy, m, y_sn, y_sd, wy_sn
    if not on_x:
        b0, bw, cols_n, b_sn, b_sd, bw_sn = y0, wy, m, y_sn, y_sd, wy_sn
    same = of_x == on_x
    local = program
    splits = splits_xx
    slot = 0
    if of_x and not on_x:
        local -= programs_xx
        splits = splits_xy
        slot = splits_xx
    elif on_x and not of_x:
        local -= programs_xx + programs_xy
        splits = splits_yx
    elif not of_x:
        local -= programs_xx + programs_xy + programs_yx
        splits = splits_yy
        slot = splits_yx
    split = local % splits
    slot += split
    tile = local // splits + tl.where(of_x, first_x, first_y)
    across = tl.cdiv(cols_n, BN)
    each = tl.cdiv(across, splits)
    coef = coefs + batch * coef_stride
    if BLOCKS == "all":
        coef += tl.where(same, tl.where(of_x, 0, 1), 2) * C
    twice = tl.where(same, 2.0, 1.0)

    rows = tile * BM + tl.arange(0, BM)
    self_rows = tl.where(same, rows, -1)
    row_weight = weight_of(aw, rows, rows_n, aw_sn, WEIGHTED).to(tl.float64)
    lane = (tile - tl.where(of_x, first_x, first_y - tiles_x)) * BM
    lanes = lane.to(tl.int64) + tl.arange(0, BM)  # [BM]
    if PANEL:
        into = batch * (tiles_x + tiles_y) * BM + lanes[:, None]
        into = panel + into * (panel_stride * PADDING) + tl.where(on_x, 0, panel_y) * PADDING

    FUSED: tl.constexpr = GRADIENT and not PANEL
    TURNED: tl.constexpr = not PANEL
    COLUMNS: tl.constexpr = 0 if TURNED else 1  # the axis that they lie along
    total = (tl.zeros([BM], tl.float64),) * C
    weighted = tl.zeros([BM], tl.float64)
    if FUSED:
        gradient = (tl.zeros([BM], tl.float64),) * D
    for t in range(split * each, tl.minimum((split + 1) * each, across)):
        cols = t * BN + tl.arange(0, BN)
        s = difference_tile(
            a0, rows, rows_n, a_sn, a_sd, b0, cols, cols_n, b_sn, b_sd, d, METRIC, D, TURNED
        )
        weight = by_column(weight_of(bw, cols, cols_n, bw_sn, WEIGHTED), TURNED)
        weight = tl.where(by_row(self_rows, TURNED) == by_column(cols, TURNED), 0.0, weight)
        slopes = tl.zeros_like(s)
        values = tl.zeros_like(s)
        grown = ()
        for c in tl.static_range(C):
            rate = tl.load(rates + batch * rate_stride + c)
            k, slope = FUNCTIONS[c](s, rate, SHAPES[c], OFFSETS[c])
            a = tl.load(coef + c) * twice
            if GRADIENT:
                slopes += slope * a
            if POTENTIAL:
                values += k * a
            if SUMS:
                grown = grown + (
                    total[c] + tl.sum(k * weight, COLUMNS).to(tl.float64) * row_weight,
                )
        if SUMS:
            total = grown
        if POTENTIAL:
            weighted += tl.sum(values * weight, COLUMNS).to(tl.float64)
        slopes *= weight  # [BM, BN]
        if PANEL:
            tl.store(into + cols[None, :], slopes)
        elif FUSED:
            moved = ()
            for k in tl.static_range(D):
                p = column_of(a0, rows, rows_n, a_sn, a_sd, k)
                q = column_of(b0, cols, cols_n, b_sn, b_sd, k)
                found = _weighted_column(slopes, p, q, METRIC, TURNED)
                moved = moved + (gradient[k] + found.to(tl.float64),)
            gradient = moved

    lanes += (batch * slots + slot) * ((tiles_x + tiles_y) * BM)
    if POTENTIAL:
        tl.store(potential + lanes, weighted)
    if SUMS:
        at = batch * sums_stride + program.to(tl.int64) * (C * BM) + tl.arange(0, BM)
        for c in tl.static_range(C):
            tl.store(sums + at + c * BM, total[c])
    if FUSED:
        for k in tl.static_range(D):
            tl.store(partial + lanes * D + k, gradient[k].to(tl.float32))


@triton.jit
def _finish_sums(
    sums, out, adds, which, start, count, width, C: tl.constexpr, BE: tl.constexpr
):  # fmt: skip
    total = tl.zeros([BE], tl.float64)
    for first in range(0, count * width, BE):
        element = first + tl.arange(0, BE)
        at = start + (element // width * C + which % C) * width + element % width
        total += tl.load(sums + at, mask=element < count * width, other=0.0)
    before = tl.load(out, mask=adds != 0, other=0.0)
    tl.store(out, before + tl.sum(total, 0))


@entry
def finish_kernel(
    programs, sums, out, adds, sums_stride,
    start_xx, start_yy, start_xy, count_xx, count_yy, count_xy, width_xx, width_yy, width_xy,
    partial, potential, panel, scale, d, first_x, rows_x, first_y, rows_y,
    slots, slots_x, slots_y, panel_stride, panel_y,
    grad_x, grad_y, grad_wx, grad_wy,
    x0, wx, n, x_sb, x_sn, x_sd, wx_sb, wx_sn,
    y0, wy, m, y_sb, y_sn, y_sd, wy_sb, wy_sn,
    METRIC: tl.constexpr, SCALED: tl.constexpr, WEIGHTED: tl.constexpr, BLOCKS: tl.constexpr,
    C: tl.constexpr, SUMS: tl.constexpr, GRADIENT_X: tl.constexpr, GRADIENT_Y: tl.constexpr,
    PANEL: tl.constexpr, POTENTIAL_X: tl.constexpr, POTENTIAL_Y: tl.constexpr,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    program, batch = program_of(programs)
    SUM_PROGRAMS: tl.constexpr = (3 if BLOCKS == "all" else 1) * C if SUMS else 0
    if program < SUM_PROGRAMS:
        block = program // C
        start, count, width = start_xx, count_xx, width_xx
        if block == 1:
            start, count, width = start_yy, count_yy, width_yy
        elif block == 2:
            start, count, width = start_xy, count_xy, width_xy
        at = out + batch * SUM_PROGRAMS + program
        _finish_sums(
            sums + batch * sums_stride, at, adds, program, start, count, width, C, BE
        )  # fmt: skip
    else:
        chunks = tl.cdiv(d, BD)
        tile = (program - SUM_PROGRAMS) // chunks
        first_d = (program - SUM_PROGRAMS) % chunks * BD
        of_x = tile * BM < rows_x
        x0 += batch * x_sb
        y0 += batch * y_sb
        wx += batch * wx_sb
        wy += batch * wy_sb
        a0, aw, rows_n, a_sn, a_sd, aw_sn = x0, wx, n, x_sn, x_sd, wx_sn
        gradient_out, potential_out, used, first = grad_x, grad_wx, slots_x, first_x
        if not of_x:
            a0, aw, rows_n, a_sn, a_sd, aw_sn = y0, wy, m, y_sn, y_sd, wy_sn
            gradient_out, potential_out, used, first = grad_y, grad_wy, slots_y, first_y - rows_x
        lanes = tile.to(tl.int64) * BM + tl.arange(0, BM)
        rows = (first + lanes).to(tl.int32)
        lane_count = rows_x + rows_y
        if (of_x and POTENTIAL_X) or (not of_x and POTENTIAL_Y):
            if first_d == 0:
                found = tl.zeros([BM], tl.float64)
                for slot in range(0, used):
                    found += tl.load(potential + (batch * slots + slot) * lane_count + lanes)
                at = potential_out + batch * rows_n + rows
                tl.store(at, found.to(tl.float32), mask=rows < rows_n)
        if (of_x and GRADIENT_X) or (not of_x and GRADIENT_Y):
            factor = weight_of(aw, rows, rows_n, aw_sn, WEIGHTED)
            if SCALED:
                factor *= tl.load(scale + batch)
            to = gradient_out + (batch * rows_n + rows) * d + first_d
            span = tl.arange(0, BD)
            kept = (rows < rows_n)[:, None] & (first_d + span < d)[None, :]
            gradient = tl.zeros([BM, BD], tl.float32)
            if PANEL:
                tiles_x = tl.cdiv(n, BN)
                tiles_y = tl.cdiv(m, BN)
                if BLOCKS == "xx":
                    tiles_y = 0
                elif BLOCKS == "xy":
                    tiles_x = tl.where(of_x, 0, tiles_x)
                    tiles_y = tl.where(of_x, tiles_y, 0)
                at = panel + (batch * lane_count + lanes) * (panel_stride * PADDING)
                for t in range(0, tiles_x + tiles_y):
                    b0, cols_n, b_sn, b_sd = x0, n, x_sn, x_sd
                    first_col, shift = t * BN, 0
                    if t >= tiles_x:
                        b0, cols_n, b_sn, b_sd = y0, m, y_sn, y_sd
                        first_col, shift = (t - tiles_x) * BN, panel_y * PADDING
                    cols = first_col + tl.arange(0, BN)
                    weight = tl.load(at[:, None] + (shift + cols)[None, :])  # [BM, BN]
                    gradient = _add_weighted_columns(
                        gradient, weight, a0, rows, rows_n, a_sn, a_sd,
                        b0, cols, cols_n, b_sn, b_sd, first_d, d, METRIC,
                    )  # fmt: skip
            else:
                for slot in range(0, used):
                    at = ((batch * slots + slot) * lane_count + lanes) * D + first_d
                    gradient += tl.load(
                        partial + at[:, None] + span[None, :],
                        mask=(first_d + span < D)[None, :],
                        other=0.0,
                    )
            tl.store(to[:, None] + span[None, :], gradient * factor[:, None], mask=kept)
