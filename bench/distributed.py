"""Scaling of tests and losses over the processes of torchrun, by CPU time:

    python -m bench.distributed [--rounds 3] [--csv]

starts torchrun with 1, 2 and 4 processes in turn, one thread each, for so many rounds. *Strong*:
the same rows for all; *weak*: rows so that N²/P stays. What counts is the CPU time of the slowest
process, since on a machine of fewer cores than processes the clock tells of their turns; the
efficiency is that of one process over P times it (weak: over it). Waiting is the time within
collectives, by the clock; bytes are those that a process receives.

Targets: the energy test keeps 80 % at P = 2 and 75 % at P = 4; value and gradient take at most 45 %
more CPU time in all at P = 4 than in one process.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from divergences import mmd2, two_sample_test
from divergences.kernels import Gaussian

from . import floors, measure
from .report import markdown

PROCESSES = (1, 2, 4)
HEADER = ("workload", "processes", "CPU, s", "efficiency", "clock, s", "waiting, s", "MB received")


class Workload(NamedTuple):
    """``efficiency``: the least, by number of processes. Of several ``runs`` the first warms up,
    and the median of the others counts."""

    name: str
    rows: int  # of x and of y, with one process
    d: int
    run: Callable[..., object]
    weak: bool = False
    runs: int = 1
    efficiency: dict[int, float] = {}  # noqa: RUF012, which is only read


def test(x: Tensor, y: Tensor, group: Any) -> object:
    return two_sample_test(x, y, method="energy", n_resamples=999, rng=0, group=group)


def value(x: Tensor, y: Tensor, group: Any) -> object:
    return mmd2(x, y, kernel=Gaussian(8.0), group=group)


def gradient(x: Tensor, y: Tensor, group: Any) -> object:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(mmd2(x, y, kernel=Gaussian(8.0), group=group), x)


WORKLOADS = (
    Workload("energy test, n=m=9000, d=16, B=999", 9000, 16, test, efficiency={2: 0.8, 4: 0.75}),
    Workload("energy test, N²/P constant", 6000, 16, test, weak=True),
    Workload("value, n=m=6000, d=64", 6000, 64, value, runs=6),
    Workload("value+gradient of x, n=m=6000, d=64", 6000, 64, gradient, runs=6,
             efficiency={4: 1.0 / 1.45}),
)  # fmt: skip


# --- In a process of torchrun ----------------------------------------------------------------


class Collectives:
    """Seconds within the collectives of torch.distributed, and bytes received."""

    def __init__(self) -> None:
        self.seconds, self.bytes = 0.0, 0
        for name in ("all_gather", "all_reduce", "all_gather_object"):
            setattr(dist, name, self._timed(getattr(dist, name)))

    def _timed(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        def timed(first: Any, *others: Any, **options: Any) -> Any:
            start = time.perf_counter()
            found = collective(first, *others, **options)
            self.seconds += time.perf_counter() - start
            received = first if isinstance(first, list) else [first]
            self.bytes += sum(t.nbytes for t in received if isinstance(t, Tensor))
            return found

        return timed


def measure_here(numbers: list[int]) -> None:
    """Prints a line of JSON from rank 0 for each workload."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    collectives = Collectives()
    for number in numbers:
        w = WORKLOADS[number]
        rows = round(w.rows * math.sqrt(size)) if w.weak else w.rows
        whole = torch.randn(2, rows // size * size, w.d, generator=torch.Generator().manual_seed(0))
        x, y = (sample.tensor_split(size)[rank] for sample in whole)
        group = None if size == 1 else dist.group.WORLD
        w.run(x[:64], y[:64], group)
        runs = []
        for _ in range(w.runs):
            dist.barrier()
            collectives.seconds, collectives.bytes = 0.0, 0
            cpu, clock = time.process_time(), time.perf_counter()
            w.run(x, y, group)
            own = time.process_time() - cpu, time.perf_counter() - clock
            every: list[Any] = [None] * size
            dist.all_gather_object(every, (*own, collectives.seconds, 1e-6 * collectives.bytes))
            runs.append([max(numbers) for numbers in zip(*every, strict=True)])
        if rank == 0:
            middle = map(statistics.median, zip(*(runs[1:] or runs), strict=True))
            found = dict(zip(("cpu", "clock", "waiting", "mb"), middle, strict=True))
            print(json.dumps({"workload": number, **found}), flush=True)
    dist.destroy_process_group()


# --- Counted -----------------------------------------------------------------------------------

COUNTED = 10_000_000  # rows of both samples together, of 64 columns
LABELS = 1024
LINKS = {1: ("one", math.inf), 8: ("NVLink", 450e9), 64: ("InfiniBand", 50e9)}  # bytes/s each way


def counted_work(size: int) -> dict[str, floors.Work]:
    """Of one of so many processes: its part of the tiles of a test; of a loss the pairs of its own
    rows, those with other rows that are in its gradient, and its part of the rest."""
    n = COUNTED / 2
    own, others = (n / size) ** 2, n / size * (n - n / size)
    value = 2.0 * (own + others)
    of_y, of_x = 0.5 * (own + others), 2.0 * (own + others)
    half = COUNTED**2 / (2 * size)
    return {
        "value": floors.Work("", 64, value, loops=(("value 64", "gram_value_kernel", value),)),
        "value + gradient of x": floors.Work(
            "", 64, of_y + of_x, of_x,
            loops=(("value 64", "gram_value_kernel", of_y),
                   ("gradient 64", "gram_gradient_kernel", of_x)),
        ),
        f"test, {LABELS} labellings": floors.Work(
            "", 64, half, loops=(("labels 64", "panel_kernel", half),), labels=2.0 * half * LABELS
        ),
    }  # fmt: skip


def counted_table() -> str:
    sizes = {size: counted_work(size) for size in LINKS}
    cells = []
    for name in sizes[1]:
        seconds = []
        for size, (_, rate) in LINKS.items():
            work = sizes[size][name]
            received = 4.0 * 64 * COUNTED * (size - 1) / size
            least = max(floors.floor_seconds(work), floors.issue_seconds(work))
            seconds.append(f"{least + received / rate:.3g} s")
        cells.append((name, *seconds))
    gather = [f"{4.0 * 64 * COUNTED * (s - 1) / s / rate:.2g} s" for s, (_, rate) in LINKS.items()]
    cells.append(("of which the rows of others", *gather))
    return markdown(("", *(f"{s} ({link})" for s, (link, _) in LINKS.items())), cells)


# --- From a shell ------------------------------------------------------------------------------


def measured(numbers: list[int], rounds: int) -> dict[tuple[int, int], dict[str, float]]:
    """The medians of all rounds, by workload and number of processes."""
    found: dict[tuple[int, int], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for size in PROCESSES:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += [f"--nproc-per-node={size}", "-m", "bench.distributed", "--here"]
            said = subprocess.run(
                [*command, *map(str, numbers)], env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            for line in said.stdout.splitlines():
                row = json.loads(line)
                found.setdefault((row.pop("workload"), size), []).append(row)
    return {
        place: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for place, rows in found.items()
    }


def as_rows(found: dict[tuple[int, int], dict[str, float]]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for (number, size), numbers in sorted(found.items()):
        w = WORKLOADS[number]
        share = 1 if w.weak else size
        by = {name: found[number, 1][name] / (share * numbers[name]) for name in ("cpu", "clock")}
        enough = size <= (os.cpu_count() or 1)
        rows.append(
            measure.origin()
            | {"workload": w.name, "processes": size}
            | {f"{name}_s": f"{numbers[name]:.3f}" for name in ("cpu", "clock", "waiting")}
            | {"received_mb": f"{numbers['mb']:.1f}", "efficiency": f"{by['cpu']:.3f}"}
            | {"clock_efficiency": f"{by['clock']:.3f}" if enough else "nan"}
            | {"wanted": w.efficiency.get(size, "")}
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The efficiency by the clock stands beside it where there is a core for each process."""
    cells = []
    for row in rows:
        efficiency = f"{100 * float(row['efficiency']):.0f} %"
        if row["wanted"]:
            met = float(row["efficiency"]) >= float(row["wanted"])
            efficiency += f" ({'met' if met else 'short'}: ≥ {100 * float(row['wanted']):.0f} %)"
        clock = row["clock_s"]
        if row["clock_efficiency"] != "nan":
            clock += f" ({100 * float(row['clock_efficiency']):.0f} %)"
        first = str(row["processes"]) == "1"
        cells.append(
            (row["workload"] if first else "", str(row["processes"]), row["cpu_s"], efficiency,
             clock, row["waiting_s"], row["received_mb"])
        )  # fmt: skip
    return markdown(HEADER, cells)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--counted", action="store_true", help="print what larger ones cost")
    parser.add_argument("--csv", action="store_true", help="append to bench/results")
    parser.add_argument("--here", type=int, nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.here is not None:
        measure_here(arguments.here)
        return
    if arguments.counted:
        print(counted_table())
        return
    rows = as_rows(measured([*range(len(WORKLOADS))], arguments.rounds))
    print(table(rows))
    if arguments.csv:
        measure.append("distributed_cpu", rows)


if __name__ == "__main__":
    main()
