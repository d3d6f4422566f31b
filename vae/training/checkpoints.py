"""Checkpoints that are whole or not there, hold tensors and numbers only, and say what they are."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from divergences.files import replacing
from vae._extras import needs_extra
from vae.model import VAE

with needs_extra():
    from lightning.pytorch.plugins.io import CheckpointIO

FORMAT = 1
KEY = "vae_training"
LAST, BEST = "last.ckpt", "best.ckpt"
PREFIX = "model."  # of the names of parameters in a checkpoint


@dataclass(frozen=True)
class RunSettings:
    """What a resumed training must share with the one it goes on with."""

    epochs: int
    batch_size: int
    learning_rate: float
    critic_learning_rate: float
    critic_steps: int
    seed: int
    rows: int
    checksum: int

    def check(self, path: Path, saved: Mapping[str, Any]) -> None:
        """Raises ValueError with what differs."""
        now = dataclasses.asdict(self)
        if saved.get("checksum") != self.checksum:
            raise ValueError(f"{path} was trained on other rows: resume it with the same data")
        differ = [
            f"{name} {saved.get(name)}, now {now[name]}"
            for name in now
            if saved.get(name) != now[name]
        ]
        if differ:
            raise ValueError(
                f"{path} belongs to another training ({'; '.join(differ)}): a resumed run ends as "
                "the uninterrupted one would, so take the same settings, or train in a new folder"
            )


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
        ValueError: it is damaged, or not one of this version's.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path}: nothing has been trained there yet"
        )
    other = path.with_name(BEST if path.name == LAST else LAST)
    advice = f"; {other} is still there" if other.exists() else ""
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises whatever its readers do
        raise ValueError(
            f"{path} is damaged or not a checkpoint ({type(error).__name__}){advice}"
        ) from error
    record = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(record, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of vae.training{advice}")
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {record.get('format')}, this version reads {FORMAT}: open it with "
            "the version that wrote it"
        )
    return checkpoint


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
