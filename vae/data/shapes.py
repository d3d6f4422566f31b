"""Sprites with known factors, in the manner of dSprites (Matthey et al. 2017), drawn on demand.

The levels are those of dSprites, with two differences: the 40 orientations are 9° apart (there the
first and the last are the same picture), and the three shapes have the same area at the same scale
and turn about their centroid, so that no factor leaks into another. As there, a square looks the
same every 90° and an ellipse every 180°.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from vae.data.data import Data
from vae.data.split import at_least_one, divided

SHAPES = ("square", "ellipse", "heart")
FACTOR_SIZES = {"shape": len(SHAPES), "scale": 6, "orientation": 40, "x": 32, "y": 32}
"""The number of levels of each factor, in the order of the columns."""

FACTORS: Mapping[str, Mapping[str, int]] = {
    "shapes": FACTOR_SIZES,
    "coloured-shapes": {**FACTOR_SIZES, "colour": 12},
}
"""The same, by the name of the data; colours are hues at equal distances, red first."""

SIDE = 0.3  # of the square at scale 1; the image has side 1
MARGIN = 0.26  # of the first and last centre: at scale 1 the ellipse reaches .24 from its own
SMALLEST = 0.5  # scale, of SMALLEST … 1
CHUNK = 256  # sprites at once: what one holds stays in cache


def shapes(
    *, train: int = 8000, heldout: int = 2000, size: int = 32, seed: int = 0, coloured: bool = False
) -> Data:
    """Sprites at random places of the grid of factors, all different in at least one factor.

    Labels are the shapes (0 square, 1 ellipse, 2 heart), factors are all five, or six with colour.

    Args:
        train: number of rows to train on.
        heldout: number of rows held out.
        size: side of the images in pixels.
        seed: of the choice.
        coloured: RGB images of sprites in one of twelve hues; otherwise white ones.

    Raises:
        ValueError: a number below 1, or more rows than the grid has (737,280 without colours).
    """
    at_least_one(train, "train")
    name = "coloured-shapes" if coloured else "shapes"
    sizes = FACTORS[name]
    cells = math.prod(sizes.values())
    if not 0 < heldout <= cells - train:
        raise ValueError(
            f"heldout must be between 1 and {max(cells - train, 0)}, the rest of the {cells} "
            f"combinations of factors, got {heldout}"
        )
    order = torch.randperm(cells, generator=torch.Generator().manual_seed(seed))
    levels = torch.unravel_index(order[: train + heldout], tuple(sizes.values()))
    factors = torch.stack(levels, 1)
    return divided(
        Data,
        (slice(heldout, None), slice(heldout)),
        _render(factors, size),
        factors[:, 0],
        factors,
        name=name,
        shape=(3 if coloured else 1, size, size),
        factor_names=tuple(sizes),
    )


def factor_sizes(data: Data) -> Mapping[str, int] | None:
    """Levels of the factors of data that were rendered here; None for other data."""
    sizes = FACTORS.get(data.name)
    return sizes if sizes is not None and data.factor_names == tuple(sizes) else None


def render_shapes(factors: Tensor, size: int = 32) -> Tensor:
    """Sprites on black, anti-aliased: what `Data.rows` returns for these factors.

    x grows to the right, y downwards, the orientation clockwise from upright.

    Args:
        factors: [N, 5] integer levels, in the order of `FACTOR_SIZES`, for white sprites; [N, 6],
            with the colour, for coloured ones.
        size: side of the images in pixels, at least 8.

    Returns:
        [N, size²] float32 in [0, 1], in steps of 1/255; [N, 3·size²] with colours.

    Raises:
        ValueError: factors of another shape or type, or levels out of range.
    """
    return _render(factors, size).float() / 255


def _render(factors: Tensor, size: int) -> Tensor:
    """[N, size²] or [N, 3·size²] uint8."""
    _check(factors, size)
    images = torch.empty(len(factors), size * size, dtype=torch.uint8)
    for number, coverage in enumerate(COVERAGES):
        for rows in torch.split((factors[:, 0] == number).nonzero().flatten(), CHUNK):
            u, v, side = _own_coordinates(factors[rows], size)
            images[rows] = (coverage(u, v, side) * 255).round().byte().flatten(1)
    if factors.shape[1] == len(FACTOR_SIZES):
        return images
    images = torch.stack([images] * 3, 1)
    for rows in torch.split(torch.arange(len(images)), CHUNK):
        images[rows] = (images[rows] * _rgb(factors[rows, -1]).unsqueeze(-1)).round().byte()
    return images.flatten(1)


def _rgb(levels: Tensor) -> Tensor:
    """Hues [n] as red, green and blue in [0, 1], [n, 3]: the brightest is 1, the darkest 0."""
    sixths = levels.unsqueeze(-1) * 6 / FACTORS["coloured-shapes"]["colour"]
    return ((sixths + torch.tensor([0, 4, 2])).remainder(6) - 3).abs().sub(1).clamp(0, 1)


def _check(factors: Tensor, size: int) -> None:
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, got {size}")
    known = {len(sizes): sizes for sizes in FACTORS.values()}
    if factors.dim() != 2 or factors.shape[1] not in known or factors.is_floating_point():
        raise ValueError(
            f"factors must be integers of shape [N, {'] or [N, '.join(map(str, known))}], got "
            f"{factors.dtype} of shape {list(factors.shape)}"
        )
    sizes = known[factors.shape[1]]
    for (name, levels), column in zip(sizes.items(), factors.unbind(1), strict=True):
        if len(column) and not 0 <= int(column.min()) <= int(column.max()) < levels:
            raise ValueError(
                f"{name} must be between 0 and {levels - 1}, got {int(column.min())} to "
                f"{int(column.max())}"
            )


def _own_coordinates(factors: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel centres in the axes of upright sprites about their centroid, u to the right and v
    downwards, [n, size, size] in pixels; and the side of the square of equal area, [n, 1, 1]."""
    _, scale, orientation, x, y = factors[:, :5].float()[:, :, None, None].unbind(1)
    step = (1 - 2 * MARGIN) / (FACTOR_SIZES["x"] - 1)
    centres = torch.arange(size) + 0.5
    right = centres - size * (MARGIN + step * x)
    down = centres[:, None] - size * (MARGIN + step * y)
    angle = 2 * math.pi / FACTOR_SIZES["orientation"] * orientation
    u = angle.cos() * right + angle.sin() * down
    v = angle.cos() * down - angle.sin() * right
    side = size * SIDE * (SMALLEST + (1 - SMALLEST) / (FACTOR_SIZES["scale"] - 1) * scale)
    return u, v, side


# The part of a pixel that a shape covers is taken from the distance to its border, which is exact
# for a straight border along the pixel's sides and close to it otherwise.


def _inside(distance: Tensor) -> Tensor:
    """Covered part of a pixel whose centre has this signed distance (negative inside)."""
    return (0.5 - distance).clamp(0, 1)


def _box(u: Tensor, v: Tensor, half: Tensor) -> Tensor:
    return _inside(u.abs() - half) * _inside(v.abs() - half)


def _square(u: Tensor, v: Tensor, side: Tensor) -> Tensor:
    return _box(u, v, side / 2)


def _ellipse(u: Tensor, v: Tensor, side: Tensor) -> Tensor:
    """Twice as high as wide; the distance to first order, (q − 1)/|∇q| at the border of q = 1."""
    a = side / math.sqrt(2 * math.pi)
    b = 2 * a
    q = torch.hypot(u / a, v / b)
    slope = torch.hypot(u / a.square(), v / b.square()) / q  # 0/0 at the centre
    return _inside((q - 1) / slope).nan_to_num(1.0)


def _heart(u: Tensor, v: Tensor, side: Tensor) -> Tensor:
    """A square on its corner with half a disc on each of its upper sides."""
    half = side / math.sqrt(4 + math.pi)
    offset = half * (math.pi / 2 + 2 / 3) / (4 + math.pi)  # of the centroid, along both sides
    p = (u - v) / math.sqrt(2) + offset
    r = (-u - v) / math.sqrt(2) + offset
    discs = torch.minimum(torch.hypot(p - half, r), torch.hypot(p, r - half)) - half
    return torch.maximum(_box(p, r, half), _inside(discs))


COVERAGES: tuple[Callable[[Tensor, Tensor, Tensor], Tensor], ...] = (_square, _ellipse, _heart)
