"""
One Gaussian or two?
====================

A sample from two Gaussians that overlap, and two models fitted to one half of it: one Gaussian,
and a mixture of two. The other half judges. **What to see:** goodness of fit rejects the single
Gaussian, and the relative test says which model is closer, with an interval that leaves 0 as rows
come in.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from divergences import goodness_of_fit_test, relative_test

rng = np.random.default_rng(0)
torch.manual_seed(0)
x = rng.normal(rng.choice([-1.3, 1.3], 4000), 1.0)
train, test = x[:2000, None], x[2000:, None]


def fitted(components: int) -> MixtureSameFamily:
    """The mixture that EM finds, as a distribution; ``score_of(log_density)`` will do too."""
    found = GaussianMixture(components, random_state=0).fit(train)
    weights, means, covariances = map(
        torch.from_numpy, (found.weights_, found.means_, found.covariances_)
    )
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances))


one, two = fitted(1), fitted(2)
# %%
# Goodness of fit by the kernel Stein discrepancy: scores of the models, no samples of them.

for name, model in ("one Gaussian", one), ("two", two):
    result = goodness_of_fit_test(test, model, method="ksd", n_resamples=499, rng=0)
    print(f"{name:<13} p = {result.pvalue:.3f}")

# %%
# The relative test takes neither for true. p is "one", q is "two": positive where two is closer.

sizes = (50, 100, 200, 500, 1000, 2000)
results = [relative_test(test[:n], one, two, method="ksd") for n in sizes]
print(results[-1])

# %%

grid = torch.linspace(-5, 5, 300, dtype=torch.float64)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.hist(test[:, 0], bins=40, density=True, color="0.85")
for name, model in ("one", one), ("two", two):
    left.plot(grid, model.log_prob(grid[:, None]).exp(), label=name)
left.set(title="Held-out rows, fitted densities", yticks=[])
left.legend()
differences = np.array([r.statistic for r in results])
low, high = np.array([r.confidence_interval for r in results]).T
right.errorbar(sizes, differences, (differences - low, high - differences), fmt="o", color="0.15")
right.axhline(0, color="0.6", linewidth=0.8)
right.set(xscale="log", xlabel="rows", title="KSD²(one) − KSD²(two), 95 % intervals")
plt.show()

# %%
# From a shell: families fitted to the rows of a file, or ``module:function`` in Python.

with tempfile.TemporaryDirectory() as folder:
    for name, rows in ("train", train), ("test", test):
        np.savetxt(Path(folder) / f"{name}.csv", rows)
    models = ("--model", "gaussian", "--model", "gaussian:2", "--fit", "train.csv")
    command = ["divergences", "relative", "test.csv", *models]
    print("$", *command)
    run = [sys.executable, "-m", *command]
    print(subprocess.run(run, cwd=folder, stdout=subprocess.PIPE, check=True).stdout.decode())
