"""Random splits into training and held-out rows."""

from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from vae.data.data import Data

Chosen = tuple[Tensor | slice, Tensor | slice]
"""Rows to train on and to hold out."""

Kind = TypeVar("Kind", bound=Data)


class Split(NamedTuple):
    """Numbers of rows to hold out (None: a fifth, or all that the data hold out) and at most to
    train on (None: all others), at random by a seed.

    Raises:
        ValueError: on use, a number out of range.
    """

    heldout: int | None = None
    limit: int | None = None
    seed: int = 0

    def of(self, count: int) -> Chosen:
        """Of so many rows, without overlap."""
        if count < 2:
            raise ValueError(f"a split needs at least 2 rows, got {count}")
        held = max(1, count // 5) if self.heldout is None else self.heldout
        if not 0 < held < count:
            raise ValueError(f"heldout must be between 1 and {count - 1}, got {held}")
        at_least_one(self.limit, "limit")
        order = self._order(count)
        return order[held : None if self.limit is None else held + self.limit], order[:held]

    def given(self, train: int, test: int) -> Chosen:
        """Of data that come in two parts of so many rows; all rows stay in their order."""
        at_least_one(self.limit, "limit")
        if self.heldout is not None and not 0 < self.heldout <= test:
            raise ValueError(f"heldout must be between 1 and {test}, got {self.heldout}")
        return self._some(train, self.limit), self._some(test, self.heldout)

    def _some(self, count: int, wanted: int | None) -> Tensor | slice:
        whole = wanted is None or wanted >= count
        return slice(None) if whole else self._order(count)[:wanted]

    def _order(self, count: int) -> Tensor:
        return torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))


def divided(
    kind: type[Kind],
    chosen: Chosen,
    values: Tensor,
    labels: Tensor | None = None,
    factors: Tensor | None = None,
    **fields: Any,
) -> Kind:
    """``Data`` of chosen rows of values [n, D], and of labels [n] and factors [n, F]."""
    parts: dict[str, Any] = {}
    for part, rows in zip(("train", "heldout"), chosen, strict=True):
        parts[part] = values[rows]
        for name, known in (("labels", labels), ("factors", factors)):
            parts[f"{part}_{name}"] = None if known is None else known[rows]
    return kind(**parts, **fields)


def at_least_one(value: int | None, name: str) -> None:
    """Raises ValueError for a number below 1; None passes."""
    if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
