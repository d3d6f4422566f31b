"""An MMD-VAE on the digits, from training to a test of what it generates: ``make demo``.

    python examples/demo.py [--out out/demo] [--divergence mmd] [--epochs 400] [--seed 0] …

It prints three permutation tests (generated against held-out digits, a control of the same sizes,
codes against the prior) and writes demo.png. Exit status: 0 done, 1 the training diverged, 2 wrong
usage, 130 interrupted.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from divergences import TwoSampleResult, two_sample_test
from divergences.plots.style import Figure, new_figure, save_figure, style
from vae import DIVERGENCES, VAE, GaussianLikelihood, InfoVAE, StandardNormal, VAEOutput, fit, mlp
from vae.data import digits
from vae.evaluation import comparison_table
from vae.figures import class_legend, class_plane, image_grid, latent_space, null_distribution
from vae.processes import threads
from vae.training import TrainingDiverged

# the original MMD-VAE in nats (`lambda_from_pixel_mean(64)`), and for the energy distance, whose
# scale is another, a value that matched the prior as well (at 32 the posterior collapses to it)
LAMBDA = {"mmd": 32.0, "energy": 8.0, "mmd-normal": 32.0}
LEAST = {"latent": 2, "epochs": 1, "resamples": 19, "seed": 0}


def main(argv: Sequence[str] | None = None) -> int:
    """Train, test, print and draw; returns the exit status."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=Path("out/demo"), help="folder of the figure (%(default)s)")
    add("--divergence", choices=list(DIVERGENCES), default="mmd", help="D(q(z)‖p(z)) (%(default)s)")
    add("--alpha", type=float, default=1.0, help="α: the KL has weight 1−α (%(default)s)")
    add("--lambda", type=float, dest="lambda_", help="λ: D has weight α+λ−1")
    add("--variance", type=float, default=1.0, help="σ² of the likelihood (%(default)s)")
    add("--latent", type=int, default=10, help="latent dimensions (%(default)s)")
    add("--epochs", type=int, default=400, help="passes over the training data (%(default)s)")
    add("--resamples", type=int, default=999, help="permutations of each test (%(default)s)")
    add("--seed", type=int, default=0, help="of split, training and tests (%(default)s)")
    arguments = parser.parse_args(argv)
    for name, least in LEAST.items():
        if getattr(arguments, name) < least:
            parser.error(f"{name} must be at least {least}, got {getattr(arguments, name)}")
    try:
        with threads(1):  # the model is too small for more
            run(arguments)
    except TrainingDiverged as error:
        print(f"demo: {error}; nothing was written", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"demo: {interrupt or 'interrupted'}; nothing was written", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


def run(arguments: argparse.Namespace) -> None:
    """The demo with checked arguments."""
    started, seed = time.perf_counter(), arguments.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)  # found out before the training
    split = digits(seed=seed)
    print(
        f"{len(split.train)} digits to train on, {len(split.heldout)} held out; "
        f"{arguments.latent} latent dimensions, {arguments.epochs} epochs"
    )
    # on the CPU, so that the numbers are the same with and without a GPU
    fit(
        model, split.train, epochs=arguments.epochs, learning_rate=2e-3, seed=seed,
        accelerator="cpu",
    )  # fmt: skip

    generator = torch.Generator().manual_seed(seed)
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
    tests = {
        question: two_sample_test(
            x, y, method="energy", n_resamples=arguments.resamples, rng=seed
        )
        for question, x, y in (
            ("Do generated digits differ from held-out ones?", generated, first),
            ("Control: do other held-out digits differ from them?", second, first),
            ("Do codes of held-out digits differ from the prior?", output.z, prior),
        )
    }  # fmt: skip
    print(comparison_table(tests))
    print(
        "\nPermutation tests of the energy distance; effect = statistic / 2E‖x−y‖, between 0 and\n"
        "100 % but for the noise of its estimate.\n"
        "Generated digits are the decoder's means at draws from the prior. The first two rows\n"
        "share their sizes and their second sample, so that their p-values compare."
    )
    path = arguments.out / "demo.png"
    save_figure(draw(output, generated, split.heldout_labels, list(tests.values())), path)
    print(f"\n{path} written; {math.ceil(time.perf_counter() - started)} s in all")


def build(arguments: argparse.Namespace) -> VAE:
    """The untrained model, initialised from torch's global generator."""
    lambda_ = arguments.lambda_
    if lambda_ is None:
        lambda_ = LAMBDA[arguments.divergence]
    return VAE(
        encoder=mlp(64, 2 * arguments.latent),
        decoder=mlp(arguments.latent, 64),
        likelihood=GaussianLikelihood(arguments.variance),
        objective=InfoVAE(arguments.alpha, lambda_, DIVERGENCES[arguments.divergence]),
        prior=StandardNormal(arguments.latent),
    )


def draw(
    output: VAEOutput,
    generated: torch.Tensor,
    labels: torch.Tensor,
    tests: Sequence[TwoSampleResult],
) -> Figure:
    """Data, reconstructions and samples above; latent space and null distributions below.

    Args:
        output: of the held-out rows.
        generated: [≥ 64, 64] means of p(x|z) at draws from the prior.
        labels: [N] classes of the held-out rows.
        tests: of generated rows, of the control and of the codes.
    """
    test, control, codes = tests
    with style():
        figure = new_figure(7.2, 5.2)
        grid = figure.add_gridspec(2, 1, height_ratios=[1, 1.15])
        above = grid[0].subgridspec(1, 3)
        for column, (images, title) in enumerate(
            (
                (output.x, "$\\bf{a}$   Held-out data"),
                (output.decoded, "$\\bf{b}$   Reconstructions"),
                (generated, "$\\bf{c}$   Samples: means of $p(x|z)$"),
            )
        ):
            image_grid(figure.add_subplot(above[column]), images[:64], title)

        below = grid[1].subgridspec(2, 2, width_ratios=[1, 1.25])
        axes = figure.add_subplot(below[:, 0])
        plane = class_plane(output.z, labels) if output.z.shape[1] > 2 else None
        title = "$\\bf{d}$   Held-out codes, prior contours"
        latent_space(axes, output.z, labels, title, basis=plane)
        note = "" if plane is None else "plane in which the class means spread most;\n"
        axes.set_xlabel(f"{note}$q(z)$ against $p(z)$: p = {codes.pvalue:.3g}")
        class_legend(axes)

        lower = figure.add_subplot(below[1, 1])
        upper = figure.add_subplot(below[0, 1], sharex=lower)
        null_distribution(upper, control, "$\\bf{e}$   Control: held-out against held-out")
        null_distribution(lower, test, "$\\bf{f}$   Generated against held-out")
        upper.tick_params(labelbottom=False)
        lower.set_xlabel(
            f"{test.method} statistic, n = {test.n}, m = {test.m}; "
            f"grey: {test.n_resamples} permutations of the labels"
        )
    return figure


if __name__ == "__main__":
    sys.exit(main())
