"""Which tiles of a statistic this process forms: all, unless a group of processes shares them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


class Share:
    """The part of process ``rank`` of ``size``; every ``size``-th piece of work.

    All processes call the same sums in the same order, each for its own pieces, and add them up.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def of(self, work: Iterable[T]) -> Iterator[T]:
        return islice(work, self.rank, None, self.size)

    def count(self, pieces: int) -> int:
        """How many of so many pieces are this process's."""
        return len(range(self.rank, pieces, self.size))

    def span(self, pieces: int) -> slice:
        """As many of so many pieces, side by side; those of all processes in the order of ranks."""
        return slice(pieces * self.rank // self.size, pieces * (self.rank + 1) // self.size)

    def total(self, *sums: Tensor) -> None:
        """Adds up ``sums`` over the processes, in place, to the same bits on each."""

    def check_same(self, what: str, *values: Tensor) -> None:
        """Raises ValueError, on all processes, where sums of ``values`` differ between them."""


ALONE = Share()
_current: ContextVar[Share] = ContextVar("share")


def current_share() -> Share:
    """That of the test that is running in this thread."""
    return _current.get(ALONE)


@contextmanager
def shared(among: Share) -> Iterator[None]:
    """The sums of this thread are shared ``among`` processes that all do the same."""
    token = _current.set(among)
    try:
        yield
    finally:
        _current.reset(token)
