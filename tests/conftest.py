"""One mode per process: without a GPU, Triton kernels run in the interpreter."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before the first @triton.jit

WITHOUT_TRITON = torch.__version__ < (2, 10)  # no such torch has one that the kernels run with
if WITHOUT_TRITON:
    collect_ignore_glob = ["kernels/test_triton*.py"]
    collect_ignore = [
        *(f"kernels/test_{name}.py" for name in ("backends", "host_sync", "launch", "offline")),
        "test_bench_gpu.py",
        "test_generated_code.py",
    ]

# Two workers on two cores: a second thread each would only make them wait for one another.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)

# Fills what torch.empty returns: memory that is read before it is written shows as NaN, or as the
# largest integer.
torch.use_deterministic_algorithms(True, warn_only=True)  # some of CUDA's cannot be


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if WITHOUT_TRITON and "triton" in item.name:
            item.add_marker(pytest.mark.skip(reason="no Triton from 3.6 on"))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _own_draws() -> None:
    """What a test draws from torch's global generator does not depend on the tests before it."""
    torch.manual_seed(0)
