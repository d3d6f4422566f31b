"""What the launches of one sweep share: the samples as the kernels take them, rates and
coefficients on the device, and the choice between the difference form and the Gram form."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from operator import itemgetter, or_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..problem import Blocks, Component, PairProblem, metric_of
from . import compat, gram
from . import differences as kernels
from .configs import FUSED_WIDTH, Config, Device, Table, device_of

FEW = 16  # coordinates up to which differences are cheaper than a Gram matrix
SMALL = 2048  # rows up to which a panel of all pairs' weights is kept
SMALL_WORK = 2**28  # pairs·coordinates up to which a small problem avoids the tensor cores
ROW_PADDING = kernels.PADDING.value
CENTRE_COLUMNS = 32  # of a program that takes medians
KEPT = 4096  # lists of rates or coefficients that stay on a device


_Pick = Callable[[Any], tuple[Any, ...]]


@lru_cache(maxsize=64)
def _parameters(kernel: Any) -> tuple[_Pick, _Pick, _Pick, _Pick]:
    """Of a kernel's arguments, its pointers, integers and compile-time arguments; and of these in
    a row, all in the kernel's order."""
    pointers: list[str] = []
    integers: list[str] = []
    static: list[str] = []
    for parameter in kernel.params:
        kind = integers if parameter.do_not_specialize else pointers
        (static if parameter.is_constexpr else kind).append(parameter.name)
    row = [*pointers, *integers, *static]
    order = itemgetter(*(row.index(name) for name in kernel.arg_names))
    return _pick(pointers), _pick(integers), _pick(static), order


def _pick(names: list[str]) -> _Pick:
    one = names[0]
    return itemgetter(*names) if len(names) > 1 else lambda values: (values[one],)


_compiled: dict[tuple[Any, ...], Any] = {}


def launch(kernel: Any, grid: tuple[int, ...], config: Config, **arguments: Any) -> None:
    """Every launch of the backend passes here, on the current device and stream.

    Triton binds, types and formats all arguments at every launch, 40 µs for 60 of them. Here a
    kernel is kept under what it was compiled for: the device, the compile-time arguments, the
    dtypes of pointers and whether they are aligned to 16 bytes, and whether integers need 64 bits
    (nothing else of an integer: see ``differences.entry``)."""
    if compat.interpreting(kernel):
        with compat.quiet():
            kernel[grid](**arguments, **config.options())
        return
    pointers, integers, static, order = _parameters(kernel)
    tensors, numbers, constants = pointers(arguments), integers(arguments), static(arguments)
    addresses = [tensor.data_ptr() for tensor in tensors]
    aligned = wide = None  # nothing to tell apart, as nearly always
    if reduce(or_, addresses) % 16:
        aligned = tuple(address % 16 == 0 for address in addresses)
    if min(numbers) < -(2**31) or max(numbers) >= 2**31:
        wide = tuple(not -(2**31) <= number < 2**31 for number in numbers)
    dtypes = [tensor.dtype for tensor in tensors]
    device = compat.current_device()
    key = (kernel, config, device, constants, aligned, wide, *dtypes)
    found = _compiled.get(key)
    if found is None:
        _compiled[key] = kernel[grid](**arguments, **config.options())
    else:
        found[(*grid, 1, 1)[:3]](*order((*addresses, *numbers, *constants)))


class Sample(NamedTuple):
    """A sample [B, rows, d] as given, and its weights."""

    points: Tensor
    weights: Tensor
    rows: int
    strides: tuple[int, int, int]
    weight_strides: tuple[int, int]

    def arguments(self, name: str) -> dict[str, Any]:
        batch, row, coordinate = self.strides
        return {
            f"{name}0": self.points,
            f"w{name}": self.weights,
            "n" if name == "x" else "m": self.rows,
            f"{name}_sb": batch,
            f"{name}_sn": row,
            f"{name}_sd": coordinate,
            f"w{name}_sb": self.weight_strides[0],
            f"w{name}_sn": self.weight_strides[1],
        }


class Halves(NamedTuple):
    """The Gram form of a sample (see ``gram``), padded to ``units`` of ``ROW_PADDING``."""

    hi: Tensor  # [B, P, D] float16
    lo: Tensor
    norms: Tensor  # [B, P]
    most: Tensor  # [B, P / GROUP]: the largest norms
    weights: Tensor  # [B, P], where there are any
    units: int

    def arguments(self, name: str) -> dict[str, Any]:
        return {
            f"{name}0": self.hi,
            f"{name}1": self.lo,
            f"{name}_norm": self.norms,
            f"{name}_most": self.most,
            f"{name}_weight": self.weights,
            f"padded_{name}": self.units,
        }


class GramForm(NamedTuple):
    """Both samples in the Gram form. ``frame`` [B, 3 + 2C]: the largest sum of norms of a tile that
    is not done by differences, the least distance apart, the scale; rates and gains of the
    components. ``scale`` [B]: the scale alone."""

    x: Halves
    y: Halves
    frame: Tensor
    scale: Tensor


class Numbers(NamedTuple):
    """Rates or coefficients on the device: a row of numbers per batch item, or one for all."""

    values: Tensor
    stride: int


_constants: dict[tuple[tuple[float, ...], torch.device, torch.dtype], Tensor] = {}


def constant(
    values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Numbers on the device. Those that are kept are never dropped, since a captured CUDA graph
    may read them. Numbers first met during a capture, and those beyond ``KEPT``, are not kept but
    written by fills, which a capture records."""
    key = (values, device, dtype)
    if key not in _constants:
        capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if capturing or len(_constants) >= KEPT:
            made = torch.empty(len(values), dtype=dtype, device=device)
            for at, value in enumerate(values):
                made[at].fill_(value)
            return made
        _constants[key] = torch.tensor(values, dtype=dtype, device=device)
    return _constants[key]


def _numbers(
    values: Sequence[float] | Tensor, device: torch.device, dtype: torch.dtype = torch.float32
) -> Numbers:
    if isinstance(values, Tensor):
        values = values.to(dtype).flatten(1)
    return rates_of(values, device, dtype)


def rates_of(
    rates: Sequence[float] | Tensor, device: torch.device, dtype: torch.dtype = torch.float32
) -> Numbers:
    """Rates on the device, in ``dtype`` or, where they are tensors [B, C], as they are."""
    if isinstance(rates, Tensor):
        return Numbers(rates.contiguous(), rates.shape[1])
    return Numbers(constant(tuple(rates), device, dtype), 0)


@lru_cache(maxsize=256)
def functions(components: tuple[Component, ...]) -> dict[str, Any]:
    """The components as compile-time arguments. A digest of their sources is part of them, since
    Triton's cache on disk knows the members of a tuple only by name."""
    sources = "".join(inspect.getsource(c.function.device) for c in components)
    digest = hashlib.sha256(sources.encode()).hexdigest()
    twins = tuple(compat.device_function(c.function) for c in components)
    return {
        "FUNCTIONS": (*twins, digest),
        "SHAPES": tuple(_whole(c.shape) for c in components),
        "OFFSETS": tuple(c.offset for c in components),
        "METRIC": metric_of(components),
    }


def powers(components: tuple[Component, ...], rates: Sequence[float] | Tensor) -> tuple[int, ...]:
    """For each component 0, or 1 and then 3 for neighbours of which one is the fourth power of the
    other, or 1 and then 2 where the device must find out whether it is."""
    found: list[int] = []
    while len(found) < len(components):
        first = len(found)
        a, *others = components[first : first + 2]
        pair = a.function.fourth_power and others == [a]
        if pair and not isinstance(rates, Tensor):
            low, high = sorted(rates[first : first + 2])
            found += [1, 3] if math.isclose(high, 4.0 * low, rel_tol=2.0**-23) else [0, 0]
        else:
            found += [1, 2] if pair else [0]
    return tuple(found)


def _whole(shape: float) -> float | int:
    """A whole number as an int, which the device twins can count to."""
    return int(shape) if float(shape).is_integer() else shape


class Prepared(NamedTuple):
    """The arguments that the kernels of one sweep share."""

    x: Sample
    y: Sample
    batch: int
    coordinates: int
    width: int  # the D of the kernels
    form: GramForm | None
    small: bool
    rates: Numbers
    powers: tuple[int, ...]
    coefs: Numbers
    components: tuple[Component, ...]
    blocks: Blocks
    weighted: bool
    device: Device

    @property
    def table(self) -> Table:
        return self.device.architecture.table(len(self.components))

    @property
    def gram(self) -> bool:
        return self.form is not None

    @property
    def near(self) -> bool:
        """Whether a function is not smooth at 0."""
        return not all(c.function.smooth for c in self.components)

    @property
    def heavy(self) -> bool:
        """Whether functions take more registers: they look at their nearest pairs, take powers
        beyond the fourth, or are several costly ones."""
        several = len(self.components) > 1
        return self.near or any(
            c.shape > 4.0 or (several and c.function.costly) for c in self.components
        )

    def arguments(self) -> dict[str, Any]:
        """Those of the kernels of the difference form."""
        return {
            **self.x.arguments("x"),
            **self.y.arguments("y"),
            **functions(self.components),
            "rates": self.rates.values,
            "rate_stride": self.rates.stride,
            "d": self.coordinates,
            "WEIGHTED": self.weighted,
            "D": self.width,
        }

    def gram_arguments(self) -> dict[str, Any]:
        """Those of the kernels of the Gram form."""
        assert self.form is not None
        return {
            **self.form.x.arguments("x"),
            **self.form.y.arguments("y"),
            **functions(self.components),
            "n": self.x.rows,
            "m": self.y.rows,
            "frame": self.form.frame,
            "WEIGHTED": self.weighted,
            "D": self.width,
        }

    def redo_arguments(self) -> dict[str, Any]:
        """Those of the kernels that form tiles again, from the rows as given."""
        assert self.form is not None
        found = {**functions(self.components), "frame": self.form.frame, "d": self.coordinates}
        found["WEIGHTED"] = self.weighted
        for name, sample, halves in (("x", self.x, self.form.x), ("y", self.y, self.form.y)):
            found |= {
                name: sample.points,
                "n" if name == "x" else "m": sample.rows,
                f"{name}_sb": sample.strides[0],
                f"{name}_sn": sample.strides[1],
                f"{name}_sd": sample.strides[2],
                f"{name}_weight": halves.weights,
                f"padded_{name}": halves.units,
            }
        return found

    def panel_arguments(self) -> dict[str, Any]:
        """Those of the kernel of quadratic forms, of one sample."""
        x, rates = self.x, self.rates.values
        found = {
            **functions(self.components), "x0": x.points, "x1": x.points, "x_norm": x.points,
            "x_most": x.points, "n": x.rows, "x_sn": x.strides[1], "x_sd": x.strides[2],
            "d": self.coordinates, "D": self.width, "rates": rates, "frame": rates,
            "GRAM": self.gram, "NEAR": self.near, "WIDE": self.small and not self.gram,
        }  # fmt: skip
        if self.form is not None:
            halves = self.form.x.arguments("x")
            found |= {name: halves[name] for name in ("x0", "x1", "x_norm", "x_most")}
            found["frame"] = self.form.frame
        return found


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _padded_width(d: int, config: Config) -> int:
    """D of the Gram form: a power of two that is one slice or few, or a multiple of the slice."""
    if d <= FUSED_WIDTH:
        return max(32, 1 << (d - 1).bit_length())
    return cdiv(d, config.slice) * config.slice


def sliced(config: Config, width: int) -> Config:
    return config._replace(slice=min(config.slice, width))


def _gram_form(
    x: Sample, y: Sample, width: int, config: Config, components: tuple[Component, ...],
    rates: Numbers, weighted: bool,
) -> GramForm:  # fmt: skip
    batch, n, d = x.points.shape
    m, device = y.rows, x.points.device
    centred = metric_of(components) == "sqeuclidean"
    chunks = cdiv(d, CENTRE_COLUMNS)
    centre = torch.empty((batch, d), dtype=torch.float32, device=device)
    reach = torch.empty((batch, chunks, gram.SUBSAMPLE.value), dtype=torch.float32, device=device)
    x_sb, x_sn, x_sd = x.strides
    y_sb, y_sn, y_sd = y.strides
    shared = {
        "x": x.points, "y": y.points, "n": n, "m": m, "d": d, "centre": centre, "reach": reach,
        "x_sb": x_sb, "x_sn": x_sn, "x_sd": x_sd, "y_sb": y_sb, "y_sn": y_sn, "y_sd": y_sd,
        "CENTRED": centred,
    }  # fmt: skip
    launch(
        gram.gram_centre_kernel, (batch, chunks), Config(0, CENTRE_COLUMNS, 0, 4, 1),
        **shared, BD=CENTRE_COLUMNS,
    )  # fmt: skip
    halves = []
    for rows in (n, m):
        units = cdiv(rows, ROW_PADDING)
        padded = units * ROW_PADDING
        hi = torch.empty((batch, padded, width), dtype=torch.float16, device=device)
        norms = torch.empty((batch, padded), dtype=torch.float32, device=device)
        most = norms.new_empty((batch, padded // gram.GROUP.value))
        weights = torch.empty_like(norms) if weighted else norms
        halves.append(Halves(hi, torch.empty_like(hi), norms, most, weights, units))
    count = len(components)
    scale = torch.empty(batch, dtype=torch.float32, device=device)
    frame = scale.new_empty((batch, gram.FRAME.value + 2 * count))
    form = GramForm(halves[0], halves[1], frame, scale)
    tiles = ROW_PADDING // gram.SPLIT_ROWS.value
    programs = (form.x.units + form.y.units) * tiles
    launch(
        gram.gram_split_kernel, (programs * batch,), Config(64, 64, config.slice, 8, 2),
        **shared, **form.x.arguments("x"), **form.y.arguments("y"),
        tiles=programs, tiles_x=form.x.units * tiles, chunks=chunks,
        wx=x.weights, wx_sb=x.weight_strides[0], wx_sn=x.weight_strides[1],
        wy=y.weights, wy_sb=y.weight_strides[0], wy_sn=y.weight_strides[1],
        rates=rates.values, rate_stride=rates.stride, frame=form.frame, scale=scale,
        WEIGHTED=weighted, D=width, BK=config.slice,
        RATE_POWERS=tuple(c.function.rate_power for c in components),
        STEEPNESS=tuple(
            float(c.function.smooth) * c.function.steepness(1.0, c.shape) for c in components
        ),
        SHAPES=tuple(float(c.shape) for c in components),
    )  # fmt: skip
    return form


def _sample(x: Tensor, weights: Tensor | None) -> Sample:
    if weights is None:
        weights = constant((1.0,), x.device).expand(x.shape[0], x.shape[1])
    b, n, d = x.stride()
    wb, wn = weights.stride()
    return Sample(x, weights, x.shape[1], (b, n, d), (wb, wn))


def prepare(asked: PairProblem, *, differences: bool = False) -> Prepared:
    """What the kernels take of a flat problem. ``differences``: never the Gram form."""
    x, y, wx, wy, rates, coefs, components, blocks = asked[:8]
    batch, n, d = x.shape
    m = 0 if y is None else y.shape[1]
    device = device_of(x.device)
    x_sample = _sample(x, wx)
    y_sample = x_sample._replace(rows=0) if y is None else _sample(y, wy)
    small = n + m <= SMALL and batch * (n + m) ** 2 * d <= SMALL_WORK
    empty = n == 0 or (y is not None and m == 0)
    rate_numbers = _numbers(rates, x.device)
    width, form = d if d <= FEW else 0, None
    if not (differences or d <= FEW or small or empty or metric_of(components) == "l1"):
        config = device.architecture.table(len(components)).gram_value
        width = _padded_width(d, config)
        precise = _numbers(rates, x.device, torch.float64)
        weighted = wx is not None or wy is not None
        form = _gram_form(
            x_sample, y_sample, width, sliced(config, width), components, precise, weighted
        )
    return Prepared(
        x_sample,
        y_sample,
        batch,
        d,
        width,
        form,
        small,
        rate_numbers,
        powers(components, rates),
        _numbers(coefs, x.device) if len(coefs) else rate_numbers,
        components,
        blocks,
        wx is not None or wy is not None,
        device,
    )
