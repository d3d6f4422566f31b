"""What the compiler made of a GPU kernel, read from its listings, and the committed table of it.

Issue slots per pair: the instructions of one turn of the loop that visits pairs, over the pairs of
a thread in that turn. Loads in flight: the copies to shared memory that may still be on their way
when that loop waits for its operands. CTAs: how many blocks fit a multiprocessor at once.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from typing import NamedTuple, get_type_hints

from divergences.kernels.triton_backend.configs import KIB

from .measure import RESULTS

TABLE = RESULTS / "generated_code.csv"
RENEW = "python -m bench.offline --write, then python -m bench.pages"
MORE_REGISTERS, MORE_SLOTS = 8, 1.05  # that code may take without a word; of the slots a factor
LINE = re.compile(
    r"^\s*/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)\s*([^;]*);", re.MULTILINE
)
KEYS = ("MUFU.EX2", "HGMMA", "HMMA", "UTCHMMA")  # what a visit of pairs has in any loop
ELSE = ("FFMA", "FADD", "FMUL")


class Processor(NamedTuple):
    """What blocks share on a multiprocessor (CUDA C++ Programming Guide, "Technical Specifications
    per Compute Capability"); 65,536 registers and a KiB of shared memory per block for all."""

    threads: int
    blocks: int
    shared: int


PROCESSORS = {
    80: Processor(2048, 32, 164 * KIB),
    89: Processor(1536, 24, 100 * KIB),
    90: Processor(2048, 32, 228 * KIB),
    100: Processor(2048, 32, 228 * KIB),
    120: Processor(1536, 24, 100 * KIB),
}


def ctas(arch: int, registers: int, warps: int, shared: int) -> int:
    """Blocks on a multiprocessor at once. Registers are handed out 256 to a warp at a time, by four
    schedulers that have a quarter of them each."""
    processor = PROCESSORS[arch]
    of_warp = -(-32 * max(1, registers) // 256) * 256
    by_registers = 4 * (65536 // 4 // of_warp) // warps
    by_threads = processor.threads // (32 * warps)
    return min(processor.blocks, by_threads, by_registers, processor.shared // (shared + KIB))


def loads_in_flight(ttgir: str) -> int:
    """The least number at the waits for copies that are named (the others drain); 0 without."""
    waits = re.findall(r"async_wait %[^{]*\{num = (\d+)", ttgir)
    return min(map(int, waits), default=0)


class Instruction(NamedTuple):
    at: int
    predicated: bool
    name: str
    target: int | None  # of a branch


def _instructions(sass: str) -> list[Instruction]:
    found = []
    for at, predicate, name, rest in LINE.findall(sass):
        branch = re.search(r"0x([0-9a-f]+)\s*$", rest) if name.split(".")[0] == "BRA" else None
        conditional = bool(predicate) or bool(re.match(r"!?U?P\d", rest))
        target = int(branch[1], 16) if branch else None
        found.append(Instruction(int(at, 16), conditional, name, target))
    return found


def visit(sass: str, turns: int) -> int:
    """Instructions of one turn of the loop that visits pairs, by the shortest way through it: that
    of a tile without masks. 0 without a loop.

    It is the smallest loop that has most of the exponentials and tensor-core instructions, or
    without these most of the fp32 arithmetic. Loops in it, over slices of the coordinates, turn
    ``turns`` times. Loops over single coordinates are counted once.
    """
    code = _instructions(sass)
    ends: dict[int, int] = {}
    for i in code:
        if i.target is not None and i.target < i.at:
            ends[i.target] = max(i.at, ends.get(i.target, 0))
    bodies = {
        (first, last): [i for i in code if first <= i.at <= last] for first, last in ends.items()
    }
    for stems in (KEYS, ELSE):
        found = {loop: sum(i.name.startswith(stems) for i in body) for loop, body in bodies.items()}
        if most := max(found.values(), default=0):
            main = min((p for p in bodies if found[p] == most), key=lambda p: len(bodies[p]))
            inner = [p for p in bodies if _holds(main, p)]
            more = sum(len(bodies[p]) for p in inner if not any(_holds(q, p) for q in inner))
            return _shortest(bodies[main]) + (turns - 1) * more
    return 0


def _shortest(body: list[Instruction]) -> int:
    """The fewest instructions from the first to the last, by branches forward."""
    number = {i.at: k for k, i in enumerate(body)}
    fewest = [1, *[len(body) + 1] * (len(body) - 1)]
    for k, i in enumerate(body[:-1]):
        following = [k + 1] if i.target is None or i.predicated else []
        if i.target in number and number[i.target] > k:
            following.append(number[i.target])
        for successor in following:
            fewest[successor] = min(fewest[successor], fewest[k] + 1)
    return fewest[-1]


def _holds(outer: tuple[int, int], inner: tuple[int, int]) -> bool:
    return outer != inner and outer[0] <= inner[0] and inner[1] <= outer[1]


class Row(NamedTuple):
    """One kernel of the table. ``slots``: issue slots per pair, 0 where no pairs are visited."""

    triton: str
    arch: int
    case: str
    kernel: str
    tile: str
    warps: int
    stages: int
    registers: int
    shared: int
    spills: int
    ctas: int
    in_flight: int
    slots: float
    tensor_core: int
    instructions: int

    @property
    def key(self) -> tuple[int, str, str]:
        return self.arch, self.case, self.kernel


def committed() -> list[Row]:
    with TABLE.open(newline="") as stream:
        types = get_type_hints(Row)
        return [
            Row(**{name: types[name](value) for name, value in row.items()})
            for row in csv.DictReader(stream)
        ]


def write(rows: Iterable[Row], archs: Iterable[int]) -> None:
    """Renew the rows of some architectures."""
    kept = [row for row in committed() if row.arch not in set(archs)] if TABLE.exists() else []
    with TABLE.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows([*kept, *rows])


def worse(now: Row, before: Row | None) -> list[str]:
    """What got worse. Another version of Triton allocates registers anew: then spills and the use
    of tensor cores are all that is compared."""
    if before is None:
        return [f"not in {TABLE.name}"]
    same, least = now.triton == before.triton, min(before.tensor_core, 1)
    checks = {
        f"spills {now.spills} (was {before.spills})": now.spills > before.spills,
        f"{now.tensor_core} tensor-core instructions (were {before.tensor_core})": now.tensor_core
        < (before.tensor_core if same else least),
        f"{now.registers} registers (were {before.registers})": same
        and now.registers > before.registers + MORE_REGISTERS,
        f"{now.ctas} CTAs on a multiprocessor (were {before.ctas})": same
        and now.ctas < before.ctas,
        f"{now.in_flight} loads in flight (were {before.in_flight})": same
        and now.in_flight < before.in_flight,
        f"{now.slots:g} issue slots per pair (were {before.slots:g})": same
        and now.slots > MORE_SLOTS * before.slots,
    }
    return [text for text, is_worse in checks.items() if is_worse]
