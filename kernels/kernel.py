"""The kernels users hold: ``Gaussian(1.0)``, ``Laplace("median")``, ``0.5 * Energy() + Linear()``.

A kernel is a sum of terms, each a registered function with its bandwidth and coefficient. All terms
that share a metric are evaluated in one sweep over the distances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .bandwidth import RULES, by_triton, mean_distance, median_distance, triton_scales
from .functions import (
    ENERGY,
    GAUSSIAN,
    INVERSE_POWER,
    LAPLACE,
    LAPLACE_L1,
    MATERN,
    POLYNOMIAL,
    KernelFunction,
    Metric,
)
from .problem import Component, encode
from .validation import count_on_host, is_on_host

Bandwidth = float | Sequence[float] | Tensor | str
"""A positive number; a 0-d tensor (or one number per batch item) that does not require grad;
``"median"``, ``"dimension"`` or ``"multiscale"``; or a sequence or 1-d array of numbers, whose
kernels are averaged with equal weight (a mixture)."""

GAUSSIAN_ALPHA = 1e18
MULTISCALE = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the median distance
_FEATURES = "features"  # the number of columns, as a "bandwidth" (polynomial default)


@dataclass(frozen=True, eq=False)
class Term:
    """coefficient·φ with rate = factor·bandwidth^(−order)."""

    function: KernelFunction
    bandwidth: float | Tensor | str = 1.0
    factor: float = 1.0
    order: int = 0
    shape: float = 0.0
    offset: float = 0.0
    coefficient: float = 1.0

    @property
    def component(self) -> Component:
        return Component(self.function, self.shape, self.offset)

    @property
    def rate(self) -> float | Tensor:
        if isinstance(self.bandwidth, str):
            raise RuntimeError(f"bandwidth {self.bandwidth!r} is not resolved")
        if self.order == 0:
            return self.factor
        if isinstance(self.bandwidth, Tensor):
            return self.factor * self.bandwidth.double() ** -self.order
        return self.factor * self.bandwidth**-self.order

    @property
    def scale(self) -> float | None:
        """The bandwidth as the kernel's class takes it, of a resolved term; None without one."""
        of_rate = self.function.bandwidth
        return None if self.order == 0 or of_rate is None else of_rate(float(self.rate), self.shape)

    @property
    def label(self) -> str:
        """The term as a kernel of its own: ``Gaussian(1.25)``."""
        width = "" if self.scale is None else f"{self.scale:.4g}"
        name, shape, offset = self.function.name, self.shape, self.offset
        return self.function.label.format(bandwidth=width, name=name, shape=shape, offset=offset)


class Group(NamedTuple):
    """The terms of one metric, ready for a sweep."""

    components: tuple[Component, ...]
    key: str  # of the components; see ``problem.encode``
    rates: list[float] | Tensor  # C numbers, or [..., C]
    coefficients: list[float]
    positions: list[int]  # of the components in ``Kernel.terms``


class Kernel:
    """A sum of kernel functions. ``k1 + k2`` and ``2.0 * k`` are kernels too.

    Examples:
        >>> from divergences.kernels import Gaussian, Laplace
        >>> 0.5 * Gaussian(1.0) + Laplace("median")
        0.5 * Gaussian(1.0) + Laplace('median')
    """

    def __init__(
        self, terms: Sequence[Term], label: str, groups: list[_Metric] | None = None
    ) -> None:
        self.terms: tuple[Term, ...] = tuple(terms)
        self._label = label
        self._groups = _by_metric(self.terms) if groups is None else groups
        self.metric: Metric | None = None  # the one that all terms share, if they do
        if len(self._groups) == 1:
            self.metric = self.terms[0].function.metric
        self._fixed = all(isinstance(t.bandwidth, float) for t in self.terms)
        self._rates: Tensor | None = None  # of all terms, where they were made with the bandwidth

    def __repr__(self) -> str:
        return self._label

    def __add__(self, other: Kernel) -> Kernel:
        if not isinstance(other, Kernel):
            return NotImplemented
        return Kernel(self.terms + other.terms, f"{self._label} + {other._label}")

    def __radd__(self, other: int) -> Kernel:
        return self if other == 0 else NotImplemented  # so that sum([...]) works

    def __eq__(self, other: object) -> bool:
        """The same terms, in any order. Bandwidth tensors are equal to themselves only."""
        return self._key() == other._key() if isinstance(other, Kernel) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[tuple[object, ...], ...]:
        return tuple(
            sorted(
                (
                    (t.function.name, t.coefficient, t.factor, t.order, t.shape, t.offset)
                    + (
                        ("tensor", id(t.bandwidth))
                        if isinstance(t.bandwidth, Tensor)
                        else (t.bandwidth,)
                    )
                    for t in self.terms
                ),
                key=repr,
            )
        )

    def __mul__(self, factor: float) -> Kernel:
        if isinstance(factor, bool) or not isinstance(factor, (int, float)):
            return NotImplemented
        if not (math.isfinite(factor) and factor > 0):
            raise ValueError(f"a kernel can be scaled by a positive number only; got {factor!r}")
        terms = [replace(t, coefficient=t.coefficient * factor) for t in self.terms]
        label = f"({self._label})" if " + " in self._label else self._label
        return Kernel(terms, f"{factor!r} * {label}")

    __rmul__ = __mul__

    def diagonal(self, x: Tensor) -> Tensor | float:
        """k(xᵢ, xᵢ): [..., n] for inner-product kernels, else a constant."""
        constant: Tensor | float = 0.0
        value: Tensor | float
        for t in self.terms:
            if t.function.metric == "inner":
                s = x.square().sum(-1)
                rate = t.rate
                rate = rate.unsqueeze(-1) if isinstance(rate, Tensor) else rate
                value = t.function.value(s, rate, t.shape, t.offset)
            else:
                value = t.function.at_zero
            constant = constant + t.coefficient * value
        return constant

    def resolve(self, x: Tensor, y: Tensor | None = None) -> Kernel:
        """The same kernel with every bandwidth rule replaced by what it gives for the pooled
        sample x [..., n, d], y [..., m, d]: a number, or a tensor [...] on their device.

        Use it to fix a data-driven bandwidth once: ``kernel = Gaussian("median").resolve(x, y)``.
        """
        if self._fixed:
            return self
        medians = all(isinstance(t.bandwidth, str) and t.bandwidth == "median" for t in self.terms)
        if medians and self.metric is not None and by_triton(x, y):
            return self._resolved_by_triton(x, y, self.metric)
        found: dict[tuple[str, str], float | Tensor] = {}

        def lookup(t: Term) -> Term:
            if isinstance(t.bandwidth, Tensor):  # which may have changed in place
                return replace(t, bandwidth=_checked(t.bandwidth))
            if not isinstance(t.bandwidth, str):
                return t
            key = (t.bandwidth, t.function.metric)
            if key not in found:
                found[key] = _apply_rule(t.bandwidth, t.function, x, y)
            return replace(t, bandwidth=found[key])

        return Kernel([lookup(t) for t in self.terms], self._label, self._groups)

    def _resolved_by_triton(self, x: Tensor, y: Tensor | None, metric: Metric) -> Kernel:
        """``resolve`` where the bandwidths of all terms are the median."""
        factors, orders = zip(*((t.factor, t.order) for t in self.terms), strict=True)
        median, rates = triton_scales(x, y, metric, factors, orders)
        terms = [replace(t, bandwidth=median) for t in self.terms]
        resolved = Kernel(terms, self._label, self._groups)
        resolved._rates = rates
        return resolved

    def groups(self, batch: torch.Size) -> list[Group]:
        """The resolved terms by metric, rates of shape [*batch, C] if any is a tensor."""

        def rates(positions: list[int]) -> list[float] | Tensor:
            if self._rates is not None and len(self._rates) == batch.numel():
                return self._rates.view(*batch, -1)
            return _stack_rates([self.terms[p].rate for p in positions], batch)

        return [
            Group(
                components,
                key,
                rates(positions),
                [self.terms[p].coefficient for p in positions],
                positions,
            )
            for positions, components, key in self._groups
        ]


class _Metric(NamedTuple):
    """The terms of one metric. A kernel keeps this through ``resolve``: a trace with dynamic shapes
    takes strings for constants, floats not."""

    positions: list[int]
    components: tuple[Component, ...]
    key: str


def _by_metric(terms: Sequence[Term]) -> list[_Metric]:
    found: dict[str, list[int]] = {}
    for position, t in enumerate(terms):
        found.setdefault(t.function.metric, []).append(position)
    components = [tuple(terms[k].component for k in p) for p in found.values()]
    each = zip(found.values(), components, strict=True)
    return [_Metric(positions, parts, encode(parts)) for positions, parts in each]


def _stack_rates(rates: list[float | Tensor], batch: torch.Size) -> list[float] | Tensor:
    tensors = [r for r in rates if isinstance(r, Tensor)]
    if not tensors:
        return [float(r) for r in rates]
    for r in tensors:
        if r.dim() > len(batch) or any(
            a not in (1, b) for a, b in zip(r.shape[::-1], batch[::-1], strict=False)
        ):
            raise ValueError(
                f"a bandwidth tensor must be 0-d or of the batch shape {list(batch)}; got shape "
                f"{list(r.shape)} (to average over several bandwidths pass a list)"
            )
    full = [
        (r if isinstance(r, Tensor) else torch.full_like(tensors[0], r)).expand(batch)
        for r in rates
    ]
    return torch.stack(full, -1)


def _apply_rule(rule: str, function: KernelFunction, x: Tensor, y: Tensor | None) -> float | Tensor:
    if rule in ("median", "mean"):
        of_all = rule == "mean"
        found = mean_distance(x, y) if of_all else median_distance(x, y, function.metric)
        return float(found) if found.dim() == 0 and is_on_host(found) else found
    d = max(x.shape[-1], 1)
    return float(d) if rule == _FEATURES else math.sqrt(d / 2.0)


# --- Checks --------------------------------------------------------------------------------------


def _positive(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"{name} must be a number; got {value!r}")
    if not 1e-100 <= float(value) <= 1e100:  # whose powers fp64 holds
        raise ValueError(
            f"{name} must be positive and finite; got {value!r} (at least 1e-100, at most 1e100)"
        )
    return float(value)


def _checked(bandwidth: Tensor) -> Tensor:
    """The bandwidth, NaN where it is none and looking would synchronise (CUDA)."""
    if not bandwidth.is_floating_point():
        raise TypeError(f"a bandwidth tensor must be floating point; got {bandwidth.dtype}")
    if bandwidth.requires_grad:
        raise ValueError(
            "bandwidth requires grad, which is not supported: to learn it, scale the samples "
            "instead, mmd2(x / sigma, y / sigma, bandwidth=1.0)"
        )
    bad = ~((bandwidth > 0) & torch.isfinite(bandwidth))
    if count_on_host(bad):
        raise ValueError(f"bandwidth must be positive and finite; got {bandwidth}")
    return bandwidth.masked_fill(bad, torch.nan)


def _terms(
    function: KernelFunction,
    bandwidth: Bandwidth,
    factor: float,
    order: int,
    shape: float = 0.0,
) -> list[Term]:
    """The terms of a mixture over bandwidths."""
    if isinstance(bandwidth, np.ndarray):
        bandwidth = bandwidth.tolist()
    if isinstance(bandwidth, str) and bandwidth == "multiscale":
        items: list[tuple[float | Tensor | str, float]] = [("median", m) for m in MULTISCALE]
    elif isinstance(bandwidth, (Tensor, str)) or not isinstance(bandwidth, Sequence):
        items = [(bandwidth, 1.0)]
    else:
        items = [(b, 1.0) for b in bandwidth]
        if not items:
            raise ValueError("bandwidth is an empty sequence; give at least one")
    terms = []
    for value, multiplier in items:
        if isinstance(value, str):
            if value not in RULES:
                if value == "multiscale":
                    raise ValueError(
                        "'multiscale' is several bandwidths; it has no place in a list"
                    )
                raise ValueError(
                    f"unknown bandwidth rule {value!r}; known are "
                    f"{', '.join(map(repr, (*RULES, 'multiscale')))}, or give a positive number"
                )
        elif isinstance(value, Tensor):
            _checked(value)
        else:
            value = _positive(value, "bandwidth")
        terms.append(
            Term(
                function,
                value,
                factor * multiplier**-order,
                order,
                shape,
                coefficient=1.0 / len(items),
            )
        )
    return terms


def _show(bandwidth: Bandwidth) -> str:
    if isinstance(bandwidth, Tensor):
        return f"tensor of shape {list(bandwidth.shape)}"
    if isinstance(bandwidth, (np.ndarray, np.generic)):  # a tuple: this may be traced
        bandwidth = bandwidth.tolist()
    return repr(bandwidth if isinstance(bandwidth, (str, int, float)) else list(bandwidth))


# --- Kernels -------------------------------------------------------------------------------------


class Gaussian(Kernel):
    """exp(−‖x−y‖²/2σ²), σ = ``bandwidth``. ``"dimension"``, σ² = d/2, is exp(−‖x−y‖²/d).

    Examples:
        >>> import torch
        >>> from divergences.kernels import Gaussian, potential
        >>> points, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0]])
        >>> potential(points, y, kernel=Gaussian(1.0)).round(decimals=3)
        tensor([0.6070, 1.0000, 0.6070])
        >>> potential(points, y, kernel=0.5 * Gaussian([1.0, 2.0])).round(decimals=3)
        tensor([0.3720, 0.5000, 0.3720])
    """

    def __init__(self, bandwidth: Bandwidth = "median") -> None:
        super().__init__(_terms(GAUSSIAN, bandwidth, 0.5, 2), f"Gaussian({_show(bandwidth)})")


class Laplace(Kernel):
    """exp(−‖x−y‖/σ), with the Euclidean norm or, for ``norm="l1"``, Σ|xᵢ−yᵢ|.

    Examples:
        >>> import torch
        >>> from divergences.kernels import Laplace, potential
        >>> points, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0]])
        >>> potential(points, y, kernel=Laplace(1.0)).round(decimals=3)
        tensor([0.3680, 1.0000, 0.3680])
    """

    def __init__(self, bandwidth: Bandwidth = "median", *, norm: str = "l2") -> None:
        if norm not in ("l1", "l2"):
            raise ValueError(f"norm must be 'l1' or 'l2'; got {norm!r}")
        function = LAPLACE if norm == "l2" else LAPLACE_L1
        suffix = "" if norm == "l2" else ", norm='l1'"
        super().__init__(
            _terms(function, bandwidth, 1.0, 1), f"Laplace({_show(bandwidth)}{suffix})"
        )


class Energy(Kernel):
    """−‖x−y‖^β, 0 < β < 2: conditionally positive definite; its MMD² is the energy distance.

    Examples:
        >>> import torch
        >>> from divergences.kernels import Energy, potential
        >>> points, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0]])
        >>> potential(points, y, kernel=Energy()).round(decimals=3)
        tensor([-1.,  0., -1.])
    """

    def __init__(self, exponent: float = 1.0) -> None:
        exponent = _positive(exponent, "exponent")
        if exponent >= 2.0:
            raise ValueError(
                f"exponent must lie in (0, 2); got {exponent!r} (at 2 the energy distance only "
                "compares means)"
            )
        super().__init__([Term(ENERGY, shape=exponent)], f"Energy({exponent!r})")


class InverseMultiquadric(Kernel):
    """(1 + ‖x−y‖²/c²)^(−β), c = ``bandwidth``, β = ``exponent``.

    Normalised to k(x, x) = 1. The Wasserstein autoencoder's C/(C + ‖x−y‖²) is c = √C, β = 1.

    Examples:
        >>> import torch
        >>> from divergences.kernels import InverseMultiquadric, potential
        >>> points, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0]])
        >>> potential(points, y, kernel=InverseMultiquadric(1.0)).round(decimals=3)
        tensor([0.7070, 1.0000, 0.7070])
    """

    def __init__(self, bandwidth: Bandwidth = "median", *, exponent: float = 0.5) -> None:
        exponent = _positive(exponent, "exponent")
        super().__init__(
            _terms(INVERSE_POWER, bandwidth, 1.0, 2, exponent),
            f"InverseMultiquadric({_show(bandwidth)}, exponent={exponent!r})",
        )


class RationalQuadratic(Kernel):
    """(1 + ‖x−y‖²/(2ασ²))^(−α), σ = ``bandwidth``; from α = 1e18 on it is ``Gaussian``, its limit,
    to all digits of fp64.

    Examples:
        >>> import torch
        >>> from divergences.kernels import RationalQuadratic, potential
        >>> points, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0]])
        >>> potential(points, y, kernel=RationalQuadratic(1.0)).round(decimals=3)
        tensor([0.6670, 1.0000, 0.6670])
    """

    def __init__(self, bandwidth: Bandwidth = "median", *, alpha: float = 1.0) -> None:
        alpha = _positive(alpha, "alpha")
        if alpha >= GAUSSIAN_ALPHA:
            terms = _terms(GAUSSIAN, bandwidth, 0.5, 2)
        else:
            terms = _terms(INVERSE_POWER, bandwidth, 0.5 / alpha, 2, alpha)
        super().__init__(terms, f"RationalQuadratic({_show(bandwidth)}, alpha={alpha!r})")


class Matern(Kernel):
    """Matérn with ν = 1/2, 3/2 or 5/2 and length scale σ = ``bandwidth`` (Rasmussen & Williams,
    eq. 4.17). ν = 1/2 is ``Laplace``.

    Examples:
        >>> import torch
        >>> from divergences.kernels import Matern, potential
        >>> points, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0]])
        >>> potential(points, y, kernel=Matern(1.0, nu=2.5)).round(decimals=3)
        tensor([0.5240, 1.0000, 0.5240])
    """

    def __init__(self, bandwidth: Bandwidth = "median", *, nu: float = 1.5) -> None:
        if nu not in (0.5, 1.5, 2.5):
            raise ValueError(f"nu must be 0.5, 1.5 or 2.5; got {nu!r}")
        function = LAPLACE if nu == 0.5 else MATERN
        super().__init__(
            _terms(function, bandwidth, math.sqrt(2.0 * nu), 1, nu if nu != 0.5 else 0.0),
            f"Matern({_show(bandwidth)}, nu={nu!r})",
        )


class Polynomial(Kernel):
    """(γ⟨x, y⟩ + c)^p with p = ``degree`` and γ = 1/d unless given. The defaults are those of the
    kernel inception distance (Bińkowski et al., 2018). Not translation invariant.

    Examples:
        >>> import torch
        >>> from divergences.kernels import Polynomial, potential
        >>> points, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0]])
        >>> potential(points, y, kernel=Polynomial(2)).round(decimals=3)
        tensor([1., 4., 9.])
    """

    def __init__(self, degree: int = 3, *, gamma: float | None = None, offset: float = 1.0) -> None:
        if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
            raise ValueError(f"degree must be a positive integer; got {degree!r}")
        if not (math.isfinite(offset) and offset >= 0):
            raise ValueError(f"offset must be finite and not negative; got {offset!r}")
        if gamma is None:
            term = Term(POLYNOMIAL, _FEATURES, 1.0, 1, float(degree), float(offset))
        else:
            term = Term(POLYNOMIAL, 1.0, _positive(gamma, "gamma"), 0, float(degree), float(offset))
        super().__init__([term], f"Polynomial({degree}, gamma={gamma!r}, offset={offset!r})")


class Linear(Kernel):
    """⟨x, y⟩: its MMD² is the squared distance of the means.

    Examples:
        >>> import torch
        >>> from divergences.kernels import Linear, potential
        >>> points, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0]])
        >>> potential(points, y, kernel=Linear()).round(decimals=3)
        tensor([0., 1., 2.])
    """

    def __init__(self) -> None:
        super().__init__([Term(POLYNOMIAL, shape=1.0)], "Linear()")


_BY_NAME: dict[str, Callable[[Bandwidth], Kernel]] = {
    "gaussian": Gaussian,
    "laplace": Laplace,
    "inverse_multiquadric": InverseMultiquadric,
    "rational_quadratic": RationalQuadratic,
    "matern": Matern,
}


_WITHOUT_BANDWIDTH: dict[str, Callable[[], Kernel]] = {
    "energy": Energy,
    "polynomial": Polynomial,
    "linear": Linear,
}

_ALSO_CALLED = {
    **dict.fromkeys(("rbf", "squared_exponential", "se", "normal"), "gaussian"),
    **dict.fromkeys(("imq", "multiquadric"), "inverse_multiquadric"),
    **dict.fromkeys(("rq", "rqk"), "rational_quadratic"),
    **dict.fromkeys(("laplacian", "exponential"), "laplace"),
    **dict.fromkeys(("poly", "kid"), "polynomial"),
    **dict.fromkeys(("distance", "euclidean"), "energy"),
}

KernelLike = Kernel | str | Literal[0]
"""A kernel or its name. 0, which raises, is what ``sum`` of a list of kernels may be to a type
checker, since the list may be empty."""

# Made once: the common calls construct nothing, neither at every step nor within a trace.
_MADE: dict[tuple[str, str | None], Kernel] = {
    **{(n, rule): make(rule) for n, make in _BY_NAME.items() for rule in (*RULES, "multiscale")},
    **{(name, None): make() for name, make in _WITHOUT_BANDWIDTH.items()},
}


def as_kernel(kernel: KernelLike, bandwidth: Bandwidth | None, default: str) -> Kernel:
    """The kernel named, with ``bandwidth`` or else ``default``; or the kernel given, whose
    bandwidths are its own."""
    if isinstance(kernel, Kernel):
        if bandwidth is not None:
            raise ValueError(
                f"bandwidth={_show(bandwidth)} is given beside {kernel!r}, which has its own; "
                "pass one of the two"
            )
        return kernel
    if not isinstance(kernel, str):
        raise TypeError(
            "kernel must be a name or a kernel object such as Gaussian(1.0); "
            f"got {type(kernel).__name__}"
        )
    name = kernel.lower()
    if name in _WITHOUT_BANDWIDTH:
        if bandwidth is not None:
            raise ValueError(f"kernel {kernel!r} has no bandwidth; got {_show(bandwidth)}")
        return _MADE[name, None]
    if name not in _BY_NAME:
        known = ", ".join(map(repr, (*_BY_NAME, *_WITHOUT_BANDWIDTH)))
        meant = f" (did you mean {_ALSO_CALLED[name]!r}?)" if name in _ALSO_CALLED else ""
        raise ValueError(f"unknown kernel {kernel!r}{meant}; known are {known}")
    rule = default if bandwidth is None else bandwidth
    if isinstance(rule, str) and (name, rule) in _MADE:
        return _MADE[name, rule]
    if type(rule) is float and not torch.compiler.is_compiling():
        return _with_number(name, rule)
    return _BY_NAME[name](rule)


@lru_cache(maxsize=64)
def _with_number(name: str, bandwidth: float) -> Kernel:
    """Kept, as one is named at every step of a training."""
    return _BY_NAME[name](bandwidth)
