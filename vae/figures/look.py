"""Drawing rows of a data set: as images, or as points in a plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae._extras import needs_extra
from vae.data import Data
from vae.data.shapes import SHAPES, factor_sizes
from vae.data.text import as_text

with needs_extra():
    from divergences.plots.style import GREY, INK, Axes, Figure
    from vae.figures.latent import PALETTE, by_class

DARK = 0.1  # median below which the ground of images is black, and is shown white on paper
GOLDEN = (5**0.5 - 1) / 2  # of which multiples fill [0, 1] evenly
CONTEXT = "0.82"  # of the data behind curves
FONT, LINE, GROUND = 5.5, 0.125, "0.94"  # of text: points, inches of a line, grey


@dataclass(frozen=True, eq=False)
class Look:
    """How one data set is drawn, so that data, reconstructions and samples look alike.

    ``shape``: (C, H, W) of images, (L,) of ``text``, None for points. ``ink``: dark on white.
    ``low`` and ``high``: of the range of values. ``plane``: mean [D] and basis [D, 2] of the
    points' plane; None for numbers, which are spread over the height at random.
    """

    shape: tuple[int, ...] | None
    ink: bool = True
    low: float = 0.0
    high: float = 1.0
    plane: tuple[Tensor, Tensor] | None = None
    names: tuple[str, str] = ("$x_1$", "$x_2$")
    text: bool = False

    @classmethod
    def of(cls, data: Data) -> Look:
        """From at most 2000 held-out rows."""
        rows = data.rows("heldout", torch.arange(min(len(data.heldout), 2000)))
        if data.is_image:
            low, high = (0.0, 1.0) if data.unit else (float(rows.min()), float(rows.max()))
            ink = data.shape[0] == 1 and float(rows.median()) < low + DARK * (high - low)
            return cls(data.shape, ink, low, high)
        d = rows.shape[1]
        if data.text:
            return cls(data.shape, text=True)
        if d == 1:
            return cls(None, names=("$x$", ""))
        if d == 2:
            return cls(None, plane=(torch.zeros(2), torch.eye(2)))
        mean = rows.mean(0)
        directions = torch.linalg.svd(rows - mean, full_matrices=False)[2]
        names = ("principal component 1 of the data", "principal component 2")
        return cls(None, plane=(mean, directions[:2].T), names=names)

    def filled(self, rows: Tensor, columns: int) -> Tensor:
        """Images [N, D] with white ones behind them, to a multiple of `columns`."""
        white = self.low if self.ink else self.high
        return torch.cat([rows, rows.new_full((-len(rows) % columns, rows.shape[1]), white)])

    def points(self, rows: Tensor) -> NDArray[np.float64]:
        """[n, …, D] to [n, …, 2] in the plane."""
        if self.plane is None:
            height = torch.arange(len(rows)) * GOLDEN % 1
            flat = torch.cat([rows, height.view(-1, *[1] * (rows.dim() - 1)).expand_as(rows)], -1)
        else:
            flat = (rows - self.plane[0]) @ self.plane[1]
        return np.asarray(flat.numpy(), dtype=np.float64)

    def name_axes(self, axes: Axes) -> None:
        """A square with the names of the coordinates."""
        axes.set(xlabel=self.names[0], ylabel=self.names[1], box_aspect=1)
        axes.locator_params(nbins=4)
        if self.plane is None:
            axes.set_yticks([])


def class_names(data: Data) -> dict[int, str]:
    """Names of the labels, where the data have some."""
    return {} if factor_sizes(data) is None else dict(enumerate(SHAPES))


# --- Images --------------------------------------------------------------------------------------


def _mosaic(axes: Axes, images: Tensor, look: Look, title: str) -> tuple[int, int]:
    """[R, C, D] images in R lines of C; returns the height and width of a cell in pixels."""
    assert look.shape is not None and not look.text
    channels, height, width = look.shape
    lines, columns = images.shape[:2]
    tiles = ((images - look.low) / (look.high - look.low)).clamp(0, 1)
    tiles = tiles.reshape(lines, columns, channels, height, width)
    if look.ink:
        tiles = 1 - tiles
    margin = max(1, height // 16)
    tiles = torch.nn.functional.pad(tiles, (margin,) * 4, value=1.0)
    canvas = tiles.permute(0, 3, 1, 4, 2).reshape(
        lines * (height + 2 * margin), columns * (width + 2 * margin), channels
    )
    axes.imshow(
        canvas.numpy().squeeze(-1) if channels == 1 else canvas.numpy(), cmap="gray", vmin=0, vmax=1
    )
    axes.set(xticks=[], yticks=[], title=title)
    for spine in axes.spines.values():
        spine.set(visible=True, color=GREY)
    return height + 2 * margin, width + 2 * margin


def image_grid(
    axes: Axes, images: Tensor, title: str, *, columns: int = 8, look: Look | None = None
) -> None:
    """[N, D] images, `columns` to a line; those that do not fill a line are left out.

    Without a `look` they are square grey ones in [0, 1], dark ink on white.
    """
    if look is not None and look.text:
        text_lines(axes, images, title)
        return
    if look is None:
        side = round(images.shape[1] ** 0.5)
        look = Look((1, side, side))
    lines = len(images) // columns
    _mosaic(axes, images[: lines * columns].reshape(lines, columns, -1), look, title)


def strips(
    axes: Axes,
    images: Tensor,
    look: Look,
    title: str,
    *,
    labels: Sequence[str] = (),
    ticks: Sequence[str] = (),
) -> None:
    """[R, C, D] images with a label to each line and a tick to each column; of text those in the
    first, the middle and the last column, one below the other."""
    if look.text:
        columns = images.shape[1]
        few = [0, columns // 2, columns - 1] if columns > 3 else list(range(columns))
        shown = [ticks[i] if ticks else "" for i in few]
        names = [f"{name}  {shown[0]}" for name in labels or [""] * len(images)]
        texts = [text for name in names for text in (name, *shown[1:])]
        text_lines(axes, images[:, few].flatten(0, 1), title, labels=texts, group=len(few))
        return
    height, width = _mosaic(axes, images, look, title)
    lines, columns = images.shape[:2]
    axes.tick_params(length=0, pad=2)
    if labels:
        axes.set_yticks([(i + 0.5) * height - 0.5 for i in range(lines)], labels)
    if ticks:
        axes.set_xticks([(i + 0.5) * width - 0.5 for i in range(columns)], ticks)


# --- Text ----------------------------------------------------------------------------------------


def text_lines(
    axes: Axes, rows: Tensor, title: str, *, labels: Sequence[str] = (), group: int = 0
) -> None:
    """[N, L] rows of text with a label to each; every second ``group`` of lines is on grey."""
    for i, line in enumerate(as_text(rows)):
        shown = "".join(c if c.isprintable() else "·" for c in line)
        if group and i // group % 2 == 0:
            axes.axhspan(i - 0.5, i + 0.5, color=GROUND, linewidth=0)
        axes.text(
            0, i, shown, family="monospace", fontsize=FONT, va="center", clip_on=True,
            parse_math=False,
        )  # fmt: skip
    axes.set(xlim=(-0.01, 1), ylim=(len(rows) - 0.4, -0.6), xticks=[], title=title)
    axes.set_yticks(range(len(rows)) if labels else [], list(labels))
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)


# --- Points --------------------------------------------------------------------------------------


def scatter(axes: Axes, x: Tensor, labels: Tensor | None, title: str, *, limit: float) -> None:
    """[N, 2] points, coloured by class where there are labels, on a square of ±`limit`."""
    _dots(axes, x.numpy(), labels, title)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.locator_params(nbins=4)


def _dots(axes: Axes, points: NDArray[np.float64], labels: Tensor | None, title: str) -> None:
    for rows, colour in [(slice(None), INK)] if labels is None else by_class(labels):
        x, y = points[rows].T
        axes.scatter(x, y, s=3, color=colour, alpha=0.5, linewidths=0)
    axes.set_title(title)


def point_cloud(axes: Axes, rows: Tensor, look: Look, labels: Tensor | None, title: str) -> None:
    """[N, D] rows in the plane of the data."""
    _dots(axes, look.points(rows), labels, title)
    look.name_axes(axes)


def point_clouds(
    figure: Figure,
    places: Sequence[Any],
    look: Look,
    panels: Sequence[tuple[Tensor, Tensor | None, str]],
) -> None:
    """Rows, labels and a title to each place of a grid, on common axes."""
    first = None
    for place, (rows, labels, title) in zip(places, panels, strict=True):
        axes = figure.add_subplot(place, sharex=first, sharey=first)
        first = first or axes
        point_cloud(axes, rows, look, labels, title)


def paths(
    axes: Axes,
    rows: Tensor,
    look: Look,
    title: str,
    *,
    data: Tensor,
    way: str,
    labels: Sequence[str] = (),
    heading: str = "",
) -> None:
    """[R, C, D]: R curves of C points each over the data [N, D], which are grey. `way` says from
    where to where they go; the end is a dot. `heading` is that of the `labels`."""
    x, y = look.points(data).T
    axes.scatter(x, y, s=3, color=CONTEXT, linewidths=0)
    for i, curve in enumerate(look.points(rows)):
        colour = PALETTE(i % 10)
        label = labels[i] if labels else None
        axes.plot(*curve.T, ".-", color=colour, markersize=3, linewidth=0.8, label=label)
        axes.plot(*curve[-1], "o", color=colour, markersize=4.5)
    axes.set_title(title)
    look.name_axes(axes)
    axes.set_xlabel(f"{axes.get_xlabel()}\nlines {way} (dot); grey: data")
    if labels:
        axes.legend(
            title=heading,
            title_fontsize=7,
            handlelength=1.2,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
