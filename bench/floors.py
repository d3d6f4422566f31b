"""What the work of each GPU target takes at least on an H200, counted by hand. Nothing is measured.

python -m bench.report floors     the table of docs/performance-gpu.md

A *pair* has its distance and kernel value formed once for each time the plan visits it. Products of
the Gram form are three of fp16 halves, 3·2·D flop per pair; a gradient multiplies the weight of a
pair with D coordinates, 3·2·D flop again. A column is one number times another over a rate; the
largest column is a floor, and what waits for what is not counted.
"""

from __future__ import annotations

from typing import NamedTuple

from .generated_code import committed

TENSOR = 790e12  # fp16 flop/s that a library's products reached on an H200
EX2 = 4.2e12  # results/s: 132 multiprocessors of 16 a clock, at 1.98 GHz
ISSUE = 132 * 128 * 1.98e9  # slots/s: four schedulers of 32 threads
N, MILLION, ROWS, LABELS = 32768, 1e6, 65536, 1024
PRODUCTS = 3 * 2  # flop per pair and coordinate


class Work(NamedTuple):
    """``formed``: pairs visited; ``multiplied``: those whose weights meet points; ``exponentials``
    of a pair; ``loops``: the cases of the table of generated code that visit pairs, and how many.
    """

    workload: str
    width: int  # D as padded; 0 by differences
    formed: float
    multiplied: float = 0.0
    exponentials: float = 1.0
    loops: tuple[tuple[str, str, float], ...] = ()
    labels: float = 0.0  # flop of products with label vectors
    rival_ms: float = 0.0  # measured on an H200 with earlier prototypes, or published
    wanted: float = 1.0

    @property
    def tensor(self) -> float:
        return PRODUCTS * self.width * (self.formed + self.multiplied) + self.labels


def _gradient(case: str, n: float) -> tuple[tuple[str, str, float], ...]:
    """The pairs of y by the value kernel, the rows of x against all by the gradient's."""
    return (
        ("value 64", "gram_value_kernel", 0.5 * n * n),
        (case, "gram_gradient_kernel", 2 * n * n),
    )


# n² of xy and half of xx and yy; with the gradient of x all of xx.
VALUE, GRADIENT = 2.0 * N * N, 2.5 * N * N
ONE = (("value 64", "gram_value_kernel", VALUE),)
WORK = (
    Work("value, n=m=32768, D=64, against eager", 64, VALUE, loops=ONE, rival_ms=56, wanted=25),
    Work("the same, against compile", 64, VALUE, loops=ONE, rival_ms=17, wanted=7),
    Work("value + gradient of x, D=64, against eager", 64, GRADIENT, 2.0 * N * N,
         loops=_gradient("gradient 64", N), rival_ms=103, wanted=25),
    Work("the same, against compile", 64, GRADIENT, 2.0 * N * N,
         loops=_gradient("gradient 64", N), rival_ms=31, wanted=8),
    Work("value + gradient of x, D=2, against compile", 0, GRADIENT, rival_ms=18.1, wanted=5),
    Work("value + gradient of x, D=784, against compile", 832, GRADIENT, 2.0 * N * N,
         rival_ms=234, wanted=5),
    # Fourth powers spare two of five; where the gradient is formed, none: 0.5·3 + 2·5 of 2.5.
    Work("five bandwidths that double, value, D=64", 64, VALUE, exponentials=3.0),
    Work("five bandwidths, value + gradient of x, D=64", 64, GRADIENT, 2.0 * N * N, 4.6),
    Work("65536 rows, D=64, 1024 labels, against fp32 K and GEMM", 64, ROWS**2 / 2,
         loops=(("labels 64", "panel_kernel", ROWS**2 / 2),), labels=float(ROWS**2 * LABELS),
         rival_ms=235, wanted=20),
    Work("MMD-FUSE, n=m=4000, D=10, B=2000, against 4.12 s", 0, 20 * 8000**2 / 2,
         labels=20 * 8000.0**2 * 2001, rival_ms=4120, wanted=200),
    Work("value, n=m=1e6, D=64, against 3 s", 64, 2.0 * MILLION**2,
         loops=(("value 64", "gram_value_kernel", 2.0 * MILLION**2),), rival_ms=3000),
)  # fmt: skip
HEADER = ("workload", "pairs", "tensor flop", "exp2", "tensor ms", "exp2 ms",
          "issue slots per pair", "issue ms", "rival ms", "target", "leaves ms")  # fmt: skip


def floor_seconds(work: Work, tensor: float = TENSOR, ex2: float = EX2) -> float:
    """The larger of tensor-core and exp2 time."""
    return max(work.tensor / tensor, work.exponentials * work.formed / ex2)


def issue_seconds(work: Work, arch: int = 90) -> float:
    """Of the issue slots of the loops, in the committed code."""
    code = {(r.case, r.kernel): r.slots for r in committed() if r.arch == arch}
    slots = sum(code[f"gaussian 0 {case}", kernel] * pairs for case, kernel, pairs in work.loops)
    return slots / ISSUE


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds else ""


def rows(arch: int = 90) -> list[tuple[str, ...]]:
    """Issue slots are those of the committed code for Hopper; where no loop is named, none."""
    code = {(r.case, r.kernel): r.slots for r in committed() if r.arch == arch}
    found = []
    for work in WORK:
        slots = [code[f"gaussian 0 {case}", kernel] for case, kernel, _ in work.loops]
        exponentials = work.exponentials * work.formed
        leaves = work.rival_ms / work.wanted
        found.append((
            work.workload, f"{work.formed:.3g}", f"{work.tensor:.3g}" if work.tensor else "",
            f"{exponentials:.3g}", _ms(work.tensor / TENSOR), _ms(exponentials / EX2),
            " and ".join(f"{s:g}" for s in slots), _ms(issue_seconds(work, arch)),
            f"{work.rival_ms:g}" if work.rival_ms else "",
            f"{work.wanted:g}×" if work.rival_ms else "≤ 1.6×",
            f"{leaves:.3g}" if work.rival_ms else "",
        ))  # fmt: skip
    return found
