"""The examples run, print what the documentation shows, and draw."""

from __future__ import annotations

import gzip
import pathlib
import re
import struct
import sys

import numpy as np
import pytest
import real_data
from numpy.typing import NDArray

ROOT = pathlib.Path(__file__).parents[1]
PNG = b"\x89PNG"


def write_idx(path: pathlib.Path, values: NDArray[np.uint8]) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.tobytes())


def pvalues(printed: str) -> dict[str, float]:
    found = re.findall(r"^(.*\?) +(\d\.\d{4}) +\d\.\d{3}$", printed, re.MULTILINE)
    return {question: float(p) for question, p in found}


@pytest.fixture
def fashion(tmp_path: pathlib.Path) -> pathlib.Path:
    """Images of 4×4 pixels whose brightness is their class."""
    r = np.random.default_rng(0)
    labels = r.integers(0, 10, 600).astype(np.uint8)
    images = r.integers(0, 100, (600, 4, 4)) + 10 * labels[:, None, None]
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", images.astype(np.uint8))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", labels)
    with gzip.open(tmp_path / "t10k-labels-idx1-ubyte.gz", "wb") as packed:
        packed.write((tmp_path / "t10k-labels-idx1-ubyte").read_bytes())
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    return tmp_path


@pytest.fixture
def arguments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, fashion: pathlib.Path
) -> None:
    given = ["--out", str(tmp_path / "out"), "--fashion-mnist", str(fashion)]
    monkeypatch.setattr(sys, "argv", ["real_data.py", *given])


@pytest.mark.usefixtures("arguments")
def test_real_data(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    real_data.main()
    printed = capsys.readouterr().out
    found = pvalues(printed)
    assert len(found) == 8
    for question, p in found.items():
        assert (p > 0.05) == question.startswith("Control"), question
    assert printed.count("0.0030\n") == 3  # the pairs of three classes, by Holm
    pairs = ("generated", "shirt_T-shirt", "pullover_coat")
    names = {f"{pair}{which}.png" for pair in pairs for which in ("", "_images")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert all((tmp_path / "out" / name).read_bytes().startswith(PNG) for name in names)


@pytest.mark.usefixtures("arguments")
def test_a_broken_file_is_named_at_once(
    fashion: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fashion / "t10k-images-idx3-ubyte").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte is no IDX file: it starts with"):
        real_data.main()
    assert capsys.readouterr().out == ""
