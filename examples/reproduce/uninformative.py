"""A decoder that can do without a code: the VAE ignores it, the MMD-VAE does not
(Chen et al. 2017, arXiv:1611.02731, sec. 2; Zhao, Song & Ermon 2017, arXiv:1706.02262, sec. 2)."""

import math

import torch
from finding import EARLIER, Finding
from torch import Generator, Tensor, nn
from torch.nn.functional import linear
from training import one_thread, trained

from divergences.kl_decomposition import decompose_kl
from vae import VAE, BernoulliLikelihood, InfoVAE, Objective, StandardNormal, WeightedKL, mlp

LENGTH, DIM, HIDDEN = 32, 2, 100
FLIP = 0.2  # probability that a bit differs from the one before
ROWS, HELDOUT, STEPS = 10_000, 5000, 2000
LAMBDA = 10.0  # at 32 one of three seeds was still where it started after 2,000 steps
ENTROPY = math.log(2) - (LENGTH - 1) * (FLIP * math.log(FLIP) + (1 - FLIP) * math.log(1 - FLIP))


class Autoregressive(nn.Module):
    """Logits of every bit from z and the bits before it: Σ_{i<j} w_ji (2x_i − 1) + net(z)_j.

    At the start it is the chain that the data come from, and z has no influence.
    """

    def __init__(self) -> None:
        super().__init__()
        self.code = mlp(DIM, LENGTH, HIDDEN)
        last = self.code[-1]
        assert isinstance(last, nn.Linear) and isinstance(last.bias, Tensor)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        log_odds = math.log((1 - FLIP) / FLIP)
        self.before = nn.Parameter(torch.diag(torch.full((LENGTH - 1,), log_odds), -1))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        logits: Tensor = self.code(z)
        return logits + linear(2 * x - 1, self.before.tril(-1))


class AutoregressiveVAE(VAE):
    """Its decoder also sees x, each bit those before it."""

    def _decoded(self, z: Tensor, x: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(z, x)
        return decoded


def uninformative_code(progress: bool = True, steps: int = STEPS) -> list[Finding]:
    """Chains of 32 bits, each differing from the last with probability .2; exact entropy 16.21."""
    generator = torch.Generator().manual_seed(0)
    x, heldout = chains(ROWS, generator), chains(HELDOUT, generator)
    kl, mmd = Objective(WeightedKL()), InfoVAE(1, LAMBDA)
    plain = information(kl, x, heldout, steps, autoregressive=False, progress=progress)
    ours = information(kl, x, heldout, steps, autoregressive=True, progress=progress)
    other = information(mmd, x, heldout, steps, autoregressive=True, progress=progress)
    source = "theory: at D = H(x) a code can only cost"
    return [
        Finding("I(z; x), flexible decoder, VAE, nats", ours[0], 0.0, 0.1, source),
        Finding("distortion of it, nats", ours[1], ENTROPY, 0.15, "entropy of the chain"),
        Finding("I(z; x), flexible decoder, MMD-VAE, nats", other[0], 5.0, 0, EARLIER, "above"),
        Finding("I(z; x), factorised decoder, VAE, nats", plain[0], 1.0, 0, EARLIER, "above"),
    ]


def chains(n: int, generator: Generator) -> Tensor:
    """[n, LENGTH] of 0 and 1."""
    first = torch.randint(2, (n, 1), generator=generator)
    flips = torch.rand(n, LENGTH - 1, generator=generator) < FLIP
    return (torch.cat([first, flips.long()], 1).cumsum(1) % 2).float()


def information(
    objective: Objective,
    x: Tensor,
    heldout: Tensor,
    steps: int,
    *,
    autoregressive: bool,
    progress: bool,
) -> tuple[float, float]:
    """Mutual information of held-out rows and codes, and their distortion, in nats."""
    with one_thread():
        parts = (BernoulliLikelihood(), objective, StandardNormal(DIM))
        encoder = mlp(LENGTH, 2 * DIM, HIDDEN)
        model = (
            AutoregressiveVAE(encoder, Autoregressive(), *parts)
            if autoregressive
            else VAE(encoder, mlp(DIM, LENGTH, HIDDEN), *parts)
        )
        trained(model, x, steps=steps, batch_size=100, learning_rate=2e-3, progress=progress)
        with torch.no_grad():
            output = model(heldout, generator=torch.Generator().manual_seed(1))
        parts_of_kl = decompose_kl(output.mean, output.log_variance, output.z)
    return parts_of_kl.mutual_information, float(output.distortion.mean())
