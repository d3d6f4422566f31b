"""The folder of a run: configuration, versions, metrics, checkpoints, evaluation, figures.

config.yaml      every setting, resolved: `python -m vae fit --config` repeats the run
versions.json    of the libraries, and a hash of the training rows
metrics.csv      one row per look at the held-out rows
checkpoints/     best.ckpt and last.ckpt
evaluation.json  what `evaluate` found
figures/
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import warnings
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

import divergences
from divergences.files import replacing
from vae._extras import needs_extra
from vae.build import build_model, load_data, resolve
from vae.config import Config
from vae.data import NAMES, Data
from vae.model import VAE
from vae.processes import first_process

with needs_extra():
    import yaml

CONFIG, VERSIONS = "config.yaml", "versions.json"
OWN = (CONFIG, VERSIONS, "metrics.csv", "evaluation.json", "checkpoints", "figures")

Which = Literal["best", "last"]


@dataclass(frozen=True)
class Run:
    """A folder with its configuration, resolved, and its data."""

    folder: Path
    config: Config
    data: Data

    @classmethod
    def create(cls, folder: Path, config: Config, *, overwrite: bool = False) -> Run:
        """A new run; `config` need not be resolved. Processes of one training beside the first
        write nothing.

        Raises:
            FileExistsError: the folder holds a run, and `overwrite` is not set.
            BlockingIOError: a run is being trained there.
            ValueError, OSError: data that cannot be loaded, settings that `vae.fit` refuses, a
                folder that cannot be written.
        """
        if (folder / CONFIG).exists() and not overwrite and first_process():
            raise FileExistsError(
                f"{folder} holds a run: `resume` it, name another folder with --out, "
                "or replace it with --overwrite"
            )
        if config.data not in NAMES and Path(config.data).expanduser().exists():
            config = config.replace(data=str(Path(config.data).expanduser().resolve()))
        if config.root is not None:  # so that the folder says it all, wherever one stands
            config = config.replace(root=str(Path(config.root).expanduser().resolve()))
        data = load_data(config)
        run = cls(folder, resolve(config, data), data)
        run._check()  # before anything is replaced
        if not first_process():
            return run
        from vae.training.checkpoints import locked

        with locked(folder):
            for name in OWN if overwrite else ():
                _remove(folder / name)
            write_text(folder / VERSIONS, as_json(_versions(data)))
            write_text(folder / CONFIG, as_yaml(run.config))
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """A run that is there.

        Raises:
            FileNotFoundError: it is not.
            ValueError: its configuration cannot be read by this version, or the data changed.
        """
        config = Config.from_dict(read_settings(folder / CONFIG))
        data = load_data(config)
        written = _read_versions(folder).get("data")
        if written is not None and written != _fingerprint(data):
            raise ValueError(
                f"{config.data} is not what {folder} was trained on: its rows have changed"
            )
        return cls(folder, config, data)

    def _check(self) -> None:
        """Raises ValueError for what `vae.fit` would refuse."""
        from vae.training.arguments import prepare
        from vae.training.devices import make_fabric

        model, arguments = self.untrained, self.config.training()
        accelerator = arguments.pop("accelerator")
        del arguments["compile"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the training gives them
            prepare(model, self.data, **arguments)
        make_fabric(model, accelerator, self.config.devices, self.config.precision)

    @property
    def figures(self) -> Path:
        """Made where it is missing."""
        path = self.folder / "figures"
        path.mkdir(exist_ok=True)
        return path

    @cached_property
    def untrained(self) -> VAE:
        """The model before its first step: one object, which a training changes."""
        return build_model(self.config, self.data)

    def model(self, which: Which = "best") -> VAE:
        """The trained model, in evaluation mode, on the CPU.

        Raises:
            FileNotFoundError: no checkpoint has been written yet.
            ValueError: the checkpoint is corrupt or of another model.
        """
        from vae.training import load_weights

        model = build_model(self.config, self.data)
        load_weights(model, self.folder / "checkpoints" / f"{which}.ckpt")
        return model.eval()


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """1e-3 is a number, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_settings(path: Path) -> dict[str, Any]:
    """Settings from YAML, some or all.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not YAML, or settings that this version does not know.
    """
    if not path.is_file():
        hint = f": {path.parent} does not hold a run" if path.name == CONFIG else ""
        raise FileNotFoundError(f"{path} is missing{hint}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        if not isinstance(values, dict):
            raise ValueError("it holds no settings")
        Config.from_dict(values)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        by = _read_versions(path.parent).get("divergences")
        origin = f" (written by divergences {by}, this is {divergences.__version__})" if by else ""
        detail = " ".join(str(error).split())
        raise ValueError(f"{path}{origin}: {detail}") from error
    return values


def write_text(path: Path, text: str) -> None:
    """Atomically."""
    with replacing(path) as file:
        file.write(text.encode())


def as_json(values: Any) -> str:
    """Strict JSON: no NaN."""
    return json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def as_yaml(config: Config) -> str:
    """As in config.yaml."""
    text: str = yaml.safe_dump(config.to_dict(), sort_keys=False)
    return text


def _versions(data: Data) -> dict[str, str]:
    packages = ("torch", "lightning", "numpy", "scikit-learn")
    return {
        "divergences": divergences.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "machine": f"{platform.system()} {platform.machine()}",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "data": _fingerprint(data),
    }


def _read_versions(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / VERSIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _fingerprint(data: Data) -> str:
    digest = hashlib.sha256()
    for rows in (data.train, data.heldout):
        digest.update(rows.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
