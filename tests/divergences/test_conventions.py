"""The recipes of docs/conventions.md for losses that are copied between repositories. Each is
written here from what it computes, densely and in fp64."""

from __future__ import annotations

import pytest
import torch
from tolerances import assert_close
from torch import Tensor

from divergences import mmd2
from divergences.kernels import Gaussian, InverseMultiquadric, Polynomial, pair_sums

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
    gradients = [torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in (ours, theirs)]
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


def test_domainbed_coral(samples: tuple[Tensor, Tensor]) -> None:
    """Means of squared entries, and the difference of the means beside that of the covariances."""
    x, y = samples
    theirs = (x.T.cov() - y.T.cov()).square().mean() + (x.mean(0) - y.mean(0)).square().mean()
    a, b = ((z - z.mean(0)) * (len(z) / (len(z) - 1)) ** 0.5 for z in (x, y))
    kernel = Polynomial(2, gamma=1.0, offset=0.0)
    covariances = mmd2(a, b, kernel=kernel, estimator="biased") / D**2
    means = mmd2(x, y, kernel="linear", estimator="biased") / D
    same(covariances + means, theirs, x)


def test_local_mmd(samples: tuple[Tensor, Tensor]) -> None:
    """DSAN: the MMD of each class, by labels of x and probabilities of y, averaged over the classes
    that x has and that are the likeliest of some row of y."""
    x, y = samples
    labels = torch.nn.functional.one_hot(torch.arange(N) % 3, 4).double()
    probabilities = torch.randn(M, 4, dtype=torch.float64).softmax(-1)
    probabilities[:, 2] *= 1e-3  # of x alone; the last is of y alone
    k = [(-squares(a, b) / 8).exp() for a, b in ((x, x), (y, y), (x, y))]
    t = probabilities / probabilities.sum(0)
    both = [c for c in range(4) if c in range(3) and c in probabilities.argmax(1)]
    assert both == [0, 1]
    theirs = torch.zeros(())
    for c in both:
        s = labels[:, c] / labels[:, c].sum()
        theirs = theirs + s @ k[0] @ s + t[:, c] @ k[1] @ t[:, c] - 2 * s @ k[2] @ t[:, c]
    present = labels.any(0)
    present &= torch.nn.functional.one_hot(probabilities.argmax(1), 4).any(0)
    classes = zip(labels.T[present], probabilities.T[present], strict=True)
    ours = [
        mmd2(x, y, bandwidth=2.0, estimator="biased", weights_x=w, weights_y=v) for w, v in classes
    ]
    same(torch.stack(ours).mean(), theirs / len(both), x)


def test_trvae(samples: tuple[Tensor, Tensor]) -> None:
    """theislab/trVAE divides by the number of kernels; trVAE of scArches does not."""
    x, y = samples
    alphas = [1e-2, 1.0, 5.0, 1e2]

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return sum((-squares(a, b) / (2 * alpha)).exp().mean() for alpha in alphas)

    theirs = mean(x, x) + mean(y, y) - 2 * mean(x, y)
    bandwidths = [alpha**0.5 for alpha in alphas]
    same(mmd2(x, y, bandwidth=bandwidths, estimator="biased"), theirs / len(alphas), x)
    kernel = sum(Gaussian(b) for b in bandwidths)
    same(mmd2(x, y, kernel=kernel, estimator="biased"), theirs, x)


def test_wae_of_pytorch_vae(samples: tuple[Tensor, Tensor]) -> None:
    """C = 2d·latent_var; with "imq" all means are over i ≠ j, that between the samples as well;
    with "rbf" the distance is divided by d, and the weight by n(n − 1), as if of a sum."""
    z, prior = samples
    c, off = 4 * D, 1 - torch.eye(N)
    k = [(c / (c + squares(a, b)) * off).sum() for a, b in ((z, z), (prior, prior), (z, prior))]
    kernel = InverseMultiquadric((4 * D) ** 0.5, exponent=1.0)
    s = pair_sums(z, prior, kernel=kernel)
    pairs = pair_sums(z.unsqueeze(1), prior.unsqueeze(1), kernel=kernel).xy.sum()
    ours = 100 * (s.xx + s.yy - 2 * (s.xy - pairs)).sum() / (N * (N - 1))
    same(ours, 100 / (N * (N - 1)) * (k[0] + k[1] - 2 * k[2]), z)

    k = [(-squares(a, b) / D / c).exp().mean() for a, b in ((z, z), (prior, prior), (z, prior))]
    ours = 5000 / (N * (N - 1)) * mmd2(z, prior, bandwidth=D * 2**0.5, estimator="biased")
    same(ours, 5000 / (N * (N - 1)) * (k[0] + k[1] - 2 * k[2]), z)


def test_wae_of_pythae(samples: tuple[Tensor, Tensor]) -> None:
    z, prior = samples
    scales, off = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0], 1 - torch.eye(N)

    def statistic(*k: Tensor) -> Tensor:
        return ((k[0] + k[1]) * off).sum() / (N * (N - 1)) - 2 * k[2].mean()

    d2 = [squares(a, b) for a, b in ((z, z), (prior, prior), (z, prior))]
    theirs = statistic(*(sum(2 * D * s / (2 * D * s + r) for s in scales) for r in d2))
    kernel = sum(InverseMultiquadric((2 * D * s) ** 0.5, exponent=1.0) for s in scales)
    same(0.03 * mmd2(z, prior, kernel=kernel), 0.03 * theirs, z)
    theirs = statistic(*((-r / (2 * D)).exp() for r in d2))
    same(0.03 * mmd2(z, prior, bandwidth=D**0.5), 0.03 * theirs, z)


def test_kid_of_torchmetrics() -> None:
    """Mean and standard deviation over random subsets of both samples, here as one batch."""
    real, fake = torch.randn(30, D).double(), 0.3 + torch.randn(25, D).double()
    draws = [(torch.randperm(30)[:N], torch.randperm(25)[:N]) for _ in range(4)]
    off, scores = 1 - torch.eye(N), []
    for i, j in draws:
        x, y = real[i], fake[j]
        k = [(a @ b.T / D + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
        scores.append(((k[0] + k[1]) * off).sum() / (N * (N - 1)) - 2 * k[2].mean())
    theirs = torch.stack(scores)
    i, j = (torch.stack(each) for each in zip(*draws, strict=True))
    ours = mmd2(real[i], fake[j], kernel="polynomial")
    assert_close(ours.mean(), theirs.mean(), 1e-12)
    assert_close(ours.std(unbiased=False), theirs.std(unbiased=False), 1e-12)


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
