"""Density ratios: the loss is the cross entropy, the logit log p/q, the numbers the truth."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from divergences import density_ratio
from divergences.critic import Critic, Scaling
from divergences.density_ratio import (
    critic_loss,
    fit_density_ratio,
    js_from_logits,
    kl_from_logits,
    kl_lower_bound,
)

LossLike = Callable[..., Tensor]


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# --- Functions of logits -------------------------------------------------------------------------


def cross_entropy(p: Tensor, q: Tensor, wp: Tensor, wq: Tensor) -> float:
    """−½Σ w log σ(t) − ½Σ w log(1 − σ(t)) as it is written in books."""
    probability_p = 1 / (1 + np.exp(-p.double().numpy()))
    probability_q = 1 / (1 + np.exp(-q.double().numpy()))
    from_p = np.average(-np.log(probability_p), weights=wp.double().numpy())
    from_q = np.average(-np.log(1 - probability_q), weights=wq.double().numpy())
    return float(0.5 * from_p + 0.5 * from_q)


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3, 2)])
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.bfloat16, 3e-7), (torch.float32, 3e-7), (torch.float64, 1e-14)]
)
def test_critic_loss(shape: tuple[int, ...], dtype: torch.dtype, rtol: float) -> None:
    """Bfloat16 logits are averaged in fp32: their error is not that of bfloat16."""
    p, q = (2 * normal(0, *shape)).to(dtype), (3 * normal(1, 4, *shape[1:])).to(dtype)
    wp, wq = normal(2, *p.shape).abs(), normal(3, *q.shape).abs()
    found = critic_loss(p, q)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert found.item() == pytest.approx(
        cross_entropy(p, q, torch.ones_like(wp), torch.ones_like(wq)), rel=rtol
    )
    weighted = critic_loss(p, q, wp, wq)
    assert weighted.item() == pytest.approx(cross_entropy(p, q, wp, wq), rel=max(rtol, 3e-7))
    assert critic_loss(p, q, 7 * wp, wq).item() == pytest.approx(weighted.item())
    assert js_from_logits(p, q, wp, wq).item() == pytest.approx(
        math.log(2) - weighted.item(), abs=1e-6
    )


def test_extreme_logits_stay_finite() -> None:
    sure = torch.tensor([1e4, 3e4])
    assert critic_loss(sure, -sure).item() == 0.0
    assert critic_loss(-sure, sure).item() == pytest.approx(2e4)
    assert kl_lower_bound(sure, sure).item() == pytest.approx(-1e4 + math.log(2))


def minimiser(loss: LossLike, p_cells: Tensor, q_cells: Tensor) -> Tensor:
    """The table of logits [cells] that minimises the loss."""
    table = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [table],
        max_iter=200,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def step() -> Tensor:
        optimizer.zero_grad()
        value = loss(table[p_cells], table[q_cells])
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(step)  # type: ignore[arg-type]
    return table.detach()


def test_the_logit_is_the_log_ratio_for_unequal_numbers() -> None:
    """Twice as many fakes as reals: pooled cross entropy is off by log 2, this loss is not."""
    p_cells = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    q_cells = torch.tensor([0] * 4 + [1] * 6 + [2] * 10)
    truth = torch.tensor([2.5, 1.0, 0.4]).double().log()
    torch.testing.assert_close(minimiser(critic_loss, p_cells, q_cells), truth, rtol=0, atol=1e-6)

    def pooled(p: Tensor, q: Tensor) -> Tensor:
        labels = torch.cat([torch.ones_like(p), torch.zeros_like(q)])
        return nn.functional.binary_cross_entropy_with_logits(torch.cat([p, q]), labels)

    trap = minimiser(pooled, p_cells, q_cells)
    torch.testing.assert_close(trap, truth - math.log(2), rtol=0, atol=1e-6)


def test_weights_mix_two_kinds_of_fakes() -> None:
    """10 reconstructions and 4 samples, each kind with weight ½: Q is their even mixture."""
    reconstructions, samples = torch.tensor([0] * 8 + [1] * 2), torch.tensor([1] * 1 + [2] * 3)
    weights = torch.cat([torch.full((10,), 0.5 / 10), torch.full((4,), 0.5 / 4)]).double()
    p_cells = torch.tensor([0, 1, 2])
    mixture = 0.5 * torch.tensor([0.8, 0.2, 0]) + 0.5 * torch.tensor([0, 0.25, 0.75])
    found = minimiser(
        lambda p, q: critic_loss(p, q, None, weights),
        p_cells,
        torch.cat([reconstructions, samples]),
    )
    truth = -(3 * mixture.double()).log()
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-6)


def test_divergences_of_known_distributions() -> None:
    """Exact log ratios on a finite space give KL and JS by their definitions."""
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    q = p.flip(0)
    t = (p / q).log()
    m = (p + q) / 2
    kl = (p * t).sum().item()
    js = 0.5 * ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()).item()
    assert kl_from_logits(t, p).item() == pytest.approx(kl, rel=1e-12)
    assert kl_lower_bound(t, t, p, q).item() == pytest.approx(kl, rel=1e-12)
    assert js_from_logits(t, t, p, q).item() == pytest.approx(js, rel=1e-12)
    assert kl_lower_bound(t + 5, t + 5, p, q).item() == pytest.approx(kl, rel=1e-12)
    for seed in range(20):  # any other logits give less
        other = t + normal(seed, 3)
        assert kl_lower_bound(other, other, p, q) < kl
        assert js_from_logits(other, other, p, q) < js


def test_gradients() -> None:
    p, q = normal(0, 6).requires_grad_(), normal(1, 4).requires_grad_()
    wp, wq = normal(2, 6).abs().requires_grad_(), normal(3, 4).abs().requires_grad_()
    for function in (critic_loss, js_from_logits, kl_lower_bound):
        assert torch.autograd.gradcheck(function, (p, q))
        assert torch.autograd.gradcheck(function, (p, q, wp, wq))
    assert torch.autograd.gradcheck(kl_from_logits, (p, wp))


def test_what_the_functions_refuse() -> None:
    t = normal(0, 5)
    with pytest.raises(ValueError, match=r"logits_q is empty \(shape \[0\]\)"):
        critic_loss(t, t[:0])
    with pytest.raises(ValueError, match=r"weights_p .* \[5\]; got \[5, 1\]"):
        critic_loss(t, t, t.abs().unsqueeze(1))
    with pytest.raises(ValueError, match="weights_q sums to zero"):
        critic_loss(t, t, None, torch.zeros(5))
    with pytest.raises(TypeError, match=r"torch\.int64"):
        kl_from_logits(torch.arange(3))
    with pytest.raises(TypeError, match="must be a torch tensor; got list"):
        critic_loss(t, t, [1.0] * 5)  # type: ignore[arg-type]


# --- Critics on samples --------------------------------------------------------------------------


def test_scaling_is_one_to_one_robust_and_finite() -> None:
    rows = normal(0, 400, 4) * torch.tensor([1.0, 1e-6, 1e6, 1.0]) + 1e3
    rows[:, 3] = 7.0  # constant
    rows[0, 0] = 1e12
    scaled = Scaling(rows)(rows)
    assert scaled.isfinite().all()
    assert (scaled[:, 3] == 0).all()
    assert scaled[1:, :3].std(0).tolist() == pytest.approx([1, 1, 1], abs=0.15)
    assert scaled[0, 0] < 100
    order = rows[:, 0].argsort()
    assert (scaled[order, 0].diff() > 0).all()
    sparse = torch.zeros(100, 1).double()
    sparse[:5] = 3.0  # both quartiles are 0
    assert Scaling(sparse)(sparse).unique().numel() == 2


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_shifted_gaussians(shift: float) -> None:
    """log p/q = δ·x₁ − δ²/2 is linear and KL = δ²/2, with n ≠ m."""
    x, y = normal(0, 1000, 2), normal(1, 700, 2)
    x[:, 0] += shift
    ratio = fit_density_ratio(x, y, rng=0)
    truth = shift**2 / 2
    assert abs(ratio.kl - truth) < 4 * ratio.kl_standard_error + 0.05 * truth + 0.01
    grid = normal(2, 200, 2)
    grid[:, 0] += shift / 2
    error = ratio(grid) - (shift * grid[:, 0].numpy() - truth)
    assert np.sqrt((error**2).mean()) < 0.15 + 0.2 * shift  # 0.11 to 0.20 at shift 1
    assert ratio.logits_x.shape == (1000,)
    assert ratio.logits_y.shape == (700,)
    assert -0.01 < ratio.js < math.log(2)  # below 0: what learned noise costs on new rows
    assert ratio.kl == pytest.approx(
        kl_lower_bound(torch.tensor(ratio.logits_x), torch.tensor(ratio.logits_y)).item()
    )


def test_wider_gaussian() -> None:
    """log p/q = x²(1 − 1/s²)/2 − log s is quadratic; KL = ½(s² − 1) − log s."""
    s = 1.6
    ratio = fit_density_ratio(s * normal(0, 1200, 1), normal(1, 1200, 1), rng=0)
    truth = 0.5 * (s * s - 1) - math.log(s)
    assert abs(ratio.kl - truth) < 4 * ratio.kl_standard_error + 0.05 * truth
    grid = np.linspace(-2.5, 2.5, 101)
    error = ratio(grid) - (0.5 * grid**2 * (1 - 1 / s**2) - math.log(s))
    assert np.sqrt((error**2).mean()) < 0.2


@pytest.mark.usefixtures("brief_training")
def test_standard_errors_are_those_of_the_held_out_means() -> None:
    ratio = fit_density_ratio(normal(0, 60, 2) + 1.0, normal(1, 50, 2), rng=0)
    generator = np.random.default_rng(0)
    x, y = torch.tensor(ratio.logits_x), torch.tensor(ratio.logits_y)
    again = [
        (kl_lower_bound(p, q).item(), js_from_logits(p, q).item())
        for p, q in (
            (
                x[torch.from_numpy(generator.integers(60, size=60))],
                y[torch.from_numpy(generator.integers(50, size=50))],
            )
            for _ in range(2000)
        )
    ]
    bootstrap = np.std(again, axis=0)
    assert [ratio.kl_standard_error, ratio.js_standard_error] == pytest.approx(bootstrap, rel=0.1)


@pytest.mark.usefixtures("brief_training")
def test_logits_are_held_out() -> None:
    """A critic that remembers rows knows nothing of those it has not seen."""

    class Memory(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))
            self.seen: set[float] = set()

        def forward(self, rows: Tensor) -> Tensor:
            if self.training:
                self.seen |= set(rows[:, 0].tolist())
                return self.scale * rows[:, 0]
            known = [float(value in self.seen) for value in rows[:, 0].tolist()]
            return torch.tensor(known)

    x, y = normal(0, 50, 1), normal(1, 50, 1)
    ratio = fit_density_ratio(x, y, critic=Memory(), rng=0)
    assert (ratio.logits_x == 0).all()
    assert (ratio.logits_y == 0).all()


def test_no_overlap_and_no_difference() -> None:
    apart = fit_density_ratio(normal(0, 40, 1) + 100, normal(1, 30, 1), rng=0)
    assert 2.0 < apart.kl <= math.log(30)
    assert 0.4 < apart.js <= math.log(2)
    constant = fit_density_ratio(np.ones((20, 2)), np.ones((15, 2)), rng=0)
    assert [constant.kl, constant.js] == pytest.approx([0, 0], abs=1e-6)
    assert np.isfinite(constant(np.zeros((3, 2)))).all()


@pytest.mark.usefixtures("brief_training")
def test_repeats_with_a_seed_and_leaves_global_generators_alone() -> None:
    x, y = normal(0, 30, 2) + 1.0, normal(1, 25, 2)
    critic = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    before = [value.clone() for value in critic.state_dict().values()]
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 (it is the global state that is watched)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = fit_density_ratio(x, y, critic=critic, rng=3)
    assert torch.equal(state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002
    torch.manual_seed(6)
    second = fit_density_ratio(x.numpy(), y.numpy(), critic=critic, rng=3)
    assert (first.logits_x == second.logits_x).all()
    assert first.kl == second.kl
    assert first.seed == 3
    assert first.kl != fit_density_ratio(x, y, critic=critic, rng=4).kl
    for value, now in zip(before, critic.state_dict().values(), strict=True):
        assert torch.equal(value, now)
    assert critic.training
    with pytest.raises(ValueError, match="read-only"):
        first.logits_x[0] = 0.0


def test_an_interrupt_leaves_nothing_behind() -> None:
    class Interrupted(Critic):
        def forward(self, points: Tensor) -> Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().forward(points)

    critic = Interrupted(2)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        fit_density_ratio(normal(0, 20, 2), normal(1, 20, 2), critic=critic, rng=0)
    assert torch.equal(state, torch.get_rng_state())
    assert all((value == 0).all() for value in critic.linear.state_dict().values())


@pytest.mark.usefixtures("brief_training")
def test_what_fitting_refuses() -> None:
    x = normal(0, 20, 2)
    with pytest.raises(ValueError, match=r"y has 9 row.* cross-fitting needs at least 10"):
        fit_density_ratio(x, x[:9])
    with pytest.raises(TypeError, match=r"critic must be a torch\.nn\.Module; got function"):
        fit_density_ratio(x, x, critic=lambda rows: rows)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[n\] or \[n, 1\]; it maps \[4, 2\] to \[4, 3\]"):
        fit_density_ratio(x, x, critic=nn.Linear(2, 3))
    with pytest.raises(ValueError, match="x has 1 rows of 20 with NaN"):
        fit_density_ratio(x.masked_fill(x == x[3, 0], math.nan), x)
    ratio = fit_density_ratio(x, x, critic=nn.Linear(2, 1), rng=0)
    with pytest.raises(ValueError, match=r"points must have shape \[k, 2\]; got \[5, 3\]"):
        ratio(np.zeros((5, 3)))


@pytest.mark.usefixtures("brief_training")
@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference"]
)
def test_the_modes_of_the_caller_do_not_matter(mode: Any) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(60, 1)), generator.normal(1.0, 1.0, (60, 1))
    expected = fit_density_ratio(x, y, rng=0).kl
    with mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert fit_density_ratio(x, y, rng=0).kl == expected


def test_threads_do_not_share_randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density_ratio, "FEW_STEPS", 100)
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(40, 1)), generator.normal(1.0, 1.0, (40, 1))
    expected, before = fit_density_ratio(x, y, rng=0).kl, torch.random.get_rng_state()
    drawn = [float(torch.rand(())) for _ in range(2000)]
    torch.random.set_rng_state(before)
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(lambda: fit_density_ratio(x, y, rng=0).kl) for _ in range(3)]
        time.sleep(0.05)  # they have begun, and what they do has no part in what is drawn here
        assert [float(torch.rand(())) for _ in range(2000)] == drawn
        assert [result.result() for result in running] == [expected] * 3


def test_weights_whose_sum_leaves_fp32() -> None:
    logits = torch.linspace(-1.0, 2.0, 20)
    w = torch.linspace(80.0, 88.5, 20, dtype=torch.float64).exp()
    expected = critic_loss(logits.double(), logits.double(), w / w.sum(), None)
    torch.testing.assert_close(critic_loss(logits, logits, w.float()).double(), expected)
