"""Figures fit for a paper: image grids, latent spaces with their prior, null distributions."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from divergences.results import TwoSampleResult
from vae._extras import needs_extra

with needs_extra():
    from matplotlib import colormaps
    from matplotlib.patches import Circle

    from divergences.plots.style import GREY, INK, Axes, Figure, new_figure, save_figure, style

__all__ = [
    "class_plane",
    "demo_figure",
    "image_grid",
    "latent_space",
    "null_distribution",
    "save_figure",
    "scatter",
]

ACCENT = "#c1272d"


def _by_class(x: Tensor, labels: Tensor) -> Iterator[tuple[int, Any, Any]]:
    """Label, colour and rows (numpy) of each class."""
    for i, label in enumerate(sorted(set(labels.tolist()))):
        yield label, colormaps["tab10"](i % 10), x[labels == label].numpy()


def image_grid(axes: Axes, images: Tensor, title: str, *, columns: int = 8) -> None:
    """[N, D] square grey images in [0, 1], dark ink on white, `columns` to a row."""
    side = int(images.shape[1] ** 0.5)
    rows = len(images) // columns
    tiles = images[: rows * columns].clamp(0, 1).reshape(rows, columns, side, side)
    gap = torch.nn.functional.pad(tiles, (1, 1, 1, 1))
    canvas = gap.permute(0, 2, 1, 3).reshape(rows * (side + 2), columns * (side + 2))
    axes.imshow(canvas.numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[], title=title)
    for spine in axes.spines.values():
        spine.set(visible=True, color=GREY)


def class_plane(z: Tensor, labels: Tensor) -> Tensor:
    """An orthonormal basis [M, 2] of the plane in which the class means of z are spread most.

    The basis is orthonormal, so that N(0, I) projects to N(0, I) and its contours stay circles.
    """
    means = torch.stack([z[labels == label].mean(0) for label in set(labels.tolist())])
    directions: Tensor = torch.linalg.svd(means - means.mean(0), full_matrices=False)[2]
    return directions[:2].T


def latent_space(axes: Axes, z: Tensor, labels: Tensor, title: str) -> None:
    """[N, 2] codes coloured by class over the contours of N(0, I) holding 50, 90, 99 %."""
    size = 7 if len(z) < 1000 else 3
    for label, colour, rows in _by_class(z, labels):
        axes.scatter(
            rows[:, 0], rows[:, 1], s=size, color=colour, alpha=0.7, linewidths=0, label=str(label)
        )
    for mass in (0.5, 0.9, 0.99):
        radius = (-2 * np.log(1 - mass)) ** 0.5
        axes.add_patch(Circle((0, 0), radius, fill=False, color=INK, linewidth=0.7, zorder=2))
        axes.annotate(
            f"{mass:.0%}",
            (0, -radius),
            ha="center",
            va="center",
            fontsize=6,
            color=INK,
            bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.9},
        )
    axes.set(xlim=(-3.6, 3.6), ylim=(-3.6, 3.6), aspect="equal", title=title)
    axes.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2])


def scatter(axes: Axes, x: Tensor, labels: Tensor | None, title: str, *, limit: float) -> None:
    """[N, 2] points, coloured by class where there are labels, on a square of ±`limit`."""
    groups = [(0, INK, x.numpy())] if labels is None else _by_class(x, labels)
    for _, colour, rows in groups:
        axes.scatter(rows[:, 0], rows[:, 1], s=3, color=colour, alpha=0.5, linewidths=0)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", title=title)
    axes.locator_params(nbins=4)


def null_distribution(axes: Axes, result: TwoSampleResult, title: str) -> None:
    """The permutation distribution of the statistic with the observed value and its p-value."""
    null = np.asarray(result.null_distribution)
    observed = float(result.statistic)
    low, high = min(null.min(), observed), max(null.max(), observed)
    margin = 0.06 * (high - low)
    # edges in the colour of the bars: they stay visible where the observed value is far away
    counts, _, _ = axes.hist(null, bins=30, color=GREY, edgecolor=GREY, linewidth=0.8)
    axes.set_ylim(0, 1.2 * np.max(counts))  # room for the label above the bars
    axes.axvline(observed, color=ACCENT, linewidth=1.4)
    near_the_right = observed > (low + high) / 2
    axes.annotate(
        f"observed, p = {result.pvalue:.3g}",
        (observed, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if near_the_right else 4, 0),
        textcoords="offset points",
        ha="right" if near_the_right else "left",
        va="top",
        fontsize=7,
        color=ACCENT,
    )
    axes.set(yticks=[], title=title)
    axes.locator_params(axis="x", nbins=5)
    axes.update_datalim([(low - margin, 0), (high + margin, 0)])
    axes.spines["left"].set_visible(False)


def demo_figure(
    *,
    data: Tensor,
    reconstructions: Tensor,
    samples: Tensor,
    z: Tensor,
    labels: Tensor,
    generated: TwoSampleResult,
    control: TwoSampleResult,
    posterior: TwoSampleResult,
) -> Figure:
    """Data, reconstructions and samples above; latent space and null distributions below.

    Args:
        data, reconstructions, samples: [≥ 64, D] images.
        z: [N, M] codes drawn from q(z|x), M ≥ 2. For M > 2 the plane of `class_plane` is shown.
        labels: [N] classes of z.
        generated, control: the two tests against the same held-out rows.
        posterior: the test of z against the prior.
    """
    with style():
        figure = new_figure(7.2, 5.2)
        grid = figure.add_gridspec(2, 1, height_ratios=[1, 1.15])
        above = grid[0].subgridspec(1, 3)
        panels: Sequence[tuple[Tensor, str]] = (
            (data, "$\\bf{a}$   Held-out data"),
            (reconstructions, "$\\bf{b}$   Reconstructions"),
            (samples, "$\\bf{c}$   Samples"),
        )
        for column, (images, title) in enumerate(panels):
            image_grid(figure.add_subplot(above[column]), images[:64], title)

        below = grid[1].subgridspec(2, 2, width_ratios=[1, 1.25])
        axes = figure.add_subplot(below[:, 0])
        flat = z if z.shape[1] == 2 else z @ class_plane(z, labels)
        latent_space(axes, flat, labels, "$\\bf{d}$   Held-out codes, prior contours")
        plane = "" if z.shape[1] == 2 else "plane in which the class means spread most;\n"
        axes.set_xlabel(f"{plane}$q(z)$ against $p(z)$: p = {posterior.pvalue:.3g}")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.1, markerscale=1.8)

        lower = figure.add_subplot(below[1, 1])
        upper = figure.add_subplot(below[0, 1], sharex=lower)
        null_distribution(upper, control, "$\\bf{e}$   Control: held-out against held-out")
        null_distribution(lower, generated, "$\\bf{f}$   Generated against held-out")
        upper.tick_params(labelbottom=False)
        lower.set_xlabel(
            f"{generated.method} statistic, n = {generated.n}, m = {generated.m}; "
            f"grey: {generated.n_resamples} permutations of the labels"
        )
    return figure
