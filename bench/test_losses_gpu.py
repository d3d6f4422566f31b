"""The losses on a CUDA device: python -m pytest bench/test_losses_gpu.py -m gpu."""

from __future__ import annotations

import pytest

from . import gpu
from .conftest import Compare
from .workloads import Problem

DEVICE = "cuda"
pytestmark = [  # torch's own compiler uses what torch deprecates
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
both = pytest.mark.parametrize("gradient", [False, True], ids=["value", "value+gradient"])


@both
@pytest.mark.parametrize(("n", "d"), [(256, 16), (4096, 64), (32768, 2), (32768, 64), (32768, 784)])
@pytest.mark.parametrize("kernel", ["gaussian", "energy"])
def test_loss(compare: Compare, kernel: str, n: int, d: int, gradient: bool) -> None:
    gpu.loss(compare, Problem(kernel, n, d, gradient, DEVICE))


@both
def test_five_bandwidths(compare: Compare, gradient: bool) -> None:
    gpu.bandwidths(compare, Problem("five bandwidths", 32768, 64, gradient, DEVICE))


@pytest.mark.parametrize("kernel", ["gaussian", "energy"])
def test_graph(compare: Compare, kernel: str) -> None:
    gpu.graphs(compare, Problem(kernel, 256, 16, True, DEVICE))


def test_million_rows(compare: Compare) -> None:
    """In less than 2 GB, inputs included."""
    for row in gpu.loss(compare, Problem("gaussian", 1_000_000, 64, False, DEVICE)):
        assert row.peak_mb + 2 * 4 * 1e6 * 64 / 2**20 < 2000
