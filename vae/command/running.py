"""The work of the commands."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from divergences.files import replacing
from divergences.two_sample import Method, two_sample_test
from vae.config import Config
from vae.data import Data
from vae.data.text import as_text
from vae.model import VAE
from vae.presets import PRESETS, configure
from vae.processes import first_process, threads
from vae.runs import Run, Which, as_json, write_text

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


def resume(run: Path, *, live_plots: bool, quiet: bool) -> None:
    """Go on where the last checkpoint of a run stands; from the start if none was written yet.

    Raises:
        FileNotFoundError: the checkpoint of a run that had begun is gone.
    """
    from vae.training import read_metrics

    opened = Run.open(run)
    started = (run / "checkpoints" / "last.ckpt").exists()
    if not started and read_metrics(run / "metrics.csv"):
        raise FileNotFoundError(
            f"{run}/checkpoints/last.ckpt is missing, though metrics.csv says that the run had "
            "begun: restore it, or train anew with `fit --config` and --overwrite"
        )
    _train(opened, resume=started, live_plots=live_plots, quiet=quiet)


def _train(run: Run, *, resume: bool, live_plots: bool, quiet: bool) -> None:
    from vae.training import TrainingDiverged, fit

    config, data = run.config, run.data
    first = first_process()
    model = run.untrained
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
    _draw_first_figures(run, model)
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


def _draw_first_figures(run: Run, model: VAE) -> None:
    """Curves, samples and reconstructions, of the best checkpoint."""
    from vae.figures import curves_figure, reconstructions_figure, samples_figure, save_figure
    from vae.training import load_weights, read_metrics

    load_weights(model, run.folder / "checkpoints" / "best.ckpt")
    model.eval()
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


# --- Evaluating and drawing -----------------------------------------------------------------------


def evaluate(
    run: Path, checkpoint: Which, *, importance: int, resamples: int, max_rows: int,
    out: Path | None, seed: int, json: bool,
) -> None:  # fmt: skip
    """Measure, print, and write evaluation.json and evaluation.png, into ``out`` or the run."""
    from vae.evaluation import evaluate
    from vae.figures import evaluation_page, save_figure
    from vae.training import read_metrics

    opened = Run.open(run)
    model = opened.model(checkpoint)
    found = evaluate(
        model, opened.data, n_importance=importance, n_resamples=resamples, max_rows=max_rows,
        seed=seed,
    )  # fmt: skip
    print(found.to_json() if json else found, flush=True)  # before a folder refuses it
    history = read_metrics(run / "metrics.csv")
    page = evaluation_page(model, opened.data, found, history, preset=opened.config.preset)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    json_path = (out or run) / "evaluation.json"
    write_text(json_path, found.to_json() + "\n")
    figure_path = (out or opened.figures) / "evaluation.png"
    save_figure(page, figure_path)
    if not json:
        print(f"\n{json_path}\n{figure_path}")


def picture(
    name: str, run: Path, checkpoint: Which, *, n: int, out: Path | None, seed: int,
    pixel_noise: bool = False,
) -> None:  # fmt: skip
    """Draw samples, reconstructions, traversals or interpolations, or save the numbers of the first
    two, as the suffix of ``out`` says; print where."""
    from vae import figures

    if n < 1:
        raise ValueError(f"--n must be at least 1, got {n}")
    draw = {
        "sample": figures.samples_figure,
        "reconstruct": figures.reconstructions_figure,
        "traverse": figures.traversals_figure,
        "interpolate": figures.interpolations_figure,
    }[name]
    arrays = {"sample": _samples, "reconstruct": _reconstructions}.get(name)
    opened = Run.open(run)
    file = draw.__name__.replace("_figure", ".png")
    numbers = () if arrays is None else (".npy", ".txt") if opened.data.text else (".npy",)
    path = _writable(opened.figures / file if out is None else out, numbers)
    model = opened.model(checkpoint)
    if arrays is not None and path.suffix in numbers:
        rows = arrays(model, opened.data, n, seed, pixel_noise)
        if path.suffix == ".txt":
            write_text(path, "\n".join([*as_text(rows.flatten(0, -2)), ""]))
        else:
            with replacing(path) as file_:
                np.save(file_, rows.reshape(*rows.shape[:-1], *opened.data.shape).numpy())
    else:
        options = {"pixel_noise": True} if pixel_noise else {}
        figures.save_figure(draw(model, opened.data, n=n, seed=seed, **options), path)
    print(path)


def latent(
    run: Path, beside: Path | None, checkpoint: Which, *, rows: Sequence[str], n: int,
    out: Path | None, seed: int,
) -> None:  # fmt: skip
    """Draw the codes of one run or two, or q(z|x) of chosen held-out rows; print where."""
    from vae.figures import latents_figure, save_figure

    if n < 2:
        raise ValueError(f"--n must be at least 2, got {n}")
    opened = [Run.open(folder) for folder in (run, beside) if folder is not None]
    first, last = opened[0], opened[-1]
    if rows and not torch.equal(first.data.heldout, last.data.heldout):
        raise ValueError("--rows of two runs need the same held-out rows: the same data and seed")
    path = _writable(first.figures / "latent.png" if out is None else out)
    models = [
        (f"{each.config.preset}, {each.data.name}", each.model(checkpoint), each.data)
        for each in opened
    ]
    chosen = [_row_number(first.data, row) for row in rows]
    save_figure(latents_figure(models, rows=chosen, n=n, seed=seed), path)
    print(path)


def _row_number(data: Data, text: str) -> int:
    """The number of a held-out row: as given, or the first of class K for class-K."""
    kind, _, number = text.rpartition("-")
    if not number.isdecimal() or kind not in ("", "class"):
        raise ValueError(f"--rows takes numbers of held-out rows, or class-K, got {text!r}")
    if not kind:
        return int(number)
    labels = data.heldout_labels
    found = [] if labels is None else (labels == int(number)).nonzero().flatten().tolist()
    if not found:
        raise ValueError(f"{data.name} has no held-out row of class {number}")
    return int(found[0])


def _samples(model: VAE, data: Data, n: int, seed: int, pixel_noise: bool) -> Tensor:
    from vae.evaluation.samples import generate

    return generate(model, data, n, seed=seed, pixel_noise=pixel_noise or None)


def _reconstructions(model: VAE, data: Data, n: int, seed: int, _: bool) -> Tensor:
    """[2, n, …]: held-out rows and their reconstructions."""
    from vae.figures import heldout_rows, reconstruct

    rows = heldout_rows(data, n, seed=seed)[0]
    return torch.stack([rows, reconstruct(model, rows, seed=seed)])


def _writable(path: Path, others: tuple[str, ...] = ()) -> Path:
    known = (*FIGURES, *others)
    if path.suffix not in known:
        raise ValueError(f"--out must end in {', '.join(known)}, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def compare(
    run: Path, checkpoint: Which, *, method: Method, n: int | None, resamples: int,
    out: Path | None, seed: int, json: bool,
) -> None:  # fmt: skip
    """Generated against held-out rows; other held-out rows against them as the control."""
    from vae.evaluation import comparison_table
    from vae.evaluation.samples import TESTED, generate
    from vae.figures import heldout_rows, save_figure

    opened = Run.open(run)
    path = _writable(opened.figures / "comparison.png" if out is None else out)
    half = min(len(opened.data.heldout) // 2, n or TESTED)
    rows = heldout_rows(opened.data, 2 * half, seed=seed)[0]
    samples = generate(opened.model(checkpoint), opened.data, half, seed=seed)
    generated, control = (
        two_sample_test(x, rows[:half], method=method, n_resamples=resamples, rng=seed, scale=None)
        for x in (samples, rows[half:])
    )
    save_figure(generated.plot(names=("generated", "held out")), path)
    if json:
        found = {"generated": generated.to_dict(), "control": control.to_dict()}
        print(as_json(found), end="")
        return
    questions = {
        "Do generated rows differ from held-out ones?": generated,
        "Control: do other held-out rows differ from them?": control,
    }
    print(f"{comparison_table(questions)}\n\n{path}")


# --- Presets -------------------------------------------------------------------------------------


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
