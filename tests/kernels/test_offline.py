"""The shipped kernels compile for every architecture, without a GPU, to code worth running."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import offline
from divergences.kernels.functions import REGISTRY
from divergences.kernels.problem import Component, Wanted
from divergences.kernels.triton_backend import launcher, quadratic_forms
from divergences.kernels.triton_backend.configs import (
    ARCHITECTURES,
    Config,
    Table,
    architecture_for,
)

GOOD = offline.Usage(
    arch=90,
    case="gaussian",
    kernel="value_kernel",
    config=Config(128, 64, 64, 8, 2),
    registers=128,
    stack=0,
    shared=65536,
    tensor_memory=0,
    instructions=984,
    spills=0,
    tensor_core=12,
    exp2=32,
    wide_offsets=9,
    in_flight=2,
    slots=16.5,
    approximate=(),
    older_tensor_core=0,
    matrix=True,
)


def compiled(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: this one interprets Triton."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", "bench.offline", "--jobs", "2", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_the_representative_set() -> None:
    """Compiled where anything is not as it was when it was last checked."""
    result = compiled("--if-changed")
    assert result.returncode == 0, result.stdout + result.stderr
    for arch in ARCHITECTURES:
        assert f"sm_{arch}" in result.stdout
    for name in REGISTRY:
        assert f" {name} " in result.stdout
    for kernel in ("value_kernel", "gradient_kernel", "panel_kernel", "fold_kernel"):
        assert kernel in result.stdout
    if "0 changed since they were checked" not in result.stdout:
        assert "0 did not, 0 faulty" in result.stdout
        assert re.search(r"[1-9]\d* compared with generated_code.csv, 0 worse", result.stdout)


def test_only_what_was_checked_is_not_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = next(offline._cases(False, False))
    work = [offline.Job(case, 0, 80, "value_kernel", "key of its code")]
    runs: list[list[str]] = []
    table = tmp_path / "table"
    table.write_text("rows")
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(offline, "CHECKED", tmp_path / "checked")
    monkeypatch.setattr(offline, "TABLE", table)
    monkeypatch.setattr(offline, "write", lambda *_: None)
    monkeypatch.setattr(offline, "jobs", lambda *_: work)
    monkeypatch.setattr(offline, "run", lambda *_: runs.pop())

    def compiles() -> bool:
        runs[:] = [[]]
        offline.main(["--if-changed"])
        return not runs

    assert compiles()
    runs[:] = [["a kernel that does not compile"]]
    assert offline.main(["--write"]) == 1
    assert compiles()
    runs[:] = [[]]
    assert offline.main(["--write"]) == 0
    assert not compiles()
    table.write_text("other rows")
    assert compiles()
    table.write_text("rows")
    assert not compiles()
    work[0] = work[0]._replace(key="key of other code")
    assert compiles()


def test_a_spilling_configuration_fails() -> None:
    """All of 128 coordinates in registers, and tiles that are too large."""
    code = (
        "from bench import offline\n"
        "from divergences.kernels.triton_backend import configs as c\n"
        "wide = c.Config(128, 128, 128, 4, 2)\n"
        "a = c.ARCHITECTURES[80]\n"
        "c.ARCHITECTURES[80] = a._replace(one=a.one._replace(gram_value=wide))\n"
        "case = next(c for c in offline._cases(False, False) if c.name == 'value 64')\n"
        "case = case._replace(coordinates=128)\n"
        "launch = next(l for l in offline.record(case, 80) if 'value' in l.kernel.__name__)\n"
        "print(offline.measure(case, launch, 80).faults())\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert "spills: stack" in result.stdout


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_is_checked_of_label_forms(arch: int) -> None:
    """Every configuration of the panels, and what is asked of it."""
    labelled = [case for case in offline._cases(False, False) if case.labels]
    launches = [launch for case in labelled for launch in offline.record(case, arch)]
    panels = [launch for launch in launches if launch.kernel.__name__ == "panel_kernel"]
    found = {launch.config for launch in panels}
    for table in (ARCHITECTURES[arch].one, ARCHITECTURES[arch].several):
        assert {table.difference_labels, *map(table.labels_of, (64, 300))} <= found
    assert {launch.arguments["GRAM"] for launch in panels} == {False, True}
    assert {len(launch.arguments["SHAPES"]) for launch in panels} == {1, 5}
    assert sum(launch.kernel.__name__ == "fold_kernel" for launch in launches)


def test_it_refuses_to_run_interpreted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit, match="2"):
        offline.main([])
    assert "TRITON_INTERPRET" in capsys.readouterr().err


def test_good_code_has_no_faults() -> None:
    assert GOOD.faults() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instructions": 16}, "empty"),
        ({"stack": 8}, "spills"),
        ({"spills": 2}, "spills"),
        ({"shared": 240 * 1024}, "shared memory"),
        ({"tensor_memory": 576}, "tensor memory"),
        ({"tensor_core": 0}, "no HGMMA"),
        ({"wide_offsets": 0}, "64-bit"),
        ({"older_tensor_core": 2}, "other than HGMMA"),
        ({"approximate": ("an unknown one",)}, "an unknown one"),
    ],
)
def test_each_fault_is_found(change: dict[str, Any], message: str) -> None:
    (fault,) = GOOD._replace(**change).faults()
    assert message in fault


RESOURCES = """
Fatbin elf code:
 Function value_kernel:
  REG:254 STACK:72 SHARED:0 LOCAL:0 CONSTANT[0]:560 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
SASS = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;       /* 0x00000a00ff017b82 */
        /*0010*/               @P0 STL.64 [R1+0x10], R2 ;       /* 0x0000000000047919 */
        /*0020*/              @!P2 LDL R7, [R1] ;               /* 0x0000000000047919 */
        /*0030*/                   HGMMA.64x64x16.F32 R24, gdesc[UR4], R24 ;
        /*0040*/                   MUFU.EX2 R4, R4 ;
        /*0050*/              @UP0 UIADD3 UR4, UR4, 0x1, URZ ;
"""


def test_the_dumps_are_read() -> None:
    assert offline.parse_resources(RESOURCES) == {"REG": 254, "STACK": 72}
    found = offline.parse_sass(SASS)
    assert sum(found.values()) == 6
    assert {"STL.64", "LDL", "HGMMA.64x64x16.F32", "MUFU.EX2", "UIADD3"} <= set(found)


PTX = """
    mul.f32          %r423, %r2, %r393;
    setp.lt.f32      %p51, %r423, 0f00800000;
    rsqrt.approx.ftz.f32     %r490, %r423;
    fma.rn.f32       %r491, %r410, %r107, 0f3F800000;
    rsqrt.approx.ftz.f32     %r523, %r491;
    div.full.f32     %r555, %r523, %r491;
    @%p51 ex2.approx.ftz.f32 %r556, %r555;
"""


def test_approximate_instructions_are_known_and_in_their_range() -> None:
    assert offline.approximate_faults(PTX) == []
    at_zero = PTX.replace("0f00800000", "0f00000000")
    assert offline.approximate_faults(at_zero) == ["1 reciprocal roots that may be infinite"]
    sine = PTX + "    sin.approx.f32   %r557, %r556;\n    mul.ftz.f32 %r1, %r2, %r3;\n"
    unknown = ["approximate and unknown: mul.ftz.f32", "approximate and unknown: sin.approx.f32"]
    assert offline.approximate_faults(sine) == unknown


def test_an_empty_dump_is_a_fault() -> None:
    assert offline.parse_resources("")["STACK"] == -1
    assert GOOD._replace(registers=-1, instructions=0).faults()


@pytest.mark.parametrize(
    ("capability", "shared", "expected"),
    [(80, 163, 80), (86, 99, 89), (89, 99, 89), (90, 227, 90), (103, 227, 100), (120, 99, 120)],
)
def test_the_table_for_a_gpu(capability: int, shared: int, expected: int) -> None:
    chosen = architecture_for(capability, shared * 1024)
    assert chosen is ARCHITECTURES[expected]


@pytest.fixture(params=[(a, c) for a in ARCHITECTURES for c in (1, 5)], ids=str)
def table(request: pytest.FixtureRequest) -> Table:
    arch, components = request.param
    return ARCHITECTURES[arch].table(components)


@pytest.mark.parametrize("components", [1, 10])
@pytest.mark.parametrize("coordinates", [20, 64, 100, 300])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_norms_and_distances_have_one_order_of_summation(
    arch: int, coordinates: int, components: int
) -> None:
    """Or identical rows would not be exactly 0 apart: every kernel that forms distances of the
    split points cuts them into the slices of the norms, and gives the tensor cores tiles that one
    and the same instruction takes (of 64 rows and four warps at least, or older ones are used)."""
    value = offline.Case("", "gaussian", 0.0, 0.0, 1040, coordinates, "all", Wanted(True), False)
    value = value._replace(copies=components)
    gradient = value._replace(wanted=Wanted(grad_x=True, grad_y=True))
    sweeps = {
        "gram_value_kernel": offline.record(value, arch),
        "gram_gradient_kernel": offline.record(gradient, arch),
    }
    with offline.recorded(arch) as sweeps["panel_kernel"]:
        z, count = torch.zeros(2080, coordinates), min(components, quadratic_forms.TOGETHER)
        parts = (Component(REGISTRY["gaussian"]),) * count
        panels = quadratic_forms._Panels(z, parts, [1.0] * count, torch.zeros(count, len(z)))
        panels.form(panels.panels[0], True)
    for kernel, launches in sweeps.items():
        forming = [of for of in launches if of.kernel.__name__ in ("gram_split_kernel", kernel)]
        assert {of.kernel.__name__ for of in forming} == {"gram_split_kernel", kernel}
        assert len({(of.arguments["D"], of.arguments["BK"]) for of in forming}) == 1
        assert all(of.arguments["BK"] == of.config.slice for of in forming)
        if arch in (90, 100):
            assert all(of.config.rows % 64 == 0 and of.config.warps % 4 == 0 for of in forming)


def test_tiles_fit_one_another(table: Table) -> None:
    cases = itertools.product((64, 300), (1, 5, 10), (False, True))
    grams = [table.value_of(*case) for case in cases]
    for values in (*grams, table.difference_value, table.small_value):
        assert values.rows % values.columns == 0
    for labels in (table.labels_of(64), table.labels_of(300), table.difference_labels):
        assert launcher.ROW_PADDING % labels.rows == 0
        assert launcher.ROW_PADDING % labels.columns == 0
        assert quadratic_forms.PANEL_ROWS % labels.rows == 0
        assert quadratic_forms.CHAIN % labels.columns == 0
    assert launcher.ROW_PADDING % quadratic_forms.FOLD.rows == 0
    assert launcher.ROW_PADDING % quadratic_forms.FOLD.columns == 0
    assert table.gram_panel.rows % table.panel_product.rows == 0
