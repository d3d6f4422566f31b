"""Exact embeddings of Gaussian priors against sampling, quadrature and published closed forms."""

from __future__ import annotations

import copy

import mpmath
import pytest
import torch
from scipy import integrate, stats
from tolerances import assert_close
from torch import Tensor

from divergences.energy import energy_distance, energy_distance_to_normal
from divergences.expected_distance import expected_distance_to_normal
from divergences.kernels import Gaussian, Laplace
from divergences.mmd import mmd2, mmd2_to_gaussian_mixture, mmd2_to_normal


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_normal_prior_against_the_bhep_formulas(estimator: str) -> None:
    """With exp(−r²/C): E k(z, ·) = (1+2/C)^(−d/2) exp(−|z|²/(C+2)), E k = (1+4/C)^(−d/2)."""
    d, c = 5, 7.0
    x = normal(0, 30, d) * 1.3
    k = torch.exp(-torch.cdist(x, x).square() / c)
    within = k.mean() if estimator == "biased" else (k.sum() - 30) / (30 * 29)
    cross = ((1 + 2 / c) ** (-d / 2) * torch.exp(-x.square().sum(1) / (c + 2))).mean()
    truth = within - 2 * cross + (1 + 4 / c) ** (-d / 2)
    ours = mmd2_to_normal(x, bandwidth=(c / 2) ** 0.5, estimator=estimator)  # type: ignore[arg-type]
    assert_close(ours, truth, 1e-11)


def test_normal_prior_is_the_limit_of_sampling() -> None:
    """The mean of mmd2 over prior samples is the exact form, within the standard error."""
    x = normal(0, 40, 3) + 0.2
    draws = torch.stack([mmd2(x, normal(k, 500, 3), bandwidth=1.0) for k in range(100, 300)])
    error = draws.std() / len(draws) ** 0.5
    assert (draws.mean() - mmd2_to_normal(x, bandwidth=1.0)).abs() < 4 * error
    assert error < 1e-3


def test_mixture_of_kernels_and_gradients() -> None:
    x = normal(0, 12, 2).requires_grad_()
    kernel = Gaussian([0.5, 2.0]) + 3.0 * Gaussian(1.0)
    parts = [mmd2_to_normal(x, bandwidth=s) for s in (0.5, 2.0, 1.0)]
    expected = 0.5 * parts[0] + 0.5 * parts[1] + 3.0 * parts[2]
    assert_close(mmd2_to_normal(x, kernel=kernel), expected, 1e-11)
    assert torch.autograd.gradcheck(lambda x: mmd2_to_normal(x, kernel=kernel), (x,))
    assert torch.autograd.gradgradcheck(lambda x: mmd2_to_normal(x, bandwidth=1.0), (x,))


def test_gaussian_mixture_by_quadrature() -> None:
    """d = 1: the embedding and the prior term as integrals."""
    x = normal(0, 6, 1)
    means, scales = torch.tensor([[-2.0], [1.0]]), torch.tensor([0.5, 1.5])
    weights = torch.tensor([0.3, 0.7])

    def density(t: float) -> float:
        parts = [
            w * stats.norm.pdf(t, m, s)
            for w, m, s in zip(weights.tolist(), means[:, 0].tolist(), scales.tolist(), strict=True)
        ]
        return float(sum(parts))

    def kernel(a: float, b: float) -> float:
        return float(torch.exp(torch.tensor(-((a - b) ** 2) / (2 * 0.8**2), dtype=torch.float64)))

    points = x[:, 0].tolist()
    cross = [
        integrate.quad(lambda t, p=p: kernel(p, t) * density(t), -12, 12, limit=200)[0]
        for p in points
    ]
    own = integrate.dblquad(
        lambda a, b: kernel(a, b) * density(a) * density(b),
        -9,
        9,
        -9,
        9,
        epsabs=1e-7,
    )[0]
    k = torch.tensor([[kernel(a, b) for b in points] for a in points])
    within = (k.sum() - 6) / 30
    truth = float(within) - 2 * sum(cross) / 6 + own
    ours = mmd2_to_gaussian_mixture(x, means, scales, weights, bandwidth=0.8)
    assert abs(ours.item() - truth) < 1e-6


@pytest.mark.parametrize("offset", [1e6, 1e9])
def test_mixture_far_from_the_origin(offset: float) -> None:
    x = normal(0, 30, 2)
    means, scales = torch.zeros(2, 2, dtype=torch.float64), torch.ones(2)
    means[1] += 1.0
    near = mmd2_to_gaussian_mixture(x, means, scales, bandwidth=1.0)
    shifted = x + offset
    far = mmd2_to_gaussian_mixture(shifted, means + offset, scales, bandwidth=1.0)
    exact = mmd2_to_gaussian_mixture(shifted - offset, means, scales, bandwidth=1.0)
    assert_close(far, exact, 1e-9)
    assert_close(far, near, 1e-6 if offset < 1e9 else 1e-3)


def test_learned_mixture_has_gradients() -> None:
    x = normal(0, 8, 2).requires_grad_()
    means, scales = normal(1, 3, 2).requires_grad_(), normal(2, 3).abs().requires_grad_()
    weights = normal(3, 3).abs().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *args: mmd2_to_gaussian_mixture(*args, bandwidth=1.0), (x, means, scales, weights)
    )


def test_single_precision_stays_near_the_truth() -> None:
    x = normal(0, 500, 64).float()
    truth = mmd2_to_normal(x.double())
    assert_close(mmd2_to_normal(x), truth, 1e-4)
    assert mmd2_to_normal(x).dtype == torch.float32


@pytest.mark.parametrize("d", [1, 2, 3, 10, 64, 784, 3072])
@pytest.mark.parametrize("scale", [0.0, 1e-6, 0.5, 1.0, 4.0, 100.0])
@pytest.mark.parametrize(
    ("interpolated", "bounds"), [(False, (3e-12, 1e-10)), (True, (1e-11, 1e-9))]
)
def test_expected_distance_against_hypergeometric(
    d: int, scale: float, interpolated: bool, bounds: tuple[float, float]
) -> None:
    """√2·Γ((d+1)/2)/Γ(d/2)·₁F₁(−½; d/2; −q/2) and its derivatives, in 40 digits."""
    q0 = scale * d
    with mpmath.workdps(40):
        half = mpmath.mpf(d) / 2
        front = mpmath.sqrt(2) * mpmath.gamma(half + 0.5) / mpmath.gamma(half)
        truth = [
            front * mpmath.hyp1f1(-0.5, half, -mpmath.mpf(q0) / 2),
            front / (4 * half) * mpmath.hyp1f1(0.5, half + 1, -mpmath.mpf(q0) / 2),
            -front / (16 * half * (half + 1)) * mpmath.hyp1f1(1.5, half + 2, -mpmath.mpf(q0) / 2),
        ]
    q = torch.tensor([q0], dtype=torch.float64, requires_grad=True)
    value = expected_distance_to_normal(q, d, interpolated=interpolated)
    (first,) = torch.autograd.grad(value, q, create_graph=True)
    (second,) = torch.autograd.grad(first, q)
    for ours, expected, bound in zip((value, first, second), truth, (*bounds, 3e-9), strict=True):
        assert abs(ours.item() / float(expected) - 1) < bound


def test_energy_to_normal_is_the_limit_of_sampling() -> None:
    for d in (1, 3, 20):
        x = normal(0, 40, d) * 1.2
        draws = torch.stack([energy_distance(x, normal(k, 500, d)) for k in range(100, 200)])
        error = draws.std() / len(draws) ** 0.5
        assert (draws.mean() - energy_distance_to_normal(x)).abs() < 4 * error
        assert error < 0.02


@pytest.mark.parametrize("d", [1, 2, 5, 3072])
def test_energy_to_normal_derivatives_and_vmap(d: int) -> None:
    x = normal(0, 5, d).requires_grad_()
    if d < 10:
        assert torch.autograd.gradcheck(energy_distance_to_normal, (x,))
        assert torch.autograd.gradgradcheck(energy_distance_to_normal, (x,))
    batch = normal(1, 3, 5, d)
    loop = torch.stack([energy_distance_to_normal(b) for b in batch])
    assert_close(torch.func.vmap(energy_distance_to_normal)(batch), loop, 1e-11)
    (gradient,) = torch.autograd.grad(energy_distance_to_normal(x), x)
    assert torch.isfinite(gradient).all()
    assert_close(torch.func.grad(energy_distance_to_normal)(x.detach()), gradient, 1e-11)


def test_exact_forms_compile() -> None:
    x = normal(0, 9, 3).requires_grad_()
    for function in (mmd2_to_normal, energy_distance_to_normal):
        (expected,) = torch.autograd.grad(function(x), x)
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        (actual,) = torch.autograd.grad(compiled(x), x)
        assert_close(actual, expected, 1e-11)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(kernel="laplace"), "no closed form against a Gaussian prior"),
        (dict(kernel=Gaussian(1.0) + Laplace(1.0)), "no closed form"),
        (dict(estimator="u"), "'unbiased' or 'biased'"),
    ],
)
def test_others_raise(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mmd2_to_normal(normal(0, 5, 2), **arguments)  # type: ignore[arg-type]


def test_a_copied_kernel_is_still_gaussian() -> None:
    x, kernel = normal(0, 9, 2), Gaussian(1.0)
    assert mmd2_to_normal(x, kernel=copy.deepcopy(kernel)) == mmd2_to_normal(x, kernel=kernel)


def test_bad_mixtures() -> None:
    x = normal(0, 5, 2)
    with pytest.raises(ValueError, match=r"means must have shape \[K, d\]"):
        mmd2_to_gaussian_mixture(x, torch.zeros(3, 4), torch.ones(3))
    with pytest.raises(ValueError, match=r"scales must have shape \[3\]; got \[2\]"):
        mmd2_to_gaussian_mixture(x, torch.zeros(3, 2), torch.ones(2))
    with pytest.raises(TypeError, match="means must be a floating point tensor; got list"):
        mmd2_to_gaussian_mixture(x, [[0.0, 0.0]], torch.ones(1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scales must be positive and finite"):
        mmd2_to_gaussian_mixture(x, torch.zeros(2, 2), torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="not all 0"):
        mmd2_to_gaussian_mixture(x, torch.zeros(2, 2), torch.ones(2), torch.zeros(2))
    with pytest.raises(ValueError, match="x has 1 row"):
        mmd2_to_normal(x[:1])
