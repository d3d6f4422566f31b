"""The figure of a sequential test or detector: its path up to the threshold."""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from .style import BLUE, INK, Figure, new_figure, style


class Path(Protocol):
    """The fields of a ``divergences.sequential.Followed`` that are drawn."""

    question: ClassVar[str]
    axes: ClassVar[tuple[str, str]]

    @property
    def alpha(self) -> float: ...

    @property
    def path(self) -> NDArray[np.float64]: ...


def plot_path(result: Path) -> Figure:
    """The path over time on a logarithmic axis, and the threshold 1/alpha."""
    times, values = result.path.T
    shown = values > 0.0  # a sum begins at 0
    with style():
        figure = new_figure(4.6, 2.6)
        axes = figure.add_subplot()
        axes.plot(times[shown], values[shown], color=BLUE, linewidth=1.2)
        axes.axhline(1.0 / result.alpha, color=INK, linewidth=0.8, linestyle=":")
        label = f"1/alpha = {1.0 / result.alpha:.4g}"
        axes.annotate(
            label,
            (0.01, 1.0 / result.alpha),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=7,
            color=INK,
        )
        axes.set(yscale="log", xlabel=result.axes[0], ylabel=result.axes[1])
        axes.set_title(result.question)
    return figure
