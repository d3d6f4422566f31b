"""Energy distance: 2 E‖x − y‖^β − E‖x − x′‖^β − E‖y − y′‖^β, parameter-free at β = 1.

It is zero only where P = Q (Székely & Rizzo 2013) and is the MMD² of the kernel −‖x − y‖^β. On
the line, at β = 1, it is 2∫(F − G)² of the distribution functions: twice the Cramér distance of
Bellemare et al. 2017 (arXiv:1705.10743), whose form in several dimensions is the energy distance.
Not halved and not rooted: SciPy's ``energy_distance`` is the square root of the biased form here,
GeomLoss's ``"energy"`` half of it.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from .distributed import Group, is_dtensor, over_group, refuse_weights
from .estimators import (
    Estimator,
    check_enough_rows,
    check_estimator,
    estimator_weights,
    pair_share,
    squared_discrepancy,
)
from .expected_distance import expected_distance_to_normal
from .kernels import Energy
from .kernels.api import pair_form
from .kernels.backends import check_backend
from .kernels.validation import check_sample, check_samples

_ENERGY = Energy()


def energy_distance(
    x: Tensor,
    y: Tensor,
    *,
    exponent: float = 1.0,
    estimator: Estimator = "unbiased",
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
    backend: str | None = None,
    group: Group | None = None,
) -> Tensor:
    """Energy distance of two samples.

    Args:
        x, y: [..., n, d] and [..., m, d]. With d = 1 and exponent 1 it is computed by sorting, in
            O(n log n) time and O(n) memory, unless a backend is named.
        exponent: β in (0, 2).
        estimator: "unbiased" (i ≠ j; can be negative) or "biased" (≥ 0; SciPy's, squared).
        weights_x, weights_y: [..., n] and [..., m], normalised to sum to one; uniform if None. For
            the unbiased estimator ≥ 0, with less than all on one row (1 − Σw² ≥ 1e-6); what a CPU
            refuses is NaN on CUDA, where looking would synchronise.
        backend: None (automatic), "reference" or "triton".
        group: ProcessGroup or one-dimensional DeviceMesh: the sample is the rows of all its
            processes, see ``divergences.distributed``. The gradient of plain tensors is then P
            times that of the value, since DDP and FSDP average. Priors drawn with one seed on every
            process are the same rows P times: seed by rank.

    Returns:
        [...], in the promoted dtype (at least fp32) and the unit of the data to the power β. The
        gradient between coincident points is 0. A non-finite input gives NaN.

    Raises:
        ValueError, TypeError: as ``mmd2``.

    Examples:
        >>> import torch
        >>> from divergences import energy_distance
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [4.0]])
        >>> float(energy_distance(x, y)), float(energy_distance(x, y, estimator="biased"))
        (4.0, 5.0)
    """
    kernel = _ENERGY if exponent == 1.0 else Energy(exponent)
    check_estimator(estimator)
    univariate = exponent == 1.0 and backend is None and _is_univariate(x, y)
    if univariate and (group is not None or is_dtensor(x)):
        refuse_weights(weights_x, weights_y)
        return over_group(x, y, group, functools.partial(energy_distance, estimator=estimator))
    if univariate:
        x, y = check_samples(x, y)
        check_enough_rows(x, "x", estimator)
        check_enough_rows(y, "y", estimator)
        wx, wy = estimator_weights(x, y, weights_x, weights_y, estimator)
        return _sorted(x, y, wx, wy, estimator).to(x.dtype)
    return squared_discrepancy(x, y, kernel, estimator, weights_x, weights_y, backend, group)


class EnergyLoss(nn.Module):
    """Energy distance as a loss: ``EnergyLoss()(z, prior)``. Arguments are those of
    ``energy_distance``.

    2 E‖x − y‖^β − E‖x − x′‖^β − E‖y − y′‖^β. No bandwidth to choose.

    Examples:
        >>> import torch
        >>> from divergences import EnergyLoss
        >>> z = torch.tensor([[0.0], [1.0]], requires_grad=True)
        >>> EnergyLoss()(z, torch.tensor([[3.0], [4.0]])).backward()
        >>> z.grad.flatten()
        tensor([ 0., -2.])
    """

    def __init__(
        self,
        *,
        exponent: float = 1.0,
        estimator: Estimator = "unbiased",
        backend: str | None = None,
        group: Group | None = None,
    ) -> None:
        super().__init__()
        Energy(exponent)  # validates
        check_estimator(estimator)
        check_backend(backend)
        self.exponent: float = exponent
        self.estimator: Estimator = estimator
        self.backend: str | None = backend
        self.group = group

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        weights_x: Tensor | None = None,
        weights_y: Tensor | None = None,
        *,
        group: Group | None = None,
    ) -> Tensor:
        """[...] for x [..., n, d] and y [..., m, d]; ``group`` takes the place of the module's."""
        return energy_distance(
            x,
            y,
            exponent=self.exponent,
            estimator=self.estimator,
            weights_x=weights_x,
            weights_y=weights_y,
            backend=self.backend,
            group=self.group if group is None else group,
        )

    def extra_repr(self) -> str:
        backend = "" if self.backend is None else f", backend={self.backend!r}"
        return f"exponent={self.exponent!r}, estimator={self.estimator!r}{backend}"


def energy_distance_to_normal(
    x: Tensor,
    *,
    estimator: Estimator = "unbiased",
    backend: str | None = None,
    group: Group | None = None,
) -> Tensor:
    """Energy distance between a sample and N(0, I), exactly: 2 E‖x − Z‖ − E‖Z − Z′‖ − E‖x − x′‖.

    x: [..., n, d]. No prior sample is drawn. The "biased" form divided by its own scale is the
    energy test of normality (Székely & Rizzo 2005). Returns [...] in the dtype of x, at least fp32.
    ``group`` is as of ``energy_distance``.

    Examples:
        >>> import torch
        >>> from divergences import energy_distance_to_normal
        >>> z = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> print(f"{energy_distance_to_normal(z):.2f} {energy_distance_to_normal(z + 1):.2f}")
        0.00 0.86
    """
    if group is not None or is_dtensor(x):
        options: dict[str, Any] = {"estimator": estimator, "backend": backend}
        return over_group(x, None, group, functools.partial(energy_distance_to_normal, **options))
    check_estimator(estimator)
    x = check_sample(x)
    check_enough_rows(x, "x", estimator)
    d = x.shape[-1]
    within = pair_form(x, None, _ENERGY, (1.0,), means=estimator, backend=backend)  # −E‖x − x′‖
    narrow = x.dtype == torch.float32  # whose own digits are fewer than those of the table
    squared = x.double().square().sum(-1)
    cross = expected_distance_to_normal(squared, d, interpolated=narrow).mean(-1)
    prior = 2.0 * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    return (2.0 * cross - prior + within).to(x.dtype)


# --- One dimension -------------------------------------------------------------------------------


def _is_univariate(x: object, y: object) -> bool:
    return all(isinstance(t, Tensor) and t.dim() >= 2 and t.shape[-1] == 1 for t in (x, y))


def _sorted(x: Tensor, y: Tensor, wx: Tensor | None, wy: Tensor | None, estimator: str) -> Tensor:
    """The univariate energy distance in fp64, by sorting.

    Σⱼ wⱼ|xᵢ − xⱼ| is differentiable with derivative (weight below xᵢ) − (weight above xᵢ), in which
    ties count on neither side; and Σᵢⱼ wᵢwⱼ|xᵢ − xⱼ| = 2 Σᵢ wᵢxᵢ·(below − above).
    """
    (a, u), (b, v) = (_in_order(t, w) for t, w in ((x, wx), (y, wy)))
    own = _balance(a, a, u), _balance(b, b, v)
    other = _balance(a, b, v), _balance(b, a, u)
    centre = a.detach().median(-1, keepdim=True).values  # not an outlier
    a, b = a - centre, b - centre
    xx, yy = (2.0 * (w * t * o).sum(-1) for w, t, o in zip((u, v), (a, b), own, strict=True))
    xy = (u * a * other[0]).sum(-1) + (v * b * other[1]).sum(-1)
    if estimator == "unbiased":
        xx, yy = xx / pair_share(u, "weights_x"), yy / pair_share(v, "weights_y")
    return 2.0 * xy - xx - yy


def _weights(w: Tensor | None, points: Tensor) -> Tensor:
    if w is None:
        return torch.full_like(points, 1.0 / points.shape[-1])
    w = w.double()
    return w / w.sum(-1, keepdim=True)  # again, in fp64


def _in_order(points: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor]:
    """The points [..., n, 1] in ascending order [..., n], in fp64, and their weights; an infinite
    one is NaN."""
    flat = points.squeeze(-1).double()
    ordered, order = (flat + 0.0 * flat).sort(-1)
    weights = _weights(w, flat)
    return ordered, weights if w is None else weights.gather(-1, order)


def _balance(points: Tensor, other: Tensor, weights: Tensor) -> Tensor:
    """Weight of ``other``, which is in order, strictly below each point minus that strictly above
    it: constant in the points, and NaN where any number is."""
    poison = 0.0 * (points.sum(-1, keepdim=True) + other.sum(-1, keepdim=True))
    points, other = points.detach().contiguous(), other.detach().contiguous()
    cumulative = torch.nn.functional.pad(weights.cumsum(-1), (1, 0))
    below = torch.searchsorted(other, points)
    not_above = torch.searchsorted(other, points, right=True)
    total = cumulative[..., -1:]
    return cumulative.gather(-1, below) - (total - cumulative.gather(-1, not_above)) + poison
