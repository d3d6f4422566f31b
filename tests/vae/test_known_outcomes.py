"""Small trainings whose outcome is known: closed forms, and, slow, whole runs."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.nn.functional import linear

from divergences import mmd2
from divergences.kernels import Gaussian
from divergences.kl_decomposition import KLDecomposition, decompose_kl
from vae import (
    VAE,
    BernoulliLikelihood,
    GaussianLikelihood,
    InfoVAE,
    Likelihood,
    Objective,
    StandardNormal,
    TotalCorrelation,
    WeightedKL,
    fit,
    mlp,
)
from vae.data import digits, shapes
from vae.processes import threads


def trained(model: VAE, x: Tensor, *, steps: int, batch_size: int = 100, rate: float = 1e-3) -> VAE:
    epochs = max(1, round(steps / (len(x) // batch_size)))
    options = dict(batch_size=batch_size, learning_rate=rate, accelerator="cpu", progress=False)
    with threads(1):
        fit(model, x, epochs=epochs, **options)  # type: ignore[arg-type]
    return model.eval()


def dense(n_pixels: int, dim: int, likelihood: Likelihood, objective: Objective) -> VAE:
    torch.manual_seed(0)
    networks = mlp(n_pixels, 2 * dim), mlp(dim, n_pixels)
    return VAE(*networks, likelihood, objective, StandardNormal(dim))


# --- A linear VAE is probabilistic PCA (Tipping & Bishop 1999; Lucas et al. 2019, 1911.02469) ---

K = 5


def linear_vae(n_pixels: int) -> VAE:
    torch.manual_seed(0)
    networks = nn.Linear(n_pixels, 2 * K), nn.Linear(K, n_pixels)
    likelihood = GaussianLikelihood(0.1, learned=True)
    return VAE(*networks, likelihood, Objective(WeightedKL()), StandardNormal(K))


@torch.no_grad()
def elbo(model: VAE, x: Tensor) -> Tensor:
    """[B] in nats, without sampling: E‖x − Wz − b‖² = ‖x − Wμ − b‖² + Σ_j σ_j²‖w_j‖²."""
    code = model.encode(x)
    assert code.mean is not None and code.log_variance is not None
    spread: Tensor = code.log_variance.exp() @ model.decoder.weight.square().sum(0)  # type: ignore[operator,union-attr]
    at_the_mean = model.likelihood.log_prob(x, model.decoder(code.mean))
    variance: float = model.likelihood.variance  # type: ignore[assignment]
    return (
        at_the_mean - spread / (2 * variance) - model.prior.kl(code.mean, code.log_variance).sum(1)
    )


@torch.no_grad()
def log_likelihood(model: VAE, x: Tensor) -> Tensor:
    """log N(x; b, WWᵀ + σ²I), [B] in nats."""
    weight, variance = model.decoder.weight, model.likelihood.variance
    covariance = weight @ weight.mT + variance * torch.eye(len(weight), dtype=x.dtype)  # type: ignore
    return MultivariateNormal(model.decoder.bias, covariance).log_prob(x)  # type: ignore


def test_a_linear_vae_holds_probabilistic_pca() -> None:
    """W = U(Λ − σ²)^½, q(z|x) = N(M⁻¹Wᵀ(x − b), σ²M⁻¹), M = Λ here. The bound is then the
    likelihood of every digit, log p(x, z) − log q(z|x) the same at every z."""
    pixels = load_digits().data / 16
    pca = PCA(K).fit(pixels)
    basis, eigenvalues = (
        torch.as_tensor(values) for values in (pca.components_.T.copy(), pca.explained_variance_)
    )
    noise = float(pca.noise_variance_)
    weight = basis * (eigenvalues - noise).sqrt()
    bias = torch.as_tensor(pca.mean_)
    model = linear_vae(64).double()
    with torch.no_grad():
        model.decoder.weight.copy_(weight)
        model.decoder.bias.copy_(bias)
        model.encoder.weight.zero_()
        model.encoder.weight[:K] = weight.mT / eigenvalues[:, None]
        model.encoder.bias[:K] = -(weight.mT @ bias) / eigenvalues
        model.encoder.bias[K:] = (noise / eigenvalues).log()
        model.likelihood.log_variance.fill_(math.log(noise))
    x = torch.as_tensor(pixels[:200])
    scores = torch.as_tensor(pca.score_samples(pixels[:200]))
    torch.testing.assert_close(log_likelihood(model, x), scores, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(elbo(model, x), scores, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        code = model.encode(x, generator=torch.Generator().manual_seed(0))
        joint = model.likelihood.log_prob(x, model.decoder(code.z)) + model.prior.log_prob(code.z)
    torch.testing.assert_close(joint - code.log_density(code.z), scores, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_a_linear_vae_reaches_probabilistic_pca() -> None:
    pixels = load_digits().data / 16
    pca = PCA(K).fit(pixels)
    x = torch.as_tensor(pixels, dtype=torch.float32)
    model = trained(linear_vae(64), x, steps=6000, batch_size=599, rate=0.02).double()
    best, rows = pca.score(pixels), torch.as_tensor(pixels)
    assert float(elbo(model, rows).mean()) == pytest.approx(best, abs=0.03)
    assert float(log_likelihood(model, rows).mean()) == pytest.approx(best, abs=0.03)
    assert model.likelihood.variance == pytest.approx(pca.noise_variance_, rel=0.05)


# --- The V-statistic of a batch moves the optimum of q(z) off the prior ---

D = N = 64  # latent dimensions, rows of a batch
C = D**2  # of exp(−r²/C): a wide kernel, where the 1/N on the diagonal outweighs the rest
WIDE = Gaussian(math.sqrt(C / 2))


def expected(s: float, diagonal: float) -> float:
    """E MMD² of N rows of N(0, s²I) against N(0, I), without what s does not change; ``diagonal``
    is 1/N for V and 0 for U."""
    within = (1 + 4 * s**2 / C) ** (-D / 2)
    return diagonal + (1 - diagonal) * within - 2 * (1 + 2 * (1 + s**2) / C) ** (-D / 2)


def best_scale(diagonal: float) -> float:
    return float(minimize_scalar(expected, (0, 3), args=(diagonal,), bounds=(0, 3)).x)


def test_the_best_scale_is_that_of_the_expected_statistic() -> None:
    """E V at two scales by Monte Carlo, against the formula that is minimised."""
    assert best_scale(1 / N) == pytest.approx(0.15, abs=0.001)
    assert best_scale(0.0) == pytest.approx(1, abs=1e-3)
    generator = torch.Generator().manual_seed(0)
    noise, p = (torch.randn(300, N, D, generator=generator, dtype=torch.float64) for _ in "zp")
    narrow, wide = (mmd2(s * noise, p, kernel=WIDE, estimator="biased") for s in (0.15, 1.0))
    difference = narrow - wide  # the same draws on both sides
    error = float(difference.std()) / math.sqrt(300)
    found = expected(0.15, 1 / N) - expected(1.0, 1 / N)
    assert found < -20 * error
    assert abs(float(difference.mean()) - found) < 4.5 * error


@pytest.mark.parametrize(
    ("steps", "tolerance"), [(150, 0.2), pytest.param(1500, 0.02, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("estimator", "diagonal"), [("biased", 1 / N), ("unbiased", 0.0)])
def test_the_scale_goes_to_its_optimum(
    estimator: str, diagonal: float, steps: int, tolerance: float
) -> None:
    """Codes s·ε, and Adam on s under either statistic; the mean of the last tenth."""
    generator = torch.Generator().manual_seed(0)
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_scale], lr=0.05)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    last = []
    for _ in range(steps):
        z, p = torch.randn(2, N, D, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        mmd2(log_scale.exp() * z, p, kernel=WIDE, estimator=estimator).backward()  # type: ignore
        optimizer.step()
        decay.step()
        last.append(float(log_scale.detach().exp()))
    found = sum(last[-steps // 10 :]) / (steps // 10)
    assert found == pytest.approx(best_scale(diagonal), abs=tolerance)


# --- A decoder that can do without a code (Chen et al. 2017, 1611.02731; Zhao et al. 2017) ---

LENGTH, DIM = 32, 2
FLIP = 0.2  # probability that a bit differs from the one before
ENTROPY = math.log(2) - (LENGTH - 1) * (FLIP * math.log(FLIP) + (1 - FLIP) * math.log(1 - FLIP))


class Autoregressive(nn.Module):
    """Logits of every bit from z and the bits before it: Σ_{i<j} w_ji (2x_i − 1) + net(z)_j. At the
    start it is the chain that the data come from, and z has no influence."""

    def __init__(self) -> None:
        super().__init__()
        self.code = mlp(DIM, LENGTH, 100)
        nn.init.zeros_(self.code[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.code[-1].bias)  # type: ignore[arg-type]
        log_odds = math.log((1 - FLIP) / FLIP)
        self.before = nn.Parameter(torch.diag(torch.full((LENGTH - 1,), log_odds), -1))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        logits: Tensor = self.code(z)
        return logits + linear(2 * x - 1, self.before.tril(-1))


class AutoregressiveVAE(VAE):
    """Its decoder also sees x, each bit those before it."""

    def _decoded(self, z: Tensor, x: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(z, x)
        return decoded


def chains(n: int, generator: torch.Generator) -> Tensor:
    """[n, LENGTH] of 0 and 1."""
    first = torch.randint(2, (n, 1), generator=generator)
    flips = torch.rand(n, LENGTH - 1, generator=generator) < FLIP
    return (torch.cat([first, flips.long()], 1).cumsum(1) % 2).float()


def test_the_flexible_decoder_is_the_chain_and_sees_no_later_bit() -> None:
    decoder = Autoregressive()
    x = chains(20_000, torch.Generator().manual_seed(0))
    z = torch.randn(len(x), 2)
    with torch.no_grad():
        nats = -BernoulliLikelihood().log_prob(x, decoder(z, x))
    assert abs(float(nats.mean()) - ENTROPY) < 4.5 * float(nats.std()) / math.sqrt(len(x))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_()
    jacobian = torch.autograd.functional.jacobian(lambda row: decoder(z[:1], row), x[:1])[0, :, 0]
    assert (jacobian.triu() == 0).all()
    assert (jacobian.tril(-1) != 0).sum() == LENGTH * (LENGTH - 1) / 2


def codes_of(model: VAE, rows: Tensor) -> tuple[KLDecomposition, float]:
    """The parts of the KL, and the distortion."""
    with torch.no_grad():
        output = model(rows, generator=torch.Generator().manual_seed(1))
    found = decompose_kl(output.mean, output.log_variance, output.z)
    return found, float(output.distortion.mean())


@pytest.mark.slow
def test_the_kl_gives_up_a_code_that_the_decoder_can_do_without() -> None:
    """At distortion H(x) a code can only cost. The MMD-VAE keeps it, and so does a VAE whose
    decoder needs it (bounds from seeds 0 to 2)."""
    generator = torch.Generator().manual_seed(0)
    x, heldout = chains(10_000, generator), chains(5000, generator)

    def flexible(objective: Objective) -> VAE:
        torch.manual_seed(0)
        parts = BernoulliLikelihood(), objective, StandardNormal(DIM)
        return AutoregressiveVAE(mlp(LENGTH, 2 * DIM, 100), Autoregressive(), *parts)

    kl, mmd = Objective(WeightedKL()), InfoVAE(1, 10.0)
    found, distortion = codes_of(trained(flexible(kl), x, steps=2000, rate=2e-3), heldout)
    assert abs(found.mutual_information) < 0.1
    assert distortion == pytest.approx(ENTROPY, abs=0.15)
    found, _ = codes_of(trained(flexible(mmd), x, steps=2000, rate=2e-3), heldout)
    assert found.mutual_information > 5
    plain = dense(LENGTH, DIM, BernoulliLikelihood(), Objective(WeightedKL()))
    assert codes_of(trained(plain, x, steps=2000, rate=2e-3), heldout)[0].mutual_information > 1


# --- What the KL and other rates do to q(z) ---


@pytest.mark.slow
def test_few_data_and_a_kl_let_the_aggregate_leave_the_prior() -> None:
    """500 digits: log det Cov q(z), which is 0 for the prior (Zhao et al. 2017, sec. 5)."""

    def log_det(objective: Objective) -> float:
        x = digits().train[:500]
        model = trained(dense(64, 5, GaussianLikelihood(0.01), objective), x, steps=4000)
        with torch.no_grad():
            z = model.encode(x.repeat(20, 1), generator=torch.Generator().manual_seed(1)).z
        return float(torch.logdet(torch.cov(z.double().mT)))

    assert log_det(Objective(WeightedKL())) > 1.5  # seeds 0 to 2
    assert log_det(InfoVAE(1, 50 * 64.0)) == pytest.approx(0, abs=0.3)


@pytest.mark.slow
def test_a_weight_on_the_total_correlation_costs_less_information() -> None:
    """Than the same on the whole KL (Chen et al. 2018); bounds from seeds 0 to 2."""
    data = shapes(train=4000, heldout=2000)
    vae, beta, tc = (
        codes_of(
            trained(
                dense(1024, 6, BernoulliLikelihood(), Objective(rate)),
                data.rows("train"),
                steps=1500,
            ),
            data.rows("heldout"),
        )[0]
        for rate in (WeightedKL(), WeightedKL(6.0), TotalCorrelation(1, 6.0, 1, n_data=4000))
    )
    assert tc.total_correlation < 0.5 * vae.total_correlation
    assert tc.mutual_information > 0.7 * vae.mutual_information
    assert beta.mutual_information < 0.7 * vae.mutual_information
