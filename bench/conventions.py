"""Losses that repositories of domain adaptation, single cells and image metrics copy, against the
recipes of docs/conventions.md, at the sizes that they are used at, by CPU time:

    python -m bench.conventions --csv

The rivals are those losses written densely, in fp32, on one thread and in eager mode, value and
gradient; runs are interleaved as in ``bench.small_losses``. The error of the gradient is that
against the rival in fp64, relative to its largest entry.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from divergences import mmd2
from divergences.kernels import Gaussian, Polynomial

from . import measure
from .rivals import Loss, squared_distances
from .small_losses import medians

ALPHAS = (*(10.0**p for p in range(-6, 1)), 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)
GAMMAS = tuple(10.0**p for p in range(-3, 4))


def coral(x: Tensor, y: Tensor) -> Tensor:
    return (x.T.cov() - y.T.cov()).square().sum() / (4 * x.shape[1] ** 2)


def our_coral(x: Tensor, y: Tensor) -> Tensor:
    a, b = ((z - z.mean(0)) * (len(z) / (len(z) - 1)) ** 0.5 for z in (x, y))
    kernel = Polynomial(2, gamma=1.0, offset=0.0)
    return mmd2(a, b, kernel=kernel, estimator="biased") / (4 * x.shape[1] ** 2)


def trvae(x: Tensor, y: Tensor) -> Tensor:
    def mean(a: Tensor, b: Tensor) -> Tensor:
        rates = 0.5 / torch.tensor(ALPHAS, dtype=x.dtype)
        squares = (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(-1)
        return (-rates[:, None] * squares.reshape(1, -1)).exp().sum(0).mean()

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def our_trvae(x: Tensor, y: Tensor) -> Tensor:
    return mmd2(x, y, kernel=TRVAE, estimator="biased")


def domainbed(x: Tensor, y: Tensor) -> Tensor:
    def mean(a: Tensor, b: Tensor) -> Tensor:
        squares = squared_distances(a, b).clamp_min(1e-30)
        return torch.stack([(-gamma * squares).exp().mean() for gamma in GAMMAS]).sum()

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def our_domainbed(x: Tensor, y: Tensor) -> Tensor:
    return mmd2(x, y, kernel=DOMAINBED, estimator="biased")


def kid(x: Tensor, y: Tensor) -> Tensor:
    n, d = x.shape
    xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = xx.sum() - xx.diagonal().sum() + yy.sum() - yy.diagonal().sum()
    return within / (n * (n - 1)) - 2 * xy.mean()


def our_kid(x: Tensor, y: Tensor) -> Tensor:
    return mmd2(x, y, kernel="polynomial")


TRVAE = sum([Gaussian(alpha**0.5) for alpha in ALPHAS])
DOMAINBED = sum([Gaussian((2 * gamma) ** -0.5) for gamma in GAMMAS])


class Case(NamedTuple):
    ours: Loss
    theirs: Loss
    n: int
    d: int
    scale: float = 1.0  # of the samples


CASES = {
    "CORAL": Case(our_coral, coral, 32, 256),
    "trVAE": Case(our_trvae, trvae, 64, 10),
    "KID": Case(our_kid, kid, 100, 2048),
    "DomainBed MMD": Case(our_domainbed, domainbed, 32, 256, 0.1),
}


def gradient(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(loss(x, y), x)[0]


def row(name: str, case: Case) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    x = case.scale * torch.randn(case.n, case.d, generator=generator)
    y = case.scale * (0.5 + torch.randn(case.n, case.d, generator=generator))
    losses = {"ours": case.ours, "theirs": case.theirs}
    truth = gradient(case.theirs, x.double(), y.double())
    errors = {
        k: float((gradient(f, x, y).double() - truth).abs().max() / truth.abs().max())
        for k, f in losses.items()
    }
    found = medians({k: lambda f=f: gradient(f, x, y) for k, f in losses.items()})
    return {
        "commit": measure.commit(),
        "loss": f"{name}, {case.n}x{case.d}",
        "ours_us": round(1e6 * found["ours"]),
        "rival_us": round(1e6 * found["theirs"]),
        "ratio": float(f"{found['theirs'] / found['ours']:.3g}"),
        "error": float(f"{errors['ours']:.2g}"),
        "rival_error": float(f"{errors['theirs']:.2g}"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Copied losses against their recipes, CPU time.")
    parser.add_argument("--csv", action="store_true", help="append the rows to bench/results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    writer = csv.writer(sys.stdout)
    for name, case in CASES.items():
        found = row(name, case)
        writer.writerow(found.values())
        sys.stdout.flush()
        if options.csv:
            measure.append("conventions_cpu", [found])
    return 0


if __name__ == "__main__":
    sys.exit(main())
