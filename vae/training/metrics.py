"""metrics.csv: a row per check, without duplicates or torn lines after a resume."""

from __future__ import annotations

import csv
from pathlib import Path

from divergences.files import replacing

Row = dict[str, float]


def read_metrics(path: Path, *, up_to: float = float("inf")) -> list[Row]:
    """The whole rows of a file, those of steps beyond ``up_to`` left out; [] without a file.

    Raises:
        ValueError: it is not a metrics.csv.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a metrics.csv: {error}") from error
    if len(lines) > 1 and "step" not in lines[0]:
        raise ValueError(f"{path} is not a metrics.csv: its first line names no column 'step'")
    rows: list[Row] = []
    for cells in lines[1:]:
        try:
            row = dict(zip(lines[0], map(float, cells), strict=True))
        except ValueError:  # a line that a killed process left unfinished
            break
        if row["step"] <= up_to:
            rows.append(row)
    return rows


def write_metrics(path: Path, rows: list[Row]) -> None:
    """The whole file."""
    with replacing(path) as file:
        if rows:
            file.write("".join([_line(list(rows[0])), *(_values(row) for row in rows)]).encode())


def append_metrics(path: Path, row: Row) -> None:
    """One row more; the first one brings the header. Raises OSError, with the path."""
    line = _values(row)
    if not path.exists() or path.stat().st_size == 0:
        line = _line(list(row)) + line
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(line)
    except OSError as error:
        message = f"cannot write the metrics ({error.strerror}; checkpoints are intact)"
        raise OSError(error.errno, message, str(path)) from error


def _values(row: Row) -> str:
    return _line([repr(int(v)) if float(v).is_integer() else repr(float(v)) for v in row.values()])


def _line(cells: list[str]) -> str:
    return ",".join(cells) + "\n"
