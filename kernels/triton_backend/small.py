"""The form of a small problem on CUDA in two launches: its total, gradients beside it, no weights.

``pooled_kernel`` gives each program a few rows of one sample and all rows of both as columns, in
the difference form on the raw coordinates (see ``differences``): slopes stay in registers while
the coordinates are gone through a second time for the gradient, so that it needs no second launch.
The estimator's factors are formed from n and m in fp64, and kernel values summed in fp64, one
partial per program. ``total_kernel`` adds these in a fixed order, adds the constant and rounds to
the dtype of the result. A counter of finished programs would spare the second launch, but two
replays of a graph at a time would share it.
"""

# The compiler reads this file, and wants some things said in its own way.
# ruff: noqa: RET505
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..problem import PairProblem
from . import launcher
from .configs import MOST, TOGETHER, Config
from .differences import entry, program_of
from .launcher import cdiv

ROWS = 512  # of a sample, up to which its columns fit in the registers of a program
WORK = 2**24  # pairs·coordinates up to which columns may be loaded anew for every four rows


@triton.jit
def _pairs(
    a, rows, n, a_sd, b, cols, m, b_sd, d, same, rates, weights,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr, METRIC: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    s = tl.zeros([rows.shape[0], cols.shape[0]], tl.float32)
    for first in range(0, d, BK):
        for k in tl.static_range(BK):
            at = first + k
            u = tl.load(a + at * a_sd, mask=(rows < n) & (at < d), other=0.0)[:, None]
            v = tl.load(b + at * b_sd, mask=(cols < m) & (at < d), other=0.0)[None, :]
            if METRIC == "inner":
                s += u * v
            elif METRIC == "l1":
                s += tl.abs(u - v)
            else:
                s += (u - v) * (u - v)
    s += s * 0.0  # infinite is NaN
    values = tl.zeros_like(s)
    slopes = tl.zeros_like(s)
    for c in tl.static_range(len(SHAPES)):
        rate = tl.load(rates + c).to(tl.float32)
        weight = tl.load(weights + c)
        value, slope = FUNCTIONS[c](s, rate, SHAPES[c], OFFSETS[c])
        values += value * weight
        slopes += slope * weight
    met = (rows < n)[:, None] & (cols < m)[None, :]
    met &= tl.where(same, rows, -1)[:, None] != cols[None, :]
    total = tl.sum(tl.sum(tl.where(met, values, 0.0).to(tl.float64), 1), 0)
    return total, tl.where(met, slopes, 0.0)  # [BM, BN]


@triton.jit
def _towards(u, v, METRIC: tl.constexpr):
    if METRIC == "inner":
        return v
    elif METRIC == "l1":
        return tl.where(u > v, 1.0, tl.where(u < v, -1.0, 0.0))
    else:
        return u - v


@entry
def pooled_kernel(
    partial, grad_x, grad_y, rates, weights, x, y, rate_stride, programs, n, m, d,
    x_sb, x_sn, x_sd, y_sb, y_sn, y_sd,
    FUNCTIONS: tl.constexpr, SHAPES: tl.constexpr, OFFSETS: tl.constexpr, METRIC: tl.constexpr,
    MEANS: tl.constexpr, RATIOS: tl.constexpr, GRADIENT_X: tl.constexpr, GRADIENT_Y: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    program, batch = program_of(programs)
    x += batch * x_sb
    y += batch * y_sb
    rates += batch * rate_stride
    tiles_x = tl.cdiv(n, BM)
    of_x = program < tiles_x
    a, count, a_sn, a_sd, into, tile = x, n, x_sn, x_sd, grad_x, program
    if not of_x:
        a, count, a_sn, a_sd, into, tile = y, m, y_sn, y_sd, grad_y, program - tiles_x
    rows = tile * BM + tl.arange(0, BM)
    cols = tl.arange(0, BN)
    a_sd, x_sd, y_sd = a_sd.to(tl.int64), x_sd.to(tl.int64), y_sd.to(tl.int64)
    a += rows.to(tl.int64) * a_sn  # [BM]: of the first coordinates
    x += cols.to(tl.int64) * x_sn  # [BN]
    y += cols.to(tl.int64) * y_sn
    own = count.to(tl.float64)
    cross = n.to(tl.float64) * m.to(tl.float64)
    if MEANS == "unbiased":
        own *= own - 1.0
    elif MEANS == "biased":
        own *= own
    else:
        own, cross = own * 0.0 + 1.0, cross * 0.0 + 1.0
    own = RATIOS[0] / own
    if len(RATIOS) == 3:
        if not of_x:
            own *= RATIOS[1] / RATIOS[0]
        cross = RATIOS[2] / cross

    total = own * 0.0
    slopes_x = tl.zeros([BM, BN], tl.float32)
    slopes_y = tl.zeros([BM, BN], tl.float32)
    if of_x or GRADIENT_Y:
        found, slopes_x = _pairs(
            a, rows, count, a_sd, x, cols, n, x_sd, d, of_x, rates, weights,
            FUNCTIONS, SHAPES, OFFSETS, METRIC, BK,
        )  # fmt: skip
        if of_x:
            total += own * found
            slopes_x *= (2.0 * own).to(tl.float32)
        else:
            slopes_x *= cross.to(tl.float32)
    if len(RATIOS) == 3:
        found, slopes_y = _pairs(
            a, rows, count, a_sd, y, cols, m, y_sd, d, not of_x, rates, weights,
            FUNCTIONS, SHAPES, OFFSETS, METRIC, BK,
        )  # fmt: skip
        if of_x:
            total += cross * found
            slopes_y *= cross.to(tl.float32)
        else:
            total += own * found
            slopes_y *= (2.0 * own).to(tl.float32)
    tl.store(partial + batch * programs + program, total)

    if (of_x and GRADIENT_X) or (not of_x and GRADIENT_Y):
        to = into + (batch * count + rows) * d
        for first in range(0, d, BK):
            for k in tl.static_range(BK):
                at = first + k
                kept = (rows < count) & (at < d)
                u = tl.load(a + at * a_sd, mask=kept, other=0.0)[:, None]
                v = tl.load(x + at * x_sd, mask=(cols < n) & (at < d), other=0.0)[None, :]
                moved = slopes_x * _towards(u, v, METRIC)  # [BM, BN]
                if len(RATIOS) == 3:
                    v = tl.load(y + at * y_sd, mask=(cols < m) & (at < d), other=0.0)[None, :]
                    moved += slopes_y * _towards(u, v, METRIC)
                tl.store(to + at, tl.sum(moved, 1), mask=kept)


@entry
def total_kernel(
    out, partial, coefs, constant, count,
    COEFS: tl.constexpr, CONSTANT: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BP)
    found = tl.load(partial + batch * count + at, mask=at < count, other=0.0)
    if COEFS:
        found *= tl.load(coefs + at, mask=at < count, other=0.0)
    total = tl.sum(found, 0)
    if CONSTANT:
        total += tl.load(constant)
    tl.store(out + batch, total)


def applies(problem: PairProblem) -> bool:
    """A flat problem without weights, of few rows and little work, with coefficients of components
    that are proportional in all blocks."""
    if problem.wx is not None or problem.wy is not None or problem.blocks == "xy":
        return False
    n, m = problem.sizes
    batch, _, d = problem.x.shape
    return (
        0 < n <= ROWS
        and m <= ROWS
        and (m > 0 or problem.y is None)
        and n + m <= launcher.SMALL
        and 0 < batch * (n + m) ** 2 * d <= WORK
        and problem.apart is not None
    )


@lru_cache(maxsize=256)
def _config(rows: int, coordinates: int, components: int) -> Config:
    """For samples of no more than ``rows``: all columns at once, and few rows in a program, so that
    256 in each sample fill a GPU and nothing spills."""
    columns = max(64, 1 << (rows - 1).bit_length())
    tile = (2 if columns > 256 else 4) // (1 if components <= TOGETHER else 2)
    slice_ = min(16, 1 << (coordinates - 1).bit_length())
    return Config(tile, columns, slice_, 4 if columns < 256 else 8, 1, MOST)


def form(problem: PairProblem) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
    """L [B] and the gradients of samples, of what ``applies``."""
    x, y, components, wanted = problem.x, problem.y, problem.components, problem.wanted
    assert problem.apart is not None
    of_blocks, of_components = problem.apart
    batch, n, d = x.shape
    y = x if y is None else y
    m = 0 if problem.y is None else y.shape[1]
    config = _config(max(n, m), d, len(components))
    programs = cdiv(n, config.rows) + cdiv(m, config.rows)
    partial = x.new_empty((batch, programs), dtype=torch.float64)
    grad_x = x.new_empty(x.shape if wanted.grad_x else (0,))
    grad_y = x.new_empty(y.shape if wanted.grad_y else (0,))
    held, stride = launcher.rates_of(problem.rates, x.device)
    x_sb, x_sn, x_sd = x.stride()
    y_sb, y_sn, y_sd = y.stride()
    launcher.launch(
        pooled_kernel, (programs * batch,), config,
        partial=partial, grad_x=grad_x, grad_y=grad_y, rates=held,
        weights=launcher.constant(of_components, x.device),
        x=x, y=y, rate_stride=stride, programs=programs, n=n, m=m, d=d,
        x_sb=x_sb, x_sn=x_sn, x_sd=x_sd, y_sb=y_sb, y_sn=y_sn, y_sd=y_sd,
        **launcher.functions(components),
        MEANS=problem.means, RATIOS=of_blocks,
        GRADIENT_X=wanted.grad_x, GRADIENT_Y=wanted.grad_y,
        BM=config.rows, BN=config.columns, BK=config.slice,
    )  # fmt: skip
    gradients = grad_x if wanted.grad_x else None, grad_y if wanted.grad_y else None
    return total(partial, None, problem), *gradients, None, None


def total(terms: Tensor, coefs: Sequence[float] | None, problem: PairProblem) -> Tensor:
    """Σ coefs·terms + constant [B] in the dtype of the problem, for terms [B, ...] in fp64."""
    flat = terms.flatten(1)
    batch, count = flat.shape
    out = terms.new_empty(batch, dtype=problem.dtype)
    constant = held = flat
    if coefs is not None:
        held = launcher.constant(tuple(coefs), terms.device, torch.float64)
    if problem.constant:
        constant = launcher.constant((problem.constant,), terms.device, torch.float64)
    block = max(128, 1 << (count - 1).bit_length())
    launcher.launch(
        total_kernel, (batch,), Config(1, block, 1, 4, 1),
        out=out, partial=flat, coefs=held, constant=constant, count=count,
        COEFS=coefs is not None, CONSTANT=problem.constant != 0.0, BP=block,
    )  # fmt: skip
    return out
