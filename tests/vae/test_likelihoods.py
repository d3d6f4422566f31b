"""Likelihoods against torch.distributions in fp64; their draws, supports and messages."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Laplace, Normal
from torch.nn.functional import softplus

from vae import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    GaussianLikelihood,
    LaplaceLikelihood,
    Likelihood,
    PixelGaussianLikelihood,
)

B = 6
SHAPES = {"flat": (7,), "image": (3, 2, 4)}
LEVELS = 5


def learned_gaussian() -> GaussianLikelihood:
    return GaussianLikelihood(0.7, learned=True)


MAKE = {
    "gaussian": lambda: GaussianLikelihood(0.3),
    "learned": learned_gaussian,
    "pixel": lambda: PixelGaussianLikelihood(0.05),
    "laplace": lambda: LaplaceLikelihood(0.4),
    "bernoulli": BernoulliLikelihood,
    "categorical": lambda: CategoricalLikelihood(LEVELS),
}
UNIT = ("bernoulli", "categorical")


def parameters_of(likelihood: Likelihood, shape: tuple[int, ...], rows: int = B) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size = (rows, likelihood.channels * shape[0], *shape[1:])
    return torch.randn(size, generator=generator, dtype=torch.float64)


def distribution(name: str, parameters: Tensor, shape: tuple[int, ...]) -> Distribution:
    """The same p(x|z) from torch, factorised over [B, C, …]."""
    c = shape[0]
    match name:
        case "gaussian":
            return Normal(parameters, math.sqrt(0.3))
        case "learned":
            return Normal(parameters, math.sqrt(0.7))
        case "pixel":
            return Normal(parameters[:, :c], (0.05 + softplus(parameters[:, c:])).sqrt())
        case "laplace":
            return Laplace(parameters, 0.4)
        case "bernoulli":
            return Bernoulli(logits=parameters)
        case "categorical":
            levels = [parameters[:, k * c : (k + 1) * c] for k in range(LEVELS)]
            return Categorical(logits=torch.stack(levels, -1))
    raise KeyError(name)


def data_of(name: str, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    if name == "bernoulli":
        return torch.randint(2, (B, *shape), generator=generator).double()
    if name == "categorical":
        return torch.randint(LEVELS, (B, *shape), generator=generator).double() / (LEVELS - 1)
    return torch.randn((B, *shape), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("name", MAKE)
def test_log_density_and_mean_are_those_of_torch(name: str, kind: str) -> None:
    shape = SHAPES[kind]
    likelihood = MAKE[name]().double()
    parameters, x = parameters_of(likelihood, shape), data_of(name, shape)
    reference = distribution(name, parameters, shape)
    value = x * (LEVELS - 1) if name == "categorical" else x
    expected = reference.log_prob(value).flatten(1).sum(1)
    # the learned scale is kept in fp32 as log σ²
    tolerance = 1e-6 if name == "learned" else 1e-12
    torch.testing.assert_close(
        likelihood.log_prob(x, parameters), expected, rtol=tolerance, atol=tolerance
    )
    mean = likelihood.mean(parameters)
    if name == "categorical":
        levels = torch.arange(LEVELS).double() / (LEVELS - 1)
        torch.testing.assert_close(mean, (reference.probs * levels).sum(-1))
    else:
        torch.testing.assert_close(mean, reference.mean)
    assert mean.shape == x.shape


@pytest.mark.parametrize("name", MAKE)
def test_strides_do_not_matter(name: str) -> None:
    shape = SHAPES["image"]
    likelihood = MAKE[name]().double()
    parameters, x = parameters_of(likelihood, shape), data_of(name, shape)
    strided = parameters.transpose(0, 3).contiguous().transpose(0, 3)
    assert not strided.is_contiguous()
    torch.testing.assert_close(
        likelihood.log_prob(x.mT.contiguous().mT, strided), likelihood.log_prob(x, parameters)
    )


@pytest.mark.parametrize("name", MAKE)
def test_draws_have_the_moments_of_the_distribution(name: str) -> None:
    rows = 20_000
    shape = (3,)
    likelihood = MAKE[name]().double()
    parameters = parameters_of(likelihood, shape, rows=1)
    generator = torch.Generator().manual_seed(3)
    x = likelihood.sample(parameters.expand(rows, -1), generator=generator)
    assert x.shape == (rows, *shape)
    reference = distribution(name, parameters, shape)
    if name == "categorical":
        levels = torch.arange(LEVELS).double() / (LEVELS - 1)
        mean = (reference.probs * levels).sum(-1)[0]
        variance = (reference.probs * levels.square()).sum(-1)[0] - mean.square()
        assert set((x * (LEVELS - 1)).unique().tolist()) <= set(range(LEVELS))
    else:
        mean, variance = (
            moment.expand(1, *shape)[0] for moment in (reference.mean, reference.variance)
        )
    error = (variance / rows).sqrt()
    assert ((x.mean(0) - mean).abs() < 4.5 * error).all()
    fourth = (x - x.mean(0)).pow(4).mean(0)  # its own standard error of the variance
    assert ((x.var(0) - variance).abs() < 4.5 * ((fourth - variance**2) / rows).sqrt()).all()
    again = likelihood.sample(
        parameters.expand(rows, -1), generator=torch.Generator().manual_seed(3)
    )
    assert torch.equal(x, again)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("wrong", [math.nan, 1.5, -0.25], ids=str)
def test_nan_outside_the_support_and_a_count_or_range_in_words(name: str, wrong: float) -> None:
    likelihood = MAKE[name]().double()
    shape = SHAPES["flat"]
    x = data_of(name, shape).clamp(0, 1)
    likelihood.check(x)
    x[2, 3] = wrong
    value = likelihood.log_prob(x, parameters_of(likelihood, shape))
    inside = [row for row in range(B) if row != 2]
    assert value[inside].isfinite().all()
    if math.isnan(wrong):
        assert value[2].isnan()
        with pytest.raises(ValueError, match="1 of 6 rows are not finite"):
            likelihood.check(x)
    elif name in UNIT:
        assert value[2].isnan()
        low, high = (0, 1.5) if wrong > 1 else (-0.25, 1)
        with pytest.raises(ValueError, match=rf"values in \[0, 1\], got \[{low:g}, {high:g}\]"):
            likelihood.check(x)
    else:
        assert value[2].isfinite()
        likelihood.check(x)


def test_the_optimum_of_a_learned_variance_is_the_mean_squared_error() -> None:
    likelihood = learned_gaussian()
    x, decoded = torch.zeros(4, 5), torch.linspace(-1, 1, 20).reshape(4, 5)
    assert likelihood.log_variance is not None
    with torch.no_grad():
        likelihood.log_variance.copy_(decoded.square().mean().log())
    likelihood.log_prob(x, decoded).sum().backward()
    assert abs(float(likelihood.log_variance.grad)) < 1e-5  # of terms of size 10
    with torch.no_grad():
        likelihood.log_variance.add_(0.1)
    likelihood.log_variance.grad = None
    likelihood.log_prob(x, decoded).sum().backward()
    assert float(likelihood.log_variance.grad) < -0.5  # a larger variance is worse
    assert "(learned)" in likelihood.describe()


def test_the_floor_bounds_a_pixel_that_never_changes() -> None:
    likelihood = PixelGaussianLikelihood(0.01)
    x = torch.zeros(1, 1)
    least = likelihood.log_prob(x, torch.tensor([[0.0, -200.0]]))
    expected = -0.5 * math.log(2 * math.pi * 0.01)
    torch.testing.assert_close(least, torch.tensor([expected]))


def test_an_l1_term_of_weight_lambda_is_a_laplace_of_scale_one_over_lambda() -> None:
    x, decoded = data_of("laplace", (7,)), parameters_of(LaplaceLikelihood(), (7,))
    lambda_ = 2.5
    distortion = -LaplaceLikelihood(1 / lambda_).log_prob(x, decoded)
    l1 = lambda_ * (x - decoded).abs().sum(1)
    torch.testing.assert_close(distortion, l1 + 7 * math.log(2 / lambda_))


@pytest.mark.parametrize("name", MAKE)
def test_sums_are_fp32_under_autocast(name: str) -> None:
    """A decoder's bf16 output is 3 digits; log densities of it must not lose more."""
    shape = (400,)
    likelihood = MAKE[name]()
    parameters = parameters_of(likelihood, shape).bfloat16()
    x = data_of(name, shape).float()
    expected = MAKE[name]().double().log_prob(x.double(), parameters.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = likelihood.log_prob(x, parameters)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gaussian", [6, 7]), ("pixel", [6, 14]), ("categorical", [6, 35])],
)
def test_a_decoder_of_another_width_is_refused(name: str, expected: list[int]) -> None:
    likelihood = MAKE[name]()
    received = torch.zeros(B, 8)
    message = rf"must return \[6, {expected[1]}\] for data \[6, 7\] .*, got \[6, 8\]"
    with pytest.raises(ValueError, match=message):
        likelihood.log_prob(torch.zeros(B, 7), received)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf], ids=str)
@pytest.mark.parametrize("make", [GaussianLikelihood, PixelGaussianLikelihood, LaplaceLikelihood])
def test_a_scale_must_be_positive(make: type[Likelihood], value: float) -> None:
    with pytest.raises(ValueError, match="must be positive and finite, got"):
        make(value)


def test_fewer_than_two_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2, got 1"):
        CategoricalLikelihood(1)


@pytest.mark.parametrize("off", [-0.4, 0.0, 0.4])
def test_a_level_is_the_nearest_one(off: float) -> None:
    levels = torch.arange(1, 255)
    x = ((levels + off) / 255).float().unsqueeze(0)
    logits = torch.full((1, 256, 254), -30.0)  # [B, K, D]
    logits[0, levels, levels - 1] = 30.0
    likelihood = CategoricalLikelihood(256)
    assert float(likelihood.log_prob(x, logits.reshape(1, -1))) == pytest.approx(0.0, abs=1e-6)
