"""Quadratic forms vᵀKv for many label vectors v at once: what a permutation test is made of.

K is formed tile by tile over one triangle and multiplied with all label vectors while the tile is
at hand; it is never stored. Every label vector sees the same rounded K, and so does the observed
labelling, which is one of the columns.

K is *centred* first: k̂ᵢⱼ = kᵢⱼ − aᵢ − aⱼ, where aᵢ is about the mean of row i less half the mean of
all. That changes forms by a term known exactly,

    Σ_{i≠j} vᵢvⱼ kᵢⱼ = Σ_{i≠j} vᵢvⱼ k̂ᵢⱼ + 2 (aᵀv)(1ᵀv) − 2 Σᵢ aᵢvᵢ²,

and leaves in the products only what labels can tell apart. So their rounding is small against the
spread of the null distribution, whatever constant the kernel carries and however far an outlier
lies, and the products may be narrow (fp32 on a CPU, fp16 on a GPU) while K itself is not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..backends import choose
from ..functions import Evaluation
from ..kernel import Group, Kernel
from ..problem import QuadraticSums, metric_of
from ..reference.tiles import (
    Distances,
    Tile,
    centre,
    distances,
    evaluations,
    full_precision,
    largest_rate,
    matmul,
    prepare,
    scratch,
    tile_rows,
    tiles,
)
from ..subsample import LANDMARKS, hashed_rows
from .sharing import current_share

MOST_ROWS = 512  # of a tile: a smaller one wastes less on the diagonal; products are large anyhow
CHUNK = 2**16  # rows centred at a time
PRODUCTS = 2**20  # numbers that a tile gives with the label vectors it meets at a time
PART = 256  # label vectors that meet in an operation
CONVERTED = 2**19  # labels in fp64 at a time: memory that need not be mapped anew

# What rounding does to a form, as parts of √Σk̂² and of N·√Σk̂²: errors of random sign, and of
# one sign where sums of few different values repeat (discrete data); six times what was seen.
TIES = {
    "wide": (1e-13, 2.0**-53),
    "narrow": (5e-6, 2.0**-24),
    "triton": (5e-5, 2.0**-22),  # not measured: tensor cores truncate
}


class QuadraticForms:
    """Σ_{i≠j} vᵢvⱼ k(zᵢ, zⱼ) per kernel term, for batches of label vectors.

    z: [N, d], or [G, N, d] for the pairs within each of G blocks; the kernel is resolved. On a CPU
    K is formed in fp64; ``narrow`` rounds k̂ to fp32 for the products with labels, twice as fast,
    at an error of about 1e-6 null standard deviations. CUDA samples [N, d] in fp32 take the Triton
    backend.

    After the first call: ``row_sums`` Σ_{j≠i} k [C, (G,) N], ``squares`` Σ_{i≠j} k² [C], and
    ``rounding`` [C], a bound on what rounding does to a form of 0s and 1s in equal numbers. All
    fp64, coefficients of terms not applied.
    """

    def __init__(
        self, z: Tensor, kernel: Kernel, *, narrow: bool = False, backend: str | None = None
    ) -> None:
        self.narrow, self.shape = narrow, z.shape[:-1]
        self.backend = choose(z, backend) if z.dim() == 2 else "reference"
        self.z = z if self.backend == "triton" else z.double()
        self.z = self.z.reshape(-1, *z.shape[-2:])  # [G, N, d]
        self.groups = kernel.groups(torch.Size())
        terms = len(kernel.terms)
        self.centres = z.new_empty(terms, *self.z.shape[:-1], dtype=torch.float64)
        for group in self.groups:
            centres = _centres(self.z.flatten(0, 1), group, self.backend)
            self.centres[group.positions] = centres.view(-1, *self.z.shape[:-1])
        self.row_sums = z.new_zeros(terms, *self.shape, dtype=torch.float64)
        self.squares = z.new_zeros(terms, dtype=torch.float64)
        self.rounding = z.new_zeros(terms, dtype=torch.float64)
        self._known = False

    @property
    def steps(self) -> int:
        """How often a call reports progress: at every tile, or every sweep on a GPU."""
        if self.backend == "triton":
            return len(self.groups)
        across = -(-self.z.shape[1] // _most(self.z))
        return len(self.groups) * current_share().count(
            len(_together(self.z)) * (across * (across + 1) // 2)
        )

    @torch.no_grad()
    def __call__(self, v: Tensor, tick: Callable[[], object] | None = None) -> Tensor:
        """[C, B] for labels v [(G,) N, B], int8, usually 0 and 1 or ±1.
        ``tick`` is called at each of ``steps``."""
        tick, among = tick or _ignore, current_share()
        v = v.reshape(*self.z.shape[:-1], -1)
        forms = self.z.new_zeros(len(self.centres), v.shape[-1], dtype=torch.float64)
        for group in self.groups:
            sums = self._sweep(group, v, tick)
            forms[group.positions] = sums.forms
            if not self._known:
                among.total(sums.row_sums, sums.squares)
                self._learn(group, sums)
        self._known = True
        if self.backend == "triton":
            from ..triton_backend.quadratic_forms import moments

            among.total(forms)
            found = moments(v[0], self.centres[:, 0])
            return forms.add_(found.linear * found.total - found.square, alpha=2.0)
        for columns in among.of(column_parts(v, _converted(v))):
            labels = v[..., columns].double()
            linear = torch.einsum("cgn,gnb->cgb", self.centres, labels)  # aᵀv
            undone = (linear * labels.sum(1)).sum(1)  # times 1ᵀv
            own = torch.einsum("cgn,gnb->cb", self.centres, labels.square_())
            forms[:, columns] += 2.0 * (undone - own)
        among.total(forms)
        return forms

    def linear(self, v: Tensor) -> Tensor:
        """Σᵢ vᵢ Σ_{j≠i} k [C, B] of labels v [N, B], or [G, N, B], after the first call."""
        sums, v = self.row_sums.flatten(1), v.reshape(-1, v.shape[-1])
        if self.backend == "triton":
            from ..triton_backend.quadratic_forms import moments

            return moments(v, sums).linear
        return product(sums, v)

    def _sweep(self, group: Group, v: Tensor, tick: Callable[[], object]) -> QuadraticSums:
        components, centres = group.components, self.centres[group.positions]
        if self.backend == "triton":
            from ..triton_backend.quadratic_forms import label_sweep

            sums = label_sweep(self.z[0], components, _rates(group), centres[:, 0], v[0])
            tick()
            return sums._replace(row_sums=sums.row_sums.unsqueeze(1))
        with full_precision(self.z.device.type):
            dtype = torch.float32 if self.narrow else torch.float64
            return _sums(self.z, group, centres, v, dtype, self._known, tick)

    def _learn(self, group: Group, sums: QuadraticSums) -> None:
        """Row sums and squares of K from those of k̂."""
        a = self.centres[group.positions]  # [C, G, N]
        count, total = a.shape[-1], a.sum(-1, keepdim=True)
        row_sums = sums.row_sums + (count - 2) * a + total
        self.row_sums[group.positions] = row_sums.view(-1, *self.shape)
        own, cross = a.square().sum(-1), (a * sums.row_sums).sum(-1)
        pairs = 2.0 * (count - 2) * own + 2.0 * total.squeeze(-1).square()  # Σ_{i≠j} (aᵢ + aⱼ)²
        squares = sums.squares + (4.0 * cross + pairs).sum(1)
        self.squares[group.positions] = squares.clamp_min(0.0)
        scattered, coherent = TIES[self._products]
        tie = scattered + coherent * self.z.shape[:-1].numel()
        self.rounding[group.positions] = tie * sums.squares.sqrt()

    @property
    def _products(self) -> str:
        if self.backend == "triton":
            return "triton"
        return "narrow" if self.narrow else "wide"


def product(a: Tensor, v: Tensor) -> Tensor:
    """a @ v in the dtype of a for int8 labels, a few columns at a time."""
    found = a.new_zeros(len(a), v.shape[1])
    for columns in current_share().of(column_parts(v, _converted(v))):
        torch.mm(a, v[:, columns].to(a.dtype), out=found[:, columns])
    current_share().total(found)
    return found


def column_parts(v: Tensor, most: int = PART) -> list[slice]:
    """At most so many label vectors of v [..., B] at a time, of each process at least once."""
    width = max(1, min(most, -(-v.shape[-1] // current_share().size)))
    return [slice(start, start + width) for start in range(0, v.shape[-1], width)]


def _converted(v: Tensor) -> int:
    """Label vectors that are converted to fp64 at a time."""
    return max(32, min(PART, CONVERTED // max(1, v[..., 0].numel())))


def _ignore() -> None:
    """Progress that nobody watches."""


def _rates(group: Group) -> list[float]:
    if isinstance(group.rates, Tensor):
        return [float(rate) for rate in group.rates.flatten()]
    return group.rates


def _centres(z: Tensor, group: Group, backend: str) -> Tensor:
    """aᵢ [C, N]: the mean of k(zᵢ, ·) over some scattered rows that differ from zᵢ (K has no
    diagonal here), less half of its mean. Equal rows have equal centres: ties stay ties. Those of
    the Triton backend are fp32 numbers: what is undone is what was done."""
    index = hashed_rows(min(LANDMARKS, len(z)), len(z), z.device)
    landmarks = z[index]
    components, rates = group.components, _rates(group)
    if backend == "triton":
        from ..triton_backend.quadratic_forms import TRIMMED, landmark_means

        found = landmark_means(z, landmarks, components, rates)
        edge = len(index) // TRIMMED
        middle = found[:, index].sort(1).values[:, edge : len(index) - edge]
        return found - 0.5 * middle.mean(1, keepdim=True)
    metric = metric_of(components)

    def means(points: Tensor) -> Tensor:
        s = distances(points, landmarks, metric)
        others = torch.ones_like(s) if metric == "inner" else (s != 0).to(s.dtype)
        count = others.sum(-1).clamp_min(1.0)
        pairs = zip(components, rates, strict=True)
        values = (c.function.value(s, rate, c.shape, c.offset) for c, rate in pairs)
        return torch.stack([(value * others).sum(-1) / count for value in values])

    found = torch.cat([means(part) for part in torch.split(z, CHUNK)], 1)
    return found - 0.5 * means(landmarks).mean(1, keepdim=True)


def _sums(
    z: Tensor,
    group: Group,
    centres: Tensor,
    v: Tensor,
    dtype: torch.dtype,
    known: bool,
    tick: Callable[[], object],
) -> QuadraticSums:
    """One triangle of pairs within each block of z [G, N, d], tile by tile, each of which meets all
    label vectors v [G, N, B]. ``known``: row sums and squares are not formed."""
    components, rates, metric = group.components, _rates(group), metric_of(group.components)
    sums = QuadraticSums(
        z.new_zeros(len(components), v.shape[-1]),
        z.new_zeros(centres.shape),
        z.new_zeros(len(components)),
    )
    side = prepare(z, None, centre(z, None, metric), metric, _most(z), False)
    smooth = all(c.function.smooth for c in components)
    tile_of = Distances(metric, smooth, largest_rate(components, rates) if side.largest else 0.0)
    every = (tiles(z.shape[1], z.shape[1], _most(z), itself=True) for _ in _together(z))
    work = ((items, tile) for items, own in zip(_together(z), every, strict=True) for tile in own)
    for items, tile in current_share().of(work):
        s, _ = tile_of(side, side, items, tile)
        for c, k in enumerate(evaluations(s, components, rates)):
            _centre(k, centres[c, items], tile)
            if not known:
                _add_row_sums(sums, c, k, items, tile)
            _add_forms(sums, c, k, v[items], dtype, tile)
        tick()
    return sums


def _most(z: Tensor) -> int:
    return min(tile_rows(z), MOST_ROWS)


def _together(z: Tensor) -> list[slice]:
    """The blocks that share a tile."""
    count, rows, _ = z.shape
    most = _most(z)
    step = max(1, (most // max(1, min(rows, most))) ** 2)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _centre(k: Evaluation, centres: Tensor, tile: Tile) -> None:
    """k̂ of a tile, in place; ``centres`` [g, N]."""
    a = k.value_scale * centres  # the scale is ±1
    i, j = tile.i, tile.j
    k.value.sub_(a[:, i.start : i.stop, None]).sub_(a[:, None, j.start : j.stop])
    if tile.diagonal:
        k.drop_diagonal()


def _add_row_sums(sums: QuadraticSums, c: int, k: Evaluation, items: slice, tile: Tile) -> None:
    rows, flat = sums.row_sums[c, items], k.value.flatten()
    rows[:, tile.i.start : tile.i.stop].add_(k.value.sum(-1), alpha=k.value_scale)
    if tile.mirrored:
        rows[:, tile.j.start : tile.j.stop].add_(k.value.sum(-2), alpha=k.value_scale)
    sums.squares[c].add_(flat.dot(flat), alpha=2.0 if tile.mirrored else 1.0)


def _add_forms(
    sums: QuadraticSums, c: int, k: Evaluation, v: Tensor, dtype: torch.dtype, tile: Tile
) -> None:
    """For labels v [g, N, B]; products are formed in ``dtype``."""
    i, j = slice(tile.i.start, tile.i.stop), slice(tile.j.start, tile.j.stop)
    factor = k.value_scale * (2.0 if tile.mirrored else 1.0)
    value = scratch("label values", k.value.shape, v.new_empty(0, dtype=dtype)).copy_(k.value)
    step = max(1, PRODUCTS // (value.shape[0] * value.shape[1]))
    for start in range(0, v.shape[-1], step):
        columns = slice(start, start + step)
        right = v[:, j, columns].to(dtype)
        products = scratch("label products", (*value.shape[:2], right.shape[-1]), value)
        matmul(value, right, products).mul_(v[:, i, columns])
        sums.forms[c, columns].add_(products.sum((0, 1)), alpha=factor)
