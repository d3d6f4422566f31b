"""No file of `vae`, and none that draws or holds results of tests, imports in a circle."""

from __future__ import annotations

import ast
import pathlib
from graphlib import CycleError, TopologicalSorter

import pytest

ROOT = pathlib.Path(__file__).parents[2]
DRAWN = ("divergences/results.py", "divergences/independence.py", "divergences/plots/*.py")


def modules(*patterns: str) -> dict[str, pathlib.Path]:
    """Dotted names of files; a package has that of its folder."""
    found = {}
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: pathlib.Path, known: dict[str, pathlib.Path]) -> set[str]:
    """The known modules that a file imports, at any depth."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            inner = {f"{module}.{alias.name}" for alias in node.names}
            found |= (inner & known.keys()) or {module}
    return found & known.keys()


@pytest.mark.parametrize("patterns", [("vae/**/*.py",), DRAWN], ids=["vae", "results"])
def test_there_is_no_circle(patterns: tuple[str, ...]) -> None:
    known = modules(*patterns)
    graph = {name: imports(name, path, known) for name, path in known.items()}
    assert sum(map(len, graph.values())) >= len(graph) // 2
    TopologicalSorter(graph).prepare()


def test_a_circle_is_found() -> None:
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
