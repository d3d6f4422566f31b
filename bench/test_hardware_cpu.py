"""The rates that limit the losses on this CPU, recorded beside them."""

from __future__ import annotations

import pytest

from .conftest import Compare
from .hardware import OPERATIONS


@pytest.mark.parametrize("name", OPERATIONS)
def test_rate(compare: Compare, name: str) -> None:
    operation = OPERATIONS[name]
    compare(operation.workload, {"ours": operation.setup()}, file="hardware_cpu")
