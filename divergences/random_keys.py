"""Random keys of rows, each a function of a seed and its number alone: the same on every device, in
batches of any size. On a CPU numpy makes them, which sorts and selects several times as fast as
torch; elsewhere torch does, in the same integers."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = TypeVar("Array", NDArray[Any], Tensor)
KEYS = {"cpu": 2**16, "cuda": 2**24}  # formed at a time: what fits the cache; 0.4 GB
GOLDEN = -7046029254386353131  # SplitMix64's constants, as signed numbers
MIXING = ((30, -4658895280553007687), (27, -7723592293110705685))


def splitmix(states: Array) -> Array:
    """What SplitMix64 makes of its states, int64, in place (Steele, Lea & Flood, "Fast splittable
    pseudorandom number generators", OOPSLA 2014)."""
    for shift, factor in MIXING:
        states ^= (states >> shift) & (2 ** (64 - shift) - 1)
        states *= factor
    states ^= (states >> 31) & (2**33 - 1)
    return states


def random_keys(like: Array, first: int, seed: int) -> Array:
    """Keys, int32, shaped as ``like`` [b, N], whose rows have the numbers ``first``, ``first`` + 1,
    …; the generator's output ``i`` after ``seed`` holds two of them."""
    count, rows = like.shape
    each = -(-rows // 2)
    span = first * each + 1, (first + count) * each + 1
    if isinstance(like, Tensor):
        states = torch.arange(*span, device=like.device).mul_(GOLDEN).add_(seed)
        return splitmix(states).view(torch.int32).view(count, -1)[:, :rows]
    numbers = np.arange(*span)
    numbers *= GOLDEN
    numbers += seed
    return splitmix(numbers).view(np.int32).reshape(count, -1)[:, :rows]


def order_statistics(keys: Array, places: NDArray[np.int64]) -> Array:
    """The values [b, P] at these places of each sorted row, counted from 0; −1 is below all."""
    at, below = np.maximum(places, 0), (places < 0).astype(np.int8)
    if isinstance(keys, Tensor):
        if len(at) == 1:  # unlike kthvalue, allowed where algorithms must be deterministic
            smallest = keys.topk(int(at[0]) + 1, largest=False, sorted=False).values
            return smallest.amax(1, keepdim=True) - int(below[0])
        return keys.sort(1).values[:, as_kind(at, keys)] - as_kind(below, keys)
    ordered = np.partition(keys, at[0], axis=1) if len(at) == 1 else np.sort(keys, axis=1)
    return ordered[:, at] - below


def as_kind(values: NDArray[Any], like: Array) -> Array:
    """``values`` as a tensor on the device of ``like`` if that is one."""
    return torch.from_numpy(values).to(like.device) if isinstance(like, Tensor) else values
