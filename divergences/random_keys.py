"""Random keys of rows, each a function of a seed and its number alone: the same on every device, in
batches of any size. On a CPU numpy makes them, which sorts and selects several times as fast as
torch; elsewhere torch does, in the same integers."""

from __future__ import annotations

import math
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


def random_keys(
    like: Array, numbers: int | NDArray[np.int64], seed: int, start: int = 0, total: int = 0
) -> Array:
    """Keys, int32, shaped as ``like`` [b, n]: of n rows from ``start`` on, of ``total`` (n if 0),
    in the labellings with these ``numbers`` [b], or from a first one on. The generator's output
    ``i`` after ``seed`` holds two of them."""
    count, rows = like.shape
    each = -(-max(total, rows) // 2)
    first, last = start // 2, -(-(start + rows) // 2)
    which = numbers + np.arange(count) if isinstance(numbers, int) else numbers
    if isinstance(like, Tensor):
        of = as_kind(which * each, like).unsqueeze(1)
        found = of + torch.arange(first + 1, last + 1, device=like.device)
        keys = splitmix(found.mul_(GOLDEN).add_(seed)).view(torch.int32)
        return keys[:, start - 2 * first :][:, :rows]
    states: NDArray[Any] = np.add.outer(which * each, np.arange(first + 1, last + 1))
    states *= GOLDEN
    states += seed
    return splitmix(states).view(np.int32)[:, start - 2 * first :][:, :rows]


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


def smallest_key(like: Array, number: int, end: int, seed: int, total: int) -> tuple[int, bool]:
    """The ``end``-th smallest key of ``total`` rows in a labelling, and whether the next one is
    equal: ``order_statistics`` in O(√total) memory, of as many rows at a time as ``like`` [1, n]
    has. Keys are uniform; those ten standard deviations from where it should be are only counted.
    """
    if end == 0:
        return -(2**31), False
    share, span = end / total, like.shape[1]
    reach = 2.0**32 * (10.0 * math.sqrt(share * (1.0 - share) / total) + 10.0 / total)
    while True:
        middle = (share - 0.5) * 2.0**32
        low, high = max(-(2**31), int(middle - reach)), min(2**31 - 1, int(middle + reach))
        before, near = 0, []
        for start in range(0, total, span):
            part = like[:, : total - start]
            keys = random_keys(part, np.array([number]), seed, start, total)[0]
            before += int((keys < low).sum())
            near.append(torch.as_tensor(keys[(keys >= low) & (keys <= high)]))
        ordered, at = torch.cat(near).sort().values.tolist(), end - 1 - before
        if 0 <= at < len(ordered):
            return ordered[at], ordered[at : at + 2].count(ordered[at]) > 1
        reach *= 4.0


def as_kind(values: NDArray[Any], like: Array) -> Array:
    """``values`` as a tensor on the device of ``like`` if that is one."""
    return torch.from_numpy(values).to(like.device) if isinstance(like, Tensor) else values


def as_numpy(values: Array) -> NDArray[Any]:
    return values.cpu().numpy() if isinstance(values, Tensor) else values


def zeros(shape: tuple[int, int], device: torch.device) -> Any:
    """int8, of the kind whose keys are made fastest on this device."""
    if device.type == "cpu":
        return np.zeros(shape, dtype=np.int8)
    return torch.zeros(shape, dtype=torch.int8, device=device)
