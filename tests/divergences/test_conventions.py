"""The recipes of docs/conventions.md for losses that are copied between repositories of domain
adaptation. Each is written here from what it computes, densely and in fp64."""

from __future__ import annotations

import pytest
import torch
from tolerances import assert_close
from torch import Tensor

from divergences import mmd2
from divergences.kernels import Gaussian, Polynomial

N, M, D = 12, 12, 5


@pytest.fixture
def samples() -> tuple[Tensor, Tensor]:
    x = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    return x, 0.5 + 1.3 * torch.randn(M, D, dtype=torch.float64)


def squares(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(1) - y.unsqueeze(0)).square().sum(-1)


def same(ours: Tensor, theirs: Tensor, x: Tensor) -> None:
    """Value and gradient."""
    assert_close(ours, theirs, 1e-12)
    gradients = [torch.autograd.grad(loss, x)[0] for loss in (ours, theirs)]
    assert_close(*gradients, 1e-11)


def test_deep_adaptation_networks(samples: tuple[Tensor, Tensor]) -> None:
    """transferlearning: kernels at ¼, ½, 1, 2, 4 times the mean squared distance, summed."""
    x, y = samples
    z = torch.cat([x, y])
    total = squares(z, z)
    width = total.detach().sum() / (len(z) * (len(z) - 1)) / 4
    k = sum((-total / (width * 2**i)).exp() for i in range(5))
    theirs = (k[:N, :N] + k[N:, N:] - k[:N, N:] - k[N:, :N]).mean()
    sigma = Gaussian("mean").resolve(x, y).terms[0].bandwidth
    kernel = sum(Gaussian(sigma * 2 ** (i / 2)) for i in (-2, -1, 0, 1, 2))
    same(mmd2(x, y, kernel=kernel, estimator="biased"), theirs, x)


def test_multiple_kernel_mmd(samples: tuple[Tensor, Tensor]) -> None:
    """tllib: σ² from ⅛ to 2 times the mean squared distance, the pairs i = i among them; unbiased,
    and 2/(n − 1) above."""
    x, y = samples
    z = torch.cat([x, y])
    total = squares(z, z)
    k = sum((-total / (2 * 2.0**a * total.detach().mean())).exp() for a in range(-3, 2))
    off = 1 - torch.eye(N)
    theirs = ((k[:N, :N] + k[N:, N:]) * off).sum() / (N * (N - 1)) - 2 * k[:N, N:].mean()
    theirs = theirs + 2 / (N - 1)
    count = len(z)
    sigma = Gaussian("mean").resolve(x, y).terms[0].bandwidth * (2 - 2 / count) ** 0.5
    kernel = sum(Gaussian(sigma * 2 ** (a / 2)) for a in range(-3, 2))
    same(mmd2(x, y, kernel=kernel) + 2 / (N - 1), theirs, x)


def test_domainbed(samples: tuple[Tensor, Tensor]) -> None:
    x, y = samples
    gammas = [10.0**p for p in range(-3, 4)]

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return sum((-gamma * squares(a, b)).exp().mean() for gamma in gammas)

    kernel = sum(Gaussian((2 * gamma) ** -0.5) for gamma in gammas)
    theirs = mean(x, x) + mean(y, y) - 2 * mean(x, y)
    same(mmd2(x, y, kernel=kernel, estimator="biased"), theirs, x)


def test_coral(samples: tuple[Tensor, Tensor]) -> None:
    x, y = samples
    theirs = (x.T.cov() - y.T.cov()).square().sum() / (4 * D**2)
    a, b = ((z - z.mean(0)) * (len(z) / (len(z) - 1)) ** 0.5 for z in (x, y))
    kernel = Polynomial(2, gamma=1.0, offset=0.0)
    same(mmd2(a, b, kernel=kernel, estimator="biased") / (4 * D**2), theirs, x)


def test_local_mmd(samples: tuple[Tensor, Tensor]) -> None:
    """DSAN: the MMD of each class, by labels of x and probabilities of y, averaged."""
    x, y = samples
    labels = torch.nn.functional.one_hot(torch.arange(N) % 3).double()
    probabilities = torch.randn(M, 3, dtype=torch.float64).softmax(-1)
    k = [(-squares(a, b) / 8).exp() for a, b in ((x, x), (y, y), (x, y))]
    s, t = labels / labels.sum(0), probabilities / probabilities.sum(0)
    theirs = sum(
        s[:, c] @ k[0] @ s[:, c] + t[:, c] @ k[1] @ t[:, c] - 2 * s[:, c] @ k[2] @ t[:, c]
        for c in range(3)
    )
    classes = zip(labels.T, probabilities.T, strict=True)
    ours = [
        mmd2(x, y, bandwidth=2.0, estimator="biased", weights_x=w, weights_y=v) for w, v in classes
    ]
    same(torch.stack(ours).mean(), theirs / 3, x)


def test_trvae(samples: tuple[Tensor, Tensor]) -> None:
    x, y = samples
    alphas = [1e-2, 1.0, 5.0, 1e2]

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return sum((-squares(a, b) / (2 * alpha)).exp().mean() for alpha in alphas)

    kernel = sum(Gaussian(alpha**0.5) for alpha in alphas)
    theirs = mean(x, x) + mean(y, y) - 2 * mean(x, y)
    same(mmd2(x, y, kernel=kernel, estimator="biased"), theirs, x)


def test_mean_is_half_the_mean_squared_distance(samples: tuple[Tensor, Tensor]) -> None:
    """Of each problem of a batch, whatever the offset; 1 where all rows are equal."""
    x, y = samples
    z = torch.cat([x, y]).detach()
    expected = (squares(z, z).sum() / (len(z) * (len(z) - 1)) / 2).sqrt()
    found = torch.tensor(Gaussian("mean").resolve(x, y).terms[0].bandwidth, dtype=torch.float64)
    assert_close(found, expected, 1e-12)
    batch = torch.stack([x.detach(), 3.0 * x.detach() + 1e3]), torch.stack([y, 3.0 * y + 1e3])
    found = Gaussian("mean").resolve(*batch).terms[0].bandwidth
    assert_close(found, torch.stack([expected, 3.0 * expected]), 1e-11)
    assert Gaussian("mean").resolve(torch.ones(4, 2)).terms[0].bandwidth == 1.0
    through = torch.compile(mmd2, fullgraph=True, backend="aot_eager")
    ours = mmd2(x, y, bandwidth="mean")
    assert_close(through(x, y, bandwidth="mean"), ours, 1e-12)
