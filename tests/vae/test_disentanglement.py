"""Scores of planted codes: perfect ones, independent ones, rotated ones; against formulas."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vae.evaluation import dci, factor_vae_score, mutual_information_gap
from vae.evaluation.disentanglement import concentration, mutual_information_table

SIZES = (3, 5, 8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def factors(repeats: int, seed: int = 0) -> Tensor:
    """Every combination of levels equally often, in random order: exactly independent."""
    grid = torch.cartesian_prod(*map(torch.arange, SIZES)).repeat(repeats, 1)
    return grid[torch.randperm(len(grid), generator=seeded(seed))]


def standardised(levels: Tensor) -> Tensor:
    sizes = torch.tensor(SIZES, dtype=torch.float64)
    return (levels - (sizes - 1) / 2) / ((sizes**2 - 1) / 12).sqrt()


def perfect(levels: Tensor) -> Tensor:
    return standardised(levels)


def independent(levels: Tensor) -> Tensor:
    seed = int(levels[0] @ torch.tensor([1, 10, 100])) + len(levels)
    return torch.randn(len(levels), 3, generator=seeded(seed), dtype=torch.float64)


def rotated(levels: Tensor) -> Tensor:
    """Every dimension follows every factor."""
    q = torch.linalg.qr(torch.randn(3, 3, generator=seeded(7), dtype=torch.float64))[0]
    return standardised(levels) @ q


def vote(encoder: object, **options: object) -> float:
    arguments = {"sizes": SIZES, "scale": torch.ones(3), "generator": seeded()} | options
    return factor_vae_score(encoder, **arguments)


def scores(encoder: object) -> dict[str, float]:
    train, heldout = factors(20), factors(10, seed=1)
    found = dci(encoder(train), train, encoder(heldout), heldout)
    return {
        "mig": mutual_information_gap(encoder(heldout), heldout),
        "disentanglement": found.disentanglement,
        "completeness": found.completeness,
        "informativeness": found.informativeness,
        "vote": vote(encoder),
    }


def test_perfect_codes_score_one() -> None:
    assert scores(perfect) == dict.fromkeys(scores(perfect), pytest.approx(1.0, abs=1e-9))


def test_independent_codes_score_next_to_nothing() -> None:
    found = scores(independent)
    assert found["mig"] < 0.02
    assert found["disentanglement"] < 0.02
    assert found["completeness"] < 0.02
    # guessing: the mean over factors of 1/levels, and one of three factors
    assert found["informativeness"] == pytest.approx(np.mean([1 / 3, 1 / 5, 1 / 8]), abs=0.03)
    assert found["vote"] == pytest.approx(1 / 3, abs=0.09)  # 400 votes: three standard errors


def test_rotated_codes_lie_between() -> None:
    """They hold all the information, in no dimension of its own."""
    found, least, most = scores(rotated), scores(independent), scores(perfect)
    for name in ("mig", "disentanglement", "completeness"):
        assert least[name] + 0.01 < found[name] < most[name] - 0.3
    assert found["informativeness"] > 0.8
    assert found["vote"] < 0.99


def test_no_score_depends_on_the_order_or_sign_of_dimensions() -> None:
    def shuffled(levels: Tensor) -> Tensor:
        return -rotated(levels)[:, [2, 0, 1]]

    one, other = scores(rotated), scores(shuffled)
    assert other["mig"] == pytest.approx(one["mig"], abs=1e-12)
    assert other["vote"] == one["vote"]
    for name in ("disentanglement", "completeness", "informativeness"):  # forests break ties
        assert other[name] == pytest.approx(one[name], abs=0.02)


def test_mutual_information_by_counts() -> None:
    """Against the entropies of the joint counts."""
    levels = factors(4)
    code = (levels[:, 1] + torch.randint(2, (480,), generator=seeded(3))).double().unsqueeze(1)

    def entropy(*columns: Tensor) -> float:
        counts = torch.unique(torch.stack(columns, 1), dim=0, return_counts=True)[1]
        shares = counts.double() / counts.sum()
        return -float((shares * shares.log()).sum())

    for k in range(3):
        z, v = code[:, 0].long(), levels[:, k]
        expected = entropy(z) + entropy(v) - entropy(z, v)
        found = mutual_information_table(code, levels, bins=6)[0, k]
        assert found == pytest.approx(expected, abs=1e-9)


def test_gap_of_two_dimensions_with_the_same_factor_is_zero() -> None:
    levels = factors(4)
    twice = perfect(levels)[:, [0, 0, 1, 1, 2, 2]]
    assert mutual_information_gap(twice, levels) == pytest.approx(0, abs=1e-12)


def test_a_factor_that_does_not_vary_is_left_out() -> None:
    levels = factors(4)
    constant = torch.cat([levels, torch.zeros(480, 1, dtype=torch.int64)], 1)
    assert mutual_information_gap(perfect(levels), constant) == pytest.approx(1)
    with pytest.raises(ValueError, match="no factor varies"):
        mutual_information_gap(perfect(levels), torch.zeros(480, 2, dtype=torch.int64))


def test_concentration_by_hand() -> None:
    """Rows are dimensions, columns factors; entropies in units of log 2."""
    importance = np.array([[0.6, 0.2], [0.0, 0.4]])

    def entropy(*shares: float) -> float:
        return -sum(p * math.log2(p) for p in shares if p > 0)

    disentanglement, completeness = concentration(importance)
    # the rows' weights are .8/1.2 and .4/1.2
    assert disentanglement == pytest.approx(2 / 3 * (1 - entropy(0.75, 0.25)) + 1 / 3)
    assert completeness == pytest.approx((1 + 1 - entropy(1 / 3, 2 / 3)) / 2)
    assert concentration(np.zeros((2, 2))) == (0, 0)
    assert concentration(np.array([[0.5, 0.5]])) == pytest.approx((0, 1))  # a single dimension


def test_dead_dimensions_do_not_win_the_vote() -> None:
    """One that never varies would always vary least."""
    noise = seeded(5)

    def with_dead(levels: Tensor) -> Tensor:
        alive = perfect(levels) + 0.1 * torch.randn(levels.shape, generator=noise)
        return torch.cat([alive, torch.zeros(len(levels), 1)], 1)

    scale = torch.tensor([1.0, 1.0, 1.0, 1e-6])
    assert vote(with_dead, scale=scale) == 1
    assert vote(with_dead, scale=torch.ones(4)) < 0.6
    assert vote(with_dead, scale=torch.zeros(4)) == pytest.approx(1 / 3)


def test_the_vote_is_in_units_of_the_usual_spread() -> None:
    """Or a dimension of large numbers would never vary least."""
    noise, units = seeded(5), torch.tensor([100.0, 1.0, 1.0])

    def scaled(levels: Tensor) -> Tensor:
        return (perfect(levels) + 0.1 * torch.randn(levels.shape, generator=noise)) * units

    assert vote(scaled, scale=units) == 1
    assert vote(scaled) < 0.8


def test_a_factor_of_one_level_is_not_fixed() -> None:
    seen = []

    def encoder(levels: Tensor) -> Tensor:
        seen.append([len(column.unique()) == 1 for column in levels.T])
        return levels.double()

    assert vote(encoder, sizes=(1, 4, 9), scale=torch.ones(3) * 2) <= 1
    fixed = np.array(seen)
    assert fixed[:, 0].all()
    assert (fixed[:, 1:].sum(1) == 1).all()
    with pytest.raises(ValueError, match=r"no factor varies, got sizes \[1, 1\]"):
        vote(encoder, sizes=(1, 1))


def test_refusals() -> None:
    levels = factors(1)
    with pytest.raises(ValueError, match=r"got \[119, 3\] and \[120, 3\]"):
        mutual_information_gap(perfect(levels)[:119], levels)
    one = levels[:, :1]
    with pytest.raises(ValueError, match="at least two factors, got 1"):
        dci(perfect(levels), one, perfect(levels), one)
