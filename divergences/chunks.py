"""Samples that are read some rows at a time: files larger than memory, and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .samples import as_sample, column_names

CHUNK = 8192  # rows held at a time

__all__ = ["Batches"]


class Batches:
    """A sample that comes in batches, for ``two_sample_test`` with method "mmd-fourier" or
    "mmd-nystrom", or "energy" and one column: its rows are those of all batches in turn.

    Args:
        batches: arrays or tensors [k, d] or [k], an iterable that gives the same ones whenever it
            is iterated: a list, a loader that does not shuffle, an object with ``__iter__``.
        rows: how many rows there are in all; counted, in a pass of its own, if None.
        column_names: of the d columns.

    Raises:
        TypeError: an iterator, which can be read once (``divergences.streams`` has sums for it);
            one array [n, d], whose batches would be its rows; from the test, batches that are lists
            or tuples of tensors, as those of a ``DataLoader`` with labels.

    >>> import numpy as np
    >>> from divergences import two_sample_test
    >>> from divergences.chunks import Batches
    >>> draw = np.random.default_rng(0).normal
    >>> x = Batches([draw(0.0, 1.0, (300, 2)), draw(0.0, 1.0, (200, 2))])
    >>> two_sample_test(x, draw(0.5, 1.0, (400, 2)), method="mmd-fourier", rng=0).pvalue
    0.001
    """

    def __init__(
        self,
        batches: Iterable[Any],
        rows: int | None = None,
        column_names: Iterable[str] | None = None,
    ) -> None:
        if iter(batches) is batches:
            raise TypeError(
                "batches are read several times, and an iterator can be read once; pass what it "
                "iterates over, or add them up in a divergences.streams.FeatureSums"
            )
        if isinstance(batches, np.ndarray | Tensor) and batches.ndim < 3:
            raise TypeError(
                f"got one array {list(batches.shape)}, whose batches would be its rows; pass it to "
                "the test as it is, or as [array]"
            )
        self.batches = batches
        self.rows = sum(map(len, batches)) if rows is None else rows
        self.column_names = None if column_names is None else [*column_names]

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


@dataclass(frozen=True, eq=False)
class Rows:
    """``count`` rows of ``d`` numbers, read in order, as often as asked for: ``read`` gives them in
    parts of any size, [k, d]. ``held`` are those that are in memory."""

    count: int
    d: int
    read: Callable[[], Iterator[Tensor]]
    device: torch.device
    column_names: list[str] | None = None
    held: Tensor | None = None

    def __len__(self) -> int:
        return self.count

    @property
    def shape(self) -> tuple[int, int]:
        return self.count, self.d

    def __add__(self, other: Rows) -> Rows:
        """These rows and then the ``other`` ones."""
        both = self.read, other.read
        count = self.count + other.count
        return Rows(count, self.d, lambda: chain.from_iterable(r() for r in both), self.device)

    def map(self, function: Callable[[Tensor], Tensor]) -> Rows:
        """What a function [n, d] -> [n, d] makes of each row."""
        return Rows(self.count, self.d, lambda: map(function, self.chunks()), self.device)

    def chunks(self) -> Iterator[Tensor]:
        """The rows ``CHUNK`` at a time, wherever the parts end."""
        held: list[Tensor] = []
        for part in self.read():
            while len(part):
                space = CHUNK - sum(map(len, held))
                held.append(part[:space])
                part = part[space:]
                if len(held[-1]) == space:
                    yield torch.cat(held) if len(held) > 1 else held[0]
                    held = []
        if held:
            yield torch.cat(held)

    def head(self) -> Tensor:
        """The first chunk."""
        return next(self.chunks())

    def survey(self, numbers: NDArray[np.int64]) -> tuple[Tensor, bool]:
        """The rows with these numbers [k, d], and whether all rows are equal. Reads every row."""
        order = np.argsort(numbers)
        ascending = numbers[order]
        found, constant, start = torch.empty(0), True, 0
        for chunk in self.chunks():
            if start == 0:
                first, found = chunk[:1], chunk.new_empty(len(numbers), self.d)
            constant = constant and bool((chunk == first).all())
            low, high = np.searchsorted(ascending, [start, start + len(chunk)])
            here = torch.from_numpy(ascending[low:high] - start).to(chunk.device)
            found[torch.from_numpy(order[low:high]).to(chunk.device)] = chunk[here]
            start += len(chunk)
        return found, constant


def is_read_in_chunks(x: Any) -> bool:
    """Whether a sample is ``Batches``, a map of a file (``np.memmap``), a .parquet file or a data
    set that pyarrow has opened, or anything else with ``shape`` and slices that is not in memory,
    such as the arrays of h5py and zarr. Tensors, arrays, data frames and what has ``__dlpack__``
    are in memory."""
    if isinstance(x, np.ndarray | Tensor):
        return isinstance(x, np.memmap)
    if isinstance(x, Batches) or _is_parquet_file(x) or _is_data_set(x):
        return True
    sliced = hasattr(x, "shape") and hasattr(x, "__getitem__") and not hasattr(x, "iloc")
    return sliced and not hasattr(x, "__dlpack__") and column_names(x) is None


def held_rows(z: Tensor, names: list[str] | None = None) -> Rows:
    """The rows of z [n, d]."""
    return Rows(len(z), z.shape[1], lambda: iter([z]), z.device, names, z)


def rows_of(x: Any, name: str) -> Rows:
    """The rows of a sample of any kind, fp64 unless in fp32 on CUDA.

    Raises TypeError or ValueError, also as they are read: for rows that are no finite numbers, or
    not as many as they should be.
    """
    if not is_read_in_chunks(x):
        return held_rows(as_sample(x, name), column_names(x))
    batches = _batches(x, name)

    def read() -> Iterator[Tensor]:
        start, d = 0, None
        for batch in batches:
            if isinstance(batch, list | tuple) and any(isinstance(z, Tensor) for z in batch):
                raise TypeError(
                    f"a batch of {name} is a {type(batch).__name__} of tensors, as a TensorDataset "
                    "or a data set with labels gives them; iterate over one of them, [k, d] or [k]"
                )
            part = as_sample(_table(batch), f"{name}[{start}:{start + len(batch)}]")
            d = d or part.shape[1]
            if part.shape[1] != d:
                raise ValueError(f"{name} has batches of {d} and of {part.shape[1]} columns")
            start += len(part)
            yield part
        if start != len(batches):
            raise ValueError(f"{name} should have {len(batches):,} rows; read were {start:,}")

    head = next(read(), None)
    if head is None:
        raise ValueError(f"{name} is empty")
    return Rows(len(batches), head.shape[1], read, head.device, batches.column_names)


def gathered(x: Any, name: str) -> Any:
    """``x`` itself, or the column of numbers [n, 1] of what numpy does not convert. Raises
    TypeError for several columns, which only some tests take."""
    if not is_read_in_chunks(x) or hasattr(x, "__array__"):
        return x
    rows = rows_of(x, name)
    if rows.d == 1:
        return torch.cat([*rows.read()])
    raise TypeError(
        f"{name} has {rows.d} columns in batches, which methods 'mmd-fourier' and 'mmd-nystrom' "
        "take (without a design, drop_nan or scale='rank' or 'whiten'); pass an array in memory"
    )


def _batches(x: Any, name: str) -> Batches:
    if isinstance(x, Batches):
        return x
    if _is_parquet_file(x):
        again = Again(lambda: x.iter_batches(batch_size=CHUNK))
        return Batches(again, x.metadata.num_rows, x.schema_arrow.names)
    if _is_data_set(x):
        again = Again(lambda: x.to_batches(batch_size=CHUNK))
        return Batches(again, x.count_rows(), x.schema.names)
    if len(x.shape) not in (1, 2):
        raise ValueError(f"{name} must have shape [n, d] or [n]; got {list(x.shape)}")
    starts = range(0, x.shape[0], CHUNK)
    return Batches(Again(lambda: (x[start : start + CHUNK] for start in starts)), x.shape[0])


class Again:
    """What a function gives whenever it is called, to iterate over."""

    def __init__(self, iterate: Callable[[], Iterator[Any]]) -> None:
        self._iterate = iterate

    def __iter__(self) -> Iterator[Any]:
        return iter(self._iterate())


def _is_parquet_file(x: Any) -> bool:
    return hasattr(x, "iter_batches") and hasattr(x, "schema_arrow")


def _is_data_set(x: Any) -> bool:
    return hasattr(x, "to_batches") and hasattr(x, "count_rows")


def _table(batch: Any) -> Any:
    """A batch of pyarrow as an array; others as they are."""
    if not hasattr(batch, "schema"):
        return batch
    return np.column_stack([column.to_numpy(zero_copy_only=False) for column in batch.columns])
