"""Bandwidth rules: from a pooled sample to σ, on its device, without synchronising, no gradient."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .functions import Metric
from .subsample import pooled_rows
from .validation import is_on_host

Rule = Literal["median", "dimension"]
RULES: tuple[Rule, ...] = ("median", "dimension")
MEDIAN_ROWS = 256
_TIE = 2.0**-46  # of |u|² + |v|²: what rounding makes of a squared distance of zero


def median_distance(x: Tensor, y: Tensor | None, metric: Metric) -> Tensor:
    """The median of the positive pairwise distances of the pooled rows, [...] for x [..., n, d].

    Euclidean distances, or L1 ones for the metric ``l1``. Beyond ``MEDIAN_ROWS`` pooled rows, of a
    fixed scattered subsample of that many. Zero distances (ties) do not count: on discrete data
    the plain median is often 0. With no positive distance at all the result is 1, which no value
    depends on.
    """
    rows = pooled_rows(x.detach(), None if y is None else y.detach(), MEDIAN_ROWS).double()
    if rows.shape[-2] == 0:
        return rows.new_ones(rows.shape[:-2])
    rows = rows - rows.median(-2, keepdim=True).values  # fp64 has digits for what an outlier costs
    # One operator whatever the metric, and one that autocast does not lower.
    distance = torch.cdist(rows, rows, p=1.0 if metric == "l1" else 2.0)
    norms = rows.square().sum(-1)
    if distance.dim() == 2 and is_on_host(distance):
        return _median_on_host(distance, norms)
    positive = distance.square() > _TIE * (norms.unsqueeze(-1) + norms.unsqueeze(-2))
    middle = torch.where(positive, distance, torch.nan).flatten(-2).nanmedian(-1).values
    return torch.nan_to_num(middle, nan=1.0)


def _median_on_host(distance: Tensor, norms: Tensor) -> Tensor:
    """The same of one triangle [N, N], at a fifth of the time."""
    i, j, flat = _triangle(len(norms))
    d, squares = distance.numpy().reshape(-1).take(flat), norms.numpy()
    positive = d[d * d > _TIE * (squares.take(i) + squares.take(j))]
    if len(positive) == 0:
        return distance.new_ones(())
    middle = (len(positive) - 1) // 2  # the lower one of two, as torch has it
    return distance.new_tensor(np.partition(positive, middle)[middle])


@lru_cache(maxsize=4)
def _triangle(n: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Rows, columns and flat positions of the pairs i < j."""
    i, j = np.triu_indices(n, 1)
    return i, j, i * n + j
