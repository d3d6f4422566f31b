"""Delimited text, read by pandas: delimiter, header and missing cells are recognised here."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from .columns import Columns

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
END = "\x1f"  # a last cell for every row: pandas fills up short rows in silence


class Parsed(NamedTuple):
    values: NDArray[np.float64]  # [n, d]
    names: tuple[str, ...] | None
    labels: NDArray[np.str_] | None  # [n]
    header: str | None  # of the labels
    note: str | None


def parse(file: TextIO, source: str, columns: Sequence[str] | None, labels: str | None) -> Parsed:
    """See ``tables.read_table``. One pass over the file, so that a pipe will do.

    Raises:
        ModuleNotFoundError: pandas is missing.
        ValueError: the text is no table of numbers, by line and column.
    """
    # pandas would skip comments and blank lines too, and lose count of the lines
    rows = [(n, s) for n, s in enumerate(file, 1) if s.strip() and not s.startswith("#")]
    if not rows:
        raise ValueError(f"{source} is empty")
    numbers = np.array([number for number, _ in rows])
    cells = _cells([line for _, line in rows], source, numbers)
    names = None
    if _is_header(cells.iloc[:2].to_numpy().tolist()):
        names = [cell.strip() for cell in cells.iloc[0]]
        cells, numbers = cells.iloc[1:], numbers[1:]
        if cells.empty:
            raise ValueError(f"{source} has a header and no rows")
    found = Columns(source, names, cells.shape[1])
    picked, label = found.choose(columns, labels)
    table = np.empty((len(cells), len(picked)))
    for target, position in enumerate(picked):
        table[:, target] = _numbers(cells.iloc[:, position], numbers, found, position)

    note = None
    if names and columns is None and picked[:1] == [0] and not names[0] and _counts(table[:, 0]):
        picked, table = picked[1:], table[:, 1:]
        note = f"{source}: the first column has no name and counts the rows; left out"
    if label is None:
        return Parsed(table, found.names_of(picked), None, None, note)
    texts = np.array(cells.iloc[:, label].str.strip().tolist(), dtype=np.str_)
    header = names[label] if names else None
    return Parsed(table, found.names_of(picked), texts, header, note)


def _cells(lines: Sequence[str], source: str, numbers: NDArray[np.int64]) -> Any:
    """A data frame of text; every row has as many cells as the first."""
    try:
        import pandas
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f'{source}: reading text needs pandas: pip install "divergences[tables]"', name="pandas"
        ) from None
    delimiter = next((d for d in "\t;," if d in lines[0]), None)
    settings: dict[str, Any] = dict(header=None, dtype=str, keep_default_na=False)
    if delimiter is None:
        settings |= dict(sep=r"\s+")
    else:
        settings |= dict(sep=delimiter, skipinitialspace=delimiter != "\t")
    last = f"{delimiter or ' '}{END}"
    text = "\n".join(line.strip(" \r\n") + last for line in lines)
    try:
        cells = pandas.read_csv(io.StringIO(text), **settings)
    except pandas.errors.ParserError as error:
        many = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if many is None:  # such as a quote without an end
            raise ValueError(f"{source}: {error}") from None
        width, row, count = (int(number) - 1 for number in many.groups())
        raise ValueError(_ragged(source, numbers[row], count, width)) from None
    short = (cells.iloc[:, -1] != END).to_numpy()
    if short.any():
        row = int(short.argmax())
        count = cells.iloc[row].tolist().index(END)
        raise ValueError(_ragged(source, numbers[row], count, cells.shape[1] - 1))
    return cells.iloc[:, :-1]


def _ragged(source: str, line: int, count: int, width: int) -> str:
    return f"{source}, line {line} has {count} cells; the first row has {width}"


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """The first row is text throughout, or where the second one has a number."""
    kinds = [[_kind(cell) for cell in row] for row in rows]
    if "number" not in kinds[0]:
        return "text" in kinds[0]
    return any(pair == ("text", "number") for pair in zip(kinds[0], kinds[-1], strict=True))


def _kind(cell: str) -> str:
    if cell.strip().lower() in MISSING:
        return "missing"
    try:
        float(cell)
    except ValueError:
        return "text"
    return "number"


def _numbers(
    column: Any, lines: NDArray[np.int64], columns: Columns, position: int
) -> NDArray[np.float64]:
    """A column of text as numbers, NaN where a cell is missing."""
    try:
        found = np.asarray(column, dtype=np.float64)
    except ValueError:
        cells = column.str.strip()
        missing = cells.str.lower().isin(MISSING).to_numpy()
        for line, cell in zip(lines[~missing], cells[~missing], strict=True):
            if _kind(cell) == "text":
                decimal = re.fullmatch(r"-?\d+,\d+", cell)
                advice = "choose the columns of numbers (see --help)"
                raise ValueError(
                    f"{columns.source}, line {line}, {columns.title(position)}: {cell!r} is "
                    f"not a number; {'write decimal points' if decimal else advice}"
                ) from None
        found = np.asarray(cells.mask(missing, "nan"), dtype=np.float64)
    for row in np.flatnonzero(np.abs(found) >= 2.0**53):
        whole = re.fullmatch(r"[-+]?\d+", column.iloc[row].strip())
        if whole and int(whole[0]) != float(found[row]):
            where = f"{columns.source}, line {lines[row]}, {columns.title(position)}"
            raise ValueError(
                f"{where}: fp64 does not hold {whole[0]}; leave out columns that only number rows"
            )
    return found


def _counts(column: NDArray[np.float64]) -> bool:
    return bool((np.diff(column) == 1.0).all()) and float(column[0]) in (0.0, 1.0)
