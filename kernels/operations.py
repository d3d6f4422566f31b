"""The differentiable operations on a ``PairProblem``, each defined once.

* ``PairForm``: L = Σ coefs·S + constant, with its gradients from the same sweep, so that backward
  only multiplies: the losses.
* ``PairSums``: every S[block, component]; its backward is one more sweep.
* ``Potential``: Σⱼ wⱼ k(xᵢ, yⱼ).
* ``PairGradients``: the gradients of L, to which the backward of the others comes where it is
  differentiated in its turn. Its own backward is ``PairHessian``, the same for every backend.

Each is a ``torch.autograd.Function`` in eager mode, another one with a ``vmap`` rule under the
transforms of ``torch.func``, and a custom operator while ``torch.compile`` traces. A compiled graph
cannot be differentiated twice (a limit of ``torch.compile``, which says so).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import backends
from .problem import PairProblem, Wanted, block_names, decode, tensors_of
from .second_order import pair_hessian
from .validation import transforms_active

Tensors = Sequence[Tensor | None]
TENSORS = 6  # those of ``problem.tensors_of``


class Given(NamedTuple):
    """What ``backward`` is given beside the problem."""

    grads: Tensors  # of the outputs
    ready: Tensors  # what ``forward`` gave after the outputs
    needed: Sequence[bool]  # which of ``problem.tensors_of`` need a gradient
    gradients: Callable[[PairProblem], Tensors]  # ``PairGradients``, as the caller reaches it

    @property
    def wanted(self) -> Wanted:
        return Wanted(False, *self.needed[:4])


class Operation:
    """A differentiable operation; ``apply`` carries it out."""

    outputs = 1  # how many results can be differentiated
    name, returns = "", ""  # of the custom operator, if there is one
    operator: Any = None

    forward: Callable[..., Tensors]
    """Of a problem: the outputs, then what ``backward`` likes to have ready."""

    @staticmethod
    def shapes(problem: PairProblem) -> Tensors:
        """Uninitialised results of ``forward``."""
        raise NotImplementedError

    @staticmethod
    def backward(problem: PairProblem, given: Given) -> Tensors:
        """The gradients of ``tensors_of`` the problem, at least those that are needed."""
        raise NotImplementedError

    @classmethod
    def apply(cls, problem: PairProblem, *more: Tensor | None) -> Any:
        """The output, or several."""
        if torch.compiler.is_compiling():
            found = cls.traced(problem)
            return found if isinstance(found, Tensor) else _outputs(cls, found)
        tensors = (*tensors_of(problem), *more)
        if transforms_active() or forward_ad._current_level >= 0:
            rest = problem.without_tensors()
            return _outputs(cls, _Transformed.apply(cls, rest, *tensors))  # type: ignore[no-untyped-call]
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            return _Eager.apply(cls, problem.without_tensors(), *tensors)  # type: ignore[no-untyped-call]
        return _outputs(cls, cls.forward(problem, *more))

    @classmethod
    def traced(cls, problem: PairProblem) -> Any:
        """The results of the custom operator, empty where not wanted."""
        return cls.operator(*_arguments(problem))


def _outputs(operation: type[Operation], found: Tensors) -> Any:
    return found[0] if operation.outputs == 1 else tuple(found[: operation.outputs])


# --- What an operation is made into --------------------------------------------------------------


def _backward(
    ctx: Any, grads: Tensors, first: int, gradients: Callable[[PairProblem], Tensors]
) -> Tensors:
    saved = ctx.saved_tensors  # once: checkpointing recomputes at every access
    problem = ctx.problem.with_tensors(saved[:TENSORS])
    needed = ctx.needs_input_grad[first : first + TENSORS]
    if all(grad is None for grad in grads):
        return (None,) * TENSORS
    given = Given(grads, saved[TENSORS:], needed, gradients)
    found = ctx.operation.backward(problem, given)
    return [g if need else None for g, need in zip(found, needed, strict=True)]


def _keep(ctx: Any, operation: type[Operation], problem: PairProblem, tensors: Tensors) -> None:
    ctx.operation, ctx.problem = operation, problem
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


class _Eager(torch.autograd.Function):
    """(operation, problem without tensors, tensors) -> the outputs."""

    @staticmethod
    def forward(ctx: Any, operation: type[Operation], problem: PairProblem, *tensors: Any) -> Any:
        own, more = tensors[:TENSORS], tensors[TENSORS:]
        found = operation.forward(problem.with_tensors(own), *more)
        _keep(ctx, operation, problem, (*own, *found[operation.outputs :]))
        return _outputs(operation, found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        found = _backward(ctx, grads, 2, PairGradients.apply)
        return None, None, *found, *((None,) * (len(ctx.needs_input_grad) - 2 - TENSORS))


class _Transformed(torch.autograd.Function):
    """The same for ``torch.func``, whose outputs include what is made ready for ``backward``."""

    @staticmethod
    def forward(operation: type[Operation], problem: PairProblem, *tensors: Any) -> Any:
        return tuple(operation.forward(problem.with_tensors(tensors[:TENSORS]), *tensors[TENSORS:]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        operation, problem, *tensors = inputs
        ready = output[operation.outputs :]
        ctx.mark_non_differentiable(*(t for t in ready if t is not None))
        _keep(ctx, operation, problem, (*tensors[:TENSORS], *ready))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        return _Eager.backward(ctx, *grads[: ctx.operation.outputs])

    @staticmethod
    def vmap(info: Any, in_dims: Any, operation: Any, problem: PairProblem, *tensors: Any) -> Any:
        """A new batch dimension, the first, of every tensor and result."""
        size = info.batch_size
        moved = [
            t if t is None else t.expand(size, *t.shape) if k is None else t.movedim(k, 0)
            for t, k in zip(tensors, in_dims[2:], strict=True)
        ]
        found = _Transformed.apply(operation, problem, *moved)  # type: ignore[no-untyped-call]
        return found, tuple(None if t is None else 0 for t in found)


ARGUMENTS = """Tensor x, Tensor? y, Tensor? wx, Tensor? wy, Tensor? rates, Tensor? coefs,
    str key, float[] rate_numbers, float[] coef_numbers, str blocks, bool[] wanted, str means,
    bool diagonal, str backend"""


def _arguments(problem: PairProblem) -> tuple[Any, ...]:
    """Those of a custom operator."""
    p = problem
    return (
        *tensors_of(p),
        p.key,
        [] if isinstance(p.rates, Tensor) else list(p.rates),
        [] if isinstance(p.coefs, Tensor) else list(p.coefs),
        p.blocks,
        list(p.wanted),
        p.means,
        p.diagonal,
        p.backend,
    )


def _problem(arguments: Sequence[Any]) -> PairProblem:
    tensors, rest = arguments[:TENSORS], arguments[TENSORS:]
    key, rates, coefs, blocks, wanted, means, diagonal, backend = rest
    numbers = tuple(rates), tuple(coefs)
    given = None, None, None, None, *numbers, decode(key), blocks, Wanted(*wanted), means, diagonal
    return PairProblem(*given, backend=backend, key=key).with_tensors(tensors)  # type: ignore[arg-type]


def _operator(operation: type[Operation]) -> Any:
    """The custom operator ``divergences::`` of an operation, which ``torch.compile`` does not look
    into."""

    def made(problem: PairProblem, found: Tensors) -> Any:
        full = tuple(problem.x.new_empty(0) if t is None else t for t in found)
        return full[0] if operation.returns == "Tensor" else full

    def run(*arguments: Any) -> Any:
        problem = _problem(arguments)
        return made(problem, operation.forward(problem))

    def fake(*arguments: Any) -> Any:
        problem = _problem(arguments)
        return made(problem, operation.shapes(problem))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ready = () if isinstance(output, Tensor) else output[operation.outputs :]
        ctx.mark_non_differentiable(*ready)
        problem = _problem(inputs).without_tensors()
        _keep(ctx, operation, problem, (*inputs[:TENSORS], *ready))

    def gradients(problem: PairProblem) -> Tensors:
        found: Tensors = PairGradients.operator(*_arguments(problem))
        return found

    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        found = _backward(ctx, grads[: operation.outputs], 0, gradients)
        return *found, *((None,) * (len(ctx.needs_input_grad) - TENSORS))

    schema = f"({ARGUMENTS}) -> {operation.returns}"
    name = f"divergences::{operation.name}"
    operator = torch.library.custom_op(name, run, mutates_args=(), schema=schema)
    operator.register_fake(fake)
    if operation is not PairGradients:
        operator.register_autograd(backward, setup_context=setup_context)
    return operator


# --- The operations ------------------------------------------------------------------------------


class PairForm(Operation):
    """L [...] in the dtype of the problem, and the gradients of it that are ``wanted``."""

    name = "pair_form"
    returns = "(Tensor, Tensor, Tensor, Tensor, Tensor)"

    forward = staticmethod(backends.form)

    @staticmethod
    def shapes(problem: PairProblem) -> Tensors:
        total = problem.x.new_empty(problem.batch, dtype=problem.dtype)
        return total, *PairGradients.shapes(problem)

    @staticmethod
    def backward(problem: PairProblem, given: Given) -> Tensors:
        (grad,) = given.grads
        assert grad is not None
        have = problem.wanted[1:]
        foreseen = all(h or not need for h, need in zip(have, given.needed, strict=False))
        # Differentiated twice, or under a transform that hid requires_grad, it is an operation.
        if foreseen and not torch.is_grad_enabled():
            ready = zip(given.ready, have, strict=True)
            return *(_times(g, grad) if h else None for g, h in ready), None, None
        coefs = _times_coefs(problem, grad)
        again = problem._replace(coefs=coefs, means="sums", wanted=given.wanted)
        return *given.gradients(again), None, None


class PairSums(Operation):
    """S [..., blocks, C] in fp64."""

    name = "pair_sums"
    returns = "Tensor"

    @staticmethod
    def forward(problem: PairProblem) -> Tensors:
        return (backends.sweep(problem).sums,)

    @staticmethod
    def shapes(problem: PairProblem) -> Tensors:
        shape = *problem.batch, len(block_names(problem.blocks)), len(problem.components)
        return (problem.x.new_empty(shape, dtype=torch.float64),)

    @staticmethod
    def backward(problem: PairProblem, given: Given) -> Tensors:
        again = problem._replace(coefs=given.grads[0], wanted=given.wanted)  # type: ignore[arg-type]
        return *given.gradients(again), None, None


class Potential(Operation):
    """Σ_c coefs_c Σⱼ wyⱼ k_c(xᵢ, yⱼ) [..., n]."""

    name = "potential"
    returns = "Tensor"

    @staticmethod
    def forward(problem: PairProblem) -> Tensors:
        return (backends.sweep(problem).grad_wx,)

    @staticmethod
    def shapes(problem: PairProblem) -> Tensors:
        return (problem.x.new_empty(problem.x.shape[:-1]),)

    @staticmethod
    def backward(problem: PairProblem, given: Given) -> Tensors:
        (grad,) = given.grads
        assert grad is not None
        coefs = _numbers(problem.coefs, grad).double()
        coefs = coefs.expand(*problem.batch, 1, len(coefs))
        wanted = given.wanted._replace(grad_wx=False)
        again = problem._replace(wx=grad.contiguous(), coefs=coefs, wanted=wanted)
        return *given.gradients(again), None, None


class PairGradients(Operation):
    """∂L/∂(x, y, wx, wy), those ``wanted``, for coefs [..., blocks, C]."""

    outputs = 4
    name = "pair_gradients"
    returns = "(Tensor, Tensor, Tensor, Tensor)"

    @staticmethod
    def forward(problem: PairProblem) -> Tensors:
        return backends.sweep(problem)[1:]

    @staticmethod
    def shapes(problem: PairProblem) -> Tensors:
        x, y = problem.x, problem.x if problem.y is None else problem.y
        shapes = x.shape, y.shape, x.shape[:-1], y.shape[:-1]
        pairs = zip(shapes, problem.wanted[1:], strict=True)
        return [x.new_empty(shape) if flag else None for shape, flag in pairs]

    @staticmethod
    def backward(problem: PairProblem, given: Given) -> Tensors:
        again = problem._replace(wanted=given.wanted)
        *found, of_coefs = PairHessian.apply(again, *given.grads)
        return *found, None, of_coefs


class PairHessian(Operation):
    """The gradients of ⟨∂L/∂(x, y, wx, wy), directions⟩: of x, y, wx, wy, those ``wanted``, and of
    coefs."""

    outputs = 5

    forward = staticmethod(pair_hessian)

    @staticmethod
    def backward(problem: PairProblem, given: Given) -> Tensors:
        raise NotImplementedError(
            "third-order derivatives of pair sums are not implemented; for small samples compose "
            "the kernel from torch operations instead"
        )


for _operation in (PairGradients, PairForm, PairSums, Potential):
    _operation.operator = _operator(_operation)


def _numbers(values: Any, like: Tensor) -> Tensor:
    """A small constant tensor, made by fills: a copy from the host would synchronise and could not
    be captured in a CUDA graph."""
    return torch.stack([like.new_full((), v) for v in values])


def _times_coefs(problem: PairProblem, grad: Tensor) -> Tensor:
    """The coefficients of the sums [..., blocks, C] in fp64, times grad [...]."""
    grad = grad.double()
    scaled = grad.unsqueeze(-1) * _numbers(problem.sum_coefs, grad)
    return scaled.view(*grad.shape, len(block_names(problem.blocks)), len(problem.components))


def _times(gradient: Tensor | None, factor: Tensor) -> Tensor:
    """gradient [..., n, d] or [..., n] times factor [...]."""
    assert gradient is not None
    factor = factor.to(gradient.dtype)
    return gradient * factor.view(*factor.shape, *((1,) * (gradient.dim() - factor.dim())))
