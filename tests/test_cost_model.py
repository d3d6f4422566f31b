"""The cost model of the GPU kernels: what it counts, and that the generated code got no worse."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # bench is not installed

from bench import cost_model, launches  # noqa: E402
from bench import generated_code as code  # noqa: E402
from bench.code_baseline import Row, baseline, regressions  # noqa: E402
from bench.cost_model import code_seconds, queued, times, verdict  # noqa: E402
from bench.launches import GPU, H200, unit_seconds  # noqa: E402
from bench.offline import Launch  # noqa: E402
from divergences.kernels.triton_configs import ARCHITECTURES, Config  # noqa: E402

N = 32768


def named(works: list[launches.Work], name: str) -> launches.Work:
    (found,) = (work for work in works if work.name == name)
    return found


@pytest.mark.parametrize(
    ("tiles", "pairs"), [(1, 1), (2, 3), (3, 6), (4, 10), (255, 32640), (256, 32896)]
)
def test_a_triangle_has_every_unordered_pair_once(tiles: int, pairs: int) -> None:
    assert launches.triangle(tiles) == pairs


def test_visits_of_values_by_hand() -> None:
    """300 rows are three tiles of 128, 129 are two; a tile has two halves of 64 columns."""
    given = {"BM": 128, "BN": 64, "n": 300, "m": 129, "programs": 9}
    assert launches.value_visits({**given, "programs_xx": 3, "programs_yy": 3}) == 2 * (6 + 3 + 6)
    assert launches.value_visits({**given, "programs_xx": 0, "programs_yy": 9}) == 2 * 3


def test_visits_of_gradients_by_hand() -> None:
    """Rows of x, three tiles, meet five tiles of columns of x and three of y."""
    given = {"BM": 128, "BN": 64, "n": 300, "m": 129, "tiles_x": 3, "tiles_y": 0}
    splits = {"splits_xx": 2, "splits_xy": 1, "splits_yx": 0, "splits_yy": 0}
    assert launches.gradient_visits({**given, **splits}) == 3 * (5 + 3)


def visited(n: int, bm: int, bn: int, first_row: int, tiles: int, first_column: int, across: int):
    given = {"n": n, "BM": bm, "BN": bn, "first_row": first_row, "tiles": tiles,
             "first_column": first_column, "chunk": across, "chunks": 1}  # fmt: skip
    return launches.panel_visits(given)


@pytest.mark.parametrize(
    ("first_row", "first_column", "across"), [(0, 0, 10), (256, 256, 6), (128, 384, 4), (0, 0, 13)]
)
def test_visits_of_panels_by_listing_pairs(first_row: int, first_column: int, across: int) -> None:
    """A tile is visited if it holds a pair i < j < n, or touches the diagonal."""
    n, bm, bn, tiles = 600, 128, 64, 2
    expected = 0
    for tile in range(tiles):
        for t in range(across):
            last = min(first_column + (t + 1) * bn, n) - 1
            begins_in_range = first_column + t * bn < n
            expected += begins_in_range and last // bn >= (first_row + tile * bm) // bn
    assert visited(n, bm, bn, first_row, tiles, first_column, across) == expected


def test_the_work_of_values_by_hand() -> None:
    """2n² pairs, three products of 2·64 flop; an exponential of each per bandwidth, but two of five
    that double are fourth powers."""
    pairs = 2 * N**2
    for bandwidths, exponentials in ((1, 1), (5, 3)):
        work = named(launches.loss(90, 132, N, 64, bandwidths), "value_kernel")
        assert work.tensor == pytest.approx(3 * 2 * 64 * pairs, rel=0.005)
        assert work.special == pytest.approx(exponentials * pairs, rel=0.005)


def test_the_difference_form_uses_no_tensor_core() -> None:
    works = launches.loss(90, 132, N, 2, 1, gradient=True)
    assert sum(work.tensor for work in works) == 0
    # half of yy; x meets all of x and y, and the gradient takes as many operations again
    assert sum(work.fma for work in works) == pytest.approx(2 * 2 * (0.5 + 4) * N**2, rel=0.005)


def test_the_work_of_labels_by_hand() -> None:
    """A triangle of pairs, and all of its entries with every label vector: at least N²·B flop."""
    n, count = 8192, 1024
    works = launches.labels(90, 132, n, 64, {"gaussian": 1}, count)
    panels = [work for work in works if work.name == "panel_kernel"]
    products = [work for work in works if work.name == "product"]
    assert sum(p.tensor for p in panels) == pytest.approx(3 * 2 * 64 * n**2 / 2, rel=0.03)
    assert n**2 * count <= sum(p.tensor for p in products) <= 1.3 * n**2 * count
    stored = n**2 // 2 * 2  # fp16
    assert stored <= sum(p.bytes for p in products)


def test_memory_counts_what_is_shared_once() -> None:
    """Points in fp32 and as halves, twice 256 bytes a row, twice; norms and sums are small."""
    found = launches.memory(launches.loss(90, 132, N, 64))
    assert 4 * 256 * N <= found <= 4 * 256 * N + 2**20


def test_the_floors_of_the_design() -> None:
    """Value and gradient of x, n=m=32768, D=64, one H200 at 790 TFLOP/s: 2.35 ms and 0.64 ms."""
    total: Counter[str] = Counter()
    for work in launches.loss(90, 132, N, 64, 1, gradient=True):
        total.update(unit_seconds(work, H200))
    assert 1e3 * total["tensor"] == pytest.approx(2.35, rel=0.01)
    assert 1e3 * total["exp2"] == pytest.approx(0.64, rel=0.01)


def test_the_peak_rates_measured_for_the_design() -> None:
    """4.2e12 exponentials and 3.3e13 fp32 operations a second on an H200."""
    work = launches.Work("", None, special=4.2e12, fma=3.3e13)
    units = unit_seconds(work, H200)
    assert units["exp2"] == pytest.approx(1.0, rel=0.02)
    assert units["fma"] == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    ("arch", "registers", "warps", "shared", "blocks"),
    [
        (90, 128, 8, 64 * 1024, 2),  # registers: 64 Ki of 8·32·128
        (90, 129, 8, 64 * 1024, 1),  # which are handed out eight to a thread at a time
        (90, 254, 8, 96 * 1024, 1),
        (90, 32, 4, 0, 16),  # threads: 2048 of 128
        (90, 32, 1, 0, 32),  # blocks
        (90, 64, 4, 75 * 1024, 3),  # shared memory: 228 of 76 KiB
        (90, 64, 4, 76 * 1024, 2),
        (89, 32, 4, 0, 12),  # threads: 1536 of 128
        (89, 64, 4, 49 * 1024, 2),
        (80, 72, 4, 128, 7),  # 28 warps of 72 registers
    ],
)
def test_occupancy(arch: int, registers: int, warps: int, shared: int, blocks: int) -> None:
    assert code.blocks_per_processor(arch, registers, warps, shared) == blocks


def listing(*lines: str) -> str:
    return "\n".join(
        f"        /*{16 * at:04x}*/   {line} ;  /* 0x0 */" for at, line in enumerate(lines)
    )


FLAT = listing(
    "MUFU.RCP R0, R0",
    "HGMMA.64x64x16.F32 R24, gdesc[UR12], RZ, !UPT",  # 0x10: the loop
    "HGMMA.64x32x16.F32 R24, R60, gdesc[UR8].tnspB, R24",
    "FFMA R1, R2, R3, R4",
    "@!P1 MUFU.EX2 R4, R4",
    "FMNMX.NAN R5, RZ, R4, !PT",
    "@P0 BRA 0x10",
    "BRA 0x70",
)


def test_a_loop_is_counted_by_unit() -> None:
    found = code.main_loop(FLAT, 1)
    assert found["issue"] == 6
    assert (found["tensor"], found["fma"], found["special"], found["alu"]) == (2, 1, 1, 1)
    # A warp's quarter of both factors (64 + 64 by 16, 2 bytes), then of the right one alone.
    assert found["operands"] == 2 * 16 * (64 + 64) // 4 + 2 * 16 * 32 // 4


def test_loops_within_are_counted_as_often_as_they_turn() -> None:
    text = listing(
        "LDG.E R0, [R2]",  # 0x00: the main loop
        "FFMA R1, R1, R1, R0",  # 0x10: four coordinates at a time
        "FFMA R1, R1, R1, R0",
        "FFMA R1, R1, R1, R0",
        "FFMA R1, R1, R1, R0",
        "@P0 BRA 0x10",
        "FFMA R1, R1, R1, R0",  # 0x60: those that remain
        "@P0 BRA 0x60",
        "MUFU.EX2 R4, R4",
        "@P1 BRA 0x0",
    )
    found = code.main_loop(text, 16)
    assert found["fma"] == 16
    assert found["special"] == found["shuffle"] == 1


def test_code_without_a_loop() -> None:
    assert not code.main_loop(listing("MUFU.EX2 R4, R4", "EXIT"), 1)


def test_cycles_by_hand() -> None:
    """Eight warps: 128 results a cycle are two cycles per instruction, 16 are sixteen."""
    found = code.cycles(90, Counter(issue=10, fma=4, special=2, operands=2048), 8)
    assert found["issue"] == 20
    assert found["fma"] == 8
    assert found["special"] == 32
    assert found["operands"] == 128


def test_programs_that_do_not_fill_the_last_round() -> None:
    """Five programs on four processors take as long as eight."""
    gpu = GPU("small", 90, 4, 1e12, 2 * 128 * 4 * 1e9, 1e12)  # 1 GHz
    launch = Launch(None, Config(128, 64, 64, 8, 2), {})
    work = launches.Work("value_kernel", launch, programs=5, visits=1000)
    found = code_seconds(work, gpu, Counter(issue=10))
    assert found["issue"] == pytest.approx(1000 * 20 * 8 / 5 / 4 / 1e9)


def test_another_configuration_can_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_model, "ARCHITECTURES", dict(ARCHITECTURES))
    cost_model.attempt("one.gram_value=64,32,64,4,2")
    cost_model.attempt("several.gram_gradient.64=64,32,64,4,1,128")
    tried = cost_model.ARCHITECTURES[90]
    assert tried.one.gram_value == Config(64, 32, 64, 4, 2)
    assert tried.several.gram_gradient[64] == Config(64, 32, 64, 4, 1, 128)
    assert tried.several.gram_gradient[32] == ARCHITECTURES[90].several.gram_gradient[32]


def test_the_limit_of_several_launches() -> None:
    """Launch by launch for the code floor, all together for the floor."""
    first = launches.Work("product", None, tensor=790e9, bytes=2.4e9)  # 1 and 0.5 ms
    second = launches.Work("split_kernel", None, bytes=3.84e9)  # 0.8 ms
    found = times([first, second], H200)
    assert found.unit == "memory"
    assert found.floor == pytest.approx(1.3e-3)
    assert found.code_floor == pytest.approx(1.8e-3)


def test_blocks_take_turns() -> None:
    """One waits for itself, two of equal work leave a third of the time unused, many nothing."""
    assert queued(2.0, 1.0, 1) == pytest.approx(3.0)
    assert queued(1.0, 1.0, 2) == pytest.approx(1.5)
    assert queued(1.0, 2.0, 2) == queued(2.0, 1.0, 2) == pytest.approx(2.0 * 1.75 / 1.5)
    assert queued(2.0, 1.0, 50) == pytest.approx(2.0)
    assert queued(0.0, 1.0, 1) == 1.0
    assert queued(0.0, 0.0, 1) == 0.0


@pytest.mark.parametrize(
    ("ratio", "certain", "words"),
    [(8.0, True, "met"), (8.0, False, "not excluded"), (6.0, True, "short by 25% (exp2)")],
)
def test_verdicts(ratio: float, certain: bool, words: str) -> None:
    assert verdict(ratio, 8.0, "exp2", certain) == words


BEFORE = Row("3.7", 90, "gaussian 0 value 64", "value_kernel", "128x64x64", 8, 126, 65536, 0,
                  2, 12, 32, 984)  # fmt: skip


def test_equal_code_is_no_regression() -> None:
    assert regressions(BEFORE, BEFORE) == []
    assert regressions(BEFORE._replace(registers=134), BEFORE) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"registers": 135}, "135 registers (were 126)"),
        ({"spills": 8}, "spills 8"),
        ({"tensor_core": 11}, "11 tensor-core instructions (were 12)"),
        ({"blocks": 1}, "1 blocks on a multiprocessor (were 2)"),
    ],
)
def test_regressions_are_named(change: dict[str, int], message: str) -> None:
    (found,) = regressions(BEFORE._replace(**change), BEFORE)
    assert message in found
    assert "sm_90 value_kernel, gaussian 0 value 64, 128x64x64, 8 warps" in found


def test_another_triton_is_compared_loosely() -> None:
    other = BEFORE._replace(triton="3.8")
    change = {"registers": 200, "blocks": 1, "tensor_core": 6}
    assert regressions(other._replace(**change), BEFORE) == []
    assert regressions(other._replace(spills=8), BEFORE)
    assert regressions(other._replace(tensor_core=0), BEFORE)


def test_the_baseline_spills_nothing_and_has_every_architecture() -> None:
    rows = baseline()
    assert {row.arch for row in rows} == set(code.PROCESSORS)
    assert len({row.key for row in rows}) == len(rows)
    assert all(row.spills == 0 and row.blocks >= 1 for row in rows)


PROGRAM = """
from bench import code_baseline, cost_model
first = cost_model.main(["--check"])
rows = [row._replace(registers=row.registers - 9) for row in code_baseline.baseline()]
code_baseline.baseline = lambda: rows
code_baseline.WATCHED = {90: ("few gradient",)}
print("with fewer registers before:")
print(first, cost_model.main(["--check"]))
"""


def test_the_generated_code_got_no_worse() -> None:
    """And where it does it is said, with the remedy. In a process of its own: this one interprets
    Triton."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True, text=True, env=environment, check=False, cwd=ROOT,
    )  # fmt: skip
    now, _, worse = result.stdout.partition("with fewer registers before:")
    print(now)  # what was compared, with which Triton
    assert result.returncode == 0, result.stderr
    assert re.search(r"[1-9]\d* kernels compared", now)
    assert ": 0 worse" in now, now
    assert re.search(r"sm_90 gradient_kernel, gaussian 0 few gradient, .*registers \(were", worse)
    assert "python -m bench.cost_model --write" in worse
    assert worse.rstrip().endswith("0 1")
