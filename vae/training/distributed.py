"""Forward outputs of several processes, or of parts of a data set, joined into one batch."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from divergences.distributed import gather_rows
from vae.forward_output import ForwardOutput


def tensors(terms: ForwardOutput) -> dict[str, Tensor]:
    """The fields that are tensors, rows first."""
    values = {field.name: getattr(terms, field.name) for field in fields(terms)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def detached(terms: ForwardOutput) -> ForwardOutput:
    """The values, without the graph that they came from."""
    values: dict[str, Any] = {name: value.detach() for name, value in tensors(terms).items()}
    return replace(terms, **values)


def concatenate(parts: Sequence[ForwardOutput]) -> ForwardOutput:
    """The rows of all parts, one after the other."""
    names = tensors(parts[0])
    rows: dict[str, Any] = {n: torch.cat([getattr(part, n) for part in parts]) for n in names}
    return replace(parts[0], **rows)


def rows_of_all(rows: Tensor) -> Tensor:
    """[b, k] of every process to [world_size·b, k], with gradients."""
    world = dist.group.WORLD
    assert world is not None
    return gather_rows(rows, world, same_shapes=True)


def gather(
    terms: ForwardOutput, all_gather: Callable[[Tensor], Tensor] = rows_of_all
) -> ForwardOutput:
    """The terms of the whole batch, the same on every process, with gradients.

    Every process then evaluates the same loss L. The gradient of a process's rows is summed over
    the processes on the way back, world_size · ∂L/∂rows, and averaged with the others' by DDP:
    what comes out is the gradient of L, as it does for parameters that L depends on directly.

    Args:
        terms: of this process's rows.
        all_gather: `rows_of_all`, or what stands for it.
    """
    values = tensors(terms)
    whole: dict[str, Any] = {}
    # one collective each for what carries gradients and what does not: their order cannot differ
    # between processes
    for carries in (True, False):
        chosen = {name: v for name, v in values.items() if v.requires_grad is carries}
        if chosen:
            whole.update(_gather_together(chosen, all_gather))
    return replace(terms, **whole)


def _gather_together(
    values: dict[str, Tensor], all_gather: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    columns = torch.cat([value.reshape(len(value), -1) for value in values.values()], 1)
    rows = all_gather(columns)
    widths = [value[0].numel() for value in values.values()]
    parts = torch.split(rows, widths, 1)
    return {
        name: part.reshape(len(rows), *value.shape[1:]).to(value.dtype)
        for (name, value), part in zip(values.items(), parts, strict=True)
    }
