"""
Mean, x², features: what a kernel sees
======================================

Three pairs of distributions that differ in mean, in variance, and in neither (a Gaussian and a
Laplace distribution; after Gretton et al., JMLR 2012, fig. 1). **What to see:** a linear kernel
sees means, a quadratic one variances too, a Gaussian kernel everything; the witness function E
k(t, X) − E k(t, Y) is a line, a parabola, and a curve that follows the difference of the
densities.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import stats

from divergences import two_sample_test, witness
from divergences.kernels import Gaussian, Linear, Polynomial

rng = np.random.default_rng(0)
normal = stats.norm()
pairs = {
    "N(0.5, 1), N(0, 1)": stats.norm(0.5),
    "N(0, 1.5²), N(0, 1)": stats.norm(0, 1.5),
    "Laplace, N(0, 1), equal moments": stats.laplace(scale=0.5**0.5),
}
kernels = {"linear": Linear(), "quadratic": Polynomial(2), "Gaussian": Gaussian(0.5)}
t = torch.linspace(-4, 4, 401, dtype=torch.float64)

# %%
# MMD tests of 500 rows each, and the default ("fuse", twenty kernels) beside them.

figure, axes = plt.subplots(4, 3, figsize=(9, 7), sharex=True, sharey="row", layout="constrained")
print(f"{'p-values':<33}" + "".join(f"{name:>11}" for name in (*kernels, "fuse")))
for column, (title, p) in enumerate(pairs.items()):
    x, y = (torch.from_numpy(d.rvs(500, random_state=rng)) for d in (p, normal))
    found = [two_sample_test(x, y, method="mmd", kernel=k, rng=0) for k in kernels.values()]
    found.append(two_sample_test(x, y, rng=0))
    print(f"{title:<33}" + "".join(f"{result.pvalue:>11.4f}" for result in found))
    for density, colour in (p, "C0"), (normal, "C1"):
        axes[0, column].fill_between(t, density.pdf(t), color=colour, alpha=0.5)
    axes[0, column].set(title=title, yticks=[])
    for row, ((name, kernel), result) in enumerate(zip(kernels.items(), found, strict=False), 1):
        f = witness(t[:, None], x[:, None], y[:, None], kernel=kernel)
        f = f - f.mean() if name != "Gaussian" else f  # the tests do not see a constant
        axes[row, column].fill_between(t, f, where=f >= 0, color="C0", alpha=0.5)
        axes[row, column].fill_between(t, f, where=f <= 0, color="C1", alpha=0.5)
        axes[row, column].set(yticks=[], title=f"{name} witness, p = {result.pvalue:.4f}")
plt.show()

# %%
# A kernel is an inner product of features, k(x, y) = φ(x)·φ(y). Those of the linear kernel are x,
# of the quadratic one 1, √2·x, x². The Gaussian kernel exp(−(x − y)²/2) has infinitely many:
# Taylor's, exp(−x²/2)·xʲ/√j!, or cos(ωx), sin(ωx) with ω ~ N(0, 1). With few features Taylor's are
# exact near 0 and give out beyond; random Fourier features err a little everywhere.


def taylor(x: torch.Tensor, count: int) -> torch.Tensor:
    j = torch.arange(count)
    return x[:, None] ** j * (-(x[:, None] ** 2) / 2 - torch.lgamma(j + 1.0) / 2).exp()


def fourier(x: torch.Tensor, count: int) -> torch.Tensor:
    angles = x[:, None] * torch.from_numpy(rng.standard_normal(count // 2))
    return torch.cat([angles.cos(), angles.sin()], 1) / (count // 2) ** 0.5


figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
for axis, features in zip(axes, (taylor, fourier), strict=True):
    axis.plot(t, (-((t - 2) ** 2) / 2).exp(), color="0.15", label="exp(−(x − 2)²/2)")
    for count in (4, 16, 64):
        phi = features(torch.cat([t, torch.tensor([2.0])]), count)
        axis.plot(t, phi[:-1] @ phi[-1], label=f"{count} features")
    axis.set(title=f"{features.__name__.capitalize()} features: φ(x)·φ(2)", xlabel="x")
axes[0].legend()
plt.show()
