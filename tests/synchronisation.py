"""CUDA's own guard against synchronisation, for tests that need a GPU."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """Inside, a synchronisation raises. Torch warns of the mode when it is set, after setting it:
    were that an error, the mode would stay and fail every later transfer of the process."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
