"""Critics against known density ratios and distances; who gets whose gradient."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from divergences.critic import Critic
from vae import (
    VAE,
    AdversarialKL,
    CodeCritic,
    DataCritic,
    GaussianLikelihood,
    ImplicitEncoder,
    InfoVAE,
    LaplaceLikelihood,
    LearnedGaussian,
    Objective,
    StandardNormal,
    WassersteinCritic,
    WeightedKL,
    mlp,
)
from vae.forward_output import ForwardOutput
from vae.objectives.critics import Constraint

B, D, M = 8, 5, 2

ADVERSARIAL: dict[str, Callable[[], Objective]] = {
    "aae": lambda: InfoVAE(1, 5, CodeCritic(M)),
    "wasserstein": lambda: InfoVAE(1, 5, WassersteinCritic(M)),
    "spectral": lambda: InfoVAE(1, 5, WassersteinCritic(M, "spectral")),
    "avb": lambda: Objective(AdversarialKL(D, M)),
    "alpha-gan": lambda: Objective(WeightedKL(0), CodeCritic(M), 1.0, DataCritic(D)),
}


def normal(*size: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def build(objective: Objective) -> VAE:
    torch.manual_seed(0)
    model = VAE(
        mlp(D, 2 * M), mlp(M, D), LaplaceLikelihood(0.1), objective, StandardNormal(M)
    )  # fmt: skip
    for parameter in objective.parameters():  # critics start at 0, where nothing has a gradient
        nn.init.normal_(parameter, std=0.3)
    return model


def terms_of(model: VAE) -> ForwardOutput:
    return model.terms(normal(B, D, seed=1), normal(B, M, seed=2), normal(B, M, seed=3))


def trained(
    critic: nn.Module,
    loss: Callable[[torch.Generator], Tensor],
    *,
    steps: int = 500,
    rate: float = 1e-2,
    after: Callable[[], None] = lambda: None,
) -> None:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(critic.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(generator).backward()
        optimizer.step()
        schedule.step()
        after()


# --- Known ratios and distances ------------------------------------------------------------------


def test_the_code_critic_finds_the_log_ratio_and_the_kl() -> None:
    """q = N(μ, ½I) against p = N(0, I): log p/q is quadratic, KL(q‖p) = 1.01 nats."""
    torch.manual_seed(0)
    q = Independent(Normal(torch.tensor([1.0, -0.8]), torch.full((2,), math.sqrt(0.5))), 1)
    p = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    divergence = CodeCritic(M, Critic(M, (32, 32)))

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        z, prior = (torch.randn(n, M, generator=generator) for _ in range(2))
        return q.mean + q.stddev * z, prior

    trained(divergence, lambda g: divergence.critic_loss(*draw(1000, g)))
    z, prior = draw(20_000, torch.Generator().manual_seed(9))
    with torch.no_grad():
        logits = divergence.critic(z)
        estimate = float(divergence(z, prior))
    truth = p.log_prob(z) - q.log_prob(z)  # positive where the prior is likelier
    kl = float(kl_divergence(q, p))
    assert kl == pytest.approx(0.5 * 1.64 + 0.5 * (math.log(4) - 1))
    # 500,000 rows of each class were seen; an error of .1 in the logit is 1 % of its range
    assert float((logits - truth).square().mean().sqrt()) < 0.1
    assert estimate == pytest.approx(kl, abs=0.05)


def test_the_pair_critic_finds_the_mean_kl_of_the_codes() -> None:
    """z = x + noise of variance ¼: T(x, z) = log q(z|x)/p(z), E_x KL(q(z|x)‖p) in closed form."""
    torch.manual_seed(0)
    rate = AdversarialKL(1, 1)
    rate.critic = Critic(2, (32, 32))
    model = VAE(
        mlp(1, 2), mlp(1, 1), GaussianLikelihood(), Objective(rate), StandardNormal(1)
    )  # fmt: skip

    def terms(n: int, g: torch.Generator) -> ForwardOutput:
        x, noise, prior = (torch.randn(n, 1, generator=g) for _ in range(3))
        code = x + 0.5 * noise
        return ForwardOutput(
            x=x, mean=None, log_variance=None, z=code, prior_sample=prior, decoded=x,
            distortion=x[:, 0], kl=None, kl_per_dimension=None, prior=model.prior,
            decode=model.decode,
        )  # fmt: skip

    trained(rate, lambda g: rate.critic_loss(terms(1000, g)))
    heldout = terms(20_000, torch.Generator().manual_seed(9))
    with torch.no_grad():
        loss = rate(heldout, 0)
        logits = rate.critic(torch.cat([heldout.x, heldout.z], 1))
    truth = Normal(heldout.x, 0.5).log_prob(heldout.z) - Normal(0.0, 1.0).log_prob(heldout.z)
    kl = 0.5 * (1 + 0.25 - 1 - math.log(0.25))  # E x² = 1
    assert float((logits - truth[:, 0]).square().mean().sqrt()) < 0.15
    assert float(loss.parts["adversarial_kl"]) == pytest.approx(kl, abs=0.05)
    assert float(loss.total) == float(loss.parts["adversarial_kl"])


def test_two_fakes_per_datum_do_not_shift_the_logit() -> None:
    """Fakes distributed as the data are: the logit is 0, where pooled cross entropy has −log 2.
    Reconstructions and samples apart: log p/(½q₁ + ½q₂)."""
    torch.manual_seed(0)
    model = VAE(
        mlp(1, 2), nn.Identity(), GaussianLikelihood(), Objective(WeightedKL(0)), StandardNormal(1)
    )

    def terms(n: int, g: torch.Generator, shift: float) -> ForwardOutput:
        x, z, prior = (torch.randn(n, 1, generator=g) for _ in range(3))
        return ForwardOutput(
            x=x, mean=None, log_variance=None, z=z - shift, prior_sample=prior + shift,
            decoded=z, distortion=x[:, 0], kl=None, kl_per_dimension=None, prior=model.prior,
            decode=model.decode,
        )  # fmt: skip

    for shift in (0.0, 1.0):
        critic = DataCritic(1, Critic(1, (32, 32)))
        trained(critic, lambda g, c=critic, s=shift: c.critic_loss(terms(1000, g, s)))
        x = torch.linspace(-2, 2, 41)[:, None]
        log_p, log_a, log_b = (Normal(m, 1.0).log_prob(x[:, 0]) for m in (0.0, -shift, shift))
        truth = log_p - torch.logaddexp(log_a, log_b) + math.log(2)
        with torch.no_grad():
            assert float((critic.critic(x) - truth).abs().max()) < 0.15
            value = critic(terms(20_000, torch.Generator().manual_seed(9), shift))
            # −E t over the two fakes: twice KL(½q₁+½q₂‖p), 0 or, at shift 1, 2·0.163
            expected = 2 * kl_of_mixture(shift)
            assert float(value) == pytest.approx(expected, abs=0.1)


def kl_of_mixture(shift: float) -> float:
    """KL(½N(−s, 1) + ½N(s, 1)‖N(0, 1)) by quadrature."""
    grid = torch.linspace(-12, 12, 10_001, dtype=torch.float64)
    log_p, a, b = (Normal(m, 1.0).log_prob(grid) for m in (0.0, -shift, shift))
    log_q = torch.logaddexp(a, b) - math.log(2)
    return float(torch.trapezoid(log_q.exp() * (log_q - log_p), grid))


@pytest.mark.parametrize(
    ("constraint", "low", "high"),
    [
        # a slope a at a shift s earns a·s − 10(a − 1)², most at a = 1 + s/20: 5 % above W₁ = s
        ("gradient-penalty", 0.98, 1.08),
        # 1-Lipschitz by construction, so never above W₁ but by sampling
        ("spectral", 0.95, 1.02),
    ],
)
def test_the_wasserstein_critic_finds_a_shift(
    constraint: Constraint, low: float, high: float
) -> None:
    torch.manual_seed(0)
    divergence = WassersteinCritic(M, constraint, hidden=(32, 32))
    shift = torch.tensor([0.6, -0.8])  # of length 1

    def draw(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        z, prior = (torch.randn(n, M, generator=g) for _ in range(2))
        return z + shift, prior

    trained(divergence, lambda g: divergence.critic_loss(*draw(500, g)))
    z, prior = draw(20_000, torch.Generator().manual_seed(9))
    z.requires_grad_()
    value = divergence(z, prior)
    assert low < float(value.detach()) < high
    value.backward()
    step = -z.grad.mean(0)  # the encoder is sent back along the shift
    assert float(torch.cosine_similarity(step, -shift, dim=0)) > 0.95


def test_a_clipped_critic_is_bounded_and_points_the_right_way() -> None:
    torch.manual_seed(0)
    divergence = WassersteinCritic(M, "clip", hidden=(32, 32))
    shift = torch.tensor([0.6, -0.8])

    def draw(n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        z, prior = (torch.randn(n, M, generator=g) for _ in range(2))
        return z + shift, prior

    trained(
        divergence,
        lambda g: divergence.critic_loss(*draw(500, g)),
        steps=200,
        after=divergence.after_step,
    )
    assert max(float(p.detach().abs().max()) for p in divergence.parameters()) <= divergence.CLIP
    z, prior = draw(20_000, torch.Generator().manual_seed(9))
    z.requires_grad_()
    value = divergence(z, prior)
    bound = math.prod(
        float(torch.linalg.matrix_norm(layer.weight.detach(), 2))
        for layer in divergence.critic
        if isinstance(layer, nn.Linear)
    )
    assert (
        0 < float(value.detach()) <= 1.05 * bound
    )  # the Lipschitz constant times the shift of length 1
    value.backward()
    assert float(torch.cosine_similarity(z.grad.mean(0), shift, dim=0)) > 0.9


# --- Who learns from what ------------------------------------------------------------------------


def reached(parameters: object) -> list[bool]:
    return [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in parameters]


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_critics_loss_reaches_the_critics_alone(name: str) -> None:
    model = build(ADVERSARIAL[name]())
    model.objective.critic_loss(terms_of(model)).backward()
    assert all(p.grad is None for p in model.autoencoder_parameters())
    weights = [
        parameter
        for parameter_name, parameter in model.objective.named_parameters()
        if not parameter_name.endswith("bias")  # a constant cancels from E f − E f
    ]
    assert weights
    assert all(reached(weights))


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_loss_reaches_the_autoencoder_alone(name: str) -> None:
    model = build(ADVERSARIAL[name]())
    model.objective(terms_of(model)).total.backward()
    assert all(reached(model.autoencoder_parameters()))
    assert not any(reached(model.objective.parameters()))


def test_the_data_critic_trains_the_decoder_alone() -> None:
    torch.manual_seed(0)
    model = VAE(
        mlp(D, 2 * M),
        mlp(M, D),
        LaplaceLikelihood(),
        Objective(WeightedKL(0), data_critic=DataCritic(D)),
        LearnedGaussian(M),
    )
    for parameter in model.objective.parameters():
        nn.init.normal_(parameter, std=0.3)
    terms = model.terms(
        normal(B, D, seed=1),
        normal(B, M, seed=2),
        model.prior.sample(B, like=torch.zeros(1)),
    )
    model.objective.data_critic(terms).backward()
    assert all(reached(model.decoder.parameters()))
    assert not any(reached([*model.encoder.parameters(), *model.prior.parameters()]))


def test_a_code_critic_teaches_a_learned_prior_nothing_and_a_wasserstein_critic_does() -> None:
    """−E_q t is a function of z alone; E_p f − E_q f is one of the prior's draws, too."""
    for divergence, taught in ((CodeCritic(M), False), (WassersteinCritic(M), True)):
        prior = LearnedGaussian(M)
        for parameter in divergence.parameters():
            nn.init.normal_(parameter, std=0.3)
        z = normal(B, M, seed=1).requires_grad_()
        divergence(z, prior.sample(B, like=z)).backward()
        assert all(reached(prior.parameters())) is taught
        assert all(reached([z]))
        divergence.critic_loss(z, prior.sample(B, like=z))
        assert z.grad is not None


@pytest.mark.parametrize("training", [True, False])
def test_a_spectral_norm_moves_in_the_critics_step_alone(training: bool) -> None:
    model = build(ADVERSARIAL["spectral"]()).train(training)

    def buffers() -> list[Tensor]:
        return [buffer.clone() for buffer in model.objective.buffers()]

    def same(a: list[Tensor], b: list[Tensor]) -> bool:
        return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    before = buffers()
    assert before
    first, second = (model.objective(terms_of(model)).parts["divergence"] for _ in range(2))
    assert torch.equal(first, second)
    assert same(before, buffers())
    model.objective.critic_loss(terms_of(model)).backward()
    assert same(before, buffers()) is not training


def test_spectral_norms_are_one() -> None:
    torch.manual_seed(0)
    divergence = WassersteinCritic(M, "spectral", hidden=(40, 40))
    for _ in range(30):  # power iterations
        divergence.critic_loss(normal(B, M, seed=1), normal(B, M, seed=2))
    divergence.eval()
    for layer in divergence.critic:
        if isinstance(layer, nn.Linear):
            assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) == pytest.approx(
                1, abs=0.02
            )


def test_an_implicit_encoder_under_avb() -> None:
    torch.manual_seed(0)
    model = VAE(
        ImplicitEncoder(D, M),
        mlp(M, D),
        LaplaceLikelihood(),
        Objective(AdversarialKL(D, M)),
        StandardNormal(M),
        "implicit",
    )
    nn.init.normal_(model.objective.rate.critic.linear.weight)
    output = model(normal(B, D, seed=1))
    assert output.mean is output.log_variance is output.kl is output.kl_per_dimension is None
    output.loss.backward()
    assert all(reached(model.encoder.parameters()))
    with pytest.raises(ValueError, match="no density and no ELBO"):
        _ = output.elbo


def test_refusals() -> None:
    with pytest.raises(ValueError, match="'clip' or 'spectral', got 'hope'"):
        WassersteinCritic(M, "hope")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beta must be finite and at least 0, got -1"):
        AdversarialKL(D, M, -1)


class Line(nn.Module):
    """f(u) = slope·u₁ + bend·(u₁ − u₂)², whose gradient is (slope, 0) where u₁ = u₂."""

    def __init__(self, slope: float, bend: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.bend = bend

    def forward(self, u: Tensor) -> Tensor:
        return self.slope * u[:, 0] + self.bend * (u[:, 0] - u[:, 1]).square()


@pytest.mark.parametrize("slope", [1.0, 3.0])
def test_the_gradient_penalty_is_taken_between_the_samples(slope: float) -> None:
    """10·(‖∇f‖ − 1)² on the segments from z to p: here on the diagonal, where f bends not."""
    divergence = WassersteinCritic(2)
    divergence.critic = Line(slope, bend=7.0)
    z, p = torch.zeros(50, 2), normal(50, 1, seed=0).expand(-1, 2)
    expected = -slope * float(p[:, 0].mean()) + 10 * (slope - 1) ** 2
    assert float(divergence.critic_loss(z, p).detach()) == pytest.approx(expected, abs=1e-4)


def test_clipping_follows_the_critics_step() -> None:
    objective = InfoVAE(1, 5, WassersteinCritic(M, "clip"))
    for parameter in objective.parameters():
        nn.init.constant_(parameter, 1.0)
    objective.after_critic_step()
    assert all(float(p.detach().abs().max()) <= 0.01 for p in objective.parameters())
