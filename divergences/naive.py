"""Every loss as its dense textbook formula in fp64: what the library computes, to read first.

    from divergences import naive
    naive.mmd2(x, y, Gaussian(1.0))        # the number that divergences.mmd2 returns

Nothing here is fast or small: a matrix of all pairs is held. It is written apart from the engine,
so that the tests compare the two; gradients are those of autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .kernels import Energy, Gaussian, Kernel

# --- Kernel functions ----------------------------------------------------------------------------


def root(s: Tensor) -> Tensor:
    """√s with zero derivatives at 0."""
    zero = s == 0
    return torch.where(zero, torch.zeros_like(s), torch.where(zero, torch.ones_like(s), s).sqrt())


def profile(name: str, s: Tensor, a: float, shape: float, offset: float) -> Tensor:
    """φ(s) of each registered function, by its textbook formula."""
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


def kernel_matrix(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """K [..., n, m] of a kernel whose bandwidths are numbers (``kernel.resolve(x, y)``)."""
    parts = [
        t.coefficient * gram(t.function.name, x, y, float(t.rate), t.shape, t.offset)
        for t in kernel.terms
    ]
    return torch.stack(parts).sum(0)


# --- Sums over pairs -----------------------------------------------------------------------------


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


# --- Losses --------------------------------------------------------------------------------------


def median_distance(x: Tensor, y: Tensor, p: float = 2.0) -> Tensor:
    """The (lower) median of the positive distances of the pooled rows [N, d]; 1 if there is none.
    The rule "median" is this, of 256 rows if there are more."""
    z = torch.cat([x, y]).double()
    distances = torch.stack([(a - b).abs().pow(p).sum() ** (1 / p) for a in z for b in z])
    positive = distances[distances > 0]
    return positive.median() if len(positive) else torch.ones((), dtype=torch.float64)


def mmd2(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    estimator: str = "unbiased",
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
) -> Tensor:
    """E k(x, x′) + E k(y, y′) − 2 E k(x, y) [...], for weights that are normalised here. The
    unbiased estimate leaves out i = j and divides what is left by 1 − Σwᵢ²."""
    wx, wy = (_normalised(w, z) for w, z in ((weights_x, x), (weights_y, y)))

    def within(z: Tensor, w: Tensor) -> Tensor:
        pairs = w.unsqueeze(-1) * w.unsqueeze(-2)
        if estimator == "unbiased":
            pairs = pairs * (1.0 - torch.eye(z.shape[-2], dtype=torch.float64))
            pairs = pairs / pairs.sum((-2, -1), keepdim=True)
        return (pairs * kernel_matrix(kernel, z, z)).sum((-2, -1))

    between = wx.unsqueeze(-1) * wy.unsqueeze(-2) * kernel_matrix(kernel, x, y)
    return within(x, wx) + within(y, wy) - 2.0 * between.sum((-2, -1))


def _normalised(w: Tensor | None, z: Tensor) -> Tensor:
    w = torch.ones(z.shape[:-1]) if w is None else w
    return w.double() / w.double().sum(-1, keepdim=True)


def energy_distance(
    x: Tensor,
    y: Tensor,
    exponent: float = 1.0,
    estimator: str = "unbiased",
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
) -> Tensor:
    """2 E‖x − y‖^β − E‖x − x′‖^β − E‖y − y′‖^β [...]: the MMD² of the kernel −‖x − y‖^β."""
    return mmd2(x, y, Energy(exponent), estimator, weights_x, weights_y)


def witness(points: Tensor, x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """mean_i k(t, xᵢ) − mean_j k(t, yⱼ) [..., p]."""
    near_x, near_y = (kernel_matrix(kernel, points, z).mean(-1) for z in (x, y))
    return near_x - near_y


def mmd2_to_normal(x: Tensor, sigma: float, estimator: str = "unbiased") -> Tensor:
    """Squared MMD of a Gaussian kernel between x and N(0, I), by E k(t, Z) and E k(Z, Z′)."""
    n, d = x.shape[-2:]
    k = kernel_matrix(Gaussian(sigma), x, x).sum((-2, -1))
    within = k / n**2 if estimator == "biased" else (k - n) / (n * (n - 1))
    variance, squares = sigma**2, x.double().square().sum(-1)
    cross: Tensor = (variance / (variance + 1)) ** (d / 2) * (-squares / (2 * (variance + 1))).exp()
    prior: float = (variance / (variance + 2)) ** (d / 2)
    return within + prior - 2.0 * cross.mean(-1)
