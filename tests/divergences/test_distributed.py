"""Inside DistributedDataParallel: two processes on the CPU."""

from __future__ import annotations

import os
import pathlib

import processes
import torch
import torch.distributed as dist
from torch import Tensor, nn

from divergences.energy import EnergyLoss
from divergences.mmd import MMDLoss


def shard(rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(10 + rank)
    return torch.randn(24, 5, generator=generator), torch.randn(24, 3, generator=generator)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def loss(network: nn.Module, rank: int) -> Tensor:
    data, prior = shard(rank)
    z = network(data)
    total: Tensor = MMDLoss()(z, prior) + EnergyLoss()(z, prior)
    return total


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    network = nn.parallel.DistributedDataParallel(model())
    loss(network, rank).backward()
    torch.save([p.grad for p in network.parameters()], f"{folder}/{rank}.pt")
    dist.barrier()
    # Not through the interpreter's end, where a thread of torch that still lets go of a Python
    # object aborts the process ("terminate called without an active exception").
    os._exit(0)


def test_gradients_are_averaged_over_processes(tmp_path: pathlib.Path) -> None:
    """Each process sees its shard; the gradient is the mean of the shards' gradients."""
    processes.spawn(worker, str(tmp_path), count=2)
    network = model()
    (0.5 * (loss(network, 0) + loss(network, 1))).backward()
    for rank in range(2):
        gradients = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for ours, p in zip(gradients, network.parameters(), strict=True):
            torch.testing.assert_close(ours, p.grad)
