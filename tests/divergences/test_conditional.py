"""Conditional independence: regressions against refits, levels, forks, colliders, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.distance import cdist

from divergences import conditional, conditional_independence_test, independence_test

Array = NDArray[np.float64]
Test: Any = conditional_independence_test


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small decompositions on several threads wait for one another where others run too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fork(n: int, seed: int, shared: float = 0.0) -> tuple[Array, Array, Array]:
    """x and y are functions of z [n, 2] with noise, of which they share a part."""
    r = np.random.default_rng(seed)
    z, common = r.normal(size=(n, 2)), shared * r.normal(size=n)
    x = np.tanh(z[:, 0]) + 0.5 * (r.normal(size=n) + common)
    return x, z[:, 0] ** 2 + z[:, 1] + 0.5 * (r.normal(size=n) + common), z


def test_regressions_are_those_of_refits_without_each_row() -> None:
    """Kernel ridge regression in its dual form, refitted n times for every kernel and ridge."""
    x, _, z = fork(14, 0)
    outputs = torch.from_numpy(np.column_stack([x, x**2])) - 1.0
    regressors = [*conditional._regressors(torch.from_numpy(z), np.random.default_rng(0))]
    found = conditional._regress(outputs, regressors)
    a, best = outputs.numpy(), np.full(2, np.inf)
    residuals = np.empty_like(a)
    whole, columns = cdist(z, z), [cdist(z[:, [j]], z[:, [j]]) for j in range(2)]

    def median(d: Array) -> float:
        return float(np.sort(d[np.triu_indices(14, 1)])[45])  # the lower one of 91

    for parts in ([whole], columns):
        for width in (0.25, 0.5, 1.0, 2.0, 4.0):
            k = np.mean([np.exp(-0.5 * (d / median(d) / width) ** 2) for d in parts], axis=0)
            for ridge in np.geomspace(1e-4, 30.0, 12):
                left_out = np.empty_like(a)
                for i in range(14):
                    rest = np.arange(14) != i
                    weights = np.linalg.solve(k[rest][:, rest] + ridge * np.eye(13), a[rest])
                    left_out[i] = a[i] - k[i, rest] @ weights
                errors = (left_out**2).sum(0)
                fit = k @ np.linalg.solve(k + ridge * np.eye(14), a)
                better = errors < best
                best[better], residuals[:, better] = errors[better], (a - fit)[:, better]
    np.testing.assert_allclose(found.residuals, residuals - residuals.mean(0), atol=1e-6)
    assert found.explained == pytest.approx(max(0.0, 1.0 - best.sum() / (a**2).sum()), abs=1e-6)


def test_statistic_and_null_are_those_of_dense_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditional, "TILE", 7)
    r = np.random.default_rng(0)
    a, b = r.normal(size=(20, 3)), r.normal(size=(20, 2))
    found = conditional._signed(
        torch.from_numpy(a), torch.from_numpy(b), 50, np.random.default_rng(1), False
    )
    product = (a @ a.T) * (b @ b.T) * (1.0 - np.eye(20))
    assert found.statistic == pytest.approx(product.sum() / 380)
    signs = np.where(np.random.default_rng(1).random((20, 50)) < 0.5, 1.0, -1.0)
    np.testing.assert_allclose(found.null, np.einsum("ib,ij,jb->b", signs, product, signs) / 380)
    off = 1.0 - np.eye(20)
    norm = np.sqrt((((a @ a.T) * off) ** 2).sum() * (((b @ b.T) * off) ** 2).sum())
    assert found.correlation == pytest.approx(product.sum() / norm)


def test_what_a_fork_and_a_collider_do() -> None:
    x, y, z = fork(150, 1)
    assert independence_test(y, z[:, 0], method="dcov", rng=0).pvalue < 0.01
    assert independence_test(x, z[:, 0], method="dcov", rng=0).pvalue < 0.01
    assert Test(x, y, z, n_resamples=199, rng=0).pvalue > 0.1
    assert Test(*fork(150, 1, shared=1.0), n_resamples=199, rng=0).pvalue < 0.02
    r = np.random.default_rng(0)
    x, y = r.normal(size=(2, 150))
    given = x + y + 0.3 * r.normal(size=150)
    assert independence_test(x, y, method="dcov", rng=0).pvalue > 0.05
    result = Test(x, y, given, n_resamples=199, rng=0)
    assert result.pvalue == 1 / 200 and result.effect_size > 0.05


def test_level_and_power() -> None:
    """A level of .1, or not much more, as far as 40 repetitions tell; half of the noise shared."""
    null = [Test(*fork(60, 100 + s), n_resamples=99, rng=s).pvalue for s in range(40)]
    rejected = int((np.array(null) <= 0.1).sum())
    assert 0 < rejected <= stats.binom.ppf(1 - 1e-3, 40, 0.15)
    assert len(np.unique(null)) > 12
    other = [Test(*fork(100, s, shared=1.0), n_resamples=99, rng=s).pvalue for s in range(10)]
    assert np.mean(np.array(other) <= 0.05) > 0.5


def test_more_rows_than_landmarks() -> None:
    """And z that is constant: then it is a test of independence."""
    x, y, z = fork(300, 3, shared=1.0)
    result = Test(x, y, z, n_resamples=99, rng=0)
    assert result.pvalue == 0.01 and not any("approximate" in note for note in result.notes)
    r = np.random.default_rng(0)
    alone = Test(r.normal(size=50), r.normal(size=50), np.ones(50), n_resamples=99, rng=0)
    assert alone.pvalue > 0.1 and alone.explained[0] < 0.1


def test_results_say_what_they_rest_on() -> None:
    pytest.importorskip("matplotlib")
    x, y, z = fork(80, 0)
    result = Test(x, y, z > 0.5, n_resamples=99, rng=5)
    assert "hsic: test of independence of x and y given z" in str(result)
    assert "n = 80, dx = 1, dy = 1, dz = 2; 99 signs, seed 5" in str(result)
    assert "z takes 4 values: independence_test(x, y, strata=z) is exact" in result.notes
    assert any("asymptotic" in note for note in result.notes)
    assert result.to_dict()["explained"] == list(result.explained)
    assert result.explained[1] > 0.1
    assert result.plot().axes
    again = Test(x, y, z > 0.5, n_resamples=99, rng=5)
    assert again.pvalue == result.pvalue and again.statistic == result.statistic


def test_units_and_missing_rows() -> None:
    x, y, z = fork(80, 0, shared=0.5)
    units = z * [1.0, 1e4]
    found = Test(x, y, units, n_resamples=99, rng=0)
    assert found.scale == "None (x), None (y), robust (z)"
    z[3, 0] = np.nan
    kept = np.arange(80) != 3
    dropped = Test(x, y, z, n_resamples=99, rng=0, drop_nan=True)
    assert dropped.pvalue == Test(x[kept], y[kept], z[kept], n_resamples=99, rng=0).pvalue
    assert "left out 1 of 80 rows of x" in dropped.notes[0]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"z": np.zeros((39, 2))}, r"row i of x, y and z belong together.* z \[39, 2\]"),
    ({"y": np.zeros(39)}, "x and y must have as many rows"),
    ({"x": np.zeros(9), "y": np.zeros(9), "z": np.zeros(9)}, "at least 10 rows are needed; got 9"),
    ({"z": np.full(40, np.nan)}, "z has 40 rows of 40 with NaN"),
    ({"kernel_x": "energy"}, "kernel_x must be positive definite; got Energy"),
    ({"n_resamples": 0}, "n_resamples must be a positive integer; got 0"),
    ({"scale": "unit"}, "unknown scale 'unit'"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_bad_input_is_refused(given: dict[str, Any], message: str) -> None:
    x, y, z = fork(40, 0)
    with pytest.raises(ValueError, match=message):
        Test(**{"x": x, "y": y, "z": z} | given)
