"""Python's share of small losses and of a launch on CUDA: python -m bench.host (no GPU needed).

CPU tensors stand for those on a GPU, and kernels are compiled and launched on a stub of a driver,
which does nothing; what is left is the time of the host. "ordinary launches" bind their arguments
by name at every launch, as Triton does.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from divergences.kernels import backends
from divergences.kernels.triton_backend import launcher
from divergences.kernels.triton_backend.configs import ARCHITECTURES, Config, Device
from divergences.mmd import MMDLoss

from . import measure, offline
from .stub_driver import stub_driver

LOSSES = {"fixed bandwidth": MMDLoss(bandwidth=1.0), "default": MMDLoss()}
REPEATS = 20  # of what is timed at once


@contextlib.contextmanager
def standing_for_a_gpu() -> Iterator[None]:
    """Inside, CPU tensors say that they are on a GPU."""
    device = Device(ARCHITECTURES[90], offline.PROCESSORS)
    with (
        stub_driver(),
        mock.patch.object(Tensor, "is_cuda", property(lambda _: True)),
        mock.patch.object(backends, "_reasons", {torch.device("cpu"): None}),
        mock.patch.object(launcher, "device_of", return_value=device),
    ):
        yield


def ordinary(kernel: Any, grid: tuple[int, ...], config: Config, **arguments: Any) -> None:
    kernel[grid](**arguments, **config.options())


def step(loss: MMDLoss, x: Tensor, y: Tensor) -> None:
    torch.autograd.grad(loss(x, y), x)


def workloads() -> dict[str, Callable[[], None]]:
    """Forward and backward of losses of 256×16, and the launches of the general kernels."""
    x, y = torch.randn(256, 16).requires_grad_(), torch.randn(256, 16)
    found = {
        f"host, 256×16, {name}, forward and backward": partial(step, loss, x, y)
        for name, loss in LOSSES.items()
    }
    case = next(c for c in offline._cases(full=False, first=True) if c.name == "small few")
    for launch in offline.record(case, 90):
        # Looked up at the call: the variants replace it.
        def run(launch: offline.Launch = launch) -> None:
            launcher.launch(launch.kernel, (64,), launch.config, **launch.arguments)

        name = f"host, launch of {launch.kernel.__name__}, {len(launch.arguments)} arguments"
        found[name] = run
    return found


def rows(seconds: float) -> list[measure.Row]:
    found = []
    with standing_for_a_gpu():
        for name, run in workloads().items():

            def ours(run: Callable[[], None] = run) -> None:
                for _ in range(REPEATS):
                    run()

            variants: Mapping[str, measure.Run] = {
                measure.OURS: ours,
                "ordinary launches": mock.patch.object(launcher, "launch", ordinary)(ours),
            }
            times = measure.interleaved(variants, seconds)
            medians = {v: statistics.median(t) / REPEATS for v, t in times.items()}
            found += measure.rows_of(name, medians, {}, {})
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.host", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each workload")
    found = rows(parser.parse_args(arguments).seconds)
    for row in found:
        print(f"{row.workload:58}{row.variant:20}{1e3 * row.median_ms:9.1f} µs{row.ratio:8.2f}")
    measure.append("host", [dataclasses.asdict(row) for row in found])


if __name__ == "__main__":
    main()
