"""How much do X and Y tell about each other? Mutual information from paired rows, in nats.

I(X; Y) = KL(P_XY ‖ P_X × P_Y), so a critic that tells pairs (xᵢ, yᵢ) from mixed pairs (xᵢ, yⱼ) has
learned what is needed (Sugiyama et al. 2012, ch. 11; Belghazi et al., "Mutual Information Neural
Estimation", ICML 2018, for the bound).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .critic import Critic, Scaling, copy_to, dtype_of, own_randomness
from .density_ratio import BATCH, LEAST_ROWS, VALIDATION_ROWS, FittedCritic, folds, train_critic
from .kernels.validation import check_rows
from .results import Record
from .samples import Rng, as_sample, generator_of

MIXED = 4  # mixed pairs per true one in a step …
VALIDATION_SHIFTS = 16  # … and where training is judged
SHIFTS = 64  # mixed pairs per held-out row, at most …
MIXED_ROWS = 2**18  # … and no more in all than these, or one per row


@dataclass(frozen=True, kw_only=True)
class MutualInformation(Record):
    """An estimate of I(X; Y) in nats, with the standard error due to the held-out rows."""

    estimate: float
    standard_error: float
    method: str
    n: int
    seed: int | None = None

    def __str__(self) -> str:
        spread = f"{self.estimate:.3g} ± {self.standard_error:.2g} nats"
        return f"mutual information {spread} ({self.method}, n = {self.n})"


def mutual_information(
    x: Any, y: Any, *, critic: nn.Module | None = None, rng: Rng = None
) -> MutualInformation:
    """Estimate I(X; Y) from n independent pairs, x [n, d] and y [n, k], in nats.

    Five critics are trained on four fifths of the pairs each, by cross entropy against mixed pairs,
    and read on the fifth they have not seen: the bound of Donsker & Varadhan, E t − log E′ eᵗ, with
    E over pairs and E′ over mixed pairs (``divergences.density_ratio.kl_lower_bound``).

    It is a lower bound but for sampling: too small where the critic falls short (few rows, many
    columns, nearly deterministic dependence), and slightly negative where X and Y are independent
    (to −0.02 at n = 500): learned noise costs on new rows, by more than the standard error tells.
    It is never above log n (McAllester & Stratos, "Formal limitations on the measurement of mutual
    information", 2020). It is no test of independence.

    Means over four samples of x, y = ρx + √(1 − ρ²)ε, n = 500, d columns each (truth in brackets):

        d    ρ = 0        ρ = .3       ρ = .6        ρ = .9
        1    −.01 (0)     .03 (.05)    .19 (.22)      .77 (.83)
        2    −.01 (0)     .06 (.09)    .41 (.45)     1.61 (1.66)
        5    −.00 (0)     .17 (.24)    1.05 (1.12)   3.37 (4.15)

    The mean logit of the true pairs alone, which is no bound, came out above the truth in four of
    these cells, and the bound of Nguyen, Wainwright & Jordan at .89 in the last.

    Args:
        x, y: torch tensors (CPU or CUDA), anything with ``__dlpack__``, or anything numpy converts;
            a vector is one column. At least ten rows; row i of y belongs to row i of x.
        critic: a torch module that maps scaled rows [b, d + k], x before y, to logits [b] or
            [b, 1]; it is copied. Default: ``divergences.critic.Critic``.
        rng: as ``divergences.density_ratio.fit_density_ratio``.

    Raises:
        ValueError, TypeError: unequal or too few rows, non-finite entries (counted).

    Examples:
        >>> import numpy as np
        >>> from divergences import mutual_information
        >>> x = np.random.default_rng(0).choice([-1.0, 1.0], size=(80, 1))
        >>> found = mutual_information(x, x, rng=0)
        >>> print(f"{found.estimate:.1f} nats")  # log 2
        0.7 nats
    """
    x, y = as_sample(x, "x"), as_sample(y, "y")
    if len(x) != len(y) or x.device != y.device:
        raise ValueError(
            f"x and y must be pairs, row by row, on one device; got x {list(x.shape)} on "
            f"{x.device}, y {list(y.shape)} on {y.device}"
        )
    check_rows(x, "x", LEAST_ROWS, f"cross-fitting needs at least {LEAST_ROWS}")
    generator, seed = generator_of(rng)
    shifts = max(1, min(SHIFTS, MIXED_ROWS // len(x)))
    found, width = [], x.shape[1]
    with own_randomness(int(generator.integers(2**62)), x.device) as draws:
        pairs = torch.cat([x, y], 1)
        for unseen in folds(x, draws):
            fitted = _fit(pairs[~unseen], width, critic, draws)
            found.append(_held_out_logits(fitted, pairs[unseen], width, shifts))
    true, along, across = (torch.cat(parts) for parts in zip(*found, strict=True))
    constant = along.logsumexp(0) - math.log(len(along))  # log E′ eᵗ
    # A row enters once as a pair, and in mixed pairs as an x and as a y: its share of the bound.
    influence = true - (along - constant).exp() - (across - constant).exp()
    return MutualInformation(
        estimate=min(float(true.mean() - constant), math.log(len(x))),
        standard_error=float((influence.var() / len(x)).sqrt()),
        method="Donsker-Varadhan bound, cross-fitted critic",
        n=len(x),
        seed=seed,
    )


def _fit(
    pairs: Tensor, width: int, critic: nn.Module | None, generator: torch.Generator
) -> FittedCritic:
    """Train on pairs [n, width + k] against the same rows mixed anew in every step."""
    scaling = Scaling(pairs)
    if critic is None:
        critic = Critic(pairs.shape[1], generator=generator)
    module = copy_to(critic, pairs.device)
    order = torch.randperm(len(pairs), generator=generator, device="cpu")
    z = scaling(pairs).to(dtype_of(module))[order]
    count = min(VALIDATION_ROWS, max(2, len(z) // 5))
    judged, z = z[:count], z[count:]

    def draw() -> tuple[Tensor, Tensor]:
        i = torch.randint(len(z), (BATCH,), generator=generator, device="cpu")
        left = i.repeat(MIXED)
        shift = torch.randint(
            1, len(z), left.shape, generator=generator, device="cpu"
        )  # not its own
        right = (left + shift) % len(z)
        return z[i], torch.cat([z[left, :width], z[right, width:]], 1)

    against = torch.cat([_mixed(judged, width, s) for s in _shifts(count, VALIDATION_SHIFTS)])
    train_critic(module, draw, (judged, against))
    return FittedCritic(scaling, module)


def _held_out_logits(
    critic: FittedCritic, pairs: Tensor, width: int, shifts: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [f] of the pairs, and log E′ eᵗ [f] over the mixed pairs of each x, and of each y."""
    count = len(pairs)
    along, across = [], []
    for s in _shifts(count, shifts):
        logits = critic(_mixed(pairs, width, s))
        along.append(logits)
        across.append(logits.roll(-s))
    return critic(pairs), _log_mean_exp(along), _log_mean_exp(across)


def _log_mean_exp(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).logsumexp(0) - math.log(len(parts))


def _mixed(pairs: Tensor, width: int, shift: int) -> Tensor:
    """Row i with the y of row i − shift."""
    return torch.cat([pairs[:, :width], pairs[:, width:].roll(shift, 0)], 1)


def _shifts(count: int, most: int) -> list[int]:
    """At most ``most`` different shifts of ``count`` rows, none of them 0."""
    number = min(most, count - 1)
    return [1 + k * (count - 1) // number for k in range(number)]
