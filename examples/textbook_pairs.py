"""Three pairs of distributions from the textbook: tested, and drawn with their witness functions.

    python examples/textbook_pairs.py [--out out/textbook_pairs.png] [--n 500] [--seed 0]

Gaussians with different means, Gaussians with different variances, and a Gaussian against a Laplace
distribution of the same mean and variance (after Gretton et al., "A Kernel Two-Sample Test", JMLR
2012, fig. 1). The witness f(t) = E k(t, X) − E k(t, Y) is positive where there is more of P.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from divergences import two_sample_test, witness
from divergences.kernels import Gaussian
from divergences.plots.style import BLUE, INK, ORANGE, Axes, new_figure, save_figure, style
from divergences.two_sample import Method


class Pair(NamedTuple):
    """Two distributions, and how they are called in the figure."""

    differ_in: str
    p: Any
    q: Any
    names: tuple[str, str]


PAIRS = (
    Pair("mean", stats.norm(0.5), stats.norm(), ("P = N(0.5, 1)", "Q = N(0, 1)")),
    Pair("variance", stats.norm(0, 1.5), stats.norm(), ("P = N(0, 1.5²)", "Q = N(0, 1)")),
    Pair("shape", stats.laplace(scale=0.5**0.5), stats.norm(), ("P = Laplace", "Q = N(0, 1)")),
)
METHODS: dict[Method, dict[str, Any]] = {
    "fuse": {},
    "mmd": {"bandwidth": "median"},
    "energy": {},
}
GRID = np.linspace(-5.0, 5.0, 501)
SIGMA = 0.5  # of the Gaussian kernel whose witness is drawn

Array = NDArray[np.float64]


def draw_densities(axes: Axes, pair: Pair) -> None:
    for density, colour, name in (
        (pair.p.pdf(GRID), BLUE, pair.names[0]),
        (pair.q.pdf(GRID), ORANGE, pair.names[1]),
    ):
        axes.fill_between(GRID, density, color=colour, alpha=0.2, linewidth=0)
        axes.plot(GRID, density, color=colour, linewidth=1.2, label=name)
    axes.legend(loc="upper left", handlelength=1.0, borderaxespad=0.2)
    axes.set(title=f"Different {pair.differ_in}", ylim=(0, 0.8), yticks=[0, 0.4, 0.8])


def draw_witness(axes: Axes, pair: Pair, x: Array, y: Array) -> None:
    """That of the samples by the library, and that of P and Q by quadrature."""
    columns = (torch.from_numpy(values)[:, None] for values in (GRID, x, y))
    f = witness(*columns, kernel=Gaussian(SIGMA)).numpy()
    k = np.exp(-((GRID[:, None] - GRID) ** 2) / (2 * SIGMA**2))
    truth = k @ (pair.p.pdf(GRID) - pair.q.pdf(GRID)) * (GRID[1] - GRID[0])
    for part, colour in ((f >= 0, BLUE), (f <= 0, ORANGE)):
        axes.fill_between(GRID, f, where=part, color=colour, alpha=0.35, linewidth=0)
    axes.plot(GRID, f, color=INK, linewidth=1.0, label="of the samples")
    axes.plot(GRID, truth, color=INK, linewidth=1.0, linestyle=":", label="of P and Q")
    axes.axhline(0.0, color=INK, linewidth=0.5)
    axes.set(xlim=(GRID[0], GRID[-1]), ylim=(-0.19, 0.16), xlabel="t")


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/textbook_pairs.png"))
    parser.add_argument("--n", type=int, default=500, help="rows of each sample (500)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = np.random.default_rng(arguments.seed)

    print(f"n = m = {arguments.n}\ndifferent   method         p   effect size")
    with style():
        figure = new_figure(7.0, 3.2)
        axes = figure.subplots(2, 3, sharex=True, sharey="row", height_ratios=[1.2, 1])
        for column, pair in enumerate(PAIRS):
            x, y = (d.rvs(arguments.n, random_state=generator) for d in (pair.p, pair.q))
            for method, options in METHODS.items():
                result = two_sample_test(x, y, method=method, rng=arguments.seed, **options)
                numbers = f"{result.pvalue:>7.4f}   {result.effect_size:>11.4f}"
                print(f"{pair.differ_in:<12}{method:<9}{numbers}")
            draw_densities(axes[0, column], pair)
            draw_witness(axes[1, column], pair, x, y)
        axes[0, 0].set_ylabel("density")
        axes[1, 0].set_ylabel("witness")
        axes[1, 2].legend(loc="lower left", handlelength=1.4, borderaxespad=0.2)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, arguments.out)
    print(f"\n{arguments.out} written")


if __name__ == "__main__":
    main()
