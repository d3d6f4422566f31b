"""``examples/many_tests.py``: one function of (arrays, seed) wherever it runs."""

from __future__ import annotations

import copy
import pickle

import many_tests
import numpy as np
import pytest

from divergences import localize, two_sample_test


def test_the_same_numbers_on_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each is that of its columns and seed, wherever jobs are cut off."""
    monkeypatch.setattr(many_tests, "TOGETHER", 2)
    r = np.random.default_rng(0)
    x, y = r.normal(size=(20, 3)), r.normal(1.0, 1.0, size=(15, 3))
    serial, processes = (many_tests.run(x, y, on) for on in ("serial", "processes"))
    np.testing.assert_array_equal(serial, processes)
    np.testing.assert_array_equal(serial[2:], many_tests.pvalues((x[:, 2:], y[:, 2:], 2)))


def test_what_workers_may_return_is_small() -> None:
    z = np.random.default_rng(0).normal(size=(8000, 1))
    result = two_sample_test(z[:4000], z[4000:], method="energy", n_resamples=99, rng=0)
    assert len(pickle.dumps(result)) < 8000 < z.nbytes < len(pickle.dumps(result.with_samples()))
    found = pickle.loads(pickle.dumps(result))
    assert found.to_dict() == result.to_dict()
    assert len(found.plot().axes) == 1  # the null distribution; the witness needs the samples
    assert len(pickle.loads(pickle.dumps(result.with_samples())).plot().axes) > 1
    assert len(copy.deepcopy(result).plot().axes) > 1


def test_a_figure_of_columns_needs_the_samples() -> None:
    z = np.random.default_rng(0).normal(size=(40, 3))
    result = localize(z[:20], z[20:], n_resamples=99, rng=0)
    with pytest.raises(ValueError, match=r"pickled without its samples.*with_samples"):
        pickle.loads(pickle.dumps(result)).plot()
    assert pickle.loads(pickle.dumps(result.with_samples())).plot().axes
