"""Figures fit for a paper. They need matplotlib: pip install "divergences[vae]".

A figure of a model: `evaluation_page`, `samples_figure`, `reconstructions_figure`,
`traversals_figure`, `interpolations_figure`, `latent_figure`, `curves_figure`. The panels take axes
and tensors.
"""

from vae._extras import needs_extra

with needs_extra():
    from divergences.plots.style import save_figure
    from vae.figures.charts import curves_figure, kl_bars, null_distribution, training_curve
    from vae.figures.latent import class_legend, class_plane, latent_space
    from vae.figures.look import Look, image_grid, paths, point_cloud, scatter, strips
    from vae.figures.page import evaluation_page
    from vae.figures.pictures import interpolate, reconstruct, traverse
    from vae.figures.views import (
        heldout_rows,
        interpolations_figure,
        latent_figure,
        latents_figure,
        reconstructions_figure,
        samples_figure,
        traversals_figure,
    )

__all__ = [
    "Look",
    "class_legend",
    "class_plane",
    "curves_figure",
    "evaluation_page",
    "heldout_rows",
    "image_grid",
    "interpolate",
    "interpolations_figure",
    "kl_bars",
    "latent_figure",
    "latent_space",
    "latents_figure",
    "null_distribution",
    "paths",
    "point_cloud",
    "reconstruct",
    "reconstructions_figure",
    "samples_figure",
    "save_figure",
    "scatter",
    "strips",
    "training_curve",
    "traversals_figure",
    "traverse",
]
