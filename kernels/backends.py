"""Which backend runs a sweep.

``None`` chooses silently: Triton for fp32 (and, upcast, bf16 and fp16) CUDA tensors where it is
installed, the reference everywhere else (CPU, fp64). The environment variable
``DIVERGENCES_BACKEND`` replaces that default. A backend asked for by name runs or raises.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from torch import Tensor

from . import reference
from .plan import Sweep

BACKENDS = ("reference", "triton")
ENVIRONMENT = "DIVERGENCES_BACKEND"
HAS_TRITON = importlib.util.find_spec("triton") is not None  # looked for, not imported


def choose(x: Tensor, backend: str | None) -> str:
    """The name of the backend for x, which has the dtype of the computation."""
    asked = backend if backend is not None else os.environ.get(ENVIRONMENT) or None
    if asked is None:
        automatic = x.is_cuda and x.element_size() == 4 and HAS_TRITON
        return "triton" if automatic else "reference"
    check_backend(asked, "backend" if backend is not None else ENVIRONMENT)
    if asked == "triton":
        reason = _triton_unavailable(x)
        if reason is not None:
            raise RuntimeError(
                f"backend 'triton' cannot run here: {reason}; leave backend=None for the "
                "automatic choice, or use backend='reference'"
            )
    return asked


def check_backend(backend: str | None, source: str = "backend") -> None:
    """Raises ValueError for a name that is none."""
    if backend is not None and backend not in BACKENDS:
        raise ValueError(f"unknown {source} {backend!r}; known are 'reference' and 'triton'")


def _triton_unavailable(x: Tensor) -> str | None:
    if not HAS_TRITON:
        return "the package triton is not installed"
    from . import triton_backend

    return triton_backend.unavailable(x)


def run(backend: str, *args: Any) -> Sweep:
    """``sweep`` of the backend chosen."""
    if backend == "reference":
        return reference.sweep(*args)
    from . import triton_backend

    return triton_backend.sweep(*args)
