"""Small fixed subsamples of a pooled sample, without pooling it and without leaving the device."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def hashed_rows(count: int, total: int, device: torch.device) -> Tensor:
    """``count`` row numbers below ``total`` (repeats are possible): the same at every call,
    scattered like random ones, and arithmetic only, so that no generator, host synchronisation or
    graph break is involved. The mixing steps are MurmurHash3's finaliser."""
    h = torch.arange(1, count + 1, device=device, dtype=torch.int64)
    h = (h ^ (h >> 16)) * 0x85EBCA6B & _MASK
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & _MASK
    return (h ^ (h >> 16)) % total


def pooled_rows(x: Tensor, y: Tensor | None, count: int) -> Tensor:
    """At most ``count`` rows [..., count, d] of the pooled sample x [..., n, d], y [..., m, d];
    all of them if there are no more."""
    n, m = x.shape[-2], 0 if y is None else y.shape[-2]
    if y is None or m == 0:
        return x if n <= count else x.index_select(-2, hashed_rows(count, n, x.device))
    if n == 0:
        return pooled_rows(y, None, count)
    if n + m <= count:
        return torch.cat([x, y], -2)
    rows = hashed_rows(count, n + m, x.device)
    from_x = x.index_select(-2, rows.clamp(max=n - 1))
    from_y = y.index_select(-2, (rows - n).clamp(min=0))
    return torch.where((rows < n).unsqueeze(-1), from_x, from_y)
