"""
Drift report of two tables
==========================

A table of last year beside one of this year: do they differ, in which columns, and in which rows
is it seen? **What to see:** one test of whole rows finds the drift; tests of single columns name
two of the three changes; the third is in what basket and discount have to do with each other, and
pairs of columns show it.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from divergences import energy_distance, two_sample_test, witness
from divergences.k_sample import holm
from divergences.kernels import Gaussian

rng = np.random.default_rng(0)
names = ("age", "income", "visits", "basket", "discount", "latency")


def table(rows: int, *, drifted: bool) -> np.ndarray:
    """Columns in units of their own. Discount follows basket, until it does not."""
    age = rng.normal(45, 12, rows)
    income = rng.lognormal(10.3, 0.5, rows) * (1.15 if drifted else 1.0)
    visits = rng.poisson(4.0, rows)
    basket = rng.gamma(2.0, 20.0, rows)
    followed = rng.gamma(2.0, 20.0, rows) if drifted else basket
    discount = 0.002 * followed + rng.normal(0, 0.03, rows)
    latency = rng.exponential(150.0 if drifted else 120.0, rows)
    return np.column_stack([age, income, visits, basket, discount, latency])


before, after = table(600, drifted=False), table(500, drifted=True)

# %%
# Do they differ? Columns in different units are divided by their spread, and the result says so.

print(two_sample_test(before, after, rng=0))

# %%
# Which columns? A test for each, with Holm's correction for their number.

single = [two_sample_test(before[:, j], after[:, j], method="energy", rng=0) for j in range(6)]
corrected = holm([result.pvalue for result in single])
print("column       effect       p   p (Holm)")
for name, result, p in zip(names, single, corrected, strict=True):
    print(f"{name:<10}{result.effect_size:>9.4f}{result.pvalue:>8.4f}{p:>11.4f}")

# Which pairs of columns? The same of two columns together, in ranks: what singles do not show.
ranks = np.argsort(np.argsort(np.concatenate([before, after]), axis=0), axis=0) / 1100.0
x, y = torch.from_numpy(ranks).split([600, 500])
pairs = torch.zeros(6, 6)
for i in range(6):
    for j in range(i):
        pairs[i, j] = pairs[j, i] = energy_distance(x[:, [i, j]], y[:, [i, j]])

# %%
# Where? The witness of two columns is positive where rows of before prevail, negative where those
# of after do.

x, y = x[:, [3, 4]], y[:, [3, 4]]
points = torch.cat([x, y])
f = witness(points, x, y, kernel=Gaussian(0.1))
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
left.barh(names, [r.effect_size for r in single], color=np.where(corrected < 0.05, "C1", "0.75"))
left.invert_yaxis()
left.set(title="Effect of each column (orange: p < .05)")
image = middle.imshow(pairs, cmap="Oranges", vmin=0)
middle.set(title="Energy distance of pairs, in ranks", yticks=range(6), yticklabels=names)
middle.set_xticks(range(6), names, rotation=45, ha="right")
figure.colorbar(image, ax=middle, shrink=0.8)
cloud = right.scatter(*points.T, c=f, cmap="PuOr_r", s=5)
right.set(title="Witness of two columns", xlabel="basket (rank)", ylabel="discount (rank)")
figure.colorbar(cloud, ax=right, shrink=0.8)
plt.show()
