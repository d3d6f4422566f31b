"""Tests of the rows of several processes, against the same test of all rows in one.

The processes are spawned once for each number of them; they run every case and leave what they
found in files. Tiles are small, so that each process has some.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from divergences import (
    checkpoint,
    chunks,
    evaluation,
    goodness_of_fit_test,
    independence_test,
    two_sample_test,
)
from divergences.chunks import Batches
from divergences.command import line
from divergences.files import replacing
from divergences.k_sample import k_sample_test
from divergences.kernels import Gaussian
from divergences.kernels.reference import tiles
from divergences.kernels.statistics import permuted, quadratic_forms, stein
from divergences.kernels.statistics.sharing import Share
from divergences.results import HypothesisResult

ROOT = Path(__file__).resolve().parents[2]
Array = NDArray[Any]
Part = Callable[[Array], Array]  # all rows to those of a process
B = 49


def samples() -> tuple[Array, Array, Array]:
    g = np.random.default_rng(0)
    x, y, z = g.normal(size=(150, 3)), g.normal(size=(101, 3)) + 0.2, 1.2 * g.normal(size=(80, 3))
    x[-1], y[-2] = x[0], y[0]
    return x, y, z


def paired() -> Array:
    x = samples()[0]
    return 0.4 * x[:, :1] + np.random.default_rng(1).normal(size=(150, 1))


def strata_of(*parts: Array) -> list[str]:
    """Of the rows of x, then of y, by their first column."""
    return [f"site {int(value > 0.0)}" for part in parts for value in part[:, 0]]


def two(method: str, columns: int = 3, **options: Any) -> Callable[..., HypothesisResult]:
    def case(part: Part, **group: Any) -> HypothesisResult:
        x, y, _ = (part(s)[:, :columns] for s in samples())
        return two_sample_test(x, y, method=method, n_resamples=B, rng=3, **options, **group)  # type: ignore[arg-type]

    return case


def independent(method: str, **options: Any) -> Callable[..., HypothesisResult]:
    def case(part: Part, **group: Any) -> HypothesisResult:
        x, y = part(samples()[0]), part(paired())
        given = {"strata": strata_of(x)} if "strata" in options else {}
        return independence_test(x, y, method=method, n_resamples=B, rng=3, **given, **group)  # type: ignore[arg-type]

    return case


def fits(method: str, **options: Any) -> Callable[..., HypothesisResult]:
    def case(part: Part, **group: Any) -> HypothesisResult:
        x = part(samples()[0])
        return goodness_of_fit_test(x, method=method, n_resamples=B, rng=3, **options, **group)  # type: ignore[arg-type]

    return case


def with_strata(part: Part, **group: Any) -> HypothesisResult:
    x, y, _ = (part(s) for s in samples())
    given = strata_of(x, y)
    return two_sample_test(x, y, method="energy", n_resamples=B, rng=3, strata=given, **group)


def with_groups(part: Part, **group: Any) -> HypothesisResult:
    x, y, _ = (part(s) for s in samples())
    subjects = part(np.arange(150) // 5), 100 + part(np.arange(101) // 5)
    given = np.concatenate(subjects)
    return two_sample_test(x, y, method="mmd", n_resamples=B, rng=3, groups=given, **group)


def in_pairs(part: Part, **group: Any) -> HypothesisResult:
    x = samples()[0]
    y = part(x + 0.1 + 0.3 * np.random.default_rng(2).normal(size=x.shape))
    return two_sample_test(part(x), y, n_resamples=B, rng=3, paired=True, **group)


def k_samples(part: Part, **group: Any) -> HypothesisResult:
    given = [part(s) for s in samples()]
    return k_sample_test(*given, n_resamples=B, rng=3, strata=strata_of(*given), **group)


def without_nan(part: Part, **group: Any) -> HypothesisResult:
    x, y, _ = samples()
    x[3, 1] = y[-1, 2] = np.nan
    generator = np.random.default_rng(9)
    return two_sample_test(
        torch.from_numpy(part(x)).float(), part(y), method="energy", n_resamples=B, rng=generator,
        drop_nan=True, **group,
    )  # fmt: skip


CASES: dict[str, Callable[..., HypothesisResult]] = {
    **{m: two(m) for m in ("fuse", "fuse-original", "mmd", "energy", "mmd-block")},
    **{m: two(m) for m in ("mmd-incomplete", "mmd-fourier", "mmd-nystrom")},
    "energy of numbers": two("energy", 1),
    "a kernel": two("mmd", kernel=Gaussian(0.8)),
    "a shift of labels": two("energy", blocks="shift"),
    "strata": with_strata,
    "groups": with_groups,
    "pairs": in_pairs,
    "rows left out": without_nan,
    "k samples": k_samples,
    **{m: independent(m) for m in ("hsic-aggregated", "hsic", "dcov")},
    "hsic in strata": independent("hsic", strata=True),
    **{f"fit by {m}": fits(m) for m in ("energy", "mmd", "ksd")},
    "normality": fits("energy", estimate=True),
}


def small_tiles(patch: Callable[[Any, str, Any], object]) -> None:
    patch(quadratic_forms, "MOST_ROWS", 64)
    patch(permuted, "TILE", 64)
    patch(permuted, "LEAST_TILE", 64)
    patch(permuted, "STEP", {"cpu": 2**15})
    patch(chunks, "CHUNK", 32)
    patch(evaluation, "BATCH", 20)
    patch(stein, "tile_rows", lambda x: min(32, tiles.tile_rows(x)))


def numbers(result: HypothesisResult) -> dict[str, Any]:
    return {
        "pvalue": result.pvalue,
        "statistic": result.statistic,
        "effect": result.effect_size or 0.0,
        "null": torch.from_numpy(result.null_distribution.copy()),
        "notes": list(result.notes),
        "seed": result.seed,
    }


def message(call: Callable[[], object]) -> str:
    try:
        call()
    except (ValueError, TypeError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


@dataclass
class Frame:
    """Rows with names of their columns, as data frames have them."""

    rows: Array
    columns: list[str]

    def __array__(self, *_: Any, **__: Any) -> Array:
        return self.rows


class Broken:
    def __array__(self, *_: Any, **__: Any) -> Array:
        raise KeyError("gone")


def refusals(rank: int, size: int, group: Any, folder: str) -> dict[str, str]:
    x, y, _ = (np.array_split(s, size)[rank] for s in samples())
    last, names = rank == size - 1, ["height", "weight", "age"]
    bad, far = x.copy(), x.copy()
    bad[0, 1], far[0, 1] = (np.nan, np.inf) if last else (0.0, 0.0)

    def of(*given: Any, **options: Any) -> str:
        options = {"rng": 0, "n_resamples": 9, "group": group} | options
        return message(lambda: two_sample_test(*given, **options))

    def fit(model: Any) -> str:
        return message(lambda: goodness_of_fit_test(x, model, rng=0, n_resamples=9, group=group))

    normal = torch.distributions.MultivariateNormal(torch.full((3,), float(last)), torch.eye(3))
    width = torch.tensor(1.0 + 1e-6 * last, dtype=torch.float64)
    return {
        "broken": of(Broken() if last else x, y),
        "folder": of(x, y, checkpoint=folder),
        "some checkpoints": of(x, y, checkpoint=None if last else f"{folder}/none.npz"),
        "bandwidth": of(x, y, method="mmd", bandwidth=width),
        "kernel": of(x, y, method="mmd", kernel=Gaussian(width)),
        "resamples": of(x, y, n_resamples=np.int64(9 + last)),
        "model": fit(normal),
        "score": fit(lambda z: -z * (1.0 + last)),
        "nan": of(Frame(bad, names), Frame(y, names)),
        "infinite": of(far, y),
        "words": of([["tall"]] if last else x, y),
        "columns": of(x[:, : 3 - last], y),
        "names": of(Frame(x, names[::-1] if last else names), y),
        "method": of(x, y, method="energy" if last else "mmd"),
        "seed": of(x, y, rng=rank),
        "generator": of(x, y, rng=np.random.default_rng(rank)),
        "pairs": of(x[: 20 + last], x[:20], paired=True),
        "strata": of(x, y, strata=[0] * (len(x) + len(y) - last)),
        "some strata": of(x, y, strata=[0] * (len(x) + len(y)) if last else None),
        "matrix": of(x, y, method="mmd", kernel=np.eye(251)),
        "few": of(x[:0], y),
        "test": message(
            lambda: (
                independence_test(x, x, rng=0, group=group)
                if last
                else two_sample_test(x, x, rng=0, group=group)
            )
        ),
    }


def found(rank: int, size: int, folder: str) -> dict[str, Any]:
    world = dist.group.WORLD
    assert world is not None
    small_tiles(setattr)

    def part(rows: Array) -> Array:
        return np.array_split(rows, size)[rank]

    results: dict[str, Any] = {
        name: numbers(case(part, group=world)) for name, case in CASES.items()
    }
    x, y, _ = samples()
    one = x if rank == 0 else x[:0], part(y)  # all rows of x are those of one process
    results["uneven"] = numbers(
        two_sample_test(*one, method="energy", n_resamples=B, rng=3, group=world)
    )
    batches = Batches([*np.array_split(part(x), 3)], rows=len(part(x)))
    results["batches"] = numbers(
        two_sample_test(batches, part(y), method="energy", n_resamples=B, rng=3, group=world)
    )
    results["fresh"] = numbers(two_sample_test(part(x), part(y), n_resamples=9, group=world))
    energy = CASES["energy"](part, group=world, checkpoint=f"{folder}/test.npz")
    results["resumed"] = numbers(energy)
    results["messages"] = refusals(rank, size, world, folder)
    results["fitted"] = of_fitted_model(folder, world)
    results["messages"]["one dtensor"], results["dtensors"] = of_dtensors(size)
    return results


def of_fitted_model(folder: str, group: Any) -> tuple[float, float]:
    """p and statistic of the command's test of rows in one file, of a model of those in another."""
    files = f"{folder}/x.npy --model gaussian --fit {folder}/fit.npy"
    given = line.parser().parse_args(f"goodness-of-fit {files} --seed 1 --json".split())
    given.group = group
    with contextlib.redirect_stdout(io.StringIO()) as told:
        given.run(given)
    found = json.loads(told.getvalue())
    return found["pvalue"], found["statistic"]


def of_dtensors(size: int) -> tuple[str, dict[str, Any]]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (size,))
    x, y = (distribute_tensor(torch.from_numpy(s), mesh, [Shard(0)]) for s in samples()[:2])
    refused = message(lambda: two_sample_test(x, samples()[1], rng=3))
    return refused, numbers(two_sample_test(x, y, method="energy", n_resamples=B, rng=3))


def worker(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size
    )
    torch.save(found(rank, size, folder), f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # a thread of torch may abort the process at the interpreter's end


@pytest.fixture(
    scope="module",
    params=[2, 3, *(pytest.param(k, marks=pytest.mark.slow) for k in (4, 8))],
    ids=lambda size: f"{size} processes",
)
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    size: int = request.param
    folder = tmp_path_factory.mktemp(f"of{size}")
    begin(folder / "test.npz")
    for name, rows in (("x", samples()[0]), ("fit", samples()[2])):
        np.save(folder / f"{name}.npy", rows)
    processes.spawn(worker, size, str(folder), count=size)
    found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]
    with pytest.MonkeyPatch.context() as patch:
        small_tiles(patch.setattr)
        found[0]["fitted alone"] = of_fitted_model(str(folder), None)
    return found


def check(ranks: list[dict[str, Any]], name: str, expected: dict[str, Any]) -> None:
    first = ranks[0][name]
    assert first["pvalue"] == expected["pvalue"]
    assert first["notes"] == expected["notes"]
    spread = float(expected["null"].std())
    for number in ("statistic", "null", "effect"):
        torch.testing.assert_close(first[number], expected[number], rtol=0, atol=1e-9 * spread)
    for other in ranks[1:]:
        assert other[name]["pvalue"] == first["pvalue"]
        assert other[name]["statistic"] == first["statistic"]
        assert torch.equal(other[name]["null"], first["null"])


@functools.cache
def of_all_rows(name: str) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        small_tiles(patch.setattr)
        return numbers(CASES[name](lambda rows: rows))


@pytest.mark.parametrize("name", CASES)
def test_result_is_that_of_all_rows_on_every_process(
    name: str, results: list[dict[str, Any]]
) -> None:
    check(results, name, of_all_rows(name))


def begin(path: Path) -> None:
    """A test in one process that is interrupted once two batches of labellings are in its file."""
    written = []

    def stopping(file: Path) -> Any:
        if len(written) == 2:
            raise InterruptedError
        written.append(file)
        return replacing(file)

    with pytest.MonkeyPatch.context() as patch:
        small_tiles(patch.setattr)
        patch.setattr(checkpoint, "replacing", stopping)
        with pytest.raises(InterruptedError):
            CASES["energy"](lambda rows: rows, checkpoint=path)
    with np.load(path) as file:
        arrays = dict(file)
    arrays[f"evaluation 1 of {B + 1} labellings, batch 1, 0"] += 100.0  # to be known again
    np.savez(path, **arrays)


def test_another_number_of_processes_goes_on_from_a_checkpoint(
    results: list[dict[str, Any]],
) -> None:
    expected = of_all_rows("energy")
    saved = slice(19, 39)  # the second twenty labellings, less the observed one
    for rank in results:
        rank["resumed"]["null"][saved] -= 100.0
        rank["resumed"]["pvalue"] -= 20 / (B + 1)
    check(results, "resumed", expected | {"pvalue": pytest.approx(expected["pvalue"])})


@pytest.mark.parametrize("name", ["uneven", "dtensors", "batches"])
def test_rows_may_lie_anywhere(name: str, results: list[dict[str, Any]]) -> None:
    check(results, name, of_all_rows("energy"))


def test_models_are_fitted_to_all_rows(results: list[dict[str, Any]]) -> None:
    for rank in results:
        assert rank["fitted"] == pytest.approx(results[0]["fitted alone"], rel=1e-9)


def test_without_a_seed_all_take_one(results: list[dict[str, Any]]) -> None:
    assert len({r["fresh"]["seed"] for r in results}) == 1
    check(results, "fresh", results[0]["fresh"])


REFUSED = {
    "broken": "RuntimeError: rank LAST: KeyError: 'gone'",
    "folder": "ValueError: rank 0: checkpoint /",
    "some checkpoints": "ValueError: checkpoint must be the same on every process of the group; "
    "got a file on rank 0 and none on rank LAST",
    "bandwidth": "ValueError: bandwidth must be the same on every process of the group; got 1.0 on "
    "rank 0 and 1.000001 on rank LAST",
    "kernel": "ValueError: kernel must be the same on every process of the group",
    "resamples": "ValueError: n_resamples must be the same on every process of the group; got 9 on "
    "rank 0 and 10 on rank LAST",
    "model": "ValueError: model must be the same on every process of the group; that of rank LAST",
    "score": "ValueError: model must be the same on every process of the group; that of rank LAST",
    "one dtensor": "ValueError: rank 0: samples must all be DTensors of one mesh, or all plain",
    "nan": "ValueError: x has 1 rows of 150 with NaN or infinite entries, in column 2 ('weight')",
    "infinite": "ValueError: rank LAST: x has 1 rows of SHARD with infinite entries, in column 2",
    "words": "TypeError: rank LAST: x cannot be converted to a tensor",
    "columns": "ValueError: the number of columns of x must be the same on every process of the "
    "group; got 3 on rank 0 and 2 on rank LAST",
    "names": "ValueError: the columns of x must be the same on every process",
    "method": "ValueError: method must be the same on every process of the group; got 'mmd' on "
    "rank 0 and 'energy' on rank LAST",
    "seed": "ValueError: rng must be the same on every process of the group; got seed 0 on rank 0 "
    "and seed 1 on rank 1",
    "generator": "ValueError: rng must be the same on every process of the group; got a Generator",
    "pairs": "ValueError: rank LAST: rows belong together and must be as many in all samples; got "
    "[21, 20]",
    "strata": "ValueError: rank LAST: strata must hold a label for each of the",
    "some strata": "ValueError: the labels given must be the same on every process",
    "matrix": "ValueError: rank 0: a kernel matrix or function with group= is not available",
    "few": "ValueError: x is empty (shape [0, 3]); a test needs at least two rows",
    "test": "ValueError: the test must be the same on every process of the group; got "
    "two_sample_test on rank 0 and independence_test on rank LAST",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_fault_of_one_process_is_the_same_error_on_all(
    name: str, results: list[dict[str, Any]]
) -> None:
    told = {r["messages"][name] for r in results}
    shard = len(np.array_split(samples()[0], len(results))[-1])
    expected = REFUSED[name].replace("LAST", str(len(results) - 1)).replace("SHARD", str(shard))
    assert len(told) == 1
    assert told.pop().startswith(expected)


def dies(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    x, y, _ = samples()
    if rank == 1:
        patched = quadratic_forms.QuadraticForms.__call__

        def fails(*arguments: Any) -> Any:
            patched(*arguments)
            os._exit(7)

        quadratic_forms.QuadraticForms.__call__ = fails  # type: ignore[method-assign]
    start = time.monotonic()
    try:
        two_sample_test(x, y, rng=0, n_resamples=B, group=dist.group.WORLD)
    except RuntimeError as error:
        Path(folder, "told").write_text(f"{time.monotonic() - start} {type(error).__name__}")
    os._exit(0)


def test_a_process_that_dies_is_an_error_on_the_others(tmp_path: Path) -> None:
    started = processes.spawn(dies, str(tmp_path), count=2, join=False)
    for process in started.processes:
        process.join(60.0)
    seconds, name = (tmp_path / "told").read_text().split()
    assert float(seconds) < 30.0
    assert name == "RuntimeError"


def test_every_piece_of_work_is_done_once() -> None:
    shares = [Share(rank, 3) for rank in range(3)]
    done = [[*s.of(range(10))] for s in shares]
    assert sorted(itertools.chain(*done)) == [*range(10)]
    assert [s.count(10) for s in shares] == [len(d) for d in done]
    assert [*itertools.chain(*(range(10)[s.span(10)] for s in shares))] == [*range(10)]


def of_command(folder: Path, *arguments: str, count: int) -> subprocess.CompletedProcess[str]:
    started = [sys.executable, "-m"]
    if count > 1:
        started += ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
    return subprocess.run(
        [*started, "divergences", "two-sample", "--seed=1", "--n-resamples=99", *arguments],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_command_reads_parts_of_files_and_reports_once(tmp_path: Path) -> None:
    x, y, _ = samples()
    y[7, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    np.savetxt(tmp_path / "y.csv", y, delimiter=",")
    np.savetxt(tmp_path / "sites.txt", [f"s{k % 3}" for k in range(251)], fmt="%s")
    given = ("x.npy", "y.csv", "--method=energy", "--drop-nan", "--strata=sites.txt")
    alone, shared = (of_command(tmp_path, *given, count=count) for count in (1, 2))
    assert alone.stdout.startswith("energy: two-sample test")
    note = (
        "  note: left out 1 of 101 rows of y, which have NaN\n"  # a line on stderr of one process
    )
    assert shared.stdout.replace(note, "") == alone.stdout
    refused = of_command(tmp_path, "x.npy", "z.csv", count=2)
    assert refused.returncode != 0
    assert refused.stderr.count("divergences two-sample: z.csv does not exist") == 1
    assert "ValueError" not in refused.stderr
