"""Running means of the parts of the loss, and the first step that was not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class TrainingDiverged(ValueError):
    """A term became infinite or NaN; the message names the step, the term and what to try."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"training diverged: {what}; try a smaller λ or learning rate, or a larger σ²"
        )


class RunningMeans:
    """Sums of the 0-d parts of every step, on their device: adding never waits for it."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.count = 0
        self._sums = torch.zeros(0)
        self._bad_step: Tensor | None = None  # the first that was not finite, or −1
        self._bad_values = torch.zeros(0)

    @torch.no_grad()
    def add(self, parts: Mapping[str, Tensor], step: int) -> None:
        """Adds the parts of a step (numbered from 0)."""
        names = tuple(parts)
        if self.names and names != self.names:
            raise ValueError(
                f"an objective must keep its parts, also in a resumed run: the loss was made of "
                f"{', '.join(self.names)}, now of {', '.join(names)}"
            )
        values = torch.stack([part.detach().float() for part in parts.values()])
        if self._bad_step is None:  # the first step, or the first after a resume
            self._sums = self._sums.to(values.device) if self.names else torch.zeros_like(values)
            self._bad_step = torch.full((), -1, device=values.device)
            self._bad_values = torch.zeros_like(values)
        self.names = names
        self._sums = self._sums + values
        self.count += 1
        first = (self._bad_step < 0) & ~values.isfinite().all()
        self._bad_step = torch.where(first, step, self._bad_step)
        self._bad_values = torch.where(first, values, self._bad_values)

    @property
    def bad(self) -> bool:
        """A step was not finite. Waits for the device."""
        return self._bad_step is not None and bool(self._bad_step >= 0)

    def diverged(self, steps_per_epoch: int) -> TrainingDiverged:
        """The error to raise, with the step and the term that was not finite."""
        step = -1 if self._bad_step is None else int(self._bad_step)
        if step < 0:
            return TrainingDiverged("a term is not finite in another process")
        values = dict(zip(self.names, self._bad_values.tolist(), strict=True))
        total = values.pop("loss")
        first = next((name for name, value in values.items() if value - value != 0), "loss")
        listed = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        return TrainingDiverged(
            f"{first} is not finite in step {step + 1} "
            f"(epoch {step // steps_per_epoch + 1}; loss {total:.4g}: {listed})"
        )

    def means(self) -> Tensor:
        """[number of names] means since the last `clear`."""
        return self._sums / max(self.count, 1)

    def clear(self) -> None:
        self._sums, self.count = torch.zeros_like(self._sums), 0

    def state_dict(self) -> dict[str, Any]:
        return {"names": list(self.names), "count": self.count, "sums": self._sums.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.names, self.count = tuple(state["names"]), state["count"]
        self._sums = state["sums"].clone()
