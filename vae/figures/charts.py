"""Null distributions, KL per dimension, training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from divergences.results import TwoSampleResult
from vae._extras import needs_extra

with needs_extra():
    from divergences.plots.results import draw_null_distribution
    from divergences.plots.style import (
        BLUE,
        GREY,
        INK,
        ORANGE,
        Axes,
        Figure,
        MaxNLocator,
        new_figure,
        style,
    )

ACCENT = "#c1272d"
HELDOUT = "heldout_"
NAMES = {
    "loss": "loss",
    "distortion": "distortion $-\\log p(x|z)$",
    "kl": "rate KL$(q(z|x)\\|p)$",
    "sampled_kl": "KL at one sample",
    "divergence": "divergence $D(q(z)\\|p)$",
    "mutual_information": "mutual information",
    "total_correlation": "total correlation",
    "dimension_wise_kl": "dimension-wise KL",
}
NOT_CURVES = frozenset({"step", "epoch", "learning_rate", "schedule", "seconds"})
MOST_COLUMNS = 3  # of curves
SPIKE = 1.5  # of the range of the later curve, beyond which its start is cut off

Rows = Sequence[Mapping[str, float]]
"""The history that ``vae.training.fit`` returns and metrics.csv holds: a mapping per check."""


def null_distribution(axes: Axes, result: TwoSampleResult, title: str) -> None:
    """The permutation distribution of the statistic with the observed value and its p-value."""
    label = f"observed, p = {result.pvalue:.3g}"
    draw_null_distribution(axes, result, title, label=label, colour=ACCENT)
    axes.set_xlabel("")


def kl_bars(axes: Axes, values: Any, title: str) -> None:
    """A bar for each of [M] dimensions, the largest first; their numbers where there is room."""
    values = np.asarray(values)
    order = np.argsort(-values)
    axes.bar(range(len(values)), values[order], color=BLUE, width=0.75)
    few = len(values) <= 24
    axes.set_xticks(range(len(values)) if few else [], order if few else [])
    axes.tick_params(axis="x", length=0)
    axes.set(title=title, xlabel="dimension", xlim=(-0.7, len(values) - 0.3))
    axes.set_ylim(0, 1.05 * max(float(values.max()), 1e-3))


def columns_of(history: Rows) -> dict[str, Any]:
    """Name to values [n]; NaN where a row lacks the name."""
    names = dict.fromkeys(name for row in history for name in row)
    return {name: np.array([row.get(name, np.nan) for row in history]) for name in names}


def curve_names(history: Rows) -> list[str]:
    """Names of the curves; training and held-out values of a term share one."""
    names = dict.fromkeys(name.removeprefix(HELDOUT) for name in columns_of(history))
    return [name for name in names if name not in NOT_CURVES]


def curves_figure(history: Rows) -> Figure:
    """Every term of the loss over the steps.

    Args:
        history: what ``vae.training.fit`` returns, or the rows of metrics.csv.

    Raises:
        ValueError: there are no rows.
    """
    names = curve_names(history)
    if not names:
        raise ValueError("there is nothing to draw: the history has no rows")
    lines = math.ceil(len(names) / MOST_COLUMNS)
    columns = math.ceil(len(names) / lines)  # four are two lines of two
    with style():
        figure = new_figure(2.4 * columns, 1.8 * lines)
        for i, name in enumerate(names):
            axes = figure.add_subplot(lines, columns, i + 1)
            training_curve(axes, history, name)
            if i == 0:
                axes.legend()
    return figure


def training_curve(axes: Axes, history: Rows, name: str) -> None:
    """One term in nats over the steps, in training and held out."""
    columns = columns_of(history)
    x = columns.get("step", np.arange(1, len(history) + 1))
    drawn = []
    for column, colour, label in ((name, GREY, "training"), (HELDOUT + name, ORANGE, "held out")):
        if column in columns:
            colour = INK if column == name else colour
            axes.plot(x, columns[column], color=colour, linewidth=0.9, label=label)
            drawn.append(columns[column])
    axes.set_ylim(*_range(drawn))
    axes.set(title=NAMES.get(name, name.replace("_", " ")), xlabel="step")
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _range(curves: Sequence[Any]) -> tuple[float, float]:
    """Limits that show the last nine tenths of the curves, and the first where it fits in; with 0
    where it is near, so that what hovers above it does not fill the panel."""
    values = np.concatenate([curve[np.isfinite(curve)] for curve in curves])
    later = np.concatenate([c[len(c) // 10 :][np.isfinite(c[len(c) // 10 :])] for c in curves])
    if len(later) == 0:
        return 0.0, 1.0
    low, high = float(later.min()), float(later.max())
    reach = SPIKE * (high - low)
    low, high = max(float(values.min()), low - reach), min(float(values.max()), high + reach)
    if 0 < low < high - low:
        low = 0.0
    margin = 0.08 * (high - low) or 0.5
    return low - margin, high + margin
