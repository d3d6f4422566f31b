"""Finite features in place of a kernel, k(z, z′) ≈ φ(z)·φ(z′): tests in O(N·F) for F features.

Frequencies and landmarks depend on the pooled rows at most, never on labels, and the statistic of
every relabelling is formed from the same features, so the permutation test stays exact. What is
lost is power: the test sees the approximate kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import chunks
from .chunks import Rows
from .forms import Forms, Tick
from .kernels import Kernel
from .kernels.functions import GAUSSIAN, LAPLACE_L1, Metric
from .kernels.kernel import Term
from .kernels.statistics.quadratic_forms import PART
from .kernels.statistics.sharing import current_share

CHAIN = 1024  # rows in an fp32 sum
# What rounding does to a form, as parts of Σ|φ − their mean|² and of √N times that: the features as
# rounded are those of all labellings, and fp32 sums of few values, sorted, err to one side. Six
# times what was seen, for N of 65,536 and 10⁶.
TIE = 5e-6, 2.0**-19

Features = Callable[[Tensor], Tensor]  # rows [n, d] to features [n, F]


@dataclass(frozen=True, eq=False)
class FourierFeatures:
    """cos and sin of rows times ``frequencies`` [f, d], times ``amplitudes`` [f]: F = 2f."""

    frequencies: NDArray[np.float64]
    amplitudes: NDArray[np.float64]

    def __call__(self, rows: Tensor) -> Tensor:
        angles = rows @ torch.from_numpy(self.frequencies).to(rows.device).T
        waves = torch.cat([angles.cos(), angles.sin()], 1)
        return waves.mul_(torch.from_numpy(np.tile(self.amplitudes, 2)).to(rows.device))


def fourier_features(
    kernel: Kernel, d: int, count: int, generator: np.random.Generator
) -> FourierFeatures:
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
    return FourierFeatures(np.concatenate(frequencies), np.concatenate(scales))


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
    """Forms of k = φ·φ for pooled rows. The features of one chunk of them exist at a time; sums
    of ``CHAIN`` rows are formed in fp32, of features around their mean over ``some`` rows [n, d],
    and all else in fp64."""

    coefficients = np.ones(1)

    def __init__(self, rows: Rows, features: Features, some: Tensor) -> None:
        self._rows, self._features = rows, features
        self._middle = features(some.double()).mean(0)
        self.squares = self._middle.new_zeros(1)
        self.rounding = self.squares

    @property
    def steps(self) -> int:
        return current_share().count(-(-len(self._rows) // chunks.CHUNK))

    def __call__(self, v: Tensor, tick: Tick) -> Forms:
        return self.of_spans(lambda start, stop: v[start:stop], v.shape[1], tick)

    def of_spans(self, labels: Callable[[int, int], Tensor], columns: int, tick: Tick) -> Forms:
        """Forms of B = ``columns`` labellings, whose ``labels`` [n, B] of the rows from a number
        to another are made when these are read."""
        middle, share = self._middle, current_share()
        sums = middle.new_zeros(len(middle), columns)  # Φᵀv
        whole = torch.zeros_like(middle)  # Φᵀ1
        marked, count = middle.new_zeros(2, columns)  # Σ vᵢ|φᵢ|², Σ vᵢ
        own, spread = middle.new_zeros(2)
        for number, rows in share.of(enumerate(self._rows.chunks())):
            start = number * chunks.CHUNK
            v = labels(start, start + len(rows))
            around = (self._features(rows.double()) - middle).float()  # [n, F]
            phi = around.double() + middle
            norms = phi.square().sum(1)
            for first in range(0, columns, PART):
                part = slice(first, first + PART)
                some = v[:, part].float()
                for a, b in zip(torch.split(around, CHAIN), torch.split(some, CHAIN), strict=True):
                    sums[:, part] += (a.T @ b).double()
                marked[part] += norms @ some.double()
            count += v.sum(0)
            whole += phi.sum(0)
            own += norms.sum()
            spread += around.double().square().sum()
            tick()
        share.total(sums, whole, marked, count, own, spread)
        sums += torch.outer(middle, count)
        scattered, coherent = TIE
        self.rounding = ((scattered + coherent * math.sqrt(len(self._rows))) * spread).view(1)
        quadratic = sums.square().sum(0) - marked
        linear = whole @ sums - marked
        total = whole.square().sum() - own
        return Forms(quadratic.unsqueeze(0), linear.unsqueeze(0), total.view(1, 1))
