"""Wasserstein distances that need no solver: on the line by sorting, and averages over lines.

On the line the optimal plan pairs equal quantiles (Villani, "Topics in Optimal Transportation",
2003, thm. 2.18),

    W_p^p(P, Q) = ∫₀¹ |F⁻¹(u) − G⁻¹(u)|^p du.

Functions return the *p-th power*, not its root: it is differentiable where the samples meet, its
unit is that of the data to the power p, and for p = 1 there is no difference. Sums are fp64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .estimators import normalised
from .kernels.validation import check_rows, check_samples, count_on_host


def wasserstein_1d(
    x: Tensor,
    y: Tensor,
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
    *,
    p: float = 1.0,
) -> Tensor:
    """W_p^p between samples of numbers, exactly, in O((n + m) log(n + m)).

    For p = 1 that of ``scipy.stats.wasserstein_distance``; ``W_p`` is its ``** (1 / p)``.

    Args:
        x: [..., n] floating point. Leading dimensions are a batch of independent problems.
        y: [..., m], on the same device.
        weights_x, weights_y: [..., n] and [..., m], ≥ 0, normalised to sum to one; uniform if None.
        p: at least 1.

    Returns:
        [...], ≥ 0, in the promoted dtype, at least fp32. Differentiable in samples and weights,
        with gradient 0 between equal quantiles. A non-finite input gives NaN or infinity.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices or weights that do not fit, no numbers,
            p < 1.

    Examples:
        >>> import torch
        >>> from divergences.wasserstein import wasserstein_1d
        >>> x, y = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([5.0, 6.0, 8.0])
        >>> float(wasserstein_1d(x, y)), float(wasserstein_1d(x, y, p=2.0))  # W₁, W₂²
        (5.0, 25.0)
    """
    _check_power(p)
    for value, name in ((x, "x"), (y, "y")):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch tensor; got {type(value).__name__}")
        if value.dim() == 0 or value.shape[-1] == 0:
            raise ValueError(
                f"{name} must hold at least one number, [..., n]; got {list(value.shape)}"
            )
    a, b = (t.squeeze(-1) for t in check_samples(x.unsqueeze(-1), y.unsqueeze(-1)))
    wx, wy = (
        normalised(w, t.unsqueeze(-1), name, signed=False)
        for w, t, name in ((weights_x, a, "weights_x"), (weights_y, b, "weights_y"))
    )
    return _by_quantiles(a.double(), b.double(), wx, wy, p).to(a.dtype)


def sliced_wasserstein(
    x: Tensor,
    y: Tensor,
    *,
    n_projections: int = 100,
    p: float = 2.0,
    generator: torch.Generator | None = None,
    projections: Tensor | None = None,
) -> Tensor:
    """The mean of W_p^p over projections onto random lines (Bonneel, Rabin, Peyré & Pfister,
    "Sliced and Radon Wasserstein Barycenters of Measures", 2015, eq. 13).

        SW_p^p ≈ 1/L Σ_l W_p^p(⟨θ_l, x⟩, ⟨θ_l, y⟩),    θ_l uniform on the unit sphere of ℝᵈ

    The p-th power, without a root: of two equal clouds a shift t apart it is ‖t‖²/d on average
    for p = 2. Between finite samples of one distribution it is positive, and falls as they grow.
    The sliced Wasserstein autoencoder (Kolouri et al. 2018) takes p = 2 and y from the prior.
    O(L (n + m)(d + log(n + m))) time, and memory for L (n + m) numbers.

    Args:
        x: [..., n, d] floating point. Leading dimensions are a batch of independent problems, which
            share the lines.
        y: [..., m, d], on the same device; m may differ from n, but m = n is cheaper.
        n_projections: L.
        p: at least 1.
        generator: draws the lines, on its own device: a CPU generator gives the same lines
            everywhere. If None they come from torch's global generator.
        projections: [L, d], directions to use instead of random ones, scaled to unit length, with
            a gradient if they require one (to maximise over them).

    Returns:
        [...], ≥ 0, in the promoted dtype, at least fp32. A non-finite input gives NaN or infinity.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, no rows, p < 1, no
            projections, or both projections and a generator.

    Examples:
        >>> import torch
        >>> from divergences.wasserstein import sliced_wasserstein
        >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> directions = torch.eye(3)  # in place of random ones
        >>> print(f"{sliced_wasserstein(x, x + 2.0, projections=directions):.3f}")
        4.000
    """
    _check_power(p)
    a, b = check_samples(x, y)
    for sample, name in ((a, "x"), (b, "y")):
        check_rows(sample, name, 1, "at least one row is needed")
    if projections is None:
        lines = _draw(n_projections, a, generator)
    elif generator is not None:
        raise ValueError("give projections or a generator to draw them, not both")
    else:
        lines = _given(projections, a)
    on_x, on_y = (lines @ t.double().mT for t in (a, b))  # [..., L, n]; autocast leaves fp64 alone
    return _by_quantiles(on_x, on_y, None, None, p).mean(-1).to(a.dtype)


def _draw(count: int, x: Tensor, generator: torch.Generator | None) -> Tensor:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"n_projections must be a positive integer; got {count!r}")
    if not isinstance(generator, (torch.Generator, type(None))):
        raise TypeError(
            "generator must be a torch.Generator, such as torch.Generator().manual_seed(0); got "
            f"{type(generator).__name__}"
        )
    device = x.device if generator is None else generator.device
    lines = torch.randn(count, x.shape[-1], dtype=torch.float64, device=device, generator=generator)
    return torch.nn.functional.normalize(lines, dim=-1).to(x.device)


def _given(projections: Tensor, x: Tensor) -> Tensor:
    if not isinstance(projections, Tensor) or not projections.is_floating_point():
        raise TypeError("projections must be a floating point tensor [L, d]")
    if projections.dim() != 2 or len(projections) == 0 or projections.shape[1] != x.shape[-1]:
        raise ValueError(
            f"projections must have shape [L, {x.shape[-1]}] with L ≥ 1; got "
            f"{list(projections.shape)}"
        )
    if projections.device != x.device:
        raise ValueError(f"projections are on {projections.device}, x on {x.device}")
    lines = projections.double()
    largest = lines.detach().abs().amax(1, keepdim=True)  # whose squares leave no range below
    zero = count_on_host(largest == 0)
    if zero:
        raise ValueError(f"{zero} of {len(projections)} projections are 0 and have no direction")
    lines = lines / largest
    return torch.nn.functional.normalize(lines, dim=1)


def _check_power(p: float) -> None:
    if not 1 <= p < math.inf:
        raise ValueError(f"p must be finite and at least 1; got {p}")


def _by_quantiles(x: Tensor, y: Tensor, wx: Tensor | None, wy: Tensor | None, p: float) -> Tensor:
    """∫ |F⁻¹ − G⁻¹|^p, [...], for x [..., n], y [..., m] and normalised weights, all in fp64."""
    x, order_x = x.sort(-1)
    y, order_y = y.sort(-1)
    if wx is None and wy is None and x.shape[-1] == y.shape[-1]:
        return _power(x - y, p).mean(-1)
    cx, cy = _levels(x, wx, order_x), _levels(y, wy, order_y)
    if cx.dim() != cy.dim():  # levels of uniform weights have no batch
        cx, cy = (c.expand(t.shape) for c, t in ((cx, x), (cy, y)))
    ends = torch.cat([cx, cy], -1).sort(-1).values  # on (ends[k-1], ends[k]] both are constant
    widths = ends.diff(dim=-1, prepend=torch.zeros_like(ends[..., :1]))
    total = (widths * _power(_quantiles(x, cx, ends) - _quantiles(y, cy, ends), p)).sum(-1)
    for t in (x, y):  # NaN and infinity, which are at the ends, count whatever their weight
        total = total + 0.0 * t[..., 0] + 0.0 * t[..., -1]
    return total


def _levels(x: Tensor, w: Tensor | None, order: Tensor) -> Tensor:
    """The distribution function at the sorted points: [..., n], or [n] for uniform weights."""
    n = x.shape[-1]
    if w is None:
        return torch.arange(1, n + 1, dtype=x.dtype, device=x.device) / n
    c = w.gather(-1, order).cumsum(-1)
    return c / c[..., -1:]  # the last is 1 exactly, so every level in (0, 1] has a quantile


def _quantiles(x: Tensor, levels: Tensor, at: Tensor) -> Tensor:
    """F⁻¹(u) = the least sorted x whose level is at least u."""
    index = torch.searchsorted(levels.detach().contiguous(), at.detach().contiguous())
    return x[..., index] if index.dim() == 1 else x.gather(-1, index)


def _power(difference: Tensor, p: float) -> Tensor:
    if p == 1:
        return difference.abs()
    return difference.square() if p == 2 else difference.abs().pow(p)
