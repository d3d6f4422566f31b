"""What the device does at most: copy, fp16 product, ex2, an empty launch, a graph node."""

from __future__ import annotations

import importlib.util
import inspect
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
import triton.language as tl

from divergences.kernels.triton_backend import differences, launcher
from divergences.kernels.triton_backend.configs import Config

from ..measure import Run
from ..workloads import Problem
from .session import Session, parameters
from .times import graphed

FILE = "hardware_gpu"
TURNS, BLOCK = 512, 2048  # of the ex2 kernel: results of each number, numbers of a program
LAUNCHES = 100


@triton.jit  # type: ignore[untyped-decorator]
def ex2_kernel(x, turns, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    found = tl.load(x + at)
    for _ in range(turns):
        found = tl.exp2(-found)
    tl.store(x + at, found)


def ceilings(session: Session) -> None:
    toy, device = session.dry, session.device

    def copy() -> tuple[str, float, Run]:
        source = torch.rand(2**12 if toy else 2**28, device=device)
        target = torch.empty_like(source)
        return "copy, bytes", 8.0 * source.numel(), partial(target.copy_, source)

    def product() -> tuple[str, float, Run]:
        size = 64 if toy else 8192
        a, b = torch.randn(2, size, size, device=device, dtype=torch.float16)
        out = torch.empty_like(a)
        return f"fp16 GEMM, {size}³, flop", 2.0 * size**3, partial(torch.mm, a, b, out=out)

    def ex2() -> tuple[str, float, Run]:
        programs, turns = (1, 2) if toy else (132 * 64, TURNS)
        x = torch.rand(programs * BLOCK, device=device)
        run = partial(ex2_kernel[(programs,)], x, turns, BLOCK=BLOCK, num_warps=8)
        return "ex2, results", float(x.numel() * turns), run

    for made in (copy, product, ex2):
        with session.attempt(made.__name__):
            name, count, run = made()
            (row,) = session(f"hardware: {name}", {"ours": run}, file=FILE, fresh={})
            print(f"{name}: {1e3 * count / row.median_ms:.4g} per second")
            session.count(f"rate, {made.__name__}", 1e3 * count / row.median_ms)
    with session.attempt("empty launch"):
        launches(session)


def launches(session: Session) -> None:
    """By our launcher, with the arguments of the gradient of a small batch, of an empty kernel."""
    kernel, grid, config, arguments = gradient_launch(session)
    with tempfile.TemporaryDirectory() as folder:
        empty = empty_like(kernel, Path(folder) / "empty.py")
        launch = partial(launcher.launch, empty, grid, config, **arguments)
        several = 1 if session.dry else LAUNCHES

        def run() -> None:
            for _ in range(several):
                launch()

        what = f"{several} empty launches of {len(parameters(kernel))} arguments"
        session(f"hardware: {what}", {"ours": run}, file=FILE, fresh={})
        graph = graphed(run, session.device)
        session(f"hardware: {what}, CUDA graph", {"ours": graph}, file=FILE, fresh={})


def gradient_launch(session: Session) -> tuple[Any, tuple[int, ...], Config, dict[str, Any]]:
    """The first launch of the gradient of a small batch."""
    found: list[tuple[Any, tuple[int, ...], Config, dict[str, Any]]] = []
    original: Callable[..., Any] = launcher.launch

    def launch(kernel: Any, grid: tuple[int, ...], config: Config, **arguments: Any) -> Any:
        found.append((kernel, grid, config, arguments))
        return original(kernel, grid, config, **arguments)

    problem = Problem(
        "gaussian", 9 if session.dry else 256, 2 if session.dry else 16, True, session.device
    )
    with mock.patch.object(launcher, "launch", launch):
        problem.cases({"ours": problem.ours()})["ours"]()
    return found[0]


def empty_like(kernel: Any, path: Path) -> Any:
    """A kernel with the parameters of another, that does nothing."""
    named = parameters(kernel)
    static = [name for name, p in named.items() if p.annotation is not inspect.Parameter.empty]
    listed = ", ".join(f"{name}: tl.constexpr" if name in static else name for name in named)
    path.write_text(
        f"import triton\nimport triton.language as tl\n\n\ndef empty({listed}):\n    pass\n"
    )
    spec = importlib.util.spec_from_file_location("empty", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return differences.entry(module.empty)
