"""What runs before anything is timed: the machine, values and gradients on every route, tests."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from divergences.kernels.backends import ENVIRONMENT

from .. import measure
from ..permutations import checked_forms, label_forms
from ..workloads import Problem, errors_of, wrong
from .session import Session, in_parallel, kernels_of, launched
from .times import BATCHES, PROBLEMS

ROOT = Path(__file__).parents[2]
PROCESSES, COMPILERS = 12, 2  # that run tests, and that compile what ``losses`` will time
OPTIONS: tuple[str, ...] = ("-q", "--tb=short", "-p", "no:cacheprovider")
OPTIONS += ("-o", "filterwarnings=", "--disable-warnings")  # torch may warn of what is not ours
ORACLE_SUITES = "test_triton"  # files that run on the device whatever their marks
SHARE = "BENCH_SHARE"  # "2/12": the third of twelve processes


def identify(session: Session) -> None:
    import triton

    print(f"python {platform.python_version()}, torch {torch.__version__}, CUDA "
          f"{torch.version.cuda}, triton {triton.__version__}, numpy {np.__version__}")  # fmt: skip
    print(f"commit {measure.commit()}, {os.cpu_count()} CPU cores, {platform.platform()}")
    if session.device == "cpu":
        print(f"{measure.describe_machine()}: a dry run, times mean nothing")
        return
    print(torch.cuda.get_device_properties(0), f"driver {measure.driver()}")
    asked = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv"]
    try:
        print(subprocess.run(command, capture_output=True, text=True, timeout=20).stdout)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"nvidia-smi: {error!r}")


# --- Routes --------------------------------------------------------------------------------------

ROUTES = {  # shapes that reach every route: rows and coordinates on a device, and at toy size
    "small": ((256, 16), (9, 2)),
    "difference": ((5000, 3), (26, 2)),
    "difference, panel": ((3000, 40), (26, 17)),
    "Gram": ((5000, 64), (26, 17)),
    "Gram, slices": ((5000, 128), (26, 64)),
    "Gram, panel": ((5000, 300), (26, 130)),
}
LABELS = {"label forms, difference": ((6000, 3), (40, 2)), "label forms": ((6000, 64), (40, 17))}


def routes(session: Session) -> None:
    """Values and gradients against fp64, and which kernels ran."""
    problems, labels = [], {}
    for name, sizes in ROUTES.items():
        n, d = sizes[session.dry]
        kernels = ["laplace l1"] if name == "difference, panel" else ["gaussian", "energy"]
        for kernel, gradient in product(kernels[: 1 if session.dry else None], (False, True)):
            problems.append((name, Problem(kernel, n, d, gradient, session.device)))
    for name, sizes in LABELS.items():
        labels[name] = (*sizes[session.dry], 64, session.device)
    if not session.dry:
        in_parallel(_once, [*(problem for _, problem in problems), *labels.values()])
    for name, problem in problems:
        with session.attempt(f"{name}: {problem}"):
            ours = problem.cases({"ours": problem.ours()})["ours"]
            check = partial(errors_of, problem, lambda *_: None, compiling=False)
            (_, errors), ran = _ran(session, check, ours)
            _say(f"{name}: {problem}", errors, ran)
            if wrong(errors):
                session.fail(f"{name}: {problem}: errors {errors}")
    for name, shape in labels.items():
        with session.attempt(name):
            errors, ran = _ran(
                session, partial(checked_forms, *shape), label_forms(*shape)[0]["ours"]
            )
            _say(f"{name}: N={shape[0]}, d={shape[1]}", errors, ran)


def _ran(
    session: Session, check: Callable[[], Any], run: measure.Run
) -> tuple[Any, Mapping[str, int]]:
    """What ``check`` finds, and the kernels of ``run``, which it runs as well."""
    if not session.dry:
        return check(), {name: ran.times for name, ran in kernels_of(run).items()}
    with launched() as names:
        return check(), Counter(names)


def _say(what: str, errors: Mapping[str, float], ran: Mapping[str, int]) -> None:
    others = ", ".join(f"{k} {v:.1e}" for k, v in errors.items() if k != "ours")
    kernels = ", ".join(f"{times} {name}" for name, times in ran.items())
    print(f"{what}: error {errors['ours']:.1e} ({others}); ran {kernels}")


def _once(case: Problem | tuple[int, int, int, str]) -> str:
    """Run for what it compiles; errors will come again."""
    with contextlib.suppress(Exception):
        if isinstance(case, Problem):
            case.cases({"ours": case.ours()})["ours"]()
        else:
            label_forms(*case)[0]["ours"]()
    return ""


# --- Tests ---------------------------------------------------------------------------------------


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """As a plugin of pytest: one process's share of the tests that belong on a device."""
    place, of = map(int, os.environ[SHARE].split("/"))
    ours = [
        item for item in items
        if item.get_closest_marker("gpu") or item.path.name.startswith(ORACLE_SUITES)
    ]  # fmt: skip
    mine = ours[place::of]
    config.hook.pytest_deselected(items=[item for item in items if item not in mine])
    items[:] = mine


def suites() -> list[str]:
    """Files with tests that need a GPU, and the oracle suites."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    chosen = (
        p for p in files if p.name.startswith(ORACLE_SUITES) or "mark.gpu" in p.read_text()
    )  # fmt: skip
    return [str(p.relative_to(ROOT)) for p in chosen]


def tests(session: Session) -> None:
    """Tests on the device, in parallel; at the same time what ``losses`` compares with is compiled,
    which the compilers keep on disk."""
    files = ["tests/kernels/test_cuda.py"] if session.dry else suites()
    share = 1 if session.dry else PROCESSES
    command = [sys.executable, "-m", "pytest", "-p", f"{__name__}", *OPTIONS, *files]
    runs = [
        _start(f"tests {at + 1} of {share}", command, {SHARE: f"{at}/{share}"})
        for at in range(share)
    ]
    for at in range(0 if session.dry else COMPILERS):
        code = f"from {__name__} import compile_rivals; compile_rivals({at}, {COMPILERS})"
        runs.append(_start(f"compiling {at + 1}", [sys.executable, "-u", "-c", code], {}))
    for name, process, output in runs:
        try:
            process.wait(max(0.0, session.left - 10.0))
            ended = f"ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest prints what it has
            ended = "was stopped"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5.0)
        with output:
            output.seek(0)
            text = output.read()
        good = ended.endswith((" 0", " 5"))  # 5: none is this process's
        print(f"{name} {ended}: {text if not good else text.strip().splitlines()[-1]}")
        if not good:
            session.fail(f"{name} {ended}")


def _start(name: str, command: list[str], more: dict[str, str]) -> tuple[str, Any, IO[str]]:
    output = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
    environment = {**os.environ, **more, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop(ENVIRONMENT, None)
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=output, stderr=subprocess.STDOUT, env=environment
    )
    return name, process, output


def compile_rivals(place: int, of: int) -> None:
    batches = (Problem(kernel, 256, 16, True, "cuda") for kernel in BATCHES)
    for problem in (*PROBLEMS, *batches)[place::of]:
        try:
            print(problem, errors_of(problem, print)[1])
        except Exception as error:
            print(problem, repr(error))
