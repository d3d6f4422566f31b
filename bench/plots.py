"""Time against n, ours and the rivals', with the limit of the machine, from the CSV files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from divergences.files import replacing
from divergences.plots import style as house
from divergences.plots.style import BLUE, GREY, INK, ORANGE, Axes, Figure, LogLocator

from .hardware import OPERATIONS, least_seconds
from .measure import OURS

Runs = Mapping[str, Mapping[str, Mapping[str, str]]]  # workload → variant → row
PANELS = (
    ("gaussian", False, "Gaussian MMD², value"),
    ("gaussian", True, "Gaussian MMD², value and gradient"),
    ("energy", True, "Energy distance, value and gradient"),
)
# Okabe & Ito; markers and labels say the same again
LOOKS = {
    "ours": ("ours", BLUE, "o"),
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
        figure = house.new_figure(7.2, 2.7)
        panels = figure.subplots(1, len(PANELS), sharex=True, sharey=True)
        for axes, (kernel, gradient, title) in zip(panels, PANELS, strict=True):
            found = series(losses, kernel, gradient, DIMENSION)
            axes.set(xscale="log", yscale="log", title=title)
            axes.set_xlabel(f"rows of each sample, n = m (d = {DIMENSION})")
            _draw(axes, found)
        _scales(panels[0])
        for axes, (kernel, gradient, _) in zip(panels, PANELS, strict=True):
            _limit(axes, partial(_limit_ms, kernel, gradient, measured))
        panels[0].set_ylabel("median time")
        handles, labels = panels[1].get_legend_handles_labels()
        panels[0].legend(handles, labels, loc="upper left", handlelength=1.4, labelspacing=0.3)
    return figure


def _draw(axes: Axes, found: Mapping[str, list[tuple[int, float]]]) -> None:
    """Rivals in the order of their last time, then ours on top, with its name beside its line."""
    rivals = [variant for variant in LOOKS if variant in found and variant != OURS]
    for variant in (*sorted(rivals, key=lambda v: -found[v][-1][1]), OURS):
        n, times = np.array(found.get(variant, [(np.nan, np.nan)])).T
        label, colour, marker = LOOKS[variant]
        ours = variant == OURS
        axes.plot(
            n, times, marker=marker, color=colour, label="" if ours else label, markeredgewidth=0,
            markersize=3.6 if ours else 3.0, linewidth=1.6 if ours else 0.9,
        )  # fmt: skip
        if ours:
            axes.annotate(
                label, (n[0], times[0]), xytext=(-3, -11), textcoords="offset points",
                color=colour, fontsize=7, fontweight="bold",
            )  # fmt: skip
    axes.grid(color=GREY, linewidth=0.3)
    axes.minorticks_off()


def _limit_ms(kernel: str, gradient: bool, measured: dict[str, float], n: float) -> float:
    return 1e3 * least_seconds(kernel, n, DIMENSION, gradient, measured)


def _limit(axes: Axes, milliseconds: Callable[[float], float]) -> None:
    """The limit of the machine, a line of slope 2, across the panel, and its name along it."""
    (left, right), bottom = axes.get_xlim(), axes.get_ylim()[0]
    n = np.array([left, right])
    axes.plot(n, [milliseconds(k) for k in n], color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    low = max(left, float(np.sqrt(bottom / milliseconds(1.0))))
    x, y = 1.25 * 4.0 * low, milliseconds(4.0 * low)  # beside the line
    axes.text(
        x, y, "limit of this machine, ∝ n²", fontsize=6.5, color=INK, va="top",
        rotation=np.degrees(np.arctan2(2.0 * y, x)), rotation_mode="anchor",
        transform_rotates_text=True,
    )  # fmt: skip
    axes.set_xlim(left, right)


def _scales(axes: Axes) -> None:
    """Shared by all panels: what was measured, with room for the legend."""
    low, high = axes.get_ylim()
    axes.set_ylim(0.5 * low, 3.0 * high)
    axes.yaxis.set_major_formatter(lambda value, _: _duration(value))
    axes.xaxis.set_major_locator(LogLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _duration(ms: float) -> str:
    if ms < 0.999:
        return f"{1e3 * ms:.3g} µs"
    return f"{ms:.3g} ms" if ms < 999 else f"{1e-3 * ms:.3g} s"


def plot_scaling(rows: Sequence[Mapping[str, str]]) -> Figure:
    """CPU time of all processes together, over that of one; 1 is what dividing the work would cost.
    Weak scaling, whose work grows with the processes, over as much work."""
    with house.style():
        figure = house.new_figure(3.6, 2.5)
        axes = figure.subplots()
        looks = zip((BLUE, ORANGE, "#009E73", "#CC79A7"), "os^D", strict=True)
        names = dict.fromkeys(row["workload"] for row in rows)
        for name, (colour, marker) in zip(names, looks, strict=False):
            mine = [row for row in rows if row["workload"] == name]
            x = [int(row["processes"]) for row in mine]
            y = [1.0 / float(row["efficiency"]) for row in mine]
            axes.plot(x, y, color=colour, marker=marker, markersize=3.6, label=name)
        axes.axhline(1.0, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
        axes.set(xscale="log", xlabel="processes of torchrun", ylabel="CPU time, over that of one")
        axes.set_xticks([1, 2, 4], labels=["1", "2", "4"])
        axes.minorticks_off()
        axes.set_ylim(0.9, 0.5 + axes.get_ylim()[1])  # room for the legend
        axes.legend(loc="upper left", fontsize=6.5, handlelength=1.4)
    return figure


def _save_small(figure: Figure, path: Path) -> None:
    """PNG in few colours: a quarter of the size, and lines and text look the same."""
    whole = io.BytesIO()
    figure.savefig(whole, format="png", dpi=200)
    few = Image.open(whole).convert("RGB").quantize(96, dither=Image.Dither.NONE)
    with replacing(path) as file:
        few.save(file, format="PNG", optimize=True)


def caption(hardware: Runs) -> str:
    """What the figure shows, with the rates behind its limit."""
    found = rates(hardware)
    where = hardware[OPERATIONS["gemm"].workload]["ours"]
    return (
        f"Median time of a loss on {where['machine']} ({where['versions']}), d = {DIMENSION}, all "
        "variants of a size interleaved. The limit visits each of the 2n² pairs once: 2d flop for "
        "its product, as many again and for each side that is x for the gradient, at "
        f"{found['gemm'] / 1e9:.0f} GFLOP/s (a 2048³ fp32 product), then one exp2 at "
        f"{found['exp2'] / 1e9:.2g}e9/s or root at {found['sqrt'] / 1e9:.2g}e9/s (in cache), "
        "one after the other; these rates were measured with the same threads. "
        "Lines end at the largest n that was timed."
    )


def write_plots(
    losses: Runs, hardware: Runs, scaling: Sequence[Mapping[str, str]], folder: Path
) -> tuple[Path, str]:
    """<folder>/performance.png and scaling.png, and the caption of the first. Raises ValueError if
    the rates are missing."""
    for operation in OPERATIONS.values():
        if operation.workload not in hardware:
            raise ValueError(f"{operation.workload} has not been measured: run make bench")
    path = folder / "performance.png"
    _save_small(plot_losses(losses, hardware), path)
    _save_small(plot_scaling(scaling), folder / "scaling.png")
    return path, caption(hardware)
