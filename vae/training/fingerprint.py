"""Fingerprint of a run, checked on resume."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import numbers
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vae.model import VAE
from vae.objectives.divergences import name_of

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
MOST_DIFFERENCES = 3  # that a message lists


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that a resumed training must share with the one it goes on with; ``model`` is
    `describe` of it, ``checksum`` and ``heldout`` stand for the rows (0 without a folder)."""

    epochs: int
    batch_size: int
    learning_rate: float
    critic_learning_rate: float
    critic_steps: int
    seed: int
    devices: int
    precision: str
    patience: int | None
    check_every: int | None
    rows: int
    checksum: int = 0
    heldout: int = 0
    model: dict[str, str]
    decay: str = "cosine"
    optimizer: str = "adam"
    clip_norm: float | None = None

    def check(self, path: Path, saved: Mapping[str, Any]) -> None:
        """Raises ValueError with what differs."""
        if saved.get("checksum") != self.checksum:
            raise ValueError(f"{path} was trained on other rows: resume it with the same data")
        if saved.get("heldout") != self.heldout:
            raise ValueError(
                f"{path} was checked on other held-out rows: resume it with the same ones"
            )
        fields = dataclasses.fields(self)  # those with a default are unknown to earlier versions
        unsaid = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
        differ = _differences(_flat({**unsaid, **saved}), _flat(dataclasses.asdict(self)))
        if differ:
            more = len(differ) - MOST_DIFFERENCES
            listed = "; ".join(differ[:MOST_DIFFERENCES]) + (f"; {more} more" if more > 0 else "")
            raise ValueError(
                f"{path} belongs to another training ({listed}): a resumed run ends as the "
                "uninterrupted one would, so take the same settings, or train in a new folder"
            )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    model = settings.get("model")
    rest = {name: value for name, value in settings.items() if name != "model"}
    return {**rest, **(model if isinstance(model, Mapping) else {})}


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {saved.get(name, 'absent')}, now {now.get(name, 'absent')}"
        for name in {**now, **saved}
        if name not in saved or name not in now or saved[name] != now[name]
    ]


def checksum(*values: Tensor | str) -> int:
    """CRC-32 of values, shapes and dtypes."""
    crc = 0
    for value in values:
        if isinstance(value, str):
            crc = zlib.crc32(value.encode(), crc)
            continue
        crc = zlib.crc32(f"{value.dtype} {list(value.shape)}".encode(), crc)
        content: Any = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        crc = zlib.crc32(content, crc)
    return crc


def describe(model: VAE) -> dict[str, str]:
    """Every part of a model by its dotted name, without anything that training changes.

    Of the objective, the likelihood and the prior: their public attributes, floats in full. Of the
    networks: what they print of themselves. The same in every process: no addresses.
    """
    found = {"posterior": str(model.posterior)}
    for name, module in model.named_modules():
        if not name:
            continue
        if name.split(".")[0] in ("encoder", "decoder") or _of_torch(module):
            found[name] = f"{_class(module)}({ADDRESS.sub('', module.extra_repr())})"
        else:
            found[name] = _class(module)
            found |= {
                f"{name}.{attribute}": _text(value)
                for attribute, value in sorted(vars(module).items())
                if not attribute.startswith("_") and attribute != "training"
            }
    return found


def _of_torch(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "torch"


def _class(value: object) -> str:
    return type(value).__qualname__


def _text(value: Any) -> str:
    """Equal for equal values, in every process."""
    if isinstance(value, str | bool | None):
        return str(value)
    if isinstance(value, numbers.Real):
        return repr(float(value)).removesuffix(".0")
    if isinstance(value, Tensor):
        return f"Tensor({checksum(value)})"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_text, value))})"
    if isinstance(value, Mapping):
        return f"({', '.join(f'{k}={_text(v)}' for k, v in value.items())})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _class(value) + _text(fields)
    if isinstance(value, functools.partial):
        return f"partial({_text(value.func)}, {_text(value.args)}, {_text(value.keywords)})"
    if inspect.isroutine(value) or isinstance(value, nn.Module):
        return name_of(value)
    public = {k: v for k, v in vars(value).items() if not k.startswith("_")}
    return _class(value) + _text(public)
