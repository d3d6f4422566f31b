"""IDX files: MNIST, Fashion-MNIST and other data in their four files."""

import gzip
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vae.data.data import Data
from vae.data.split import Split

FOLDER_VARIABLE = "VAE_DATA"
DEFAULT_FOLDERS = (
    "data",
    "~/data",
    "~/datasets",
    "/usr/local/share/datasets",
    "/usr/share/datasets",
)
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
HINTS = {
    "mnist": "torchvision.datasets.MNIST(root, download=True) fetches them",
    "fashion-mnist": "Debian's package dataset-fashion-mnist installs them, and "
    "torchvision.datasets.FashionMNIST(root, download=True) fetches them",
}
FILES = {
    "train": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "heldout": "t10k-images-idx3-ubyte",
    "heldout_labels": "t10k-labels-idx1-ubyte",
}
BYTES = 0x08  # the code of unsigned bytes


def read_idx(path: Path) -> Tensor:
    """The uint8 array of one IDX file (http://yann.lecun.com/exdb/mnist), gzipped or not.

    Two zero bytes, the code of the type, the number of dimensions, their sizes as big-endian
    32-bit integers, the values in row-major order.

    Raises:
        ValueError: anything else, by the path: another format or type, too few bytes or too many.
        OSError: the file cannot be read.
    """
    content = bytearray(_unpacked(path))
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(f"{path} is no IDX file: it starts with {bytes(content[:4])!r}")
    code, dims = content[2], content[3]
    if code != BYTES:
        raise ValueError(f"{path} has IDX type 0x{code:02x}; only bytes (0x{BYTES:02x}) are read")
    start = 4 + 4 * dims
    if len(content) < start:
        raise ValueError(f"{path} ends within its header, after {len(content)} bytes of {start}")
    sizes = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    expected, found = math.prod(sizes), len(content) - start
    if found != expected:
        state = "is truncated" if found < expected else "is too long"
        raise ValueError(f"{path} {state}: {found} values where its header {sizes} says {expected}")
    if found == 0:
        raise ValueError(f"{path} holds no values: its header says {sizes}")
    return torch.frombuffer(content, dtype=torch.uint8, offset=start).reshape(sizes)


def idx_files(folder: Path) -> Mapping[str, Path]:
    """Those of the four files that the folder holds, by the fields of `Data`."""
    found = {}
    for field, name in FILES.items():
        variants = (name, name.replace("-idx", ".idx"))
        paths = [folder / f"{v}{end}" for v in variants for end in ("", ".gz")]
        present = next((path for path in paths if path.is_file()), None)
        if present is not None:
            found[field] = present
    return found


def idx_folder(folder: Path, name: str, split: Split) -> Data:
    """The data of a folder with all four files; their test images are the held-out rows.

    Args:
        folder: with the files, gzipped or not.
        name: of the data.
        split: how many of either.

    Raises:
        ValueError: a broken file, or parts that do not fit each other.
    """
    arrays = {field: read_idx(path) for field, path in idx_files(folder).items()}
    for part in ("train", "heldout"):
        images, labels = arrays[part], arrays[f"{part}_labels"]
        if images.dim() != 3 or labels.dim() != 1 or len(images) != len(labels):
            raise ValueError(
                f"{folder}: {FILES[part]} must hold [N, H, W] and {FILES[f'{part}_labels']} [N], "
                f"got {list(images.shape)} and {list(labels.shape)}"
            )
    train, test = arrays["train"], arrays["heldout"]
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"{folder}: training images are {list(train.shape[1:])}, test images "
            f"{list(test.shape[1:])}"
        )
    chosen, held = split.given(len(train), len(test))
    return Data(
        name=name,
        train=train.flatten(1)[chosen],
        heldout=test.flatten(1)[held],
        shape=(1, *train.shape[1:]),
        train_labels=arrays["train_labels"].long()[chosen],
        heldout_labels=arrays["heldout_labels"].long()[held],
    )


def find_idx_folder(name: str, root: str | Path | None) -> Path:
    """The folder with the files of "mnist" or "fashion-mnist".

    With a `root`: in `root/name`, in `root/MNIST/raw` or `root/FashionMNIST/raw` (torchvision's
    layout), or in `root` itself. Without: in the like of the first two of the folder that the
    environment variable VAE_DATA names, then of `DEFAULT_FOLDERS`.

    Raises:
        FileNotFoundError: with the files that are missing, where they were looked for, and how to
            get them.
    """
    variable = os.environ.get(FOLDER_VARIABLE)
    usual = (variable, *DEFAULT_FOLDERS) if variable else DEFAULT_FOLDERS
    bases = [Path(base).expanduser() for base in (usual if root is None else (root,))]
    inner = [name, f"{TORCHVISION[name]}/raw"]
    if root is not None:  # a usual folder must not pass for both data sets
        inner.append(".")
    candidates = [base / folder for base in bases for folder in inner]
    for folder in candidates:
        if len(idx_files(folder)) == len(FILES):
            return folder
    raise _missing(name, bases, candidates)


def _missing(name: str, bases: Sequence[Path], candidates: Sequence[Path]) -> FileNotFoundError:
    for folder in candidates:
        found = idx_files(folder)
        if found:
            lacking = ", ".join(file for field, file in FILES.items() if field not in found)
            return FileNotFoundError(f"{name}: {folder} lacks {lacking} (or .gz); {HINTS[name]}")
    return FileNotFoundError(
        f"{name}: {', '.join(FILES.values())} (or .gz) are not in FOLDER/{name} or "
        f"FOLDER/{TORCHVISION[name]}/raw, where FOLDER was {', '.join(map(str, bases))}; name "
        f"another with root or the environment variable {FOLDER_VARIABLE}. {HINTS[name]}"
    )


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is a broken gzip file: {error}") from None
