"""What a user can act on while a training runs. Each is said once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vae.terms import Terms

LEAST_KL = 0.1  # nats per sample, below which the code says nothing about x
DEAD, DEAD_SHARE = 0.01, 0.75  # nats of a dimension; share of such dimensions
OFF_PRIOR = 0.5  # nats per dimension between Gaussians of q(z)'s and the prior's moments
LEAST_ROWS = 50  # from which moments are estimated
STREAK = 5  # checks in a row
WARM_UP_SHARE, WARM_UP_STEPS = 0.1, 200  # of the run, and at least, in which nothing is said


class Alarms:
    """Counts the checks in a row at which something was wrong, and says so after ``STREAK``.

    Args:
        say: prints one line.
        n_steps: of the run.
        schedule_steps: until the objective's schedule has ended.
    """

    def __init__(self, say: Callable[[str], None], *, n_steps: int, schedule_steps: int) -> None:
        self.say = say
        warm_up = max(WARM_UP_STEPS, int(WARM_UP_SHARE * n_steps))
        self.quiet_until = max(warm_up, schedule_steps)
        self._streaks: dict[str, int] = {}

    def check(self, terms: Terms, step: int) -> None:
        """Looks at held-out terms, or those of a batch."""
        if step <= self.quiet_until:
            return
        for name, text in (("collapse", collapsed(terms)), ("prior", off_prior(terms))):
            streak = self._streaks.get(name, 0) + 1 if text else 0
            if streak == STREAK:
                self.say(f"step {step}: {text}")
            said = self._streaks.get(name, 0) >= STREAK
            self._streaks[name] = STREAK + 1 if said else streak

    def state_dict(self) -> dict[str, int]:
        return dict(self._streaks)

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._streaks = dict(state)


def collapsed(terms: Terms) -> str | None:
    """What to say where the codes carry next to nothing; None where they do not."""
    if terms.kl is None:
        return None
    kl = float(terms.kl.mean())
    advice = "lower β (or α+λ−1), anneal it from 0, or use fewer latent dimensions"
    if kl < LEAST_KL:
        return f"the posterior has collapsed: KL(q(z|x)‖p(z)) = {kl:.2g} nats; {advice}"
    if terms.kl_per_dimension is None:
        return None
    dimensions = terms.kl_per_dimension.mean(0)
    dead = int((dimensions < DEAD).sum())
    if dead < DEAD_SHARE * len(dimensions):
        return None
    return (
        f"{dead} of {len(dimensions)} latent dimensions carry less than {DEAD} nats "
        f"(KL {kl:.3g} in all); {advice}"
    )


def off_prior(terms: Terms) -> str | None:
    """What to say where mean and variance of the codes are far from those of the prior's draws;
    None where they are not, or the rows are too few to tell."""
    if len(terms.z) < LEAST_ROWS:
        return None
    z, p = _moments(terms.z), _moments(terms.prior_sample)
    ratio = z[1] / p[1]
    shift = (z[0] - p[0]).square() / p[1]
    nats = 0.5 * (ratio + shift - 1 - ratio.log())  # KL of the two Gaussians
    if float(nats.mean()) < OFF_PRIOR:
        return None
    j = int(nats.argmax())
    return (
        f"q(z) is off the prior by {float(nats.mean()):.2g} nats per dimension in mean "
        f"and variance (dimension {j}: mean {float(z[0][j]):.2g} against {float(p[0][j]):.2g}, "
        f"variance {float(z[1][j]):.2g} against {float(p[1][j]):.2g}): samples from the prior will "
        "not look like reconstructions; raise λ or β"
    )


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    rows = rows.detach().double().cpu()
    variance, mean = torch.var_mean(rows, 0)
    return mean, variance.clamp_min(1e-12)
