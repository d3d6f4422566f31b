"""The Triton kernels. A *sample* is (data, weights, count); a pair of samples is a *block*.

Two forms of the metric. *Difference*: Σ(x−y)², Σ|x−y| or Σxy over the raw coordinates, for few
coordinates, small problems and L1. *Gram*: the rows are centred and scaled by a power of two to
max|u| in [2¹³, 2¹⁴) and split u = hi + lo in fp16 (``split_kernel``; at this scale lo needs no
factor of its own: |u − hi − lo| ≤ max(2⁻²³|u|, 2⁻²⁵)). u·v = hi·hi + (hi·lo + lo·hi), the cross
products apart so that it is symmetric; norms are the diagonal of the same products
(``norm_kernel``), so that identical rows are exactly 0 apart.

``value_kernel`` visits one triangle of xx and yy. Tile row I meets the columns I, I+1, …, I+T/2
modulo the T tiles of a row: every unordered pair of tiles once (for even T the last of them only
if I < T/2), in rows of equal length. A program keeps one fp64 partial per row of the tile: on
some architectures a dot result cannot be reduced to a scalar.

``gradient_kernel`` lets a block of rows meet all columns of one sample and accumulates
Gᵢ = Σⱼ Wᵢⱼ(uᵢ − uⱼ), Wᵢⱼ = wⱼ Σ_c a_c slope_c(sᵢⱼ), or stores W (``PANEL``) for
``panel_kernel``, when there are too many coordinates to accumulate in registers. In the second
product W is split too, row by row scaled by a power of two to max|W| in [2¹³, 2¹⁴), and every
tile's product is added to the accumulator in fp32 with rounding to nearest: the tensor cores'
truncating accumulation never runs over more than one tile of columns.

Every partial has one writer and ``finish`` sums them in a fixed order: repeats are bit-equal.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl


_POINTERS = frozenset(
    "x centre scale hi lo norm sums out rates coefs partial potential panel scale_inverse "
    "x0 x1 x_norm wx y0 y1 y_norm wy grad_x grad_y grad_wx grad_wy".split()
)


def _entry(function: Callable[..., Any]) -> Any:
    """A kernel that is not compiled anew for the values of its integers."""
    numbers = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.annotation is inspect.Parameter.empty and name not in _POINTERS
    ]
    return triton.jit(function, do_not_specialize=numbers)


UNROLLED = tl.constexpr(4)  # coordinates of the difference form that are kept in registers


PADDING = tl.constexpr(128)  # rows of the Gram form, columns of a panel: strides come in its units


@triton.jit
def _program(programs):
    flat = tl.program_id(0)
    return flat % programs, (flat // programs).to(tl.int64)


@triton.jit
def _batch_item(p0, p1, batch, stride, GRAM: tl.constexpr, D: tl.constexpr):
    if GRAM:
        return p0 + batch * stride * (PADDING * D), p1 + batch * stride * (PADDING * D)
    else:
        return p0 + batch * stride, p1


@triton.jit
def _gram(a0, a1, rows, b0, b1, cols, hi, lo, D: tl.constexpr, BK: tl.constexpr):
    a_at = rows.to(tl.int64)[:, None] * D + tl.arange(0, BK)[None, :]  # [BM, BK]
    b_at = cols.to(tl.int64)[None, :] * D + tl.arange(0, BK)[:, None]  # [BK, BN]
    if D == BK:
        other_hi = tl.load(b0 + b_at)
        other_lo = tl.load(b1 + b_at)
        cross = tl.dot(hi, other_lo) + tl.dot(lo, other_hi)
        return tl.dot(hi, other_hi, cross)  # [BM, BN]
    else:
        hh = tl.zeros([rows.shape[0], cols.shape[0]], tl.float32)
        hl = tl.zeros([rows.shape[0], cols.shape[0]], tl.float32)
        lh = tl.zeros([rows.shape[0], cols.shape[0]], tl.float32)
        for k in range(0, D, BK):
            hi = tl.load(a0 + a_at + k)
            lo = tl.load(a1 + a_at + k)
            other_hi = tl.load(b0 + b_at + k)
            other_lo = tl.load(b1 + b_at + k)
            hh = tl.dot(hi, other_hi, hh)
            hl = tl.dot(hi, other_lo, hl)
            lh = tl.dot(lo, other_hi, lh)
        return hh + (hl + lh)  # [BM, BN]


@triton.jit
def _first_slice(p0, p1, rows, GRAM: tl.constexpr, D: tl.constexpr, BK: tl.constexpr):
    if GRAM:
        at = rows.to(tl.int64)[:, None] * D + tl.arange(0, BK)[None, :]  # [BM, BK]
        return tl.load(p0 + at), tl.load(p1 + at)
    else:
        return 0, 0


@triton.jit
def _column(p, rows, count, stride_n, stride_d, k):
    at = rows.to(tl.int64) * stride_n + k * stride_d.to(tl.int64)  # [BM]
    return tl.load(p + at, mask=rows < count, other=0.0)


@triton.jit
def _accumulate_metric(s, a, b, METRIC: tl.constexpr):
    if METRIC == "inner":
        return s + a[:, None] * b[None, :]
    difference = a[:, None] - b[None, :]
    if METRIC == "l1":
        return s + tl.abs(difference)
    return s + difference * difference


@triton.jit
def _metric(
    a0, a1, a_norm, rows, n, a_sn, a_sd,
    b0, b1, b_norm, cols, m, b_sn, b_sd,
    hi, lo, inverse, d,
    METRIC: tl.constexpr, GRAM: tl.constexpr, D: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    if GRAM:
        s = _gram(a0, a1, rows, b0, b1, cols, hi, lo, D, BK)
        if METRIC == "sqeuclidean":
            s = a_norm[:, None] + tl.load(b_norm + cols)[None, :] - 2.0 * s
            s = tl.maximum(s, 0.0, propagate_nan=tl.PropagateNan.ALL)
        return s * inverse  # [BM, BN]
    else:
        s = tl.zeros([rows.shape[0], cols.shape[0]], tl.float32)
        if 0 < D and D <= UNROLLED:
            for k in tl.static_range(D):
                a = _column(a0, rows, n, a_sn, a_sd, k)
                b = _column(b0, cols, m, b_sn, b_sd, k)
                s = _accumulate_metric(s, a, b, METRIC)
        else:
            for k in range(0, d):
                a = _column(a0, rows, n, a_sn, a_sd, k)
                b = _column(b0, cols, m, b_sn, b_sd, k)
                s = _accumulate_metric(s, a, b, METRIC)
        return s + s * 0.0  # [BM, BN]


@triton.jit
def _weight(w, rows, count, stride, WEIGHTED: tl.constexpr):
    if WEIGHTED:
        return tl.load(w + rows.to(tl.int64) * stride, mask=rows < count, other=0.0)
    else:
        return (rows < count).to(tl.float32)


@triton.jit
def _weighted_rows(weight, hi, lo):
    bits = tl.max(tl.abs(weight), 1).to(tl.int32, bitcast=True) & 0x7F800000
    bits = tl.minimum(tl.maximum(bits, 14 << 23), 253 << 23)
    up = ((140 << 23) + ((127 << 23) - bits)).to(tl.float32, bitcast=True)
    down = (bits - (13 << 23)).to(tl.float32, bitcast=True)
    scaled = weight * up[:, None]  # [BM, BN]
    w_hi = scaled.to(tl.float16)
    w_lo = (scaled - w_hi.to(tl.float32)).to(tl.float16)
    product = tl.dot(w_hi, lo)
    product = tl.dot(w_lo, hi, product)
    product = tl.dot(w_hi, hi, product)
    return product * down[:, None]  # [BM, BD]


@triton.jit
def _add_weighted_columns(
    gradient, weight, a0, rows, n, a_sn, a_sd, b0, cols, m, b_sn, b_sd, first, d,
    METRIC: tl.constexpr,
):  # fmt: skip
    span = tl.arange(0, gradient.shape[1])
    for k in range(0, tl.minimum(d - first, gradient.shape[1])):
        p = _column(a0, rows, n, a_sn, a_sd, first + k)
        q = _column(b0, cols, m, b_sn, b_sd, first + k)
        column = _weighted_column(weight, p, q, METRIC)
        gradient += tl.where(span[None, :] == k, column[:, None], 0.0)
    return gradient  # [BM, BD]


@triton.jit
def _weighted_column(weight, a, b, METRIC: tl.constexpr):
    if METRIC == "inner":
        return tl.sum(weight * b[None, :], 1)
    difference = a[:, None] - b[None, :]
    if METRIC == "l1":
        sign = tl.where(difference > 0.0, 1.0, tl.where(difference < 0.0, -1.0, 0.0))
        return tl.sum(weight * sign, 1)
    return tl.sum(weight * difference, 1)


@_entry
def split_kernel(
    programs, x, centre, scale, hi, lo, n, d, stride_b, stride_n, stride_d, padded,
    CENTRED: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    program, batch = _program(programs)
    rows = program.to(tl.int64) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BK + tl.arange(0, BK)
    inside = (rows < n)[:, None] & (columns < d)[None, :]
    at = rows[:, None] * stride_n + columns[None, :].to(tl.int64) * stride_d  # [BM, BK]
    u = tl.load(x + batch * stride_b + at, mask=inside, other=0.0)
    if CENTRED:
        mid = tl.load(centre + batch * d + columns, mask=columns < d, other=0.0)
        u = tl.where(inside, u - mid[None, :], 0.0)
    u = u * tl.load(scale + batch)
    u = u + u * 0.0
    head = u.to(tl.float16)
    to = (batch * padded * PADDING + rows[:, None]) * D + columns[None, :]
    tl.store(hi + to, head)
    tl.store(lo + to, (u - head.to(tl.float32)).to(tl.float16))


@_entry
def norm_kernel(
    programs, hi, lo, norm, padded,
    D: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    program, batch = _program(programs)
    first = program * BM
    rows = first + tl.arange(0, BM)
    hi += batch * padded * (PADDING * D)
    lo += batch * padded * (PADDING * D)
    row_hi, row_lo = _first_slice(hi, lo, rows, True, D, BK)
    total = tl.zeros([BM], tl.float32)
    for t in range(0, BM // BN):
        cols = first + t * BN + tl.arange(0, BN)
        g = _gram(hi, lo, rows, hi, lo, cols, row_hi, row_lo, D, BK)  # [BM, BN]
        total += tl.sum(tl.where(rows[:, None] == cols[None, :], g, 0.0), 1)
    tl.store(norm + batch * padded * PADDING + rows, total)


@_entry
def value_kernel(
    sums, rates, rate_stride, scale_inverse, d, programs, programs_xx, programs_yy, chunk,
    sums_stride,
    x0, x1, x_norm, wx, n, x_sb, x_sn, x_sd, wx_sb, wx_sn,
    y0, y1, y_norm, wy, m, y_sb, y_sn, y_sd, wy_sb, wy_sn,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr,
    METRIC: tl.constexpr, GRAM: tl.constexpr, WEIGHTED: tl.constexpr,
    D: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = len(SHAPES)
    program, batch = _program(programs)
    x0, x1 = _batch_item(x0, x1, batch, x_sb, GRAM, D)
    y0, y1 = _batch_item(y0, y1, batch, y_sb, GRAM, D)
    wx += batch * wx_sb
    wy += batch * wy_sb
    inverse = 1.0
    if GRAM:
        x_norm += batch * x_sb * PADDING
        y_norm += batch * y_sb * PADDING
        inverse = tl.load(scale_inverse + batch)
        inverse = inverse * inverse
    a0, a1, a_norm, aw, rows_n, a_sn, a_sd, aw_sn = x0, x1, x_norm, wx, n, x_sn, x_sd, wx_sn
    b0, b1, b_norm, bw, cols_n, b_sn, b_sd, bw_sn = y0, y1, y_norm, wy, m, y_sn, y_sd, wy_sn
    first = program
    step = programs - programs_xx - programs_yy
    triangle = program < programs_xx + programs_yy
    if program < programs_xx:
        b0, b1, b_norm, bw, cols_n, b_sn, b_sd, bw_sn = x0, x1, x_norm, wx, n, x_sn, x_sd, wx_sn
        step = programs_xx
    elif triangle:
        a0, a1, a_norm, aw, rows_n, a_sn, a_sd, aw_sn = y0, y1, y_norm, wy, m, y_sn, y_sd, wy_sn
        first -= programs_xx
        step = programs_yy
    else:
        first -= programs_xx + programs_yy
    tiles = tl.cdiv(rows_n, BM)
    width = tl.cdiv(cols_n, BM)
    if triangle:
        width = tiles // 2 + 1
    units = tl.cdiv(width, chunk).to(tl.int64) * tiles
    PER: tl.constexpr = BM // BN
    total = (tl.zeros([BM], tl.float64),) * C
    for unit in range(first.to(tl.int64), units, step.to(tl.int64)):
        i = (unit % tiles).to(tl.int32)
        start = (unit // tiles).to(tl.int32) * chunk
        stop = tl.minimum(start + chunk, width)
        if triangle & (tiles % 2 == 0) & (2 * i >= tiles):
            stop = tl.minimum(stop, tiles // 2)
        rows = i * BM + tl.arange(0, BM)
        self_rows = tl.where(triangle, rows, -1)
        row_weight = _weight(aw, rows, rows_n, aw_sn, WEIGHTED).to(tl.float64)
        row_norm = row_weight
        if GRAM:
            row_norm = tl.load(a_norm + rows)
        row_hi, row_lo = _first_slice(a0, a1, rows, GRAM, D, BK)
        for t in range(start * PER, stop * PER):
            step_j = t // PER
            j = tl.where(triangle, (i + step_j) % tiles, step_j)
            twice = tl.where(triangle & (step_j > 0), 2.0, 1.0)
            cols = j * BM + (t % PER) * BN + tl.arange(0, BN)
            s = _metric(
                a0, a1, row_norm, rows, rows_n, a_sn, a_sd,
                b0, b1, b_norm, cols, cols_n, b_sn, b_sd,
                row_hi, row_lo, inverse, d, METRIC, GRAM, D, BK,
            )  # fmt: skip
            weight = _weight(bw, cols, cols_n, bw_sn, WEIGHTED) * twice
            weight = tl.where(self_rows[:, None] == cols[None, :], 0.0, weight[None, :])
            grown = ()
            for c in tl.static_range(C):
                rate = tl.load(rates + batch * rate_stride + c)
                k, slope = FUNCTIONS[c](s, rate, SHAPES[c], OFFSETS[c])
                grown = grown + (total[c] + tl.sum(k * weight, 1).to(tl.float64) * row_weight,)
            total = grown
    at = batch * sums_stride + program.to(tl.int64) * (C * BM) + tl.arange(0, BM)
    for c in tl.static_range(C):
        tl.store(sums + at + c * BM, total[c])


@_entry
def gradient_kernel(
    partial, potential, sums, panel, rates, rate_stride, coefs, coef_stride, scale_inverse, d,
    programs, programs_xx, programs_xy, programs_yx, first_x, tiles_x, first_y, tiles_y,
    splits_xx, splits_xy, splits_yx, splits_yy, sums_stride, panel_stride, panel_y, slots,
    x0, x1, x_norm, wx, n, x_sb, x_sn, x_sd, wx_sb, wx_sn,
    y0, y1, y_norm, wy, m, y_sb, y_sn, y_sd, wy_sb, wy_sn,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr,
    METRIC: tl.constexpr, GRAM: tl.constexpr, WEIGHTED: tl.constexpr,
    GRADIENT: tl.constexpr, PANEL: tl.constexpr, POTENTIAL: tl.constexpr, SUMS: tl.constexpr,
    BLOCKS: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    BK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = len(SHAPES)
    program, batch = _program(programs)
    x0, x1 = _batch_item(x0, x1, batch, x_sb, GRAM, D)
    y0, y1 = _batch_item(y0, y1, batch, y_sb, GRAM, D)
    wx += batch * wx_sb
    wy += batch * wy_sb
    inverse = 1.0
    if GRAM:
        x_norm += batch * x_sb * PADDING
        y_norm += batch * y_sb * PADDING
        inverse = tl.load(scale_inverse + batch)
        inverse = inverse * inverse
    of_x = program < programs_xx + programs_xy
    on_x = (program < programs_xx) | (
        (program >= programs_xx + programs_xy)
        & (program < programs_xx + programs_xy + programs_yx)
    )
    a0, a1, a_norm, aw, rows_n, a_sn, a_sd, aw_sn = x0, x1, x_norm, wx, n, x_sn, x_sd, wx_sn
    b0, b1, b_norm, bw, cols_n, b_sn, b_sd, bw_sn = x0, x1, x_norm, wx, n, x_sn, x_sd, wx_sn
    if not of_x:
        a0, a1, a_norm, aw, rows_n, a_sn, a_sd, aw_sn = y0, y1, y_norm, wy, m, y_sn, y_sd, wy_sn
    if not on_x:
        b0, b1, b_norm, bw, cols_n, b_sn, b_sd, bw_sn = y0, y1, y_norm, wy, m, y_sn, y_sd, wy_sn
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
    row_weight = _weight(aw, rows, rows_n, aw_sn, WEIGHTED).to(tl.float64)
    row_norm = row_weight
    if GRAM:
        row_norm = tl.load(a_norm + rows)
    row_hi, row_lo = _first_slice(a0, a1, rows, GRAM, D, BK)
    lane = (tile - tl.where(of_x, first_x, first_y - tiles_x)) * BM
    lanes = lane.to(tl.int64) + tl.arange(0, BM)  # [BM]
    if PANEL:
        into = (batch * (tiles_x + tiles_y) * BM + lanes[:, None])
        into = panel + into * (panel_stride * PADDING) + tl.where(on_x, 0, panel_y) * PADDING

    total = (tl.zeros([BM], tl.float64),) * C
    weighted = tl.zeros([BM], tl.float64)
    row_sum = tl.zeros([BM], tl.float64)
    FUSED: tl.constexpr = GRADIENT and not PANEL
    if FUSED and GRAM:
        gradient = tl.zeros([BM, D], tl.float32)
    elif FUSED and D <= UNROLLED:
        gradient = (tl.zeros([BM], tl.float32),) * D
    elif FUSED:
        gradient = tl.zeros([BM, BD], tl.float32)
    for t in range(split * each, tl.minimum((split + 1) * each, across)):
        cols = t * BN + tl.arange(0, BN)
        s = _metric(
            a0, a1, row_norm, rows, rows_n, a_sn, a_sd,
            b0, b1, b_norm, cols, cols_n, b_sn, b_sd,
            row_hi, row_lo, inverse, d, METRIC, GRAM, D, BK,
        )  # fmt: skip
        weight = _weight(bw, cols, cols_n, bw_sn, WEIGHTED)
        weight = tl.where(self_rows[:, None] == cols[None, :], 0.0, weight[None, :])
        slopes = tl.zeros([BM, BN], tl.float32)
        values = tl.zeros([BM, BN], tl.float32)
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
                grown = grown + (total[c] + tl.sum(k * weight, 1).to(tl.float64) * row_weight,)
        if SUMS:
            total = grown
        if POTENTIAL:
            weighted += tl.sum(values * weight, 1).to(tl.float64)
        slopes *= weight  # [BM, BN]
        if PANEL:
            tl.store(into + cols[None, :], slopes)
        elif FUSED and GRAM:
            span = cols.to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :]
            other_hi = tl.load(b0 + span)  # [BN, D]
            other_lo = tl.load(b1 + span)
            row_sum += tl.sum(slopes, 1).to(tl.float64)
            gradient += _weighted_rows(slopes, other_hi, other_lo)
        elif FUSED and D > UNROLLED:
            gradient = _add_weighted_columns(
                gradient, slopes, a0, rows, rows_n, a_sn, a_sd,
                b0, cols, cols_n, b_sn, b_sd, 0, d, METRIC,
            )  # fmt: skip
        elif FUSED:
            moved = ()
            for k in tl.static_range(D):
                p = _column(a0, rows, rows_n, a_sn, a_sd, k)
                q = _column(b0, cols, cols_n, b_sn, b_sd, k)
                moved = moved + (gradient[k] + _weighted_column(slopes, p, q, METRIC),)
            gradient = moved

    lanes += (batch * slots + slot) * ((tiles_x + tiles_y) * BM)
    if POTENTIAL:
        tl.store(potential + lanes, weighted)
    if SUMS:
        at = batch * sums_stride + program.to(tl.int64) * (C * BM) + tl.arange(0, BM)
        for c in tl.static_range(C):
            tl.store(sums + at + c * BM, total[c])
    if FUSED and GRAM:
        span = rows.to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :]
        if METRIC == "sqeuclidean":
            u = tl.load(a0 + span).to(tl.float32) + tl.load(a1 + span).to(tl.float32)
            gradient = u * row_sum.to(tl.float32)[:, None] - gradient
        tl.store(partial + lanes[:, None] * D + tl.arange(0, D)[None, :], gradient)
    elif FUSED and D > UNROLLED:
        span = tl.arange(0, BD)[None, :]
        tl.store(partial + lanes[:, None] * D + span, gradient, mask=span < D)
    elif FUSED:
        for k in tl.static_range(D):
            tl.store(partial + lanes * D + k, gradient[k])


@triton.jit
def _finish_sums(
    sums, out, which, start, count, width, C: tl.constexpr, BE: tl.constexpr
):  # fmt: skip
    total = tl.zeros([BE], tl.float64)
    for first in range(0, count * width, BE):
        element = first + tl.arange(0, BE)
        at = start + (element // width * C + which % C) * width + element % width
        total += tl.load(sums + at, mask=element < count * width, other=0.0)
    tl.store(out, tl.sum(total, 0))


@_entry
def finish_kernel(
    programs, sums, out, sums_stride, start_xx, start_yy, start_xy, count_xx, count_yy, count_xy,
    width_xx, width_yy, width_xy,
    partial, potential, panel, scale_inverse, d, first_x, rows_x, first_y, rows_y,
    slots, slots_x, slots_y, panel_stride, panel_y,
    grad_x, grad_y, grad_wx, grad_wy,
    x0, x1, wx, n, x_sb, x_sn, x_sd, wx_sb, wx_sn,
    y0, y1, wy, m, y_sb, y_sn, y_sd, wy_sb, wy_sn,
    METRIC: tl.constexpr, GRAM: tl.constexpr, WEIGHTED: tl.constexpr, BLOCKS: tl.constexpr,
    C: tl.constexpr, SUMS: tl.constexpr, GRADIENT_X: tl.constexpr, GRADIENT_Y: tl.constexpr,
    PANEL: tl.constexpr, POTENTIAL_X: tl.constexpr, POTENTIAL_Y: tl.constexpr,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BE: tl.constexpr,
):  # fmt: skip
    program, batch = _program(programs)
    SUM_PROGRAMS: tl.constexpr = (3 if BLOCKS == "all" else 1) * C if SUMS else 0
    if program < SUM_PROGRAMS:
        block = program // C
        start, count, width = start_xx, count_xx, width_xx
        if block == 1:
            start, count, width = start_yy, count_yy, width_yy
        elif block == 2:
            start, count, width = start_xy, count_xy, width_xy
        at = out + batch * SUM_PROGRAMS + program
        _finish_sums(sums + batch * sums_stride, at, program, start, count, width, C, BE)
    else:
        chunks = tl.cdiv(d, BD)
        tile = (program - SUM_PROGRAMS) // chunks
        first_d = (program - SUM_PROGRAMS) % chunks * BD
        of_x = tile * BM < rows_x
        x0, x1 = _batch_item(x0, x1, batch, x_sb, GRAM, D)
        y0, y1 = _batch_item(y0, y1, batch, y_sb, GRAM, D)
        wx += batch * wx_sb
        wy += batch * wy_sb
        a0, a1, aw, rows_n, a_sn, a_sd, aw_sn = x0, x1, wx, n, x_sn, x_sd, wx_sn
        gradient_out, potential_out, used, first = grad_x, grad_wx, slots_x, first_x
        if not of_x:
            a0, a1, aw, rows_n, a_sn, a_sd, aw_sn = y0, y1, wy, m, y_sn, y_sd, wy_sn
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
            factor = _weight(aw, rows, rows_n, aw_sn, WEIGHTED)
            if GRAM:
                factor *= tl.load(scale_inverse + batch)
            to = gradient_out + (batch * rows_n + rows) * d + first_d
            span = tl.arange(0, BD)
            kept = (rows < rows_n)[:, None] & (first_d + span < d)[None, :]
            row_sum = tl.zeros([BM], tl.float64)
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
                    b0, b1, cols_n, b_sn, b_sd = x0, x1, n, x_sn, x_sd
                    first_col, shift = t * BN, 0
                    if t >= tiles_x:
                        b0, b1, cols_n, b_sn, b_sd = y0, y1, m, y_sn, y_sd
                        first_col, shift = (t - tiles_x) * BN, panel_y * PADDING
                    cols = first_col + tl.arange(0, BN)
                    weight = tl.load(at[:, None] + (shift + cols)[None, :])  # [BM, BN]
                    if GRAM:
                        other = cols.to(tl.int64)[:, None] * D + first_d + span[None, :]
                        other_hi = tl.load(b0 + other)  # [BN, BD]
                        other_lo = tl.load(b1 + other)
                        row_sum += tl.sum(weight, 1).to(tl.float64)
                        gradient += _weighted_rows(weight, other_hi, other_lo)
                    else:
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
            if PANEL and GRAM and METRIC == "sqeuclidean":
                at = rows.to(tl.int64)[:, None] * D + first_d + span[None, :]
                u = tl.load(a0 + at).to(tl.float32) + tl.load(a1 + at).to(tl.float32)
                gradient = u * row_sum.to(tl.float32)[:, None] - gradient
            tl.store(to[:, None] + span[None, :], gradient * factor[:, None], mask=kept)
