"""Power of two-sample tests of paired rows, n = 25, level .05, B = 199.

python -m bench.paired --repetitions 200
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

from divergences.two_sample import two_sample_test

from .report import markdown

PAIRS = np.tile(np.arange(25), 2)  # as strata: swaps within pairs, distances of the rows
TESTS: dict[str, dict[str, Any]] = {
    "energy, unpaired": {"method": "energy"},
    "energy of rows": {"method": "energy", "strata": PAIRS},
    "fuse of rows": {"strata": PAIRS},
    "energy, paired": {"method": "energy", "paired": True},
    "fuse, paired": {"paired": True},
}
# standard deviation of subjects, shift of y, spread of y
CASES = {
    "null": (3.0, 0.0, 1.0),
    "shift .8, subjects 10": (10.0, 0.8, 1.0),
    "shift .8, subjects 0": (0.0, 0.8, 1.0),
    "spread 2.5, subjects 1": (1.0, 0.0, 2.5),
    "spread 2.5, subjects 10": (10.0, 0.0, 2.5),
}


def main(argv: list[str] | None = None) -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    repetitions = parser.parse_args(argv).repetitions
    rows = []
    for name, (subjects, shift, spread) in CASES.items():
        rejected = dict.fromkeys(TESTS, 0)
        for repetition in range(repetitions):
            r = np.random.default_rng([1, repetition])
            own = subjects * r.normal(size=25)
            x, y = own + r.normal(size=25), own + r.normal(shift, spread, 25)
            for test, options in TESTS.items():
                result = two_sample_test(x, y, n_resamples=199, rng=repetition, **options)
                rejected[test] += result.pvalue <= 0.05
        rows.append((name, *(f"{rejected[test] / repetitions:.3f}" for test in TESTS)))
        print(rows[-1], flush=True)
    print(markdown(("", *TESTS), rows))


if __name__ == "__main__":
    main()
