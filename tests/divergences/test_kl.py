"""KL divergences against torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from tolerances import assert_close
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal, kl_divergence

from divergences.kl import gaussian_kl, gaussian_log_density, monte_carlo_kl


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def gaussian(mean: Tensor, log_variance: Tensor) -> Normal:
    return Normal(mean, (0.5 * log_variance).exp())


@pytest.mark.parametrize("shape", [(), (3,), (7, 3), (2, 7, 3)])
def test_gaussian_kl(shape: tuple[int, ...]) -> None:
    m, v, pm, pv = (normal(k, *shape) for k in range(4))
    assert_close(gaussian_kl(m, v, pm, pv), kl_divergence(gaussian(m, v), gaussian(pm, pv)), 1e-14)
    standard = Normal(torch.zeros_like(m), torch.ones_like(m))
    assert_close(gaussian_kl(m, v), kl_divergence(gaussian(m, v), standard), 1e-14)
    assert torch.equal(gaussian_kl(m, v, m, v), torch.zeros(shape, dtype=torch.float64))


def test_gaussian_kl_with_part_of_a_prior() -> None:
    m, v, pm, pv = (normal(k, 5, 2) for k in range(4))
    zero = torch.zeros_like(m)
    assert torch.equal(gaussian_kl(m, v, prior_mean=pm), gaussian_kl(m, v, pm, zero))
    assert torch.equal(gaussian_kl(m, v, prior_log_variance=pv), gaussian_kl(m, v, zero, pv))
    assert gaussian_kl(m, v, pm[0], pv[:, :1]).shape == (5, 2)


def test_gaussian_kl_keeps_its_digits_near_the_prior() -> None:
    """½(m² + r²/2): in fp32, exp(r) − 1 − r by itself would lose every digit at r = 1e-4."""
    r = torch.tensor([1e-3, 1e-4, -1e-4])
    truth = 0.5 * (torch.expm1(r.double()) - r.double())
    assert_close(gaussian_kl(torch.zeros(3), r) / truth, torch.ones(3), 1e-2)


def test_gaussian_kl_dtypes_and_gradients() -> None:
    m, v, pm, pv = (normal(k, 4, 3) for k in range(4))
    assert gaussian_kl(m.bfloat16(), v.bfloat16()).dtype == torch.float32
    assert gaussian_kl(m.float(), v.float()).dtype == torch.float32
    assert gaussian_kl(m.float(), v.float(), pm).dtype == torch.float64
    inputs = [t.clone().requires_grad_() for t in (m, v, pm, pv)]
    assert torch.autograd.gradcheck(gaussian_kl, inputs)
    assert torch.autograd.gradgradcheck(gaussian_kl, inputs)


def test_gaussian_log_density() -> None:
    z, m, v = (normal(k, 5, 3) for k in range(3))
    assert_close(gaussian_log_density(z, m, v), gaussian(m, v).log_prob(z), 1e-14)


def test_monte_carlo_kl_finds_the_closed_form() -> None:
    m, v = torch.tensor([0.5, -1.0]), torch.tensor([-1.0, 0.3])
    z = m + (0.5 * v).exp() * normal(0, 20_000, 2)
    log_q, log_p = gaussian_log_density(z, m, v), Normal(0.0, 1.0).log_prob(z)
    found, error = monte_carlo_kl(log_q, log_p)
    assert found.shape == error.shape == (2,)
    assert ((found - gaussian_kl(m, v)).abs() < 4 * error).all()
    difference = log_q - log_p
    assert_close(error, (difference.var(0) / 20_000).sqrt(), 1e-12)


def test_monte_carlo_kl_to_a_mixture() -> None:
    """By quadrature, and with the gradient of the reparametrised draws."""
    mixture = MixtureSameFamily(
        Categorical(torch.tensor([0.3, 0.7], dtype=torch.float64)),
        Normal(torch.tensor([-2.0, 1.0]).double(), torch.tensor([0.5, 1.5]).double()),
    )
    mean = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    q = Normal(mean, 0.8)
    log_q = q.log_prob(grid)
    truth = torch.trapezoid(log_q.exp() * (log_q - mixture.log_prob(grid)), grid)
    z = mean + 0.8 * normal(1, 40_000)
    found, error = monte_carlo_kl(q.log_prob(z), mixture.log_prob(z))
    assert abs(found - truth) < 4 * error
    assert not error.requires_grad
    slopes = [torch.autograd.grad(value, mean, retain_graph=True)[0] for value in (found, truth)]
    assert slopes[0].item() == pytest.approx(slopes[1].item(), abs=0.02)


def test_one_draw_has_no_standard_error() -> None:
    found, error = monte_carlo_kl(torch.tensor([2.0]), torch.tensor([0.5]))
    assert found.item() == 1.5
    assert math.isnan(error.item())


def test_messages() -> None:
    with pytest.raises(TypeError, match=r"mean must be a floating point tensor; got torch\.int64"):
        gaussian_kl(torch.zeros(3, dtype=torch.int64), torch.zeros(3))
    with pytest.raises(TypeError, match="prior_mean must be a floating point tensor; got float"):
        gaussian_kl(torch.zeros(3), torch.zeros(3), 0.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"do not broadcast; got mean \[3\], log_variance \[4\]"):
        gaussian_kl(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match=r"share a shape.* got log_q \[3\], log_p \[3, 1\]"):
        monte_carlo_kl(torch.zeros(3), torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"at least one draw; got log_q \[0\]"):
        monte_carlo_kl(torch.zeros(0), torch.zeros(0))


def test_the_default_device_is_not_that_of_the_codes() -> None:
    mean, log_variance = torch.randn(4, 2), torch.randn(4, 2)
    expected = gaussian_kl(mean, log_variance)
    with torch.device("meta"):
        assert torch.equal(gaussian_kl(mean, log_variance), expected)
