"""What is read from generated code, the committed table of it, and the counted floors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # bench is not installed

from bench import floors, generated_code, offline  # noqa: E402
from bench.generated_code import Row, committed, ctas, loads_in_flight, visit, worse  # noqa: E402
from divergences.kernels.triton_backend.configs import Config  # noqa: E402


@pytest.mark.parametrize(
    ("arch", "registers", "warps", "shared", "blocks"),
    [
        (90, 128, 8, 64 * 1024, 2),  # registers: 64 Ki of 8·32·128
        (90, 129, 8, 64 * 1024, 1),  # which are handed out eight to a thread at a time
        (90, 254, 8, 96 * 1024, 1),
        (90, 168, 4, 32 * 1024, 3),
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
    assert ctas(arch, registers, warps, shared) == blocks


def listing(*lines: str) -> str:
    return "\n".join(
        f"        /*{16 * at:04x}*/   {line} ;  /* 0x0 */" for at, line in enumerate(lines)
    )


FLAT = listing(
    "MUFU.RCP R0, R0",
    "HGMMA.64x64x16.F32 R24, gdesc[UR12], RZ, !UPT",  # 0x10: the loop
    "FFMA R1, R2, R3, R4",
    "@!P1 MUFU.EX2 R4, R4",
    "FMNMX.NAN R5, RZ, R4, !PT",
    "@P0 BRA 0x10",
    "BRA 0x60",
)
NESTED = listing(
    "LDG.E R0, [R2]",  # 0x00: the loop over pairs
    "HMMA.16816.F32 R4, R8, R12, R4",  # 0x10: over slices of coordinates
    "HMMA.16816.F32 R4, R8, R12, R4",
    "@P0 BRA 0x10",
    "MUFU.EX2 R4, R4",
    "@P1 BRA 0x0",
    "FADD R1, R1, R1",  # 0x60: a sum over what was found
    "@P2 BRA 0x60",
)


def test_instructions_of_a_visit() -> None:
    assert visit(FLAT, 1) == visit(FLAT, 5) == 5
    assert visit(NESTED, 1) == 6
    assert visit(NESTED, 4) == 6 + 3 * 3
    assert visit(listing("FADD R1, R1, R1", "FFMA R1, R1, R1, R0", "@P0 BRA 0x10"), 1) == 2
    assert visit(listing("MUFU.EX2 R4, R4", "EXIT"), 1) == 0


TTGIR = """
  %a = ttg.async_commit_group tokens %b loc(#loc1)
  %c:7 = scf.for %i = %j to %k step %l iter_args(%m = %n) -> (f32) : i32 {
    %o = ttg.async_wait %p, %q {num = 4 : i32} loc(#loc2)
    %r = ttg.async_wait %s {num = 2 : i32} loc(#loc2)
  }
  %t = ttg.async_wait {num = 0 : i32} loc(#loc3)
"""


def test_loads_in_flight() -> None:
    """The wait after the loop drains."""
    assert loads_in_flight(TTGIR) == 2
    assert loads_in_flight("scf.for") == 0


BEFORE = Row("3.7", 90, "gaussian 0 value 64", "gram_value_kernel", "128x64x64", 8, 3, 126, 65536,
             0, 2, 2, 16.5, 12, 984)  # fmt: skip


def test_equal_code_is_no_worse() -> None:
    assert worse(BEFORE, BEFORE) == []
    assert worse(BEFORE._replace(registers=134, slots=17.3), BEFORE) == []
    assert worse(BEFORE, None) == ["not in generated_code.csv"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"registers": 135}, "135 registers (were 126)"),
        ({"spills": 8}, "spills 8"),
        ({"tensor_core": 11}, "11 tensor-core instructions (were 12)"),
        ({"ctas": 1}, "1 CTAs on a multiprocessor (were 2)"),
        ({"in_flight": 0}, "0 loads in flight (were 2)"),
        ({"slots": 17.4}, "17.4 issue slots per pair (were 16.5)"),
    ],
)
def test_what_is_worse_is_named(change: dict[str, int], message: str) -> None:
    (found,) = worse(BEFORE._replace(**change), BEFORE)
    assert message in found


def test_another_triton_is_compared_loosely() -> None:
    other = BEFORE._replace(triton="3.8")
    change = {"registers": 200, "ctas": 1, "tensor_core": 6, "in_flight": 0, "slots": 40.0}
    assert worse(other._replace(**change), BEFORE) == []
    assert worse(other._replace(spills=8), BEFORE)
    assert worse(other._replace(tensor_core=0), BEFORE)


USAGE = offline.Usage(
    arch=90, case="gaussian 0 value 64", kernel="gram_value_kernel",
    config=Config(128, 64, 64, 8, 3), registers=126, stack=0, shared=65536, tensor_memory=0,
    instructions=984, spills=0, tensor_core=12, exp2=32, wide_offsets=9, in_flight=2,
    slots=16.5, approximate=(), older_tensor_core=0, matrix=True,
)  # fmt: skip


def test_the_check_fails_where_code_gets_worse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = USAGE.row()
    assert (now.ctas, now.tile, now.slots) == (2, "128x64x64", 16.5)
    again = USAGE._replace(registers=200)  # of two with one name the first counts
    fold = USAGE._replace(kernel="fold_kernel", matrix=False)  # is not in the table
    monkeypatch.setattr(offline, "run", lambda *_: [USAGE, again, fold])
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(offline, "committed", lambda: [now])
    assert offline.main([]) == 0
    assert "1 compared with generated_code.csv, 0 worse" in capsys.readouterr().out
    monkeypatch.setattr(offline, "committed", lambda: [now._replace(in_flight=3)])
    assert offline.main([]) == 1
    said = capsys.readouterr().out
    assert (
        "sm_90 gram_value_kernel, gaussian 0 value 64, 128x64x64: 2 loads in flight (were 3)"
        in said
    )
    assert "python -m bench.offline --write" in said
    monkeypatch.setattr(offline, "committed", list)
    assert offline.main([]) == 1
    assert offline.main(["--full"]) == 0  # more than the table has


def test_the_table_is_renewed_for_some_architectures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(generated_code, "TABLE", tmp_path / "code.csv")
    other = BEFORE._replace(arch=80)
    generated_code.write([BEFORE, other], [80, 90])
    assert committed() == [BEFORE, other]
    new = BEFORE._replace(registers=100)
    generated_code.write([new], [90])
    assert committed() == [other, new]


def test_the_committed_table_spills_nothing_and_has_every_architecture() -> None:
    rows = committed()
    assert {row.arch for row in rows} == set(generated_code.PROCESSORS)
    assert len({row.key for row in rows}) == len(rows)
    assert all(row.spills == 0 and row.ctas >= 1 for row in rows)
    assert all(row.slots > 0 for row in rows if row.kernel in offline.PAIRS)


def test_floors_by_hand() -> None:
    """790 TFLOP/s and 4.2e12 exp2 a second; 2n² pairs, 4.5n² products of 384 flop."""
    n = 32768
    value, gradient = floors.WORK[0], floors.WORK[2]
    assert value.tensor == 2 * n**2 * 384
    assert gradient.tensor == 4.5 * n**2 * 384
    assert 1e3 * floors.floor_seconds(value) == pytest.approx(1.044, rel=1e-3)
    assert 1e3 * floors.floor_seconds(gradient) == pytest.approx(2.349, rel=1e-3)
    assert 1e3 * gradient.formed / floors.EX2 == pytest.approx(0.639, rel=1e-3)
    assert pytest.approx(3.35e13, rel=2e-3) == floors.ISSUE


def test_the_table_of_floors() -> None:
    rows = {row[0]: row for row in floors.rows()}
    slots = {(r.case, r.kernel): r.slots for r in committed() if r.arch == 90}
    value = slots["gaussian 0 value 64", "gram_value_kernel"]
    row = rows["value, n=m=32768, D=64, against eager"]
    assert row[1:7] == ("2.15e+09", "8.25e+11", "2.15e+09", "1.04", "0.511", f"{value:g}")
    assert float(row[7]) == pytest.approx(2.147e9 * value / 3.345e10, rel=0.01)
    assert row[8:] == ("56", "25×", "2.24")
    assert all(len(row) == len(floors.HEADER) for row in rows.values())
