"""Which columns differ: statistics, joint control, designs, names, figures and refusals."""

from __future__ import annotations

import itertools
import json
import pathlib
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from divergences.__main__ import main
from divergences.localization import learn_weights, localize, step_down
from divergences.two_sample import two_sample_test

Array = NDArray[np.float64]


def energy_of(z: Array, marked: Array) -> float:
    """The unbiased energy distance of numbers z, from all pairs."""
    gaps = np.abs(z[:, None] - z)
    n, m = marked.sum(), (~marked).sum()
    within = gaps[np.ix_(marked, marked)].sum() / (n * (n - 1))
    within += gaps[np.ix_(~marked, ~marked)].sum() / (m * (m - 1))
    return float(2.0 * gaps[np.ix_(marked, ~marked)].mean() - within)


def expected(z: Array, n: int) -> tuple[list[Array], list[Array]]:
    """Statistics of every labelling, the observed one first, of columns and of pairs of them."""
    labellings = []
    for rows in itertools.combinations(range(len(z)), n):
        marked = np.zeros(len(z), dtype=bool)
        marked[list(rows)] = True
        labellings.append(marked)
    columns, pairs = [], []
    for c in range(z.shape[1]):
        values = z[:, c]
        median = np.sort(values)[(len(z) - 1) // 2]
        terms = []
        for w in (stats.rankdata(values), np.abs(values - median)):
            found = np.array([energy_of(w, marked) for marked in labellings])
            terms.append(2.0 * (found - found.mean()) / found.std())
        columns.append(np.log(np.exp(terms).mean(0)))
    for i, j in itertools.combinations(range(z.shape[1]), 2):
        a, b = stats.rankdata(z[:, i]), stats.rankdata(z[:, j])
        r = [[np.corrcoef(a[k], b[k])[0, 1] for k in (marked, ~marked)] for marked in labellings]
        found = np.square(np.diff(r, axis=1)[:, 0])
        pairs.append(2.0 * (found - found.mean()) / found.std())
    return columns, pairs


def test_statistics_and_adjusted_values_by_definition() -> None:
    """All 462 labellings of 5 and 6 rows, against sums over all pairs of rows."""
    z = np.random.default_rng(0).normal(size=(11, 3))
    z[:5, 1] *= 3.0
    result = localize(z[:5], z[5:], correlations=True, rng=0)
    columns, pairs = expected(z, 5)
    each = np.array([*columns, *pairs])
    assert result.enumerated and result.n_resamples == 462
    np.testing.assert_allclose(
        np.sort(result.null_distribution), np.sort(each.max(0)), rtol=1e-7, atol=1e-7
    )
    assert result.statistic == pytest.approx(each[:, 0].max(), rel=1e-7)
    places = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    order = np.argsort(-each[:, 0])
    least = 0.0
    found = {row.positions: row for row in result.columns}
    for rank, k in enumerate(order):
        rest = each[order[rank:]].max(0)
        least = max(least, float(np.mean(rest >= each[k, 0] - 1e-7)))
        row = found[places[k]]
        assert row.pvalue == np.mean(each[k] >= each[k, 0] - 1e-7)
        assert row.adjusted == pytest.approx(least, rel=1e-12)
    one = two_sample_test(z[:5, 1], z[5:, 1], method="energy", rng=0)
    assert found[1,].effect_size == pytest.approx(one.effect_size, abs=1e-12)
    assert found[1,].of_x == pytest.approx(z[:5, 1].mean())
    ranks = stats.rankdata(z, axis=0)
    assert found[0, 2].of_y == pytest.approx(np.corrcoef(ranks[5:].T)[0, 2])
    assert [row.adjusted for row in result.columns] == sorted(r.adjusted for r in result.columns)


def test_step_down_by_hand() -> None:
    """Three statistics, the observed relabelling first, and three others."""
    each = np.array([[5.0, 1.0, 6.0, 0.0], [3.0, 4.0, 0.0, 1.0], [1.0, 0.0, 0.0, 2.0]])
    assert step_down(each, 0.0, exact=False).tolist() == [2 / 4, 2 / 4, 2 / 4]
    assert step_down(each, 0.0, exact=True).tolist() == [2 / 4, 2 / 4, 2 / 4]
    each[0, 0] = 7.0  # the first by itself: no relabelling reaches it
    assert step_down(each, 0.0, exact=False).tolist() == [1 / 4, 2 / 4, 2 / 4]


def test_units_monotone_maps_and_order_of_columns_do_not_matter() -> None:
    r = np.random.default_rng(1)
    x, y = r.normal(size=(2, 40, 3))
    y[:, 2] += 1.0
    plain = localize(x, y, rng=0, n_resamples=99)
    scale = np.array([1e6, 1e-6, 1.0])
    scaled = localize((x * scale)[:, ::-1], (y * scale)[:, ::-1], rng=0, n_resamples=99)
    first = {row.positions[0]: (row.pvalue, row.adjusted) for row in plain.columns}
    second = {2 - row.positions[0]: (row.pvalue, row.adjusted) for row in scaled.columns}
    assert first == second
    assert plain.columns[0].positions == (2,) and plain.columns[0].adjusted == 0.01


def test_a_change_of_correlation_is_seen_in_the_pair_alone() -> None:
    r = np.random.default_rng(2)
    x, y = r.normal(size=(2, 100, 4))
    y[:, 3] = 0.8 * y[:, 1] + 0.6 * y[:, 3]
    assert localize(x, y, rng=0).pvalue > 0.05
    rows = localize(x, y, correlations=True, rng=0).columns
    assert [row.positions for row in rows if row.adjusted <= 0.05] == [(1, 3)]


def test_pairs_of_rows_keep_their_subjects() -> None:
    r = np.random.default_rng(4)
    subject = 10.0 * r.normal(size=(30, 1))
    x, y = subject + r.normal(size=(30, 3)), subject + r.normal(size=(30, 3))
    y[:, 1] += 1.5
    result = localize(x, y, paired=True, rng=0)
    assert result.design == "paired"
    assert [row.positions for row in result.columns if row.adjusted <= 0.05] == [(1,)]
    assert localize(x, y, rng=0).pvalue > 0.5
    one = two_sample_test(x[:, 1], y[:, 1], paired=True, method="energy", rng=0)
    assert result.columns[0].effect_size == pytest.approx(one.effect_size, abs=1e-12)


def test_strata_and_groups() -> None:
    r = np.random.default_rng(5)
    site = r.integers(0, 2, 120)
    z = 4.0 * site[:, None] + r.normal(size=(120, 2))
    first = r.random(120) < np.where(site, 0.7, 0.3)
    x, y = z[first], z[~first]
    both = np.concatenate([site[first], site[~first]])
    assert localize(x, y, rng=0).pvalue < 0.05  # for the sites, not for a difference
    for correlations in (True, False):
        result = localize(x, y, strata=both, correlations=correlations, rng=0)
        assert result.pvalue > 0.05 and result.design == "2 strata"
    assert result.columns[0].effect_size < 0.05
    patient = np.arange(60) // 4
    values = r.normal(size=(15, 2))[patient] + 0.1 * r.normal(size=(60, 2))
    grouped = localize(values[:32], values[32:], groups=patient, rng=0)
    plain = two_sample_test(
        values[:32, 0], values[32:, 0], groups=patient, method="energy", n_resamples=9, rng=0
    )
    found = {row.positions[0]: row for row in grouped.columns}
    assert found[0].effect_size == pytest.approx(plain.effect_size, abs=1e-12)
    with pytest.raises(ValueError, match="a sample is one group"):
        localize(values[:32], values[32:], groups=np.r_[np.zeros(32), patient[32:] + 1], rng=0)


def test_learned_weights_find_the_column() -> None:
    r = np.random.default_rng(6)
    x, y = r.normal(size=(2, 120, 8))
    y[:, 5] += 1.0
    weights = learn_weights(torch.from_numpy(x), torch.from_numpy(y))
    assert weights.sum().item() == pytest.approx(1.0) and weights[5] > 2 / 8 > weights[:5].max()
    result = localize(x, y, method="learned", rng=0)
    assert result.columns[0].positions == (5,) and result.columns[0].adjusted <= 0.05
    assert result.pvalue <= 0.05 and 0.0 < result.effect_size <= 1.0
    assert len(result.columns) < 8 and "on 60 and 60 rows" in result.notes[0]
    assert all(row.weight is not None and row.weight > 1 / 8 for row in result.columns)


def test_learning_sees_no_row_of_the_test() -> None:
    """Held-out rows may be anything: weights stay what they are."""
    r = np.random.default_rng(7)
    x, y = r.normal(size=(2, 40, 4))
    plain = localize(x, y, method="learned", rng=1)
    moved = localize(x + 5.0, y + 5.0, method="learned", rng=1)
    assert [row.weight for row in moved.columns] == pytest.approx(
        [row.weight for row in plain.columns]
    )
    assert moved.pvalue == plain.pvalue


def test_benjamini_hochberg() -> None:
    r = np.random.default_rng(8)
    x, y = r.normal(size=(2, 50, 6))
    y[:, :3] += 1.0
    result = localize(x, y, correction="bh", rng=0)
    own = [row.pvalue for row in result.columns]
    assert [row.adjusted for row in result.columns] == pytest.approx(
        stats.false_discovery_control(own).tolist()
    )
    few = localize(x, y, correction="bh", n_resamples=19, rng=0)
    assert "n_resamples=120" in few.notes[0] and few.notes != result.notes


def test_level_of_any_column() -> None:
    """Of 100 samples without a difference, 20 columns each, few have any column named."""
    named = 0
    for seed in range(100):
        r = np.random.default_rng([9, seed])
        x, y = r.normal(size=(2, 12, 20)) + r.normal(size=(2, 12, 1))
        named += localize(x, y, n_resamples=39, rng=seed).columns[0].adjusted <= 0.05
    assert named <= stats.binom.ppf(1 - 1e-4, 100, 0.05)


def test_names_report_json_and_figure() -> None:
    r = np.random.default_rng(10)
    x = pandas.DataFrame(r.normal(size=(30, 12)), columns=[f"c{k}" for k in range(12)])
    y = x + r.normal(size=(30, 12))
    y["c7"] += 3.0
    result = localize(x, y, correlations=True, rng=0)
    text = str(result)
    assert result.columns[0].column == "c7" and " and c" in text and "68 others" in text
    record = json.loads(result.to_json(null_distribution=False))
    assert record["columns"][0]["positions"] == [7] and "_samples" not in record
    figure = result.plot(names=("before", "after"))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:2] == ["The clearest (66 others not shown)", "c7"]
    assert [t.get_text() for t in figure.axes[1].get_legend().get_texts()] == ["before", "after"]


def test_drop_nan_and_constant_columns() -> None:
    r = np.random.default_rng(11)
    x, y = r.normal(size=(2, 20, 3))
    x[:, 2] = y[:, 2] = 1.0
    x[3, 0] = np.nan
    with pytest.raises(ValueError, match="column 1"):
        localize(x, y)
    result = localize(x, y, drop_nan=True, correlations=True, rng=0)
    assert "left out 1 of 20 rows of x" in result.notes[0]
    constant = [row for row in result.columns if 2 in row.positions]
    assert [(row.pvalue, row.adjusted, row.effect_size) for row in constant] == [
        (1.0, 1.0, 0.0)
    ] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "ks"}, "unknown method 'ks'; known are 'marginal', 'learned'"),
        ({"correction": "holm"}, "unknown correction 'holm'; known are 'max-t', 'bh'"),
        ({"correlations": "all"}, "correlations must be True or False; got 'all'"),
        ({"n_resamples": 0}, "n_resamples must be a positive integer; got 0"),
        ({"strata": [1, 2]}, "strata must hold a label for each of the 12 rows"),
        ({"method": "learned"}, "at least 8 rows of each sample; got 6 and 6"),
        ({"method": "learned", "paired": True}, "takes no design; got one of paired"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 6, 2))
    with pytest.raises((ValueError, TypeError), match=message):
        localize(x, y, **options)


def test_too_many_pairs() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 10, 900))
    with pytest.raises(ValueError, match="900 columns have 404,550 pairs, too many for 1,000"):
        localize(x, y, correlations=True, rng=0)


def test_command(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    r = np.random.default_rng(12)
    files = []
    for name, shift in (("a", 0.0), ("b", 2.0)):
        table = pandas.DataFrame(r.normal(size=(20, 2)) * [1, 1000], columns=["size", "price"])
        table["size"] += shift
        files.append(str(tmp_path / f"{name}.csv"))
        table.to_csv(files[-1], index=False)
    figure = tmp_path / "out.png"
    options = ["--seed", "0", "--n-resamples", "99", "--fail-below", "0.05"]
    assert main(["localize", *files, *options, "--correlations", "--plot", str(figure)]) == 1
    assert f"{files[1]} differ (size): p = 0.01 is at most 0.05." in capsys.readouterr().out
    assert figure.stat().st_size > 0
    assert main(["two-sample", *files, "--scale", "none", "--seed", "0"]) == 0
    assert "column 2 ('price') has the largest" in capsys.readouterr().out
