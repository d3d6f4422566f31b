"""Figures of a model: samples, reconstructions, traversals, interpolations, latent space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vae._extras import needs_extra
from vae.data import Data
from vae.evaluation.passes import Encoded, encode, generator_for
from vae.evaluation.samples import generate, what_samples_are
from vae.figures.pictures import LIMIT, interpolate, rank, reconstruct, traverse
from vae.model import VAE

with needs_extra():
    from divergences.plots.style import Axes, Figure, new_figure, style
    from vae.figures.charts import kl_bars
    from vae.figures.latent import class_legend, latent_line, latent_plane, latent_space
    from vae.figures.look import (
        LINE,
        Look,
        class_names,
        image_grid,
        paths,
        point_cloud,
        strips,
        text_lines,
    )

CELL = 0.42  # inches of an image
LEAST_WIDTH = 2.6  # inches of a figure, for its title
MOST_CODES = 3000  # in the latent space
TEXT_WIDTH = 4.6  # inches, of lines of text
STEPS = 11
POINTS = 1000  # of a plane
RANKED = 2000  # rows by whose KL dimensions are ordered


def heldout_rows(data: Data, n: int, *, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """At most n held-out rows [n, D], drawn at random, and their labels where there are any."""
    chosen = _order(data, seed)[:n]
    labels = data.heldout_labels
    return data.rows("heldout", chosen), None if labels is None else labels[chosen]


def _order(data: Data, seed: int) -> Tensor:
    """The random order in which held-out rows are drawn."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(data.heldout), generator=generator)


# --- Figures -------------------------------------------------------------------------------------


def samples_figure(
    model: VAE,
    data: Data,
    *,
    n: int = 64,
    seed: int = 0,
    pixel_noise: bool = False,
    clip: bool = True,
) -> Figure:
    """Forward samples, by ``vae.evaluation.samples.generate``: images in a grid, or points beside
    as many of the data. They are means of p(x|z), or with ``pixel_noise`` draws from it."""
    look = Look.of(data)
    samples = generate(
        model,
        data,
        max(n, POINTS) if look.shape is None else n,
        seed=seed,
        pixel_noise=pixel_noise,
        clip=clip,
    )
    title = samples_title(pixel_noise, data)
    with style():
        if look.text:
            figure = _text_figure(n)
            text_lines(figure.add_subplot(), samples, title)
            return figure
        if data.is_image:
            columns = math.ceil(n**0.5)
            width = max(CELL * columns + 0.2, LEAST_WIDTH)
            figure = new_figure(width, CELL * math.ceil(n / columns) + 0.45)
            images = look.filled(samples, columns)
            image_grid(figure.add_subplot(), images, "", columns=columns, look=look)
            _over_all(figure, title)
            return figure
        figure = new_figure(6.2, 3.2)
        rows, labels = heldout_rows(data, len(samples), seed=seed)
        left = figure.add_subplot(1, 2, 1)
        right = figure.add_subplot(1, 2, 2, sharex=left, sharey=left)
        point_cloud(left, rows, look, labels, "Held-out data")
        point_cloud(right, samples, look, None, title)
    return figure


def _text_figure(lines: int) -> Figure:
    return new_figure(TEXT_WIDTH, 0.3 + LINE * lines)


def _over_all(figure: Figure, title: str) -> None:
    """A title above all axes, which may be too narrow for it."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=8)


def samples_title(pixel_noise: bool, data: Data) -> str:
    """The title of a panel of samples: means or draws."""
    if data.text and not pixel_noise:
        return "Samples: the most probable text"
    return f"Samples: {what_samples_are(pixel_noise)}".replace("p(x|z)", "$p(x|z)$")


def reconstructions_figure(model: VAE, data: Data, *, n: int = 32, seed: int = 0) -> Figure:
    """Held-out rows, each above its reconstruction at a drawn z; points beside theirs."""
    look = Look.of(data)
    rows, labels = heldout_rows(data, max(n, POINTS) if look.shape is None else n, seed=seed)
    again = reconstruct(model, rows, seed=seed)
    with style():
        if look.text:
            figure = _text_figure(2 * len(rows))
            pairs, title = torch.stack([rows, again], 1), "Held-out rows, reconstructions below"
            strips(figure.add_subplot(), pairs, look, title)
            return figure
        if not data.is_image:
            figure = new_figure(6.2, 3.2)
            left = figure.add_subplot(1, 2, 1)
            right = figure.add_subplot(1, 2, 2, sharex=left, sharey=left)
            point_cloud(left, rows, look, labels, "Held-out data")
            point_cloud(right, again, look, labels, "Reconstructions")
            return figure
        columns = min(len(rows), 16)
        bands = math.ceil(len(rows) / columns)
        width = max(CELL * columns + 0.3, LEAST_WIDTH)
        figure = new_figure(width, (2 * CELL + 0.1) * bands + 0.25)
        for i, axes in enumerate(figure.subplots(bands, 1, squeeze=False)[:, 0]):
            band = slice(i * columns, (i + 1) * columns)
            pair = torch.stack([look.filled(part[band], columns) for part in (rows, again)])
            strips(axes, pair, look, "", labels=["$x$", "$\\hat{x}$"])
        _over_all(figure, "Held-out rows $x$, reconstructions $\\hat{x}$")
    return figure


def traversals_figure(model: VAE, data: Data, *, n: int = 10, seed: int = 0) -> Figure:
    """One dimension at a time from −3 to 3, the others at the code of a held-out row; the n
    dimensions of the largest KL, in this order and with it (the variance of z where there is none).
    """
    look = Look.of(data)
    n = min(n, model.prior.dim)
    with style():
        if data.is_image:
            figure = new_figure(CELL * STEPS + 1.0, CELL * n + 0.6)
        elif look.text:
            figure = _text_figure(3 * n)
        else:
            figure = new_figure(4.6, 3.4)
        axes = figure.add_subplot()
        traversals(axes, model, data, look, "Traversals", n=n, seed=seed)
        if data.is_image:
            axes.set_xlabel("value of the dimension")
    return figure


def interpolations_figure(model: VAE, data: Data, *, n: int = 8, seed: int = 0) -> Figure:
    """Straight lines between the codes of n pairs of held-out rows, which stand at both ends."""
    look = Look.of(data)
    with style():
        if data.is_image:
            figure = new_figure(CELL * (STEPS + 2) + 0.3, CELL * n + 0.45)
        elif look.text:
            figure = _text_figure(3 * n)
        else:
            figure = new_figure(3.6, 3.4)
        interpolations(figure.add_subplot(), model, data, look, "Interpolations", n=n, seed=seed)
    return figure


def latent_figure(model: VAE, data: Data, *, n: int = MOST_CODES, seed: int = 0) -> Figure:
    """Codes drawn for held-out rows, coloured by class, over the contours of the prior."""
    with style():
        figure = new_figure(4.2, 3.6)
        latent(figure.add_subplot(), model, data, "Held-out codes, prior contours", n=n, seed=seed)
    return figure


# --- Panels of a model ---------------------------------------------------------------------------


def encoded_heldout(
    model: VAE, data: Data, n: int, *, seed: int = 0
) -> tuple[Tensor, Tensor | None, Encoded]:
    """Held-out rows, their labels and their codes."""
    rows, labels = heldout_rows(data, n, seed=seed)
    return rows, labels, encode(model, rows, generator=generator_for(model, seed, "pictures"))


def traversals(
    axes: Axes, model: VAE, data: Data, look: Look, title: str, *, n: int = 10, seed: int = 0
) -> None:
    """Traversals of the n dimensions that are used most, around the code of a held-out row; the
    title goes on with which row (by its place in ``data.heldout``) and its class."""
    rows, labels, encoded = encoded_heldout(model, data, RANKED, seed=seed)
    ranking = rank(encoded)
    shown = ranking.order[:n]
    decoded = traverse(model, encoded.features[0], shown, steps=STEPS)
    lines, heading = [ranking.label(j) for j in shown], f"dimension, {ranking.what}"
    title += f" of held-out row {int(_order(data, seed)[0])}"
    if labels is not None:
        label = int(labels[0])
        title += f" ({class_names(data).get(label, f'class {label}')})"
    if look.shape is None:
        way = f"from −{LIMIT:g} to {LIMIT:g}"
        points = rows[:POINTS]
        paths(axes, decoded, look, title, data=points, way=way, labels=lines, heading=heading)
        return
    ticks = [""] * STEPS
    ticks[0], ticks[STEPS // 2], ticks[-1] = f"−{LIMIT:g}", "0", f"{LIMIT:g}"
    strips(axes, decoded, look, title, labels=lines, ticks=ticks)
    axes.set_ylabel(heading)


def interpolations(
    axes: Axes, model: VAE, data: Data, look: Look, title: str, *, n: int = 8, seed: int = 0
) -> None:
    """Between n pairs of held-out rows, as the title goes on to say."""
    title += " between held-out rows"
    rows, _ = heldout_rows(data, max(2 * n, POINTS), seed=seed + 1)
    n = min(n, len(rows) // 2)
    first, second = rows[:n], rows[n : 2 * n]
    steps = interpolate(model, first, second, steps=STEPS, seed=seed)
    if look.shape is None:
        paths(axes, steps, look, title, data=rows, way="from one row to another")
        return
    framed = torch.cat([first.unsqueeze(1), steps, second.unsqueeze(1)], 1)
    strips(axes, framed, look, title, ticks=["$x$", *[""] * STEPS, "$x'$"])


def latent(
    axes: Axes, model: VAE, data: Data, title: str, *, n: int = MOST_CODES, seed: int = 0
) -> None:
    """Codes of held-out rows."""
    _, labels, encoded = encoded_heldout(model, data, n, seed=seed)
    z = encoded.z
    if z.shape[1] == 1:
        latent_line(axes, z, model.prior, title)
        return
    plane = latent_plane(z, labels)
    names = class_names(data)
    latent_space(axes, z, labels, title, prior=model.prior, basis=plane.basis, names=names)
    axes.set_xlabel(plane.name or "$z_0$")
    axes.set_ylabel("" if plane.name else "$z_1$")
    class_legend(axes)


def use_of_dimensions(
    axes: Axes, model: VAE, data: Data, letter: str = "", *, seed: int = 0
) -> None:
    """Bars of the KL of every dimension, or of the variance of z."""
    ranking = rank(encoded_heldout(model, data, RANKED, seed=seed)[2])
    what = ranking.what[0].upper() + ranking.what[1:]
    kl_bars(axes, ranking.values.numpy(), f"{letter}{what} of every dimension")
