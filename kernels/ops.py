"""The operations, differentiable: *pair sums*, *pair form* (their weighted total) and *potential*.

Two doors lead to the same formulas. In eager mode they are ``torch.autograd.Function``s with a
``vmap`` rule, which ``torch.func`` can transform; while ``torch.compile`` traces they are custom
operators (``compiled``), opaque to the compiler. Everything here works on canonical tensors
x [B, n, d], y [B, m, d], wx [B, n], wy [B, m], rates (numbers or [B, C]).

* ``pair_form`` returns Σ a·S for constants a and forms the gradients in the same sweep, so that its
  backward only multiplies: the loss path.
* ``pair_sums`` returns every S[block, component]; its backward is one more sweep.
* ``potential`` returns Σⱼ wⱼ k(xᵢ, yⱼ).
* Twice differentiated, all three go through ``second_order``, on every backend.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import backends
from .plan import Blocks, Form, Sweep, Wanted, block_names, decode, form_coefs
from .second_order import pair_hessian

Optional = Tensor | None


class Static(NamedTuple):
    """What an operator knows that is not a tensor."""

    components: str  # see ``plan.encode``
    constants: tuple[float, ...]  # the rates, where no rates tensor is given
    blocks: Blocks
    backend: str


def sweep(
    x: Tensor,
    y: Optional,
    wx: Optional,
    wy: Optional,
    rates: Optional,
    coefs: Sequence[float] | Optional,
    static: Static,
    wanted: Wanted,
) -> Sweep:
    return backends.run(
        static.backend,
        x,
        y,
        wx,
        wy,
        decode(static.components),
        list(static.constants) if rates is None else rates,
        coefs,
        static.blocks,
        wanted,
    )


def form_and_gradients(
    x: Tensor,
    y: Optional,
    wx: Optional,
    wy: Optional,
    rates: Optional,
    form: Form,
    static: Static,
    wanted: Wanted,
) -> tuple[Tensor, ...]:
    """The total [B], and the gradients of a sweep."""
    return backends.form(
        static.backend,
        x,
        y,
        wx,
        wy,
        decode(static.components),
        list(static.constants) if rates is None else rates,
        form,
        static.blocks,
        wanted,
    )


def _needed(ctx: Any, first: int = 0) -> Wanted:
    """Which of the four inputs x, y, wx, wy, starting at ``first``, need a gradient."""
    needs = ctx.needs_input_grad[first : first + 4]
    return Wanted(False, *(bool(n) for n in needs))


def _for_inputs(out: Sequence[Tensor], wanted: Wanted) -> tuple[Optional, ...]:
    """grad_x, grad_y, grad_wx, grad_wy with None for what was not wanted."""
    return tuple(g if flag else None for g, flag in zip(out, wanted[1:], strict=True))


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """``function.apply``, which has no annotations."""
    return function.apply(*args)  # type: ignore[no-untyped-call]


# --- vmap ----------------------------------------------------------------------------------------


def _batched(function: Callable[..., Any], tensors: int) -> Callable[..., Any]:
    """The vmap rule of an operation whose first ``tensors`` arguments are [B, ...] tensors or None:
    the new dimension is folded into B, and taken out of every result again."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        size = info.batch_size

        def fold(value: Optional, dim: int | None) -> Optional:
            if value is None:
                return None
            moved = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
            return moved.reshape(-1, *value.shape[1:] if dim is None else moved.shape[2:])

        folded = [fold(a, d) for a, d in zip(args[:tensors], in_dims[:tensors], strict=True)]
        results = function(*folded, *args[tensors:])

        def unfold(result: Optional) -> Optional:
            if result is None:
                return None
            if result.dim() == 1 and result.numel() == 0:  # an output that was not wanted
                return result.expand(size, 0)
            return result.reshape(size, -1, *result.shape[1:])

        if isinstance(results, tuple):
            return tuple(unfold(r) for r in results), tuple(
                None if r is None else 0 for r in results
            )
        return unfold(results), 0

    return rule


# --- Eager door ----------------------------------------------------------------------------------


class PairHessian(torch.autograd.Function):
    """(x, y, wx, wy, rates, coefs, u, v, p, q) -> gradients for x, y, wx, wy, coefs; of the first
    four those that are ``needed``."""

    @staticmethod
    def forward(
        x: Tensor,
        y: Optional,
        wx: Optional,
        wy: Optional,
        rates: Optional,
        coefs: Tensor,
        u: Optional,
        v: Optional,
        p: Optional,
        q: Optional,
        static: Static,
        needed: tuple[bool, bool, bool, bool],
    ) -> tuple[Optional, ...]:
        return pair_hessian(
            x,
            y,
            wx,
            wy,
            decode(static.components),
            list(static.constants) if rates is None else rates,
            coefs,
            static.blocks,
            (u, v, p, q),
            needed,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            "third-order derivatives of pair sums are not implemented; for small samples compose "
            "the kernel from torch operations instead"
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _batched(partial(apply, PairHessian), 10)(info, in_dims, *args)


class PairGradients(torch.autograd.Function):
    """(x, y, wx, wy, rates, coefs [B, blocks, C]) -> ∂(Σ coefs·S)/∂(x, y, wx, wy)."""

    @staticmethod
    def forward(
        x: Tensor,
        y: Optional,
        wx: Optional,
        wy: Optional,
        rates: Optional,
        coefs: Tensor,
        static: Static,
        wanted: Wanted,
    ) -> tuple[Tensor, ...]:
        return tuple(sweep(x, y, wx, wy, rates, coefs, static, wanted)[1:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.static, ctx.wanted = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *directions: Optional) -> Any:
        wanted = zip(directions, ctx.wanted[1:], strict=True)
        u, v, p, q = (d if flag else None for d, flag in wanted)
        needed = tuple(_needed(ctx)[1:])
        gx, gy, gwx, gwy, gcoefs = apply(
            PairHessian, *ctx.saved_tensors, u, v, p, q, ctx.static, needed
        )
        return gx, gy, gwx, gwy, None, gcoefs, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _batched(partial(apply, PairGradients), 6)(info, in_dims, *args)


class PairSums(torch.autograd.Function):
    """(x, y, wx, wy, rates) -> S [B, blocks, C]."""

    @staticmethod
    def forward(
        x: Tensor, y: Optional, wx: Optional, wy: Optional, rates: Optional, static: Static
    ) -> Tensor:
        return sweep(x, y, wx, wy, rates, None, static, Wanted(sums=True)).sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.static = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        wanted = _needed(ctx)
        out = apply(PairGradients, *ctx.saved_tensors, grad, ctx.static, wanted)
        return *_for_inputs(out, wanted), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _batched(partial(apply, PairSums), 5)(info, in_dims, *args)


class PairForm(torch.autograd.Function):
    """(x, y, wx, wy, rates, form) -> the total of the form [B], and the gradients that ``wanted``
    foresees."""

    @staticmethod
    def forward(
        x: Tensor,
        y: Optional,
        wx: Optional,
        wy: Optional,
        rates: Optional,
        form: Form,
        static: Static,
        wanted: Wanted,
    ) -> tuple[Tensor, ...]:
        return form_and_gradients(x, y, wx, wy, rates, form, static, wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.form, ctx.static, ctx.wanted = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Optional, *unused: Any) -> Any:
        wanted = _needed(ctx)
        if grad is None:
            return (None,) * 8
        saved = ctx.saved_tensors  # once: checkpointing recomputes at every access
        inputs, ready = saved[:5], saved[5:]
        foreseen = all(have or not need for have, need in zip(ctx.wanted, wanted, strict=True))
        if foreseen and not torch.is_grad_enabled():
            out = [scale(g, grad) for g in ready]
        else:  # differentiated twice, or under a transform that hid requires_grad
            scaled = scaled_coefs(grad, ctx.form, inputs[0], inputs[1], ctx.static.blocks)
            out = apply(PairGradients, *inputs, scaled, ctx.static, wanted)
        return *_for_inputs(out, wanted), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _batched(partial(apply, PairForm), 5)(info, in_dims, *args)


class Potential(torch.autograd.Function):
    """(x, y, wy, rates, coefs) -> Σ_c coefs_c Σⱼ wyⱼ k_c(xᵢ, yⱼ) [B, n]."""

    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        wy: Optional,
        rates: Optional,
        coefs: tuple[float, ...],
        static: Static,
    ) -> Tensor:
        return sweep(x, y, None, wy, rates, coefs, static, Wanted(grad_wx=True)).grad_wx

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.coefs, ctx.static = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y, wy, rates = ctx.saved_tensors
        need_x, need_y, need_w = ctx.needs_input_grad[:3]
        wanted = Wanted(grad_x=need_x, grad_y=need_y, grad_wy=need_w)
        coefs = numbers(ctx.coefs, grad).double().expand(x.shape[0], 1, -1)
        out = apply(PairGradients, x, y, grad, wy, rates, coefs, ctx.static, wanted)
        gx, gy, _, gw = _for_inputs(out, wanted)
        return gx, gy, gw, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return _batched(partial(apply, Potential), 4)(info, in_dims, *args)


def numbers(values: Sequence[float], like: Tensor) -> Tensor:
    """A small constant tensor, made by fills: a copy from the host would synchronise and could not
    be captured in a CUDA graph."""
    return torch.stack([like.new_full((), v) for v in values])


def scaled_coefs(grad: Tensor, form: Form, x: Tensor, y: Optional, blocks: Blocks) -> Tensor:
    """Coefficients of the sums [B, blocks, C] in fp64, times grad [B]."""
    coefs = form_coefs(form, x.shape[1], 0 if y is None else y.shape[1], blocks)
    grad = grad.double()
    scaled = grad.unsqueeze(-1) * numbers(coefs, grad)
    return scaled.reshape(grad.shape[0], len(block_names(blocks)), -1)


def scale(gradient: Tensor, factor: Tensor) -> Tensor:
    """gradient [B, ...]·factor [B]."""
    if gradient.dim() == 1:  # not wanted
        return gradient
    shape = (-1,) + (1,) * (gradient.dim() - 1)
    return gradient * factor.to(gradient.dtype).view(shape)


# torch binds the arguments of ``forward`` at every call; a stored signature saves it from deriving
# the same one each time, 50 µs of a small loss.
for _function in (PairHessian, PairGradients, PairSums, PairForm, Potential):
    _function.forward.__signature__ = inspect.signature(_function.forward)  # type: ignore[union-attr]
