"""Binarisation: grey levels as probabilities of a one."""

import dataclasses

import torch
from torch import Tensor

from vae.data.data import Binarise, Data, check_binarise

HELDOUT_SEED = 20_160_901  # one for all, so that held-out likelihoods of different runs compare
CHUNK = 4096  # rows drawn at once: as floats they take four times the memory


def binarised(data: Data, how: Binarise, *, seed: int = 0) -> Data:
    """The data with rows of 0 and 1, drawn with the values as probabilities.

    "fixed" draws every row once. "dynamic" draws training rows whenever they are read
    (`Data.rows`), which a model cannot learn by heart (Burda et al. 2016, §5). The held-out rows
    are drawn once in both cases, by a seed that never changes.

    Args:
        data: not binarised, all values within [0, 1].
        how: "none" returns the data as they are.
        seed: of the training rows, for "fixed".

    Raises:
        ValueError: values outside [0, 1], data binarised already, or an unknown `how`.
    """
    check_binarise(how)
    if how == "none":
        return data
    if data.text:
        raise ValueError(f"{data.name} is text, which cannot be binarised")
    if data.binarise != "none":
        raise ValueError(f"{data.name} is binarised already ({data.binarise})")
    if not data.unit:
        low = min(float(data.train.min()), float(data.heldout.min()))
        high = max(float(data.train.max()), float(data.heldout.max()))
        raise ValueError(
            f"{data.name} cannot be binarised: its values must be probabilities, within [0, 1], "
            f"but go from {low:.4g} to {high:.4g}"
        )
    return dataclasses.replace(
        data,
        train=_drawn(data.train, seed) if how == "fixed" else data.train,
        heldout=_drawn(data.heldout, HELDOUT_SEED),
        binarise=how,
    )


def _drawn(values: Tensor, seed: int) -> Tensor:
    """0 and 1 in the dtype given, where 1 is written 255 in bytes."""
    generator = torch.Generator().manual_seed(seed)
    one = 255 if values.dtype == torch.uint8 else 1
    drawn = torch.empty_like(values)
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK].cpu().float() / one
        drawn[start : start + CHUNK] = torch.bernoulli(chunk, generator=generator) * one
    return drawn
