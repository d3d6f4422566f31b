"""Warnings during a training, each given once."""

from __future__ import annotations

from collections.abc import Callable

from vae.diagnostics import collapsed, off_prior
from vae.forward_output import ForwardOutput

STREAK = 5  # checks in a row
WARM_UP_SHARE, WARM_UP_STEPS = 0.1, 200  # of the run, and at least, in which nothing is said


class Alarms:
    """Warns of what was wrong at ``STREAK`` checks in a row, and at the end of the training of what
    was wrong at the last one.

    Args:
        say: prints one line.
        n_steps: of the run.
        schedule_steps: until the objective's schedule has ended.
        prior: whether the objective brings codes to the prior, so that it matters where they lie.
    """

    def __init__(
        self, say: Callable[[str], None], *, n_steps: int, schedule_steps: int, prior: bool = True
    ) -> None:
        self.say, self.prior = say, prior
        warm_up = max(WARM_UP_STEPS, int(WARM_UP_SHARE * n_steps))
        self.quiet_until = max(warm_up, schedule_steps)
        self._streaks: dict[str, int] = {}  # beyond STREAK: it has been said
        self._latest: dict[str, str] = {}  # what was wrong at the last check

    def check(self, terms: ForwardOutput, step: int) -> None:
        """Looks at held-out terms, or those of a batch."""
        found = {
            "collapse": collapsed(terms.kl, terms.kl_per_dimension),
            "prior": off_prior(terms.z, terms.prior_sample) if self.prior else None,
        }
        self._latest = {name: f"step {step}: {text}" for name, text in found.items() if text}
        if step <= self.quiet_until:
            return
        for name in found:
            streak = self._streaks.get(name, 0)
            if streak > STREAK:
                continue
            self._streaks[name] = streak + 1 if name in self._latest else 0
            if self._streaks[name] == STREAK:
                self._say(name)

    def finish(self) -> None:
        """At the end: a short run has no five checks after its warm-up."""
        for name in self._latest:
            if self._streaks.get(name, 0) <= STREAK:
                self._say(name)

    def _say(self, name: str) -> None:
        self.say(self._latest[name])
        self._streaks[name] = STREAK + 1

    def state_dict(self) -> dict[str, int]:
        return dict(self._streaks)

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._streaks = dict(state)
