"""The bench suite: what it measures is interleaved, recorded whole, and compared with equals."""

from __future__ import annotations

import csv
import json
import math
import os
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import product
from typing import Any

import oracle
import pytest
import torch
from torch import Tensor

ROOT = pathlib.Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # bench is not installed

from bench import (  # noqa: E402
    distributed,
    hardware,
    measure,
    pages,
    plots,
    presets,
    report,
    rivals,
    small_losses,
    targets,
)
from bench.workloads import Problem, blocked, checked  # noqa: E402
from divergences.energy import energy_distance  # noqa: E402
from vae import load  # noqa: E402
from vae.data.idx import FILES  # noqa: E402

pytest_plugins = "pytester"


class Clock:
    """Time passes only when something that is measured says so."""

    def __init__(self) -> None:
        self.now, self.ran = 0.0, ""

    def perf_counter(self) -> float:
        return self.now

    def takes(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.ran += name
            self.now += seconds

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(measure, "time", found)
    return found


# --- Time, memory, rows --------------------------------------------------------------------------


def test_variants_take_turns_until_time_is_up(clock: Clock) -> None:
    variants = {name: clock.takes(name, 1.0) for name in "abc"}
    found = measure.interleaved(variants, seconds=11.0, min_rounds=2)
    rounds = [clock.ran[k : k + 3] for k in range(0, len(clock.ran), 3)]
    assert len(rounds) == 1 + 4  # the first runs are not counted; 11 is within the fourth
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds) and len(set(rounds)) > 1
    assert {name: len(times) for name, times in found.items()} == dict.fromkeys("abc", 4)


def test_a_slow_variant_has_fewer_rounds_and_a_long_one_one(clock: Clock) -> None:
    variants = {name: clock.takes(name, took) for name, took in zip("abc", (3, 1, 20), strict=True)}
    found = measure.interleaved(variants, seconds=1.0, min_rounds=5)
    assert {k: len(v) for k, v in found.items()} == {"a": 2, "b": 5, "c": 1}
    assert sorted(clock.ran[3:7]) == ["a", "a", "b", "b"] and clock.ran[7:] == "bbb"
    assert clock.ran.count("c") == 1  # its first run is its measurement


def test_cuda_runs_are_timed_between_events_that_were_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            said.append("record")

        def synchronize(self) -> None:
            said.append("wait")

        def elapsed_time(self, after: Event) -> float:
            assert after is not self
            return 2.5  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: said.append("idle"))
    assert measure.timed(lambda: said.append("run"), "cuda") == pytest.approx(0.0025)
    assert said == ["idle", "record", "run", "record", "wait"]


@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="not Linux")
def test_peak_memory_is_that_of_the_run() -> None:
    setup = partial(partial, torch.ones, 40 * 2**18)  # 40 MB
    assert measure.peak_in_fresh_process(setup) == pytest.approx(40.0, abs=8.0)


def rows(**medians: float) -> list[dict[str, Any]]:
    return [asdict(row) for row in measure.rows_of("w", medians, {"ours": 1e-7}, {"ours": 12.0})]


def test_interruption_leaves_the_file_whole(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "new")
    measure.append("f", rows(ours=0.002, eager=0.006))
    before = (tmp_path / "new" / "f.csv").read_text()
    (first, second) = csv.DictReader(before.splitlines())
    assert (first["median_ms"], first["peak_mb"], first["error"]) == ("2.0", "12.0", "1e-07")
    assert (second["ratio"], second["peak_mb"], second["error"]) == ("3.0", "nan", "nan")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            measure.append("f", rows(ours=0.002))
    assert (tmp_path / "new" / "f.csv").read_text() == before
    assert len(list((tmp_path / "new").iterdir())) == 1
    measure.append("f", rows(ours=0.004))
    assert (tmp_path / "new" / "f.csv").read_text().startswith(before)


def test_results_do_not_make_a_commit_dirty(tmp_path: pathlib.Path) -> None:
    assert measure.commit(tmp_path).startswith("sources-")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "bench" / "results").mkdir(parents=True)
    code, result = tmp_path / "code.py", tmp_path / "bench" / "results" / "f.csv"
    code.write_text("1")
    result.write_text("1")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *arguments], check=True)
    measure.commit.cache_clear()
    clean = measure.commit(tmp_path)
    assert len(clean) >= 7 and not clean.endswith("-dirty")
    result.write_text("2")
    measure.commit.cache_clear()
    assert measure.commit(tmp_path) == clean
    code.write_text("2")
    measure.commit.cache_clear()
    assert measure.commit(tmp_path) == f"{clean}-dirty"
    measure.commit.cache_clear()


# --- The fixture ---------------------------------------------------------------------------------

SUITE = """
    import pytest
    from bench.conftest import Compare

    @pytest.mark.parametrize("n", [1, 2])
    def test_a(compare: Compare, n, clock):
        compare.leave_out("w", "keops", "it is not there")
        variants = {"ours": clock.takes("o", 0.002), "eager": clock.takes("e", 0.006)}
        compare(f"w, n={n}", variants, file="f", errors={"ours": 1e-7}, scale={"eager": 2.0})
        (clock.folder / f"ran{n}").write_text(clock.ran)
"""


@pytest.fixture
def suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> Iterator[Callable[..., Any]]:
    """Runs a small benchmark of two workloads in this process, with time that stands still."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # else pytest-benchmark is disabled
    monkeypatch.setattr(measure, "RESULTS", pytester.path / "results")
    clock.folder = pytester.path  # type: ignore[attr-defined]

    class Plugin:
        @pytest.fixture(name="clock")
        def _clock(self) -> Clock:
            return clock

    pytester.makepyfile(test_two_workloads=SUITE)  # a name that no other file has
    threads = torch.get_num_threads()

    def run(*options: str) -> Any:
        return pytester.runpytest_inprocess(
            "-p", "bench.conftest", "-p", "no:cacheprovider", *options, plugins=[Plugin()]
        )

    yield run
    torch.set_num_threads(threads)


def test_compare_records_every_variant_of_a_workload(
    suite: Callable[..., Any], pytester: pytest.Pytester
) -> None:
    result = suite(
        "--benchmark-max-time=0.04", "--benchmark-min-rounds=2", "--benchmark-json=j.json"
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["*benchmark 'w, n=1': 2 tests*", "ours *", "eager * (6.00) *", "w: keops is left out, *"]
    )
    ran = (pytester.path / "ran1").read_text()
    assert [sorted(ran[k : k + 2]) for k in range(0, len(ran), 2)] == [["e", "o"]] * 6
    with (pytester.path / "results" / "f.csv").open() as stream:
        found = list(csv.DictReader(stream))
    assert [(r["workload"], r["variant"], r["median_ms"], r["ratio"]) for r in found] == [
        (f"w, n={n}", *cells)
        for n in (1, 2)
        for cells in (("ours", "2.0", "1.0"), ("eager", "12.0", "6.0"))
    ]
    assert {r["error"] for r in found} == {"1e-07", "nan"}
    entries = json.loads((pytester.path / "j.json").read_text())["benchmarks"]
    assert [(e["group"], e["name"]) for e in entries] == [
        (f"w, n={n}", name) for n in (1, 2) for name in ("ours", "eager")
    ]
    assert len({e["fullname"] for e in entries}) == 4
    assert entries[1]["stats"]["median"] == pytest.approx(0.012)
    assert entries[1]["stats"]["rounds"] == 5


def test_disabled_runs_each_variant_once_and_records_nothing(
    suite: Callable[..., Any], pytester: pytest.Pytester
) -> None:
    suite("--benchmark-disable").assert_outcomes(passed=2)
    assert (pytester.path / "ran1").read_text() == "oe"
    assert not (pytester.path / "results").exists()


# --- Rivals --------------------------------------------------------------------------------------


def blocks(name: str, x: Tensor, y: Tensor, a: float, shape: float = 0.0) -> tuple[Tensor, ...]:
    """Sums over the pairs i ≠ j within x and within y, and between."""
    return oracle.sums(name, x, y, a, shape).unbind()


def biased(name: str, x: Tensor, y: Tensor, a: float, diagonal: float = 1.0) -> Tensor:
    xx, yy, xy = blocks(name, x, y, a, 1.0)
    n, m = len(x), len(y)
    return (xx + n * diagonal) / n**2 + (yy + m * diagonal) / m**2 - 2.0 * xy / (n * m)


SIGMA, SQUARES = 1.7, (0.5, 3.0)
geomloss = partial(rivals.geomloss, sigma=SIGMA, backend="tensorized")
LOSSES: dict[str, rivals.Loss] = {
    "snippet": partial(rivals.gaussian_snippet, sigma=SIGMA),
    "sklearn": partial(rivals.sklearn_gaussian, sigma=SIGMA),
    "geomloss gaussian": partial(geomloss, name="gaussian"),
    "mixture": partial(rivals.mixture_snippet, sigmas=(SIGMA, 0.5)),
    "energy": rivals.energy_snippet,
    "geomloss energy": partial(geomloss, name="energy"),
    "imq": partial(rivals.imq_snippet, squares=SQUARES),
    "pythae": partial(rivals.pythae_like, squares=SQUARES),
}  # fmt: skip


def expected(name: str, x: Tensor, y: Tensor) -> Tensor:
    gaussian = biased("gaussian", x, y, 0.5 / SIGMA**2)
    match name:
        case "mixture":
            return 0.5 * (gaussian + biased("gaussian", x, y, 2.0))
        case "energy":
            return biased("energy", x, y, 1.0, diagonal=0.0)
        case "geomloss energy":  # its distances are at least 1e-4
            return biased("energy", x, y, 1.0, diagonal=-1e-4)
        case "imq" | "pythae":
            n = len(x)
            sums = sum(oracle.sums("inverse_power", x, y, 1.0 / c, 1.0) for c in SQUARES)
            assert isinstance(sums, Tensor)
            return (sums[0] + sums[1]) / (n * (n - 1)) - 2.0 * sums[2] / n**2
    return gaussian


@pytest.mark.parametrize("name", LOSSES)
def test_rivals_compute_the_same_losses(name: str) -> None:
    if name.startswith("geomloss"):
        pytest.importorskip("geomloss")
    x = torch.randn(23, 3, dtype=torch.float64)
    y = torch.randn(23, 3, dtype=torch.float64) + 0.5
    torch.testing.assert_close(LOSSES[name](x, y), expected(name, x, y), rtol=1e-7, atol=1e-9)


def test_the_default_bandwidths_of_the_rival_are_those_of_mmd_loss() -> None:
    """At 256 pooled rows, where ours looks at all pairs as well."""
    problem = Problem("MMDLoss()", 128, 3)
    x, y = (t.double() for t in problem.samples())
    torch.testing.assert_close(problem.eager()(x, y), problem.ours()(x, y), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kernel", ["gaussian", "energy", "five bandwidths", "laplace l1"])
@pytest.mark.parametrize("gradient", [False, True])
def test_the_truth_in_blocks_is_that_of_the_whole(kernel: str, gradient: bool) -> None:
    problem = Problem(kernel, 21, 3, gradient)
    x, y = (t.double() for t in problem.samples())
    whole = problem.run(problem.eager(), x, y)
    torch.testing.assert_close(blocked(problem, x, y, pairs=100), whole, rtol=1e-9, atol=1e-12)


def test_a_hint_of_the_compiler_leaves_no_rival_out(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("gaussian", 24, 2)
    right = problem.losses()

    def hints(x: Tensor, y: Tensor) -> Tensor:
        warnings.warn("TensorFloat32 tensor cores for float32 ... not enabled.", stacklevel=1)
        return right["eager"](x, y)

    monkeypatch.setattr(Problem, "losses", lambda *_, **__: {**right, "compile": hints})
    losses, _ = checked(problem, lambda *_: None)
    assert "compile" in losses


def test_scipy_is_squared() -> None:
    x, y = torch.randn(31, 1).double(), torch.randn(17, 1).double() + 1
    wanted = energy_distance(x, y, estimator="biased")
    torch.testing.assert_close(rivals.scipy_energy(x, y), wanted, rtol=1e-9, atol=0)


def test_reindexed_null_is_the_statistic_of_permuted_rows() -> None:
    x, y = torch.randn(9, 2).double(), torch.randn(6, 2).double()
    found = rivals.reindexed_energy_null(x, y, 2)
    generator = torch.Generator().manual_seed(0)
    for value in found:
        z = torch.cat([x, y])[torch.randperm(15, generator=generator)]
        torch.testing.assert_close(value, energy_distance(z[:9], z[9:]), rtol=1e-9, atol=1e-12)


def test_materialised_forms_leave_out_the_diagonal() -> None:
    z, v = torch.randn(8, 2).double(), torch.randn(8, 3).double()
    k = oracle.gram("gaussian", z, z, 0.5 / SIGMA**2, 0.0, 0.0).fill_diagonal_(0.0)
    found = rivals.materialised_forms(z, v, sigma=SIGMA)
    torch.testing.assert_close(found, torch.einsum("ib,ij,jb->b", v, k, v))


def test_a_wrong_loss_is_not_timed_and_a_broken_rival_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[tuple[str, ...]] = []
    problem = Problem("gaussian", 24, 2)
    right = problem.losses()

    def broken(*_: Tensor) -> Tensor:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(Problem, "losses", lambda *_, **__: {**right, "compile": broken})
    losses, errors = checked(problem, lambda *line: said.append(line))
    assert "compile" not in losses and "eager" in losses and errors["ours"] < 1e-5
    assert said == [(str(problem), "compile", "it raised RuntimeError: no compiler")]
    off = {**right, "ours": lambda x, y: right["ours"](x, y) * 1.001}
    monkeypatch.setattr(Problem, "losses", lambda *_, **__: off)
    with pytest.raises(AssertionError):
        checked(problem, lambda *_: None)


# --- Reports -------------------------------------------------------------------------------------


def write(file: str, *found: tuple[str, str, float, float]) -> None:
    """Rows of workload, variant, milliseconds and MB."""
    made = [
        measure.Row("2026-01-02", "abc", "a machine", "torch 2", w, v, ms, 1.0, mb, math.nan)
        for w, v, ms, mb in found
    ]
    measure.append(file, [asdict(row) for row in made])


@pytest.fixture
def results(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("results")
def test_the_last_run_of_each_workload_is_reported() -> None:
    write("losses_cpu", ("a", "ours", 1, 5), ("a", "gone", 9, 5), ("b", "ours", 7, 5))
    write("losses_cpu", ("a", "ours", 2, 5), ("a", "eager", 8, math.nan))
    lines = report.timings("losses_cpu").splitlines()
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:5]] == [
        ["a", "ours", "2.00", "", "5", ""],
        ["", "eager", "8.00", "1.0×", "", ""],
        ["b", "ours", "7.00", "", "5", ""],
    ]
    assert lines[-1] == "a machine; torch 2; commit abc, 2026-01-02"


@pytest.mark.usefixtures("results")
def test_the_headline_has_a_row_for_a_workload() -> None:
    name = "gaussian, value, n=m=8000, d=64"
    write("losses_cpu", (name, "ours", 1234.5, 20), (name, "eager", 9, 1000), ("a", "ours", 1, 5))
    write("losses_cpu", ("gaussian, value+gradient, n=m=256, d=16", "ours", 0.25, math.nan))
    lines = report.headline("losses_cpu").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:4]]
    assert cells[0] == [name, "1,234.50", "1.0×", "20 / 1000"]
    assert cells[1] == ["gaussian, value+gradient, n=m=256, d=16", "0.25", "", ""]
    assert len(lines) == 6 and lines[-1].startswith("a machine; torch 2; commit abc")


@pytest.mark.usefixtures("results")
def test_targets_are_judged_by_the_rows() -> None:
    big, step = "gaussian, value, n=m=8000, d=64", "training step, 784 pixels, batch 256"
    times = {"ours": 100, "eager": 900, "geomloss": 1300}
    write("losses_cpu", *((big, variant, ms, 5) for variant, ms in times.items()))
    for n, ms in ((32, 3.0), (64, 1.5)):
        name = f"energy, value+gradient, n=m={n}, d=16"
        write("losses_cpu", (name, "ours", 2.0, 5), (name, "eager", ms, 5))
    write("step_cpu", (step, "ours", 5.75, math.nan), (step, "without", 5, math.nan))
    million = "gaussian, value, n=m=1000000, d=64"
    write("losses_gpu", (million, "ours", 2000, 1600.0))
    lines = [
        tuple(cell.strip() for cell in line.split("|")[1:-1])
        for table in (targets.CPU_TARGETS, targets.GPU_TARGETS)
        for line in report.target_table(table).splitlines()
    ]
    assert (big, "eager", "≥ 12×", "9.00×", "short by 25%") in lines
    assert (big, "geomloss", "≥ 12×", "13.0×", "met") in lines
    small = "energy, value+gradient, n=m=32…4000, d=16"
    assert (small, "eager", "≥ 1×", "0.750× at 64", "short by 25%") in lines
    assert (step, "without", "≤ 1.1× its time", "1.15× its time", "short by 5%") in lines
    assert (million, "3 s", "≥ 1×", "1.50×, 1600 MB of 1400", "short") in lines
    other = "gaussian, value, n=m=32768, d=64"
    assert (other, "eager", "≥ 25×", "not measured", "") in lines


@pytest.mark.parametrize("name", pages.PAGES)
def test_pages_show_what_was_measured(name: str) -> None:
    page = (pages.ROOT / name).read_text()
    assert "<!-- python -m bench.report" in page
    assert pages.renewed(page) == page, "python -m bench.pages writes the tables anew"


def test_a_page_with_an_unknown_command_is_refused() -> None:
    with pytest.raises(ValueError, match="report nonsense is no command"):
        pages.renewed("<!-- python -m bench.report nonsense -->\n<!-- end -->")


# --- Several processes ---------------------------------------------------------------------------


def seconds(cpu: float) -> dict[str, float]:
    return {"cpu": cpu, "clock": cpu, "waiting": 0.0, "mb": 1.0}


SCALED = {(0, 1): seconds(8.0), (0, 2): seconds(5.0), (1, 1): seconds(3.0), (1, 4): seconds(4.0)}


def test_efficiency_is_of_the_slowest_process() -> None:
    strong, two, weak, four = distributed.as_rows(SCALED)
    assert [row["efficiency"] for row in (strong, two, weak, four)] == [
        "1.000", "0.800", "1.000", "0.750",
    ]  # fmt: skip
    assert "80 % (met: ≥ 80 %)" in distributed.table([strong, two])


def test_counted_work_is_all_of_it() -> None:
    n, one, eight = distributed.COUNTED / 2, *(distributed.counted_work(p) for p in (1, 8))
    assert one["value"].formed == 2 * n**2
    for name in one:
        assert 8 * eight[name].formed == pytest.approx(one[name].formed)


def test_processes_of_torchrun_are_measured() -> None:
    command = "-m torch.distributed.run --standalone --nproc-per-node=2 -m bench.distributed"
    said = subprocess.run(
        [sys.executable, *command.split(), "--here", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    row = json.loads(said.stdout)
    assert row["workload"] == 2
    assert row["cpu"] > 0.0
    assert row["mb"] == pytest.approx(2 * 6000 * 64 * 4e-6, rel=0.01)  # the rows of all


# --- The figure ----------------------------------------------------------------------------------


def a_session() -> None:
    for n in (256, 8000):
        for kernel, what in product(("gaussian", "energy"), ("value", "value+gradient")):
            name = f"{kernel}, {what}, n=m={n}, d=16"
            pairs = [(name, v, n * n * 1e-6 * k, 1.0) for k, v in enumerate(plots.LOOKS, 1)]
            write("losses_cpu", *pairs)
    for operation in hardware.OPERATIONS.values():
        write("hardware_cpu", (operation.workload, "ours", 1.0, math.nan))
    measure.append("distributed_cpu", distributed.as_rows(SCALED))


def test_plots_show_all_variants_and_the_limit(
    results: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a_session()
    monkeypatch.setattr(sys, "argv", ["report", "plots", "--out", str(results)])
    report.main()
    path, _, words = capsys.readouterr().out.partition("\n\n")
    assert path == str(results / "performance.png")
    assert 5_000 < pathlib.Path(path).stat().st_size < 150_000
    assert "at 17180 GFLOP/s" in words and "exp2 at 0.26e9/s" in words  # 1 ms each
    losses, machine = (report.last_runs(report.read(f)) for f in ("losses_cpu", "hardware_cpu"))
    figure = plots.plot_losses(losses, machine)
    for axes in figure.axes:
        assert len(axes.lines) == len(plots.LOOKS) + 1
        ours = axes.lines[-2]
        assert list(ours.get_xdata()) == [256, 8000]
        assert ours.get_ydata()[1] == pytest.approx(64.0)


def test_plots_say_what_has_not_been_measured(results: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="hardware: fp32 GEMM, 2048³ has not been measured"):
        plots.write_plots({}, {}, [], results)


def test_the_limit_counts_each_pair_once() -> None:
    n, d = 50, 3
    pairs = sum(1 for _ in range(n) for _ in range(n)) + 2 * sum(i for i in range(n + 1))
    rates = {"gemm": 1.0, "exp2": math.inf, "sqrt": math.inf}
    assert hardware.least_seconds("energy", n, d, False, rates) == pytest.approx(
        2 * d * pairs, rel=1.1 / n
    )
    rates = {"gemm": math.inf, "exp2": 2.0, "sqrt": 4.0}
    assert hardware.least_seconds("gaussian", n, d, True, rates) == 2 * n * n / 2.0
    assert hardware.least_seconds("energy", n, d, True, rates) == 2 * n * n / 4.0


def test_small_losses_name_their_rival(capsys: pytest.CaptureFixture[str]) -> None:
    """One cell of bench/small_losses.py, with its errors over all seeds."""
    small_losses.main(["--modes", "eager", "--kernels", "energy", "--n", "32", "--d", "2"])
    *rows, verdict = capsys.readouterr().out.splitlines()
    assert [r["rival"] for r in csv.DictReader(rows)] == ["energy_snippet, eager"] * 2
    assert all(0.0 < float(r["error"]) < 1e-6 for r in csv.DictReader(rows))
    assert verdict.endswith("of 2 cells are met")


def test_small_losses_are_judged_by_speed_and_error(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("gaussian", 256, 16, True)
    for ours, error, met in ((1.0, 1e-6, True), (1.6, 1e-6, False), (1.0, 3e-6, False)):
        found = {"ours": ours, "snippet": 2.0}
        monkeypatch.setattr(small_losses, "medians", lambda _, found=found: found)
        errors = {"ours": error, "snippet": 2e-6}
        monkeypatch.setattr(small_losses, "errors", lambda *_, errors=errors: errors)
        assert small_losses.cell("eager", problem)["met"] is met


def test_presets_are_recorded_from_idx_files(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command for MNIST, with the bundled digits in its four files."""
    data = load("digits", heldout=100, limit=200)
    (tmp_path / "mnist").mkdir()
    for name in ("train", "heldout"):
        images = (data.rows(name) * 255).byte().reshape(-1, 8, 8)  # type: ignore[arg-type]
        labels = getattr(data, f"{name}_labels").byte()
        for kind, values in ((name, images), (f"{name}_labels", labels)):
            header = bytes((0, 0, 8, values.dim()))
            sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
            path = tmp_path / "mnist" / FILES[kind]
            path.write_bytes(header + sizes + values.numpy().tobytes())
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setitem(presets.SETTINGS, "mnist", {"epochs": 1, "batch_size": 50})
    presets.main(["mnist", "--root", str(tmp_path), "--presets", "mmd-vae"])
    with (tmp_path / "presets.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["data"], row["preset"], row["epochs"]) == ("mnist", "mmd-vae", "1")
    assert 0 < float(row["generated_pvalue"]) <= 1
    assert row.keys() == next(iter(report.read("presets"))).keys()
