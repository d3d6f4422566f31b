"""The V-statistic of a mini-batch moves the optimum of q(z) away from the prior."""

import math

import torch
from finding import Finding
from scipy.optimize import minimize_scalar
from torch import Tensor
from tqdm import trange

from divergences.estimators import Estimator
from divergences.kernels import Gaussian
from divergences.mmd import mmd2

D = N = 64  # latent dimensions, rows of a batch
C = D**2  # of exp(−r²/C): a wide kernel, where the 1/N on the diagonal outweighs the rest
STEPS = 1500
RATE = 0.05


def v_statistic_shrinks(progress: bool = True, steps: int = STEPS) -> list[Finding]:
    """Codes z = s·ε, ε ~ N(0, I), and stochastic gradient steps on s under either statistic.

    The expectations are closed forms: with k = exp(−r²/C) and n rows of N(0, s²I),

        E V(s) = 1/n + (1 − 1/n)(1 + 4s²/C)^(−d/2) − 2(1 + 2(1 + s²)/C)^(−d/2) + constant,

    and E U(s), without the first 1/n and its factor, is least at s = 1.
    """
    return [
        Finding(
            "scale of q(z) under the V-statistic, prior 1",
            fitted_scale("biased", steps, progress=progress),
            best_scale(1 / N),
            0.02,
            "closed form, d = n = 64",
        ),
        Finding(
            "scale of q(z) under the U-statistic, prior 1",
            fitted_scale("unbiased", steps, progress=progress),
            best_scale(0.0),
            0.02,
            "closed form: the prior",
        ),
    ]


def best_scale(diagonal: float) -> float:
    """The s that minimises the expected statistic; ``diagonal`` is 1/n for V and 0 for U."""

    def expected(s: float) -> float:
        within: float = (1 + 4 * s**2 / C) ** (-D / 2)
        return diagonal + (1 - diagonal) * within - 2 * math.pow(1 + 2 * (1 + s**2) / C, -D / 2)

    return float(minimize_scalar(expected, bounds=(0, 3), method="bounded").x)


def fitted_scale(estimator: Estimator, steps: int, *, progress: bool) -> float:
    """s after so many steps of Adam from s = 1, averaged over the last tenth."""
    generator = torch.Generator().manual_seed(0)
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_scale], lr=RATE)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    kernel = Gaussian(math.sqrt(C / 2))
    last: list[float] = []

    def normal() -> Tensor:
        return torch.randn(N, D, generator=generator, dtype=torch.float64)

    for step in trange(steps, desc=f"shrinkage, {estimator}", disable=not progress):
        optimizer.zero_grad()
        loss = mmd2(log_scale.exp() * normal(), normal(), kernel=kernel, estimator=estimator)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        decay.step()
        if step >= steps - max(1, steps // 10):
            last.append(float(log_scale.detach().exp()))
    return sum(last) / len(last)
