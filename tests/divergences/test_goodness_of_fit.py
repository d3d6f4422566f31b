"""Goodness of fit: statistics against the losses and dense formulas, levels, power, refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Cauchy,
    Distribution,
    Exponential,
    Gamma,
    Independent,
    LogNormal,
    LowRankMultivariateNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
    Uniform,
    VonMises,
)
from torch.distributions.transforms import AffineTransform

from divergences.energy import energy_distance_to_normal
from divergences.expected_distance import DistanceTable, expected_distance_to_normal
from divergences.gaussian_models import whiten
from divergences.goodness_of_fit import goodness_of_fit_test
from divergences.kernels import Gaussian, InverseMultiquadric, Laplace
from divergences.mmd import mmd2_to_gaussian_mixture, mmd2_to_normal
from divergences.scores import score_of, scores_at

COVARIANCE = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
MEAN = torch.tensor([3.0, -1.0], dtype=torch.float64)


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def isotropic(means: list[list[float]], scales: list[float]) -> MixtureSameFamily:
    m, s = torch.tensor(means).double(), torch.tensor(scales).double()
    parts = Independent(Normal(m, s[:, None].expand_as(m)), 1)
    return MixtureSameFamily(Categorical(torch.tensor([0.3, 0.7]).double()), parts)


def rejections(
    draw: Callable[[np.random.Generator], Any], repeats: int, alpha: float, **options: Any
) -> int:
    generator = np.random.default_rng(11)
    return sum(
        goodness_of_fit_test(draw(generator), **options, rng=generator).pvalue <= alpha
        for _ in range(repeats)
    )


def most(repeats: int, alpha: float) -> int:
    return int(stats.binom.ppf(1 - 1e-4, repeats, alpha))


# --- Statistics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 7])
def test_exact_statistics_are_the_losses(d: int) -> None:
    x = normal(0, 40, d) * 1.2
    energy = goodness_of_fit_test(x, n_resamples=5, rng=0)
    expected = energy_distance_to_normal(x, estimator="biased").item()
    assert energy.statistic == pytest.approx(expected, rel=1e-9)
    mmd = goodness_of_fit_test(x, method="mmd", n_resamples=5, rng=0)
    expected = mmd2_to_normal(x, estimator="biased").item()
    assert mmd.statistic == pytest.approx(expected, rel=1e-9)
    share = energy_distance_to_normal(x).item() / (
        2 * expected_distance_to_normal(x.square().sum(1), d).mean().item()
    )
    assert energy.effect_size == pytest.approx(max(0.0, share), abs=1e-10)
    assert (energy.n, energy.d, energy.model, energy.method) == (40, d, "N(0, I)", "energy")


def test_gaussian_models_are_standardised() -> None:
    """A Gaussian model by any of its classes is N(0, I) after the affine map that makes it so."""
    z = normal(0, 25, 2)
    factor = torch.linalg.cholesky(COVARIANCE)
    x = z @ factor.T + MEAN
    truth = goodness_of_fit_test(z, n_resamples=19, rng=0)
    low_rank = LowRankMultivariateNormal(
        MEAN, MEAN.new_tensor([[1.0], [0.6]]), MEAN.new_tensor([1.0, 0.14])
    )
    for model in (MultivariateNormal(MEAN, COVARIANCE), low_rank):
        found = goodness_of_fit_test(x, model, n_resamples=19, rng=0)
        assert found.method == "energy"
        assert found.statistic == pytest.approx(truth.statistic, rel=1e-9)
        np.testing.assert_allclose(found.null_distribution, truth.null_distribution)
    independent = Independent(Normal(MEAN, torch.tensor([2.0, 0.5]).double()), 1)
    found = goodness_of_fit_test(z * torch.tensor([2.0, 0.5]) + MEAN, independent, rng=0)
    assert found.statistic == pytest.approx(truth.statistic, rel=1e-9)
    line = goodness_of_fit_test(3.0 + 2.0 * z[:, 0], Normal(3.0, 2.0), n_resamples=19, rng=0)
    assert line.statistic == pytest.approx(
        goodness_of_fit_test(z[:, 0], n_resamples=19, rng=0).statistic, rel=1e-9
    )


def test_mixture_statistic() -> None:
    """Standardised by its mean and mean variance, known by hand for this one."""
    model = isotropic([[-2.0, 0.0], [2.0, 1.0]], [0.5, 1.5])
    x = normal(0, 30, 2)
    mean = torch.tensor([0.8, 0.7], dtype=torch.float64)
    variances = (
        torch.tensor([0.3, 0.7]) @ torch.tensor([[4.25, 0.25], [6.25, 3.25]]) - mean.square()
    )
    size = float(variances.mean()) ** 0.5
    means = (torch.tensor([[-2.0, 0.0], [2.0, 1.0]]).double() - mean) / size
    scales = torch.tensor([0.5, 1.5]).double() / size
    expected = mmd2_to_gaussian_mixture(
        (x - mean) / size, means, scales, torch.tensor([0.3, 0.7]).double(), estimator="biased"
    )
    found = goodness_of_fit_test(x, model, method="mmd", n_resamples=5, rng=0)
    assert found.statistic == pytest.approx(expected.item(), rel=1e-6)


def test_stein_statistic_by_hand() -> None:
    """d = 1, N(0, 1), Gaussian kernel: u = k·(xy − (x−y)²/σ² + 1/σ² − (x−y)²/σ⁴)."""
    x, sigma = normal(0, 30, 1), 1.3
    square = (x - x.T).square()
    u = torch.exp(-square / (2 * sigma**2)) * (
        x * x.T - square / sigma**2 + 1 / sigma**2 - square / sigma**4
    )
    expected = (u.sum() - u.trace()).item() / (30 * 29)
    found = goodness_of_fit_test(x, method="ksd", kernel=Gaussian(sigma), n_resamples=5, rng=0)
    assert found.statistic == pytest.approx(expected, rel=1e-10)
    assert found.effect_size is None
    assert found.notes


def test_stein_bandwidth() -> None:
    """The scale of the score, whatever the unit of the data; what is given is taken."""
    x = normal(0, 2000, 3) * 7.0
    model = Independent(Normal(torch.zeros(3).double(), torch.full((3,), 7.0).double()), 1)
    for unit in (1.0, 1e-3):
        scaled = score_of(lambda x, unit=unit: model.log_prob(x / unit))
        found = goodness_of_fit_test(x * unit, scaled, n_resamples=1).kernels[0]
        assert found.bandwidth == pytest.approx(7.0 * unit, rel=0.05)
    found = goodness_of_fit_test(x, model, method="ksd", bandwidth="median", n_resamples=1)
    assert found.kernels[0].bandwidth == pytest.approx(7.0 * 2.17, rel=0.05)  # √(2·χ²₃ median)
    flat = goodness_of_fit_test(x, lambda x: 0 * x, n_resamples=1)  # no scale: the median
    assert flat.kernels[0].bandwidth == pytest.approx(7.0 * 2.17, rel=0.05)


def test_table_of_expected_distances() -> None:
    q = torch.cat([torch.zeros(1), torch.logspace(-6, 10, 999)]).double()
    for d in (1, 2, 6, 3000):
        error = DistanceTable(d, q.device)(q) / expected_distance_to_normal(q, d) - 1.0
        assert error.abs().max() < 1e-11
    z, phi = q.sqrt(), Normal(0.0, 1.0)
    truth = 2 * phi.log_prob(z).exp() + z * (2 * phi.cdf(z) - 1)
    torch.testing.assert_close(DistanceTable(1, q.device)(q), truth, rtol=1e-11, atol=0)


def test_null_mean_is_known() -> None:
    """Of the biased statistic under the model: E‖Z − Z′‖/n, exactly."""
    found = goodness_of_fit_test(normal(0, 10, 3), n_resamples=4000, rng=0).null_distribution
    expected = 2 * math.gamma(2.0) / math.gamma(1.5) / 10
    assert abs(found.mean() - expected) < 4 * found.std() / 4000**0.5


# --- Level ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "repeats"), [(5, 200), (50, 200), pytest.param(50, 2000, marks=pytest.mark.slow)]
)
def test_level_ksd(n: int, repeats: int) -> None:
    model = MultivariateNormal(MEAN, COVARIANCE)
    factor = torch.linalg.cholesky(COVARIANCE).numpy()

    def draw(generator: np.random.Generator) -> Any:
        return generator.normal(size=(n, 2)) @ factor.T + MEAN.numpy()

    for alpha in (0.05, 0.1):
        count = rejections(draw, repeats, alpha, model=model, method="ksd", n_resamples=99)
        assert count <= most(repeats, alpha)
        if n == 50:  # nominal, not only conservative
            assert count >= stats.binom.ppf(1e-4, repeats, alpha)


@pytest.mark.parametrize("repeats", [200, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("estimate", [False, True])
@pytest.mark.parametrize("n", [5, 20])
@pytest.mark.parametrize("method", ["energy", "mmd"])
def test_level_exact(method: str, n: int, estimate: bool, repeats: int) -> None:
    def draw(generator: np.random.Generator) -> Any:
        z = generator.normal(size=(n, 2))
        return z @ [[1.0, 0.9], [0.0, 0.1]] + 5.0 if estimate else z

    options: dict[str, Any] = dict(method=method, estimate=estimate, n_resamples=39)
    for alpha in (0.05, 0.25):
        count = rejections(draw, repeats, alpha, **options)
        assert stats.binom.ppf(1e-4, repeats, alpha) <= count <= most(repeats, alpha)


def test_level_is_wrong_without_estimating_again() -> None:
    """What re-whitening the simulated samples is for: whitened data look too normal."""

    def draw(generator: np.random.Generator) -> Any:
        return whiten(torch.from_numpy(generator.normal(size=(20, 2))))

    assert rejections(draw, 100, 0.25, n_resamples=39) == 0


def test_rows_that_estimating_uses_up() -> None:
    """With n = d + 1 every whitened sample is the same simplex; a few more rows get a note."""
    options: dict[str, Any] = dict(estimate=True, n_resamples=50, rng=0)
    with pytest.raises(ValueError, match=r"needs n ≥ d \+ 2 rows; got n = 4, d = 3"):
        goodness_of_fit_test(normal(0, 4, 3), **options)
    notes = [goodness_of_fit_test(normal(0, n, 3), **options).notes for n in (5, 12, 13)]
    assert [len(n) for n in notes] == [1, 1, 0]
    assert notes[0][0].startswith("n − d = 2: ")


# --- Invariance and power ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["energy", "mmd"])
def test_affine_invariance(method: Any) -> None:
    x = normal(0, 30, 3).exp()
    moved = x @ normal(1, 3, 3) * 1e3 + 1e4
    one, two = (
        goodness_of_fit_test(t, method=method, estimate=True, n_resamples=99, rng=0)
        for t in (x, moved)
    )
    assert one.statistic == pytest.approx(two.statistic, rel=1e-7)
    assert one.pvalue == two.pvalue


@pytest.mark.parametrize(
    ("method", "estimate"), [("energy", False), ("energy", True), ("mmd", True), ("ksd", False)]
)
def test_power(method: Any, estimate: bool) -> None:
    """Student's t with three degrees of freedom, and two well-separated modes."""
    generator = np.random.default_rng(5)
    modes = generator.normal(size=(150, 2)) * 0.5 + 1.5 * generator.choice([-1.0, 1.0], (150, 1))
    for x in (generator.standard_t(2.0, size=(150, 2)), modes):
        found = goodness_of_fit_test(x, method=method, estimate=estimate, n_resamples=199, rng=0)
        assert found.pvalue <= 0.02, (method, estimate, found.pvalue)


def test_a_model_is_told_from_another() -> None:
    """t data against the t model and against the normal one of equal scale."""
    x = np.random.default_rng(0).standard_t(3.0, size=400)
    assert goodness_of_fit_test(x, StudentT(3.0), rng=0).pvalue > 0.05
    assert goodness_of_fit_test(x, Normal(0.0, 3.0**0.5), method="ksd", rng=0).pvalue < 0.01
    model = isotropic([[-2.0, 0.0], [2.0, 1.0]], [0.5, 1.5])
    torch.manual_seed(0)
    y = model.sample((200,))
    for method in ("ksd", "mmd"):
        assert goodness_of_fit_test(y, model, method=method, n_resamples=199, rng=0).pvalue > 0.05
        wrong = goodness_of_fit_test(y + 0.7, model, method=method, n_resamples=199, rng=0)
        assert wrong.pvalue == 0.005


# --- Models --------------------------------------------------------------------------------------


def test_scores() -> None:
    x = normal(0, 20, 2)
    precision = torch.linalg.inv(COVARIANCE)
    truth = -(x - MEAN) @ precision

    class WithScore:
        def score(self, x: Tensor) -> Tensor:
            return -(x - MEAN) @ precision

    class WithLogProb:
        def log_prob(self, x: Tensor) -> Tensor:
            return -0.5 * ((x - MEAN) @ precision * (x - MEAN)).sum(1) + 7.0

    narrow = MultivariateNormal(MEAN.float(), COVARIANCE.float())  # torch refuses fp64 rows here
    layer = torch.nn.Linear(2, 2)
    layer.weight.data, layer.bias.data = -precision.float(), (precision @ MEAN).float()
    models: list[tuple[Any, float]] = [
        (MultivariateNormal(MEAN, COVARIANCE), 1e-12),
        (WithScore(), 1e-12),
        (WithScore().score, 1e-12),
        (WithLogProb(), 1e-12),
        (score_of(WithLogProb().log_prob), 1e-12),
        (narrow, 1e-5),
        (layer, 1e-5),
    ]
    with torch.inference_mode():
        for model, tolerance in models:
            found = scores_at(model, x)
            assert found.dtype == torch.float64
            torch.testing.assert_close(found, truth, rtol=0, atol=tolerance * 100)


def test_scores_of_univariate_models() -> None:
    x = normal(0, 9, 1)
    torch.testing.assert_close(scores_at(Cauchy(0.0, 1.0), x), -2 * x / (1 + x**2))
    shifted = TransformedDistribution(Normal(0.0, 1.0), [AffineTransform(1.0, 2.0)])
    torch.testing.assert_close(scores_at(shifted, x), -(x - 1) / 4)
    torch.testing.assert_close(scores_at(score_of(lambda t: -(t**4)), x), -4 * x**3)  # [n, 1]


BOUNDED: list[Distribution] = [
    Uniform(-9.0, 9.0),
    Beta(2.0, 2.0),
    Exponential(1.0),
    Gamma(2.0, 1.0),
    LogNormal(0.0, 1.0),
    Bernoulli(0.5),
    VonMises(0.0, 1.0),
    Independent(Uniform(torch.zeros(1), torch.ones(1)), 1),
    MixtureSameFamily(Categorical(torch.ones(2)), Gamma(torch.ones(2), torch.ones(2))),
]


@pytest.mark.parametrize("model", BOUNDED, ids=lambda m: type(m).__name__)
def test_bounded_supports_are_refused(model: Distribution) -> None:
    with pytest.raises(ValueError, match="not on all of ℝ"):
        goodness_of_fit_test(torch.full((5, 1), 0.5), model)


def test_why_bounded_supports_are_refused() -> None:
    """The score of a true exponential model, which does not vanish at 0, is rejected."""
    x = np.random.default_rng(0).exponential(size=300)
    found = goodness_of_fit_test(x, score_of(lambda x: -x.sum(-1)), n_resamples=199, rng=0)
    assert found.pvalue == 0.005


def test_refusals() -> None:
    x = normal(0, 10, 2)
    unknown: Any = "hsic"
    line = x[:, 0]
    test = goodness_of_fit_test
    bad: list[tuple[str, type[Exception], Callable[[], Any]]] = [
        ("no score", TypeError, lambda: test(x, 3.0)),
        ("unknown model", ValueError, lambda: test(x, "gaussian")),
        ("unknown method", ValueError, lambda: test(x, method=unknown)),
        ("at least two rows", ValueError, lambda: test(x[:1])),
        ("n > d", ValueError, lambda: test(x[:2], estimate=True)),
        ("estimate=True", ValueError, lambda: test(x, estimate=True, method="ksd")),
        ("estimate=True", ValueError, lambda: test(line, Normal(0.0, 1.0), estimate=True)),
        ("own kernel", ValueError, lambda: test(x, bandwidth=1.0)),
        ("closed form", ValueError, lambda: test(x, method="mmd", kernel="laplace")),
        ("Stein kernel", ValueError, lambda: test(x, method="ksd", kernel=Laplace())),
        ("rows of 2 columns", ValueError, lambda: test(x, Normal(0.0, 1.0))),
        ("Independent", ValueError, lambda: test(x, StudentT(torch.ones(2)))),
        ("Gaussian model", ValueError, lambda: test(line, StudentT(3.0), method="energy")),
        ("isotropic", ValueError, lambda: test(line, StudentT(3.0), method="mmd")),
        ("score_of", ValueError, lambda: test(x, lambda x: -x.square().sum(1))),
        ("one number per row", ValueError, lambda: test(x, score_of(lambda x: -x.square()))),
        ("differentiable", TypeError, lambda: test(x, score_of(lambda x: x.data.sum(1)))),
        ("not finite at 10 of 10", ValueError, lambda: test(x, lambda x: x / 0.0)),
        ("overflows", ValueError, lambda: test(1e200 * x)),
        ("overflows", ValueError, lambda: test(1e200 * x, method="ksd")),
        ("mat1 and mat2", RuntimeError, lambda: test(x, torch.nn.Linear(3, 3))),
    ]  # fmt: skip
    for message, kind, call in bad:
        with pytest.raises(kind, match=message):
            call()


@pytest.mark.parametrize("column", [lambda x: x[:, 0] * 2 + x[:, 1], lambda x: 0 * x[:, 0] + 0.1])
def test_singular_covariance_is_refused(column: Callable[[Tensor], Tensor]) -> None:
    x = normal(0, 20, 2) * torch.tensor([1e-6, 1e6])
    goodness_of_fit_test(x, estimate=True, n_resamples=5)  # scales apart are no hindrance
    with pytest.raises(ValueError, match="column 2 is constant or a linear combination"):
        goodness_of_fit_test(torch.cat([x, column(x)[:, None]], 1), estimate=True)


# --- Reports, reproducibility --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["energy", "mmd", "ksd"])
def test_batching_does_not_show(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(0, 20, 2)
    model = isotropic([[-2.0, 0.0], [2.0, 1.0]], [0.5, 1.5]) if method == "mmd" else "normal"
    one = goodness_of_fit_test(x, model, method=method, n_resamples=50, rng=3)
    monkeypatch.setattr("divergences.goodness_of_fit.SIMULATED", {"cpu": 300})
    monkeypatch.setattr("divergences.goodness_of_fit.SIGN_BYTES", 9 * 20 * 7)
    two = goodness_of_fit_test(x, model, method=method, n_resamples=50, rng=3)
    np.testing.assert_allclose(one.null_distribution, two.null_distribution, rtol=1e-9, atol=1e-12)
    assert one.pvalue == two.pvalue
    again = goodness_of_fit_test(x, model, method=method, n_resamples=50, rng=one.seed)
    np.testing.assert_array_equal(two.null_distribution, again.null_distribution)


def test_report() -> None:
    x = normal(0, 30, 2)
    text = str(goodness_of_fit_test(x, estimate=True, n_resamples=20, rng=1))
    assert "goodness-of-fit test" in text
    assert "mean and covariance estimated" in text
    found = goodness_of_fit_test(
        x, MultivariateNormal(MEAN, COVARIANCE), method="ksd", kernel=InverseMultiquadric(2.0),
        n_resamples=20, rng=1,
    )  # fmt: skip
    assert "model MultivariateNormal" in str(found)
    assert found.kernels[0].bandwidth == pytest.approx(2.0)
    assert json.loads(found.to_json())["model"] == "MultivariateNormal"


@pytest.mark.parametrize("outlier", [1e2, 1e6])
def test_one_outlier_does_not_blind_the_stein_discrepancy(outlier: float) -> None:
    x = np.random.default_rng(0).normal(0.8, 1.0, (100, 2))
    x[0] = outlier
    assert goodness_of_fit_test(x, method="ksd", n_resamples=199, rng=0).pvalue <= 0.02
