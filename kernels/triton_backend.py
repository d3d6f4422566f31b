"""The Triton backend: sweeps over CUDA tensors in fp32, without ever holding an N×M matrix.

Routes: the difference form for at most ``FEW`` coordinates, for L1 and for small problems (two
launches in all); the split Gram form for the rest. Nothing here waits for the device, and after
the first call with its arguments a sweep can be captured in a CUDA graph.
"""

from __future__ import annotations

import hashlib
import inspect
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _compat
from . import triton_kernels as kernels
from .plan import Blocks, Component, Sweep, Wanted, block_names, metric_of
from .subsample import pooled_rows
from .triton_configs import Config, Device, device_of

FEW = 16  # coordinates up to which differences are cheaper than a Gram matrix
SMALL = 2048  # rows up to which a panel of all pairs' weights is kept
SMALL_WORK = 2**28  # pairs·coordinates up to which a small problem avoids the tensor cores
FUSED_WIDTH = 128  # coordinates up to which gradients accumulate in registers
PANEL_BYTES = 2**28
ROW_PADDING = kernels.PADDING.value
CENTRE_ROWS = 33
PROGRAMS_PER_PROCESSOR = 4
MIN_PROGRAMS = 64
MAX_SPLITS = 16  # programs that share the columns of a tile of rows
CHUNK = 8  # tiles of columns that a program visits before it moves on to other rows


def unavailable(x: Tensor) -> str | None:
    """Why this backend cannot run on x, or None."""
    if x.dtype != torch.float32:
        return f"the Triton backend computes in float32, not {x.dtype}"
    if not x.is_cuda and not _compat.interpreting(kernels.value_kernel):
        return f"the Triton backend needs a CUDA tensor; got one on {x.device}"
    if x.is_cuda and torch.cuda.get_device_capability(x.device) < (8, 0):
        return "the Triton backend needs compute capability 8.0 or newer"
    return None


def launch(kernel: Any, grid: tuple[int, ...], config: Config, **arguments: Any) -> None:
    """Every launch of the backend passes here."""
    with _compat.quiet(kernel):
        kernel[grid](**arguments, num_warps=config.warps, num_stages=config.stages)


class Sample(NamedTuple):
    """A sample as the kernels take it. In the Gram form the points are the halves hi and lo."""

    points: Tensor
    low: Tensor
    norms: Tensor
    weights: Tensor
    count: int
    strides: tuple[int, int, int]
    weight_strides: tuple[int, int]

    def arguments(self, name: str, norms: bool = True) -> dict[str, Any]:
        batch, row, coordinate = self.strides
        found = {
            f"{name}0": self.points,
            f"{name}1": self.low,
            f"{name}_norm": self.norms,
            f"w{name}": self.weights,
            "n" if name == "x" else "m": self.count,
            f"{name}_sb": batch,
            f"{name}_sn": row,
            f"{name}_sd": coordinate,
            f"w{name}_sb": self.weight_strides[0],
            f"w{name}_sn": self.weight_strides[1],
        }
        if not norms:
            del found[f"{name}_norm"]
        return found


class Numbers(NamedTuple):
    """Rates or coefficients on the device: a row of numbers per batch item, or one for all."""

    values: Tensor
    stride: int


@lru_cache(maxsize=4096)
def _uploaded(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def _numbers(values: list[float] | Tensor, device: torch.device) -> Numbers:
    if isinstance(values, Tensor):
        flat = values.to(torch.float32).flatten(1).contiguous()
        return Numbers(flat, flat.shape[1])
    return Numbers(_uploaded(tuple(values), device), 0)


@lru_cache(maxsize=256)
def _functions(components: tuple[Component, ...]) -> dict[str, Any]:
    """The components as compile-time arguments. A digest of their sources is part of them, since
    Triton's cache on disk knows the members of a tuple only by name."""
    sources = "".join(inspect.getsource(c.function.device) for c in components)
    digest = hashlib.sha256(sources.encode()).hexdigest()
    twins = tuple(_compat.device_function(c.function) for c in components)
    return {
        "FUNCTIONS": (*twins, digest),
        "SHAPES": tuple(_whole(c.shape) for c in components),
        "OFFSETS": tuple(c.offset for c in components),
        "METRIC": metric_of(components),
    }


def _whole(shape: float) -> float | int:
    """A whole number as an int, which the device twins can count to."""
    return int(shape) if float(shape).is_integer() else shape


class Problem(NamedTuple):
    """The arguments that the kernels of one sweep share."""

    x: Sample
    y: Sample
    batch: int
    coordinates: int
    width: int  # the D of the kernels
    gram: bool
    small: bool
    inverse: Tensor  # [B]: the inverse of the Gram form's scale
    rates: Numbers
    coefs: Numbers
    components: tuple[Component, ...]
    blocks: Blocks
    weighted: bool
    device: Device

    def arguments(self) -> dict[str, Any]:
        return {
            **self.x.arguments("x"),
            **self.y.arguments("y"),
            **_functions(self.components),
            "rates": self.rates.values,
            "rate_stride": self.rates.stride,
            "scale_inverse": self.inverse,
            "d": self.coordinates,
            "GRAM": self.gram,
            "WEIGHTED": self.weighted,
            "D": self.width,
        }


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _padded_width(d: int, config: Config) -> int:
    """D of the Gram form: a power of two that is one slice or few, or a multiple of the slice."""
    if d <= FUSED_WIDTH:
        return max(32, 1 << (d - 1).bit_length())
    return _cdiv(d, config.slice) * config.slice


def _sliced(config: Config, width: int) -> Config:
    return config._replace(slice=min(config.slice, width))


def _split(
    x: Tensor, sample: Sample, centre: Tensor, scale: Tensor, centred: bool, width: int,
    config: Config,
) -> Sample:  # fmt: skip
    """The Gram form of a sample: padded halves and their norms."""
    batch, n, d = x.shape
    padded = _cdiv(n, ROW_PADDING) * ROW_PADDING
    hi = torch.empty((batch, padded, width), dtype=torch.float16, device=x.device)
    lo = torch.empty_like(hi)
    blocks = padded // 32
    launch(
        kernels.split_kernel, (blocks * batch, width // 32), Config(32, 0, 32, 4, 1),
        programs=blocks, x=x, centre=centre, scale=scale, hi=hi, lo=lo, n=n, d=d,
        stride_b=x.stride(0), stride_n=x.stride(1), stride_d=x.stride(2), padded=padded // ROW_PADDING,
        CENTRED=centred, D=width, BM=32, BK=32,
    )  # fmt: skip
    norms = torch.empty((batch, padded), dtype=torch.float32, device=x.device)
    if centred:
        blocks = padded // config.rows
        launch(
            kernels.norm_kernel, (blocks * batch,), config,
            programs=blocks, hi=hi, lo=lo, norm=norms, padded=padded // ROW_PADDING,
            D=width, BK=config.slice, BM=config.rows, BN=config.columns,
        )  # fmt: skip
    strides = (padded // ROW_PADDING, width, 1)  # the first in the kernels' units
    return sample._replace(points=hi, low=lo, norms=norms, strides=strides)


def _scale(x: Tensor, y: Tensor | None, centre: Tensor) -> Tensor:
    """[B]: the power of two that brings the largest |coordinate| into [2¹³, 2¹⁴)."""
    largest = x.new_zeros(x.shape[0])
    for sample in (x,) if y is None else (x, y):
        low, high = sample.aminmax(dim=1)
        reach = torch.maximum(high - centre, centre - low)
        largest = torch.maximum(largest, reach.amax(1))
    exponent = (14 - torch.frexp(largest).exponent).clamp(-60, 60)
    scale = torch.ldexp(torch.ones_like(largest), exponent)
    return torch.where(largest.isfinite(), scale, torch.nan)


def _sample(x: Tensor, weights: Tensor | None) -> Sample:
    if weights is None:
        weights = _uploaded((1.0,), x.device).expand(x.shape[0], x.shape[1])
    b, n, d = x.stride()
    wb, wn = weights.stride()
    return Sample(x, x, x, weights, x.shape[1], (b, n, d), (wb, wn))


def _problem(
    x: Tensor, y: Tensor | None, wx: Tensor | None, wy: Tensor | None,
    components: tuple[Component, ...], rates: list[float] | Tensor,
    coefs: list[float] | Tensor | None, blocks: Blocks,
) -> Problem:  # fmt: skip
    batch, n, d = x.shape
    m = 0 if y is None else y.shape[1]
    device = device_of(x.device)
    metric = metric_of(components)
    x_sample = _sample(x, wx)
    y_sample = x_sample._replace(count=0) if y is None else _sample(y, wy)
    small = n + m <= SMALL and batch * (n + m) ** 2 * d <= SMALL_WORK
    empty = n == 0 or (y is not None and m == 0)
    gram = not (d <= FEW or small or empty or metric == "l1")
    rate_numbers = _numbers(rates, x.device)
    width = d if d <= FEW else 0
    inverse = rate_numbers.values
    if gram:
        table = device.architecture
        width = _padded_width(d, table.gram_value)
        config = _sliced(table.gram_value, width)
        centred = metric == "sqeuclidean"
        centre = x.new_zeros((batch, d))
        if centred:
            centre = pooled_rows(x, y, CENTRE_ROWS).median(dim=1).values.contiguous()
        scale = _scale(x, y, centre)
        inverse = scale.reciprocal()
        x_sample = _split(x, x_sample, centre, scale, centred, width, config)
        if y is None:
            y_sample = x_sample._replace(count=0)
        else:
            y_sample = _split(y, y_sample, centre, scale, centred, width, config)
    return Problem(
        x_sample,
        y_sample,
        batch,
        d,
        width,
        gram,
        small,
        inverse,
        rate_numbers,
        rate_numbers if coefs is None else _numbers(coefs, x.device),
        components,
        blocks,
        wx is not None or wy is not None,
        device,
    )


class Region(NamedTuple):
    """Where the partial sums of one block lie: ``count`` programs of [C, ``width``] numbers."""

    start: int = 0
    count: int = 0
    width: int = 1


class Values(NamedTuple):
    """A planned launch of the value kernel."""

    config: Config
    chunk: int
    programs: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.programs.values())


def _target(device: Device) -> int:
    """Programs enough to fill the GPU."""
    return max(MIN_PROGRAMS, PROGRAMS_PER_PROCESSOR * device.processors)


def _plan_values(problem: Problem, names: tuple[str, ...]) -> Values:
    table = problem.device.architecture
    config = table.gram_value if problem.gram else table.difference_value
    if problem.small and not problem.gram:
        config = table.small_value
    config = _sliced(config, problem.width) if problem.gram else config
    tx, ty = _cdiv(problem.x.count, config.rows), _cdiv(problem.y.count, config.rows)
    shapes = {"xx": (tx, tx // 2 + 1), "yy": (ty, ty // 2 + 1), "xy": (tx, ty)}
    target = _cdiv(_target(problem.device), problem.batch)
    chunk = CHUNK
    while True:
        units = {name: shapes[name][0] * _cdiv(shapes[name][1], chunk) for name in names}
        if chunk == 1 or sum(units.values()) >= target:
            break
        chunk //= 2
    everything = max(1, sum(units.values()))
    programs = {
        name: max(1, min(unit, _cdiv(target * unit, everything))) for name, unit in units.items()
    }
    return Values(config, chunk, programs)


def _run_values(problem: Problem, plan: Values, sums: Tensor) -> None:
    config = plan.config
    launch(
        kernels.value_kernel, (plan.total * problem.batch,), config,
        **problem.arguments(), sums=sums, programs=plan.total,
        programs_xx=plan.programs.get("xx", 0), programs_yy=plan.programs.get("yy", 0),
        chunk=plan.chunk, sums_stride=sums.stride(0),
        BK=config.slice, BM=config.rows, BN=config.columns,
    )  # fmt: skip


class Rows(NamedTuple):
    """A planned launch of the gradient kernel: tiles of rows of x and y, the pairs (sample of the
    rows, sample of the columns) they meet and the number of programs that share a tile's columns."""

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
BLOCK_OF = {"xx": "xx", "xy": "xy", "yx": "xy", "yy": "yy"}


def _plan_rows(problem: Problem, rows: str, gradient: bool) -> list[Rows]:
    """``rows``: "x", "y" or "xy", the samples whose rows are visited."""
    table = problem.device.architecture
    panel = gradient and problem.coordinates > (FUSED_WIDTH if problem.gram else FEW)
    if problem.gram and panel:
        config = table.gram_panel
    elif problem.gram:
        one = len(problem.components) == 1
        configs = table.gram_gradient if one else table.gram_gradient_sum
        config = configs[min(problem.width, FUSED_WIDTH)]
    elif problem.small:
        config = table.small
    else:
        config = table.difference_panel if panel else table.difference_gradient
    config = _sliced(config, problem.width) if problem.gram else config
    met = {"xx": ("xx",), "xy": ("xy", "yx"), "all": PAIRS}[problem.blocks]
    counts = {"x": problem.x.count, "y": problem.y.count}
    tiles = {s: _cdiv(counts[s], config.rows) if s in rows else 0 for s in "xy"}
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
        wish = min(MAX_SPLITS, _cdiv(target, busy))
        splits = {p: max(1, min(wish, _cdiv(counts[p[1]], config.columns))) for p in active}
        plans.append(Rows(config, first_x, tiles_x, first_y, tiles_y, splits, panel))
    return plans


def _panel_columns(problem: Problem) -> int:
    """Columns of the weight panel, those of x and of y padded apart."""
    padded = [_cdiv(s.count, ROW_PADDING) * ROW_PADDING for s in (problem.x, problem.y)]
    return max(padded) if problem.blocks == "xy" else sum(padded)


def _run_rows(
    problem: Problem, plan: Rows, wanted: Wanted, with_sums: bool, sums: Tensor,
    regions: tuple[Region, ...], sums_start: int, out: Sweep,
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
        panel_y = 0 if problem.blocks == "xy" else _cdiv(problem.x.count, ROW_PADDING)
        shape = (batch, lanes, panel_stride * ROW_PADDING)
        panel = torch.empty(shape, dtype=torch.float32, device=device)
    elif gradient:
        shape = (batch, slots, lanes, problem.width)
        partial = torch.empty(shape, dtype=torch.float32, device=device)
    programs = plan.programs
    total = sum(programs.values())
    common = {
        "partial": partial,
        "potential": potential,
        "panel": panel,
        "panel_stride": panel_stride,
        "panel_y": panel_y,
        "slots": slots,
    }
    launch(
        kernels.gradient_kernel, (total * batch,), config,
        **problem.arguments(), **common,
        sums=sums[:, sums_start:] if with_sums else sums,
        coefs=problem.coefs.values, coef_stride=problem.coefs.stride, programs=total,
        programs_xx=programs.get("xx", 0), programs_xy=programs.get("xy", 0),
        programs_yx=programs.get("yx", 0),
        first_x=plan.first_x, tiles_x=plan.tiles_x, first_y=plan.first_y, tiles_y=plan.tiles_y,
        splits_xx=plan.splits.get("xx", 0), splits_xy=plan.splits.get("xy", 0),
        splits_yx=plan.splits.get("yx", 0), splits_yy=plan.splits.get("yy", 0),
        sums_stride=sums.stride(0), GRADIENT=gradient, PANEL=plan.panel,
        POTENTIAL=wanted.grad_wx or wanted.grad_wy, SUMS=with_sums, BLOCKS=problem.blocks,
        BD=max(16, 1 << (max(problem.width, 1) - 1).bit_length()),
        BK=config.slice, BM=config.rows, BN=config.columns,
    )  # fmt: skip
    _finish(problem, wanted, sums, regions, out, plan, slots_x, slots_y, common)


def _finish(
    problem: Problem, wanted: Wanted, sums: Tensor, regions: tuple[Region, ...], out: Sweep,
    plan: Rows | None = None, slots_x: int = 0, slots_y: int = 0,
    common: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Sums the partials in a fixed order. ``regions`` is empty if there are no sums to finish."""
    dummy = problem.rates.values
    if common is None:
        common = dict.fromkeys(("partial", "potential", "panel"), dummy)
        common |= dict.fromkeys(("panel_stride", "panel_y", "slots"), 0)
    table = problem.device.architecture
    rows_x = rows_y = tiles = 0
    config, per_program, columns = table.small, 16, 16
    if plan is not None:
        rows_x, rows_y = plan.tiles_x * plan.config.rows, plan.tiles_y * plan.config.rows
        per_program, columns = 8, plan.config.columns
        config = plan.config._replace(rows=min(32, plan.config.rows), warps=4)
        if not plan.panel:
            per_program = min(64, 1 << (problem.width - 1).bit_length())
        elif problem.gram:
            config, per_program = table.panel_product, table.panel_product.slice
            columns = config.columns
        chunks = _cdiv(problem.coordinates, per_program)
        tiles = _cdiv(rows_x + rows_y, config.rows) * chunks
    padded = (*regions, Region(), Region(), Region())[:3]
    total = tiles + len(regions) * len(problem.components)
    shared = problem.arguments()
    for name in ("rates", "rate_stride", "FUNCTIONS", "SHAPES", "OFFSETS", "x_norm", "y_norm"):
        del shared[name]
    launch(
        kernels.finish_kernel, (total * problem.batch,), config,
        **shared, **common, programs=total, sums=sums, out=out.sums, sums_stride=sums.stride(0),
        start_xx=padded[0].start, start_yy=padded[1].start, start_xy=padded[2].start,
        count_xx=padded[0].count, count_yy=padded[1].count, count_xy=padded[2].count,
        width_xx=padded[0].width, width_yy=padded[1].width, width_xy=padded[2].width,
        first_x=0 if plan is None else plan.first_x * plan.config.rows, rows_x=rows_x,
        first_y=0 if plan is None else plan.first_y * plan.config.rows, rows_y=rows_y,
        slots_x=slots_x, slots_y=slots_y,
        grad_x=out.grad_x, grad_y=out.grad_y, grad_wx=out.grad_wx, grad_wy=out.grad_wy,
        BLOCKS=problem.blocks, C=len(problem.components), SUMS=bool(regions),
        GRADIENT_X=wanted.grad_x, GRADIENT_Y=wanted.grad_y,
        POTENTIAL_X=wanted.grad_wx, POTENTIAL_Y=wanted.grad_wy,
        PANEL=plan is not None and plan.panel,
        BM=config.rows, BN=columns, BD=per_program, BE=1024,
    )  # fmt: skip


def sweep(
    x: Tensor, y: Tensor | None, wx: Tensor | None, wy: Tensor | None,
    components: tuple[Component, ...], rates: list[float] | Tensor,
    coefs: list[float] | Tensor | None, blocks: Blocks, wanted: Wanted,
) -> Sweep:  # fmt: skip
    """Sums and gradients over the pairs of x [B, n, d] and y [B, m, d]; see ``plan``."""
    names = block_names(blocks)
    components = tuple(components)
    problem = _problem(x, y, wx, wy, components, rates, coefs, blocks)
    batch, n, m, d = problem.batch, problem.x.count, problem.y.count, problem.coordinates
    nothing = x.new_empty(0)
    f64 = torch.float64
    sums_out = (batch, len(names), len(components))
    out = Sweep(
        torch.empty(sums_out, dtype=f64, device=x.device) if wanted.sums else nothing.double(),
        x.new_empty((batch, n, d)) if wanted.grad_x else nothing,
        x.new_empty((batch, m, d)) if wanted.grad_y else nothing,
        x.new_empty((batch, n)) if wanted.grad_wx else nothing,
        x.new_empty((batch, m)) if wanted.grad_wy else nothing,
    )
    if batch == 0:
        return out
    rows = ("x" if wanted.grad_x or wanted.grad_wx else "") + (
        "y" if wanted.grad_y or wanted.grad_wy else ""
    )
    if rows and wanted.sums and problem.small and not problem.gram and blocks == "all":
        rows = "xy"  # one launch for everything, even if it does some work in vain
    plans = _plan_rows(problem, rows, wanted.grad_x or wanted.grad_y) if rows else []
    covered: dict[str, str] = {}
    if wanted.sums and len(plans) == 1:
        for pair in plans[0].splits:
            covered.setdefault(BLOCK_OF[pair], pair)
    missing = tuple(b for b in names if b not in covered) if wanted.sums else ()
    values = _plan_values(problem, missing) if missing else None

    found: dict[str, Region] = {}
    size = 0
    if values is not None:
        for name in ("xx", "yy", "xy"):
            if name in missing:
                found[name] = Region(size, values.programs[name], values.config.rows)
                size += len(components) * values.programs[name] * values.config.rows
    start = size
    if covered:
        first = start
        for pair, count in plans[0].programs.items():
            if covered.get(BLOCK_OF[pair]) == pair:
                found[BLOCK_OF[pair]] = Region(first, count, plans[0].config.rows)
            first += count * len(components) * plans[0].config.rows
        size = first
    sums = torch.empty((batch, max(size, 1)), dtype=f64, device=x.device)
    regions = tuple(found[name] for name in names) if wanted.sums else ()
    if values is not None:
        _run_values(problem, values, sums)
    if not plans:
        _finish(problem, wanted, sums, regions, out)
    for plan in plans:
        _run_rows(problem, plan, wanted, bool(covered), sums, regions, start, out)
        regions = ()
    return out
