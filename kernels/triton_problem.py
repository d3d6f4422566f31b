"""What the launches of one sweep share: the samples as the kernels take them, rates and
coefficients on the device, and the choice between the difference form and the Gram form."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable
from functools import lru_cache, reduce
from operator import itemgetter, or_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _compat
from . import triton_kernels as kernels
from .plan import Blocks, Component, metric_of
from .subsample import pooled_rows
from .triton_configs import Config, Device, Table, device_of

FEW = 16  # coordinates up to which differences are cheaper than a Gram matrix
SMALL = 2048  # rows up to which a panel of all pairs' weights is kept
SMALL_WORK = 2**28  # pairs·coordinates up to which a small problem avoids the tensor cores
FUSED_WIDTH = 128  # coordinates up to which gradients accumulate in registers
ROW_PADDING = kernels.PADDING.value
CENTRE_ROWS = 33
POWERS = ("gaussian", "laplace_l1")  # functions with k(s; 4a) = k(s; a)⁴
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
    (nothing else of an integer: see ``triton_kernels.entry``)."""
    if _compat.interpreting(kernel):
        with _compat.quiet():
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
    device = _compat.current_device()
    key = (kernel, config, device, constants, aligned, wide, *dtypes)
    found = _compiled.get(key)
    if found is None:
        _compiled[key] = kernel[grid](**arguments, **config.options())
    else:
        found[(*grid, 1, 1)[:3]](*order((*addresses, *numbers, *constants)))


class Sample(NamedTuple):
    """A sample as the kernels take it. In the Gram form the points are the halves hi and lo."""

    points: Tensor
    low: Tensor
    norms: Tensor
    weights: Tensor
    rows: int
    strides: tuple[int, int, int]
    weight_strides: tuple[int, int]

    def arguments(self, name: str, norms: bool = True) -> dict[str, Any]:
        batch, row, coordinate = self.strides
        found = {
            f"{name}0": self.points,
            f"{name}1": self.low,
            f"{name}_norm": self.norms,
            f"w{name}": self.weights,
            "n" if name == "x" else "m": self.rows,
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


def _numbers(values: list[float] | Tensor, device: torch.device) -> Numbers:
    if isinstance(values, Tensor):
        values = values.to(torch.float32).flatten(1)
    return rates_of(values, device)


def rates_of(rates: list[float] | Tensor, device: torch.device) -> Numbers:
    """Rates on the device, in fp32 or, where they are tensors [B, C], as they are."""
    if isinstance(rates, Tensor):
        return Numbers(rates.contiguous(), rates.shape[1])
    return Numbers(constant(tuple(rates), device), 0)


@lru_cache(maxsize=256)
def functions(components: tuple[Component, ...]) -> dict[str, Any]:
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


def powers(components: tuple[Component, ...], rates: list[float] | Tensor) -> tuple[int, ...]:
    """For each component 0, or 1 and then 3 for neighbours of which one is the fourth power of the
    other, or 1 and then 2 where the device must find out whether it is."""
    found: list[int] = []
    while len(found) < len(components):
        first = len(found)
        a, *others = components[first : first + 2]
        pair = a.function.name in POWERS and others == [a]
        if pair and not isinstance(rates, Tensor):
            low, high = sorted(rates[first : first + 2])
            found += [1, 3] if math.isclose(high, 4.0 * low, rel_tol=2.0**-23) else [0, 0]
        else:
            found += [1, 2] if pair else [0]
    return tuple(found)


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
    powers: tuple[int, ...]
    coefs: Numbers
    components: tuple[Component, ...]
    blocks: Blocks
    weighted: bool
    device: Device

    @property
    def table(self) -> Table:
        return self.device.architecture.table(len(self.components))

    def arguments(self) -> dict[str, Any]:
        return {
            **self.x.arguments("x"),
            **self.y.arguments("y"),
            **functions(self.components),
            "rates": self.rates.values,
            "rate_stride": self.rates.stride,
            "scale_inverse": self.inverse,
            "d": self.coordinates,
            "GRAM": self.gram,
            "WEIGHTED": self.weighted,
            "D": self.width,
        }


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _padded_width(d: int, config: Config) -> int:
    """D of the Gram form: a power of two that is one slice or few, or a multiple of the slice."""
    if d <= FUSED_WIDTH:
        return max(32, 1 << (d - 1).bit_length())
    return cdiv(d, config.slice) * config.slice


def sliced(config: Config, width: int) -> Config:
    return config._replace(slice=min(config.slice, width))


def _split(
    x: Tensor, sample: Sample, centre: Tensor, scale: Tensor, centred: bool, width: int,
    config: Config,
) -> Sample:  # fmt: skip
    """The Gram form of a sample: padded halves and their norms."""
    batch, n, d = x.shape
    units = cdiv(n, ROW_PADDING)
    padded = units * ROW_PADDING
    hi = torch.empty((batch, padded, width), dtype=torch.float16, device=x.device)
    lo = torch.empty_like(hi)
    blocks = padded // 32
    launch(
        kernels.split_kernel, (blocks * batch, width // 32), Config(32, 0, 32, 4, 1),
        programs=blocks, x=x, centre=centre, scale=scale, hi=hi, lo=lo, n=n, d=d,
        stride_b=x.stride(0), stride_n=x.stride(1), stride_d=x.stride(2), padded=units,
        CENTRED=centred, D=width, BM=32, BK=32,
    )  # fmt: skip
    norms = torch.empty((batch, padded), dtype=torch.float32, device=x.device)
    if centred:
        blocks = padded // config.rows
        launch(
            kernels.norm_kernel, (blocks * batch,), config,
            programs=blocks, hi=hi, lo=lo, norm=norms, padded=units,
            D=width, BK=config.slice, BM=config.rows, BN=config.columns,
        )  # fmt: skip
    strides = (units, width, 1)  # the first in the kernels' units
    return sample._replace(points=hi, low=lo, norms=norms, strides=strides)


def _scale(x: Tensor, y: Tensor | None, centre: Tensor) -> Tensor:
    """[B]: the power of two that brings the largest |coordinate| into [2¹³, 2¹⁴)."""
    largest = x.new_zeros(x.shape[0])
    for sample in (x,) if y is None else (x, y):
        low, high = sample.aminmax(dim=1)
        reach = torch.maximum(high - centre, centre - low)
        largest = torch.maximum(largest, reach.amax(1))
    exponent = (14 - torch.frexp(largest).exponent).clamp(-60, 60)
    return torch.ldexp(torch.ones_like(largest), exponent)


def _sample(x: Tensor, weights: Tensor | None) -> Sample:
    if weights is None:
        weights = constant((1.0,), x.device).expand(x.shape[0], x.shape[1])
    b, n, d = x.stride()
    wb, wn = weights.stride()
    return Sample(x, x, x, weights, x.shape[1], (b, n, d), (wb, wn))


def prepare(
    x: Tensor, y: Tensor | None, wx: Tensor | None, wy: Tensor | None,
    components: tuple[Component, ...], rates: list[float] | Tensor,
    coefs: list[float] | Tensor | None, blocks: Blocks, differences: bool = False,
) -> Problem:  # fmt: skip
    """``differences``: never the Gram form."""
    batch, n, d = x.shape
    m = 0 if y is None else y.shape[1]
    device = device_of(x.device)
    metric = metric_of(components)
    x_sample = _sample(x, wx)
    y_sample = x_sample._replace(rows=0) if y is None else _sample(y, wy)
    small = n + m <= SMALL and batch * (n + m) ** 2 * d <= SMALL_WORK
    empty = n == 0 or (y is not None and m == 0)
    gram = not (differences or d <= FEW or small or empty or metric == "l1")
    rate_numbers = _numbers(rates, x.device)
    width = d if d <= FEW else 0
    inverse = rate_numbers.values
    if gram:
        table = device.architecture.table(len(components))
        width = _padded_width(d, table.gram_value)
        config = sliced(table.gram_value, width)
        centred = metric == "sqeuclidean"
        centre = x.new_zeros((batch, d))
        if centred:
            centre = pooled_rows(x, y, CENTRE_ROWS).median(dim=1).values.contiguous()
        scale = _scale(x, y, centre)
        inverse = scale.reciprocal()
        x_sample = _split(x, x_sample, centre, scale, centred, width, config)
        if y is None:
            y_sample = x_sample._replace(rows=0)
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
        powers(components, rates),
        rate_numbers if coefs is None else _numbers(coefs, x.device),
        components,
        blocks,
        wx is not None or wy is not None,
        device,
    )
