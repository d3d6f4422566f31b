"""Weights that change with the step. A schedule is called with the number of steps taken."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

Shape = Literal["linear", "cosine"]


class Schedule(Protocol):
    """A weight per step. ``length``: steps until it has reached ``final``."""

    @property
    def final(self) -> float: ...

    @property
    def length(self) -> int: ...

    def __call__(self, step: int) -> float: ...


@dataclass(frozen=True)
class Constant:
    """The same weight at every step."""

    final: float
    length: int = 0

    def __post_init__(self) -> None:
        _check_finite(value=self.final)

    def __call__(self, step: int) -> float:  # noqa: ARG002
        return self.final

    def __str__(self) -> str:
        return f"{self.final:g}"


@dataclass(frozen=True)
class Anneal:
    """From ``start`` to ``final`` in ``length`` steps, up (Bowman et al. 2016, arXiv:1511.06349,
    sec. 3.1) or down, and ``final`` from then on.

    Examples:
        >>> from vae import Anneal
        >>> falling = Anneal(40.0, 1.0, length=100)
        >>> falling(0), falling(50), falling(1000)
        (40.0, 20.5, 1.0)
    """

    start: float
    final: float
    length: int
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        _check_finite(start=self.start, final=self.final)
        _check_steps(self.length)
        if self.shape not in ("linear", "cosine"):
            raise ValueError(f"shape must be 'linear' or 'cosine', got {self.shape!r}")

    def __call__(self, step: int) -> float:
        share = min(step / self.length, 1.0)
        if self.shape == "cosine":
            share = 0.5 - 0.5 * math.cos(math.pi * share)
        return self.start + share * (self.final - self.start)

    def __str__(self) -> str:
        return f"{self.start:g} → {self.final:g} in {self.length} steps ({self.shape})"


@dataclass(frozen=True)
class Cyclical:
    """``cycles`` times from ``start`` to ``final`` within ``length`` steps, each cycle a linear
    ramp over the share ``ramp`` of it and ``final`` for the rest (Fu et al. 2019,
    arXiv:1903.10145, eq. 6); ``final`` afterwards."""

    start: float
    final: float
    length: int
    cycles: int = 4
    ramp: float = 0.5

    def __post_init__(self) -> None:
        _check_finite(start=self.start, final=self.final)
        _check_steps(self.length)
        if self.cycles < 1 or not 0 < self.ramp <= 1:
            raise ValueError(
                f"cycles must be at least 1 and ramp in (0, 1], got {self.cycles} and {self.ramp}"
            )

    def __call__(self, step: int) -> float:
        if step >= self.length:
            return self.final
        phase = (step * self.cycles / self.length) % 1.0
        return self.start + min(phase / self.ramp, 1.0) * (self.final - self.start)

    def __str__(self) -> str:
        return f"{self.start:g} → {self.final:g}, {self.cycles} cycles in {self.length} steps"


def _check_finite(**values: float) -> None:
    if not all(math.isfinite(value) for value in values.values()):
        got = ", ".join(f"{name}={value}" for name, value in values.items())
        raise ValueError(f"the weights of a schedule must be finite, got {got}")


def _check_steps(length: int) -> None:
    if length < 1:
        raise ValueError(f"a schedule needs at least one step, got {length}")
