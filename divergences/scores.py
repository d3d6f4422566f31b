"""Scores s(x) = ∇ log p(x): what a goodness-of-fit test needs to know of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, VonMises, constraints

Score = Callable[[Tensor], Tensor]
"""From points [n, d] to scores [n, d], row by row."""

ROWS = 2**14  # scored at a time


def score_of(log_prob: Callable[[Tensor], Tensor]) -> Score:
    """The score of a log density [n, d] → [n], by autograd. It need not be normalised.

    goodness_of_fit_test(x, score_of(lambda x: -0.25 * x.pow(4).sum(-1)))

    Examples:
        >>> import torch
        >>> from divergences import score_of
        >>> score = score_of(lambda x: -0.25 * x.pow(4).sum(-1))
        >>> score(torch.tensor([[1.0], [2.0]])).flatten().tolist()  # −x³
        [-1.0, -8.0]
    """

    def score(x: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            points = x.clone().requires_grad_()
            value = log_prob(points)
            _check_log_prob(value, points)
            (gradient,) = torch.autograd.grad(value.sum(), points)
        return gradient

    return score


def scores_at(model: Any, x: Tensor, name: str = "model") -> Tensor:
    """The scores [n, d] in fp64 of checked points x [n, d].

    model: "normal" for N(0, I); a ``torch.distributions.Distribution``; an object with a method
    ``score`` [n, d] → [n, d] or ``log_prob`` [n, d] → [n]; or a callable, taken for the score. It
    is called with fp64 points, and with fp32 ones if torch refuses those (fp32 parameters). Raises
    TypeError for anything else, ValueError for a wrong shape, non-finite scores, or a distribution
    that does not live on all of ℝᵈ.
    """
    score = _score(model, x.shape[1], name)
    found = torch.cat([_evaluate(score, part, name) for part in torch.split(x, ROWS)])
    bad = int((~torch.isfinite(found)).any(1).sum())
    if bad:
        raise ValueError(f"the score of {name} is not finite at {bad} of {len(x)} rows")
    return found


def describe(model: Any) -> str:
    """A short name of the model, for reports."""
    if isinstance(model, str):
        return model
    return str(getattr(model, "__name__", type(model).__name__))


def check_event(model: Distribution, d: int, name: str) -> None:
    """That one draw of the distribution is one row of d columns. Raises ValueError."""
    if len(model.batch_shape) > 0:
        raise ValueError(
            f"{name} is a batch of {list(model.batch_shape)} distributions, not one; for "
            f"independent columns use torch.distributions.Independent({name}, 1)"
        )
    if len(model.event_shape) > 1 or model.event_shape.numel() != d:
        event = list(model.event_shape)
        raise ValueError(f"{name} has events of shape {event}, x has rows of {d} columns")


def _score(model: Any, d: int, name: str) -> Score:
    if isinstance(model, Distribution):
        check_event(model, d, name)
        _check_support(model, name)
        scalar = len(model.event_shape) == 0
        return score_of(lambda x: model.log_prob(x.squeeze(-1) if scalar else x))
    if callable(getattr(model, "score", None)):
        found: Score = model.score
        return found
    if callable(getattr(model, "log_prob", None)):
        return score_of(model.log_prob)
    if callable(model):
        return model  # type: ignore[no-any-return]
    if isinstance(model, str) and model == "normal":
        return torch.neg
    raise TypeError(
        f"{name} has no score; got {type(model).__name__}. Give a torch.distributions.Distribution,"
        " an object with a method score or log_prob, a score function [n, d] → [n, d], or "
        "score_of(log_density). For a model that can only be sampled from, use two_sample_test"
    )


def _check_support(model: Distribution, name: str) -> None:
    support: Any = model.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support is constraints.real and not isinstance(model, VonMises):
        return
    where = "the circle" if support is constraints.real else str(support)
    raise ValueError(
        f"{name} ({type(model).__name__}) lives on {where}, not on all of ℝ: where the density "
        "does not vanish at the boundary, the Stein discrepancy rejects a true model. Transform "
        "data and model (a TransformedDistribution on ℝ), use two_sample_test with a sample of the "
        f"model, or, if its density does vanish there, pass score_of({name}.log_prob)"
    )


def _evaluate(score: Score, x: Tensor, name: str) -> Tensor:
    refused: RuntimeError | None = None
    for points in (x.double(), x.float()):
        try:
            found = score(points)
        except RuntimeError as error:  # torch does not mix dtypes in matrix products
            refused = refused or error
            continue
        return _checked(found, x, name)
    assert refused is not None
    raise refused


def _checked(found: Any, x: Tensor, name: str) -> Tensor:
    if not isinstance(found, Tensor) or found.shape != x.shape:
        got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"the score of {name} must be a tensor of the shape of x, {list(x.shape)}; got {got} "
            "(a log density [n, d] → [n] is passed as score_of(log_density))"
        )
    return found.detach().to(x.device, torch.float64)


def _check_log_prob(value: Any, x: Tensor) -> None:
    allowed = [x.shape[:1], x.shape] if x.shape[1] == 1 else [x.shape[:1]]
    if not isinstance(value, Tensor) or value.shape not in allowed:
        got = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"log_prob must give one number per row, [{len(x)}]; got {got}")
    if not value.requires_grad:
        raise TypeError("log_prob must be differentiable by torch; its result has no gradient")
