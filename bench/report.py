"""Print the newest row of every workload and variant: python -m bench.report [--headline]."""

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
        median = f"{float(row['median_ms']):,.2f}"
        cells = (row["workload"] if ours else "", row["variant"], median, ratio, peak, error)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def headline(row: dict[str, str]) -> bool:
    """What the README shows."""
    return row["workload"].endswith(("n=m=8000, d=64", "n=m=256, d=16", "n=m=100000, d=16"))


def main() -> None:
    rows = newest("losses_cpu")
    if "--headline" in sys.argv[1:]:
        rows = [row for row in rows if headline(row)]
    memory = {(r["workload"], r["variant"]): r["peak_mb"] for r in newest("memory_cpu")}
    for row in rows:
        row["peak_mb"] = memory.get((row["workload"], row["variant"]), "nan")
    origin = {(r["machine"], r["versions"], r["commit"], r["date"]) for r in rows}
    print(markdown(rows))
    for machine, versions, commit, date in sorted(origin):
        print(f"\n{machine}; {versions}; commit {commit}, {date}")


if __name__ == "__main__":
    main()
