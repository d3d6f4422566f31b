"""What is measured: a loss of two samples, ours and the rivals', on any device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from divergences.energy import energy_distance
from divergences.kernels import Laplace
from divergences.mmd import mmd2
from vae.objectives.divergences import IMQ_SCALES, imq

from . import rivals
from .measure import OURS, Run
from .rivals import Loss

FIVE = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the bandwidth; MMDLoss() takes the same of the median
CHECKED_ROWS = 1000  # errors are those at so many rows at most, where fp64 truth is cheap
COMPILED = ((256, 16), (1000, 16), (4000, 16), (8000, 64))  # on a CPU: four to six seconds each
COMPILERS = {"compile", "ours compiled"}
ONLINE = (16, 64)  # dimensions for which KeOps compiles, about six seconds for each formula
ONLINE_ROWS = (1000, 4000)  # on a CPU: fewer are not what it is for, more take too long
DENSE_COPIES = 6  # [n, n] matrices that eager code holds at its peak, gradient included
WARM_UP = 100  # rows
MOST_CHECKED = 32_768  # rows on a GPU
BLOCK = 2**26  # pairs of which the fp64 truth is formed at a time


@dataclass(frozen=True)
class Problem:
    """Value or value and gradient of x [n, d] of one loss against y [n, d]."""

    kernel: str
    n: int
    d: int
    gradient: bool = False
    device: str = "cpu"

    def __str__(self) -> str:
        what = "value+gradient" if self.gradient else "value"
        return f"{self.kernel}, {what}, n=m={self.n}, d={self.d}"

    @property
    def sigma(self) -> float:
        """The typical distance of two points is √2 of it."""
        return float(self.d**0.5)

    def ours(self) -> Loss:
        sigma = self.sigma
        match self.kernel:
            case "gaussian":
                return partial(mmd2, bandwidth=sigma, estimator="biased")
            case "energy":
                return partial(energy_distance, estimator="biased")
            case "five bandwidths":
                return partial(mmd2, bandwidth=[s * sigma for s in FIVE], estimator="biased")
            case "MMDLoss()":
                return partial(mmd2, estimator="biased")
            case "imq mixture":
                return imq
            case "laplace l1":
                kernel = Laplace(self.d, norm="l1")
                return partial(mmd2, kernel=kernel, estimator="biased")
        raise KeyError(self.kernel)

    def eager(self) -> Loss:
        sigma = self.sigma
        match self.kernel:
            case "gaussian":
                return partial(rivals.gaussian_snippet, sigma=sigma)
            case "energy":
                return rivals.energy_snippet
            case "five bandwidths":
                return partial(rivals.mixture_snippet, sigmas=tuple(s * sigma for s in FIVE))
            case "MMDLoss()":
                return partial(rivals.multiscale_snippet, scales=FIVE)
            case "imq mixture":
                return partial(rivals.imq_snippet, squares=self.squares())
            case "laplace l1":
                return partial(rivals.laplace_snippet, width=float(self.d))
        raise KeyError(self.kernel)

    def matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """[n, m] values whose means over xx, yy and twice xy, subtracted, are the loss."""
        match self.kernel:
            case "gaussian" | "five bandwidths":
                scales = FIVE if self.kernel == "five bandwidths" else (1.0,)
                squared = rivals.squared_distances(a, b)
                rates = [-0.5 / (s * self.sigma) ** 2 for s in scales]
                return torch.stack([torch.exp(rate * squared) for rate in rates]).mean(0)
            case "energy":
                squared = rivals.squared_distances(a, b)
                apart = squared > 0
                return -torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)
            case "laplace l1":
                return torch.exp(torch.cdist(a, b, p=1.0) / -self.d)
        raise KeyError(self.kernel)

    def squares(self) -> tuple[float, ...]:
        return tuple(2.0 * self.d * s for s in IMQ_SCALES)

    def losses(self, *, compiling: bool = True) -> dict[str, Loss]:
        """Ours and every rival that is installed and meant for this size."""
        found: dict[str, Loss] = {OURS: self.ours()}
        if not self.dense_fits():
            return found
        found["eager"] = self.eager()
        on_gpu = self.device == "cuda"
        if compiling and (on_gpu or (self.n, self.d) in COMPILED):
            found["compile"] = rivals.compiled(found["eager"])
            if self.n <= 10_000:  # beyond, it takes what it takes in eager mode
                found["ours compiled"] = rivals.compiled(self.ours())
        if self.kernel in ("gaussian", "energy") and rivals.installed("geomloss"):
            both = partial(rivals.geomloss, name=self.kernel, sigma=self.sigma)
            found["geomloss"] = partial(both, backend="tensorized")
            low, high = ONLINE_ROWS
            suits = low <= self.n and (on_gpu or self.n <= high)
            if suits and self.d in ONLINE and rivals.installed("pykeops"):
                found["geomloss online"] = partial(both, backend="online")
        numpy_kernel = self.kernel == "gaussian" and not self.gradient and not on_gpu
        if numpy_kernel and rivals.installed("sklearn"):
            found["sklearn"] = partial(rivals.sklearn_gaussian, sigma=self.sigma)
        if self.kernel == "imq mixture":
            found["pythae-like"] = partial(rivals.pythae_like, squares=self.squares())
        return found

    def dense_fits(self) -> bool:
        """Rivals are left out where their matrices do not fit into the memory of the device, and on
        a CPU beyond 10,000 rows, where they take tens of seconds."""
        if self.device == "cuda":
            whole = torch.cuda.get_device_properties().total_memory
            return DENSE_COPIES * 4 * self.n**2 < 0.9 * whole
        return self.n <= 10_000

    def samples(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.n, self.d, generator=generator)
        y = torch.randn(self.n, self.d, generator=generator) * 1.1
        return x.to(self.device), y.to(self.device)

    def run(self, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
        if not self.gradient:
            with torch.no_grad():
                return loss(x, y)
        x = x.detach().requires_grad_()
        loss(x, y).backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        return x.grad

    def cases(self, losses: Mapping[str, Loss]) -> dict[str, Run]:
        x, y = self.samples()
        return {name: partial(self.run, loss, x, y) for name, loss in losses.items()}


def fresh(problem: Problem, name: str) -> Run:
    """One variant in a process of its own; a small call loads everything that is loaded lazily."""
    loss = problem.losses(compiling=False)[name]
    small = replace(problem, n=min(problem.n, WARM_UP))
    problem.run(loss, *small.samples())
    return partial(problem.run, loss, *problem.samples())


def blocked(problem: Problem, x: Tensor, y: Tensor, pairs: int = BLOCK) -> Tensor:
    """The loss in fp64, or its gradient by autograd, some ``pairs`` at a time."""
    a, b = x.double().requires_grad_(problem.gradient), y.double()
    total = a.new_zeros(())
    for u, v, factor in ((a, a, 1.0), (b, b, 1.0), (a, b, -2.0)):
        step = max(1, pairs // len(v))
        for first in range(0, len(u), step):
            part = problem.matrix(u[first : first + step], v).sum() * (factor / len(u) / len(v))
            total += part.detach()
            if part.requires_grad:
                part.backward()  # type: ignore[no-untyped-call]
    return total if a.grad is None else a.grad


def truth(problem: Problem, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """What a variant should give, by the dense formula in fp64. Of MMDLoss(), whose median is that
    of a subsample, the bandwidths are ours."""
    if problem.n > CHECKED_ROWS:
        return {"": blocked(problem, x, y)}
    a, b = x.double(), y.double()
    dense = problem.run(problem.eager(), a, b)
    if problem.kernel != "MMDLoss()":
        return {"": dense}
    resolved = _multiscale_sigmas(x, y)
    loss = partial(rivals.mixture_snippet, sigmas=resolved)
    return {"": dense, OURS: problem.run(loss, a, b)}


def _multiscale_sigmas(x: Tensor, y: Tensor) -> list[float]:
    from divergences.mmd import MMDLoss

    kernel = MMDLoss().kernel.resolve(x, y)
    return [float((0.5 / torch.as_tensor(term.rate).double()).sqrt()) for term in kernel.terms]


def errors_of(
    problem: Problem, leave_out: Callable[[str, str, str], None], *, compiling: bool = True
) -> tuple[dict[str, Loss], dict[str, float]]:
    """The losses that run, and the largest error of each relative to the largest entry of fp64.

    On a GPU errors are those of the size that is timed, or of ``MOST_CHECKED`` rows, which take
    the same kernels as more; on a CPU those of ``CHECKED_ROWS`` at most. A rival that raises is
    left out.
    """
    for module in ("geomloss", "pykeops", "sklearn"):
        if not rivals.installed(module):
            leave_out("all workloads", f"what needs {module}", "it is not installed")
    most = MOST_CHECKED if problem.device == "cuda" else CHECKED_ROWS
    small = replace(problem, n=min(problem.n, most))
    x, y = small.samples()
    wanted = truth(small, x, y)
    losses, errors = problem.losses(compiling=compiling), {}
    if len(losses) == 1 and small.dense_fits():
        losses["eager"] = problem.eager()  # for the bound
    for name, loss in list(losses.items()):
        correct = wanted.get(name.removesuffix(" compiled"), wanted[""])
        try:
            with rivals.hints_ignored():
                found = small.run(loss, x, y)
        except Exception as error:
            if name in (OURS, "eager"):
                raise
            lines = str(error).strip().splitlines() or [""]
            leave_out(str(problem), name, f"it raised {type(error).__name__}: {lines[0]}")
            del losses[name]
            continue
        errors[name] = float((found.double() - correct).abs().max() / correct.abs().max())
    if "eager" in losses and not problem.dense_fits():
        del losses["eager"]
        leave_out(str(problem), "every rival", "its matrices are too large for this device")
    return losses, errors


def wrong(errors: Mapping[str, float]) -> bool:
    """Whether ours is beyond twice the error of eager fp32, or a rival's above a tenth: it
    computes the same thing, but the gradient of ``torch.cdist`` at d = 1, say, is 3 % off."""
    right = errors[OURS] <= 2.0 * errors.get("eager", 0.0) + 1e-6 and max(errors.values()) < 0.1
    return not right  # nor is NaN


def checked(
    problem: Problem, leave_out: Callable[[str, str, str], None]
) -> tuple[dict[str, Loss], dict[str, float]]:
    """``errors_of``, which must not be wrong."""
    losses, errors = errors_of(problem, leave_out)
    assert not wrong(errors), errors
    return losses, errors


def measure_problem(compare: Any, problem: Problem, file: str, *, memory: bool = False) -> Any:
    """Check, then time, all variants of a problem. memory: on a CPU, in fresh processes; the
    compiled variants' is not measured there, since the compiler's would be."""
    losses, errors = checked(problem, compare.leave_out)
    setups = {name: partial(fresh, problem, name) for name in losses if name not in COMPILERS}
    cases = problem.cases(losses)
    for name in COMPILERS & cases.keys():
        with rivals.hints_ignored():
            cases[name]()  # what the first run of a size takes is no measurement
    return compare(
        str(problem), cases, file=file, errors=errors,
        fresh=setups if memory else None, device=problem.device,
    )  # fmt: skip
