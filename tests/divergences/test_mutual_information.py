"""Mutual information against −½ d log(1 − ρ²), and where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from divergences.critic import Critic
from divergences.information import mutual_information

Rows = NDArray[np.float64]


def pairs(seed: int, n: int, d: int, rho: float) -> tuple[Rows, Rows]:
    generator = np.random.default_rng(seed)
    x, noise = generator.normal(size=(2, n, d))
    return x, rho * x + math.sqrt(1 - rho * rho) * noise


@pytest.mark.parametrize(("d", "rho"), [(1, 0.0), (2, 0.9)])
def test_gaussian_pairs(d: int, rho: float) -> None:
    """Near the truth, and not above it by more than the standard error explains."""
    truth = -0.5 * d * math.log(1 - rho * rho)
    found = mutual_information(*pairs(0, 800, d, rho), rng=0)
    assert found.estimate < truth + 3 * found.standard_error + 1e-3
    assert found.estimate > 0.85 * truth - 3 * found.standard_error - 0.03
    assert 0 < found.standard_error < 0.1
    assert found.n == 800


@pytest.mark.slow
@pytest.mark.parametrize("n", [500, 1000, 2000, 4000])
@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
def test_table(n: int, d: int, rho: float) -> None:
    """The table in the docstring, for other seeds: biased downwards by at most a fifth."""
    truth = -0.5 * d * math.log(1 - rho * rho)
    found = [mutual_information(*pairs(seed, n, d, rho), rng=seed) for seed in range(4)]
    mean = np.mean([f.estimate for f in found])
    error = np.mean([f.standard_error for f in found]) / 2
    assert mean < truth + 3 * error + 1e-3
    assert mean > 0.8 * truth - 3 * error - 0.03


def test_maps_of_either_side_leave_it() -> None:
    """I(f(X); g(Y)) = I(X; Y) = 0.51: here tails up to sinh 9, and a narrow column far from 0.
    On this sample the estimate from (x, y) as they are is 0.41 ± 0.04."""
    x, y = pairs(1, 500, 1, 0.8)
    found = mutual_information(np.sinh(3 * x), 1e6 - 1e-3 * y, rng=0)
    assert 0.28 < found.estimate < 0.55


def test_dependence_without_correlation() -> None:
    generator = np.random.default_rng(0)
    angle = generator.uniform(0, 2 * math.pi, 400)
    noise = 0.1 * generator.normal(size=(2, 400))
    found = mutual_information(np.cos(angle) + noise[0], np.sin(angle) + noise[1], rng=0)
    assert found.estimate - 5 * found.standard_error > 0.3


def test_binary_pairs() -> None:
    """I = log 2 − H(0.1) for a symmetric channel that flips one bit in ten."""
    generator = np.random.default_rng(0)
    x = generator.integers(0, 2, 400)
    y = x ^ (generator.random(400) < 0.1)
    truth = math.log(2) + 0.1 * math.log(0.1) + 0.9 * math.log(0.9)
    found = mutual_information(x, y, rng=0)
    assert abs(found.estimate - truth) < 4 * found.standard_error + 0.02


class Bilinear(nn.Module):
    """The right form of log p/q for ρ known up to a scale, which starts where ρ is about 0.4."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, rows: Tensor) -> Tensor:
        return (self.weight * rows[:, 0] * rows[:, 1]).unsqueeze(1)


@pytest.mark.usefixtures("brief_training")
def test_standard_error_against_other_samples() -> None:
    found = [
        mutual_information(*pairs(seed, 250, 1, 0.7), critic=Bilinear(), rng=seed)
        for seed in range(20)
    ]
    spread = np.std([f.estimate for f in found], ddof=1)
    mean = np.mean([f.standard_error for f in found])
    assert 0.6 < spread / mean < 1.43  # √(χ²₁₉/19) lies within these 99 % of the time


@pytest.mark.usefixtures("brief_training")
def test_mixed_pairs_are_not_pairs() -> None:
    """Of equal columns, a row is mixed where they differ: in training batches all or none are."""

    class Same(nn.Module):
        def __init__(self, logit: float) -> None:
            super().__init__()
            self.logit, self.unused = logit, nn.Parameter(torch.zeros(()))

        def forward(self, rows: Tensor) -> Tensor:
            same = (rows[:, 0] == rows[:, 1]).float()
            assert not self.training or same.mean().item() in (0.0, 1.0)
            return self.logit * same + self.unused

    x = np.random.default_rng(0).normal(size=100)
    for logit, expected in ((4.0, 4.0), (9.0, math.log(100))):  # t − log E′ exp 0, at most log n
        found = mutual_information(x, x, critic=Same(logit), rng=0)
        assert found.estimate == pytest.approx(expected, abs=1e-6)


@pytest.mark.usefixtures("brief_training")
def test_a_critic_knows_nothing_of_held_out_pairs() -> None:
    class Memory(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(()))
            self.seen: set[float] = set()

        def forward(self, rows: Tensor) -> Tensor:
            if self.training:
                self.seen |= set(rows.flatten().tolist())
            known = [float(not self.seen.isdisjoint(row)) for row in rows.tolist()]
            return torch.tensor(known) + self.unused

    x = np.random.default_rng(0).normal(size=(60, 2))
    found = mutual_information(x[:, 0], x[:, 1], critic=Memory(), rng=0)
    assert abs(found.estimate) < 1e-3


@pytest.mark.usefixtures("brief_training")
def test_repeats_with_a_seed_and_leaves_the_global_generator_alone() -> None:
    x, y = pairs(0, 60, 1, 0.8)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = mutual_information(x, y, critic=Bilinear(), rng=5)
    assert torch.equal(state, torch.get_rng_state())
    assert first == mutual_information(torch.tensor(x), y.tolist(), critic=Bilinear(), rng=5)
    assert first.seed == 5
    assert first.estimate != mutual_information(x, y, critic=Bilinear(), rng=6).estimate


@pytest.mark.usefixtures("brief_training")
def test_constant_columns_and_few_rows() -> None:
    x, y = pairs(0, 10, 1, 0.5)
    for a, b in ((np.ones((40, 2)), np.arange(40.0)), (np.ones(40), np.ones(40)), (x, y)):
        found = mutual_information(a, b, critic=Bilinear(), rng=0)
        assert math.isfinite(found.estimate)
        assert math.isfinite(found.standard_error)


def test_constants_tell_nothing() -> None:
    found = mutual_information(np.ones(40), np.ones(40), critic=Critic(2, ()), rng=0)
    assert found.estimate == pytest.approx(0, abs=1e-6)


def test_what_is_refused() -> None:
    x, y = pairs(0, 20, 2, 0.5)
    with pytest.raises(ValueError, match=r"pairs, row by row.*got x \[20, 2\] .* y \[19, 2\]"):
        mutual_information(x, y[:19])
    with pytest.raises(ValueError, match=r"x has 9 row.* cross-fitting needs at least 10"):
        mutual_information(x[:9], y[:9])
    with pytest.raises(ValueError, match="y has 1 rows of 20 with NaN"):
        mutual_information(x, np.where(np.arange(20)[:, None] == 3, np.nan, y))
    with pytest.raises(TypeError, match=r"torch\.nn\.Module; got str"):
        mutual_information(x, y, critic="mlp")  # type: ignore[arg-type]
