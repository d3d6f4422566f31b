"""What the steps of a run on a GPU share: where rows go, what went wrong, which kernels ran."""

from __future__ import annotations

import inspect
import multiprocessing
import statistics
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from .. import measure, rivals
from ..measure import Row, Run, Setup

WRONG = " (wrong)"  # ends the name of a workload that failed its check
TOY_SMALL = 48  # pooled rows up to which a problem is small in a dry run
PROCESSES = 10  # that compile
SECONDS = 1.0  # of measuring per workload
ROUTES = ("GRAM", "PANEL")  # arguments that tell the routes of a kernel apart


class Session:
    """One step: ``dry`` is toy size on a CPU, where times mean nothing and stay in ``out``."""

    def __init__(self, out: Path, dry: bool, seconds: float) -> None:
        self.out, self.dry = out, dry
        self.device = "cpu" if dry else "cuda"
        self.failures: list[str] = []
        self._ends = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._ends - time.monotonic()

    def fail(self, text: str) -> None:
        print(f"FAIL {text}")
        self.failures.append(text)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """What goes wrong inside is said, and the step goes on."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            self.fail(f"{what}: {type(error).__name__}: {lines[0]}")
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def leave_out(self, workload: str, variant: str, why: str) -> None:
        print(f"{workload}: {variant} is left out, {why}")

    def record(self, file: str, rows: list[dict[str, object]]) -> None:
        measure.append(file, rows, self.out)
        if not self.dry and not str(rows[0].get("workload", "")).endswith(WRONG):
            measure.append(file, rows)

    def count(self, name: str, value: float) -> None:
        """A number that is no time."""
        origin = measure.origin(self.device)
        self.record("counts_gpu", [{**origin, "name": name, "value": value}])
        print(f"{name}: {value:g}")

    def __call__(
        self, workload: str, variants: Mapping[str, Run], *, file: str,
        errors: Mapping[str, float] | None = None, fresh: Mapping[str, Setup] | None = None,
        device: str = "", seconds: float = SECONDS,
    ) -> list[Row]:  # fmt: skip
        """Time ``variants``, interleaved, of which "ours" is the yardstick, and record a row each.
        ``fresh``: as in the suite of a CPU; where it is given, no memory is measured."""
        device = device or self.device
        for run in () if self.dry else variants.values():
            run()  # compiles
        seconds = 0.0 if self.dry else max(0.0, min(seconds, self.left))
        times = measure.interleaved(variants, seconds, 1 if self.dry else 5, device)
        measured = device == "cuda" and fresh is None
        peaks = {k: measure.peak_on_device(run) for k, run in variants.items() if measured}
        medians = {name: statistics.median(found) for name, found in times.items()}
        rows = measure.rows_of(workload, medians, errors or {}, peaks, device)
        self.record(file, [asdict(row) for row in rows])
        for row in rows:
            spread = f"{1e3 * min(times[row.variant]):.4g}…{1e3 * max(times[row.variant]):.4g}"
            print(
                f"{row.workload}: {row.variant} {row.median_ms:.4g} ms ({spread}, "
                f"{len(times[row.variant])} runs), {row.ratio:.3g}x, error {row.error:.2g}, "
                f"{row.peak_mb:.4g} MB"
            )
        return rows


class Ran(NamedTuple):
    times: int
    milliseconds: float


def kernels_of(run: Run) -> dict[str, Ran]:
    """What the device ran, by the profiler; without one, our launches."""
    if not torch.cuda.is_available():
        with launched() as found:
            run()
        return {name: Ran(times, 0.0) for name, times in Counter(found).items()}
    run()  # compiles
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    return {
        event.key: Ran(event.count, 1e-3 * event.self_device_time_total)
        for event in profile.key_averages()
        if event.device_type.name == "CUDA"
    }


@contextmanager
def launched() -> Iterator[list[str]]:
    """Names of the kernels that are launched inside, and their route: gradient_kernel PANEL."""
    from divergences.kernels.triton_backend import launcher

    found: list[str] = []
    original = launcher.launch

    def launch(kernel: Any, *args: Any, **arguments: Any) -> Any:
        routes = [route for route in ROUTES if arguments.get(route) is True]
        found.append(" ".join([kernel.__name__, *routes]))
        return original(kernel, *args, **arguments)

    with mock.patch.object(launcher, "launch", launch):
        yield found


def in_parallel(function: Callable[[Any], str], items: Sequence[Any]) -> list[str]:
    """What it returns for each, from processes that compile for this one: code stays on disk."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        return list(pool.map(function, items))


@contextmanager
def toy() -> Iterator[None]:
    """Inside, few rows take the routes of many, in few programs, and only torch is a rival."""
    from divergences.kernels.triton_backend import launcher, sweeps

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(launcher, "SMALL", TOY_SMALL))
        stack.enter_context(mock.patch.object(rivals, "installed", return_value=False))
        for constant in ("MIN_PROGRAMS", "PROGRAMS_PER_PROCESSOR"):
            stack.enter_context(mock.patch.object(sweeps, constant, 1))
        yield


def parameters(kernel: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kernel.fn).parameters
