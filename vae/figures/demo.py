"""The figure of `python -m vae demo`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from divergences.results import TwoSampleResult
from vae._extras import needs_extra

with needs_extra():
    from divergences.plots.style import Figure, new_figure, style
    from vae.figures.charts import null_distribution
    from vae.figures.latent import class_legend, latent_plane, latent_space
    from vae.figures.look import image_grid


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
        data, reconstructions, samples: [≥ 64, D] images; samples are means of p(x|z).
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
            (samples, "$\\bf{c}$   Samples: means of $p(x|z)$"),
        )
        for column, (images, title) in enumerate(panels):
            image_grid(figure.add_subplot(above[column]), images[:64], title)

        below = grid[1].subgridspec(2, 2, width_ratios=[1, 1.25])
        axes = figure.add_subplot(below[:, 0])
        plane = latent_plane(z, labels)
        title = "$\\bf{d}$   Held-out codes, prior contours"
        latent_space(axes, z, labels, title, basis=plane.basis)
        note = f"{plane.name};\n" if plane.name else ""
        axes.set_xlabel(f"{note}$q(z)$ against $p(z)$: p = {posterior.pvalue:.3g}")
        class_legend(axes)

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
