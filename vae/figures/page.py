"""The figure page of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from vae._extras import needs_extra
from vae.data import Data
from vae.evaluation.result import Evaluation
from vae.evaluation.samples import generate
from vae.figures.pictures import reconstruct
from vae.model import VAE

with needs_extra():
    from divergences.plots.style import Figure, SubplotSpec, new_figure, style
    from vae.figures.charts import Rows, curve_names, null_distribution, training_curve
    from vae.figures.look import LINE, Look, image_grid, point_clouds
    from vae.figures.views import (
        POINTS,
        heldout_rows,
        interpolations,
        latent,
        samples_title,
        traversals,
        use_of_dimensions,
    )

SHOWN, SHOWN_TEXT = 64, 20
MOST_CURVES = 4
LEAST_LINES, MOST_LINES = 3, 10  # of traversals and interpolations


def evaluation_page(
    model: VAE, data: Data, evaluation: Evaluation, history: Rows | None = None, *, preset: str = ""
) -> Figure:
    """Data, reconstructions, samples; traversals, interpolations; latent space, KL per dimension,
    generated against held-out; training curves where there is a history.

    Args:
        model: that was evaluated.
        data: that it was evaluated on.
        evaluation: what ``vae.evaluation.evaluate`` returned; its seed is that of the pictures.
        history: what ``vae.training.fit`` returned, or the rows of metrics.csv.
        preset: for the title.
    """
    names = curve_names(history)[:MOST_CURVES] if history else []
    look = Look.of(data)
    with style():
        lines = min(max(model.prior.dim, LEAST_LINES), MOST_LINES)
        heights = [
            2.6,
            0.3 + (0.26 if data.is_image else 3 * LINE) * lines if look.shape else 2.9,
            2.8,
            *([1.5] if names else []),
        ]
        figure = new_figure(7.2, 0.3 + sum(heights))
        grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
        figure.suptitle(_headline(evaluation, preset), x=0.01, ha="left", fontsize=7.5)
        _rows(figure, grid[0], model, data, look, evaluation.seed)
        _ways(figure, grid[1], model, data, look, lines, evaluation.seed)
        _codes_and_tests(figure, grid[2], model, data, evaluation)
        if history and names:
            _curves(figure, grid[3], history, names)
    return figure


def _curves(figure: Figure, place: SubplotSpec, history: Rows, names: Sequence[str]) -> None:
    places = place.subgridspec(1, len(names))
    for i, name in enumerate(names):
        axes = figure.add_subplot(places[0, i])
        training_curve(axes, history, name)
        if i == 0:
            axes.set_title(f"$\\bf{{i}}$   {axes.get_title(loc='left')}")
            axes.legend()


def _headline(found: Evaluation, preset: str) -> str:
    part, parts = found.heldout, [f"−log p(x|z) {found.heldout.distortion:.2f}"]
    if part.kl is not None and part.elbo is not None:
        parts += [f"KL {part.kl:.2f}", f"ELBO {part.elbo:.2f}"]
    if found.importance is not None:
        parts.append(f"IWAE-{found.importance.k} {found.importance.bound:.2f}")
    numbers = ", ".join(parts).replace("-", "−").replace("IWAE−", "IWAE-")
    what = f"{preset} on {found.data}" if preset else found.data
    return f"{what}: {found.weights}\nheld out: {numbers} nats"


def _rows(
    figure: Figure, place: SubplotSpec, model: VAE, data: Data, look: Look, seed: int
) -> None:
    n = POINTS if look.shape is None else SHOWN_TEXT if look.text else SHOWN
    rows, labels = heldout_rows(data, n, seed=seed)
    samples = generate(model, data, n, seed=seed, pixel_noise=False)
    panels = (
        (rows, labels, "$\\bf{a}$   Held-out data"),
        (reconstruct(model, rows, seed=seed), labels, "$\\bf{b}$   Reconstructions"),
        (samples, None, f"$\\bf{{c}}$   {samples_title(False, data)}"),
    )
    grid = place.subgridspec(1, 3)
    places = [grid[0, column] for column in range(3)]
    if look.shape is None:
        point_clouds(figure, places, look, panels)
        return
    for at, (shown, _, title) in zip(places, panels, strict=True):
        image_grid(figure.add_subplot(at), shown, title, look=look)


def _ways(
    figure: Figure, place: SubplotSpec, model: VAE, data: Data, look: Look, lines: int, seed: int
) -> None:
    places = place.subgridspec(1, 2, width_ratios=[1.05, 1])
    left, right = figure.add_subplot(places[0, 0]), figure.add_subplot(places[0, 1])
    traversals(left, model, data, look, "$\\bf{d}$   Traversals", n=lines, seed=seed)
    interpolations(right, model, data, look, "$\\bf{e}$   Interpolations", n=lines, seed=seed)


def _codes_and_tests(
    figure: Figure, place: SubplotSpec, model: VAE, data: Data, found: Evaluation
) -> None:
    places = place.subgridspec(2, 2, width_ratios=[1, 1.15])
    axes = figure.add_subplot(places[:, 0])
    latent(axes, model, data, "$\\bf{f}$   Held-out codes, prior contours", seed=found.seed)
    against = f"$q(z)$ against $p(z)$, energy: p = {found.prior.energy.pvalue:.3g}"
    axes.set_xlabel(f"{axes.get_xlabel()}\n{against}")
    bars = figure.add_subplot(places[0, 1])
    use_of_dimensions(bars, model, data, "$\\bf{g}$   ", seed=found.seed)
    lower = figure.add_subplot(places[1, 1])
    test, control = found.generated.fuse, found.generated.fuse_control
    null_distribution(lower, test, "$\\bf{h}$   Samples against held-out data")
    lower.axvline(control.statistic, color="0.3", linewidth=1, linestyle=":")
    lower.set_xlabel(
        f"{test.method} statistic, n = m = {test.n}; dotted: control (p = {control.pvalue:.3g})"
    )
