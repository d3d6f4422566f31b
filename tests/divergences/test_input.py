"""What users hand to tests: data frames, missing entries, and what is said of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from divergences.goodness_of_fit import goodness_of_fit_test
from divergences.independence import independence_test
from divergences.k_sample import k_sample_test
from divergences.relative import relative_test
from divergences.two_sample import two_sample_test

X, Y = np.random.default_rng(0).normal(size=(2, 30, 2))
OPTIONS: dict[str, Any] = {"n_resamples": 19, "rng": 0}


def with_holes() -> Any:
    x = X.copy()
    x[[3, 5], [0, 1]] = np.nan
    return x


def test_results_unpack() -> None:
    results: list[Any] = [
        two_sample_test(X, Y, **OPTIONS),
        k_sample_test(X, Y, **OPTIONS),
        independence_test(X, Y, **OPTIONS),
        goodness_of_fit_test(X, **OPTIONS),
        relative_test(X, Y, Y + 1.0),
    ]
    for result in results:
        statistic, pvalue = result
        assert (statistic, pvalue) == (result.statistic, result.pvalue)
    assert results[0].to_dict()["enumerated"] is False and "exact" not in results[0].to_dict()


def test_columns_are_named() -> None:
    frame = pd.DataFrame({"age": [20.0, 30.0, 40.0], "city": ["3", "Paris", "Rome"]})
    message = r"x .*column 2 \('city'\) has 'Paris' in row 2, which is not a number"
    with pytest.raises(TypeError, match=message):
        two_sample_test(frame, frame)
    with pytest.raises(ValueError, match="with NaN or infinite entries, in column 2"):
        two_sample_test(np.array([[1.0, None], [2.0, 3.0]]), X)
    holes = pd.DataFrame(with_holes(), columns=["age", "bmi"])
    message = r"2 rows of 30 with NaN or infinite entries, in column 1 \('age'\), column 2 \('bmi'"
    with pytest.raises(ValueError, match=message):
        two_sample_test(holes, Y)
    units = pd.DataFrame(X * [1.0, 1e4], columns=["age", "income"])
    (note,) = two_sample_test(units, units, scale=None, method="energy", **OPTIONS).notes
    assert "(column 2 ('income') has the largest)" in note


class Arrow:
    """As an Arrow table is seen from here."""

    def __init__(self, **columns: list[float]) -> None:
        self.column_names, self.columns = list(columns), list(map(np.array, columns.values()))

    def __array__(self, *_: Any, **__: Any) -> Any:
        return np.column_stack(self.columns)


def test_arrow_tables_are_compared_by_names() -> None:
    x, y = Arrow(a=[1.0, 2.0, 4.0], b=[2.0, 1.0, 3.0]), Arrow(a=[0.0, 2.0], b=[5.0, 1.0])
    assert two_sample_test(x, y, **OPTIONS).d == 2
    with pytest.raises(ValueError, match="the columns differ: x has a, b; y has b, a; choose"):
        two_sample_test(x, Arrow(b=[0.0, 2.0], a=[5.0, 1.0]))


def test_drop_nan() -> None:
    kept = np.delete(X, [3, 5], 0)
    found = two_sample_test(with_holes(), Y, drop_nan=True, **OPTIONS)
    assert found.pvalue == two_sample_test(kept, Y, **OPTIONS).pvalue
    assert (found.n, found.notes) == (28, ("left out 2 of 30 rows of x, which have NaN",))
    strata = np.arange(60) % 3
    found = two_sample_test(with_holes(), Y, drop_nan=True, strata=strata, **OPTIONS)
    of_kept = np.delete(strata, [3, 5])
    assert found.statistic == two_sample_test(kept, Y, strata=of_kept, **OPTIONS).statistic
    paired = two_sample_test(with_holes(), Y, drop_nan=True, paired=True, **OPTIONS)
    both = np.delete(Y, [3, 5], 0)
    assert paired.statistic == two_sample_test(kept, both, paired=True, **OPTIONS).statistic
    told = independence_test(with_holes(), Y, drop_nan=True, groups=np.arange(30) // 2, **OPTIONS)
    groups = np.delete(np.arange(30) // 2, [3, 5])
    assert told.pvalue == independence_test(kept, both, groups=groups, **OPTIONS).pvalue
    assert k_sample_test(Y, with_holes(), drop_nan=True, **OPTIONS).sample_sizes == (30, 28)
    assert goodness_of_fit_test(with_holes(), drop_nan=True, **OPTIONS).n == 28
    classified = two_sample_test(with_holes(), Y, method="classifier", drop_nan=True, **OPTIONS)
    assert classified.n == 28 and classified.notes[0].startswith("left out 2 of 30 rows of x")
    with pytest.raises(ValueError, match="every row of x has missing entries"):
        two_sample_test(np.full((3, 2), np.nan), Y, drop_nan=True)
    with pytest.raises(ValueError, match="x has 1 rows of 30 with infinite entries, in column 1"):
        two_sample_test(np.where(np.arange(60).reshape(30, 2) == 4, np.inf, X), Y, drop_nan=True)
    for count in (58, 59):  # labels of the rows that are left would meet other rows
        message = rf"strata must hold .* 60 rows, shape \[60\]; got \[{count}\]"
        with pytest.raises(ValueError, match=message):
            two_sample_test(with_holes(), Y, drop_nan=True, strata=np.arange(count))
    message = "row i of x and y belong together, so that they need as many rows; got 30 and 28"
    with pytest.raises(ValueError, match=message):
        independence_test(with_holes(), Y[:28], drop_nan=True)
    with pytest.raises(ValueError, match=message):
        two_sample_test(with_holes(), Y[:28], paired=True, drop_nan=True)


@pytest.mark.parametrize("kind", [np.int64, np.uint64, object, torch.int64, "frame"])
def test_integers_that_fp64_does_not_hold(kind: Any) -> None:
    """2⁵³ + 1 would become 2⁵³, another row's number."""
    rows = [[2**53, 1], [2**53 + 2, 2], [2**60, 3]]  # which fp64 holds
    for extra in (0, 1):
        x: Any = [*rows, [2**53 + extra, 4]]
        if isinstance(kind, torch.dtype):
            x = torch.tensor(x, dtype=kind)
        else:
            x = pd.DataFrame(x) if kind == "frame" else np.array(x, dtype=kind)
        if not extra:
            two_sample_test(x, x, **OPTIONS)
            continue
        with pytest.raises(TypeError, match=r"x .*fp64 does not hold 9007199254740993"):
            two_sample_test(x, x, **OPTIONS)


def test_designs_are_checked_before_rows_are_dropped() -> None:
    labels = np.repeat([0, 1], 30)
    for drop_nan in (False, True):
        with pytest.raises(ValueError, match="paired and strata do not go together; choose one"):
            two_sample_test(with_holes(), Y, paired=True, strata=labels, drop_nan=drop_nan)


def test_pairs_without_a_difference() -> None:
    with pytest.warns(UserWarning, match="all rows of x − y and y − x are equal: p = 1"):
        assert two_sample_test(X, X, paired=True, method="energy", **OPTIONS).pvalue == 1.0
