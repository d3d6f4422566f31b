"""The engine's public functions: checks, canonical shapes, and the choice of the door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import compiled, ops
from .backends import choose
from .kernel import Group, Kernel
from .plan import Blocks, Form, Means, Wanted
from .reference import inner, small, traced
from .validation import canonical, check_samples, check_weights


class PairSums(NamedTuple):
    """Σ k over pairs, [..., C] in fp64: one number per kernel term."""

    xx: Tensor
    yy: Tensor
    xy: Tensor


def pair_sums(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Kernel,
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
    backend: str | None = None,
) -> PairSums:
    """Σ_{i≠j} wᵢwⱼ k(xᵢ, xⱼ), the same for y, and Σ_{i,j} wᵢwⱼ k(xᵢ, yⱼ), per kernel term.

    x: [..., n, d], y: [..., m, d]; weights [..., n] and [..., m], ones if None. Coefficients of the
    terms (``0.5 * Gaussian(1.0)``, mixtures) are not applied. Differentiable twice. Raises
    ValueError or TypeError on shapes, dtypes, devices and weights that do not fit.
    """
    check_kernel(kernel)
    x, y = check_samples(x, y)
    wx, wy = check_weights(weights_x, x, "weights_x"), check_weights(weights_y, y, "weights_y")
    resolved = kernel.resolve(x, y)
    batch, arrays = canonical(x, y, wx, wy)
    columns: dict[int, Tensor] = {}
    for group in resolved.groups(batch):
        sums = _pair_sums(*arrays, group, choose(x, backend))
        columns.update(zip(group.positions, sums.unbind(-1), strict=True))
    stacked = torch.stack([columns[k] for k in range(len(kernel.terms))], -1)  # [B, 3, C]
    xx, yy, xy = (part.reshape(*batch, part.shape[-1]) for part in stacked.unbind(1))
    return PairSums(xx, yy, xy)


def pair_form(
    x: Tensor,
    y: Tensor | None,
    kernel: Kernel,
    block_coefs: tuple[float, ...],
    *,
    means: Means = "sums",
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
    diagonals: Callable[..., Tensor | float] | None = None,
    dtype: torch.dtype = torch.float64,
    backend: str | None = None,
) -> Tensor:
    """Σ over blocks of block_coef·S[block] + diagonals(x, y), [...] in ``dtype``, for checked x and
    y and a resolved kernel; blocks are xx alone (y is None) or xx, yy, xy; S are sums or ``means``,
    without the pairs i = i of a sample, whose share is what ``diagonals`` says. Value and gradients
    in one sweep. The coefficients must not depend on a symbolic size (see ``Means``)."""
    groups = kernel.groups(x.shape[:-2])
    form = Form(block_coefs, means)
    unweighted = weights_x is None and weights_y is None
    if unweighted and y is not None and inner.applies(x, y, kernel, backend):

        def whole(x: Tensor, y: Tensor | None) -> Tensor:
            sums = _general_form(x, y, groups, form, None, None, backend)
            return (sums if diagonals is None else sums + diagonals(x, y)).to(dtype)

        problem = small.Problem(groups[0], Form(block_coefs, means, 0.0, dtype), whole)
        return inner.form(x, y, problem, diagonals is not None)
    constant = None if diagonals is None else diagonals(x, y)
    if len(groups) == 1 and not isinstance(constant, Tensor) and not torch.compiler.is_compiling():
        form, constant = Form(block_coefs, means, float(constant or 0.0), dtype), None

    def general(x: Tensor, y: Tensor | None) -> Tensor:
        total = _general_form(x, y, groups, form, weights_x, weights_y, backend)
        return (total if constant is None else total + constant).to(dtype)

    if unweighted and small.applies(x, y, kernel, block_coefs, backend):
        problem = small.Problem(groups[0], form, general)
        return small.form(x, y, problem)
    if unweighted and traced.applies(x, y, kernel, backend):
        total = traced.form(x, y, kernel, groups[0], form)
        return (total if constant is None else total + constant).to(dtype)
    return general(x, y)


def _general_form(
    x: Tensor,
    y: Tensor | None,
    groups: Sequence[Group],
    form: Form,
    weights_x: Tensor | None,
    weights_y: Tensor | None,
    backend: str | None,
) -> Tensor:
    """``form`` has a coefficient for each block, and the kernel's terms have their own."""
    blocks: Blocks = "xx" if y is None else "all"
    batch, arrays = canonical(x, y, weights_x, weights_y)
    result: Tensor | None = None
    for group in groups:
        coefs = tuple(b * c for b in form.coefs for c in group.coefficients)
        own = Form(coefs, form.means, form.constant, form.dtype)
        part = _pair_form(*arrays, group, own, blocks, choose(x, backend))
        result = part if result is None else result + part
    assert result is not None
    return result.reshape(batch)


def potential(
    points: Tensor,
    y: Tensor,
    *,
    kernel: Kernel,
    weights: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Σⱼ wⱼ k(pointᵢ, yⱼ): K @ w without K.

    points: [..., n, d], y: [..., m, d], weights [..., m] (ones if None). Returns [..., n] in the
    promoted dtype, at least fp32. Bandwidth rules are applied to points and y pooled; pass a kernel
    that is ``resolve``d on other data to avoid that. Differentiable twice in points, y and weights.
    """
    check_kernel(kernel)
    points, y = check_samples(points, y, names=("points", "y"))
    w = check_weights(weights, y, "weights")
    resolved = kernel.resolve(points, y)
    batch, (x3, y3, _, w2) = canonical(points, y, None, w)
    assert y3 is not None
    result: Tensor | None = None
    for group in resolved.groups(batch):
        part = _potential(x3, y3, w2, group, choose(points, backend))
        result = part if result is None else result + part
    assert result is not None
    return result.reshape(points.shape[:-1])


def check_kernel(kernel: object) -> None:
    if not isinstance(kernel, Kernel):
        raise TypeError(
            f"kernel must be a kernel object such as Gaussian(1.0); got {type(kernel).__name__}"
        )


# --- Doors ---------------------------------------------------------------------------------------


def _split_rates(group: Group) -> tuple[Tensor | None, tuple[float, ...]]:
    if isinstance(group.rates, Tensor):
        return group.rates, ()
    return None, tuple(group.rates)


def _pair_sums(
    x: Tensor,
    y: Tensor | None,
    wx: Tensor | None,
    wy: Tensor | None,
    group: Group,
    backend: str,
) -> Tensor:
    rates, constants = _split_rates(group)
    static = ops.Static(group.components, constants, "all", backend)
    if torch.compiler.is_compiling():
        out: Tensor = compiled.pair_sums(x, y, wx, wy, rates, *_fields(static))
        return out
    out = ops.apply(ops.PairSums, x, y, wx, wy, rates, static)
    return out


def _pair_form(
    x: Tensor,
    y: Tensor | None,
    wx: Tensor | None,
    wy: Tensor | None,
    group: Group,
    form: Form,
    blocks: Blocks,
    backend: str,
) -> Tensor:
    rates, constants = _split_rates(group)
    static = ops.Static(group.components, constants, blocks, backend)
    wanted = Wanted()
    if torch.is_grad_enabled():
        wanted = Wanted(False, *(t is not None and t.requires_grad for t in (x, y, wx, wy)))
    if torch.compiler.is_compiling():
        out: Tensor = compiled.pair_form(
            x, y, wx, wy, rates, list(form.coefs), form.means, *_fields(static), list(wanted)
        )[0]
        return out
    out = ops.apply(ops.PairForm, x, y, wx, wy, rates, form, static, wanted)[0]
    return out


def _potential(x: Tensor, y: Tensor, w: Tensor | None, group: Group, backend: str) -> Tensor:
    rates, constants = _split_rates(group)
    static = ops.Static(group.components, constants, "xy", backend)
    coefs = tuple(group.coefficients)
    if torch.compiler.is_compiling():
        components, numbers, _, name = _fields(static)
        out: Tensor = compiled.potential(x, y, w, rates, list(coefs), components, numbers, name)
        return out
    out = ops.apply(ops.Potential, x, y, w, rates, coefs, static)
    return out


def _fields(static: ops.Static) -> tuple[str, list[float], str, str]:
    return static.components, list(static.constants), static.blocks, static.backend
