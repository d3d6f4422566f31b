"""Kernels that users bring: a matrix of all pairs, or a function that gives one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .forms import Forms, Tick
from .kernels.statistics.quadratic_forms import product

KernelMatrix = NDArray[Any] | Tensor | list[Any] | Callable[[Tensor, Tensor], Any]
SYMMETRIC = 1e-9  # of the largest entry: what k(a, b) and k(b, a) may differ by
DEFINITE = 1e-9  # of the largest eigenvalue: what a smallest one below 0 may be by rounding
EIGENVALUES = 1000  # rows up to which definiteness is looked at


def is_kernel_matrix(kernel: Any) -> TypeGuard[KernelMatrix]:
    """Whether this is a matrix or a function, and not a kernel of ours, a name or None."""
    return isinstance(kernel, np.ndarray | Tensor | list) or (
        callable(kernel) and not hasattr(kernel, "terms")
    )


class MatrixForms:
    """Forms of a kernel matrix K [N, N] of the pooled rows z [N, d]; see ``forms.Source``.

    Raises TypeError or ValueError for what is no finite symmetric matrix of this size.
    """

    steps = 1
    scale = None  # no bandwidth is known
    coefficients = np.ones(1)

    def __init__(self, kernel: KernelMatrix, z: Tensor) -> None:
        self.label = "kernel matrix"
        if callable(kernel):
            self.label = getattr(kernel, "__name__", type(kernel).__name__)
            kernel = kernel(z, z)
        try:
            given = torch.as_tensor(kernel).detach()
            if given.is_complex():
                raise TypeError(f"{given.dtype} is not a real number")
            k = given.to(z.device, torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"the kernel must give a matrix of numbers: {error}") from None
        if k.shape != (len(z), len(z)):
            raise ValueError(
                f"the kernel must have a value for each pair of the {len(z)} rows of x and y, "
                f"shape [{len(z)}, {len(z)}]; got {list(k.shape)}"
            )
        if not k.isfinite().all():
            bad = int((~k.isfinite()).sum())
            raise ValueError(f"{bad} of {k.numel()} values of the kernel are NaN or infinite")
        gap = float((k - k.T).abs().max())
        if gap > SYMMETRIC * float(k.abs().max()):
            raise ValueError(
                f"the kernel must be symmetric; k(a, b) and k(b, a) differ by {gap:.3g}"
            )
        self.diagonal = k.diagonal().clone()
        self._k = (0.5 * (k + k.T)).fill_diagonal_(0.0)
        self.squares = self._k.square().sum().view(1)
        self.rounding = 1e-13 * len(z) * self._k.abs().amax().view(1)

    def __call__(self, v: Tensor, tick: Tick) -> Forms:
        rows = self._k.sum(1, keepdim=True).T
        tick()
        parts = [(p := part.double()).mul(self._k @ p).sum(0) for part in torch.split(v, 256, 1)]
        return Forms(torch.cat(parts).unsqueeze(0), product(rows, v), rows.sum().view(1, 1))

    def against(self, weights: Tensor) -> Tensor:
        """Σ_{j≠i} wⱼ k(zᵢ, zⱼ) for weights w [N], [1, N]."""
        return (self._k @ weights).unsqueeze(0)

    def within(self, groups: NDArray[np.int64]) -> Tensor:
        """Σ k(zᵢ, zⱼ) over the other rows j of the group of row i, [1, N]."""
        of = torch.from_numpy(groups).to(self._k.device)
        return torch.where(of[:, None] == of, self._k, 0.0).sum(1).unsqueeze(0)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the kernel sees: all differences between distributions of these rows, or not all."""
        unseen = "the p-value is valid, but differences may go unseen"
        if len(self._k) > EIGENVALUES:
            return (f"if the kernel, of many rows, is not positive definite {unseen}",)
        k = self._k + self.diagonal.diag()
        k = k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()
        values = torch.linalg.eigvalsh(k)
        least, most = float(values[0]), float(values[-1])
        rounding = torch.finfo(k.dtype).eps * len(k) * float(self._k.abs().max())
        if -rounding <= least < -DEFINITE * abs(most):
            return (
                f"rounding beside entries of {float(self._k.abs().max()):.2g} hides whether the "
                "kernel is positive definite: take a constant off it",
            )
        if least >= -DEFINITE * abs(most):
            return ("the kernel is positive definite on differences of samples of these rows",)
        extremes = f"eigenvalues from {least:.2g} to {most:.2g}"
        return (f"the kernel is not positive definite ({extremes}): {unseen}",)
