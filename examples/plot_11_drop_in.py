"""
Drop-in: three losses that are copied between repositories
==========================================================

The MMD of domain adaptation, of Wasserstein autoencoders and of InfoVAE, with dense matrices as
they are usually written, and the line that replaces each. **What to see:** the same numbers, in
less time the more rows there are, since no n × m matrix is kept.
"""

import sys
from functools import partial
from statistics import median
from timeit import repeat

import matplotlib.pyplot as plt
import torch

from divergences import mmd2
from divergences.kernels import Gaussian, InverseMultiquadric

D = 16  # columns
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def squared(x, y):
    return (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T


def v_statistic(x, y, k):
    return k(squared(x, x)).mean() + k(squared(y, y)).mean() - 2 * k(squared(x, y)).mean()


def adaptation(x, y):
    z = torch.cat([x, y]).detach()
    mean = squared(z, z).sum() / (len(z) ** 2 - len(z))
    return v_statistic(x, y, lambda r2: sum((-r2 / (mean * 2.0**i)).exp() for i in range(-2, 3)))


infovae = partial(v_statistic, k=lambda r2: (-r2 / D).exp())


def wasserstein_autoencoder(x, y):
    n = len(x)
    k = [squared(a, b) for a, b in ((x, x), (y, y), (x, y))]
    xx, yy, xy = (sum(2 * D * s / (2 * D * s + r2) for s in SCALES) for r2 in k)
    return ((xx + yy) * (1 - torch.eye(n))).sum() / (n * (n - 1)) - 2 * xy.mean()


# %%
# The lines that replace them, and the time of value and gradient at n rows and n others: medians of
# five, on one thread.


def adaptation_here(x, y):
    s = Gaussian("mean").resolve(x, y).terms[0].bandwidth
    k = sum(Gaussian(s * 2 ** (i / 2)) for i in range(-2, 3))
    return mmd2(x, y, kernel=k, estimator="biased")


IMQ = sum(InverseMultiquadric((2 * D * s) ** 0.5, exponent=1.0) for s in SCALES)
pairs = {
    "domain adaptation": (adaptation, adaptation_here),
    "Wasserstein autoencoder": (wasserstein_autoencoder, lambda x, y: mmd2(x, y, kernel=IMQ)),
    "InfoVAE": (infovae, lambda x, y: mmd2(x, y, bandwidth="dimension", estimator="biased")),
}

sizes = (64, 256) if "--quick" in sys.argv else (128, 256, 512, 1024, 2048)
figure, axes = plt.subplots(1, 3, figsize=(9, 3), sharey=True, layout="constrained")
for axis, (name, losses) in zip(axes, pairs.items(), strict=True):
    for loss, label in zip(losses, ("dense", "this library"), strict=True):
        medians = []
        for n in sizes:
            x, y = torch.randn(2, n, D, generator=torch.Generator().manual_seed(0)) + 0.3
            times = repeat(lambda: loss(x.requires_grad_(), y**2).backward(), number=1, repeat=5)  # noqa: B023
            medians.append(1e3 * median(times))
        print(f"{name:<24}{label:<13} n = {n}: {loss(x, y**2):.6f} in {medians[-1]:.1f} ms")
        axis.loglog(sizes, medians, "o-", base=2, label=label)
    axis.set(xlabel="n", ylabel="ms", title=name)
axes[0].legend()
plt.show()
