"""The latent space, coloured by class, with the contours of the prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from divergences.kl import gaussian_log_density
from vae._extras import needs_extra
from vae.priors import LearnedGaussian, LearnedMixture, Prior, StandardNormal

with needs_extra():
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Circle, Ellipse

    from divergences.plots.style import GREY, INK, Axes

PALETTE = ListedColormap(  # told apart with any colour vision: Petroff 2021 (arXiv:2107.02270)
    [
        "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
        "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
    ]
)  # fmt: skip
MASSES = (0.5, 0.9, 0.99)
SPAN = 3.6  # of the axes, unless the codes reach further
MOST_CLASSES = 20  # with a legend
DRAWS, SHOWN = 20_000, 1000  # for the levels of contours; of a prior that is shown by them
GRID = 160
APART = 0.14, 0.06  # least distance of contour labels, across and up, as shares of the axes


def by_class(labels: Tensor) -> Iterator[tuple[Any, Any]]:
    """Rows (a mask) and colour of each class, in ascending order."""
    for i, label in enumerate(sorted(set(labels.tolist()))):
        yield (labels == label).numpy(), PALETTE(i % 10)


def class_plane(z: Tensor, labels: Tensor) -> Tensor:
    """An orthonormal basis [M, 2] of the plane in which the class means of z are spread most.

    The basis is orthonormal, so that N(0, I) projects to N(0, I) and its contours stay circles.
    """
    means = torch.stack([z[labels == label].mean(0) for label in set(labels.tolist())])
    directions: Tensor = torch.linalg.svd(means - means.mean(0), full_matrices=False)[2]
    return directions[:2].T


class Plane(NamedTuple):
    """A basis [M, 2] and what it is."""

    basis: Tensor
    name: str


def latent_plane(z: Tensor, labels: Tensor | None) -> Plane:
    """The plane in which codes [N, M], M ≥ 2, are shown."""
    m = z.shape[1]
    if m == 2:
        return Plane(torch.eye(2, dtype=z.dtype), "")
    if labels is not None and len(set(labels.tolist())) > 2:
        return Plane(class_plane(z, labels), "plane in which the class means spread most")
    directions = torch.linalg.svd(z - z.mean(0), full_matrices=False)[2]
    return Plane(directions[:2].T, "plane of the two principal components")


def rows_plane(means: Tensor, z: Tensor) -> Plane:
    """The plane through the means [R, M] of chosen rows, which keeps the distances of up to three;
    of fewer, with the principal component of codes [N, M] beside it."""
    if z.shape[1] == 2:
        return latent_plane(z, None)
    between = torch.linalg.svd(means - means.mean(0), full_matrices=False)[2][: len(means) - 1]
    rest = (z - z.mean(0)) @ (torch.eye(z.shape[1], dtype=z.dtype) - between.T @ between)
    within = torch.linalg.svd(rest, full_matrices=False)[2]
    return Plane(torch.cat([between, within])[:2].T, "plane of the rows' means")


def posteriors(
    axes: Axes, draws: Tensor, mean: Tensor | None, log_variance: Tensor | None, basis: Tensor
) -> None:
    """Draws [R, K, M] of q(z|x) of R rows as dots, a colour for each row, and the ellipses that
    hold 50 and 90 % of q(z|x) in the plane of ``basis`` [M, 2]; at M = 1 their densities."""
    for i, own in enumerate(draws):
        colour = PALETTE(i % 10)
        if basis.shape[1] == 1:
            axes.plot(own.flatten(), torch.zeros(len(own)), "|", color=colour)
            if mean is not None and log_variance is not None:
                at = torch.linspace(*axes.get_xlim(), 400, dtype=own.dtype)
                density = gaussian_log_density(at, mean[i], log_variance[i]).exp()
                axes.plot(at, density, color=colour, linewidth=1.2)
            continue
        x, y = (own @ basis).T
        axes.scatter(x, y, s=4, color=colour, alpha=0.7, linewidths=0, zorder=3)
        if mean is None or log_variance is None:
            continue
        spread = basis.T @ (log_variance[i].exp().unsqueeze(1) * basis)
        lengths, directions = torch.linalg.eigh(spread)
        angle = math.degrees(math.atan2(float(directions[1, 1]), float(directions[0, 1])))
        for mass in (0.5, 0.9):
            height, width = (2 * (-2 * math.log(1 - mass) * lengths).sqrt()).tolist()
            axes.add_patch(
                Ellipse(
                    (float(mean[i] @ basis[:, 0]), float(mean[i] @ basis[:, 1])), width, height,
                    angle=angle, fill=False, color=colour, linewidth=1.4, zorder=4,
                )
            )  # fmt: skip


def latent_space(
    axes: Axes,
    z: Tensor,
    labels: Tensor | None,
    title: str,
    *,
    prior: Prior | None = None,
    basis: Tensor | None = None,
    names: Mapping[int, str] | None = None,
    context: bool = False,
) -> None:
    """Codes coloured by class over the contours of the prior that hold 50, 90 and 99 % of it.

    Args:
        z: [N, 2], or [N, M] with a `basis`.
        labels: [N], or None.
        prior: None is N(0, I). One that is neither that nor one of ours is shown by its draws.
        basis: [M, 2] orthonormal.
        names: of classes; None, or those without one: their numbers.
        context: codes are small and grey, behind something else.
    """
    flat = z if basis is None else z @ basis
    points = flat.double().numpy()
    size = 7 if len(z) < 1000 else 3
    if prior is None or isinstance(prior, StandardNormal):
        centre, lowest = np.zeros(2), _circles(axes)
    else:
        centre, lowest = _contours(axes, prior, basis)
    if context:
        axes.scatter(points[:, 0], points[:, 1], s=2, color=GREY, alpha=0.5, linewidths=0)
    elif labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=size, color=INK, alpha=0.5, linewidths=0)
    else:
        classes = sorted(set(labels.tolist()))
        for (rows, colour), each in zip(by_class(labels), classes, strict=True):
            x, y = points[rows].T
            name = (names or {}).get(each, str(each))
            axes.scatter(x, y, s=size, color=colour, alpha=0.7, linewidths=0, label=name)
    span = max(SPAN, 1.05 * float(np.quantile(np.abs(points - centre), 0.998)))
    axes.set(
        xlim=(centre[0] - span, centre[0] + span),
        ylim=(centre[1] - span, centre[1] + span),
        aspect="equal",
        title=title,
    )
    if span == SPAN and not centre.any():
        axes.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    else:
        axes.locator_params(nbins=5)
    _label_contours(axes, lowest, 2 * span)


def class_legend(axes: Axes) -> None:
    """Beside the axes; none for a single class or very many."""
    handles, names = axes.get_legend_handles_labels()
    if 1 < len(handles) <= MOST_CLASSES:
        axes.legend(
            handles,
            names,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            handletextpad=0.1,
            markerscale=1.8,
            ncols=1 + (len(handles) > 10),
        )


def latent_line(axes: Axes, z: Tensor, prior: Prior, title: str) -> None:
    """Codes [N, 1]: their histogram and the density of the prior."""
    values = z.flatten().double().numpy()
    axes.hist(values, bins=40, density=True, color=GREY)
    low, high = axes.get_xlim()
    grid = torch.linspace(min(low, -SPAN), max(high, SPAN), 400, dtype=torch.float64)
    with torch.no_grad():
        density = prior.log_prob(grid.unsqueeze(1).to(_device(prior))).exp().cpu()
    axes.plot(grid.numpy(), density.numpy(), color=INK, linewidth=0.9, label="prior")
    axes.set(title=title, xlabel="$z$", yticks=[])
    axes.spines["left"].set_visible(False)
    axes.legend()


# --- Contours ------------------------------------------------------------------------------------


def _circles(axes: Axes) -> list[Any]:
    """Draws them, and returns their lowest points."""
    radii = [(-2 * np.log(1 - mass)) ** 0.5 for mass in MASSES]
    for radius in radii:
        axes.add_patch(Circle((0, 0), radius, fill=False, color=INK, linewidth=0.7, zorder=2))
    return [np.array([0, -radius]) for radius in radii]


def _label_contours(axes: Axes, places: Sequence[Any], extent: float) -> None:
    """The mass at the place of each contour, from the outermost inwards, where the labels before
    leave room; `extent` of both axes."""
    taken: list[Any] = []
    for mass, place in reversed(list(zip(MASSES, places, strict=False))):
        if all((np.abs(place - other) > np.multiply(APART, extent)).any() for other in taken):
            taken.append(place)
            axes.annotate(
                f"{mass:.0%}",
                place,
                ha="center",
                va="center",
                fontsize=6,
                color=INK,
                bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.9},
            )


def _contours(axes: Axes, prior: Prior, basis: Tensor | None) -> tuple[Any, list[Any]]:
    """Draws the contours; returns the middle of the prior [2] and their lowest points, none for a
    prior that is shown by its draws."""
    basis = (torch.eye(prior.dim) if basis is None else basis).double().cpu()
    like = torch.zeros((), device=_device(prior))
    generator = torch.Generator(like.device).manual_seed(0)
    with torch.no_grad():
        draws = prior.sample(DRAWS, generator=generator, like=like).cpu().double() @ basis
    planar = planar_mixture(prior, basis)
    if planar is None:
        axes.scatter(draws[:SHOWN, 0], draws[:SHOWN, 1], s=2, color="0.75", linewidths=0, zorder=0)
        return draws.mean(0).numpy(), []
    log_density: Callable[[Tensor], Tensor] = planar.log_prob
    levels = log_density(draws).quantile(1 - torch.tensor(MASSES, dtype=torch.float64))
    low, high = draws.quantile(torch.tensor([1e-4, 1 - 1e-4], dtype=torch.float64), 0)
    pad = 0.3 * (high - low)
    x, y = (
        torch.linspace(float(a), float(b), GRID, dtype=torch.float64)
        for a, b in zip(low - pad, high + pad, strict=True)
    )
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    drawn = axes.contour(
        x.numpy(), y.numpy(), log_density(points).numpy(), levels=levels.sort()[0].numpy(),
        colors=INK, linewidths=0.7, linestyles="solid", zorder=2,
    )  # fmt: skip
    lines = [np.concatenate(segments) for segments in reversed(drawn.allsegs)]
    return draws.mean(0).numpy(), [line[line[:, 1].argmin()] for line in lines]


def _device(prior: Prior) -> torch.device:
    return next((p.device for p in prior.parameters()), torch.device("cpu"))


@torch.no_grad()
def planar_mixture(prior: Prior, basis: Tensor) -> MixtureSameFamily | None:
    """The exact distribution of Bᵀz for z ~ p(z) and a basis B [M, 2]; None for priors that are not
    ours."""
    if isinstance(prior, LearnedGaussian):
        means, log_variances = prior.mean.unsqueeze(0), prior.log_variance.unsqueeze(0)
        weights = torch.ones(1, dtype=torch.float64)
    elif isinstance(prior, LearnedMixture):
        means, log_variances = prior.means, prior.log_variances
        weights = prior.logits.double().softmax(0).cpu()
    else:
        return None
    variances = log_variances.double().exp().cpu()
    spread = basis.T @ (variances.unsqueeze(-1) * basis)  # [K, 2, 2]
    components = MultivariateNormal(means.double().cpu() @ basis, spread)
    return MixtureSameFamily(Categorical(weights), components)
