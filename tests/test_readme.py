"""The code of the README and of the pages on tests runs and prints what it says; names exist."""

from __future__ import annotations

import pathlib
import re

import pytest

from divergences.command.line import parser
from vae.command import line, running
from vae.command.line import main as vae_main

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (
    "README.md", "docs/choosing-a-test.md", "docs/tutorial.md", "docs/validity.md", "docs/power.md",
    "docs/vae.md",
)  # fmt: skip
OTHERS = (
    "docs/architecture.md", "docs/conventions.md", "docs/glossary.md", "docs/install.md",
    "docs/vae-differences.md",
)  # fmt: skip
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
BLOCKS = [
    pytest.param(page, block, id=f"{page}-{number}")
    for page, text in TEXTS.items()
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
]


@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_code_runs_and_prints_what_is_shown(
    page: str, block: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines of a block that start with # are its output, all of it."""
    shown = [line[2:] for line in block.splitlines() if line.startswith("# ")]
    names: dict[str, object] = {}
    exec(compile(block, page, "exec"), names)
    assert len(names) > 1
    assert capsys.readouterr().out.splitlines() == shown


def test_blocks_and_commands_are_there() -> None:
    for page in PAGES:
        assert sum(block.values[0] == page for block in BLOCKS) >= 1, page
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"^make (\w[\w-]*)", TEXTS["README.md"], re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


@pytest.mark.parametrize("page", [*PAGES, *OTHERS])
def test_links_and_named_files_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
    folders = "tests|kernels|bench|docs|examples|divergences|vae"
    named = rf"(?<![\w/])((?:{folders})/[\w/-]+\.(?:py|md))\b"
    for name in re.findall(named, text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES[1:])
def test_shell_commands_parse(page: str) -> None:
    """Every `python -m divergences …` in backticks; the files it names are not read."""
    commands = re.findall(r"`python -m divergences ([^`]+)`", TEXTS[page])
    assert commands or page != "docs/choosing-a-test.md"
    for command in commands:
        if not command.endswith("--help"):
            parser().parse_args(command.split())


@pytest.mark.parametrize("page", ["README.md", "docs/vae.md"])
def test_commands_of_vae_parse(
    page: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every `python -m vae …`, with what it would do left out."""
    monkeypatch.setattr(running, "fit", lambda *_, **__: None)  # behind the check of its flags
    for name in set(line.COMMANDS) - {"fit"}:
        what = line.COMMANDS[name][:2]
        monkeypatch.setitem(line.COMMANDS, name, (*what, lambda **_: None))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "first").mkdir(parents=True)
    (tmp_path / "out" / "first" / "config.yaml").write_text("preset: vae\n")
    commands = re.findall(r"python -m vae ([^`#\n]+)", TEXTS[page])
    assert len(commands) > 1
    for command in commands:
        assert vae_main(command.split()) == 0, command
