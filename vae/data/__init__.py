"""Data sets by name, from NumPy's files and from folders, all in memory.

The names of what comes with the installation or is drawn on demand: digits (scikit-learn's 8×8),
gaussian-mixture (four modes in the plane), shapes and coloured-shapes (sprites with known factors).
mnist and fashion-mnist are read from their IDX files; nothing is ever downloaded.
"""

from pathlib import Path

from divergences.command.columns import suggest
from vae.data.arrays import array_file
from vae.data.binarise import binarised
from vae.data.bundled import LabelledData, digits, gaussian_mixture
from vae.data.data import Binarise, Data, check_binarise
from vae.data.idx import FILES, find_idx_folder, idx_files, idx_folder, read_idx
from vae.data.images import image_folder
from vae.data.shapes import FACTOR_SIZES, FACTORS, render_shapes, shapes
from vae.data.split import Split, at_least_one
from vae.data.text import text_file

NAMES: tuple[str, ...] = ("digits", "gaussian-mixture", "mnist", "fashion-mnist", *FACTORS)
ARRAY_SUFFIXES = (".npy", ".npz")
TEXT_SUFFIX = ".txt"

__all__ = [
    "FACTOR_SIZES",
    "NAMES",
    "Binarise",
    "Data",
    "LabelledData",
    "binarised",
    "digits",
    "gaussian_mixture",
    "load",
    "read_idx",
    "render_shapes",
    "shapes",
]


def load(
    source: str,
    *,
    root: str | Path | None = None,
    heldout: int | None = None,
    seed: int = 0,
    binarise: Binarise = "none",
    size: int | None = None,
    limit: int | None = None,
) -> Data:
    """A data set in two parts.

    Args:
        source: one of `NAMES`, or the path of a .npy or .npz file (`vae.data.arrays.array_file`
            says what it may hold), of a .txt file (`vae.data.text.text_file`), of a folder of
            images (`vae.data.images.image_folder`), or of a folder with the four IDX files of MNIST
            or its kin.
        root: where mnist and fashion-mnist are (`vae.data.idx.find_idx_folder`); None looks into
            the folder that the environment variable VAE_DATA names and the usual ones.
        heldout: number of rows held out. None: all test images of data that come with some; 600 of
            digits, 1000 of gaussian-mixture, 2000 of shapes; a fifth, drawn at random, otherwise.
        seed: of the split, of data that are drawn, and of training rows that are binarised once.
        binarise: "none", "dynamic" (training rows anew at each reading) or "fixed"; see
            `binarised`.
        size: side in pixels: of shapes (32), or to which images of a folder are cut; bytes of a
            row of text.
        limit: number of rows to train on: for gaussian-mixture and shapes how many are drawn (2000
            and 8000), for others at most so many, at random.

    Raises:
        ModuleNotFoundError: a library of the extra is missing.
        ValueError: an unknown name (with those that are near), arguments out of range or of no
            use for this source, data that cannot be read or used (with file and reason).
        FileNotFoundError: no such path; or missing IDX files, with where they were looked for.

    Examples:
        >>> from vae import load
        >>> data = load("digits", limit=500)
        >>> data.train.shape, data.heldout.shape, data.shape
        (torch.Size([500, 64]), torch.Size([600, 64]), (1, 8, 8))
    """
    check_binarise(binarise)
    at_least_one(limit, "limit")
    split = Split(heldout, limit, seed)
    data = _named(source, root, split, size)
    if data is None:
        data = _at(Path(source).expanduser(), split, size)
    return binarised(data, binarise, seed=seed)


def _named(source: str, root: str | Path | None, split: Split, size: int | None) -> Data | None:
    """The data of one of `NAMES`; None for another source."""
    if source in NAMES and source not in FACTORS:
        _refuse_size(source, size)
    heldout, limit, seed = split
    match source:
        case "digits":
            return digits(heldout=_or(heldout, 600), seed=seed, limit=limit)
        case "gaussian-mixture":
            return gaussian_mixture(_or(limit, 2000), heldout=_or(heldout, 1000), seed=seed)
        case "shapes" | "coloured-shapes":
            return shapes(
                train=_or(limit, 8000), heldout=_or(heldout, 2000), size=_or(size, 32), seed=seed,
                coloured=source == "coloured-shapes",
            )  # fmt: skip
        case "mnist" | "fashion-mnist":
            return idx_folder(find_idx_folder(source, root), source, split)
    return None


def _at(path: Path, split: Split, size: int | None) -> Data:
    """The data of a file or folder."""
    if path.is_dir():
        if len(idx_files(path)) < len(FILES):
            return image_folder(path, split, size=size)
        _refuse_size(path, size)
        return idx_folder(path, path.resolve().name, split)
    if not path.exists():
        raise _unknown(path)
    if path.suffix.lower() == TEXT_SUFFIX:
        return text_file(path, split, size=size)
    if path.suffix.lower() not in ARRAY_SUFFIXES:
        raise ValueError(f"{path} must be a .npy, .npz or .txt file, or a folder")
    _refuse_size(path, size)
    return array_file(path, split)


def _unknown(path: Path) -> Exception:
    """A path that is not there, or a name that is not known."""
    if len(path.parts) > 1 or path.suffix:
        return FileNotFoundError(f"there is no file or folder {path}")
    return ValueError(
        f"unknown data {str(path)!r}{suggest(str(path).lower(), NAMES)} (known: "
        f"{', '.join(NAMES)}; or the path of a .npy, .npz or .txt file or of a folder)"
    )


def _refuse_size(source: str | Path, size: int | None) -> None:
    if size is not None:
        raise ValueError(
            f"size={size} has no meaning for {source}; it is for shapes, images and text"
        )


def _or(given: int | None, default: int) -> int:
    return default if given is None else given
