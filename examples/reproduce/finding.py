"""Measured values beside expected ones, and their table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

EARLIER = "bound from seeds 0-2 of earlier runs"

Relation = Literal["within", "below", "above"]


@dataclass(frozen=True)
class Finding:
    """One number of an experiment.

    Attributes:
        what: in words, with the unit.
        measured: here and now.
        expected: the published, exact or earlier value; for "below" and "above" the bound.
        tolerance: how far from ``expected`` is still agreement; how far beyond a bound.
        source: of ``expected``.
        relation: "within": |measured − expected| ≤ tolerance; "below": measured ≤ expected +
            tolerance; "above": measured ≥ expected − tolerance.
    """

    what: str
    measured: float
    expected: float
    tolerance: float
    source: str
    relation: Relation = "within"

    def __post_init__(self) -> None:
        if not (self.tolerance >= 0 and math.isfinite(self.tolerance)):
            raise ValueError(f"the tolerance must be finite and at least 0, got {self.tolerance}")

    @property
    def ok(self) -> bool:
        """It is as it should be; never for NaN."""
        excess = self.measured - self.expected
        match self.relation:
            case "within":
                return abs(excess) <= self.tolerance
            case "below":
                return excess <= self.tolerance
            case "above":
                return excess >= -self.tolerance

    @property
    def asked(self) -> str:
        """What was asked of ``measured``."""
        tolerance = f" ± {self.tolerance:g}" if self.tolerance else ""
        sign = {"within": "", "below": "≤ ", "above": "≥ "}[self.relation]
        return f"{sign}{self.expected:.4g}{tolerance}"


def table(findings: Sequence[tuple[str, Finding]]) -> str:
    """One aligned row per finding, with the name of its experiment."""
    header = ("experiment", "what", "measured", "expected", "", "source")
    rows = [
        (name, f.what, f"{f.measured:.4g}", f.asked, "ok" if f.ok else "OFF", f.source)
        for name, f in findings
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    right = {2, 3}

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), "─" * (sum(widths) + 2 * (len(widths) - 1)), *map(line, rows)])
