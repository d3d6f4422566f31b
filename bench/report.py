"""Print what was measured, as the tables of the documentation.

python -m bench.report [--headline]     losses against rivals (--headline: what the README shows)
python -m bench.report tests            permutation tests against rivals
python -m bench.report power            power on the perturbed uniform
python -m bench.report level            rejection rates under the null
python -m bench.report presets          every preset of vae, trained and evaluated
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence

from vae.presets import PRESETS

from .measure import RESULTS

Row = dict[str, str]
COLUMNS = ("workload", "variant", "median ms", "ours is faster by", "peak MB", "error")


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


def timings(file: str, memory_file: str, *, headline: bool = False) -> str:
    rows = newest(read(file), "workload", "variant")
    memory = {(r["workload"], r["variant"]): r["peak_mb"] for r in read(memory_file)}
    if headline:
        shown = ("n=m=8000, d=64", "n=m=256, d=16", "n=m=100000, d=16")
        rows = [row for row in rows if row["workload"].endswith(shown)]
    cells = []
    for row in rows:
        ours = row["variant"] == "ours"
        ratio = "" if ours else f"{float(row['ratio']):.1f}×"
        peak = memory.get((row["workload"], row["variant"]), "nan")
        peak = "" if peak == "nan" else f"{float(peak):.0f}"
        error = "" if row["error"] == "nan" else row["error"]
        median = f"{float(row['median_ms']):,.2f}"
        workload = row["workload"] if ours else ""
        cells.append((workload, row["variant"], median, ratio, peak, error))
    origins = sorted({(r["machine"], r["versions"], r["commit"], r["date"]) for r in rows})
    notes = [f"{m}; {versions}; commit {commit}, {date}" for m, versions, commit, date in origins]
    return "\n\n".join([markdown(COLUMNS, cells), *notes])


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


def level() -> str:
    rows = newest(read("level"), "test", "data", "size")
    names = [k for k in rows[0] if k.startswith("rejected")]
    cells = [(r["test"], r["data"], r["size"], *(r[k] for k in names)) for r in rows]
    return markdown(("test", "data", "size", *names), cells)


PRESET_COLUMNS = {
    "squared_error": ("‖x−x̂‖²", "{:.2f}"),
    "kl": ("KL", "{:.1f}"),
    "elbo": ("ELBO", "{:.1f}"),
    "importance_bound": ("IWAE-500", "{:.1f}"),
    "active_units": ("active", "{:.0f}"),
    "mutual_information": ("MI", "{:.1f}"),
    "total_correlation": ("TC", "{:.1f}"),
    "log_det_covariance": ("log det", "{:.2f}"),
    "prior_effect": ("q(z) vs p(z)", "{:.2%}"),
    "generated_effect": ("samples vs data", "{:.2%}"),
    "class_distance": ("classes", "{:.2f}"),
    "probe": ("probe", "{:.1%}"),
    "train_seconds": ("training, s", "{:.0f}"),
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


def main() -> None:
    match sys.argv[1:]:
        case [] | ["--headline"]:
            print(timings("losses_cpu", "memory_cpu", headline=bool(sys.argv[1:])))
        case ["tests"]:
            print(timings("tests_cpu", "tests_memory_cpu"))
        case ["power"]:
            print(power())
        case ["level"]:
            print(level())
        case ["presets"]:
            print(presets())
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
