"""Label forms vᵇᵀ K vᵇ for many label vectors at once: what a permutation test is made of.

K is formed tile by tile over one triangle and multiplied with all label vectors while the tile is
in cache; it is never stored. Every label vector sees the same rounded K, and so does the observed
labelling, which is one of the columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .kernel import Kernel
from .plan import Component, Wanted, decode
from .reference import Chunk, Role, Sweeper
from .tiles import Tile, full_precision


class _LabelSweeper(Sweeper):
    """A sweep over the triangle of pairs that hands its tiles to all label vectors."""

    def __init__(self, z: Tensor, v: Tensor, components: tuple[Component, ...]) -> None:
        super().__init__(z, None, None, None, components, "xx", Wanted(sums=True))
        count, columns = v.shape
        self.v = v
        self.forms = v.new_zeros(len(components), columns, dtype=torch.float64)
        self.row_sums = v.new_zeros(len(components), count, dtype=torch.float64)

    def add_values(
        self, value: Tensor, scale: float, c: int, tile: Tile, a: Role, b: Role, chunk: Chunk
    ) -> None:
        k = value[0]
        i, j = slice(tile.i.start, tile.i.stop), slice(tile.j.start, tile.j.stop)
        products = (k @ self.v[j]).mul_(self.v[i])
        twice = 2.0 if tile.mirrored else 1.0
        self.forms[c].add_(products.sum(0), alpha=scale * twice)
        self.row_sums[c, i].add_(k.sum(1), alpha=scale)
        if tile.mirrored:
            self.row_sums[c, j].add_(k.sum(0), alpha=scale)


@torch.no_grad()
def label_forms(z: Tensor, labels: Tensor, *, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Σ_{i≠j} v_ib v_jb k(zᵢ, zⱼ) for every column b, and the row sums Σ_{j≠i} k(zᵢ, zⱼ).

    z: [N, d], fp64 (fp32 must not leave its range); labels v: [N, B], ±1; the kernel is resolved.
    Returns [C, B] and [C, N] in fp64, per kernel term, coefficients not applied.
    """
    terms = len(kernel.terms)
    forms = z.new_zeros(terms, labels.shape[1], dtype=torch.float64)
    row_sums = z.new_zeros(terms, z.shape[0], dtype=torch.float64)
    with full_precision(z.device.type):
        for group in kernel.groups(torch.Size()):
            sweeper = _LabelSweeper(z.unsqueeze(0), labels.to(z.dtype), decode(group.components))
            sweeper.run(group.rates, None)
            forms[group.positions] = sweeper.forms
            row_sums[group.positions] = sweeper.row_sums
    return forms, row_sums
