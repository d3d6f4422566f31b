"""A training that was killed and resumed ends as the one that was not, bit for bit.

Run as a program, this file is the training that gets killed.
"""

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vae import VAE, GaussianLikelihood, LearnedGaussian, Objective, WassersteinCritic, WeightedKL
from vae.objectives import Anneal
from vae.objectives.slots import mmd, sliced
from vae.training import fit, load_weights, read_metrics
from vae.training.checkpoints import read_checkpoint

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
    command = [sys.executable, __file__, case, str(killed), str(torch.get_num_threads())]
    assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL
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


def test_dropout_and_projections_differ_from_step_to_step(tmp_path: Path) -> None:
    """What makes the test above worth something: the draws are neither constant nor unused."""
    model, _ = train("sliced", tmp_path / "a")
    other, _ = train("sliced", tmp_path / "b", seed=4)
    assert not torch.equal(model.encoder[0].weight, other.encoder[0].weight)


def interrupt_at(model: VAE, calls: int, *, times: int = 1) -> None:
    def interrupt(module: nn.Module, _: Any) -> None:
        nonlocal calls
        calls -= module.training
        if calls == 0:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    model.encoder.register_forward_pre_hook(interrupt)


def test_ctrl_c_saves_and_the_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    model = build("annealed-mmd")
    interrupt_at(model, 8)
    last = tmp_path / "checkpoints" / "last.ckpt"
    message = f"after 1 of 4 epochs (step 8 of 20); {last} holds its state: resume goes on"
    with pytest.raises(KeyboardInterrupt, match=re.escape(message)):
        train("annealed-mmd", tmp_path, model=model)
    assert signal.getsignal(signal.SIGINT) is handler
    resumed, _ = train("annealed-mmd", tmp_path, resume=True)
    expected, _ = train("annealed-mmd", tmp_path / "whole")
    assert torch.equal(resumed.encoder[0].weight, expected.encoder[0].weight)
    # the means since the last check survive the interruption
    whole = without_seconds(tmp_path / "whole" / "metrics.csv")
    assert without_seconds(tmp_path / "metrics.csv") == whole


def test_a_second_ctrl_c_is_obeyed_at_once(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    model = build("annealed-mmd")
    interrupt_at(model, 8, times=2)
    with pytest.raises(KeyboardInterrupt, match="step 7 of 20\\); not saved since the last check"):
        train("annealed-mmd", tmp_path, model=model)
    assert signal.getsignal(signal.SIGINT) is handler
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["vae_training"]["step"] == 6


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
    ],
    ids=["epochs", "seed"],
)
def test_other_settings_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    train("annealed-mmd", tmp_path)
    with pytest.raises(ValueError, match=f"another training \\({message}\\)"):
        train("annealed-mmd", tmp_path, resume=True, **change)


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
        message = "is not a checkpoint of vae.training"
    elif damage == "code":
        torch.save({"state_dict": Trap()}, path)
    (tmp_path / "best.ckpt").touch()
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(build("annealed-mmd"), path)
    assert str(path) in str(caught.value)
    assert ("best.ckpt is still there" in str(caught.value)) == (damage != "version")


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


if __name__ == "__main__":
    case, folder, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    mortal = build(case)
    assert isinstance(mortal.encoder, Mortal)
    passes = 3 if case == "critic" else 1  # per step
    mortal.encoder.kill_at = (KILLED_AT - 1) * passes + 1
    train(case, Path(folder), model=mortal)
