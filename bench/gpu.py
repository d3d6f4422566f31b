"""The workloads of a GPU, at any size and on any device: on a CPU they run without graphs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from .measure import Run
from .permutations import check_fuse, checked_forms, fuse_case, label_forms
from .workloads import Problem, checked, measure_problem

LOSSES, TESTS = "losses_gpu", "tests_gpu"
WARM_UP = 3  # runs before a capture


def graphed(run: Run, device: str) -> Run:
    """``run`` captured in a CUDA graph: what the device does, without the launches of the host."""
    if device == "cpu":
        return run
    stream = torch.cuda.Stream()
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


def loss(compare: Any, problem: Problem) -> Any:
    return measure_problem(compare, problem, LOSSES)


def bandwidths(compare: Any, problem: Problem) -> Any:
    """Five bandwidths in one sweep beside one."""
    losses, errors = checked(problem, compare.leave_out)
    losses["one bandwidth"] = replace(problem, kernel="gaussian").ours()
    cases = problem.cases(losses)
    return compare(str(problem), cases, file=LOSSES, errors=errors, device=problem.device)


def graphs(compare: Any, problem: Problem) -> Any:
    """Ours and the snippet, each replayed from a graph of its own, which holds its memory."""
    losses, errors = checked(problem, compare.leave_out)
    chosen = {name: losses[name] for name in ("ours", "eager")}
    cases = {name: graphed(run, problem.device) for name, run in problem.cases(chosen).items()}
    workload = f"{problem}, CUDA graph"
    return compare(workload, cases, file=LOSSES, errors=errors, fresh={}, device=problem.device)


def forms(compare: Any, rows: int, d: int, count: int, device: str) -> Any:
    """``count`` label vectors, against a whole K and one product."""
    errors = checked_forms(rows, d, count, device)
    variants, _ = label_forms(rows, d, count, device)
    workload = f"label forms, N={rows}, d={d}, B={count}"
    return compare(workload, variants, file=TESTS, errors=errors, device=device)


def fuse(compare: Any, n: int, d: int, resamples: int, device: str) -> Any:
    """The whole test, labels drawn on the host included."""
    check_fuse(n, d, device)
    variants = {k: fuse_case(n, d, resamples, k, device) for k in ("ours", "materialised K")}
    workload = f"MMD-FUSE, 20 kernels, n=m={n}, d={d}, B={resamples}"
    return compare(workload, variants, file=TESTS, device=device)
