"""Adversarial terms: critics in place of the divergence or of the KL, and on the data.

Each estimates its term with its critic's parameters held fixed, so that the gradient of the loss
reaches encoder and decoder alone, and has a ``critic_loss`` of detached codes for the critic's own
step. Density ratios are logits throughout (``divergences.density_ratio``). In nats, but for the
Wasserstein critic, which is in units of z.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from divergences.critic import Critic
from divergences.density_ratio import critic_loss, kl_from_logits
from vae.forward_output import ForwardOutput, Loss
from vae.objectives.rates import Rate

HIDDEN = (300, 300)
Constraint = Literal["gradient-penalty", "clip", "spectral"]


def frozen(critic: nn.Module, inputs: Tensor) -> Tensor:
    """The critic's output, [B], with a gradient for the inputs and none for its parameters. Its
    buffers (vectors of a spectral norm, batch statistics) stay as they are in any mode."""
    fixed = {name: parameter.detach() for name, parameter in critic.named_parameters()}
    fixed |= {name: buffer.clone() for name, buffer in critic.named_buffers()}
    output: Tensor = functional_call(critic, fixed, (inputs,))
    return output


class AdversarialDivergence(nn.Module):
    """A ``divergence(z, prior_sample)`` that is learned alongside."""

    def critic_loss(self, z: Tensor, prior_sample: Tensor) -> Tensor:
        """The critic's loss, 0-d; no gradient reaches z or prior_sample."""
        raise NotImplementedError

    @torch.no_grad()
    def after_step(self) -> None:
        """Called after each step of the critic."""


class CodeCritic(AdversarialDivergence):
    """KL(q(z)‖p(z)) ≈ −E_q t(z), t the logit of a critic C with prior draws as class 1.

    The adversarial autoencoder (Makhzani et al. 2015, arXiv:1511.05644), its generator's
    −log C replaced by −log C/(1 − C), which is what makes it the KL; the WAE-GAN (Tolstikhin et al.
    2018, algorithm 1). C never sees x.

    Args:
        dim: M.
        critic: maps [B, M] to logits [B]; by default an MLP, 0 at the start.
    """

    def __init__(self, dim: int, critic: nn.Module | None = None) -> None:
        super().__init__()
        self.critic = Critic(dim, HIDDEN) if critic is None else critic

    def forward(self, z: Tensor, prior_sample: Tensor) -> Tensor:  # noqa: ARG002
        return -kl_from_logits(frozen(self.critic, z))

    def critic_loss(self, z: Tensor, prior_sample: Tensor) -> Tensor:
        return critic_loss(self.critic(prior_sample.detach()), self.critic(z.detach()))

    def extra_repr(self) -> str:
        return "KL(q(z)‖p(z)) from the logits"


class WassersteinCritic(AdversarialDivergence):
    """W₁(q(z), p(z)) = sup E_p f − E_q f over 1-Lipschitz f, f a critic (Arjovsky et al. 2017,
    arXiv:1701.07875; Kantorovich–Rubinstein). In units of z, not in nats.

    Args:
        dim: M.
        constraint: how f is kept Lipschitz. "gradient-penalty": 10·E(‖∇f‖ − 1)² at points between
            the samples (Gulrajani et al. 2017, arXiv:1704.00028); "spectral": weights of norm 1
            (Miyato et al. 2018, arXiv:1802.05957); "clip": weights within ±0.01 (Arjovsky et al.),
            which bounds the Lipschitz constant, not by 1: the value is W₁ up to an unknown factor.
        hidden: widths of the critic.
    """

    PENALTY = 10.0
    CLIP = 0.01

    def __init__(
        self,
        dim: int,
        constraint: Constraint = "gradient-penalty",
        hidden: tuple[int, ...] = (300, 300),
    ) -> None:
        super().__init__()
        if constraint not in ("gradient-penalty", "clip", "spectral"):
            raise ValueError(
                f"constraint must be 'gradient-penalty', 'clip' or 'spectral', got {constraint!r}"
            )
        self.constraint = constraint
        layers: list[nn.Module] = []
        for n_in, n_out in zip((dim, *hidden), (*hidden, 1), strict=True):
            linear = nn.Linear(n_in, n_out)
            layers += [spectral_norm(linear) if constraint == "spectral" else linear, nn.ReLU()]
        self.critic = nn.Sequential(*layers[:-1], nn.Flatten(0))

    def forward(self, z: Tensor, prior_sample: Tensor) -> Tensor:
        # one pass: in training mode a spectral norm changes from one pass to the next
        f = frozen(self.critic, torch.cat([prior_sample, z]))
        return f[: len(prior_sample)].mean() - f[len(prior_sample) :].mean()

    def critic_loss(self, z: Tensor, prior_sample: Tensor) -> Tensor:
        z, p = z.detach(), prior_sample.detach()
        f = self.critic(torch.cat([p, z]))
        loss: Tensor = f[len(p) :].mean() - f[: len(p)].mean()
        if self.constraint != "gradient-penalty":
            return loss
        between = torch.lerp(z, p, torch.rand_like(z[:, :1])).requires_grad_()
        (gradient,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        penalty: Tensor = (torch.linalg.vector_norm(gradient, dim=1) - 1).square().mean()
        return loss + self.PENALTY * penalty

    @torch.no_grad()
    def after_step(self) -> None:
        if self.constraint == "clip":
            for parameter in self.critic.parameters():
                parameter.clamp_(-self.CLIP, self.CLIP)

    def extra_repr(self) -> str:
        return f"constraint={self.constraint}"


class AdversarialKL(Rate):
    """KL(q(z|x)‖p(z)) ≈ E_q T(x, z), T the logit of a critic of pairs with (x, z ~ q) as class 1
    and (x, z ~ p) as class 0: adversarial variational Bayes (Mescheder, Nowozin & Geiger 2017,
    arXiv:1701.04722, eq. 3.4). It needs no density, so q(z|x) may be implicit.

    Args:
        n_in: D, numbers of a row of x.
        dim: M.
        beta: its weight.
        critic: maps [B, D + M], x and z side by side, to logits [B]; by default an MLP, 0 at the
            start.
    """

    needs_density = False

    def __init__(
        self, n_in: int, dim: int, beta: float = 1.0, critic: nn.Module | None = None
    ) -> None:
        super().__init__()
        if not (beta >= 0 and math.isfinite(beta)):
            raise ValueError(f"beta must be finite and at least 0, got {beta}")
        self.beta = beta
        self.critic = Critic(n_in + dim, HIDDEN) if critic is None else critic

    def forward(self, terms: ForwardOutput, step: int) -> Loss:  # noqa: ARG002
        kl = kl_from_logits(frozen(self.critic, _pairs(terms.x, terms.z)))
        return Loss(self.beta * kl, {"adversarial_kl": kl})

    def critic_loss(self, terms: ForwardOutput) -> Tensor:
        x = terms.x.detach()
        return critic_loss(
            self.critic(_pairs(x, terms.z.detach())),
            self.critic(_pairs(x, terms.prior_sample.detach())),
        )

    def describe(self) -> str:
        return f"β = {self.beta:g} on KL(q(z|x)‖p(z)) by a critic of (x, z)"


class DataCritic(nn.Module):
    """−E t(x̂) − E t(x̃) over reconstructions x̂ and samples x̃, t the logit of a critic with data
    as class 1 and the even mixture of both fakes as class 0 (α-GAN, Rosca et al. 2017,
    arXiv:1706.04987, sec. 3). It trains the decoder alone: codes are detached.

    Args:
        n_in: D, numbers of a row of x.
        critic: maps [B, D] to logits [B]; by default an MLP, 0 at the start.
    """

    def __init__(self, n_in: int, critic: nn.Module | None = None) -> None:
        super().__init__()
        self.critic = Critic(n_in, HIDDEN) if critic is None else critic

    def forward(self, terms: ForwardOutput) -> Tensor:
        reconstructed, sampled = self._fakes(terms)
        return -kl_from_logits(frozen(self.critic, reconstructed)) - kl_from_logits(
            frozen(self.critic, sampled)
        )

    def critic_loss(self, terms: ForwardOutput) -> Tensor:
        with torch.no_grad():
            fakes = torch.cat(self._fakes(terms))  # as many of each: the even mixture
        return critic_loss(self.critic(terms.x.detach().flatten(1)), self.critic(fakes))

    @staticmethod
    def _fakes(terms: ForwardOutput) -> tuple[Tensor, Tensor]:
        codes = torch.cat([terms.z.detach(), terms.prior_sample.detach()])
        reconstructed, sampled = terms.decode(codes).flatten(1).tensor_split(2)
        return reconstructed, sampled


def _pairs(x: Tensor, z: Tensor) -> Tensor:
    return torch.cat([x.flatten(1), z], 1)
