"""A mixture of four Gaussians in the plane through an MMD-VAE with two latent dimensions.

    python examples/gaussian_mixture.py [--out out/gaussian_mixture] [--epochs 300] [--seed 0]

It shows the data, the codes beside the prior's contours, the reconstructions and forward samples,
and tests whether the forward samples differ from held-out data. The prior has one mode and the
decoder is continuous, so some samples must fall between the modes of the data.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from divergences import TwoSampleResult, two_sample_test
from divergences.plots.style import new_figure, save_figure, style
from vae import VAE, GaussianLikelihood, InfoVAE, StandardNormal, mlp
from vae.data import gaussian_mixture
from vae.evaluation import comparison_table
from vae.figures import latent_space, null_distribution, scatter
from vae.training import fit

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", type=Path, default=Path("out/gaussian_mixture"))
parser.add_argument("--epochs", type=int, default=300)
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()

split = gaussian_mixture(2000, heldout=4000, seed=arguments.seed)
torch.set_num_threads(1)  # the model is too small for more
torch.manual_seed(arguments.seed)
model = VAE(
    encoder=mlp(2, 2 * 2),
    decoder=mlp(2, 2),
    likelihood=GaussianLikelihood(variance=0.05),
    objective=InfoVAE(alpha=1, lambda_=200),
    prior=StandardNormal(2),
)
fit(
    model,
    split.train,
    epochs=arguments.epochs,
    batch_size=200,
    learning_rate=3e-3,
    seed=arguments.seed,
    accelerator="cpu",
)

generator = torch.Generator().manual_seed(arguments.seed)
half = len(split.heldout) // 2
first, second = split.heldout[:half], split.heldout[half:]
with torch.no_grad():
    output = model(split.heldout, generator=generator)
    samples = model.sample(half, generator=generator)
    prior = model.prior.sample(half, generator=generator, like=output.z)


def compare(x: Tensor, y: Tensor) -> TwoSampleResult:
    return two_sample_test(x, y, method="energy", n_resamples=999, rng=arguments.seed)


test, control = compare(samples, first), compare(second, first)
codes = compare(output.z[:half], prior)
print(
    comparison_table(
        {
            "Do forward samples differ from held-out data?": test,
            "Control: do other held-out data differ from them?": control,
            "Do codes of held-out data differ from the prior?": codes,
        }
    )
)

with style():
    figure = new_figure(7.2, 4.7)
    a, b, c, d = (figure.add_subplot(2, 3, position) for position in (1, 2, 3, 4))
    f = figure.add_subplot(2, 3, 6)
    e = figure.add_subplot(2, 3, 5, sharex=f)
    labels = split.heldout_labels
    scatter(a, split.heldout, labels, "$\\bf{a}$   Held-out data", limit=2)
    latent_space(b, output.z, labels, "$\\bf{b}$   Codes, prior contours")
    scatter(c, output.decoded, labels, "$\\bf{c}$   Reconstructions", limit=2)
    scatter(d, samples, None, "$\\bf{d}$   Forward samples", limit=2)
    null_distribution(e, control, "$\\bf{e}$   Control: held-out data")
    null_distribution(f, test, "$\\bf{f}$   Samples against held-out")
    for axes in (e, f):
        axes.set(xlabel="energy statistic", box_aspect=1)
    path = arguments.out / "gaussian_mixture.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, path)
print(f"\n{path} written")
