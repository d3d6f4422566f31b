"""Disentanglement scores against known factors: MIG, DCI and the FactorVAE score.

Needs scikit-learn: pip install "divergences[vae]".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from divergences.resampling import progress
from divergences.results import Record
from vae._extras import needs_extra
from vae.evaluation.codes import ACTIVE

with needs_extra():
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import mutual_info_score

BINS = 20
TREES = 50
LEAST_LEAF = 5  # rows in a leaf
VOTES, CHECKED, ROWS = 800, 400, 64

Array = NDArray[np.float64]
Encoder = Callable[[Tensor], Tensor]
"""Factors [n, F] to codes [n, M]: a renderer and an encoder."""


@dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness and informativeness, each in [0, 1]."""

    disentanglement: float
    completeness: float
    informativeness: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Disentanglement(Record):
    """Scores in [0, 1], 1 the best; ``factor_vae`` is None where no renderer is known.
    ``mutual_information`` [M, F] in nats is what the MIG is made of."""

    mig: float
    dci: DCI
    factor_vae: float | None
    factors: tuple[str, ...]
    mutual_information: Array = field(repr=False)


# --- Mutual information gap ----------------------------------------------------------------------


def mutual_information_table(codes: Tensor, factors: Tensor, *, bins: int = BINS) -> Array:
    """I(z_j; v_k) in nats, [M, F], of codes [n, M] cut into bins of equal width and factors [n, F];
    by counts, so too large by about (bins − 1)(levels − 1)/2n where they are independent."""
    _check(codes, factors)
    columns = [_binned(column, bins) for column in codes.double().numpy().T]
    return np.array([[mutual_info_score(v, z) for v in factors.numpy().T] for z in columns])


def mutual_information_gap(codes: Tensor, factors: Tensor, *, bins: int = BINS) -> float:
    """MIG (Chen et al. 2018, arXiv:1802.04942, eq. 6): over factors, the mean of the gap between
    the two largest I(z_j; v_k), in units of H(v_k).

    With discretised codes, a factor of more levels than bins cannot reach 1. Factors that do not
    vary are left out.

    Args:
        codes: [n, M] of E[z|x].
        factors: [n, F] integer levels.

    Raises:
        ValueError: rows that do not match, or no factor that varies.

    Examples:
        >>> import torch
        >>> from vae.evaluation import mutual_information_gap
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        >>> turned = factors.double() @ torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
        >>> print(f"{mutual_information_gap(factors.double(), factors):.2f}")
        1.00
        >>> print(f"{mutual_information_gap(turned, factors):.2f}")  # a factor in both dimensions
        0.00
    """
    return gap(mutual_information_table(codes, factors, bins=bins), factors)


def gap(table: Array, factors: Tensor) -> float:
    """The MIG from I(z_j; v_k) [M, F]."""
    entropy = np.array([mutual_info_score(v, v) for v in factors.numpy().T])
    varies = entropy > 0
    if not varies.any():
        raise ValueError("no factor varies")
    ordered = np.sort(
        np.vstack([table, np.zeros_like(table[:1])]), axis=0
    )  # one dimension: gap to 0
    gaps = ordered[-1] - ordered[-2]
    return float((gaps[varies] / entropy[varies]).mean())


def _binned(column: Array, bins: int) -> NDArray[np.int64]:
    edges = np.histogram_bin_edges(column, bins)
    return np.digitize(column, edges[1:-1])


# --- DCI -----------------------------------------------------------------------------------------


def dci(
    train_codes: Tensor,
    train_factors: Tensor,
    heldout_codes: Tensor,
    heldout_factors: Tensor,
    *,
    seed: int = 0,
) -> DCI:
    """Disentanglement, completeness, informativeness (Eastwood & Williams 2018, ICLR, sec. 2), from
    the importance of every dimension to a random forest for every factor. Informativeness is the
    mean held-out accuracy (theirs is an error).

    Args:
        train_codes, heldout_codes: [n, M] and [m, M].
        train_factors, heldout_factors: [n, F] and [m, F] integer levels, F ≥ 2.

    Raises:
        ValueError: rows that do not match, or fewer than two factors.
    """
    _check(train_codes, train_factors)
    _check(heldout_codes, heldout_factors)
    if train_factors.shape[1] < 2:
        raise ValueError(f"DCI needs at least two factors, got {train_factors.shape[1]}")
    importance, accuracy = [], []
    pairs = zip(train_factors.numpy().T, heldout_factors.numpy().T, strict=True)
    for train, heldout in pairs:
        forest = RandomForestClassifier(
            TREES, min_samples_leaf=LEAST_LEAF, max_features=None, random_state=seed
        ).fit(train_codes.numpy(), train)
        importance.append(forest.feature_importances_)
        accuracy.append(forest.score(heldout_codes.numpy(), heldout))
    scores = concentration(np.array(importance).T)
    return DCI(*scores, float(np.mean(accuracy)))


def concentration(importance: Array) -> tuple[float, float]:
    """Disentanglement and completeness of importances R [M, F] ≥ 0: one minus the entropies, in
    units of their maxima, of rows (weighted by their sums) and of columns."""
    total = importance.sum()
    if total == 0:
        return 0.0, 0.0
    rows = 1 - _entropy(importance)
    columns = 1 - _entropy(importance.T)
    return float(rows @ importance.sum(1) / total), float(columns.mean())


def _entropy(weights: Array) -> Array:
    """Entropy of each row in units of its maximum; 1 for a row of zeros, 0 for one column."""
    count = weights.shape[1]
    if count == 1:
        return np.zeros(len(weights))
    sums = weights.sum(1, keepdims=True)
    shares = np.divide(weights, sums, out=np.full_like(weights, 1 / count), where=sums > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy: Array = -(shares * logs).sum(1) / np.log(count)
    return entropy


# --- FactorVAE score -----------------------------------------------------------------------------


def factor_vae_score(
    encoder: Encoder,
    sizes: Sequence[int],
    scale: Tensor,
    *,
    generator: Generator,
    show_progress: bool | None = False,
) -> float:
    """Accuracy of a majority vote (Kim & Mnih 2018, arXiv:1802.05983, sec. 4): among rows that
    share one factor, which dimension varies least, in units of its usual spread?

    800 votes of 64 rows each fix the classifier, 400 others are its accuracy. Dimensions that never
    vary (variance below .01) take no part; if none is left the score is that of guessing, 1/F.

    Args:
        encoder: factors [n, F] to codes [n, M] of E[z|x].
        sizes: number of levels of each factor; those of a single level are not fixed.
        scale: [M] standard deviations of the codes of the data.
        generator: of factors, on the CPU.
        show_progress: a bar; None shows it on a terminal once it has taken some seconds.

    Raises:
        ValueError: no factor varies.
    """
    candidates = [k for k, size in enumerate(sizes) if size > 1]
    if not candidates:
        raise ValueError(f"no factor varies, got sizes {list(sizes)}")
    alive = (scale.square() > ACTIVE).nonzero().flatten()
    if len(alive) == 0:
        return 1 / len(candidates)
    counts = np.zeros((2, len(alive), len(sizes)), dtype=np.int64)
    with progress(VOTES + CHECKED, "FactorVAE score", show_progress) as tick:
        for vote in range(VOTES + CHECKED):
            draw = int(torch.randint(len(candidates), (), generator=generator))
            fixed = candidates[draw]
            codes = encoder(_fixed(fixed, sizes, generator))[:, alive] / scale[alive]
            counts[int(vote >= VOTES), int(codes.var(0).argmin()), fixed] += 1
            tick()
    learned, checked = counts
    answers = learned.argmax(1)
    return float(checked[np.arange(len(alive)), answers].sum() / checked.sum())


def _fixed(factor: int, sizes: Sequence[int], generator: Generator) -> Tensor:
    """Random factors [ROWS, F] that share the level of one."""
    columns = [torch.randint(size, (ROWS,), generator=generator) for size in sizes]
    columns[factor] = columns[factor][:1].expand(ROWS)
    return torch.stack(columns, 1)


def _check(codes: Tensor, factors: Tensor) -> None:
    if codes.dim() != 2 or factors.dim() != 2 or len(codes) != len(factors) or len(codes) == 0:
        raise ValueError(
            "codes and factors must be [n, M] and [n, F] of the same n ≥ 1 rows, got "
            f"{list(codes.shape)} and {list(factors.shape)}"
        )
