"""Bandwidth rules: from a pooled sample to σ, on its device, without synchronising, no gradient."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .backends import choose
from .functions import Metric
from .reference.tiles import BY_DIFFERENCES
from .subsample import pooled_rows
from .validation import is_on_host, is_recorded, transforms_active

Rule = Literal["median", "mean", "dimension"]
RULES: tuple[Rule, ...] = ("median", "mean", "dimension")
MEDIAN_ROWS = 256
_POWERS = {"sqeuclidean": 2.0, "inner": 2.0, "l1": 1.0}
_NEAR = 2.0**-20  # of |u|² + |v|²: below it a Gram product leaves d² fewer than 9 digits


def mean_distance(x: Tensor, y: Tensor | None) -> Tensor:
    """√ of half the mean squared Euclidean distance of the pooled rows, the root of their total
    variance, [...] in fp64; 1 if that is 0. In O((n + m)·d), of all rows."""
    pooled = x.detach() if y is None else torch.cat([x.detach(), y.detach()], -2)
    if pooled.shape[-2] < 2:
        return torch.ones(pooled.shape[:-2], dtype=torch.float64, device=x.device)
    spread = pooled.double().var(-2).sum(-1).sqrt()
    return torch.where(spread == 0.0, 1.0, spread)


def median_distance(x: Tensor, y: Tensor | None, metric: Metric) -> Tensor:
    """The median of the positive pairwise distances of the pooled rows, [...] for x [..., n, d].

    Euclidean distances, or L1 ones for the metric ``l1``. Beyond ``MEDIAN_ROWS`` pooled rows, of a
    fixed scattered subsample of that many. Distances are those of the rows as given, by differences
    in fp64 wherever that matters, and positive ones are those of rows that differ: ties do not
    count, as on discrete data the plain median is often 0. With no positive distance at all the
    result is 1, which no value depends on.
    """
    x, y = x.detach(), None if y is None else y.detach()
    if x.dim() == 2 and x.is_cpu and torch.compiler.is_compiling():
        found: Tensor = _operator(x, y, metric)
        return found
    if by_triton(x, y):
        return triton_scales(x, y, metric)[0]
    rows = pooled_rows(x, y, MEDIAN_ROWS).double()
    if rows.shape[-2] == 0:
        return rows.new_ones(rows.shape[:-2])
    if rows.dim() == 2 and is_on_host(rows):
        return rows.new_tensor(_median_on_host(rows, metric))
    distance = torch.cdist(rows, rows, p=_POWERS[metric], compute_mode=BY_DIFFERENCES)
    positive = torch.where(distance > 0, distance, torch.nan)
    return torch.nan_to_num(positive.flatten(-2).nanmedian(-1).values, nan=1.0)


@torch.library.custom_op("divergences::median_distance", mutates_args=())
def _operator(x: Tensor, y: Tensor | None, metric: str) -> Tensor:
    """The same where a compiler would trace the slower way; x [n, d], y [m, d]."""
    return median_distance(x, y, metric).double()  # type: ignore[arg-type]


@_operator.register_fake
def _(x: Tensor, y: Tensor | None, metric: str) -> Tensor:  # noqa: ARG001
    return x.new_empty((), dtype=torch.float64)


@_operator.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], x: Tensor, y: Tensor | None, metric: str) -> Any:
    def batched(t: Tensor, dim: int | None) -> Tensor:
        return t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)

    other = None if y is None else batched(y, in_dims[1])
    return median_distance(batched(x, in_dims[0]), other, metric), 0  # type: ignore[arg-type]


def by_triton(x: Tensor, y: Tensor | None) -> bool:
    """Whether kernels of our own take these samples: fp32 on CUDA, in eager mode."""
    if torch.compiler.is_compiling():  # first: nothing below is to be traced
        return False
    return (
        type(x.detach()) is Tensor
        and x.dtype == torch.float32
        and x.numel() > 0
        and (y is None or (y.dtype == x.dtype and y.shape[:-2] == x.shape[:-2]))
        and not transforms_active()
        and not is_recorded()
        and x.is_cuda
        and choose(x, None) == "triton"
    )


def triton_scales(
    x: Tensor,
    y: Tensor | None,
    metric: Metric,
    factors: tuple[float, ...] = (),
    orders: tuple[int, ...] = (),
) -> tuple[Tensor, Tensor]:
    """The median [...] and rates [B, C], factor·median^(−order), in two launches."""
    from .triton_backend import median

    y = None if y is None else y.detach()
    return median.scales(x.detach(), y, metric, MEDIAN_ROWS, factors, orders)


def _median_on_host(rows: Tensor, metric: Metric) -> float:
    """The same of one triangle, at a fifth of the time: by a Gram product where that is precise."""
    i, j, flat = _triangle(len(rows))
    centred = rows - rows.median(0).values  # fp64 has digits for what an outlier costs
    d = torch.cdist(centred, centred, p=_POWERS[metric]).numpy().reshape(-1).take(flat)
    if metric != "l1":
        squares = centred.square().sum(-1).numpy()
        with np.errstate(over="ignore"):  # an infinite distance is reported where it is used
            near = np.flatnonzero(d * d <= _NEAR * (squares.take(i) + squares.take(j)))
            if len(near):
                r = rows.numpy()
                d[near] = np.linalg.norm(r[i[near]] - r[j[near]], axis=1)
    positive = d[d > 0.0]
    if len(positive) == 0:
        return 1.0
    middle = (len(positive) - 1) // 2  # the lower one of two, as torch has it
    return float(np.partition(positive, middle)[middle])


@lru_cache(maxsize=4)
def _triangle(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Rows, columns and flat positions of the pairs i < j."""
    i, j = np.triu_indices(n, 1)
    return i, j, i * n + j
