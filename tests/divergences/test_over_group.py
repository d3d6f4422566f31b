"""Losses over the rows of several processes, against the same loss of all rows in one.

The processes are spawned once for each number of them; they run every case and leave what they
found in files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import processes
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from divergences import (
    EnergyLoss,
    MMDLoss,
    distributed,
    energy_distance,
    energy_distance_to_normal,
    mmd2,
    mmd2_to_normal,
)
from divergences.distributed import gather_rows
from divergences.kernels import Gaussian, Polynomial

N, M, D = 14, 10, 3  # rows of a process

Loss = Callable[..., Tensor]
LOSSES: dict[str, Loss] = {
    "mmd2": mmd2,
    "median": lambda x, y, **o: mmd2(x, y, bandwidth="median", **o),
    "biased": lambda x, y, **o: mmd2(x, y, kernel=Gaussian(1.5), estimator="biased", **o),
    "polynomial": lambda x, y, **o: mmd2(x, y, kernel=Polynomial(2), estimator="biased", **o),
    "energy": energy_distance,
    "energy in one dimension": lambda x, y, **o: energy_distance(x[:, :1], y[:, :1], **o),
    "MMDLoss": lambda x, y, group=None: MMDLoss(group=group)(x, y),
    "EnergyLoss": lambda x, y, group=None: EnergyLoss(exponent=1.5)(x, y, group=group),
    "mmd2_to_normal": lambda x, _, **o: mmd2_to_normal(x, **o),
    "energy_distance_to_normal": lambda x, _, **o: energy_distance_to_normal(x, **o),
}
SHARED = ("mmd2", "median", "biased", "polynomial", "energy", "EnergyLoss")  # have the other way


def samples(size: int) -> tuple[Tensor, Tensor]:
    """All rows, some of them equal on two processes."""
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(size * N, D, generator=generator, dtype=torch.float64)
    y = 0.3 + 1.2 * torch.randn(size * M, D, generator=generator, dtype=torch.float64)
    x[-1], y[-2] = x[0], y[0]
    return x, y


def own(whole: Tensor, rank: int, size: int) -> Tensor:
    n = len(whole) // size
    return whole[rank * n : (rank + 1) * n].clone().requires_grad_()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, D)).double()


def message(call: Callable[[], object]) -> str:
    try:
        call()
    except (ValueError, TypeError, NotImplementedError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def found(rank: int, size: int) -> dict[str, Any]:
    world = dist.group.WORLD
    assert world is not None
    whole = samples(size)
    results: dict[str, Any] = {}
    for name, loss in LOSSES.items():
        for pairs in (2**22, 0) if name in SHARED else (2**22,):
            distributed.OWN_ROWS = pairs
            x, y = (own(t, rank, size) for t in whole)
            value = loss(x, y, group=world)
            gradients = torch.autograd.grad(value, (x, y), allow_unused=True)
            results[f"{name} {'shared' if pairs == 0 else 'gathered'}"] = value, *gradients
            only, _ = (own(t, rank, size) for t in whole)
            value = loss(only, y.detach(), group=world)
            (results[f"{name} {pairs} x alone"],) = torch.autograd.grad(value, only)
    x, y = (t.detach().requires_grad_(rank == 0) for t in (x, y))  # of one process alone
    distributed.OWN_ROWS = 0
    results["of one"] = mmd2(x, y, group=world).detach()
    distributed.OWN_ROWS = 2**22
    x, y = (own(t, rank, size) for t in whole)
    z = gather_rows(x, world)
    (first,) = torch.autograd.grad(z.pow(3).sum() * (rank + 1), x, create_graph=True)
    results["gathered"] = z, first, torch.autograd.grad(first.sum(), x)[0]

    wrapped = nn.parallel.DistributedDataParallel(network())
    MMDLoss(group=world)(wrapped(x.detach()), y.detach()).backward()
    results["ddp"] = [p.grad for p in wrapped.parameters()]

    sharded = fully_shard(network(), mesh=init_device_mesh("cpu", (size,)))
    MMDLoss(group=world)(sharded(x.detach()), y.detach()).backward()
    results["fsdp"] = [p.grad.full_tensor() for p in sharded.parameters()]

    loss = MMDLoss(group=world, bandwidth=1.0)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    x = own(whole[0], rank, size)
    value = compiled(x, y.detach())
    results["compiled"] = value, torch.autograd.grad(value, x)[0]

    results["messages"] = {
        "rows": message(lambda: mmd2(x[: N - rank], y, group=world)),
        "bad": message(lambda: mmd2(x[0] if rank == 1 else x, y, group=world)),
        "weights": message(lambda: mmd2(x, y, weights_x=torch.ones(N), group=world)),
        "batch": message(lambda: mmd2(x[None], y[None], group=world)),
        "group": message(lambda: mmd2(x, y, group="world")),  # type: ignore[arg-type]
        "gather": message(lambda: gather_rows(x[: N - rank], world)),
        "second": message(
            lambda: torch.autograd.grad(mmd2(x, y, group=world), x, create_graph=True)
        ),
    }
    results |= of_dtensors(rank, size)
    return results


def of_dtensors(rank: int, size: int) -> dict[str, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (size,))
    whole = samples(size)
    results: dict[str, Any] = {}
    for name, placement in (("shard", Shard(0)), ("replicate", Replicate())):
        x = distribute_tensor(whole[0].clone(), mesh, [Shard(0)]).requires_grad_()
        y = distribute_tensor(whole[1].clone(), mesh, [placement]).requires_grad_()
        value = mmd2(x, y, bandwidth=1.0)
        value.backward()
        assert value.placements == (Replicate(),)
        results[name] = value.to_local(), x.grad.full_tensor(), y.grad.full_tensor()
    x = own(whole[0], rank, size)
    results["mesh"] = mmd2(x, own(whole[1], rank, size), bandwidth=1.0, group=mesh)
    return results


def worker(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size
    )
    torch.save(found(rank, size), f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # a thread of torch may abort the process at the interpreter's end


Results = tuple[int, list[dict[str, Any]]]


@pytest.fixture(
    scope="module",
    params=[2, 3, *(pytest.param(k, marks=pytest.mark.slow) for k in (4, 8))],
    ids=lambda size: f"{size} processes",
)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    size: int = request.param
    folder = tmp_path_factory.mktemp(f"of{size}")
    processes.spawn(worker, size, str(folder), count=size)
    return size, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_are_those_of_all_rows(name: str, results: Results) -> None:
    size, ranks = results
    x, y = (t.requires_grad_() for t in samples(size))
    expected = LOSSES[name](x, y)
    of_x, of_y = torch.autograd.grad(expected, (x, y), allow_unused=True)
    for way in ("gathered", "shared") if name in SHARED else ("gathered",):
        values = [r[f"{name} {way}"][0] for r in ranks]
        assert all(torch.equal(value, values[0]) for value in values)
        close(values[0], expected.detach())
        for whole, at in ((of_x, 1), (of_y, 2)):
            parts = [r[f"{name} {way}"][at] for r in ranks]
            if whole is None:
                assert all(part is None for part in parts)
            else:  # P times, for DDP to average
                close(torch.cat(parts), size * whole)
        pairs = 2**22 if way == "gathered" else 0
        close(torch.cat([r[f"{name} {pairs} x alone"] for r in ranks]), size * of_x)


def test_value_where_one_process_alone_has_a_gradient(results: Results) -> None:
    size, ranks = results
    for found_ in ranks:
        close(found_["of one"], mmd2(*samples(size)))


def test_gathered_rows_sum_what_comes_back(results: Results) -> None:
    """With a loss of its own on each process, to the second order."""
    size, ranks = results
    x, _ = samples(size)
    factor = size * (size + 1) / 2
    for found_, part in zip(ranks, x.split(N), strict=True):
        rows, first, second = found_["gathered"]
        assert torch.equal(rows, x)
        close(first, factor * 3 * part.square())
        close(second, factor * 6 * part)


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
def test_parameters_have_the_gradient_of_the_whole_batch(wrapper: str, results: Results) -> None:
    size, ranks = results
    x, y = samples(size)
    model = network()
    mmd2(model(x), y).backward()
    for found_ in ranks:
        for ours, p in zip(found_[wrapper], model.parameters(), strict=True):
            assert p.grad is not None
            close(ours, p.grad)


def test_compiled_in_one_graph(results: Results) -> None:
    size, ranks = results
    x, y = samples(size)
    x.requires_grad_()
    expected = mmd2(x, y, bandwidth=1.0)
    (gradient,) = torch.autograd.grad(expected, x)
    for found_ in ranks:
        close(found_["compiled"][0].detach(), expected.detach())
    close(torch.cat([found_["compiled"][1] for found_ in ranks]), size * gradient)


def test_dtensors_have_the_plain_gradient(results: Results) -> None:
    size, ranks = results
    x, y = (t.requires_grad_() for t in samples(size))
    expected = mmd2(x, y, bandwidth=1.0)
    gradients = torch.autograd.grad(expected, (x, y))
    for found_ in ranks:
        for name in ("shard", "replicate"):
            value, *ours = found_[name]
            close(value.detach(), expected.detach())
            for a, b in zip(ours, gradients, strict=True):
                close(a, b)
        close(found_["mesh"].detach(), expected.detach())


def test_refusals_are_the_same_everywhere(results: Results) -> None:
    size, ranks = results
    shapes = ", ".join(f"[{N - r}, {D}] on rank {r}" for r in range(size))
    for rank, found_ in enumerate(ranks):
        messages = found_["messages"]
        for name in ("rows", "gather"):
            assert messages[name].startswith("ValueError: x must have the same shape and dtype")
            assert shapes in messages[name]
        own_fault = "ValueError: x must have shape [..., n, d]; got [3]"
        expected = own_fault if rank == 1 else "ValueError: bad samples on rank 1 of the group"
        assert messages["bad"].startswith(expected)
        assert messages["batch"].startswith("ValueError: with group=, x must be [n, d]")
        assert messages["group"].startswith("TypeError: group must be a ProcessGroup")
        for name in ("weights", "second"):
            assert messages[name].startswith("NotImplementedError")
            assert "gather_rows(x, group)" in messages[name]
