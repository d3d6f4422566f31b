"""Hypothesis tests of the rows of all processes of a torch.distributed group.

Every process hands in its own rows, and a sample is the rows of all in the order of ranks. They are
gathered on every process; the work on pairs of rows is shared, sums are added up, and every process
returns the same result, that of one process with all rows.
"""

from __future__ import annotations

import functools
import inspect
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from .checkpoint import Checkpoint, checkpoint_of
from .chunks import is_read_in_chunks, rows_of
from .distributed import each_process, is_dtensor, local_rows, process_group
from .kernel_matrix import is_kernel_matrix
from .kernels import Kernel
from .kernels.statistics.sharing import Share, shared
from .samples import as_labels, as_sample, column_names, generator_of

P = ParamSpec("P")
R = TypeVar("R")

LARGE = 2**16  # numbers from which on sums are reduced and not gathered


class GroupShare(Share):
    """The part of this process among those of a group."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__(dist.get_rank(group), dist.get_world_size(group))
        self._group = group

    def total(self, *sums: Tensor) -> None:
        for own in sums:
            if own.numel() >= LARGE:
                whole = own.contiguous()
                dist.all_reduce(whole, group=self._group)
            else:
                whole = torch.stack(each_process(own, self._group)).sum(0)  # in the order of ranks
            own.copy_(whole)

    def check_same(self, what: str, *values: Tensor) -> None:
        sums = [f(v.double()) for v in values for f in (torch.sum, lambda t: t.abs().sum())]
        every = torch.stack(each_process(torch.stack(sums), self._group)).cpu()
        apart = (every - every[0]).abs() > 1e-6 * every[0, 1::2].repeat_interleave(2)
        if apart.any():
            raise ValueError(
                f"{what} must be the same on every process of the group; that of rank "
                f"{int(apart.any(1).nonzero()[0])} is another than that of rank 0"
            )


def takes_group(
    *samples: str, labels: Sequence[str] = (), aligned: str | bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a test of all rows one that takes ``group=``.

    Args:
        samples: the names of its parameters that hold rows, of which the last may be variadic.
        labels: those that hold a label for each row of all samples in turn.
        aligned: row i of all samples belongs together (then labels are those of row i); or the name
            of the option that says so.
    """

    def decorate(test: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(test)

        @functools.wraps(test)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            given = (*args, *kwargs.values())
            if kwargs.get("group") is None and not any(is_dtensor(value) for value in given):
                return test(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return _over_group(test, bound, samples, labels, aligned)

        return run

    return decorate


class _Own(NamedTuple):
    """What a process says of its call before rows are exchanged."""

    test: str
    error: Exception | None
    shapes: list[tuple[int, ...]]
    kinds: list[str]  # dtypes and devices
    columns: list[list[str] | None]
    labels: dict[str, NDArray[Any]]
    options: dict[str, str]
    source: str  # of random numbers
    seed: int | None
    saved: bytes | None  # of the checkpoint, in rank 0; None without one


def _over_group(
    test: Callable[..., R],
    bound: inspect.BoundArguments,
    samples: Sequence[str],
    labels: Sequence[str],
    aligned: str | bool,
) -> R:
    given = bound.arguments
    of_rows = [value for name in samples for value in _listed(bound, name)]
    meshes = [value.device_mesh for value in of_rows if is_dtensor(value)]
    members = process_group(meshes[0] if given["group"] is None else given["group"])
    together = aligned if isinstance(aligned, bool) else given[aligned] is True
    rows: list[Tensor] = []
    own = _Own(test.__name__, None, [], [], [], {}, {}, "", None, None)
    try:
        if meshes and (len(meshes) < len(of_rows) or any(mesh != meshes[0] for mesh in meshes)):
            raise ValueError("samples must all be DTensors of one mesh, or all plain")
        names = [n for name in samples for n in _titles(bound, name)]
        rows = [_rows(value, name, members) for value, name in zip(of_rows, names, strict=True)]
        own = _describe(own, rows, of_rows, given, {*samples}, labels, together)
        if given.get("checkpoint") is not None:
            first = dist.get_rank(members) == 0
            file = checkpoint_of(given["checkpoint"], given["rng"]) if first else None
            own = own._replace(saved=b"" if file is None else file.content)
    except Exception as error:  # of any kind: the others wait for word of it
        own = own._replace(error=_plain(error))
    every: list[_Own] = [own] * dist.get_world_size(members)
    dist.all_gather_object(every, own, group=members)
    _check_alike(every, [*names] if rows else [])
    counts = np.array([[shape[0] for shape in each.shapes] for each in every])  # [P, samples]
    whole = [
        _gathered(own_rows, counts[:, at].tolist(), members) for at, own_rows in enumerate(rows)
    ]
    for sample, columns in zip(whole, own.columns, strict=True):
        sample.column_names = columns  # type: ignore[attr-defined]
    for name in own.labels:
        each = [e.labels[name] for e in every]
        given[name] = np.concatenate(each) if together else _by_sample(each, counts)
    among = GroupShare(members)
    given["group"] = None
    given["rng"] = given["rng"] if every[0].seed is None else every[0].seed
    saved = every[0].saved
    if saved is not None:
        given["checkpoint"] = Checkpoint(given["checkpoint"], saved, writes=among.rank == 0)
    given["show_progress"] = False if among.rank else given["show_progress"]
    for name in samples:
        taken = [whole.pop(0) for _ in _listed(bound, name)]
        given[name] = tuple(taken) if _variadic(bound, name) else taken[0]
    with shared(among):
        return test(*bound.args, **bound.kwargs)


def _variadic(bound: inspect.BoundArguments, name: str) -> bool:
    return bound.signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL


def _listed(bound: inspect.BoundArguments, name: str) -> list[Any]:
    value = bound.arguments[name]
    return list(value) if _variadic(bound, name) else [value]


def _titles(bound: inspect.BoundArguments, name: str) -> list[str]:
    several = _variadic(bound, name)
    return [f"sample {k}" for k in range(len(_listed(bound, name)))] if several else [name]


def _rows(value: Any, name: str, group: dist.ProcessGroup) -> Tensor:
    """This process's rows [n, d], in which only NaN is let through."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    own = local_rows(value, name, rank, size)
    if is_read_in_chunks(own) and not hasattr(own, "__array__"):
        own = torch.cat([*rows_of(own, name).read()])
    sample = as_sample(own, name, missing=True)
    if sample.device.type not in dist.get_backend_config(group):
        raise ValueError(
            f"{name} is on the device {sample.device.type!r}, for which the group has no backend; "
            f"got one of {dist.get_backend_config(group)!r}"
        )
    return sample


def _describe(
    own: _Own,
    rows: list[Tensor],
    of_rows: list[Any],
    given: dict[str, Any],
    samples: set[str],
    labels: Sequence[str],
    together: bool,
) -> _Own:
    """Raises ValueError or TypeError for what no test of several processes takes."""
    if is_kernel_matrix(given.get("kernel")):
        raise ValueError("a kernel matrix or function with group= is not available; pass a kernel")
    counts = [len(t) for t in rows]
    if together and len(set(counts)) > 1:
        raise ValueError(f"rows belong together and must be as many in all samples; got {counts}")
    count = counts[0] if together else sum(counts)
    rng = given["rng"]
    seed = generator_of(rng)[1]  # None for numpy's generators, which all processes advance alike
    source = "None" if rng is None else f"seed {seed}"
    if isinstance(rng, np.random.Generator):
        source = f"a Generator in state {zlib.crc32(repr(rng.bit_generator.state).encode()):08x}"
    apart = {*samples, *labels, "group", "rng", "show_progress", "checkpoint"}
    return own._replace(
        shapes=[tuple(t.shape) for t in rows],
        kinds=[f"{t.dtype} on {t.device.type}" for t in rows],
        columns=[column_names(value) for value in of_rows],
        labels={n: as_labels(given[n], count, n) for n in labels if given[n] is not None},
        options={name: _said(value) for name, value in given.items() if name not in apart},
        source=source,
        seed=seed,
    )


def _said(value: Any) -> str:
    """What tells an option from others; functions and models are told by their type alone."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return repr(value.tolist())
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_said, value))}]"
    if isinstance(value, Kernel):
        widths = [t.bandwidth.tolist() for t in value.terms if isinstance(t.bandwidth, Tensor)]
        return f"{value!r} of {widths}" if widths else repr(value)
    return repr(value) if isinstance(value, str | int | float | None) else type(value).__name__


def _plain(error: Exception) -> Exception:
    """An error that can be raised from its message, and in another process."""
    for kind in (TypeError, ValueError, OSError, ModuleNotFoundError):
        if isinstance(error, kind):
            return kind(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}")


def _check_alike(every: list[_Own], names: list[str]) -> None:
    """Raises the same error on all processes where one has bad samples, or calls differ."""
    for rank, each in enumerate(every):
        if each.error is not None:
            raise type(each.error)(f"rank {rank}: {each.error}")
    first = every[0]
    for rank, each in enumerate(every):
        told = {
            "the test": (first.test, each.test),
            "the number of samples": (len(first.shapes), len(each.shapes)),
            "rng": (first.source, each.source),
            "the labels given": (sorted(first.labels), sorted(each.labels)),
            "checkpoint": tuple("none" if e.saved is None else "a file" for e in (first, each)),
        }
        for at, name in enumerate(names[: len(each.shapes)] if each.test == first.test else []):
            told |= {
                f"the number of columns of {name}": (first.shapes[at][1], each.shapes[at][1]),
                f"the dtype of {name}": (first.kinds[at], each.kinds[at]),
                f"the columns of {name}": (first.columns[at], each.columns[at]),
            }
        told |= {name: (first.options.get(name), v) for name, v in each.options.items()}
        for what, (here, there) in told.items():
            if here != there:
                raise ValueError(
                    f"{what} must be the same on every process of the group; got {here} on rank 0 "
                    f"and {there} on rank {rank}"
                )


def _gathered(own: Tensor, counts: list[int], group: dist.ProcessGroup) -> Tensor:
    """The rows of all processes, which need not have as many each."""
    padded = own.new_zeros((max(counts), *own.shape[1:]))
    padded[: len(own)] = own
    parts = each_process(padded, group)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def _by_sample(each: list[NDArray[Any]], counts: NDArray[np.int64]) -> NDArray[Any]:
    """Labels of the rows of all processes, sample after sample, from those of each process."""
    parts = [np.split(own, np.cumsum(n)[:-1]) for own, n in zip(each, counts, strict=True)]
    return np.concatenate([part[at] for at in range(counts.shape[1]) for part in parts])
