"""Files that others wrote: IDX, NumPy's, and folders of images; whole, broken and hostile."""

import gzip
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from vae.data import Data, load, read_idx
from vae.data.idx import FILES

Bytes = NDArray[np.uint8]
RNG = np.random.default_rng(0)
IMAGES: Bytes = RNG.integers(0, 256, (10, 4, 3), dtype=np.uint8)
TESTS: Bytes = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)


def idx_bytes(values: Bytes) -> bytes:
    return (
        bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes() + values.tobytes()
    )


def write_idx(folder: Path, **changes: bytes) -> Path:
    """The four files, two of them gzipped; a change of b"" leaves a file out."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "train": idx_bytes(IMAGES),
        "train_labels": gzip.compress(idx_bytes(np.arange(10, dtype=np.uint8))),
        "heldout": gzip.compress(idx_bytes(TESTS)),
        "heldout_labels": idx_bytes(np.arange(6, dtype=np.uint8)),
    }
    for field, content in (contents | changes).items():
        end = ".gz" if content.startswith(b"\x1f\x8b") else ""
        if content:
            (folder / (FILES[field] + end)).write_bytes(content)
    return folder


def refused(source: str | Path, *parts: str, **arguments: Any) -> None:
    """With a message that has all these parts."""
    with pytest.raises(ValueError) as caught:
        load(str(source), **arguments)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("inner", ["mnist", "MNIST/raw", "."])
def test_idx_files_are_found_below_the_root(inner: str, tmp_path: Path) -> None:
    write_idx(tmp_path / inner)
    data = load("mnist", root=tmp_path)
    assert data.name == "mnist" and data.shape == (1, 4, 3)
    assert data.train.dtype == torch.uint8
    assert np.array_equal(data.train.numpy(), IMAGES.reshape(10, 12))
    assert np.array_equal(data.heldout.numpy(), TESTS.reshape(6, 12))
    assert data.train_labels is not None and data.train_labels.tolist() == list(range(10))
    assert data.heldout_labels is not None and data.heldout_labels.dtype == torch.int64


def test_idx_rows_keep_their_labels(tmp_path: Path) -> None:
    data = load(str(write_idx(tmp_path / "kin")), limit=4, heldout=3, seed=1)
    assert data.name == "kin"
    assert data.train_labels is not None and data.heldout_labels is not None
    assert np.array_equal(data.train.numpy(), IMAGES.reshape(10, 12)[data.train_labels.numpy()])
    assert np.array_equal(data.heldout.numpy(), TESTS.reshape(6, 12)[data.heldout_labels.numpy()])
    assert len(data.train_labels.unique()) == 4 and len(data.heldout_labels.unique()) == 3


def test_the_environment_names_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAE_DATA", str(tmp_path / "there"))
    write_idx(tmp_path / "there" / "FashionMNIST" / "raw")
    assert len(load("fashion-mnist").train) == 10
    # what lies in the folder itself could be either, so neither name finds it
    write_idx(tmp_path / "there")
    with pytest.raises(FileNotFoundError, match=re.escape(f"where FOLDER was {tmp_path}/there, ")):
        load("mnist")


def test_missing_idx_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load("fashion-mnist", root=tmp_path)
    for part in (*FILES.values(), str(tmp_path), "VAE_DATA", "package dataset-fashion-mnist"):
        assert part in str(caught.value)
    write_idx(tmp_path / "mnist", heldout=b"", heldout_labels=b"")
    message = f"{tmp_path}/mnist lacks t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (or .gz); tor"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        load("mnist", root=tmp_path)


GOOD = idx_bytes(IMAGES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GIF89a", "is no IDX file: it starts with b'GIF8'"),
        (b"\0\0", "is no IDX file: it starts with"),
        (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "has IDX type 0x0d; only bytes (0x08) are read"),
        (GOOD[:9], "ends within its header, after 9 bytes of 16"),
        (GOOD[:-1], "is truncated: 119 values where its header [10, 4, 3] says 120"),
        (GOOD + b"x", "is too long: 121 values where"),
        (
            b"\0\0\x08\x02" + b"\xff" * 8 + b"x",
            "is truncated: 1 values where its header [4294967295, 4294967295] says 184467",
        ),
        (b"\0\0\x08\x01\0\0\0\0", "holds no values: its header says [0]"),
        (gzip.compress(GOOD)[:-9], "is a broken gzip file: "),
        (b"\x1f\x8b" + GOOD, "is a broken gzip file: "),
        (gzip.compress(GOOD)[:10] + b"\xff" * 99, "is a broken gzip file: "),
    ],
    ids=[
        "other",
        "short",
        "floats",
        "header",
        "truncated",
        "long",
        "huge",
        "none",
        "gz",
        "no gz",
        "garbled",
    ],
)
def test_a_broken_idx_file(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} ") + re.escape(message)):
        read_idx(path)


def test_idx_files_that_do_not_fit_each_other(tmp_path: Path) -> None:
    few = idx_bytes(np.arange(9, dtype=np.uint8))
    refused(write_idx(tmp_path / "a", train_labels=few), "[N], got [10, 4, 3] and [9]")
    wide = idx_bytes(TESTS.reshape(6, 3, 4))
    (tmp_path / "b").mkdir()
    refused(
        write_idx(tmp_path / "b", heldout=wide), "training images are [4, 3], test images [3, 4]"
    )
    refused(write_idx(tmp_path / "c"), "size=8 has no meaning for", size=8)
    refused(tmp_path / "c", "heldout must be between 1 and 6, got 7", heldout=7)


def saved(path: Path, **arrays: NDArray[Any]) -> str:
    np.savez_compressed(path, **arrays)
    return str(path)


def test_one_array_is_split_at_random(tmp_path: Path) -> None:
    values = RNG.standard_normal((50, 3))
    for dtype in ("<f8", ">f4", "<f2"):
        np.save(tmp_path / "rows.npy", np.asfortranarray(values.astype(dtype)))
        data = load(str(tmp_path / "rows.npy"), seed=3)
        assert data.name == "rows" and data.shape == (3,) and data.train.dtype == torch.float32
        assert data.train.shape == (40, 3) and data.heldout.shape == (10, 3)
        both = torch.cat([data.train, data.heldout]).numpy()
        expected = values.astype(dtype).astype(np.float32)
        assert np.array_equal(both[both[:, 0].argsort()], expected[expected[:, 0].argsort()])
    assert torch.equal(data.train, load(str(tmp_path / "rows.npy"), seed=3).train)
    assert not torch.equal(data.train, load(str(tmp_path / "rows.npy"), seed=4).train)


@pytest.mark.parametrize("name", ["data", "imgs", "anything"])
def test_labels_and_factors_follow_their_rows(name: str, tmp_path: Path) -> None:
    number = np.arange(30)
    path = saved(
        tmp_path / "all.npz",
        **{name: np.repeat(number[:, None], 4, 1).astype(np.uint8) * 8},
        labels=number[:, None].astype(np.int32),
        factors=np.stack([number, number**2], 1),
        factor_names=np.array(["one", "two"]),
    )
    data = load(path, heldout=7, limit=11)
    for part, count in (("train", 11), ("heldout", 7)):
        rows, labels = getattr(data, part), getattr(data, f"{part}_labels")
        assert len(rows) == count
        assert torch.equal(rows[:, 0].long(), 8 * labels)
        assert torch.equal(getattr(data, f"{part}_factors"), torch.stack([labels, labels**2], 1))
    assert data.factor_names == ("one", "two")


@pytest.mark.parametrize("names", ["train heldout", "train test", "x_train x_test"])
def test_arrays_that_are_split_already(names: str, tmp_path: Path) -> None:
    first, second = names.split()
    data = load(saved(tmp_path / "s.npz", **{first: IMAGES, second: TESTS}))
    assert np.array_equal(data.train.numpy(), IMAGES.reshape(10, 12))
    assert np.array_equal(data.heldout.numpy(), TESTS.reshape(6, 12))
    assert data.shape == (1, 4, 3) and data.train_labels is None


def test_our_own_names_round_trip(tmp_path: Path) -> None:
    once = load("shapes", limit=20, heldout=10, size=16)
    fields = ("train", "heldout", "train_labels", "heldout_labels", "train_factors")
    arrays = {field: getattr(once, field).numpy() for field in (*fields, "heldout_factors")}
    names = np.array(once.factor_names)
    again = load(saved(tmp_path / "shapes.npz", **arrays, factor_names=names))
    for field in arrays:
        assert torch.equal(getattr(again, field), getattr(once, field))
    assert again.factor_names == once.factor_names
    assert load(saved(tmp_path / "t.npz", train=arrays["train"])).heldout.shape == (4, 256)


def test_shapes_of_images(tmp_path: Path) -> None:
    last = RNG.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    data = load(saved(tmp_path / "a.npz", train=last, test=last))
    assert data.shape == (3, 5, 4)
    assert np.array_equal(data.train.unflatten(1, data.shape).numpy(), np.moveaxis(last, 3, 1))
    first = last.reshape(6, 3, 5, 4)
    data = load(saved(tmp_path / "b.npz", train=first, test=first))
    assert np.array_equal(data.train.unflatten(1, data.shape).numpy(), first)


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_zeros_and_ones_are_black_and_white(dtype: type, tmp_path: Path) -> None:
    values = RNG.integers(0, 2, (9, 4)).astype(dtype)
    data = load(saved(tmp_path / "a.npz", train=values, test=values))
    assert np.array_equal(data.rows("train").numpy(), values.astype(np.float32))


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_objects_are_never_loaded(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    trap = np.array([Trap(mark)], dtype=object)
    np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "b.npz", train=trap)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Trap(mark)))
    for name in ("a.npy", "b.npz", "c.npy"):
        refused(tmp_path / name, name, "holds Python objects, which are never loaded")
    # beside data (as in dSprites) they are passed over
    np.savez(tmp_path / "d.npz", imgs=np.zeros((5, 2), np.uint8), metadata=trap)
    assert load(str(tmp_path / "d.npz")).train.shape == (4, 2)
    assert not mark.exists()
    np.load(tmp_path / "a.npy", allow_pickle=True)
    assert mark.exists()  # the trap works


ROWS = np.zeros((4, 2))
NAN = np.array([[0, 1], [np.nan, 1], [1, np.inf], [0, 0], [1e300, 0]])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train": ROWS.astype(np.int64)}, "train has dtype int64; use uint8 for pixels 0…255"),
        ({"data": ROWS.astype(complex)}, "a.npz has dtype complex128; use"),
        ({"train": ROWS[:, 0]}, "must have shape [N, D], or [N, H, W], [N, C, H, W] or"),
        ({"train": np.zeros((4, 5, 5, 5))}, "with 1 or 3 channels; got [4, 5, 5, 5]"),
        ({"train": np.zeros((0, 5))}, "a.npz: train is empty: its shape is [0, 5]"),
        ({"train": NAN}, "a.npz: train has 3 of 5 rows with NaN or infinite values"),
        ({"train": ROWS, "test": NAN}, "a.npz: heldout has 3 of 5 rows"),
        ({"train": ROWS, "test": ROWS[:, :1]}, "must agree; got rows of shape (2,), torch.float32"),
        ({"train": ROWS, "test": ROWS > 0}, "and (2,), torch.uint8"),
        ({"train": ROWS, "test": ROWS, "heldout": ROWS}, "has both heldout and test; keep one"),
        ({"test": ROWS}, "a.npz has test but no train"),
        ({"a": ROWS, "b": ROWS}, "must hold an array named train, or data; it has a, b"),
        ({}, "it has none"),
        ({"data": ROWS, "labels": ROWS[:, 0]}, "a.npz: labels must be integers; got float64"),
        ({"data": ROWS, "labels": np.arange(3)}, "a.npz: labels must have shape [4]; got [3]"),
        ({"data": ROWS, "factors": np.arange(4)}, "factors must have shape [4, F]; got [4]"),
        (
            {"data": ROWS, "factors": np.ones((4, 2), int), "factor_names": np.array(["a"])},
            "factor_names must be 2 names; got shape [1]",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_arrays_that_cannot_be_used(
    arrays: dict[str, NDArray[Any]], message: str, tmp_path: Path
) -> None:
    refused(saved(tmp_path / "a.npz", **arrays), message)


def test_broken_array_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    saved(path, train=RNG.standard_normal((50, 50)))
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    refused(path, f"{path} cannot be read: ")
    path.write_bytes(whole[:900] + bytes(64) + whole[964:])
    refused(path, f"{path} cannot be read: ")
    path.write_bytes(b"")
    refused(path, f"{path} cannot be read: ")
    np.save(tmp_path / "b.npy", ROWS)
    (tmp_path / "b.npy").write_bytes((tmp_path / "b.npy").read_bytes()[:-8])
    refused(tmp_path / "b.npy", "b.npy cannot be read: ")


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    for path in (tmp_path / "none.npy", tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=re.escape(f"no file or folder {path}")):
            load(str(path))
    (tmp_path / "data.csv").write_text("1,2\n")
    refused(tmp_path / "data.csv", "data.csv must be a .npy, .npz or .txt file, or a folder")
    np.save(tmp_path / "a.npy", ROWS)
    refused(tmp_path / "a.npy", "size=8 has no meaning for", size=8)


def draw(path: Path, pixels: NDArray[Any], mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def numbers(data: Data, part: str) -> list[int]:
    """The first value of each row."""
    values: list[int] = getattr(data, part)[:, 0].tolist()
    return values


def test_class_folders_give_labels(tmp_path: Path) -> None:
    for number in range(12):
        name = f"{'ba'[number % 2]}/deeper/{number:02}.png"
        draw(tmp_path / name, np.full((3, 5), number, np.uint8))
    for seed in range(4):
        data = load(str(tmp_path), heldout=5, limit=6, seed=seed)
        assert data.shape == (1, 3, 5) and data.train.dtype == torch.uint8
        assert len(data.train) == 6 and len(data.heldout) == 5
        assert len({*numbers(data, "train"), *numbers(data, "heldout")}) == 11
        for part in ("train", "heldout"):
            labels = getattr(data, f"{part}_labels").tolist()
            assert labels == [1 - number % 2 for number in numbers(data, part)]  # a before b


def test_a_flat_folder_has_no_labels_and_passes_over_the_rest(tmp_path: Path) -> None:
    for number in range(5):
        draw(tmp_path / f"{number}.PNG", np.full((2, 2), number, np.uint8))
    draw(tmp_path / ".hidden" / "9.png", np.zeros((2, 2), np.uint8))
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "._0.png").write_bytes(b"not an image")
    data = load(str(tmp_path))
    assert data.train_labels is None and data.name == tmp_path.name
    assert sorted(numbers(data, "train") + numbers(data, "heldout")) == list(range(5))


@pytest.mark.parametrize("second", ["heldout", "test"])
def test_folders_that_are_split_already(second: str, tmp_path: Path) -> None:
    for folder, count in (("train", 4), (second, 3)):
        for number in range(count):
            draw(
                tmp_path / folder / "xy"[number % 2] / f"{number}.png",
                np.full((2, 2), number, "u1"),
            )
    data = load(str(tmp_path))
    assert numbers(data, "train") == [0, 2, 1, 3] and numbers(data, "heldout") == [0, 2, 1]
    assert data.train_labels is not None and data.train_labels.tolist() == [0, 0, 1, 1]
    assert len(load(str(tmp_path), heldout=2).heldout) == 2


def test_colours_are_kept_where_there_are_any(tmp_path: Path) -> None:
    colours = RNG.integers(0, 256, (4, 3, 5, 3), dtype=np.uint8)
    for number, pixels in enumerate(colours):
        draw(tmp_path / "train" / f"{number}.png", pixels)
    draw(tmp_path / "test" / "grey.png", np.full((3, 5), 7, np.uint8))
    data = load(str(tmp_path))
    assert data.shape == (3, 3, 5)
    assert np.array_equal(data.train.unflatten(1, (3, 3, 5)).numpy(), np.moveaxis(colours, 3, 1))
    assert bool((data.heldout == 7).all())


def test_grey_is_grey_in_every_mode(tmp_path: Path) -> None:
    grey = np.full((2, 2), 200, np.uint8)
    for mode in ("L", "RGB", "P", "RGBA"):
        draw(tmp_path / f"{mode}.png", grey, mode)
    draw(tmp_path / "1.png", np.full((2, 2), 255, np.uint8), "1")
    clear = np.array([[[0, 0, 0, 0]] * 2] * 2, np.uint8)
    draw(tmp_path / "clear.png", clear)
    data = load(str(tmp_path))
    assert data.shape == (1, 2, 2)
    found = sorted(numbers(data, "train") + numbers(data, "heldout"))
    assert found == [200, 200, 200, 200, 255, 255]  # transparent black is white


def test_the_middle_is_cut_out_and_resized(tmp_path: Path) -> None:
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 20:40] = 180  # the middle square
    for number in range(2):
        draw(tmp_path / f"{number}.png", wide.T if number else wide)
    data = load(str(tmp_path), size=8)
    assert data.shape == (1, 8, 8)
    assert bool((data.train == 180).all()) and bool((data.heldout == 180).all())


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for number in range(2):
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera's top is at the right: turn a quarter clockwise
        Image.fromarray(pixels).save(tmp_path / f"{number}.png", exif=exif)
    data = load(str(tmp_path))
    assert data.shape == (1, 3, 2)
    assert np.array_equal(data.train[0].unflatten(0, (3, 2)).numpy(), np.rot90(pixels, -1))


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    refused(tmp_path, f"{tmp_path} has no images (.bmp, .gif,")
    draw(tmp_path / "a.png", np.zeros((2, 3), np.uint8))
    refused(tmp_path, "a split needs at least 2 rows, got 1")
    draw(tmp_path / "b.png", np.zeros((4, 4), np.uint8))
    refused(tmp_path, ".png is ", "3×2", "4×4", "give size, to which all are cut")
    refused(tmp_path, "size must be at least 1 pixel, got 0", size=0)
    draw(tmp_path / "c" / "c.png", np.zeros((2, 3), np.uint8))
    refused(tmp_path, "has images beside sub-folders with images (c)")


def test_broken_images_are_named(tmp_path: Path) -> None:
    for number in range(9):
        draw(tmp_path / f"{number}.png", RNG.integers(0, 256, (9, 9), dtype=np.uint8))
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    (tmp_path / "1.png").write_bytes(b"nothing")
    draw(tmp_path / "2.png", np.zeros((9, 9), np.uint16))
    refused(
        tmp_path, "3 of 9 images cannot be read: ", "0.png (", "1.png (", "2.png (mode I;16, not 8"
    )
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(b"nothing")
    refused(tmp_path, "8 of 9 images cannot be read", " and 3 more")
