"""The sprites against geometry: areas, centroids, symmetries, and pixels counted one by one."""

import colorsys
import math

import pytest
import torch
from torch import Tensor

from vae.data import FACTOR_SIZES, load, render_shapes, shapes

SQUARE, ELLIPSE, HEART = range(3)
GREY = 1 / 255  # one step of a byte: the least that rounding can differ by
STEINER = math.pi / 12  # of a convex border of any length: the mean of A + Ps + πs² over |s| ≤ ½


def images(*factors: list[int], size: int = 32) -> Tensor:
    return render_shapes(torch.tensor(factors), size).unflatten(1, (size, size))


def everywhere(shape: int, scale: int) -> Tensor:
    """All orientations at places that differ in where they fall between pixels."""
    column = [torch.tensor([shape]), torch.tensor([scale]), torch.arange(40)]
    return torch.cartesian_prod(*column, torch.arange(0, 32, 5), torch.arange(0, 32, 5))


def centre(levels: Tensor, size: int) -> Tensor:
    return size * (0.26 + 0.48 * levels / 31)


@pytest.mark.parametrize("scale", [0, 2, 5])
@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART], ids=["square", "ellipse", "heart"])
def test_areas_are_those_of_the_geometry(shape: int, scale: int) -> None:
    drawn = render_shapes(everywhere(shape, scale)).double().sum(1).mean()
    area = (32 * 0.3 * (0.5 + 0.1 * scale)) ** 2
    # a blurred square keeps its area but for the rounding of its border; a blurred curve gains
    # what Steiner's formula says, and as much again for distances to first order
    border = 4 * math.sqrt(2 * area)
    tolerance = border * GREY / 2 if shape == SQUARE else 2 * STEINER
    assert abs(float(drawn) - area) < tolerance


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART], ids=["square", "ellipse", "heart"])
@pytest.mark.parametrize("size", [32, 48])
def test_centroids_are_where_the_factors_say(shape: int, size: int) -> None:
    factors = everywhere(shape, 5)
    drawn = render_shapes(factors, size).double().unflatten(1, (size, size))
    pixels = torch.arange(size) + 0.5
    mass = drawn.sum((1, 2))
    x = (drawn * pixels).sum((1, 2)) / mass
    y = (drawn * pixels[:, None]).sum((1, 2)) / mass
    # a heart that turned about the centre of its square would be off by more than a pixel
    assert float((x - centre(factors[:, 3], size)).abs().max()) < 0.1
    assert float((y - centre(factors[:, 4], size)).abs().max()) < 0.1


def inside(shape: int, x: Tensor, y: Tensor, side: float) -> Tensor:
    """Membership of points about the centroid, y upwards, by definitions that the code has not."""
    if shape == SQUARE:
        return (x.abs() < side / 2) & (y.abs() < side / 2)
    if shape == ELLIPSE:  # the sum of the distances to the foci
        major = side * math.sqrt(2 / math.pi)
        focus = major * math.sqrt(3) / 2
        return torch.hypot(x, y - focus) + torch.hypot(x, y + focus) < 2 * major
    half = side / math.sqrt(4 + math.pi)  # the square has side 2·half and stands on its corner
    y = y + math.sqrt(2) * half * (math.pi / 2 + 2 / 3) / (4 + math.pi)
    shift = half / math.sqrt(2)  # to the middle of an upper side
    disc = torch.hypot(x.abs() - shift, y - shift) < half
    return (x.abs() + y.abs() < math.sqrt(2) * half) | disc


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART], ids=["square", "ellipse", "heart"])
def test_pixels_hold_the_part_that_is_covered(shape: int) -> None:
    """Against 32 × 32 points in each pixel."""
    size, fine = 32, 32
    points = (torch.arange(size * fine, dtype=torch.float64) + 0.5) / fine
    cases = ((5, 0, 16, 15), (5, 4, 3, 9), (3, 13, 20, 30), (0, 29, 7, 16))
    for scale, orientation, x, y in cases:
        angle = math.tau * orientation / 40  # clockwise as seen, so anticlockwise for y downwards
        right = points - float(centre(torch.tensor(x), size))
        up = float(centre(torch.tensor(y), size)) - points[:, None]
        u = right * math.cos(angle) - up * math.sin(angle)
        v = right * math.sin(angle) + up * math.cos(angle)
        truth = inside(shape, u, v, size * 0.3 * (0.5 + 0.1 * scale)).double()
        truth = truth.unflatten(0, (size, fine)).unflatten(2, (size, fine)).mean((1, 3))
        drawn = images([shape, scale, orientation, x, y])[0].double()
        error = (drawn - truth).abs()
        border = (truth > 0) & (truth < 1)
        near = torch.nn.functional.max_pool2d(border[None].double(), 3, 1, 1)[0] > 0
        assert float(error[~near].max()) == 0
        # a straight border at 45° is off by at most (√2 − 1)²/4 = .043
        assert float(error[border].mean()) < 0.043


def test_symmetries_of_the_shapes() -> None:
    for shape, period in ((SQUARE, 10), (ELLIPSE, 20), (HEART, 40)):
        first = images([shape, 5, 3, 11, 20])
        for turn in (10, 20):
            turned = images([shape, 5, 3 + turn, 11, 20])
            same = bool(((turned - first).abs() <= GREY).all())
            assert same == (turn % period == 0)


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART], ids=["square", "ellipse", "heart"])
def test_turned_and_mirrored_factors_are_turned_and_mirrored_images(shape: int) -> None:
    first = images([shape, 4, 7, 5, 22])[0]
    clockwise = images([shape, 4, 17, 31 - 22, 5])[0]
    torch.testing.assert_close(clockwise, first.rot90(-1), atol=GREY, rtol=0)
    mirrored = images([shape, 4, 40 - 7, 31 - 5, 22])[0]
    torch.testing.assert_close(mirrored, first.flip(1), atol=GREY, rtol=0)


def test_hearts_stand_upright() -> None:
    heart = images([HEART, 5, 0, 0, 0], size=64)[0]
    widths = heart.sum(1)
    rows = (widths > 0).nonzero().flatten()
    assert float(widths[rows[-1]]) < 3  # the tip
    assert float(widths[rows[4]]) > 10  # the lobes


def test_an_ellipse_in_the_middle_of_a_pixel_has_no_hole() -> None:
    """25 · .26 + .5 is a whole number: the distance divides 0 by 0 there."""
    ellipse = images([ELLIPSE, 5, 0, 0, 0], size=25)[0]
    assert float(ellipse[6, 6]) == 1


def test_the_data_are_what_their_factors_draw() -> None:
    data = load("shapes", limit=600, heldout=200, seed=5)
    assert data.train.shape == (600, 1024) and data.train.dtype == torch.uint8
    assert data.heldout.shape == (200, 1024)
    assert data.shape == (1, 32, 32)
    assert data.factor_names == ("shape", "scale", "orientation", "x", "y")
    assert data.train_factors is not None and data.heldout_factors is not None
    assert torch.equal(render_shapes(data.train_factors), data.rows("train"))
    assert torch.equal(render_shapes(data.heldout_factors), data.rows("heldout"))
    assert torch.equal(data.train_factors[:, 0], data.train_labels)
    everything = torch.cat([data.train_factors, data.heldout_factors])
    assert len(everything.unique(dim=0)) == 800
    # 800 draws leave out one of 40 levels with probability e⁻²⁰
    assert [len(column.unique()) for column in everything.T] == list(FACTOR_SIZES.values())


def test_shapes_depend_on_the_seed_alone() -> None:
    first = shapes(train=20, heldout=5, seed=1)
    assert torch.equal(first.train, shapes(train=20, heldout=5, seed=1).train)
    assert not torch.equal(first.train, shapes(train=20, heldout=5, seed=2).train)
    assert shapes(train=3, heldout=2, size=64).shape == (1, 64, 64)


@pytest.mark.parametrize(
    ("factors", "size", "message"),
    [
        (torch.zeros(2, 4, dtype=torch.int64), 32, r"\[N, 5\] or \[N, 6\], got torch.int64 of"),
        (torch.zeros(2, 5), 32, r"integers of shape \[N, 5\] or .*, got torch.float32"),
        (torch.tensor([[3, 0, 0, 0, 0]]), 32, "shape must be between 0 and 2, got 3 to 3"),
        (torch.tensor([[0, 0, 0, 0, -1]]), 32, "y must be between 0 and 31, got -1 to -1"),
        (torch.zeros(1, 5, dtype=torch.int64), 7, "size must be at least 8 pixels, got 7"),
    ],
    ids=["columns", "floats", "too large", "negative", "size"],
)
def test_factors_out_of_range(factors: Tensor, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_shapes(factors, size)


def test_no_more_rows_than_the_grid_has() -> None:
    with pytest.raises(ValueError, match=r"heldout must be between 1 and 7280, .* 737280 comb"):
        shapes(train=730_000, heldout=8_000)
    with pytest.raises(ValueError, match="train must be at least 1, got 0"):
        shapes(train=0)
    with pytest.raises(ValueError, match=r"heldout must be .*, got 0$"):
        shapes(heldout=0)


def test_colours_are_hues_of_the_same_sprites() -> None:
    """Against the standard library's hues; pixels of part are of the same hue, only darker."""
    white = torch.tensor([[k % 3, 5, k, 2 * k, 31 - k] for k in range(12)])
    coloured = torch.cat([white, torch.arange(12)[:, None]], 1)
    grey = render_shapes(white)
    rgb = render_shapes(coloured).unflatten(1, (3, -1))
    hues = torch.tensor([colorsys.hsv_to_rgb(k / 12, 1, 1) for k in range(12)])
    expected = grey.unsqueeze(1) * hues.unsqueeze(-1)
    assert float((rgb - expected).abs().max()) <= GREY / 2 + 1e-6


def test_coloured_shapes_by_name() -> None:
    data = load("coloured-shapes", limit=60, heldout=20, size=16)
    assert (data.name, data.shape, data.factor_names[-1]) == (
        "coloured-shapes",
        (3, 16, 16),
        "colour",
    )
    assert len(set(map(tuple, data.train_factors.tolist()))) == 60
    assert torch.equal(render_shapes(data.heldout_factors, 16), data.rows("heldout"))
    assert data.train_factors[:, 5].unique().tolist() == list(range(12))
    with pytest.raises(ValueError, match="colour must be between 0 and 11, got 12 to 12"):
        render_shapes(torch.tensor([[0, 0, 0, 0, 0, 12]]))
