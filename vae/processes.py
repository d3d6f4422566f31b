"""Threads and processes of a computation."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Within, torch uses so many CPU threads (None: as it is). Small models gain nothing from a
    second thread, and on busy cores lose a lot by it; sums depend on the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def first_process() -> bool:
    """Whether this is the process that writes and prints: one training with several devices runs
    the whole command once for each."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("NODE_RANK", 0)) == 0
