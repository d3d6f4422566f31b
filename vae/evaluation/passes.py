"""Passes over many rows: in evaluation mode, batch by batch, terms in fp64."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from vae.model import VAE, Code, evaluating

NUMBERS_CPU = 2**18  # of data decoded at a time: 2 MB in fp64, which stay in cache
NUMBERS = 2**24  # on other devices


def generator_for(model: VAE, seed: int, stream: str) -> Generator:
    """A generator on the model's device. The streams of a seed are independent, so that a part that
    draws more than it did leaves the others as they were."""
    sequence = np.random.SeedSequence((seed, zlib.crc32(stream.encode())))
    state = int(sequence.generate_state(1, np.uint64)[0]) >> 1
    return Generator(like(model).device).manual_seed(state)


def like(model: VAE) -> Tensor:
    """A tensor with the device and dtype of what the model takes."""
    return next(model.parameters())


def row_batches(model: VAE, x: Tensor, copies: int = 1) -> list[Tensor]:
    """Batches of rows [b, …] with the device and dtype of the model, such that what the decoder
    returns for `copies` of each stays within ``NUMBERS``."""
    numbers = NUMBERS_CPU if like(model).device.type == "cpu" else NUMBERS
    decoded = copies * model.likelihood.channels * math.prod(x.shape[1:])
    size = max(1, numbers // decoded)
    return [part.to(like(model)) for part in torch.split(x, size)]


def log_likelihood(model: VAE, x: Tensor, z: Tensor) -> Tensor:
    """log p(x|z) [B], formed in fp64 from what the decoder returns."""
    parameters = model._decoded(z, x.to(z.dtype)).double()
    return model.likelihood.log_prob(x.double(), parameters)


def wide(code: Code) -> Code:
    """The code in fp64."""
    return Code(*(None if part is None else part.double() for part in code))  # type: ignore[arg-type]


def features(model: VAE, x: Tensor, *, generator: Generator | None = None) -> Tensor:
    """E[z|x] [N, M], or a draw of z where an implicit encoder has no mean; fp64 on the CPU."""
    with evaluating(model):
        codes = [model.encode(rows, generator=generator) for rows in row_batches(model, x)]
    return torch.cat([(c.z if c.mean is None else c.mean).double().cpu() for c in codes])


@dataclass(frozen=True, eq=False)
class Encoded:
    """N rows encoded, a draw of z each, and its terms in nats; fp64 on the CPU.

    What the encoder or the prior does not define is None, as in a ``ForwardOutput``.
    """

    z: Tensor  # [N, M] drawn from q(z|x)
    mean: Tensor | None  # [N, M]
    log_variance: Tensor | None  # [N, M]
    distortion: Tensor  # [N] −log p(x|z)
    squared_error: Tensor  # [N] ‖x − E[x|z]‖²
    kl: Tensor | None  # [N]
    kl_per_dimension: Tensor | None  # [N, M]

    @property
    def features(self) -> Tensor:
        """[N, M] E[z|x], or z where an implicit encoder has no mean."""
        return self.z if self.mean is None else self.mean


def encode(model: VAE, x: Tensor, *, generator: Generator | None = None) -> Encoded:
    """Encode, draw z once and evaluate its terms.

    Args:
        x: [N, …].
        generator: of z, on the model's device; None is torch's global one.

    Raises:
        ValueError: no rows; codes or likelihoods that are not finite (with the number of rows).
    """
    if len(x) == 0:
        raise ValueError(f"at least one row is needed, got {list(x.shape)}")
    with evaluating(model):
        parts = [_encode(model, rows, generator) for rows in row_batches(model, x)]
    columns = zip(*parts, strict=True)
    z, mean, log_variance, distortion, error, kl, per_dimension = map(_joined, columns)
    assert z is not None and distortion is not None and error is not None
    bad = ~(z.isfinite().all(1) & distortion.isfinite())
    if bool(bad.any()):
        raise ValueError(
            f"codes or likelihoods of {int(bad.sum())} of {len(x)} rows are not finite: the "
            "training diverged, or the data lie outside the support of the likelihood"
        )
    return Encoded(z, mean, log_variance, distortion, error, kl, per_dimension)


def _encode(model: VAE, x: Tensor, generator: Generator | None) -> tuple[Tensor | None, ...]:
    drawn = model.encode(x, generator=generator)
    code = wide(drawn)
    kl, per_dimension = model.kl(code)
    parameters = model._decoded(drawn.z, x).double()
    distortion = -model.likelihood.log_prob(x.double(), parameters)
    error = (x.double() - model.likelihood.mean(parameters)).square().flatten(1).sum(1)
    return code.z, code.mean, code.log_variance, distortion, error, kl, per_dimension


def _joined(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    present = [part.cpu() for part in parts if part is not None]
    return torch.cat(present) if present else None
