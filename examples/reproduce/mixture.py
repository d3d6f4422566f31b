"""Four Gaussians in the plane, the toy of the InfoVAE paper's code: codes match the prior, samples
match the data."""

import torch
from finding import EARLIER, Finding
from torch import Tensor
from training import one_thread, trained

from divergences.results import TwoSampleResult
from divergences.two_sample import two_sample_test
from vae import VAE, GaussianLikelihood, InfoVAE, StandardNormal, mlp
from vae.data import gaussian_mixture

STEPS = 3000
HALF = 2000
MODE = 5 / 26**0.5  # distance of a mode's centre from each axis
DEVIATION = 26**-0.5


def mixture_latent(progress: bool = True, steps: int = STEPS) -> list[Finding]:
    """Four Gaussians through an MMD-VAE with two codes (α = 1, λ = 200, σ² = .05)."""
    data = gaussian_mixture(2000, heldout=2 * HALF)
    with one_thread():
        model = VAE(
            mlp(2, 4), mlp(2, 2), GaussianLikelihood(0.05), InfoVAE(1, 200), StandardNormal(2)
        )
        trained(
            model, data.train, steps=steps, batch_size=200, learning_rate=3e-3, progress=progress
        )
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            output = model(data.heldout, generator=generator)
            samples = model.sample(2 * HALF, generator=generator, pixel_noise=True)
    z = output.z
    prior, other = (model.prior.sample(HALF, generator=generator, like=z) for _ in range(2))
    codes, control = compare(z[:HALF], prior), compare(other, prior)
    quarter = "the data: a quarter each"
    return [
        Finding(
            f"codes against the prior, share of the energy (p = {codes.pvalue:.2f})",
            share(codes), 0, 0.005, "exact for a perfect fit",
        ),
        Finding(
            f"control: prior against prior (p = {control.pvalue:.2f})",
            share(control), 0, 0.005, "equal distributions",
        ),
        Finding(
            "least share of the reconstructions in a mode",
            least_share(output.decoded), 0.25, 0.03, quarter,
        ),
        Finding(
            "least share of the samples nearest to a mode",
            least_share(samples), 0.25, 0.05, quarter,
        ),
        Finding(
            "share of the samples within 3σ of a mode", within(samples), 0.5, 0, EARLIER, "above"
        ),
    ]  # fmt: skip


def compare(x: Tensor, y: Tensor) -> TwoSampleResult:
    """Energy test of [n, 2] against [m, 2]."""
    return two_sample_test(x, y, method="energy", n_resamples=199, rng=0)


def share(result: TwoSampleResult) -> float:
    """The energy distance as a share of what it would be between point masses."""
    assert result.effect_size is not None
    return result.effect_size


def least_share(x: Tensor) -> float:
    """Of the four quadrants, each with one mode, the one that holds fewest."""
    quadrant = 2 * (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return float(torch.bincount(quadrant, minlength=4).min()) / len(x)


def within(x: Tensor) -> float:
    """Share of points within three standard deviations of the nearest mode."""
    distance = torch.linalg.vector_norm(x.abs() - MODE, dim=1)
    return float((distance < 3 * DEVIATION).double().mean())
