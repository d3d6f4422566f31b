"""Schedules by hand-computed values, and what they and their users refuse."""

import math

import pytest

from vae import Anneal, Capacity, Constant, Cyclical, WeightedKL
from vae.objectives.rates import LAST
from vae.objectives.schedules import Schedule


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(3.0), {0: 3, 10**9: 3}),
        (Anneal(0, 1, 100), {0: 0, 25: 0.25, 99: 0.99, 100: 1, 5000: 1}),
        (Anneal(8, 1, 70), {0: 8, 10: 7, 70: 1, 71: 1}),
        (Anneal(0, 2, 100, "cosine"), {0: 0, 25: 1 - math.sqrt(0.5), 50: 1, 100: 2, 101: 2}),
        # two cycles of 50 steps: 25 up, 25 at the top
        (Cyclical(0, 4, 100, 2), {0: 0, 5: 0.8, 25: 4, 49: 4, 50: 0, 60: 1.6, 80: 4, 100: 4}),
        (Cyclical(1, 2, 100, 4, ramp=1.0), {0: 1, 5: 1.2, 24: 1.96, 25: 1, 99: 1.96, 100: 2}),
    ],
    ids=lambda value: str(value) if not isinstance(value, dict) else "",
)
def test_values_by_hand(schedule: Schedule, values: dict[int, float]) -> None:
    for step, value in values.items():
        assert schedule(step) == pytest.approx(value, abs=1e-12), step
    assert schedule(schedule.length) == schedule.final
    assert schedule(LAST) == schedule.final


def test_lengths_are_those_of_the_run_they_need() -> None:
    assert (Constant(1.0).length, Anneal(0, 1, 30).length, Cyclical(0, 1, 80).length) == (0, 30, 80)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_weights_must_be_finite(value: float) -> None:
    for make in (
        lambda: Constant(value),
        lambda: Anneal(value, 1, 10),
        lambda: Anneal(1, value, 10),
        lambda: Cyclical(0, value, 10),
        lambda: WeightedKL(value),
        lambda: Capacity(1, value),
    ):
        with pytest.raises(ValueError, match=f"must be finite, got .*{value}"):
            make()


def test_what_cannot_be_a_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one step, got 0"):
        Anneal(0, 1, 0)
    with pytest.raises(ValueError, match="at least one step, got -5"):
        Cyclical(0, 1, -5)
    with pytest.raises(ValueError, match="'linear' or 'cosine', got 'cubic'"):
        Anneal(0, 1, 10, "cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"ramp in \(0, 1\], got 0 and 0.5"):
        Cyclical(0, 1, 10, cycles=0)
    with pytest.raises(ValueError, match=r"ramp in \(0, 1\], got 4 and 0"):
        Cyclical(0, 1, 10, ramp=0)


@pytest.mark.parametrize("gamma", [-1.0, math.nan, math.inf], ids=str)
def test_the_weight_of_a_capacity_is_finite_and_not_negative(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma must be finite and at least 0, got"):
        Capacity(gamma, 5)


def test_a_kl_that_ends_rewarded_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"a weight of -0.5 < 0 .*rewards a large KL"):
        WeightedKL(Anneal(1, -0.5, 10))


def test_schedules_are_described() -> None:
    assert WeightedKL(Anneal(0, 4, 500)).describe() == "β = 1−α = 0 → 4 in 500 steps (linear) on KL"
    assert "4 cycles in 800 steps" in WeightedKL(Cyclical(0, 1, 800)).describe()
    assert Capacity(20, Anneal(0, 25, 9)).describe() == (
        "γ = 20 on |KL − C|, C = 0 → 25 in 9 steps (linear) nats"
    )
