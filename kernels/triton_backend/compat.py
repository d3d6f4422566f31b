"""What differs between the versions and modes of Triton, in one place."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from .. import functions
from ..functions import KernelFunction

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 6):
    raise ImportError(f"Triton is {triton.__version__}; the kernels need 3.6, as torch 2.10 has it")

functions.tl = tl  # the device twins name it


@cache
def device_function(function: KernelFunction) -> Any:
    """The Triton twin of a kernel function, jitted once."""
    return triton.jit(function.device)


def interpreting(kernel: Any) -> bool:
    return isinstance(kernel, InterpretedFunction)


@triton.jit
def _nothing(_):  # type: ignore[no-untyped-def]
    pass


@cache
def failure(device: torch.device) -> str | None:
    """Why no kernel can be compiled for a device and launched there, or None. Tried once."""
    try:
        with torch.cuda.device(device):
            _nothing[(1,)](0)
    except Exception as error:
        return f"Triton cannot run a kernel on {device} ({type(error).__name__}: {error})"
    return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """NumPy, which runs interpreted kernels, warns where a GPU silently makes inf or NaN."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def current_device() -> int:
    """The number of the device that launches go to."""
    device: int = triton.runtime.driver.active.get_current_device()
    return device


def half_product(a: Tensor, b: Tensor) -> Tensor:
    """The products of fp16 batches a [G, M, K] and b [G, K, N], accumulated and returned in fp32.

    Torch has it on CUDA alone, and not where the caller allows accumulation in fp16: there the
    numbers are taken in fp32, where products of two of them are exact, with TF32 too."""
    if a.is_cuda and not torch.backends.cuda.matmul.allow_fp16_accumulation:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())
