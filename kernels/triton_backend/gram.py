"""The Triton kernels of the Gram form: squared distances or inner products of many coordinates from
tensor-core products.

``gram_centre_kernel`` takes the coordinate-wise median of a few rows; ``gram_split_kernel`` centres
every row, scales it by a power of two that brings a typical row's largest coordinate into [8, 16),
splits it u = hi + lo in fp16 (|u − hi − lo| ≤ max(2⁻²³|u|, 2⁻²⁵)) and takes its norm. u·v =
hi·hi + (hi·lo + lo·hi) by one chain of products, and norms are the diagonal of the same chain, so
that identical rows are exactly 0 apart. Rates are those of the scaled rows (``frame``): nothing is
scaled back pair by pair, and no distance leaves the range of fp32 because of the data's units.

The error of a squared distance is about 2⁻²² (|u|² + |v|²). Tiles where that is too much are left
out and flagged, and ``redo`` forms them by differences: where the largest rate times the
error exceeds 1e-5, where a function that is not smooth at 0 meets pairs nearer than
``CANCELLATION`` of the norms, and where a row is so far out that its halves are infinite. A row
that is not finite gives NaN there.

``gram_value_kernel`` visits one triangle of xx and yy. Tile row I meets the columns I, I+1, …,
I+T/2 modulo the T tiles of a row: every unordered pair of tiles once (for even T the last of them
only if I < T/2), in rows of equal length. ``gram_gradient_kernel`` lets a tile of rows meet all
columns of one sample (or its share of them) and accumulates Gᵢ = Σⱼ Wᵢⱼ(uᵢ − uⱼ),
Wᵢⱼ = wⱼ Σ_c a_c slope_c(sᵢⱼ), or stores W (``PANEL``) where there are too many coordinates to
accumulate in registers. W is split in fp16 too, row by row scaled by a power of two to max|W| in
[2¹³, 2¹⁴), and every tile's product is added in fp32 with rounding to nearest: the truncating
accumulation of the tensor cores never runs over more than one tile of columns.

Masks (self pairs, rows beyond the last) are applied in tiles that need them alone; weights are
padded with zeros.
"""

# The compiler reads this file, and wants some things said in its own way.
# ruff: noqa: PIE808, RUF005, RUF059
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
# mypy: disable-error-code="attr-defined, misc"

from __future__ import annotations

import triton
import triton.language as tl

from .differences import PADDING, entry, gram, gram_slice, gram_slices, in_pair, program_of

CENTRE_ROWS = tl.constexpr(33)
SUBSAMPLE = tl.constexpr(64)  # the next power of two: rows of a tile of that subsample
SPLIT_ROWS = tl.constexpr(64)  # that a program splits: the fewest of a Hopper tensor-core product
GROUP = tl.constexpr(32)  # rows whose largest norm is kept
NORMS_PER_RATE = tl.constexpr(1e-5 * 2.0**22)  # 1e-5 is the largest error allowed in rate·d²
CANCELLATION = tl.constexpr(2.0**-7)  # of |u|² + |v|²: below it a root has lost too many digits
LARGEST = tl.constexpr(3.0e38)
LEAD = tl.constexpr(3)  # the exponent of a typical row's largest coordinate
LARGEST_HALF = tl.constexpr(65504.0)
FEW_COMPONENTS = tl.constexpr(2)  # with more, masks cost little beside a second copy of the code
FRAME = tl.constexpr(3)  # numbers of a frame before the rates: limit, nearest, scale


@triton.jit
def _hashed(i, total):
    """``subsample.hashed_rows``, or all rows where there are no more."""
    h = i.to(tl.int64) + 1
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    h = (h ^ (h >> 16)) % total
    return tl.where(total <= CENTRE_ROWS, i.to(tl.int64), h)


@triton.jit
def _pooled(x, y, n, x_sn, x_sd, y_sn, y_sd, row, k, mask):
    """Coordinates k of rows of the pooled sample."""
    in_x = row < n
    at_x = row * x_sn + k.to(tl.int64) * x_sd
    at_y = (row - n) * y_sn + k.to(tl.int64) * y_sd
    of_x = tl.load(x + at_x, mask=mask & in_x, other=0.0)
    return of_x + tl.load(y + at_y, mask=mask & ~in_x, other=0.0)


@entry
def gram_centre_kernel(
    x, y, centre, reach, n, m, d, x_sb, x_sn, x_sd, y_sb, y_sn, y_sd,
    CENTRED: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    x += batch * x_sb
    y += batch * y_sb
    total = n.to(tl.int64) + m
    count = tl.minimum(total, CENTRE_ROWS).to(tl.int32)
    number = tl.arange(0, SUBSAMPLE)
    columns = chunk * BD + tl.arange(0, BD)
    inside = (number < count)[:, None] & (columns < d)[None, :]
    rows = _hashed(number, total)[:, None]
    u = _pooled(x, y, n, x_sn, x_sd, y_sn, y_sd, rows, columns[None, :], inside)
    if CENTRED:
        rank = tl.zeros([SUBSAMPLE, BD], tl.int32)
        for j in range(0, count):
            row = _hashed(columns * 0 + j, total)
            v = _pooled(x, y, n, x_sn, x_sd, y_sn, y_sd, row, columns, columns < d)[None, :]
            rank += ((v < u) | ((v == u) & (number > j)[:, None])).to(tl.int32)
        middle = inside & (rank == (count - 1) // 2)
        mid = tl.sum(tl.where(middle, u, 0.0), 0)
        tl.store(centre + batch * d + columns, mid, mask=columns < d)
        u = tl.where(inside, u - mid[None, :], 0.0)
    far = tl.max(tl.abs(u), 1)
    at = (batch * tl.num_programs(1) + chunk) * SUBSAMPLE + number
    tl.store(reach + at, tl.where(far == far, far, float("inf")))


@triton.jit
def _scale_of(reach, chunks, count):
    """The power of two that brings the median of the rows' largest coordinates into
    [2^LEAD, 2^(LEAD + 1))."""
    number = tl.arange(0, SUBSAMPLE)
    far = tl.zeros([SUBSAMPLE], tl.float32)
    for chunk in range(0, chunks):
        far = tl.maximum(far, tl.load(reach + chunk * SUBSAMPLE + number))
    far = tl.where(number < count, far, float("inf"))
    before = (far[None, :] < far[:, None]) | (
        (far[None, :] == far[:, None]) & (number[None, :] < number[:, None])
    )
    rank = tl.sum(before.to(tl.int32), 1)
    typical = tl.max(tl.where(rank == (count - 1) // 2, far, 0.0), 0)
    if typical == 0.0:
        typical = tl.max(tl.where(number < count, far, 0.0), 0)
    bits = typical.to(tl.int32, bitcast=True) >> 23
    bits = tl.where((bits == 0) | (bits == 255), 127 + LEAD, bits)  # nothing to go by: no scaling
    bits = tl.minimum(tl.maximum(bits, LEAD + 1), 252)
    return ((254 - bits + LEAD) << 23).to(tl.float32, bitcast=True)


@entry
def gram_split_kernel(
    tiles, tiles_x, x, y, wx, wy, centre, reach, chunks, rates, rate_stride, frame, scale,
    n, m, d, x_sb, x_sn, x_sd, wx_sb, wx_sn, y_sb, y_sn, y_sd, wy_sb, wy_sn,
    x0, x1, x_norm, x_most, x_weight, y0, y1, y_norm, y_most, y_weight, padded_x, padded_y,
    CENTRED: tl.constexpr, WEIGHTED: tl.constexpr, D: tl.constexpr, BK: tl.constexpr,
    RATE_POWERS: tl.constexpr, STEEPNESS: tl.constexpr, SHAPES: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = len(SHAPES)
    program, batch = program_of(tiles)
    count = tl.minimum(n.to(tl.int64) + m, CENTRE_ROWS).to(tl.int32)
    power = _scale_of(reach + batch * chunks * SUBSAMPLE, chunks, count)
    if program == 0:
        back = 1.0 / power.to(tl.float64)
        largest = power * 0.0
        at = frame + batch * (FRAME + 2 * C)
        for c in tl.static_range(C):
            rate = tl.load(rates + batch * rate_stride + c)
            gain = 1.0
            if RATE_POWERS[c] == 0:
                gain = tl.exp2(tl.log2(back.to(tl.float32)) * SHAPES[c])
            elif RATE_POWERS[c] == 1:
                rate = rate * back * back
                largest = tl.maximum(largest, tl.abs(rate).to(tl.float32) * STEEPNESS[c])
            else:
                rate = rate * back
                largest = tl.maximum(largest, (rate * rate).to(tl.float32) * STEEPNESS[c])
            tl.store(at + FRAME + c, rate.to(tl.float32))
            tl.store(at + FRAME + C + c, gain)
        limit = LARGEST
        if CENTRED:
            limit = tl.minimum((1.0 / largest) * NORMS_PER_RATE - d, LARGEST)
        tl.store(at, limit)
        tl.store(at + 1, d * 2.0**-16)
        tl.store(at + 2, power)
        tl.store(scale + batch, power)
    of_x = program < tiles_x
    p0, p1, norm, most, weight, padded = x0, x1, x_norm, x_most, x_weight, padded_x
    source, w, rows_n, sb, sn, sd, w_sb, w_sn = x, wx, n, x_sb, x_sn, x_sd, wx_sb, wx_sn
    if not of_x:
        p0, p1, norm, most, weight, padded = y0, y1, y_norm, y_most, y_weight, padded_y
        source, w, rows_n, sb, sn, sd, w_sb, w_sn = y, wy, m, y_sb, y_sn, y_sd, wy_sb, wy_sn
    tile = tl.where(of_x, program, program - tiles_x).to(tl.int64)
    rows = tile * SPLIT_ROWS + tl.arange(0, SPLIT_ROWS)
    first = batch * padded * PADDING
    source += batch * sb
    lanes = tl.arange(0, BK)
    main = tl.zeros([SPLIT_ROWS, SPLIT_ROWS], tl.float32)
    cross = tl.zeros([SPLIT_ROWS, SPLIT_ROWS], tl.float32)
    outside = tl.zeros([SPLIT_ROWS], tl.int32)
    for k in range(0, D, BK):
        columns = k + lanes
        inside = (rows < rows_n)[:, None] & (columns < d)[None, :]
        u = tl.load(source + rows[:, None] * sn + columns[None, :].to(tl.int64) * sd, mask=inside,
                    other=0.0)  # fmt: skip
        if CENTRED:
            mid = tl.load(centre + batch * d + columns, mask=columns < d, other=0.0)
            u = tl.where(inside, u - mid[None, :], 0.0)
        u = u * power
        beyond = ~(tl.abs(u) <= LARGEST_HALF)
        outside = tl.maximum(outside, tl.max(beyond.to(tl.int32), 1))
        u = tl.where(beyond, 0.0, u)
        hi = u.to(tl.float16)
        lo = (u - hi.to(tl.float32)).to(tl.float16)
        to = (first + rows)[:, None] * D + columns[None, :]
        tl.store(p0 + to, hi)
        tl.store(p1 + to, lo)
        if D == BK:
            main = gram_slice(hi, lo, tl.trans(hi), tl.trans(lo))
        else:
            main, cross = gram_slices(main, cross, hi, lo, tl.trans(hi), tl.trans(lo))
    if D > BK:
        main = main + cross
    itself = tl.arange(0, SPLIT_ROWS)[:, None] == tl.arange(0, SPLIT_ROWS)[None, :]
    found = tl.sum(tl.where(itself, main, 0.0), 1)
    tl.store(norm + first + rows, found)
    far = tl.where(outside > 0, float("inf"), found)
    groups = tile * (SPLIT_ROWS // GROUP) + tl.arange(0, SPLIT_ROWS // GROUP)
    to = most + batch * padded * (PADDING // GROUP) + groups
    tl.store(to, tl.max(tl.reshape(far, [SPLIT_ROWS // GROUP, GROUP]), 1))
    if WEIGHTED:
        of_row = tl.load(w + batch * w_sb + rows * w_sn, mask=rows < rows_n, other=0.0)
        tl.store(weight + first + rows, of_row)


@triton.jit
def value_block(program, programs, programs_xx, programs_yy):
    """Of a program of the value kernels: whether its block is xx, whether it is a triangle, its
    number in the block and how many there are."""
    triangle = program < programs_xx + programs_yy
    on_x = program < programs_xx
    first = tl.where(triangle, program - programs_xx, program - programs_xx - programs_yy)
    step = tl.where(triangle, programs_yy, programs - programs_xx - programs_yy)
    return on_x, triangle, tl.where(on_x, program, first), tl.where(on_x, programs_xx, step)


@triton.jit
def value_unit(unit, tiles, width, chunk, triangle):
    """Row tile of a unit, and its range of column tiles, counted from the diagonal in a
    triangle."""
    i = (unit % tiles).to(tl.int32)
    start = (unit // tiles).to(tl.int32) * chunk
    stop = tl.minimum(start + chunk, width)
    if triangle & (tiles % 2 == 0) & (2 * i >= tiles):
        stop = tl.minimum(stop, tiles // 2)
    return i, start, stop


@triton.jit
def add_values(
    total, s, kept, weight, numbers, FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr,
    OFFSETS: tl.constexpr, POWERS: tl.constexpr, MASKED: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    k = s
    grown = ()
    for c in tl.static_range(len(SHAPES)):
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
        share = k
        if WEIGHTED:
            share = share * weight[None, :]
        if MASKED:
            share = tl.where(kept, share, 0.0)
        grown = grown + (total[c] + tl.sum(share, 1).to(tl.float64),)
    return grown


@entry
def gram_value_kernel(
    sums, flags, frame, programs, programs_xx, programs_yy, chunk, sums_stride, flags_stride,
    flags_yy, flags_xy,
    x0, x1, x_norm, x_most, x_weight, n, padded_x,
    y0, y1, y_norm, y_most, y_weight, m, padded_y,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr, POWERS: tl.constexpr,
    METRIC: tl.constexpr, NEAR: tl.constexpr, WEIGHTED: tl.constexpr,
    D: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = len(SHAPES)
    PER: tl.constexpr = BM // BN
    MASKED: tl.constexpr = C > FEW_COMPONENTS
    program, batch = program_of(programs)
    x_at = batch * padded_x * PADDING
    y_at = batch * padded_y * PADDING
    on_x, triangle, first, step = value_block(program, programs, programs_xx, programs_yy)
    flags += batch * flags_stride + tl.where(on_x, 0, tl.where(triangle, flags_yy, flags_xy))
    a0, a1, a_norm, a_weight, rows_n, a_at, row_most = x0, x1, x_norm, x_weight, n, x_at, x_most
    b0, b1, b_norm, b_weight, cols_n, b_at, most = y0, y1, y_norm, y_weight, m, y_at, y_most
    if on_x:
        b0, b1, b_norm, b_weight, cols_n, b_at, most = x0, x1, x_norm, x_weight, n, x_at, x_most
    elif triangle:
        a0, a1, a_norm, a_weight, rows_n, a_at, row_most = y0, y1, y_norm, y_weight, m, y_at, y_most
    a0 += a_at * D
    a1 += a_at * D
    b0 += b_at * D
    b1 += b_at * D
    a_norm += a_at
    b_norm += b_at
    most += b_at // GROUP
    row_most += a_at // GROUP
    tiles = tl.cdiv(rows_n, BM)
    width = tl.cdiv(cols_n, BM)
    wrap = 2147483647  # the column tile, in units of BN, after which the first one follows
    if triangle:
        wrap = width * PER
        width = tiles // 2 + 1
    frame += batch * (FRAME + 2 * C)
    limit = tl.load(frame)
    nearest = tl.load(frame + 1)
    numbers = ()
    for c in tl.static_range(C):
        numbers = numbers + (tl.load(frame + FRAME + c),)
    total = (tl.zeros([BM], tl.float64),) * C
    span = tl.arange(0, BN)
    row_at = tl.arange(0, BM)[:, None] * D + tl.arange(0, BK)[None, :]
    col_at = span[:, None] * D + tl.arange(0, BK)[None, :]
    group = tl.arange(0, CHUNK * BM // GROUP)
    groups = tl.where(triangle, wrap * (BN // GROUP), 2147483647)
    units = tl.cdiv(width, chunk).to(tl.int64) * tiles
    for unit in range(first.to(tl.int64), units, step.to(tl.int64)):
        i, start, stop = value_unit(unit, tiles, width, chunk, triangle)
        rows = i * BM + tl.arange(0, BM)
        row_norm = tl.load(a_norm + rows)
        a_first = (i * BM).to(tl.int64) * D
        row_hi, row_lo = tl.load(a0 + a_first + row_at), tl.load(a1 + a_first + row_at)
        base = tl.where(triangle, i * PER, 0)
        part = (tl.zeros([BM], tl.float64),) * C
        closest = tl.full([BM], float("inf"), tl.float32)
        for t in range(start * PER, stop * PER):
            j = base + t
            j = tl.where(j >= wrap, j - wrap, j)
            cols = j * BN + span
            b_first = (j * BN).to(tl.int64) * D
            col_hi, col_lo = tl.load(b0 + b_first + col_at), tl.load(b1 + b_first + col_at)
            s = gram(
                a0 + a_first, a1 + a_first, row_at, b0 + b_first, b1 + b_first, col_at,
                row_hi, row_lo, col_hi, col_lo, D, BK,
            )  # fmt: skip
            if METRIC == "sqeuclidean":
                s = row_norm[:, None] + tl.load(b_norm + cols)[None, :] - 2.0 * s
                if not NEAR:
                    s = tl.maximum(s, 0.0)
            weight = 0.0
            if WEIGHTED:
                weight = tl.load(b_weight + b_at + cols)
            diagonal = triangle & (t < PER)
            if MASKED or (diagonal | (j * BN + BN > cols_n)):
                above = tl.where(diagonal, rows, -1)
                kept = (cols[None, :] > above[:, None]) & (cols < cols_n)[None, :]
                if NEAR:
                    closest = tl.minimum(closest, tl.min(tl.where(kept, s, float("inf")), 1))
                part = add_values(part, s, kept, weight, numbers, FUNCTIONS, SHAPES, OFFSETS,
                                   POWERS, True, WEIGHTED)  # fmt: skip
            else:
                if NEAR:
                    closest = tl.minimum(closest, tl.min(s, 1))
                part = add_values(part, s, s, weight, numbers, FUNCTIONS, SHAPES, OFFSETS,
                                   POWERS, False, WEIGHTED)  # fmt: skip
        ahead = tl.minimum(start * (BM // GROUP) + group, stop * (BM // GROUP) - 1)
        ahead += base * BN // GROUP
        ahead = tl.where(ahead >= groups, ahead - groups, ahead)
        reach = tl.max(tl.load(row_most + i * (BM // GROUP) + tl.arange(0, BM // GROUP)), 0)
        reach += tl.max(tl.load(most + ahead), 0)
        bad = not (reach <= limit)
        if NEAR:
            bad = bad | (not (tl.min(closest, 0) >= reach * CANCELLATION + nearest))
        tl.store(flags + unit, bad.to(tl.int8))
        row_weight = (rows < rows_n).to(tl.float64)
        if WEIGHTED:
            row_weight = tl.load(a_weight + a_at + rows).to(tl.float64)
        grown = ()
        for c in tl.static_range(C):
            grown = grown + (tl.where(bad, total[c], total[c] + part[c] * row_weight),)
        total = grown
    at = batch * sums_stride + program.to(tl.int64) * (C * BM) + tl.arange(0, BM)
    for c in tl.static_range(C):
        rate, wide, place = in_pair(numbers, c, POWERS[c])
        gain = tl.load(frame + FRAME + C + place) * tl.where(triangle, 2.0, 1.0)
        tl.store(sums + at + place * BM, total[c] * gain)


@triton.jit
def gradient_pair(
    program, tiles_x, tiles_y, splits_x, splits_y, BLOCKS: tl.constexpr
):  # fmt: skip
    """Of a program of the gradient kernels: whether its rows and its columns are those of x, the
    tile of its rows among those of the launch, its share of the columns, and its slot: the programs
    that share a row, those with columns of x before those of y."""
    xx = tl.where(BLOCKS == "xy", 0, tiles_x * splits_x)
    xy = tl.where(BLOCKS == "xx", 0, tiles_x * splits_y)
    yx = tiles_y * splits_x
    of_x = program < xx + xy
    local = tl.where(of_x, program, program - xx - xy)
    on_x = local < tl.where(of_x, xx, yx)
    local = tl.where(on_x, local, local - tl.where(of_x, xx, yx))
    splits = tl.where(on_x, splits_x, splits_y)
    split = local % splits
    before = tl.where(on_x | (BLOCKS == "xy"), 0, splits_x)
    return of_x, on_x, local // splits, split, splits, before + split


@triton.jit
def evaluate(
    s, kept, weight, numbers, factors, FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr,
    OFFSETS: tl.constexpr, SUMS: tl.constexpr, MASKED: tl.constexpr, WEIGHTED: tl.constexpr,
    ALONE: tl.constexpr,
):  # fmt: skip
    """W of a tile of distances, the sums of its rows for each component, and those of a_c k_c.
    ``ALONE``: without a_c, the same for all pairs of a single component."""
    C: tl.constexpr = len(SHAPES)
    slopes = s
    values = s
    sums = ()
    for c in tl.static_range(C):
        k, slope = FUNCTIONS[c](s, numbers[c], SHAPES[c], OFFSETS[c])
        if ALONE:
            slopes = slope
            values = k
        elif c == 0:
            slopes = slope * factors[c]
            values = k * factors[c]
        else:
            slopes += slope * factors[c]
            values += k * factors[c]
        if SUMS:
            if WEIGHTED:
                k = k * weight[None, :]
            if MASKED:
                k = tl.where(kept, k, 0.0)
            sums = sums + (tl.sum(k, 1),)
    if WEIGHTED:
        slopes = slopes * weight[None, :]
        values = values * weight[None, :]
    if MASKED:
        slopes = tl.where(kept, slopes, 0.0)
        values = tl.where(kept, values, 0.0)
    row = tl.sum(values, 1)
    return slopes, sums, row


@triton.jit
def _halves(weight):
    """W as fp16 halves, row by row scaled, and what scales it back."""
    bits = tl.max(tl.abs(weight), 1).to(tl.int32, bitcast=True) & 0x7F800000
    bits = tl.minimum(tl.maximum(bits, 14 << 23), 253 << 23)
    up = ((140 << 23) + ((127 << 23) - bits)).to(tl.float32, bitcast=True)
    down = (bits - (13 << 23)).to(tl.float32, bitcast=True)
    scaled = weight * up[:, None]  # [BM, BN]
    head = (scaled.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)  # 11 bits
    return head.to(tl.float16), (scaled - head).to(tl.float16), down


@triton.jit
def _weighted(w_hi, w_lo, hi, lo):
    found = tl.dot(w_hi, lo)
    found = tl.dot(w_lo, hi, found)
    return tl.dot(w_hi, hi, found)  # [BM, BD]


@entry
def gram_gradient_kernel(
    partial, masses, potential, sums, flags, panel, low_panel, panel_scale,
    frame, coefs, coef_stride, programs,
    first_x, tiles_x, first_y, tiles_y, splits_x, splits_y, sums_stride, flags_stride, words,
    panel_stride, panel_y, slots,
    x0, x1, x_norm, x_most, x_weight, n, padded_x,
    y0, y1, y_norm, y_most, y_weight, m, padded_y,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr,
    METRIC: tl.constexpr, NEAR: tl.constexpr, WEIGHTED: tl.constexpr,
    GRADIENT: tl.constexpr, PANEL: tl.constexpr, POTENTIAL: tl.constexpr, SUMS: tl.constexpr,
    BLOCKS: tl.constexpr, D: tl.constexpr,
    BK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = len(SHAPES)
    FUSED: tl.constexpr = GRADIENT and not PANEL
    ALONE: tl.constexpr = C == 1 and not PANEL
    MASKED: tl.constexpr = C > FEW_COMPONENTS
    OWN: tl.constexpr = max(1, BM // BN)
    program, batch = program_of(programs)
    x_at = batch * padded_x * PADDING
    y_at = batch * padded_y * PADDING
    of_x, on_x, local, split, splits, slot = gradient_pair(
        program, tiles_x, tiles_y, splits_x, splits_y, BLOCKS
    )
    a0, a1, a_norm, a_weight, rows_n, a_at, row_most = x0, x1, x_norm, x_weight, n, x_at, x_most
    b0, b1, b_norm, b_weight, cols_n, b_at, most = x0, x1, x_norm, x_weight, n, x_at, x_most
    if not of_x:
        a0, a1, a_norm, a_weight, rows_n, a_at, row_most = y0, y1, y_norm, y_weight, m, y_at, y_most
    if not on_x:
        b0, b1, b_norm, b_weight, cols_n, b_at, most = y0, y1, y_norm, y_weight, m, y_at, y_most
    a0 += a_at * D
    a1 += a_at * D
    b0 += b_at * D
    b1 += b_at * D
    b_norm += b_at
    same = of_x == on_x
    tile = local + tl.where(of_x, first_x, first_y)
    across = tl.cdiv(cols_n, BN)
    each = tl.cdiv(across, splits)
    coefs += batch * coef_stride
    if BLOCKS == "all":
        coefs += tl.where(same, tl.where(of_x, 0, 1), 2) * C
    frame += batch * (FRAME + 2 * C)
    limit = tl.load(frame)
    nearest = tl.load(frame + 1)
    numbers = ()
    factors = ()
    for c in tl.static_range(C):
        numbers = numbers + (tl.load(frame + FRAME + c),)
        gain = tl.load(frame + FRAME + C + c) * tl.where(same, 2.0, 1.0)
        factors = factors + (tl.load(coefs + c) * gain,)

    rows = tile * BM + tl.arange(0, BM)
    row_norm = tl.load(a_norm + a_at + rows)
    groups = tile * BM // GROUP + tl.arange(0, (BM + GROUP - 1) // GROUP)
    reach = tl.max(tl.load(row_most + a_at // GROUP + groups), 0)
    most += b_at // GROUP
    row_at = tl.arange(0, BM)[:, None] * D + tl.arange(0, BK)[None, :]
    col_at = tl.arange(0, BN)[:, None] * D + tl.arange(0, BK)[None, :]
    a0 += (tile * BM).to(tl.int64) * D
    a1 += (tile * BM).to(tl.int64) * D
    row_hi, row_lo = tl.load(a0 + row_at), tl.load(a1 + row_at)
    lane = local + tl.where(of_x, 0, tiles_x)
    lanes = lane.to(tl.int64) * BM + tl.arange(0, BM)  # [BM]
    all_lanes = (tiles_x + tiles_y).to(tl.int64) * BM
    if PANEL:
        into = (batch * all_lanes + lanes)[:, None] * (panel_stride * PADDING)
        into += tl.where(on_x, 0, panel_y) * PADDING
        to_scale = panel_scale + (batch * all_lanes + lanes) * (panel_stride * PADDING // BN)
        to_scale += tl.where(on_x, 0, panel_y) * PADDING // BN
    total = (tl.zeros([BM], tl.float64),) * C
    weighted = tl.zeros([BM], tl.float64)
    mass = tl.zeros([BM], tl.float64)
    gradient = tl.zeros([BM, D if FUSED else 16], tl.float32)
    first = split * each
    nothing = tl.zeros([], tl.int64)
    flags += batch * flags_stride + program.to(tl.int64) * words
    own = tl.where(same, tile * BM // BN, across)  # the first column tile that has self pairs
    ragged = tl.where(cols_n % BN == 0, across, across - 1)
    for t in range(first, tl.minimum(first + each, across)):
        cols = t * BN + tl.arange(0, BN)
        b_first = (nothing + t) * (BN * D)
        col_hi, col_lo = tl.load(b0 + b_first + col_at), tl.load(b1 + b_first + col_at)
        s = gram(
            a0, a1, row_at, b0 + b_first, b1 + b_first, col_at,
            row_hi, row_lo, col_hi, col_lo, D, BK,
        )  # fmt: skip
        masked = ((t >= own) & (t < own + OWN)) | (t == ragged)
        norms = tl.load(most + t * BN // GROUP)
        if BN > GROUP:
            norms = tl.maximum(norms, tl.load(most + t * (BN // GROUP) + 1))
        norms += reach
        bad = not (norms <= limit)
        if METRIC == "sqeuclidean":
            s = row_norm[:, None] + tl.load(b_norm + cols)[None, :] - 2.0 * s
            if NEAR:
                apart = norms * CANCELLATION + nearest
                closest = s
                if masked:
                    itself = same & (rows[:, None] == cols[None, :])
                    closest = tl.where(itself | (cols >= cols_n)[None, :], float("inf"), s)
                bad = bad | (tl.min(tl.min(closest, 1), 0) < apart)
                s = tl.maximum(s, apart)
            else:
                s = tl.maximum(s, 0.0)
        else:
            s = tl.minimum(s, LARGEST)  # Triton 3.6 does not compile a product that branches take
        if bad:
            at = flags + (t - first) // 32
            tl.store(at, tl.load(at) | (1 << ((t - first) % 32)))
        weight = 0.0
        if WEIGHTED:
            weight = tl.load(b_weight + b_at + cols)
        if MASKED or masked:
            kept = (cols < cols_n)[None, :] & ~(same & (rows[:, None] == cols[None, :]))
            slopes, found, across_row = evaluate(
                s, kept, weight, numbers, factors, FUNCTIONS, SHAPES, OFFSETS,
                SUMS, True, WEIGHTED, ALONE,
            )  # fmt: skip
        else:
            slopes, found, across_row = evaluate(
                s, s, weight, numbers, factors, FUNCTIONS, SHAPES, OFFSETS,
                SUMS, False, WEIGHTED, ALONE,
            )  # fmt: skip
        if SUMS:
            grown = ()
            for c in tl.static_range(C):
                grown = grown + (total[c] + tl.where(bad, 0.0, found[c]).to(tl.float64),)
            total = grown
        if POTENTIAL:
            weighted += tl.where(bad, 0.0, across_row).to(tl.float64)
        if GRADIENT:
            mass += tl.where(bad, 0.0, tl.sum(slopes, 1)).to(tl.float64)
            w_hi, w_lo, down = _halves(slopes)
            down = tl.where(bad, 0.0, down)
            if PANEL:
                tl.store(panel + into + cols[None, :], w_hi)
                tl.store(low_panel + into + cols[None, :], w_lo)
                tl.store(to_scale + t, down)
            else:
                if D > BK:
                    whole = tl.arange(0, BN)[:, None] * D + tl.arange(0, D)[None, :]
                    col_hi, col_lo = tl.load(b0 + b_first + whole), tl.load(b1 + b_first + whole)
                moved = _weighted(w_hi, w_lo, col_hi, col_lo)
                gradient += moved * down[:, None]

    lanes += (batch * slots + slot) * all_lanes
    factor = 1.0
    if ALONE:
        factor = factors[0]
    if POTENTIAL:
        tl.store(potential + lanes, weighted * factor)
    if SUMS:
        row_weight = (rows < rows_n).to(tl.float64)
        if WEIGHTED:
            row_weight = tl.load(a_weight + a_at + rows).to(tl.float64)
        at = batch * sums_stride + program.to(tl.int64) * (C * BM) + tl.arange(0, BM)
        for c in tl.static_range(C):
            gain = tl.load(frame + FRAME + C + c)
            tl.store(sums + at + c * BM, total[c] * row_weight * gain)
    if PANEL:
        tl.store(masses + lanes, mass)
    if FUSED:
        span = tl.arange(0, BM)[:, None] * D + tl.arange(0, D)[None, :]
        if METRIC == "sqeuclidean":
            u = tl.load(a0 + span).to(tl.float32) + tl.load(a1 + span).to(tl.float32)
            gradient = u * mass.to(tl.float32)[:, None] - gradient
        to = partial + lanes[:, None] * D + tl.arange(0, D)[None, :]
        tl.store(to, gradient * factor)


@entry
def gram_product_kernel(
    panel, low_panel, panel_scale, masses, partial, scale, grad_x, grad_y,
    programs, d, first_x, tiles_x, first_y, tiles_y, splits_x, splits_y, panel_stride, panel_y,
    slots,
    x0, x1, x_weight, n, padded_x, y0, y1, y_weight, m, padded_y,
    METRIC: tl.constexpr, WEIGHTED: tl.constexpr, BLOCKS: tl.constexpr, D: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of rows, in some coordinates, from the panel of their weights."""
    program, batch = program_of(programs)
    chunks = tl.cdiv(d, BD)
    tile = program // chunks
    first_d = program % chunks * BD
    of_x = tile < tiles_x
    x0 += batch * padded_x * (PADDING * D)
    x1 += batch * padded_x * (PADDING * D)
    y0 += batch * padded_y * (PADDING * D)
    y1 += batch * padded_y * (PADDING * D)
    a0, a1, a_weight, rows_n, to, row = x0, x1, x_weight, n, grad_x, tile + first_x
    padded = padded_x
    if not of_x:
        a0, a1, a_weight, rows_n, to = y0, y1, y_weight, m, grad_y
        row = tile - tiles_x + first_y
        padded = padded_y
    lanes = tile.to(tl.int64) * BM + tl.arange(0, BM)
    all_lanes = (tiles_x + tiles_y).to(tl.int64) * BM
    rows = row.to(tl.int64) * BM + tl.arange(0, BM)
    span = first_d + tl.arange(0, BD)
    held = (span < D)[None, :]
    if D % BD == 0:
        held = None
    at = (batch * all_lanes + lanes) * (panel_stride * PADDING)
    at_scale = panel_scale + (batch * all_lanes + lanes) * (panel_stride * PADDING // BN)
    gradient = tl.zeros([BM, BD], tl.float32)
    for side in tl.static_range(2):
        b0, b1, cols_n, shift = x0, x1, n, 0
        met = (BLOCKS != "xy") | (not of_x)
        if side == 1:
            b0, b1, cols_n, shift = y0, y1, m, panel_y * PADDING
            met = (BLOCKS == "all") | ((BLOCKS == "xy") & of_x)
        for t in range(0, tl.where(met, tl.cdiv(cols_n, BN), 0)):
            cols = t * BN + tl.arange(0, BN)
            from_panel = at[:, None] + (shift + cols)[None, :]
            w_hi = tl.load(panel + from_panel)  # [BM, BN]
            w_lo = tl.load(low_panel + from_panel)
            other = cols.to(tl.int64)[:, None] * D + span[None, :]
            hi = tl.load(b0 + other, mask=held)  # [BN, BD]
            lo = tl.load(b1 + other, mask=held)
            down = tl.load(at_scale + shift // BN + t)
            gradient += _weighted(w_hi, w_lo, hi, lo) * down[:, None]
    if METRIC == "sqeuclidean":
        mass = tl.zeros([BM], tl.float64)
        used = tl.where((BLOCKS == "xy") & of_x, 0, splits_x)
        used += tl.where((BLOCKS == "all") | ((BLOCKS == "xy") & of_x), splits_y, 0)
        for slot in range(0, used):
            mass += tl.load(masses + (batch * slots + slot) * all_lanes + lanes)
        at_u = rows[:, None] * D + span[None, :]
        u = tl.load(a0 + at_u, mask=held).to(tl.float32)
        u += tl.load(a1 + at_u, mask=held).to(tl.float32)
        gradient = u * mass.to(tl.float32)[:, None] - gradient
    for slot in range(0, 2):  # what the tiles that were left out give
        redone = ((batch * 2 + slot) * all_lanes + lanes)[:, None] * D + span[None, :]
        gradient += tl.load(partial + redone, mask=held)
    factor = tl.load(scale + batch)
    kept = (rows < rows_n)[:, None] & (span < d)[None, :]
    if WEIGHTED:
        weight = tl.load(a_weight + batch * padded * PADDING + rows)
        gradient = gradient * weight[:, None]
    tl.store(
        to + (batch * rows_n + rows)[:, None] * d + span[None, :], gradient * factor, mask=kept
    )
