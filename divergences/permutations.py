"""Permutations of paired rows: what tests of independence resample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


class Permutations:
    """Permutations of n rows: the identity first, and B others.

    They stay within ``strata`` if given [n]. If there are no more than B + 1 of them, all are
    listed (``exact``), else B are drawn from ``generator``: batches of any width give the same.
    """

    def __init__(
        self,
        count: int,
        n_resamples: int,
        generator: np.random.Generator,
        strata: NDArray[np.int64] | None = None,
    ) -> None:
        self.generator = generator
        self.strata = np.zeros(count, dtype=np.int64) if strata is None else strata
        self._order = np.argsort(self.strata, kind="stable")
        sizes = np.bincount(self.strata)
        log_count = sum(math.lgamma(size + 1) for size in sizes.tolist())
        self.exact = log_count < math.log(n_resamples + 1.5)
        self.columns = round(math.exp(log_count)) if self.exact else n_resamples + 1
        self._parts = np.split(self._order, np.cumsum(sizes)[:-1])

    def batches(self, width: int) -> Iterator[NDArray[np.int64]]:
        """Permutations [≤ width, n], ``columns`` of them in all."""
        parts = self._parts if self.exact else []  # product() makes lists of what it is given
        listed = itertools.product(*(itertools.permutations(p.tolist()) for p in parts))
        for start in range(0, self.columns, width):
            size = min(width, self.columns - start)
            found = np.empty((size, len(self.strata)), dtype=np.int64)
            if self.exact:
                rows = itertools.islice(listed, size)
                found[:, self._order] = [[*itertools.chain(*combined)] for combined in rows]
            else:
                # Sorting by stratum, then at random, permutes each stratum within its own places.
                keys = self.strata + self.generator.random(found.shape)
                found[:, self._order] = np.argsort(keys, axis=1)
            if start == 0:
                found[0] = np.arange(len(self.strata))
            yield found
