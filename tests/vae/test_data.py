"""What every data set promises, whatever it comes from."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from vae.data import NAMES, Data, binarised, digits, gaussian_mixture, load
from vae.data.shapes import FACTORS
from vae.data.split import Split


def data(**changes: Any) -> Data:
    """Three training rows of two bytes and two held-out ones, changed as told."""
    fields: dict[str, Any] = {
        "name": "some",
        "train": torch.tensor([[0, 255], [51, 102], [1, 254]], dtype=torch.uint8),
        "heldout": torch.tensor([[3, 4], [5, 6]], dtype=torch.uint8),
        "shape": (2,),
    }
    return Data(**fields | changes)


def test_bytes_are_scaled_when_read() -> None:
    every = torch.arange(256, dtype=torch.uint8)[:, None]
    rows = data(train=every, heldout=every, shape=(1,)).rows("train")
    assert rows.dtype == torch.float32
    assert np.array_equal(rows.numpy(), np.arange(256, dtype=np.float32)[:, None] / np.float32(255))


def test_rows_come_in_the_order_asked_for() -> None:
    rows = data().rows("train", torch.tensor([1, 0, 1]))
    expected = torch.tensor([[51.0, 102.0], [0.0, 255.0], [51.0, 102.0]]) / 255
    assert torch.equal(rows, expected)
    floats = torch.tensor([[-7.5, 3.0], [2.0, 1e30]])
    assert torch.equal(data(train=floats, heldout=floats).rows("heldout"), floats)
    with pytest.raises(IndexError):
        data().rows("heldout", torch.tensor([2]))
    with pytest.raises(ValueError, match='split must be "train" or "heldout", got \'test\''):
        data().rows("test")  # type: ignore[arg-type]


def test_what_a_row_is() -> None:
    image = data(train=torch.zeros(3, 12), heldout=torch.zeros(2, 12), shape=(3, 2, 2))
    assert image.is_image and image.n_pixels == 12
    assert not data().is_image and data().n_pixels == 2


@pytest.mark.parametrize(
    ("value", "unit"), [(0.0, True), (1.0, True), (1.0001, False), (-1e-6, False)]
)
def test_unit_sees_both_parts(value: float, unit: bool) -> None:
    low, other = torch.full((2, 2), 0.5), torch.tensor([[0.5, value]])
    assert data(train=low, heldout=other).unit == unit
    assert data(train=other, heldout=low).unit == unit
    assert data().unit


LONG = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (1, 2)}, "some: shape must be (D,) or (C, H, W), got (1, 2)"),
        ({"shape": (3,)}, "some: train has 2 columns, but a row of shape (3,) has 3"),
        ({"train": torch.zeros(3, 2)}, "one dtype, got torch.float32 and torch.uint8"),
        ({"train": torch.zeros(0, 2, dtype=torch.uint8)}, "[N, D] with at least one row and one"),
        ({"heldout": torch.zeros(4, dtype=torch.uint8)}, "some: heldout must have shape [N, D]"),
        ({"train_labels": LONG[:2]}, "train_labels must be int64 of shape [3], got torch.int64 of"),
        ({"heldout_labels": torch.zeros(2)}, "int64 of shape [2], got torch.float32"),
        ({"train_factors": LONG[:, None]}, "train_factors must be int64 of shape [3, 0]"),
        ({"binarise": "always"}, "binarise must be one of none, dynamic, fixed; got 'always'"),
        ({"binarise": "dynamic"}, "the heldout rows must be 0 and 1 already; make them so with"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_data_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        data(**changes)


def test_training_rows_that_should_be_binary_and_are_not() -> None:
    binary = torch.tensor([[0, 255]], dtype=torch.uint8)
    assert data(heldout=binary, binarise="dynamic").binarise == "dynamic"
    with pytest.raises(ValueError, match="the train rows must be 0 and 1 already"):
        data(heldout=binary, binarise="fixed")


def test_doubles_and_rows_that_are_not_finite() -> None:
    double = torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"train must be float32 or uint8, got torch\.float64"):
        data(train=double, heldout=double)
    bad = torch.zeros(5, 2)
    bad[1, 0], bad[3] = math.inf, math.nan
    with pytest.raises(ValueError, match="some: train has 2 of 5 rows with NaN or infinite"):
        data(train=bad, heldout=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="some: heldout has 2 of 5 rows"):
        data(train=torch.zeros(2, 2), heldout=bad)


def probabilities() -> Data:
    """One value in each column, the same in all 2000 rows."""
    grey = torch.tensor([0, 26, 128, 250, 255], dtype=torch.uint8)
    return data(
        train=grey.expand(2000, 5).clone(), heldout=grey.expand(2000, 5).clone(), shape=(5,)
    )


def assert_bernoulli(rows: torch.Tensor) -> None:
    p = torch.tensor([0, 26, 128, 250, 255]) / 255
    assert set(rows.unique().tolist()) == {0.0, 1.0}
    five_sigma = 5 * (p * (1 - p) / len(rows)).sqrt()
    assert bool(((rows.mean(0) - p).abs() <= five_sigma).all())  # exactly 0 and 1 at the ends


def test_dynamic_binarisation_draws_anew_from_the_generator() -> None:
    drawn = binarised(probabilities(), "dynamic")
    generator = torch.Generator().manual_seed(0)
    first = drawn.rows("train", generator=generator)
    second = drawn.rows("train", generator=generator)
    assert_bernoulli(first)
    assert not torch.equal(first, second)
    assert torch.equal(first, drawn.rows("train", generator=generator.manual_seed(0)))
    assert torch.equal(drawn.train, probabilities().train)


@pytest.mark.parametrize("floats", [False, True])
def test_heldout_rows_are_binarised_once_for_all_seeds(floats: bool) -> None:
    grey = probabilities()
    if floats:
        grey = dataclasses.replace(grey, train=grey.rows("train"), heldout=grey.rows("heldout"))
    drawn = [binarised(grey, how, seed=seed) for how in ("dynamic", "fixed") for seed in (0, 1)]
    assert_bernoulli(drawn[0].rows("heldout"))
    for other in drawn:
        assert torch.equal(other.rows("heldout"), drawn[0].rows("heldout"))
        assert other.heldout.dtype == grey.heldout.dtype


def test_fixed_binarisation_depends_on_the_seed_alone() -> None:
    drawn = binarised(probabilities(), "fixed", seed=1)
    assert_bernoulli(drawn.rows("train"))
    assert torch.equal(drawn.rows("train"), drawn.rows("train"))
    assert torch.equal(drawn.train, binarised(probabilities(), "fixed", seed=1).train)
    assert not torch.equal(drawn.train, binarised(probabilities(), "fixed", seed=2).train)
    # the two parts have the same probabilities here, and must not share their draws
    assert not torch.equal(drawn.train, drawn.heldout)


def test_what_cannot_be_binarised() -> None:
    wide = data(train=torch.tensor([[-0.5, 0.0]]), heldout=torch.tensor([[1.0, 2.5]]))
    with pytest.raises(ValueError, match=re.escape("within [0, 1], but go from -0.5 to 2.5")):
        binarised(wide, "dynamic")
    assert binarised(wide, "none") is wide
    with pytest.raises(ValueError, match=re.escape("some is binarised already (fixed)")):
        binarised(binarised(probabilities(), "fixed"), "dynamic")


def test_splits_are_random_and_without_overlap() -> None:
    train, held = Split(None, None, 0).of(103)
    assert len(held) == 20
    assert sorted(torch.cat([train, held]).tolist()) == list(range(103))
    assert held.tolist() != sorted(held.tolist())
    fewer, same = Split(None, 7, 0).of(103)
    assert torch.equal(fewer, train[:7]) and torch.equal(same, held)
    assert not torch.equal(Split(None, None, 1).of(103)[1], held)
    assert [len(part) for part in Split(None, None, 0).of(3)] == [2, 1]


def test_given_splits_are_kept() -> None:
    rows = torch.arange(50)
    train, held = Split(None, 90, 0).given(50, 30)
    assert torch.equal(rows[train], rows) and torch.equal(rows[:30][held], rows[:30])
    train, held = Split(4, 5, 0).given(50, 30)
    assert len(rows[train].unique()) == 5 and len(rows[:30][held].unique()) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Split(None, None, 0).of(1), "at least 2 rows, got 1"),
        (lambda: Split(9, None, 0).of(9), "heldout must be between 1 and 8"),
        (lambda: Split(0, None, 0).of(9), "between 1 and 8, got 0"),
        (lambda: Split(4, None, 0).given(9, 3), "between 1 and 3, got 4"),
        (lambda: Split(3, 0, 0).given(9, 3), "limit must be at least 1, got 0"),
        (lambda: gaussian_mixture(0), "n must be at least 1, got 0"),
        (lambda: gaussian_mixture(heldout=0), "heldout must be at least 1, got 0"),
        (lambda: load("shapes", limit=0), "limit must be at least 1, got 0"),
        (lambda: load("digits", binarise="yes"), "binarise must be one of none, dynamic, fixed"),
        (lambda: load("digits", size=28), "size=28 has no meaning for digits; it is for shapes"),
        (lambda: load("mnist", size=28), "size=28 has no meaning for mnist"),
        (
            lambda: load("gaussian-mixture", binarise="fixed"),
            "gaussian-mixture cannot be binarised",
        ),
        (lambda: load("digist"), "unknown data 'digist'; did you mean digits? (known: digits, gau"),
        (lambda: load("Fashon-MNIST"), "did you mean fashion-mnist? (known"),
        (lambda: load("zzz"), "unknown data 'zzz' (known: digits,"),
    ],
)
def test_arguments_out_of_range(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_bundled_data_by_name() -> None:
    assert torch.equal(load("digits", seed=2).train, digits(seed=2).train)
    assert torch.equal(load("digits", heldout=100).heldout, digits(heldout=100).heldout)
    few = load("digits", limit=10, binarise="fixed")
    assert few.train.shape == (10, 64) and few.heldout.shape == (600, 64)
    assert few.shape == (1, 8, 8) and few.unit and few.name == "digits"
    mixture = load("gaussian-mixture", limit=30, heldout=20, seed=4)
    assert torch.equal(mixture.train, gaussian_mixture(30, heldout=20, seed=4).train)
    assert mixture.shape == (2,) and not mixture.unit
    assert {"digits", "gaussian-mixture", "mnist", "fashion-mnist", *FACTORS} == set(NAMES)


def test_draws_of_earlier_releases() -> None:
    """Figures in the documentation were made from these rows."""
    assert digits(seed=3).train_labels[:8].tolist() == [0, 2, 1, 1, 4, 3, 0, 4]
    mixture = gaussian_mixture(seed=3)
    assert mixture.train_labels[:8].tolist() == [2, 0, 3, 1, 3, 0, 2, 0]
    assert float(mixture.train[0, 0]) == pytest.approx(1.019869, rel=1e-6)
