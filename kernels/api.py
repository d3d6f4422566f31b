"""The engine's public functions: they check samples and make a ``PairProblem`` for each metric."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import operations
from .backends import choose
from .kernel import Kernel
from .problem import Blocks, Means, PairProblem, Wanted
from .reference import traced
from .validation import check_samples, check_weights


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

    Examples:
        >>> import torch
        >>> from divergences.kernels import Linear, pair_sums
        >>> x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])
        >>> xx, yy, xy = pair_sums(x, y, kernel=Linear())
        >>> xx.tolist(), yy.tolist(), xy.tolist()
        ([4.0], [24.0], [21.0])
    """
    check_kernel(kernel)
    x, y = check_samples(x, y)
    wx, wy = check_weights(weights_x, x, "weights_x"), check_weights(weights_y, y, "weights_y")
    resolved, chosen = kernel.resolve(x, y), choose(x, backend)
    columns: dict[int, Tensor] = {}
    for group in resolved.groups(x.shape[:-2]):
        problem = PairProblem(
            x, y, wx, wy, group.rates, (), group.components, "all", Wanted(sums=True),
            backend=chosen, key=group.key,
        )  # fmt: skip
        sums = operations.PairSums.apply(problem)
        columns.update(zip(group.positions, sums.unbind(-1), strict=True))
    stacked = torch.stack([columns[k] for k in range(len(kernel.terms))], -1)  # [..., 3, C]
    return PairSums(*stacked.unbind(-2))


def pair_form(
    x: Tensor,
    y: Tensor | None,
    kernel: Kernel,
    block_coefs: tuple[float, ...],
    *,
    means: Means = "sums",
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
    diagonal: bool = False,
    dtype: torch.dtype = torch.float64,
    backend: str | None = None,
) -> Tensor:
    """Σ over blocks of block_coef·S[block], [...] in ``dtype``, for checked x and y and a resolved
    kernel; blocks are xx alone (y is None), xy alone (one coefficient), or xx, yy, xy; S are sums
    or ``means``, within a sample with the pairs i = i where ``diagonal``. Value and gradients in
    one sweep. The coefficients must not depend on a symbolic size (see ``Means``)."""
    tracing, chosen = torch.compiler.is_compiling(), choose(x, backend)
    groups = kernel.groups(x.shape[:-2])
    inside = diagonal and kernel.metric == "inner" and chosen == "reference"
    blocks: Blocks = "xx" if y is None else "xy" if len(block_coefs) == 1 else "all"
    constant: Tensor | float = 0.0
    if diagonal and not inside:
        constant = block_coefs[0] * _diagonal(x, weights_x, kernel, means)
        if y is not None:
            constant = constant + block_coefs[1] * _diagonal(y, weights_y, kernel, means)
    alone = len(groups) == 1 and not isinstance(constant, Tensor) and not tracing
    tensors = x, y, weights_x, weights_y
    wanted = Wanted()
    if torch.is_grad_enabled():
        wanted = Wanted(False, *(t is not None and t.requires_grad for t in tensors))
    total: Tensor | None = None
    for group in groups:
        problem = PairProblem(
            x, y, weights_x, weights_y, group.rates,
            tuple(b * c for b in block_coefs for c in group.coefficients),
            group.components, blocks, wanted, means, inside,
            float(constant) if alone else 0.0, dtype if alone else torch.float64, chosen, group.key,
        )  # fmt: skip
        if tracing and len(groups) == 1 and traced.applies(problem):
            part = traced.form(problem, block_coefs, group.coefficients, operations.PairForm.traced)
        else:
            part = operations.PairForm.apply(problem)
        total = part if total is None else total + part
    assert total is not None
    return total if alone else (total + constant).to(dtype)


def _diagonal(x: Tensor, w: Tensor | None, kernel: Kernel, means: Means) -> Tensor | float:
    """Σ wᵢ² k(xᵢ, xᵢ) [...] in fp64, over n² for biased means."""
    each, n = kernel.diagonal(x), x.shape[-2]
    if w is not None:
        return (w.square() * each).double().sum(-1)
    if means == "biased":
        return each.double().mean(-1) / n if isinstance(each, Tensor) else each / n
    return each.double().sum(-1) if isinstance(each, Tensor) else n * each


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

    Examples:
        >>> import torch
        >>> from divergences.kernels import Gaussian, potential
        >>> points, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0], [1.0]])
        >>> potential(points, y, kernel=Gaussian(1.0)).round(decimals=3)  # Σⱼ k(xᵢ, yⱼ)
        tensor([2.2130, 2.6070])
    """
    check_kernel(kernel)
    points, y = check_samples(points, y, names=("points", "y"))
    w = check_weights(weights, y, "weights")
    resolved, chosen = kernel.resolve(points, y), choose(points, backend)
    total: Tensor | None = None
    for group in resolved.groups(points.shape[:-2]):
        problem = PairProblem(
            points, y, None, w, group.rates, tuple(group.coefficients), group.components, "xy",
            Wanted(grad_wx=True), backend=chosen, key=group.key,
        )  # fmt: skip
        part = operations.Potential.apply(problem)
        total = part if total is None else total + part
    assert total is not None
    return total


def check_kernel(kernel: object) -> None:
    if not isinstance(kernel, Kernel):
        raise TypeError(
            f"kernel must be a kernel object such as Gaussian(1.0); got {type(kernel).__name__}"
        )
