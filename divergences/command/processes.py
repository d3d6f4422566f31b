"""Commands in the processes of ``torchrun``: each reads some of the rows, and rank 0 reports."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist

from ..kernels.statistics.sharing import ALONE, Share
from ..sharded import GroupShare

T = TypeVar("T")
COMMANDS = ("two-sample", "k-sample", "independence", "goodness-of-fit")


def is_first() -> bool:
    """Whether this process is alone or rank 0."""
    return not dist.is_torchelastic_launched() or os.environ.get("RANK") == "0"


@contextmanager
def joined(arguments: Namespace) -> Iterator[None]:
    """Gives ``arguments`` the ``group`` of the processes that torchrun started, or None."""
    arguments.group = None
    if not dist.is_torchelastic_launched() or os.environ.get("WORLD_SIZE") == "1":
        yield
        return
    if arguments.command not in COMMANDS:
        raise ValueError(f"several processes share {', '.join(COMMANDS)}; start others as one")
    dist.init_process_group("gloo")
    arguments.group = dist.group.WORLD
    try:
        yield
    finally:
        dist.destroy_process_group()


def share_of(arguments: Namespace) -> Share:
    return ALONE if arguments.group is None else GroupShare(arguments.group)


def together(arguments: Namespace, read: Callable[[], T]) -> T:
    """What ``read`` gives, or the ValueError of the first process in which it fails, in all."""
    if arguments.group is None:
        return read()
    found, problem = None, ""
    try:
        found = read()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        problem = str(error)
    problems = [problem] * dist.get_world_size(arguments.group)
    dist.all_gather_object(problems, problem, group=arguments.group)
    for rank, told in enumerate(problems):
        if told:
            alike = len(set(problems)) == 1
            raise ValueError(told if alike else f"rank {rank}: {told}")
    assert found is not None
    return found
