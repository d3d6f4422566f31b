"""RNG streams of a training: every draw is a pure function of (seed, stream, step), so that a
resumed run has no random state to restore."""

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """Independent streams, by purpose."""

    ORDER = 0  # of the rows in an epoch
    ROWS = 1  # binarisation of a batch
    NOISE = 2  # ε and the prior's draws, of the batch of all processes
    NETWORK = 3  # dropout and the like, one per process
    OBJECTIVE = 4  # projections, points between samples
    HELDOUT = 5  # everything on held-out rows: the same at every check


def seed_of(seed: int, stream: Stream, step: int = 0, part: int = 0, rank: int = 0) -> int:
    """64 bits for one use of one stream; ``part``: which pass of a step that has several."""
    entropy = np.random.SeedSequence((seed, stream, step, part, rank))
    return int(entropy.generate_state(1, np.uint64)[0])


def generator(device: torch.device | str, seed: int) -> torch.Generator:
    """A generator on ``device`` that starts at ``seed``."""
    return torch.Generator(device).manual_seed(seed)


def seed_global(device: torch.device, seed: int) -> None:
    """Seeds the global generators of the CPU and of ``device``, from which networks and objectives
    draw (``torch.manual_seed`` would also queue the seed for devices that nobody uses)."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
