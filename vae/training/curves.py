"""The picture that live plots redraw."""

from __future__ import annotations

from pathlib import Path

from divergences.plots.style import new_figure, save_figure, style
from vae.figures.charts import curve_names, training_curve
from vae.training.metrics import Row

COLUMNS = 3


def save_curves(rows: list[Row], path: Path) -> None:
    """Every term over the steps, in training and on held-out rows."""
    names = curve_names(rows)
    columns = min(COLUMNS, len(names))
    lines = -(-len(names) // columns)
    with style():
        figure = new_figure(2.4 * columns, 1.8 * lines)
        axes = [figure.add_subplot(lines, columns, i + 1) for i in range(len(names))]
        for each, name in zip(axes, names, strict=True):
            training_curve(each, rows, name)
        if len(axes[0].lines) > 1:
            axes[0].legend()
        save_figure(figure, path)
