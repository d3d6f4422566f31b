"""
Falling β: factors enter one after the other
============================================

β in −log p(x|z) + β·KL(q(z|x)‖p(z)) is the price of a nat in the code. Falling from far above
what any factor is worth, it lets the most useful into the code first. **What to see:** dimensions
leave 0 one at a time, each when the price has fallen to its worth; and over a sweep of β,
distortion against rate is the information-bottleneck (rate–distortion) curve, whose slope is −β.
"""

import sys

import matplotlib.pyplot as plt
import torch

from vae import VAE, Anneal, GaussianLikelihood, Objective, StandardNormal, WeightedKL, fit, mlp
from vae.data import digits

quick = "--quick" in sys.argv
data = digits()
DIM, STEPS_PER_EPOCH = 10, 11


def trained(rate, epochs, callbacks=()):
    torch.manual_seed(0)
    likelihood, prior = GaussianLikelihood(variance=0.02), StandardNormal(DIM)
    model = VAE(mlp(64, 2 * DIM), mlp(DIM, 64), likelihood, Objective(rate), prior)
    options = dict(decay="none", accelerator="cpu", progress=False)
    fit(model, data, epochs=epochs, callbacks=callbacks, **options)
    return model


def measured(model, step=None):
    with torch.no_grad():
        return model(data.heldout, step=step, generator=torch.Generator().manual_seed(0))


class Record:
    """KL of every dimension after every epoch, held out."""

    steps, kl = [], []

    def on_check(self, model, row):
        self.steps.append(int(row["step"]))
        self.kl.append(measured(model, self.steps[-1]).kl_per_dimension.mean(0))


record, epochs = Record(), 5 if quick else 200
falling = Anneal(40.0, 1.0, length=STEPS_PER_EPOCH * epochs * 9 // 10, shape="cosine")
trained(WeightedKL(falling), epochs, [record])
kl = torch.stack(record.kl)

# %%
# The sweep: one model for each constant β.

betas = [0.5, 1, 2, 4, 8, 16, 32]
curve = [measured(trained(WeightedKL(beta), 3 if quick else 60)) for beta in betas]
rates = [float(output.kl.mean()) for output in curve]
distortions = [float(output.distortion.mean()) for output in curve]
print("    β    rate  distortion    ELBO   (nats per digit)")
for beta, rate, distortion in zip(betas, rates, distortions, strict=True):
    print(f"{beta:5g} {rate:7.2f} {distortion:11.2f} {-rate - distortion:7.2f}")

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
order = kl[-1].argsort(descending=True)
left.plot(record.steps, kl[:, order])
price = left.twinx()
price.plot(record.steps, [falling(step) for step in record.steps], color="0.6", linestyle=":")
price.set(yscale="log", ylabel="β (dotted)")
left.set(xlabel="step", ylabel="KL, nats", title="KL of every dimension while β falls")
right.plot(rates, distortions, "o-", color="0.15")
for beta, rate, distortion in zip(betas, rates, distortions, strict=True):
    right.annotate(f"β = {beta:g}", (rate, distortion), (5, 3), textcoords="offset points")
right.set(xlabel="rate, nats", ylabel="distortion, nats", title="Rate–distortion curve")
plt.show()
