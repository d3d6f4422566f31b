"""Compiles the shipped Triton kernels for every architecture without a GPU, and checks the code.

    python -m bench.offline [--full] [--arch 80,90] [--jobs 2] [--write] [--if-changed]

The launches are those of real sweeps: a sweep runs with its launcher replaced by a recorder, and
what it would launch is compiled. Each result must be a non-empty cubin that fits the shared and
tensor memory of its architecture, spills nothing and keeps 64-bit offsets; the matrix kernels must
use the tensor cores. Kernels that visit pairs or multiply matrices must be no worse than the
committed table says (``generated_code``); ``--write`` renews it, for the architectures given.

By default every configuration is compiled with one function, and for sm_90 every function with one
configuration; ``--full`` compiles every configuration with every function.
What became of a kernel is kept in Triton's cache directory: a second run compiles what changed.
``--write`` also notes the fingerprint of all that the outcome depends on (``CHECKED``), and
``--if-changed`` compiles nothing where it is that one still.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from divergences.kernels.functions import REGISTRY
from divergences.kernels.problem import Blocks, Component, PairProblem, Wanted
from divergences.kernels.triton_backend.configs import ARCHITECTURES, Config, Device

from . import generated_code
from .generated_code import RENEW, TABLE, Row, committed, ctas, loads_in_flight, visit, worse, write

CHECKED = TABLE.with_suffix(".sha256")
MIN_INSTRUCTIONS = 64
MAX_TENSOR_MEMORY = 512
TENSOR_CORES = {80: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}
# Instructions of PTX that do not round correctly, with their error, and those that flush: what is
# below the smallest normal number, 2⁻¹²⁶, is 0 to them. (PTX ISA, floating-point instructions.)
APPROXIMATE = {
    "ex2.approx.ftz.f32": "2⁻²² relative, for every input; flushes",
    "sqrt.approx.ftz.f32": "2⁻²³ relative, for inputs ≥ 0; flushes",
    "rsqrt.approx.ftz.f32": "2⁻²²·⁹ relative, for inputs ≥ 2⁻¹²⁶; flushes, and gives inf",
    "div.full.f32": "2 ulp, for every input",
    "fma.rn.ftz.f32": "rounds correctly; flushes (the polynomial of log2)",
    "abs.ftz.f32": "exact; flushes (the range of exp2 in fp64)",
    "rsqrt.approx.f64": "refined in fp64 by the compiler (MUFU.RSQ64H and DFMA)",
}
PROCESSORS = 132
FIRST, DEFAULT = 90, "90,80,89,100,120"
ROWS = 1280  # more than a small problem has
GRAM = ("gram_value_kernel", "gram_gradient_kernel")
PAIRS = ("value_kernel", "gradient_kernel", "panel_kernel", *GRAM)  # the kernels that visit pairs
PRODUCTS = ("gram_split_kernel", "gram_product_kernel", *GRAM)  # those that have matrix products
EVERYWHERE = (*PAIRS, "pooled_kernel")  # compiled for every architecture


class Case(NamedTuple):
    """A sweep whose launches are compiled."""

    name: str
    function: str
    shape: float
    offset: float
    rows: int
    coordinates: int
    blocks: Blocks
    wanted: Wanted
    weighted: bool
    copies: int = 1  # components of this function
    labels: int = 0  # label vectors, in place of what is wanted
    form: bool = False  # of a small problem, and its median, in place of a sweep


class Usage(NamedTuple):
    """What the compiler made of one kernel."""

    arch: int
    case: str
    kernel: str
    config: Config
    registers: int
    stack: int
    shared: int
    tensor_memory: int
    instructions: int
    spills: int
    tensor_core: int
    exp2: int
    wide_offsets: int
    in_flight: int  # loads
    slots: float  # issue slots per pair
    approximate: tuple[str, ...]  # what is wrong with instructions that do not round correctly
    older_tensor_core: int  # instructions of an earlier architecture
    matrix: bool

    def faults(self) -> list[str]:
        limit = ARCHITECTURES[self.arch].shared_bytes
        unit = TENSOR_CORES[self.arch]
        checks = {
            f"empty: {self.instructions} instructions": self.instructions < MIN_INSTRUCTIONS,
            f"spills: stack {self.stack}, {self.spills} local accesses": bool(
                self.stack or self.spills
            ),
            f"shared memory {self.shared} > {limit}": self.shared > limit,
            f"tensor memory {self.tensor_memory}": self.tensor_memory > MAX_TENSOR_MEMORY,
            f"no {unit}": self.matrix and not self.tensor_core,
            "no 64-bit offsets": not self.wide_offsets,
            # Norms and distances would be summed in different orders.
            f"{self.older_tensor_core} tensor-core instructions other than {unit}": bool(
                self.matrix and self.older_tensor_core
            ),
        }
        return [text for text, failed in checks.items() if failed] + list(self.approximate)

    def row(self) -> Row:
        import triton

        c = self.config
        return Row(
            triton.__version__, self.arch, self.case, self.kernel,
            f"{c.rows}x{c.columns}x{c.slice}", c.warps, c.stages, self.registers, self.shared,
            max(self.stack, self.spills), ctas(self.arch, self.registers, c.warps, self.shared),
            self.in_flight, self.slots, self.tensor_core, self.instructions,
        )  # fmt: skip


class Launch(NamedTuple):
    """A recorded launch."""

    kernel: Any
    config: Config
    arguments: dict[str, Any]


def _configurations(base: Case) -> Iterator[Case]:
    """Sweeps that between them use every configuration for a function."""
    value, both = Wanted(sums=True), Wanted(True, True, True)
    everything = Wanted(True, True, True, True, True)
    yield base._replace(name="few value", coordinates=3, wanted=value)
    yield base._replace(name="few gradient", coordinates=3, wanted=both)
    yield base._replace(name="16 gradient", coordinates=16, wanted=both)
    yield base._replace(name="small", rows=256, wanted=everything, weighted=True)
    yield base._replace(name="small few", rows=256, coordinates=8, wanted=everything)
    yield base._replace(name="small value", rows=256, wanted=value)
    form = base._replace(name="form", rows=256, coordinates=16, wanted=both, form=True)
    yield form
    yield form._replace(name="form of few", rows=64, coordinates=3, wanted=value)
    yield form._replace(name="form of 500", rows=500)
    yield form._replace(name="ten form of 500", rows=500, copies=10)
    few = base._replace(name="few labels", rows=2 * ROWS, coordinates=3, labels=1)
    yield few
    yield few._replace(name="five few labels", copies=5)
    small = base._replace(name="small labels", rows=256, labels=1)
    yield small
    yield small._replace(name="five small labels", copies=5)
    if REGISTRY[base.function].metric == "l1":
        yield base._replace(name="panel", coordinates=64, wanted=both)
        return
    for d in (64, 300):
        yield base._replace(name=f"value {d}", coordinates=d, wanted=value)
        yield base._replace(name=f"labels {d}", rows=2 * ROWS, coordinates=d, labels=1)
    for d in (32, 64, 128, 300):
        yield base._replace(name=f"gradient {d}", coordinates=d, wanted=both)
    yield base._replace(name="five gradient", copies=5, wanted=both)
    yield base._replace(name="ten gradient", copies=10, wanted=both)
    yield base._replace(name="ten value 300", coordinates=300, copies=10, wanted=value)
    five = base._replace(rows=2 * ROWS, copies=5, labels=1)
    yield five._replace(name="five labels")
    yield five._replace(name="five labels 300", coordinates=300)


def _variants(base: Case) -> Iterator[Case]:
    """More widths, options and components for the same configurations."""
    for case in _configurations(base):
        if case.copies == 1:
            yield case
            yield case._replace(name=f"five {case.name}", copies=5)
            if case.form:
                yield case._replace(name=f"ten {case.name}", copies=10)
    if REGISTRY[base.function].metric != "l1":
        for d in (32, 128):
            yield base._replace(name=f"value {d}", coordinates=d, wanted=Wanted(sums=True))
            yield base._replace(name=f"labels {d}", rows=2 * ROWS, coordinates=d, labels=1)
        yield base._replace(
            name="five labels 128", rows=2 * ROWS, coordinates=128, copies=5, labels=1
        )
        yield base._replace(name="potential", wanted=Wanted(grad_wx=True), blocks="xy")
        yield base._replace(name="everything", coordinates=128)
        yield base._replace(
            name="five value 128", coordinates=128, wanted=Wanted(sums=True), copies=5
        )


def _cases(full: bool, first: bool) -> Iterator[Case]:
    everything = Wanted(True, True, True, True, True)
    for name, function in REGISTRY.items():
        for number, (_, shape, offset) in enumerate(function.probe):
            l1 = function.metric == "l1"
            base = Case("weighted", name, shape, offset, ROWS, 64, "all", everything, True)
            if full or first:
                yield base._replace(name="function", coordinates=3 if l1 else 64, weighted=False)
            base = base._replace(weighted=False)
            if full:
                yield from _variants(base)
            elif name == "gaussian":
                yield from _configurations(base)
            elif l1:
                yield from (c for c in _configurations(base) if c.name == "panel")
            elif number == 0 and name == "energy":
                yield base._replace(name="value 64", wanted=Wanted(sums=True))
                yield base._replace(name="gradient 64", wanted=Wanted(True, True, True))
            elif number == 0 and name == "polynomial" and first:
                yield base._replace(name="gradient 300", coordinates=300)


@contextmanager
def recorded(arch: int, processors: int = PROCESSORS) -> Iterator[list[Launch]]:
    """Inside, sweeps do not run: what they would launch on such a GPU is noted down."""
    from divergences.kernels.triton_backend import compat, launcher

    found: list[Launch] = []

    def record(kernel: Any, _: tuple[int, ...], config: Config, **arguments: Any) -> None:
        found.append(Launch(kernel, config, arguments))

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(a), a.shape[1], b.shape[2])

    device = Device(ARCHITECTURES[arch], processors)
    with (
        mock.patch.object(launcher, "launch", record),
        mock.patch.object(launcher, "device_of", return_value=device),
        mock.patch.object(compat, "half_product", product),
    ):
        yield found


def record(case: Case, arch: int) -> list[Launch]:
    """The launches of a sweep on one architecture."""
    from divergences.kernels.triton_backend import median, quadratic_forms, small, sweeps

    component = Component(REGISTRY[case.function], case.shape, case.offset)
    components = (component,) * case.copies
    x = torch.zeros(1, case.rows, case.coordinates)
    if case.labels:
        centres = torch.zeros(case.copies, case.rows, dtype=torch.float64)
        labels = torch.ones(case.rows, case.labels, dtype=torch.int8)
        with recorded(arch) as found:
            quadratic_forms.landmark_means(x[0], x[0, :64], components, [1.0] * case.copies)
            quadratic_forms.label_sweep(x[0], components, [1.0] * case.copies, centres, labels)
            quadratic_forms.moments(labels, centres)
        return found
    if case.form:
        blocks = tuple(b / case.copies for b in (1.0, 1.0, -2.0) for _ in components)
        metric, ones = component.function.metric, (1.0,) * case.copies
        with recorded(arch) as found:
            scales = median.scales(x[0], x[0], metric, 256, ones, (2,) * case.copies)
            problem = PairProblem(
                x, x, None, None, scales.rates, blocks, components, "all", case.wanted, "unbiased"
            )
            small.form(problem)
        return found
    weights = torch.ones(1, case.rows) if case.weighted else None
    rates = torch.ones(1, case.copies)  # on the device, where more is left open than with numbers
    coefs = [1.0] * (3 if case.blocks == "all" else 1) * case.copies
    with recorded(arch) as found:
        problem = PairProblem(
            x, x, weights, weights, rates, coefs, components, case.blocks, case.wanted
        )
        sweeps.sweep(problem)
    return found


TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.float16: "*fp16",
    torch.int8: "*i8",
    torch.int32: "*i32",
}


def code_key(launch: Launch, arch: int) -> str:
    """Equal for launches that compile to the same code."""
    import triton

    arguments = {
        name: TYPES[given.dtype] if isinstance(given, torch.Tensor) else str(given)
        for name, given in launch.arguments.items()
        if isinstance(given, torch.Tensor) or name.isupper()
    }
    options = sorted(launch.config.options().items())
    parts = (triton.__version__, arch, _sources(), launch.kernel.__name__, options)
    return hashlib.sha256(repr((*parts, sorted(arguments.items()))).encode()).hexdigest()


@lru_cache(maxsize=1)
def _sources() -> str:
    """A kernel's own ``cache_key`` depends on which of the kernels was asked for it first."""
    from divergences.kernels.triton_backend import (
        differences,
        gradients,
        gram,
        median,
        panels,
        redo,
        small,
    )

    kernels = (
        *(differences, gradients, gram, redo),
        *(panels, small, median),
    )
    readers = (
        *(_compile, _read, _slots, visit, loads_in_flight, parse_resources, parse_sass),
        approximate_faults,
    )
    return "".join(inspect.getsource(source) for source in (*kernels, *readers))


def _compile(launch: Launch, arch: int) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, static, aligned = {}, {}, {}
    for at, name in enumerate(launch.kernel.arg_names):
        given = launch.arguments[name]
        if isinstance(given, torch.Tensor):
            signature[name] = TYPES[given.dtype]
            aligned[(at,)] = [["tt.divisibility", 16]]
        elif name.isupper():
            signature[name] = "constexpr"
            static[(at,)] = given
        else:
            signature[name] = "i32"
    source = ASTSource(launch.kernel, signature, constexprs=static, attrs=aligned)
    target = GPUTarget("cuda", arch, 32)
    return triton.compile(source, target=target, options=launch.config.options())


def parse_resources(text: str) -> dict[str, int]:
    """Registers and stack of ``cuobjdump --dump-resource-usage``."""
    return {
        key: max((int(v) for v in re.findall(rf"\b{key}:(\d+)", text)), default=-1)
        for key in ("REG", "STACK")
    }


def parse_sass(text: str) -> Counter[str]:
    """How often each instruction occurs in ``cuobjdump --dump-sass``."""
    line = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)", re.MULTILINE)
    return Counter(m.group(1) for m in line.finditer(text))


def approximate_faults(ptx: str) -> list[str]:
    """Instructions that are not in ``APPROXIMATE``, and reciprocal roots of numbers that may be
    below the smallest normal one: neither compared with it nor 1 plus something."""
    stem = r"^\s*(?:@!?%p\d+\s+)?(\w+(?:\.\w+)*\.(?:approx|ftz|full)(?:\.\w+)*)\s"
    used = set(re.findall(stem, ptx, re.MULTILINE))
    faults = [f"approximate and unknown: {name}" for name in sorted(used - set(APPROXIMATE))]
    roots = re.findall(r"rsqrt\.approx\.ftz\.f32\s+%\w+, (%\w+);", ptx)
    compared = set(re.findall(r"setp\.\w+\.f32\s+%p\d+, (%\w+), 0f00800000;", ptx))
    above_one = set(re.findall(r"(?:fma|add)\.rn\.f32\s+(%\w+), .*, 0f3F800000;", ptx))
    if bare := len([of for of in roots if of not in compared | above_one]):
        faults.append(f"{bare} reciprocal roots that may be infinite")
    return faults


def _count(instructions: Counter[str], *stems: str) -> int:
    return sum(n for name, n in instructions.items() if name.split(".")[0] in stems)


def _dump(cubin: bytes) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", "--dump-sass", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _matrix(launch: Launch) -> bool:
    """Whether the kernel is to use the tensor cores."""
    return launch.kernel.__name__ in PRODUCTS or bool(launch.arguments.get("GRAM"))


def _slots(launch: Launch, sass: str) -> float:
    """Issue slots per pair of a kernel that visits pairs."""
    given = launch.arguments
    if launch.kernel.__name__ not in PAIRS:
        return 0.0
    turns = given["D"] // given["BK"] if _matrix(launch) else 1
    pairs = given["BM"] * given["BN"] / (32 * launch.config.warps)
    return float(round(visit(sass, turns) / pairs, 2))


def _read(compiled: Any, launch: Launch, arch: int) -> dict[str, Any]:
    """What the compiler made of a kernel: the fields of ``Usage`` that only its code decides."""
    dump, ptx = _dump(compiled.asm["cubin"]), compiled.asm["ptx"]
    resources, sass = parse_resources(dump), parse_sass(dump)
    return {
        "registers": resources["REG"],
        "stack": resources["STACK"],
        "shared": compiled.metadata.shared,
        "tensor_memory": getattr(compiled.metadata, "tmem_size", 0) or 0,
        "instructions": sum(sass.values()),
        "spills": _count(sass, "LDL", "STL"),
        "tensor_core": _count(sass, TENSOR_CORES[arch]),
        "exp2": sum(n for name, n in sass.items() if name.startswith("MUFU.EX2")),
        "approximate": approximate_faults(ptx),
        "older_tensor_core": _count(sass, *({*TENSOR_CORES.values()} - {TENSOR_CORES[arch]})),
        "wide_offsets": len(re.findall(r"(?:mul|mad)\.(?:lo\.s64|wide\.s32|lo\.u64)", ptx)),
        "in_flight": loads_in_flight(compiled.asm["ttgir"]),
        "slots": _slots(launch, dump),
    }


def _kept(key: str) -> dict[str, Any] | None:
    from triton.runtime.cache import get_cache_manager

    path = get_cache_manager(key).get_file("usage.json")
    return None if path is None else json.loads(Path(path).read_text())


def _keep(key: str, code: dict[str, Any]) -> None:
    from triton.runtime.cache import get_cache_manager

    get_cache_manager(key).put(json.dumps(code), "usage.json", binary=False)


def _compiled(launch: Launch, arch: int) -> Any:
    import triton

    with tempfile.TemporaryDirectory() as folder, triton.knobs.cache.scope():
        triton.knobs.cache.dir = folder  # the code itself would fill gigabytes
        return _compile(launch, arch)


def code_of(launch: Launch, arch: int) -> dict[str, Any]:
    """Compile one launch, unless that has been done, and read the result."""
    key = code_key(launch, arch)
    code = _kept(key)
    if code is None:
        code = _read(_compiled(launch, arch), launch, arch)
        _keep(key, code)
    return code


def measure(case: Case, launch: Launch, arch: int) -> Usage:
    """What became of a launch, and what is asked of it."""
    return Usage(
        arch=arch,
        case=f"{case.function} {case.shape:g} {case.name}",
        kernel=launch.kernel.__name__,
        config=launch.config,
        **code_of(launch, arch),
        matrix=_matrix(launch),
    )


class Job(NamedTuple):
    case: Case
    number: int  # of the launch in the case
    arch: int
    kernel: str
    key: str
    known: Usage | None = None


def _work(job: Job) -> Usage | str:
    try:
        return measure(job.case, record(job.case, job.arch)[job.number], job.arch)
    except Exception as error:
        cause = error
        while isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        return f"sm_{job.arch} {job.case.function} {job.case.name} #{job.number}: {cause!r}"


def jobs(archs: Sequence[int], full: bool = False) -> list[Job]:
    """One job for each distinct piece of code. Without ``full`` the functions, and the kernels
    that have no pairs to visit, are compiled for one architecture alone."""
    found: dict[str, Job] = {}
    for arch in archs:
        first = arch == FIRST
        for case in _cases(full, first):
            for number, launch in enumerate(record(case, arch)):
                pairs = launch.kernel.__name__ in EVERYWHERE
                if full or first or pairs or launch.arguments.get("PANEL"):
                    key = code_key(launch, arch)
                    if key not in found:
                        known = measure(case, launch, arch) if _kept(key) else None
                        found[key] = Job(case, number, arch, launch.kernel.__name__, key, known)
    return list(found.values())


def fingerprint(work: Sequence[Job]) -> str:
    """Equal where a run would come to the same result: of the code of the kernels, of what reads
    and judges it, and of the table."""
    files = (Path(__file__), Path(generated_code.__file__), TABLE)
    parts = (sorted(job.key for job in work), ARCHITECTURES, [file.read_text() for file in files])
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def run(archs: Sequence[int], full: bool = False, processes: int = 2) -> list[Usage | str]:
    """Compile and measure; a string is the message of a kernel that did not compile."""
    work = jobs(archs, full)
    new = [job for job in work if job.known is None]
    print(f"{len(work)} kernels, {len(new)} to compile", file=sys.stderr, flush=True)
    compiled = []
    if new:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            for result in pool.map(_work, new, chunksize=8):
                compiled.append(result)
                _progress(result, len(compiled), len(new))
    found = iter(compiled)
    return [next(found) if job.known is None else job.known for job in work]


def shipped(usages: Sequence[Usage]) -> dict[tuple[int, str, str], Row]:
    """The rows of the table: kernels that visit pairs or multiply matrices, the first of equals."""
    found: dict[tuple[int, str, str], Row] = {}
    for usage in usages:
        if usage.kernel in PAIRS or usage.matrix:
            row = usage.row()
            found.setdefault(row.key, row)
    return found


def complaints(usages: Sequence[Usage], full: bool = False) -> list[str]:
    """What got worse since the table was written; what it lacks counts, but in ``full`` runs."""
    before = {row.key: row for row in committed()}
    return [
        f"sm_{row.arch} {row.kernel}, {row.case}, {row.tile}: {text}"
        for row in shipped(usages).values() if row.key in before or not full
        for text in worse(row, before.get(row.key))
    ]  # fmt: skip


def _progress(result: Usage | str, done: int, total: int) -> None:
    faults = [result] if isinstance(result, str) else result.faults()
    if faults:
        print(_line(result) if isinstance(result, Usage) else result, file=sys.stderr)
    if sys.stderr.isatty() or done % 100 == 0 or done == total:
        end = "\r" if sys.stderr.isatty() and done < total else "\n"
        print(f"{done} of {total}", end=end, file=sys.stderr, flush=True)


def table(results: Sequence[Usage]) -> str:
    lines = []
    for arch in sorted({r.arch for r in results}):
        lines.append(f"sm_{arch}   tensor cores: {TENSOR_CORES[arch]}")
        lines.append(
            f"  {'kernel':21}{'case':36}{'tile':>14}{'warps':>6}{'regs':>6}{'shared':>8}{'tmem':>6}"
            f"{'instr':>7}{'tensor':>7}{'ex2':>5}"
        )
        for r in results:
            lines += [_line(r)] if r.arch == arch else []
    return "\n".join(lines)


def _line(r: Usage) -> str:
    tile = f"{r.config.rows}x{r.config.columns}x{r.config.slice}"
    line = (
        f"  {r.kernel:21}{r.case:36}{tile:>14}{r.config.warps:>6}{r.registers:>6}"
        f"{r.shared:>8}{r.tensor_memory:>6}{r.instructions:>7}{r.tensor_core:>7}{r.exp2:>5}"
    )
    faults = r.faults()
    return line + ("   FAULT " + "; ".join(faults) if faults else "")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.offline")
    parser.add_argument("--full", action="store_true", help="every configuration x function")
    parser.add_argument("--arch", default=DEFAULT, help=f"default {DEFAULT}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", action="store_true", help=f"renew {TABLE.name}")
    parser.add_argument("--if-changed", action="store_true", help=f"unless {CHECKED.name} is true")
    given = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        parser.error("TRITON_INTERPRET is set: nothing would be compiled; unset it")
    archs = [int(a) for a in given.arch.split(",")]
    if given.if_changed:
        work = jobs(archs, given.full)
        if CHECKED.exists() and fingerprint(work) == CHECKED.read_text().strip():
            print(*(f"sm_{j.arch} {j.case.function} {j.kernel}" for j in work), sep="\n")
            print(f"{len(work)} kernels: 0 changed since they were checked")
            return 0
    results = run(archs, given.full, given.jobs)
    usages = [r for r in results if isinstance(r, Usage)]
    if given.write:
        write(shipped(usages).values(), archs)
    complained = complaints(usages, given.full)
    failures = [r for r in results if isinstance(r, str)]
    faulty = [r for r in usages if r.faults()]
    print(table(usages))
    print(f"{len(usages)} compiled, {len(failures)} did not, {len(faulty)} faulty")
    for text in failures:
        print(text)
    print(f"{len(shipped(usages))} compared with {TABLE.name}, {len(complained)} worse")
    if complained:
        print(*complained, f"If this is meant: {RENEW}", sep="\n")
    failed = bool(failures or faulty or complained)
    if given.write and not failed and given.arch == DEFAULT and not given.full:
        CHECKED.write_text(fingerprint(jobs(archs)) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
