"""Critics: the networks that tell samples apart, the scaling of what they see, their randomness."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

HIDDEN = (64, 64)  # widths of the layers
EVALUATED_ROWS = 2**15  # at a time


class Critic(nn.Module):
    """Logits [...] of rows [..., d]: a linear map plus a small MLP.

    Both start at 0, so that an untrained critic says log p/q = 0 and one that is stopped early
    stays near it. ``hidden``: widths of the hidden layers; () leaves the linear map, which is
    logistic regression. ``generator`` draws the initial weights; torch's global one if None.
    """

    def __init__(
        self,
        d: int,
        hidden: tuple[int, ...] = HIDDEN,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = d
        for wider in hidden:
            layers += [_linear(width, wider, generator), nn.SiLU()]
            width = wider
        self.linear = _linear(d, 1, generator)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.body: nn.Sequential | None = None
        if hidden:
            last = _linear(width, 1, generator, bias=False)
            nn.init.zeros_(last.weight)
            self.body = nn.Sequential(*layers, last)

    def forward(self, points: Tensor) -> Tensor:
        logits: Tensor = self.linear(points)
        if self.body is not None:
            logits = logits + self.body(points)
        return logits.squeeze(-1)


def _linear(
    n_in: int, n_out: int, generator: torch.Generator | None, *, bias: bool = True
) -> nn.Linear:
    """A layer whose initial weights, those of ``nn.Linear``, a generator draws."""
    if generator is None:
        return nn.Linear(n_in, n_out, bias)
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out, bias=bias)  # type: ignore[no-untyped-call]
    assert isinstance(layer, nn.Linear)
    nn.init.kaiming_uniform_(layer.weight, math.sqrt(5.0), generator=generator)
    if bias:
        bound = 1.0 / math.sqrt(n_in)
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


class Scaling:
    """Columns centred on their median and divided by their spread, tails bent: linear within three
    spreads, logarithmic beyond.

    A one-to-one map of the rows leaves p/q what it is; an outlier at 1e6 or a Cauchy tail then
    neither sets the scale nor saturates the critic. The spread is the interquartile range in units
    of a normal's σ, or the standard deviation where the quartiles agree, or 1 in a constant column.
    """

    def __init__(self, rows: Tensor) -> None:
        ordered = rows.double().sort(0).values
        quarters = [ordered[(len(rows) - 1) * k // 4] for k in (1, 2, 3)]
        self.centre = quarters[1]
        spread = (quarters[2] - quarters[0]) / 1.349
        deviation = (ordered - self.centre).square().mean(0).sqrt()
        spread = torch.where(spread > 0, spread, deviation)
        self.spread = torch.where(spread > 0, spread, torch.ones_like(spread))

    def __call__(self, rows: Tensor) -> Tensor:
        u = (rows.double() - self.centre) / self.spread
        return u.clamp(-3.0, 3.0) * (1.0 + (u.abs() / 3.0).clamp_min(1.0).log())


@torch.no_grad()
def logits_of(critic: nn.Module, rows: Tensor) -> Tensor:
    """Logits [n] of rows [n, d] in fp64, a part at a time, in evaluation mode."""
    critic.eval()
    logits = torch.cat([critic(part).double() for part in torch.split(rows, EVALUATED_ROWS)])
    if logits.numel() != len(rows):
        raise ValueError(
            f"a critic must map [n, d] to logits [n] or [n, 1]; it maps {list(rows.shape)} to "
            f"{list(logits.shape)}"
        )
    return logits.flatten()


def dtype_of(critic: nn.Module) -> torch.dtype:
    return next((p.dtype for p in critic.parameters()), torch.float32)


def copy_to(critic: nn.Module, device: torch.device) -> nn.Module:
    """The user's critic stays as it is."""
    if not isinstance(critic, nn.Module):
        raise TypeError(f"critic must be a torch.nn.Module; got {type(critic).__name__}")
    return copy.deepcopy(critic).to(device)


@contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[torch.Generator]:
    """A generator on the CPU for initial weights and batches, so that they depend on ``seed`` alone
    and torch's global generators stay as they are, whatever other threads draw from them. Nor do
    the modes of the caller (no gradients, inference, autocast) reach in."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield torch.Generator().manual_seed(seed)
