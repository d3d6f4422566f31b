"""A heuristic for λ: equal gradient norms of the distortion and of the divergence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn

from vae.objectives.objective import InfoVAE, Objective


class Autoencoder(Protocol):
    """The part of ``vae.VAE`` that the heuristic uses."""

    encoder: nn.Module
    objective: Objective

    def __call__(self, x: Tensor, *, generator: Generator | None = None) -> Any: ...


def propose_lambda(model: Autoencoder, x: Tensor, *, generator: Generator | None = None) -> float:
    """The λ at which D pulls at the encoder as hard as the distortion does, on this batch.

        (α + λ − 1) ‖∇D‖ = ‖∇ E_q[−log p(x|z)]‖    over the encoder's parameters

    Good for: the order of magnitude, when the data, σ² or the divergence are new and λ in nats says
    nothing yet. The gradient of the distortion grows with 1/σ² and the number of pixels, that of D
    has the scale of its kernel; the ratio of the two is what a λ carried over from another code
    silently assumes.

    Not good for: a final value. It belongs to the weights and the batch at hand: it changes as
    training goes on (try it on the untrained model and again after an epoch), and where q(z) is
    already close to p(z) the gradient of an unbiased D is noise, of a size that falls with the
    number of rows. Equal norms say nothing of directions, nor of whether the aggregate posterior
    ends up at the prior: `vae.evaluation` does. A critic must have been trained before.

    Args:
        model: as it is, in its mode; neither parameters nor gradients change.
        x: [B, …] data, B ≥ 2: the larger, the less noise.
        generator: of z and the prior's draws; None is torch's global one.

    Returns:
        λ for an ``InfoVAE`` of the same α; otherwise the weight of D.

    Raises:
        ValueError: no divergence, fewer than two rows, an encoder without parameters, or a gradient
            of D that is 0 or not finite.
    """
    objective = model.objective
    if objective.divergence is None:
        raise ValueError("this objective has no divergence whose weight could be proposed")
    if len(x) < 2:
        raise ValueError(f"a divergence of the batch needs at least 2 rows, got {len(x)}")
    parameters = [p for p in model.encoder.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the encoder has no parameters that could feel either gradient")
    with torch.enable_grad():
        output = model(x, generator=generator)
        divergence = objective.divergence(output.z, output.prior_sample)
        pull = _norm(divergence, parameters)
        if not (0 < pull < float("inf")):
            raise ValueError(
                f"the gradient of {objective.divergence_name} has norm {pull:g} here: there is "
                "nothing to weigh (an untrained critic is flat: train it first)"
            )
        ratio = _norm(output.distortion.mean(), parameters) / pull
    return ratio + 1 - objective.alpha if isinstance(objective, InfoVAE) else ratio


def _norm(value: Tensor, parameters: Sequence[Tensor]) -> float:
    gradients = torch.autograd.grad(
        value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    squares = torch.stack([gradient.double().square().sum() for gradient in gradients])
    return float(squares.sum().sqrt())
