"""Train every preset on one data set, evaluate it, and append a row to bench/results/presets.csv.

python -m bench.presets digits                                 about ten minutes on one core
python -m bench.presets fashion-mnist --root FOLDER            about an hour; FOLDER holds IDX files
python -m bench.presets mnist --root FOLDER --presets mmd-vae  a few minutes; has not been run

The table of docs/vae.md is printed from there by `python -m bench.report presets`.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections.abc import Sequence
from typing import Any

import torch

from vae.build import build_model, load_data, resolve
from vae.config import Config
from vae.data import Data
from vae.evaluation import Evaluation, evaluate
from vae.presets import PRESETS, configure
from vae.training import fit

from .measure import append, commit, describe_machine

SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 200, "learning_rate": 2e-3, "heldout": 600},
    "fashion-mnist": {"epochs": 20, "batch_size": 200},
    "mnist": {"epochs": 20, "batch_size": 200},
}


def row(config: Config, data: Data, found: Evaluation, seconds: float) -> dict[str, Any]:
    """The figures that compare across likelihoods and objectives first."""
    heldout = found.heldout
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": describe_machine(),
        "versions": f"torch {torch.__version__}, python {platform.python_version()}",
        "data": data.name,
        "epochs": config.epochs,
        "latent": config.latent,
        "preset": config.preset,
        "weights": found.weights,
        "squared_error": heldout.squared_error,
        "kl": heldout.kl,
        "elbo": heldout.elbo,
        "importance_bound": None if found.importance is None else found.importance.bound,
        "active_units": heldout.active_units,
        "mutual_information": heldout.mutual_information,
        "total_correlation": heldout.total_correlation,
        "log_det_covariance": heldout.log_det_covariance,
        "prior_effect": found.prior.energy.effect_size,
        "prior_pvalue": found.prior.energy.pvalue,
        "generated_effect": found.generated.energy.effect_size,
        "generated_pvalue": found.generated.energy.pvalue,
        "class_distance": None if found.classes is None else found.classes.total_variation,
        "probe": None if found.probe is None else found.probe.codes,
        "train_seconds": round(seconds, 1),
    }


def cells(measured: dict[str, Any]) -> dict[str, Any]:
    """Numbers to five digits; what is not defined is left empty."""
    return {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in measured.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", choices=list(SETTINGS))
    parser.add_argument("--root", help="folder of the IDX files")
    of_images = [name for name, p in PRESETS.items() if p.settings.get("network") != "gru"]
    parser.add_argument("--presets", nargs="*", default=of_images, choices=of_images)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)  # the models are too small for more
    settings = SETTINGS[arguments.data]
    data = None
    for preset in arguments.presets:
        config = configure(
            preset, data=arguments.data, root=arguments.root, accelerator="cpu", **settings
        )
        data = load_data(config) if data is None else data
        config = resolve(config, data)
        model = build_model(config, data)
        started = time.perf_counter()
        fit(model, data, **config.training())
        seconds = time.perf_counter() - started
        found = evaluate(model, data, seed=config.seed)
        append("presets", [cells(row(config, data, found, seconds))])


if __name__ == "__main__":
    main()
