"""Checkpoints that are whole or not there, hold tensors and numbers only, and say what they are."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from divergences.files import replacing
from vae._extras import needs_extra
from vae.model import VAE
from vae.training.records import KEY, misfit, n_optimized

with needs_extra():
    from lightning.pytorch.plugins.io import CheckpointIO

FORMAT = 2
LAST, BEST = "last.ckpt", "best.ckpt"
PREFIX = "model."  # of the names of parameters in a checkpoint


class AtomicCheckpoints(CheckpointIO):
    """Lightning's checkpoints, written whole and read without executing anything."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        del storage_options
        # a resumed run is a new one over the steps that are left
        checkpoint.pop("loops", None)
        target = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as file:
                file.write(content.getbuffer())
        except OSError as error:
            kept = "the one before it is intact" if target.exists() else "none was written before"
            raise OSError(
                error.errno, f"cannot write the checkpoint ({error.strerror}; {kept})", str(target)
            ) from error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = "cpu", weights_only: Any = True
    ) -> dict[str, Any]:
        del map_location, weights_only
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        Path(path).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Of files that a killed process was writing."""
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
    other = path.with_name(BEST if path.name == LAST else LAST)
    advice = f"; {other} is still there" if other.exists() else ""
    content = io.BytesIO(path.read_bytes())
    try:
        _check_sums(content)
        checkpoint: Any = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and zipfile raise whatever their readers do
        raise ValueError(
            f"{path} is damaged or not a checkpoint ({type(error).__name__}){advice}"
        ) from error
    record = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is not a checkpoint of vae.training{advice}")
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {record.get('format')}, this version reads {FORMAT}: open it with "
            "the version that wrote it"
        )
    what = misfit(checkpoint)
    if what:
        raise ValueError(f"{path} is not a checkpoint of vae.training: {what}{advice}")
    found: dict[str, Any] = checkpoint
    return found


def _check_sums(content: io.BytesIO) -> None:
    """What torch.load leaves out: it takes a flipped bit for a weight."""
    with zipfile.ZipFile(content) as archive:
        if archive.testzip() is not None:
            raise zipfile.BadZipFile
    content.seek(0)


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


def check_optimizers(path: Path, states: Sequence[Mapping[str, Any]], model: VAE) -> None:
    """Raises ValueError where a checkpoint's optimizers had other numbers of parameters."""
    critics = len(list(model.objective.parameters()))
    wanted = [len(model.autoencoder_parameters()), *([critics] if critics else [])]
    found = [n_optimized(state) for state in states]
    if wanted != found:
        raise ValueError(
            f"{path} is of another training: its optimizers had {found} parameters, now {wanted}"
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
