"""Statistics of finished labellings in a file, from which a test that was interrupted goes on."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from .files import replacing
from .samples import Rng

Batch = TypeVar("Batch")
Arrays: TypeAlias = "tuple[NDArray[np.float64], ...]"
Location: TypeAlias = str | os.PathLike[str]

BATCH = 128  # labellings after which the file is written


class Checkpoint:
    """The file of a test, written after every batch of labellings; see ``over``.

    ``content`` is that of the file, read here if None; ``writes``: it is this process that keeps
    it. Raises ValueError for a file that is something else.
    """

    def __init__(
        self, location: Location, content: bytes | None = None, *, writes: bool = True
    ) -> None:
        self.path, self._writes, self._evaluations = Path(location), writes, 0
        if content is None:
            folder = self.path.parent
            if not folder.is_dir():
                raise ValueError(f"checkpoint {self.path}: there is no folder {folder}")
            if self.path.is_dir():
                raise ValueError(f"checkpoint {self.path} is a folder: name a file")
            if not os.access(folder, os.W_OK):
                raise ValueError(f"checkpoint {self.path}: no file can be written to {folder}")
            content = self.path.read_bytes() if self.path.exists() else b""
        self.content = content
        self._finished: dict[str, NDArray[np.float64]] = {}
        if self.content:
            try:
                found = np.load(io.BytesIO(self.content), allow_pickle=False)
                self._finished = dict(found) if isinstance(found, np.lib.npyio.NpzFile) else {}
                if not all(name.startswith("evaluation ") for name in self._finished or [""]):
                    raise ValueError("it holds other arrays")
            except (ValueError, OSError, zipfile.BadZipFile, EOFError, RuntimeError) as error:
                raise ValueError(
                    f"{self.path} is not the checkpoint of a test ({error}): name another file"
                ) from None

    def over(
        self,
        batches: Iterable[Batch],
        labellings: int,
        statistics: Callable[[Batch], Arrays],
        skip: Callable[[], object],
    ) -> list[Arrays]:
        """The ``statistics`` of each batch of so many ``labellings`` in all. Those in the file are
        not formed again, and ``skip`` is called instead, but for the first batch: it tells whether
        the file is of this test. Raises ValueError where it is not."""
        self._evaluations += 1
        found = []
        own = f"evaluation {self._evaluations} of "
        of_own = [key for key in self._finished if key.startswith(own)]
        own += f"{labellings} labellings, "
        if not all(key.startswith(own) for key in of_own):
            raise self._of_another_test()
        for number, batch in enumerate(batches):
            name = f"{own}batch {number}, "
            names = [key for key in self._finished if key.startswith(name)]
            saved = tuple(self._finished[key] for key in names)
            if saved and number > 0:
                found.append(saved)
                skip()
                continue
            found.append(statistics(batch))
            if saved:
                self._compare(saved, found[0])
                continue
            self._finished |= {f"{name}{k}": array for k, array in enumerate(found[-1])}
            if self._writes:
                with replacing(self.path) as file:
                    np.savez(file, **self._finished)  # type: ignore[arg-type]
        return found

    def _compare(self, saved: Arrays, formed: Arrays) -> None:
        if [a.shape for a in saved] != [b.shape for b in formed]:
            raise self._of_another_test()
        for a, b in zip(saved, formed, strict=True):
            near = 1e-3 * float(b.std()) + 1e-12 * float(np.abs(b).max())
            if not np.allclose(a, b, rtol=0.0, atol=near):
                raise self._of_another_test()

    def _of_another_test(self) -> ValueError:
        return ValueError(
            f"{self.path} has the statistics of another test (other data, options or seed): name "
            "another file, or take it away"
        )


def checkpoint_of(location: Location | Checkpoint | None, rng: Rng) -> Checkpoint | None:
    """Raises ValueError without a seed: the labellings of the next run would be others."""
    if location is None or isinstance(location, Checkpoint):
        return location
    if rng is None:
        raise ValueError("checkpoint needs a seed, so that the next run has the same labellings")
    return Checkpoint(location)


def in_batches(
    batches: Iterable[Batch],
    labellings: int,
    statistics: Callable[[Batch], Arrays],
    checkpoint: Checkpoint | None,
    tick: Callable[[], object],
    steps: int,
) -> list[Arrays]:
    """The ``statistics`` of every batch of so many ``labellings`` in all, each of which reports
    ``steps`` of progress by ``tick``."""
    if checkpoint is None:
        return [statistics(batch) for batch in batches]
    return checkpoint.over(batches, labellings, statistics, lambda: [tick() for _ in range(steps)])
