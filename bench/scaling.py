"""Power of the default two-sample test with columns as they are, and scaled.

    python -m bench.scaling --repetitions 200

n = m = 100, level .05, B = 99; the same samples for every scale. Standard errors are at most .035,
of differences between scales less. Prints the table of docs/power.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_wine

from divergences.two_sample import two_sample_test

from .report import markdown

N = 100
Array = NDArray[np.float64]
Pair = tuple[Array, Array]
Draw = Callable[[np.random.Generator], Pair]
SCALES = (None, "robust", "std", "rank", "auto")


def shifted(columns: Array, by: Array) -> Draw:
    """Normal columns of the given spreads; y moved by so many of them."""
    d = len(columns)
    return lambda r: (r.normal(size=(N, d)) * columns, (r.normal(size=(N, d)) + by) * columns)


def correlated(rho: float, d: int) -> Draw:
    root = np.linalg.cholesky(np.full((d, d), rho) + (1.0 - rho) * np.eye(d))
    return lambda r: (r.normal(size=(N, d)), r.normal(size=(N, d)) @ root.T)


def heavy(r: np.random.Generator) -> Pair:
    x, y = r.standard_t(2, size=(2, N, 5))
    return x, y + np.array([0.8, 0.0, 0.0, 0.0, 0.0])


def digits(r: np.random.Generator) -> Pair:
    """Pictures, dark at their edges; y lacks the digit 8."""
    data = load_digits()
    rest = np.flatnonzero(data.target != 8)
    return data.data[r.choice(len(data.data), N)], data.data[r.choice(rest, N)]


def wine(r: np.random.Generator) -> Pair:
    """The 13 measurements of wines in halves; `hue` of the second half moved by one deviation."""
    data = load_wine()
    z, hue = data.data[r.permutation(len(data.data))], data.feature_names.index("hue")
    z[len(z) // 2 :, hue] += data.data[:, hue].std()
    return z[: len(z) // 2], z[len(z) // 2 :]


def one(d: int, value: float) -> Array:
    return np.array([value, *[0.0] * (d - 1)])


ALTERNATIVES: dict[str, Draw] = {
    "null, d = 5": shifted(np.ones(5), np.zeros(5)),
    "shift, d = 10": shifted(np.ones(10), np.full(10, 0.16)),
    "shift in 1 of 100": shifted(np.ones(100), one(100, 1.0)),
    "scale 1.25, d = 5": lambda r: (r.normal(size=(N, 5)), 1.25 * r.normal(size=(N, 5))),
    "correlation .6, d = 2": correlated(0.6, 2),
    "shift, t with 2 degrees, d = 5": heavy,
    "digits without 8": digits,
    "spreads 1 to 3, shift in the narrow": shifted(np.array([1.0, 3.0]), np.array([0.5, 0.0])),
    "spreads 1 to 3, shift in the wide": shifted(np.array([1.0, 3.0]), np.array([0.0, 0.4])),
    "spreads 1 to 9, shift in the narrow": shifted(np.array([1.0, 9.0]), np.array([0.5, 0.0])),
    "spreads 1 to 9, shift in the wide": shifted(np.array([1.0, 9.0]), np.array([0.0, 0.4])),
    "spreads 1 to 12, shift in the narrow": shifted(np.array([1.0, 12.0]), np.array([0.5, 0.0])),
    "spreads 1 to 12, shift in the wide": shifted(np.array([1.0, 12.0]), np.array([0.0, 0.4])),
    "shift beside noise of 1e4": shifted(np.array([1.0, 1e4]), np.array([1.0, 0.0])),
    "wine, hue": wine,
}


def main(argv: list[str] | None = None) -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    repetitions = parser.parse_args(argv).repetitions
    rows = []
    for name, draw in ALTERNATIVES.items():
        rejected = dict.fromkeys(SCALES, 0)
        for repetition in range(repetitions):
            x, y = draw(np.random.default_rng([0, repetition]))
            found: dict[Any, bool] = {}
            for scale in SCALES[:-1]:
                result = two_sample_test(x, y, scale=scale, n_resamples=99, rng=repetition)
                found[scale] = result.pvalue <= 0.05
            default = two_sample_test(x, y, method="energy", n_resamples=1, rng=0)
            found["auto"] = found[default.scale]
            for scale, hit in found.items():
                rejected[scale] += hit
        rows.append((name, *(f"{rejected[s] / repetitions:.3f}" for s in SCALES)))
        print(rows[-1], flush=True)
    print(markdown(("", *map(str, SCALES)), rows))


if __name__ == "__main__":
    main()
