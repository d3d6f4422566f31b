"""Figures hold what the model says: values, labels, finite limits. Their looks are looked at."""

import itertools
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy.spatial.distance import pdist
from torch import Tensor, nn
from torch.distributions import Normal

from divergences.plots.style import new_figure, style
from vae import (
    VAE,
    GaussianLikelihood,
    InfoVAE,
    LearnedGaussian,
    LearnedMixture,
    Objective,
    Prior,
    StandardNormal,
    WeightedKL,
    mlp,
)
from vae.data import Data, shapes
from vae.evaluation import evaluate
from vae.evaluation.codes import measure_codes, overlap
from vae.evaluation.passes import encode
from vae.figures import (
    Look,
    curves_figure,
    evaluation_page,
    image_grid,
    interpolate,
    interpolations_figure,
    kl_bars,
    latent_figure,
    latent_space,
    latents_figure,
    null_distribution,
    reconstruct,
    reconstructions_figure,
    samples_figure,
    save_figure,
    traversals_figure,
    traverse,
)
from vae.figures.latent import PALETTE, latent_plane, planar_mixture, posteriors, rows_plane
from vae.figures.pictures import rank
from vae.figures.views import encoded_heldout

FIGURES = (
    samples_figure, reconstructions_figure, traversals_figure, interpolations_figure, latent_figure,
)  # fmt: skip
HISTORY = [
    {"step": 10.0 * i, "loss": 9.0 / i, "heldout_loss": 9.5 / i, "kl": float(i), "seconds": 1.0}
    for i in range(1, 21)
]


def rows_of(n: int, d: int) -> Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(d))


def images(channels: int) -> Data:
    d = channels * 16
    labels = torch.arange(40) % 3
    return Data("images", rows_of(40, d), rows_of(41, d), (channels, 4, 4), labels,
                torch.arange(41) % 3)  # fmt: skip


def points(d: int) -> Data:
    return Data("points", rows_of(40, d), rows_of(41, d) - 0.5, (d,))


DATA = {
    "grey": images(1), "rgb": images(3), "line": points(1), "plane": points(2), "space": points(5),
}  # fmt: skip


def model_of(data: Data, dim: int = 3, prior: Prior | None = None) -> VAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        prior = StandardNormal(dim) if prior is None else prior
        d = data.n_pixels
        return VAE(mlp(d, 2 * dim), mlp(dim, d), GaussianLikelihood(), InfoVAE(0, 1), prior)


def check(figure: Figure) -> None:
    """It can be drawn without a warning, and every axis has a finite extent."""
    figure.canvas.draw()
    for axes in figure.axes:
        limits = [*axes.get_xlim(), *axes.get_ylim()]
        assert np.isfinite(limits).all()
        assert limits[0] != limits[1] and limits[2] != limits[3]


def titles(figure: Figure) -> str:
    return "\n".join(axes.get_title(loc="left") for axes in figure.axes)


# --- What is drawn -------------------------------------------------------------------------------


def test_a_grid_shows_each_image_in_its_place() -> None:
    """Undone by hand: margins of a pixel, ink on white."""
    axes = new_figure(1, 1).add_subplot()
    given = rows_of(7, 12)
    image_grid(axes, given, "t", columns=3, look=Look((1, 4, 3)))
    (drawn,) = axes.images
    canvas = np.asarray(drawn.get_array())
    assert canvas.shape == (2 * 6, 3 * 5)  # the seventh does not fill a line
    for i in range(6):
        line, column = divmod(i, 3)
        cell = canvas[6 * line : 6 * line + 6, 5 * column : 5 * column + 5]
        np.testing.assert_allclose(cell[1:-1, 1:-1], 1 - given[i].reshape(4, 3), rtol=1e-6)
        assert (cell[[0, -1]] == 1).all() and (cell[:, [0, -1]] == 1).all()


def test_colours_keep_their_channels_and_ranges_are_those_of_the_data() -> None:
    axes = new_figure(1, 1).add_subplot()
    given = torch.tensor([[-1.0, -1.0, 1.0, 1.0, 3.0, 5.0]])  # red, green, blue of two pixels
    image_grid(axes, given, "", columns=1, look=Look((3, 1, 2), False, -1.0, 3.0))
    canvas = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(canvas[1, 1:-1], [[0, 0.5, 1], [0, 0.5, 1]])
    assert (canvas[0] == 1).all()


def test_black_grounds_become_white_paper() -> None:
    dark = rows_of(40, 16) * (torch.arange(16) < 4)
    data = Data("dark", dark, dark, (1, 4, 4))
    assert Look.of(data).ink
    assert not Look.of(Data("light", 1 - dark, 1 - dark, (1, 4, 4))).ink
    assert not Look.of(DATA["rgb"]).ink
    wide = Look.of(Data("wide", dark * 9 - 4, dark * 9 - 4, (1, 4, 4)))
    assert (wide.low, wide.ink) == (-4, True)


def test_points_of_many_dimensions_are_their_principal_components() -> None:
    sklearn = pytest.importorskip("sklearn.decomposition")
    data = DATA["space"]
    found = Look.of(data).points(data.heldout)
    expected = sklearn.PCA(2).fit_transform(data.heldout.double().numpy())
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)
    assert Look.of(DATA["plane"]).points(DATA["plane"].heldout) == pytest.approx(
        DATA["plane"].heldout.numpy()
    )


def linear_model() -> VAE:
    """x̂ = z: what is decoded shows the codes."""
    encoder, decoder = nn.Linear(2, 4), nn.Linear(2, 2)
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([torch.eye(2), torch.zeros(2, 2)]))
        encoder.bias.copy_(torch.tensor([0.0, 0.0, -20.0, -20.0]))
        decoder.weight.copy_(torch.eye(2))
        decoder.bias.zero_()
    return VAE(encoder, decoder, GaussianLikelihood(), InfoVAE(0, 1), StandardNormal(2))


def test_reconstructions_traversals_and_interpolations() -> None:
    model, x = linear_model(), rows_of(6, 2)
    torch.testing.assert_close(reconstruct(model, x), x, atol=1e-3, rtol=0)
    walked = traverse(model, torch.tensor([0.5, -0.25]), [1, 0], steps=3)
    expected = [[[0.5, -3], [0.5, 0], [0.5, 3]], [[-3, -0.25], [0, -0.25], [3, -0.25]]]
    torch.testing.assert_close(walked, torch.tensor(expected))
    between = interpolate(model, x[:3], x[3:], steps=5)
    torch.testing.assert_close(between[:, [0, -1]], torch.stack([x[:3], x[3:]], 1))
    torch.testing.assert_close(between[:, 2], (x[:3] + x[3:]) / 2)


def test_dimensions_are_ranked_by_their_kl() -> None:
    data = DATA["grey"]
    model = model_of(data)
    with torch.no_grad():
        model.encoder[2].bias[1] += 4  # the mean of the second
        mean, log_variance = model.encoder(data.heldout).chunk(2, 1)
    expected = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean(0)
    ranking = rank(encode(model, data.heldout))
    assert ranking.order == expected.argsort(descending=True).tolist()
    assert ranking.order[0] == 1
    torch.testing.assert_close(ranking.values.float(), expected)
    figure = traversals_figure(model, data, n=2)
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [ranking.label(j) for j in ranking.order[:2]]
    assert labels[0].startswith("$z_{1}$")
    assert [t.get_text() for t in axes.get_xticklabels()] == ["−3", *[""] * 4, "0", *[""] * 4, "3"]
    assert axes.get_ylabel() == "dimension, KL in nats"
    row = int(re.search(r"Traversals of held-out row (\d+) \(class \d\)$", titles(figure))[1])
    code = encode(model, data.heldout).features[row]
    shown = traverse(model, code, ranking.order[:2], steps=11)
    canvas = np.asarray(axes.images[0].get_array())  # cells of 4 pixels and a margin of 1
    expected = shown[0, 0].clamp(0, 1).reshape(4, 4)
    np.testing.assert_allclose(canvas[1:5, 1:5], expected, atol=1e-6)
    assert f"(class {int(data.heldout_labels[row])})" in titles(figure)
    deterministic = VAE(
        nn.Linear(16, 2), mlp(2, 16), GaussianLikelihood(), InfoVAE(), StandardNormal(2),
        "deterministic",
    )  # fmt: skip
    assert rank(encode(deterministic, data.heldout)).what == "variance"
    (axes,) = traversals_figure(deterministic, data).axes
    assert axes.get_ylabel() == "dimension, variance"


def test_bars_stand_in_order() -> None:
    axes = new_figure(2, 1).add_subplot()
    kl_bars(axes, [0.5, 2.0, 1.0], "KL")
    assert [bar.get_height() for bar in axes.patches] == [2.0, 1.0, 0.5]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "0"]


# --- Latent space --------------------------------------------------------------------------------


def priors() -> list[Prior]:
    gaussian, mixture = LearnedGaussian(3), LearnedMixture(3, components=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for prior in (gaussian, mixture):
            for parameter in prior.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return [gaussian, mixture]


@pytest.mark.parametrize("prior", priors(), ids=["gaussian", "mixture"])
def test_the_planar_prior_is_the_projected_prior(prior: Prior) -> None:
    """Against a kernel estimate from draws of the prior itself, projected."""
    stats = pytest.importorskip("scipy.stats")
    basis = torch.linalg.qr(torch.randn(3, 2, generator=torch.Generator().manual_seed(1)))[0]
    planar = planar_mixture(prior, basis.double())
    with torch.no_grad():
        draws = prior.sample(40_000, like=torch.zeros(())) @ basis
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        drawn = planar.sample((40_000,))
    torch.testing.assert_close(drawn.mean(0), draws.double().mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), draws.double().T.cov(), atol=0.15, rtol=0.05)
    places = draws[:50].double()
    estimate = stats.gaussian_kde(draws.numpy().T)(places.numpy().T)
    found = planar.log_prob(places).exp().numpy()
    assert np.median(np.abs(found / estimate - 1)) < 0.1


def test_the_planar_prior_of_two_dimensions_is_the_prior() -> None:
    prior = LearnedMixture(2, components=3)
    z = rows_of(20, 2) * 4 - 2
    with torch.no_grad():
        expected = prior.log_prob(z)
    found = planar_mixture(prior, torch.eye(2).double()).log_prob(z.double())
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prior", priors(), ids=["gaussian", "mixture"])
def test_contours_hold_their_share_of_the_prior(prior: Prior) -> None:
    from matplotlib.path import Path as Outline

    basis = torch.eye(3)[:, :2]
    axes = new_figure(3, 3).add_subplot()
    latent_space(axes, torch.zeros(5, 3), None, "", prior=prior, basis=basis)
    contours = next(c for c in axes.collections if hasattr(c, "levels"))
    with torch.no_grad():
        draws = (prior.sample(4000, like=torch.zeros(())) @ basis).numpy()
    for lines, share in zip(contours.allsegs, (0.99, 0.9, 0.5), strict=True):
        inside = np.zeros(len(draws), dtype=int)
        for line in lines:  # of several nested or separate loops
            inside += Outline(line).contains_points(draws)
        assert (inside % 2).mean() == pytest.approx(share, abs=0.03)
    assert {text.get_text() for text in axes.texts} == {"50%", "90%", "99%"}


def test_codes_off_the_prior_stay_in_view() -> None:
    axes = new_figure(3, 3).add_subplot()
    z = rows_of(200, 2) * 2 + 90
    latent_space(axes, z, None, "")
    assert axes.get_xlim()[1] > 90
    assert [text.get_text() for text in axes.texts] == ["99%"]  # no room for more
    near = new_figure(3, 3).add_subplot()
    latent_space(near, rows_of(200, 2), None, "")
    assert near.get_xlim() == (-3.6, 3.6)


def test_a_prior_of_ones_own_is_shown_by_draws() -> None:
    class Uniform(Prior):
        def sample(self, n: int, *, generator: Any = None, like: Tensor) -> Tensor:
            return torch.rand(n, self.dim, generator=generator, device=like.device)

    axes = new_figure(3, 3).add_subplot()
    state = torch.get_rng_state()
    latent_space(axes, rows_of(50, 2), None, "", prior=Uniform(2))
    assert torch.equal(state, torch.get_rng_state())
    assert [len(c.get_offsets()) for c in axes.collections] == [1000, 50]


def test_the_plane_shows_what_there_is() -> None:
    z = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)).double()
    z[:, 3] *= 5
    z[:, 1] *= 3
    unlabelled = latent_plane(z, None)
    assert "principal components" in unlabelled.name
    assert (unlabelled.basis[[1, 3]].abs().max(1).values > 0.98).all()
    two = latent_plane(z, torch.arange(300) % 2)  # two class means span no plane
    assert "principal components" in two.name
    assert "class means" in latent_plane(z, torch.arange(300) % 3).name
    assert torch.equal(latent_plane(z[:, :2], None).basis, torch.eye(2).double())


def test_classes_have_their_names() -> None:
    data = shapes(train=20, heldout=30, size=8)
    model = model_of(data)
    (axes,) = latent_figure(model, data).axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["square", "ellipse", "heart"]
    row = int(re.search(r"row (\d+) \(", titles(traversals_figure(model, data)))[1])
    assert f"({names[data.heldout_labels[row]]})" in titles(traversals_figure(model, data))
    other = latent_figure(model_of(DATA["grey"]), DATA["grey"]).axes[0].get_legend()
    assert [text.get_text() for text in other.get_texts()] == ["0", "1", "2"]


# --- Whole figures -------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", FIGURES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", DATA)
def test_every_figure_of_every_kind_of_data(draw: Any, kind: str) -> None:
    check(draw(model_of(DATA[kind]), DATA[kind]))


def test_samples_say_what_they_are() -> None:
    for kind in ("grey", "plane"):
        data = DATA[kind]
        model = model_of(data)
        for noise, words in ((False, "means of"), (True, "draws from")):
            figure = samples_figure(model, data, pixel_noise=noise)
            assert f"Samples: {words} $p(x|z)$" in f"{figure.get_suptitle()}\n{titles(figure)}"
    black = Data("black", DATA["grey"].train.round(), DATA["grey"].heldout.round(), (1, 4, 4),
                 binarise="fixed")  # fmt: skip
    assert samples_figure(model_of(black), black).get_suptitle() == "Samples: means of $p(x|z)$"
    figure = reconstructions_figure(model_of(black), black)
    assert figure.get_suptitle() == "Held-out rows $x$, reconstructions $\\hat{x}$"


def test_curves_of_points_say_where_they_go() -> None:
    data = DATA["plane"]
    model = model_of(data)
    (traversed,) = traversals_figure(model, data).axes
    assert "lines from −3 to 3 (dot)" in traversed.get_xlabel()
    assert traversed.get_legend().get_title().get_text() == "dimension, KL in nats"
    (between,) = interpolations_figure(model, data, n=2).axes
    assert between.get_title(loc="left") == "Interpolations between held-out rows"
    assert "lines from one row to another (dot)" in between.get_xlabel()
    curve, dot = between.lines[:2]
    np.testing.assert_array_equal(dot.get_xydata()[0], curve.get_xydata()[-1])


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("prior", [StandardNormal, LearnedGaussian, LearnedMixture])
def test_latent_spaces_of_few_dimensions(dim: int, prior: Any) -> None:
    data = DATA["grey"]
    check(latent_figure(model_of(data, dim, prior(dim)), data))


@pytest.mark.parametrize("kind", ["rgb", "plane"])
def test_the_page(kind: str, tmp_path: Path) -> None:
    data = DATA[kind]
    model = model_of(data)
    found = evaluate(model, data, n_importance=5, n_resamples=19, progress=False)
    figure = evaluation_page(model, data, found, HISTORY)
    check(figure)
    words = titles(figure)
    for letter, title in zip("abcdefghi", (
        "Held-out data", "Reconstructions", "Samples: means of $p(x|z)$", "Traversals",
        "Interpolations", "Held-out codes, prior contours", "KL in nats of every dimension",
        "Samples against held-out data", "loss",
    ), strict=True):  # fmt: skip
        assert f"$\\bf{{{letter}}}$   {title}" in words
    head = figure.get_suptitle()
    assert f"ELBO {found.heldout.elbo:.2f}".replace("-", "−") in head
    assert f"IWAE-5 {found.importance.bound:.2f}".replace(" -", " −") in head
    labels = "\n".join(axes.get_xlabel() for axes in figure.axes)
    assert f"energy: p = {found.prior.energy.pvalue:.3g}" in labels
    assert f"control (p = {found.generated.fuse_control.pvalue:.3g})" in labels
    without = evaluation_page(model, data, found, preset="infovae")
    assert "\\bf{i}" not in titles(without)
    assert without.get_suptitle().startswith(f"infovae on {data.name}: ")
    save_figure(without, tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_colours_of_classes_are_told_apart_without_a_kind_of_cone() -> None:
    """Simulated by the matrices of Machado, Oliveira & Fernandes 2009 (protan, deutan, tritan at
    full severity): the nearest two lie farther apart than those of matplotlib's ten."""
    kinds = (
        [[0.1522, 1.0525, -0.2048], [0.1145, 0.7862, 0.0992], [-0.0038, -0.0481, 1.0519]],
        [[0.3673, 0.8606, -0.2279], [0.2800, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9688]],
        [[1.2555, -0.0767, -0.1787], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6913, 0.3039]],
    )  # fmt: skip

    def nearest(colours: Any, kind: Any) -> float:
        linear = np.array([to_rgb(colour) for colour in colours]) ** 2.2
        seen = (linear @ np.array(kind).T).clip(0, 1) ** (1 / 2.2)
        return float(pdist(seen).min())

    for kind in kinds:
        assert nearest(PALETTE.colors, kind) > nearest(matplotlib.colormaps["tab10"].colors, kind)


def test_figures_leave_the_random_state_alone() -> None:
    data = DATA["grey"]
    model = model_of(data, prior=LearnedMixture(3))
    state = torch.get_rng_state()
    for draw in FIGURES:
        draw(model, data)
    assert torch.equal(state, torch.get_rng_state())


def test_curves() -> None:
    figure = curves_figure(HISTORY)
    loss, kl = figure.axes
    training, heldout = loss.lines
    assert training.get_ydata() == pytest.approx([9 / i for i in range(1, 21)])
    assert heldout.get_ydata() == pytest.approx([9.5 / i for i in range(1, 21)])
    assert training.get_xdata()[-1] == 200
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "held out"]
    assert len(kl.lines) == 1
    assert loss.get_ylim()[1] < 9  # the first steps do not flatten the rest
    assert kl.get_ylim()[1] > 20
    check(figure)
    check(curves_figure(HISTORY[:1]))
    for count, grid in ((1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3)), (7, (3, 3))):
        panels = curves_figure([{f"term {i}": 1.0 for i in range(count)}]).axes
        places = panels[0].get_subplotspec().get_gridspec()
        assert (len(panels), places.nrows, places.ncols) == (count, *grid)
    hovering = curves_figure([{"divergence": 0.010 + 0.004 * (i % 3)} for i in range(30)])
    assert hovering.axes[0].get_ylim()[0] == pytest.approx(0.01 - 0.08 * 0.008)
    near = curves_figure([{"divergence": 0.005 + 0.004 * (i % 3)} for i in range(30)])
    assert -0.002 < near.axes[0].get_ylim()[0] < 0
    check(curves_figure([{"loss": float("nan")}, {"loss": 1.0}]))
    with pytest.raises(ValueError, match="no rows"):
        curves_figure([])


def test_null_distributions_that_share_an_axis_both_stay_in_view() -> None:
    from divergences.two_sample import two_sample_test

    x, y = rows_of(30, 2), rows_of(31, 2)
    far = two_sample_test(x, y + 3, method="energy", n_resamples=49, rng=0)
    near = two_sample_test(x, y, method="energy", n_resamples=49, rng=0)
    with style():
        figure = new_figure(3, 3)
        lower = figure.add_subplot(2, 1, 2)
        null_distribution(lower, far, "far")
        null_distribution(figure.add_subplot(2, 1, 1, sharex=lower), near, "near")
    check(figure)
    low, high = lower.get_xlim()
    assert high > far.statistic
    assert low < near.null_distribution.min()
    assert f"observed, p = {far.pvalue:.3g}" in [text.get_text() for text in lower.texts]


# --- q(z|x) of chosen rows -----------------------------------------------------------------------


def test_the_overlap_is_the_integral_of_the_root_of_the_product() -> None:
    means = torch.tensor([[0.0, 1.0], [0.5, -0.3], [0.0, 1.0]], dtype=torch.float64)
    scales = torch.tensor([[1.0, 0.4], [0.3, 2.0], [1.0, 0.4]], dtype=torch.float64)
    grid = torch.linspace(-20, 20, 40_001, dtype=torch.float64)
    expected = torch.ones(3, 3, dtype=torch.float64)
    for i, j, k in itertools.product(range(3), range(3), range(2)):
        p, q = (Normal(means[r, k], scales[r, k]).log_prob(grid) for r in (i, j))
        expected[i, j] *= torch.trapezoid(((p + q) / 2).exp(), grid)
    found = overlap(means, 2 * scales.log())
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


def test_ellipses_hold_half_and_nine_tenths_of_the_draws() -> None:
    axes = new_figure(2, 2).add_subplot()
    mean = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    log_variance = torch.tensor([[0.3, -2.0, 1.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 20_000, 3, dtype=torch.float64, generator=generator)
    draws = mean + (log_variance / 2).exp() * noise
    basis = torch.linalg.qr(torch.randn(3, 2, dtype=torch.float64, generator=generator))[0]
    posteriors(axes, draws, mean, log_variance, basis)
    points = (draws[0] @ basis).numpy()
    for ellipse, mass in zip(axes.patches, (0.5, 0.9), strict=True):
        path = ellipse.get_patch_transform().transform_path(ellipse.get_path())
        share = float(path.contains_points(points).mean())
        assert abs(share - mass) < 5 * (mass * (1 - mass) / len(points)) ** 0.5


def test_the_plane_of_rows_keeps_their_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(3, 6, dtype=torch.float64, generator=generator)
    z = torch.randn(50, 6, dtype=torch.float64, generator=generator)
    for count in (1, 2, 3):
        basis = rows_plane(means[:count], z).basis
        torch.testing.assert_close(basis.T @ basis, torch.eye(2, dtype=torch.float64))
        flat = means[:count] @ basis
        torch.testing.assert_close(
            torch.cdist(flat, flat), torch.cdist(means[:count], means[:count])
        )


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("kind", ["grey", "plane"])
@pytest.mark.parametrize("posterior", ["gaussian", "deterministic"])
def test_rows_beside_each_other(dim: int, kind: str, posterior: str) -> None:
    data = DATA[kind]
    model = model_of(data, dim)
    if posterior == "deterministic":
        model = VAE(mlp(data.n_pixels, dim), model.decoder, GaussianLikelihood(),
                    InfoVAE(1, 1), StandardNormal(dim), posterior)  # fmt: skip
    pair = [("first", model, data), ("second", model, data)]
    figure = latents_figure(pair, rows=[4, 0])
    check(figure)
    assert titles(figure).count("first") == titles(figure).count("second") == 1
    assert len(figure.axes) == (4 if kind == "grey" else 2)
    said = figure.axes[0].get_xlabel()
    assert ("of rows 4, 0: " in said) is (posterior == "gaussian")
    if kind == "grey":
        labels = [text.get_text() for text in figure.axes[1].get_yticklabels()]
        assert labels == ["4 (1)", "0 (0)"]
    with pytest.raises(ValueError, match="rows must be between 0 and 40, got 41"):
        latents_figure(pair, rows=[41])


def test_parts_of_the_rate_stand_below_codes() -> None:
    data, model = DATA["grey"], model_of(DATA["grey"])
    found = measure_codes(model, encoded_heldout(model, data, 41)[2])
    *_, rate, test = latents_figure([("t", model, data)]).axes[0].get_xlabel().splitlines()
    assert rate == (f"KL {found.kl:.2f}, I(z; row) {found.mutual_information:.2f}, "
                    f"TC {found.total_correlation:.2f} nats")  # fmt: skip
    assert test.startswith("$q(z)$ against $p(z)$, energy: p = ")
    model.objective = Objective(WeightedKL(0.0))  # no prior to be tested against
    *_, last = latents_figure([("t", model, data)]).axes[0].get_xlabel().splitlines()
    assert last == rate
