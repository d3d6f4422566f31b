"""Tables with categories, booleans, dates and missing cells as rows of numbers."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from divergences import localize, two_sample_test
from divergences.encoding import encode

X = pd.DataFrame(
    {
        "age": [30, 40, 50, 60],
        "city": ["Rome", "Paris", "Rome", "Oslo"],
        "smokes": [True, False, True, True],
        "size": pd.Categorical(["s", "m", "l", "m"], ["s", "m", "l"], ordered=True),
    }
)
Y = X.iloc[::-1].assign(city=["Bonn", "Rome", "Rome", "Paris"])


def test_distances_are_of_numbers_and_of_hamming() -> None:
    x, y = encode(X, Y)
    assert x.column_names == (
        "age", "city=Bonn", "city=Oslo", "city=Paris", "city=Rome", "smokes", "size",
    )  # fmt: skip
    z = np.asarray(np.concatenate([x, y]))
    table = pd.concat([X, Y])
    numbers = np.column_stack([table["age"], table["smokes"], table["size"].cat.codes]).astype(
        float
    )
    city = table["city"].to_numpy()
    for i in range(8):
        for j in range(8):
            expected = ((numbers[i] - numbers[j]) ** 2).sum() + (city[i] != city[j])
            assert ((z[i] - z[j]) ** 2).sum() == pytest.approx(expected, abs=1e-12)


class Table:
    """As polars and Arrow have tables: columns by name, which give lists."""

    def __init__(self, frame: pd.DataFrame, arrow: bool) -> None:
        self.frame = frame
        setattr(self, "column_names" if arrow else "columns", [*frame.columns])
        self.method = "to_pylist" if arrow else "to_list"

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, name: str) -> Any:
        return type("Column", (), {self.method: lambda _: self.frame[name].tolist()})()


@pytest.mark.parametrize("kind", ["polars", "arrow", "objects"])
def test_other_tables(kind: str) -> None:
    columns = ["age", "city", "smokes"]
    plain = encode(X[columns], Y[columns])
    given: list[Any] = [X[columns], Y[columns]]
    if kind == "objects":
        given = [frame.to_numpy(dtype=object) for frame in given]
    else:
        given = [Table(frame, kind == "arrow") for frame in given]
    for ours, expected in zip(encode(*given), plain, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_real_polars_and_arrow() -> None:
    polars, arrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    columns = ["age", "city", "smokes"]
    plain = encode(X[columns], Y[columns])
    for make in (
        lambda t: polars.DataFrame(t.to_dict("list")),
        lambda t: arrow.table(t.to_dict("list")),
    ):
        for ours, expected in zip(encode(make(X[columns]), make(Y[columns])), plain, strict=True):
            np.testing.assert_array_equal(ours, expected)
            assert ours.column_names == expected.column_names


def test_missing_cells_are_never_filled_in_silence() -> None:
    frame = pd.DataFrame({"a": [1.0, np.nan, 3.0, 8.0], "c": ["u", None, "v", "u"]})
    with pytest.raises(ValueError, match="2 of 8 rows have no 'a'; missing= 'drop'"):
        encode(frame, frame)
    root = np.sqrt(0.5)
    (kept,) = encode(frame, missing="indicator")
    assert kept.column_names == ("a", "a is missing", "c=u", "c=v", "c is missing")
    np.testing.assert_allclose(kept[1], [3.0, 1.0, 0.0, 0.0, 1.0])
    (own,) = encode(frame, missing="category")
    np.testing.assert_allclose(own[1], [3.0, 1.0, 0.0, 0.0, root])
    np.testing.assert_allclose(own[0], [1.0, 0.0, root, 0.0, 0.0])
    (dropped,) = encode(frame, missing="drop")
    assert np.isnan(dropped[1]).all() and not np.isnan(dropped[[0, 2, 3]]).any()
    result = two_sample_test(*encode(frame, frame, missing="drop"), drop_nan=True, rng=0)
    assert result.n == 3 and "left out 1 of 4 rows of x" in result.notes[0]


def test_dates_are_days_on_request() -> None:
    days = [datetime.date(1970, 1, 2), datetime.date(1969, 12, 31), None]
    frame = pd.DataFrame(
        {"day": days, "time": pd.to_datetime(["1970-01-01 12:00", "1970-01-03 00:00", None])}
    )
    with pytest.raises(TypeError, match="column 'day' has dates, such as 1970-01-02; dates=True"):
        encode(frame, missing="drop")
    (found,) = encode(frame, dates=True, missing="drop")
    np.testing.assert_array_equal(found, [[1.0, 0.5], [-1.0, 2.0], [np.nan, np.nan]])


def test_tests_of_encoded_samples_name_the_value() -> None:
    r = np.random.default_rng(0)
    x, y = (
        pd.DataFrame({"age": r.normal(40, 10, 80), "city": r.choice(["a", "b", "c"], 80, p=p)})
        for p in ([0.6, 0.2, 0.2], [0.1, 0.2, 0.7])
    )
    samples = encode(x, y)
    assert two_sample_test(*samples, n_resamples=99, rng=0).pvalue == 0.01
    rows = localize(*samples, n_resamples=99, rng=0).columns
    assert {row.column for row in rows if row.adjusted <= 0.05} == {"city=a", "city=c"}


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ([X, Y], {"missing": "median"}, "unknown missing 'median'; known are 'drop', 'category'"),
        (
            [X, Y[["city", "age", "smokes", "size"]]],
            {},
            "the columns differ: sample 0 has age, city",
        ),
        (
            [pd.DataFrame({"id": [f"p{k}" for k in range(101)]})],
            {},
            "'id' has 101 different values",
        ),
        ([np.empty((0, 2), dtype=object)], {}, r"must have shape \[n, d\] or \[n\]; got \[0, 2\]"),
        ([X.iloc[:0]], {}, "sample 0 is empty"),
        ([pd.DataFrame([[1, 2]], columns=["a", "a"])], {}, "several columns of one name: a, a"),
        ([], {}, "at least one sample; got none"),
        (
            [X, X.assign(size=X["size"].cat.reorder_categories(["l", "m", "s"]))],
            {},
            "the ordered cat",
        ),
        ([pd.DataFrame({"id": [2**53 + 1, 0]})], {}, "fp64 does not hold 9007199254740993"),
    ],
)
def test_refusals(samples: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(*samples, **options)
