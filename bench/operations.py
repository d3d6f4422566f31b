"""What single torch calls cost on this CPU, for the choices that the losses make among them.

python -m bench.operations [THREADS]     (1 thread unless given)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from .measure import interleaved
from .report import markdown

TILE = 1024
MEDIAN_ROWS = 256


def variants(n: int) -> dict[str, dict[str, Callable[[], object]]]:
    """For each choice the calls compared; the first is the one taken."""
    generator = torch.Generator().manual_seed(0)
    k, out = torch.rand(n, n, generator=generator), torch.empty(n, n)
    two, z = (
        torch.rand(n, 2, generator=generator),
        torch.rand(MEDIAN_ROWS, 16, generator=generator).double(),
    )
    columns, rows = two.T.contiguous(), k[:MEDIAN_ROWS, :MEDIAN_ROWS].clone()
    factor = torch.rand(n, 4, generator=generator)
    triangle = rows.numpy()[np.triu_indices(MEDIAN_ROWS, 1)]
    middle = len(triangle) // 2
    return {
        "exponential": {
            "exp2": partial(torch.exp2, k, out=out),
            "exp": partial(torch.exp, k, out=out),
        },
        "row sums": {
            "sum": lambda: (k[:, : n // 2].sum(1), k[:, n // 2 :].sum(1)),
            "two columns": lambda: k @ two,
        },
        "sum in fp64": {
            "of row sums": lambda: k.sum(1).sum(dtype=torch.float64),
            "of all": lambda: k.sum(dtype=torch.float64),
        },
        "distances, D = 2": {
            "columns": lambda: _differences(columns[0], columns[1], out),
            "strided columns": lambda: _differences(two[:, 0], two[:, 1], out),
            "product": lambda: torch.mm(factor, factor.T, out=out),
            "fp64 cdist": partial(
                torch.cdist, two.double(), two.double(), compute_mode="donot_use_mm_for_euclid_dist"
            ),
        },
        "median of the distances of 256 rows": {
            "partition": lambda: np.partition(triangle, middle)[middle],
            "nanmedian": lambda: rows.flatten().nanmedian(),
        },
        "distances of 256 rows, D = 16, fp64": {
            "cdist": lambda: torch.cdist(z, z),
            "pdist": lambda: torch.pdist(z),
        },
    }


def _differences(first: torch.Tensor, second: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    a = first[:, None] - first
    torch.mul(a, a, out=out)
    b = torch.sub(second[:, None], second, out=a)
    return out.addcmul_(b, b)


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    cells = []
    for choice, runs in variants(TILE).items():
        found = interleaved(runs, 1.0)
        medians = {name: 1e6 * float(np.median(times)) for name, times in found.items()}
        cells.append((choice, ", ".join(f"{name} {time:.0f}" for name, time in medians.items())))
    print(markdown(("of a tile of 1024 × 1024", "µs; the first is taken"), cells))


if __name__ == "__main__":
    main()
