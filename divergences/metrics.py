"""Divergences as metrics of torchmetrics. Needs torchmetrics: pip install "divergences[metrics]".

``update`` takes rows of x, of y or of both; ``compute`` is the function of that name of all rows
since ``reset``. States are the rows themselves, in the order of the processes, so that a metric
over several processes or batches is that of all rows in one, and no mean of their parts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .energy import energy_distance
from .estimators import Estimator
from .kernels import Bandwidth, Kernel
from .mmd import mmd2
from .two_sample import two_sample_test

try:
    from torchmetrics import Metric
    from torchmetrics.utilities import dim_zero_cat
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'{error.name} is not installed: pip install "divergences[metrics]"', name=error.name
    ) from None

__all__ = ["EnergyDistance", "KernelInceptionDistance", "SquaredMMD", "TwoSampleTest"]


class _OfRows(Metric):
    """Holds the rows of x [n, d] and y [m, d]; memory grows with them."""

    is_differentiable = False
    higher_is_better: bool | None = False
    full_state_update = False

    x: list[Tensor]
    y: list[Tensor]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_state("x", [], dist_reduce_fx="cat")
        self.add_state("y", [], dist_reduce_fx="cat")

    def update(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        """Rows [k, d] of x, of y, or of both. Raises ValueError for other shapes."""
        if x is None and y is None:
            raise ValueError("update needs rows of x, of y or of both; got neither")
        for name, rows, state in (("x", x, self.x), ("y", y, self.y)):
            if rows is None:
                continue
            if rows.dim() != 2:
                raise ValueError(f"{name} must have shape [k, d]; got {list(rows.shape)}")
            state.append(rows.detach())

    def rows(self) -> tuple[Tensor, Tensor]:
        """All rows of x and of y. Raises ValueError where there are fewer than two of either."""
        x, y = (dim_zero_cat(s) if len(s) else torch.empty(0, 0) for s in (self.x, self.y))
        if min(len(x), len(y)) < 2:
            raise ValueError(f"two rows of x and of y are needed; got {len(x)} and {len(y)}")
        return x, y


class SquaredMMD(_OfRows):
    """``divergences.mmd2`` of all rows; ``settings`` are those of ``torchmetrics.Metric``.

    Examples:
        >>> import torch
        >>> from divergences.metrics import SquaredMMD
        >>> metric = SquaredMMD(bandwidth=1.0)
        >>> for batch in torch.linspace(0, 1, 40).view(4, 10, 1):
        ...     metric.update(batch, batch + 1)
        >>> print(f"{metric.compute():.3f}")  # of all 40 rows
        0.631
    """

    def __init__(
        self,
        kernel: Kernel | str = "gaussian",
        bandwidth: Bandwidth | None = None,
        *,
        estimator: Estimator = "unbiased",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.kernel, self.bandwidth, self.estimator = kernel, bandwidth, estimator

    def compute(self) -> Tensor:
        options: dict[str, Any] = {"kernel": self.kernel, "bandwidth": self.bandwidth}
        return mmd2(*self.rows(), estimator=self.estimator, **options)


class KernelInceptionDistance(SquaredMMD):
    """Kernel inception distance of features that are given: the unbiased squared MMD of all rows
    for the kernel (⟨x, y⟩/d + 1)³ (Bińkowski et al., ICLR 2018). torchmetrics and others report the
    mean of such estimates over random subsets, which has the same expectation and more noise.

    Examples:
        >>> import torch
        >>> from divergences.metrics import KernelInceptionDistance
        >>> metric = KernelInceptionDistance()
        >>> metric.update(torch.zeros(3, 2), torch.ones(3, 2))
        >>> float(metric.compute())  # 1 + 2³ − 2·1
        7.0
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__("polynomial", **settings)


class EnergyDistance(_OfRows):
    """``divergences.energy_distance`` of all rows.

    Examples:
        >>> import torch
        >>> from divergences.metrics import EnergyDistance
        >>> metric = EnergyDistance()
        >>> metric.update(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [4.0]]))
        >>> float(metric.compute())
        4.0
    """

    def __init__(
        self, *, exponent: float = 1.0, estimator: Estimator = "unbiased", **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.exponent, self.estimator = exponent, estimator

    def compute(self) -> Tensor:
        return energy_distance(*self.rows(), exponent=self.exponent, estimator=self.estimator)


class TwoSampleTest(_OfRows):
    """``divergences.two_sample_test`` of all rows, on every process with the seed ``rng``: a dict
    of its "statistic", "pvalue" and "effect_size" (0 where the method has none), in fp64.

    ``test_options``: method, kernel and others of ``two_sample_test``.

    Examples:
        >>> import torch
        >>> from divergences.metrics import TwoSampleTest
        >>> metric = TwoSampleTest(rng=0)
        >>> metric.update(torch.linspace(0, 1, 50)[:, None], torch.linspace(1, 2, 50)[:, None])
        >>> print(f"{metric.compute()['pvalue']:.3f}")
        0.001
    """

    higher_is_better = None

    def __init__(
        self, *, rng: int = 0, test_options: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.test_options = {"show_progress": False, "rng": rng} | (test_options or {})

    def compute(self) -> dict[str, Tensor]:
        result = two_sample_test(*self.rows(), **self.test_options)
        found = {
            "statistic": result.statistic,
            "pvalue": result.pvalue,
            "effect_size": result.effect_size or 0.0,
        }
        device = self.device
        return {name: torch.tensor(value, device=device).double() for name, value in found.items()}
