"""The proposed λ where both gradients are known by hand."""

import pytest
import torch
from torch import Tensor, nn

from vae import (
    VAE,
    CodeCritic,
    GaussianLikelihood,
    InfoVAE,
    Objective,
    StandardNormal,
    WeightedKL,
    mlp,
    propose_lambda,
)

A, B, VARIANCE, WEIGHT = 0.7, 1.3, 0.25, 4.0


def squared_mean(z: Tensor, prior_sample: Tensor) -> Tensor:  # noqa: ARG001
    return z.mean().square()


def scalar(objective: Objective) -> VAE:
    """z = a·x, x̂ = b·z, both numbers, no noise."""
    encoder, decoder = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(encoder.weight, A)
    nn.init.constant_(decoder.weight, B)
    likelihood = GaussianLikelihood(VARIANCE)
    parts = (encoder, decoder, likelihood, objective, StandardNormal(1))
    return VAE(*parts, "deterministic").double()


def test_the_closed_form_of_a_scalar_autoencoder() -> None:
    """d/da E(x − abx)²/2σ² = −b(1 − ab)E x²/σ², d/da (a x̄)² = 2a x̄²."""
    x = torch.tensor([[1.0], [2.0], [-0.5]], dtype=torch.float64)
    of_distortion = abs(B * (1 - A * B)) * float(x.square().mean()) / VARIANCE
    of_divergence = 2 * A * float(x.mean()) ** 2
    expected = of_distortion / of_divergence
    model = scalar(InfoVAE(1, 8, squared_mean))
    assert propose_lambda(model, x) == pytest.approx(expected, rel=1e-6)  # weights from fp32
    # at the proposal the two terms of the loss pull equally hard
    proposed = scalar(InfoVAE(1, propose_lambda(model, x), squared_mean))
    weight = proposed.objective.divergence_weight
    assert weight * of_divergence == pytest.approx(of_distortion)


def test_alpha_is_taken_into_account() -> None:
    """The weight is α + λ − 1; an objective without α is told the weight."""
    x, proposals = torch.rand(20, 5), []
    for objective in (
        InfoVAE(0.25, 3, squared_mean),
        Objective(WeightedKL(), squared_mean, WEIGHT),
    ):
        torch.manual_seed(0)
        parts = (mlp(5, 6), mlp(3, 5), GaussianLikelihood(), objective, StandardNormal(3))
        generator = torch.Generator().manual_seed(0)
        proposals.append(propose_lambda(VAE(*parts), x, generator=generator))
    assert proposals[0] == pytest.approx(proposals[1] + 0.75)


def test_nothing_is_left_behind() -> None:
    torch.manual_seed(0)
    model = VAE(mlp(5, 6), mlp(3, 5), GaussianLikelihood(), InfoVAE(), StandardNormal(3)).eval()
    before = [p.detach().clone() for p in model.parameters()]
    state = torch.get_rng_state()
    x = torch.rand(50, 5)
    torch.set_rng_state(state)
    with torch.no_grad():
        values = {
            propose_lambda(model, x, generator=torch.Generator().manual_seed(1)) for _ in "ab"
        }
    assert len(values) == 1
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not model.training


def test_a_smaller_variance_asks_for_a_larger_lambda() -> None:
    x = torch.rand(50, 5)
    proposals = []
    for variance in (1.0, 0.1):
        torch.manual_seed(0)
        parts = (mlp(5, 6), mlp(3, 5), GaussianLikelihood(variance), InfoVAE(), StandardNormal(3))
        generator = torch.Generator().manual_seed(1)
        proposals.append(propose_lambda(VAE(*parts), x, generator=generator))
    assert proposals[1] == pytest.approx(10 * proposals[0], rel=1e-5)


def test_refusals() -> None:
    x = torch.ones(4, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="no divergence whose weight"):
        propose_lambda(scalar(Objective(WeightedKL(0))), x)
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        propose_lambda(scalar(InfoVAE(1, 8, squared_mean)), x[:1])
    with pytest.raises(ValueError, match=r"CodeCritic has norm 0 here.*untrained critic"):
        propose_lambda(scalar(InfoVAE(1, 8, CodeCritic(1))), x)
    model = scalar(InfoVAE(1, 8, squared_mean))
    model.encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameters"):
        propose_lambda(model, x)
