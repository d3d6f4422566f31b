"""Processes of their own for tests, forked where torch and Lightning are imported already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

IMPORTED = (
    *("pytest", "divergences", "vae.training"),
    *("torch._inductor.compile_fx", "torch.distributed.tensor"),
)


def spawn(function: Callable[..., None], *arguments: Any, count: int, join: bool = True) -> Any:
    """``count`` calls function(rank, *arguments). No test has run where these processes begin."""
    mp.get_context("forkserver").set_forkserver_preload([*IMPORTED])
    return mp.start_processes(  # type: ignore[no-untyped-call]
        function, arguments, nprocs=count, join=join, start_method="forkserver"
    )
