"""Batches: the rows of every step, a function of its number alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae.data.data import Data
from vae.model import VAE
from vae.training.fingerprint import checksum
from vae.training.rng import Stream, generator, seed_of


@dataclass(frozen=True, eq=False)
class Rows:
    """Training and held-out rows, whatever holds them.

    Args:
        source: ``Data``, or a tensor [N, …] of training rows.
        heldout: [H, …] floats; None for none.
        dtype: of the batches.
    """

    source: Data | Tensor
    heldout: Tensor | None
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(
        cls,
        source: Data | Tensor | NDArray[Any],
        heldout: Tensor | NDArray[Any] | None,
        dtype: torch.dtype = torch.float32,
    ) -> Rows:
        if heldout is None and isinstance(source, Data):
            heldout = source.rows("heldout")
        return cls(
            source if isinstance(source, Data) else _tensor(source),
            None if heldout is None else _tensor(heldout),
            dtype,
        )

    def __len__(self) -> int:
        return len(self._values)

    @property
    def _values(self) -> Tensor:
        return self.source.train if isinstance(self.source, Data) else self.source

    def at(self, indices: Tensor, draws: torch.Generator | None = None) -> Tensor:
        """[n, …] floats of training rows [n]."""
        if isinstance(self.source, Data):
            return self.source.rows("train", indices, generator=draws).to(self.dtype)
        return self.source[indices.to(self.source.device)].to(self.dtype)

    def some(self, n: int) -> Tensor:
        """[n, …] the first training rows; torch's global generators are left alone."""
        return self.at(torch.arange(n), torch.Generator().manual_seed(0))

    def check(self, model: VAE) -> None:
        """Raises ValueError for shapes, dtypes and values that cannot be trained on."""
        train = self._values
        if train.dim() < 2 or not (isinstance(self.source, Data) or train.is_floating_point()):
            raise ValueError(
                f"rows must be floats [N, …], got {train.dtype} {list(train.shape)}: "
                "rows.float(), or vae.data.Data for bytes"
            )
        # bytes are finite and within [0, 1]: one row stands for all
        model.likelihood.check(train.to(self.dtype) if train.is_floating_point() else self.some(1))
        if self.heldout is not None:
            if not self.heldout.is_floating_point():
                raise ValueError(f"held-out rows must be floats, got {self.heldout.dtype}")
            if len(self.heldout) < 2 or self.heldout.shape[1:] != train.shape[1:]:
                raise ValueError(
                    f"held-out rows must be 2 or more of shape {list(train.shape[1:])} each, got "
                    f"{list(self.heldout.shape)}"
                )
            model.likelihood.check(self.heldout.to(self.dtype))

    def checksums(self) -> tuple[int, int]:
        """CRC-32 of training and of held-out rows, for the fingerprint of the run."""
        how = self.source.binarise if isinstance(self.source, Data) else "none"
        heldout = 0 if self.heldout is None else checksum(self.heldout)
        return checksum(self._values, how), heldout


def _tensor(rows: Tensor | NDArray[Any]) -> Tensor:
    if isinstance(rows, np.ndarray):  # torch takes neither negative strides nor read-only memory
        rows = np.require(rows, requirements=["C", "W"])
    return torch.as_tensor(rows)


@dataclass(frozen=True)
class Plan:
    """Numbers of rows and steps.

    Every epoch is a new permutation of the rows; what does not fill a batch at its end is left out
    of that epoch, so that no batch is short.
    """

    n_rows: int
    batch_size: int  # rows of a step, all processes together
    epochs: int

    @cached_property
    def steps_per_epoch(self) -> int:
        return self.n_rows // self.batch_size

    @cached_property
    def n_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches of steps ``start``, ``start`` + 1, …, of each the contiguous part of the process
    ``rank``; ``seed``: of the permutations and of dynamic binarisation."""

    rows: Rows
    plan: Plan
    seed: int
    start: int = 0
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        return self.plan.n_steps - self.start

    def __iter__(self) -> Iterator[Tensor]:
        share = self.plan.batch_size // self.world_size
        epoch, order = -1, torch.empty(0)
        for step in range(self.start, self.plan.n_steps):
            if step // self.plan.steps_per_epoch != epoch:
                epoch = step // self.plan.steps_per_epoch
                order = self._order(epoch)
            first = step % self.plan.steps_per_epoch * self.plan.batch_size
            batch = self.rows.at(order[first : first + self.plan.batch_size], self._draws(step))
            yield batch[self.rank * share : (self.rank + 1) * share]

    def _order(self, epoch: int) -> Tensor:
        draws = generator("cpu", seed_of(self.seed, Stream.ORDER, epoch))
        return torch.randperm(self.plan.n_rows, generator=draws)

    def _draws(self, step: int) -> torch.Generator:
        return generator("cpu", seed_of(self.seed, Stream.ROWS, step))
