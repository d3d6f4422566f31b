"""Checkpoints: written atomically, read without executing anything, one schema."""

from __future__ import annotations

import functools
import io
import operator
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from divergences.files import replacing
from vae.model import VAE
from vae.processes import first_process

FORMAT = 2
KEY = "vae_training"
LAST, BEST = "last.ckpt", "best.ckpt"
PREFIX = "model."  # of the names of parameters
MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # of a parameter in Adam's state
SCHEMA: Mapping[str, type | tuple[type, ...]] = {
    "state_dict": dict,
    "optimizer_states": list,  # of the autoencoder, and of its critics if it has some
    "callbacks.Checks.best": (int, float),  # held-out loss, and its step
    "callbacks.Checks.best_step": int,
    "callbacks.Checks.seconds": (int, float),
    "callbacks.Checks.stopped_early": bool,
    "callbacks.Checks.alarms": dict,
    f"{KEY}.format": int,
    f"{KEY}.step": int,
    f"{KEY}.n_steps": int,
    f"{KEY}.settings": dict,  # the fingerprint of the run
    f"{KEY}.watch.names": list,  # running means
    f"{KEY}.watch.count": int,
    f"{KEY}.watch.sums": Tensor,
}


def write_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Raises OSError with the path; what was there stays as it is."""
    content = io.BytesIO()
    try:
        torch.save(checkpoint, content)
    except RuntimeError as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # torch's writer fails at closing
            raise error.__context__ from None
        raise
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content.getbuffer())
    except OSError as error:
        kept = "the one before it is intact" if path.exists() else "none was written before"
        message = f"cannot write the checkpoint ({error.strerror}; {kept})"
        raise OSError(error.errno, message, str(path)) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within, no other training writes to the folder; the system frees it of a killed process.
    Processes of one training beside the first need not ask.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the folder cannot be written.
    """
    if not first_process():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", blocking=False):
            yield
    except Timeout:
        raise BlockingIOError(
            f"another process trains in {folder}: wait until it has ended, or take another folder"
        ) from None


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files of a killed process."""
    for name in (LAST, BEST):
        for path in folder.glob(f".{name}.*"):
            path.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of this package, on the CPU.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged (any flipped bit), or not one of this version's.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a checkpoint")
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path}: nothing has been trained there yet"
        )
    try:
        content = io.BytesIO(path.read_bytes())
        with zipfile.ZipFile(content) as archive:  # torch.load takes a flipped bit for a weight
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("checksum")
        content.seek(0)
        checkpoint: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
        version = checkpoint[KEY]["format"]
        if version == FORMAT:
            _check_schema(checkpoint)
    except Exception as error:  # torch and zipfile raise whatever their readers do
        other = path.with_name(BEST if path.name == LAST else LAST)
        advice = f"; {other} is still there" if other.exists() else ""
        raise ValueError(
            f"{path} is damaged or not a checkpoint of vae.training "
            f"({type(error).__name__}: {error}){advice}"
        ) from error
    if version != FORMAT:
        raise ValueError(
            f"{path} has format {version}, this version reads {FORMAT}: open it with the version "
            "that wrote it"
        )
    return checkpoint


def _check_schema(checkpoint: Mapping[str, Any]) -> None:
    """Raises an error of any kind unless a checkpoint is as ``SCHEMA`` says."""
    for path, kind in SCHEMA.items():
        value = functools.reduce(operator.getitem, path.split("."), checkpoint)
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            raise TypeError(f"{path} is of type {type(value).__name__}")
    record, alarms = checkpoint[KEY], checkpoint["callbacks"]["Checks"]["alarms"]
    names, sums = record["watch"]["names"], record["watch"]["sums"]
    moments = [m for o in checkpoint["optimizer_states"] for m in o["state"].values()]
    steps = [int(m["step"]) for m in checkpoint["optimizer_states"][0]["state"].values()]
    for what, fits in (
        ("step", 0 <= record["step"] <= record["n_steps"]),
        ("watch", all(isinstance(n, str) for n in names) and list(sums.shape) == [len(names)]),
        ("alarms", all(isinstance(n, int) for n in alarms.values())),
        ("state_dict", all(isinstance(v, Tensor) for v in checkpoint["state_dict"].values())),
        ("optimizer_states", all(m.keys() >= MOMENTS for m in moments)),
        ("the number of steps", max(steps, default=record["step"]) == record["step"]),
    ):
        if not fits:
            raise ValueError(f"{what} does not fit")


def parameters_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state of the model, by its own names."""
    state: Mapping[str, Tensor] = checkpoint["state_dict"]
    return {n.removeprefix(PREFIX): v for n, v in state.items() if n.startswith(PREFIX)}


def check_fit(path: Path, state: Mapping[str, Tensor], module: nn.Module) -> None:
    """Raises ValueError where a checkpoint's parameters are not those of ``module``."""
    wanted = {name: list(value.shape) for name, value in module.state_dict().items()}
    found = {name: list(value.shape) for name, value in state.items()}
    if wanted == found:
        return
    names = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    first = names[0]
    raise ValueError(
        f"{path} is of another model: {len(names)} parameters differ, the first {first} "
        f"({found.get(first, 'absent')} in the file, {wanted.get(first, 'absent')} in the model)"
    )


def load_weights(model: VAE, path: Path) -> int:
    """Put the weights of a checkpoint into ``model``.

    Args:
        model: as it was built for the training.
        path: last.ckpt or best.ckpt.

    Returns:
        The number of steps after which they were written.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it is damaged, of another version, or of another model.
    """
    checkpoint = read_checkpoint(path)
    state = parameters_of(checkpoint)
    check_fit(path, state, model)
    model.load_state_dict(state)
    return int(checkpoint[KEY]["step"])
