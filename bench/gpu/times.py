"""Times end to end: losses against eager and compiled code, a small batch, permutation tests."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from unittest import mock

import torch

from divergences.kernels.backends import ENVIRONMENT

from .. import rivals
from ..measure import OURS, Run, Setup
from ..permutations import check_fuse, checked_forms, fuse_case, label_forms
from ..workloads import Problem, errors_of, wrong
from .session import WRONG, Session, kernels_of

LOSSES, TESTS = "losses_gpu", "tests_gpu"
WARM_UP = 3  # runs before a capture
ROWS = 32768
PROBLEMS = (  # the targets first
    Problem("gaussian", ROWS, 64, False, "cuda"),
    Problem("gaussian", ROWS, 64, True, "cuda"),
    Problem("five bandwidths", ROWS, 64, False, "cuda"),
    Problem("five bandwidths", ROWS, 64, True, "cuda"),
    Problem("gaussian", ROWS, 2, True, "cuda"),
    Problem("gaussian", ROWS, 784, True, "cuda"),
    Problem("energy", ROWS, 64, True, "cuda"),
    Problem("gaussian", ROWS, 16, True, "cuda"),
    Problem("gaussian", ROWS, 128, True, "cuda"),
    Problem("gaussian", 4096, 64, True, "cuda"),
)
BATCHES = ("gaussian", "MMDLoss()")
CALLS = 200  # of which the time on the host is the mean


def graphed(run: Run, device: str) -> Run:
    """``run`` captured in a CUDA graph: what the device does, without the launches of the host."""
    if device == "cpu":
        return run
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    replay: Run = graph.replay
    return replay


def losses(session: Session) -> None:
    """The size that is timed is checked first."""
    toys = [Problem(p.kernel, 26, min(p.d, 17), p.gradient) for p in PROBLEMS[1:4:2]]
    for problem in toys if session.dry else PROBLEMS:
        with session.attempt(str(problem)):
            loss(session, problem)


def loss(session: Session, problem: Problem) -> None:
    found, errors = errors_of(problem, session.leave_out)
    if problem.kernel == "five bandwidths":
        found["one bandwidth"] = replace(problem, kernel="gaussian").ours()
    _time(session, problem, str(problem), problem.cases(found), errors)


def _time(
    session: Session, problem: Problem, workload: str, cases: dict[str, Run],
    errors: dict[str, float], memory: bool = True,
) -> None:  # fmt: skip
    if wrong(errors):
        session.fail(f"{workload}: errors {errors}")
        workload += WRONG
    with rivals.hints_ignored():
        fresh: dict[str, Setup] | None = None if memory else {}
        session(workload, cases, file=LOSSES, errors=errors, fresh=fresh, device=problem.device)


def batch(session: Session) -> None:
    """Forward and backward of a batch: eager, in a graph, on the host; the kernels that ran."""
    for kernel in BATCHES:
        n = 9 if session.dry else 256
        problem = Problem(kernel, n, 2 if session.dry else 16, True, session.device)
        with session.attempt(str(problem)):
            found, errors = errors_of(problem, session.leave_out)
            cases = problem.cases(found)
            ran = kernels_of(cases[OURS])
            for name, (count, took) in ran.items():
                print(f"{count} {name}, {took:.4f} ms")
            session.count(f"kernels, {problem}", sum(v.times for v in ran.values()))
            session.count(f"host ms, {problem}", host_milliseconds(cases[OURS], session))
            _time(session, problem, str(problem), cases, errors)
            held = {name: cases[name] for name in (OURS, "eager")}
            if kernel == "MMDLoss()":  # the rival's median waits for the device
                del held["eager"]
            held = {name: graphed(run, session.device) for name, run in held.items()}
            _time(session, problem, f"{problem}, CUDA graph", held, errors, memory=False)


def host_milliseconds(run: Run, session: Session) -> float:
    """What a call keeps the host busy; it waits for nothing."""
    calls = 1 if session.dry else CALLS
    if session.device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    took = time.perf_counter() - start
    if session.device == "cuda":
        torch.cuda.synchronize()
    return 1e3 * took / calls


def permutations(session: Session) -> None:
    """Label forms by kernel, against a whole K and one product; MMD-FUSE, labels included."""
    rows, d, count = (40, 2, 20) if session.dry else (65536, 64, 1024)
    workload = f"label forms, N={rows}, d={d}, B={count}"
    with session.attempt(workload):
        errors = checked_forms(rows, d, count, session.device)
        variants, _ = label_forms(rows, d, count, session.device)
        ran = sorted(kernels_of(variants[OURS]).items(), key=lambda r: -r[1][1])
        print(*(f"{v.milliseconds:8.3f} ms, {v.times:4} {name}" for name, v in ran), sep="\n")
        session(workload, variants, file=TESTS, errors=errors)
    for n, coordinates, resamples in ((30, 2, 19),) if session.dry else ((4000, 10, 2000),):
        workload = f"MMD-FUSE, 20 kernels, n=m={n}, d={coordinates}, B={resamples}"
        with session.attempt(workload), mock.patch.dict(os.environ):
            del os.environ[ENVIRONMENT]  # on a CPU a test takes fp64
            check_fuse(n, coordinates, session.device)
            names = (OURS, "materialised K")
            cases = {k: fuse_case(n, coordinates, resamples, k, session.device) for k in names}
            session(workload, cases, file=TESTS)


def million(session: Session) -> None:
    n = 26 if session.dry else 1_000_000
    problem = Problem("gaussian", n, 2 if session.dry else 64, False, session.device)
    loss(session, problem)
