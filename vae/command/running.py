"""What the commands do."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from vae.config import Config
from vae.data import Data
from vae.demo import Config as Demo
from vae.presets import PRESETS, configure
from vae.runs import Run


class Failed(Exception):
    """The work was well asked for, and failed."""


# --- Training ------------------------------------------------------------------------------------


def fit(
    config: Config, *, out: Path | None, overwrite: bool, live_plots: bool, quiet: bool
) -> None:
    """Train in a new folder."""
    folder = Path("out") / f"{config.preset}-{Path(config.data).stem}" if out is None else out
    run = Run.create(folder, config, overwrite=overwrite)
    _train(run, resume=False, live_plots=live_plots, quiet=quiet)


def resume(folder: Path, *, live_plots: bool, quiet: bool) -> None:
    """Go on where the last checkpoint of a run stands; from the start if there is none."""
    run = Run.open(folder)
    started = (folder / "checkpoints" / "last.ckpt").exists()
    _train(run, resume=started, live_plots=live_plots, quiet=quiet)


def _train(run: Run, *, resume: bool, live_plots: bool, quiet: bool) -> None:
    from vae.training import TrainingDiverged, fit

    config, data = run.config, run.data
    if not quiet:
        print(f"{_described(data)}\n{run.folder}", flush=True)
    try:
        fit(
            run.untrained(),
            data,
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            critic_learning_rate=config.critic_learning_rate,
            critic_steps=config.critic_steps,
            seed=config.seed,
            accelerator=config.accelerator,
            devices=config.devices,
            precision=config.precision,
            compile=config.compile,
            patience=config.patience,
            check_every=config.check_every,
            folder=run.folder,
            resume=resume,
            live_plots=live_plots,
            progress=not quiet,
        )
    except TrainingDiverged as error:
        raise Failed(str(error)) from error
    if not quiet:
        print(f"next: python -m vae evaluate {run.folder}")


def _described(data: Data) -> str:
    shape = "×".join(map(str, data.shape))
    return f"{data.name}: {len(data.train)} rows to train on, {len(data.heldout)} held out, {shape}"


# --- Words ---------------------------------------------------------------------------------------


def presets(name: str | None) -> None:
    """Print all in a line each, or one in full."""
    if name is None:
        width = max(map(len, PRESETS))
        for key, preset in PRESETS.items():
            print(f"{key:<{width}}  {preset.formula}")
        print("\nOne in full: python -m vae presets NAME. All minimised, in nats per sample.")
        return
    configure(name)  # refuses unknown names
    preset = PRESETS[name]
    settings = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in preset.settings.items())
    rows = [
        ("what", preset.summary),
        ("formula", preset.formula),
        ("source", preset.source),
        ("weights", preset.weights),
        ("differs", preset.differs),
        ("flags", settings),
    ]
    for label, text in rows:
        if text:
            print(textwrap.fill(f"{label:<9}{text}", 96, subsequent_indent=" " * 9))


def reproduce(names: Sequence[str], *, everything: bool) -> None:
    """Run experiments, or list them."""
    from vae.reproduce import EXPERIMENTS
    from vae.reproduce import reproduce as run

    if not names and not everything:
        width = max(map(len, EXPERIMENTS))
        for name, experiment in EXPERIMENTS.items():
            print(f"{name:<{width}}  {experiment.summary} ({experiment.minutes:g} min)")
        print("\nRun some with: python -m vae reproduce NAME …, or all with --all")
        return
    print(run(list(EXPERIMENTS) if everything else list(names), progress=True))


def demo(config: Demo) -> None:
    """As `python -m vae demo`."""
    from vae.demo import run

    run(config)
