"""The Triton backend: sweeps over CUDA tensors in fp32, without ever holding an N×M matrix.

Routes: the difference form for at most ``FEW`` coordinates, for L1 and for small problems (two
launches in all); the split Gram form for the rest. Nothing here waits for the device, but for the
upload of rates and coefficients that are met for the first time, and a sweep whose kernels are
compiled can be captured in a CUDA graph.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..problem import PairProblem, Sweep, Wanted, block_names
from . import compat, gradients, gram, launcher, redo, small
from . import differences as kernels
from .configs import FUSED_WIDTH, MOST, Config, Device
from .launcher import FEW, ROW_PADDING, Prepared, cdiv, prepare, sliced

PANEL_BYTES = 2**30
PROGRAMS_PER_PROCESSOR = 4
MIN_PROGRAMS = 64
MAX_SPLITS = 16  # programs that share the columns of a tile of rows
CHUNK = 8  # tiles of columns that a program visits before it moves on to other rows


def unavailable(x: Tensor) -> str | None:
    """Why this backend cannot run on x, or None."""
    if x.dtype != torch.float32:
        return f"the Triton backend computes in float32, not {x.dtype}"
    if not x.is_cuda:
        if compat.interpreting(kernels.value_kernel):
            return None
        return f"the Triton backend needs a CUDA tensor; got one on {x.device}"
    if torch.version.hip is not None:
        return f"{x.device} runs under ROCm, and the kernels are made for NVIDIA GPUs"
    major, minor = torch.cuda.get_device_capability(x.device)
    if major < 8:
        return f"{x.device} has compute capability {major}.{minor}; the kernels need 8.0 or newer"
    # A compiled graph is made before there is a launch to try.
    return None if torch.compiler.is_compiling() else compat.failure(x.device)


class Results(NamedTuple):
    """The fields of a ``Sweep``, empty where not wanted."""

    sums: Tensor
    grad_x: Tensor
    grad_y: Tensor
    grad_wx: Tensor
    grad_wy: Tensor


class Region(NamedTuple):
    """Where the partial sums of one block lie: [C, ``width``] numbers for each program."""

    start: int = 0
    programs: int = 0
    width: int = 1


class Values(NamedTuple):
    """A planned launch of the value kernel."""

    config: Config
    chunk: int
    units: dict[str, int]
    programs: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.programs.values())


def _target(device: Device) -> int:
    """Programs enough to fill the GPU. Partitions, and with them the last bits of a result, are
    those of its number of multiprocessors."""
    return max(MIN_PROGRAMS, PROGRAMS_PER_PROCESSOR * device.processors)


def _shares(units: dict[str, int], target: int) -> dict[str, int]:
    """Programs for the units of work of each block, ``target`` in all and not one more: one that
    finds every multiprocessor taken would begin when the others end."""
    everything = max(1, sum(units.values()))
    programs = {name: max(1, target * unit // everything) for name, unit in units.items()}
    largest = max(units, key=units.__getitem__)
    programs[largest] += target - sum(programs.values())
    return {name: max(1, min(programs[name], unit)) for name, unit in units.items()}


def _plan_values(problem: Prepared, names: tuple[str, ...]) -> Values:
    table = problem.table
    if problem.gram:
        chosen = table.value_of(problem.width, len(problem.components), problem.heavy)
        config = sliced(chosen, problem.width)
    else:
        config = table.small_value if problem.small else table.difference_value
    tx, ty = cdiv(problem.x.rows, config.rows), cdiv(problem.y.rows, config.rows)
    shapes = {"xx": (tx, tx // 2 + 1), "yy": (ty, ty // 2 + 1), "xy": (tx, ty)}
    target = cdiv(_target(problem.device), problem.batch)
    chunk = CHUNK
    while True:
        units = {name: shapes[name][0] * cdiv(shapes[name][1], chunk) for name in names}
        if chunk == 1 or sum(units.values()) >= target:
            break
        chunk //= 2
    return Values(config, chunk, units, _shares(units, target))


def _run_values(problem: Prepared, plan: Values, sums: Tensor) -> None:
    config, grid = plan.config, (plan.total * problem.batch,)
    shared = {
        "sums": sums,
        "programs": plan.total,
        "programs_xx": plan.programs.get("xx", 0),
        "programs_yy": plan.programs.get("yy", 0),
        "chunk": plan.chunk,
        "sums_stride": sums.stride(0),
        "POWERS": problem.powers,
        "BM": config.rows,
    }
    if not problem.gram:
        launcher.launch(
            kernels.value_kernel, grid, config,
            **problem.arguments(), **shared, BN=config.columns,
        )  # fmt: skip
        return
    units = [plan.units.get(name, 0) for name in ("xx", "yy", "xy")]
    shared |= {
        "flags": torch.empty((problem.batch, sum(units)), dtype=torch.int8, device=sums.device),
        "flags_stride": sum(units),
        "flags_yy": units[0],
        "flags_xy": units[0] + units[1],
    }
    launcher.launch(
        gram.gram_value_kernel, grid, config,
        **problem.gram_arguments(), **shared, NEAR=problem.near, CHUNK=CHUNK,
        BK=config.slice, BN=config.columns,
    )  # fmt: skip
    launcher.launch(
        redo.redo_value_kernel, grid, config.again(),
        **problem.redo_arguments(), **shared, BN=config.again().columns,
    )  # fmt: skip


class Rows(NamedTuple):
    """A planned launch of the gradient kernel: tiles of rows of x and y, the pairs (sample of the
    rows, sample of the columns) they meet and how many programs share the columns of a tile."""

    config: Config
    first_x: int
    tiles_x: int
    first_y: int
    tiles_y: int
    splits: dict[str, int]
    panel: bool

    @property
    def programs(self) -> dict[str, int]:
        tiles = {"x": self.tiles_x, "y": self.tiles_y}
        return {pair: tiles[pair[0]] * count for pair, count in self.splits.items()}

    @property
    def lanes(self) -> int:
        return (self.tiles_x + self.tiles_y) * self.config.rows


PAIRS = ("xx", "xy", "yx", "yy")
TILES = ("first_x", "tiles_x", "first_y", "tiles_y")
BLOCK_OF = {"xx": "xx", "xy": "xy", "yx": "xy", "yy": "yy"}


def _plan_rows(problem: Prepared, rows: str, gradient: bool) -> list[Rows]:
    """``rows``: "x", "y" or "xy", the samples whose rows are visited."""
    table = problem.table
    panel = gradient and problem.coordinates > (FUSED_WIDTH if problem.gram else FEW)
    if problem.gram and panel:
        config = table.panel_of(len(problem.components), problem.heavy)
    elif problem.gram:
        width = min(problem.width, FUSED_WIDTH)
        config = table.gradient_of(width, len(problem.components), problem.heavy)
    elif problem.small:
        config = table.small
    else:
        few = table.difference_gradient_of(problem.coordinates)
        config = table.difference_panel if panel else few
    config = sliced(config, problem.width) if problem.gram else config
    met = {"xx": ("xx",), "xy": ("xy", "yx"), "all": PAIRS}[problem.blocks]
    counts = {"x": problem.x.rows, "y": problem.y.rows}
    tiles = {s: cdiv(counts[s], config.rows) if s in rows else 0 for s in "xy"}
    limit = sum(tiles.values())
    if panel and not problem.small:
        line = 4 * problem.batch * _panel_columns(problem) * config.rows
        limit = max(1, PANEL_BYTES // line)
    target = _target(problem.device)
    plans = []
    ranges: list[tuple[int, int, int, int]] = []
    if sum(tiles.values()) <= limit:
        ranges.append((0, tiles["x"], 0, tiles["y"]))
    else:
        ranges += [(f, min(limit, tiles["x"] - f), 0, 0) for f in range(0, tiles["x"], limit)]
        ranges += [(0, 0, f, min(limit, tiles["y"] - f)) for f in range(0, tiles["y"], limit)]
    for first_x, tiles_x, first_y, tiles_y in ranges:
        active = [p for p in met if {"x": tiles_x, "y": tiles_y}[p[0]]]
        busy = max(1, (tiles_x + tiles_y) * problem.batch * (2 if problem.blocks == "all" else 1))
        wish = min(MAX_SPLITS, cdiv(target, busy))
        splits = {p: max(1, min(wish, cdiv(counts[p[1]], config.columns))) for p in active}
        plans.append(Rows(config, first_x, tiles_x, first_y, tiles_y, splits, panel))
    return plans


def _panel_columns(problem: Prepared) -> int:
    """Columns of the weight panel, those of x and of y padded apart."""
    padded = [cdiv(s.rows, ROW_PADDING) * ROW_PADDING for s in (problem.x, problem.y)]
    return max(padded) if problem.blocks == "xy" else sum(padded)


def _regions(plan: Rows, covered: dict[str, str], start: int, count: int) -> dict[str, Region]:
    """Where a launch leaves the sums of the blocks that it covers, from ``start`` on."""
    found = {}
    for pair, programs in plan.programs.items():
        if covered.get(BLOCK_OF[pair]) == pair:
            found[BLOCK_OF[pair]] = Region(start, programs, plan.config.rows)
        start += programs * count * plan.config.rows
    return found


def _run_rows(
    problem: Prepared, plan: Rows, wanted: Wanted, with_sums: bool, sums: Tensor,
    regions: tuple[Region, ...], adds: bool, sums_start: int, out: Results,
) -> None:  # fmt: skip
    """The gradient kernel on some rows, then the kernel that finishes them."""
    config, dummy = plan.config, problem.rates.values
    device, batch, lanes = dummy.device, problem.batch, plan.lanes
    slots_x = plan.splits.get("xx", 0) + plan.splits.get("xy", 0)
    slots_y = plan.splits.get("yx", 0) + plan.splits.get("yy", 0)
    slots = max(slots_x, slots_y)
    gradient = wanted.grad_x or wanted.grad_y
    potential = partial = panel = dummy
    if wanted.grad_wx or wanted.grad_wy:
        potential = torch.empty((batch, slots, lanes), dtype=torch.float64, device=device)
    panel_stride = panel_y = 0
    if plan.panel:
        panel_stride = _panel_columns(problem) // ROW_PADDING
        panel_y = 0 if problem.blocks == "xy" else cdiv(problem.x.rows, ROW_PADDING)
    programs = plan.programs
    total = sum(programs.values())
    shared = {
        "potential": potential,
        "sums": sums[:, sums_start:] if with_sums else sums,
        "coefs": problem.coefs.values, "coef_stride": problem.coefs.stride,
        "first_x": plan.first_x, "tiles_x": plan.tiles_x,
        "first_y": plan.first_y, "tiles_y": plan.tiles_y,
        "sums_stride": sums.stride(0), "slots": slots,
        "GRADIENT": gradient, "PANEL": plan.panel,
        "POTENTIAL": wanted.grad_wx or wanted.grad_wy, "SUMS": with_sums,
        "BLOCKS": problem.blocks, "BM": config.rows,
    }  # fmt: skip
    if problem.gram:
        partial = _run_gram_rows(problem, plan, total, lanes, slots, panel_stride, panel_y, shared,
                                 out)  # fmt: skip
    else:
        width = panel_stride * ROW_PADDING
        if plan.panel:
            panel = torch.empty((batch, lanes, width), dtype=torch.float32, device=device)
        elif gradient:
            shape = (batch, slots * lanes, problem.width)
            partial = torch.empty(shape, dtype=torch.float32, device=device)
        launcher.launch(
            gradients.gradient_kernel, (total * batch,), config,
            **problem.arguments(), **shared, partial=partial, panel=panel,
            panel_stride=panel_stride, panel_y=panel_y, programs=total,
            programs_xx=programs.get("xx", 0), programs_xy=programs.get("xy", 0),
            programs_yx=programs.get("yx", 0),
            splits_xx=plan.splits.get("xx", 0), splits_xy=plan.splits.get("xy", 0),
            splits_yx=plan.splits.get("yx", 0), splits_yy=plan.splits.get("yy", 0),
            BN=config.columns,
        )  # fmt: skip
    if problem.gram and plan.panel:  # whose gradients are finished
        wanted = wanted._replace(grad_x=False, grad_y=False)
        if not (regions or wanted.grad_wx or wanted.grad_wy):
            return
    common = {
        "partial": partial,
        "potential": potential,
        "panel": panel,
        "panel_stride": panel_stride,
        "panel_y": panel_y,
        "slots": slots,
    }
    _finish(problem, wanted, sums, regions, adds, out, plan, slots_x, slots_y, common)


def _run_gram_rows(
    problem: Prepared, plan: Rows, total: int, lanes: int, slots: int, panel_stride: int,
    panel_y: int, shared: dict[str, Any], out: Results,
) -> Tensor:  # fmt: skip
    """The gradient kernel, and what follows from its flags and its panel. Returns the partial
    gradients."""
    assert problem.form is not None
    config, batch, device = plan.config, problem.batch, problem.rates.values.device
    dummy = problem.rates.values
    partial = masses = low_panel = panel = panel_scale = dummy
    splits = {
        name: max((plan.splits[p] for p in plan.splits if p[1] == name), default=1) for name in "xy"
    }
    rows = {"x": problem.x.rows, "y": problem.y.rows}
    each = max(cdiv(cdiv(rows[name], config.columns), splits[name]) for name in "xy")
    words = max(1, cdiv(each, 32))
    gradient: bool = shared["GRADIENT"]
    if plan.panel:
        shape = (batch, lanes, panel_stride * ROW_PADDING)
        panel = torch.empty(shape, dtype=torch.float16, device=device)
        low_panel = torch.empty_like(panel)
        scales = (batch, lanes, panel_stride * ROW_PADDING // config.columns)
        panel_scale = torch.empty(scales, dtype=torch.float32, device=device)
        masses = torch.empty((batch, slots, lanes), dtype=torch.float64, device=device)
        partial = torch.zeros((batch, 2 * lanes, problem.width), device=device)
    elif gradient:
        partial = torch.empty((batch, slots * lanes, problem.width), device=device)
    shared |= {
        "partial": partial, "splits_x": splits["x"], "splits_y": splits["y"],
        "flags": torch.zeros((batch, total * words), dtype=torch.int32, device=device),
        "flags_stride": total * words, "words": words,
    }  # fmt: skip
    of_panel = {
        "panel": panel, "low_panel": low_panel, "panel_scale": panel_scale, "masses": masses,
        "panel_stride": panel_stride, "panel_y": panel_y,
    }  # fmt: skip
    launcher.launch(
        gram.gram_gradient_kernel, (total * batch,), config,
        **problem.gram_arguments(), **shared, **of_panel, programs=total,
        NEAR=problem.near, BK=config.slice, BN=config.columns,
    )  # fmt: skip
    again = sum(programs // plan.splits[pair] for pair, programs in plan.programs.items())
    launcher.launch(
        redo.redo_gradient_kernel, (again * batch,), config.again(),
        **problem.redo_arguments(), **shared, programs=again, D=problem.width,
        BN=config.again().columns, TILE=config.columns,
    )  # fmt: skip
    if plan.panel:
        product = problem.table.panel_product
        finer = {k: shared[k] * (config.rows // product.rows) for k in TILES}
        tiles = (finer["tiles_x"] + finer["tiles_y"]) * cdiv(problem.coordinates, product.slice)
        arguments = problem.gram_arguments()
        kept = ("x0", "x1", "x_weight", "n", "padded_x", "y0", "y1", "y_weight", "m", "padded_y")
        names = ("splits_x", "splits_y", "slots", "partial", "BLOCKS")
        launcher.launch(
            gram.gram_product_kernel, (tiles * batch,), product,
            **{k: arguments[k] for k in (*kept, "METRIC", "WEIGHTED", "D")},
            **{k: shared[k] for k in names}, **finer, **of_panel, programs=tiles,
            d=problem.coordinates, scale=problem.form.scale,
            grad_x=out.grad_x, grad_y=out.grad_y,
            BM=product.rows, BN=config.columns, BD=product.slice,
        )  # fmt: skip
    return partial


def _finish(
    problem: Prepared, wanted: Wanted, sums: Tensor, regions: tuple[Region, ...], adds: bool,
    out: Results, plan: Rows | None = None, slots_x: int = 0, slots_y: int = 0,
    common: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Sums the partials in a fixed order. ``regions`` is empty if there are no sums to finish;
    ``adds``: to those that are there."""
    dummy = problem.rates.values
    if common is None:
        common = dict.fromkeys(("partial", "potential", "panel"), dummy)
        common |= dict.fromkeys(("panel_stride", "panel_y", "slots"), 0)
    table = problem.table
    rows_x = rows_y = tiles = 0
    config, per_program, columns = table.small._replace(registers=MOST), 16, 16
    if plan is not None:
        rows_x, rows_y = plan.tiles_x * plan.config.rows, plan.tiles_y * plan.config.rows
        per_program, columns = 16, plan.config.columns
        config = plan.config._replace(
            rows=min(32, plan.config.rows),
            warps=plan.config.warps if plan.panel else 4,
            registers=MOST,
        )
        if not plan.panel:
            per_program = min(64, 1 << (problem.width - 1).bit_length())
        chunks = cdiv(problem.coordinates, per_program)
        tiles = cdiv(rows_x + rows_y, config.rows) * chunks
    padded = (*regions, Region(), Region(), Region())[:3]
    total = tiles + len(regions) * len(problem.components)
    shared = problem.arguments()
    for name in ("rates", "rate_stride", "FUNCTIONS", "SHAPES", "OFFSETS"):
        del shared[name]
    panel = plan is not None and plan.panel and not problem.gram
    scale = dummy if problem.form is None else problem.form.scale
    launcher.launch(
        gradients.finish_kernel, (total * problem.batch,), config,
        **shared, **common, programs=total, sums=sums, out=out.sums, adds=int(adds),
        sums_stride=sums.stride(0),
        start_xx=padded[0].start, start_yy=padded[1].start, start_xy=padded[2].start,
        count_xx=padded[0].programs, count_yy=padded[1].programs, count_xy=padded[2].programs,
        width_xx=padded[0].width, width_yy=padded[1].width, width_xy=padded[2].width,
        first_x=0 if plan is None else plan.first_x * plan.config.rows, rows_x=rows_x,
        first_y=0 if plan is None else plan.first_y * plan.config.rows, rows_y=rows_y,
        slots_x=slots_x, slots_y=slots_y,
        grad_x=out.grad_x, grad_y=out.grad_y, grad_wx=out.grad_wx, grad_wy=out.grad_wy,
        BLOCKS=problem.blocks, C=len(problem.components), SUMS=bool(regions),
        GRADIENT_X=wanted.grad_x, GRADIENT_Y=wanted.grad_y,
        POTENTIAL_X=wanted.grad_wx, POTENTIAL_Y=wanted.grad_wy,
        PANEL=panel, SCALED=problem.gram, scale=scale,
        BM=config.rows, BN=columns, BD=per_program, BE=1024,
    )  # fmt: skip


def sweep(problem: PairProblem) -> Sweep:
    """Sums and gradients of a flat problem."""
    with torch.cuda.device_of(problem.x):  # type: ignore[no-untyped-call]
        found = zip(_sweep(problem), problem.wanted, strict=True)
        return Sweep(*(t if wanted else None for t, wanted in found))


def form(problem: PairProblem) -> tuple[Tensor | None, ...]:
    """L [B] of a flat problem and its gradients, by our kernels alone."""
    with torch.cuda.device_of(problem.x):  # type: ignore[no-untyped-call]
        if small.applies(problem):
            return small.form(problem)
    numbers = problem.sum_coefs
    wanted = problem.wanted._replace(sums=True)
    sums, *gradients = sweep(problem._replace(coefs=numbers, means="sums", wanted=wanted))
    assert sums is not None
    with torch.cuda.device_of(problem.x):  # type: ignore[no-untyped-call]
        return small.total(sums, numbers, problem), *gradients


def _sweep(asked: PairProblem) -> Results:
    x, wanted, names = asked.x, asked.wanted, block_names(asked.blocks)
    problem, components = prepare(asked), asked.components
    batch, n, m, d = problem.batch, problem.x.rows, problem.y.rows, problem.coordinates
    f64 = torch.float64
    sums_out = (batch, len(names), len(components)) if wanted.sums else (0,)
    shapes = (  # distinct tensors also where nothing is wanted: operators may not alias outputs
        (batch, n, d) if wanted.grad_x else (0,),
        (batch, m, d) if wanted.grad_y else (0,),
        (batch, n) if wanted.grad_wx else (0,),
        (batch, m) if wanted.grad_wy else (0,),
    )
    out = Results(
        torch.empty(sums_out, dtype=f64, device=x.device), *(x.new_empty(s) for s in shapes)
    )
    if batch == 0:
        return out
    rows = ("x" if wanted.grad_x or wanted.grad_wx else "") + (
        "y" if wanted.grad_y or wanted.grad_wy else ""
    )
    if rows and wanted.sums and problem.small and not problem.gram and asked.blocks == "all":
        rows = "xy"  # one launch for everything, even if it does some work in vain
    plans = _plan_rows(problem, rows, wanted.grad_x or wanted.grad_y) if rows else []
    covered: dict[str, str] = {}
    if wanted.sums:
        for pair in (pair for plan in plans for pair in plan.splits):
            covered.setdefault(BLOCK_OF[pair], pair)
    missing = tuple(b for b in names if b not in covered) if wanted.sums else ()
    values = _plan_values(problem, missing) if missing else None

    found: dict[str, Region] = {}
    start = 0
    if values is not None:
        for name in missing:
            found[name] = Region(start, values.programs[name], values.config.rows)
            start += len(components) * values.programs[name] * values.config.rows
    of_plans = [_regions(plan, covered, start, len(components)) for plan in plans]
    most = max([0, *(sum(plan.programs.values()) * plan.config.rows for plan in plans)])
    size = start + (most * len(components) if covered else 0)
    sums = torch.empty((batch, max(size, 1)), dtype=f64, device=x.device)
    if values is not None:
        _run_values(problem, values, sums)
    if not plans:
        _finish(problem, wanted, sums, tuple(found.values()), False, out)
    for number, (plan, regions) in enumerate(zip(plans, of_plans, strict=True)):
        held = {**found, **regions} if number == 0 else regions
        finished = tuple(held.get(name, Region()) for name in names) if held else ()
        _run_rows(problem, plan, wanted, bool(regions), sums, finished, number > 0, start, out)
    return out
