"""What the compiler made of the GPU kernels, without a GPU: occupancy, and the instructions of the
main loop by the unit that executes them.

A *visit* is one tile of pairs met by one block: one turn of the main loop. What a visit asks of a
unit, in cycles of a multiprocessor, is warps · 32 · instructions / (results per cycle).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from bench.offline import Launch
from divergences.kernels.triton_configs import KIB


class Processor(NamedTuple):
    """A multiprocessor: what blocks share, and results per cycle of its units (CUDA C++
    Programming Guide, "Technical Specifications per Compute Capability" and "Throughput of Native
    Arithmetic Instructions"; issue: four schedulers of 32 threads)."""

    threads: int
    blocks: int
    shared: int
    fma: int
    double: int
    registers: int = 65536
    alu: int = 64  # integer, comparison, selection, minimum
    special: int = 16  # exp2, log2, rsqrt, and conversions between types of different width
    shuffle: int = 32  # and shared or global addresses
    issue: int = 128
    operands: int = 128  # bytes of shared memory that feed the tensor cores


PROCESSORS = {
    80: Processor(threads=2048, blocks=32, shared=164 * KIB, fma=64, double=32),
    89: Processor(threads=1536, blocks=24, shared=100 * KIB, fma=128, double=2),
    90: Processor(threads=2048, blocks=32, shared=228 * KIB, fma=128, double=64),
    100: Processor(threads=2048, blocks=32, shared=228 * KIB, fma=128, double=64),
    120: Processor(threads=1536, blocks=24, shared=100 * KIB, fma=128, double=2),
}
RESERVED = KIB  # shared memory of a block that the system takes
WARP_REGISTERS = 256  # are handed to a warp at a time


def blocks_per_processor(arch: int, registers: int, warps: int, shared: int) -> int:
    """How many blocks fit a multiprocessor at once."""
    processor = PROCESSORS[arch]
    of_warp = -(-32 * registers // WARP_REGISTERS) * WARP_REGISTERS
    # A scheduler has a quarter of the registers and of the warps.
    warps_held = 4 * (processor.registers // 4 // of_warp)
    return min(
        processor.blocks,
        processor.threads // (32 * warps),
        warps_held // warps,
        processor.shared // (shared + RESERVED),
    )


UNITS = {
    "fma": ("FFMA", "FMUL", "FADD", "HADD2", "HFMA2", "HMUL2", "IMAD", "FFMA2", "FADD2", "FMUL2"),
    "special": ("MUFU", "F2F", "I2F", "F2I"),
    "double": ("DFMA", "DADD", "DMUL", "DSETP"),
    "shuffle": ("SHFL", "LDS", "STS", "LDSM", "LDG", "STG", "LDGSTS", "STSM"),
    "tensor": ("HGMMA", "HMMA", "UTCHMMA"),
}
UNIFORM = ("U", "R2UR", "WARPGROUP", "BRA", "BAR", "DEPBAR", "LDGDEPBAR", "MEMBAR", "FENCE", "NOP")
LINE = re.compile(
    r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)\s*([^;]*);", re.MULTILINE
)


class Instruction(NamedTuple):
    at: int
    name: str
    operands: str


class Loop(NamedTuple):
    first: int
    last: int

    def within(self, other: Loop) -> bool:
        return other.first <= self.first and self.last <= other.last and self != other


def instructions(text: str) -> list[Instruction]:
    return [Instruction(int(at, 16), name, rest.strip()) for at, name, rest in LINE.findall(text)]


def unit_of(name: str) -> str:
    stem = name.split(".")[0]
    for unit, stems in UNITS.items():
        if stem in stems:
            return unit
    return "other" if stem.startswith(UNIFORM) else "alu"


def loops(code: Sequence[Instruction]) -> list[Loop]:
    """The ranges that backward branches span, outermost first where they nest."""
    found: dict[int, int] = {}
    for at, name, operands in code:
        target = re.search(r"0x([0-9a-f]+)$", operands)
        if name.split(".")[0] == "BRA" and target and int(target[1], 16) < at:
            first = int(target[1], 16)
            found[first] = max(at, found.get(first, 0))
    return sorted((Loop(*pair) for pair in found.items()), key=lambda p: (p.first, -p.last))


def operand_bytes(instruction: Instruction) -> int:
    """Shared memory that a tensor-core instruction of Hopper reads, per warp of its four: its
    right factor, and its left one unless that comes from registers."""
    shape = re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", instruction.name)
    if shape is None:
        return 0
    m, n, k = (int(number) for number in shape.groups())
    in_registers = re.match(r"R\d+, R\d+, gdesc", instruction.operands) is not None
    return 2 * k * (n + (0 if in_registers else m)) // 4


def _work(counts: Counter[str]) -> int:
    return counts["fma"] + counts["tensor"]


def main_loop(text: str, slices: int) -> Counter[str]:
    """Instructions of one visit by unit, and "issue" for all of them; empty without a loop.

    The main loop is the smallest one that holds every exponential and tensor-core instruction
    found in loops (or, where there are none, the most arithmetic). The loops in it run over
    ``slices`` slices of the coordinates, or single coordinates; a loop that is followed by a
    smaller one of the same kind is the unrolled version of that remainder.
    """
    code = instructions(text)
    ranges = loops(code)

    def counted(loop: Loop) -> Counter[str]:
        inside = [i for i in code if loop.first <= i.at <= loop.last]
        found = Counter(unit_of(i.name) for i in inside)
        found["issue"] = len(inside)
        found["operands"] = sum(map(operand_bytes, inside))
        found["key"] = sum(i.name.startswith("MUFU.EX2") for i in inside) + found["tensor"]
        return found

    counts = {loop: counted(loop) for loop in ranges}
    if not counts:
        return Counter()
    measure = "key" if any(c["key"] for c in counts.values()) else "fma"
    most = max(c[measure] for c in counts.values())
    holding = [loop for loop, c in counts.items() if c[measure] == most]
    if measure == "fma":
        main = min(holding, key=lambda loop: counts[loop]["issue"])
    else:
        main = min(holding, key=lambda loop: loop.last - loop.first)
    total = Counter(counts[main])
    inner = [p for p in ranges if p.within(main) and not any(p.within(q) and q.within(main)
             for q in ranges)]  # fmt: skip
    before: Loop | None = None
    for number, loop in enumerate(inner):
        mine = counts[loop]
        after = inner[number + 1] if number + 1 < len(inner) else None
        unrolled = 1
        if after is not None and counts[after]["fma"] and not mine["key"]:
            unrolled = max(1, round(_work(mine) / _work(counts[after])))
        remainder = before is not None
        turns = 0.0 if remainder else slices / unrolled
        for unit, count in mine.items():
            total[unit] += round(count * (turns - 1))
        before = loop if unrolled > 1 and not remainder else None
    del total["key"]
    return total


def cycles(arch: int, counts: Counter[str], warps: int) -> dict[str, float]:
    """Cycles of a multiprocessor that a visit takes of each unit but the tensor cores
    ("operands": what they read from shared memory)."""
    rates = PROCESSORS[arch]._asdict()
    units = ("issue", "fma", "alu", "special", "double", "shuffle")
    found = {unit: 32 * warps * counts[unit] / rates[unit] for unit in units}
    return {**found, "operands": warps * counts["operands"] / rates["operands"]}


def slices_of(launch: Launch) -> int:
    """Turns of the loop over coordinates in a visit."""
    given = launch.arguments
    if given.get("GRAM") or launch.kernel.__name__ == "norm_kernel":
        return int(given["D"]) // int(given.get("BK", given["D"]))
    return int(given["d"]) if "d" in given else 1
