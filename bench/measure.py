"""Timing and memory: variants interleaved in one run, medians quoted, rows appended to a CSV."""

from __future__ import annotations

import csv
import datetime
import multiprocessing
import pathlib
import platform
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
    median_ms: float  # nan in rows of memory
    ratio: float  # of this variant's median (or memory) to ours: above 1, ours is better
    peak_mb: float  # above the inputs; nan in rows of time
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


def _resident(field: str) -> float:
    """MB of VmRSS (now) or VmHWM (the peak), from Linux."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{field} is not in /proc/self/status")


def _peak_in_child(setup: Callable[[], Callable[[], object]], sender: object) -> None:
    run = setup()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = _resident("VmRSS")
    run()
    sender.send(_resident("VmHWM") - before)  # type: ignore[attr-defined]


def peak_memory(setup: Callable[[], Callable[[], object]]) -> float:
    """MB that a fresh process grows by, at its peak, while ``setup()()`` runs (Linux).

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
    file: str,
    *,
    medians: dict[str, float] | None = None,
    errors: dict[str, float] | None = None,
    peaks: dict[str, float] | None = None,
) -> list[Row]:
    """Append one row per variant to bench/results/<file>.csv; "ours" is the yardstick."""
    nan = float("nan")
    measured = medians if medians is not None else peaks
    assert measured is not None
    rows = [
        Row(
            datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            commit(),
            describe_machine(),
            f"torch {torch.__version__}, python {platform.python_version()}",
            workload,
            name,
            round((medians or {}).get(name, nan), 3),
            round(value / measured["ours"], 2),
            round((peaks or {}).get(name, nan), 1),
            float(f"{(errors or {}).get(name, nan):.2g}"),
        )
        for name, value in measured.items()
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
