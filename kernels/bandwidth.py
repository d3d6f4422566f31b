"""Bandwidth rules: from a pooled sample to σ, on its device, without synchronising, no gradient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .functions import Metric
from .subsample import pooled_rows

Rule = Literal["median", "dimension"]
RULES: tuple[Rule, ...] = ("median", "dimension")
MEDIAN_ROWS = 256


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
    tie = 2.0**-46 * (norms.unsqueeze(-1) + norms.unsqueeze(-2))  # what rounding makes of one
    positive = distance.square() > tie
    middle = torch.where(positive, distance, torch.nan).flatten(-2).nanmedian(-1).values
    return torch.nan_to_num(middle, nan=1.0)
