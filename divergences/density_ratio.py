"""Density ratios by classification: a critic that tells P from Q has learned log p/q.

Trained on the cross entropy with both classes at prior ½, a critic's *logit* tends to
log p(x)/q(x) (Sugiyama, Suzuki & Kanamori, "Density Ratio Estimation in Machine Learning", 2012,
ch. 4; Goodfellow et al. 2014, prop. 1; Mohamed & Lakshminarayanan 2016, sec. 3). Everything here
takes and returns logits: log C/(1 − C) formed from a probability C overflows where the critic is
sure, and the logit is that number already. Everything is in nats.

The functions of logits are differentiable, for adversarial objectives. ``fit_density_ratio`` trains
a critic on two samples and reads off KL(P‖Q) and the Jensen–Shannon divergence from rows that the
critic has not seen.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import softplus

from .critic import HIDDEN, Critic, Scaling, copy_to, dtype_of, logits_of, own_randomness
from .estimators import normalised
from .kernels.validation import check_rows
from .samples import Rng, as_sample, as_samples, generator_of

FOLDS = 5
LEAST_ROWS = 2 * FOLDS
BATCH = 256  # rows of each class in a step
STEPS = 3000  # at most
EVERY, PATIENCE = 20, 10  # the critic is judged every so many steps, and given so many chances
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-3
FEW_STEPS, FEW_RATE = 300, 1e-2  # where no rows can be spared to say when to stop
VALIDATION_ROWS = 5000  # at most, of a fifth of each class
FEW_ROWS = 100  # of a class to train on, below which the default critic is linear


# --- Functions of logits -------------------------------------------------------------------------


def critic_loss(
    logits_p: Tensor,
    logits_q: Tensor,
    weights_p: Tensor | None = None,
    weights_q: Tensor | None = None,
) -> Tensor:
    """Binary cross entropy of a critic with both classes at prior ½, in nats.

        ½ E_p softplus(−t) + ½ E_q softplus(t),    t the logit of "from P"

    Its minimiser over all functions is t = log p/q, its minimum log 2 − JS(P, Q) (Goodfellow et al.
    2014, thm. 1; half of their value, negated). Each expectation is a mean over its *own* class, so
    the numbers of rows do not enter: pooled cross entropy with two fakes per real is off by log 2.

    Args:
        logits_p, logits_q: logits of rows from P and from Q, of any shapes and numbers.
        weights_p, weights_q: in the shape of their logits, normalised to sum to one, uniform if
            None. Weights change what P and Q are: with Q pooled from a reconstructions and b
            samples, weights ½a and ½b make Q the even mixture of the two.

    Returns:
        A 0-d tensor in the promoted dtype, at least fp32. log 2 = 0.693 for a critic that knows
        nothing.

    Raises:
        ValueError, TypeError: no logits, or weights that do not fit or sum to zero.

    Examples:
        >>> import torch
        >>> from divergences.density_ratio import critic_loss
        >>> know_nothing = torch.zeros(5)
        >>> print(f"{critic_loss(know_nothing, know_nothing):.4f}")  # log 2
        0.6931
    """
    from_p = _mean(softplus(-_wide(logits_p)), weights_p, "p")
    return 0.5 * (from_p + _mean(softplus(_wide(logits_q)), weights_q, "q"))


def kl_from_logits(logits_p: Tensor, weights_p: Tensor | None = None) -> Tensor:
    """KL(P‖Q) ≈ E_p t from logits t ≈ log p/q at rows from P, in nats (0-d, differentiable).

    The plug-in of adversarial objectives (Mescheder, Nowozin & Geiger 2017, eq. 3.4; Mohamed &
    Lakshminarayanan 2016). Not a bound: a critic that is too sure makes it too large;
    ``kl_lower_bound`` is one. With the classes the other way round, KL(Q‖P) ≈ −E_q t.

    Examples:
        >>> import torch
        >>> from divergences.density_ratio import kl_from_logits
        >>> p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])  # two outcomes, each in turn
        >>> logits = (p / q).log()
        >>> print(f"{kl_from_logits(logits, p):.4f}")  # Σ p log p/q
        0.5108
    """
    return _mean(_wide(logits_p), weights_p, "p")


def kl_lower_bound(
    logits_p: Tensor,
    logits_q: Tensor,
    weights_p: Tensor | None = None,
    weights_q: Tensor | None = None,
) -> Tensor:
    """KL(P‖Q) ≥ E_p t − log E_q exp t, in nats (0-d, differentiable): Donsker & Varadhan (1983).

    Any function t gives a lower bound, log p/q the KL itself, and a constant added to t changes
    nothing: it is the bound E_p t + 1 − E_q exp t of Nguyen, Wainwright & Jordan (2010) at the best
    such constant. The logarithm of a mean over m rows adds about Var_q(eᵗ) / 2m(E_q eᵗ)² to it;
    rows that the critic was trained on void it.

    Examples:
        >>> import torch
        >>> from divergences.density_ratio import kl_lower_bound
        >>> p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])  # two outcomes, each in turn
        >>> logits = (p / q).log()
        >>> print(f"{kl_lower_bound(logits, logits, p, q):.4f}")  # the KL itself
        0.5108
    """
    below = _wide(logits_q)
    largest = below.detach().amax()
    return _mean(_wide(logits_p), weights_p, "p") - (
        largest + _mean((below - largest).exp(), weights_q, "q").log()
    )


def js_from_logits(
    logits_p: Tensor,
    logits_q: Tensor,
    weights_p: Tensor | None = None,
    weights_q: Tensor | None = None,
) -> Tensor:
    """JS(P, Q) ≥ log 2 − ``critic_loss``, with equality at t = log p/q, in nats (0-d,
    differentiable).

    JS = ½KL(P‖M) + ½KL(Q‖M), M = ½P + ½Q, lies in [0, log 2]. The estimate is at most log 2, and
    negative where a critic does worse than chance, as it may on new rows under P = Q.

    Examples:
        >>> import torch
        >>> from divergences.density_ratio import js_from_logits
        >>> p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])  # two outcomes, each in turn
        >>> logits = (p / q).log()
        >>> print(f"{js_from_logits(logits, logits, p, q):.4f}")  # JS(p, q)
        0.1017
    """
    return math.log(2.0) - critic_loss(logits_p, logits_q, weights_p, weights_q)


def _wide(logits: Tensor) -> Tensor:
    """At least fp32: the mean of bf16 logits from autocast is taken in fp32."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"logits must be a floating point tensor; got {got}")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _mean(values: Tensor, weights: Tensor | None, name: str) -> Tensor:
    if values.numel() == 0:
        raise ValueError(f"logits_{name} is empty (shape {list(values.shape)})")
    if weights is None:
        return values.mean()
    if isinstance(weights, Tensor):
        if weights.shape != values.shape:
            raise ValueError(
                f"weights_{name} must have the shape of logits_{name}, {list(values.shape)}; got "
                f"{list(weights.shape)}"
            )
        weights = weights.flatten()
    shares = normalised(weights, values.reshape(-1, 1), f"weights_{name}")
    assert shares is not None
    return (shares * values.flatten()).sum().to(values.dtype)


# --- Training ------------------------------------------------------------------------------------


Draw = Callable[[], tuple[Tensor, Tensor]]
"""A batch of rows from P and one from Q, [b, d] each."""


def train_critic(critic: nn.Module, draw: Draw, validation: tuple[Tensor, Tensor] | None) -> None:
    """Minimise ``critic_loss`` by Adam, in place, and keep the parameters that did best on the
    ``validation`` rows of P and Q (None: ``FEW_STEPS`` steps, the last kept)."""
    rate, steps = (LEARNING_RATE, STEPS) if validation else (FEW_RATE, FEW_STEPS)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    best, kept, stale = math.inf, critic.state_dict(), 0
    for step in range(1, steps + 1):
        critic.train()
        optimizer.zero_grad()
        p, q = draw()
        critic_loss(critic(p), critic(q)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if validation is None or step % EVERY:
            continue
        loss = float(critic_loss(*(logits_of(critic, rows) for rows in validation)))
        if loss < best:
            best, kept, stale = loss, copy.deepcopy(critic.state_dict()), 0
        elif (stale := stale + 1) == PATIENCE:
            break
    critic.load_state_dict(kept)


class FittedCritic(NamedTuple):
    """A trained critic with the scaling of its inputs."""

    scaling: Scaling
    critic: nn.Module

    def __call__(self, rows: Tensor) -> Tensor:
        """Logits [n] in fp64 of rows [n, d]."""
        return logits_of(self.critic, self.scaling(rows).to(dtype_of(self.critic)))


def fit_critic(
    x: Tensor, y: Tensor, critic: nn.Module | None, generator: torch.Generator
) -> FittedCritic:
    """Train on all rows of x [n, d] (P) and y [m, d] (Q), within ``own_randomness``.

    A fifth of each sample, in random order, says when to stop; of fewer than ``FEW_ROWS`` rows none
    does, and the default critic is linear.
    """
    few = min(len(x), len(y)) < FEW_ROWS
    scaling = Scaling(torch.cat([x, y]))
    if critic is None:
        critic = Critic(x.shape[1], () if few else HIDDEN, generator=generator)
    module = copy_to(critic, x.device)
    rows, judged = [], []
    for sample in (x, y):
        order = torch.randperm(len(sample), generator=generator, device="cpu")
        z = scaling(sample).to(dtype_of(module))[order]
        count = 0 if few else min(VALIDATION_ROWS, len(z) // 5)
        judged.append(z[:count])
        rows.append(z[count:])
    p, q = rows

    def draw() -> tuple[Tensor, Tensor]:
        i, j = (torch.randint(len(z), (BATCH,), generator=generator, device="cpu") for z in (p, q))
        return p[i], q[j]

    train_critic(module, draw, None if few else (judged[0], judged[1]))
    return FittedCritic(scaling, module)


# --- Two samples ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class DensityRatio:
    """log p/q of two samples and the divergences read off it; see ``fit_density_ratio``.

    ``kl`` is KL(P‖Q) and ``js`` the Jensen–Shannon divergence, in nats. Standard errors are those
    of the held-out rows for the critics at hand; that a critic may fall short of log p/q is not in
    them. ``logits_x`` [n] and ``logits_y`` [m], read-only, are held-out. Call it for the logits of
    new points.
    """

    kl: float
    kl_standard_error: float
    js: float
    js_standard_error: float
    n: int
    m: int
    d: int
    logits_x: NDArray[np.float64] = field(repr=False)
    logits_y: NDArray[np.float64] = field(repr=False)
    seed: int | None = None
    _critics: tuple[FittedCritic, ...] = field(repr=False)
    _device: torch.device = field(repr=False)

    def __call__(self, points: Any) -> NDArray[np.float64]:
        """Estimated log p/q [k] in nats at points [k, d]: the mean over the critics."""
        rows = as_sample(points, "points").to(self._device)
        if rows.shape[1] != self.d:
            raise ValueError(f"points must have shape [k, {self.d}]; got {list(rows.shape)}")
        logits = torch.stack([critic(rows) for critic in self._critics]).mean(0)
        return np.asarray(logits.cpu().numpy())


def fit_density_ratio(
    x: Any, y: Any, *, critic: nn.Module | None = None, rng: Rng = None
) -> DensityRatio:
    """Estimate log p(x)/q(x), KL(P‖Q) and JS(P, Q) from samples x [n, d] of P and y [m, d] of Q.

    Five critics are each trained on four fifths of the rows of x and of y, and judged on the fifth
    they have not seen. Columns are scaled (``Scaling``) by what is trained on alone. A fifth of the
    training rows stops the training early; of fewer than 100 training rows none is spared for that,
    and 300 steps are taken.

    Args:
        x, y: what ``two_sample_test`` takes; at least ten rows each.
        critic: a torch module that maps scaled rows [b, d] to logits [b] or [b, 1]. It is copied
            and left as it is; every copy starts from its parameters. What it draws itself (dropout)
            comes from torch's global generator. Default: ``Critic``, linear below 100 training
            rows.
        rng: seed, ``numpy.random.Generator`` or ``torch.Generator``; fresh entropy if None. On one
            machine and number of threads equal seeds give equal numbers. No global generator is
            used.

    Returns:
        DensityRatio. ``kl`` is ``kl_lower_bound`` of the held-out logits, too small rather than too
        large where the critic falls short, and never above log m: m rows cannot show more
        (McAllester & Stratos 2020). Both estimates may be negative where P and Q are close.

    Raises:
        ValueError, TypeError: as ``two_sample_test``; fewer than ten rows.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from divergences import fit_density_ratio
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(200, 1)) + 1, rng.normal(size=(200, 1))  # KL = ½ nat
        >>> ratio = fit_density_ratio(x, y, critic=torch.nn.Linear(1, 1), rng=0)
        >>> print(f"{ratio.kl:.1f}", bool(ratio([[2.0]]) > 0 > ratio([[-2.0]])))
        0.5 True
    """
    x, y = as_samples(x, y)
    for sample, name in ((x, "x"), (y, "y")):
        check_rows(
            sample, name, 2 * FOLDS, f"cross-fitting needs at least {2 * FOLDS} rows of each"
        )
    generator, seed = generator_of(rng)
    critics = []
    with own_randomness(int(generator.integers(2**62)), x.device) as draws:
        x, y = x.clone(), y.clone()  # which makes plain tensors of those of inference mode
        p, q = (torch.empty(len(rows), dtype=torch.float64, device=x.device) for rows in (x, y))
        for held_x, held_y in zip(folds(x, draws), folds(y, draws), strict=True):
            critics.append(fit_critic(x[~held_x], y[~held_y], critic, draws))
            p[held_x], q[held_y] = critics[-1](x[held_x]), critics[-1](y[held_y])
    ratio = (q - torch.logsumexp(q, 0)).exp() * len(q)  # eᵗ / E_q eᵗ
    return DensityRatio(
        kl=min(float(kl_lower_bound(p, q)), math.log(len(y))),
        kl_standard_error=float((p.var() / len(p) + ratio.var() / len(q)).sqrt()),
        js=float(js_from_logits(p, q)),
        js_standard_error=0.5
        * float((softplus(-p).var() / len(p) + softplus(q).var() / len(q)).sqrt()),
        n=len(x),
        m=len(y),
        d=x.shape[1],
        logits_x=_frozen(p),
        logits_y=_frozen(q),
        seed=seed,
        _critics=tuple(critics),
        _device=x.device,
    )


def folds(x: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Masks [n] of a random partition into ``FOLDS`` parts."""
    number = torch.randperm(len(x), generator=generator, device="cpu").to(x.device) % FOLDS
    return [number == k for k in range(FOLDS)]


def _frozen(values: Tensor) -> NDArray[np.float64]:
    array = np.asarray(values.cpu().numpy(), dtype=np.float64)
    array.flags.writeable = False
    return array
