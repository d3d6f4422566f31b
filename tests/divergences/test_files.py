"""Files are whole or not there."""

from __future__ import annotations

import os
import pathlib

import pytest

from divergences.files import replacing


def test_the_old_content_stays_until_the_new_is_whole(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines([b"ne", "w"])
    assert path.read_text() == "old"
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_after_the_file_was_moved_is_still_ctrl_c(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def interrupted(source: str, target: pathlib.Path) -> None:
        replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert (tmp_path / "file").read_text() == "new"


def test_content_is_on_the_disk_before_it_takes_the_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a renamed file whose content was not synchronised may be empty."""
    order = []
    for name in ("fsync", "replace"):
        done = getattr(os, name)

        def noted(*arguments: object, name: str = name, done=done) -> None:
            order.append(name)
            done(*arguments)

        monkeypatch.setattr(os, name, noted)
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert order == ["fsync", "replace"]
