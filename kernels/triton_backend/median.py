"""The median of the positive distances of up to 256 pooled rows, and rates made of it, on CUDA: two
launches that need nothing from the host.

Rows are those of ``subsample.pooled_rows``. Differences are formed of the numbers as they are and
squared in fp64, so that equal rows are exactly 0 apart and no others are. Distances are rounded to
fp32, whose bits have the order of the numbers: ``select_kernel`` finds the one of the wanted rank
bit by bit.
"""

# The compiler reads this file, and wants some things said in its own way.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..functions import Metric
from . import launcher
from .configs import Config
from .differences import entry, program_of
from .launcher import cdiv

PAIRS = 64  # of a program


@triton.jit
def _row(number, total, HASHED: tl.constexpr):
    """As ``subsample.hashed_rows``."""
    if HASHED:
        h = (number + 1).to(tl.uint32)
        h = (h ^ (h >> 16)) * 0x85EBCA6B
        h = (h ^ (h >> 13)) * 0xC2B2AE35
        number = (h ^ (h >> 16)).to(tl.int64) % total
    return number.to(tl.int64)


@triton.jit
def _load(x, y, row, columns, n, m, d, x_sn, x_sd, y_sn, y_sd):
    inside = (columns < d)[None, :]
    row, columns = row[:, None], columns[None, :].to(tl.int64)
    of_x, of_y = inside & (row < n), inside & (row >= n) & (row < n + m)
    u = tl.load(x + row * x_sn + columns * x_sd, mask=of_x, other=0.0)
    v = tl.load(y + (row - n) * y_sn + columns * y_sd, mask=of_y, other=0.0)
    return tl.where(of_x, u, v).to(tl.float64)  # [PAIRS, BK]


@entry
def distance_kernel(
    out, x, y, programs, rows, n, m, d, x_sb, x_sn, x_sd, y_sb, y_sn, y_sd,
    METRIC: tl.constexpr, HASHED: tl.constexpr, BP: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    program, batch = program_of(programs)
    x += batch * x_sb
    y += batch * y_sb
    number = program * BP + tl.arange(0, BP)
    i, step = number % rows, number // rows + 1  # row i meets the next ones, half way round
    a = _row(i, n + m, HASHED)
    b = _row((i + step) % rows, n + m, HASHED)
    s = tl.zeros([BP], tl.float64)
    for first in range(0, d, BK):
        columns = first + tl.arange(0, BK)
        difference = _load(x, y, a, columns, n, m, d, x_sn, x_sd, y_sn, y_sd)
        difference -= _load(x, y, b, columns, n, m, d, x_sn, x_sd, y_sn, y_sd)
        if METRIC == "l1":
            s += tl.sum(tl.abs(difference), 1)
        else:
            s += tl.sum(difference * difference, 1)
    if METRIC != "l1":
        s = tl.sqrt(s)
    once = (2 * step < rows) | ((2 * step == rows) & (2 * i < rows))
    tl.store(out + batch * (programs * BP) + number, tl.where(once, s, 0.0).to(tl.float32))


@entry
def select_kernel(
    median, rates, distances, count,
    FACTORS: tl.constexpr, ORDERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    distance = tl.load(distances + batch * count + at, mask=at < count, other=0.0)
    positive = distance > 0.0
    bits = tl.where(positive, distance.to(tl.int32, bitcast=True), 0x7FFFFFFF)
    found = tl.sum(positive.to(tl.int32), 0)
    rank = (found - 1) // 2  # the lower one of two, as torch has it
    value = rank * 0
    for step in range(31):
        above = value + (1 << (30 - step))
        value = tl.where(tl.sum((bits < above).to(tl.int32), 0) <= rank, above, value)
    sigma = tl.where(found > 0, value.to(tl.float32, bitcast=True), 1.0).to(tl.float64)
    tl.store(median + batch, sigma)
    for c in tl.static_range(len(FACTORS)):
        rate = sigma * 0.0 + FACTORS[c]
        if ORDERS[c] >= 1:
            rate /= sigma
        if ORDERS[c] == 2:
            rate /= sigma
        tl.store(rates + batch * len(FACTORS) + c, rate)


class Scales(NamedTuple):
    """Medians [...] and rates [B, C], factor·median^(−order), in fp64."""

    median: Tensor
    rates: Tensor


def scales(
    x: Tensor, y: Tensor | None, metric: Metric, most: int,
    factors: tuple[float, ...] = (), orders: tuple[int, ...] = (),
) -> Scales:  # fmt: skip
    """Of fp32 samples [..., n, d] and [..., m, d] of one batch shape, by ``most`` rows."""
    n, d = x.shape[-2:]
    m = 0 if y is None else y.shape[-2]
    rows = min(most, n + m)
    u = x.reshape(-1, n, d)
    v = u if y is None else y.reshape(-1, m, d)
    slots = cdiv(max(rows * (rows // 2), 1), PAIRS) * PAIRS
    programs, batch = slots // PAIRS, len(u)
    distances = u.new_empty((batch, slots))
    found = Scales(
        u.new_empty(x.shape[:-2], dtype=torch.float64),
        u.new_empty((batch, len(factors)), dtype=torch.float64),
    )
    (x_sb, x_sn, x_sd), (y_sb, y_sn, y_sd) = u.stride(), v.stride()
    width = min(32, 1 << (d - 1).bit_length())
    block = 1 << (slots - 1).bit_length()
    with torch.cuda.device_of(x):
        launcher.launch(
            distance_kernel, (programs * batch,), Config(PAIRS, PAIRS, width, 4, 1),
            out=distances, x=u, y=v, programs=programs, rows=rows, n=n, m=m, d=d,
            x_sb=x_sb, x_sn=x_sn, x_sd=x_sd, y_sb=y_sb, y_sn=y_sn, y_sd=y_sd,
            METRIC=metric, HASHED=n + m > most, BP=PAIRS, BK=width,
        )  # fmt: skip
        launcher.launch(
            select_kernel, (batch,), Config(1, block, 1, 16 if block > 2048 else 4, 1),
            median=found.median, rates=found.rates, distances=distances, count=slots,
            FACTORS=factors, ORDERS=orders, BLOCK=block,
        )  # fmt: skip
    return found
