"""Generated rows, and two-sample tests of them against held-out rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from divergences.results import TwoSampleResult
from divergences.two_sample import Method, two_sample_test
from vae.data import Data
from vae.evaluation.codes import Tests
from vae.evaluation.passes import generator_for
from vae.model import VAE, evaluating

TESTED = 2000  # rows of each sample in a test, at most: more only make small effects significant
GENERATED = 10_000  # rows generated at a time


@dataclass(frozen=True, eq=False, kw_only=True)
class GeneratedTests(Tests):
    """Generated rows against one half of the held-out rows and, as a control of the same sizes, the
    other half against it. ``pixel_noise``: drawn from p(x|z), otherwise means of it."""

    fuse: TwoSampleResult
    fuse_control: TwoSampleResult
    energy: TwoSampleResult
    energy_control: TwoSampleResult
    pixel_noise: bool


def generate(
    model: VAE,
    data: Data,
    n: int,
    *,
    seed: int = 0,
    pixel_noise: bool | None = None,
    clip: bool = True,
) -> Tensor:
    """[n, D] forward samples on the CPU, comparable with the rows of `data`.

    Args:
        model: on any device.
        data: whose rows they are to be like.
        n: how many.
        seed: of every draw.
        pixel_noise: True draws from p(x|z), False takes its mean; None draws where the data are
            binarised or text (means would differ from them whatever was learned).
        clip: clamp to [0, 1] where all data lie there.
    """
    generator = generator_for(model, seed, "samples")
    noise = has_pixel_noise(data) if pixel_noise is None else pixel_noise
    with evaluating(model):
        most = max(1, GENERATED // model.likelihood.channels)
        sizes = [min(most, n - start) for start in range(0, n, most)]
        parts = [model.sample(m, generator=generator, pixel_noise=noise) for m in sizes]
    rows = torch.cat([part.flatten(1).float().cpu() for part in parts])
    return rows.clamp(0, 1) if clip and data.unit else rows


def has_pixel_noise(data: Data) -> bool:
    """Whether ``generate`` draws from p(x|z) unless it is told."""
    return data.binarise != "none" or data.text


def what_samples_are(pixel_noise: bool) -> str:
    """For titles and tables."""
    return "draws from p(x|z)" if pixel_noise else "means of p(x|z)"


def compare_generated(
    model: VAE,
    data: Data,
    heldout: Tensor,
    *,
    n_resamples: int = 999,
    seed: int = 0,
    show_progress: bool | None = False,
) -> GeneratedTests:
    """Two-sample tests of generated against held-out rows [H, D], H ≥ 4, on the rows as they are.

    At most ``TESTED`` rows enter each sample. A model that copies its training data would pass.
    """
    half = min(len(heldout) // 2, TESTED)
    first, second = heldout[:half], heldout[half : 2 * half]
    samples = generate(model, data, half, seed=seed)

    def test(x: Tensor, method: Method) -> TwoSampleResult:
        return two_sample_test(
            x,
            first,
            method=method,
            n_resamples=n_resamples,
            rng=seed,
            scale=None,
            show_progress=show_progress,
        )

    return GeneratedTests(
        fuse=test(samples, "fuse"),
        fuse_control=test(second, "fuse"),
        energy=test(samples, "energy"),
        energy_control=test(second, "energy"),
        pixel_noise=has_pixel_noise(data),
    )
