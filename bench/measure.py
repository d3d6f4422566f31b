"""Timing, memory and the CSV: variants interleaved in one run, medians quoted, a row for each."""

from __future__ import annotations

import csv
import datetime
import functools
import hashlib
import io
import multiprocessing
import os
import pathlib
import platform
import random
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from divergences.files import replacing

Run = Callable[[], object]
Setup = Callable[[], Run]

RESULTS = pathlib.Path(os.environ.get("BENCH_RESULTS", pathlib.Path(__file__).parent / "results"))
THREADS = torch.get_num_threads()  # those of the machine, or of OMP_NUM_THREADS
OURS = "ours"
PATIENCE = 6.0  # a slow variant may take this many times the seconds of its workload
LONG = 15.0  # seconds of a first run beyond which what it loads and compiles does not show


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
    error: float  # relative to fp64; nan where it was not measured


# --- Time ----------------------------------------------------------------------------------------


def timed(run: Run, device: str = "cpu") -> float:
    """Seconds of one call: between two CUDA events on a GPU, of the clock on a CPU."""
    if device == "cpu":
        torch.set_num_threads(THREADS)  # a rival may have set others
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    before.record()
    run()
    after.record()
    after.synchronize()
    return 1e-3 * float(before.elapsed_time(after))


def interleaved(
    variants: Mapping[str, Run], seconds: float, min_rounds: int = 5, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of each run of each variant, in rounds for about ``seconds``; each round has an order
    of its own, so that none always comes after one that empties the caches.

    Each runs once before. After the ``seconds`` a variant goes on until it has ``min_rounds``, or
    fewer if it is slow: as many as take ``PATIENCE`` · ``seconds``, and at least one; on a CPU that
    is the run before if it took ``LONG``.
    """
    found: dict[str, list[float]] = {}
    least: dict[str, int] = {}
    for name, run in variants.items():
        first = timed(run, device)
        found[name] = [first] if first > LONG and device == "cpu" else []
        least[name] = max(1, min(min_rounds, int(PATIENCE * seconds / first)))
    start, order = time.perf_counter(), random.Random(0)
    while True:
        early = time.perf_counter() - start < seconds
        turn = [
            name
            for name, times in found.items()
            if len(times) < least[name] or (early and sum(times) < PATIENCE * seconds)
        ]
        if not turn:
            return found
        order.shuffle(turn)
        for name in turn:
            found[name].append(timed(variants[name], device))


# --- Memory --------------------------------------------------------------------------------------


def _resident(field: str) -> float:
    """MB of VmRSS (now) or VmHWM (the peak), from Linux."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{field} is not in /proc/self/status")


def _peak_in_child(setup: Setup, threads: int, sender: object) -> None:
    torch.set_num_threads(threads)
    run = setup()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = _resident("VmRSS")
    run()
    sender.send(_resident("VmHWM") - before)  # type: ignore[attr-defined]


def peak_in_fresh_process(setup: Setup) -> float:
    """MB that a fresh process grows by, at its peak, while ``setup()()`` runs (Linux).

    ``setup`` makes the inputs and warms up whatever a first call loads; it must be importable.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.workloads"])  # it imports; no thread runs in it
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peak_in_child, args=(setup, torch.get_num_threads(), sender))
    process.start()
    sender.close()  # so that a child that dies ends the wait
    try:
        return float(receiver.recv())
    except EOFError:
        raise RuntimeError(f"the process that measures memory died in {setup}") from None
    finally:
        process.join()


def peak_on_device(run: Run) -> float:
    """MB allocated by torch on the CUDA device at the peak of ``run``, above what was before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


# --- Rows ----------------------------------------------------------------------------------------


def describe_machine(device: str = "cpu") -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    model = platform.processor()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return f"{model}, {torch.get_num_threads()} threads"


@functools.cache  # of the code that was loaded, not of what is checked out while it runs
def commit(root: pathlib.Path = pathlib.Path(__file__).parents[1]) -> str:
    """The commit, "-dirty" if tracked files other than results differ from it; without git, or
    outside of a checkout, a digest of the sources."""
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return sources(root)
    apart = [*git, "diff", "--quiet", "HEAD", "--", ".", ":(exclude)bench/results"]
    return head if subprocess.run(apart).returncode == 0 else f"{head}-dirty"


def sources(root: pathlib.Path) -> str:
    """A digest of the Python files of the engine, the losses and this suite."""
    digest = hashlib.sha256()
    for folder in ("kernels", "divergences", "bench"):
        for path in sorted((root / folder).glob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"sources-{digest.hexdigest()[:12]}"


def versions(device: str = "cpu") -> str:
    found = f"torch {torch.__version__}, python {platform.python_version()}"
    if device != "cuda":
        return found
    import triton

    return f"{found}, triton {triton.__version__}, driver {driver()}"


@functools.cache
def driver() -> str:
    """Of NVIDIA, "unknown" if its tool does not say."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.stdout.strip().splitlines()[0]


def origin(device: str = "cpu") -> dict[str, str]:
    """Where a number comes from: the first columns of every file of results."""
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    return dict(
        date=today, commit=commit(), machine=describe_machine(device), versions=versions(device)
    )


def append(
    file: str, rows: Sequence[Mapping[str, object]], folder: pathlib.Path | None = None
) -> None:
    """Add rows to <file>.csv in ``folder``, or ``RESULTS``; the file holds the old rows or all,
    never a part."""
    folder = folder or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{file}.csv"
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    if not path.exists():
        writer.writeheader()
    writer.writerows(rows)
    before = path.read_bytes() if path.exists() else b""
    with replacing(path) as stream:
        stream.write(before + text.getvalue().encode())


def rows_of(
    workload: str,
    medians: Mapping[str, float],
    errors: Mapping[str, float],
    peaks: Mapping[str, float],
    device: str = "cpu",
) -> list[Row]:
    """A row per variant, from medians in seconds; "ours" is the yardstick."""
    nan = float("nan")
    return [
        Row(
            **origin(device),
            workload=workload,
            variant=name,
            median_ms=float(f"{1e3 * median:.4g}"),
            ratio=float(f"{median / medians[OURS]:.3g}"),
            peak_mb=float(f"{peaks.get(name, nan):.3g}"),
            error=float(f"{errors.get(name, nan):.2g}"),
        )
        for name, median in medians.items()
    ]
