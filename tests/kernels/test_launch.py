"""Launches of compiled kernels that are kept: what is told apart, and that the driver is given
what an ordinary launch gives it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from divergences.kernels.triton_backend import compat, launcher
from divergences.kernels.triton_backend.configs import Config

CONFIG = Config(16, 16, 1, 4, 2)
FLOATS = torch.zeros(64)


class Kernel:
    """Two pointers, two integers, two compile-time arguments; ``made`` counts compilations."""

    __name__ = "kernel"
    arg_names = ("n", "x", "A", "y", "m", "B")

    def __init__(self) -> None:
        self.made = 0
        self.params = [
            SimpleNamespace(name=n, is_constexpr=n.isupper(), do_not_specialize=n in "nm")
            for n in self.arg_names
        ]
        self.launched: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def first(**_: Any) -> Any:
            self.made += 1
            number = self.made
            return {(*grid, 1, 1): lambda *given: self.launched.append((number, *given))}

        return first


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr(compat, "current_device", lambda: 0)
    monkeypatch.setattr(launcher, "_compiled", {})
    return Kernel()


def launch(kernel: Kernel, config: Config = CONFIG, **changed: Any) -> None:
    given: dict[str, Any] = {"n": 3, "x": FLOATS, "A": True, "y": FLOATS, "m": 5, "B": (1, 2.5)}
    launcher.launch(kernel, (64,), config, **{**given, **changed})


def test_a_second_launch_is_of_the_compiled_kernel(kernel: Kernel) -> None:
    other = FLOATS.clone()
    for n, y in ((3, FLOATS), (1, other), (16, FLOATS)):  # Triton's special values of an integer
        launch(kernel, n=n, y=y)
    address = FLOATS.data_ptr()
    assert kernel.launched == [
        (1, 1, address, True, other.data_ptr(), 5, (1, 2.5)),
        (1, 16, address, True, address, 5, (1, 2.5)),
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"A": False},
        {"B": (1, 3.5)},
        {"n": 2**31},
        {"m": -(2**31) - 1},
        {"x": FLOATS.half()},
        {"y": FLOATS[1:]},
        {"x": FLOATS[1:]},
        {"config": CONFIG._replace(stages=3)},
    ],
    ids=str,
)
def test_what_is_compiled_apart(kernel: Kernel, changed: dict[str, Any]) -> None:
    launch(kernel)
    launch(kernel, **changed)
    assert (kernel.made, kernel.launched) == (2, [])
    launch(kernel)
    launch(kernel, **changed)
    assert [number for number, *_ in kernel.launched] == [1, 2]
    assert kernel.made == 2


def test_devices_are_told_apart(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    launch(kernel)
    monkeypatch.setattr(compat, "current_device", lambda: 1)
    launch(kernel)
    assert (kernel.made, kernel.launched) == (2, [])


ORDINARY = """
import torch
from bench import offline
from bench.stub_driver import stub_driver
from divergences.kernels.triton_backend import launcher
from divergences.kernels.problem import Wanted

case = next(iter(offline._cases(True, True)))
case = case._replace(rows=300, coordinates=3, wanted=Wanted(True, True, True))
form = case._replace(rows=40, form=True)
with stub_driver(keep=True) as driver:
    for launch in (*offline.record(case, 90), *offline.record(form, 90)):
        arguments = launch.config.options() | launch.arguments
        launch.kernel[(7, 2)](**arguments)
        launcher.launch(launch.kernel, (7, 2), launch.config, **launch.arguments)
        driver.stream = 5
        launcher.launch(launch.kernel, (7, 2), launch.config, **launch.arguments)
        ordinary, first, kept = driver.launches[-3:]
        numbers = [g.data_ptr() if isinstance(g, torch.Tensor) else g for g in ordinary[3]]
        assert ordinary[:3] == first[:3] == ((7, 2, 1), 0, launch.kernel.__name__), ordinary
        assert kept == ((7, 2, 1), 5, launch.kernel.__name__, numbers), (kept, numbers)
        driver.stream = 0
    assert len(driver.launches) >= 18
"""


def test_the_driver_is_given_what_triton_gives_it() -> None:
    """In a process of its own: this one interprets Triton."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", ORDINARY], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr


def test_the_time_of_the_host_is_measured(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["BENCH_RESULTS"] = str(tmp_path)
    command = [sys.executable, "-m", "bench.host", "--seconds", "0"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    with (tmp_path / "host.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["variant"] for row in rows} == {"ours", "ordinary launches"}
    workloads = {row["workload"] for row in rows}
    for part in ("fixed bandwidth", "default", "gradient_kernel", "finish_kernel"):
        assert any(part in workload for workload in workloads)
    assert all(float(row["median_ms"]) > 0.0 for row in rows)
