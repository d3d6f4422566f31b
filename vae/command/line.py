"""The command line: arguments, messages and exit statuses."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, get_args

from divergences import __version__
from divergences.two_sample import Method
from vae.command import running
from vae.config import CHOICES, KINDS, Config, from_text
from vae.presets import PRESETS, configure
from vae.runs import as_yaml, read_settings

EPILOG = """\
exit status  0 done; 1 it failed (diverged, a missing extra, a full disk); 2 wrong usage or input;
             130 interrupted
"""
MOVED = {  # deprecated commands
    "demo": "examples/demo.py",
    "reproduce": "-m pytest -m slow tests/vae/test_known_outcomes.py",
}

Add = Callable[..., Any]  # ArgumentParser.add_argument


class _Parser(argparse.ArgumentParser):
    """An invalid argument gets one line rather than the usage and a line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


# --- Commands: their arguments, and what they run -------------------------------------------------


def _fit_arguments(add: Add) -> None:
    add("--config", type=Path, help="YAML of settings, such as the config.yaml of a run")
    add("--print_config", action="store_true", help="print all settings as YAML, and train nothing")
    for setting in dataclasses.fields(Config):
        choices = CHOICES.get(setting.name)
        flag = setting.name.rstrip("_").replace("_", "-")
        unset = "" if setting.default is None else f" (default: {setting.default})"
        add(
            f"--{flag}",
            dest=setting.name.rstrip("_"),
            default=argparse.SUPPRESS,
            metavar=f"{{{','.join(choices)}}}" if choices else flag.upper(),
            help=setting.metadata["help"] + unset,
        )
    add("--alpha", default=argparse.SUPPRESS, metavar="ALPHA", help="α of the InfoVAE: β = 1−α")
    add("--out", type=Path, help="folder of the run (out/PRESET-DATA)")
    add("--overwrite", action="store_true", help="replace the run that the folder holds")
    _add_watching(add)


def _fit(
    *, config: Path | None, print_config: bool, out: Path | None, overwrite: bool,
    live_plots: bool, quiet: bool, **given: str,
) -> None:  # fmt: skip
    kinds = {name.rstrip("_"): kind for name, kind in KINDS.items()} | {"alpha": (float,)}
    flags = {name: from_text(text, kinds[name]) for name, text in given.items()}
    stored = {} if config is None else read_settings(config)
    if "alpha" in flags:
        stored.pop("beta", None)
    settings = {**stored, **flags}
    chosen = configure(settings.pop("preset", "mmd-vae"), **settings)
    if print_config:
        print(as_yaml(chosen), end="")
        return
    running.fit(chosen, out=out, overwrite=overwrite, live_plots=live_plots, quiet=quiet)


def _resume_arguments(add: Add) -> None:
    add("run", type=Path, help="folder of a run")
    _add_watching(add)


def _add_watching(add: Add) -> None:
    add("--live-plots", action="store_true", help="redraw curves.png as the training goes")
    add("--quiet", action="store_true", help="no progress")


def _add_run(add: Add) -> None:
    add("run", type=Path, help="folder of a run")
    _add_checkpoint(add)


def _add_checkpoint(add: Add) -> None:
    best = "of the least held-out loss, or the last (default: best)"
    add("--checkpoint", choices=("best", "last"), default="best", help=best)
    add("--seed", type=int, default=0, help="of every draw (default: %(default)s)")


def _evaluate_arguments(add: Add) -> None:
    _add_run(add)
    for name, default, what in (
        ("importance", 500, "K of the importance-weighted bound"),
        ("resamples", 999, "permutations of each test"),
        ("max-rows", 10_000, "rows of each part, at most"),
    ):
        add(f"--{name}", type=int, default=default, help=f"{what} (default: %(default)s)")
    add("--out", type=Path, help="folder of evaluation.json and evaluation.png (the run)")
    add("--json", action="store_true", help="print the JSON instead of the table")


def _compare_arguments(add: Add) -> None:
    _add_run(add)
    methods = get_args(Method)
    add("--method", choices=methods, default="fuse", help="of `two_sample_test` (default: fuse)")
    add("--n", type=int, help="rows of each sample, at most (2000)")
    add("--resamples", type=int, default=999, help="permutations (default: %(default)s)")
    add("--out", type=Path, help="figure (in the run)")
    add("--json", action="store_true", help="print JSON")


def _picture_arguments(n: int, counted: str, numbers: str = "") -> Callable[[Add], None]:
    def arguments(add: Add) -> None:
        _add_run(add)
        add("--n", type=int, default=n, help=f"{counted} (default: %(default)s)")
        add("--out", type=Path, help=f".png, .pdf{numbers} (in the run)")

    return arguments


def _sample_arguments(add: Add) -> None:
    _picture_arguments(64, "samples", " or .npy, of text .txt")(add)
    add(
        "--pixel-noise", action="store_true",
        help="draw pixels from p(x|z); otherwise pictures show its means, and an .npy file holds "
        "draws where the data are binarised",
    )  # fmt: skip


def _latent_arguments(add: Add) -> None:
    add("run", type=Path, help="folder of a run")
    add("beside", nargs="?", type=Path, help="another run, to be drawn beside it")
    add(
        "--rows", nargs="+", default=(), metavar="ROW",
        help="show q(z|x) of these held-out rows, by number, or class-K for the first of class K",
    )  # fmt: skip
    _add_checkpoint(add)
    add("--n", type=int, default=3000, help="codes, at most (default: %(default)s)")
    add("--out", type=Path, help=".png, .pdf (in the run)")


COMMANDS: dict[str, tuple[str, Callable[[Add], None], Callable[..., None]]] = {
    "fit": ("train a preset on a data set", _fit_arguments, _fit),
    "resume": (
        "go on with an interrupted run, to the same weights, bit for bit",
        _resume_arguments,
        running.resume,
    ),
    "evaluate": ("measure a run: one JSON, one figure page", _evaluate_arguments, running.evaluate),
    "sample": ("generate", _sample_arguments, partial(running.picture, "sample")),
    "reconstruct": (
        "held-out rows and their reconstructions",
        _picture_arguments(32, "rows", " or .npy, of text .txt"),
        partial(running.picture, "reconstruct"),
    ),
    "traverse": (
        "one latent dimension at a time, from −3 to 3",
        _picture_arguments(10, "dimensions, at most"),
        partial(running.picture, "traverse"),
    ),
    "interpolate": (
        "between pairs of held-out rows",
        _picture_arguments(8, "pairs"),
        partial(running.picture, "interpolate"),
    ),
    "latent": (
        "the latent space of a run, or of two side by side",
        _latent_arguments,
        running.latent,
    ),
    "compare": ("test generated against held-out rows", _compare_arguments, running.compare),
    "presets": (
        "list the objectives, or one of them in full",
        lambda add: add("name", nargs="?", help="a preset"),
        running.presets,
    ),
}


def usage() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (what, *_) in COMMANDS.items()]
    head = ["usage: vae COMMAND …      (COMMAND --help for its flags)", ""]
    head += ["Autoencoders of the InfoVAE family.", ""]
    return "\n".join([*head, *lines, "", f"presets: {', '.join(PRESETS)}"])


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 it failed, 2 wrong usage or input, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in ([], ["-h"], ["--help"]):
        print(usage())
        return 0 if arguments else 2
    if arguments == ["--version"]:
        print(f"vae (divergences {__version__})")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        unknown = f"unknown command {name!r}; one of {', '.join(COMMANDS)}"
        if name in MOVED:
            unknown = f"`vae {name}` is deprecated: run `python {MOVED[name]}` in the repository"
        print(f"vae: {unknown}", file=sys.stderr)
        return 2
    what, add_arguments, run = COMMANDS[name]
    parser = _Parser(
        prog=f"vae {name}",
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser.add_argument)
    try:
        given = vars(parser.parse_args(rest))
        with warnings.catch_warnings():
            warnings.showwarning = _printed_once()
            run(**given)
    except SystemExit as exit_:  # from the parser, or SIGTERM
        return int(exit_.code or 0)
    except KeyboardInterrupt as interrupt:
        print(f"vae {name}: {interrupt or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ModuleNotFoundError, running.Failed) as error:
        print(f"vae {name}: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"vae {name}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        reason = error if error.strerror is None else f"{error.filename}: {error.strerror}"
        print(f"vae {name}: {reason}", file=sys.stderr)
        return 1 if error.errno in (errno.ENOSPC, errno.EIO) else 2
    return 0


def _printed_once() -> Callable[..., None]:
    """For ``warnings.showwarning``: a line for each message, however often it is given."""
    said: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in said:
            said.add(str(message))
            print(f"warning: {message}", file=sys.stderr)

    return show
