"""Two processes train what one does, up to rounding."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
import torch
from torch import nn

from vae import (
    VAE,
    AdversarialKL,
    Capacity,
    CodeCritic,
    DataCritic,
    GaussianLikelihood,
    LearnedGaussian,
    LearnedMixture,
    Objective,
    Prior,
    StandardNormal,
    TotalCorrelation,
    WassersteinCritic,
    WeightedKL,
)
from vae.forward_output import ForwardOutput
from vae.objectives.divergences import energy, mmd
from vae.training import fit, read_metrics
from vae.training.distributed import concatenate, gather

OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "mmd": lambda: Objective(WeightedKL(0.0), mmd, 20.0),
    "energy": lambda: Objective(WeightedKL(0.5), energy, 5.0),
    "capacity": lambda: Objective(Capacity(5.0, 0.4)),
    "tc": lambda: Objective(TotalCorrelation(beta=6.0)),
    "aae": lambda: Objective(WeightedKL(0.0), CodeCritic(2), 3.0),
    "wasserstein": lambda: Objective(WeightedKL(0.0), WassersteinCritic(2, hidden=(8,)), 3.0),
    "avb-mmd": lambda: Objective(AdversarialKL(5, 2), mmd, 20.0),
    "alpha-gan": lambda: Objective(WeightedKL(0.0), CodeCritic(2), 1.0, DataCritic(5)),
}
PRIORS: dict[str, Callable[[], Prior]] = {
    "mmd": lambda: LearnedMixture(2, 3),  # whose weights are in no loss
    "energy": lambda: LearnedGaussian(2),
}


def build(name: str) -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
        prior = PRIORS.get(name, lambda: StandardNormal(2))()
        return VAE(encoder, nn.Linear(2, 5), GaussianLikelihood(), OBJECTIVES[name](), prior)


def train(name: str, devices: int, folder: Path) -> VAE:
    rows = torch.rand(33, 5, generator=torch.Generator().manual_seed(0))
    model = build(name)
    with pytest.MonkeyPatch.context() as patch:
        # Adam would hide a gradient of another scale, and blow up the rounding of a small one
        patch.setattr(torch.optim, "Adam", lambda p, lr, **_: torch.optim.SGD(p, lr))
        fit(
            model, rows[:25], epochs=2, batch_size=8, learning_rate=0.02, heldout=rows[25:],
            accelerator="cpu", devices=devices, folder=folder / name, progress=False,
        )  # fmt: skip
    return model


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All objectives trained by two processes: weights of the first, metrics, checkpoints."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.spawn(worker, port, folder, count=2)
    return folder


def worker(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    torch.set_num_threads(1)
    for name in OBJECTIVES:
        torch.save(train(name, 2, folder).state_dict(), folder / f"{name}-{rank}.pt")
    torch.distributed.barrier()
    os._exit(0)  # the end of the interpreter can abort, as in test_distributed.py


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_train_what_one_does(name: str, two_processes: Path, tmp_path: Path) -> None:
    expected = train(name, 1, tmp_path)
    pairs = [torch.load(two_processes / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for key, value in expected.state_dict().items():
        assert torch.equal(pairs[0][key], pairs[1][key]), key
        torch.testing.assert_close(pairs[0][key], value, rtol=1e-4, atol=1e-6, msg=key)
    moved = max(
        float((value - start).abs().max())
        for value, start in zip(
            expected.state_dict().values(), build(name).state_dict().values(), strict=True
        )
    )
    assert moved > 3e-3
    one, two = (read_metrics(folder / name / "metrics.csv") for folder in (tmp_path, two_processes))
    assert len(one) == len(two) == 2
    for ours, theirs in zip(two, one, strict=True):
        del ours["seconds"], theirs["seconds"]
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_gathered_terms_are_those_of_one_batch() -> None:
    """With a collective that stacks two given shards."""
    x, noise = (torch.randn(8, k, generator=torch.Generator().manual_seed(k)) for k in (5, 2))
    model = build("capacity")
    whole = model.terms(x, noise, noise)
    shards = [model.terms(x[part], noise[part], noise[part]) for part in (slice(4), slice(4, 8))]
    sent: list[list[torch.Tensor]] = [[], []]

    def record(to: list[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        def all_gather(rows: torch.Tensor) -> torch.Tensor:
            to.append(rows)
            return torch.cat([rows, rows])

        return all_gather

    for shard, messages in zip(shards, sent, strict=True):
        gather(shard, record(messages))
    together = iter([torch.cat(pair) for pair in zip(*sent, strict=True)])
    gathered = gather(shards[0], lambda _: next(together))
    joined = concatenate(shards)
    for name in ("x", "mean", "log_variance", "z", "decoded", "distortion", "kl_per_dimension"):
        for terms in (gathered, joined):
            assert isinstance(terms, ForwardOutput)
            torch.testing.assert_close(getattr(terms, name), getattr(whole, name), msg=name)


def test_a_batch_must_divide_between_the_processes() -> None:
    with pytest.raises(ValueError, match=r"multiple of devices.*batch_size=9, devices=2"):
        fit(build("capacity"), torch.rand(20, 5), epochs=1, batch_size=9, devices=2)
