"""Runs the steps, each bounded and in its own process: an illegal access ends a CUDA context."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple
from unittest import mock

from divergences.kernels.backends import ENVIRONMENT

from .. import gpu
from .session import Session, toy

ROOT = Path(__file__).parents[2]


class Step(NamedTuple):
    """A function of a module here, and its share of the eight minutes, in seconds. A step may take
    what those before it have left over."""

    name: str
    module: str
    seconds: float


STEPS = (
    Step("identify", "checks", 15),
    Step("routes", "checks", 60),
    Step("tests", "checks", 120),
    Step("ceilings", "ceilings", 25),
    Step("configurations", "configurations", 75),
    Step("losses", "times", 85),
    Step("batch", "times", 30),
    Step("permutations", "times", 35),
    Step("million", "times", 25),
)


def take(step: Step, out: Path, dry: bool, seconds: float) -> int:
    """Run a step in this process; its number of failures."""
    session = Session(out, dry, seconds)
    small = toy() if dry else contextlib.nullcontext()
    ours = mock.patch.dict(os.environ, {ENVIRONMENT: "triton"})
    with session.attempt(step.name), small, ours:
        getattr(importlib.import_module(f"{gpu.__name__}.{step.module}"), step.name)(session)
    return len(session.failures)


def in_its_own_process(step: Step, out: Path, dry: bool, seconds: float, log: IO[str]) -> str:
    """Run a step, show what it prints and write it to ``log``; how it ended."""
    command = [sys.executable, "-u", "-m", gpu.__name__, "--step", step.name, "--out", str(out)]
    command += ["--seconds", f"{seconds:.0f}", *(["--dry"] if dry else [])]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, errors="replace", stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True, env=environment(dry),
    ) as process:  # fmt: skip

        def copy() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                log.write(line)
                log.flush()

        reader = threading.Thread(target=copy, daemon=True)
        reader.start()
        try:
            code = process.wait(seconds)
            ended = {0: "passed", 1: "failed"}.get(code, f"died with {code}")
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it started
        reader.join(5.0)
    return ended


def environment(dry: bool) -> dict[str, str]:
    if not dry:
        return dict(os.environ)
    return {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}


def run(steps: Sequence[Step], out: Path, dry: bool) -> int:
    from . import table

    out.mkdir(parents=True, exist_ok=True)
    started, ends, ended = time.monotonic(), 0.0, dict[str, str]()
    with (out / "log.txt").open("a") as log:
        for step in steps:
            ends += step.seconds
            before = time.monotonic() - started
            title = f"== {step.name}, {before:.0f} s after the start"
            print(title, flush=True)
            log.write(f"{title}\n")
            how = in_its_own_process(step, out, dry, max(1.0, ends - before), log)
            ended[step.name] = f"{how}, {time.monotonic() - started - before:.0f} s"
            print(f"== {step.name} {ended[step.name]}", flush=True)
        try:
            text = table.text(out, ended)
        except Exception:  # what was measured lies in the folder
            text = traceback.format_exc()
        (out / "table.md").write_text(text)
        log.write(text)
    print(text)
    return 0 if all(how.startswith("passed") for how in ended.values()) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description=gpu.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [step.name for step in STEPS]
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu", help="rows, log, table")
    parser.add_argument("--dry", action="store_true", help="toy sizes, interpreted, on a CPU")
    parser.add_argument("--only", default=",".join(names), help="some steps")
    parser.add_argument("--step", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=60.0, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if unknown := set(given.only.split(",")) - set(names):
        parser.error(f"unknown steps {sorted(unknown)}; known are {', '.join(names)}")
    if given.step:
        (step,) = (step for step in STEPS if step.name == given.step)
        return 1 if take(step, given.out, given.dry, given.seconds) else 0
    if not given.dry:
        import torch

        if not torch.cuda.is_available():
            parser.error("no CUDA device; --dry runs every step at toy size on a CPU")
    chosen = [step for step in STEPS if step.name in given.only.split(",")]
    return run(chosen, given.out.resolve(), given.dry)


if __name__ == "__main__":
    sys.exit(main())
