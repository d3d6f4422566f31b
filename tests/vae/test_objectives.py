"""Each objective against an fp64 formula at fixed draws, written out here; weights; refusals."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from oracle import root
from scipy.special import gammaln, hyp1f1
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Independent,
    Laplace,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

from divergences.kl_decomposition import MinibatchEstimator
from vae import (
    DIVERGENCES,
    VAE,
    AdversarialKL,
    Anneal,
    Capacity,
    CodeCritic,
    Cyclical,
    DataCritic,
    GaussianLikelihood,
    InfoVAE,
    LaplaceLikelihood,
    LearnedGaussian,
    LearnedMixture,
    Objective,
    SampledKL,
    StandardNormal,
    TotalCorrelation,
    WassersteinCritic,
    WeightedKL,
    lambda_from_pixel_mean,
    mlp,
)
from vae.model import Posterior

B, D, M, N = 7, 5, 3, 40
VARIANCE, L1 = 0.3, 10.0


def build(objective: Objective, posterior: Posterior = "gaussian") -> VAE:
    torch.manual_seed(0)
    likelihood = (
        LaplaceLikelihood(1 / L1) if objective.data_critic else GaussianLikelihood(VARIANCE)
    )
    width = 2 * M if posterior == "gaussian" else M
    model = VAE(mlp(D, width), mlp(M, D), likelihood, objective, StandardNormal(M), posterior)
    for parameter in objective.parameters():  # critics start at 0
        nn.init.normal_(parameter, std=0.3)
    return model.double()


def normal(*size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def data(rows: int = B) -> Tensor:
    return torch.rand(rows, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@dataclass
class Truth:
    """The terms by torch.distributions."""

    x: Tensor
    mean: Tensor
    scale: Tensor
    z: Tensor
    p: Tensor
    distortion: Tensor
    kl: Tensor
    model: VAE

    @classmethod
    def of(cls, model: VAE, x: Tensor, noise: Tensor, p: Tensor) -> "Truth":
        encoded = model.encoder(x)
        mean, scale = encoded[:, :M], (encoded[:, M:] / 2).exp()
        z = mean + scale * noise
        prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
        kl = kl_divergence(Independent(Normal(mean, scale), 1), prior)
        decoded = model.decoder(z)
        if model.objective.data_critic:
            likelihood = Independent(Laplace(decoded, 1 / L1), 1)
        else:
            likelihood = Independent(Normal(decoded, VARIANCE**0.5), 1)
        return cls(x, mean, scale, z, p, -likelihood.log_prob(x), kl, model)


# --- Distances, written out ----------------------------------------------------------------------


def squared(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] - b[None]).square().sum(-1)


def off_diagonal_mean(k: Tensor) -> Tensor:
    return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))


def mmd2(t: Truth, kernel: Callable[[Tensor], Tensor]) -> Tensor:
    zz, pp, zp = (kernel(squared(*pair)) for pair in ((t.z, t.z), (t.p, t.p), (t.z, t.p)))
    return off_diagonal_mean(zz) + off_diagonal_mean(pp) - 2 * zp.mean()


def gaussian_mmd2(t: Truth) -> Tensor:
    return mmd2(t, lambda s: (-s / M).exp())


def imq_mmd2(t: Truth) -> Tensor:
    scales = [0.1, 0.2, 0.5, 1, 2, 5, 10]
    return sum((mmd2(t, lambda s, c=2 * M * s0: c / (c + s)) for s0 in scales), torch.zeros(()))


def energy(t: Truth) -> Tensor:
    def distance(a: Tensor, b: Tensor) -> Tensor:
        return root(squared(a, b))

    return (
        2 * distance(t.z, t.p).mean()
        - off_diagonal_mean(distance(t.z, t.z))
        - off_diagonal_mean(distance(t.p, t.p))
    )


def mmd2_to_normal(t: Truth) -> Tensor:
    """Baringhaus & Henze 1988: E k(z, Z) and E k(Z, Z') of exp(−r²/C) in closed form, C = M."""
    cross = (1 + 2 / M) ** (-M / 2) * (-t.z.square().sum(1) / (M + 2)).exp()
    return (
        off_diagonal_mean((-squared(t.z, t.z) / M).exp())
        + (1 + 4 / M) ** (-M / 2)
        - 2 * cross.mean()
    )


def energy_to_normal(t: Truth) -> Tensor:
    ratio = math.exp(gammaln((M + 1) / 2) - gammaln(M / 2))
    r2 = t.z.square().sum(1).detach().numpy()
    cross = math.sqrt(2) * ratio * torch.from_numpy(hyp1f1(-0.5, M / 2, -r2 / 2))
    return 2 * cross.mean() - off_diagonal_mean(squared(t.z, t.z).sqrt()) - 2 * ratio


def sliced(t: Truth) -> Tensor:
    """W₂² on each line by sorting. Its 50 lines are the first draws of the global generator."""
    lines = torch.randn(50, M, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for line in lines / lines.norm(dim=1, keepdim=True):
        total = total + ((t.z @ line).sort().values - (t.p @ line).sort().values).square().mean()
    return total / 50


def total_correlation(t: Truth, weights: tuple[float, float, float], stratified: bool) -> Tensor:
    """Chen et al. 2018, eq. 4, loops over every pair of rows."""
    others = B - 1
    index, correlation, dimension_wise = [], [], []
    for i in range(B):
        log_q = Normal(t.mean, t.scale).log_prob(t.z[i])  # [B, M] under every code
        w = torch.full((B,), 1 / others, dtype=torch.float64)
        w[i], w[(i + 1) % B] = 1 / N, (N - others) / (N * others)
        if not stratified:
            w[:] = 1 / (N * B)
        joint = (w * log_q.sum(1).exp()).sum().log()
        marginal = (w[:, None] * log_q.exp()).sum(0).log()
        index.append(log_q[i].sum() - joint)
        correlation.append(joint - marginal.sum())
        dimension_wise.append((marginal - Normal(0.0, 1.0).log_prob(t.z[i])).sum())
    parts = [torch.stack(part).mean() for part in (index, correlation, dimension_wise)]
    return sum((a * part for a, part in zip(weights, parts, strict=True)), torch.zeros(()))


def sampled_kl(t: Truth) -> Tensor:
    q, p = Normal(t.mean, t.scale), Normal(0.0, 1.0)
    return (q.log_prob(t.z) - p.log_prob(t.z)).sum(1).mean()


def code_critic(t: Truth) -> Tensor:
    return -t.model.objective.divergence.critic(t.z).mean()


def wasserstein_critic(t: Truth) -> Tensor:
    critic = t.model.objective.divergence.critic
    return critic(t.p).mean() - critic(t.z).mean()


def adversarial_kl(t: Truth) -> Tensor:
    return t.model.objective.rate.critic(torch.cat([t.x, t.z], 1)).mean()


def data_critic(t: Truth) -> Tensor:
    critic, decoder = t.model.objective.data_critic.critic, t.model.decoder
    return -critic(decoder(t.z)).mean() - critic(decoder(t.p)).mean()


# --- Objectives ----------------------------------------------------------------------------------

Formula = Callable[[Truth], Tensor]
STEP = 30

CASES: dict[str, tuple[Callable[[], Objective], Formula]] = {
    "vae": (lambda: Objective(WeightedKL()), lambda t: t.kl.mean()),
    "vae as infovae": (lambda: InfoVAE(0, 1), lambda t: t.kl.mean()),
    "beta": (lambda: Objective(WeightedKL(4.0)), lambda t: 4 * t.kl.mean()),
    "sampled": (lambda: Objective(SampledKL(4.0)), lambda t: 4 * sampled_kl(t)),
    "beta as infovae": (lambda: InfoVAE(-3, 4), lambda t: 4 * t.kl.mean()),
    "anneal up": (
        lambda: Objective(WeightedKL(Anneal(0, 1, 100))),
        lambda t: 0.3 * t.kl.mean(),
    ),
    "anneal down": (
        lambda: Objective(WeightedKL(Anneal(10, 1, 60, "cosine"))),
        lambda t: 5.5 * t.kl.mean(),
    ),
    "cyclical": (
        lambda: Objective(WeightedKL(Cyclical(0, 1, 80, cycles=4))),
        lambda t: t.kl.mean(),  # half a cycle of 20 steps: at the top
    ),
    # C between the rows' KLs: the absolute value of the mean is not the mean of absolute values
    "capacity": (
        lambda: Objective(Capacity(20.0, Anneal(0, 1, 100))),
        lambda t: 20 * (t.kl.mean() - 0.3).abs(),
    ),
    "tc stratified": (
        lambda: Objective(TotalCorrelation(0.5, 6.0, 2.0, n_data=N)),
        lambda t: total_correlation(t, (0.5, 6.0, 2.0), True),
    ),
    "tc weighted": (
        lambda: Objective(TotalCorrelation(1.0, 6.0, 1.0, n_data=N, estimator="weighted")),
        lambda t: total_correlation(t, (1.0, 6.0, 1.0), False),
    ),
    "mmd-vae": (lambda: InfoVAE(1, 32), lambda t: 32 * gaussian_mmd2(t)),
    "infovae": (
        lambda: InfoVAE(0.25, 10),
        lambda t: 0.75 * t.kl.mean() + 9.25 * gaussian_mmd2(t),
    ),
    "energy": (
        lambda: InfoVAE(0.5, 8, DIVERGENCES["energy"]),
        lambda t: 0.5 * t.kl.mean() + 7.5 * energy(t),
    ),
    "mmd-normal": (
        lambda: InfoVAE(1, 9, DIVERGENCES["mmd-normal"]),
        lambda t: 9 * mmd2_to_normal(t),
    ),
    "energy-normal": (
        lambda: InfoVAE(1, 9, DIVERGENCES["energy-normal"]),
        lambda t: 9 * energy_to_normal(t),
    ),
    "imq": (lambda: InfoVAE(1, 100, DIVERGENCES["imq"]), lambda t: 100 * imq_mmd2(t)),
    "sliced": (lambda: InfoVAE(1, 20, DIVERGENCES["sliced"]), lambda t: 20 * sliced(t)),
    "aae": (lambda: InfoVAE(1, 5, CodeCritic(M)), lambda t: 5 * code_critic(t)),
    "wasserstein": (
        lambda: InfoVAE(1, 5, WassersteinCritic(M)),
        lambda t: 5 * wasserstein_critic(t),
    ),
    "avb": (lambda: Objective(AdversarialKL(D, M, 2.0)), lambda t: 2 * adversarial_kl(t)),
    "alpha-gan": (
        lambda: Objective(WeightedKL(0), CodeCritic(M), 1.0, DataCritic(D)),
        lambda t: code_critic(t) + data_critic(t),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_is_the_formula(name: str) -> None:
    make, formula = CASES[name]
    model, x = build(make()), data()
    noise, p = normal(B, M, seed=2), normal(B, M, seed=3)
    truth = Truth.of(model, x, noise, p)
    terms = model.terms(x, noise, p)
    torch.manual_seed(5)
    loss = model.objective(terms, STEP)
    torch.manual_seed(5)
    expected = truth.distortion.mean() + formula(truth)

    torch.testing.assert_close(terms.z, truth.z)
    torch.testing.assert_close(terms.distortion, truth.distortion)
    torch.testing.assert_close(terms.kl, truth.kl)
    torch.testing.assert_close(loss.total, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_reaches_the_autoencoder_and_no_critic(name: str) -> None:
    make, formula = CASES[name]
    model, x = build(make()), data()
    noise, p = normal(B, M, seed=2), normal(B, M, seed=3)
    torch.manual_seed(5)
    model.objective(model.terms(x, noise, p), STEP).total.backward()
    ours = [parameter.grad for parameter in model.autoencoder_parameters()]
    assert all(parameter.grad is None for parameter in model.objective.parameters())
    if name in ("alpha-gan", "energy-normal"):  # detached codes; an oracle without a gradient
        return
    torch.manual_seed(5)
    truth = Truth.of(model, x, noise, p)
    expected = truth.distortion.mean() + formula(truth)
    theirs = torch.autograd.grad(expected, model.autoencoder_parameters())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_forward_draws_noise_then_the_prior() -> None:
    model, x = build(InfoVAE(0.5, 3)), data()
    output = model(x, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(B, M, generator=generator, dtype=torch.float64)
    p = torch.randn(B, M, generator=generator, dtype=torch.float64)
    truth = Truth.of(model, x, noise, p)
    torch.testing.assert_close(output.prior_sample, p)
    torch.testing.assert_close(output.elbo, -truth.distortion - truth.kl)
    torch.testing.assert_close(output.divergence, gaussian_mmd2(truth))
    loss = (truth.distortion + 0.5 * truth.kl).mean() + 2.5 * gaussian_mmd2(truth)
    torch.testing.assert_close(output.loss, loss, rtol=1e-10, atol=1e-10)


def test_without_a_step_schedules_are_at_their_end() -> None:
    model, x = build(Objective(WeightedKL(Anneal(0, 3, 10**6)))), data()
    with pytest.warns(UserWarning, match="the schedule 0 → 3 .* stands at its end: give the numb"):
        model(x)
    output = model.eval()(x)
    torch.testing.assert_close(output.loss, (output.distortion + 3 * output.kl).mean())
    start = model(x, step=0)
    torch.testing.assert_close(start.loss, start.distortion.mean())


def test_capacity_takes_the_mean_first() -> None:
    model, x = build(Objective(Capacity(1.0, 0.5))), data()
    terms = model.terms(x, normal(B, M, seed=2), normal(B, M, seed=3))
    kl = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 1.1], dtype=torch.float64)  # mean C
    terms = replace(terms, kl=kl)
    loss = model.objective(terms, 0)
    torch.testing.assert_close(loss.total, terms.distortion.mean())
    assert (kl - 0.5).abs().mean() > 0.25  # what the other order would add


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("estimator", ["stratified", "weighted"])
def test_equal_weights_of_the_decomposition_are_the_sampled_kl(
    estimator: MinibatchEstimator, learned: bool
) -> None:
    """Whatever the estimator: MI + TC + dimension-wise KL = E log q(z|x) − log p(z)."""
    model = build(Objective(TotalCorrelation(1, 1, 1, n_data=N, estimator=estimator)))
    loc, scale = torch.zeros(M).double(), torch.ones(M).double()
    if learned:
        loc, scale = loc + 1.5, scale / 2
        model.prior = LearnedGaussian(M).double()
        nn.init.constant_(model.prior.mean, 1.5)
        nn.init.constant_(model.prior.log_variance, -2 * math.log(2))
    output = model(data())
    q = Normal(output.mean, (0.5 * output.log_variance).exp()).log_prob(output.z).sum(1)
    p = Normal(loc, scale).log_prob(output.z).sum(1)
    torch.testing.assert_close(output.loss, (output.distortion + q - p).mean())


def test_a_batch_of_all_data_gives_the_full_sum() -> None:
    """N = B: other rows weigh 1/(N−1) for 1/N, and one of them next to nothing; each changes q(z)
    by a share of 1/N on average over z ~ q(z)."""
    n = 600
    model = build(Objective(TotalCorrelation(n_data=n)))
    terms = model.terms(normal(n, D, seed=1), normal(n, M, seed=2), normal(n, M, seed=3))
    mean = normal(n, 1, seed=4) + 0.4 * normal(n, M, seed=5)
    log_variance = 0.3 * normal(n, M, seed=6) - 2
    z = mean + (0.5 * log_variance).exp() * normal(n, M, seed=7)
    terms = replace(terms, mean=mean, log_variance=log_variance, z=z)
    parts = model.objective(terms).parts
    log_q = Normal(mean, (0.5 * log_variance).exp()).log_prob(z[:, None])  # [z, code, M]
    joint = log_q.sum(2).logsumexp(1) - math.log(n)
    marginal = log_q.logsumexp(1) - math.log(n)
    exact = (joint - marginal.sum(1)).mean()
    assert exact > 0.5
    assert abs(parts["total_correlation"] - exact) < 4 * (1 + M) / n  # 1 + M logarithms of q
    own = log_q.sum(2).diagonal()
    assert abs(parts["mutual_information"] - (own - joint).mean()) < 4 / n


def test_exact_normal_mmd_is_the_limit_of_many_prior_samples() -> None:
    z, p = 0.5 + normal(40, M, seed=0), normal(4000, M, seed=1)
    truth = Truth(z, z, z, z, p, z, z, build(InfoVAE()))
    exact = DIVERGENCES["mmd-normal"](z, p[:2])
    assert abs(exact - gaussian_mmd2(truth)) < 5e-3
    assert exact > 0.03


# --- Weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "lambda_", "beta", "weight"),
    [(0.0, 1.0, 1.0, 0.0), (-3.0, 4.0, 4.0, 0.0), (1.0, 32.0, 0.0, 32.0), (0.5, 10.0, 0.5, 9.5)],
)
def test_effective_weights(alpha: float, lambda_: float, beta: float, weight: float) -> None:
    objective = InfoVAE(alpha, lambda_)
    assert (objective.beta, objective.divergence_weight) == (beta, weight)
    line = build(objective).weights()
    assert f"β = 1−α = {beta:g} " in line
    assert f"α+λ−1 = {weight:g} on mmd" in line
    assert "σ² = 0.3" in line


def test_lambda_conversion_scales_the_original_loss() -> None:
    assert lambda_from_pixel_mean(28 * 28) == 392
    assert lambda_from_pixel_mean(64) == 32
    variance, weight = 0.3, 1.7
    x, decoded = data(), data().flip(0)
    divergence = 0.42
    original = (x - decoded).square().mean() + weight * divergence
    distortion = -GaussianLikelihood(variance).log_prob(x, decoded).mean()
    constant = 0.5 * D * math.log(2 * math.pi * variance)
    ours = distortion - constant + lambda_from_pixel_mean(D, variance, weight) * divergence
    torch.testing.assert_close(ours, original * D / (2 * variance))


def test_plain_vae_does_not_evaluate_the_divergence() -> None:
    def forbidden(z: Tensor, prior_sample: Tensor) -> Tensor:
        raise AssertionError((z, prior_sample))

    output = build(InfoVAE(0, 1, forbidden))(data(1))
    assert output.divergence is None
    torch.testing.assert_close(output.loss, -output.elbo.mean())


@pytest.mark.parametrize("name", CASES)
def test_what_an_objective_says_of_itself(name: str) -> None:
    objective = CASES[name][0]()
    adversarial = name in ("aae", "wasserstein", "avb", "alpha-gan")
    assert objective.adversarial is adversarial
    assert objective.describe()
    terms = build(objective).terms(data(), normal(B, M, seed=2), normal(B, M, seed=3))
    if adversarial:
        assert objective.critic_loss(terms).shape == ()
    else:
        with pytest.raises(ValueError, match="no critics"):
            objective.critic_loss(terms)


@pytest.mark.parametrize("name", CASES)
def test_only_means_over_rows_are_linear(name: str) -> None:
    """Half-batches averaged equal the whole batch for those and no others."""
    model = build(CASES[name][0]())
    terms = model.terms(data(8), normal(8, M, seed=2), normal(8, M, seed=3))
    terms = replace(terms, kl=torch.linspace(0, 0.6, 8, dtype=torch.float64))  # around C
    halves = []
    for half in (slice(0, 4), slice(4, 8)):
        rows = {k: v[half] for k, v in vars(terms).items() if isinstance(v, Tensor)}
        torch.manual_seed(5)
        halves.append(model.objective(replace(terms, **rows), STEP).total)
    torch.manual_seed(5)
    whole = model.objective(terms, STEP).total
    same = bool(torch.isclose(sum(halves) / 2, whole, rtol=1e-10))
    assert same is not model.objective.nonlinear


# --- Refusals ------------------------------------------------------------------------------------


def test_refuses_to_reward_leaving_the_prior() -> None:
    with pytest.raises(ValueError, match=r"got alpha=0.5, lambda=0.25: take lambda >= 0.5"):
        InfoVAE(0.5, 0.25)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Objective(WeightedKL(), DIVERGENCES["mmd"], -1)


@pytest.mark.parametrize(("alpha", "lambda_"), [(math.nan, 1.0), (0.0, math.inf)])
def test_refuses_non_finite_weights(alpha: float, lambda_: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        InfoVAE(alpha, lambda_)


def test_warns_where_a_large_kl_is_rewarded() -> None:
    with pytest.warns(UserWarning, match=r"alpha = 1.5 > 1.* rewards a large KL"):
        InfoVAE(1.5, 1)


def test_one_row_has_no_divergence() -> None:
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        build(InfoVAE())(data(1))


def test_a_divergence_by_name_is_refused() -> None:
    with pytest.raises(TypeError, match=r"divergence must be a function .* got 'mmd'"):
        InfoVAE(divergence="mmd")  # type: ignore[arg-type]


def test_a_divergence_need_not_be_hashable() -> None:
    @dataclass
    class Mine:
        power: float

        def __call__(self, z: Tensor, prior_sample: Tensor) -> Tensor:
            return (z.mean() - prior_sample.mean()).abs() ** self.power

    output = build(InfoVAE(1, 2, Mine(2.0)))(data())
    expected = (output.z.mean() - output.prior_sample.mean()).square()
    torch.testing.assert_close(output.divergence, expected)
    assert "2 on Mine" in build(InfoVAE(1, 2, Mine(2.0))).weights()


@pytest.mark.parametrize("posterior", ["deterministic", "implicit"])
@pytest.mark.parametrize("name", ["vae", "anneal up", "capacity", "tc stratified", "infovae"])
def test_an_encoder_without_a_density_is_refused(name: str, posterior: Posterior) -> None:
    with pytest.raises(ValueError, match=f"which a {posterior} encoder does not have"):
        build(CASES[name][0](), posterior)


@pytest.mark.parametrize("name", ["mmd-normal", "energy-normal"])
def test_a_distance_to_the_standard_normal_needs_that_prior(name: str) -> None:
    parts = (mlp(D, 2 * M), mlp(M, D), GaussianLikelihood())
    with pytest.raises(ValueError, match=r"distance to N\(0, I\), but the prior is Learned"):
        VAE(*parts, InfoVAE(1, 9, DIVERGENCES[name]), LearnedGaussian(M))
    VAE(*parts, InfoVAE(0, 1, DIVERGENCES[name]), LearnedGaussian(M))  # where it has no weight


def test_the_total_correlation_needs_a_product_and_the_size_of_the_data() -> None:
    parts = (mlp(D, 2 * M), mlp(M, D), GaussianLikelihood())
    with pytest.raises(ValueError, match=r"product over dimensions, got LearnedMixture"):
        VAE(*parts, Objective(TotalCorrelation(n_data=N)), LearnedMixture(M))
    with pytest.raises(ValueError, match="size of the training set"):
        build(Objective(TotalCorrelation()))(data())
    with pytest.raises(ValueError, match=r"the weights must be finite, got 1\.0, nan, 1\.0"):
        TotalCorrelation(beta=math.nan)


def test_a_divergence_returns_one_number() -> None:
    model = build(InfoVAE(1, 5, lambda z, p: (z - p).square().sum(1)))
    with pytest.raises(ValueError, match=r"must return one number .* <lambda> returned \[7\]"):
        model(torch.rand(7, D, dtype=torch.float64))


def test_a_learned_divergence_needs_a_loss_of_its_own() -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, z: Tensor, p: Tensor) -> Tensor:
            return self.scale * (z.mean() - p.mean()).square()

    with pytest.raises(TypeError, match=r"Learned has parameters, .* AdversarialDivergence"):
        InfoVAE(1, 5, Learned())


def test_the_kl_to_a_mixture_pulls_at_the_codes() -> None:
    """At fixed noise: log q(z|x) − log p(z) differentiated through z, by torch.distributions."""
    torch.manual_seed(0)
    prior = LearnedMixture(M, 4)
    model = VAE(mlp(D, 2 * M), mlp(M, D), GaussianLikelihood(), Objective(WeightedKL()), prior)
    model = model.double()
    x, noise = torch.rand(B, D).double(), torch.randn(B, M).double()
    terms = model.terms(x, noise, noise)
    assert terms.kl is not None
    weights = list(model.encoder.parameters())
    ours = torch.autograd.grad(terms.kl.sum(), weights)
    encoded = model.encoder(x)
    posterior = Independent(Normal(encoded[:, :M], (encoded[:, M:] / 2).exp()), 1)
    z = posterior.mean + posterior.stddev * noise
    parts = Independent(Normal(prior.means, (prior.log_variances / 2).exp()), 1)
    mixture = MixtureSameFamily(Categorical(logits=prior.logits), parts)
    kl = (posterior.log_prob(z) - mixture.log_prob(z)).sum()
    for a, b in zip(ours, torch.autograd.grad(kl, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
