"""Print what was measured, as the tables of the documentation.

python -m bench.report [--headline]     losses against rivals (--headline: a dozen of them)
python -m bench.report tests [--headline]   permutation tests against rivals
python -m bench.report few              the losses and tests that the README shows
python -m bench.report step             what a divergence adds to a training step
python -m bench.report losses|tests gpu the same on a GPU
python -m bench.report targets [gpu]    what was to be reached, and what was
python -m bench.report floors           what GPU targets take at least, by counted work
python -m bench.report plots [--out docs]   time against n, with the limit of the machine
python -m bench.report caption          what that figure shows
python -m bench.report power            power on the perturbed uniform
python -m bench.report columns          which columns differ, beside tests of each
python -m bench.report level            rejection rates under the null
python -m bench.report distributed [--counted]  tests and losses over several processes
python -m bench.report presets          every preset of vae, trained and evaluated
"""

from __future__ import annotations

import csv
import pathlib
import sys
from collections.abc import Sequence

from vae.presets import PRESETS

from . import floors
from .measure import OURS, RESULTS
from .targets import CPU_TARGETS, GPU_TARGETS, Target
from .targets import HEADER as TARGET_HEADER
from .targets import rows as target_rows

Row = dict[str, str]
COLUMNS = ("workload", "variant", "median ms", "ours is faster by", "peak MB", "error")
HEADLINES = {  # ends of the workloads shown, and the rivals
    "losses_cpu": (
        ("t, n=m=256, d=16", "n=m=2000, d=16", "n=m=8000, d=64", "n=m=100000, d=16"),
        ("eager", "compile", "geomloss", "geomloss online"),
    ),
    "tests_cpu": (
        ("n=m=2000, d=16, B=999", "n=m=20000, d=16, B=999", "n=2000, d=5+5, B=999"),
        ("re-indexing", "dcor", "hyppo", "materialised K"),
    ),
}
SIZES = ("256, d=16", "2000, d=16", "8000, d=64")
FEW = {  # file: workloads of the README, and the rival
    "losses_cpu": (
        tuple(f"{k}, value+gradient, n=m={n}" for k in ("gaussian", "energy") for n in SIZES),
        "eager",
    ),
    "tests_cpu": (("two-sample energy, n=m=2000, d=16, B=999",), "dcor"),
}
PAIRS = ("peak MB", "error")


def read(file: str) -> list[Row]:
    path = RESULTS / f"{file}.csv"
    if not path.exists():
        sys.exit(f"{path} is not there; see the docstrings in bench/ for what writes it")
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def newest(rows: Sequence[Row], *keys: str) -> list[Row]:
    """The last row for each value of the keys, in the order of their first appearance."""
    return list({tuple(row[k] for k in keys): row for row in rows}.values())


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def last_runs(rows: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Of each workload the rows of its last run, which starts with ours, by variant."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["variant"] == OURS:
            found[row["workload"]] = {}
        found.setdefault(row["workload"], {})[row["variant"]] = row
    return found


def _number(text: str, form: str) -> str:
    return "" if text == "nan" else form.format(float(text))


def timings(file: str) -> str:
    """A row for every variant of every workload."""
    cells, shown = [], []
    for workload, variants in last_runs(read(file)).items():
        for variant, row in variants.items():
            ours = variant == OURS
            cells.append(
                (
                    workload if ours else "",
                    variant,
                    _number(row["median_ms"], "{:,.2f}"),
                    "" if ours else f"{float(row['ratio']):.1f}×",
                    _number(row["peak_mb"], "{:.0f}"),
                    _number(row["error"], "{:g}"),
                )
            )
            shown.append(row)
    return "\n\n".join([markdown(COLUMNS, cells), *_origins(shown)])


def headline(file: str) -> str:
    """A row for each of a few workloads: ours, and by what factor it is faster than each rival.
    Memory and error are also those of the first rival that was measured."""
    shown, rivals = HEADLINES[file]
    cells, rows = [], []
    for workload, variants in last_runs(read(file)).items():
        if OURS not in variants or not workload.endswith(shown):
            continue
        pairs = [variants[name] for name in (OURS, *rivals) if name in variants][:2]
        cells.append(
            (
                workload,
                _number(variants[OURS]["median_ms"], "{:,.2f}"),
                *(f"{float(variants[r]['ratio']):.1f}×" if r in variants else "" for r in rivals),
                " / ".join(_number(row["peak_mb"], "{:.0f}") for row in pairs).strip("/ "),
                " / ".join(_number(row["error"], "{:g}") for row in pairs).strip("/ "),
            )
        )
        rows += variants.values()
    header = ("workload", "ours, ms", *rivals, *(f"{k}: ours / rival" for k in PAIRS))
    return "\n\n".join([_without_empty(header, cells), *_origins(rows)])


def few() -> str:
    """A row for each workload of the README: ours, the rival, and by what factor it is slower."""
    cells = []
    for file, (workloads, rival) in FEW.items():
        runs = last_runs(read(file))
        for workload in workloads:
            ours, other = runs[workload][OURS], runs[workload][rival]
            times = (_number(row["median_ms"], "{:,.2f}") for row in (ours, other))
            cells.append((workload, *times, rival, f"{float(other['ratio']):.1f}×"))
    return markdown(("workload", "ours, ms", "rival, ms", "rival", "ours is faster by"), cells)


def _without_empty(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table without the columns that say nothing."""
    kept = [k for k in range(len(header)) if any(row[k] for row in cells)]
    return markdown([header[k] for k in kept], [[row[k] for k in kept] for row in cells])


def _origins(rows: Sequence[Row]) -> list[str]:
    found = {(r["machine"], r["versions"], r["commit"], r["date"]) for r in rows}
    return [f"{m}; {versions}; commit {at}, {date}" for m, versions, at, date in sorted(found)]


def target_table(targets: Sequence[Target]) -> str:
    """A file that is not there counts as not measured."""
    files = {
        file: last_runs(read(file) if (RESULTS / f"{file}.csv").exists() else [])
        for file in {target.file for target in targets}
    }

    def runs(file: str, workload: str) -> dict[str, Row]:
        return files[file].get(workload, {})

    return markdown(TARGET_HEADER, target_rows(targets, runs))


def plots(folder: pathlib.Path) -> str:
    """The path of the figure, and the caption that says what its limit is."""
    from .plots import write_plots  # matplotlib is for this only

    losses, hardware = (last_runs(read(file)) for file in ("losses_cpu", "hardware_cpu"))
    scaling = newest(read("distributed_cpu"), "workload", "processes")
    return "\n\n".join(map(str, write_plots(losses, hardware, scaling, folder)))


def power() -> str:
    rows = newest(read("power"), "method", "scale")
    scales = sorted({row["scale"] for row in rows}, key=float)
    found = {(row["method"], row["scale"]): row for row in rows}
    cells = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [found.get((method, scale)) for scale in scales]
        cells.append(
            (f"`{method}`", *("" if r is None else f"{float(r['power']):.3f}" for r in mine))
        )
        if any(r and r["published"] for r in mine):
            cells.append(("published", *(r["published"] if r else "" for r in mine)))
    return markdown(("method", *(f"scale {float(s):g}" for s in scales)), cells)


def columns() -> str:
    """Of each alternative and method, the share of differing columns found / of false alarms."""
    rows = newest(read("columns"), "alternative", "method")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    found = {(r["alternative"], r["method"]): f"{r['found']} / {r['false']}" for r in rows}
    cells = [
        (name, *(found.get((name, method), "") for method in methods))
        for name in dict.fromkeys(row["alternative"] for row in rows)
    ]
    return markdown(("", *methods), cells)


def distributed(options: Sequence[str]) -> str:
    from .distributed import counted_table, table

    if options:
        return counted_table()
    rows = newest(read("distributed_cpu"), "workload", "processes")
    return "\n\n".join([table(rows), *_origins(rows)])


def level() -> str:
    rows = newest(read("level"), "test", "data", "size")
    names = [k for k in rows[0] if k.startswith("rejected")]
    cells = [(r["test"], r["data"], r["size"], *(r[k] for k in names)) for r in rows]
    return markdown(("test", "data", "size", *names), cells)


PRESET_COLUMNS = {
    "squared_error": ("‖x−x̂‖²", "{:.2f}"),
    "kl": ("KL", "{:.1f}"),
    "elbo": ("ELBO", "{:.1f}"),
    "mutual_information": ("MI", "{:.1f}"),
    "prior_effect": ("q(z) vs p(z)", "{:.2%}"),
    "generated_effect": ("samples vs data", "{:.2%}"),
    "class_distance": ("classes", "{:.2f}"),
    "probe": ("probe", "{:.1%}"),
}


def presets() -> str:
    """A table for each data set, in the order of the presets."""
    rows = newest(read("presets"), "data", "preset")
    tables = []
    for data in dict.fromkeys(row["data"] for row in rows):
        mine = [
            row for name in PRESETS for row in rows if (row["data"], row["preset"]) == (data, name)
        ]
        cells = [
            (
                f"`{row['preset']}`",
                *(
                    form.format(float(row[k])) if row[k] else "–"
                    for k, (_, form) in PRESET_COLUMNS.items()
                ),
            )
            for row in mine
        ]
        one = mine[0]
        tables.append(
            f"{data}, {one['epochs']} epochs, {one['latent']} latent dimensions; held-out rows; "
            f"{one['machine']}; {one['versions']}; commit {one['commit']}, {one['date']}"
        )
        tables.append(markdown(("preset", *(name for name, _ in PRESET_COLUMNS.values())), cells))
    return "\n\n".join(tables)


def text(arguments: Sequence[str]) -> str | None:
    """What the arguments after ``python -m bench.report`` print; None if they are not known."""
    match list(arguments):
        case []:
            return timings("losses_cpu")
        case ["--headline"]:
            return headline("losses_cpu")
        case ["tests", "--headline"]:
            return headline("tests_cpu")
        case ["few"]:
            return few()
        case ["losses" | "tests" | "step" as file, *device] if device in ([], ["gpu"]):
            return timings("_".join((file, *(device or ["cpu"]))))
        case ["plots", *options] if options == [] or (options[0] == "--out" and len(options) == 2):
            return plots(pathlib.Path(options[1] if options else "docs"))
        case ["caption"]:
            from .plots import caption

            return caption(last_runs(read("hardware_cpu")))
        case ["targets", *device] if device in ([], ["gpu"]):
            return target_table(GPU_TARGETS if device else CPU_TARGETS)
        case ["floors"]:
            return markdown(floors.HEADER, floors.rows())
        case ["power"]:
            return power()
        case ["columns"]:
            return columns()
        case ["level"]:
            return level()
        case ["distributed", *options] if options in ([], ["--counted"]):
            return distributed(options)
        case ["presets"]:
            return presets()
    return None


def main() -> None:
    found = text(sys.argv[1:])
    if found is None:
        sys.exit(__doc__)
    print(found)


if __name__ == "__main__":
    main()
