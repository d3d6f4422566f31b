"""Means over steps, and the first step that was not finite, without waiting for the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vae.training.errors import TrainingDiverged


class Watch:
    """Sums the parts of every step on their device, and keeps those of the first step where one of
    them was not finite."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.count = 0
        self._sums = torch.zeros(0)
        self._bad_step = torch.tensor(-1)
        self._bad_values = torch.zeros(0)

    @torch.no_grad()
    def add(self, parts: Mapping[str, Tensor], step: int) -> None:
        """The 0-d parts of a step (numbered from 0)."""
        names = tuple(parts)
        if self.names and names != self.names:
            raise ValueError(
                f"an objective must keep its parts, also in a resumed run: the loss was made of "
                f"{', '.join(self.names)}, now of {', '.join(names)}"
            )
        values = torch.stack([part.detach().float() for part in parts.values()])
        if not self.names:
            self.names = names
            self._sums = torch.zeros_like(values)
        if self._bad_values.numel() == 0:
            self._bad_values = torch.zeros_like(values)
            self._bad_step = torch.full((), -1, device=values.device)
            self._sums = self._sums.to(values.device)
        self._sums = self._sums + values
        self.count += 1
        first = (self._bad_step < 0) & ~values.isfinite().all()
        self._bad_step = torch.where(first, step, self._bad_step)
        self._bad_values = torch.where(first, values, self._bad_values)

    @property
    def bad(self) -> bool:
        """A step was not finite. Waits for the device."""
        return bool(self._bad_step >= 0)

    def diverged(self, steps_per_epoch: int) -> TrainingDiverged:
        """With the step and the term that was not finite."""
        step = int(self._bad_step)
        if step < 0:
            return TrainingDiverged("training diverged in another process")
        values = dict(zip(self.names, self._bad_values.tolist(), strict=True))
        total = values.pop("loss")
        worst = [name for name, value in values.items() if value - value != 0]  # inf or NaN
        first = worst[0] if worst else "loss"
        listed = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        return TrainingDiverged(
            f"training diverged: {first} is not finite in step {step + 1} "
            f"(epoch {step // steps_per_epoch + 1}; loss {total:.4g}: {listed}); "
            "try a smaller λ or learning rate, or a larger σ²"
        )

    def means(self) -> Tensor:
        """[number of names] means since the last `clear`."""
        return self._sums / max(self.count, 1)

    def clear(self) -> None:
        """Start anew."""
        self._sums, self.count = torch.zeros_like(self._sums), 0

    def state_dict(self) -> dict[str, Any]:
        return {"names": list(self.names), "count": self.count, "sums": self._sums.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.names, self.count = tuple(state["names"]), state["count"]
        self._sums = state["sums"].clone()
