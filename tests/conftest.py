"""One mode per process: without a GPU, Triton kernels run in the interpreter."""

import functools
import os
from collections.abc import Callable
from typing import Any

# Two workers on two cores: a second thread each, or of what they start, would only make them wait
# for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch and numpy are imported

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

elif not torch.cuda.is_available():
    import triton.language as tl
    from triton.runtime import interpreter

    patch_language: Callable[[Any], Any] = interpreter._patch_lang

    @functools.cache
    def languages_of(fn: Callable[..., Any]) -> list[Any]:
        return [v for v in fn.__globals__.values() if v is tl or v is tl.core]

    def patch_language_once(fn: Callable[..., Any]) -> Any:
        """The interpreter replaces the functions of ``tl`` at each call of a device function, which
        is half of its time; what a launch has replaced already needs no second time."""
        if any(tl.core.is_builtin(language.load) for language in languages_of(fn)):
            return patch_language(fn)
        return None

    numpy_type: Callable[[Any], Any] = interpreter._get_np_dtype
    numpy_type_of_numbers = functools.cache(numpy_type)  # which makes a table at each call

    def numpy_type_once(of: Any) -> Any:
        return numpy_type(of) if of.scalar.is_ptr() else numpy_type_of_numbers(of.scalar)

    interpreter._patch_lang = patch_language_once
    interpreter._get_np_dtype = numpy_type_once

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
