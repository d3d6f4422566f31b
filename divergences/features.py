"""Finite features in place of a kernel, k(z, z′) ≈ φ(z)·φ(z′): tests in O(N·F) for F features.

Frequencies and landmarks depend on the pooled rows at most, never on labels, and the statistic of
every relabelling is formed from the same features, so the permutation test stays exact. What is
lost is power: the test sees the approximate kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .forms import Forms, Tick
from .kernels import Kernel
from .kernels.functions import GAUSSIAN, LAPLACE_L1, Metric
from .kernels.kernel import Term
from .kernels.statistics.quadratic_forms import PART, TIES
from .kernels.statistics.sharing import current_share
from .kernels.subsample import hashed_rows

Features = Callable[[Tensor], Tensor]  # rows [n, d] to features [n, F]
CHUNK = 8192  # rows whose features are held at a time; also the length of an fp32 sum


def fourier_features(
    kernel: Kernel, d: int, count: int, generator: np.random.Generator
) -> Features:
    """Random Fourier features (Rahimi & Recht 2007) of Gaussian and L1-Laplace kernels and mixtures
    of them: cos and sin of ``count`` frequencies, shared among the terms by their weight.

    Raises ValueError for other kernels.
    """
    supported = (GAUSSIAN, LAPLACE_L1)
    if any(t.function not in supported for t in kernel.terms):
        raise ValueError(
            f"random Fourier features are for Gaussian kernels and Laplace(norm='l1'); got "
            f"{kernel!r} (method='mmd-nystrom' takes any positive definite kernel)"
        )
    whole = sum(t.coefficient for t in kernel.terms)
    frequencies, scales = [], []
    for t in kernel.terms:
        share = max(1, round(count * t.coefficient / whole))
        frequencies.append(_frequencies(t, share, d, generator))
        scales.append(np.full(share, math.sqrt(t.coefficient / share)))
    weight, scale = np.concatenate(frequencies), np.concatenate(scales)

    def features(rows: Tensor) -> Tensor:
        angles = rows @ torch.from_numpy(weight).to(rows.device).T
        waves = torch.cat([angles.cos(), angles.sin()], 1)
        return waves.mul_(torch.from_numpy(np.tile(scale, 2)).to(rows.device))

    return features


def _frequencies(
    t: Term, count: int, d: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """[count, d] draws from the spectral density of the term."""
    assert t.scale is not None
    if t.function is GAUSSIAN:
        return generator.standard_normal((count, d)) / t.scale
    return generator.standard_cauchy((count, d)) / t.scale


def nystrom_features(kernel: Kernel, landmarks: Tensor) -> Features:
    """k(z, L)·k(L, L)^(−½) for landmarks L [F, d] (Williams & Seeger 2001); exact on the span of
    the landmarks. Raises ValueError for kernels that are not positive definite."""
    if any(t.function.definiteness != "positive" for t in kernel.terms):
        raise ValueError(f"method 'mmd-nystrom' needs a positive definite kernel; got {kernel!r}")
    values, vectors = torch.linalg.eigh(_gram(kernel, landmarks, landmarks))
    kept = values > 1e-10 * values[-1]
    root = vectors[:, kept] / values[kept].sqrt()
    return lambda rows: _gram(kernel, rows, landmarks) @ root


def _gram(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    total = x.new_zeros(len(x), len(y))
    for t in kernel.terms:
        s = _metric_matrix(x, y, t.function.metric)
        rate = float(t.rate)
        total.add_(t.function.value(s, rate, t.shape, t.offset), alpha=t.coefficient)
    return total


def _metric_matrix(x: Tensor, y: Tensor, metric: Metric) -> Tensor:
    """s of all pairs [n, m] at once, near pairs with the rounding of an fp64 Gram product."""
    if metric == "inner":
        return x @ y.T
    distance = torch.cdist(x, y, p=1.0 if metric == "l1" else 2.0)
    return distance if metric == "l1" else distance.square()


class FeatureForms:
    """Forms of k = φ·φ for pooled rows z [N, d]. The features of ``CHUNK`` rows exist at a time;
    sums within a chunk are formed in fp32, of features around their mean over some rows, and all
    else in fp64."""

    coefficients = np.ones(1)

    def __init__(self, z: Tensor, features: Features) -> None:
        self._z, self._features = z, features
        some = hashed_rows(min(len(z), CHUNK), len(z), z.device)
        self._middle = features(z[some].double()).mean(0)
        self.squares = z.new_zeros(1, dtype=torch.float64)
        self.rounding = self.squares

    @property
    def steps(self) -> int:
        return current_share().count(len(self._chunks()))

    def _chunks(self) -> tuple[Tensor, ...]:
        return torch.split(self._z, CHUNK)

    def __call__(self, v: Tensor, tick: Tick) -> Forms:
        count, middle = len(self._middle), self._middle
        sums = v.new_zeros(count, v.shape[1], dtype=torch.float64)  # Φᵀv
        whole = v.new_zeros(count, dtype=torch.float64)  # Φᵀ1
        marked = v.new_zeros(v.shape[1], dtype=torch.float64)  # Σ vᵢ|φᵢ|²
        own, spread = v.new_zeros(2, dtype=torch.float64)
        chunks = zip(self._chunks(), torch.split(v, CHUNK), strict=True)
        for rows, labels in current_share().of(chunks):
            around = (self._features(rows.double()) - middle).float()  # [n, F]
            phi = around.double() + middle
            norms = phi.square().sum(1)
            for start in range(0, v.shape[1], PART):
                columns = slice(start, start + PART)
                part = labels[:, columns].float()
                sums[:, columns] += (around.T @ part).double()
                marked[columns] += norms @ part.double()
            whole += phi.sum(0)
            own += norms.sum()
            spread += around.double().square().sum()
            tick()
        current_share().total(sums, whole, marked, own, spread)
        sums += torch.outer(middle, v.sum(0, dtype=torch.float64))
        scattered, coherent = TIES["narrow"]
        self.rounding = ((scattered + coherent * len(self._z)) * spread).view(1)
        quadratic = sums.square().sum(0) - marked
        linear = whole @ sums - marked
        total = whole.square().sum() - own
        return Forms(quadratic.unsqueeze(0), linear.unsqueeze(0), total.view(1, 1))
