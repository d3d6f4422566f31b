"""Figures of test results: the null distribution, where the samples differ, and at what scale."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ..kernels import Kernel
from .style import BLUE, GREY, INK, ORANGE, Axes, Figure, LogLocator, new_figure, style
from .witness import draw_witness

LEVEL = 0.05  # to compare the p-values of kernels with


class Row(Protocol):
    """A kernel of a test, as in ``HypothesisResult.kernels``."""

    @property
    def kernel(self) -> str: ...

    @property
    def bandwidth(self) -> float | None: ...

    @property
    def statistic(self) -> float: ...

    @property
    def pvalue(self) -> float: ...


class Result(Protocol):
    """The fields of a ``HypothesisResult`` that are drawn."""

    question: ClassVar[str]
    resample: ClassVar[str]

    @property
    def method(self) -> str: ...

    @property
    def statistic(self) -> float: ...

    @property
    def pvalue(self) -> float: ...

    @property
    def null_distribution(self) -> NDArray[np.float64]: ...

    @property
    def effect_size(self) -> float | None: ...

    @property
    def enumerated(self) -> bool: ...

    @property
    def kernels(self) -> Sequence[Row]: ...

    @property
    def n_resamples(self) -> int: ...


def plot_result(result: Result, *, names: tuple[str, str] = ("x", "y")) -> Figure:
    """The null distribution with the observed statistic; of two samples also where they differ, by
    the witness function of the kernel (the aggregated tests': of the kernel with the smallest p);
    for several kernels, the p-value of each.

    In one dimension the witness lies below the histograms, in two below the points; in more the
    points are shown on the first two principal components of the pooled sample, coloured by it.
    Large samples are thinned for drawing, and the legend says so. Samples in hand are called by
    their `names`.

    Examples:
        >>> import numpy as np
        >>> from divergences import two_sample_test
        >>> from divergences.plots import plot_result
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(100, 2)), rng.normal(size=(80, 2)) + 0.5
        >>> result = two_sample_test(x, y, method="mmd", rng=0)
        >>> figure = plot_result(result, names=("before", "after"))
    """
    samples = getattr(result, "_samples", None)  # of a two-sample test
    several = sum(row.bandwidth is not None for row in result.kernels) > 1
    with style():
        wide = samples is not None or several
        figure = new_figure(7.0 if wide else 3.4, 2.5 if samples is None else 3.6)
        figure.suptitle(_title(result), x=0.01, ha="left")
        columns = figure.add_gridspec(1, 2 if wide else 1, wspace=0.06)
        places = [columns[0, 0], *([columns[0, 1]] if wide else [])]
        if samples is not None and several:
            right = columns[0, 1].subgridspec(2, 1)
            places = [columns[0, 0], right[0], right[1]]
        if samples is not None:
            draw_witness(figure, places.pop(0), samples, _witness_kernel(result), names)
        draw_null_distribution(figure.add_subplot(places.pop(0)), result)
        if several:
            axes = figure.add_subplot(places.pop(0))
            smallest = 1.0 / (result.n_resamples + (not result.enumerated))  # possible p-value
            if hasattr(result.kernels[0], "bandwidth_y"):
                _kernel_pairs(axes, result.kernels, smallest)
            else:
                _kernels(axes, result.kernels, smallest)
    return figure


def _witness_kernel(result: Any) -> Kernel:
    """The kernel of a two-sample test; of an aggregated test the one that the report names."""
    kernel: Kernel = result._kernel
    if not result.method.startswith("fuse"):
        return kernel
    pairs = zip(result.kernels, kernel.terms, strict=False)  # a last row may be of differences
    best = min(pairs, key=lambda pair: (pair[0].pvalue, -pair[0].statistic))[1]
    return Kernel((best,), best.label)


def _title(result: Result) -> str:
    effect = "" if result.effect_size is None else f", effect size {result.effect_size:.3g}"
    return f"{result.method}: {result.question}\n$p$ = {result.pvalue:.3g}{effect}"


# --- Panels of every test ------------------------------------------------------------------------


def draw_null_distribution(
    axes: Axes,
    result: Result,
    title: str = "Null distribution",
    *,
    label: str = "observed",
    colour: str = INK,
) -> None:
    """The distribution of the statistic under the null hypothesis, and the observed value with its
    label. Axes that share x with these keep both in view."""
    # F ratios are infinite where samples do not vary; such values stand at the largest finite one
    values = np.append(result.null_distribution, result.statistic)
    most = np.max(values, where=np.isfinite(values), initial=0.0)
    values = np.minimum(values, most)
    null, observed = values[:-1], float(values[-1])
    # edges in the colour of the bars: they stay visible where the observed value is far away
    counts, _, _ = axes.hist(null, bins=30, color=GREY, edgecolor=GREY, linewidth=0.8)
    axes.set_ylim(0, 1.25 * np.max(counts))  # room for the label above the bars
    axes.axvline(observed, color=colour, linewidth=1.4)
    to_the_left = observed > (values.min() + values.max()) / 2
    axes.annotate(
        label,
        (observed, 0.99),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if to_the_left else 4, 0),
        textcoords="offset points",
        ha="right" if to_the_left else "left",
        va="top",
        fontsize=7,
        color=colour,
    )
    axes.margins(x=0.06)
    axes.locator_params(axis="x", nbins=5)
    axes.set(yticks=[], title=title)
    drawn = "all " if result.enumerated else ""
    axes.set_xlabel(f"statistic; grey: {drawn}{result.n_resamples:,} {result.resample}")
    axes.spines["left"].set_visible(False)


def _kernels(axes: Axes, rows: Sequence[Row], smallest: float) -> None:
    """The p-value of each kernel against its bandwidth, a line for each family."""
    families: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.bandwidth is None:
            continue
        families.setdefault(_family(row.kernel), []).append((row.bandwidth, row.pvalue))
    looks = [("o", INK), ("s", "0.55"), ("^", BLUE), ("D", ORANGE)]
    for position, (family, members) in enumerate(families.items()):
        marker, colour = looks[position % len(looks)]
        bandwidths, pvalues = np.array(sorted(members)).T
        axes.plot(
            bandwidths,
            pvalues,
            marker=marker,
            color=colour,
            markersize=3,
            linewidth=0.9,
            label=family,
        )
    axes.axhline(LEVEL, color=INK, linewidth=0.6, linestyle=":")
    axes.set(xscale="log", yscale="log", ylim=(0.6 * smallest, 1.5))
    axes.set(xlabel="bandwidth", ylabel="$p$", title="Each kernel alone (not corrected)")
    axes.minorticks_off()
    axes.set_yticks([1.0, smallest, *([LEVEL] if smallest < 0.5 * LEVEL else [])])
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.2g}")
    axes.legend(loc="best", handlelength=1.4)


def _kernel_pairs(axes: Axes, rows: Sequence[Any], smallest: float) -> None:
    """The p-value of each kernel of x with each kernel of y, the darker the smaller."""
    across = list(dict.fromkeys(row.bandwidth for row in rows))
    up = list(dict.fromkeys(row.bandwidth_y for row in rows))
    shades = np.full((len(up), len(across)), np.nan)
    least = -math.log(smallest)
    for row in rows:
        place = up.index(row.bandwidth_y), across.index(row.bandwidth)
        shades[place] = -math.log(row.pvalue) / least
        ink = "white" if shades[place] > 0.75 else INK
        label = f"{row.pvalue:.2g}"
        axes.text(place[1], place[0], label, ha="center", va="center", fontsize=6, color=ink)
    axes.imshow(shades, cmap="Greys", vmin=0.0, vmax=1.3, aspect="auto", origin="lower")
    for axis, found in ((axes.xaxis, across), (axes.yaxis, up)):
        axis.set_ticks(range(len(found)), [f"{b:.2g}" if b else "" for b in found])
    axes.set(xlabel="bandwidth of x", ylabel="bandwidth of y")
    axes.set_title("$p$ of each pair of kernels (not corrected)")


def _family(kernel: str) -> str:
    """`Laplace(0.3, norm='l1')` without its bandwidth: `Laplace, norm='l1'`."""
    return re.sub(r"\([^,)]*(, )?(.*)\)", r"\1\2", kernel)
