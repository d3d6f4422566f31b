"""`python -m divergences two-sample a.csv b.csv`: tests on files, from a shell."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
import warnings
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, get_args

from .. import (
    __version__,
    conditional,
    goodness_of_fit,
    independence,
    k_sample,
    localization,
    power,
    relative,
    two_sample,
)
from ..scaling import Scale
from . import running
from .models import FAMILIES, load_model
from .processes import joined

EPILOG = """\
files        .csv, .tsv, .txt (any delimiter, with or without a header), .npy, .npz and .pt
             (file.npz:NAME for one array of several), .parquet; a row is an observation.
             mmd-fourier, mmd-nystrom and, for one column, energy read .npy and .parquet files
             over 256 MiB in chunks
several      torchrun --nproc-per-node 4 -m divergences two-sample …: processes share the work of a
processes    test, also on several machines; each reads its part of the rows
exit status  0 the test ran, whatever it found; 1 p is at most --fail-below; 2 it did not run: wrong
             usage, wrong input; 130 interrupted
"""

Add = Callable[..., Any]  # ArgumentParser.add_argument


class _Parser(ArgumentParser):
    """An invalid argument gets one line rather than the usage and a line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=RawDescriptionHelpFormatter, **settings
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parser() -> ArgumentParser:
    """The command line; the methods and defaults are those of the library."""
    top = _Parser(prog="divergences", description="Compare distributions from samples.")
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Namespace], int], what: str) -> Add:
        made = commands.add_parser(name, help=what, description=what, epilog=EPILOG)
        made.set_defaults(run=run)
        add: Add = made.add_argument
        return add

    add = command("two-sample", _two_sample, "Do two samples differ?")
    add("x", help="file of the first sample")
    add("y", help="file of the second")
    add("--paired", action="store_true", help="row i of x and row i of y are a pair")
    _add_method(add, two_sample.two_sample_test, two_sample.Method)
    _add_kernel(add)
    _add_scale(add)
    _add_design(add)
    _add_columns(add, "--columns")
    _add_resampling(add)
    _add_checkpoint(add)
    _add_output(add)

    add = command("localize", _localize, "Which columns of two samples differ?")
    add("x", help="file of the first sample")
    add("y", help="file of the second")
    add("--paired", action="store_true", help="row i of x and row i of y are a pair")
    add("--correlations", action="store_true", help="test those of all pairs of columns too")
    _add_method(add, localization.localize, localization.Method)
    corrections = get_args(localization.Correction)
    default = _default(localization.localize, "correction")
    shown = f"for the number of columns: {', '.join(corrections)} ({default})"
    add("--correction", choices=corrections, default=default, metavar="NAME", help=shown)
    _add_design(add)
    _add_columns(add, "--columns")
    _add_resampling(add)
    _add_output(add)

    add = command("independence", _independence, "Do x and y, row by row, depend on each other?")
    add("x", help="file of x, or of both")
    add("y", nargs="?", help="file of y, with as many rows (that of x)")
    _add_method(add, independence.independence_test, independence.Method)
    for side in "xy":
        _add_kernel(add, f"-{side}")
    _add_scale(add)
    _add_design(add)
    _add_columns(add, "--x-columns", "--y-columns")
    _add_resampling(add)
    _add_checkpoint(add)
    _add_output(add)

    what = "Do x and y, row by row, depend on each other given z?"
    add = command("conditional-independence", _conditional_independence, what)
    add("x", help="file of x, or of all three")
    add("y", nargs="?", help="file of y, with as many rows (that of x)")
    add("z", nargs="?", help="file of z (that of x)")
    for side in "xy":
        _add_kernel(add, f"-{side}")
    _add_scale(add)
    _add_columns(add, "--x-columns", "--y-columns", "--z-columns")
    _add_resampling(add)
    _add_output(add)

    add = command("goodness-of-fit", _goodness_of_fit, "Does a sample follow a model?")
    test = goodness_of_fit.goodness_of_fit_test
    add("x", help="file of the sample")
    add("--model", default=_default(test, "model"), help=f"{FAMILIES} (%(default)s)")
    _add_fit(add)
    add("--estimate", action="store_true", help="fit mean and covariance of the model to x")
    _add_method(add, test, goodness_of_fit.Method)
    _add_kernel(add)
    _add_columns(add, "--columns")
    _add_resampling(add)
    _add_output(add)

    add = command("k-sample", _k_sample, "Do several samples differ, and which?")
    add("samples", nargs="+", metavar="sample", help="a file for each sample")
    _add_method(add, k_sample.k_sample_test, k_sample.Method)
    _add_kernel(add)
    _add_scale(add)
    _add_design(add)
    _add_columns(add, "--columns")
    _add_resampling(add)
    _add_checkpoint(add)
    _add_output(add)

    add = command("relative", _relative, "Which of two models is closer to x?")
    add("x", help="file of the data")
    add("p", nargs="?", help="file of a sample of the first model, for the relative MMD")
    add("q", nargs="?", help="file of a sample of the second")
    shown = f"given twice, p and q without samples, for the relative KSD: {FAMILIES}"
    add("--model", action="append", default=[], help=shown)
    _add_fit(add)
    default = _default(relative.relative_test, "alternative")
    alternatives = get_args(relative.Alternative)
    shown = f"{', '.join(alternatives)} ({default})"
    add("--alternative", choices=alternatives, default=default, metavar="NAME", help=shown)
    _add_kernel(add)
    _add_columns(add, "--columns")
    _add_output(add)

    add = command("power", running.power_of, "How many rows to find a difference as of two pilots?")
    add("x", help="file of the first pilot sample")
    add("y", help="file of the second")
    add("--paired", action="store_true", help="row i of x and row i of y are a pair")
    add("--rows", type=int, nargs="+", required=True, metavar="N", help="of x, to find power for")
    default = _default(power.power_of, "repetitions")
    add("--repetitions", type=int, default=default, help="tests for each N (%(default)s)")
    _add_method(add, two_sample.two_sample_test, two_sample.Method)
    _add_kernel(add)
    _add_scale(add)
    _add_columns(add, "--columns")
    default = _default(power.power_of, "n_resamples")
    add("--n-resamples", type=int, metavar="B", default=default, help="relabellings (%(default)s)")
    add("--seed", type=int, help="repeats the estimate exactly (a fresh one)")
    add("--drop-nan", action="store_true", help="leave out rows with NaN or empty cells")
    add("--json", action="store_true", help="print one JSON object")

    add = command(
        "benchmark-power",
        running.benchmark_power,
        "Power on the perturbed uniform, beside that published",
    )
    methods, scales, repetitions = (
        _default(power.benchmark_power, name) for name in ("methods", "scales", "repetitions")
    )
    names = get_args(two_sample.Method)
    add(
        "--methods",
        nargs="+",
        choices=names,
        default=methods,
        metavar="NAME",
        help=f"of {', '.join(names)} ({' '.join(methods)})",
    )
    add(
        "--scales",
        nargs="+",
        type=float,
        default=scales,
        metavar="S",
        help=f"of the perturbation, 0 to 1 ({' '.join(map(str, scales))})",
    )
    add(
        "--repetitions",
        type=int,
        default=repetitions,
        help="for each method and scale (%(default)s)",
    )
    add("--n-resamples", type=int, metavar="B", help="relabellings (that of each method)")
    add("--seed", type=int, dest="rng", help="repeats the benchmark exactly (a fresh one)")
    add("--out", type=Path, metavar="FILE", help="CSV, written anew after every row")
    add("--json", action="store_true", help="print one JSON object")
    return top


def _default(function: Callable[..., Any], name: str) -> Any:
    return inspect.signature(function).parameters[name].default


def _add_method(add: Add, test: Callable[..., Any], methods: Any) -> None:
    names, default = get_args(methods), _default(test, "method")
    shown = f"{', '.join(names)} ({default or 'by the model'})"
    add("--method", choices=names, default=default, metavar="NAME", help=shown)


def _add_kernel(add: Add, suffix: str = "") -> None:
    add(
        f"--kernel{suffix}", metavar="NAME", help="where the method takes one: gaussian, laplace, …"
    )
    add(
        f"--bandwidth{suffix}",
        type=running.bandwidth,
        metavar="σ",
        help="of the kernel: a number, several (0.5,1,2) or a rule (median)",
    )


def _add_fit(add: Add) -> None:
    add("--fit", metavar="FILE", help="rows to fit gaussian and gaussian:K to, none of them in x")


def _add_scale(add: Add) -> None:
    names = (*get_args(Scale), "none")
    add(
        "--scale",
        choices=names,
        default="auto",
        metavar="NAME",
        help=f"of the columns, set by all rows together: {', '.join(names)} (auto: robust where "
        "spreads differ more than fivefold)",
    )


def _add_design(add: Add) -> None:
    where = "a column of the samples (of x where rows are pairs), or a file with a label a row"
    add("--strata", metavar="COLUMN|FILE", help=f"permute within strata only: {where}")
    add(
        "--blocks",
        type=running.blocks,
        metavar="ROWS|shift",
        help="for series: permute blocks of so many consecutive rows, or shift the series around",
    )
    add("--groups", metavar="COLUMN|FILE", help=f"permute groups of rows as a whole: {where}")


def _add_columns(add: Add, *names: str) -> None:
    for name in names:
        add(
            name,
            type=running.column_list,
            metavar="LIST",
            help="by name (a,b) or number from 1 (1,3-5); all if not given",
        )


def _add_resampling(add: Add) -> None:
    add("--n-resamples", type=int, metavar="B", help="resamples (by the method)")
    add("--seed", type=int, help="repeats a test exactly (a fresh one, which the result states)")
    add("--no-progress", action="store_true", help="no bar on stderr")
    add("--plot", type=Path, metavar="FILE", help="draw the result: .png, .pdf, .svg, …")


def _add_checkpoint(add: Add) -> None:
    shown = "of a long test, which goes on from it when started anew with the same --seed"
    add("--checkpoint", type=Path, metavar="FILE", help=shown)


def _add_output(add: Add) -> None:
    add("--drop-nan", action="store_true", help="leave out rows with NaN or empty cells")
    add("--json", action="store_true", help="print one JSON object")
    add("--fail-below", type=running.level, metavar="ALPHA", help="exit with 1 if p ≤ ALPHA")


# --- Commands ------------------------------------------------------------------------------------


def _two_sample(arguments: Namespace) -> int:
    files = (arguments.x, arguments.y)
    samples = running.load(arguments, [(file, arguments.columns) for file in files])
    result = two_sample.two_sample_test(
        *samples.values,
        kernel=arguments.kernel,
        bandwidth=arguments.bandwidth,
        paired=arguments.paired,
        **running.settings(arguments) | samples.labels,
    )
    both = " and ".join(files)
    return running.report(
        arguments, result, files, (f"{both} differ", f"{both} were not found to differ")
    )


def _localize(arguments: Namespace) -> int:
    files = (arguments.x, arguments.y)
    samples = running.load(arguments, [(file, arguments.columns) for file in files])
    result = localization.localize(
        *samples.values,
        correlations=arguments.correlations,
        correction=arguments.correction,
        paired=arguments.paired,
        **running.settings(arguments) | samples.labels,
    )
    both, alpha = " and ".join(files), running.level_of(arguments)
    named = [row.column for row in result.columns if row.adjusted <= alpha]
    where = "; ".join(named) or "no column by itself"
    words = f"{both} differ ({where})", f"{both} were not found to differ in any column"
    return running.report(arguments, result, files, words)


def _independence(arguments: Namespace) -> int:
    if arguments.y is None and not (arguments.x_columns and arguments.y_columns):
        raise ValueError("one file holds both x and y: give --x-columns and --y-columns")
    files = (arguments.x, arguments.y or arguments.x)
    inputs = list(zip(files, (arguments.x_columns, arguments.y_columns), strict=True))
    samples = running.load(arguments, inputs, pairs=True)
    result = independence.independence_test(
        *samples.values,
        kernel_x=arguments.kernel_x,
        kernel_y=arguments.kernel_y,
        bandwidth_x=arguments.bandwidth_x,
        bandwidth_y=arguments.bandwidth_y,
        **running.settings(arguments) | samples.labels,
    )
    words = "x and y depend on each other", "No dependence of x and y was found"
    return running.report(arguments, result, files, words)


def _conditional_independence(arguments: Namespace) -> int:
    columns = [arguments.x_columns, arguments.y_columns, arguments.z_columns]
    if arguments.z is None and not (arguments.y is None and all(columns)):
        raise ValueError(
            "give a file each of x, y and z, or one of all with --x-columns, --y-columns and "
            "--z-columns"
        )
    files = (arguments.x, arguments.y or arguments.x, arguments.z or arguments.x)
    samples = running.load(arguments, list(zip(files, columns, strict=True)), pairs=True)
    result = conditional.conditional_independence_test(
        *samples.values,
        kernel_x=arguments.kernel_x,
        kernel_y=arguments.kernel_y,
        bandwidth_x=arguments.bandwidth_x,
        bandwidth_y=arguments.bandwidth_y,
        **running.settings(arguments),
    )
    words = "x and y depend on each other given z", "No dependence of x and y given z was found"
    return running.report(arguments, result, files, words)


def _goodness_of_fit(arguments: Namespace) -> int:
    with redirect_stdout(sys.stderr):  # what a model prints; stdout is for the result
        x, (model,) = _with_models(arguments, [arguments.model])
        result = goodness_of_fit.goodness_of_fit_test(
            x,
            model,
            kernel=arguments.kernel,
            bandwidth=arguments.bandwidth,
            estimate=arguments.estimate,
            **running.settings(arguments),
        )
    name, file = arguments.model, arguments.x
    if name == "normal":
        name = "a normal distribution" if arguments.estimate else result.model
    words = f"{file} does not follow {name}", f"{file} was not found to depart from {name}"
    return running.report(arguments, result, (file,), words)


def _with_models(
    arguments: Namespace, names: Sequence[str], files: Sequence[str] = ()
) -> tuple[Any, list[Any]]:
    """x; and the samples in files and the models by name, fitted to ``--fit`` where they ask it."""
    fit = [] if arguments.fit is None else [arguments.fit]
    if fit and not any(name.partition(":")[0] == "gaussian" for name in names):
        raise ValueError("--fit goes with --model gaussian or gaussian:K")
    inputs = [(file, arguments.columns) for file in (arguments.x, *files, *fit)]
    x, *others = running.load(arguments, inputs, fit=bool(fit)).values
    rows = others.pop() if fit else None
    return x, [*others, *(load_model(name, rows) for name in names)]


def _k_sample(arguments: Namespace) -> int:
    files = tuple(arguments.samples)
    samples = running.load(arguments, [(file, arguments.columns) for file in files])
    result = k_sample.k_sample_test(
        *samples.values,
        kernel=arguments.kernel,
        bandwidth=arguments.bandwidth,
        **running.settings(arguments) | samples.labels,
    )
    listed = ", ".join(f"{number} {file}" for number, file in enumerate(files))
    words = f"The samples ({listed}) differ", f"The samples ({listed}) were not found to differ"
    return running.report(arguments, result, files, words)


def _relative(arguments: Namespace) -> int:
    files = [file for file in (arguments.p, arguments.q) if file is not None]
    names = arguments.model or files
    if len(names) != 2 or (arguments.model and files):
        raise ValueError("give two files of samples after x, or --model twice and no samples")
    with redirect_stdout(sys.stderr):  # what a model prints; stdout is for the result
        x, models = _with_models(arguments, arguments.model, files)
        result = relative.relative_test(
            x,
            *models,
            method="ksd" if arguments.model else "mmd",
            kernel=arguments.kernel,
            bandwidth=arguments.bandwidth,
            alternative=arguments.alternative,
            alpha=running.level_of(arguments),
        )
    file, (p, q) = arguments.x, names
    closer, farther = (p, q) if result.statistic < 0 else (q, p)
    words = (
        f"{closer} is closer to {file} than {farther}",
        f"{p} and {q} were not found to differ in closeness to {file}",
    )
    return running.report(arguments, result, (file, *files), words)


# --- Running -------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; see ``EPILOG``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # ± and P₁ where the terminal has no UTF-8
    arguments = parser().parse_args(argv)
    try:
        with _warnings_in_one_line(arguments), joined(arguments):
            running.check_outputs(arguments)
            status: int = arguments.run(arguments)
            sys.stdout.flush()
            return status
    except BrokenPipeError:  # whoever read the result has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ModuleNotFoundError) as error:
        running.say(arguments, error)
    except KeyboardInterrupt as interrupt:
        running.say(arguments, str(interrupt) or "interrupted")
        return 130
    except Exception:  # a mistake of ours; Python's exit status for it, 1, would read as p ≤ ALPHA
        traceback.print_exc()
    return 2


@contextmanager
def _warnings_in_one_line(arguments: Namespace) -> Iterator[None]:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        running.say(arguments, f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show
        yield
