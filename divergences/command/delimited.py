"""Delimited text: what separates the cells, whether there is a header, and the numbers."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from .columns import Columns

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
CHUNK = 20_000  # lines converted at a time
Row = tuple[int, list[str]]  # its line, and its cells


class Parsed(NamedTuple):
    values: NDArray[np.float64]  # [n, d]
    names: tuple[str, ...] | None
    labels: NDArray[np.str_] | None  # [n]
    header: str | None  # of the labels
    note: str | None


def parse(file: TextIO, source: str, columns: Sequence[str] | None, labels: str | None) -> Parsed:
    """See ``tables.read_table``. One pass over the file, so that a pipe will do."""
    skipped, first = 0, ""
    for skipped, first in enumerate(file):  # noqa: B007
        if first.strip() and not first.startswith("#"):
            break
    delimiter = next((d for d in "\t;," if d in first), " ")
    reader = _rows(chain([first], file), delimiter, skipped)
    top = list(islice(reader, 2))
    if not top:
        raise ValueError(f"{source} is empty")
    width = len(top[0][1])
    names = None
    if _is_header([cells for _, cells in top]):
        names = [cell.strip() for cell in top.pop(0)[1]]
        if not top:
            raise ValueError(f"{source} has a header and no rows")
    found = Columns(source, names, width)
    picked, label = found.choose(columns, labels)

    parts, texts, line = [], [], top[-1][0]
    rows: Iterable[Row] = top
    while True:
        for chunk in _chunks(rows):
            parts.append(_convert(chunk, picked, found))
            if label is not None:
                texts += [cells[label].strip() for _, cells in chunk]
        rest: list[str] = []
        while rest := list(islice(file, CHUNK)):
            fast = _fast(rest, delimiter, picked, width) if label is None else None
            if fast is None:  # to be read cell by cell, from here on
                break
            parts.append(fast)
            line += len(rest)
        if not rest:
            break
        rows = _rows(chain(rest, file), delimiter, line)
    table = np.concatenate(parts)

    note = None
    if names and columns is None and picked[:1] == [0] and not names[0] and _counts(table[:, 0]):
        picked, table = picked[1:], table[:, 1:]
        note = f"{source}: the first column has no name and counts the rows; left out"
    if label is None:
        return Parsed(table, found.names_of(picked), None, None, note)
    header = names[label] if names else None
    return Parsed(table, found.names_of(picked), np.array(texts, dtype=np.str_), header, note)


def _rows(lines: Iterable[str], delimiter: str, before: int) -> Iterator[Row]:
    """The rows of ``lines``, of which ``before`` precede; blank lines and comments are none."""
    if delimiter == " ":
        lines = (line.strip() for line in lines)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    for cells in reader:
        if cells and not cells[0].startswith("#"):
            yield before + reader.line_num, cells


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """The first row is text throughout, or where the second one has a number."""
    kinds = [[_kind(cell) for cell in row] for row in rows]
    if "number" not in kinds[0]:
        return "text" in kinds[0]
    return any(pair == ("text", "number") for pair in zip(kinds[0], kinds[-1], strict=False))


def _kind(cell: str) -> str:
    if cell.strip().lower() in MISSING:
        return "missing"
    try:
        float(cell)
    except ValueError:
        return "text"
    return "number"


def _fast(
    lines: Sequence[str], delimiter: str, picked: Sequence[int], width: int
) -> NDArray[np.float64] | None:
    """The numbers of lines that hold ``width`` plain numbers each; None if they may not."""
    if delimiter == " ":
        even = all(len(line.split()) == width for line in lines)
    else:
        even = all(line.count(delimiter) == width - 1 and line.strip() for line in lines)
    if not even or not picked:
        return None
    try:
        return np.loadtxt(
            lines,
            delimiter=None if delimiter == " " else delimiter,
            usecols=picked,
            ndmin=2,
            comments=None,
        )
    except ValueError:
        return None


def _convert(chunk: Sequence[Row], picked: Sequence[int], columns: Columns) -> NDArray[np.float64]:
    values = np.empty((len(chunk), len(picked)))
    for row, (line, cells) in enumerate(chunk):
        if len(cells) != columns.width:
            raise ValueError(
                f"{columns.source}, line {line} has {len(cells)} cells; the first row has "
                f"{columns.width}"
            )
        for target, position in enumerate(picked):
            cell = cells[position]
            try:
                values[row, target] = float(cell)
            except ValueError:
                if _kind(cell) == "text":
                    raise ValueError(
                        f"{columns.source}, line {line}, {columns.title(position)}: {cell!r} is "
                        f"not a number; {_advice(cell)}"
                    ) from None
                values[row, target] = np.nan
    return values


def _advice(cell: str) -> str:
    if re.fullmatch(r"\s*-?\d+,\d+\s*", cell):
        return "write decimal points"
    return "choose the columns of numbers (see --help)"


def _counts(column: NDArray[np.float64]) -> bool:
    return bool((np.diff(column) == 1.0).all()) and float(column[0]) in (0.0, 1.0)
