"""Ten thousand tests, one for each feature, wherever there are cores; the numbers are the same.

    python examples/many_tests.py [--features 10000] [--on serial|processes|ray|dask]

Which of many features differ between two groups? All that a scheduler needs is one function of
(arrays, seed): a seed for each test makes its result the same in any order and on any machine.
P-values that are read together need a correction: Benjamini–Hochberg bounds the share of false
discoveries. Holm, which bounds the probability of a single one, needs p ≤ 0.05/features, which a
permutation test can reach with more resamples than 20·features only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import false_discovery_control
from tqdm import tqdm

from divergences import two_sample_test

Floats = NDArray[np.float64]
Job = tuple[Floats, Floats, int]  # features [n, k] and [m, k] of both groups, seed
TOGETHER = 50  # features that a worker takes at a time
RESAMPLES = 1999


def pvalues(job: Job) -> Floats:
    """Of each feature [k], by the energy test; the whole task of a worker."""
    x, y, seed = job
    torch.set_num_threads(1)  # one worker for each core
    seeds = np.random.SeedSequence(seed).generate_state(x.shape[1])
    results = (
        two_sample_test(x[:, k], y[:, k], method="energy", n_resamples=RESAMPLES, rng=int(s))
        for k, s in enumerate(seeds)
    )
    return np.array([result.pvalue for result in results])


def serial(jobs: list[Job]) -> Iterable[Floats]:
    return map(pvalues, jobs)


def processes(jobs: list[Job]) -> Iterator[Floats]:
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        yield from pool.map(pvalues, jobs)


def ray(jobs: list[Job]) -> Iterator[Floats]:
    import ray

    ray.init(include_dashboard=False)
    task = ray.remote(pvalues)
    yield from (ray.get(pending) for pending in [task.remote(job) for job in jobs])
    ray.shutdown()


def dask(jobs: list[Job]) -> Iterator[Floats]:
    from dask.distributed import Client

    with Client(threads_per_worker=1) as client:
        yield from (future.result() for future in client.map(pvalues, jobs))


SCHEDULERS = {f.__name__: f for f in (serial, processes, ray, dask)}


def run(x: Floats, y: Floats, on: str) -> Floats:
    """The p-value of every column of x [n, f] and y [m, f]."""
    starts = range(0, x.shape[1], TOGETHER)
    jobs = [(x[:, s : s + TOGETHER], y[:, s : s + TOGETHER], s) for s in starts]
    return np.concatenate([*tqdm(SCHEDULERS[on](jobs), total=len(jobs), unit=f"×{TOGETHER} tests")])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--features", type=int, default=10_000)
    parser.add_argument("--on", choices=SCHEDULERS, default="processes")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, given.features)) for n in (60, 50))
    changed = np.arange(given.features) % 20 == 0
    y[:, changed] *= 3.0  # one in twenty is spread three times as far
    p = run(x, y, given.on)
    q = false_discovery_control(p)
    for name, found in (("p ≤ 0.05", p <= 0.05), ("Benjamini–Hochberg", q <= 0.05)):
        right = int((found & changed).sum())
        wrong = int(found.sum()) - right
        print(f"{name:<20} {right} of {changed.sum()} that differ, {wrong} that do not")


if __name__ == "__main__":  # which a spawned process does not run
    main()
