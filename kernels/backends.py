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

import torch
from torch import Tensor

from .problem import PairProblem, Sweep
from .reference import blocked, inner, small
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


def sweep(problem: PairProblem) -> Sweep:
    """Sums and gradients over the pairs, by the backend of the problem."""
    flat = problem.flat()
    if _resolved(problem) == "reference":
        found = blocked.sweep(flat)
    else:
        from .triton_backend import sweeps

        found = sweeps.sweep(flat)
    return found if flat is problem else Sweep(*_unflattened(found, problem))


def form(problem: PairProblem) -> tuple[Tensor | None, ...]:
    """L [...] and its gradients that are ``wanted``, of coefficients that are numbers."""
    if _resolved(problem) != "reference":
        from .triton_backend import sweeps

        flat = problem.flat()
        found = sweeps.form(flat)
        return found if flat is problem else _unflattened(found, problem)
    in_few_calls = None if problem.blocks == "xy" else small.form(problem) or inner.form(problem)
    if in_few_calls is not None:
        return in_few_calls
    coefs = problem.sum_coefs
    flat, wanted = problem.flat(), problem.wanted._replace(sums=True)
    sums, *gradients = blocked.sweep(flat._replace(coefs=coefs, means="sums", wanted=wanted))
    assert sums is not None
    each = sums.flatten(1)
    total = each[:, 0] * coefs[0] + problem.constant
    for k in range(1, len(coefs)):  # scalar operations, which need no constant on the device
        total = total.add(each[:, k], alpha=coefs[k])
    found = total.to(problem.dtype), *gradients
    return found if flat is problem else _unflattened(found, problem)


def _resolved(problem: PairProblem) -> str:
    automatic = problem.backend == AUTOMATIC
    return choose(problem.x, None) if automatic else problem.backend


def _unflattened(
    found: tuple[Tensor | None, ...], problem: PairProblem
) -> tuple[Tensor | None, ...]:
    """Results [B, ...] with the batch dimensions [...] of the problem."""
    return tuple(None if t is None else t.reshape((*problem.batch, *t.shape[1:])) for t in found)
