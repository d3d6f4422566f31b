"""A training that was killed and resumed ends as the one that was not, bit for bit."""

import csv
import functools
import io
import os
import re
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import processes
import pytest
import torch
from torch import nn
from torch.multiprocessing import ProcessExitedException

from divergences.wasserstein import sliced_wasserstein
from vae import (
    VAE,
    Capacity,
    GaussianLikelihood,
    LaplaceLikelihood,
    LearnedGaussian,
    Objective,
    StandardNormal,
    WassersteinCritic,
    WeightedKL,
)
from vae.data import Data
from vae.forward_output import ForwardOutput, Loss
from vae.objectives import Anneal
from vae.objectives.divergences import energy, mmd, sliced
from vae.training import fit, load_weights, read_metrics
from vae.training.batches import Rows
from vae.training.checkpoints import SCHEMA, read_checkpoint
from vae.training.fingerprint import describe
from vae.training.heldout import HeldOut
from vae.training.means import RunningMeans

EPOCHS, CHECK, KILLED_AT = 4, 3, 9  # steps; five to an epoch, so that both are within one
CASES = ("annealed-mmd", "critic")


class Mortal(nn.Sequential):
    """An encoder with dropout that kills its process in the middle of a training step."""

    kill_at = -1
    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        if self.calls == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def build(case: str) -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objectives = {
            "annealed-mmd": lambda: Objective(WeightedKL(Anneal(2.0, 0.5, 15)), mmd, 10.0),
            "sliced": lambda: Objective(WeightedKL(0.0), sliced, 10.0),
            "critic": lambda: Objective(
                WeightedKL(Anneal(0.0, 1.0, 15)), WassersteinCritic(2, "spectral", (8,)), 3.0
            ),
        }
        encoder = Mortal(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4))
        prior = LearnedGaussian(2)
        return VAE(encoder, nn.Linear(2, 5), GaussianLikelihood(), objectives[case](), prior)


def rows(seed: int = 0, n: int = 26) -> torch.Tensor:
    return torch.rand(n, 5, generator=torch.Generator().manual_seed(seed))


def train(case: str, folder: Path, **options: Any) -> tuple[VAE, list[dict[str, float]]]:
    model = options.pop("model", None) or build(case)
    settings: dict[str, Any] = {
        "epochs": EPOCHS, "batch_size": 5, "learning_rate": 1e-2, "critic_steps": 2, "seed": 3,
        "heldout": rows(1), "check_every": CHECK, "accelerator": "cpu", "progress": False,
    }  # fmt: skip
    return model, fit(model, rows(), folder=folder, **(settings | options))


def mortal_training(_: int, case: str, folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    model = build(case)
    assert isinstance(model.encoder, Mortal)
    passes = 3 if case == "critic" else 1  # per step
    model.encoder.kill_at = (KILLED_AT - 1) * passes + 1
    train(case, folder, model=model)


def without_seconds(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return [line[:-1] for line in csv.reader(file)]


def states(path: Path) -> list[torch.Tensor]:
    """Every tensor of a checkpoint: weights, buffers, moments of the optimizers."""
    checkpoint = read_checkpoint(path)
    optimizers = checkpoint["optimizer_states"]
    moments = [m for o in optimizers for s in o["state"].values() for m in s.values()]
    return [*checkpoint["state_dict"].values(), *moments]


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_equals_uninterrupted(case: str, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    with pytest.raises(ProcessExitedException) as caught:
        processes.spawn(mortal_training, case, killed, torch.get_num_threads(), count=1)
    assert caught.value.exit_code == -signal.SIGKILL
    last = killed / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["vae_training"]["step"] == 6  # of the second epoch of five
    with (killed / "metrics.csv").open("r+") as file:  # as a process leaves it that dies
        later = file.read().splitlines()[-1].split(",")  # between a row and its checkpoint,
        file.write(",".join(["9", *later[1:]]) + "\n12,2.4,0.25")  # and while it writes a row

    expected, history = train(case, whole)
    model, resumed_history = train(case, killed, resume=True)
    assert all(
        torch.equal(a, b)
        for a, b in zip(expected.state_dict().values(), model.state_dict().values(), strict=True)
    )
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = (states(folder / "checkpoints" / name) for folder in (killed, whole))
        assert len(ours) > len(model.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)), name
    assert without_seconds(killed / "metrics.csv") == without_seconds(whole / "metrics.csv")
    assert [row["step"] for row in resumed_history] == [3, 6, 9, 12, 15, 18, 20]
    assert [row["heldout_loss"] for row in history] == [
        row["heldout_loss"] for row in resumed_history
    ]
    assert read_metrics(killed / "metrics.csv") == resumed_history


def test_a_checkpoint_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    """The fixture was written, by Lightning's trainer, after 6 steps of the critic's training."""
    last = tmp_path / "old" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "fixtures" / "critic-format-2.ckpt", last)
    assert load_weights(build("critic"), last) == 6
    resumed, history = train("critic", tmp_path / "old", resume=True)
    expected, whole = train("critic", tmp_path / "new")
    for ours, theirs in zip(
        resumed.state_dict().values(), expected.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert [row["step"] for row in history] == [9, 12, 15, 18, 20]
    for ours, theirs in zip(history, whole[2:], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_a_checkpoint_has_the_fields_of_the_schema(tmp_path: Path) -> None:
    train("critic", tmp_path)
    written = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert {".".join(path) for path in keys(written)} - {"callbacks", "callbacks.Checks"} == {
        *SCHEMA, "vae_training", "vae_training.watch",
    }  # fmt: skip


def test_dropout_and_projections_differ_from_step_to_step(tmp_path: Path) -> None:
    """What makes the test above worth something: the draws are neither constant nor unused."""
    model, _ = train("sliced", tmp_path / "a")
    other, _ = train("sliced", tmp_path / "b", seed=4)
    assert not torch.equal(model.encoder[0].weight, other.encoder[0].weight)


@pytest.fixture
def ctrl_c() -> Iterator[Any]:
    """Python's handler, also where the tests are a background job that ignores SIGINT."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, inherited)


def interrupt_at(model: VAE, calls: int, *, times: int = 1) -> None:
    def interrupt(module: nn.Module, _: Any) -> None:
        nonlocal calls
        calls -= module.training
        if calls == 0:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    model.encoder.register_forward_pre_hook(interrupt)


def test_ctrl_c_saves_and_the_resumed_run_is_the_uninterrupted_one(
    ctrl_c: Any, tmp_path: Path
) -> None:
    model = build("annealed-mmd")
    interrupt_at(model, 8)
    last = tmp_path / "checkpoints" / "last.ckpt"
    message = f"after 1 of 4 epochs (step 8 of 20); {last} holds its state: resume goes on"
    with pytest.raises(KeyboardInterrupt, match=re.escape(message)):
        train("annealed-mmd", tmp_path, model=model)
    assert signal.getsignal(signal.SIGINT) is ctrl_c
    resumed, _ = train("annealed-mmd", tmp_path, resume=True)
    expected, _ = train("annealed-mmd", tmp_path / "whole")
    assert torch.equal(resumed.encoder[0].weight, expected.encoder[0].weight)
    # the means since the last check survive the interruption
    whole = without_seconds(tmp_path / "whole" / "metrics.csv")
    assert without_seconds(tmp_path / "metrics.csv") == whole


def test_a_second_ctrl_c_is_obeyed_at_once(ctrl_c: Any, tmp_path: Path) -> None:
    model = build("annealed-mmd")
    interrupt_at(model, 8, times=2)
    with pytest.raises(KeyboardInterrupt, match="step 7 of 20\\); not saved since the last check"):
        train("annealed-mmd", tmp_path, model=model)
    assert signal.getsignal(signal.SIGINT) is ctrl_c
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["vae_training"]["step"] == 6


def test_a_second_ctrl_c_in_a_checkpoint_is_an_interruption(
    ctrl_c: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's writer turns it into a RuntimeError."""

    writes = 0

    class Interrupted(io.BytesIO):
        def write(self, content: Any) -> int:
            nonlocal writes
            writes += 1
            for _ in range(2 * (writes == 3)):
                os.kill(os.getpid(), signal.SIGINT)
            return super().write(content)

    monkeypatch.setattr("vae.training.checkpoints.io", SimpleNamespace(BytesIO=Interrupted))
    with pytest.raises(KeyboardInterrupt, match="not saved since the last check"):
        train("annealed-mmd", tmp_path)
    assert signal.getsignal(signal.SIGINT) is ctrl_c


def test_ctrl_c_in_the_last_check_is_not_swallowed(
    ctrl_c: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = HeldOut.__call__

    def interrupted(self: HeldOut, model: VAE, **options: Any) -> tuple[ForwardOutput, Loss]:
        os.kill(os.getpid(), signal.SIGINT)
        return look(self, model, **options)

    monkeypatch.setattr(HeldOut, "__call__", interrupted)
    last = tmp_path / "checkpoints" / "last.ckpt"
    message = (
        f"ended before Ctrl-C could stop it, after 4 of 4 epochs (step 20 of 20); {last} holds its "
        "state"
    )
    with pytest.raises(KeyboardInterrupt, match=re.escape(message) + "$"):
        train("annealed-mmd", tmp_path, check_every=20)
    assert signal.getsignal(signal.SIGINT) is ctrl_c


def test_an_ignored_ctrl_c_stays_ignored(tmp_path: Path) -> None:
    model = build("annealed-mmd")
    interrupt_at(model, 8, times=2)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _, history = train("annealed-mmd", tmp_path, model=model)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    except KeyboardInterrupt:  # which would end pytest
        pytest.fail("the training obeyed a signal that its process ignores")
    finally:
        signal.signal(signal.SIGINT, handler)
    assert history[-1]["step"] == 20


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """Held-out losses as they are given, one per check, across calls of fit."""
    look = HeldOut.__call__

    def script(losses: list[float]) -> None:
        left = iter(losses)

        def scripted(self: HeldOut, model: VAE, **options: Any) -> tuple[ForwardOutput, Loss]:
            terms, loss = look(self, model, **options)
            return terms, Loss(torch.tensor(next(left)), loss.parts)

        monkeypatch.setattr(HeldOut, "__call__", scripted)

    return script


def test_patience_ends_after_exactly_so_many_epochs(
    scripted: Callable[[list[float]], None], tmp_path: Path
) -> None:
    scripted([3.0, 2.0, 2.0, 2.5, 1.0])
    _, history = train("annealed-mmd", tmp_path, check_every=5, patience=2, epochs=8)
    assert [row["step"] for row in history] == [5, 10, 15, 20]
    best = read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    assert best["vae_training"]["step"] == 10


def test_a_resumed_run_remembers_what_was_best_and_when(
    ctrl_c: Any, scripted: Callable[[list[float]], None], tmp_path: Path
) -> None:
    del ctrl_c
    options = {"check_every": 5, "patience": 2, "epochs": 8}
    scripted([3.0, 1.0, 2.0, 1.5, 0.0])
    model = build("annealed-mmd")
    interrupt_at(model, 13)  # after the best at 10: resumed, it waits until 20, for less than 1
    with pytest.raises(KeyboardInterrupt):
        train("annealed-mmd", tmp_path, model=model, **options)
    _, history = train("annealed-mmd", tmp_path, resume=True, **options)
    assert [row["step"] for row in history] == [5, 10, 15, 20]
    best = read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    assert best["vae_training"]["step"] == 10


def test_with_critics_the_newest_is_the_best(
    scripted: Callable[[list[float]], None], tmp_path: Path
) -> None:
    """Their estimates at different steps do not compare, so that nobody can wait for a better."""
    scripted([1.0, 2.0, 3.0, 4.0])
    train("critic", tmp_path, check_every=5)
    last, best = (states(tmp_path / "checkpoints" / name) for name in ("last.ckpt", "best.ckpt"))
    assert all(torch.equal(a, b) for a, b in zip(last, best, strict=True))
    with pytest.raises(ValueError, match=r"has critics: what they estimate at different steps"):
        train("critic", tmp_path / "other", patience=1)
    assert not (tmp_path / "other").exists()


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    train("annealed-mmd", tmp_path)
    for name in (".last.ckpt.abc", ".best.ckpt.abc"):
        (folder / name).touch()
    train("annealed-mmd", tmp_path, resume=True)
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_finished_training_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, history = train("critic", tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again, same = train("critic", tmp_path, resume=True, progress=True)
    assert same == history
    assert torch.equal(again.encoder[0].weight, model.encoder[0].weight)
    assert "this training has ended, after 20 of 20 steps" in capsys.readouterr().out
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_early_stopping_keeps_the_best_and_ends_the_training(tmp_path: Path) -> None:
    options = {"patience": 1, "learning_rate": 1.0, "epochs": 40}
    model, history = train("annealed-mmd", tmp_path, **options)
    losses = [row["heldout_loss"] for row in history]
    best = losses.index(min(losses))
    waited = [row["step"] - history[best]["step"] for row in history]
    assert waited[-1] >= 5 > waited[-2]
    assert history[-1]["step"] < 200
    best_model = build("annealed-mmd")
    path = tmp_path / "checkpoints" / "best.ckpt"
    assert load_weights(best_model, path) == history[best]["step"]
    assert not torch.equal(best_model.encoder[0].weight, model.encoder[0].weight)
    _, same = train("annealed-mmd", tmp_path, resume=True, **options)
    assert same == history


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 5}, "epochs 4, now 5"),
        ({"seed": 4, "batch_size": 6}, "batch_size 5, now 6; seed 3, now 4"),
        ({"learning_rate": 2e-2, "critic_learning_rate": 1e-2}, "learning_rate 0.01, now 0.02"),
        ({"critic_steps": 3}, "critic_steps 2, now 3"),
        ({"critic_learning_rate": 1e-4}, "critic_learning_rate 0.01, now 0.0001"),
        ({"precision": "bf16-mixed"}, "precision 32-true, now bf16-mixed"),
        ({"patience": 2}, "patience None, now 2"),
        ({"check_every": 4}, "check_every 3, now 4"),
        ({"devices": 5}, "devices 1, now 5"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_other_settings_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    train("annealed-mmd", tmp_path)
    with pytest.raises(ValueError, match=f"another training \\({re.escape(message)}\\)"):
        train("annealed-mmd", tmp_path, resume=True, **change)


MODELS: dict[str, tuple[dict[str, Callable[[], Any]], str]] = {
    "weight": (
        {"objective": lambda: Objective(WeightedKL(Anneal(2.0, 0.5, 15)), mmd, 10.0000001)},
        "objective.divergence_weight 10, now 10.0000001",
    ),
    "divergence": (
        {"objective": lambda: Objective(WeightedKL(Anneal(2.0, 0.5, 15)), energy, 10.0)},
        "objective.divergence mmd, now energy",
    ),
    "schedule": (
        {"objective": lambda: Objective(WeightedKL(Anneal(2.0, 0.5, 14)), mmd, 10.0)},
        "objective.rate.schedule Anneal(start=2, final=0.5, length=15, shape=linear), now "
        "Anneal(start=2, final=0.5, length=14, shape=linear)",
    ),
    "rate": (
        {"objective": lambda: Objective(Capacity(1.0, Anneal(2.0, 0.5, 15)), mmd, 10.0)},
        "objective.rate WeightedKL, now Capacity",
    ),
    "variance": (
        {"likelihood": lambda: GaussianLikelihood(0.5)},
        "likelihood.fixed_variance 1, now 0.5",
    ),
    "likelihood": ({"likelihood": LaplaceLikelihood}, "likelihood GaussianLikelihood, now Laplace"),
    "prior": ({"prior": lambda: StandardNormal(2)}, "prior LearnedGaussian, now StandardNormal"),
    "network": (
        {"encoder": lambda: Mortal(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 4))},
        "encoder.2 Dropout(p=0.3, inplace=False), now Dropout(p=0.2, inplace=False)",
    ),
    "posterior": ({"posterior": lambda: "deterministic"}, "posterior gaussian, now deterministic"),
}


@pytest.mark.parametrize("name", MODELS)
def test_other_models_are_refused(name: str, tmp_path: Path) -> None:
    """Also where every parameter has its name and shape."""
    train("annealed-mmd", tmp_path)
    parts, message = MODELS[name]
    model = build("annealed-mmd")
    for part, make in parts.items():
        setattr(model, part, make())
    if name == "posterior":
        model.encoder[3] = nn.Linear(8, 2)
        model.objective = Objective(WeightedKL(0.0), mmd, 10.0)
    with pytest.raises(ValueError, match=r"another training \(.*" + re.escape(message)):
        train("annealed-mmd", tmp_path, resume=True, model=model)


def test_a_model_is_described_the_same_wherever_it_is_made() -> None:
    """What it learns, its modes and where it lies in memory are not part of it."""

    def made() -> VAE:
        divergence = functools.partial(sliced_wasserstein, n_projections=3)
        objective = Objective(Capacity(1.0, 2.0), divergence, np.float64(2.0))
        return VAE(
            nn.Sequential(nn.Linear(5, 4), Addressed()), nn.Linear(2, 5),
            GaussianLikelihood(learned=True), objective, LearnedGaussian(2),
        )  # fmt: skip

    first, other = made(), made()
    other.likelihood.log_variance.data += 1.0
    other.eval()
    described = describe(first)
    assert described == describe(other)
    assert described["objective.divergence"] == "partial(sliced_wasserstein, (), (n_projections=3))"
    assert described["objective.divergence_weight"] == "2"
    assert described["encoder.1"] == "Addressed(f=<object object>)"


class Addressed(nn.Identity):
    def extra_repr(self) -> str:
        return f"f={object()!r}"


def test_other_rows_and_other_models_are_refused(tmp_path: Path) -> None:
    train("annealed-mmd", tmp_path)
    model = build("annealed-mmd")
    with pytest.raises(ValueError, match="was trained on other rows"):
        fit(
            model, rows(5), epochs=EPOCHS, batch_size=5, folder=tmp_path, resume=True,
            progress=False,
        )  # fmt: skip
    wider = build("annealed-mmd")
    wider.decoder = nn.Linear(2, 6)
    message = r"of another model: 2 parameters differ, the first decoder.weight \(\[5, 2\] in"
    with pytest.raises(ValueError, match=message):
        load_weights(wider, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(ValueError, match="other held-out rows"):
        train("annealed-mmd", tmp_path, resume=True, heldout=rows(2))


def test_rows_are_told_apart_by_values_shape_width_and_binarisation() -> None:
    grey = torch.zeros(6, 4, dtype=torch.uint8)
    binary = Data("binary", grey, grey, (4,), binarise="dynamic")
    sources = [
        rows(), rows(1), rows().flip(0), rows().reshape(13, 10), torch.zeros(6, 4),
        torch.zeros(6, 4, dtype=torch.float16), torch.zeros(6, 4, dtype=torch.bfloat16),
        Data("grey", grey, grey, (4,)), binary,
    ]  # fmt: skip
    sums = [Rows.of(source, rows(2)).checksums() for source in sources]
    assert len({first for first, _ in sums}) == len(sources)
    assert len({second for _, second in sums}) == 1
    assert Rows.of(binary, None).checksums()[1] != sums[0][1]
    assert Rows.of(rows(), None).checksums() == (sums[0][0], 0)


def test_a_new_training_does_not_replace_one_that_is_there(tmp_path: Path) -> None:
    train("annealed-mmd", tmp_path)
    with pytest.raises(FileExistsError, match="resume that training"):
        train("annealed-mmd", tmp_path)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        train("annealed-mmd", tmp_path, resume=True)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "foreign", "version", "code"])
def test_damaged_checkpoints_are_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "vae_training": {"format": 0, "step": 1}}, path)
    message = {"version": "format 0, this version reads 2"}.get(damage, "damaged or not a checkp")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("not a checkpoint")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "foreign":
        torch.save({"state_dict": {}}, path)
    elif damage == "code":
        torch.save({"state_dict": Trap()}, path)
    (tmp_path / "best.ckpt").touch()
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(build("annealed-mmd"), path)
    assert str(path) in str(caught.value)
    assert ("best.ckpt is still there" in str(caught.value)) == (damage != "version")


def test_optimizers_and_record_must_be_of_one_step(tmp_path: Path) -> None:
    train("annealed-mmd", tmp_path)
    path = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    for moments in checkpoint["optimizer_states"][0]["state"].values():
        moments["step"] += 1
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"damaged .*the number of steps does not fit"):
        train("annealed-mmd", tmp_path, resume=True)


def test_two_trainings_in_one_folder(tmp_path: Path) -> None:
    """The second is refused, and told why; the first goes on."""
    model = build("annealed-mmd")
    refused = []

    def second(*_: Any) -> None:
        if (tmp_path / ".lock").exists() and not refused:  # not while networks are checked
            for resume in (True, False):
                with pytest.raises(BlockingIOError, match="another process trains in") as caught:
                    train("annealed-mmd", tmp_path, resume=resume)
                refused.append(caught)

    model.encoder.register_forward_pre_hook(second)
    first, _ = train("annealed-mmd", tmp_path, model=model)
    assert len(refused) == 2
    alone, _ = train("annealed-mmd", tmp_path / "alone")
    assert torch.equal(first.encoder[0].weight, alone.encoder[0].weight)


def test_a_flipped_bit_is_damage(tmp_path: Path) -> None:
    """In any of the records of the file, where torch.load would take it for a weight."""
    train("annealed-mmd", tmp_path)
    path = tmp_path / "checkpoints" / "last.ckpt"
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = [(info.header_offset, info.file_size) for info in archive.infolist()]
    for offset, size in records:
        header = 30 + sum(int.from_bytes(content[offset + i : offset + i + 2], "little")
                          for i in (26, 28))  # fmt: skip
        flipped = bytearray(content)
        flipped[offset + header + size // 2] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"last.ckpt is damaged .*best.ckpt is still there"):
            load_weights(build("annealed-mmd"), path)
    path.write_bytes(content)
    assert load_weights(build("annealed-mmd"), path) == 20


def keys(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Of a checkpoint, but for what is inside its settings, weights and alarms."""
    if isinstance(value, dict) and path[-1:] not in [("settings",), ("state_dict",), ("alarms",)]:
        for key, below in value.items():
            yield (*path, key)
            yield from keys(below, (*path, key))


def replaced(checkpoint: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy with another value, without the key where it is None."""
    copy = dict(checkpoint)
    if len(path) > 1:
        copy[path[0]] = replaced(checkpoint[path[0]], path[1:], value)
    elif value is None:
        del copy[path[0]]
    else:
        copy[path[0]] = value
    return copy


def test_foreign_and_edited_checkpoints_are_named(tmp_path: Path) -> None:
    """Whatever is missing or of another type: nothing but a ValueError with the file's name."""
    model = build("critic")
    interrupt_at(model, 13)  # in the fifth step, of three passes each
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train("critic", tmp_path, model=model)
    finally:
        signal.signal(signal.SIGINT, handler)
    path = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    moments = checkpoint["optimizer_states"]
    edits = [(at, value) for at in keys(checkpoint) for value in (None, "x")]
    edits += [
        (("vae_training", "step"), 21),
        (("vae_training", "step"), -1),
        (("vae_training", "step"), True),
        (("vae_training", "watch", "sums"), torch.zeros(1)),
        (("vae_training", "watch", "names"), [1, 2]),
        (("callbacks", "Checks", "alarms"), {"collapse": "x"}),
        (("state_dict",), {"model.decoder.weight": 1}),
        (("state_dict",), {"model.decoder.weight": torch.zeros(2)}),
        (("optimizer_states",), []),
        (("optimizer_states",), moments[:1]),
        (("optimizer_states",), [moments[1], moments[0]]),
        (("optimizer_states",), [{"state": {}, "param_groups": 1}] * 2),
        (("optimizer_states",), [moments[0] | {"state": {0: {"step": 1}}}, moments[1]]),
    ]
    assert len(edits) > 45
    for at, value in edits:
        torch.save(replaced(checkpoint, at, value), path)
        with pytest.raises(ValueError, match=r"last\.ckpt") as caught:
            train("critic", tmp_path, resume=True)
        assert type(caught.value) is ValueError, at
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"last\.ckpt is a folder"):
        train("critic", tmp_path, resume=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\x89PNG\r\n\x1a\n\xff", "codec can't decode"), (b"a,b\n1,2\n", "no column 'step'")],
    ids=["binary", "foreign"],
)
def test_metrics_that_are_none(content: bytes, message: str, tmp_path: Path) -> None:
    train("annealed-mmd", tmp_path)
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"metrics.csv is not a metrics.csv: .*{message}"):
        train("annealed-mmd", tmp_path, resume=True)


def test_the_parts_of_the_loss_stay_the_same() -> None:
    watch, again = RunningMeans(), RunningMeans()
    watch.add({"loss": torch.ones(()), "kl": torch.ones(())}, 0)
    again.load_state_dict(watch.state_dict())
    with pytest.raises(ValueError, match="made of loss, kl, now of loss, mutual_information"):
        again.add({"loss": torch.ones(()), "mutual_information": torch.ones(())}, 1)


class Trap:
    """Unpickled, it would end the process."""

    def __reduce__(self) -> Any:
        return os._exit, (1,)


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an OSError instead
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    replace, files = os.replace, 0

    def counting(source: Any, target: Any) -> None:
        nonlocal files
        replace(source, target)
        files += str(target).endswith("last.ckpt")
        if files == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))

    monkeypatch.setattr(os, "replace", counting)
    try:
        with pytest.raises(OSError, match=r"cannot write the checkpoint .*before it is intact"):
            train("annealed-mmd", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
        monkeypatch.undo()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.ckpt", "last.ckpt"]
    resumed, _ = train("annealed-mmd", tmp_path, resume=True)
    expected, _ = train("annealed-mmd", tmp_path / "whole")
    assert torch.equal(resumed.encoder[0].weight, expected.encoder[0].weight)
