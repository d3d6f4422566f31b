"""The launch configurations: one fixed table per architecture, no run-time tuning.

Tuning at run time would change the order of summation, and with it the last bits of a result.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

KIB = 1024
MOST = 255  # registers of a thread
TOGETHER = 5  # components that the tiles for several have registers for
UNROLLED = 4  # coordinates of the difference form that are kept in registers
FUSED_WIDTH = 128  # coordinates up to which gradients of the Gram form accumulate in registers


class Config(NamedTuple):
    """Rows and columns of a tile of pairs, coordinates of a slice of the Gram loop. ``registers``
    of a thread are the compiler's choice if None, which may be too few to keep everything in."""

    rows: int
    columns: int
    slice: int
    warps: int
    stages: int
    registers: int | None = None

    def at_most(self, columns: int) -> Config:
        return self._replace(columns=min(self.columns, columns))

    def options(self) -> dict[str, int | None]:
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": self.registers}

    def again(self) -> Config:
        """For its tiles, by differences."""
        return self._replace(columns=16, stages=1, registers=MOST)


class Table(NamedTuple):
    """The configurations of an architecture. Gram gradients are keyed by the padded coordinates.
    All slices of the Gram form are those of its values, which the norms have too; the slice of
    ``panel_product`` is that of the coordinates it forms, and its columns are the panel's."""

    gram_value: Config
    gram_gradient: dict[int, Config]
    gram_panel: Config
    panel_product: Config
    gram_labels: Config
    difference_value: Config = Config(256, 16, 1, 4, 2)
    difference_gradient: Config = Config(256, 16, 1, 4, 2)
    difference_gradient_of_many: Config = Config(256, 4, 1, 4, 2)  # more than UNROLLED coordinates
    difference_panel: Config = Config(32, 32, 1, 8, 2)
    small: Config = Config(16, 32, 1, 8, 2)
    small_value: Config = Config(16, 16, 1, 4, 2, MOST)
    difference_labels: Config = Config(32, 64, 1, 8, 2, MOST)
    gram_value_of_many: Config | None = None  # more than FUSED_WIDTH coordinates, if another

    def difference_gradient_of(self, coordinates: int) -> Config:
        few = coordinates <= UNROLLED
        return self.difference_gradient if few else self.difference_gradient_of_many

    def gradient_of(self, width: int, components: int, heavy: bool) -> Config:
        """``heavy``: a function's own code takes more registers (see ``Prepared.heavy``)."""
        if heavy and components > 1:
            return self.gram_gradient[FUSED_WIDTH].at_most(16)
        config = self.gram_gradient[width]
        return config.at_most(16 if components > TOGETHER else 32 if heavy else config.columns)

    def panel_of(self, components: int, heavy: bool) -> Config:
        return self.gram_panel.at_most(32 if components == 1 else 16) if heavy else self.gram_panel

    def value_of(self, width: int, components: int, heavy: bool) -> Config:
        many = self.gram_value_of_many if width > FUSED_WIDTH else None
        config = many or self.gram_value
        if heavy and components > 1:
            narrow = config.at_most(4 * config.warps)  # as many registers to each thread
            return narrow._replace(stages=2, registers=MOST)
        return config.at_most(32) if heavy and many else config

    def labels_of(self, width: int) -> Config:
        """Two tiles of columns are under way while one is multiplied; not where the coordinates
        come in slices, which are under way themselves and take the registers."""
        config = self.gram_labels
        return config._replace(stages=3) if width <= config.slice else config


class Architecture(NamedTuple):
    """What is known about a GPU: its shared memory, and a table for sweeps of one component and
    one for sweeps of several, which need more registers."""

    shared_bytes: int
    one: Table
    several: Table

    def table(self, components: int) -> Table:
        return self.one if components == 1 else self.several


def _all_widths(config: Config) -> dict[int, Config]:
    return dict.fromkeys((32, 64, 128), config)


_AMPERE = Table(
    gram_value=Config(64, 64, 32, 4, 3),
    gram_value_of_many=Config(64, 64, 32, 4, 2),
    gram_gradient={
        32: Config(64, 32, 32, 4, 2, MOST),
        64: Config(64, 32, 32, 4, 2, MOST),
        128: Config(64, 32, 32, 4, 3),
    },
    gram_panel=Config(64, 32, 32, 4, 2, MOST),
    panel_product=Config(64, 0, 64, 4, 2),
    small=Config(16, 32, 1, 8, 2, MOST),
    gram_labels=Config(64, 32, 32, 4, 2, MOST),
)
_AMPERE_SEVERAL = _AMPERE._replace(
    gram_value_of_many=Config(64, 32, 32, 4, 3),
    difference_value=Config(256, 8, 1, 4, 2, MOST),
    difference_gradient=Config(128, 8, 1, 4, 2, MOST),
    difference_gradient_of_many=Config(128, 4, 1, 4, 2, MOST),
    gram_gradient=_all_widths(Config(32, 16, 32, 4, 2, MOST)),
    gram_panel=Config(32, 16, 32, 4, 2, MOST),
    panel_product=Config(32, 0, 64, 4, 2),
    difference_labels=Config(32, 32, 1, 8, 2, MOST),
    gram_labels=Config(32, 16, 32, 4, 2, MOST),
)
_ADA = _AMPERE._replace(gram_gradient={**_AMPERE.gram_gradient, 128: Config(32, 32, 32, 8, 2)})
_ADA_SEVERAL = _AMPERE_SEVERAL
_HOPPER = Table(
    gram_value=Config(128, 64, 64, 8, 3),
    gram_gradient=_all_widths(Config(64, 64, 64, 4, 3)),
    gram_panel=Config(128, 64, 64, 8, 3),
    panel_product=Config(64, 0, 128, 4, 2),
    gram_labels=Config(128, 64, 64, 8, 2),
)
_HOPPER_SEVERAL = _HOPPER._replace(
    gram_value_of_many=Config(128, 32, 64, 8, 2),
    difference_value=Config(256, 8, 1, 4, 2, MOST),
    difference_gradient=Config(128, 8, 1, 4, 2, MOST),
    difference_gradient_of_many=Config(128, 4, 1, 4, 2, MOST),
    gram_gradient={**_all_widths(Config(64, 32, 64, 4, 3)), 128: Config(64, 32, 64, 8, 2)},
    gram_panel=Config(64, 32, 64, 4, 3),
    small=Config(16, 32, 1, 8, 2, MOST),
    difference_labels=Config(32, 32, 1, 8, 2, MOST),
    gram_labels=Config(64, 32, 64, 8, 2),
)
_BLACKWELL = _HOPPER._replace(
    difference_value=Config(256, 16, 1, 4, 2, MOST),
    gram_value=Config(64, 64, 64, 8, 3, MOST),
    gram_gradient=_all_widths(Config(64, 32, 64, 8, 3, MOST)),
    gram_panel=Config(64, 64, 64, 8, 3, MOST),
    panel_product=Config(64, 0, 64, 4, 2),
    small=Config(16, 32, 1, 8, 2, MOST),
    gram_labels=Config(64, 64, 64, 8, 2, MOST),
)
_BLACKWELL_SEVERAL = _BLACKWELL._replace(
    gram_value=Config(64, 32, 64, 8, 2, MOST),
    difference_value=Config(256, 8, 1, 4, 2, MOST),
    difference_gradient=Config(128, 8, 1, 4, 2, MOST),
    difference_gradient_of_many=Config(128, 4, 1, 4, 2, MOST),
    gram_gradient=_all_widths(Config(64, 16, 64, 8, 2, MOST)),
    gram_panel=Config(64, 32, 64, 8, 2, MOST),
    difference_labels=Config(32, 32, 1, 8, 2, MOST),
    gram_labels=Config(64, 32, 64, 8, 2, MOST),
)
_GEFORCE_BLACKWELL = _AMPERE._replace(
    difference_value=Config(256, 16, 1, 4, 2, MOST),
    gram_gradient={
        32: Config(64, 32, 32, 4, 2, MOST),
        64: Config(32, 32, 32, 4, 2, MOST),
        128: Config(32, 32, 32, 8, 2),
    },
)
_GEFORCE_BLACKWELL_SEVERAL = _AMPERE_SEVERAL
ARCHITECTURES: dict[int, Architecture] = {
    80: Architecture(163 * KIB, _AMPERE, _AMPERE_SEVERAL),
    89: Architecture(99 * KIB, _ADA, _ADA_SEVERAL),
    90: Architecture(227 * KIB, _HOPPER, _HOPPER_SEVERAL),
    100: Architecture(227 * KIB, _BLACKWELL, _BLACKWELL_SEVERAL),
    120: Architecture(99 * KIB, _GEFORCE_BLACKWELL, _GEFORCE_BLACKWELL_SEVERAL),
}
_INTERPRETED = Table(
    gram_value=Config(32, 32, 32, 4, 1),
    gram_gradient=dict.fromkeys((32, 64, 128), Config(32, 32, 32, 4, 1)),
    gram_panel=Config(32, 32, 32, 4, 1),
    panel_product=Config(32, 32, 32, 4, 1),
    difference_value=Config(32, 32, 1, 4, 1),
    difference_gradient=Config(32, 32, 1, 4, 1),
    difference_gradient_of_many=Config(32, 32, 1, 4, 1),
    difference_panel=Config(32, 32, 1, 4, 1),
    small=Config(16, 32, 1, 4, 1),
    small_value=Config(16, 16, 1, 4, 1),
    difference_labels=Config(32, 64, 1, 4, 1),
    gram_labels=Config(64, 32, 32, 4, 1),
)
INTERPRETED = Architecture(227 * KIB, _INTERPRETED, _INTERPRETED)


class Device(NamedTuple):
    architecture: Architecture
    processors: int


def architecture_for(capability: int, shared_bytes: int) -> Architecture:
    """The newest table that is not newer than the GPU and fits its shared memory."""
    fitting = [
        number
        for number, known in sorted(ARCHITECTURES.items())
        if number <= capability and known.shared_bytes <= shared_bytes
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
