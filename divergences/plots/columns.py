"""The figure of ``localize``: p-values of the clearest columns, and what these hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .results import LEVEL
from .style import BLUE, GREY, INK, ORANGE, Axes, Figure, new_figure, style

Array = NDArray[np.float64]
LISTED, DRAWN, POINTS = 12, 3, 500  # rows, columns of which values are drawn, rows of a scatter


class Row(Protocol):
    """A ``divergences.localization.ColumnRow``."""

    @property
    def column(self) -> str: ...

    @property
    def positions(self) -> tuple[int, ...]: ...

    @property
    def adjusted(self) -> float: ...


class Result(Protocol):
    """The fields of a ``LocalizationResult`` that are drawn."""

    @property
    def columns(self) -> Sequence[Row]: ...

    @property
    def correction(self) -> str: ...

    @property
    def pvalue(self) -> float: ...

    @property
    def n_resamples(self) -> int: ...

    @property
    def _samples(self) -> tuple[Tensor, Tensor] | None: ...


def plot_columns(result: Result, names: tuple[str, str]) -> Figure:
    """Adjusted p-values of the clearest columns and pairs; of the first few also the distributions
    of a column, or the points of a pair. Raises ValueError for a result without its samples."""
    samples = result._samples
    if samples is None:
        raise ValueError(
            "the result was pickled without its samples, which the figure draws; pickle "
            "result.with_samples()"
        )
    rows = result.columns[:LISTED]
    with style():
        figure = new_figure(7.0, 3.6)
        figure.suptitle(f"Columns that differ\n$p$ = {result.pvalue:.3g}", x=0.01, ha="left")
        grid = figure.add_gridspec(1, 2, wspace=0.06)
        axes = figure.add_subplot(grid[0, 0])
        places = np.arange(len(rows))[::-1]
        adjusted = np.array([row.adjusted for row in rows])
        colours = [BLUE if row.adjusted <= LEVEL else GREY for row in rows]
        axes.hlines(places, adjusted, 1.0, color=colours, linewidth=1.0)
        axes.scatter(adjusted, places, c=colours, s=14, zorder=3)
        axes.axvline(LEVEL, color=INK, linewidth=0.6, linestyle=":")
        axes.set_yticks(places, [row.column for row in rows])
        axes.set(xscale="log", xlim=(0.6 / (result.n_resamples + 1), 1.3))
        axes.set_xlabel(f"$p$, corrected ({result.correction})")
        rest = len(result.columns) - len(rows)
        axes.set_title(f"The clearest ({rest} others not shown)" if rest else "All columns")
        x, y = (s.detach().cpu().double().numpy() for s in samples)
        parts = grid[0, 1].subgridspec(min(DRAWN, len(rows)), 1)
        for place, row in enumerate(rows[:DRAWN]):
            axes = figure.add_subplot(parts[place])
            pair = x[:, row.positions], y[:, row.positions]
            _draw(axes, row.column, pair, names, legend=place == 0)
    return figure


def _draw(
    axes: Axes,
    title: str,
    samples: tuple[Array, Array],
    names: tuple[str, str],
    *,
    legend: bool,
) -> None:
    axes.set_title(title)
    if samples[0].shape[1] == 2:
        for values, colour, name in zip(samples, (BLUE, ORANGE), names, strict=True):
            a, b = values[:POINTS].T
            axes.scatter(a, b, s=3, color=colour, alpha=0.5, label=name)
    else:
        bins = np.histogram_bin_edges(np.concatenate(samples), 30)
        for values, colour, name in zip(samples, (BLUE, ORANGE), names, strict=True):
            density = np.histogram(values, bins, density=True)[0]
            axes.stairs(density, bins, color=colour, fill=True, alpha=0.3)
            axes.stairs(density, bins, color=colour, linewidth=1.0, label=name)
        axes.set(yticks=[], ylim=(0.0, None))
    if legend:
        axes.legend(loc="best", handlelength=1.4)
