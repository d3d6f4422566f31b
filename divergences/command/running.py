"""Shared by the commands of `python -m divergences`: samples from files, and reports of results."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..encoding import named_columns
from ..files import replacing
from ..kernels import Bandwidth
from ..kernels.statistics.sharing import ALONE
from ..localization import LocalizationResult
from ..power import PowerRow
from ..power import benchmark_power as power_rows
from ..power import power_of as pilot_rows
from ..relative import RelativeResult
from ..results import HypothesisResult, TwoSampleResult, p_in_words
from ..two_sample import FEATURE_METHODS
from .delimited import MISSING
from .processes import is_first, share_of, together
from .tables import (
    Table,
    complete_rows,
    is_file,
    is_large,
    read_batches,
    read_labels,
    read_table,
)

ALPHA = 0.05  # of the verdict in words, unless --fail-below names another


class Samples(NamedTuple):
    values: list[Any]  # [n, d] each: NamedColumns, or Batches of a large file
    labels: dict[str, Any]  # "strata" or "groups" of the rows of all samples in turn;
    # of the rows if these match


def say(arguments: Namespace, message: object) -> None:
    """A line on stderr; stdout is for the result."""
    if is_first():
        print(f"divergences {arguments.command}: {message}", file=sys.stderr)


# --- Options ---------------------------------------------------------------------------------


def column_list(text: str) -> list[str]:
    """`a,b` or `1,3-5`; a name that holds a comma is quoted as in CSV."""
    names = next(csv.reader([text], skipinitialspace=True), [])
    if not names or not all(names):
        raise ArgumentTypeError(f"{text!r} is no list of columns, such as a,b or 1,3-5")
    return names


def bandwidth(text: str) -> Bandwidth:
    """A number, numbers with commas between, or the name of a rule."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return text
    return numbers[0] if len(numbers) == 1 else numbers


def blocks(text: str) -> int | str:
    try:
        return text if text == "shift" else int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no number of rows and not shift") from None


def level(text: str) -> float:
    try:
        alpha = float(text)
    except ValueError:
        alpha = -1.0
    if not 0.0 < alpha < 1.0:
        raise ArgumentTypeError(f"{text!r} is no level between 0 and 1")
    return alpha


# --- Samples -------------------------------------------------------------------------------------


def load(
    arguments: Namespace,
    inputs: Sequence[tuple[str, list[str] | None]],
    *,
    pairs: bool = False,
    fit: bool = False,
) -> Samples:
    """Read (file, columns) for each sample, with strata or groups from a column or from a file.

    ``pairs``: the samples are two sides of one table, row i of both belongs together, is dropped as
    one and has one label, which the first file holds; other samples must have the same columns.
    Of several processes each reads its part of the rows, and leaves missing cells to the test,
    but all rows of the last input if that is what models are ``fit`` to.
    """
    large = [file for file, _ in inputs if is_large(file)]
    if large and arguments.command == "two-sample" and arguments.group is None:
        opened = _in_chunks(arguments, inputs)
        if opened is not None:
            return opened
        say(
            arguments,
            f"reading {' and '.join(large)} into memory; --method mmd-fourier and mmd-nystrom, and "
            "energy for one column, read large files in chunks (without designs, --drop-nan and "
            "--scale rank or whiten)",
        )
    return together(arguments, lambda: _load(arguments, inputs, pairs, fit))


def _in_chunks(
    arguments: Namespace, inputs: Sequence[tuple[str, list[str] | None]]
) -> Samples | None:
    """Samples of which large ones are read by the test; None where it cannot."""
    names = "paired", "strata", "groups", "blocks", "drop_nan"
    if any(getattr(arguments, name) for name in names) or arguments.scale in ("rank", "whiten"):
        return None
    if arguments.method not in (*FEATURE_METHODS, "energy"):
        return None
    values: list[Any] = []
    for file, columns in inputs:
        if is_large(file):
            values.append(read_batches(file, columns=columns))
        else:
            table = read_table(file, columns=columns)
            values.append(named_columns(table.values, table.names))
    if arguments.method == "energy" and any(next(iter(rows)).shape[-1] > 1 for rows in values):
        return None
    return Samples(values, {})


def _load(
    arguments: Namespace, inputs: Sequence[tuple[str, list[str] | None]], pairs: bool, fit: bool
) -> Samples:
    among = [share_of(arguments)] * len(inputs)
    if fit:
        among[-1] = ALONE
    paired = bool(getattr(arguments, "paired", False))
    named = {name: getattr(arguments, name, None) for name in ("strata", "groups")}
    named = {name: where for name, where in named.items() if where is not None}
    if paired + len(named) > 1:
        options = " and ".join(f"--{name}" for name in (["paired"] * paired + [*named]))
        raise ValueError(f"{options} do not go together; choose one")
    name, strata = next(iter(named.items()), ("strata", None))
    column = None if strata is None or is_file(strata) else strata
    aligned = pairs or paired
    tables = [
        read_table(
            file, columns=columns, labels=None if pairs and at > 0 else column, among=among[at]
        )
        for at, (file, columns) in enumerate(inputs)
    ]
    for table in tables:
        if table.note:
            say(arguments, table.note)
    if not pairs:
        _check_names(tables)
    if aligned:
        _check_pairs(*tables, sides=pairs)
    groups = [tables] if aligned else [[table] for table in tables]
    keeps = [
        complete_rows(group, drop=arguments.drop_nan)
        if part.size == 1
        else np.ones(len(group[0].values), np.bool_)
        for group, part in zip(groups, among, strict=False)
    ]
    for group, part, keep in zip(groups, among, keeps, strict=False):
        if part.size == 1 and not keep.any():
            raise ValueError(f"{group[0].source}: every row has missing cells")
        if not keep.all():
            names = " and ".join(dict.fromkeys(table.source for table in group))
            missing = f"{int((~keep).sum()):,} of {len(keep):,} rows of {names}"
            say(arguments, f"left out {missing}, which have missing cells")
    values = [
        named_columns(table.values[keep], table.names)
        for group, keep in zip(groups, keeps, strict=True)
        for table in group
    ]
    if strata is None:
        return Samples(values, {})
    if column is None:
        counts = [group[0].in_file for group in groups]
        of_all = np.split(read_labels(strata, sum(counts)), np.cumsum(counts)[:-1])
        labels = np.concatenate([part[among[0].span(len(part))] for part in of_all])
    else:
        labels = np.concatenate([g[0].labels for g in groups if g[0].labels is not None])
    labels = labels[np.concatenate(keeps)]
    unknown = sum(label.lower() in MISSING for label in labels.tolist())
    if unknown:
        raise ValueError(
            f"--{name} {strata}: {unknown:,} of {len(labels):,} rows have no label; give them one, "
            "or take them out of the files (--drop-nan looks at the samples, not at labels)"
        )
    return Samples(values, {name: labels})


def _check_names(tables: Sequence[Table]) -> None:
    """Samples whose files have headers must agree in the columns and their order."""
    named = [table for table in tables if table.names is not None]
    for other in named[1:]:
        if other.names != named[0].names:
            raise ValueError(
                f"the columns differ: {named[0].source} has {', '.join(named[0].names or ())}; "
                f"{other.source} has {', '.join(other.names or ())}; choose those to compare, in "
                "one order, with --columns"
            )


def _check_pairs(*tables: Table, sides: bool) -> None:
    for (name, x), (other, y) in itertools.combinations(zip("xyz", tables, strict=False), 2):
        if x.in_file != y.in_file:
            raise ValueError(
                f"the rows are pairs: {x.source} has {x.in_file:,}, {y.source} {y.in_file:,}"
            )
        shared = set(x.names or ()) & set(y.names or ())
        if sides and x.source == y.source and shared:
            columns = ", ".join(sorted(shared))
            raise ValueError(f"{name} and {other} share the columns {columns} of {x.source}")


def check_outputs(arguments: Namespace) -> None:
    """Raise for a file that cannot be written, before work that may take long."""
    out: Path | None = getattr(arguments, "out", None)
    if out is not None and not out.parent.is_dir():
        raise ValueError(f"cannot write {out}: there is no folder {out.parent}")
    if getattr(arguments, "plot", None) is not None:
        from ..plots.style import check_figure_path

        check_figure_path(arguments.plot)


# --- Results -------------------------------------------------------------------------------------


def settings(arguments: Namespace) -> dict[str, Any]:
    """Arguments of every test; those not given are left to the defaults of the library."""
    given = {"method": getattr(arguments, "method", None), "n_resamples": arguments.n_resamples}
    given["checkpoint"] = getattr(arguments, "checkpoint", None)
    relabels = {name: getattr(arguments, name, None) for name in ("scale", "blocks")}
    return {
        **{k: None if v == "none" else v for k, v in relabels.items() if v is not None},
        **{name: value for name, value in given.items() if value is not None},
        "rng": arguments.seed,
        "show_progress": False if arguments.no_progress else None,
        **({"group": arguments.group, "drop_nan": arguments.drop_nan} if arguments.group else {}),
    }


def report(
    arguments: Namespace,
    result: HypothesisResult | RelativeResult,
    files: Sequence[str],
    words: tuple[str, str],
) -> int:
    """Print the result, draw it, and return the exit status. ``words`` tell the verdict: what was
    found where p ≤ α, and what was not found otherwise."""
    alpha = level_of(arguments)
    status = 1 if arguments.fail_below is not None and result.pvalue <= alpha else 0
    if not is_first():
        return status
    if isinstance(result, HypothesisResult) and arguments.plot is not None:
        from ..plots.style import save_figure

        if isinstance(result, TwoSampleResult | LocalizationResult):
            figure = result.plot(names=(files[0], files[1]))
        else:
            figure = result.plot()
        save_figure(figure, arguments.plot)
        say(arguments, f"wrote {arguments.plot}")
    verdict = _verdict(result, alpha, words)
    if arguments.json:
        record = {"test": arguments.command, "files": list(files), "verdict": verdict}
        record |= result.to_dict()
        record.pop("null_distribution", None)  # thousands of numbers, which --plot draws
        print(json.dumps(record, allow_nan=False))
    else:
        print(f"{result}\n\n{verdict}")
    return status


def level_of(arguments: Namespace) -> float:
    return ALPHA if arguments.fail_below is None else float(arguments.fail_below)


def _verdict(
    result: HypothesisResult | RelativeResult, alpha: float, words: tuple[str, str]
) -> str:
    found, missed = words
    p = p_in_words(result.pvalue, 3)
    shown = p if p.startswith("<") else f"= {p}"
    if result.pvalue <= alpha:
        first = f"{found}: p {shown} is at most {alpha:g}."
    else:
        first = f"{missed}: p {shown} is above {alpha:g}."
    effect = getattr(result, "effect_size", None)
    if effect is None:
        return first
    return f"{first} Effect size {effect:.3g}, where 0 is none and 1 the most possible."


# --- Power ---------------------------------------------------------------------------------------


def power_of(arguments: Namespace) -> int:
    files = (arguments.x, arguments.y)
    samples = load(arguments, [(file, arguments.columns) for file in files])
    rows = pilot_rows(
        *samples.values,
        n=arguments.rows,
        repetitions=arguments.repetitions,
        n_resamples=arguments.n_resamples,
        rng=arguments.seed,
        paired=arguments.paired,
        method=arguments.method,
        kernel=arguments.kernel,
        bandwidth=arguments.bandwidth,
        scale=None if arguments.scale == "none" else arguments.scale,
    )
    if arguments.json:
        print(json.dumps({"files": list(files), "rows": [row._asdict() for row in rows]}))
        return 0
    print("rows of x  of y     power ± error   by chance")
    for row in rows:
        power = f"{row.power:.3f} ± {row.error:.3f}"
        print(f"{row.n:<9}  {row.m:<7}  {power}   {row.by_chance:.3f}")
    return 0


def benchmark_power(arguments: Namespace) -> int:
    """Rows as they are found: to stdout, and to a file that is whole at any time."""
    chosen = ("methods", "scales", "repetitions", "n_resamples", "rng")
    rows = power_rows(**{name: getattr(arguments, name) for name in chosen})
    found: list[PowerRow] = []
    if not arguments.json:
        print(f"{'method':<15} scale  power ± error   published", flush=True)
    for row in rows:
        found.append(row)
        if arguments.out is not None:
            _write_csv(arguments.out, found)
        published = "" if row.published is None else f"{row.published:9.3f}"
        line = f"{row.method:<15} {row.scale:5.2f}  {row.power:.3f} ± {row.error:.3f}   {published}"
        if arguments.json:
            say(arguments, line)
        else:
            print(line.rstrip(), flush=True)
    if arguments.json:
        print(json.dumps({"rows": [row._asdict() for row in found]}))
    return 0


def _write_csv(path: Path, rows: Sequence[PowerRow]) -> None:
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(rows[0]._fields)
        writer.writerows(rows)
        text.detach()
