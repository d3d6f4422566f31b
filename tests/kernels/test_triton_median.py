"""The median of pooled distances, and rates made of it, in two launches: against the same in torch,
and in exact cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from divergences.kernels import bandwidth
from divergences.kernels.functions import Metric
from divergences.kernels.triton_backend import median as median_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def median(x: Tensor, y: Tensor | None = None, metric: Metric = "sqeuclidean") -> Tensor:
    y = None if y is None else y.to(DEVICE)
    return median_of.scales(x.to(DEVICE), y, metric, 32).median.cpu()


@pytest.mark.parametrize("metric", ["sqeuclidean", "l1"])
@pytest.mark.parametrize("shape", [(9, 4, 3), (10, 0, 1), (20, 13, 33), (2, 45, 2), (40, 0, 2)])
def test_the_same_as_in_torch(
    shape: tuple[int, int, int], metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd and even numbers of rows and pairs; subsamples, of which the last two shapes have one."""
    monkeypatch.setattr(bandwidth, "MEDIAN_ROWS", 32)
    n, m, d = shape
    x, y = torch.randn(2, n, d), torch.randn(2, m, d) + 1.0
    pooled = None if m == 0 else y
    ours = median(x, pooled, metric)
    theirs = bandwidth.median_distance(x, pooled, metric)
    assert ours.shape == (2,)
    torch.testing.assert_close(ours, theirs, rtol=2.0**-23, atol=0.0)


def test_exact_cases() -> None:
    """Distances 1, 2, 3 and ties at 0: the lower median of the positive ones; and their absence."""
    line = torch.tensor([[0.0], [1.0], [3.0], [3.0]])  # 1, 3, 3, 2, 2, 0
    assert median(line) == 2.0
    assert median(line[:3]) == 2.0
    assert median(line[:2]) == 1.0
    assert median(line[2:]) == 1.0  # no positive distance
    assert median(line[:1]) == 1.0
    assert median(line[:2] * 1e-30) == torch.tensor(1e-30).double()
    assert median(line[:2] * 1e30) == torch.tensor(1e30).double()
    near = torch.tensor([[1.0], [1.0 + 2.0**-23]])
    assert median(near) == 2.0**-23


def test_not_a_number() -> None:
    """A row without a distance does not count."""
    x = torch.tensor([[0.0], [math.nan], [5.0]])
    assert median(x) == 5.0
    assert median(x[1:2].expand(3, 1)) == 1.0


def test_rates() -> None:
    x, factors, orders = torch.randn(3, 6, 2), (0.5, 8.0, 3.0, 7.0), (2, 2, 1, 0)
    found = median_of.scales(x.to(DEVICE), None, "sqeuclidean", 32, factors, orders)
    powers = zip(factors, orders, strict=True)
    expected = torch.stack([f * found.median.cpu() ** -o for f, o in powers], -1)
    torch.testing.assert_close(found.rates.cpu(), expected, rtol=1e-14, atol=0.0)
    again = median_of.scales(x.to(DEVICE), None, "sqeuclidean", 32, factors, orders)
    assert torch.equal(found.rates, again.rates)


def test_samples_on_a_cpu_are_not_taken() -> None:
    assert not bandwidth.by_triton(torch.randn(3, 2), None)
