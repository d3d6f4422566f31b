"""The Triton kernels of the difference form, for few coordinates, small problems and L1: Σ(x−y)²,
Σ|x−y| or Σxy over the raw coordinates; and what they share with those of the Gram form
(``gram``). A *sample* is (data, weights, count); a pair of samples is a *block*. 0·s is
added to a distance, so that NaN and what overflows come out as NaN.

``value_kernel`` visits one triangle of xx and yy. Tile row I meets the columns I, I+1, …, I+T/2
modulo the T tiles of a row: every unordered pair of tiles once (for even T the last of them only
if I < T/2), in rows of equal length. A program keeps one fp64 partial per row of the tile: on
some architectures a dot result cannot be reduced to a scalar.

Tiles of the difference form lie *turned*, [columns, rows]: neighbouring threads hold neighbouring
rows, and all columns of a row are in one thread, which sums them without asking another.

k(s; 4a) = k(s; a)⁴ for some functions (see ``launcher.powers``): of two such components the
wider one is evaluated, and the other one only if its rate is not four times as large, as it is
where bandwidths double. Two squarings make four times the relative error of exp2, so chains are no
longer than that.

Every partial has one writer and ``finish_kernel`` sums them in a fixed order: repeats are
bit-equal. Offsets are 64-bit; strides of padded buffers are passed in units of ``PADDING``, so
that the compiler knows their divisibility and vectorises the loads.
"""

# The compiler reads this file, and wants some things said in its own way.
# ruff: noqa: PIE808, RET505, RUF005, RUF059
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from . import configs

_POINTERS = {
    *("x", "centre", "scale", "hi", "lo", "norm", "sums", "out", "rates", "coefs"),
    *("partial", "potential", "panel", "grad_x", "grad_y", "grad_wx", "grad_wy"),
    *("y", "weights", "constant", "median", "distances"),
    *("x0", "x1", "x_norm", "wx", "y0", "y1", "y_norm", "wy"),
    *("y", "reach", "frame", "flags", "masses", "low_panel", "panel_scale"),
    *("x_most", "x_weight", "y_most", "y_weight"),
}


def entry(function: Callable[..., Any]) -> Any:
    """A kernel that is not compiled anew for the values of its integers."""
    numbers = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.annotation is inspect.Parameter.empty and name not in _POINTERS
    ]
    return triton.jit(function, do_not_specialize=numbers)


UNROLLED = tl.constexpr(configs.UNROLLED)
PADDING = tl.constexpr(128)  # rows of the Gram form, columns of a panel: strides come in its units


@triton.jit
def program_of(programs):
    flat = tl.program_id(0)
    return flat % programs, (flat // programs).to(tl.int64)


@triton.jit
def gram_slice(hi, lo, other_hi, other_lo):
    """u·v of rows that are one slice: hi·lo, lo·hi and hi·hi in one chain."""
    cross = tl.dot(hi, other_lo)
    cross = tl.dot(lo, other_hi, cross)
    return tl.dot(hi, other_hi, cross)


@triton.jit
def gram_slices(main, cross, hi, lo, other_hi, other_lo):
    """Adds a slice of several to the chain of hi·hi, and to that of the cross products."""
    cross = tl.dot(hi, other_lo, cross)
    cross = tl.dot(lo, other_hi, cross)
    return tl.dot(hi, other_hi, main), cross


@triton.jit
def gram(
    a0, a1, a_at, b0, b1, b_at, hi, lo, other_hi, other_lo, D: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """u·v of the rows at ``a0 + a_at`` [BM, BK] and ``b0 + b_at`` [BN, BK], whose first slices are
    at hand."""
    if D == BK:
        return gram_slice(hi, lo, tl.trans(other_hi), tl.trans(other_lo))
    else:
        main = tl.zeros([hi.shape[0], other_hi.shape[0]], tl.float32)
        cross = tl.zeros([hi.shape[0], other_hi.shape[0]], tl.float32)
        for k in range(0, D, BK):
            hi = tl.load(a0 + a_at + k)
            lo = tl.load(a1 + a_at + k)
            other_hi = tl.load(b0 + b_at + k)
            other_lo = tl.load(b1 + b_at + k)
            main, cross = gram_slices(main, cross, hi, lo, tl.trans(other_hi), tl.trans(other_lo))
        return main + cross


@triton.jit
def column_of(p, rows, count, stride_n, stride_d, k):
    at = rows.to(tl.int64) * stride_n + k * stride_d.to(tl.int64)  # [BM]
    return tl.load(p + at, mask=rows < count, other=0.0)


@triton.jit
def by_row(v, TURNED: tl.constexpr):
    if TURNED:
        return v[None, :]
    else:
        return v[:, None]


@triton.jit
def by_column(v, TURNED: tl.constexpr):
    return by_row(v, not TURNED)


@triton.jit
def _accumulate_metric(s, a, b, METRIC: tl.constexpr, TURNED: tl.constexpr):
    if METRIC == "inner":
        return s + by_row(a, TURNED) * by_column(b, TURNED)
    difference = by_row(a, TURNED) - by_column(b, TURNED)
    if METRIC == "l1":
        return s + tl.abs(difference)
    return s + difference * difference


@triton.jit
def difference_tile(
    a, rows, n, a_sn, a_sd, b, cols, m, b_sn, b_sd, d,
    METRIC: tl.constexpr, D: tl.constexpr, TURNED: tl.constexpr,
    DTYPE: tl.constexpr = tl.float32,
):  # fmt: skip
    s = tl.zeros([rows.shape[0], cols.shape[0]], DTYPE)
    if TURNED:
        s = tl.zeros([cols.shape[0], rows.shape[0]], DTYPE)
    if D > 0 and D <= UNROLLED:
        for k in tl.static_range(D):
            p = column_of(a, rows, n, a_sn, a_sd, k).to(DTYPE)
            q = column_of(b, cols, m, b_sn, b_sd, k).to(DTYPE)
            s = _accumulate_metric(s, p, q, METRIC, TURNED)
    else:
        for k in range(0, d):
            p = column_of(a, rows, n, a_sn, a_sd, k).to(DTYPE)
            q = column_of(b, cols, m, b_sn, b_sd, k).to(DTYPE)
            s = _accumulate_metric(s, p, q, METRIC, TURNED)
    return s + s * 0.0  # [BM, BN], or [BN, BM] if turned


@triton.jit
def weight_of(w, rows, count, stride, WEIGHTED: tl.constexpr):
    if WEIGHTED:
        return tl.load(w + rows.to(tl.int64) * stride, mask=rows < count, other=0.0)
    else:
        return (rows < count).to(tl.float32)


@triton.jit
def in_pair(numbers, c: tl.constexpr, POWER: tl.constexpr):
    if POWER == 0:
        return numbers[c], numbers[c], c
    elif POWER == 1:
        a, b = numbers[c], numbers[c + 1]
        return tl.where(a < b, a, b), a, tl.where(a < b, c, c + 1)
    else:
        a, b = numbers[c - 1], numbers[c]
        return tl.where(a < b, b, a), tl.where(a < b, a, b), tl.where(a < b, c, c - 1)


@entry
def value_kernel(
    sums, rates, rate_stride, d, programs, programs_xx, programs_yy, chunk, sums_stride,
    x0, wx, n, x_sb, x_sn, x_sd, wx_sb, wx_sn,
    y0, wy, m, y_sb, y_sn, y_sd, wy_sb, wy_sn,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr,
    METRIC: tl.constexpr, WEIGHTED: tl.constexpr,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, POWERS: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = len(SHAPES)
    program, batch = program_of(programs)
    x0 += batch * x_sb
    y0 += batch * y_sb
    wx += batch * wx_sb
    wy += batch * wy_sb
    a0, aw, rows_n, a_sn, a_sd, aw_sn = x0, wx, n, x_sn, x_sd, wx_sn
    b0, bw, cols_n, b_sn, b_sd, bw_sn = y0, wy, m, y_sn, y_sd, wy_sn
    first = program
    step = programs - programs_xx - programs_yy
    triangle = program < programs_xx + programs_yy
    if program < programs_xx:
        b0, bw, cols_n, b_sn, b_sd, bw_sn = x0, wx, n, x_sn, x_sd, wx_sn
        step = programs_xx
    elif triangle:
        a0, aw, rows_n, a_sn, a_sd, aw_sn = y0, wy, m, y_sn, y_sd, wy_sn
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
    numbers = ()
    for c in tl.static_range(C):
        numbers = numbers + (tl.load(rates + batch * rate_stride + c),)
    for unit in range(first.to(tl.int64), units, step.to(tl.int64)):
        i = (unit % tiles).to(tl.int32)
        start = (unit // tiles).to(tl.int32) * chunk
        stop = tl.minimum(start + chunk, width)
        if triangle & (tiles % 2 == 0) & (2 * i >= tiles):
            stop = tl.minimum(stop, tiles // 2)
        rows = i * BM + tl.arange(0, BM)
        self_rows = tl.where(triangle, rows, -1)
        row_weight = weight_of(aw, rows, rows_n, aw_sn, WEIGHTED).to(tl.float64)
        for t in range(start * PER, stop * PER):
            step_j = t // PER
            j = tl.where(triangle, (i + step_j) % tiles, step_j)
            twice = tl.where(triangle & (step_j > 0), 2.0, 1.0)
            cols = j * BM + (t % PER) * BN + tl.arange(0, BN)
            s = difference_tile(
                a0, rows, rows_n, a_sn, a_sd, b0, cols, cols_n, b_sn, b_sd, d, METRIC, D, True
            )
            weight = by_column(weight_of(bw, cols, cols_n, bw_sn, WEIGHTED) * twice, True)
            itself = by_row(self_rows, True) == by_column(cols, True)
            weight = tl.where(itself, 0.0, weight)
            k = s
            grown = ()
            for c in tl.static_range(C):
                rate, wide, place = in_pair(numbers, c, POWERS[c])
                if POWERS[c] == 3:
                    k = k * k
                    k = k * k
                elif POWERS[c] == 2:
                    if tl.abs(rate - 4.0 * wide) <= 2.0**-23 * rate:
                        k = k * k
                        k = k * k
                    else:
                        k, slope = FUNCTIONS[c](s, rate, SHAPES[c], OFFSETS[c])
                else:
                    k, slope = FUNCTIONS[c](s, rate, SHAPES[c], OFFSETS[c])
                grown = grown + (total[c] + tl.sum(k * weight, 0).to(tl.float64) * row_weight,)
            total = grown
    at = batch * sums_stride + program.to(tl.int64) * (C * BM) + tl.arange(0, BM)
    for c in tl.static_range(C):
        rate, wide, place = in_pair(numbers, c, POWERS[c])
        tl.store(sums + at + place * BM, total[c])
