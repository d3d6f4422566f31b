"""The form of one small problem under ``torch.compile``, of plain operations that are fused.

Of static shape only: sizes that vary go through the operator of ``operations``, of which one graph
serves all. The number of operations does not count here, so the blocks xx, yy and xy are apart. The
kernel functions are those of the eager way (``small.mixture``). Where distances would lose digits,
the operator, which has the whole ladder of ``tiles``, takes over while the graph runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..functions import Rate
from ..problem import Component, PairProblem, block_names, factors, tensors_of
from ..validation import transforms_active
from .small import mixture
from .tiles import (
    CANCELLATION,
    DIFFERENCE_COLUMNS,
    EXPONENT_ERROR,
    LEAST_SIZE,
    RANGE,
    TILE,
    doubles_suffice,
    exponent_error,
    is_lowered,
)

TRACEABLE = torch.__version__ >= "2.13"  # 2.6 does not trace it; others were not run
FEW_COLUMNS = 8  # up to which sums of differences cost no more than products, and lose no digits


def applies(problem: PairProblem) -> bool:
    """One problem [n, d], [m, d] in fp32 without weights, of static shape and at most ``TILE`` rows
    each, on squared Euclidean distances, while dynamo traces."""
    if not (TRACEABLE and torch.compiler.is_dynamo_compiling()):
        return False
    from torch.fx.experimental.symbolic_shapes import has_static_value  # dynamo has loaded it

    samples = (problem.x,) if problem.y is None else (problem.x, problem.y)
    return (
        problem.metric == "sqeuclidean"
        and problem.wx is None
        and problem.wy is None
        and problem.backend == "reference"
        and all(t.dim() == 2 and t.is_cpu and t.dtype == torch.float32 for t in samples)
        and all(has_static_value(size) for t in samples for size in t.shape)
        and all(0 < t.shape[0] <= TILE for t in samples)
        and not torch.is_autocast_enabled("cpu")
        and not is_lowered("cpu")
        and not transforms_active()
    )


def form(
    problem: PairProblem,
    block_coefs: Sequence[float],
    coefficients: Sequence[float],
    operator: Callable[[PairProblem], tuple[Tensor, ...]],
) -> Tensor:
    """L, 0-d in fp64. ``operator`` gives L and all gradients (empty where not wanted) by the way
    that has no limits."""
    x, y, wanted = problem.x, problem.y, problem.wanted
    fixed = problem.with_tensors([None if t is None else t.detach() for t in tensors_of(problem)])
    coefs = factors(block_coefs, *problem.sizes, problem.blocks, problem.means)
    found, flag = _evaluate(fixed, coefs, coefficients)

    def keep() -> tuple[Tensor, ...]:
        return tuple(t.clone() for t in found)

    def by_operator() -> tuple[Tensor, ...]:
        value, *gradients = operator(fixed)
        pairs = zip(gradients[:2], wanted[1:3], strict=True)
        return value, *(g.reshape(-1) for g, want in pairs if want)

    out: tuple[Tensor, ...] = torch.cond(flag, keep, by_operator, ())
    total, *gradients = out
    followed = [t for t, track in zip((x, y), wanted[1:3], strict=True) if track and t is not None]
    for sample, gradient in zip(followed, gradients, strict=True):
        nothing = sample - sample.detach()  # whose gradient is the one that is known
        total = total + (nothing * gradient.view(sample.shape)).sum()
    return total


class _Samples(NamedTuple):
    """Both samples side by side."""

    given: Tensor  # [d, n+m]
    centred: Tensor  # [d, n+m]
    norms: Tensor  # [n+m], of the centred ones
    products: torch.dtype  # in which they are made

    def distances(self, i: slice, j: slice) -> Tensor:
        """s of two ranges of rows: by differences or, of many columns, from their products."""
        u, v = self.given[:, i], self.given[:, j]
        if len(u) <= DIFFERENCE_COLUMNS:
            return (u.unsqueeze(2) - v.unsqueeze(1)).square().sum(0)
        norms, points = self.norms.to(self.products), self.centred.to(self.products)
        s = norms[i].unsqueeze(1) + norms[j] - 2.0 * (points[:, i].T @ points[:, j])
        return s.to(u.dtype)

    def pull(self, slopes: Tensor, i: slice, j: slice) -> Tensor:
        """Σⱼ slopeᵢⱼ·(uᵢ − uⱼ) [r, d]: by differences or, of many columns, as two products."""
        u, v = self.given[:, i], self.given[:, j]
        if len(u) <= FEW_COLUMNS:
            return (slopes * (u.unsqueeze(2) - v.unsqueeze(1))).sum(2).T
        slopes, points = slopes.to(self.products), self.centred.to(self.products)
        return slopes.sum(1, keepdim=True) * points[:, i].T - slopes @ points[:, j].T


def _evaluate(
    problem: PairProblem, coefs: Sequence[float], coefficients: Sequence[float]
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The value and the gradients that are wanted, flat, and a flag 0-d: whether they have all
    their digits. For ``coefs`` of blocks and ``coefficients`` of components."""
    x, y, wanted, components = problem.x, problem.y, problem.wanted, problem.components
    rates, smooth = problem.rates, problem.smooth
    numbers: list[Rate] = list(rates.unbind() if isinstance(rates, Tensor) else rates)
    n, m = problem.sizes
    given = torch.cat([t.T for t in (x, y) if t is not None], 1)
    centred = given - given.mean(1, keepdim=True)
    narrow = smooth and len(components) > 1  # one of several bandwidths is, as a rule
    products = torch.float64 if narrow else x.dtype
    samples = _Samples(given, centred, centred.square().sum(0), products)
    rows = {"x": slice(0, n), "y": slice(n, n + m)}
    needed = {"x": wanted.grad_x, "y": wanted.grad_y}
    found: dict[str, list[Tensor]] = {"x": [], "y": []}
    total, nearest = torch.zeros((), dtype=torch.float64), []
    for block, factor in zip(block_names(problem.blocks), coefs, strict=True):
        i, j = block[0], block[1]
        slopes = needed[i] or needed[j]
        s = samples.distances(rows[i], rows[j])
        nearest.append((_off_diagonal(s, torch.inf) if i == j else s).amin())
        k = mixture(s, components, numbers, coefficients, slopes)
        value = _off_diagonal(k.value, 0.0) if i == j else k.value
        total = total + (factor * k.value_scale) * value.sum(1).double().sum()
        if slopes:
            slope = _off_diagonal(k.slope, 0.0) if i == j else k.slope
            scale = k.slope_scale * (2.0 * factor if i == j else factor)  # in both orders
            if needed[i]:
                found[i].append(samples.pull(slope, rows[i], rows[j]) * scale)
            if needed[j] and i != j:
                found[j].append(samples.pull(slope.T, rows[j], rows[i]) * scale)
    gradients = (
        sum(parts[1:], start=parts[0]).to(x.dtype).reshape(-1) for parts in found.values() if parts
    )
    flag = _has_digits(samples, nearest, components, numbers, any(wanted))
    return (total, *gradients), flag


def _off_diagonal(matrix: Tensor, other: float) -> Tensor:
    """The matrix with ``other`` on its diagonal."""
    row = torch.arange(len(matrix), dtype=torch.int32)  # of the width of fp32: vectorised
    return torch.where(row.unsqueeze(1) == row, other, matrix)


def _has_digits(
    samples: _Samples,
    nearest: list[Tensor],
    components: tuple[Component, ...],
    rates: Sequence[Rate],
    gradients: bool,
) -> Tensor:
    """Whether no digits are lost, by the thresholds of ``small``: to the range of fp32, to products
    for a narrow kernel, to near pairs and, in differences of products, to equal ones."""
    given, top = samples.given, samples.norms.amax()
    smooth = all(c.function.smooth for c in components)
    steepness = [c.function.steepness(r, c.shape) for c, r in zip(components, rates, strict=True)]
    rate = torch.stack([torch.as_tensor(a, dtype=torch.float64) for a in steepness]).amax()
    flag = (top > RANGE[0]) & (top < RANGE[1]) & (rate < RANGE[1])  # NaN is not
    by_differences = len(given) <= DIFFERENCE_COLUMNS
    if by_differences and not smooth:
        sizes = given.abs()
        flag = flag & ~((sizes < LEAST_SIZE) & (sizes > 0.0)).any()
    if not by_differences or (gradients and len(given) > FEW_COLUMNS):
        unresolved = 4.0 * torch.finfo(given.dtype).eps if smooth else CANCELLATION
        if gradients or not smooth:
            flag = flag & (torch.stack(nearest).amin() > 2.0 * unresolved * top)
        if smooth and samples.products == torch.float64:
            flag = flag & doubles_suffice(2.0 * top, rate)
        elif smooth:
            error = exponent_error(2.0 * top, rate, given.dtype)
            flag = flag & (error <= EXPONENT_ERROR[given.dtype])
    return flag
