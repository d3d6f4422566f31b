"""The launch configurations: one fixed table per architecture, no run-time tuning.

Tuning at run time would change the order of summation, and with it the last bits of a result.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

KIB = 1024


class Config(NamedTuple):
    """Rows and columns of a tile of pairs, coordinates of a slice of the Gram loop."""

    rows: int
    columns: int
    slice: int
    warps: int
    stages: int


class Architecture(NamedTuple):
    """What the table knows about a GPU. The Gram gradients are keyed by the padded coordinates."""

    shared_bytes: int
    gram_value: Config
    gram_gradient: dict[int, Config]
    gram_gradient_sum: dict[int, Config]  # for several components
    gram_panel: Config
    panel_product: Config
    difference_value: Config
    difference_gradient: Config
    difference_panel: Config
    small: Config
    small_value: Config


_DIFFERENCE = {
    "difference_value": Config(64, 64, 1, 4, 2),
    "difference_gradient": Config(16, 64, 1, 4, 2),
    "difference_panel": Config(32, 32, 1, 8, 2),
    "small": Config(16, 32, 1, 8, 2),
    "small_value": Config(16, 16, 1, 4, 2),
}
_AMPERE_GRADIENT = {
    32: Config(64, 32, 32, 4, 2),
    64: Config(64, 32, 32, 4, 2),
    128: Config(64, 32, 32, 8, 2),
}
_AMPERE = Architecture(
    163 * KIB,
    gram_value=Config(64, 64, 32, 4, 2),
    gram_gradient=_AMPERE_GRADIENT,
    gram_gradient_sum=dict.fromkeys((32, 64, 128), Config(32, 32, 32, 4, 2)),
    gram_panel=Config(64, 32, 32, 4, 2),
    panel_product=Config(64, 32, 32, 4, 2),
    **_DIFFERENCE,
)
_HOPPER = Architecture(
    227 * KIB,
    gram_value=Config(128, 64, 64, 8, 2),
    gram_gradient={
        32: Config(128, 64, 32, 8, 2),
        64: Config(128, 64, 64, 8, 2),
        128: Config(128, 32, 64, 8, 2),
    },
    gram_gradient_sum={
        32: Config(128, 32, 32, 8, 2),
        64: Config(128, 32, 64, 8, 2),
        128: Config(64, 32, 64, 8, 2),
    },
    gram_panel=Config(128, 64, 64, 8, 2),
    panel_product=Config(64, 64, 64, 8, 2),
    **_DIFFERENCE,
)
_BLACKWELL = _HOPPER._replace(
    gram_value=Config(64, 64, 64, 4, 2),
    gram_gradient=dict.fromkeys((32, 64, 128), Config(64, 32, 64, 8, 2)),
    gram_gradient_sum=dict.fromkeys((32, 64, 128), Config(64, 32, 64, 8, 2)),
    gram_panel=Config(128, 64, 64, 8, 2),
    panel_product=Config(64, 64, 64, 4, 2),
)
ARCHITECTURES: dict[int, Architecture] = {
    80: _AMPERE,
    89: _AMPERE._replace(shared_bytes=99 * KIB),
    90: _HOPPER,
    100: _BLACKWELL,
    120: _AMPERE._replace(
        shared_bytes=99 * KIB,
        gram_gradient={
            32: Config(64, 32, 32, 8, 2),
            64: Config(32, 32, 32, 4, 2),
            128: Config(32, 32, 32, 4, 2),
        },
    ),
}
INTERPRETED = Architecture(
    227 * KIB,
    gram_value=Config(32, 32, 32, 4, 1),
    gram_gradient=dict.fromkeys((32, 64, 128), Config(32, 32, 32, 4, 1)),
    gram_gradient_sum=dict.fromkeys((32, 64, 128), Config(32, 32, 32, 4, 1)),
    gram_panel=Config(32, 32, 32, 4, 1),
    panel_product=Config(32, 32, 32, 4, 1),
    difference_value=Config(32, 32, 1, 4, 1),
    difference_gradient=Config(32, 32, 1, 4, 1),
    difference_panel=Config(32, 32, 1, 4, 1),
    small=Config(16, 32, 1, 4, 1),
    small_value=Config(16, 16, 1, 4, 1),
)


class Device(NamedTuple):
    architecture: Architecture
    processors: int


def architecture_for(capability: int, shared_bytes: int) -> Architecture:
    """The newest table that is not newer than the GPU and fits its shared memory."""
    fitting = [
        arch
        for arch, table in sorted(ARCHITECTURES.items())
        if arch <= capability and table.shared_bytes <= shared_bytes
    ]
    if not fitting:
        return ARCHITECTURES[89]
    return ARCHITECTURES[fitting[-1]]


@lru_cache(maxsize=64)
def device_of(device: torch.device) -> Device:
    if device.type != "cuda":
        return Device(INTERPRETED, 4)
    properties = torch.cuda.get_device_properties(device)
    shared: int = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
    capability = 10 * properties.major + properties.minor
    return Device(architecture_for(capability, shared), properties.multi_processor_count)
