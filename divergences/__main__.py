"""`python -m divergences two-sample a.csv b.csv`: tests on files, from a shell."""

from __future__ import annotations

import inspect
import sys
import traceback
import warnings
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, get_args

from . import __version__, cli, two_sample

EPILOG = """\
files        .csv, .tsv, .txt (any delimiter, with or without a header), .npy, .npz and .pt
             (file.npz:NAME for one array of several), .parquet; a row is an observation
exit status  0 the test ran, whatever it found; 1 p is below --fail-below; 2 it did not run: wrong
             usage, wrong input; 130 interrupted
"""


class _Parser(ArgumentParser):
    """An invalid argument gets one line rather than the usage and a line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=RawDescriptionHelpFormatter, **settings
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parser() -> ArgumentParser:
    """The command line; choices and defaults are those of the library."""
    top = _Parser(prog="divergences", description="Compare distributions from samples.")
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def test(
        name: str, what: str, run: Callable[[Namespace], int], of: Any, methods: Any
    ) -> Callable[..., Any]:
        made = commands.add_parser(name, help=what, description=what, epilog=EPILOG)
        made.set_defaults(run=run)
        default = inspect.signature(of).parameters["method"].default
        _add_options(made.add_argument, get_args(methods), default)
        return made.add_argument

    add = test(
        "two-sample",
        "Do two samples differ?",
        _two_sample,
        two_sample.two_sample_test,
        two_sample.Method,
    )
    add("x", help="file of the first sample")
    add("y", help="file of the second")
    _add_columns(add)
    _add_strata(add)
    _add_kernel(add)
    return top


def _add_options(add: Callable[..., Any], methods: Sequence[str], default: str) -> None:
    """What every test takes."""
    listed = ", ".join(methods)
    add(
        "--method",
        choices=methods,
        default=default,
        metavar="NAME",
        help=f"{listed} (%(default)s)",
    )
    add("--n-resamples", type=int, metavar="B", help="relabellings (999 or 1999, by the method)")
    add("--seed", type=int, help="repeats a test exactly (a fresh one, which the result states)")
    add("--drop-nan", action="store_true", help="leave out rows with NaN or empty cells")
    add("--json", action="store_true", help="print one JSON object")
    add("--plot", type=Path, metavar="FILE", help="draw the result: .png, .pdf, .svg, …")
    add("--fail-below", type=cli.level, metavar="ALPHA", help="exit with 1 if p < ALPHA, for CI")
    add("--no-progress", action="store_true", help="no bar on stderr")


def _add_columns(add: Callable[..., Any], *names: str) -> None:
    for name in names or ("--columns",):
        add(
            name,
            type=cli.column_list,
            metavar="LIST",
            help="by name (a,b) or number from 1 (1,3-5); all if not given",
        )


def _add_strata(add: Callable[..., Any]) -> None:
    add(
        "--strata",
        metavar="COLUMN|FILE",
        help="permute within strata only: a column of the samples, or a file with a label per row",
    )


def _add_kernel(add: Callable[..., Any]) -> None:
    add("--kernel", help="for method mmd: gaussian, laplace, …")
    add(
        "--bandwidth",
        type=cli.bandwidth,
        help="of the kernel: a number, several (0.5,1,2) or a rule (median)",
    )


# --- Commands ------------------------------------------------------------------------------------


def _two_sample(arguments: Namespace) -> int:
    files = (arguments.x, arguments.y)
    samples = cli.load(arguments, [(file, arguments.columns) for file in files])
    result = two_sample.two_sample_test(
        *samples.values,
        method=arguments.method,
        kernel=arguments.kernel,
        bandwidth=arguments.bandwidth,
        strata=samples.strata,
        **_settings(arguments),
    )
    both = " and ".join(files)
    words = f"{both} differ", f"No difference between {both} was found"
    return cli.report(arguments, result, words, {"x": arguments.x, "y": arguments.y})


def _settings(arguments: Namespace) -> dict[str, Any]:
    return {
        "n_resamples": arguments.n_resamples,
        "rng": arguments.seed,
        "show_progress": False if arguments.no_progress else None,
    }


# --- Running -------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; see ``EPILOG``."""
    arguments = parser().parse_args(argv)
    try:
        with _warnings_in_one_line(arguments):
            cli.check_plot(arguments)
            status: int = arguments.run(arguments)
            return status
    except (ValueError, OSError, ModuleNotFoundError) as error:
        cli.say(arguments, error)
    except KeyboardInterrupt as interrupt:
        cli.say(arguments, str(interrupt) or "interrupted")
        return 130
    except Exception:  # a mistake of ours; Python's exit status for it, 1, would read as p < ALPHA
        traceback.print_exc()
    return 2


@contextmanager
def _warnings_in_one_line(arguments: Namespace) -> Iterator[None]:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        cli.say(arguments, f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show
        yield


if __name__ == "__main__":
    sys.exit(main())
