"""The same operations as ``ops`` as custom operators: the door that ``torch.compile`` sees.

A compiled graph cannot be differentiated twice (a limit of ``torch.compile``, which says so).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import ops
from .ops import Static
from .plan import Form, Wanted, block_names
from .reference import small

# Flags of ``Wanted`` travel as a list of bools, ``Static`` as its fields.


def _static(components: str, constants: Sequence[float], blocks: str, backend: str) -> Static:
    return Static(components, tuple(constants), blocks, backend)  # type: ignore[arg-type]


def _form(coefs: Sequence[float], means: str) -> Form:
    return Form(tuple(coefs), means)  # type: ignore[arg-type]


def _component_count(components: str) -> int:
    return components.count("|") + 1


def _gradient_shapes(
    x: Tensor, y: Tensor | None, wx: Tensor | None, wy: Tensor | None, wanted: Sequence[bool]
) -> list[Tensor]:
    """Empty outputs of the right shapes, for tracing."""
    y = x if y is None else y
    shapes = (x.shape, y.shape, x.shape[:2], y.shape[:2])
    return [
        x.new_empty(shape if flag else (0,)) for shape, flag in zip(shapes, wanted[1:], strict=True)
    ]


# --- pair gradients: the backward of the others --------------------------------------------------


@torch.library.custom_op("divergences::pair_gradients", mutates_args=())
def pair_gradients(
    x: Tensor,
    y: Tensor | None,
    wx: Tensor | None,
    wy: Tensor | None,
    rates: Tensor | None,
    coefs: Tensor,
    components: str,
    constants: Sequence[float],
    blocks: str,
    backend: str,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    static = _static(components, constants, blocks, backend)
    out = ops.sweep(x, y, wx, wy, rates, coefs, static, Wanted(*wanted))
    return out.grad_x, out.grad_y, out.grad_wx, out.grad_wy


@pair_gradients.register_fake
def _(
    x: Tensor,
    y: Tensor | None,
    wx: Tensor | None,
    wy: Tensor | None,
    rates: Tensor | None,
    coefs: Tensor,
    components: str,
    constants: Sequence[float],
    blocks: str,
    backend: str,
    wanted: Sequence[bool],
) -> Any:
    return tuple(_gradient_shapes(x, y, wx, wy, wanted))


def _wanted(ctx: Any, positions: tuple[int | None, ...]) -> list[bool]:
    """[sums, grad_x, grad_y, grad_wx, grad_wy] from the inputs that need a gradient."""
    flags = [False if p is None else bool(ctx.needs_input_grad[p]) for p in positions]
    return [False, *flags]


def _only(out: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    return [g if flag else None for g, flag in zip(out, wanted[1:], strict=True)]


# --- pair sums -----------------------------------------------------------------------------------


@torch.library.custom_op("divergences::pair_sums", mutates_args=())
def pair_sums(
    x: Tensor,
    y: Tensor | None,
    wx: Tensor | None,
    wy: Tensor | None,
    rates: Tensor | None,
    components: str,
    constants: Sequence[float],
    blocks: str,
    backend: str,
) -> Tensor:
    static = _static(components, constants, blocks, backend)
    return ops.sweep(x, y, wx, wy, rates, None, static, Wanted(sums=True)).sums


@pair_sums.register_fake
def _(
    x: Tensor,
    y: Tensor | None,
    wx: Tensor | None,
    wy: Tensor | None,
    rates: Tensor | None,
    components: str,
    constants: Sequence[float],
    blocks: str,
    backend: str,
) -> Tensor:
    shape = (x.shape[0], len(block_names(blocks)), _component_count(components))  # type: ignore[arg-type]
    return x.new_empty(shape, dtype=torch.float64)


def _pair_sums_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.static = inputs[5:]


def _pair_sums_backward(ctx: Any, grad: Tensor) -> Any:
    wanted = _wanted(ctx, (0, 1, 2, 3))
    out = pair_gradients(*ctx.saved_tensors, grad, *ctx.static, wanted)
    return *_only(out, wanted), None, None, None, None, None


pair_sums.register_autograd(_pair_sums_backward, setup_context=_pair_sums_context)


# --- pair form -----------------------------------------------------------------------------------


@torch.library.custom_op("divergences::pair_form", mutates_args=())
def pair_form(
    x: Tensor,
    y: Tensor | None,
    wx: Tensor | None,
    wy: Tensor | None,
    rates: Tensor | None,
    coefs: Sequence[float],
    means: str,
    components: str,
    constants: Sequence[float],
    blocks: str,
    backend: str,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    static = _static(components, constants, blocks, backend)
    if wx is None and wy is None and backend == "reference":
        numbers = list(constants) if rates is None else rates
        flags = Wanted(*wanted)
        one = small.sweep(x, y, numbers, _form(coefs, means), components, flags)
        if one is not None:
            return *one, x.new_empty(0), x.new_empty(0)
    found = ops.form_and_gradients(
        x, y, wx, wy, rates, _form(coefs, means), static, Wanted(*wanted)
    )
    return found  # type: ignore[return-value]


@pair_form.register_fake
def _(
    x: Tensor,
    y: Tensor | None,
    wx: Tensor | None,
    wy: Tensor | None,
    rates: Tensor | None,
    coefs: Sequence[float],
    means: str,
    components: str,
    constants: Sequence[float],
    blocks: str,
    backend: str,
    wanted: Sequence[bool],
) -> Any:
    value = x.new_empty(x.shape[0], dtype=torch.float64)
    return value, *_gradient_shapes(x, y, wx, wy, wanted)


def _pair_form_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors, ctx.coefs, ctx.means = inputs[:5], inputs[5], inputs[6]
    ctx.static, ctx.wanted = inputs[7:11], inputs[11]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output[1:])


def _pair_form_backward(ctx: Any, grad: Tensor | None, *unused: Any) -> Any:
    wanted = _wanted(ctx, (0, 1, 2, 3))
    if grad is None:
        return (None,) * 12
    saved = ctx.saved_tensors  # once: checkpointing recomputes at every access
    inputs, ready = saved[:5], saved[5:]
    if all(have or not need for have, need in zip(ctx.wanted[1:], wanted[1:], strict=True)):
        out = [ops.scale(g, grad) for g in ready]
    else:
        form = _form(ctx.coefs, ctx.means)
        coefs = ops.scaled_coefs(grad, form, inputs[0], inputs[1], ctx.static[2])
        out = pair_gradients(*inputs, coefs, *ctx.static, wanted)
    return *_only(out, wanted), None, None, None, None, None, None, None, None


pair_form.register_autograd(_pair_form_backward, setup_context=_pair_form_context)


# --- potential -----------------------------------------------------------------------------------


@torch.library.custom_op("divergences::potential", mutates_args=())
def potential(
    x: Tensor,
    y: Tensor,
    wy: Tensor | None,
    rates: Tensor | None,
    coefs: Sequence[float],
    components: str,
    constants: Sequence[float],
    backend: str,
) -> Tensor:
    static = _static(components, constants, "xy", backend)
    return ops.sweep(x, y, None, wy, rates, coefs, static, Wanted(grad_wx=True)).grad_wx


@potential.register_fake
def _(
    x: Tensor,
    y: Tensor,
    wy: Tensor | None,
    rates: Tensor | None,
    coefs: Sequence[float],
    components: str,
    constants: Sequence[float],
    backend: str,
) -> Tensor:
    return x.new_empty(x.shape[:2])


def _potential_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.coefs, ctx.static = inputs[4], inputs[5:]


def _potential_backward(ctx: Any, grad: Tensor) -> Any:
    x, y, wy, rates = ctx.saved_tensors
    wanted = _wanted(ctx, (0, 1, None, 2))
    components, constants, backend = ctx.static
    coefs = ops.numbers(ctx.coefs, grad).double().expand(x.shape[0], 1, -1)
    out = pair_gradients(
        x, y, grad.contiguous(), wy, rates, coefs, components, constants, "xy", backend, wanted
    )
    gx, gy, _, gw = _only(out, wanted)
    return gx, gy, gw, None, None, None, None, None


potential.register_autograd(_potential_backward, setup_context=_potential_context)
