"""The sources of the site: every public name is on a page of the API, gallery scripts are short and
use nothing else."""

from __future__ import annotations

import ast
import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
DIRECTIVE = re.compile(
    r"^\.\. (currentmodule|auto\w+):: (\S+)(?:\n +:exclude-members: (.+))?", re.M
)
PACKAGES = (
    "divergences", "divergences.kernels", "divergences.plots", "vae", "vae.data", "vae.evaluation",
    "vae.figures", "vae.objectives", "vae.training",
)  # fmt: skip
PRIVATE = {  # in an __all__ for the package's own use
    "vae.data.FACTOR_SIZES", "vae.data.NAMES", "vae.data.Binarise", "vae.training.History",
    "vae.training.on_first_process",
}  # fmt: skip
SCRIPTS = sorted((ROOT / "examples").glob("plot_*.py"))


def members(module: str) -> set[str]:
    """What `automodule` shows: public functions and classes that are defined there."""
    found = vars(importlib.import_module(module)).items()
    return {n for n, v in found if n[0] != "_" and getattr(v, "__module__", None) == module}


def documented() -> set[str]:
    """Full names on the pages of docs/api."""
    names: set[str] = set()
    for page in (ROOT / "docs" / "api").glob("*.md"):
        module = ""
        for kind, target, excluded in DIRECTIVE.findall(page.read_text()):
            if kind == "currentmodule":
                module = target
            elif kind == "automodule":
                shown = members(target) - set(excluded.split(", "))
                names |= {target, *(f"{target}.{name}" for name in shown)}
            else:
                names.add(target if "." in target else f"{module}.{target}")
    return names


def resolve(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, ValueError):
        return importlib.import_module(name)


def test_every_public_name_is_on_a_page() -> None:
    """Under the package's name or that of the package that exports it too."""
    shown = [resolve(name) for name in documented()]
    missing = {
        f"{package}.{name}"
        for package in PACKAGES
        for module in [importlib.import_module(package)]
        for name in module.__all__
        if all(getattr(module, name) is not one for one in shown)
    }
    assert missing <= PRIVATE, f"on no page of docs/api: {missing - PRIVATE}"
    lazy = {f"divergences.{name}" for name in importlib.import_module("divergences")._LAZY}
    pages = documented() | set(PACKAGES)
    assert lazy <= pages, lazy - pages


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_gallery_scripts_are_short_and_use_public_names(path: pathlib.Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 80
    words = (ast.get_docstring(ast.parse(text)) or "").split()
    assert "**What to see:**" in " ".join(words)
    public = documented()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("div", "vae")):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                exported = alias.name in getattr(
                    importlib.import_module(node.module), "__all__", ()
                )
                assert name in public or exported, name
