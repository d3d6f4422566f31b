"""Permutation tests on a CUDA device: python -m pytest bench/test_tests_gpu.py -m gpu."""

from __future__ import annotations

import pytest

from . import gpu
from .conftest import Compare

DEVICE = "cuda"
pytestmark = pytest.mark.gpu


def test_label_forms(compare: Compare) -> None:
    gpu.forms(compare, 65536, 64, 1024, DEVICE)


@pytest.mark.parametrize(("n", "d", "resamples"), [(500, 10, 2000), (4000, 10, 2000)])
def test_fuse(compare: Compare, n: int, d: int, resamples: int) -> None:
    gpu.fuse(compare, n, d, resamples, DEVICE)
