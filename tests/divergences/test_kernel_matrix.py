"""Kernels that users bring, as a matrix of all pairs or as a function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from divergences.two_sample import two_sample_test

X = np.random.default_rng(0).normal(size=(30, 2))
Y = np.random.default_rng(1).normal(0.4, 1.0, (20, 2))
Z = np.concatenate([X, Y])
GAUSSIAN = np.exp(-0.5 * cdist(Z, Z, "sqeuclidean") / 1.3**2)
OPTIONS: dict[str, Any] = {"method": "mmd", "n_resamples": 99, "rng": 0}


def gaussian(a: Tensor, b: Tensor) -> Tensor:
    return torch.exp(-0.5 * torch.cdist(a, b).square() / 1.3**2)


@pytest.mark.parametrize("design", ["none", "strata", "groups"])
@pytest.mark.parametrize("kernel", [GAUSSIAN, torch.from_numpy(GAUSSIAN), gaussian])
def test_a_matrix_is_the_kernel_it_holds(kernel: Any, design: str) -> None:
    labels = {"strata": np.arange(50) % 3, "groups": np.arange(50) // 2}
    options = OPTIONS if design == "none" else OPTIONS | {design: labels[design]}
    found = two_sample_test(X, Y, kernel=kernel, **options)
    expected = two_sample_test(X, Y, bandwidth=1.3, **options)
    np.testing.assert_allclose(found.null_distribution, expected.null_distribution, atol=1e-12)
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-9)
    assert found.pvalue == expected.pvalue
    assert found.effect_size == pytest.approx(expected.effect_size, abs=1e-12)
    assert found.notes == (
        "the kernel is positive definite on differences of samples of these rows",
    )
    name = "gaussian" if callable(kernel) else "kernel matrix"
    assert [row.kernel for row in found.kernels] == [name]
    found.plot()


def test_a_distance_is_passed_with_a_minus() -> None:
    rows = np.arange(50)  # numbers that stand for rows, which may be texts or graphs
    found = two_sample_test(rows[:30], rows[30:], kernel=-cdist(Z, Z), **OPTIONS)
    expected = two_sample_test(X, Y, **(OPTIONS | {"method": "energy"}))
    assert found.statistic == pytest.approx(expected.statistic, rel=1e-9)
    assert (found.pvalue, found.scale) == (expected.pvalue, None)
    assert found.effect_size == pytest.approx(expected.effect_size, rel=1e-9)
    wrong = two_sample_test(rows[:30], rows[30:], kernel=cdist(Z, Z), **OPTIONS)
    assert wrong.notes[0].startswith("the kernel is not positive definite (eigenvalues from -")


def test_definiteness_that_rounding_hides() -> None:
    """A constant added to a definite kernel leaves it definite on differences."""
    plain, hidden = (two_sample_test(X, Y, kernel=GAUSSIAN + c, **OPTIONS) for c in (1e3, 1e9))
    assert plain.notes[0].startswith("the kernel is positive definite")
    assert hidden.notes == (
        "rounding beside entries of 1e+09 hides whether the kernel is positive definite: take a "
        "constant off it",
    )
    assert hidden.pvalue >= plain.pvalue  # more counts as a tie


def test_bad_input() -> None:
    lopsided, holes = GAUSSIAN.copy(), GAUSSIAN.copy()
    lopsided[0, 1] += 0.1
    holes[3, 4] = np.nan
    cases: list[tuple[Any, type[Exception], str, dict[str, Any]]] = [
        (GAUSSIAN[:30], ValueError, r"shape \[50, 50\]; got \[30, 50\]", {}),
        (lopsided, ValueError, "must be symmetric; .* differ by 0.1", {}),
        (holes, ValueError, "1 of 2500 values of the kernel are NaN or infinite", {}),
        (np.eye(50) * 1j, TypeError, "complex128 is not a real number", {}),
        (lambda a, b: "k", TypeError, "the kernel must give a matrix of numbers", {}),  # noqa: ARG005
        (
            GAUSSIAN,
            ValueError,
            "with method 'mmd' .* got method='energy'",
            {"method": "energy"},
        ),
        (GAUSSIAN, ValueError, "has its own bandwidth; .*bandwidth=1.0", {"bandwidth": 1.0}),
        (GAUSSIAN, ValueError, "no rows to scale", {"scale": "std"}),
    ]
    for kernel, kind, message, options in cases:
        with pytest.raises(kind, match=message):
            two_sample_test(X, Y, kernel=kernel, **(OPTIONS | options))
