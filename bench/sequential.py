"""Power of sequential tests: pairs of rows until P = Q is rejected, batches until an alarm.

python -m bench.sequential --repetitions 100

The test is at level .05; beside it the power of ``two_sample_test`` (the default, B = 199) of as
many rows as the median of its pairs. The detector ("energy") has a reference of 500 rows, batches
of 20 rows, and changes after 10 of them; beside it a test of each batch alone at its level, .01.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from divergences.sequential import ChangeDetector, SequentialTwoSampleTest
from divergences.two_sample import two_sample_test

from .report import markdown

Array = NDArray[np.float64]
Changed = Callable[[Array], Array]  # rows of y, or after a change, from standard normal ones
MOST, BATCH, BEFORE, LATEST = 2000, 20, 10, 100  # pairs; rows; batches before a change, and after
MIXED = np.linalg.cholesky(np.array([[1.0, 0.7], [0.7, 1.0]])).T
CASES: dict[str, tuple[int, Changed]] = {  # and d
    "shift .5, d = 1": (1, lambda z: z + 0.5),
    "shift .5 in 1 of 5": (5, lambda z: z + 0.5 * np.eye(5)[0]),
    "shift .3 in all of 10": (10, lambda z: z + 0.3),
    "shift 1 in 1 of 50": (50, lambda z: z + np.eye(50)[0]),
    "scale 1.5, d = 1": (1, lambda z: 1.5 * z),
    "scale 1.3, d = 5": (5, lambda z: 1.3 * z),
    "correlation .7, d = 2": (2, lambda z: z @ MIXED),
}
CHANGES: dict[str, tuple[int, Changed]] = {
    "shift .25, d = 1": (1, lambda z: z + 0.25),
    "shift .5, d = 1": CASES["shift .5, d = 1"],
    "shift 1, d = 1": (1, lambda z: z + 1.0),
    "shift .5 in 1 of 5": CASES["shift .5 in 1 of 5"],
    "scale 1.5, d = 1": CASES["scale 1.5, d = 1"],
}


def pairs_taken(d: int, changed: Changed, repetitions: int) -> Array:
    found = []
    for repetition in range(repetitions):
        r = np.random.default_rng([1, repetition])
        test = SequentialTwoSampleTest(rng=repetition)
        result = test.result
        while not result.rejected and result.n < MOST:
            result = test.update(r.normal(size=(50, d)), changed(r.normal(size=(50, d))))
        found.append(result.rejected_at or np.inf)
    return np.array(found)


def fixed_power(n: int, d: int, changed: Changed, repetitions: int) -> float:
    found = []
    for repetition in range(repetitions):
        r = np.random.default_rng([2, repetition])
        x, y = r.normal(size=(n, d)), changed(r.normal(size=(n, d)))
        found.append(two_sample_test(x, y, n_resamples=199, rng=repetition).pvalue <= 0.05)
    return float(np.mean(found))


def delays(d: int, changed: Changed, repetitions: int) -> tuple[Array, Array]:
    """Batches until the alarm of the detector, and until a batch with p ≤ .01, after a change; both
    counted in streams of which the detector gave no alarm before it."""
    ours, each = [], []
    for repetition in range(repetitions):
        r = np.random.default_rng([3, repetition])
        reference = r.normal(size=(500, d))
        detector = ChangeDetector(reference, 0.01, method="energy", rng=repetition)
        first: list[float] = [np.inf, np.inf]
        for batch in range(1 - BEFORE, LATEST + 1):
            z = r.normal(size=(BATCH, d))
            result = detector.update(changed(z) if batch > 0 else z)
            for which, alarm in enumerate((result.alarm, result.pvalue <= 0.01)):
                if alarm and (which == 0 or batch > 0):
                    first[which] = min(first[which], batch)
            if first[0] <= 0 or max(first) < np.inf:
                break
        if first[0] > 0:
            ours.append(first[0])
            each.append(first[1])
    return np.array(ours), np.array(each)


def main(argv: list[str] | None = None) -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    repetitions = parser.parse_args(argv).repetitions
    rows = []
    for name, (d, changed) in CASES.items():
        taken = pairs_taken(d, changed, repetitions)
        middle, most = np.quantile(taken, [0.5, 0.8], method="higher")
        power = fixed_power(int(middle), d, changed, repetitions)
        rows.append((name, f"{middle:g}", f"{most:g}", f"{power:.2f}"))
        print(rows[-1], flush=True)
    print(markdown(("", "pairs, median", "80 % quantile", "fixed n = m = median"), rows))
    rows = []
    for name, (d, changed) in CHANGES.items():
        found = delays(d, changed, repetitions)
        both = [f"{np.median(f):g} ({np.quantile(f, 0.8, method='higher'):g})" for f in found]
        rows.append((name, *both))
        print(rows[-1], flush=True)
    print(markdown(("", "detector", "test of each batch"), rows))


if __name__ == "__main__":
    main()
