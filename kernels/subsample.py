"""Small fixed subsamples of a pooled sample, without pooling it and without leaving the device."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
LANDMARKS = 64  # rows that the centring of quadratic forms looks at


def hashed_rows(count: int, total: int, device: torch.device) -> Tensor:
    """``count`` row numbers below ``total`` (repeats are possible): the same at every call,
    scattered like random ones, and arithmetic only, so that no generator, host synchronisation or
    graph break is involved. The mixing steps are MurmurHash3's finaliser."""
    h = torch.arange(1, count + 1, device=device, dtype=torch.int64)
    h = (h ^ (h >> 16)) * 0x85EBCA6B & _MASK
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & _MASK
    return (h ^ (h >> 16)) % total


_memory: dict[tuple[int, int, torch.device], Tensor] = {}


def _remembered(count: int, total: int, device: torch.device) -> Tensor:
    rows = _memory.get((count, total, device))
    if rows is None:
        with torch.inference_mode(False):
            rows = hashed_rows(count, total, device)
        if type(rows) is Tensor and len(_memory) < 256:  # not the fake tensors of a trace
            _memory[count, total, device] = rows
    return rows


def pooled_rows(x: Tensor, y: Tensor | None, count: int, *, remember: bool = False) -> Tensor:
    """At most ``count`` rows [..., count, d] of the pooled sample x [..., n, d], y [..., m, d];
    all of them if there are no more. ``remember``: keep the row numbers for the next call (not
    under a trace or a transform, whose tensors must not outlive it)."""
    n, m = x.shape[-2], 0 if y is None else y.shape[-2]
    number = _remembered if remember else hashed_rows
    if y is None or m == 0:
        return x if n <= count else x.index_select(-2, number(count, n, x.device))
    if n == 0:
        return pooled_rows(y, None, count, remember=remember)
    if n + m <= count:
        return torch.cat([x, y], -2)
    rows = number(count, n + m, x.device)
    from_x = x.index_select(-2, rows.clamp(max=n - 1))
    from_y = y.index_select(-2, (rows - n).clamp(min=0))
    return torch.where((rows < n).unsqueeze(-1), from_x, from_y)
