"""Columns of different units on one scale, by a transformation that knows no labels.

Distances add up columns. Where one column is measured in thousands and another in tenths, kernels
see the first one alone. Each transformation here is a function of the pooled rows as a set, the
same whatever row belongs to which sample, so that a permutation test of the scaled rows is as exact
as one of the rows as given.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from .gaussian_models import whiten
from .samples import column_title

Scale = Literal["auto", "robust", "std", "rank", "whiten"]
"""How columns are scaled; None in its place leaves them as they are."""

TOO_FAR = 5.0  # the ratio of the largest to the smallest spread from which "auto" scales
HIDDEN = 100.0  # the ratio from which a result says that nothing was scaled
TRIMMED = 0.01  # of the rows at either end of a column, which do not set its robust spread
ROUNDING = 2.0**-23  # of a typical entry: what fp32 leaves between numbers that should be equal


class Scaled(NamedTuple):
    rows: Tensor  # [N, d]
    done: str | None  # what was done to the columns: "robust", "std", "rank", "whiten" or None
    notes: tuple[str, ...]


def check_scale(scale: Any) -> None:
    """Raises ValueError for what is no ``Scale`` and not None."""
    if scale is not None and scale not in get_args(Scale):
        known = ", ".join(map(repr, get_args(Scale)))
        raise ValueError(f"unknown scale {scale!r}; known are {known} and None")


def without_units(*settings: Any) -> bool:
    """Whether kernels and bandwidths are names, or left open. Numbers are in units of the data, and
    so is the bandwidth of the rule "dimension"."""
    return all(s is None or (isinstance(s, str) and s != "dimension") for s in settings)


def scaled(
    z: Tensor,
    scale: Scale | None,
    *,
    auto: bool = True,
    name: str = "",
    columns: list[str] | None = None,
    spread_of: Tensor | None = None,
) -> Scaled:
    """The pooled rows z [N, d] with their columns on one scale.

    scale: see ``divergences.two_sample.two_sample_test``. ``auto``: whether "auto" may do anything.
    ``name`` of the sample and of its ``columns``, for notes. ``spread_of``: the rows whose spread
    "auto", "robust" and "std" divide by, where not z; blind to labels as well. Raises ValueError
    where "whiten" meets a singular covariance.
    """
    of = f" of {name}" if name else ""
    if scale in ("rank", "whiten"):
        found = _ranks(z) if scale == "rank" else whiten(z.double(), f"the pooled rows{of}")
        return Scaled(found.to(z.dtype), scale, (f"columns{of}: {_WORDS[scale]}",))
    where = "the pooled sample" if spread_of is None else "the differences within pairs"
    to = fitted(z, scale, auto=auto, of=of, columns=columns, spread_of=spread_of, where=where)
    return Scaled(to.scaled(z), to.done, to.notes)


class Fitted(NamedTuple):
    """What is taken off columns, and what they are divided by, [d]; None: they stay as they are."""

    middle: Tensor
    spread: Tensor | None
    done: str | None
    notes: tuple[str, ...]

    def scaled(self, rows: Tensor) -> Tensor:
        """The rows [n, d] on one scale."""
        if self.spread is None:
            return rows
        return ((rows.double() - self.middle) / self.spread).to(rows.dtype)


def fitted(
    rows: Tensor,
    scale: Scale | None,
    *,
    auto: bool = True,
    of: str = "",
    columns: list[str] | None = None,
    spread_of: Tensor | None = None,
    where: str,
) -> Fitted:
    """``scaled`` by "auto", "robust", "std" or None, learned from these rows [n, d], for others of
    the same columns; ``where`` is what to call them in a note."""
    rows = rows.double()
    measured = rows if spread_of is None else spread_of.double()
    spread = _std(measured) if scale == "std" else robust_spread(measured)
    varying = spread[spread > 0]
    ratio = float(varying.max() / varying.min()) if len(varying) > 1 else 1.0
    if scale is None or (scale == "auto" and not (auto and ratio > TOO_FAR)):
        note = (
            f"spreads of the columns{of} differ by a factor of {ratio:.2g} ("
            f"{column_title(int(spread.argmax()), columns)} has the largest) and were not scaled: "
            "differences in narrow columns are hardly seen (scale='robust')"
        )
        return Fitted(_median(rows), None, None, (note,) if ratio > HIDDEN else ())
    done = "robust" if scale == "auto" else scale
    note = f"columns{of}: {_WORDS[done].format(where)}"
    return Fitted(_median(rows), torch.where(spread > 0, spread, 1.0), done, (note,))


_WORDS = {
    "robust": "divided by their spread in {}, without its outer 1 % on either side",
    "std": "divided by their standard deviation in {}",
    "rank": "replaced by their ranks in the pooled sample",
    "whiten": "whitened by the covariance of the pooled sample",
}


def _median(z: Tensor) -> Tensor:
    """The lower median of each column [d]."""
    return _smallest(z, (len(z) - 1) // 2)


def _smallest(z: Tensor, place: int) -> Tensor:
    """The entry of each column [d] that has this place, from 0, in their order."""
    if z.device.type == "cpu":  # elsewhere not where algorithms must be deterministic
        return z.kthvalue(place + 1, 0).values
    return z.sort(0).values[place]


def _floor(z: Tensor) -> Tensor:
    """[d]: spreads below this are rounding."""
    return ROUNDING * _median(z.abs())


def _std(z: Tensor) -> Tensor:
    """Standard deviations [d], 0 for columns that are constant up to rounding."""
    largest = z.abs().amax(0).clamp_min(torch.finfo(z.dtype).tiny)
    found = (z / largest).std(0, correction=0) * largest
    return torch.where(found > _floor(z), found, 0.0)


def robust_spread(z: Tensor) -> Tensor:
    """Spreads [d] that a few rows far out do not set: the standard deviation of the column with its
    outer values pulled in to the quantiles TRIMMED and 1 − TRIMMED, or the median distance from the
    median of the entries that differ from it, whichever is larger.

    The second rules for columns that are mostly one value: pixels at the edge of pictures, rare
    categories. Their few other entries come to lie about 1 from the rest, and not far out.
    """
    cut = int(TRIMMED * len(z))
    inner = z.clamp(_smallest(z, cut), _smallest(z, len(z) - 1 - cut))
    away = (z - _median(z)).abs()
    differs = away > _floor(z)
    away = torch.where(differs, away, torch.inf).sort(0).values
    middle = (differs.sum(0) - 1).clamp_min(0) // 2
    typical = away.gather(0, middle.unsqueeze(0)).squeeze(0)
    found: Tensor = torch.maximum(_std(inner), torch.where(differs.any(0), typical, 0.0))
    return found


def _ranks(z: Tensor) -> Tensor:
    """Mid-ranks of each column, equal entries sharing theirs, over N/√12: of unit variance where
    there are no ties."""
    found = torch.empty_like(z, dtype=torch.float64)
    for column, out in zip(z.T, found.T, strict=True):
        _, inverse, counts = column.unique(return_inverse=True, return_counts=True)
        ends = counts.cumsum(0)
        out.copy_((ends - 0.5 * (counts - 1))[inverse])
    return found * (math.sqrt(12.0) / len(z))
