"""The command line: what the library finds, exit statuses, and one line for each mistake."""

from __future__ import annotations

import csv
import functools
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from divergences import chunks, two_sample
from divergences.command import running, tables
from divergences.command.line import main, parser
from divergences.conditional import conditional_independence_test
from divergences.goodness_of_fit import goodness_of_fit_test
from divergences.independence import independence_test
from divergences.k_sample import k_sample_test
from divergences.power import PowerRow
from divergences.relative import relative_test
from divergences.two_sample import two_sample_test

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 2)), RNG.normal(size=(30, 2)) + 1.0


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.savetxt("y.csv", Y, delimiter=",")
    np.savetxt("named.csv", X, delimiter=",", header="a,b", comments="")


class Outcome:
    """What a command printed and returned."""

    def __init__(self, capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> None:
        try:
            self.status = main(arguments)
        except SystemExit as stop:  # argparse
            self.status = int(stop.code or 0)
        self.out, self.err = capsys.readouterr()

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    def refuses(self, message: str) -> None:
        """Status 2, nothing on stdout, one line on stderr that holds the message."""
        assert (self.status, self.out) == (2, "")
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("divergences")
        assert message in self.err


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda line: Outcome(capsys, line.split())


def instead(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """The two-sample test raises this."""

    @functools.wraps(two_sample_test)
    def raising(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(two_sample, "two_sample_test", raising)


# --- Results -------------------------------------------------------------------------------------


def test_two_sample_prints_the_result_of_the_library(cli: Any) -> None:
    found = cli("two-sample x.npy y.csv --method energy --seed 3")
    expected = two_sample_test(X, Y, method="energy", rng=3)
    assert found.status == 0
    report, _, verdict = found.out.partition("\n\n")
    assert report == str(expected)
    assert verdict == (
        f"x.npy and y.csv differ: p = {expected.pvalue:.4g} is at most 0.05. Effect size "
        f"{expected.effect_size:.3g}, where 0 is none and 1 the most possible.\n"
    )
    assert found.err == ""


@pytest.fixture
def large_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """x.npy is one, of several chunks; whatever is read whole raises."""
    monkeypatch.setattr(tables, "LARGE", 500)
    monkeypatch.setattr(chunks, "CHUNK", 16)
    read = tables.read_table

    def of_small(file: str, **options: Any) -> Any:
        assert file != "x.npy"
        return read(file, **options)

    monkeypatch.setattr(running, "read_table", of_small)


@pytest.mark.usefixtures("large_files")
@pytest.mark.parametrize(
    ("options", "positions"),
    [
        ("--method mmd-fourier", [0, 1]),
        ("--method mmd-nystrom --columns 2,1", [1, 0]),
        ("--method energy --columns 2", [1]),
    ],
)
def test_large_files_are_read_in_chunks(cli: Any, options: str, positions: list[int]) -> None:
    found = cli(f"two-sample x.npy y.csv {options} --seed 3 --n-resamples 99")
    x, y = X[:, positions], Y[:, positions]
    expected = two_sample_test(x, y, method=options.split()[1], rng=3, n_resamples=99)  # type: ignore[arg-type]
    assert found.out.partition("\n\n")[0] == str(expected)
    assert (found.status, found.err) == (0, "")


@pytest.mark.usefixtures("large_files")
def test_mistakes_in_large_files(cli: Any) -> None:
    np.save("x.npy", np.where(np.arange(80).reshape(40, 2) == 61, np.nan, 1.0))
    cli("two-sample x.npy y.csv --method mmd-fourier").refuses(
        "x[16:32] has 1 rows of 16 with NaN or infinite entries, in column 2"
    )
    cli("two-sample x.npy y.csv --method mmd-fourier --columns 3").refuses(
        "x.npy has no column '3'"
    )
    np.save("x.npy", np.full((40, 2), "a" * 9))
    cli("two-sample x.npy y.csv --method mmd-fourier").refuses("x.npy, column 1 has dtype <U9, not")
    np.save("x.npy", np.full((400, 2), None), allow_pickle=True)
    cli("two-sample x.npy y.csv --method mmd-fourier").refuses("objects are not unpickled")


@pytest.mark.parametrize(
    "options",
    ["--method fuse", "--method energy", "--method mmd-fourier --drop-nan", "--blocks 4"],
)
def test_what_needs_large_files_in_memory_says_so(
    cli: Any, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"two-sample x.npy y.csv {options} --seed 3 --n-resamples 19"
    expected = cli(line)
    monkeypatch.setattr(tables, "LARGE", 500)
    found = cli(line)
    assert (found.status, found.out) == (0, expected.out)
    assert found.err.startswith("divergences two-sample: reading x.npy into memory; --method mmd-")
    assert expected.err == ""


def test_options_reach_the_library(cli: Any) -> None:
    found = cli(
        "two-sample x.npy y.csv --method mmd --kernel laplace --bandwidth 0.5,2 --n-resamples 50 "
        "--seed 1 --json --no-progress"
    )
    expected = two_sample_test(
        X, Y, method="mmd", kernel="laplace", bandwidth=[0.5, 2.0], n_resamples=50, rng=1
    )
    assert {k: found.json[k] for k in ("statistic", "pvalue", "n_resamples", "seed")} == {
        k: getattr(expected, k) for k in ("statistic", "pvalue", "n_resamples", "seed")
    }
    assert [row["bandwidth"] for row in found.json["kernels"]] == [0.5, 2.0]
    assert found.json["test"] == "two-sample"
    assert found.json["files"] == ["x.npy", "y.csv"]
    assert "null_distribution" not in found.json


def test_the_other_tests(cli: Any) -> None:
    found = cli(
        "independence named.csv --x-columns a --y-columns b --method dcov --n-resamples 49 "
        "--seed 0 --json"
    )
    dcov = independence_test(X[:, :1], X[:, 1:], method="dcov", n_resamples=49, rng=0)
    assert found.json["pvalue"] == dcov.pvalue
    np.save("x2.npy", X**2)
    found = cli(
        "independence named.csv x2.npy --method hsic --bandwidth-x 1 --n-resamples 49 --seed 0 "
        "--json"
    )
    expected = independence_test(X, X**2, method="hsic", bandwidth_x=1.0, n_resamples=49, rng=0)
    assert found.json["statistic"] == expected.statistic
    assert found.json["verdict"].startswith("x and y depend on each other: p = 0.02")
    found = cli(
        "conditional-independence named.csv x2.npy x.npy --x-columns a --n-resamples 49 --seed 0 "
        "--json"
    )
    given = conditional_independence_test(X[:, :1], X**2, X, n_resamples=49, rng=0)
    assert found.json["pvalue"] == given.pvalue and found.json["dz"] == 2
    assert found.json["files"] == ["named.csv", "x2.npy", "x.npy"]
    found = cli("goodness-of-fit y.csv --model normal --seed 0 --n-resamples 99 --json")
    assert found.json["pvalue"] == goodness_of_fit_test(Y, n_resamples=99, rng=0).pvalue == 0.01
    assert found.json["verdict"].startswith("y.csv does not follow N(0, I)")
    found = cli("goodness-of-fit y.csv --estimate --seed 0 --n-resamples 99 --json")
    expected_fit = goodness_of_fit_test(Y, estimate=True, n_resamples=99, rng=0)
    assert found.json["pvalue"] == expected_fit.pvalue
    found = cli("k-sample x.npy y.csv x.npy --n-resamples 99 --seed 0 --json")
    assert found.json["pvalue"] == k_sample_test(X, Y, X, n_resamples=99, rng=0).pvalue
    assert "0 x.npy, 1 y.csv, 2 x.npy" in found.json["verdict"]


@pytest.mark.parametrize("swap", [False, True])
def test_relative(cli: Any, swap: bool) -> None:
    """x is the first model's, whichever place that has."""
    np.save("data.npy", np.random.default_rng(1).normal(size=(60, 2)))
    files = ["y.csv", "x.npy"] if swap else ["x.npy", "y.csv"]
    samples = [np.load("data.npy"), *([Y, X] if swap else [X, Y])]
    found = cli(f"relative data.npy {files[0]} {files[1]} --kernel energy --json")
    expected = relative_test(*samples, kernel="energy")
    assert (found.status, found.err) == (0, "")
    assert found.json["statistic"] == expected.statistic
    assert found.json["closer"] == "pq"[swap]
    assert found.json["verdict"].startswith("x.npy is closer to data.npy than y.csv: p = ")
    line = f"relative data.npy {files[0]} {files[1]} --alternative {'pq'[not swap]}-closer"
    found = cli(f"{line} --fail-below 0.01")
    assert found.status == 0  # the wrong side
    report, _, verdict = found.out.partition("\n\n")
    assert report == str(
        relative_test(*samples, alternative="p-closer" if swap else "q-closer", alpha=0.01)
    )
    assert "were not found to differ in closeness to data.npy" in verdict


MODELS = """
import torch
from torch.distributions import Independent, Normal
near = Independent(Normal(torch.ones(2), torch.ones(2)), 1)
def score(x):
    return -x
"""


def test_models_in_place_of_samples(cli: Any) -> None:
    """Families fitted to a file, a distribution and a score from a Python module."""
    Path("cli_models.py").write_text(MODELS)
    rows = np.random.default_rng(2).normal(size=(50, 2)) + 1.0
    np.save("fit.npy", rows)
    fitted = MultivariateNormal(torch.tensor(rows.mean(0)), torch.tensor(np.cov(rows.T, ddof=0)))
    near = Independent(Normal(torch.ones(2), torch.ones(2)), 1)

    found = cli("relative y.csv --model gaussian --model normal --fit fit.npy --json")
    expected = relative_test(Y, fitted, lambda x: -x, method="ksd")
    assert (found.status, found.err) == (0, "")
    assert found.json["statistic"] == pytest.approx(expected.statistic, rel=1e-12)
    assert found.json["verdict"].startswith("gaussian is closer to y.csv than normal: p = ")
    found = cli("relative y.csv --model cli_models:score --model cli_models:near --json")
    expected = relative_test(Y, "normal", near, method="ksd")
    assert found.json["statistic"] == pytest.approx(expected.statistic, rel=1e-12)
    assert found.json["verdict"].startswith("cli_models:near is closer to y.csv than cli_models:s")

    options = "--n-resamples 49 --seed 0 --json"
    found = cli(f"goodness-of-fit y.csv --model gaussian --fit fit.npy {options}")
    exact = goodness_of_fit_test(Y, fitted, n_resamples=49, rng=0)
    assert found.json["method"] == "energy"
    assert found.json["statistic"] == pytest.approx(exact.statistic, rel=1e-12)
    found = cli(f"goodness-of-fit y.csv --model cli_models:score {options}")
    assert found.json["verdict"].startswith("y.csv does not follow cli_models:score: p = 0.02")


def test_a_model_that_prints_or_exits(cli: Any) -> None:
    """stdout and the exit status are those of the command alone."""
    Path("cli_talks.py").write_text(
        "print('read')\ndef score(x):\n    print('asked')\n    return -x\n"
    )
    found = cli("goodness-of-fit y.csv --model cli_talks:score --seed 0 --n-resamples 9 --json")
    assert found.status == 0 and found.json["method"] == "ksd"
    assert found.err.startswith("read\nasked\n")
    found = cli("relative y.csv --model normal --model cli_talks:score --json")
    assert found.status == 0 and found.json["statistic"] == 0.0
    Path("cli_exits.py").write_text("raise SystemExit(1)\n")
    found = cli("goodness-of-fit y.csv --model cli_exits:score --fail-below 0.05")
    assert found.status == 2 and "cli_exits ends the program when it is imported" in found.err


def test_a_mixture_is_fitted_to_its_file(cli: Any) -> None:
    """Two far Gaussians: the maximum of the likelihood is at the moments of the halves; EM adds
    1e-6 to variances."""
    rng = np.random.default_rng(0)
    centre = np.where(np.arange(200) < 100, -8.0, 8.0)[:, None]
    fit, x = (centre + rng.normal(size=(200, 1)) for _ in range(2))
    np.save("fit.npy", fit)
    np.save("x.npy", x)
    halves = torch.from_numpy(fit).view(2, 100, 1)
    means, variances = halves.mean(1), halves.var(1, False).unsqueeze(-1)
    two = MixtureSameFamily(Categorical(torch.ones(2)), MultivariateNormal(means, variances))
    found = cli("relative x.npy --model gaussian --model gaussian:2 --fit fit.npy --json")
    one = Normal(float(fit.mean()), float(fit.std()))
    expected = relative_test(x, one, two, method="ksd")
    assert found.json["statistic"] == pytest.approx(expected.statistic, rel=1e-4)


def test_methods_and_defaults_are_those_of_the_library() -> None:
    default = inspect.signature(two_sample_test).parameters["method"].default
    assert parser().parse_args(["two-sample", "x", "y"]).method == default
    for method in get_args(two_sample.Method):
        arguments = parser().parse_args(["two-sample", "x", "y", "--method", method])
        assert arguments.method == method


def test_strata_from_a_column_and_from_a_file(cli: Any) -> None:
    sites = np.array(["n", "s"])[np.random.default_rng(1).integers(0, 2, 70)]
    for name, sample, labels in (("a.csv", X, sites[:40]), ("b.csv", Y, sites[40:])):
        rows = [f"{a!r},{site},{b!r}" for (a, b), site in zip(sample.tolist(), labels, strict=True)]
        Path(name).write_text("\n".join(["u,site,v", *rows]))
    Path("sites.txt").write_text("\n".join(sites))
    expected = two_sample_test(X, Y, method="energy", n_resamples=99, strata=sites, rng=0)
    for files in ("a.csv b.csv --strata site", "x.npy y.csv --strata sites.txt"):
        found = cli(f"two-sample {files} --method energy --n-resamples 99 --seed 0 --json")
        assert found.json["statistic"] == pytest.approx(expected.statistic, rel=1e-9)
        assert found.json["pvalue"] == expected.pvalue
    found = cli(
        "independence a.csv --x-columns u --y-columns v --strata site --seed 0 --json "
        "--method dcov --n-resamples 19"
    )
    expected_dcov = independence_test(
        X[:, 0], X[:, 1], method="dcov", n_resamples=19, strata=sites[:40], rng=0
    )
    assert found.json["pvalue"] == expected_dcov.pvalue
    cli("two-sample a.csv b.csv --strata sits").refuses("no column 'sits'; did you mean site?")
    cli("two-sample x.npy x.npy --strata sites.txt").refuses("; the samples have 80 rows")


def test_designs(cli: Any) -> None:
    np.save("y40.npy", X[::-1] + 0.2)
    found = cli("two-sample x.npy y40.npy --paired --method energy --seed 0 --json")
    expected = two_sample_test(X, X[::-1] + 0.2, paired=True, method="energy", rng=0)
    assert (found.json["pvalue"], found.json["design"]) == (expected.pvalue, "paired")
    groups = np.arange(70) // 4
    groups[36:40] = 8
    groups += 10  # labels are compared as text
    np.save("groups.npy", groups)
    expected = two_sample_test(X, Y, groups=groups, method="energy", rng=0)
    found = cli("two-sample x.npy y.csv --groups groups.npy --method energy --seed 0 --json")
    assert found.json["pvalue"] == expected.pvalue
    found = cli("k-sample x.npy y.csv --strata groups.npy --seed 0 --n-resamples 9 --json")
    assert found.json["pvalue"] == k_sample_test(X, Y, strata=groups, n_resamples=9, rng=0).pvalue
    found = cli("two-sample x.npy y.csv --scale none --method energy --seed 0 --json")
    assert found.json["scale"] is None
    found = cli("two-sample x.npy y.csv --blocks 10 --method energy --seed 0 --json")
    expected = two_sample_test(X, Y, blocks=10, method="energy", rng=0)
    assert (found.json["pvalue"], found.json["design"]) == (expected.pvalue, "blocks of 10 rows")
    cli("two-sample x.npy y.csv --blocks day").refuses("'day' is no number of rows and not shift")
    cli("two-sample x.npy y.csv --paired").refuses("the rows are pairs: x.npy has 40, y.csv 30")
    both = "--paired --groups groups.npy"
    cli(f"two-sample x.npy y.csv {both}").refuses("--paired and --groups do not go together")


def test_drop_nan(cli: Any) -> None:
    holes = X.copy()
    holes[[3, 5], [0, 1]] = np.nan
    np.save("holes.npy", holes)
    cli("two-sample holes.npy y.csv").refuses(
        "holes.npy: 2 of 40 rows (the first is row 4) with NaN or empty cells; --drop-nan"
    )
    found = cli("two-sample holes.npy y.csv --drop-nan --method energy --seed 0 --json")
    kept = np.delete(X, [3, 5], 0)
    assert found.json["statistic"] == two_sample_test(kept, Y, method="energy", rng=0).statistic
    assert found.err == (
        "divergences two-sample: left out 2 of 40 rows of holes.npy, which have missing cells\n"
    )
    np.save("square.npy", X**2)
    found = cli("independence holes.npy square.npy --drop-nan --method dcov --seed 0 --json")
    assert found.json["n"] == 38
    assert found.json["pvalue"] == independence_test(kept, kept**2, method="dcov", rng=0).pvalue
    strata = np.random.default_rng(1).integers(0, 2, 70)
    np.save("strata.npy", strata)
    np.save("near.npy", Y - 0.6)  # so that p is not the smallest possible
    found = cli(
        "two-sample holes.npy near.npy --drop-nan --strata strata.npy --method energy --seed 0 "
        "--json"
    )
    strata = np.delete(strata, [3, 5])
    assert (
        found.json["pvalue"]
        == two_sample_test(kept, Y - 0.6, method="energy", strata=strata, rng=0).pvalue
    )
    np.save("empty.npy", np.full((3, 2), np.nan))
    cli("two-sample empty.npy y.csv --drop-nan").refuses("every row has missing cells")


def test_json_is_all_there_is_on_stdout(cli: Any) -> None:
    """Progress and warnings go to stderr, one line for a warning."""
    np.save("zeros.npy", np.zeros((30, 1)))
    found = cli("two-sample zeros.npy zeros.npy --method energy --json --seed 0")
    assert found.json["pvalue"] == 1.0
    assert found.status == 0
    assert found.err == ("divergences two-sample: warning: all rows of x and y are equal: p = 1\n")


@pytest.mark.parametrize(
    ("pair", "alpha", "status"),
    [("x.npy y.csv", 0.05, 1), ("x.npy y.csv", 0.0005, 0), ("x.npy x.npy", 0.05, 0)],
)
def test_fail_below(cli: Any, pair: str, alpha: float, status: int) -> None:
    """0.001 is the smallest p of 999 permutations."""
    line = f"two-sample {pair} --method energy --seed 0"
    assert cli(f"{line} --fail-below {alpha}").status == status
    assert cli(line).status == 0


def test_p_equal_to_the_level_is_found(cli: Any) -> None:
    """19 permutations: the smallest p is 1/20."""
    found = cli("two-sample x.npy y.csv --method energy --n-resamples 19 --seed 0 --fail-below .05")
    assert found.status == 1
    assert "x.npy and y.csv differ: p = 0.05 is at most 0.05." in found.out
    found = cli("two-sample x.npy y.csv --method energy --n-resamples 9 --seed 0")
    assert "were not found to differ: p = 0.1 is above 0.05." in found.out


# --- Figures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "start"), [("f.png", b"\x89PNG"), ("f.pdf", b"%PDF")])
def test_plot(cli: Any, name: str, start: bytes) -> None:
    found = cli(f"two-sample x.npy y.csv --n-resamples 20 --seed 0 --json --plot {name}")
    assert found.json["n"] == 40
    assert found.err == f"divergences two-sample: wrote {name}\n"
    assert Path(name).read_bytes().startswith(start)
    assert not list(Path().glob(f".{name}*"))


def test_a_plot_that_cannot_be_written_is_refused_at_once(
    cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead(monkeypatch, AssertionError("it ran"))
    cli("two-sample x.npy y.csv --plot f.xyz").refuses("cannot draw f.xyz: its suffix is none of")
    cli("two-sample x.npy y.csv --plot no/f.png").refuses("there is no folder no")
    for name in [m for m in sys.modules if m.startswith("divergences.plots")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    cli("two-sample x.npy y.csv --plot f.png").refuses('pip install "divergences[plot]"')


def test_an_interrupted_plot_leaves_the_old_one(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("f.png").write_bytes(b"old")

    def interrupted(_: Any, file: Any, **__: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", interrupted)
    found = cli("two-sample x.npy y.csv --n-resamples 9 --plot f.png")
    assert (found.status, found.err) == (130, "divergences two-sample: interrupted\n")
    assert Path("f.png").read_bytes() == b"old"
    assert not list(Path().glob(".f.png*"))


# --- Mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "required: COMMAND"),
        ("two-samples", "invalid choice: 'two-samples'"),
        ("two-sample x.npy", "required: y"),
        ("two-sample x.npy y.csv --method fusee", "invalid choice: 'fusee'"),
        ("two-sample x.npy y.csv --frob", "unrecognized arguments: --frob"),
        ("two-sample x.npy y.csv --fail-below 5", "'5' is no level between 0 and 1"),
        ("two-sample x.npy y.csv --fail-below low", "'low' is no level between 0 and 1"),
        ("two-sample x.npy y.csv --columns a,,b", "'a,,b' is no list of columns"),
        ("two-sample z.npy y.csv", "z.npy does not exist; did you mean x.npy"),
        ("two-sample x.npy y.csv --columns 3", "x.npy has no column '3' (it has columns 1 to 2)"),
        (
            "two-sample named.csv y.csv --columns c",
            "has no column 'c' (it has columns 1 to 2: a, b)",
        ),
        ("two-sample named.csv swapped.csv", "the columns differ: named.csv has a, b; swapped.csv"),
        ("two-sample x.npy wide.npy", "x and y must share d"),
        ("two-sample x.npy y.csv --kernel laplace", "use method='mmd' with a kernel"),
        ("two-sample x.npy y.csv --method mmd --kernel tophat", "unknown kernel 'tophat'; known"),
        ("two-sample x.npy y.csv --method mmd --bandwidth -1", "bandwidth must be positive"),
        ("two-sample x.npy y.csv --n-resamples 0", "n_resamples must be a positive integer"),
        ("two-sample x.npy y.csv --seed -1", "a seed must not be negative"),
        ("independence x.npy y.csv", "the rows are pairs: x.npy has 40, y.csv 30"),
        ("independence x.npy", "give --x-columns and --y-columns"),
        ("independence named.csv --x-columns a --y-columns a,b", "share the columns a of named"),
        ("conditional-independence x.npy y.csv", "give a file each of x, y and z, or one of all"),
        (
            "conditional-independence named.csv --x-columns a --y-columns b --z-columns b",
            "y and z share the columns b of named",
        ),
        ("goodness-of-fit x.npy --model cauchy", "unknown model 'cauchy'; known are normal, gauss"),
        ("goodness-of-fit x.npy --model json:frob", "json/__init__.py has no frob"),
        ("goodness-of-fit x.npy --model no_module:f", "No module named 'no_module'; MODULE is a n"),
        ("goodness-of-fit x.npy --model json.py:f", "as Python imports it, models for models.py"),
        ("goodness-of-fit x.npy --model gaussian", "fitted to other rows than x: give them by --f"),
        ("goodness-of-fit x.npy --fit y.csv", "--fit goes with --model gaussian or gaussian:K"),
        ("goodness-of-fit x.npy --model gaussian:15 --fit y.csv", "1 ≤ K < n/d, got 30 rows of 2"),
        ("goodness-of-fit x.npy --model gaussian --fit line.npy", "one is a sum of others"),
        ("relative x.npy y.csv", "give two files of samples after x, or --model twice and no"),
        ("relative x.npy y.csv --model normal --model normal", "or --model twice and no samples"),
        ("relative x.npy y.csv y.csv --fit y.csv", "--fit goes with --model gaussian"),
        ("k-sample x.npy", "at least two samples are needed; got 1"),
        ("benchmark-power --scales 2", "scale must be in [0, 1]"),
        ("benchmark-power --out no/a.csv", "cannot write no/a.csv: there is no folder no"),
        ("two-sample x.npy x.npy --strata gaps.csv", "gaps.csv: 2 of 80 rows have no label; give"),
        ("benchmark-power --repetitions 0", "repetitions is too small; got 0"),
    ],
)
def test_mistakes_take_one_line(cli: Any, line: str, message: str) -> None:
    Path("swapped.csv").write_text("b,a\n1,2\n3,4\n")
    np.save("wide.npy", np.zeros((5, 3)))
    np.save("line.npy", np.repeat(X[:, :1], 2, axis=1))
    Path("gaps.csv").write_text("\n".join(["site", *["b"] * 78, "NA", '""']))
    cli(line).refuses(message)


def test_a_bug_is_not_a_verdict(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would exit with 1, which means p ≤ ALPHA here."""

    instead(monkeypatch, AttributeError("a mistake of ours"))
    found = cli("two-sample x.npy y.csv --fail-below 0.05")
    assert found.status == 2
    assert found.out == ""
    assert "Traceback" in found.err
    assert "a mistake of ours" in found.err


def test_interrupt(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    instead(monkeypatch, KeyboardInterrupt())
    found = cli("two-sample x.npy y.csv")
    assert (found.status, found.out) == (130, "")
    assert found.err == "divergences two-sample: interrupted\n"


# --- The power benchmark, and the command as installed -------------------------------------------


def test_benchmark_power(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second row keeps the first, in the table and in the file."""
    line = "benchmark-power --methods energy --scales 0 1 --repetitions 2 --n-resamples 19 --seed 0"
    found = cli(f"{line} --out power.csv --json")
    assert found.status == 0
    rows = found.json["rows"]
    assert [(row["method"], row["scale"]) for row in rows] == [("energy", 0.0), ("energy", 1.0)]
    with open("power.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [float(row["power"]) for row in written] == [row["power"] for row in rows]
    table = cli(line).out.splitlines()
    assert len(table) == 3
    assert f"{rows[1]['power']:.3f}" in table[2]

    def stopped(**_: Any) -> Any:
        yield PowerRow("energy", 0.0, 0.5, 0.1, 2, None)
        raise KeyboardInterrupt

    monkeypatch.setattr("divergences.command.running.power_rows", stopped)
    Path("power.csv").unlink()
    found = cli(f"{line} --out power.csv")
    assert found.status == 130
    assert found.err == "divergences benchmark-power: interrupted\n"
    assert len(Path("power.csv").read_text().splitlines()) == 2
    assert len(found.out.splitlines()) == 2


def test_entry_point() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    found = re.search(r'^divergences = "(.*):(.*)"$', text, re.MULTILINE)
    assert found is not None
    module, name = found.groups()
    assert getattr(importlib.import_module(module), name) is main


def test_as_a_process() -> None:
    command = [sys.executable, "-W", "error", "-m", "divergences"]
    line = ["two-sample", "x.npy", "y.csv", "--method", "energy", "--seed", "0"]
    done = subprocess.run(
        [*command, *line, "--fail-below", "0.05"],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "p-value      0.001\n" in done.stdout
    assert "(null: " in done.stdout
    assert " ? " in done.stdout  # ±, which this terminal does not have
