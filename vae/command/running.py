"""What the commands do."""

from __future__ import annotations

import json
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from divergences.files import replacing
from divergences.two_sample import Method, two_sample_test
from vae.config import Config
from vae.data import Data
from vae.model import VAE
from vae.presets import PRESETS, configure
from vae.processes import first_process, threads
from vae.runs import Run, Which, write_text

FIGURES = (".png", ".pdf", ".svg")


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
    """Go on where the last checkpoint of a run stands; from the start if none was written yet.

    Raises:
        FileNotFoundError: the checkpoint of a run that had begun is gone.
    """
    from vae.training import read_metrics

    run = Run.open(folder)
    started = (folder / "checkpoints" / "last.ckpt").exists()
    if not started and read_metrics(folder / "metrics.csv"):
        raise FileNotFoundError(
            f"{folder}/checkpoints/last.ckpt is missing, though metrics.csv says that the run had "
            "begun: restore it, or train anew with `fit --config` and --overwrite"
        )
    _train(run, resume=started, live_plots=live_plots, quiet=quiet)


def _train(run: Run, *, resume: bool, live_plots: bool, quiet: bool) -> None:
    from vae.training import TrainingDiverged, fit

    config, data = run.config, run.data
    first = first_process()
    model = run.untrained()
    if first:
        print(f"{_described(data)}\n{run.folder}", flush=True)
        if quiet:  # which means no progress; what is minimised is always said
            print(model.weights(), flush=True)
        _warn_of_scale(config, data)
    try:
        with threads(config.threads):
            fit(
                model,
                data,
                **config.training(),
                folder=run.folder,
                resume=resume,
                live_plots=live_plots,
                progress=not quiet,
            )
    except TrainingDiverged as error:
        raise Failed(str(error)) from error
    if not first:
        return
    _look(run)
    if not quiet:
        print(f"next: python -m vae evaluate {run.folder}")


def _warn_of_scale(config: Config, data: Data) -> None:
    """σ² is in squared units of the data: beside data of another scale it is a mistake."""
    if config.likelihood != "gaussian":
        return
    variance = float(data.rows("train").var(0).mean())
    if variance > 20 * config.variance:
        warnings.warn(
            f"a column of the data has a variance of {variance:.3g} on average, σ² is "
            f"{config.variance:g}: rescale the data, or set --variance or --likelihood "
            "gaussian-learned",
            stacklevel=2,
        )


def _look(run: Run) -> None:
    """What one wants to see first: curves, samples, reconstructions, of the best checkpoint."""
    from vae.figures import curves_figure, reconstructions_figure, samples_figure, save_figure
    from vae.training import read_metrics

    model = run.model()
    figures = {
        "curves": curves_figure(read_metrics(run.folder / "metrics.csv")),
        "samples": samples_figure(model, run.data),
        "reconstructions": reconstructions_figure(model, run.data),
    }
    for name, figure in figures.items():
        save_figure(figure, run.figures / f"{name}.png")


def _described(data: Data) -> str:
    shape = "×".join(map(str, data.shape))
    return f"{data.name}: {len(data.train)} rows to train on, {len(data.heldout)} held out, {shape}"


# --- Looking -------------------------------------------------------------------------------------


def evaluate(folder: Path, which: Which, *, as_json: bool, **options: Any) -> None:
    """Measure, print, and write evaluation.json and figures/evaluation.png."""
    from vae.evaluation import evaluate
    from vae.figures import evaluation_page, save_figure
    from vae.training import read_metrics

    run = Run.open(folder)
    model = run.model(which)
    found = evaluate(model, run.data, **options)
    page = evaluation_page(model, run.data, found, read_metrics(folder / "metrics.csv"))
    json_path, figure_path = folder / "evaluation.json", run.figures / "evaluation.png"
    write_text(json_path, found.to_json() + "\n")
    save_figure(page, figure_path)
    print(found.to_json() if as_json else f"{found}\n\n{json_path}\n{figure_path}")


def sample(folder: Path, which: Which, *, n: int, out: Path | None, seed: int) -> None:
    """Forward samples."""
    from vae.evaluation.samples import generate
    from vae.figures import samples_figure

    _picture(
        Run.open(folder),
        which,
        "samples",
        lambda m, d: samples_figure(m, d, n=n, seed=seed),
        lambda m, d: generate(m, d, n, seed=seed),
        out,
    )


def reconstruct(folder: Path, which: Which, *, n: int, out: Path | None, seed: int) -> None:
    """Held-out rows, [2, n, …] with their reconstructions."""
    import torch

    from vae.figures import reconstruct, reconstructions_figure
    from vae.figures.views import heldout_rows

    def arrays(model: VAE, data: Data) -> Tensor:
        rows = heldout_rows(data, n, seed=seed)[0]
        return torch.stack([rows, reconstruct(model, rows, seed=seed)])

    _picture(
        Run.open(folder),
        which,
        "reconstructions",
        lambda m, d: reconstructions_figure(m, d, n=n, seed=seed),
        arrays,
        out,
    )


def traverse(folder: Path, which: Which, *, n: int, out: Path | None, seed: int) -> None:
    """One dimension at a time, the most used first."""
    from vae.figures import traversals_figure

    def figure(model: VAE, data: Data) -> Any:
        return traversals_figure(model, data, n=n, seed=seed)

    _picture(Run.open(folder), which, "traversals", figure, None, out)


def interpolate(folder: Path, which: Which, *, n: int, out: Path | None, seed: int) -> None:
    """Between pairs of held-out rows."""
    from vae.figures import interpolations_figure

    def figure(model: VAE, data: Data) -> Any:
        return interpolations_figure(model, data, n=n, seed=seed)

    _picture(Run.open(folder), which, "interpolations", figure, None, out)


def _picture(
    run: Run,
    which: Which,
    name: str,
    figure: Callable[[VAE, Data], Any],
    arrays: Callable[[VAE, Data], Tensor] | None,
    out: Path | None,
) -> None:
    """Draw, or save the numbers, as the suffix of ``out`` says; print where."""
    from vae.figures import save_figure

    path = _writable(run.figures / f"{name}.png" if out is None else out, arrays is not None)
    model = run.model(which)
    if path.suffix == ".npy":
        assert arrays is not None
        rows = arrays(model, run.data)
        with replacing(path) as file:
            np.save(file, rows.reshape(*rows.shape[:-1], *run.data.shape).numpy())
    else:
        save_figure(figure(model, run.data), path)
    print(path)


def _writable(path: Path, arrays: bool) -> Path:
    known = (*FIGURES, ".npy") if arrays else FIGURES
    if path.suffix not in known:
        raise ValueError(f"--out must end in {', '.join(known)}, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def compare(
    folder: Path,
    which: Which,
    *,
    method: Method,
    n: int | None,
    n_resamples: int,
    out: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Generated against held-out rows; other held-out rows against them as the control."""
    from vae.evaluation import comparison_table
    from vae.evaluation.samples import TESTED, generate
    from vae.figures import save_figure
    from vae.figures.views import heldout_rows

    run = Run.open(folder)
    path = _writable(run.figures / "comparison.png" if out is None else out, False)
    half = min(len(run.data.heldout) // 2, n or TESTED)
    rows = heldout_rows(run.data, 2 * half, seed=seed)[0]
    first, second = rows[:half], rows[half:]
    samples = generate(run.model(which), run.data, half, seed=seed)
    generated, control = (
        two_sample_test(x, first, method=method, n_resamples=n_resamples, rng=seed)
        for x in (samples, second)
    )
    save_figure(generated.plot(names=("generated", "held out")), path)
    if as_json:
        found = {"generated": generated.to_dict(), "control": control.to_dict()}
        print(json.dumps(found, indent=2, allow_nan=False))
        return
    questions = {
        "Do generated rows differ from held-out ones?": generated,
        "Control: do other held-out rows differ from them?": control,
    }
    print(f"{comparison_table(questions)}\n\n{path}")


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
