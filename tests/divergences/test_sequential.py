"""Sequential tests: bets are fair, streams may be cut and resumed, changes are found."""

from __future__ import annotations

import itertools
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from divergences import ChangeDetector, SequentialTwoSampleTest, sequential

Array = NDArray[np.float64]


def shifted(n: int, shift: float, seed: int = 0) -> tuple[Array, Array]:
    r = np.random.default_rng(seed)
    return r.normal(size=(n, 2)), r.normal(shift, 1.0, (n, 2))


# --- The test ------------------------------------------------------------------------------------


def test_bets_are_fair() -> None:
    """The mean of the e-values over all swaps within the next five pairs is the e-value before."""
    x, y = shifted(15, 2.0)
    test = SequentialTwoSampleTest(rng=0)
    before = test.update(x[:10], y[:10]).evalue
    after = []
    for swaps in itertools.product([False, True], repeat=5):
        mask = np.array(swaps)[:, None]
        copy = pickle.loads(pickle.dumps(test))
        after.append(copy.update(np.where(mask, y[10:], x[10:]), np.where(mask, x[10:], y[10:])))
    evalues = np.array([result.evalue for result in after])
    assert evalues.std() > 0.1 * before > 0.1
    assert evalues.mean() == pytest.approx(before, rel=1e-12)


def test_the_level_holds_at_any_time() -> None:
    r, rejected = np.random.default_rng(0), 0
    for _ in range(40):
        x, y = r.poisson(1.0, (2, 50, 1))
        rejected += SequentialTwoSampleTest(0.2, rng=r).update(x, y).rejected
    assert 0 < rejected <= stats.binom.ppf(1 - 1e-4, 40, 0.2)


@pytest.mark.parametrize("difference", ["shift", "spread", "units"])
def test_differences_are_found(difference: str) -> None:
    r = np.random.default_rng(1)
    x, y = r.normal(size=(2, 150, 2))
    y = y + np.array([1.0, 0.0]) if difference != "spread" else 2.5 * y
    units = [1.0, 1e4] if difference == "units" else [1.0, 1.0]
    result = SequentialTwoSampleTest(rng=0).update(x * units, y * units)
    assert result.rejected and result.rejected_at is not None and result.rejected_at < 100
    assert result.pvalue <= min(0.05, 1.0 / result.evalue)
    assert (difference == "units") == (
        not SequentialTwoSampleTest(rng=0, scale=None).update(x * units, y * units).rejected
    )


def test_cuts_and_pickles_do_not_matter() -> None:
    x, y = shifted(120, 0.7)
    whole = SequentialTwoSampleTest(rng=3).update(x, y)
    test = SequentialTwoSampleTest(rng=3)
    assert test.update(x[:50]).waiting == (50, 0)
    assert test.update(y=y[:7]).n == 0  # fewer pairs than set the scale
    assert test.update(y=y[7:30]).n == 30
    test = pickle.loads(pickle.dumps(test))
    parts = test.update(x[50:], y[30:])
    assert whole.rejected and parts.rejected_at == whole.rejected_at
    assert parts.evalue == pytest.approx(whole.evalue, rel=1e-9)
    assert parts.n == 120 and parts.waiting == (0, 0)
    assert len(pickle.dumps(test)) < 200_000


def test_infinite_scores_bet_nothing() -> None:
    x, y = shifted(20, 0.0)
    x[12], y[15] = 1e308, -1e308
    assert np.isfinite(SequentialTwoSampleTest(rng=0).update(x, y).evalue)


def test_rows_are_kept_where_their_buffer_is_filled_again() -> None:
    """fp64 tensors are taken as they are elsewhere; rows that wait are not to change."""
    rows, one = torch.from_numpy(np.stack(shifted(160, 0.0))), torch.empty(2, 4, 2).double()
    own, reused = SequentialTwoSampleTest(rng=0), SequentialTwoSampleTest(rng=0)
    detectors = [
        ChangeDetector(rows[0, :40], method="energy", n_resamples=39, rng=0) for _ in range(2)
    ]
    for part in rows.split(4, 1):
        one.copy_(part)
        expected, found = own.update(*part.clone()), reused.update(*one)
        alone, again = detectors[0].update(part[1].clone()), detectors[1].update(one[1])
    assert expected.evalue == found.evalue
    assert np.array_equal(alone.path, again.path)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "got neither"),
    ({"x": np.zeros((3, 3))}, "x has 3 columns; rows before had 2"),
    ({"y": np.empty((0, 2))}, r"y is empty \(shape \[0, 2\]\); leave out updates"),
    ({"x": np.ones((2, 2)), "y": np.array([[np.nan, 1.0]])}, "y has 1 rows of 1 with NaN"),
]


@pytest.mark.parametrize(("rows", "message"), REFUSED)
def test_bad_rows_change_nothing(rows: dict[str, Any], message: str) -> None:
    test = SequentialTwoSampleTest(rng=0)
    test.update(*shifted(10, 0.0))
    with pytest.raises(ValueError, match=message):
        test.update(**rows)
    assert test.result.waiting == (0, 0) and test.result.n == 10


@pytest.mark.parametrize("alpha", [0.0, 1.0, "0.1", True, float("nan")])
def test_levels_are_checked(alpha: Any) -> None:
    for make in (SequentialTwoSampleTest, lambda a: ChangeDetector(np.zeros(5), a)):
        with pytest.raises(ValueError, match=r"alpha must be a number in \(0, 1\); got"):
            make(alpha)
    with pytest.raises(ValueError, match="unknown scale 'rank'"):
        SequentialTwoSampleTest(scale="rank")  # type: ignore[arg-type]


# --- The detector --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:all rows of")
def test_ranks_are_uniform_on_tied_data() -> None:
    """The first statistic is a sixth of the mean of κp^(κ−1), from which p is found."""

    def bet(p: float) -> float:
        return float(np.mean([k * p ** (k - 1.0) for k in (0.125, 0.25, 0.5, 0.75)])) / 6.0

    r, ranks = np.random.default_rng(0), []
    for _ in range(200):
        reference, batch = r.integers(0, 2, 6), r.integers(0, 2, 3)
        detector = ChangeDetector(reference, method="energy", n_resamples=19, rng=r)
        statistic = detector.update(batch).statistic
        ranks.append(brentq(lambda p, s=statistic: bet(p) - s, 1e-12, 1.0))
    assert stats.kstest(ranks, "uniform").pvalue > 1e-4
    assert len(np.unique(ranks)) == 200


def test_statistic_is_the_largest_sum_over_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """w/6 Σ_j Π_{i ≥ j} of the bets on tests of w batches, in the mean over κ; "since" is where the
    product is largest."""
    pvalues, grid = [0.7, 0.9, 0.02, 0.2, 0.4, 0.004], np.linspace(0.0, 1.0, 100_001)
    together, rows = 0.05, []

    def fake(_: Any, y: Any, n_resamples: int, **__: Any) -> Any:
        if n_resamples == 1:  # the settings are tried once
            return None
        rows.append(y.flatten().tolist())
        p = together if len(y) > 3 else pvalues[int(y[0]) - 1]
        return SimpleNamespace(
            statistic=1.0 - p, null_distribution=grid, pvalue=p, enumerated=False,
            effect_size=None, method="fake",
        )  # fmt: skip

    monkeypatch.setattr(sequential, "two_sample_test", fake)
    detector = ChangeDetector(np.arange(9.0), alpha=0.1, rng=0)
    results = [detector.update(np.full(3, t)) for t in range(1, 7)]
    kappa = np.array([0.125, 0.25, 0.5, 0.75])
    bets = np.array([kappa * p ** (kappa - 1.0) for p in pvalues])
    four = 4.0 / 6.0 * float(np.mean(kappa * together ** (kappa - 1.0)))
    for t, result in enumerate(results, start=1):
        alone = np.mean([bets[j:t].prod(0) for j in range(t)], axis=1).sum() / 6.0
        assert result.statistic == pytest.approx(max(alone, four * (t >= 4)), rel=2e-2)
        assert result.alarm == (result.statistic >= 10.0) and result.pvalue == pvalues[t - 1]
    assert [result.since for result in results[2:]] == [3, 1, 1, 3] and len(results[-1].path) == 7
    assert rows[4] == [1.0] * 3 + [2.0] * 3 + [3.0] * 3 + [4.0] * 3


def test_run_lengths_without_a_change() -> None:
    """At least 1/alpha batches on average, from a reference of twelve rows."""
    r, lengths = np.random.default_rng(0), []
    for _ in range(60):
        detector = ChangeDetector(
            r.normal(size=12), 0.2, method="energy", n_resamples=39, memory=10, rng=r
        )
        while not (result := detector.update(r.normal(size=3))).alarm and result.batches < 60:
            pass
        lengths.append(result.batches)
        assert result.n == 10
    mean, error = np.mean(lengths), np.std(lengths) / len(lengths) ** 0.5
    assert mean - 3.0 * error >= 5.0
    assert mean <= 50.0  # it does give alarms


def test_changes_are_found_and_dated() -> None:
    r = np.random.default_rng(0)
    detector = ChangeDetector(r.normal(size=(200, 2)), method="energy", rng=0)
    for _ in range(10):
        assert not detector.update(r.normal(size=(20, 2))).alarm
    detector = pickle.loads(pickle.dumps(detector))
    for _ in range(15):
        result = detector.update(r.normal(0.6, 1.0, (20, 2)))
    assert result.alarm_at is not None and 10 < result.alarm_at <= 16
    assert 9 <= result.since <= 12


def test_bad_batches_are_refused() -> None:
    pandas = pytest.importorskip("pandas")
    detector = ChangeDetector(pandas.DataFrame({"a": range(9), "b": range(9)}), rng=0)
    with pytest.raises(ValueError, match="the batch has b, a; rows before had a, b"):
        detector.update(pandas.DataFrame({"b": range(3), "a": range(3)}))
    with pytest.raises(ValueError, match="the batch has 3 columns"):
        detector.update(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"the batch has 1 row .* collect more"):
        detector.update(np.zeros((1, 2)))
    with pytest.raises(ValueError, match="unknown method 'hsic'"):
        ChangeDetector(np.zeros(5), method="hsic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"memory must be an integer ≥ 2; got 1\.5"):
        ChangeDetector(np.zeros(5), memory=1.5)  # type: ignore[arg-type]


# --- Reports -------------------------------------------------------------------------------------


def test_results_print_serialise_and_draw() -> None:
    pytest.importorskip("matplotlib")
    test = SequentialTwoSampleTest(rng=0)
    assert test.result.evalue == test.result.pvalue == 1.0
    result = test.update(*shifted(60, 1.5))
    assert f"rejected after {result.rejected_at} pairs (alpha = 0.05)" in str(result)
    assert result.to_dict()["n"] == 60
    detector = ChangeDetector(np.arange(20.0), method="energy", rng=0)
    found = detector.update(np.arange(50.0, 60.0))
    assert "batch 1 against n = 20, d = 1, seed 0" in str(found) and "alarm        none" in str(
        found
    )
    most = SequentialTwoSampleTest(rng=0).update(*shifted(1600, 9.0))  # more than fp64 holds
    assert 0.0 < most.pvalue == pytest.approx(1.0 / most.evalue) and most.evalue > 1e200
    for drawn in (result, found, most):
        (axes,) = drawn.plot().axes
        low, high = axes.get_ylim()
        assert low <= drawn.path[-1, 1] <= high and 1 / drawn.alpha <= high
        assert axes.get_yscale() == "log"
        assert f"1/alpha = {1 / drawn.alpha:g}" in [text.get_text() for text in axes.texts]
        assert axes.lines[0].get_ydata()[-1] == drawn.path[-1, 1]
