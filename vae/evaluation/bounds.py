"""Lower bounds of log p(x), in nats."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from divergences.resampling import progress
from vae.evaluation.passes import encode, log_likelihood, row_batches, wide
from vae.model import VAE, Code, evaluating


def elbo(model: VAE, x: Tensor, *, generator: Generator | None = None) -> Tensor:
    """log p(x|z) − KL(q(z|x)‖p) of every row at one draw of z, never at the posterior mean (which
    would promise more than the bound); in evaluation mode.

    Args:
        x: [N, …].
        generator: of z, on the model's device; None is torch's global one.

    Returns:
        [N] in fp64, on the CPU.

    Raises:
        ValueError: the encoder is deterministic or implicit: without a density there is no ELBO.
    """
    found = encode(model, x, generator=generator)
    if found.kl is None:
        raise ValueError(f"{no_density(model)}, and no ELBO")
    return -found.distortion - found.kl


def no_density(model: VAE) -> str:
    """Why most quantities are undefined."""
    return f"q(z|x) of a {model.posterior} encoder has no density"


class ImportanceBound(NamedTuple):
    """[N] in fp64: the bound of every row in nats, and the effective number of its K draws."""

    bound: Tensor
    ess: Tensor


def importance_weighted_bound(
    model: VAE,
    x: Tensor,
    *,
    k: int,
    generator: Generator | None = None,
    chunk: int = 50,
    show_progress: bool | None = False,
) -> ImportanceBound:
    """log (1/K) Σ_k p(x, z_k)/q(z_k|x) with z_k ~ q(z|x) (Burda, Grosse & Salakhutdinov 2016,
    arXiv:1509.00519, eq. 8), and the effective sample size (Σ w)²/Σ w².

    Between the ELBO (K = 1, in expectation) and log p(x), and growing with K in expectation. Where
    the effective sample size is a few of K, log p(x) may lie far above.

    Args:
        x: [N, …].
        k: K, draws for each row.
        generator: of z, on the model's device; None is torch's global one.
        chunk: draws at a time: memory is that of some rows × `chunk` decoded, whatever K is.
        show_progress: a bar; None shows it on a terminal once it has taken some seconds.

    Raises:
        ValueError: k or chunk below 1, or an encoder without a density.
    """
    if k < 1 or chunk < 1:
        raise ValueError(f"k and chunk must be at least 1, got k={k}, chunk={chunk}")
    if model.posterior != "gaussian":
        raise ValueError(f"{no_density(model)}, and no importance weights")
    chunk = min(chunk, k)
    batches = row_batches(model, x, chunk)
    with evaluating(model), progress(len(batches), f"IWAE-{k} bound", show_progress) as tick:
        parts = []
        for rows in batches:
            parts.append(_bound(model, rows, k, generator, chunk))
            tick()
    bound, ess = (torch.cat(column) for column in zip(*parts, strict=True))
    return ImportanceBound(bound, ess)


def _bound(
    model: VAE, x: Tensor, k: int, generator: Generator | None, chunk: int
) -> tuple[Tensor, Tensor]:
    code = model.encode(x, generator=generator)
    first = x.new_full((len(x),), -math.inf, dtype=torch.float64)
    second = first.clone()  # log Σ w and log Σ w²
    for start in range(0, k, chunk):
        log_w = _log_weights(model, x, code, min(chunk, k - start), generator)
        first = torch.logaddexp(first, log_w.logsumexp(0))
        second = torch.logaddexp(second, (2 * log_w).logsumexp(0))
    return (first - math.log(k)).cpu(), (2 * first - second).exp().cpu()


def _log_weights(
    model: VAE, x: Tensor, code: Code, draws: int, generator: Generator | None
) -> Tensor:
    """log p(x, z)/q(z|x) at fresh draws, [draws, B] in fp64."""
    assert code.mean is not None and code.log_variance is not None
    noise = torch.randn(
        draws, *code.z.shape, generator=generator, device=x.device, dtype=code.z.dtype
    )
    z = code.mean + (0.5 * code.log_variance).exp() * noise
    flat = z.flatten(0, 1)
    repeated = x.double().expand(draws, *x.shape).flatten(0, 1)
    joint = log_likelihood(model, repeated, flat) + model.prior.log_prob(flat.double())
    return joint.view(draws, len(x)) - wide(code).log_density(z.double())
