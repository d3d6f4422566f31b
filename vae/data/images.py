"""Image folders."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae._extras import needs_extra
from vae.data.data import Data
from vae.data.split import Split, divided

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff"}
    | {".webp"}
)
HELDOUT_FOLDERS = ("heldout", "test")
EIGHT_BIT = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
PROGRESS_AFTER = 3.0  # seconds before a bar appears
THREADS = 4  # decoding leaves Python's lock
NAMED = 5  # broken files in one message


def image_folder(folder: Path, split: Split, *, size: int | None = None) -> Data:
    """The images of a folder, as bytes; grey if no image has colours, RGB otherwise.

    The images lie in the folder itself, or in one sub-folder for each class, whose labels follow
    the alphabet. Where there are folders `train` and `heldout` (or `test`), that is the split.
    Transparent pixels become white, and photographs are turned upright. Hidden files and files
    without the suffix of an image are passed over.

    Args:
        folder: with the images.
        split: into images to train on and to hold out; no others are read.
        size: side of a square: the middle of each image is cut out and resized to it. None takes
            the images as they are, all of one size.

    Raises:
        ModuleNotFoundError: Pillow or tqdm is missing.
        ValueError: no images; images and class folders side by side; files that cannot be read or
            have more than 8 bits (named); images of different sizes without `size`.
    """
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    second = next((folder / n for n in HELDOUT_FOLDERS if (folder / n).is_dir()), None)
    if second is not None and (folder / "train").is_dir():
        train, held = _labelled(folder / "train"), _labelled(second)
        numbers = split.given(len(train), len(held))
    else:
        train = held = _labelled(folder)
        numbers = split.of(len(train))
    chosen = [
        [files[i] for i in torch.arange(len(files))[rows].tolist()]
        for files, rows in zip((train, held), numbers, strict=True)
    ]
    files = [*chosen[0], *chosen[1]]
    pixels = _read([path for path, _ in files], size)
    parts = (slice(len(chosen[0])), slice(len(chosen[0]), None))
    labels, shape = _numbered([label for _, label in files]), tuple(pixels.shape[1:])
    name = folder.resolve().name
    return divided(Data, parts, pixels.flatten(1), labels, name=name, shape=shape)


def _labelled(folder: Path) -> list[tuple[Path, str]]:
    """The images and their class folders, "" for images in the folder itself, in their order."""
    found = []
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in inner)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            found.append((path, inner[0] if len(inner) > 1 else ""))
    if not found:
        raise ValueError(f"{folder} has no images ({', '.join(sorted(SUFFIXES))})")
    classes = {label for _, label in found}
    if "" in classes and len(classes) > 1:
        raise ValueError(
            f"{folder} has images beside sub-folders with images ({max(classes)}): are they "
            "classes? Move either away"
        )
    return found


def _numbered(labels: Sequence[str]) -> Tensor | None:
    """Class numbers in alphabetical order; None where there is one class only."""
    classes = sorted(set(labels))
    number = {label: i for i, label in enumerate(classes)}
    return None if len(classes) == 1 else torch.tensor([number[label] for label in labels])


def _read(paths: Sequence[Path], size: int | None) -> Tensor:
    """[n, C, H, W] uint8."""
    with needs_extra():
        from tqdm import tqdm
    pool = ThreadPoolExecutor(THREADS)
    try:
        decoded = pool.map(partial(_decode, size=size), paths)
        bar = tqdm(decoded, "images", len(paths), delay=PROGRESS_AFTER, leave=False, disable=None)
        images = _stacked(bar, paths)
    finally:
        pool.shutdown(cancel_futures=True)
    if bool((images == images[..., :1]).all()):
        images = images[..., :1]
    return torch.from_numpy(images).movedim(3, 1).contiguous()


def _stacked(
    decoded: Iterable[NDArray[np.uint8] | str], paths: Sequence[Path]
) -> NDArray[np.uint8]:
    """[n, H, W, 3]. Raises ValueError for images that are broken or of another size."""
    images: NDArray[np.uint8] | None = None
    broken = []
    for i, image in enumerate(decoded):
        if isinstance(image, str):
            broken.append(f"{paths[i]} ({image})")
            continue
        if images is None:
            images = np.empty((len(paths), *image.shape), dtype=np.uint8)
            first = paths[i]
        if image.shape != images.shape[1:]:
            raise ValueError(
                f"{paths[i]} is {image.shape[1]}×{image.shape[0]}, but {first} is "
                f"{images.shape[2]}×{images.shape[1]}; give size, to which all are cut"
            )
        images[i] = image
    if broken or images is None:
        more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        raise ValueError(
            f"{len(broken)} of {len(paths)} images cannot be read: {'; '.join(broken[:NAMED])}"
            f"{more}"
        )
    return images


def _decode(path: Path, size: int | None) -> NDArray[np.uint8] | str:
    """[H, W, 3], or what is wrong with the file."""
    with needs_extra():
        from PIL import Image, ImageOps
    try:
        with Image.open(path) as file:
            if file.mode not in EIGHT_BIT:
                return f"mode {file.mode}, not 8 bits per channel"
            image = ImageOps.exif_transpose(file)
            if "A" in image.getbands() or "transparency" in image.info:
                over = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
            image = image.convert("RGB")
            if size is not None:
                side = min(image.size)
                left, top = ((length - side) // 2 for length in image.size)
                middle = image.crop((left, top, left + side, top + side))
                image = middle.resize((size, size), Image.Resampling.LANCZOS)
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error)
