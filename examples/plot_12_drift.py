"""
Drift report of two tables
==========================

A table of last year beside one of this year: do they differ, in which columns, and where? **What
to see:** one test of whole rows finds the drift; tests of single columns name two of the three
changes, and of pairs the third: discount no longer follows basket, while either by itself is as
before.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from divergences import localize, two_sample_test, witness
from divergences.kernels import Gaussian

rng = np.random.default_rng(0)


def table(rows: int, *, drifted: bool) -> pd.DataFrame:
    """Columns in units of their own."""
    basket = rng.gamma(2.0, 20.0, rows)
    followed = rng.gamma(2.0, 20.0, rows) if drifted else basket
    return pd.DataFrame(
        {
            "age": rng.normal(45, 12, rows),
            "income": rng.lognormal(10.3, 0.5, rows) * (1.15 if drifted else 1.0),
            "visits": rng.poisson(4.0, rows),
            "basket": basket,
            "discount": 0.002 * followed + rng.normal(0, 0.03, rows),
            "latency": rng.exponential(150.0 if drifted else 120.0, rows),
        }
    )


before, after = table(600, drifted=False), table(500, drifted=True)

# %%
# Do they differ? Columns in different units are divided by their spread, and the result says so.

print(two_sample_test(before, after, rng=0))

# %%
# Which columns, or pairs of columns? All by the same relabellings, with one correction for all.

found = localize(before, after, correlations=True, rng=0)
print(found)
figure = found.plot(names=("before", "after"))

# %%
# Where? The witness of two columns, in ranks, is positive where there are more rows of before.

ranks = pd.concat([before, after])[["basket", "discount"]].rank(pct=True)
points = torch.tensor(ranks.to_numpy())
x, y = points[: len(before)], points[len(before) :]
f = witness(points, x, y, kernel=Gaussian(0.1))
figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
for axis, rows, name in (axes[0], x, "before"), (axes[1], y, "after"):
    at = f[: len(x)] if name == "before" else f[len(x) :]
    cloud = axis.scatter(*rows.T, c=at, cmap="PuOr_r", s=8, vmin=-f.abs().max(), vmax=f.abs().max())
    axis.set(title=f"{name.capitalize()}, by the witness", xlabel="basket (rank)")
axes[0].set_ylabel("discount (rank)")
figure.colorbar(cloud, ax=axes)
plt.show()
