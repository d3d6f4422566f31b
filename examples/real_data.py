"""Two-sample and k-sample tests on images that come with the installation, and on Fashion-MNIST.

    python examples/real_data.py [--out out/real_data] [--seed 0] [--fashion-mnist DIR]

Handwritten digits (scikit-learn's, 8×8 pixels) answer three questions: does a written 3 differ from
an 8, which of the classes 3, 8 and 9 differ, and do generated digits differ from real ones that the
generator has not seen? The generator is a Gaussian on the principal components of the training
digits. Every question stands beside a control in which there is nothing to find. The figures show
each result, and the images at which the two samples differ most.

DIR is a folder with the IDX files of Fashion-MNIST, such as /usr/share/datasets/fashion-mnist of
Debian's package dataset-fashion-mnist.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from divergences import HypothesisResult, k_sample_test, two_sample_test, witness
from divergences.kernels import Gaussian
from divergences.plots.style import new_figure, save_figure, style
from vae.data import LabelledData, digits, load
from vae.figures import image_grid

CLASSES = (3, 8, 9)
COMPONENTS = 20  # of 64: nine tenths of the variance
SHOWN = 16  # images of each sample
GARMENTS = {"T-shirt": 0, "pullover": 2, "coat": 4, "shirt": 6}
FASHION_PAIRS = (("shirt", "T-shirt"), ("pullover", "coat"))
Images = NDArray[np.uint8]


class Report(NamedTuple):
    """Prints a line for each test, and writes the figure where it is given a name."""

    out: Path

    def __call__(self, question: str, result: HypothesisResult, figure: str = "") -> None:
        print(f"{question:<52}{result.pvalue:>8.4f}{result.effect_size:>10.3f}", flush=True)
        if figure:
            save_figure(result.plot(), self.out / figure)


def draw_extremes(x: Tensor, y: Tensor, titles: tuple[str, ...], path: Path) -> None:
    """The images where the witness function is largest (of x) and smallest (of y)."""
    kernel = Gaussian("median").resolve(x, y)
    with style():
        figure = new_figure(3.4, 2.2)
        for place, (rows, sign, title) in enumerate(zip((x, y), (1, -1), titles, strict=True), 1):
            order = (sign * witness(rows, x, y, kernel=kernel)).argsort(descending=True)
            image_grid(figure.add_subplot(2, 1, place), rows[order[:SHOWN]], title)
        save_figure(figure, path)


def halves(x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of one distribution as two samples: the control of a two-sample test."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return x[order[: len(x) // 2]], x[order[len(x) // 2 :]]


def pca_gaussian(train: Tensor, count: int, seed: int) -> Tensor:
    """Draws [count, d] of probabilistic PCA (Tipping & Bishop 1999), clipped to [0, 1]."""
    centre = train.mean(0)
    variances, directions = torch.linalg.eigh((train - centre).T.cov())
    noise = variances[:-COMPONENTS].mean()
    scales = (variances[-COMPONENTS:] - noise).sqrt()
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(count, COMPONENTS, generator=generator) * scales
    rough = noise.sqrt() * torch.randn(count, len(centre), generator=generator)
    drawn: Tensor = centre + codes @ directions[:, -COMPONENTS:].T + rough
    return drawn.clamp(0.0, 1.0)


def on_digits(data: LabelledData, report: Report, seed: int) -> None:
    pixels, labels = data.train, data.train_labels
    of = {c: pixels[labels == c] for c in CLASSES}
    report("Do 3s differ from 8s?", two_sample_test(of[3], of[8], rng=seed))
    report("Control: do 3s differ from other 3s?", two_sample_test(*halves(of[3], seed), rng=seed))

    generated = pca_gaussian(data.train, len(data.heldout), seed)
    compared = two_sample_test(generated, data.heldout, rng=seed)
    report("Do generated digits (x) differ from held-out (y)?", compared, "generated.png")
    titles = "Generated, and rare among real", "Real, and rare among generated"
    draw_extremes(generated, data.heldout, titles, report.out / "generated_images.png")
    control = two_sample_test(*halves(data.heldout, seed), rng=seed)
    report("Control: do held-out digits differ from others?", control)

    classes = k_sample_test(*of.values(), rng=seed)
    report(f"Do the classes {', '.join(map(str, CLASSES))} differ?", classes)
    print("\nclasses    effect       p   p (Holm)")
    for row in classes.pairs:
        names = f"{CLASSES[row.first]}, {CLASSES[row.second]}"
        print(f"{names:<9}{row.effect_size:>8.3f}{row.pvalue:>8.4f}{row.adjusted:>11.4f}")


def fashion_mnist(folder: Path, count: int) -> dict[str, Tensor]:
    """At most ``count`` images [n, pixels] in [0, 1] of each garment."""
    data = load("fashion-mnist", root=folder)
    pixels, labels = data.rows("heldout").double(), data.heldout_labels
    assert labels is not None
    return {name: pixels[labels == number][:count] for name, number in GARMENTS.items()}


def on_fashion(of: dict[str, Tensor], report: Report, seed: int) -> None:
    for a, b in FASHION_PAIRS:
        result = two_sample_test(of[a], of[b], rng=seed)
        report(f"Do {a}s (x) differ from {b}s (y)?", result, f"{a}_{b}.png")
        titles = tuple(f"{p.capitalize()}s least like {q}s" for p, q in ((a, b), (b, a)))
        draw_extremes(of[a], of[b], titles, report.out / f"{a}_{b}_images.png")
    control = two_sample_test(*halves(of["shirt"], seed), rng=seed)
    report("Control: do shirts differ from other shirts?", control)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/real_data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fashion-mnist", type=Path, metavar="DIR", help="folder of IDX files")
    parser.add_argument("--fashion-rows", type=int, default=500, help="of each class (500)")
    arguments = parser.parse_args()
    folder = arguments.fashion_mnist
    garments = None if folder is None else fashion_mnist(folder, arguments.fashion_rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = Report(arguments.out)

    print(f"{'question':<52}{'p':>8}{'effect':>10}")
    on_digits(digits(heldout=600, seed=arguments.seed), report, arguments.seed)
    print()
    if garments is None:
        print("Fashion-MNIST was left out: no --fashion-mnist DIR was given.")
    else:
        on_fashion(garments, report, arguments.seed)
    print(f"\nFigures are in {arguments.out}")


if __name__ == "__main__":
    main()
