"""Other configurations of the value and gradient kernels: times and errors.

Each variant is compiled by a few processes first, then captured in a graph: what is timed is the
device alone. The shipped configuration is the yardstick ("ours").
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from divergences.kernels.functions import REGISTRY
from divergences.kernels.problem import Component, PairProblem, Sweep, Wanted
from divergences.kernels.triton_backend import launcher, sweeps
from divergences.kernels.triton_backend.configs import MOST, Config, Device, Table, device_of

from ..measure import OURS, Run
from ..workloads import Problem, blocked
from .session import Session, in_parallel
from .times import graphed

FILE = "configurations_gpu"
COMPILED_ROWS = 3000  # of the code that a variant needs
SECONDS = 6.0  # of measuring all variants of a kernel
KERNELS = {"gram_value_kernel": False, "gram_gradient_kernel": True}  # whether a gradient is wanted
CONSTANTS = {  # of triton_backend
    "PROGRAMS_PER_PROCESSOR": (1, 2, 3, 6, 8),
    "CHUNK": (2, 4, 16, 32),
    "MAX_SPLITS": (4, 8, 32),
}


class Variant(NamedTuple):
    """Another configuration for the kernel, or another value of a constant of the planning."""

    kernel: str
    old: Config
    new: Config
    constant: str = ""
    value: int = 0

    def __str__(self) -> str:
        c = self.new
        registers = "" if c.registers is None else f", {c.registers} registers"
        tile = f"{c.rows}x{c.columns}x{c.slice}, {c.warps} warps, {c.stages} stages{registers}"
        return f"{self.constant}={self.value}" if self.constant else tile


def variants(kernel: str, shipped: Config) -> list[Variant]:
    """Stages, warps, tile and registers around the shipped ones, then the constants."""
    found = [shipped._replace(stages=stages) for stages in (1, 2, 3, 4)]
    tiles = ((128, 64, 8), (64, 64, 4), (128, 32, 4), (64, 32, 4), (128, 128, 8), (64, 128, 4),
             (64, 64, 8), (128, 64, 4))  # fmt: skip
    for (rows, columns, warps), stages in product(tiles, (2, 3)):
        found.append(shipped._replace(rows=rows, columns=columns, warps=warps, stages=stages))
    found += [shipped._replace(registers=count) for count in (None, 128, 168, MOST)]
    found += [shipped._replace(registers=168, stages=3)]
    rest = list(dict.fromkeys(config for config in found if config != shipped))
    constants = [
        Variant(kernel, shipped, shipped, name, value)
        for name, values in CONSTANTS.items()
        for value in values
        if value != getattr(sweeps, name)
    ]
    return [*(Variant(kernel, shipped, config) for config in rest), *constants]


def replaced(table: Table, old: Config, new: Config) -> Table:
    """A table with another configuration wherever it has the old one."""

    def other(field: Any) -> Any:
        if isinstance(field, dict):
            return {key: other(config) for key, config in field.items()}
        return new if field == old else field

    return table._replace(**{name: other(field) for name, field in table._asdict().items()})


@contextmanager
def applied(variant: Variant, device: torch.device) -> Iterator[None]:
    """Raises ValueError unless the kernel is launched with the new configuration inside."""
    known = device_of(device)
    one = replaced(known.architecture.one, variant.old, variant.new)
    changed = Device(known.architecture._replace(one=one), known.processors)
    with ExitStack() as stack:
        enter = stack.enter_context
        enter(mock.patch.object(launcher, "device_of", return_value=changed))
        if variant.constant:
            enter(mock.patch.object(sweeps, variant.constant, variant.value))
        found = enter(configs(variant.kernel))
        yield
    if found != {variant.new}:
        raise ValueError(f"{variant.kernel} ran with {found}, not {variant.new}")


@contextmanager
def configs(kernel: str) -> Iterator[set[Config]]:
    """The configurations that a kernel is launched with inside."""
    found: set[Config] = set()
    original: Any = launcher.launch

    def launch(given: Any, grid: Any, config: Config, *more: Any, **arguments: Any) -> Any:
        if given.__name__ == kernel:
            found.add(config)
        return original(given, grid, config, *more, **arguments)

    with mock.patch.object(launcher, "launch", launch):
        yield found


def sweep(x: Tensor, y: Tensor, gradient: bool) -> Sweep:
    """Sums over all pairs, or the sums over those of x and the gradient."""
    component, rate = Component(REGISTRY["gaussian"]), 0.5 / x.shape[-1]
    n = float(x.shape[1])
    coefs = [1.0 / n**2, 1.0 / n**2, -2.0 / n**2]
    wanted = Wanted(sums=not gradient, grad_x=gradient)
    problem = PairProblem(x, y, None, None, [rate], coefs, (component,), "all", wanted)
    return sweeps.sweep(problem)


def compiled(variant: Variant, d: int, device: str) -> str:
    """An error, or nothing."""
    try:
        x = torch.randn(1, COMPILED_ROWS, d, device=device)
        with applied(variant, x.device):
            sweep(x, x, KERNELS[variant.kernel])
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return ""


def configurations(session: Session) -> None:
    n, d = (26, 17) if session.dry else (32768, 64)
    for kernel, gradient in KERNELS.items():
        with session.attempt(kernel):
            _configurations(session, kernel, n, d, gradient)


def _configurations(session: Session, kernel: str, n: int, d: int, gradient: bool) -> None:
    x, y = (t.unsqueeze(0) for t in Problem("gaussian", n, d, device=session.device).samples())
    with configs(kernel) as found:
        sweep(x, y, gradient)
    (shipped,) = found
    if session.dry:  # tiles that the interpreter's norms agree with
        new = shipped._replace(rows=2 * shipped.rows)
        tried = [Variant(kernel, shipped, new), *variants(kernel, shipped)[-1:]]
    else:
        tried = variants(kernel, shipped)
        said = in_parallel(partial(compiled, d=d, device=session.device), tried)
        for variant, error in zip(tried, said, strict=True):
            if error:
                print(f"{kernel}, {variant}: {error}")
        tried = [variant for variant, error in zip(tried, said, strict=True) if not error]
    truth = exact(x[0], y[0], gradient)
    runs: dict[str, Run] = {}
    errors: dict[str, float] = {}
    for variant in (Variant(kernel, shipped, shipped), *tried):
        name = OURS if (variant.new, variant.constant) == (shipped, "") else str(variant)
        try:
            with applied(variant, x.device):
                out = sweep(x, y, gradient)
                runs[name] = graphed(partial(sweep, x, y, gradient), session.device)
        except Exception as error:  # that one does not run
            print(f"{kernel}, {variant}: {error!r}")
            continue
        result = out.grad_x[0] if gradient else out.sums.flatten()
        worst = float((result.double() - truth).abs().max() / truth.abs().max())
        errors[name] = worst
    print(f"{kernel}: shipped {shipped}, {len(runs)} variants")
    workload = f"{kernel}, gaussian, n=m={n}, d={d}"
    session(workload, runs, file=FILE, errors=errors, fresh={}, seconds=SECONDS)
    if not errors[OURS] < 1e-5 or any(math.isnan(error) for error in errors.values()):
        session.fail(f"{workload}: errors {errors}")


def exact(x: Tensor, y: Tensor, gradient: bool) -> Tensor:
    """Of ``sweep``, in fp64 by the dense formula."""
    problem = Problem("gaussian", len(x), x.shape[1], gradient)
    if gradient:
        return blocked(problem, x, y)
    n = len(x)
    sums = [blocked_sum(problem, a, b) for a, b in ((x, x), (y, y), (x, y))]
    return torch.stack([sums[0] - n, sums[1] - n, sums[2]])


def blocked_sum(problem: Problem, a: Tensor, b: Tensor, rows: int = 1024) -> Tensor:
    a, b = a.double(), b.double()
    parts = [a[first : first + rows] for first in range(0, len(a), rows)]
    return torch.stack([problem.matrix(part, b).sum() for part in parts]).sum()
