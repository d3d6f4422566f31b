"""What the losses and tests are to reach, and what the last run of each workload reached."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from .floors import WORK, floor_seconds

Runs = Callable[[str, str], dict[str, dict[str, str]]]  # file, workload → variant → row
SIZES = (32, 64, 128, 256, 512, 1000, 2000, 4000)


class Target(NamedTuple):
    """``ours`` at least ``wanted`` times as fast as ``rival``; with ``share``, ours takes at most
    ``wanted`` times the rival's time. ``rival_ms``: published, not measured here. ``at``: stands
    for {} in the name of the workload, of which the worst counts."""

    workload: str
    rival: str
    wanted: float
    file: str = "losses_cpu"
    share: bool = False
    rival_ms: float | None = None
    peak_mb: float | None = None
    at: tuple[str, ...] = ()


class Outcome(NamedTuple):
    measured: float
    met: bool
    note: str = ""


def loss(name: str, size: str, rival: str, wanted: float, file: str = "losses_cpu") -> Target:
    return Target(f"{name}, {size}", rival, wanted, file)


BIG, GPU = "n=m=8000, d=64", "n=m=32768, d=64"
CPU_TARGETS = (
    loss("gaussian, value", BIG, "eager", 12),
    loss("gaussian, value", BIG, "geomloss", 12),
    loss("gaussian, value+gradient", BIG, "eager", 9),
    loss("gaussian, value+gradient", BIG, "geomloss", 9),
    loss("energy, value+gradient", BIG, "eager", 3.5),
    loss("energy, value+gradient", BIG, "geomloss", 8),
    loss("gaussian, value+gradient", "n=m=256, d=16", "eager", 1.5),
    *(
        Target(f"{name}, value+gradient, n=m={{}}, d=16", "eager", 1, at=tuple(map(str, SIZES)))
        for name in ("gaussian", "energy")
    ),
    *(
        Target(f"{name}, gradient penalty, n=m={{}}, d=16", "eager", 3, share=True,
               at=("200", "500", "1000"))
        for name in ("gaussian", "five bandwidths")
    ),
    Target("two-sample energy, n=m=2000, d=16, B=999", "re-indexing", 300, "tests_cpu"),
    Target("two-sample energy, n=m=2000, d=16, B=999", "dcor", 300, "tests_cpu"),
    Target("training step, 784 pixels, batch 256", "without", 1.1, "step_cpu", share=True),
)  # fmt: skip
GPU_TARGETS = (
    loss("gaussian, value", GPU, "eager", 25, "losses_gpu"),
    loss("gaussian, value", GPU, "compile", 7, "losses_gpu"),
    loss("gaussian, value+gradient", GPU, "eager", 25, "losses_gpu"),
    loss("gaussian, value+gradient", GPU, "compile", 8, "losses_gpu"),
    loss("gaussian, value+gradient", "n=m=32768, d=2", "compile", 5, "losses_gpu"),
    loss("gaussian, value+gradient", "n=m=32768, d=784", "compile", 5, "losses_gpu"),
    Target(f"five bandwidths, value, {GPU}", "one bandwidth", 1.6, "losses_gpu", share=True),
    Target(f"five bandwidths, value+gradient, {GPU}", "one bandwidth", 1.6, "losses_gpu", True),
    loss("gaussian, value+gradient", "n=m=256, d=16", "eager", 8, "losses_gpu"),
    loss("gaussian, value+gradient", "n=m=256, d=16, CUDA graph", "eager", 8, "losses_gpu"),
    Target("label forms, N=65536, d=64, B=1024", "materialised K", 20, "tests_gpu"),
    Target("MMD-FUSE, 20 kernels, n=m=4000, d=10, B=2000", "published (A5000)", 200, "tests_gpu",
           rival_ms=4120.0),
    Target("gaussian, value, n=m=1000000, d=64", "3 s", 1, "losses_gpu",
           rival_ms=3000.0, peak_mb=1400.0),  # above the inputs: 2 GB with them
    Target("gaussian, value+gradient, n=m=256, d=16, CUDA graph", "20 µs", 1, "losses_gpu",
           rival_ms=0.02),
)  # fmt: skip
KERNELS = {  # that a step of a small batch may run, forward and backward
    "gaussian, value+gradient, n=m=256, d=16": 4,
    "MMDLoss(), value+gradient, n=m=256, d=16": 8,
}
SHARE = 0.6  # of the larger of tensor-core and exp2 time, to be reached at 32,768 × 64


def limits(runs: Runs, counts: Mapping[str, float]) -> list[tuple[str, ...]]:
    """Rows for what the measured rates of a GPU allow at n = m = 32,768, d = 64 by counted work."""
    found: list[tuple[str, ...]] = []
    for what, work in (("value", WORK[0]), ("value+gradient", WORK[2])):
        workload = f"gaussian, {what}, {GPU}"
        cells = (workload, "its floor", f"≥ {SHARE:.0%}")
        ours = runs("losses_gpu", workload).get("ours")
        if ours is None or not {"rate, product", "rate, ex2"} <= counts.keys():
            found.append((*cells, "not measured", ""))
            continue
        floor = floor_seconds(work, counts["rate, product"], counts["rate, ex2"])
        share = 1e3 * floor / float(ours["median_ms"])
        found.append((*cells, f"{share:.0%}", "met" if share >= SHARE else "short"))
    return found


def outcome(target: Target, runs: Runs) -> Outcome | None:
    """None where it has not been measured."""
    if target.at:
        every = [
            found._replace(note=f" at {at}")
            for at in target.at
            if (found := outcome(target._replace(workload=target.workload.format(at), at=()), runs))
        ]
        worst = max if target.share else min
        return worst(every, default=None)
    rows = runs(target.file, target.workload)
    if "ours" not in rows or (target.rival_ms is None and target.rival not in rows):
        return None
    ours = float(rows["ours"]["median_ms"])
    rival = target.rival_ms or float(rows[target.rival]["median_ms"])
    if target.share:
        return Outcome(ours / rival, ours / rival <= target.wanted)
    met, note = rival / ours >= target.wanted, ""
    if target.peak_mb is not None:
        peak = float(rows["ours"]["peak_mb"])
        note = f", {peak:.0f} MB of {target.peak_mb:.0f}"
        met = met and peak <= target.peak_mb
    return Outcome(rival / ours, met, note)


def row(target: Target, runs: Runs) -> tuple[str, ...]:
    """Cells: workload, rival, target, measured, verdict."""
    sign, unit = ("≤ ", "× its time") if target.share else ("≥ ", "×")
    sizes = f"{target.at[0]}…{target.at[-1]}" if target.at else ""
    cells = (target.workload.format(sizes), target.rival, f"{sign}{target.wanted:g}{unit}")
    found = outcome(target, runs)
    if found is None:
        return (*cells, "not measured", "")
    measured = f"{_digits(found.measured)}{unit}{found.note}"
    if found.met:
        return (*cells, measured, "met")
    far = found.measured / target.wanted
    short = far - 1.0 if target.share else 1.0 - far
    return (*cells, measured, f"short by {short:.0%}" if short > 0 else "short")


def _digits(value: float) -> str:
    """Three, and no exponent."""
    places = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 2
    return f"{value:.{places}f}"


HEADER = ("workload", "against", "target", "measured", "")


def rows(targets: Sequence[Target], runs: Runs) -> list[tuple[str, ...]]:
    return [row(target, runs) for target in targets]
