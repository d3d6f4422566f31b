"""Print the newest row of every workload and variant: python -m bench.report."""

from __future__ import annotations

import csv
import sys

from .measure import RESULTS

COLUMNS = ("workload", "variant", "median ms", "ours is faster by", "peak MB", "error")


def newest(file: str) -> list[dict[str, str]]:
    """One row per workload and variant, in the order of their first appearance."""
    path = RESULTS / f"{file}.csv"
    if not path.exists():
        sys.exit(f"{path} is not there; make bench writes it")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            rows[row["workload"], row["variant"]] = row
    return list(rows.values())


def markdown(rows: list[dict[str, str]]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        ours = row["variant"] == "ours"
        ratio = "" if ours else f"{float(row['ratio']):.1f}×"
        peak = "" if row["peak_mb"] == "nan" else f"{float(row['peak_mb']):.0f}"
        error = "" if row["error"] == "nan" else row["error"]
        median = f"{float(row['median_ms']):.3g}"
        cells = (row["workload"] if ours else "", row["variant"], median, ratio, peak, error)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    rows = newest("losses_cpu")
    origin = {(r["machine"], r["versions"], r["commit"], r["date"]) for r in rows}
    print(markdown(rows))
    for machine, versions, commit, date in sorted(origin):
        print(f"\n{machine}; {versions}; commit {commit}, {date}")


if __name__ == "__main__":
    main()
