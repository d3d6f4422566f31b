"""Time against n, ours and the rivals', with the limit of the machine, from the CSV files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from divergences.plots import style as house
from divergences.plots.style import BLUE, GREY, INK, ORANGE, Axes, Figure

from .hardware import OPERATIONS, least_seconds

Runs = Mapping[str, Mapping[str, Mapping[str, str]]]  # workload → variant → row
PANELS = (
    ("gaussian", False, "Gaussian MMD², value"),
    ("gaussian", True, "Gaussian MMD², value and gradient"),
    ("energy", True, "Energy distance, value and gradient"),
)
# Okabe & Ito; markers and labels say the same again
LOOKS = {
    "ours": ("this package", BLUE, "o"),
    "eager": ("copied snippet", ORANGE, "s"),
    "compile": ("snippet, compiled", "#CC79A7", "D"),
    "geomloss": ("GeomLoss", "#009E73", "^"),
    "geomloss online": ("GeomLoss, KeOps", "#8A6D00", "v"),
}
DIMENSION = 16


def series(runs: Runs, kernel: str, gradient: bool, d: int) -> dict[str, list[tuple[int, float]]]:
    """(n, milliseconds) of every variant, in the order of n."""
    what = "value+gradient" if gradient else "value"
    pattern = re.compile(rf"{kernel}, {re.escape(what)}, n=m=(\d+), d={d}")
    found: dict[str, list[tuple[int, float]]] = {}
    for workload, variants in runs.items():
        if match := pattern.fullmatch(workload):
            for variant, row in variants.items():
                place = (int(match[1]), float(row["median_ms"]))
                found.setdefault(variant, []).append(place)
    return {variant: sorted(places) for variant, places in found.items()}


def rates(runs: Runs) -> dict[str, float]:
    """Per second."""
    return {
        name: op.count / (1e-3 * float(runs[op.workload]["ours"]["median_ms"]))
        for name, op in OPERATIONS.items()
    }


def plot_losses(losses: Runs, hardware: Runs) -> Figure:
    """A panel for each loss, log-log."""
    measured = rates(hardware)
    with house.style():
        figure = house.new_figure(7.2, 3.1)
        panels = figure.subplots(1, len(PANELS), sharex=True, sharey=True)
        for axes, (kernel, gradient, title) in zip(panels, PANELS, strict=True):
            found = series(losses, kernel, gradient, DIMENSION)
            _draw(axes, found)
            _limit(axes, kernel, gradient, measured, found)
            axes.set_title(title)
            axes.set_xlabel(f"rows of each sample, n = m (d = {DIMENSION})")
        panels[0].set_ylabel("median time")
        _scales(panels[0])
        handles, labels = _legend(panels)
        figure.legend(handles, labels, loc="outside lower center", ncols=6, handlelength=1.6)
    return figure


def _draw(axes: Axes, found: Mapping[str, list[tuple[int, float]]]) -> None:
    axes.set(xscale="log", yscale="log")
    for variant, (label, colour, marker) in reversed(LOOKS.items()):
        if variant not in found:
            continue
        n, times = np.array(found[variant]).T
        ours = variant == "ours"
        axes.plot(
            n, times, marker=marker, color=colour, label=label, markersize=3.6 if ours else 3.0,
            linewidth=1.6 if ours else 0.9, markeredgewidth=0,
        )  # fmt: skip


def _limit(
    axes: Axes,
    kernel: str,
    gradient: bool,
    measured: dict[str, float],
    found: Mapping[str, list[tuple[int, float]]],
) -> None:
    """The limit of the machine, which is a line of slope 2."""
    places = [n for line in found.values() for n, _ in line]
    if not places:
        return
    n = np.array([min(places), max(places)])
    limit = [1e3 * least_seconds(kernel, int(k), DIMENSION, gradient, measured) for k in n]
    axes.plot(n, limit, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), label="limit, ∝ n²")


def _legend(panels: np.ndarray) -> tuple[list, list[str]]:
    found = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    order = [*(label for label, _, _ in LOOKS.values()), "limit, ∝ n²"]
    labels = [label for label in order if label in found]
    return [found[label] for label in labels], labels


def _scales(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(lambda value, _: _duration(value))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(color=GREY, linewidth=0.3)


def _duration(ms: float) -> str:
    if ms < 0.999:
        return f"{1e3 * ms:.3g} µs"
    return f"{ms:.3g} ms" if ms < 999 else f"{1e-3 * ms:.3g} s"


def caption(hardware: Runs) -> str:
    """What the figure shows, with the rates behind its limit."""
    found = rates(hardware)
    where = hardware[OPERATIONS["gemm"].workload]["ours"]
    return (
        f"Median time of a loss on {where['machine']} ({where['versions']}), d = {DIMENSION}, all "
        "variants interleaved in one run. The limit visits each of the 2n² pairs once: 2d flop for "
        "its product, as many again and for each side that is x for the gradient, at "
        f"{found['gemm'] / 1e9:.0f} GFLOP/s (a 2048³ fp32 product), then one exp2 at "
        f"{found['exp2'] / 1e9:.2g}e9/s or root at {found['sqrt'] / 1e9:.2g}e9/s (in cache), "
        "one after the other; all rates were measured in the same session with the same threads. "
        "Lines end where a rival's matrices take tens of seconds."
    )


def write_plots(losses: Runs, hardware: Runs, folder: Path) -> tuple[Path, str]:
    """<folder>/performance.png, and its caption. Raises ValueError if the rates are missing."""
    for operation in OPERATIONS.values():
        if operation.workload not in hardware:
            raise ValueError(f"{operation.workload} has not been measured: run make bench")
    path = folder / "performance.png"
    house.save_figure(plot_losses(losses, hardware), path)
    return path, caption(hardware)
