"""The classifier two-sample test: valid with any classifier, scores frozen, numbers as defined."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from divergences.classifier import classifier_test

Rows = NDArray[np.float64]


class FirstColumn:
    """Nothing to learn: scores are the first column, so that the test's own part can be checked."""

    def fit(self, rows: Rows, labels: NDArray[np.int64]) -> None:
        self.seen = (rows.copy(), labels.copy())

    def decision_function(self, rows: Rows) -> Rows:
        return rows[:, 0]


class Spy(FirstColumn):
    """Shows what it was given, from all copies of it."""

    calls: list[tuple[str, Rows]] = []  # noqa: RUF012 (shared on purpose)

    def fit(self, rows: Rows, labels: NDArray[np.int64]) -> None:
        Spy.calls += [("x", rows[labels == 1]), ("y", rows[labels == 0])]

    def decision_function(self, rows: Rows) -> Rows:
        Spy.calls.append(("test", rows))
        return rows[:, 0]


class NearestMean:
    """The cheapest classifier that learns."""

    def fit(self, rows: Rows, labels: NDArray[np.int64]) -> None:
        self.means = [rows[labels == k].mean(0) for k in (0, 1)]

    def decision_function(self, rows: Rows) -> Rows:
        y, x = ((rows - mean) ** 2 for mean in self.means)
        return np.asarray((y - x).sum(1))


def halves(x: Rows, y: Rows, **options: object) -> tuple[Rows, Rows, Rows, Rows]:
    """Rows of x and of y that were trained on, and that were held out."""
    Spy.calls = []
    classifier_test(x, y, classifier=Spy(), n_resamples=1, **options)  # type: ignore[arg-type]
    (_, train_x), (_, train_y), (_, test) = Spy.calls
    held = len(x) - len(train_x)
    return train_x, train_y, test[:held], test[held:]


def test_halves_are_disjoint_random_and_stratified() -> None:
    x, y = np.arange(20.0)[:, None], 100 + np.arange(11.0)[:, None]
    train_x, train_y, test_x, test_y = halves(x, y, rng=0)
    assert (len(train_x), len(test_x), len(train_y), len(test_y)) == (10, 10, 5, 6)
    assert np.array_equal(np.sort(np.concatenate([train_x, test_x]), 0), x)
    assert np.array_equal(np.sort(np.concatenate([train_y, test_y]), 0), y)
    assert not np.array_equal(np.sort(test_x, 0), np.sort(halves(x, y, rng=1)[2], 0))
    assert len(halves(x, y, rng=0, test_fraction=0.25)[2]) == 5


def test_statistics_are_what_they_are_called() -> None:
    generator = np.random.default_rng(0)
    x = np.round(generator.normal(0.5, 1, size=(60, 2)), 1)  # with ties
    y = np.round(generator.normal(size=(45, 2)), 1)
    _, _, test_x, test_y = halves(x, y, rng=0)
    a, b = test_x[:, 0], test_y[:, 0]
    result = classifier_test(x, y, classifier=FirstColumn(), rng=0)
    assert result.tested == (len(a), len(b))
    assert result.statistic == pytest.approx(a.mean() - b.mean(), rel=1e-12)
    u = stats.mannwhitneyu(a, b).statistic
    assert result.auc == pytest.approx(u / (len(a) * len(b)), rel=1e-12)
    assert result.effect_size == pytest.approx(2 * result.auc - 1)
    right = 0.5 * ((a > 0).mean() + (b < 0).mean()) + 0.25 * ((a == 0).mean() + (b == 0).mean())
    assert (a == 0).any()
    assert result.accuracy == pytest.approx(right, rel=1e-12)
    assert (result.n, result.m, result.d, result.n_resamples) == (60, 45, 2, 999)
    pooled, draws = np.concatenate([a, b]), np.random.default_rng(1)
    orders = draws.permuted(np.tile(pooled, (9999, 1)), axis=1)
    means = orders[:, : len(a)].mean(1) - orders[:, len(a) :].mean(1)
    expected = (1 + (means >= result.statistic - 1e-12).sum()) / 10_000
    assert abs(result.pvalue - expected) < 4 * np.sqrt(expected * (1 - expected) / 999) + 0.001
    assert "held out (30, 23)" in str(result) or "held out (30, 22)" in str(result)


def test_every_labelling_is_listed_where_there_are_few() -> None:
    x, y = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0]), np.array([2.0, 6.0, 5.0, 3.0, 5.0])
    result = classifier_test(x, y, classifier=FirstColumn(), rng=0)
    _, _, test_x, test_y = halves(x, y, rng=0)
    pool = np.concatenate([test_x, test_y])[:, 0]
    n = len(test_x)
    values = []
    for rows in itertools.combinations(range(len(pool)), n):
        mask = np.isin(np.arange(len(pool)), rows)
        values.append(pool[mask].mean() - pool[~mask].mean())
    assert result.enumerated
    assert np.sort(result.null_distribution) == pytest.approx(np.sort(values))
    assert result.pvalue == pytest.approx(np.mean(np.array(values) >= result.statistic - 1e-9))


# --- Level and power -----------------------------------------------------------------------------

CASES: dict[str, tuple[int, int, Callable[[np.random.Generator, int], Rows]]] = {
    "continuous": (14, 14, lambda r, k: r.normal(size=(k, 2))),
    "tied": (12, 15, lambda r, k: r.integers(0, 2, size=(k, 2)).astype(float)),
    "tiny": (4, 4, lambda r, k: r.normal(size=(k, 2))),
    "unbalanced": (5, 60, lambda r, k: r.standard_cauchy(size=(k, 2))),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("make", [NearestMean, FirstColumn])
def test_level(case: str, make: type[FirstColumn | NearestMean]) -> None:
    """Under P = Q, P(p ≤ α) ≤ α: one-sided 1 − 1e-4 binomial bounds."""
    n, m, draw = CASES[case]
    generator = np.random.default_rng(11)
    repeats = 200
    pvalues = np.array(
        [
            classifier_test(
                draw(generator, n),
                draw(generator, m),
                classifier=make(),
                n_resamples=39,
                rng=generator,
            ).pvalue
            for _ in range(repeats)
        ]
    )
    for alpha in (0.05, 0.1, 0.25, 0.5):
        assert (pvalues <= alpha).sum() <= stats.binom.ppf(1 - 1e-4, repeats, alpha)
    assert pvalues.min() >= (1 / 6 if case == "tiny" else 1 / 40)


def test_level_of_the_default_classifier() -> None:
    generator = np.random.default_rng(12)
    pvalues = np.array(
        [
            classifier_test(
                generator.normal(size=(20, 3)),
                generator.normal(size=(12, 3)),
                n_resamples=39,
                rng=generator,
            ).pvalue
            for _ in range(20)
        ]
    )
    for alpha in (0.05, 0.25, 0.5):
        assert (pvalues <= alpha).sum() <= stats.binom.ppf(1 - 1e-4, 20, alpha)


def test_power_of_the_default_classifier() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(80, 3)), generator.normal(size=(60, 3))
    shifted = classifier_test(x + 1.0, y, rng=0)
    assert shifted.pvalue == 0.001
    assert shifted.auc > 0.85
    assert shifted.accuracy > 0.75
    assert "linear" in shifted.notes[0]
    wide = classifier_test(
        2.0 * generator.normal(size=(300, 1)), generator.normal(size=(240, 1)), rng=0
    )
    assert wide.pvalue <= 0.01  # the means are equal: only the MLP can see it
    assert wide.notes == ()


@pytest.mark.parametrize(
    "classifier",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        KNeighborsClassifier(5),  # probabilities only, with many ties
        RandomForestClassifier(20),
    ],
    ids=lambda classifier: type(classifier).__name__,
)
def test_scikit_learn(classifier: object) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(1.0, 1, size=(60, 2)), generator.normal(size=(50, 2))
    np.random.seed(3)  # noqa: NPY002 (it is the global state that is watched)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (classifier_test(x, y, classifier=classifier, rng=0) for _ in range(2))
    assert (state == np.random.get_state()[1]).all()  # noqa: NPY002
    assert np.array_equal(first.null_distribution, second.null_distribution)
    assert first.pvalue <= 0.01
    assert 0.6 < first.accuracy < 1
    assert 0.6 < first.auc < 1
    assert not hasattr(classifier, "classes_")  # the estimator passed stays unfitted
    assert classifier_test(y, x, classifier=classifier, rng=0).pvalue <= 0.01


def test_a_torch_module() -> None:
    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, rows: Tensor) -> Tensor:
            return self.weight * rows[:, 0] ** 2

    generator = np.random.default_rng(0)
    x, y = 2.5 * generator.normal(size=(70, 1)), generator.normal(size=(60, 1))
    module = Square()
    state = torch.get_rng_state()
    first, second = (classifier_test(x, y, classifier=module, rng=0) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert first.statistic == second.statistic
    assert first.pvalue <= 0.01
    assert module.weight.item() == 0.0


def test_constant_rows_have_p_one() -> None:
    with pytest.warns(UserWarning, match="all rows of x and y are equal: p = 1"):
        result = classifier_test(np.ones((8, 2)), np.ones((9, 2)), rng=0)
    assert (result.pvalue, result.auc, result.accuracy) == (1.0, 0.5, 0.5)


def test_what_is_refused() -> None:
    x = np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises(ValueError, match=r"y has 3 rows, .* leaves 1 to train on and 2 to test"):
        classifier_test(x, x[:3])
    with pytest.raises(ValueError, match=r"x has 20 rows, .* = 0.95 leaves 1 to train on and 19"):
        classifier_test(x, x, test_fraction=0.95)
    with pytest.raises(ValueError, match=r"test_fraction must lie between 0 and 1; got 1\.5"):
        classifier_test(x, x, test_fraction=1.5)
    with pytest.raises(ValueError, match="n_resamples must be a positive integer; got 0"):
        classifier_test(x, x, n_resamples=0)
    with pytest.raises(ValueError, match="y has 1 rows of 20 with NaN"):
        classifier_test(x, np.where(np.arange(20)[:, None] == 4, np.nan, x))
    with pytest.raises(TypeError, match="decision_function or predict_proba; got str"):
        classifier_test(x, x, classifier="svm")
    with pytest.raises(TypeError, match="got StandardScaler"):
        classifier_test(x, x, classifier=StandardScaler())

    class Matrix(FirstColumn):
        def decision_function(self, rows: Rows) -> Rows:
            return rows

    class Undefined(FirstColumn):
        def decision_function(self, rows: Rows) -> Rows:
            return np.where(np.arange(len(rows)) == 2, np.nan, rows[:, 0])

    with pytest.raises(ValueError, match=r"one finite score per row, 20 in all; got shape \[20, 2"):
        classifier_test(x, x, classifier=Matrix())
    with pytest.raises(ValueError, match=r"shape \[20\] with 1 not finite"):
        classifier_test(x, x, classifier=Undefined())
