"""The columns of a file, by name or by number."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence


def suggest(name: str, known: Sequence[str]) -> str:
    """The end of a message about a name that is not among those ``known``."""
    near = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


class Columns:
    """``width`` columns, with ``names`` where the file has a header; numbers count from 1."""

    def __init__(self, source: str, names: Sequence[str] | None, width: int) -> None:
        self.source, self.names, self.width = source, names, width

    def title(self, position: int) -> str:
        return f"column {position + 1}" + (f" ({self.names[position]!r})" if self.names else "")

    def find(self, wanted: str) -> list[int]:
        """Positions of a name, a number or a range of numbers ("2-5"). Raises ValueError."""
        if self.names and wanted in self.names:
            if self.names.count(wanted) > 1:
                raise ValueError(f"{self.source} has several columns {wanted!r}; use numbers")
            return [self.names.index(wanted)]
        numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", wanted)
        if numbers:
            first, last = int(numbers[1]), int(numbers[2] or numbers[1])
            if 1 <= first <= last <= self.width:
                return list(range(first - 1, last))
        has = f"columns 1 to {self.width}" if self.width > 1 else "one column"
        if self.names:
            has += f": {', '.join(self.names[:10])}" + (", …" if self.width > 10 else "")
        near = suggest(wanted, self.names or ())
        raise ValueError(f"{self.source} has no column {wanted!r}{near} (it has {has})")

    def choose(
        self, columns: Sequence[str] | None, labels: str | None
    ) -> tuple[list[int], int | None]:
        """Positions of the columns asked for (all but that of the labels if None), and of the
        labels."""
        label = None if labels is None else self.find(labels)[0]
        if columns is None:
            return [p for p in range(self.width) if p != label], label
        return [p for wanted in columns for p in self.find(wanted)], label

    def names_of(self, positions: Sequence[int]) -> tuple[str, ...] | None:
        return tuple(self.names[p] for p in positions) if self.names else None
