"""Checks of what users pass, apart from the computation. Every message says what was received."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _describe(x: object) -> str:
    return f"{list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def check_points(x: Tensor, name: str) -> None:
    """A floating tensor [..., n, d]."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name} must be a torch tensor; got {type(x).__name__} (torch.as_tensor converts)"
        )
    if x.dim() < 2:
        raise ValueError(
            f"{name} must have shape [..., n, d]; got {_describe(x)} (for n numbers, use "
            f"{name}.unsqueeze(-1))"
        )
    if x.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        hint = "" if x.is_complex() else f" (use {name}.float())"
        raise TypeError(f"{name} must be floating point; got {x.dtype}{hint}")
    if x.layout != torch.strided:
        raise TypeError(f"{name} must be dense; got {x.layout} (use {name}.to_dense())")
    if x.shape[-1] == 0:
        raise ValueError(f"{name} has no columns; got {_describe(x)}")


def _is_plain(x: object) -> bool:
    """A sample as most are, for which there is nothing to check or to convert."""
    return (
        isinstance(x, Tensor)
        and x.dim() == 2
        and (x.dtype is torch.float32 or x.dtype is torch.float64)
        and x.is_cpu
        and x.layout is torch.strided
        and x.shape[1] > 0
    )


def check_samples(
    x: Tensor, y: Tensor, *, names: tuple[str, str] = ("x", "y")
) -> tuple[Tensor, Tensor]:
    """Both as [..., n, d] and [..., m, d] of one computation dtype (at least fp32), one device,
    equal d and broadcast batch dimensions. Raises TypeError or ValueError."""
    if _is_plain(x) and _is_plain(y) and x.dtype is y.dtype and x.shape[1] == y.shape[1]:
        return x, y
    for value, name in zip((x, y), names, strict=True):
        check_points(value, name)
    got = f"got {names[0]} {_describe(x)}, {names[1]} {_describe(y)}"
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"{names[0]} and {names[1]} must share d; {got}")
    if x.device != y.device:
        raise ValueError(
            f"{names[0]} and {names[1]} must be on one device; got {x.device} and {y.device}"
        )
    dtype = computation_dtype(x, y)
    x, y = x.to(dtype), y.to(dtype)
    if x.shape[:-2] != y.shape[:-2]:
        try:
            batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])  # type: ignore[no-untyped-call]
        except RuntimeError:
            raise ValueError(f"batch dimensions do not broadcast; {got}") from None
        x, y = x.expand(*batch, *x.shape[-2:]), y.expand(*batch, *y.shape[-2:])
    return x, y


def check_sample(x: Tensor, name: str = "x") -> Tensor:
    """One sample [..., n, d] in its computation dtype."""
    check_points(x, name)
    return x.to(computation_dtype(x))


def computation_dtype(*tensors: Tensor) -> torch.dtype:
    """The promoted dtype of the inputs, at least fp32."""
    dtype = torch.float32
    for t in tensors:
        dtype = torch.promote_types(dtype, t.dtype)
    return dtype


def check_rows(x: Tensor, name: str, least: int, why: str) -> None:
    """At least ``least`` rows."""
    n = x.shape[-2]
    if n < least:
        what = "is empty" if n == 0 else f"has {n} row"
        raise ValueError(f"{name} {what} (shape {list(x.shape)}); {why}")


def check_weights(
    w: Tensor | None, x: Tensor, name: str, dtype: torch.dtype | None = None
) -> Tensor | None:
    """Weights [..., n] of sample x, in its dtype or the one given; non-finite ones are refused
    where looking does not synchronise (CPU, not while tracing), and give NaN elsewhere."""
    if w is None:
        return None
    if not isinstance(w, Tensor):
        raise TypeError(f"{name} must be a torch tensor; got {type(w).__name__}")
    if not w.is_floating_point():
        raise TypeError(f"{name} must be floating point; got {w.dtype}")
    if w.device != x.device:
        raise ValueError(f"{name} is on {w.device}, its sample on {x.device}")
    try:
        w = w.to(x.dtype if dtype is None else dtype).expand(x.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"{name} must have shape {list(x.shape[:-1])}; got {list(w.shape)}"
        ) from None
    bad = count_on_host(~torch.isfinite(w.detach()))
    if bad:
        raise ValueError(f"{name} has {bad} non-finite entries of {w.numel()}")
    return w


# A transform of torch.func hides the numbers; without this query every call is taken for one.
transforms_active: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: True
)


_dispatch_mode: Callable[[Any], object] = getattr(torch._C, "_get_dispatch_mode", lambda _: None)
_PROXY: Any = getattr(getattr(torch._C, "_TorchDispatchModeKey", None), "PROXY", None)


def is_recorded() -> bool:
    """Whether ``torch.jit.trace`` or ``make_fx`` records torch calls, and would take every number
    that is read between them for a constant."""
    if torch.compiler.is_compiling():  # first: nothing below is to be traced
        return False
    return bool(torch._C._is_tracing()) or _dispatch_mode(_PROXY) is not None


def is_on_host(x: Tensor) -> bool:
    """Whether the numbers of x can be looked at, and cost no synchronisation."""
    if torch.compiler.is_compiling():  # first: nothing below is to be traced
        return False
    return type(x) is Tensor and x.is_cpu and not transforms_active() and not is_recorded()


def count_on_host(flags: Tensor) -> int:
    """How many are set, or 0 where reading it would synchronise (CUDA) or break a trace."""
    if flags.is_cuda or torch.compiler.is_compiling():
        return 0
    try:
        return int(flags.sum())
    except RuntimeError:  # inside torch.func.vmap there is no one number
        return 0
