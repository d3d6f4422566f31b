"""Hooks of the site's build: docstrings, links, and the arguments and pictures of the gallery."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

from divergences.results import Record

KEPT = re.compile(r"(``.+?``|`.+?`|(?<!\*)\*\w[^*]*\w\*(?!\*))")  # literals, emphasis

HIDDEN = "\0"  # a colon, from napoleon
NAMES = (  # what annotations evaluate to, and the public name of it
    (re.compile(r"(~?numpy\.)ndarray\[tuple\[.*?\], ~?numpy\.dtype\[.*?\]\]"), r"\1ndarray"),
    (
        re.compile(r"~?numpy\._typing\S+_Buffer .*?\[complex \| bytes \| str\]"),
        "~numpy.typing.ArrayLike",
    ),
    (re.compile(r"numpy\.random\._generator\.Generator"), "numpy.random.Generator"),
    (re.compile(r"torch\._C\.Generator"), "torch.Generator"),
    (re.compile(r"torch\.nn\.modules\.\w+\."), "torch.nn."),
    (re.compile(r"matplotlib\.axes\._axes\.Axes"), "matplotlib.axes.Axes"),
    (re.compile(r"(?<![\w.])Tensor\b"), "~torch.Tensor"),
    (re.compile(r"vae\.evaluation\.disentanglement\.DCI"), "vae.evaluation.DCI"),
)

LOOK = {
    "figure.dpi": 100,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", as_rst, priority=100)  # before napoleon
    app.connect("autodoc-process-docstring", colons_back, priority=900)
    app.connect("autodoc-process-signature", short)
    app.connect("source-read", gallery_links)
    return {"parallel_read_safe": True}


# --- Docstrings ----------------------------------------------------------------------------------


def as_rst(_app: Any, kind: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Our docstrings are plain text with ``literals``. Escapes what reStructuredText would take for
    markup elsewhere (|x|, lambda_, 2*d), and makes code of what is indented after a colon and an
    empty line."""
    if kind in ("property", "attribute"):  # napoleon takes words before a colon for a type
        lines[:] = [line.replace(":", HIDDEN) for line in lines]
    code_ends_at = None  # indentation that ends a block of code
    session = False  # within an example of an interactive session
    for i, line in enumerate(lines):
        session = bool(line) and (session or line.lstrip().startswith(">>> "))
        if session:
            continue
        indent = len(line) - len(line.lstrip())
        if code_ends_at is not None:
            if not line.strip() or indent > code_ends_at:
                continue
            code_ends_at = None
        parts = KEPT.split(line)
        parts[::2] = [escaped(part) for part in parts[::2]]
        lines[i] = re.sub(r"(\w``)(?=\w)", r"\1\\ ", "".join(parts))
        following = lines[i + 1 : i + 3]
        if line.endswith(":") and len(following) == 2 and not following[0].strip():
            after = following[1]
            deeper = len(after) - len(after.lstrip()) > indent
            if deeper and not after.lstrip().startswith("* "):
                lines[i] += ":"
                code_ends_at = indent


def colons_back(*event: Any) -> None:
    event[-1][:] = [line.replace(HIDDEN, ":") for line in event[-1]]


def escaped(text: str) -> str:
    bullet = re.match(r"\s*\* ", text)
    start = bullet.end() if bullet else 0
    rest = re.sub(r"([|*])", r"\\\1", text[start:])
    return text[:start] + re.sub(r"(\w)_(?!\w)", r"\1\\_", rest)


def short(
    _app: Any, _kind: str, _name: str, obj: Any, _options: Any, arguments: str | None, returned: Any
) -> tuple[str | None, str | None]:
    """Signatures with public names; none for results, which tests make and users do not."""
    if isinstance(obj, type) and issubclass(obj, Record):
        return "", None
    for pattern, name in NAMES:
        arguments, returned = (text and pattern.sub(name, text) for text in (arguments, returned))
    return arguments, returned


# --- Gallery -------------------------------------------------------------------------------------


def gallery_links(_app: Any, _page: str, source: list[str]) -> None:
    """Links to scripts, which work in the repository, lead to their pages on the site."""
    source[0] = re.sub(r"\]\(\.\./examples/(plot_\w+)\.py\)", r"](gallery/\1.rst)", source[0])
    source[0] = source[0].replace("](../examples)", "](gallery/index.rst)")


def argv(_configuration: Any, _script: Any) -> list[str]:
    """``QUICK=1 make docs`` runs every script with --quick."""
    return ["--quick"] if os.environ.get("QUICK") else []


def look(_configuration: Any, _script: Any) -> None:
    """Of the figures that scripts draw themselves; and no warnings of Lightning about torch."""
    warnings.filterwarnings("ignore", module="lightning")
    matplotlib.rcParams.update(LOOK)


def returned_figures(_block: Any, variables: dict[str, Any], configuration: dict[str, Any]) -> str:
    """Saves figures that the library returned into a variable of the script, once each: pyplot,
    whose figures another scraper saves, does not know of them."""
    saved = variables.setdefault("saved_figures", [])
    paths = []
    for value in list(variables["example_globals"].values()):
        if type(value) is Figure and not hasattr(value, "number") and value not in saved:
            saved.append(value)
            paths.append(next(variables["image_path_iterator"]))
            value.savefig(paths[-1], dpi=200)
    return figure_rst(paths, configuration["src_dir"])
