"""Which backend runs a sweep.

``None`` chooses silently: Triton for fp32 (and, upcast, bf16 and fp16) CUDA tensors where it is
installed, the reference everywhere else (CPU, fp64). Where Triton is installed but cannot run (GPUs
older than compute capability 8.0, ROCm, no working compiler, Triton before 3.6) the reference is
chosen too, with one warning for each reason. The environment variable ``DIVERGENCES_BACKEND``
replaces that default. A backend asked for by name runs or raises.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import Any

import torch
from torch import Tensor

from .plan import Blocks, Component, Form, Sweep, Wanted, form_coefs
from .reference import blocked
from .validation import is_recorded

BACKENDS = ("reference", "triton")
AUTOMATIC = "automatic"  # while a graph is compiled: chosen where it runs
ENVIRONMENT = "DIVERGENCES_BACKEND"
HAS_TRITON = importlib.util.find_spec("triton") is not None  # looked for, not imported
_reasons: dict[torch.device, str | None] = {}  # why Triton cannot run on a CUDA device


def choose(x: Tensor, backend: str | None) -> str:
    """The name of the backend for x, which has the dtype of the computation."""
    if is_recorded():
        raise RuntimeError(
            "torch.jit.trace and make_fx would record the numbers of this one call as constants; "
            "use torch.compile or torch.export"
        )
    if x.is_meta and not x.is_cuda:  # the latter where a test has it stand for a GPU
        raise ValueError("the samples are on the device 'meta', which holds no numbers")
    asked = backend if backend is not None else os.environ.get(ENVIRONMENT) or None
    if asked is None:
        if not (x.is_cuda and x.element_size() == 4 and HAS_TRITON):
            return "reference"
        if torch.compiler.is_compiling():
            return AUTOMATIC
        return "triton" if _runs_triton(x) else "reference"
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
    try:
        from .triton_backend import sweeps
    except Exception as error:
        return f"the package triton cannot be imported ({type(error).__name__}: {error})"
    return sweeps.unavailable(x)


def _runs_triton(x: Tensor) -> bool:
    if x.device not in _reasons:
        reason = _triton_unavailable(x)
        is_new = reason is not None and reason not in _reasons.values()
        _reasons[x.device] = reason
        if is_new:
            warnings.warn(
                f"divergences uses its slower backend 'reference': {reason}; "
                f"{ENVIRONMENT}=reference asks for it without this warning",
                RuntimeWarning,
                stacklevel=2,
            )
    return _reasons[x.device] is None


def run(backend: str, x: Tensor, *args: Any) -> Sweep:
    """``sweep`` of the backend chosen."""
    if _resolved(backend, x) == "reference":
        return blocked.sweep(x, *args)
    from .triton_backend import sweeps

    return sweeps.sweep(x, *args)


def _resolved(backend: str, x: Tensor) -> str:
    return choose(x, None) if backend == AUTOMATIC else backend


def form(
    backend: str,
    x: Tensor,
    y: Tensor | None,
    wx: Tensor | None,
    wy: Tensor | None,
    components: tuple[Component, ...],
    rates: list[float] | Tensor,
    form: Form,
    blocks: Blocks,
    wanted: Wanted,
) -> tuple[Tensor, ...]:
    """The total of a form [B] and the gradients of its sweep, which need no further operation."""
    if _resolved(backend, x) != "reference":
        from .triton_backend import sweeps

        return sweeps.form(x, y, wx, wy, components, rates, form, blocks, wanted)
    coefs = form_coefs(form, x.shape[1], 0 if y is None else y.shape[1], blocks)
    wanted = wanted._replace(sums=True)
    sums, *gradients = blocked.sweep(x, y, wx, wy, components, rates, coefs, blocks, wanted)
    flat = sums.flatten(1)
    total = flat[:, 0] * coefs[0] + form.constant
    for k in range(1, len(coefs)):  # scalar operations, which need no constant on the device
        total = total.add(flat[:, k], alpha=coefs[k])
    return total.to(form.dtype), *gradients
