"""Tests that go on from the labellings they had finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from divergences import checkpoint, independence_test, two_sample_test
from divergences.files import replacing
from divergences.k_sample import k_sample_test
from divergences.results import HypothesisResult

X = np.random.default_rng(0).normal(size=(60, 2))
Y = np.random.default_rng(1).normal(size=(50, 2)) + 0.1
Z = np.random.default_rng(2).normal(size=(40, 2))

CASES: dict[str, Callable[..., HypothesisResult]] = {
    "two samples": lambda **o: two_sample_test(X, Y, method="energy", n_resamples=99, **o),
    "fuse of pairs": lambda **o: two_sample_test(X[:50], Y, paired=True, n_resamples=99, **o),
    "features": lambda **o: two_sample_test(X, Y, method="mmd-fourier", n_resamples=99, **o),
    "k samples": lambda **o: k_sample_test(X, Y, Z, n_resamples=99, **o),
    "strata": lambda **o: k_sample_test(
        X, Y, Z, n_resamples=99, strata=np.arange(150) % 4, pairwise=False, **o
    ),
    "independence": lambda **o: independence_test(X[:50], Y, n_resamples=99, **o),
}


BATCHES = {"fuse of pairs": 2 * 5, "k samples": 17 + 3 * 5, "strata": 17}  # 5 if not here


class Stopped(Exception):
    pass


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("evaluation", "independence"):
        monkeypatch.setattr(f"divergences.{module}.BATCH", 20)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """[written, most]: how often a checkpoint was, and how often before the test is interrupted."""
    counts = [0, 10**9]

    @contextmanager
    def counted(path: Path) -> Iterator[IO[bytes]]:
        if counts[0] == counts[1]:
            raise Stopped
        counts[0] += 1
        with replacing(path) as file:
            yield file

    monkeypatch.setattr(checkpoint, "replacing", counted)
    return counts


@pytest.mark.parametrize("name", CASES)
def test_goes_on_from_finished_labellings(name: str, writes: list[int], tmp_path: Path) -> None:
    test, path = CASES[name], tmp_path / "test.npz"
    expected = test(rng=5)
    writes[1] = 3
    with pytest.raises(Stopped):
        test(rng=5, checkpoint=path)
    writes[:] = [0, 10**9]
    found = test(rng=5, checkpoint=str(path))
    batches = BATCHES.get(name, 5)
    assert writes[0] == batches - 3
    again = test(rng=5, checkpoint=path)
    assert writes[0] == batches - 3
    for result in (found, again):
        assert result.pvalue == expected.pvalue
        np.testing.assert_allclose(
            result.null_distribution, expected.null_distribution, rtol=1e-9, atol=1e-12
        )


def test_a_file_of_another_test_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    CASES["two samples"](rng=5, checkpoint=path)
    before = path.read_bytes()
    for given in ({"rng": 6}, {"rng": 5, "scale": "rank"}):
        with pytest.raises(ValueError, match="has the statistics of another test"):
            CASES["two samples"](checkpoint=path, **given)
    with pytest.raises(ValueError, match="has the statistics of another test"):
        CASES["k samples"](rng=5, checkpoint=path)
    with pytest.raises(ValueError, match="has the statistics of another test"):
        two_sample_test(X, Y, method="energy", rng=5, n_resamples=150, checkpoint=path)
    assert path.read_bytes() == before


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("not an array")
    with pytest.raises(ValueError, match="notes is not the checkpoint of a test"):
        CASES["two samples"](rng=5, checkpoint=tmp_path / "notes")
    np.save(tmp_path / "rows.npy", X)
    np.savez(tmp_path / "rows.npz", x=X)
    damaged = bytearray((tmp_path / "rows.npz").read_bytes())
    damaged[damaged.rindex(b"PK\x01\x02") + 8] |= 1  # says that it is encrypted
    (tmp_path / "damaged.npz").write_bytes(damaged)
    for name in ("rows.npy", "rows.npz", "damaged.npz"):
        with pytest.raises(ValueError, match=f"{name} is not the checkpoint of a test"):
            CASES["two samples"](rng=5, checkpoint=tmp_path / name)
    with pytest.raises(ValueError, match="is a folder: name a file"):
        CASES["two samples"](rng=5, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="checkpoint needs a seed"):
        CASES["two samples"](checkpoint=tmp_path / "new")
    with pytest.raises(ValueError, match="there is no folder"):
        CASES["two samples"](rng=5, checkpoint=tmp_path / "none" / "new")
    with pytest.raises(ValueError, match="'classifier' does not take checkpoint"):
        two_sample_test(X, Y, method="classifier", rng=5, checkpoint=tmp_path / "new")
