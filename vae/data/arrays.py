"""Data from .npy and .npz files; pickled objects are never loaded."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae.data.data import Data, refuse_nonfinite
from vae.data.split import Split

# The names of what a .npz file may hold: our own, then those of Keras' mnist.npz and of dSprites.
ALIASES = {
    "train": ("train", "x_train"),
    "heldout": ("heldout", "test", "x_test"),
    "train_labels": ("train_labels", "y_train"),
    "heldout_labels": ("heldout_labels", "test_labels", "y_test"),
    "train_factors": ("train_factors",),
    "heldout_factors": ("heldout_factors", "test_factors"),
    "all": ("data", "imgs"),
    "all_labels": ("labels",),
    "all_factors": ("factors", "latents_classes"),
    "factor_names": ("factor_names",),
}
CHANNELS = (1, 3)
Arrays = Mapping[str, NDArray[Any]]


def array_file(path: Path, split: Split) -> Data:
    """The data of a .npy file, one array, or of a .npz file.

    A .npz file holds `train` and, if it likes, `heldout` (or `test`), each with `_labels` and
    `_factors`; or `data` (or one array of any name) with `labels` and `factors`, which is split at
    random; and `factor_names`. Values are [N, D], or images [N, H, W], [N, C, H, W] or
    [N, H, W, C] with 1 or 3 channels: floats, bytes 0…255, or 0 and 1 as booleans or bytes.

    Args:
        path: of the file.
        split: into rows to train on and to hold out.

    Raises:
        ValueError: a broken file, arrays of other names, shapes or types, Python objects, rows
            with NaN or infinite values (with their number).
        OSError: the file cannot be read.
    """
    arrays = _loaded(path)
    names = _factor_names(arrays, path)
    if "heldout" in arrays:
        train, shape = _values(arrays["train"], _title(path, "train"))
        held, other = _values(arrays["heldout"], _title(path, "heldout"))
        if shape != other or train.dtype != held.dtype:
            raise ValueError(
                f"{path}: train and heldout must agree; got rows of shape {shape}, {train.dtype}, "
                f"and {other}, {held.dtype}"
            )
        chosen, kept = split.given(len(train), len(held))
        parts = (("train", "train", train, chosen), ("heldout", "heldout", held, kept))
    else:
        source = "train" if "train" in arrays else "all"
        values, shape = _values(arrays[source], _title(path, source))
        first, second = split.of(len(values))
        parts = (("train", source, values, first), ("heldout", source, values, second))
    fields: dict[str, Any] = {}
    for part, source, values, rows in parts:
        fields[part] = values[rows]
        for kind in ("labels", "factors"):
            known = arrays.get(f"{source}_{kind}")
            if known is not None:
                what = _title(path, f"{source}_{kind}")
                fields[f"{part}_{kind}"] = _integers(known, what, len(values), kind)[rows]
    return Data(name=path.stem, shape=shape, factor_names=names, **fields)


def _loaded(path: Path) -> Arrays:
    """The arrays of a file under the keys of `ALIASES`; no other is read."""
    with path.open("rb") as file:
        with _readable(path):
            content = np.load(file, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {"all": content}
        names = _recognised(content.files, path)
        with _readable(path):
            return {key: content[name] for key, name in names.items()}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):  # of objects, and of files of any other format
            raise ValueError(
                f"{path} is no NumPy file, or holds Python objects, which are never loaded; save "
                "arrays of numbers"
            ) from None
        raise ValueError(f"{path} cannot be read: {error}") from None


def _recognised(names: Sequence[str], path: Path) -> dict[str, str]:
    """The name of an array for each key of `ALIASES` that the file has."""
    found = {}
    for key, aliases in ALIASES.items():
        present = [alias for alias in aliases if alias in names]
        if len(present) > 1:
            raise ValueError(f"{path} has both {' and '.join(present)}; keep one of them")
        if present:
            found[key] = present[0]
    if "heldout" in found and "train" not in found:
        raise ValueError(f"{path} has {found['heldout']} but no train")
    if not {"train", "all"} & found.keys():
        others = [name for name in names if name not in found.values()]
        if len(others) != 1:
            raise ValueError(
                f"{path} must hold an array named train, or data; it has "
                f"{', '.join(names) or 'none'}"
            )
        found["all"] = others[0]
    return found


def _title(path: Path, key: str) -> str:
    """The name of an array in messages."""
    return str(path) if key == "all" else f"{path}: {key.removeprefix('all_')}"


def _values(array: NDArray[Any], what: str) -> tuple[Tensor, tuple[int, ...]]:
    """Rows [N, D], float32 or uint8, and the shape of one."""
    kind = array.dtype.kind
    if kind not in "fb" and array.dtype != np.uint8:
        raise ValueError(
            f"{what} has dtype {array.dtype}; use uint8 for pixels 0…255, bool for 0 and 1, or "
            "float32"
        )
    array, shape = _rows(array, what)
    if kind == "f":
        with np.errstate(over="ignore"):  # becomes infinite, which is refused with its row
            values = torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
        refuse_nonfinite(values, what)
        return values, shape
    values = torch.from_numpy(np.require(array, np.uint8, ["C", "W"]))
    if bool((values <= 1).all()):
        values *= 255
    return values, shape


def _rows(array: NDArray[Any], what: str) -> tuple[NDArray[Any], tuple[int, ...]]:
    """[N, D], channels first, and the shape of one row."""
    given = array.shape
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and given[1] not in CHANNELS and given[3] in CHANNELS:
        array = np.moveaxis(array, 3, 1)
    if array.ndim not in (2, 4) or (array.ndim == 4 and array.shape[1] not in CHANNELS):
        raise ValueError(
            f"{what} must have shape [N, D], or [N, H, W], [N, C, H, W] or [N, H, W, C] with 1 or "
            f"3 channels; got {list(given)}"
        )
    if array.size == 0:
        raise ValueError(f"{what} is empty: its shape is {list(given)}")
    shape = array.shape[1:]
    return array.reshape(len(array), -1), shape


def _integers(array: NDArray[Any], what: str, count: int, kind: str) -> Tensor:
    """Labels [N], also from [N, 1], or factors [N, F]."""
    if array.dtype.kind not in "iub":
        raise ValueError(f"{what} must be integers; got {array.dtype}")
    if kind == "labels" and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if len(array.shape) != (1 if kind == "labels" else 2) or len(array) != count:
        wanted = f"[{count}]" if kind == "labels" else f"[{count}, F]"
        raise ValueError(f"{what} must have shape {wanted}; got {list(array.shape)}")
    return torch.from_numpy(array.astype(np.int64))


def _factor_names(arrays: Arrays, path: Path) -> tuple[str, ...]:
    """The names given, or "factor 1", "factor 2"…"""
    factors = next((arrays[key] for key in arrays if key.endswith("_factors")), None)
    if factors is None or factors.ndim != 2:
        return ()
    names = arrays.get("factor_names")
    if names is None:
        return tuple(f"factor {number}" for number in range(1, factors.shape[1] + 1))
    if names.shape != factors.shape[1:]:
        raise ValueError(
            f"{path}: factor_names must be {factors.shape[1]} names; got shape {list(names.shape)}"
        )
    return tuple(map(str, names))
