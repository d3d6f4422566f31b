"""Losses over the rows of all processes of a torch.distributed group.

With ``group=`` the sample is all rows in the order of ranks; every process holds as many. Gradient
contract, as of DistributedDataParallel and FSDP, which average gradients over processes: for plain
tensors the gradient of a process's rows is P·∂L/∂rows, P the size of the group, so that after
averaging parameters have that of the loss L of the whole batch; for DTensors it is ∂L/∂rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from .kernels import Kernel
from .kernels.api import pair_form
from .kernels.validation import check_sample, check_samples

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

Group: TypeAlias = "dist.ProcessGroup | DeviceMesh"
OWN_ROWS = 2**22  # pairs of rows from which on a process sweeps over those with its own alone


def gather_rows(x: Tensor, group: Group, *, same_shapes: bool = False) -> Tensor:
    """The rows of all processes, differentiable any number of times.

    For losses that have no ``group=``: evaluate them on gathered rows, the same on every process.
    The gradient of a process's rows is the sum of what comes back on all processes.

    Args:
        x: [n, …], of the same shape and dtype on every process.
        group: a ProcessGroup or a one-dimensional DeviceMesh.
        same_shapes: of callers who know; otherwise shapes are exchanged first, which synchronises.

    Returns:
        [P·n, …] in the order of ranks.

    Raises:
        ValueError: shapes or dtypes differ between processes (on all of them).
    """
    members = process_group(group)
    if not (same_shapes or torch.compiler.is_compiling()):
        _same_everywhere(members, x.device, {"x": x})
    rows: Tensor = _Gather.apply(x, members)  # type: ignore[no-untyped-call]
    return rows


def process_group(group: Group) -> dist.ProcessGroup:
    """Raises ValueError for a mesh of several dimensions, TypeError for anything else."""
    if isinstance(group, dist.ProcessGroup):
        return group
    from torch.distributed.device_mesh import DeviceMesh

    if not isinstance(group, DeviceMesh):
        raise TypeError(
            f"group must be a ProcessGroup or a DeviceMesh; got {type(group).__name__} (is this "
            "process a member of it?)"
        )
    if group.ndim != 1:
        raise ValueError(
            f"group must be a mesh of one dimension; got {group}: take mesh['name of a dimension']"
        )
    return group.get_group()


def over_group(
    x: Tensor,
    y: Tensor | None,
    group: Group | None,
    loss: Callable[..., Tensor],
    kernel: Kernel | None = None,
    estimator: str = "unbiased",
    backend: str | None = None,
) -> Tensor:
    """``loss`` of the rows of all processes, the same on each; gradients as the module says.

    Args:
        x, y: this process's rows [n, d] and [m, d], or DTensors, whose mesh is the group; y is None
            for losses against an exact prior.
        group: None for DTensors.
        loss: of all rows.
        kernel: of a ``loss`` that is the squared discrepancy of a kernel and large: the work on
            pairs is then shared.
        estimator, backend: of that.

    Raises:
        ValueError: numbers of rows or columns that differ between processes (on all of them), a
            batch, or bad samples (on all; on those without fault it says which rank has them).
        NotImplementedError: from the backward pass, for second derivatives.
    """
    named = {"x": x} if y is None else {"x": x, "y": y}
    meshes: list[DeviceMesh] = [t.device_mesh for t in named.values() if is_dtensor(t)]  # type: ignore[attr-defined]
    if meshes:
        if len(meshes) < len(named) or any(mesh != meshes[0] for mesh in meshes):
            raise ValueError("x and y must both be DTensors of one mesh, or both plain tensors")
        if group is None:
            group = meshes[0]
    assert group is not None
    members = process_group(group)
    size, rank = dist.get_world_size(members), dist.get_rank(members)
    factor = 1.0 if meshes else float(size)
    problem = None
    try:
        own = {name: local_rows(t, name, rank, size) for name, t in named.items()}
        checked = check_samples(own["x"], own["y"]) if y is not None else (check_sample(own["x"]),)
        own = dict(zip(own, checked, strict=True))
        for name, t in own.items():
            if t.dim() != 2:
                raise ValueError(
                    f"with group=, {name} must be [n, d]: batches are not shared; got "
                    f"{list(t.shape)}: gather_rows(x, group), then the loss without group"
                )
    except (ValueError, TypeError) as error:
        if torch.compiler.is_compiling():
            raise
        problem = error
    scaled = {}
    if problem is None:
        scaled = {n: _Scaled.apply(t, factor) for n, t in own.items()}  # type: ignore[no-untyped-call]
    moving: set[str] = set()
    if not torch.compiler.is_compiling():
        moving = _same_everywhere(members, x.device, scaled, problem)
    whole = {name: _all_rows(t.detach(), members) for name, t in own.items()}
    pairs = sum(len(t) for t in whole.values()) ** 2
    if kernel is not None and pairs >= OWN_ROWS and not torch.compiler.is_compiling():
        value = _shared_work(scaled, whole, moving, rank, members, kernel, estimator, backend)
    else:
        rows = {n: _with_own(whole[n], scaled[n], rank) for n in named}
        value = loss(*rows.values())
    if not meshes:
        return value
    from torch.distributed.tensor import DTensor, Replicate

    return DTensor.from_local(value, meshes[0], [Replicate()], run_check=False)


def is_dtensor(x: object) -> bool:
    """Without importing what only its users have imported."""
    return type(x).__name__ == "DTensor" and hasattr(x, "device_mesh")


def refuse_weights(*weights: Tensor | None) -> None:
    """Raises NotImplementedError for weights beside a group."""
    if any(w is not None for w in weights):
        raise NotImplementedError(
            "weights with group= are not available: gather_rows(x, group) and gather_rows(weights, "
            "group), then the loss without group"
        )


# --- Rows of this process and of the others -------------------------------------------------------


def local_rows(x: Tensor, name: str, rank: int, size: int) -> Tensor:
    """This process's rows, of a plain tensor or a DTensor."""
    if not is_dtensor(x):
        return x
    from torch.distributed.tensor import Partial, Replicate, Shard

    sharded: DTensor = x  # type: ignore[assignment]
    (placement,) = sharded.placements
    if placement == Shard(0):
        return sharded.to_local()
    if placement == Replicate():
        if len(x) % size:
            raise ValueError(
                f"{name} is replicated: its {len(x)} rows must be a multiple of {size} processes"
            )
        n = len(x) // size
        return sharded.to_local(grad_placements=[Partial()])[rank * n : (rank + 1) * n]
    raise ValueError(f"{name} must be placed Shard(0) or Replicate; got {placement}")


def _same_everywhere(
    group: dist.ProcessGroup,
    device: torch.device,
    tensors: dict[str, Tensor],
    problem: Exception | None = None,
) -> set[str]:
    """Exchanges shapes and dtypes; the names of tensors that need a gradient on any process.
    Raises ``problem`` where there is one, and ValueError on all processes where they differ or
    another has a problem. Synchronises."""
    header = [0] * 32
    for at, t in zip((0, 16), tensors.values(), strict=False):
        kind = 8 * t.element_size() + t.is_floating_point()
        header[at : at + 3 + t.dim()] = [1, kind, t.dim(), *t.shape]
        header[at + 15] = t.requires_grad
    found = torch.stack(each_process(torch.tensor(header, device=device), group)).cpu()
    if problem is not None:
        raise problem
    silent = (found[:, 0] == 0).nonzero().flatten().tolist()
    if silent:
        raise ValueError(f"bad samples on rank {', '.join(map(str, silent))} of the group")
    for at, name in zip((0, 16), tensors, strict=False):
        part = found[:, at : at + 15]
        if not bool((part == part[:1]).all()):
            shapes = [row[3 : 3 + row[2]] for row in part.tolist()]
            raise ValueError(
                f"{name} must have the same shape and dtype on every process of the group; got "
                f"shapes {', '.join(f'{s} on rank {r}' for r, s in enumerate(shapes))}: drop or "
                "pad the rows that are over"
            )
    return {name for at, name in zip((15, 31), tensors, strict=False) if found[:, at].any()}


def each_process(x: Tensor, group: dist.ProcessGroup) -> list[Tensor]:
    """x of every process, without gradients."""
    found = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, x.contiguous(), group=group)
    return found


def _all_rows(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    return torch.cat(each_process(x.contiguous(), group))


def _with_own(whole: Tensor, own: Tensor, rank: int) -> Tensor:
    """All rows, of which those of this process carry their gradient."""
    if not own.requires_grad:
        return whole
    n = len(own)
    return torch.cat([whole[: rank * n], own, whole[(rank + 1) * n :]])


class _Gather(torch.autograd.Function):
    """[n, …] of every process to [P·n, …]; the adjoint sums and takes this process's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group, ctx.rows = group, len(x)
        return _all_rows(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _SumOwn.apply(gradient, ctx.group, ctx.rows), None  # type: ignore[no-untyped-call]


class _SumOwn(torch.autograd.Function):
    """[P·n, …] summed over processes, of which this one's n rows; adjoint to `_Gather`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, rows: int) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        start = dist.get_rank(group) * rows
        return total[start : start + rows]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(gradient, ctx.group), None, None  # type: ignore[no-untyped-call]


class _Scaled(torch.autograd.Function):
    """x; the gradient is multiplied by ``factor``. Refuses second derivatives, which would lack
    the other processes' part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise NotImplementedError(
                "second derivatives with group= are not available: gather_rows(x, group), then the "
                "loss without group"
            )
        return gradient * ctx.factor, None


# --- Sharing the work on pairs --------------------------------------------------------------------


def _shared_work(
    own: dict[str, Tensor],
    whole: dict[str, Tensor],
    moving: set[str],
    rank: int,
    group: dist.ProcessGroup,
    kernel: Kernel,
    estimator: str,
    backend: str | None,
) -> Tensor:
    """The squared discrepancy, of which every process forms the pairs with its own rows.

    Pairs of rows of two processes are in the gradient of both, and each takes that of its own row:
    twice as much as its share of the sum. Pairs within a sample without gradient are formed once;
    ``moving`` are those that have one on any process, so that all count pairs alike.
    """
    x, y = own["x"], own["y"]
    n, m = len(whole["x"]), len(whole["y"])
    resolved = kernel.resolve(whole["x"], whole["y"])
    a, b = (1 / (k * (k - 1 if estimator == "unbiased" else k)) for k in (n, m))
    c = -2.0 / (n * m)

    def others(name: str) -> Tensor:
        k = len(own[name])
        return torch.cat([whole[name][: rank * k], whole[name][(rank + 1) * k :]])

    def between(u: Tensor, v: Tensor, factor: float) -> Tensor:
        return pair_form(u, v, resolved, (factor,), backend=backend)

    biased = estimator == "biased"
    here = pair_form(x, y, resolved, (a, b, c), diagonal=biased, backend=backend)
    cross = between(x, others("y"), c)
    local, known = here + cross, (here + cross).detach()
    for name, factor in (("x", a), ("y", b)):
        if name in moving:
            across = between(own[name], others(name), factor)
            local, known = local + 2.0 * across, known + across.detach()
        else:
            once = _each_once(whole[name], len(own[name]), rank)
            known = known + sum(between(u, v, 2.0 * factor) for u, v in once)
    total = torch.stack(each_process(known, group)).sum()  # in rank order: all have the same bits
    if y.requires_grad:
        local = local + between(y, others("x"), c)
    if local.requires_grad:
        total = total + (local - local.detach())
    return total.to(x.dtype)


def _each_once(rows: Tensor, own: int, rank: int) -> list[tuple[Tensor, Tensor]]:
    """Rows [i, d] and [j, d] of all pairs that this process forms, so that each pair of rows of two
    processes is formed by one of them: with the half of processes that follow, and with half of the
    rows of the one opposite."""
    parts = torch.split(rows, own)
    size = len(parts)
    found = []
    following = [parts[(rank + k) % size] for k in range(1, (size + 1) // 2)]
    if following:
        found.append((parts[rank], torch.cat(following)))
    if size % 2 == 0:
        opposite = parts[(rank + size // 2) % size]
        first = rank < size // 2
        u, v = (parts[rank], opposite[: own // 2]) if first else (parts[rank][own // 2 :], opposite)
        if len(u) and len(v):
            found.append((u, v))
    return found
