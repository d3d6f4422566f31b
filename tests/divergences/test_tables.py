"""Samples from files: the same numbers in every format; mistakes named by line and column."""

from __future__ import annotations

import os
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from divergences import chunks
from divergences.command.tables import complete_rows, read_batches, read_labels, read_table

VALUES = np.array([[1.0, 2.5, -3.0], [4.0, 5.0, 6e-7], [7.0, 8.0, 9.0], [0.0, 0.1, 0.2]])
NAMES = ("height", "width", "depth")


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def lines(delimiter: str, header: bool) -> str:
    rows = [delimiter.join(map(repr, map(float, row))) for row in VALUES]
    return "\n".join([delimiter.join(NAMES)] * header + rows) + "\n"


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", " ", "   "])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt", "CSV"])
def test_text(tmp_path: Path, suffix: str, delimiter: str, header: bool) -> None:
    table = read_table(write(tmp_path / f"a.{suffix}", lines(delimiter, header)))
    np.testing.assert_array_equal(table.values, VALUES)
    assert table.names == (NAMES if header else None)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + lines(",", True),
        "# made by hand\n\n" + lines(",", True),
        lines(",", True).replace("\n", "\r\n"),
        '"height" , "width","depth"\n' + lines(",", False).replace("2.5", '"2.5"'),
        lines(", ", True),
        lines(",", True).replace("\n4", "\n\n# a remark\n4"),
        lines(" ", True).replace("\n", "  \n   "),
        lines(",", True).rstrip("\n"),
    ],
    ids=["BOM", "comment", "CRLF", "quotes", "spaces", "gaps", "ragged spaces", "no last newline"],
)
def test_text_as_it_comes(tmp_path: Path, text: str) -> None:
    table = read_table(write(tmp_path / "a.csv", text))
    np.testing.assert_array_equal(table.values, VALUES)
    assert table.names == NAMES


def test_binary_formats(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES.astype(">f4"))
    np.savez(tmp_path / "one.npz", only=VALUES)
    np.savez(tmp_path / "two.npz", train=VALUES, test=VALUES[:2])
    torch.save(torch.tensor(VALUES, requires_grad=True), tmp_path / "a.pt")
    torch.save({"z": torch.tensor(VALUES).bfloat16(), "y": torch.arange(3)}, tmp_path / "b.pth")
    for name in ("one.npz", "one.npz:only", "two.npz:train", "a.pt"):
        np.testing.assert_array_equal(read_table(str(tmp_path / name)).values, VALUES)
    np.testing.assert_array_equal(
        read_table(str(tmp_path / "a.npy")).values, VALUES.astype(np.float32)
    )
    assert read_table(str(tmp_path / "two.npz:test")).values.shape == (2, 3)
    np.testing.assert_array_equal(
        read_table(str(tmp_path / "b.pth:y")).values, [[0.0], [1.0], [2.0]]
    )
    assert read_table(str(tmp_path / "b.pth:z")).values == pytest.approx(VALUES, rel=1e-2)


def test_columns(tmp_path: Path) -> None:
    named = write(tmp_path / "a.csv", lines(",", True))
    bare = write(tmp_path / "b.csv", lines(",", False))
    np.save(tmp_path / "c.npy", VALUES)
    for path in (named, bare, str(tmp_path / "c.npy")):
        np.testing.assert_array_equal(
            read_table(path, columns=["3", "1-2"]).values, VALUES[:, [2, 0, 1]]
        )
    table = read_table(named, columns=["depth", "height"])
    np.testing.assert_array_equal(table.values, VALUES[:, [2, 0]])
    assert table.names == ("depth", "height")


def test_a_name_that_is_a_number_is_a_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "x,2,1\n5,20,10\n6,21,11\n")
    table = read_table(path, columns=["1", "x", "3"])
    np.testing.assert_array_equal(table.values, [[10, 5, 10], [11, 6, 11]])


def test_text_columns_and_labels(tmp_path: Path) -> None:
    text = "site,a,b\nnorth,1,2\nsouth,3,4\nnorth,5,6\n"
    path = write(tmp_path / "a.csv", text)
    table = read_table(path, labels="site")
    assert table.names == ("a", "b")
    assert table.labels is not None
    assert table.labels.tolist() == ["north", "south", "north"]
    np.testing.assert_array_equal(table.values, [[1, 2], [3, 4], [5, 6]])
    headerless = write(tmp_path / "b.csv", text.partition("\n")[2])
    np.testing.assert_array_equal(
        read_table(headerless, columns=["2-3"]).values, [[1, 2], [3, 4], [5, 6]]
    )
    with pytest.raises(ValueError, match=r"line 2, column 1 \('site'\): 'north' is not a number"):
        read_table(path)


@pytest.mark.parametrize("text", ["a\nb\na\n", "label\na\nb\na\n", "1\n2\n1\n", "g\n1\n2\n1\n"])
def test_read_labels(tmp_path: Path, text: str) -> None:
    labels = read_labels(write(tmp_path / "s.txt", text), 3)
    assert len(labels) == 3
    assert labels[0] == labels[2] != labels[1]
    with pytest.raises(ValueError, match=r"has [2-4] labels.*; the samples have 7 rows"):
        read_labels(str(tmp_path / "s.txt"), 7)
    with pytest.raises(ValueError, match="has 2 columns; labels are one"):
        read_labels(write(tmp_path / "t.csv", "1,2\n1,2\n"), 2)


def test_index_column_is_left_out(tmp_path: Path) -> None:
    text = "".join(f"{i},{row}\n" for i, row in enumerate(lines(",", False).split()))
    table = read_table(write(tmp_path / "a.csv", ",height,width,depth\n" + text))
    np.testing.assert_array_equal(table.values, VALUES)
    assert table.names == NAMES
    assert "the first column has no name and counts the rows" in str(table.note)
    assert read_table(str(tmp_path / "a.csv"), columns=["1-4"]).values.shape == (4, 4)


def test_missing_cells(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a,b\n1,\nNA,2\n3,4\nnan,5\n6,7\n")
    table = read_table(path)
    assert np.isnan(table.values).sum() == 3
    with pytest.raises(ValueError, match=r"3 of 5 rows \(the first is row 1\) with NaN or empty"):
        complete_rows([table], drop=False)
    assert complete_rows([table], drop=True).tolist() == [False, False, True, False, True]
    other = read_table(write(tmp_path / "b.csv", "1\n2\nNaN\n4\n5\n"))
    assert complete_rows([table, other], drop=True).tolist() == [False] * 4 + [True]


def test_infinite_cells_are_refused_always(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "a.csv", "1\n2\ninf\n-inf\n"))
    for drop in (True, False):
        with pytest.raises(ValueError, match=r"2 of 4 rows \(the first is row 3\) with infinite"):
            complete_rows([table], drop=drop)


MISTAKES = {
    "a.csv": [
        ("", "a.csv is empty"),
        ("# nothing\n\n", "a.csv is empty"),
        ("a,b\n", "has a header and no rows"),
        ("a,b\n1,2\n3\n", r"line 3 has 1 cells; the first row has 2"),
        ("a,b\n1,2\n3,4\n5,6,7\n", r"line 4 has 3 cells; the first row has 2"),
        ("a,b\n1,2\n3,x7\n", r"line 3, column 2 \('b'\): 'x7' is not a number"),
        ("1,2\n3,x7\n", r"line 2, column 2: 'x7' is not a number"),
        (
            "a,id\n1,9007199254740993\n",
            r"line 2, column 2 \('id'\): fp64 does not hold 900719",
        ),
        ("a;b\n1;2\n3;4,5\n", r"line 3, column 2 \('b'\): '4,5' is not a number; write decimal"),
        ('1,"2\n3,4\n', "a.csv: .*EOF inside string"),
    ],
    "a.xlsx": [("x", r"unknown kind of file '.xlsx'; known are .csv, .tsv, .txt")],
    "a.npy": [("not numpy", "not an array of numbers"), ("", "not an array of numbers")],
    "a.pt": [("not torch", "holds no plain tensor")],
}


@pytest.mark.parametrize(
    ("name", "text", "message"), [(n, t, m) for n, cases in MISTAKES.items() for t, m in cases]
)
def test_mistakes(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_table(write(tmp_path / name, text))
    assert name in str(caught.value)


def test_a_mistake_far_down_has_the_right_line(tmp_path: Path) -> None:
    rows = ["1,2"] * 50_000
    rows[41_233] = "1,two"
    with pytest.raises(ValueError, match=r"line 41235, column 2 \('b'\): 'two'"):
        read_table(write(tmp_path / "a.csv", "\n".join(["a,b", *rows])))
    rows[41_233], rows[100] = "1,2,3", "1,NA"  # line numbers hold on the slow path too
    with pytest.raises(ValueError, match="line 41235 has 3 cells"):
        read_table(write(tmp_path / "a.csv", "\n".join(["a,b", *rows])))
    rows[41_233] = "7,8"
    values = read_table(write(tmp_path / "a.csv", "\n".join(["a,b", *rows]))).values
    assert values.shape == (50_000, 2)
    assert np.flatnonzero(np.isnan(values).any(1)).tolist() == [100]
    assert values[41_233].tolist() == [7.0, 8.0]


def test_mistakes_in_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", lines(",", True))
    with pytest.raises(ValueError, match=r"no column 'widht'; did you mean width\?.*height, width"):
        read_table(path, columns=["widht"])
    for wrong in ("0", "4", "2-9", "3-1"):
        with pytest.raises(ValueError, match=f"no column '{wrong}'"):
            read_table(path, columns=[wrong])
    twice = write(tmp_path / "b.csv", "a,a\n1,2\n")
    with pytest.raises(ValueError, match="several columns 'a'; use numbers"):
        read_table(twice, columns=["a"])


def test_mistakes_in_binary_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", train=VALUES, test=VALUES)
    with pytest.raises(ValueError, match=r"several arrays \(train, test\); name one as"):
        read_table(str(tmp_path / "two.npz"))
    with pytest.raises(ValueError, match=r"no such array; did you mean train\?"):
        read_table(str(tmp_path / "two.npz:trian"))
    np.save(tmp_path / "images.npy", np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=r"has shape \[2, 3, 4\]; a sample is"):
        read_table(str(tmp_path / "images.npy"))
    np.save(tmp_path / "none.npy", np.zeros((0, 4)))
    with pytest.raises(ValueError, match=r"is empty: shape \[0, 4\]"):
        read_table(str(tmp_path / "none.npy"))
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    with pytest.raises(ValueError, match="column 1 has dtype <U1, not numbers"):
        read_table(str(tmp_path / "text.npy"))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds list, not a tensor"):
        read_table(str(tmp_path / "list.pt"))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("unpickled",)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    np.savez("a.npz", a=np.array([Bomb()], dtype=object))
    torch.save(Bomb(), "a.pt")
    for name in ("a.npy", "a.npz", "a.pt"):
        with pytest.raises(ValueError, match="unpickled"):
            read_table(name)
    assert not Path("unpickled").exists()


def test_missing_file(tmp_path: Path) -> None:
    write(tmp_path / "sample.csv", "1\n")
    with pytest.raises(FileNotFoundError, match=r"did you mean sample.csv\?"):
        read_table(str(tmp_path / "smaple.csv"))
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_table(str(tmp_path))
    (tmp_path / "latin.csv").write_bytes("größe\n1\n".encode("latin-1"))
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_table(str(tmp_path / "latin.csv"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_a_pipe_will_do(tmp_path: Path) -> None:
    """As in `divergences two-sample <(zcat a.csv.gz) b.csv`: one pass, no suffix."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(lines(",", True)))
    writer.start()
    np.testing.assert_array_equal(read_table(str(pipe)).values, VALUES)
    writer.join()


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for pyarrow, which need not be installed; without it the message says how."""
    path = write(tmp_path / "a.parquet", "")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r'needs pyarrow: pip install "divergences\[tab'):
        read_table(path)

    def column(values: list[object]) -> types.SimpleNamespace:
        return types.SimpleNamespace(to_numpy=lambda: np.array(values))

    table = types.SimpleNamespace(
        columns=[column([1, None, 3]), column(["a", "b", "a"]), column([0.5, 1.5, 2.5])],
        column_names=["n", "site", "x"],
    )
    fake = types.ModuleType("pyarrow")
    fake.parquet = types.SimpleNamespace(read_table=lambda _: table)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", fake)
    found = read_table(path, labels="site")
    np.testing.assert_array_equal(found.values, [[1.0, 0.5], [np.nan, 1.5], [3.0, 2.5]])
    assert found.names == ("n", "x")
    assert found.labels is not None
    assert found.labels.tolist() == ["a", "b", "a"]
    with pytest.raises(ValueError, match=r"column 2 \('site'\) has dtype <U1, not numbers"):
        read_table(path)


def test_parquet_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in that gives two columns in batches of three rows."""
    path = write(tmp_path / "a.parquet", "")
    given = {"n": np.arange(7), "site": np.full(7, "a"), "x": np.arange(7) / 2}

    class File:
        schema_arrow = types.SimpleNamespace(names=[*given])
        metadata = types.SimpleNamespace(num_rows=7)

        def __init__(self, _: Path) -> None:
            pass

        def iter_batches(self, size: int, columns: list[str]) -> Any:
            assert size == chunks.CHUNK
            for start in range(0, 7, 3):
                part = {name: given[name][start : start + 3] for name in columns}
                yield types.SimpleNamespace(
                    column=lambda name, part=part: types.SimpleNamespace(
                        to_numpy=lambda **_: part[name]
                    )
                )

    fake = types.ModuleType("pyarrow")
    fake.parquet = types.SimpleNamespace(ParquetFile=File)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", fake)
    found = read_batches(path, columns=["x", "n"])
    assert len(found) == 7 and found.column_names == ["x", "n"]
    for _ in range(2):
        expected = np.column_stack([given["x"], given["n"]])
        np.testing.assert_array_equal(np.concatenate([*found]), expected)
    with pytest.raises(ValueError, match=r"column 2 \('site'\) has dtype <U1, not numbers"):
        [*read_batches(path)]


def test_empty_cells_between_tabs_stay_in_their_column(tmp_path: Path) -> None:
    file = tmp_path / "t.tsv"
    file.write_text("a\tb\tc\n1\t1.5\t101\n7\t\t999\n\t7.5\t999\n")
    for columns, row in ((["a", "b"], [7.0, np.nan]), (None, [7.0, np.nan, 999.0])):
        found = read_table(str(file), columns=columns).values
        np.testing.assert_array_equal(found[1], row)
    np.testing.assert_array_equal(
        read_table(str(file), columns=["a", "b"]).values[2], [np.nan, 7.5]
    )


def test_text_needs_the_extra_and_arrays_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r'a.csv: .* pip install "divergences\[tables\]"'):
        read_table(write(tmp_path / "a.csv", lines(",", True)))
    np.save(tmp_path / "a.npy", VALUES)
    np.savez(tmp_path / "a.npz", VALUES)
    torch.save(torch.tensor(VALUES), tmp_path / "a.pt")
    for name in ("a.npy", "a.npz", "a.pt"):
        np.testing.assert_array_equal(read_table(str(tmp_path / name)).values, VALUES)
