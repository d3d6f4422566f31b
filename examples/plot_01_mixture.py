"""
A mixture of Gaussians through two InfoVAEs
===========================================

Four Gaussians in the plane, two codes, and a divergence that pulls the aggregate posterior q(z)
to N(0, I): the MMD or the energy distance. **What to see:** either fills the prior with codes,
class by class, and draws from the prior come back as the four modes, with points between them,
since a continuous decoder cannot tear one mode into four: the tests find what is left, and the
effects say how little.
"""

import sys

import matplotlib.pyplot as plt
import torch

from divergences import two_sample_test
from vae import DIVERGENCES, VAE, GaussianLikelihood, InfoVAE, StandardNormal, fit, mlp
from vae.data import gaussian_mixture
from vae.evaluation import comparison_table
from vae.figures import latent_space, scatter

epochs = 5 if "--quick" in sys.argv else 100
data = gaussian_mixture(2000, heldout=2000)
first, second = data.heldout[:1000], data.heldout[1000:]

# %%
# The same network twice; only D in −log p(x|z) + KL(q(z|x)‖p(z)) + λ·D(q(z)‖p(z)) differs. The
# energy distance of codes is about four times their squared MMD, hence its smaller λ.

models = {}
for name, weight in ("mmd", 200), ("energy", 50):
    torch.manual_seed(0)
    models[name] = VAE(
        encoder=mlp(2, 2 * 2),
        decoder=mlp(2, 2),
        likelihood=GaussianLikelihood(variance=0.05),
        objective=InfoVAE(alpha=0, lambda_=weight, divergence=DIVERGENCES[name]),
        prior=StandardNormal(2),
    )
    fit(
        models[name], data, epochs=epochs, batch_size=200, learning_rate=3e-3, accelerator="cpu",
        progress=False,
    )  # fmt: skip

# %%
# Forward samples x ~ p(x|z), z ~ N(0, I), against held-out rows; the control compares two halves of
# the held-out rows, where there is nothing to find.

generator = torch.Generator().manual_seed(0)
codes, samples, tests = {}, {}, {}
for name, model in models.items():
    with torch.no_grad():
        codes[name] = model.encode(data.heldout, generator=generator).z
        samples[name] = model.sample(1000, generator=generator, pixel_noise=True)
    prior = torch.randn(1000, 2, generator=generator)
    tests[f"{name}: samples, held-out rows"] = two_sample_test(samples[name], first, rng=0)
    tests[f"{name}: codes, draws from the prior"] = two_sample_test(
        codes[name][:1000], prior, rng=0
    )
tests["control: held-out rows, others"] = two_sample_test(second, first, rng=0)
print(comparison_table(tests))

# %%

figure, axes = plt.subplots(2, 3, figsize=(9, 6), layout="constrained")
for row, name in zip(axes, models, strict=True):
    scatter(row[0], data.heldout, data.heldout_labels, "Held-out rows", limit=2)
    latent_space(row[1], codes[name], data.heldout_labels, f"Codes, {name}")
    scatter(row[2], samples[name], None, f"Forward samples, {name}", limit=2)
    p = tests[f"{name}: samples, held-out rows"].pvalue
    row[1].set_xlabel(f"p = {tests[f'{name}: codes, draws from the prior'].pvalue:.3g} (prior)")
    row[2].set_xlabel(f"p = {p:.3g} (held-out rows)")
plt.show()
