"""The README's code runs as it stands, and its commands exist."""

from __future__ import annotations

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_code_runs(block: str) -> None:
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert len(names) > 1


def test_blocks_and_commands_are_there() -> None:
    assert len(BLOCKS) >= 2
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"^make (\w[\w-]*)", README, re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md", "docs/conventions.md"])
def test_links_and_named_files_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
    for name in re.findall(r"`((?:tests|kernels|bench|docs)/[\w/]+\.(?:py|md))`", text):
        assert (ROOT / name).exists(), name


def test_the_printed_result_is_the_one_shown(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [b for b in BLOCKS if "print(result)" in b]
    shown = [line[2:] for line in block.splitlines() if line.startswith("# ")]
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == shown
