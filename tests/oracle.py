"""Independent truth: dense fp64 formulas, written apart from the code under test.

Gradients come from autograd through these, never from a second hand-derived formula.
"""

from __future__ import annotations

import torch
from torch import Tensor

from divergences.kernels import Kernel


def root(s: Tensor) -> Tensor:
    """√s with zero derivatives at 0."""
    zero = s == 0
    return torch.where(zero, torch.zeros_like(s), torch.where(zero, torch.ones_like(s), s).sqrt())


def profile(name: str, s: Tensor, a: float, shape: float, offset: float) -> Tensor:
    """φ(s) of each registered function, by its textbook formula (`math.e`, not base 2)."""
    match name:
        case "gaussian":
            return (-a * s).exp()
        case "laplace":
            return (-a * root(s)).exp()
        case "laplace_l1":
            return (-a * s).exp()
        case "energy":
            zero = s == 0
            power = torch.where(zero, torch.ones_like(s), s) ** (shape / 2)
            return -torch.where(zero, torch.zeros_like(s), power)
        case "inverse_power":
            return (-shape * torch.log1p(a * s)).exp()
        case "matern":
            r = a * root(s)
            return (1 + r if shape == 1.5 else 1 + r + a * a * s / 3) * (-r).exp()
        case "polynomial":
            return (a * s + offset) ** int(shape)
    raise KeyError(name)


def gram(
    name: str,
    x: Tensor,
    y: Tensor,
    a: float,
    shape: float,
    offset: float,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """The dense kernel matrix [..., n, m]; in fp32 it is what eager torch makes of it."""
    x, y = x.to(dtype), y.to(dtype)
    if name == "polynomial":
        s = x @ y.mT
    else:
        difference = x.unsqueeze(-2) - y.unsqueeze(-3)
        s = difference.abs().sum(-1) if name == "laplace_l1" else difference.square().sum(-1)
    return profile(name, s, a, shape, offset)


def pair_matrices(z: Tensor, kernel: Kernel) -> list[Tensor]:
    """K [N, N] of every term of a resolved kernel, its diagonal 0."""
    return [
        gram(t.function.name, z, z, float(t.rate), t.shape, t.offset).fill_diagonal_(0.0)
        for t in kernel.terms
    ]


def sums(
    name: str,
    x: Tensor,
    y: Tensor,
    a: float,
    shape: float = 0.0,
    offset: float = 0.0,
    wx: Tensor | None = None,
    wy: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """[..., 3]: the xx and yy sums without the diagonal, and the xy sum."""
    wx = torch.ones(x.shape[:-1], dtype=dtype) if wx is None else wx.to(dtype)
    wy = torch.ones(y.shape[:-1], dtype=dtype) if wy is None else wy.to(dtype)

    def quadratic(u: Tensor, v: Tensor, wu: Tensor, wv: Tensor, drop: bool) -> Tensor:
        k = gram(name, u, v, a, shape, offset, dtype)
        if drop:
            k = k * (1 - torch.eye(k.shape[-1], dtype=dtype))
        return torch.einsum("...i,...ij,...j->...", wu, k, wv)

    return torch.stack(
        [
            quadratic(x, x, wx, wx, True),
            quadratic(y, y, wy, wy, True),
            quadratic(x, y, wx, wy, False),
        ],
        -1,
    )
