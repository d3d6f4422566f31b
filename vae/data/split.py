"""Random splits into training and held-out rows."""

import torch
from torch import Tensor


def split_rows(
    count: int, *, heldout: int | None, limit: int | None, seed: int
) -> tuple[Tensor, Tensor]:
    """Row numbers to train on and to hold out, uniformly at random and without overlap.

    Args:
        count: number of rows there are.
        heldout: how many to hold out; None for a fifth of them.
        limit: at most how many to train on; None for all others.
        seed: of the order.

    Raises:
        ValueError: fewer than two rows, or `heldout` or `limit` out of range.
    """
    if count < 2:
        raise ValueError(f"a split needs at least 2 rows, got {count}")
    held = max(1, count // 5) if heldout is None else heldout
    if not 0 < held < count:
        raise ValueError(f"heldout must be between 1 and {count - 1}, got {held}")
    at_least_one(limit, "limit")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    stop = None if limit is None else held + limit
    return order[held:stop], order[:held]


def some_rows(count: int, wanted: int | None, seed: int) -> Tensor | slice:
    """`wanted` row numbers of `count`, at random; all rows in their order for None or too many."""
    if wanted is None or wanted >= count:
        return slice(None)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:wanted]


def given_split(
    train: int, test: int, *, heldout: int | None, limit: int | None, seed: int
) -> tuple[Tensor | slice, Tensor | slice]:
    """As `split_rows`, for data that come in two parts of `train` and `test` rows; None: all."""
    at_least_one(limit, "limit")
    if heldout is not None and not 0 < heldout <= test:
        raise ValueError(f"heldout must be between 1 and {test}, got {heldout}")
    return some_rows(train, limit, seed), some_rows(test, heldout, seed)


def at_least_one(value: int | None, name: str) -> None:
    """Raises ValueError for a number below 1; None passes."""
    if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
