"""The fixture ``compare``: variants of a workload, interleaved, as one group of pytest-benchmark.

Its options work: --benchmark-max-time is the seconds per workload, --benchmark-disable runs every
variant once and records nothing, --benchmark-json, -save and -compare as ever. The same
medians are appended to bench/results/*.csv, or to the folder that BENCH_RESULTS names.
"""

from __future__ import annotations

import copy
import gc
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pytest
import torch

from . import measure
from .measure import Row, Run, Setup

APART = {"sklearn"}  # whose threads go on spinning, at the cost of what runs next
LEFT_OUT = pytest.StashKey[list[str]]()


class Compare:
    def __init__(self, benchmark: Any, left_out: list[str]) -> None:
        self._benchmark, self._left_out = benchmark, left_out

    @property
    def disabled(self) -> bool:
        """Nothing is to be recorded, so nothing need be measured at length."""
        return bool(self._benchmark.disabled)

    def leave_out(self, workload: str, variant: str, why: str) -> None:
        """Say at the end of the session why a rival has no row."""
        self._left_out.append(f"{workload}: {variant} is left out, {why}")

    def __call__(
        self,
        workload: str,
        variants: Mapping[str, Run],
        *,
        file: str,
        errors: Mapping[str, float] | None = None,
        fresh: Mapping[str, Setup] | None = None,
        scale: Mapping[str, float] | None = None,
        device: str = "cpu",
    ) -> list[Row]:
        """Measure ``variants``, of which "ours" is the yardstick, and append a row for each.

        errors: relative to fp64, as found before. fresh: what makes each variant anew in a process
        of its own, for its peak memory; on a CUDA device ``variants`` do, unless this is empty.
        scale: what to multiply a time with, where a variant does a part of the work.
        """
        if self.disabled:
            for run in variants.values():
                run()
            return []
        errors, scale = errors or {}, scale or {}
        times = self._interleaved({k: v for k, v in variants.items() if k not in APART}, device)
        times |= self._interleaved({k: v for k, v in variants.items() if k in APART}, device)
        times = {k: [scale.get(k, 1.0) * t for t in found] for k, found in times.items()}
        peaks = {k: measure.peak_in_fresh_process(setup) for k, setup in (fresh or {}).items()}
        if device == "cuda" and fresh is None:
            peaks = {k: measure.peak_on_device(run) for k, run in variants.items()}
        medians = {name: statistics.median(found) for name, found in times.items()}
        rows = measure.rows_of(workload, medians, errors, peaks, device)
        measure.append(file, [asdict(row) for row in rows])
        for row in rows:
            self._register(row, times[row.variant])
        return rows

    def _interleaved(self, variants: Mapping[str, Run], device: str) -> dict[str, list[float]]:
        options = self._benchmark
        was_enabled = gc.isenabled()
        if options._disable_gc:
            gc.disable()
        try:
            return measure.interleaved(variants, options._max_time, options._min_rounds, device)
        finally:
            if was_enabled:
                gc.enable()

    def _register(self, row: Row, times: list[float]) -> None:
        """One entry of the group, as if a test had called ``benchmark`` with this variant."""
        entry = copy.copy(self._benchmark)
        entry.group, entry.name = row.workload, row.variant
        entry.fullname = f"{self._benchmark.fullname}::{row.workload}::{row.variant}"
        entry.extra_info = {k: getattr(row, k) for k in ("ratio", "peak_mb", "error")}
        statistics_of_entry = entry._make_stats(iterations=1)
        for each in times:
            statistics_of_entry.update(each)


@pytest.fixture
def compare(benchmark: Any, request: pytest.FixtureRequest) -> Compare:
    benchmark._mode = "compare"  # else pytest-benchmark warns that it was not used
    return Compare(benchmark, request.config.stash[LEFT_OUT])


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    torch.set_num_threads(measure.THREADS)
    yield
    torch.set_num_threads(measure.THREADS)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    found = config.stash[LEFT_OUT]
    if found:
        terminalreporter.section("left out")
        for line in dict.fromkeys(found):
            terminalreporter.write_line(line)
