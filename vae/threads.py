"""The number of threads of a computation on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """With so many (None: as it is), and as before afterwards. Small models gain nothing from a
    second thread, and on busy cores lose a lot by it; sums depend on the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
