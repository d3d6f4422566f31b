"""Figures of a model: samples, reconstructions, traversals, interpolations, latent space."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vae._extras import needs_extra
from vae.data import Data
from vae.evaluation.codes import against_prior, measure_codes, overlap
from vae.evaluation.passes import Encoded, encode, generator_for
from vae.evaluation.samples import generate, what_samples_are
from vae.figures.pictures import LIMIT, decode, interpolate, rank, reconstruct, traverse
from vae.model import VAE

with needs_extra():
    from divergences.plots.style import Axes, Figure, new_figure, style
    from vae.figures.charts import kl_bars
    from vae.figures.latent import (
        PALETTE,
        Plane,
        class_legend,
        latent_line,
        latent_plane,
        latent_space,
        posteriors,
        rows_plane,
    )
    from vae.figures.look import (
        LINE,
        Look,
        class_names,
        image_grid,
        paths,
        point_clouds,
        strips,
        text_lines,
    )

CELL = 0.42  # inches of an image
LEAST_WIDTH = 2.6  # inches of a figure, for its title
MOST_CODES = 3000  # in the latent space
TEXT_WIDTH = 4.6  # inches, of lines of text
STEPS = 11
POINTS = 1000  # of a plane
PANEL = 3.2  # inches of a latent space
DRAWN, SHOWN_DRAWS, MOST_PAIRS = 100, 8, 3  # of q(z|x) of a row; decoded; overlaps in a label
TESTED, RESAMPLES = 1000, 199  # codes, and permutations, of the test below a latent space
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
        rows, labels = heldout_rows(data, len(samples), seed=seed)
        return _clouds(look, (rows, labels, "Held-out data"), (samples, None, title))


def _clouds(look: Look, *panels: tuple[Tensor, Tensor | None, str]) -> Figure:
    figure = new_figure(6.2, 3.2)
    grid = figure.add_gridspec(1, len(panels))
    point_clouds(figure, [grid[0, i] for i in range(len(panels))], look, panels)
    return figure


def _figure(
    look: Look, images: tuple[float, float], lines: int, points: tuple[float, float]
) -> Figure:
    """Of the size in inches of images or of points, or for so many lines of text."""
    if look.text:
        return _text_figure(lines)
    return new_figure(*(points if look.shape is None else images))


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
            shown = (rows, labels, "Held-out data"), (again, labels, "Reconstructions")
            return _clouds(look, *shown)
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
        figure = _figure(look, (CELL * STEPS + 1.0, CELL * n + 0.6), 3 * n, (4.6, 3.4))
        axes = figure.add_subplot()
        traversals(axes, model, data, look, "Traversals", n=n, seed=seed)
        if data.is_image:
            axes.set_xlabel("value of the dimension")
    return figure


def interpolations_figure(model: VAE, data: Data, *, n: int = 8, seed: int = 0) -> Figure:
    """Straight lines between the codes of n pairs of held-out rows, which stand at both ends."""
    look = Look.of(data)
    with style():
        figure = _figure(look, (CELL * (STEPS + 2) + 0.3, CELL * n + 0.45), 3 * n, (3.6, 3.4))
        interpolations(figure.add_subplot(), model, data, look, "Interpolations", n=n, seed=seed)
    return figure


def latent_figure(
    model: VAE, data: Data, *, n: int = MOST_CODES, seed: int = 0, rows: Sequence[int] = ()
) -> Figure:
    """Codes drawn for held-out rows, coloured by class, over the contours of the prior; with
    ``rows`` as `latents_figure`."""
    return latents_figure(
        [("Held-out codes, prior contours", model, data)], n=n, seed=seed, rows=rows
    )


def latents_figure(
    models: Sequence[tuple[str, VAE, Data]],
    *,
    n: int = MOST_CODES,
    seed: int = 0,
    rows: Sequence[int] = (),
) -> Figure:
    """The latent spaces of models side by side, by class; below the rate, its parts, and a test of
    q(z) against p(z).

    With ``rows`` (places in ``data.heldout``) instead q(z|x) of those: ellipses that hold 50 and
    90 % of it, reparametrised draws, how much each pair overlaps (Bhattacharyya coefficient), and
    below, of images and text, each row and what its draws decode to.

    Args:
        models: a title, the model and its data of each.
        n: codes, at most.
        seed: of the choice of rows and of every draw.
        rows: held-out rows, by number.

    Raises:
        ValueError: a row that is not there.
    """
    for _, _, data in models:
        for row in rows:
            if not 0 <= row < len(data.heldout):
                raise ValueError(f"rows must be between 0 and {len(data.heldout) - 1}, got {row}")
    looks = [Look.of(data) for _, _, data in models]
    decoded = bool(rows) and all(look.shape is not None for look in looks)
    below = 0.3 + len(rows) * (PANEL / (SHOWN_DRAWS + 1) if not looks[0].text else 4 * LINE)
    with style():
        figure = new_figure((PANEL + 0.6) * len(models), PANEL + 0.85 + below * decoded)
        grid = figure.add_gridspec(
            1 + decoded, len(models), height_ratios=[PANEL + 0.85, *[below] * decoded]
        )
        for column, (title, model, data) in enumerate(models):
            axes = figure.add_subplot(grid[0, column])
            if not rows:
                encoded = latent(axes, model, data, title, n=n, seed=seed)
                said = (axes.get_xlabel(), *_measured(model, encoded, seed))
                axes.set_xlabel("\n".join(filter(None, said)))
                continue
            found = posteriors_panel(axes, model, data, title, rows, n=n, seed=seed)
            if decoded:
                lower = figure.add_subplot(grid[1, column])
                _decoded_rows(lower, model, data, looks[column], rows, found[:, :SHOWN_DRAWS])
    return figure


def _decoded_rows(
    axes: Axes, model: VAE, data: Data, look: Look, rows: Sequence[int], draws: Tensor
) -> None:
    """Each row, with its number and class in its colour, beside what its draws decode to."""
    x = data.rows("heldout", torch.tensor(rows)).unsqueeze(1)
    names = [f"{row}" for row in rows]
    if data.heldout_labels is not None:
        known = class_names(data)
        classes = data.heldout_labels[torch.tensor(rows)].tolist()
        names = [f"{row} ({known.get(c, c)})" for row, c in zip(rows, classes, strict=True)]
    strips(
        axes, torch.cat([x, decode(model, draws)], 1), look, "Rows, and draws of $q(z|x)$ decoded",
        labels=names, ticks=["$x$", *[""] * draws.shape[1]],
    )  # fmt: skip
    labels = axes.get_yticklabels()  # several lines to a row of text
    for i, label in enumerate(labels):
        label.set_color(PALETTE(i * len(rows) // len(labels) % 10))


def _measured(model: VAE, encoded: Encoded, seed: int) -> tuple[str, str]:
    """The rate and its parts, where they are defined; q(z) against p(z)."""
    found = measure_codes(model, encoded)
    parts = {"KL": found.kl, "I(z; row)": found.mutual_information, "TC": found.total_correlation}
    named = [f"{name} {value:.2f}" for name, value in parts.items() if value is not None]
    rate = f"{', '.join(named)} nats".replace("-0.00", "0.00") if named else ""
    if not model.objective.matches_prior:
        return rate, ""
    test = against_prior(model, encoded.z[:TESTED], n_resamples=RESAMPLES, seed=seed).energy
    effect = "" if test.effect_size is None else f", effect {max(test.effect_size, 0):.1%}"
    return rate, f"$q(z)$ against $p(z)$, energy: p = {test.pvalue:.3g}{effect}"


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
    axes: Axes,
    model: VAE,
    data: Data,
    title: str,
    *,
    n: int = MOST_CODES,
    seed: int = 0,
    plane: Plane | None = None,
) -> Encoded:
    """Codes of held-out rows, which are returned; in a given ``plane`` they are grey."""
    _, labels, encoded = encoded_heldout(model, data, n, seed=seed)
    z, context = encoded.z, plane is not None
    if z.shape[1] == 1:
        latent_line(axes, z, model.prior, title)
        return encoded
    plane = plane or latent_plane(z, labels)
    latent_space(
        axes, z, labels, title, prior=model.prior, basis=plane.basis, names=class_names(data),
        context=context,
    )  # fmt: skip
    axes.set_xlabel(plane.name or "$z_0$")
    axes.set_ylabel("" if plane.name else "$z_1$")
    class_legend(axes)
    return encoded


def posteriors_panel(
    axes: Axes,
    model: VAE,
    data: Data,
    title: str,
    rows: Sequence[int],
    *,
    n: int = MOST_CODES,
    seed: int = 0,
) -> Tensor:
    """q(z|x) of chosen held-out rows over all codes; returns its draws [R, DRAWN, M]."""
    x = data.rows("heldout", torch.tensor(rows)).repeat_interleave(DRAWN, 0)
    found = encode(model, x, generator=generator_for(model, seed, "posteriors"))
    draws = found.z.reshape(len(rows), DRAWN, -1)
    mean, log_variance = (
        None if part is None else part[::DRAWN] for part in (found.mean, found.log_variance)
    )
    centres = draws.mean(1) if mean is None else mean
    if draws.shape[2] == 1:
        plane = Plane(torch.ones(1, 1, dtype=draws.dtype), "")
    else:
        plane = rows_plane(centres, encoded_heldout(model, data, n, seed=seed)[2].z)
    latent(axes, model, data, title, n=n, seed=seed, plane=plane)
    posteriors(axes, draws, mean, log_variance, plane.basis)
    if mean is not None and log_variance is not None:
        shares = overlap(mean, log_variance)
        pairs = [
            f"{rows[i]}, {rows[j]}: {float(shares[i, j]):.2f}"
            for i, j in itertools.combinations(range(len(rows)), 2)
        ]
        if pairs:
            listed = "; ".join(pairs[:MOST_PAIRS]) + (" …" if len(pairs) > MOST_PAIRS else "")
            axes.set_xlabel(f"{axes.get_xlabel()}\noverlap of $q(z|x)$ of rows {listed}")
    return draws


def use_of_dimensions(
    axes: Axes, model: VAE, data: Data, letter: str = "", *, seed: int = 0
) -> None:
    """Bars of the KL of every dimension, or of the variance of z."""
    ranking = rank(encoded_heldout(model, data, RANKED, seed=seed)[2])
    what = ranking.what[0].upper() + ranking.what[1:]
    kl_bars(axes, ranking.values.numpy(), f"{letter}{what} of every dimension")
