"""Label forms vᵀKv for many label vectors v = ±1 at once: what a permutation test is made of.

K is formed tile by tile over one triangle and multiplied with all label vectors while the tile is
at hand; it is never stored. Every label vector sees the same rounded K, and so does the observed
labelling, which is one of the columns.

K is *centred* first: k̂ᵢⱼ = kᵢⱼ − aᵢ − aⱼ, where aᵢ is about the mean of row i less half the mean of
all. That changes forms by a term known exactly,

    Σ_{i≠j} vᵢvⱼ kᵢⱼ = Σ_{i≠j} vᵢvⱼ k̂ᵢⱼ + 2 (aᵀv)(1ᵀv) − 2 Σ a,

and leaves in the products only what labels can tell apart. So their rounding is small against the
spread of the null distribution, whatever constant the kernel carries and however far an outlier
lies, and the products may be narrow (fp32 on a CPU, fp16 on a GPU) while K itself is not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .backends import choose
from .functions import Metric
from .kernel import Group, Kernel
from .plan import Component, LabelSums, Wanted, decode, metric_of
from .reference import Chunk, Role, Sweeper
from .subsample import hashed_rows
from .tiles import Tile, full_precision, scratch

LANDMARKS = 64  # rows that the centring looks at
CHUNK = 2**16  # rows centred at a time
COLUMNS = 1024  # label vectors that meet a tile at a time
NARROW_TIE = 2e-5  # of √Σk̂²: twenty times the rounding of fp32 products that was measured
WIDE_TIE = 1e-13


class LabelForms:
    """Σ_{i≠j} vᵢvⱼ k(zᵢ, zⱼ) per kernel term, for batches of label vectors.

    z: [N, d]; the kernel is resolved. On a CPU K is formed in fp64; ``narrow`` rounds k̂ to fp32
    for the products with labels, twice as fast, at an error of about 1e-6 null standard deviations.
    CUDA samples in fp32 take the Triton backend.

    After the first call: ``row_sums`` Σ_{j≠i} k [C, N], ``squares`` Σ_{i≠j} k² [C], and
    ``rounding`` [C], a bound on what rounding does to a form. All fp64, coefficients of terms
    not applied.
    """

    def __init__(
        self, z: Tensor, kernel: Kernel, *, narrow: bool = False, backend: str | None = None
    ) -> None:
        self.kernel, self.narrow = kernel, narrow
        self.backend = choose(z, backend)
        self.z = z if self.backend == "triton" else z.double()
        self.groups = kernel.groups(torch.Size())
        shape = (len(kernel.terms), z.shape[0])
        self.centres = z.new_empty(shape, dtype=torch.float64)
        for group in self.groups:
            self.centres[group.positions] = _centres(self.z.double(), group)
        self.row_sums = z.new_zeros(shape, dtype=torch.float64)
        self.squares = z.new_zeros(shape[0], dtype=torch.float64)
        self.rounding = z.new_zeros(shape[0], dtype=torch.float64)
        self._known = False

    @property
    def steps(self) -> int:
        """How often a call reports progress."""
        return len(self.groups)

    @torch.no_grad()
    def __call__(self, v: Tensor, tick: Callable[[], object] | None = None) -> Tensor:
        """[C, B] for labels v [N, B], int8, ±1. ``tick`` is called after each of ``steps``."""
        forms = self.z.new_zeros(len(self.kernel.terms), v.shape[1], dtype=torch.float64)
        for group in self.groups:
            sums = self._sweep(group, v)
            forms[group.positions] = sums.forms
            if not self._known:
                self._learn(group, sums)
            if tick is not None:
                tick()
        self._known = True
        balance = v.sum(0, dtype=torch.float64)  # 1ᵀv [B]
        a = self.centres
        linear = torch.cat([a @ part.double() for part in torch.split(v, 256, 1)], 1)  # aᵀv [C, B]
        return forms + 2.0 * linear * balance - 2.0 * a.sum(1, keepdim=True)

    def _sweep(self, group: Group, v: Tensor) -> LabelSums:
        components, centres = decode(group.components), self.centres[group.positions]
        rates = _rates(group)
        if self.backend == "triton":
            from .triton_labels import label_sweep

            return label_sweep(self.z, components, rates, centres, v)
        with full_precision(self.z.device.type):
            sweeper = _LabelSweeper(self.z, components, centres, v, self.narrow, self._known)
            sweeper.run(rates, None)
        return LabelSums(sweeper.forms, sweeper.row_sums, sweeper.squares)

    def _learn(self, group: Group, sums: LabelSums) -> None:
        """Row sums and squares of K from those of k̂."""
        a = self.centres[group.positions]
        count, total = a.shape[1], a.sum(1, keepdim=True)
        self.row_sums[group.positions] = sums.row_sums + (count - 2) * a + total
        own, cross = a.square().sum(1), (a * sums.row_sums).sum(1)
        pairs = 2.0 * (count - 2) * own + 2.0 * total.squeeze(1).square()  # Σ_{i≠j} (aᵢ + aⱼ)²
        self.squares[group.positions] = (sums.squares + 4.0 * cross + pairs).clamp_min(0.0)
        wide = self.backend == "reference" and not self.narrow
        tie = WIDE_TIE if wide else NARROW_TIE
        if self.backend == "triton":
            tie *= 100.0  # products accumulate in the tensor cores
        self.rounding[group.positions] = tie * sums.squares.sqrt()


def _rates(group: Group) -> list[float]:
    if isinstance(group.rates, Tensor):
        return [float(rate) for rate in group.rates.flatten()]
    return group.rates


def _centres(z: Tensor, group: Group) -> Tensor:
    """aᵢ [C, N]: the mean of k(zᵢ, ·) over scattered rows, less half of its mean."""
    rows = z[hashed_rows(min(LANDMARKS, len(z)), len(z), z.device)]
    components, rates = decode(group.components), _rates(group)
    metric = metric_of(components)

    def means(points: Tensor) -> Tensor:
        s = _metric(points, rows, metric)
        values = [_value(s, c, rate).mean(-1) for c, rate in zip(components, rates, strict=True)]
        return torch.stack(values)

    found = torch.cat([means(part) for part in torch.split(z, CHUNK)], 1)
    return found - 0.5 * means(rows).mean(1, keepdim=True)


def _metric(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    if metric == "inner":
        return x @ y.T
    distance = torch.cdist(x, y, p=1.0 if metric == "l1" else 2.0)
    return distance if metric == "l1" else distance.square()


def _value(s: Tensor, c: Component, rate: float) -> Tensor:
    return c.function.value(s, rate, c.shape, c.offset)


class _LabelSweeper(Sweeper):
    """A sweep over the triangle of pairs that hands its tiles to all label vectors."""

    def __init__(
        self,
        z: Tensor,
        components: tuple[Component, ...],
        centres: Tensor,
        v: Tensor,
        narrow: bool,
        known: bool,
    ) -> None:
        super().__init__(z.unsqueeze(0), None, None, None, components, "xx", Wanted(sums=True))
        self.v, self.centres, self.known = v, centres, known
        self.dtype = torch.float32 if narrow else torch.float64
        self.forms = z.new_zeros(len(components), v.shape[1], dtype=torch.float64)
        self.row_sums = z.new_zeros(centres.shape, dtype=torch.float64)
        self.squares = z.new_zeros(len(components), dtype=torch.float64)

    def add_values(
        self, value: Tensor, scale: float, c: int, tile: Tile, a: Role, b: Role, chunk: Chunk
    ) -> None:
        i, j = slice(tile.i.start, tile.i.stop), slice(tile.j.start, tile.j.stop)
        k, centres = value[0], self.centres[c]
        k.sub_(scale * centres[i].unsqueeze(1)).sub_(scale * centres[j])  # scale is ±1
        if tile.diagonal:
            k.diagonal().zero_()
        twice = 2.0 if tile.mirrored else 1.0
        if not self.known:
            self.row_sums[c, i].add_(k.sum(1), alpha=scale)
            if tile.mirrored:
                self.row_sums[c, j].add_(k.sum(0), alpha=scale)
            flat = k.flatten()
            self.squares[c].add_(flat.dot(flat), alpha=twice)
        k = scratch("label values", k.shape, k.new_empty(0, dtype=self.dtype)).copy_(k)
        for start in range(0, self.v.shape[1], COLUMNS):
            columns = slice(start, start + COLUMNS)
            right = self.v[j, columns].to(self.dtype)
            products = scratch("label products", (k.shape[0], right.shape[1]), k)
            torch.mm(k, right, out=products).mul_(self.v[i, columns])
            self.forms[c, columns].add_(products.sum(0), alpha=scale * twice)
