"""Diagnostics of codes: posterior collapse, and an aggregate posterior off the prior."""

from __future__ import annotations

from torch import Tensor

LEAST_KL = 0.1  # nats per sample, below which the code says nothing about x
DEAD, DEAD_SHARE = 0.01, 0.75  # nats of a dimension; share of such dimensions
OFF_PRIOR = 0.5  # nats per dimension between Gaussians of q(z)'s and the prior's moments
LEAST_ROWS = 50  # from which moments are estimated


def collapsed(kl: Tensor | None, kl_per_dimension: Tensor | None) -> str | None:
    """A warning of posterior collapse; None where the codes carry information.

    Args:
        kl: [N] KL(q(z|x)‖p(z)) in nats; None where it is not defined.
        kl_per_dimension: [N, M]; None where it is not defined.
    """
    if kl is None:
        return None
    mean = float(kl.mean())
    advice = "lower β (or α+λ−1), anneal it from 0, or use fewer latent dimensions"
    if mean < LEAST_KL:
        return f"the posterior has collapsed: KL(q(z|x)‖p(z)) = {mean:.2g} nats; {advice}"
    if kl_per_dimension is None:
        return None
    dimensions = kl_per_dimension.mean(0)
    dead = int((dimensions < DEAD).sum())
    if dead < DEAD_SHARE * len(dimensions):
        return None
    return (
        f"{dead} of {len(dimensions)} latent dimensions carry less than {DEAD} nats "
        f"(KL {mean:.3g} in all); {advice}"
    )


def off_prior(z: Tensor, prior_sample: Tensor) -> str | None:
    """A warning that mean and variance of codes z [N, M] are far from those of prior draws [K, M];
    None where they are not, or the rows are too few to tell."""
    if len(z) < LEAST_ROWS:
        return None
    q, p = _moments(z), _moments(prior_sample)
    ratio = q[1] / p[1]
    shift = (q[0] - p[0]).square() / p[1]
    nats = 0.5 * (ratio + shift - 1 - ratio.log())  # KL of the two Gaussians
    if float(nats.mean()) < OFF_PRIOR:
        return None
    j = int(nats.argmax())
    return (
        f"q(z) is off the prior by {float(nats.mean()):.2g} nats per dimension in mean "
        f"and variance (dimension {j}: mean {float(q[0][j]):.2g} against {float(p[0][j]):.2g}, "
        f"variance {float(q[1][j]):.2g} against {float(p[1][j]):.2g}): samples from the prior will "
        "not look like reconstructions; raise λ or β"
    )


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    rows = rows.detach().double().cpu()
    return rows.mean(0), rows.var(0).clamp_min(1e-12)
