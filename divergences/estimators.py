"""The two estimators of E k(x, x′) + E k(y, y′) − 2 E k(x, y) that every loss here shares."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from .distributed import Group, is_dtensor, over_group, refuse_weights
from .kernels import Kernel, pair_sums
from .kernels.api import pair_form
from .kernels.validation import check_rows, check_samples, check_weights, count_on_host

Estimator = Literal["unbiased", "biased"]
ESTIMATORS = get_args(Estimator)  # out of traces: the compiler of torch 2.6 does not know get_args
LEAST_SHARE = 1e-6  # of the weight in pairs, for the U-statistic


def check_estimator(estimator: str) -> None:
    if estimator not in ESTIMATORS:
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
    group: Group | None = None,
) -> Tensor:
    """The U- or V-statistic [...] of samples x [..., n, d] and y [..., m, d], in their promoted
    dtype; sums are formed in fp64. Of the rows of all processes of a ``group``."""
    check_estimator(estimator)
    if group is not None or is_dtensor(x) or is_dtensor(y):
        refuse_weights(weights_x, weights_y)

        def discrepancy(x: Tensor, y: Tensor) -> Tensor:
            return squared_discrepancy(x, y, kernel, estimator, None, None, backend)

        return over_group(x, y, group, discrepancy, kernel, estimator, backend)
    x, y = check_samples(x, y)
    check_enough_rows(x, "x", estimator)
    check_enough_rows(y, "y", estimator)
    wx, wy = estimator_weights(x, y, weights_x, weights_y, estimator)
    kernel = kernel.resolve(x, y)
    if estimator == "biased":
        return _biased(x, y, wx, wy, kernel, backend)
    if wx is None and wy is None:
        return pair_form(
            x, y, kernel, (1.0, 1.0, -2.0), means="unbiased", dtype=x.dtype, backend=backend
        )
    return _unbiased_weighted(x, y, wx, wy, kernel, backend).to(x.dtype)


def estimator_weights(
    x: Tensor, y: Tensor, wx: Tensor | None, wy: Tensor | None, estimator: str
) -> tuple[Tensor | None, Tensor | None]:
    """Normalised weights of both samples, in the dtype of these; not negative for the U-statistic,
    whose divisor could be 0 otherwise."""
    signed = estimator == "biased"
    u = normalised(wx, x, "weights_x", signed=signed)
    v = normalised(wy, y, "weights_y", signed=signed)
    return None if u is None else u.to(x.dtype), None if v is None else v.to(y.dtype)


def normalised(w: Tensor | None, x: Tensor, name: str, *, signed: bool = True) -> Tensor | None:
    """Weights [..., n] that sum to one, in fp64, whose range their sum does not leave.

    Raises ValueError where they cannot or, unless ``signed``, one is negative; where looking would
    synchronise (CUDA) or break a trace they are NaN instead."""
    w = check_weights(w, x, name, torch.float64)
    if w is None:
        return None
    if not signed:
        negative = w.detach() < 0.0
        count = count_on_host(negative)
        if count:
            raise ValueError(f"{name} must be ≥ 0; got {count} negative of {w.numel()}")
        w = w.masked_fill(negative, torch.nan)
    w = w / w.detach().abs().amax(-1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)
    total = w.sum(-1, keepdim=True)
    if count_on_host(total.detach() == 0):
        raise ValueError(f"{name} sums to zero; weights are normalised to sum to one")
    return w / total


def pair_share(w: Tensor, name: str) -> Tensor:
    """Σ_{i≠j} wᵢwⱼ [...] of normalised weights [..., n] in fp64: what U-statistics divide by.

    Raises ValueError, or is NaN, where one row has next to all the weight."""
    w = w.double()
    share = w.sum(-1).square() - w.square().sum(-1)
    bad = ~(share.detach() >= LEAST_SHARE)
    if count_on_host(bad & ~share.detach().isnan()):
        raise ValueError(
            f"{name} puts all weight on one row: 1 − Σw² = {float(share.detach().min()):.2g}, by "
            f"which the unbiased estimator divides, is below {LEAST_SHARE:g}; use 'biased'"
        )
    return share.masked_fill(bad, torch.nan)


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
        diagonal=True,
        dtype=x.dtype,
        backend=backend,
    )


def _uniform(x: Tensor) -> Tensor:
    """[..., n] weights that sum to one."""
    ones = torch.ones_like(x[..., 0])
    return ones / ones.sum(-1, keepdim=True)


def _unbiased_weighted(
    x: Tensor,
    y: Tensor,
    wx: Tensor | None,
    wy: Tensor | None,
    kernel: Kernel,
    backend: str | None,
) -> Tensor:
    """Σ_{i≠j} wᵢwⱼ k / Σ_{i≠j} wᵢwⱼ in place of each within-sample mean."""
    wx, wy = (_uniform(z) if w is None else w for z, w in ((x, wx), (y, wy)))
    share_x, share_y = pair_share(wx, "weights_x"), pair_share(wy, "weights_y")
    sums = pair_sums(x, y, kernel=kernel, weights_x=wx, weights_y=wy, backend=backend)
    coefs = [t.coefficient for t in kernel.terms]
    xx, yy, xy = (sum(a * s for a, s in zip(coefs, part.unbind(-1), strict=True)) for part in sums)
    return xx / share_x + yy / share_y - 2.0 * xy
