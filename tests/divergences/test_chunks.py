"""Samples that are read in chunks: the results of samples in memory, in memory of a chunk."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, TensorDataset

from divergences import chunks, two_sample_test
from divergences.chunks import Batches, is_read_in_chunks

OPTIONS: dict[str, Any] = dict(n_resamples=99, n_features=16, rng=3, show_progress=False)


@pytest.fixture
def samples() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of unequal sizes, columns of other units, an offset, and hardly a difference."""
    draw = np.random.default_rng(0).standard_normal
    scale = [1.0, 30.0, 0.1]
    return draw((700, 3)) * scale + 5.0, draw((450, 3)) * scale + 5.01


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 64)


class Dataset:
    """What h5py and zarr share: a shape, and slices that are read from a file."""

    def __init__(self, rows: NDArray[np.float64]) -> None:
        self._rows, self.shape, self.dtype = rows, rows.shape, rows.dtype
        self.longest = 0

    def __getitem__(self, span: slice) -> NDArray[np.float64]:
        found = self._rows[span]
        self.longest = max(self.longest, len(found))
        return found


class RecordBatch:
    """As much of pyarrow's as is used."""

    class Column:
        def __init__(self, values: NDArray[np.float64]) -> None:
            self._values = values

        def to_numpy(self, *, zero_copy_only: bool) -> NDArray[np.float64]:
            assert not zero_copy_only
            return self._values

    schema = None

    def __init__(self, rows: NDArray[np.float64]) -> None:
        self.columns = [self.Column(column) for column in rows.T]

    def __len__(self) -> int:
        return len(self.columns[0]._values)


class ParquetFile:
    """As much of pyarrow's as is used; its batches do not end where chunks do."""

    class schema_arrow:
        names = ("a", "b", "c")

    def __init__(self, rows: NDArray[np.float64]) -> None:
        self._rows = rows
        self.metadata = type("Metadata", (), {"num_rows": len(rows)})

    def iter_batches(self, batch_size: int) -> Iterator[RecordBatch]:
        assert batch_size == chunks.CHUNK
        for start in range(0, len(self._rows), 50):
            yield RecordBatch(self._rows[start : start + 50])


class Data:
    """A data set of pyarrow."""

    def __init__(self, rows: NDArray[np.float64]) -> None:
        self._file = ParquetFile(rows)
        self.schema = ParquetFile.schema_arrow

    def count_rows(self) -> int:
        return self._file.metadata.num_rows

    def to_batches(self, batch_size: int) -> Iterator[RecordBatch]:
        return self._file.iter_batches(batch_size)


def as_map(rows: NDArray[np.float64], path: pathlib.Path) -> Any:
    np.save(path, rows)
    return np.load(path, mmap_mode="r")


KINDS = {
    "map": lambda rows, path: as_map(rows, path / f"{len(rows)}.npy"),
    "dataset": lambda rows, _: Dataset(rows),
    "batches": lambda rows, _: Batches(np.split(rows, [3, 5, 300])),
    "tensors": lambda rows, _: Batches(torch.from_numpy(rows).split(100), len(rows)),
    "parquet": lambda rows, _: ParquetFile(rows),
    "data set": lambda rows, _: Data(rows),
}


@pytest.mark.parametrize(
    ("kind", "method"), [*((kind, "mmd-fourier") for kind in KINDS), ("dataset", "mmd-nystrom")]
)
def test_result_is_that_of_the_array(
    kind: str, method: Any, samples: Any, tmp_path: pathlib.Path
) -> None:
    """To the bit: statistic, p-value, null distribution, effect size, notes on the scale."""
    expected = two_sample_test(*samples, method=method, **OPTIONS)
    assert expected.scale == "robust" and 0.01 < expected.pvalue < 0.99
    x, y = (KINDS[kind](rows, tmp_path) for rows in samples)
    assert is_read_in_chunks(x)
    assert two_sample_test(x, y, method=method, **OPTIONS).to_dict() == expected.to_dict()


def test_one_sample_may_be_in_memory(samples: Any) -> None:
    x, y = samples
    expected, *found = (
        two_sample_test(*both, method="mmd-fourier", **OPTIONS).to_dict()
        for both in ((x, y), (Dataset(x), y), (x, Dataset(y)))
    )
    assert found == [expected, expected]


def test_inner_products(samples: Any) -> None:
    """k(z, z) differs from row to row. With every row a landmark the test is that of all pairs."""
    x, y = ((rows / [1.0, 30.0, 0.1])[:120] for rows in samples)
    options: dict[str, Any] = dict(kernel="polynomial", n_resamples=19, rng=0, show_progress=False)
    expected = two_sample_test(x, y, method="mmd", **options)
    found = two_sample_test(Dataset(x), Dataset(y), method="mmd-nystrom", n_features=240, **options)
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-4)
    assert found.effect_size == pytest.approx(expected.effect_size, rel=1e-4)


def test_slices_are_chunks(samples: Any) -> None:
    x, y = map(Dataset, samples)
    two_sample_test(x, y, method="mmd-fourier", **OPTIONS)
    assert x.longest == y.longest == chunks.CHUNK


@pytest.mark.parametrize("kind", KINDS)
def test_energy_of_one_column(kind: str, samples: Any, tmp_path: pathlib.Path) -> None:
    column = [rows[:, :1] for rows in samples]
    x, y = (KINDS[kind](rows, tmp_path) for rows in column)
    options: dict[str, Any] = dict(method="energy", n_resamples=99, rng=0)
    expected = two_sample_test(*column, **options)
    assert two_sample_test(x, y, **options).to_dict() == expected.to_dict()


@pytest.mark.parametrize(
    "options",
    [
        dict(method="energy"),
        dict(method="mmd-fourier", drop_nan=True),
        dict(method="mmd-fourier", strata=np.zeros(1150)),
        dict(method="mmd-nystrom", scale="rank"),
    ],
    ids=str,
)
def test_what_takes_no_batches_says_so(options: dict[str, Any], samples: Any) -> None:
    with pytest.raises(TypeError, match="x has 3 columns in batches, which methods"):
        two_sample_test(Batches([samples[0]]), samples[1], **options)
    with pytest.raises(TypeError, match="y has 3 columns in batches, which methods"):
        two_sample_test(samples[0], Batches([samples[1]]), **options)


def test_what_is_refused(samples: Any) -> None:
    x, y = samples
    with pytest.raises(TypeError, match="FeatureSums"):
        Batches(iter([x]))
    for array in (x, torch.from_numpy(x[:, 0])):
        with pytest.raises(TypeError, match=r"one array \[700.* pass it to the test as it is"):
            Batches(array)
    for dataset in (
        TensorDataset(torch.zeros(60)),
        TensorDataset(torch.zeros(60, 3), torch.ones(60)),
    ):
        with pytest.raises(TypeError, match="a batch of x is a list of tensors"):
            two_sample_test(Batches(DataLoader(dataset, 20)), y, method="mmd-fourier", **OPTIONS)
    given: list[tuple[Any, str]] = [
        (Batches([x, y[:, :2]]), "batches of 3 and of 2 columns"),
        (Batches([x], rows=800), "should have 800 rows; read were 700"),
        (Batches([]), "x is empty"),
        (Batches([x, x * np.nan]), r"x\[700:1400\] has 700 rows of 700 with NaN"),
        (Batches([x[:1]]), "x has 1 row"),
        (Batches([x[:, :2]]), "must share d"),
        (Dataset(x[:, :, None]), "must have shape"),
    ]
    for sample, message in given:
        with pytest.raises(ValueError, match=message):
            two_sample_test(sample, y, method="mmd-fourier", **OPTIONS)


MEMORY = """
import resource, sys, threading, time
import numpy as np, torch
from divergences import chunks, two_sample_test

def kilobytes(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))

def watch():
    while True:
        peak[0] = max(peak[0], kilobytes("RssAnon"))
        time.sleep(0.002)

def test(x, y, method):
    options = dict(n_resamples=19, n_features=16, rng=0, show_progress=False)
    return two_sample_test(x, y, method=method, **options).pvalue

torch.set_num_threads(1)
chunks.CHUNK = 64
x, y = (np.load(path, mmap_mode="r") for path in sys.argv[1:])
methods = "mmd-fourier", "mmd-nystrom"
for method in methods:
    test(x[:999], y[:999], method)  # what libraries allocate once
allowed = (x.nbytes + y.nbytes) // 10
peak = [kilobytes("RssAnon")]
before = peak[0]
threading.Thread(target=watch, daemon=True).start()
time.sleep(0.1)
resource.setrlimit(resource.RLIMIT_DATA, (kilobytes("VmData") * 1024 + allowed,) * 2)
print(*(test(x, y, method) for method in methods), 1024 * (peak[0] - before) / allowed)
try:
    np.array(x)
except MemoryError:
    print("refused")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_memory_is_that_of_chunks(tmp_path: pathlib.Path) -> None:
    """Of 120 MB, a tenth may be in anonymous memory: two dozen chunks of 64 rows in fp64."""
    paths = [tmp_path / "x.npy", tmp_path / "y.npy"]
    for seed, path in enumerate(paths):
        draw = np.random.default_rng(seed).standard_normal((15_000, 1000), dtype=np.float32)
        np.save(path, draw)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *map(str, paths)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (*pvalues, part), (refused,) = (line.split() for line in done.stdout.splitlines())
    assert all(0.0 < float(p) <= 1.0 for p in pvalues)
    assert float(part) < 1.0 and refused == "refused"
