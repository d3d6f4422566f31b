"""The kernel functions: k(x, y) = φ(s), where s is one of three metrics of the pair.

One block per function, and nothing else to touch when adding one: every test suite, the offline
GPU build and the bench parametrise over ``REGISTRY``. A block holds

* ``value(s, a, shape, offset)``: φ, out of place and differentiable (second order, oracles);
* ``evaluate(s, a, shape, offset, slope, out)``: φ, written to ``out`` (which may be ``s``), and its
  slope, in ``slope`` or ``out`` itself, where one is given (the CPU product);
* ``slope_derivative(s, a, shape, offset, slope, out)``: the derivative of the slope in s, over the
  factor of the slope, in ``out`` or ``slope`` itself (second order);
* ``device(s, a, shape, offset)``: the Triton twin, returning φ and its slope. It is left
  undecorated so that importing the package does not import triton, which the Triton backend does,
  and without annotations, which Triton would look up.

The *slope* is what the gradient needs: ∇ₓk = slope·(x−y) for ``sqeuclidean`` (slope = 2φ′),
slope·sign(x−y) for ``l1`` and slope·y for ``inner`` (slope = φ′). At coincident points, where φ′ of
the non-smooth functions is infinite, it is 0. ``a`` is the rate, ``shape`` and ``offset`` are
static numbers of the function.

A GPU's fast ``rsqrt``, ``sqrt``, ``exp2`` and ``log2`` take what is below the smallest normal
number (2⁻¹²⁶, written out in the device twins) for 0, so that is where the twins begin to divide:
fp32 rows nearer than 1e-19 count as coincident.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

tl: Any = None  # triton.language, set by the Triton backend before it jits the device twins
Metric = Literal["sqeuclidean", "l1", "inner"]
Rate = float | Tensor
LOG2E = 1.4426950408889634


class Evaluation(NamedTuple):
    """φ = ``value * value_scale`` and its slope; the factors stay out of the elementwise work."""

    value: Tensor
    value_scale: float
    slope: Tensor
    slope_scale: Rate

    def drop_diagonal(self) -> None:
        """Sets the pairs i = i of square matrices [..., i, j] to 0."""
        self.value.diagonal(dim1=-2, dim2=-1).zero_()
        if self.slope is not self.value:
            self.slope.diagonal(dim1=-2, dim2=-1).zero_()


class SlopeDerivative(NamedTuple):
    """The derivative of a slope, ``value * scale``."""

    value: Tensor
    scale: Rate


@dataclass(frozen=True)
class KernelFunction:
    """One family of kernel functions. ``definiteness``: "positive" or "conditional" (on weights
    that sum to zero). ``smooth``: φ is differentiable in s at s = 0. ``steepness(a, shape)``: how
    an error of s reaches φ. ``rate_power``: φ depends on s·rate^rate_power; 0 if there is no rate
    and φ is homogeneous of degree shape/2. ``fourth_power``: φ(s; 4a) = φ(s; a)⁴. ``costly``:
    several components take more registers than those of others, so that tiles are narrower.
    ``bandwidth(a, shape)``: what users call it, if there is one; ``label``: how a kernel of this
    function is printed. ``stein``: see ``statistics.stein``. ``probe``: (rate, shape, offset)
    triples that the test suites and the offline build exercise."""

    name: str
    metric: Metric
    value: Callable[[Tensor, Rate, float, float], Tensor]
    evaluate: Callable[[Tensor, Rate, float, float, Tensor | None, Tensor], Evaluation]
    slope_derivative: Callable[[Tensor, Rate, float, float, Tensor, Tensor], SlopeDerivative]
    device: Callable[[Any, Any, Any, Any], Any]
    definiteness: Literal["positive", "conditional"] = "positive"
    smooth: bool = True
    steepness: Callable[[Any, float], Any] = lambda a, _: a
    rate_power: int = 1
    fourth_power: bool = False
    costly: bool = False
    bandwidth: Callable[[float, float], float] | None = None
    label: str = "{name}({bandwidth})"
    stein: Callable[[Tensor, float, float, int, Tensor, Tensor], None] | None = None
    at_zero: float = 1.0  # φ(0), for the diagonal of the translation-invariant ones
    probe: tuple[tuple[float, float, float], ...] = ((0.7, 0.0, 0.0),)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are the registered function itself."""
        return registered, (self.name,)

    def __deepcopy__(self, memo: Any) -> KernelFunction:
        return self


def registered(name: str) -> KernelFunction:
    return REGISTRY[name]


REGISTRY: dict[str, KernelFunction] = {}


def register(function: KernelFunction) -> KernelFunction:
    REGISTRY[function.name] = function
    return function


def _power_over_s(s: Tensor, exponent: float, ratio: Tensor | None, out: Tensor) -> Tensor:
    """``out`` = r = s^exponent and, if given, ``ratio`` = r/s, where 0/0 = 0.

    The smallest normal number as the least under the fraction turns 0/0 into 0; a mask would cost
    ten times as much."""
    if ratio is not None:
        _above_zero(s, ratio)
    r = torch.sqrt(s, out=out) if exponent == 0.5 else torch.pow(s, exponent, out=out)
    if ratio is not None:
        torch.div(r, ratio, out=ratio)
    return r


def _above_zero(s: Tensor, out: Tensor) -> Tensor:
    """s, at least the smallest normal number."""
    return torch.clamp(s, min=torch.finfo(s.dtype).tiny, out=out)


def _safe_sqrt(s: Tensor) -> Tensor:
    """√s whose derivatives of every order are 0 at s = 0 instead of infinite."""
    zero = s == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, s).sqrt())


# --- Gaussian: exp(−s/2σ²), a = 1/2σ² ------------------------------------------------------------


def _gaussian(s: Tensor, a: Rate, shape: float, offset: float) -> Tensor:
    return torch.exp2(s * (-LOG2E * a))


def _gaussian_(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor | None, out: Tensor
) -> Evaluation:
    k = torch.mul(s, -LOG2E * a, out=out).exp2_()
    return Evaluation(k, 1.0, k, -2.0 * a)


def _gaussian_slope_derivative(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor, out: Tensor
) -> SlopeDerivative:
    return SlopeDerivative(slope, -a)


def _gaussian_device(s, a, shape, offset):  # type: ignore[no-untyped-def]
    k = tl.exp2(s * (a * -1.4426950408889634))
    return k, k * (-2.0 * a)


def _gaussian_stein(s: Tensor, a: float, shape: float, d: int, cross: Tensor, phi: Tensor) -> None:
    cross.add_(s, alpha=2.0 * a).sub_(d).mul_(-2.0 * a)  # h = 2as
    torch.mul(s, -a, out=phi).exp_()


GAUSSIAN = register(
    KernelFunction(
        "gaussian",
        "sqeuclidean",
        _gaussian,
        _gaussian_,
        _gaussian_slope_derivative,
        _gaussian_device,
        fourth_power=True,
        bandwidth=lambda a, _: math.sqrt(0.5 / a),
        label="Gaussian({bandwidth})",
        stein=_gaussian_stein,
    )
)


# --- Laplace on Euclidean distances: exp(−√s/σ), a = 1/σ -----------------------------------------


def _laplace(s: Tensor, a: Rate, shape: float, offset: float) -> Tensor:
    return torch.exp2(_safe_sqrt(s) * (-LOG2E * a))


def _laplace_(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor | None, out: Tensor
) -> Evaluation:
    k = _power_over_s(s, 0.5, slope, out).mul_(-LOG2E * a).exp2_()
    return Evaluation(k, 1.0, k if slope is None else slope.mul_(k), -a)


def _laplace_slope_derivative(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor, out: Tensor
) -> SlopeDerivative:
    inverse = _above_zero(s, out).rsqrt_()
    return SlopeDerivative((inverse + a).mul_(inverse).mul_(slope), -0.5)


def _laplace_device(s, a, shape, offset):  # type: ignore[no-untyped-def]
    inverse = tl.where(s < 1.1754943508222875e-38, 0.0, tl.rsqrt(s))
    k = tl.exp2(s * inverse * (a * -1.4426950408889634))
    return k, k * inverse * -a


LAPLACE = register(
    KernelFunction(
        "laplace",
        "sqeuclidean",
        _laplace,
        _laplace_,
        _laplace_slope_derivative,
        _laplace_device,
        smooth=False,
        rate_power=2,
        bandwidth=lambda a, _: 1.0 / a,
        label="Laplace({bandwidth})",
    )
)


# --- Laplace on L1 distances: exp(−s/σ), a = 1/σ -------------------------------------------------


def _laplace_l1(s: Tensor, a: Rate, shape: float, offset: float) -> Tensor:
    return torch.exp2(s * (-LOG2E * a))


def _laplace_l1_(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor | None, out: Tensor
) -> Evaluation:
    k = torch.mul(s, -LOG2E * a, out=out).exp2_()
    return Evaluation(k, 1.0, k, -a)


def _laplace_l1_slope_derivative(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor, out: Tensor
) -> SlopeDerivative:
    return SlopeDerivative(slope, -a)


def _laplace_l1_device(s, a, shape, offset):  # type: ignore[no-untyped-def]
    k = tl.exp2(s * (a * -1.4426950408889634))
    return k, k * -a


LAPLACE_L1 = register(
    KernelFunction(
        "laplace_l1",
        "l1",
        _laplace_l1,
        _laplace_l1_,
        _laplace_l1_slope_derivative,
        _laplace_l1_device,
        fourth_power=True,
        bandwidth=lambda a, _: 1.0 / a,
        label="Laplace({bandwidth}, norm='l1')",
    )
)


# --- Energy: −s^(β/2), β = shape; a is not used --------------------------------------------------


def _energy(s: Tensor, a: Rate, shape: float, offset: float) -> Tensor:
    if shape == 1.0:
        return -_safe_sqrt(s)
    zero = s == 0
    return -torch.where(zero, 0.0, torch.where(zero, 1.0, s).pow(0.5 * shape))


def _energy_(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor | None, out: Tensor
) -> Evaluation:
    r = _power_over_s(s, 0.5 * shape, slope, out)
    return Evaluation(r, -1.0, r if slope is None else slope, -shape)


def _energy_slope_derivative(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor, out: Tensor
) -> SlopeDerivative:
    return SlopeDerivative(torch.div(slope, _above_zero(s, out), out=out), 0.5 * shape - 1.0)


def _energy_device(s, a, shape, offset):  # type: ignore[no-untyped-def]
    if shape == 1.0:
        inverse = tl.where(s < 1.1754943508222875e-38, 0.0, tl.rsqrt(s))
        return -s * inverse, -inverse
    else:
        r = tl.exp2(tl.log2(s) * (0.5 * shape))
        return -r, tl.where(s < 1.1754943508222875e-38, 0.0, r / s) * -shape


ENERGY = register(
    KernelFunction(
        "energy",
        "sqeuclidean",
        _energy,
        _energy_,
        _energy_slope_derivative,
        _energy_device,
        definiteness="conditional",
        smooth=False,
        rate_power=0,
        at_zero=0.0,
        label="Energy({shape:g})",
        probe=((1.0, 1.0, 0.0), (1.0, 0.5, 0.0), (1.0, 1.5, 0.0)),
    )
)


# --- Inverse power (inverse multiquadric, rational quadratic): (1 + a·s)^(−shape) ----------------

HIGH_POWER = 4.0  # beyond it rounding 1 + a·s would cost digits of the power


def _inverse_power(s: Tensor, a: Rate, shape: float, offset: float) -> Tensor:
    if shape > HIGH_POWER:
        return torch.exp(torch.log1p(s * a) * -shape)
    return (s * a + 1.0).pow(-shape)


def _inverse_power_(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor | None, out: Tensor
) -> Evaluation:
    base = torch.mul(s, a, out=out)
    if shape > HIGH_POWER:
        inverse = base if slope is None else torch.add(base, 1.0, out=slope).reciprocal_()
        k = base.log1p_().mul_(-shape * LOG2E).exp2_()
        return Evaluation(k, 1.0, k if slope is None else inverse.mul_(k), a * (-2.0 * shape))
    base.add_(1.0)
    if shape == 1.0:
        k = base.reciprocal_()
        return Evaluation(k, 1.0, k if slope is None else torch.square(k, out=slope), -2.0 * a)
    inverse = base if slope is None else torch.reciprocal(base, out=slope)
    k = base.rsqrt_() if shape == 0.5 else base.log2_().mul_(-shape).exp2_()
    return Evaluation(k, 1.0, k if slope is None else inverse.mul_(k), a * (-2.0 * shape))


def _inverse_power_slope_derivative(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor, out: Tensor
) -> SlopeDerivative:
    base = torch.mul(s, a, out=out).add_(1.0)
    return SlopeDerivative(torch.div(slope, base, out=out), a * (-shape - 1.0))


def _inverse_power_device(s, a, shape, offset):  # type: ignore[no-untyped-def]
    u = s * a
    base = u + 1.0
    inverse = 1.0 / base
    if shape == 0.5:
        k = tl.rsqrt(base)
    elif shape == 1.0:
        k = inverse
    elif shape == 2.0:
        k = inverse * inverse
    elif shape > 4.0:  # HIGH_POWER; log(1 + u) is log(base)·u/(base − 1), whose roundings cancel
        rounded = base - 1.0
        log = tl.where(rounded == 0.0, u * 1.4426950408889634, tl.log2(base) * (u / rounded))
        k = tl.exp2(log * -shape)
    else:
        k = tl.exp2(tl.log2(base) * -shape)
    return k, k * inverse * (a * (-2.0 * shape))


def _inverse_power_stein(
    s: Tensor, a: float, shape: float, d: int, cross: Tensor, phi: Tensor
) -> None:
    torch.mul(s, a, out=phi).add_(1.0).reciprocal_()  # w, of which h = 2(β + 1)(1 − w)
    more = 2.0 * (shape + 1.0)
    cross.add_(phi, alpha=-more).add_(more - d).mul_(phi).mul_(-2.0 * shape * a)
    if shape > HIGH_POWER:
        torch.mul(s, a, out=phi).log1p_().mul_(-shape).exp_()
    else:
        phi.pow_(shape)


INVERSE_POWER = register(
    KernelFunction(
        "inverse_power",
        "sqeuclidean",
        _inverse_power,
        _inverse_power_,
        _inverse_power_slope_derivative,
        _inverse_power_device,
        steepness=lambda a, shape: a * max(1.0, shape),
        costly=True,
        bandwidth=lambda a, _: 1.0 / math.sqrt(a),
        label="InverseMultiquadric({bandwidth}, exponent={shape:g})",
        stein=_inverse_power_stein,
        probe=(
            (0.7, 0.5, 0.0),
            (0.7, 1.0, 0.0),
            (0.3, 2.0, 0.0),
            (0.4, 1.5, 0.0),
            (1e-6, 3e5, 0.0),
        ),
    )
)


# --- Matérn 3/2 and 5/2 on r = a·√s, a = √(2ν)/σ, ν = shape --------------------------------------


def _matern(s: Tensor, a: Rate, shape: float, offset: float) -> Tensor:
    r = _safe_sqrt(s) * a
    # s·a² and not r²: the derivative of the quadratic term is finite at 0.
    polynomial = 1.0 + r if shape == 1.5 else 1.0 + r + s * (a * a / 3.0)
    return polynomial * torch.exp2(r * -LOG2E)


def _matern_(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor | None, out: Tensor
) -> Evaluation:
    r = torch.clamp(s, min=0.0, out=out).sqrt_().mul_(a)  # rounding may have left s just below 0
    if slope is None:
        slope = torch.empty_like(r)
    decay = torch.mul(r, -LOG2E, out=slope).exp2_()
    if shape == 1.5:
        return Evaluation(r.add_(1.0).mul_(decay), 1.0, decay, -(a * a))
    quadratic = torch.square(r).mul_(decay)
    linear = decay.addcmul_(decay, r)  # (1 + r)·e^(−r)
    return Evaluation(quadratic.mul_(1.0 / 3.0).add_(linear), 1.0, linear, a * a * (-1.0 / 3.0))


def _matern_slope_derivative(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor, out: Tensor
) -> SlopeDerivative:
    if shape == 1.5:
        return SlopeDerivative(_above_zero(s, out).rsqrt_().mul_(slope), -0.5 * a)
    base = torch.clamp(s, min=0.0, out=out).sqrt_().mul_(a).add_(1.0)
    return SlopeDerivative(torch.div(slope, base, out=out), a * a * -0.5)


def _matern_device(s, a, shape, offset):  # type: ignore[no-untyped-def]
    r = tl.sqrt(s) * a
    decay = tl.exp2(r * -1.4426950408889634)
    linear = (1.0 + r) * decay
    if shape == 1.5:
        return linear, decay * (-a * a)
    else:
        return linear + r * r * decay * 0.3333333333333333, linear * (a * a * -0.3333333333333333)


MATERN = register(
    KernelFunction(
        "matern",
        "sqeuclidean",
        _matern,
        _matern_,
        _matern_slope_derivative,
        _matern_device,
        steepness=lambda a, _: a * a,
        rate_power=2,
        bandwidth=lambda a, shape: math.sqrt(2.0 * shape) / a,
        label="Matern({bandwidth}, nu={shape:g})",
        probe=((1.2, 1.5, 0.0), (1.2, 2.5, 0.0)),
    )
)


# --- Polynomial (a·⟨x, y⟩ + offset)^shape, integer shape; linear is shape = 1, offset = 0 --------


def _polynomial(s: Tensor, a: Rate, shape: float, offset: float) -> Tensor:
    base = s * a + offset
    k = base
    for _ in range(int(shape) - 1):
        k = k * base
    return k


def _polynomial_(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor | None, out: Tensor
) -> Evaluation:
    base = torch.mul(s, a, out=out).add_(offset)
    if slope is None:
        return Evaluation(base.pow_(int(shape)), 1.0, base, a)
    slope.fill_(1.0) if shape == 1.0 else torch.pow(base, int(shape) - 1, out=slope)
    return Evaluation(base.mul_(slope), 1.0, slope, a * shape)


def _polynomial_slope_derivative(
    s: Tensor, a: Rate, shape: float, offset: float, slope: Tensor, out: Tensor
) -> SlopeDerivative:
    if shape == 1.0:
        return SlopeDerivative(slope, 0.0)
    return SlopeDerivative(
        torch.mul(s, a, out=out).add_(offset).pow_(int(shape) - 2), a * (shape - 1.0)
    )


def _polynomial_device(s, a, shape, offset):  # type: ignore[no-untyped-def]
    base = s * a + offset
    power = base * 0.0 + 1.0
    for _ in tl.static_range(shape - 1):
        power = power * base
    return power * base, power * (a * shape)


POLYNOMIAL = register(
    KernelFunction(
        "polynomial",
        "inner",
        _polynomial,
        _polynomial_,
        _polynomial_slope_derivative,
        _polynomial_device,
        label="Polynomial({shape:g}, offset={offset:g})",
        probe=((0.5, 1.0, 0.0), (0.25, 3.0, 1.0), (0.25, 2.0, 0.5)),
    )
)
