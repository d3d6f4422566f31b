"""Samples from files: CSV and other text, .npy, .npz, .pt and .parquet, always as rows of numbers.

Nothing is unpickled. Where a file cannot be read as intended the ValueError names the file, the
line and the column, and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .. import chunks
from ..chunks import Batches
from ..kernels.statistics.sharing import ALONE, Share
from ..samples import check_integers
from . import delimited
from .columns import Columns, suggest

LARGE = 2**28  # bytes of a file that is read in chunks, where the test can
TEXT = (".csv", ".tsv", ".txt", ".dat", "")
NAMED_ARRAY = re.compile(r"(?P<path>.+\.(npz|pt|pth)):(?P<key>[^:]+)", re.IGNORECASE)


class Table(NamedTuple):
    """``values`` [n, d] with NaN where a cell is missing, the ``names`` of the columns (None where
    the file has none), and the ``labels`` [n] of the column that was asked for as such, with its
    ``header``. ``in_file`` counts the rows of the file."""

    source: str
    values: NDArray[np.float64]
    names: tuple[str, ...] | None = None
    labels: NDArray[np.str_] | None = None
    header: str | None = None
    note: str | None = None
    in_file: int = 0


def read_table(
    location: str,
    *,
    columns: Sequence[str] | None = None,
    labels: str | None = None,
    among: Share = ALONE,
) -> Table:
    """Read a sample.

    Args:
        location: a file; ``file.npz:name`` and ``file.pt:name`` are one array of several. Text may
            be delimited by tabs, semicolons, commas or spaces, with or without a header, with
            ``#`` before comments.
        columns: names, or numbers counted from 1, or ranges of them ("2-5"); all columns but that
            of the labels if None.
        labels: name or number of a column to read as labels, of any kind, instead of numbers.
        among: the processes that read the file, each its part of the rows.

    Raises:
        ValueError: what is in the file does not fit.
        OSError: the file cannot be read.
        ModuleNotFoundError: text and no pandas, or a .parquet file and no pyarrow.
    """
    path, key = _locate(location)
    suffix = path.suffix.lower()
    if suffix in TEXT:
        table = _read_text(path, location, columns, labels)
        own = among.span(len(table.values))
        part = None if table.labels is None else table.labels[own]
        return table._replace(values=table.values[own], labels=part, in_file=len(table.values))
    if suffix not in _READERS:
        known = ", ".join([*filter(None, TEXT), *_READERS])
        raise ValueError(f"{location}: unknown kind of file {suffix!r}; known are {known}")
    arrays, names = _READERS[suffix](path, key, location)
    found = Columns(location, names, len(arrays))
    picked, label = found.choose(columns, labels)
    count = len(arrays[0])
    arrays = [column[among.span(count)] for column in arrays]
    values = np.empty((len(arrays[0]), len(picked)))
    for target, position in enumerate(picked):
        values[:, target] = _numbers(arrays[position], found.title(position), location)
    texts = None if label is None else np.asarray(arrays[label]).astype(np.str_)
    header = names[label] if names and label is not None else None
    return Table(location, values, found.names_of(picked), texts, header, in_file=count)


def read_batches(location: str, *, columns: Sequence[str] | None = None) -> Batches:
    """The rows of a .npy or .parquet file, which are read when they are needed.

    Raises what ``read_table`` does; ValueError for columns that are no numbers when rows are read.
    """
    path, _ = _locate(location)
    names: list[str] | None = None
    if path.suffix.lower() == ".npy":
        arrays, _ = _read_numpy(path, None, location, mmap_mode="r")
        width, count = len(arrays), len(arrays[0])

        def parts(picked: Sequence[int]) -> Iterator[list[Any]]:
            for start in range(0, count, chunks.CHUNK):
                yield [arrays[p][start : start + chunks.CHUNK] for p in picked]

    else:
        file = _parquet(location).ParquetFile(path)
        names, count = file.schema_arrow.names, file.metadata.num_rows
        width = len(names)

        def parts(picked: Sequence[int]) -> Iterator[list[Any]]:
            wanted = dict.fromkeys(names[p] for p in picked)
            for batch in file.iter_batches(chunks.CHUNK, columns=[*wanted]):
                yield [batch.column(names[p]).to_numpy(zero_copy_only=False) for p in picked]

    found = Columns(location, names, width)
    picked, _ = found.choose(columns, None)

    def tables() -> Iterator[NDArray[np.float64]]:
        for part in parts(picked):
            titled = zip(part, map(found.title, picked), strict=True)
            yield np.column_stack([_numbers(column, title, location) for column, title in titled])

    return Batches(chunks.Again(tables), count, found.names_of(picked))


def is_large(location: str) -> bool:
    """A .npy or .parquet file that tests which read rows in chunks do not hold in memory."""
    path = Path(location)
    known = path.suffix.lower() in (".npy", ".parquet") and path.is_file()
    return known and path.stat().st_size > LARGE


def read_labels(location: str, count: int) -> NDArray[np.str_]:
    """The one column of a file as ``count`` labels of any kind, with or without a header."""
    table = read_table(location, labels="1")
    labels = table.labels
    assert labels is not None
    if table.values.shape[1] > 0:
        raise ValueError(f"{location} has {table.values.shape[1] + 1} columns; labels are one")
    if len(labels) == count - 1 and table.header is not None:  # its first label is no header
        labels = np.array([table.header, *labels])
    if len(labels) != count:
        header = f" (and the header {table.header!r})" if table.header else ""
        raise ValueError(
            f"{location} has {len(labels)} labels{header}; the samples have {count} rows"
        )
    return labels


def complete_rows(tables: Sequence[Table], *, drop: bool) -> NDArray[np.bool_]:
    """Which rows [n] have no missing cell in any of these ``tables`` of n rows each.

    Raises ValueError for missing cells, unless ``drop``, and for infinite ones always.
    """
    keep = np.ones(len(tables[0].values), dtype=np.bool_)
    for table in tables:
        infinite = np.asarray(np.isinf(table.values).any(1))
        if infinite.any():
            raise ValueError(f"{table.source}: {_count(infinite)} with infinite entries")
        missing = np.asarray(np.isnan(table.values).any(1))
        keep &= ~missing
        if missing.any() and not drop:
            raise ValueError(
                f"{table.source}: {_count(missing)} with NaN or empty cells; "
                "--drop-nan leaves them out"
            )
    return keep


def _count(rows: NDArray[np.bool_]) -> str:
    first = int(np.flatnonzero(rows)[0]) + 1
    return f"{int(rows.sum()):,} of {len(rows):,} rows (the first is row {first})"


def is_file(location: str) -> bool:
    """There is such a file, with or without the name of an array in it."""
    named = NAMED_ARRAY.fullmatch(location)
    return Path(location).is_file() or (named is not None and Path(named["path"]).is_file())


def _locate(location: str) -> tuple[Path, str | None]:
    """The path and, in ``file.npz:name``, the name. Raises OSError for what is no file."""
    path, key = Path(location), None
    named = NAMED_ARRAY.fullmatch(location)
    if named and not path.exists():
        path, key = Path(named["path"]), named["key"]
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    if not path.exists():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise FileNotFoundError(f"{path} does not exist{suggest(path.name, there)}")
    return path, key


def _read_text(path: Path, source: str, columns: Sequence[str] | None, labels: str | None) -> Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return Table(source, *delimited.parse(file, source, columns, labels))
    except UnicodeDecodeError:
        raise ValueError(f"{source} is not UTF-8 text") from None


# --- Arrays and tables in binary files -----------------------------------------------------------


def _numbers(column: Any, title: str, source: str) -> NDArray[np.float64]:
    array = np.asarray(column)
    if array.dtype == object:
        array = np.array([np.nan if cell is None else cell for cell in array])
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{source}, {title} has dtype {array.dtype}, not numbers")
    found = array.astype(np.float64)
    try:
        check_integers(array, found)
    except ValueError as error:
        raise ValueError(f"{source}, {title}: {error}") from None
    return found


_Read = tuple[list[Any], list[str] | None]  # columns, and their names


def _of_array(array: NDArray[Any], source: str) -> _Read:
    if array.ndim not in (1, 2):
        raise ValueError(
            f"{source} has shape {list(array.shape)}; a sample is [n, d] or [n] (reshape it)"
        )
    table = array.reshape(len(array), -1) if array.size else array
    if table.size == 0:
        raise ValueError(f"{source} is empty: shape {list(array.shape)}")
    return list(table.T), None


def _read_numpy(
    path: Path, key: str | None, source: str, mmap_mode: Literal["r"] | None = None
) -> _Read:
    try:
        found = np.load(path, mmap_mode, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return _of_array(found, source)
        with found:
            return _of_array(found[_one_of(found.files, key, source)], source)
    except (ValueError, EOFError) as error:
        words = "pickle", "Python objects"
        if not any(w in str(error) for w in words) and not isinstance(error, EOFError):
            raise
        raise ValueError(
            f"{source} is not an array of numbers (objects are not unpickled)"
        ) from None


def _read_torch(path: Path, key: str | None, source: str) -> _Read:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, …: what torch.load meets
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"{source} holds no plain tensor (nothing else is unpickled): {first}"
        ) from None
    if isinstance(found, dict):
        found = found[_one_of(list(found), key, source)]
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"{source} holds {type(found).__name__}, not a tensor")
    found = found.detach()
    return _of_array((found.double() if found.is_floating_point() else found).numpy(), source)


def _one_of(keys: Sequence[str], key: str | None, source: str) -> str:
    """The array named, or the only one."""
    if key in keys:
        return str(key)
    if key is None and len(keys) == 1:
        return keys[0]
    shown = ", ".join(map(str, keys)) or "none"
    if key is None:
        raise ValueError(f"{source} holds several arrays ({shown}); name one as {source}:NAME")
    raise ValueError(f"{source}: no such array{suggest(key, keys)} (it holds {shown})")


def _read_parquet(path: Path, key: str | None, source: str) -> _Read:
    del key  # there is one table in a file
    table = _parquet(source).read_table(path)
    return [column.to_numpy() for column in table.columns], list(table.column_names)


def _parquet(source: str) -> Any:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f'{source}: reading .parquet needs pyarrow: pip install "divergences[tables]"',
            name="pyarrow",
        ) from None
    return parquet


_READERS: dict[str, Callable[[Path, str | None, str], _Read]] = {
    ".npy": _read_numpy,
    ".npz": _read_numpy,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".parquet": _read_parquet,
}
