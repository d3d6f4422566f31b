"""Timing and memory: variants interleaved in one run, medians quoted, rows appended to a CSV."""

from __future__ import annotations

import csv
import datetime
import multiprocessing
import pathlib
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

RESULTS = pathlib.Path(__file__).parent / "results"


@dataclass
class Row:
    """One measured variant of one workload."""

    date: str
    commit: str
    machine: str
    versions: str
    workload: str
    variant: str
    median_ms: float
    ratio: float  # of this variant's median to ours: above 1, ours is faster
    peak_mb: float  # above the inputs; nan where it was not measured
    error: float  # relative to fp64


def interleaved(variants: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median milliseconds of each variant, run in turn A B C A B C … for about ``seconds``."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for run in variants.values():
        run()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or min(map(len, times.values())) < 3:
        for name, run in variants.items():
            before = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - before))
    return {name: statistics.median(values) for name, values in times.items()}


def _peak_in_child(setup: Callable[[], Callable[[], object]], sender: object) -> None:
    run = setup()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sender.send((after - before) / 1024)  # type: ignore[attr-defined]


def peak_memory(setup: Callable[[], Callable[[], object]]) -> float:
    """MB that the process grows by, at its peak, while ``setup()()`` runs, in a fresh process.

    ``setup`` makes the inputs and warms up whatever a first call loads; it must be importable.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peak_in_child, args=(setup, sender))
    process.start()
    result = float(receiver.recv())
    process.join()
    return result


def describe_machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return f"{model}, {torch.get_num_threads()} threads"


def commit() -> str:
    here = pathlib.Path(__file__).parent
    try:
        text = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude", "*"]
        return subprocess.run(text, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def record(
    workload: str,
    medians: dict[str, float],
    errors: dict[str, float],
    peaks: dict[str, float],
    file: str,
) -> list[Row]:
    """Append one row per variant to bench/results/<file>.csv; "ours" is the yardstick."""
    rows = [
        Row(
            datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            commit(),
            describe_machine(),
            f"torch {torch.__version__}, python {platform.python_version()}",
            workload,
            name,
            round(median, 3),
            round(median / medians["ours"], 2),
            round(peaks.get(name, float("nan")), 1),
            float(f"{errors.get(name, float('nan')):.2g}"),
        )
        for name, median in medians.items()
    ]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{file}.csv"
    fresh = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, list(asdict(rows[0])))
        if fresh:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    return rows
