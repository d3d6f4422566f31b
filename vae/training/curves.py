"""The picture that live plots redraw."""

from __future__ import annotations

from pathlib import Path

from divergences.plots.style import save_figure
from vae.figures.charts import curves_figure
from vae.training.metrics import Row


def save_curves(rows: list[Row], path: Path) -> None:
    """Every term over the steps, in training and on held-out rows."""
    save_figure(curves_figure(rows), path)
