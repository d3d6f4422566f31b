"""The command line: what is asked for, and how it ends."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import sys
import warnings
from argparse import ArgumentParser as PlainParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_type_hints

from vae._extras import needs_extra

with needs_extra():
    from jsonargparse import ArgumentParser, Namespace

from divergences import __version__
from divergences.two_sample import Method
from vae.command import running
from vae.config import MEANT_FOR, Config
from vae.presets import PRESETS, configure
from vae.runs import read_settings

EPILOG = """\
exit status  0 done; 1 it failed (diverged, a missing extra, a full disk); 2 wrong usage or input;
             130 interrupted
"""


class _Parser(ArgumentParser):
    """An invalid argument gets one line rather than the usage and a line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002
        self.exit(2, f"{self.prog}: {_plain(message)} (see --help)\n")


def _plain(message: str) -> str:
    """The parser's words without its types."""
    text = " ".join(message.split())
    found = re.fullmatch(r'Parser key "(\w+)": (.*?)\.? Got value: (.*)', text) or re.fullmatch(
        r'Parser key "(\w+)": (.*) Given value type.*Given value: (.*)', text
    )
    if found is None:
        return text
    name, kinds, value = found.groups()
    words = {"int": "an integer", "float": "a number", "bool": "true or false", "NoneType": "null"}
    plain = [words.get(kind, kind) for kind in re.findall(r"Expected an? <class '(\w+)'>", kinds)]
    plain += [f"one of {names}" for names in re.findall(r"typing\.Literal\[(.*?)\]", kinds)]
    if not plain:
        return text
    return f"--{name.replace('_', '-')} must be {' or '.join(plain)}, got {value!r}"


def _parser(prog: str, what: str) -> _Parser:
    return _Parser(prog=f"vae {prog}", description=what, epilog=EPILOG)


# --- Commands ------------------------------------------------------------------------------------


def _fit(argv: Sequence[str]) -> None:
    parser = _parser("fit", "Train a preset, or what a configuration file says.")
    add = parser.add_argument
    add("--config", action="config", help="YAML of settings, such as the config.yaml of a run")
    scan = PlainParser(add_help=False, allow_abbrev=False)
    scan.add_argument("--preset")
    scan.add_argument("--config", type=Path)
    known, _ = scan.parse_known_args(list(argv))
    stored = {} if known.config is None else read_settings(known.config)
    defaults = configure(str(known.preset or stored.get("preset", "mmd-vae"))).to_dict()
    hints = get_type_hints(Config)
    for setting in dataclasses.fields(Config):
        name = setting.name.rstrip("_")
        add(
            "--" + name.replace("_", "-"),
            type=hints[setting.name],
            default=defaults[name],
            help=setting.metadata["help"],
        )
    add("--alpha", type=float | None, default=None, help="α of the InfoVAE: sets β = 1−α")
    add("--out", type=Path | None, default=None, help="folder of the run (out/PRESET-DATA)")
    add("--overwrite", action="store_true", help="replace the run that the folder holds")
    add("--live-plots", action="store_true", help="redraw figures/curves.png at every look")
    add("--quiet", action="store_true", help="no progress")
    given = parser.parse_args(list(argv)).as_dict()
    extra = {name: given.pop(name) for name in ("out", "overwrite", "live_plots", "quiet")}
    given.pop("config", None)
    alpha = given.pop("alpha")
    if alpha is not None:
        if given["beta"] not in (defaults["beta"], 1 - alpha):
            raise ValueError("give --alpha or --beta = 1 − alpha, not both")
        given["beta"] = 1 - alpha
    config = Config.from_dict(given)
    config.check_used(
        name
        for name in hints
        if name in MEANT_FOR and given[name.rstrip("_")] != defaults[name.rstrip("_")]
    )
    running.fit(config, **extra)


def _of_run(prog: str, what: str, argv: Sequence[str], add: Callable[[Any], None]) -> Namespace:
    """Arguments of a command that takes the folder of a run."""
    parser = _parser(prog, what)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument(
        "--checkpoint",
        type=Literal["best", "last"],
        default="best",
        help="of the least held-out loss, or the last",
    )
    add(parser.add_argument)
    return parser.parse_args(list(argv))


def _resume(argv: Sequence[str]) -> None:
    parser = _parser("resume", "Go on with an interrupted run, to the same weights, bit for bit.")
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--live-plots", action="store_true", help="redraw figures/curves.png")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    given = parser.parse_args(list(argv))
    running.resume(given.run, live_plots=given.live_plots, quiet=given.quiet)


def _evaluate(argv: Sequence[str]) -> None:
    def add(argument: Any) -> None:
        argument("--importance", type=int, default=500, help="K of the importance-weighted bound")
        argument("--resamples", type=int, default=999, help="permutations of each test")
        argument("--max-rows", type=int, default=10_000, help="rows of each part, at most")
        argument("--seed", type=int, default=0, help="of every draw")
        argument("--json", action="store_true", help="print the JSON instead of the table")

    given = _of_run("evaluate", "Everything measured: one JSON, one figure page.", argv, add)
    running.evaluate(
        given.run,
        given.checkpoint,
        n_importance=given.importance,
        n_resamples=given.resamples,
        max_rows=given.max_rows,
        seed=given.seed,
        as_json=given.json,
    )


def _picture(name: str, what: str, count: int, counted: str) -> Callable[[Sequence[str]], None]:
    def command(argv: Sequence[str]) -> None:
        def add(argument: Any) -> None:
            argument("--n", type=int, default=count, help=counted)
            numbers = " or .npy" if name in ("sample", "reconstruct") else ""
            argument(
                "--out", type=Path | None, default=None, help=f".png, .pdf{numbers} (in the run)"
            )
            argument("--seed", type=int, default=0, help="of every draw")

        given = _of_run(name, what, argv, add).as_dict()
        folder, which, n = given.pop("run"), given.pop("checkpoint"), given.pop("n")
        if n < 1:
            raise ValueError(f"--n must be at least 1, got {n}")
        getattr(running, name)(folder, which, n=n, **given)

    return command


def _compare(argv: Sequence[str]) -> None:
    def add(argument: Any) -> None:
        argument("--method", type=Method, default="fuse", help="of `two_sample_test`")
        argument("--n", type=int | None, default=None, help="rows of each sample, at most (2000)")
        argument("--resamples", type=int, default=999, help="permutations")
        argument("--out", type=Path | None, default=None, help="figure (in the run)")
        argument("--seed", type=int, default=0, help="of every draw")
        argument("--json", action="store_true", help="print JSON")

    given = _of_run("compare", "Do generated rows differ from held-out ones?", argv, add)
    running.compare(
        given.run,
        given.checkpoint,
        method=given.method,
        n=given.n,
        n_resamples=given.resamples,
        out=given.out,
        seed=given.seed,
        as_json=given.json,
    )


def _presets(argv: Sequence[str]) -> None:
    parser = _parser("presets", "The named objectives, or one of them in full.")
    parser.add_argument("name", type=str | None, nargs="?", default=None, help="a preset")
    running.presets(parser.parse_args(list(argv)).name)


COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], None]]] = {
    "fit": ("train a preset on a data set", _fit),
    "resume": ("go on with an interrupted run", _resume),
    "evaluate": ("measure a run: one JSON, one figure page", _evaluate),
    "sample": ("generate", _picture("sample", "Generate.", 64, "samples")),
    "reconstruct": (
        "held-out rows and their reconstructions",
        _picture("reconstruct", "Held-out rows beside their reconstructions.", 32, "rows"),
    ),
    "traverse": (
        "one latent dimension at a time",
        _picture("traverse", "Each latent dimension from −3 to 3.", 10, "dimensions, at most"),
    ),
    "interpolate": (
        "between held-out rows",
        _picture("interpolate", "Between pairs of held-out rows.", 8, "pairs"),
    ),
    "compare": ("test generated against held-out rows", _compare),
    "presets": ("list the objectives", _presets),
}

MOVED = {"demo": "examples/demo.py", "reproduce": "examples/reproduce"}  # deprecated commands


def usage() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (what, _) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vae COMMAND …      (COMMAND --help for its flags)",
            "",
            "Autoencoders of the InfoVAE family.",
            "",
            *lines,
            "",
            f"presets: {', '.join(PRESETS)}",
        ]
    )


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
    if name in MOVED:
        print(
            f"vae: `vae {name}` is deprecated: run `python {MOVED[name]}` in the repository",
            file=sys.stderr,
        )
        return 2
    if name not in COMMANDS:
        print(
            f"vae: unknown command {name!r}; one of {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _printed_once()
            COMMANDS[name][1](rest)
    except SystemExit as exit_:  # from the parser
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
    """For ``warnings.showwarning``: a line for each message, however often the model is built."""
    said: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in said:
            said.add(str(message))
            print(f"warning: {message}", file=sys.stderr)

    return show
