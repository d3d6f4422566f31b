"""What a run found, as one page: how the steps ended, the targets, ceilings, configurations."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from ..report import last_runs, markdown
from ..targets import GPU_TARGETS, HEADER, KERNELS, limits
from ..targets import rows as target_rows
from .configurations import FILE as CONFIGURATIONS

BEST = 5  # configurations shown

Rows = list[dict[str, str]]


def read(out: Path, file: str) -> Rows:
    path = out / f"{file}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def text(out: Path, ended: Mapping[str, str]) -> str:
    """``out``: the folder of a run; ``ended``: how its steps did."""
    files = {t.file: last_runs(read(out, t.file)) for t in GPU_TARGETS}

    def runs(file: str, workload: str) -> dict[str, dict[str, str]]:
        return files[file].get(workload, {})

    counts = {row["name"]: float(row["value"]) for row in read(out, "counts_gpu")}
    targets = [*target_rows(GPU_TARGETS, runs), *limits(runs, counts), *kernels(counts)]
    parts = [
        markdown(("step", "ended"), list(ended.items())),
        configurations(last_runs(read(out, CONFIGURATIONS))),
        markdown(("count", "value"), [(k, f"{v:.4g}") for k, v in counts.items()]),
        markdown(HEADER, targets),
    ]
    origins = {(r["machine"], r["versions"], r["commit"]) for r in read(out, "hardware_gpu")}
    parts += ["; ".join(origin) for origin in sorted(origins)]
    return "\n\n".join(parts) + "\n"


def configurations(found: Mapping[str, Mapping[str, dict[str, str]]]) -> str:
    """The quickest of each kernel, and the shipped one."""
    cells = []
    for workload, variants in found.items():
        ranked = sorted(variants.values(), key=lambda row: float(row["median_ms"]))
        cells += [
            (workload, row["variant"], row["median_ms"], row["ratio"], row["error"])
            for row in ranked if row in ranked[:BEST] or row["variant"] == "ours"
        ]  # fmt: skip
    return markdown(("kernel", "configuration", "ms", "of shipped", "error"), cells)


def kernels(counts: Mapping[str, float]) -> list[tuple[str, ...]]:
    """Kernels of a step of a small batch, against how many they may be."""
    found: list[tuple[str, ...]] = []
    for workload, most in KERNELS.items():
        name = f"kernels, {workload}"
        count = counts.get(name)
        cells = ("not measured", "") if count is None else (
            f"{count:g}", "met" if count <= most else "short")  # fmt: skip
        found.append((name, "", f"≤ {most}", *cells))
    return found
