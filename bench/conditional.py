"""Level and power of the test of conditional independence, beside KCI as causal-learn has it.

python -m bench.conditional --repetitions 100       (pip install --no-deps causal-learn for KCI)

Post-nonlinear models, as KCI was published with (Zhang et al., UAI 2011; figures, no table):
x = g(f(z) + .7(ε + c·e)), and y alike with other functions drawn from u, u², u³, tanh u and cos 2u;
ε is a noise of its own, e one of both, c = 0 under the null hypothesis. f takes the sum of the
columns of z, or the first one alone.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from divergences.conditional import conditional_independence_test

from .report import markdown

Array = NDArray[np.float64]
FUNCTIONS: tuple[Callable[[Array], Array], ...] = (
    lambda u: u,
    lambda u: u**2,
    lambda u: u**3,
    np.tanh,
    lambda u: np.cos(2.0 * u),
)


def post_nonlinear(
    r: np.random.Generator, n: int, dz: int, shared: float = 0.0, *, first: bool = False
) -> tuple[Array, Array, Array]:
    """x [n], y [n], z [n, dz]."""
    z, common = r.normal(size=(n, dz)), shared * r.normal(size=n)
    index = z[:, 0] if first else z.sum(1) / dz**0.5
    sides = []
    for _ in range(2):
        f, g = (FUNCTIONS[k] for k in r.integers(len(FUNCTIONS), size=2))
        mean = (f(index) - f(index).mean()) / f(index).std()
        sides.append(g(mean + 0.7 * (r.normal(size=n) + common)))
    return sides[0], sides[1], z


def kci(x: Array, y: Array, z: Array) -> float:
    from causallearn.utils.KCI.KCI import KCI_CInd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(KCI_CInd().compute_pvalue(x[:, None], y[:, None], z)[0])


def ours(x: Array, y: Array, z: Array) -> float:
    return conditional_independence_test(x, y, z, n_resamples=199, rng=0).pvalue


def main(argv: list[str] | None = None) -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--rows", type=int, nargs="+", default=[100])
    options = parser.parse_args(argv)
    rows = []
    for n in options.rows:
        for dz, first in ((1, True), (3, True), (3, False), (5, True), (5, False)):
            cells: list[str] = []
            for shared in (0.0, 0.7):
                r = np.random.default_rng([n, dz, first])
                drawn = [
                    post_nonlinear(r, n, dz, shared, first=first)
                    for _ in range(options.repetitions)
                ]
                rates = [np.mean([test(*d) <= 0.05 for d in drawn]) for test in (ours, kci)]
                cells += [f"{rate:.2f}" for rate in rates]
            rows.append((f"n = {n}, dz = {dz}, {'first' if first else 'all'}", *cells))
            print(rows[-1], flush=True)
    print(markdown(("", "level", "KCI", "power", "KCI"), rows))


if __name__ == "__main__":
    main()
