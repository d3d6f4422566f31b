"""Label forms vᵀKv for many label vectors v at once: what a permutation test is made of.

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
from ..functions import Metric
from ..kernel import Group, Kernel
from ..plan import Component, LabelSums, Wanted, decode, metric_of
from ..reference.blocked import Chunk, Role, Sweeper
from ..reference.tiles import BY_DIFFERENCES, Tile, full_precision, matmul, scratch, tile_rows
from ..subsample import hashed_rows

LANDMARKS = 64  # rows that the centring looks at
CHUNK = 2**16  # rows centred at a time
PRODUCTS = 2**20  # numbers that a tile gives with the label vectors it meets at a time
PART = 256  # label vectors converted to fp64 at a time

# What rounding does to a form, as parts of √Σk̂² and of N·√Σk̂²: errors of random sign, and of
# one sign where sums of few different values repeat (discrete data); six times what was seen.
TIES = {
    "wide": (1e-13, 2.0**-53),
    "narrow": (5e-6, 2.0**-24),
    "triton": (5e-5, 2.0**-22),  # not measured: tensor cores truncate
}


class LabelForms:
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
        blocks, rows, _ = self.z.shape
        most = min(tile_rows(self.z), _LabelSweeper.most_rows)
        across, together = -(-rows // most), max(1, (most // max(1, min(rows, most))) ** 2)
        return len(self.groups) * -(-blocks // together) * (across * (across + 1) // 2)

    @torch.no_grad()
    def __call__(self, v: Tensor, tick: Callable[[], object] | None = None) -> Tensor:
        """[C, B] for labels v [(G,) N, B], int8, usually 0 and 1 or ±1.
        ``tick`` is called at each of ``steps``."""
        tick = tick or _ignore
        v = v.reshape(*self.z.shape[:-1], -1)
        forms = self.z.new_zeros(len(self.centres), v.shape[-1], dtype=torch.float64)
        for group in self.groups:
            sums = self._sweep(group, v, tick)
            forms[group.positions] = sums.forms
            if not self._known:
                self._learn(group, sums)
        self._known = True
        if self.backend == "triton":
            from ..triton_backend.quadratic_forms import moments

            found = moments(v[0], self.centres[:, 0])
            return forms.add_(found.linear * found.total - found.square, alpha=2.0)
        total = v.sum(1, dtype=torch.float64)  # 1ᵀv [G, B]
        for start in range(0, v.shape[-1], PART):
            labels = v[..., start : start + PART].double()
            linear = torch.einsum("cgn,gnb->cgb", self.centres, labels)  # aᵀv
            undone = (linear * total[:, start : start + PART]).sum(1)
            own = torch.einsum("cgn,gnb->cb", self.centres, labels.square_())
            forms[:, start : start + PART] += 2.0 * (undone - own)
        return forms

    def linear(self, v: Tensor) -> Tensor:
        """Σᵢ vᵢ Σ_{j≠i} k [C, B] of labels v [N, B], or [G, N, B], after the first call."""
        sums, v = self.row_sums.flatten(1), v.reshape(-1, v.shape[-1])
        if self.backend == "triton":
            from ..triton_backend.quadratic_forms import moments

            return moments(v, sums).linear
        return product(sums, v)

    def _sweep(self, group: Group, v: Tensor, tick: Callable[[], object]) -> LabelSums:
        components, centres = decode(group.components), self.centres[group.positions]
        rates = _rates(group)
        if self.backend == "triton":
            from ..triton_backend.quadratic_forms import label_sweep

            sums = label_sweep(self.z[0], components, rates, centres[:, 0], v[0])
            tick()
            return sums._replace(row_sums=sums.row_sums.unsqueeze(1))
        with full_precision(self.z.device.type):
            dtype = torch.float32 if self.narrow else torch.float64
            sweeper = _LabelSweeper(self.z, components, centres, v, dtype, self._known, tick)
            sweeper.run(rates, None)
        return LabelSums(sweeper.forms, sweeper.row_sums, sweeper.squares)

    def _learn(self, group: Group, sums: LabelSums) -> None:
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
    return torch.cat([a @ part.to(a.dtype) for part in torch.split(v, PART, 1)], 1)


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
    components, rates = decode(group.components), _rates(group)
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


def distances(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    """The metric of all pairs of a few rows, [n, m]."""
    if metric == "inner":
        return x @ y.T
    s = torch.cdist(x, y, p=1.0 if metric == "l1" else 2.0, compute_mode=BY_DIFFERENCES)
    return s if metric == "l1" else s.square()


class _LabelSweeper(Sweeper):
    """A sweep over the triangle of pairs that hands its tiles to all label vectors."""

    most_rows = 512  # a smaller tile wastes less on the diagonal; products are large anyhow

    def __init__(
        self,
        z: Tensor,
        components: tuple[Component, ...],
        centres: Tensor,
        v: Tensor,
        dtype: torch.dtype,
        known: bool,
        tick: Callable[[], object],
    ) -> None:
        super().__init__(z, None, None, None, components, "xx", Wanted(sums=True))
        self.v, self.centres, self.dtype, self.known, self.tick = v, centres, dtype, known, tick
        self.forms = z.new_zeros(len(components), v.shape[-1], dtype=torch.float64)
        self.row_sums = z.new_zeros(centres.shape, dtype=torch.float64)
        self.squares = z.new_zeros(len(components), dtype=torch.float64)

    def add_values(
        self, value: Tensor, scale: float, c: int, tile: Tile, a: Role, b: Role, chunk: Chunk
    ) -> None:
        items, i, j = chunk.items, *(slice(s.start, s.stop) for s in (tile.i, tile.j))
        centres = scale * self.centres[c, items]  # scale is ±1
        value.sub_(centres[:, i].unsqueeze(-1)).sub_(centres[:, j].unsqueeze(-2))
        if tile.diagonal:
            value.diagonal(dim1=-2, dim2=-1).zero_()
        twice = 2.0 if tile.mirrored else 1.0
        if not self.known:
            self.row_sums[c, items, i].add_(value.sum(-1), alpha=scale)
            if tile.mirrored:
                self.row_sums[c, items, j].add_(value.sum(-2), alpha=scale)
            flat = value.flatten()
            self.squares[c].add_(flat.dot(flat), alpha=twice)
        k = scratch("label values", value.shape, value.new_empty(0, dtype=self.dtype)).copy_(value)
        rows = k.shape[0] * k.shape[1]
        step = max(1, PRODUCTS // rows)
        for start in range(0, self.v.shape[-1], step):
            columns = slice(start, start + step)
            right = self.v[items, j, columns].to(self.dtype)
            products = scratch("label products", (*k.shape[:2], right.shape[-1]), k)
            matmul(k, right, products).mul_(self.v[items, i, columns])
            self.forms[c, columns].add_(products.sum((0, 1)), alpha=scale * twice)
        if c == len(self.components) - 1:
            self.tick()
