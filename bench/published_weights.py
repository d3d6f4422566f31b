"""Print the numbers of docs/vae-differences.md: weights on one scale, and what estimators do.

python -m bench.published_weights
"""

import math

import torch
from scipy.optimize import minimize_scalar

from divergences.kl import gaussian_log_density
from divergences.kl_decomposition import minibatch_log_weights

print("normaliser at 784 pixels", 392 * math.log(2 * math.pi))
D, kw = 3 * 64 * 64, 0.00025
print("effective beta", kw * D / 2, D / 2, 10 * kw * D / 2, 10 * kw * D / 2 / 10.5)
print("weight of D", 100 * D / 2 / 10.5, 100 * D / 2, 100 / (64 * 63) * D / 2)


def same(v, c, d):  # E exp(−|u|²/c), u ~ N(0, vI) in d dimensions
    return (1 + 2 * v / c) ** (-d / 2)


def expected(s, c, d):  # of the V-statistic of 64 codes N(0, s²I), but for a constant
    return (1 - 1 / 64) * same(2 * s * s, c, d) - 2 * same(1 + s * s, c, d)


def pull(c, d):  # MMD² = pull·δ² for codes N(δ, I), small δ
    return same(2, c, d) * 2 / (c + 4)


for d in (10, 20, 64):  # minimiser of the mean V-statistic over N(0, s²I), 64 codes
    for c in (d, d * d):
        best = minimize_scalar(expected, args=(c, d), bounds=(1e-3, 3), method="bounded").x
        print(d, c, "V-statistic at s =", best)
    print(d, "pull, exp(−r²/M) : exp(−r²/M²)", pull(d, d) / pull(d * d, d))


def columns(b, n):  # the first two weights in columns 0 and 1
    w = torch.full((b, b), 1 / (b - 1), dtype=torch.float64)
    w[:, 0], w[:, 1], w[b - 2, 0] = 1 / n, (n - b + 1) / (n * (b - 1)), (n - b + 1) / (n * (b - 1))
    return w.log()


def parts(z, mean, lv, w, power=0):  # MI and TC; `power`: extra times w enters log q(z)
    each = gaussian_log_density(z[:, None], mean, lv)
    joint = (each.sum(2) + (1 + power) * w).logsumexp(1)
    product = (each + w[:, :, None]).logsumexp(1).sum(1)
    own = gaussian_log_density(z, mean, lv).sum(1)
    return torch.stack([(own - joint).mean(), (joint - product).mean()])


n, b, m = 2000, 64, 10
torch.manual_seed(0)
cov = 0.7 * torch.eye(m, dtype=torch.float64) + 0.3
mean = math.sqrt(0.75) * torch.randn(n, m, dtype=torch.float64) @ torch.linalg.cholesky(cov).T
lv = torch.full_like(mean, math.log(0.25))
z = mean + 0.5 * torch.randn_like(mean)
print("MI, TC: all codes", parts(z, mean, lv, torch.full((n, n), -math.log(n)).double()))
batches = [torch.randperm(n)[:b] for _ in range(300)]
for name, w, power in (
    ("diagonal", minibatch_log_weights(b, n), 0),
    ("columns", columns(b, n), 0),
    ("columns, per coordinate", columns(b, n), m - 1),
):
    print(name, sum(parts(z[i], mean[i], lv[i], w, power) for i in batches) / 300)
