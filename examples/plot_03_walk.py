"""
The walk of a "2" and a "3"
===========================

A VAE with two codes is trained on digits, and two of them, a 2 and a 3, are watched. **What to
see:** at first q(z|x) of either is the prior and they cannot be told apart; many times a draw is
made, decoded and corrected, the ellipses shrink and walk away from each other, until they hardly
overlap.
"""

import copy
import sys

import matplotlib.pyplot as plt
import torch

from vae import VAE, GaussianLikelihood, Objective, StandardNormal, WeightedKL, fit, mlp
from vae.data import digits
from vae.figures import latents_figure

epochs = 4 if "--quick" in sys.argv else 100
data = digits()
two, three = (int((data.heldout_labels == label).nonzero()[3]) for label in (2, 3))
watched = data.heldout[[two, three]]

# %%
# Means and variances of both after every epoch, and the whole model at a few of them.


class Watch:
    steps, codes, models = [0], [], {}

    def on_check(self, model, row):
        epoch = len(self.codes)
        with torch.no_grad():
            self.codes.append(model.encode(watched, noise=torch.zeros(2, 2)))
        self.steps.append(int(row["step"]))
        if epoch in (0, 2, epochs - 1):
            self.models[f"After {epoch + 1} epochs"] = copy.deepcopy(model)


torch.manual_seed(0)
likelihood, prior = GaussianLikelihood(variance=0.05), StandardNormal(2)
model = VAE(mlp(64, 2 * 2), mlp(2, 64), likelihood, Objective(WeightedKL()), prior)
watch = Watch()
fit(
    model, data, epochs=epochs, accelerator="cpu", progress=False, callbacks=[watch],
    learning_rate=5e-4,
)  # fmt: skip

# %%
# q(z|x) of both: ellipses that hold 50 and 90 % of it, reparametrised draws z = μ + σ·ε over the
# codes of all digits, and what some of the draws decode to. The overlap is Bhattacharyya's
# coefficient ∫√(q₁q₂): 1 for equal distributions, 0 for those that share nothing.

figure = latents_figure(
    [(title, stage, data) for title, stage in watch.models.items()], rows=[two, three]
)

# %%
# The whole walk, and the overlap at every step of it.

mean = torch.stack([code.mean for code in watch.codes])
variance = torch.stack([code.log_variance for code in watch.codes]).exp()
between, sums = (mean[:, 0] - mean[:, 1]).square(), variance.sum(1)
overlap = ((2 * variance.prod(1).sqrt() / sums).sqrt() * (-between / (4 * sums)).exp()).prod(1)
print(
    f"overlap after 1, 3 and {epochs} epochs: {overlap[0]:.2f}, {overlap[2]:.2f}, {overlap[-1]:.2f}"
)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for i, name in enumerate(("2", "3")):
    left.plot(*mean[:, i].T, "-", color=f"C{i}", linewidth=1)
    left.scatter(*mean[:, i].T, s=100 * variance[:, i].mean(1), color=f"C{i}", alpha=0.3)
    left.annotate(name, mean[-1, i].tolist(), fontsize=14)
left.set(title="Means of q(z|x); discs as large as its variance", aspect="equal")
right.plot(watch.steps[1:], overlap, color="0.15")
right.set(title="Overlap", xlabel="step", ylim=(0, 1.05))
plt.show()
