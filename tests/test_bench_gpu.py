"""The run on a GPU, at toy size: every step, what it writes, and that nothing stops it."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # bench is not installed

from bench import measure, targets  # noqa: E402
from bench.gpu import __main__ as gpu  # noqa: E402
from bench.gpu import ceilings, checks, configurations, table, times  # noqa: E402
from bench.gpu.session import Session, in_parallel, kernels_of, toy  # noqa: E402
from bench.permutations import balanced_labels, exact_forms  # noqa: E402
from bench.rivals import materialised_forms  # noqa: E402
from bench.workloads import Problem  # noqa: E402
from divergences.kernels.triton_backend.configs import ARCHITECTURES, INTERPRETED, Config  # noqa: E402

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="a dry run is one of the interpreter"
)


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Steps run here, which spares ten imports of torch; the suite's own results are elsewhere."""

    def here(step: gpu.Step, out: Path, dry: bool, seconds: float, _: io.TextIOBase) -> str:
        return "failed" if gpu.take(step, out, dry, seconds) else "passed"

    monkeypatch.setattr(gpu, "in_its_own_process", here)
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    return tmp_path / "out"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_dry_run(one_process: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [step.name for step in gpu.STEPS if step.name != "routes"]
    assert gpu.main(["--dry", "--out", str(one_process), "--only", ",".join(steps)]) == 0
    said = capsys.readouterr().out
    page = (one_process / "table.md").read_text()
    assert said.endswith(page + "\n")
    for name in steps:
        assert f"| {name} | passed, " in page
    assert "skipped" in said  # the tests that need a GPU
    files = {path.stem: rows(path) for path in one_process.glob("*.csv")}
    names = {"losses_gpu", "tests_gpu", "hardware_gpu", "configurations_gpu", "counts_gpu"}
    assert set(files) == names
    for row in files["configurations_gpu"]:
        assert float(row["error"]) < 1e-5
    assert {row["variant"] for row in files["losses_gpu"]} == {"ours", "eager", "one bandwidth"}
    counts = {row["name"]: float(row["value"]) for row in files["counts_gpu"]}
    assert counts["kernels, gaussian, value+gradient, n=m=9, d=2"] == 2
    assert counts["rate, ex2"] > 0 and counts["rate, product"] > 0
    assert not (one_process.parent / "results").exists()  # these times mean nothing
    assert len(list(one_process.iterdir())) <= 8


def test_every_route_is_checked(one_process: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--dry", "--out", str(one_process), "--only", "routes"]) == 0
    said = capsys.readouterr().out
    for name, kernel in {
        "small: gaussian, value+gradient": "1 pooled_kernel,",
        "difference: gaussian, value,": "1 value_kernel,",
        "difference: gaussian, value+gradient": "1 gradient_kernel,",
        "difference, panel: laplace l1, value+gradient": "1 gradient_kernel PANEL",
        "Gram: gaussian, value,": "1 gram_value_kernel",
        "Gram: gaussian, value+gradient": "1 gram_gradient_kernel,",
        "Gram, slices: gaussian, value+gradient": "1 gram_gradient_kernel,",
        "Gram, panel: gaussian, value+gradient": "1 gram_gradient_kernel PANEL",
        "label forms, difference: N=40": "1 panel_kernel,",
        "label forms: N=40": "1 panel_kernel",
    }.items():
        (line,) = (line for line in said.splitlines() if line.startswith(name))
        assert kernel in line, line


def test_a_wrong_result_fails_its_step_and_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(times, "errors_of", lambda p, *_: ({"ours": p.ours()}, {"ours": 1e-3}))
    session = Session(tmp_path / "out", True, 60.0)
    session.dry = False  # as on a device: rows that are right go to the results
    problem = Problem("gaussian", 9, 2)
    with toy():
        times.loss(session, problem)
    assert session.failures == [f"{problem}: errors {{'ours': 0.001}}"]
    (row,) = rows(tmp_path / "out" / "losses_gpu.csv")
    assert row["workload"] == f"{problem} (wrong)"
    assert not (tmp_path / "results").exists()
    monkeypatch.setattr(times, "errors_of", lambda p, *_: ({"ours": p.ours()}, {"ours": 1e-7}))
    with toy():
        times.loss(session, problem)
    (row,) = rows(tmp_path / "results" / "losses_gpu.csv")
    assert row["workload"] == str(problem)


PROCESS = """#!/bin/sh
case "$*" in
  *"--step identify"*) echo crashed; exit 3;;
  *"--step routes"*) echo begun; sleep 60;;
  *"--step tests"*) exit 1;;
esac
echo "$*"
"""


def test_no_step_stops_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text(PROCESS)
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(gpu, "STEPS", [step._replace(seconds=0.4) for step in gpu.STEPS])
    only = "identify,routes,tests,ceilings"
    assert gpu.main(["--dry", "--out", str(tmp_path / "out"), "--only", only]) == 1
    said = capsys.readouterr().out
    page = (tmp_path / "out" / "table.md").read_text()
    for line in ("identify | died with 3", "tests | failed", "ceilings | passed"):
        assert f"| {line}, " in page
    assert "| routes | stopped after 1 s, " in page  # its share, and what was left over
    log = (tmp_path / "out" / "log.txt").read_text()
    for line in ("crashed", "begun", "-u -m bench.gpu --step ceilings --out"):
        assert line in log and line in said


def test_a_machine_without_a_gpu_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main([])
    assert "no CUDA device; --dry" in capsys.readouterr().err


def test_the_shares_end_in_time() -> None:
    assert sum(step.seconds for step in gpu.STEPS) <= 8 * 60 - 10


# --- Targets -------------------------------------------------------------------------------------


def test_targets_name_what_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the sizes of a device, and nothing run."""
    found: dict[str, tuple[str, set[str]]] = {}

    class Listed(Session):
        device = "cuda"

        def __call__(self, workload: str, variants: Mapping[str, Any], **o: Any) -> list[Any]:
            found[workload] = (o["file"], set(variants))
            return []

        def count(self, name: str, _: float) -> None:
            found[name] = ("", set())

    session = Listed(tmp_path, True, 60.0)
    session.dry = False
    rivals = dict.fromkeys(("ours", "eager", "compile"), None)
    monkeypatch.setattr(times, "errors_of", lambda *_: (dict(rivals), {"ours": 0.0}))
    monkeypatch.setattr(Problem, "cases", lambda _, losses: dict.fromkeys(losses))
    monkeypatch.setattr(times, "kernels_of", lambda *_: {})
    monkeypatch.setattr(times, "host_milliseconds", lambda *_: 0.0)
    monkeypatch.setattr(times, "graphed", lambda *_: None)
    monkeypatch.setattr(times, "label_forms", lambda *_: ({"ours": 0, "materialised K": 0}, None))
    for name in ("checked_forms", "check_fuse", "fuse_case"):
        monkeypatch.setattr(times, name, lambda *_: None)
    monkeypatch.setenv("DIVERGENCES_BACKEND", "triton")
    for step in (times.losses, times.batch, times.permutations, times.million):
        step(session)
    assert not session.failures
    for target in targets.GPU_TARGETS:
        file, variants = found[target.workload]
        assert file == target.file
        assert target.rival in variants or target.rival_ms is not None
    for workload in targets.KERNELS:
        assert f"kernels, {workload}" in found
    assert f"gaussian, value+gradient, {targets.GPU}" in found  # of which the limit is shown


def test_the_floor_by_hand(tmp_path: Path) -> None:
    """790 TFLOP/s, 4.2e12 exponentials: 2n² pairs of 384 flop take 1.04 ms, 4.5n² take 2.35."""
    made = [
        measure.Row("2026-01-02", "abc", "a GPU", "torch 2", f"gaussian, {what}, {targets.GPU}",
                    "ours", ms, 1.0, math.nan, 1e-7)
        for what, ms in (("value", 1.5), ("value+gradient", 4.2))
    ]  # fmt: skip
    measure.append("losses_gpu", [asdict(row) for row in made], tmp_path)
    counts = [("rate, product", 790e12), ("rate, ex2", 4.2e12)]
    counts += [("kernels, gaussian, value+gradient, n=m=256, d=16", 5)]
    measure.append("counts_gpu", [{"name": n, "value": v} for n, v in counts], tmp_path)
    page = table.text(tmp_path, {"losses": "passed, 1 s"})
    assert f"| gaussian, value, {targets.GPU} | its floor | ≥ 60% | 70% | met |" in page
    assert f"| gaussian, value+gradient, {targets.GPU} | its floor | ≥ 60% | 56% | short |" in page
    assert "d=16 |  | ≤ 4 | 5 | short |" in page
    assert "| kernels, MMDLoss(), value+gradient, n=m=256, d=16 |  | ≤ 8 | not measured |" in page


# --- Parts ---------------------------------------------------------------------------------------


def test_a_configuration_that_is_not_used_is_refused() -> None:
    x = torch.randn(1, 26, 17)
    with toy(), configurations.configs("gram_value_kernel") as found:
        configurations.sweep(x, x, False)
    (shipped,) = found
    wide = shipped._replace(rows=64)
    with toy(), configurations.configs("gram_value_kernel") as found:
        variant = configurations.Variant("gram_value_kernel", shipped, wide)
        with configurations.applied(variant, x.device):
            configurations.sweep(x, x, False)
    assert found == {wide}
    elsewhere = configurations.Variant("gram_value_kernel", shipped._replace(warps=16), wide)
    with toy(), pytest.raises(ValueError, match="ran with"):  # noqa: SIM117
        with configurations.applied(elsewhere, x.device):
            configurations.sweep(x, x, False)


def test_configurations_replaced_wherever_they_are() -> None:
    old, new = INTERPRETED.one.gram_value, Config(1, 2, 3, 4, 5)
    table = configurations.replaced(INTERPRETED.one, old, new)
    assert table.gram_value == new and set(table.gram_gradient.values()) == {new}
    assert table.small == INTERPRETED.one.small
    shipped = ARCHITECTURES[90].one.gram_value
    tried = configurations.variants("gram_value_kernel", shipped)
    assert {variant.new.stages for variant in tried} >= {1, 2, 3, 4}
    assert shipped not in [v.new for v in tried if not v.constant]
    assert {v.constant for v in tried} == {"", *configurations.CONSTANTS}


def test_forms_in_blocks_are_those_of_the_whole() -> None:
    z, v = torch.randn(9, 2), balanced_labels(9, 4, "cpu")
    whole = materialised_forms(z.double(), v.double(), sigma=1.5)
    torch.testing.assert_close(exact_forms(z, v, sigma=1.5, rows=4), whole)


def test_an_empty_launch_has_the_arguments_of_a_real_one(tmp_path: Path) -> None:
    session = Session(tmp_path, True, 60.0)
    with toy(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIVERGENCES_BACKEND", "triton")
        kernel, _, _, arguments = ceilings.gradient_launch(session)
    empty = ceilings.empty_like(kernel, tmp_path / "empty.py")
    assert list(empty.arg_names) == list(kernel.arg_names)
    assert set(arguments) <= set(empty.arg_names)
    assert len(arguments) > 20


def test_suites_of_a_device() -> None:
    files = checks.suites()
    assert {"tests/kernels/test_cuda.py", "tests/kernels/test_triton.py"} <= set(files)
    assert "tests/test_readme.py" not in files


@pytest.mark.parametrize("place", [0, 1])
def test_processes_share_the_tests(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Item:
        def __init__(self, file: str, gpu: bool) -> None:
            self.path, self._gpu = Path(file), gpu

        def get_closest_marker(self, _: str) -> bool:
            return self._gpu

    class Hook:
        def pytest_deselected(self, items: list[Item]) -> None:
            left_out.extend(items)

    class Options:
        hook = Hook()

    left_out: list[Item] = []
    every = [Item("test_triton.py", False), Item("test_a.py", True), Item("test_a.py", False)]
    monkeypatch.setenv(checks.SHARE, f"{place}/2")
    items = list(every)
    checks.pytest_collection_modifyitems(Options(), items)
    assert items == [every[place]]
    assert left_out == [item for item in every if item is not every[place]]


def test_work_in_parallel() -> None:
    assert in_parallel(str.upper, ["a", "b"]) == ["A", "B"]


def test_the_kernels_of_a_run_are_counted() -> None:
    problem = Problem("gaussian", 9, 2, True)
    with toy(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIVERGENCES_BACKEND", "triton")
        ran = kernels_of(problem.cases({"ours": problem.ours()})["ours"])
    assert {name: found.times for name, found in ran.items()} == {
        "pooled_kernel": 1, "total_kernel": 1,
    }  # fmt: skip
