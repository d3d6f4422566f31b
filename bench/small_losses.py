"""Small losses on one CPU thread against the copied snippet in the same mode, by CPU time:

    python -m bench.small_losses --modes eager compiled --n 64 256 --d 16 --csv
    python -m bench.small_losses --priors      exact forms against N(0, I) beside losses of a sample

Every cell has one rival, ``workloads.Problem.eager()``: the snippet of ``bench/rivals.py`` for the
kernel of the cell, run eagerly where ours is, and under ``torch.compile(dynamic=False)`` where ours
is. Runs are interleaved in rounds of random order; a cell is the ratio of the medians of CPU time,
which other processes disturb less than they do the clock. The error is that of the result against
fp64 at the numbers of ``SEEDS`` seeds, root mean square, relative to its largest entry.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from divergences import energy_distance, energy_distance_to_normal, mmd2, mmd2_to_normal

from . import measure, rivals
from .workloads import Problem, truth

KERNELS = ("gaussian", "energy", "MMDLoss()", "five bandwidths", "imq mixture")
ROWS, COLUMNS = (32, 64, 128, 256, 512, 1000), (2, 8, 16, 32, 64)
SEEDS = 20
LEAST = 1.0  # times the rival's CPU time, that ours may take at most
SPECIAL = {("eager", 256, 16, True): 1.5}  # (mode, n, d, gradient): ours so many times as fast
WORST_ERROR = 1.0  # times the rival's RMS error; below FLOOR it does not matter
FLOOR = 1e-7
SECONDS, FEWEST, MOST = 0.4, 7, 200  # of rounds of a cell


def wanted(mode: str, problem: Problem) -> float:
    return SPECIAL.get((mode, problem.n, problem.d, problem.gradient), LEAST)


def medians(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of CPU time of each, interleaved."""
    for run in runs.values():
        run()
        run()  # compilers specialise at the second call
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, start = random.Random(0), time.process_time()
    names = list(runs)
    for turn in itertools.count():
        if turn >= MOST or (turn >= FEWEST and time.process_time() - start > SECONDS):
            return {name: statistics.median(found) for name, found in times.items()}
        order.shuffle(names)
        for name in names:
            before = time.process_time()
            runs[name]()
            times[name].append(time.process_time() - before)
    raise AssertionError


def samples(problem: Problem, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(problem.n, problem.d, generator=generator)
    return x, torch.randn(problem.n, problem.d, generator=generator) * 1.1


def errors(problem: Problem, losses: dict[str, rivals.Loss]) -> dict[str, float]:
    """RMS over seeds of the largest error, relative to the largest entry of the truth. Of MMDLoss()
    each has the truth of its own bandwidths."""
    squares = dict.fromkeys(losses, 0.0)
    for seed in range(SEEDS):
        x, y = samples(problem, seed)
        correct = truth(problem, x, y)
        for name, loss in losses.items():
            right = correct.get(name, correct[""])
            found = problem.run(loss, x, y).double()
            squares[name] += float((found - right).abs().max() / right.abs().max()) ** 2
    return {name: (total / SEEDS) ** 0.5 for name, total in squares.items()}


def cell(mode: str, problem: Problem) -> dict[str, object]:
    losses: dict[str, rivals.Loss] = {"ours": problem.ours(), "snippet": problem.eager()}
    if mode == "compiled":
        torch._dynamo.reset()
        losses = {name: rivals.compiled(loss) for name, loss in losses.items()}
    x, y = samples(problem, 0)
    runs = {name: lambda loss=loss: problem.run(loss, x, y) for name, loss in losses.items()}
    found, error = medians(runs), errors(problem, losses)
    ratio, least = found["snippet"] / found["ours"], wanted(mode, problem)
    accurate = error["ours"] <= max(WORST_ERROR * error["snippet"], FLOOR)
    return {
        "commit": measure.commit(),
        "mode": mode,
        "workload": str(problem),
        "rival": f"{getattr(problem.eager(), 'func', problem.eager()).__name__}, {mode}",
        "ours_us": round(1e6 * found["ours"]),
        "rival_us": round(1e6 * found["snippet"]),
        "ratio": float(f"{ratio:.3g}"),
        "wanted": least,
        "error": float(f"{error['ours']:.2g}"),
        "rival_error": float(f"{error['snippet']:.2g}"),
        "met": ratio >= least and accurate,
    }


def priors(n: int, d: int) -> list[dict[str, object]]:
    """Value and gradient of the exact forms, and of our own losses of a sample drawn anew."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pairs: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
        "mmd2_to_normal": (
            lambda: mmd2_to_normal(x),
            lambda: mmd2(x, torch.randn_like(x), bandwidth="dimension"),
        ),
        "energy_distance_to_normal": (
            lambda: energy_distance_to_normal(x),
            lambda: energy_distance(x, torch.randn_like(x)),
        ),
    }
    rows: list[dict[str, object]] = []
    for name, (exact, sampled) in pairs.items():
        losses = {"exact": exact, "sampled": sampled}
        found = medians({k: lambda loss=loss: loss().backward() for k, loss in losses.items()})
        ratio = found["sampled"] / found["exact"]
        numbers = {f"{k}_us": round(1e6 * v) for k, v in found.items()}
        rows.append({"commit": measure.commit(), "loss": name, "n": n, "d": d, **numbers})
        rows[-1]["ratio"] = float(f"{ratio:.3g}")
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Small losses against the snippet, by CPU time.")
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"])
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS), choices=KERNELS)
    parser.add_argument("--n", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--d", nargs="+", type=int, default=list(COLUMNS))
    parser.add_argument("--csv", action="store_true", help="append the rows to bench/results")
    parser.add_argument("--priors", action="store_true", help="the exact forms against N(0, I)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.priors:
        found = [row for n, d in ((64, 8), (128, 16), (256, 32)) for row in priors(n, d)]
        table = csv.DictWriter(sys.stdout, list(found[0]))
        table.writeheader()
        table.writerows(found)
        if options.csv:
            measure.append("exact_priors_cpu", found)
        return 0
    writer, met, count = csv.writer(sys.stdout), 0, 0
    product = itertools.product(options.modes, options.kernels, (False, True), options.n, options.d)
    for mode, kernel, gradient, n, d in product:
        row = cell(mode, Problem(kernel, n, d, gradient))
        if count == 0:
            writer.writerow(row)
        writer.writerow(row.values())
        sys.stdout.flush()
        if options.csv:
            measure.append("small_losses_cpu", [row])
        met, count = met + bool(row["met"]), count + 1
    print(f"{met} of {count} cells are met")
    return 0 if met == count else 1


if __name__ == "__main__":
    sys.exit(main())
