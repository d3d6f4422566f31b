"""From data to verdict: train on the digits, then ask whether the generated ones are different."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from divergences.results import TwoSampleResult
from divergences.two_sample import two_sample_test
from vae.likelihoods import GaussianLikelihood
from vae.model import VAE
from vae.networks import mlp
from vae.objectives import DIVERGENCES, InfoVAE
from vae.priors import StandardNormal
from vae.threads import threads

LEVEL = 0.05
# the original MMD-VAE in nats (`lambda_from_pixel_mean(64)`), and for the energy distance, whose
# scale is another, a value that matched the prior as well (at 32 the posterior collapses to it)
LAMBDA = {"mmd": 32.0, "energy": 8.0, "mmd-normal": 32.0}


@dataclass(frozen=True)
class Config:
    """What `python -m vae demo` can be told. `lambda_` None takes the value of `LAMBDA`.

    Raises:
        ValueError: a value outside its range, with the range.
    """

    out: Path = Path("out/demo")
    divergence: str = "mmd"
    alpha: float = 1.0
    lambda_: float | None = None
    variance: float = 1.0
    latent: int = 10
    epochs: int = 400
    resamples: int = 999
    seed: int = 0

    def __post_init__(self) -> None:
        if self.divergence not in DIVERGENCES:
            raise ValueError(
                f"divergence must be one of {', '.join(DIVERGENCES)}, got {self.divergence!r}"
            )
        for name, least in (("latent", 2), ("epochs", 1), ("resamples", 19), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.seed >= 2**31:
            raise ValueError(f"seed must be below 2^31, got {self.seed}")
        self.build(1)  # refuses what its parts refuse

    @cached_property
    def objective(self) -> InfoVAE:
        """Made once, so that it warns once."""
        lambda_ = LAMBDA[self.divergence] if self.lambda_ is None else self.lambda_
        return InfoVAE(self.alpha, lambda_, DIVERGENCES[self.divergence])

    def build(self, n_pixels: int) -> VAE:
        """The untrained model, initialised from torch's global generator."""
        return VAE(
            encoder=mlp(n_pixels, 2 * self.latent),
            decoder=mlp(self.latent, n_pixels),
            likelihood=GaussianLikelihood(self.variance),
            objective=self.objective,
            prior=StandardNormal(self.latent),
        )


@dataclass(frozen=True)
class Comparison:
    """One row of the table: a question and its permutation test."""

    question: str
    result: TwoSampleResult

    @classmethod
    def of(cls, question: str, x: Tensor, y: Tensor, *, resamples: int, seed: int) -> "Comparison":
        """Energy test of [n, d] against [m, d]."""
        return cls(
            question, two_sample_test(x, y, method="energy", n_resamples=resamples, rng=seed)
        )

    @property
    def verdict(self) -> str:
        """In words, at α = .05."""
        return "they differ" if self.result.pvalue <= LEVEL else "no difference found"


def table(comparisons: Sequence[Comparison]) -> str:
    """The comparisons as aligned text, one row each."""
    header = ("question", "n", "m", "statistic", "effect", "p-value", "verdict at α = .05")
    rows = [
        (
            c.question,
            str(c.result.n),
            str(c.result.m),
            f"{float(c.result.statistic):.4g}",
            f"{c.result.effect_size:.2%}",
            f"{c.result.pvalue:.3f}",
            c.verdict,
        )
        for c in comparisons
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    left = {0, 6}

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    return "\n".join([line(header), "─" * (sum(widths) + 12), *map(line, rows)])


@threads(1)
def run(config: Config) -> list[Comparison]:
    """Train, test, print the table and write `out/demo.png`.

    Raises:
        ModuleNotFoundError: the extra "vae" is not installed.
        ValueError: the training diverged.
        OSError: the output folder cannot be written (found out before the training).
        KeyboardInterrupt: Ctrl-C; nothing is written.
    """
    from vae.data import digits
    from vae.figures import demo_figure, save_figure
    from vae.training import fit

    config.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    split = digits(seed=config.seed)
    print(
        f"{len(split.train)} digits to train on, {len(split.heldout)} held out; "
        f"{config.latent} latent dimensions, {config.epochs} epochs"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = config.build(split.train.shape[1])
    # on the CPU, so that the numbers are the same with and without a GPU
    fit(
        model,
        split.train,
        epochs=config.epochs,
        learning_rate=2e-3,
        seed=config.seed,
        accelerator="cpu",
    )

    generator = torch.Generator().manual_seed(config.seed)
    half = len(split.heldout) // 2
    first, second = split.heldout[:half], split.heldout[half:]
    with torch.no_grad():
        output = model(split.heldout, generator=generator)
        generated = model.sample(half, generator=generator).clamp(0, 1)
        prior = model.prior.sample(len(output.z), generator=generator, like=output.z)
    print(
        f"held out, nats per sample: −log p(x|z) {float(output.distortion.mean()):.2f}, "
        f"KL {float(output.kl.mean()):.2f}, ELBO {float(output.elbo.mean()):.2f}\n"
    )

    pairs = (
        ("Do generated digits differ from held-out ones?", generated, first),
        ("Control: do other held-out digits differ from them?", second, first),
        ("Do codes of held-out digits differ from the prior?", output.z, prior),
    )
    comparisons = [
        Comparison.of(question, x, y, resamples=config.resamples, seed=config.seed)
        for question, x, y in pairs
    ]
    print(table(comparisons))
    print(
        "\nPermutation tests of the energy distance; effect = statistic / 2E‖x−y‖, between 0 and\n"
        "100 % but for the noise of its estimate.\n"
        "Generated digits are the decoder's means at draws from the prior. The first two rows\n"
        "share their sizes and their second sample, so that their p-values compare."
    )
    figure = demo_figure(
        data=first,
        reconstructions=output.decoded[:half],
        samples=generated,
        z=output.z,
        labels=split.heldout_labels,
        generated=comparisons[0].result,
        control=comparisons[1].result,
        posterior=comparisons[2].result,
    )
    path = config.out / "demo.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)
    print(f"\n{path} written; {math.ceil(time.perf_counter() - started)} s in all")
    return comparisons
