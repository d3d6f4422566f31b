"""Maximum mean discrepancy: losses, the witness function, and exact forms for known priors.

The *squared* MMD of P and Q in the RKHS of a kernel k (Gretton et al., "A Kernel Two-Sample Test",
JMLR 2012, Lemma 6) is

    MMD²(P, Q) = E k(x, x′) + E k(y, y′) − 2 E k(x, y),

estimated without bias by leaving out i = j (their eq. 3, the U-statistic, which may be negative),
or with bias but never negative by the V-statistic (eq. 5). No [n, m] matrix is formed.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from .distributed import Group, is_dtensor, over_group
from .estimators import (
    Estimator,
    check_enough_rows,
    check_estimator,
    squared_discrepancy,
)
from .kernels import Bandwidth, Kernel, potential
from .kernels.api import pair_form
from .kernels.backends import check_backend
from .kernels.functions import GAUSSIAN
from .kernels.kernel import KernelLike, as_kernel
from .kernels.validation import (
    check_points,
    check_rows,
    check_sample,
    check_samples,
    count_on_host,
)

DEFAULT_BANDWIDTH = "multiscale"


def mmd2(
    x: Tensor,
    y: Tensor,
    *,
    kernel: KernelLike = "gaussian",
    bandwidth: Bandwidth | None = None,
    estimator: Estimator = "unbiased",
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
    backend: str | None = None,
    group: Group | None = None,
) -> Tensor:
    """Squared maximum mean discrepancy of two samples.

    Args:
        x: [..., n, d] floating point. Leading dimensions are a batch of independent problems.
        y: [..., m, d], on the same device; mixed dtypes promote, fp16 and bf16 compute in fp32.
        kernel: a kernel object (``Gaussian(1.0) + Laplace(2.0)``) or a name: "gaussian",
            "laplace", "inverse_multiquadric", "rational_quadratic", "matern", "energy",
            "polynomial", "linear".
        bandwidth: for a kernel given by name. σ of exp(−r²/2σ²) as a number or 0-d tensor;
            "median" (of the positive pooled distances); "mean" (√ of half the mean squared one, in
            O(n·d)); "dimension" (σ² = d/2, that is
            exp(−r²/d)); a sequence of those, averaged; or "multiscale", the default: the average
            over σ = ¼, ½, 1, 2, 4 medians. One bandwidth sees one scale, and the distance between
            two samples shrinks as training goes on; five around the median leave no setting to
            tune. Data-driven bandwidths carry no gradient.
        estimator: "unbiased" (U-statistic, can be negative; its minimum is where P = Q) or
            "biased" (V-statistic, ≥ 0, but in small batches it is smallest for a shrunken sample).
        weights_x, weights_y: [..., n] and [..., m], normalised to sum to one; uniform if None. For
            the unbiased estimator ≥ 0, with less than all on one row (1 − Σw² ≥ 1e-6); what a CPU
            refuses is NaN on CUDA, where looking would synchronise.
        backend: None (automatic), "reference" or "triton".
        group: ProcessGroup or one-dimensional DeviceMesh: the sample is the rows of all its
            processes, see ``divergences.distributed``. The gradient of plain tensors is then P
            times that of the value, since DDP and FSDP average. Priors drawn with one seed on every
            process are the same rows P times: seed by rank.

    Returns:
        [...]: the squared MMD (take ``.clamp_min(0).sqrt()`` of the biased one for the distance),
        in the promoted dtype, at least fp32. A non-finite input gives NaN.

    Raises:
        ValueError, TypeError: shapes, dtypes, devices, names, bandwidths or weights that do not
            fit; fewer than two rows with the unbiased estimator.

    Examples:
        >>> import torch
        >>> from divergences import mmd2
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]])
        >>> mmd2(x, y, kernel="gaussian", bandwidth=1.0, estimator="biased").round(decimals=3)
        tensor(0.4320)
        >>> mmd2(x, y).round(decimals=3)  # unbiased, five bandwidths
        tensor(-0.1990)
    """
    chosen = as_kernel(kernel, bandwidth, DEFAULT_BANDWIDTH)
    return squared_discrepancy(x, y, chosen, estimator, weights_x, weights_y, backend, group)


class MMDLoss(nn.Module):
    """Squared MMD as a loss: ``MMDLoss()(z, prior)``. Arguments are those of ``mmd2``.

    MMD² = E k(x, x′) + E k(y, y′) − 2 E k(x, y). Holds no parameters and no buffers.

    Examples:
        >>> import torch
        >>> from divergences import MMDLoss
        >>> z = torch.linspace(2, 4, 50)[:, None].requires_grad_()
        >>> loss = MMDLoss()(z, torch.linspace(-1, 1, 50)[:, None])
        >>> loss.backward()
        >>> bool(z.grad.mean() > 0)  # downhill is towards the other sample
        True
    """

    def __init__(
        self,
        *,
        kernel: KernelLike = "gaussian",
        bandwidth: Bandwidth | None = None,
        estimator: Estimator = "unbiased",
        backend: str | None = None,
        group: Group | None = None,
    ) -> None:
        super().__init__()
        check_estimator(estimator)
        self.kernel: Kernel = as_kernel(kernel, bandwidth, DEFAULT_BANDWIDTH)
        check_backend(backend)
        self.estimator = estimator
        self.backend = backend
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
        over = self.group if group is None else group
        return squared_discrepancy(
            x, y, self.kernel, self.estimator, weights_x, weights_y, self.backend, over
        )

    def extra_repr(self) -> str:
        backend = "" if self.backend is None else f", backend={self.backend!r}"
        return f"kernel={self.kernel!r}, estimator={self.estimator!r}{backend}"


def witness(
    points: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    kernel: KernelLike = "gaussian",
    bandwidth: Bandwidth | None = None,
    backend: str | None = None,
) -> Tensor:
    """The witness function f(t) = mean_i k(t, xᵢ) − mean_j k(t, yⱼ) (Gretton et al. 2012, §2.3).

    Positive where x has more mass than y, as far as k sees it. points: [..., p, d]; returns
    [..., p]. Bandwidth rules apply to x and y pooled. Raises as ``mmd2`` does.

    Examples:
        >>> import torch
        >>> from divergences import witness
        >>> x, y = torch.tensor([[0.0]]), torch.tensor([[2.0]])
        >>> witness(torch.tensor([[0.0], [1.0], [2.0]]), x, y, bandwidth=1.0).round(decimals=2)
        tensor([ 0.8600,  0.0000, -0.8600])
    """
    x, y = check_samples(x, y)
    check_points(points, "points")
    if points.shape[-1] != x.shape[-1]:
        raise ValueError(
            f"points and x must share d; got points {list(points.shape)}, x {list(x.shape)}"
        )
    check_rows(x, "x", 1, "at least one row is needed")
    check_rows(y, "y", 1, "at least one row is needed")
    chosen = as_kernel(kernel, bandwidth, DEFAULT_BANDWIDTH).resolve(x, y)
    near_x = potential(points, x, kernel=chosen, backend=backend) / x.shape[-2]
    return near_x - potential(points, y, kernel=chosen, backend=backend) / y.shape[-2]


# --- Exact priors --------------------------------------------------------------------------------


def mmd2_to_normal(
    x: Tensor,
    *,
    kernel: KernelLike = "gaussian",
    bandwidth: Bandwidth | None = None,
    estimator: Estimator = "unbiased",
    backend: str | None = None,
    group: Group | None = None,
) -> Tensor:
    """Squared MMD between a sample and N(0, I), whose embedding is known exactly.

    No prior sample is drawn, so there is no noise from one: near the prior about half the noise of
    ``mmd2(x, torch.randn_like(x))``, and one sweep instead of three. With σ the bandwidth,
    E k(t, Z) = (σ²/(σ²+1))^{d/2} exp(−|t|²/2(σ²+1)) and E k(Z, Z′) = (σ²/(σ²+2))^{d/2} (the BHEP
    statistic: Henze & Zirkler 1990).

    Args:
        x: [..., n, d].
        kernel, bandwidth: "gaussian" with a bandwidth, or a ``Gaussian`` (also a mixture or sum of
            them); others have no closed form and raise. The default, "dimension" (σ² = d/2), does
            not follow the sample.
        estimator: "unbiased" or "biased", for the term within x.
        group: as ``mmd2``'s.

    Returns:
        [...]: the squared MMD, in the dtype of x (at least fp32).

    Examples:
        >>> import torch
        >>> from divergences import mmd2_to_normal
        >>> z = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> print(f"{mmd2_to_normal(z):.3f} {mmd2_to_normal(z + 1):.3f}")
        0.001 0.195
    """
    if group is not None or is_dtensor(x):
        options: dict[str, Any] = {
            "kernel": kernel, "bandwidth": bandwidth, "estimator": estimator, "backend": backend,
        }  # fmt: skip
        return over_group(x, None, group, functools.partial(mmd2_to_normal, **options))
    x = check_sample(x)
    chosen = _checked(x, kernel, bandwidth, estimator)
    return _to_embedded(x, chosen, _normal_embedding(x, chosen), estimator, backend)


def mmd2_to_gaussian_mixture(
    x: Tensor,
    means: Tensor,
    scales: Tensor,
    weights: Tensor | None = None,
    *,
    kernel: KernelLike = "gaussian",
    bandwidth: Bandwidth | None = None,
    estimator: Estimator = "unbiased",
    backend: str | None = None,
) -> Tensor:
    """Squared MMD between a sample and Σ_k w_k N(m_k, s_k² I), exactly, with gradients for the
    mixture too.

    x: [..., n, d]; means m: [K, d]; scales s: [K], positive standard deviations; weights w: [K],
    normalised to sum to one (uniform if None). Other arguments and the result are those of
    ``mmd2_to_normal``, which is the case K = 1.

    Examples:
        >>> import torch
        >>> from divergences import mmd2_to_gaussian_mixture
        >>> x = torch.tensor([[-2.0], [2.0]])
        >>> means, scales = torch.tensor([[-2.0], [2.0]]), torch.tensor([0.5, 0.5])
        >>> value = mmd2_to_gaussian_mixture(x, means, scales, bandwidth=1.0, estimator="biased")
        >>> value.round(decimals=3)
        tensor(0.0140)
    """
    x = check_sample(x)
    for name, value in (("means", means), ("scales", scales), ("weights", weights)):
        if value is None and name == "weights":
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name} must be a floating point tensor; got {got}")
        if value.device != x.device:
            raise ValueError(f"{name} is on {value.device}, x on {x.device}")
    if means.dim() != 2 or means.shape[1] != x.shape[-1] or len(means) == 0:
        raise ValueError(
            f"means must have shape [K, d] with the d of x; got means {list(means.shape)}, "
            f"x {list(x.shape)}"
        )
    components = means.shape[0]
    for name, value in (("scales", scales), ("weights", weights)):
        if value is not None and value.shape != (components,):
            raise ValueError(f"{name} must have shape [{components}]; got {list(value.shape)}")
    if count_on_host(~((scales.detach() > 0) & torch.isfinite(scales.detach()))):
        raise ValueError(f"scales must be positive and finite; got {scales.detach().tolist()}")
    if weights is not None:
        w = weights.detach()
        if count_on_host(~((w >= 0) & torch.isfinite(w))) or count_on_host(w.sum() == 0):
            raise ValueError(f"weights must be finite, ≥ 0 and not all 0; got {w.tolist()}")
    chosen = _checked(x, kernel, bandwidth, estimator)
    embedding = mixture_embedding(x, means, scales, weights, chosen)
    return _to_embedded(x, chosen, embedding, estimator, backend)


def _checked(
    x: Tensor, kernel: KernelLike, bandwidth: Bandwidth | None, estimator: Estimator
) -> Kernel:
    """The resolved kernel."""
    check_estimator(estimator)
    check_enough_rows(x, "x", estimator)
    return as_kernel(kernel, bandwidth, "dimension").resolve(x)


def _to_embedded(
    x: Tensor,
    chosen: Kernel,
    embedding: tuple[Tensor, Tensor],
    estimator: Estimator,
    backend: str | None,
) -> Tensor:
    """The squared MMD to a law of which the embedding's mean over x and squared norm are given."""
    cross, own = embedding
    biased = estimator == "biased"
    within = pair_form(x, None, chosen, (1.0,), means=estimator, diagonal=biased, backend=backend)
    return (within + own - 2.0 * cross).to(x.dtype)


def mixture_embedding(
    x: Tensor, means: Tensor, scales: Tensor, weights: Tensor | None, kernel: Kernel
) -> tuple[Tensor, Tensor]:
    """The mean of E k(xᵢ, Z) over x, and E k(Z, Z′), both [...] in fp64, for Z from the mixture and
    a resolved kernel. Raises ValueError unless that is a sum of Gaussian kernels."""
    _check_gaussian(kernel)
    m, variance = means.double(), scales.double().square()
    origin = m[:1].detach()  # distances are expanded below, which is exact near the origin only
    points, m = x.double() - origin, m - origin
    w = torch.full_like(variance, 1.0 / len(variance)) if weights is None else weights.double()
    w = w / w.sum()
    distance = _squared_distances(points, m)  # [..., n, K]
    between = _squared_distances(m, m)  # [K, K]
    pair_variance = variance.unsqueeze(-1) + variance
    cross = own = torch.zeros((), dtype=torch.float64, device=x.device)
    for t in kernel.terms:
        rate = t.rate
        kernel_variance = 0.5 / rate
        if isinstance(kernel_variance, Tensor):
            kernel_variance = kernel_variance.double()[..., None, None]
        near = _smoothed(distance, variance, kernel_variance, x.shape[-1])
        prior = _smoothed(between, pair_variance, kernel_variance, x.shape[-1])
        cross = cross + t.coefficient * (near * w).sum(-1).mean(-1)
        own = own + t.coefficient * (prior * w * w.unsqueeze(-1)).sum((-2, -1))
    return cross, own


def _normal_embedding(x: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """`mixture_embedding` of N(0, I), in fewer calls."""
    _check_gaussian(kernel)
    squared = x.double().square().sum(-1)
    one = torch.ones((), dtype=torch.float64, device=x.device)
    cross = own = torch.zeros((), dtype=torch.float64, device=x.device)
    for t in kernel.terms:
        variance = 0.5 / t.rate
        if isinstance(variance, Tensor):
            variance = variance.double().unsqueeze(-1)
        near = _smoothed(squared, one, variance, x.shape[-1])
        prior = _smoothed(0.0 * one, 2.0 * one, variance, x.shape[-1])
        cross = cross + t.coefficient * near.mean(-1)
        own = own + t.coefficient * (prior.squeeze(-1) if prior.dim() else prior)
    return cross, own


def _check_gaussian(kernel: Kernel) -> None:
    if any(t.function is not GAUSSIAN for t in kernel.terms):
        raise ValueError(
            f"{kernel!r} has no closed form against a Gaussian prior; use Gaussian kernels, or "
            "mmd2 with a sample from the prior"
        )


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """[..., n, K] in fp64, where the cancellation of the expansion does not matter."""
    expanded = a.square().sum(-1, keepdim=True) + b.square().sum(-1) - 2.0 * (a @ b.mT)
    return expanded.clamp_min(0.0)


def _smoothed(
    distance: Tensor, variance: Tensor, kernel_variance: float | Tensor, d: int
) -> Tensor:
    """E exp(−‖t − Z‖²/2σ²) for Z ~ N(m, s²I), from ‖t − m‖² and s²."""
    total = variance + kernel_variance
    return torch.exp(0.5 * d * torch.log(kernel_variance / total) - 0.5 * distance / total)
