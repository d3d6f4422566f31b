"""
VAE beside MMD-VAE
==================

The same digits, network and likelihood under two objectives: the VAE pulls every q(z|x) to the
prior by its KL, the MMD-VAE only their mixture q(z). **What to see:** the VAE's codes are wide
and few distinct ones fit, the MMD-VAE's are narrow and carry more information about the digit;
q(z) of the MMD-VAE is nearer to the prior, at the price of a KL that is higher.
"""

import sys

import matplotlib.pyplot as plt
import torch

from vae import (
    VAE,
    GaussianLikelihood,
    InfoVAE,
    Objective,
    StandardNormal,
    WeightedKL,
    evaluate,
    fit,
    mlp,
)
from vae.data import digits
from vae.figures import image_grid, latents_figure

quick = "--quick" in sys.argv
data = digits()
objectives = {"VAE": Objective(WeightedKL()), "MMD-VAE": InfoVAE(alpha=1, lambda_=60)}
models = {}
for name, objective in objectives.items():
    torch.manual_seed(0)
    models[name] = VAE(
        encoder=mlp(64, 2 * 2),
        decoder=mlp(2, 64),
        likelihood=GaussianLikelihood(variance=0.05),
        objective=objective,
        prior=StandardNormal(2),
    )
    fit(models[name], data, epochs=3 if quick else 150, accelerator="cpu", progress=False)

# %%
# Codes of held-out digits by class, over the contours of the prior.

figure = latents_figure([(name, model, data) for name, model in models.items()])

# %%
# In nats per digit; tests are two-sample tests of the energy distance, effects the share of 2E‖x −
# y‖ that is due to a difference.

rows = {}
for name, model in models.items():
    options = dict(n_importance=20, n_resamples=199 if quick else 999, progress=False)
    found = evaluate(model, data, **options)
    rows[name] = {
        "distortion −log p(x|z)": found.heldout.distortion,
        "KL(q(z|x)‖p(z))": found.heldout.kl,
        "ELBO": found.heldout.elbo,
        "mutual information I(x; z)": found.heldout.mutual_information,
        "q(z) against the prior, effect": found.prior.energy.effect_size,
        "                        p": found.prior.energy.pvalue,
        "samples against held-out, effect": found.generated.energy.effect_size,
        "                          p": found.generated.energy.pvalue,
    }
print(f"{'':<33}" + "".join(f"{name:>10}" for name in rows))
for what in rows["VAE"]:
    print(f"{what:<33}" + "".join(f"{found[what]:>10.4g}" for found in rows.values()))

# %%

figure, axes = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained")
for axis, (name, model) in zip(axes, models.items(), strict=True):
    with torch.no_grad():
        samples = model.sample(80, generator=torch.Generator().manual_seed(0))
    image_grid(axis, samples, f"Samples, {name}", columns=10)
plt.show()
