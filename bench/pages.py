"""Write the tables of the documentation anew from bench/results: python -m bench.pages

A table stands between ``<!-- python -m bench.report … -->``, the command that prints it, and
``<!-- end -->``. The figure of docs/performance.md is drawn as well.
"""

from __future__ import annotations

import pathlib
import re

from divergences.files import replacing

from . import report

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ("README.md", "docs/performance.md", "docs/performance-gpu.md")
_BLOCK = re.compile(r"(<!-- python -m bench\.report(.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def renewed(page: str) -> str:
    """The page with every table as the command above it prints it now. Raises ValueError for a
    command that does not exist."""

    def printed(block: re.Match[str]) -> str:
        table = report.text(block[2].split())
        if table is None:
            raise ValueError(f"python -m bench.report{block[2]} is no command")
        return f"{block[1]}{table}\n{block[3]}"

    return _BLOCK.sub(printed, page)


def main() -> None:
    report.plots(ROOT / "docs")
    for name in PAGES:
        page = renewed((ROOT / name).read_text())
        with replacing(ROOT / name) as file:
            file.write(page.encode())
        print(name)


if __name__ == "__main__":
    main()
