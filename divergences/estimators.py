"""The two estimators of E k(x, x′) + E k(y, y′) − 2 E k(x, y) that every loss here shares."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from .kernels import Kernel, pair_sums
from .kernels.api import pair_form
from .kernels.validation import check_rows, check_samples, check_weights, count_on_host

Estimator = Literal["unbiased", "biased"]


def check_estimator(estimator: str) -> None:
    if estimator not in get_args(Estimator):
        raise ValueError(f"estimator must be 'unbiased' or 'biased'; got {estimator!r}")


def check_enough_rows(x: Tensor, name: str, estimator: str) -> None:
    """One row for the V-statistic, two for the U-statistic."""
    if estimator == "unbiased":
        check_rows(x, name, 2, "the unbiased estimator needs at least two rows (or use 'biased')")
    else:
        check_rows(x, name, 1, "at least one row is needed")


def squared_discrepancy(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    estimator: str,
    weights_x: Tensor | None,
    weights_y: Tensor | None,
    backend: str | None,
) -> Tensor:
    """The U- or V-statistic [...] of samples x [..., n, d] and y [..., m, d], in their promoted
    dtype; sums are formed in fp64."""
    check_estimator(estimator)
    x, y = check_samples(x, y)
    check_enough_rows(x, "x", estimator)
    check_enough_rows(y, "y", estimator)
    wx = normalised(weights_x, x, "weights_x", estimator)
    wy = normalised(weights_y, y, "weights_y", estimator)
    kernel = kernel.resolve(x, y)
    if estimator == "biased":
        return _biased(x, y, wx, wy, kernel, backend)
    if wx is None and wy is None:
        return pair_form(
            x, y, kernel, (1.0, 1.0, -2.0), means="unbiased", dtype=x.dtype, backend=backend
        )
    return _unbiased_weighted(x, y, wx, wy, kernel, backend).to(x.dtype)


def normalised(w: Tensor | None, x: Tensor, name: str, estimator: str) -> Tensor | None:
    """Weights that sum to one. Raises ValueError where they cannot, or one row has them all."""
    w = check_weights(w, x, name)
    if w is None:
        return None
    total = w.sum(-1, keepdim=True)
    if count_on_host(total.detach() == 0):
        raise ValueError(f"{name} sums to zero; weights are normalised to sum to one")
    w = w / total
    if estimator == "unbiased" and count_on_host(w.detach().square().sum(-1) == 1):
        raise ValueError(
            f"{name} puts all weight on one row; the unbiased estimator needs at least two rows "
            "(or use 'biased')"
        )
    return w


def _biased(
    x: Tensor,
    y: Tensor,
    wx: Tensor | None,
    wy: Tensor | None,
    kernel: Kernel,
    backend: str | None,
) -> Tensor:
    if (wx is None) != (wy is None):
        wx, wy = (_uniform(z) if w is None else w for z, w in ((x, wx), (y, wy)))
    return pair_form(
        x,
        y,
        kernel,
        (1.0, 1.0, -2.0),
        means="biased" if wx is None else "sums",
        weights_x=wx,
        weights_y=wy,
        constant=diagonal_term(x, wx, kernel) + diagonal_term(y, wy, kernel),
        dtype=x.dtype,
        backend=backend,
    )


def _uniform(x: Tensor) -> Tensor:
    """[..., n] weights that sum to one."""
    ones = torch.ones_like(x[..., 0])
    return ones / ones.sum(-1, keepdim=True)


def diagonal_term(x: Tensor, w: Tensor | None, kernel: Kernel) -> Tensor | float:
    """Σ wᵢ² k(xᵢ, xᵢ) in fp64, for normalised weights (1/n if None)."""
    diagonal = kernel.diagonal(x)
    if w is None:
        n = x.shape[-2]
        return diagonal.double().mean(-1) / n if isinstance(diagonal, Tensor) else diagonal / n
    return (w.square() * diagonal).double().sum(-1)


def _unbiased_weighted(
    x: Tensor,
    y: Tensor,
    wx: Tensor | None,
    wy: Tensor | None,
    kernel: Kernel,
    backend: str | None,
) -> Tensor:
    """Σ_{i≠j} wᵢwⱼ k / (1 − Σwᵢ²) in place of each within-sample mean."""
    wx, wy = (_uniform(z) if w is None else w for z, w in ((x, wx), (y, wy)))
    sums = pair_sums(x, y, kernel=kernel, weights_x=wx, weights_y=wy, backend=backend)
    coefs = [t.coefficient for t in kernel.terms]
    xx, yy, xy = (sum(a * s for a, s in zip(coefs, part.unbind(-1), strict=True)) for part in sums)
    return (
        xx / (1.0 - wx.double().square().sum(-1))
        + yy / (1.0 - wy.double().square().sum(-1))
        - 2.0 * xy
    )
