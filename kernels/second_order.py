"""The derivative of the gradients: what a double backward (a gradient penalty) asks for.

For L = Σ a·S of ``plan`` and directions (u, v, p, q) of (x, y, wx, wy), the directional derivative

    h = Σ a·w w′·[slope·⟨u − v, x − y⟩] + a·(p·w′ + w·q)·k

is formed tile by tile in fp64 with plain torch operations, and its derivatives with respect to
x, y, wx, wy and a are taken by autograd within the tile, so that nothing N×M is kept. It is exact
on every device and for both backends, and it is as slow as differentiation twice is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .plan import Blocks, Component, block_names, metric_of
from .tiles import full_precision

_LEAST_ROWS = 16
TILE_ELEMENTS = 2**22  # of differences [B, i, j, d] held at a time


def _with_derivative(value: Tensor, derivative: Tensor, s: Tensor) -> Tensor:
    """``value``, differentiable once in s."""
    return value + derivative * (s - s.detach())


def _value_and_slope(
    component: Component, rate: float | Tensor, s: Tensor, chain: float
) -> tuple[Tensor, Tensor]:
    """φ(s) and its slope, differentiable once; ``chain`` is slope/φ′."""
    base = s.detach()
    leaf = base.clone().requires_grad_()
    phi = component.function.value(leaf, rate, component.shape, component.offset)
    (first,) = torch.autograd.grad(phi.sum(), leaf, create_graph=True)
    second = torch.zeros_like(base)
    if first.requires_grad:
        (second,) = torch.autograd.grad(first.sum(), leaf)
    # ``evaluate`` also knows the slope at s = 0, where φ′ of the root is singular.
    e = component.function.evaluate(
        base, rate, component.shape, component.offset, *map(torch.empty_like, (base, base))
    )
    slope = (e.slope * e.slope_scale).detach()
    return (
        _with_derivative(phi.detach(), slope / chain, s),
        _with_derivative(slope, chain * second, s),
    )


@torch.no_grad()
def pair_hessian(
    x: Tensor,
    y: Tensor | None,
    wx: Tensor | None,
    wy: Tensor | None,
    components: tuple[Component, ...],
    rates: Sequence[float] | Tensor,
    coefs: Tensor,
    blocks: Blocks,
    directions: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor]:
    """Derivatives of h with respect to x, y, wx, wy and coefs [B, blocks, C]; None for what is
    not there. ``directions``: u [B, n, d], v [B, m, d], p [B, n], q [B, m] or None for zero."""
    limit = max(1, TILE_ELEMENTS // (_LEAST_ROWS**2 * x.shape[2]))
    if x.shape[0] > limit:  # fewer batch items at a time
        return _in_parts(x, y, wx, wy, components, rates, coefs, blocks, directions, limit)
    u, v, p, q = directions
    sides = {
        "x": (x, wx, u, p),
        "y": (x, wx, u, p) if y is None else (y, wy, v, q),
    }
    names = {"xx": ("x", "x"), "yy": ("y", "y"), "xy": ("x", "y")}
    grads = {
        key: (torch.zeros_like(z, dtype=torch.float64), z.new_zeros(z.shape[:2]).double())
        for key, (z, *_) in sides.items()
    }
    grad_coefs = torch.zeros_like(coefs, dtype=torch.float64)
    metric = metric_of(components)
    step = max(_LEAST_ROWS, math.isqrt(TILE_ELEMENTS // max(1, x.shape[0] * x.shape[2])))
    with full_precision(x.device.type):
        for k, block in enumerate(block_names(blocks)):
            left, right = names[block]
            for i in range(0, sides[left][0].shape[1], step):
                for j in range(0, sides[right][0].shape[1], step):
                    rows, columns = slice(i, i + step), slice(j, j + step)
                    a, b = _leaves(sides[left], rows), _leaves(sides[right], columns)
                    weight = coefs[:, k].double().requires_grad_()
                    with torch.enable_grad():
                        h = _directional(
                            a, b, components, rates, weight, metric, left == right and i == j
                        )
                        parts = torch.autograd.grad(
                            h, (a[0], b[0], a[1], b[1], weight), allow_unused=True
                        )
                    for key, span, gz, gw in (
                        (left, rows, parts[0], parts[2]),
                        (right, columns, parts[1], parts[3]),
                    ):
                        if gz is not None:
                            grads[key][0][:, span] += gz
                        if gw is not None:
                            grads[key][1][:, span] += gw
                    if parts[4] is not None:
                        grad_coefs[:, k] += parts[4]
    gx, gwx = grads["x"]
    gy, gwy = grads["y"]
    return (
        gx.to(x.dtype),
        None if y is None else gy.to(y.dtype),
        None if wx is None else gwx.to(wx.dtype),
        None if wy is None else gwy.to(wy.dtype),
        grad_coefs.to(coefs.dtype),
    )


def _in_parts(
    x: Tensor,
    y: Tensor | None,
    wx: Tensor | None,
    wy: Tensor | None,
    components: tuple[Component, ...],
    rates: Sequence[float] | Tensor,
    coefs: Tensor,
    blocks: Blocks,
    directions: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    limit: int,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor]:
    """``pair_hessian`` of a batch, ``limit`` items at a time."""
    results = []
    for start in range(0, x.shape[0], limit):
        items = slice(start, start + limit)
        sy, swx, swy = (None if t is None else t[items] for t in (y, wx, wy))
        u, v, p, q = (None if t is None else t[items] for t in directions)
        part = rates[items] if isinstance(rates, Tensor) else rates
        results.append(
            pair_hessian(
                x[items], sy, swx, swy, components, part, coefs[items], blocks, (u, v, p, q)
            )
        )
    joined = [
        None if column[0] is None else torch.cat([t for t in column if t is not None])
        for column in zip(*results, strict=True)
    ]
    gx, gy, gwx, gwy, gcoefs = joined
    assert gx is not None
    assert gcoefs is not None
    return gx, gy, gwx, gwy, gcoefs


_Leaves = tuple[Tensor, Tensor, Tensor, Tensor]


def _leaves(
    side: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None], rows: slice
) -> _Leaves:
    """fp64 pieces of (points, weights, direction, weight direction); the first two are leaves."""
    z, w, u, p = side
    points = z[:, rows].double().requires_grad_()
    ones = torch.ones(points.shape[:2], dtype=torch.float64, device=z.device)
    weights = (ones if w is None else w[:, rows].double()).requires_grad_()
    direction = torch.zeros_like(points) if u is None else u[:, rows].double()
    weight_direction = torch.zeros_like(ones) if p is None else p[:, rows].double()
    return points, weights, direction, weight_direction


def _directional(
    a: _Leaves,
    b: _Leaves,
    components: tuple[Component, ...],
    rates: Sequence[float] | Tensor,
    coefs: Tensor,
    metric: str,
    diagonal: bool,
) -> Tensor:
    """The share of one tile in h."""
    (x, wx, u, p), (y, wy, v, q) = a, b
    if metric == "inner":
        s = x @ y.mT
        along = u @ y.mT + x @ v.mT
    elif metric == "l1":
        s = torch.cdist(x, y, p=1.0)
        sign = (x.unsqueeze(-2) - y.unsqueeze(-3)).sign()
        along = (sign * (u.unsqueeze(-2) - v.unsqueeze(-3))).sum(-1)
    else:
        difference = x.unsqueeze(-2) - y.unsqueeze(-3)
        s = difference.square().sum(-1)
        along = (difference * (u.unsqueeze(-2) - v.unsqueeze(-3))).sum(-1)
    weights = wx.unsqueeze(-1) * wy.unsqueeze(-2)
    turned = p.unsqueeze(-1) * wy.unsqueeze(-2) + wx.unsqueeze(-1) * q.unsqueeze(-2)
    h = torch.zeros((), dtype=torch.float64, device=x.device)
    for c, component in enumerate(components):
        rate = rates[:, c].double().view(-1, 1, 1) if isinstance(rates, Tensor) else rates[c]
        k, slope = _value_and_slope(component, rate, s, 2.0 if metric == "sqeuclidean" else 1.0)
        part = weights * slope * along + turned * k
        if diagonal:
            part = part - torch.diag_embed(part.diagonal(dim1=-2, dim2=-1))
        h = h + (coefs[:, c].view(-1, 1, 1) * part).sum()
    return h
