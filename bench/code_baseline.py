"""The generated code of every shipped GPU kernel against bench/results/cost_model.csv."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple, get_type_hints

from bench import offline
from bench.offline import Launch, Usage
from divergences.kernels.triton_configs import ARCHITECTURES

from .generated_code import blocks_per_processor, main_loop, slices_of
from .measure import RESULTS

BASELINE = RESULTS / "cost_model.csv"
RENEW = "python -m bench.cost_model --write"
MORE_REGISTERS = 8  # that a kernel may take without a word
WATCHED = {  # compared in the tests; offline.py compiles them too, and keeps what it finds
    90: ("value 64", "gradient 64", "gradient 300", "five gradient", "few gradient", "labels 64"),
    80: ("value 64", "gradient 64"),
    100: ("value 64",),
    120: ("gradient 64",),
}


class Row(NamedTuple):
    """One kernel of the baseline, as the CSV has it."""

    triton: str
    arch: int
    case: str
    kernel: str
    tile: str
    warps: int
    registers: int
    shared: int
    spills: int
    blocks: int  # on a multiprocessor at once
    tensor_core: int
    exp2: int
    instructions: int
    loop_instructions: int = 0
    loop_fma: int = 0
    loop_alu: int = 0
    loop_special: int = 0
    loop_shuffle: int = 0

    @property
    def name(self) -> str:
        return f"sm_{self.arch} {self.kernel}, {self.case}, {self.tile}, {self.warps} warps"

    @property
    def key(self) -> tuple[int, str, str]:
        return self.arch, self.case, self.kernel


def row_of(usage: Usage, loop: Counter[str] | None = None) -> Row:
    import triton

    config, loop = usage.config, loop or Counter()
    return Row(
        triton.__version__,
        usage.arch,
        usage.case,
        usage.kernel,
        f"{config.rows}x{config.columns}x{config.slice}",
        config.warps,
        usage.registers,
        usage.shared,
        max(usage.stack, usage.spills),
        blocks_per_processor(usage.arch, usage.registers, config.warps, usage.shared),
        usage.tensor_core,
        usage.exp2,
        usage.instructions,
        *(loop[unit] for unit in ("issue", "fma", "alu", "special", "shuffle")),
    )


def shipped(
    watched: Mapping[int, Collection[str]] | None = None,
) -> Iterator[tuple[offline.Case, Launch, int]]:
    """The kernels that visit pairs or multiply matrices: every configuration and architecture, or
    the cases ``watched``. Of equal cases (a function with several parameters) the first."""
    for arch in ARCHITECTURES:
        seen = set()
        for case in offline._cases(False, arch == 90):
            name = case.function, case.shape, case.name
            if name in seen or (watched is not None and case.name not in watched.get(arch, ())):
                continue
            seen.add(name)
            kernels = set()
            for launch in offline.record(case, arch):
                kernel = launch.kernel.__name__
                product = kernel in offline.PAIRS or launch.arguments.get("PANEL") is True
                if product and kernel not in kernels:
                    kernels.add(kernel)
                    yield case, launch, arch


def measured(case: offline.Case, launch: Launch, arch: int, looped: bool) -> Row:
    usage = offline.measure(case, launch, arch)
    if not looped:
        return row_of(usage)
    return row_of(usage, main_loop(offline.disassembled(launch, arch), slices_of(launch)))


def write() -> None:
    rows = [measured(*found, looped=True) for found in shipped()]
    with BASELINE.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)


def baseline() -> list[Row]:
    with BASELINE.open(newline="") as stream:
        types = get_type_hints(Row)
        return [
            Row(**{name: types[name](value) for name, value in row.items()})
            for row in csv.DictReader(stream)
        ]


def regressions(now: Row, before: Row) -> list[str]:
    """What got worse. Another version of Triton allocates registers anew: then spills and the use
    of tensor cores are all that is compared."""
    same = now.triton == before.triton
    checks = {
        f"spills {now.spills} bytes or accesses (was {before.spills})": now.spills > before.spills,
        f"{now.tensor_core} tensor-core instructions (were {before.tensor_core})": now.tensor_core
        < (before.tensor_core if same else min(before.tensor_core, 1)),
        f"{now.registers} registers (were {before.registers})": same
        and now.registers > before.registers + MORE_REGISTERS,
        f"{now.blocks} blocks on a multiprocessor (were {before.blocks})": same
        and now.blocks < before.blocks,
    }
    return [f"{now.name}: {text}" for text, worse in checks.items() if worse]


def check(watched: Mapping[int, Collection[str]] | None = None) -> list[str]:
    """Messages about generated code that got worse since the baseline was written."""
    import triton

    before = {row.key: row for row in baseline()}
    found, seen = [], 0
    for case, launch, arch in shipped(watched):
        now = measured(case, launch, arch, looped=False)
        seen += 1
        if now.key in before:
            found += regressions(now, before[now.key])
        else:
            found.append(f"{now.name}: not in {BASELINE.name}")
    versions = ", ".join(sorted({row.triton for row in before.values()}))
    given = f"{seen} kernels compared, Triton {triton.__version__} with {versions}"
    loosely = "" if versions == triton.__version__ else " (only spills and tensor cores)"
    print(f"{given}{loosely}: {len(found)} worse")
    return found
