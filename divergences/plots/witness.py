"""The witness function of two samples: along a line, on a plane, or at the points.

The witness of P and Q is f(t) = E k(t, x) − E k(t, y) (Gretton et al. 2012, §2.3): positive where,
on the scale of the kernel, there is more of P.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels import Kernel, potential
from .style import BLUE, DIVERGING, INK, ORANGE, Axes, Figure, MaxNLocator, SubplotSpec

Array = NDArray[np.float64]

DRAWN = 1000  # points of each sample in a scatter plot
ROWS = 5000  # of each sample, from which the witness is estimated
LINE, SIDE = 400, 60  # points along a line, and along each side of a plane
CENTRAL = (0.025, 0.975)  # quantiles that are shown where the range is much wider


class _Shown(NamedTuple):
    """The drawn data: two samples, at most ``ROWS`` of each, with their names, and a kernel with
    its own."""

    x: Tensor
    y: Tensor
    kernel: Kernel
    title: str
    sizes: tuple[int, int]
    names: tuple[str, str]

    def witness(self, points: Tensor) -> Array:
        """f at points [p, d], without the noise that rounding leaves where it is 0."""
        of_x, of_y = (
            potential(points.to(sample), sample, kernel=self.kernel) / len(sample)
            for sample in (self.x, self.y)
        )
        f = of_x - of_y
        noise = 16.0 * torch.finfo(f.dtype).eps * (of_x.abs() + of_y.abs())
        return _host(torch.where(f.abs() <= noise, 0.0, f))

    def drawn(self) -> tuple[Tensor, Tensor]:
        """The rows for a scatter plot; they are in random order already."""
        return self.x[:DRAWN], self.y[:DRAWN]

    def label(self, position: int, drawn: int) -> str:
        """`x`, or how many of its rows are drawn."""
        name, size = self.names[position], self.sizes[position]
        return name if drawn == size else f"{name} ({drawn:,} of {size:,} rows)"


def draw_witness(
    figure: Figure,
    place: SubplotSpec,
    samples: tuple[Tensor, Tensor],
    kernel: Kernel,
    names: tuple[str, str],
) -> None:
    """The witness of ``samples`` x [n, d] and y [m, d], called by their ``names``, for a kernel."""
    x, y = samples
    terms = kernel.terms
    name = terms[0].label if len(terms) == 1 else f"a mixture of {len(terms)} kernels"
    order = np.random.default_rng(0)
    near_x, near_y = (
        sample[torch.from_numpy(order.permutation(len(sample))[:ROWS]).to(sample.device)]
        for sample in (x, y)
    )
    thinned = len(near_x) < len(x) or len(near_y) < len(y)
    title = f"Witness of {name}" + (f" (at most {ROWS:,} rows of each)" if thinned else "")
    shown = _Shown(near_x, near_y, kernel, title, (len(x), len(y)), names)
    if x.shape[1] == 1:
        halves = place.subgridspec(2, 1, height_ratios=[1.2, 1], hspace=0.02)
        above = figure.add_subplot(halves[0])
        below = figure.add_subplot(halves[1], sharex=above)
        _line(above, below, _host(x[:, 0]), _host(y[:, 0]), shown)
    elif x.shape[1] == 2:
        _plane(figure, figure.add_subplot(place), shown)
    else:
        _components(figure, figure.add_subplot(place), shown)


def _host(t: Tensor) -> Array:
    return np.asarray(t.detach().cpu().double().numpy())


def _limits(values: Array) -> tuple[float, float, bool]:
    """The range of the values, or the central 95 % of them where outliers would leave no room; the
    last item says which."""
    low, high = float(values.min()), float(values.max())
    inner, outer = (float(q) for q in np.quantile(values, CENTRAL))
    central = high - low > 4.0 * (outer - inner) > 0.0
    if central:
        low, high = inner, outer
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin, central


# --- One dimension -------------------------------------------------------------------------------


def _line(above: Axes, below: Axes, x: Array, y: Array, shown: _Shown) -> None:
    low, high, central = _limits(np.concatenate([x, y]))
    pooled = np.concatenate([x, y])
    inside = pooled[(pooled >= low) & (pooled <= high)]
    count = len(np.histogram_bin_edges(inside, "fd")) - 1  # Freedman & Diaconis
    bins = np.linspace(low, high, 1 + int(np.clip(count, 10, 60)))
    for values, colour, name in zip((x, y), (BLUE, ORANGE), shown.names, strict=True):
        counts = np.histogram(values, bins)[0]
        density = counts / (len(values) * np.diff(bins))
        above.stairs(density, bins, color=colour, fill=True, alpha=0.3)
        above.stairs(
            density, bins, color=colour, linewidth=1.0, label=f"{name}, n = {len(values):,}"
        )
    grid = np.linspace(low, high, LINE)
    f = shown.witness(torch.from_numpy(grid)[:, None])
    below.fill_between(grid, f, 0.0, where=list(f >= 0), color=BLUE, alpha=0.35, linewidth=0)
    below.fill_between(grid, f, 0.0, where=list(f <= 0), color=ORANGE, alpha=0.35, linewidth=0)
    below.plot(grid, f, color=INK, linewidth=0.9)
    below.axhline(0.0, color=INK, linewidth=0.5)
    top = int(np.abs(f).argmax())
    for axes in (above, below):
        axes.axvline(grid[top], color=INK, linewidth=0.6, linestyle=":")
    below.plot(grid[top], f[top], "o", color=INK, markersize=3)
    digits = max(0, int(np.ceil(-np.log10(grid[1] - grid[0]))))
    place = round(grid[top], digits) + 0.0  # never −0
    more = shown.names[0 if f[top] > 0 else 1]
    most = f"; most of {more} at {place:.{digits}f}" if f[top] else " (0 throughout)"
    above.set_title(shown.title + most)
    above.set(ylabel="density", xlim=(low, high))
    above.tick_params(labelbottom=False)
    above.legend(loc="best", handlelength=1.2)
    below.set_ylabel("witness")
    below.set_xlabel("value" + (" (the central 95 %)" if central else ""))
    below.locator_params(axis="y", nbins=4)


# --- Two dimensions ------------------------------------------------------------------------------


def _plane(figure: Figure, axes: Axes, shown: _Shown) -> None:
    pooled = _host(torch.cat([shown.x, shown.y]))
    (left, right, clipped_1), (low, high, clipped_2) = (_limits(column) for column in pooled.T)
    across, up = np.linspace(left, right, SIDE), np.linspace(low, high, SIDE)
    points = np.stack(np.meshgrid(across, up), -1)
    f = shown.witness(torch.from_numpy(points.reshape(-1, 2))).reshape(SIDE, SIDE)
    most = float(np.abs(f).max()) or 1.0
    axes.set(xlim=(left, right), ylim=(low, high))
    filled = axes.contourf(
        across, up, f, levels=np.linspace(-most, most, 12), cmap=DIVERGING, alpha=0.75
    )
    rows = np.concatenate([_host(sample) for sample in shown.drawn()])
    of_y = np.repeat([0, 1], [len(sample) for sample in shown.drawn()])
    order = np.random.default_rng(0).permutation(len(rows))  # so that neither hides the other
    look: dict[str, Any] = dict(s=5, edgecolors="white", linewidths=0.25)
    colours = np.array([BLUE, ORANGE])[of_y[order]]
    axes.scatter(rows[order, 0], rows[order, 1], color=colours, **look)
    for position, colour in enumerate((BLUE, ORANGE)):
        label = shown.label(position, int((of_y == position).sum()))
        axes.scatter([], [], color=colour, label=label, **look)
    values = np.concatenate(_at_own_points(shown))
    for index, name in zip((values.argmax(), values.argmin()), shown.names, strict=True):
        _mark(axes, rows[index], f"most {name}")
    axes.set_title(shown.title)
    central = " (the central 95 %)"
    axes.set_xlabel("column 1" + central * clipped_1)
    axes.set_ylabel("column 2" + central * clipped_2)
    _legend(axes)
    _bar(figure, axes, filled, shown.names)


def _mark(axes: Axes, point: Array, name: str) -> None:
    """A cross at the point, with its name towards the middle of the axes."""
    axes.plot(*point, "X", color=INK, markeredgecolor="white", markersize=7)
    right, above = point > [np.mean(axes.get_xlim()), np.mean(axes.get_ylim())]
    axes.annotate(
        name,
        (point[0], point[1]),
        xytext=(-7 if right else 7, -4 if above else 4),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top" if above else "bottom",
        fontsize=7,
        color=INK,
        bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
    )


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, handletextpad=0.2, markerscale=1.6
    )


def _bar(figure: Figure, axes: Axes, mappable: Any, names: tuple[str, str]) -> None:
    ticks = MaxNLocator(5, symmetric=True)
    bar = figure.colorbar(mappable, ax=axes, fraction=0.05, pad=0.02, ticks=ticks)
    bar.set_label(f"more {names[1]}  ←  witness  →  more {names[0]}", fontsize=7)
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(labelsize=6)


# --- More dimensions -----------------------------------------------------------------------------


def _components(figure: Figure, axes: Axes, shown: _Shown) -> None:
    """The points on the first principal components of the pooled sample, coloured by the witness at
    each point, which leaves the point itself out."""
    pooled = torch.cat([shown.x, shown.y]).double()
    centre = pooled.mean(0)
    spread, directions = torch.linalg.eigh((pooled - centre).mT @ (pooled - centre))
    share = _host(spread / spread.sum().clamp_min(1e-300))[::-1]
    plane = directions[:, -2:].flip(1)
    values = _at_own_points(shown)
    most = float(np.abs(np.concatenate(values)).max()) or 1.0
    for position, (sample, f) in enumerate(zip(shown.drawn(), values, strict=True)):
        p = _host((sample.double() - centre) @ plane)
        order = np.argsort(np.abs(f))  # the points where P and Q differ most on top
        filled = axes.scatter(
            p[order, 0],
            p[order, 1],
            c=f[order],
            s=11,
            marker="o^"[position],
            cmap=DIVERGING,
            vmin=-most,
            vmax=most,
            edgecolors=(BLUE, ORANGE)[position],
            linewidths=0.4,
            label=shown.label(position, len(p)),
        )
    axes.set_title(shown.title)
    axes.set_xlabel(f"principal component 1 of the pooled sample ({share[0]:.0%} of its variance)")
    axes.set_ylabel(f"principal component 2 ({share[1]:.0%})")
    _legend(axes)
    _bar(figure, axes, filled, shown.names)


def _at_own_points(shown: _Shown) -> tuple[Array, Array]:
    """The witness at the drawn points of x and of y without k(t, t), which would make every point
    look as if there were more of its own sample."""
    found = []
    for own, other, sign in ((shown.x, shown.y, 1.0), (shown.y, shown.x, -1.0)):
        points = own[:DRAWN]
        near = potential(points, own, kernel=shown.kernel) - shown.kernel.diagonal(points)
        far = potential(points, other, kernel=shown.kernel) / len(other)
        found.append(sign * _host(near / max(len(own) - 1, 1) - far))
    return found[0], found[1]
