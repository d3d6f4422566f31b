"""Quadratic forms on CUDA: Σ_{i≠j} vᵢvⱼ k̂ᵢⱼ for many label vectors v, k̂ᵢⱼ = k(zᵢ, zⱼ) − aᵢ − aⱼ.

k̂ is formed once per pair, rounded to fp16 and written to a *panel*: some rows of the triangle i < j
and some columns. The product of a panel with all label vectors is the library's (tensor cores,
fp16 in, fp32 out), over *chunks* of at most ``CHAIN`` columns, since the accumulators of tensor
cores truncate; the labels of the rows follow in a small kernel, in fp64 and in fixed order. The
a come from the same functions at 64 landmarks, by differences in fp64 (``landmark_means``), and
what they take out of a form from one pass over the labels (``moments``).

Tiles of a panel that tensor-core products do not resolve are flagged on the device and written
again by differences in fp64 (``redo``): near pairs, narrow kernels, rows far out; and all
tiles where centring takes nearly everything out of k (``COARSE``), such as wide kernels, or a
linear one far from 0. Small problems are formed by differences in fp64 from the start.

The rounding (rms 2e-4 of an entry) is the same for every label vector, and row sums and squares
are those of the rounded values: labels see a kernel matrix that differs by that much. Where a
centres K, a form differs by an rms of 2e-4 standard deviations of its null distribution. The
centres are used in fp32, but where a tile is formed in fp64.

fp16 spans 39 powers of two. The power of two that brings k̂ into its range comes from a bound, so
that nothing overflows and nothing waits for the device: φ takes its largest magnitude at the ends
of the range of s, and the row farthest from the first one bounds that range up to a factor of 2 in
the distance. A bound above ``RANGE`` times the mean |k̂| between landmarks is not believed: centring
leaves little of a far row. Entries below 2⁻²⁸ of the bound lose digits, those above it give NaN.

Counted for N = 65536, d = 64 and B = 1024 labels on an H200 (132 multiprocessors at 1.98 GHz, 790
TFLOP/s, 4.8 TB/s): launches as they are planned, issue slots from the code for sm_90, everything
else by hand; nothing was run:

    centres        1 launch     2.7e8 coordinates of pairs at some 4 issue slots,     0.05 ms
                                in fp64, and 64 ranks of 64 values for each row
    labels         1 + 1        67 MB of int8 read, 134 MB of fp16 written            0.04 ms
    panels         32           2.15e9 pairs at 23.7 issue slots (20.3 in later       1.52 ms
                                batches, which sum nothing), in the shadow of them
                                8.3e11 flop and 4.4 GB stored
    again          32           a word read by each program, where nothing is flagged 0.1 ms
    their sums     6 each       by torch, 0.1 GB                                      0.1 ms
    products       80           4.55e12 flop, 4.4 GB of panels read                   5.76 ms
    fold           80           2.3 GB written by the products and read again, in     0.5 ms
                                L2 if it keeps the 32 MB between the two
    Σv, Σav, Σav²  1            67 MB read                                            0.03 ms

8.1 ms if nothing waits. (Before, ``cdist`` in fp64 took one block per pair for the centres, and
what they take out came from an fp64 copy of the labels, 0.5 GB, read three times.) Σᵢ vᵢ Σⱼ k,
which a test asks for beside the forms, is one more pass over the labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..problem import Component, PairProblem, QuadraticSums, metric_of
from ..reference.tiles import distances, full_precision
from ..statistics.sharing import current_share
from ..subsample import LANDMARKS, hashed_rows
from . import compat, launcher, redo
from . import panels as kernels
from .configs import TOGETHER, Config
from .launcher import ROW_PADDING, Prepared, cdiv, constant, prepare, sliced

PANEL_BYTES = 2**28
PANEL_ROWS = 2048
PRODUCT_BYTES = 2**25  # within the L2 cache of a large GPU
LABEL_BYTES = 2**31  # of fp16 labels; the panels are formed once for so many
CHAIN = 4096  # columns of a chunk
TRIMMED = 8  # one in so many landmarks is left out at either end of a mean
RANGE = 2.0**28  # of |k̂| above its mean
COARSE = 2.0**-13  # of k: a mean |k̂| below it is mostly rounding in fp32
PROGRAMS_PER_PROCESSOR = 16
MOST_TILES = 32  # of columns that a program visits
FOLD = Config(64, 64, 0, 4, 2)
MOMENTS = Config(16, 128, 0, 4, 2)
MOMENT_ROWS = 1024  # that a program visits


class Panel(NamedTuple):
    """Rows [``row``, ``row`` + ``rows``) and, from ``column``, ``chunks`` of ``width`` columns."""

    row: int
    rows: int
    column: int
    chunks: int
    width: int

    @property
    def end(self) -> int:
        return self.column + self.chunks * self.width


def _panels(count: int, components: int, tile: int) -> Iterator[Panel]:
    """Panels that cover the triangle; a chunk is a multiple of ``tile`` columns."""
    for row in range(0, count, PANEL_ROWS):
        rows = cdiv(min(PANEL_ROWS, count - row), ROW_PADDING) * ROW_PADDING
        most = max(1, PANEL_BYTES // (2 * components * PANEL_ROWS * CHAIN)) * CHAIN
        for column in range(row, count, most):
            columns = min(most, count - column)
            chunks = cdiv(columns, CHAIN)
            yield Panel(row, rows, column, chunks, cdiv(columns, chunks * tile) * tile)


class Scales(NamedTuple):
    """``powers`` [C] fp64: the powers of two that bring the bounds on |k̂| into [2¹⁴, 2¹⁵), or
    ``RANGE`` times a mean |k̂| where that is less; NaN beyond fp32. ``coarse`` []: whether rounding
    of a typical k to fp32 costs k̂ digits that fp16 has."""

    powers: Tensor
    coarse: Tensor


def _scales(
    z: Tensor, components: Sequence[Component], rates: Sequence[float], centres: Tensor
) -> Scales:
    metric = metric_of(components)
    pivot = torch.zeros_like(z[:1]) if metric == "inner" else z[:1]
    order = 1.0 if metric == "l1" else 2.0
    radii = torch.linalg.vector_norm(z - pivot, order, 1, dtype=torch.float64) * 1.001
    if metric == "l1":
        high = 2.0 * radii.max()
    elif metric == "sqeuclidean":
        high = 4.0 * radii.max().square()
    else:
        high = radii.topk(2).values.prod()
    zero = torch.zeros_like(high)
    ends = torch.stack([zero, high, -high if metric == "inner" else high])
    index = hashed_rows(min(LANDMARKS, len(z)), len(z), z.device)
    some, a = distances(z[index].double(), z[index].double(), metric), centres[:, index]
    bounds, coarse = [], []
    for c, (component, rate) in enumerate(zip(components, rates, strict=True)):
        value, numbers = component.function.value, (rate, component.shape, component.offset)
        sizes = value(ends, *numbers).abs()
        k = value(some, *numbers)
        mean = (k - a[c] - a[c].unsqueeze(1)).fill_diagonal_(0.0).abs().mean()
        bound = sizes.amax() + 2.0 * centres[c].abs().amax()
        reached = torch.where(mean > 0.0, torch.fmin(bound, mean * RANGE), bound)
        bounds.append(1.001 * torch.maximum(reached, 3.0 * sizes[0]) + bound * 0.0)
        coarse.append(mean < COARSE * k.abs().median())
    exponents = 15 - torch.frexp(torch.stack(bounds)).exponent
    powers = torch.ldexp(centres.new_ones(len(components)), exponents.clamp(-120, 120))
    return Scales(powers.masked_fill_(exponents.abs() > 120, math.nan), torch.stack(coarse).any())


class _Panels:
    """What is needed to form any panel, the memory it goes to, and the sums of the k̂."""

    def __init__(
        self, z: Tensor, components: tuple[Component, ...], rates: list[float], centres: Tensor
    ) -> None:
        self.problem: Prepared = prepare(
            PairProblem(z[None], None, None, None, rates, (), components, "xx")
        )
        self.arguments = self.problem.panel_arguments()
        names = ("FUNCTIONS", "SHAPES", "OFFSETS", "METRIC", "n", "x_sn", "x_sd", "d", "frame")
        self.again = {name: self.arguments[name] for name in names}
        self.again["x"] = z
        table, width = self.problem.table, self.problem.width
        gram = self.problem.gram
        self.config = sliced(table.labels_of(width), width) if gram else table.difference_labels
        self.components = len(components)
        self.panels = list(_panels(len(z), self.components, self.config.columns))
        self.end = max(panel.end for panel in self.panels)
        self.padded = cdiv(max(self.end, self.panels[-1].row + PANEL_ROWS), ROW_PADDING)
        self.padded *= ROW_PADDING
        self.scales, coarse = _scales(z, components, rates, centres)
        if self.problem.form is not None:
            self.problem.form.frame[:, 0].masked_fill_(coarse, -1.0)  # no tile is below it
        self.single_scales = self.scales.float()
        self.centres = centres.new_zeros((self.components, self.padded))
        self.centres[:, : len(z)] = centres * self.scales.unsqueeze(1)
        self.single_centres = self.centres.float()
        size = max(panel.rows * panel.chunks * panel.width for panel in self.panels)
        self.memory = torch.empty(self.components * size, dtype=torch.float16, device=z.device)
        self.row_sums = self.scales.new_zeros((self.components, self.padded))
        self.squares = self.scales.new_zeros(self.components)

    def form(self, panel: Panel, summed: bool) -> Tensor:
        """[C, chunks, rows, width] fp16, a view of [C, rows, chunks·width]. ``summed``: its row
        sums and squares are taken too."""
        config, columns = self.config, panel.chunks * panel.width
        tiles, across = panel.rows // config.rows, columns // config.columns
        target = PROGRAMS_PER_PROCESSOR * self.problem.device.processors
        each = max(1, min(MOST_TILES, tiles * across // target))
        groups = cdiv(across, each)
        partial = self.squares.new_empty((self.components, groups, 2, panel.rows))
        sums = self.single_scales.new_empty((self.components, tiles, columns))
        flags = sums.new_empty(tiles * groups, dtype=torch.int32)
        shared = {
            "panel": self.memory, "partial": partial, "sums": sums, "flags": flags,
            "scale": self.single_scales,
            "centre_stride": self.padded // ROW_PADDING, "rows_count": panel.rows,
            "first_row": panel.row // config.rows, "tiles": tiles,
            "first_column": panel.column // config.columns, "across": across, "each": each,
            "SUMMED": summed, "BM": config.rows,
        }  # fmt: skip
        launcher.launch(
            kernels.panel_kernel, (tiles * groups,), config,
            **self.arguments, **shared, BK=config.slice, BN=config.columns,
            centre=self.centres if self.arguments["WIDE"] else self.single_centres,
        )  # fmt: skip
        if self.problem.gram:
            launcher.launch(
                redo.redo_panel_kernel, (tiles * groups,), config.again(),
                **self.again, **shared, centre=self.centres,
                BN=config.again().columns, TILE=config.columns,
            )  # fmt: skip
        if summed:
            found = partial.sum(1)  # [C, 2, rows]
            self.row_sums[:, panel.row : panel.row + panel.rows] += found[:, 0]
            self.row_sums[:, panel.column : panel.end] += sums.sum(1, dtype=torch.float64)
            self.squares += found[:, 1].sum(1)
        values = self.memory[: self.components * panel.rows * columns]
        return values.view(self.components, panel.rows, panel.chunks, panel.width).transpose(1, 2)


def _fold(products: Tensor, labels: Tensor, sums: Tensor) -> None:
    """Adds Σᵢ vᵢ Σ_chunks (P v)ᵢ over each tile of rows to ``sums`` [tiles, columns]."""
    chunks, rows, columns = products.shape
    launcher.launch(
        kernels.fold_kernel, (rows // FOLD.rows, columns // FOLD.columns), FOLD,
        panel=products, coefs=labels, sums=sums, chunks=chunks, rows_count=rows,
        columns=columns // ROW_PADDING, coef_stride=labels.stride(0) // ROW_PADDING,
        sums_stride=sums.stride(0) // ROW_PADDING, BM=FOLD.rows, BN=FOLD.columns,
    )  # fmt: skip


def _forms(panels: _Panels, v: Tensor, summed: bool) -> Tensor:
    """[C, B]: Σ_{i<j} vᵢvⱼ k̂ᵢⱼ, scaled, for labels that are brought to fp16 at once."""
    count, columns = v.shape
    wide = cdiv(columns, ROW_PADDING) * ROW_PADDING
    labels = torch.zeros((panels.padded, wide), dtype=torch.float16, device=v.device)
    labels[:count, :columns] = v
    sums = torch.zeros(
        (panels.components, PANEL_ROWS // FOLD.rows, wide), dtype=torch.float64, device=v.device
    )
    for panel in current_share().of(panels.panels):
        values = panels.form(panel, summed)
        share = max(1, PRODUCT_BYTES // (4 * panel.rows * ROW_PADDING))
        step = min(wide, share * ROW_PADDING)
        together = max(1, share * ROW_PADDING // step)
        right = labels[panel.column : panel.end].view(panel.chunks, panel.width, wide)
        rows = labels[panel.row : panel.row + panel.rows]
        for c in range(panels.components):
            for chunk in range(0, panel.chunks, together):
                some = slice(chunk, chunk + together)
                for first in range(0, wide, step):
                    part = slice(first, first + step)
                    products = compat.half_product(values[c, some], right[some, :, part])
                    _fold(products, rows[:, part], sums[c, :, part])
    return sums.sum(1)[:, :columns]


def landmark_means(
    z: Tensor, landmarks: Tensor, components: tuple[Component, ...], rates: list[float]
) -> Tensor:
    """[C, N]: the trimmed means of k between z [N, d] and those of the at most ``LANDMARKS``
    landmarks [M, d] that differ: without the eighth at either end, so that a far row cannot move
    those of others."""
    means = []
    for c in range(0, len(components), TOGETHER):
        some, numbers = components[c : c + TOGETHER], rates[c : c + TOGETHER]
        problem = prepare(
            PairProblem(z[None], landmarks[None], None, None, numbers, (), some, "xy"),
            differences=True,
        )
        config, shared = problem.table.difference_labels, problem.arguments()
        means.append(z.new_empty((len(some), len(z)), dtype=torch.float64))
        launcher.launch(
            kernels.centre_kernel, (cdiv(len(z), config.rows),), config,
            centre=means[-1], rates=constant(tuple(numbers), z.device, torch.float64),
            **{name: shared[name] for name in (
                *("d", "x0", "n", "x_sn", "x_sd", "y0", "m", "y_sn", "y_sd"),
                *("FUNCTIONS", "SHAPES", "OFFSETS", "METRIC", "D"),
            )}, TRIMMED=TRIMMED, BM=config.rows, BN=LANDMARKS,
        )  # fmt: skip
    return torch.cat(means)


class Moments(NamedTuple):
    """Of labels v, in fp64."""

    total: Tensor  # [B]: Σᵢ vᵢ
    linear: Tensor  # [C, B]: Σᵢ aᵢvᵢ
    square: Tensor  # [C, B]: Σᵢ aᵢvᵢ²


def moments(v: Tensor, a: Tensor) -> Moments:
    """Of labels v [N, B], int8, each read once, with a [C, N] in fp64."""
    count, columns = v.shape
    shares = cdiv(count, MOMENT_ROWS)
    sums = a.new_empty((len(a), shares, 3, columns))
    launcher.launch(
        kernels.moments_kernel, (shares, cdiv(columns, MOMENTS.columns), len(a)), MOMENTS,
        x=v, coefs=a.contiguous(), sums=sums, n=count, columns=columns, x_sn=v.stride(0),
        x_sd=v.stride(1), each=MOMENT_ROWS, BM=MOMENTS.rows, BN=MOMENTS.columns,
    )  # fmt: skip
    total, linear, square = sums.sum(1).unbind(1)
    return Moments(total[0], linear, square)


@torch.no_grad()
def label_sweep(
    z: Tensor, components: tuple[Component, ...], rates: list[float], centres: Tensor, v: Tensor
) -> QuadraticSums:
    """z [N, d] in fp32, the rates of the components, centres a [C, N] in fp64, labels v [N, B] in
    int8; see ``QuadraticSums``. Values that are not finite come out as NaN."""
    count, columns = v.shape
    if count < 2 or z.shape[1] == 0 or columns == 0:
        raise ValueError(
            "quadratic forms need two rows, a coordinate and a label vector; got z "
            f"{list(z.shape)}, v {list(v.shape)}"
        )
    if len(components) > TOGETHER:  # more would spill registers; distances cost little beside them
        parts = [slice(c, c + TOGETHER) for c in range(0, len(components), TOGETHER)]
        sums = [label_sweep(z, components[p], rates[p], centres[p], v) for p in parts]
        return QuadraticSums(*(torch.cat(found) for found in zip(*sums, strict=True)))
    with torch.cuda.device_of(z), full_precision(z.device.type):  # type: ignore[no-untyped-call]
        panels = _Panels(z, components, rates, centres)
        batch = max(1, LABEL_BYTES // (2 * panels.padded * ROW_PADDING)) * ROW_PADDING
        forms = [
            _forms(panels, v[:, first : first + batch], first == 0)
            for first in range(0, columns, batch)
        ]
        back = (panels.scales.reciprocal() + panels.squares * 0.0).unsqueeze(1)  # inf: all is NaN
        return QuadraticSums(
            torch.cat(forms, 1) * (2.0 * back),
            panels.row_sums[:, :count] * back,
            panels.squares * (2.0 * back.squeeze(1).square()),
        )
