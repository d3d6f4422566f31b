"""Tables with categories, booleans, dates and missing cells as rows of numbers, blind to labels.

What a cell becomes depends on the pooled rows as a set, not on the sample they are in: tests of
encoded samples are as exact as those of numbers.
"""

from __future__ import annotations

import datetime
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from .samples import check_integers, column_names, is_missing

Missing = Literal["drop", "category", "indicator"]
SEVERAL = 100  # categories of a column, beyond which it names rows rather than describes them


class NamedColumns(np.ndarray[Any, np.dtype[np.float64]]):
    """Rows of numbers whose columns have names, as those of a data frame."""

    column_names: tuple[str, ...] | None


def named_columns(values: NDArray[np.float64], names: tuple[str, ...] | None) -> NamedColumns:
    found = values.view(NamedColumns)
    found.column_names = names
    return found


def encode(
    *samples: Any, missing: Missing | None = None, dates: bool = False
) -> list[NamedColumns]:
    """Samples [n, d] with columns of any kind as samples [n, D] of numbers, for any test:
    ``two_sample_test(*encode(x, y))``.

    Numbers and booleans stay, ordered categories of pandas become 0 … K − 1. A category of K values
    becomes K columns that are 1/√2 for one value and else 0, called ``column=value``: rows that
    differ in it are 1 apart, whatever the values, so that the squared Euclidean distance of two
    rows is that of their numbers plus the number of categories in which they differ (Hamming's).
    Where numbers are in other units, ``scale`` of a test brings all columns to about one.

    Args:
        samples: data frames of pandas or polars, Arrow tables, or arrays of objects; with the same
            columns in one order.
        missing: what becomes of empty cells, None, NaN and NaT; they are refused, and counted, if
            None.

            * "drop": NaN, so that ``drop_nan=True`` of a test leaves out these rows.
            * "category": a value of their own, of columns of categories; of columns of
              numbers as "indicator".
            * "indicator": the pooled median (of categories none of the values), and a further
              column that is 1 where the cell was missing, else 0.
        dates: dates and times become days since 1970; they are refused otherwise.

    Raises:
        ValueError, TypeError: samples whose columns differ; missing cells and no ``missing``; dates
            and not ``dates``; more than 100 categories in a column.

    Examples:
        >>> import pandas as pd
        >>> from divergences.encoding import encode
        >>> x = pd.DataFrame({"age": [31, 45], "kind": ["a", "b"]})
        >>> y = pd.DataFrame({"age": [28, 60], "kind": ["b", "b"]})
        >>> encoded_x, encoded_y = encode(x, y)
        >>> encoded_x.column_names, encoded_x.round(2).tolist()
        (('age', 'kind=a', 'kind=b'), [[31.0, 0.71, 0.0], [45.0, 0.0, 0.71]])
    """
    if missing is not None and missing not in get_args(Missing):
        known = ", ".join(map(repr, get_args(Missing)))
        raise ValueError(f"unknown missing {missing!r}; known are {known} and None")
    if not samples:
        raise ValueError("encode needs at least one sample; got none")
    tables = [_columns(sample, f"sample {k}") for k, sample in enumerate(samples)]
    names, orders = list(tables[0].cells), tables[0].orders
    for k, table in enumerate(tables):
        if list(table.cells) != names:
            raise ValueError(
                f"the columns differ: sample 0 has {', '.join(names)}; sample {k} has "
                f"{', '.join(table.cells)}; choose those to compare, in one order"
            )
        if table.orders != orders:
            raise ValueError(
                f"the ordered categories differ: sample 0 has {orders}; sample {k} has "
                f"{table.orders}; give the columns one type"
            )
    sizes = [len(table.cells[names[0]]) for table in tables]
    titles: list[str] = []
    columns: list[NDArray[np.float64]] = []
    for name in names:
        cells = [cell for table in tables for cell in table.cells[name]]
        holes = np.array([is_missing(cell) for cell in cells], dtype=bool)
        if holes.any() and missing is None:
            raise ValueError(
                f"{int(holes.sum())} of {len(cells)} rows have no {name!r}; missing= 'drop', "
                "'category' or 'indicator' says what becomes of them"
            )
        for title, column in _encoded(name, cells, holes, missing, dates):
            titles.append(title)
            columns.append(column)
    rows = np.stack(columns, 1)
    ends = np.cumsum(sizes)[:-1]
    return [named_columns(part.copy(), tuple(titles)) for part in np.split(rows, ends)]


class _Table(NamedTuple):
    cells: dict[str, list[Any]]  # of each column, as Python's objects
    orders: dict[str, list[Any]]  # of columns of ordered categories, whose cells are their numbers


def _columns(sample: Any, name: str) -> _Table:
    names = column_names(sample)
    if names is None:
        array = np.asarray(sample)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or array.size == 0:
            raise ValueError(f"{name} must have shape [n, d] or [n]; got {list(array.shape)}")
        return _Table({f"column {c + 1}": array[:, c].tolist() for c in range(array.shape[1])}, {})
    if len(set(names)) < len(names):
        raise ValueError(f"{name} has several columns of one name: {', '.join(names)}")
    if not names or not len(sample):
        raise ValueError(f"{name} is empty")
    found = _Table({}, {})
    for position, title in enumerate(names):
        if not hasattr(sample, "iloc"):  # polars, Arrow
            column = sample[title]
            cells = column.to_list() if hasattr(column, "to_list") else column.to_pylist()
        else:
            column = sample.iloc[:, position]
            cells = column.tolist()
            if getattr(column.dtype, "ordered", False):
                found.orders[title] = column.cat.categories.tolist()
                cells = [None if code < 0 else code for code in column.cat.codes.tolist()]
        found.cells[title] = cells
    return found


_Columns = list[tuple[str, NDArray[np.float64]]]


def _encoded(
    name: str, cells: list[Any], holes: NDArray[np.bool_], missing: Missing | None, dates: bool
) -> _Columns:
    """The columns that a column becomes, with their titles."""
    there = [cell for cell, hole in zip(cells, holes, strict=True) if not hole]
    values = np.zeros(len(cells))
    if all(isinstance(cell, bool | int | float | np.number | np.bool_) for cell in there):
        values[~holes] = [float(cell) for cell in there]
        check_integers(np.array(there, dtype=object), values[~holes])
        return _numbers(name, values, holes, missing)
    if any(isinstance(cell, datetime.date | np.datetime64) for cell in there):
        if not dates:
            raise TypeError(f"column {name!r} has dates, such as {there[0]}; dates=True gives days")
        moments = np.array(there, dtype="datetime64[us]").astype(np.int64)
        values[~holes] = moments / 86_400e6
        return _numbers(name, values, holes, missing)
    kinds = sorted(set(map(str, there)))
    if len(kinds) > SEVERAL:
        raise ValueError(
            f"column {name!r} has {len(kinds)} different values, such as {kinds[0]!r}, more than "
            f"{SEVERAL}: it names rows; leave it out, or group its values"
        )
    texts = np.array(["" if hole else str(c) for c, hole in zip(cells, holes, strict=True)])
    left = np.nan if missing == "drop" else 0.0
    found: _Columns = []
    for kind in kinds:
        column = np.where(texts == kind, np.sqrt(0.5), 0.0)
        found.append((f"{name}={kind}", np.where(holes, left, column)))
    if holes.any() and missing != "drop":
        height = np.sqrt(0.5) if missing == "category" else 1.0
        found.append((f"{name} is missing", np.where(holes, height, 0.0)))
    return found


def _numbers(
    name: str, column: NDArray[np.float64], holes: NDArray[np.bool_], missing: Missing | None
) -> _Columns:
    if not holes.any():
        return [(name, column)]
    if missing == "drop":
        return [(name, np.where(holes, np.nan, column))]
    middle = float(np.median(column[~holes])) if not holes.all() else 0.0
    return [(name, np.where(holes, middle, column)), (f"{name} is missing", holes.astype(float))]
