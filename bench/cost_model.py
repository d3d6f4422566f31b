"""What the GPU kernels must take, from counted work and from the code that the compiler made of
them. Nothing here runs on a GPU.

    python -m bench.cost_model            the GPU targets as a Markdown table
    python -m bench.cost_model --gpus     the same workloads on an A100, an H100 and an H200
    python -m bench.cost_model --write    renew bench/results/cost_model.csv
    python -m bench.cost_model --check    compile a few configurations and compare with that file

The launches counted are those of real sweeps over samples of the real size but without content
(``meta`` tensors), planned for the GPU in question. Four times:

*Floor*: the work of all launches, unit by unit, over the unit's rate; the largest.
*Code floor*: launch by launch the largest of the same and of what the instructions of the main loop
ask of the units of a multiprocessor, tails of unequal programs included. Waiting is free.
*Queued*: tensor cores and the other units take turns. The blocks that fit a multiprocessor at once
are customers of a closed queue of two stations: one block pays for both in turn, many hide the
shorter. Nothing else waits.
*Predicted*: tensor-core work at the rate that prototypes reached on an H200, with the same tails,
if that is slower. There is no prediction where no prototype is near.

    python -m bench.cost_model --try one.gram_value=128,64,64,4,2 --try one.gram_gradient.64=…

shows the targets with other configurations for sm_90 (rows, columns, slice, warps, stages and
perhaps registers), and says what spills.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bench import offline
from divergences.kernels.triton_configs import ARCHITECTURES, Config

from . import code_baseline
from . import generated_code as code
from .launches import A100, GPU, H100, H200, Work, labels, loss, memory, unit_seconds
from .report import markdown

# flop/s of prototypes on an H200: values took 2.4 and 4.8 ms at D=64 and 128; others, the slowest.
PROTOTYPES = {"value_kernel": 343e12, "panel_kernel": 343e12}
SLOWEST_PROTOTYPE = 315e12
MATRIX = ("tensor", "operands")
AROUND = ("memory", "L2")  # are kept busy by loads that were issued before


def code_seconds(work: Work, gpu: GPU, loop: Counter[str]) -> dict[str, float]:
    """Seconds of each unit that the generated main loop takes on the busiest multiprocessor."""
    launch = work.launch
    if launch is None or not work.visits:
        return {}
    each = work.visits * busiest(work, gpu) / (gpu.processors * gpu.clock)
    found = code.cycles(gpu.arch, loop, launch.config.warps)
    tensor = work.tensor / gpu.tensor * busiest(work, gpu)
    return {**{unit: count * each for unit, count in found.items()}, "tensor": tensor}


def queued(tensor: float, others: float, blocks: int) -> float:
    """Seconds of a closed queue of two stations with service times of exponential distribution
    (Buzen 1973): their sum for one block, the longer of them for infinitely many."""
    longer, shorter = max(tensor, others), min(tensor, others)
    share = shorter / longer if longer else 0.0
    return longer * sum(share**k for k in range(blocks + 1)) / sum(share**k for k in range(blocks))


def busiest(work: Work, gpu: GPU) -> float:
    """The programs of the busiest multiprocessor over the average."""
    return -(-work.programs // gpu.processors) * gpu.processors / work.programs


class Times(NamedTuple):
    """Seconds, and the unit that takes them. ``predicted`` is None where nothing justifies it."""

    floor: float
    unit: str
    code_floor: float
    code_unit: str
    elementwise: float  # the code floor without the tensor cores
    queued: float
    predicted: float | None


_loops: dict[str, tuple[Counter[str], int]] = {}


def loop_of(work: Work, arch: int) -> tuple[Counter[str], int]:
    """The main loop, and how many blocks a multiprocessor holds."""
    if work.launch is None or not work.visits:
        return Counter(), 1
    key = offline.code_key(work.launch, arch)
    if key not in _loops:
        text = offline.disassembled(work.launch, arch)
        found = offline.code_of(work.launch, arch)
        if spills := found["stack"]:
            print(f"{work.name} {work.launch.config}: {spills} bytes of spills", file=sys.stderr)
        warps = work.launch.config.warps
        blocks = code.blocks_per_processor(arch, found["registers"], warps, found["shared"])
        _loops[key] = code.main_loop(text, code.slices_of(work.launch)), blocks
    return _loops[key]


def times(works: Sequence[Work], gpu: GPU) -> Times:
    total: dict[str, float] = defaultdict(float)
    limits: dict[str, float] = defaultdict(float)
    predicted = elementwise = in_turn = 0.0
    for work in works:
        counted = unit_seconds(work, gpu)
        for unit, seconds in counted.items():
            total[unit] += seconds
        loop, blocks = loop_of(work, gpu.arch)
        units = {**counted, **code_seconds(work, gpu, loop)}
        unit = max(units, key=units.__getitem__)
        limits[unit] += units[unit]
        elementwise += max((s for u, s in units.items() if u not in MATRIX), default=0.0)
        matrix, others = (
            max((s for u, s in units.items() if (u in MATRIX) == kind and u not in AROUND),
                default=0.0)
            for kind in (True, False)
        )  # fmt: skip
        present = max(1, min(blocks, -(-work.programs // gpu.processors)))
        in_turn += max(queued(matrix, others, present), units[unit])
        prototype = work.tensor / PROTOTYPES.get(work.name, SLOWEST_PROTOTYPE) * busiest(work, gpu)
        predicted += max(units[unit], 0.0 if work.launch is None else prototype)
    unit, code_unit = (max(units, key=units.__getitem__) for units in (total, limits))
    tensor = total["tensor"] > 0 and gpu.arch == H200.arch
    code_floor = sum(limits.values())
    return Times(
        total[unit], unit, code_floor, code_unit, elementwise, in_turn,
        predicted if tensor else None,
    )  # fmt: skip


class Target(NamedTuple):
    """A row of the targets: at least ``times`` faster than a rival (milliseconds on an H200,
    measured with prototypes; ``extrapolated`` over D from 16, 64 and 128)."""

    workload: str
    work: Callable[[GPU], list[Work]]
    rival: str
    rival_ms: float
    wanted: float
    extrapolated: bool = False


COMPILED = {16: 21.0, 64: 31.0, 128: 49.0}  # value and gradient, n=m=32768


def extrapolated(d: int) -> float:
    a, b = (16, 64) if d < 64 else (64, 128)
    return COMPILED[b] + (COMPILED[b] - COMPILED[a]) * (d - b) / (b - a)


N = 32768


def _loss(n: int, d: int, count: int = 1, gradient: bool = False) -> Callable[[GPU], list[Work]]:
    return lambda gpu: loss(gpu.arch, gpu.processors, n, d, count, gradient)


def permutations(gpu: GPU) -> list[Work]:
    return labels(gpu.arch, gpu.processors, 65536, 64, {"gaussian": 1}, 1024)


def fuse(gpu: GPU) -> list[Work]:
    kernels = {"gaussian": 10, "laplace_l1": 10}
    return labels(gpu.arch, gpu.processors, 8000, 10, kernels, 2001)


TARGETS = [
    Target("value, n=m=32768, D=64", _loss(N, 64), "eager", 56.0, 25),
    Target("value, n=m=32768, D=64", _loss(N, 64), "compile", 17.0, 7),
    Target("value + gradient of x, D=64", _loss(N, 64, 1, True), "eager", 103.0, 25),
    Target("value + gradient of x, D=64", _loss(N, 64, 1, True), "compile", COMPILED[64], 8),
    Target("value + gradient of x, D=2", _loss(N, 2, 1, True), "compile", extrapolated(2), 5, True),
    Target("value + gradient of x, D=784", _loss(N, 784, 1, True), "compile", extrapolated(784), 5,
           True),
    Target("65536 rows, D=64, 1024 labels, on the GPU", permutations, "fp32 K and GEMM", 235.0, 20),
    Target("MMD-FUSE, n=m=4000, D=10, B=2000, on the GPU", fuse, "published (A5000)", 4120.0, 200),
    Target("value, n=m=1e6, D=64", _loss(1_000_000, 64), "3 s", 3000.0, 1),
]  # fmt: skip
BATCH = [("batch 256×16, value + gradients", "eager", 1.7, 8, 0.17),
         ("batch 256×16, in a CUDA graph", "eager's graph", 0.16, 8, 0.019)]  # fmt: skip


def amount(number: float) -> str:
    return f"{number:.2g}" if number else "–"


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"


def verdict(ratio: float, wanted: float, unit: str, certain: bool) -> str:
    if ratio >= wanted:
        return "met" if certain else "not excluded"
    return f"short by {1 - ratio / wanted:.0%} ({unit})"


def if_queued(target: Target, found: Times) -> str:
    """A word where the two predictions disagree."""
    wanted = 1e-3 * target.rival_ms / target.wanted
    differ = found.predicted is not None and found.queued <= wanted < found.predicted
    return "; met if only queued" if differ else ""


HEADER = ("workload", "against", "tensor flop", "exp2", "floor ms", "code floor ms", "queued ms",
          "predicted ms", "rival ms", "ratio", "target", "verdict")  # fmt: skip


def target_row(target: Target, gpu: GPU) -> tuple[str, ...]:
    works = target.work(gpu)
    found = times(works, gpu)
    best = found.code_floor if found.predicted is None else found.predicted
    ratio = 1e-3 * target.rival_ms / best
    bound = "≤ " if found.predicted is None else ""
    about = "~" if target.extrapolated else ""
    limiting = found.code_unit if found.predicted is None else f"{found.code_unit}, waiting"
    return (
        target.workload, target.rival,
        amount(sum(w.tensor for w in works)), amount(sum(w.special for w in works)),
        f"{milliseconds(found.floor)} ({found.unit})",
        f"{milliseconds(found.code_floor)} ({found.code_unit})", milliseconds(found.queued),
        "–" if found.predicted is None else milliseconds(found.predicted),
        f"{about}{target.rival_ms:.3g}", f"{bound}{ratio:.3g}×", f"{target.wanted:g}×",
        verdict(ratio, target.wanted, limiting, found.predicted is not None)
        + if_queued(target, found),
    )  # fmt: skip


def five_rows(gpu: GPU) -> list[tuple[str, ...]]:
    """Five bandwidths in one sweep against one: what they add is taken to overlap with nothing,
    as the prototypes' rate contains the exponentials of one."""
    rows: list[tuple[str, ...]] = []
    for what, gradient in (("value", False), ("value + gradient of x", True)):
        one, five = (times(_loss(N, 64, c, gradient)(gpu), gpu) for c in (1, 5))
        assert one.predicted is not None
        assert five.predicted is not None
        works = _loss(N, 64, 5, gradient)(gpu)
        predicted = max(five.predicted, one.predicted + five.elementwise - one.elementwise)
        ratio = predicted / one.predicted
        short = f"short by {ratio / 1.6 - 1:.0%} ({five.code_unit})"
        rows.append((
            f"five bandwidths, {what}, D=64", "one bandwidth",
            amount(sum(w.tensor for w in works)), amount(sum(w.special for w in works)),
            f"{milliseconds(five.floor)} ({five.unit})",
            f"{milliseconds(five.code_floor)} ({five.code_unit})", milliseconds(five.queued),
            milliseconds(predicted), milliseconds(one.predicted),
            f"{ratio:.2f}× its time", "≤ 1.6×", "met" if ratio <= 1.6 else short,
        ))  # fmt: skip
    return rows


def batch_rows(gpu: GPU) -> list[tuple[str, ...]]:
    """Launch-bound: what is counted is launches; the prototype had one."""
    works = _loss(256, 16, 1, True)(gpu)
    found = times(works, gpu)
    return [
        (
            workload, rival, "–", amount(sum(w.special for w in works)),
            f"{milliseconds(found.floor)} ({found.unit})",
            f"{milliseconds(found.code_floor)} ({found.code_unit})", "–", "–", f"{rival_ms:g}",
            f"{len(works)} launches; one took {one:g} ms: {rival_ms / one:.2g}×",
            f"{wanted}×", f"allows {rival_ms / wanted:.3g} ms",
        )
        for workload, rival, rival_ms, wanted, one in BATCH
    ]  # fmt: skip


def target_table(gpu: GPU = H200) -> str:
    rows = [target_row(target, gpu) for target in TARGETS]
    rows[6:6] = [*five_rows(gpu), *batch_rows(gpu)]
    most = memory(TARGETS[-1].work(gpu))
    note = f"Memory of the last row, inputs included: at most {most / 1e9:.2f} GB (target: 2 GB)."
    return f"{markdown(HEADER, rows)}\n\n{note}"


def gpu_table() -> str:
    rows = []
    for target in {t.workload: t for t in TARGETS}.values():
        cells = []
        for gpu in (A100, H100, H200):
            found = times(target.work(gpu), gpu)
            cells.append(f"{milliseconds(found.floor)} ({found.unit})")
            cells.append(f"{milliseconds(found.code_floor)} ({found.code_unit})")
        rows.append((target.workload, *cells))
    header = [f"{g.name}, {w}, ms" for g in (A100, H100, H200) for w in ("floor", "code floor")]
    return markdown(("workload", *header), rows)


def attempt(change: str) -> None:
    """Put a configuration into the tables of sm_90 for the rest of this process."""
    where, _, numbers = change.partition("=")
    config = Config(*(int(number) for number in numbers.split(",")))
    name, field, *width = where.split(".")
    known = ARCHITECTURES[90]
    table = getattr(known, name)
    value = {**getattr(table, field), int(width[0]): config} if width else config
    ARCHITECTURES[90] = known._replace(**{name: table._replace(**{field: value})})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cost_model")
    for name in ("gpus", "write", "check", "all"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument(
        "--try", dest="changes", action="append", default=[], metavar="FIELD=CONFIG"
    )
    given: Any = parser.parse_args(arguments)
    if given.write:
        code_baseline.write()
        return 0
    if given.check:
        worse = code_baseline.check(None if given.all else code_baseline.WATCHED)
        if worse:
            print(*worse, f"If this is meant: {code_baseline.RENEW}", sep="\n")
        return 1 if worse else 0
    for change in given.changes:
        attempt(change)
    print(gpu_table() if given.gpus else target_table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
