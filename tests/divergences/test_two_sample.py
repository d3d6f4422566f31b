"""The permutation test: its statistic is the loss, its p-value counts right and is valid."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from divergences import evaluation
from divergences.classifier import classifier_test
from divergences.energy import energy_distance
from divergences.fuse import fuse_kernel
from divergences.kernels import Gaussian, Linear
from divergences.mmd import mmd2
from divergences.resampling import Relabellings
from divergences.two_sample import Method, two_sample_test


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m"), [(2, 2), (30, 17), (1100, 40)])
def test_statistic_is_the_loss(n: int, m: int, dtype: torch.dtype) -> None:
    x, y = normal(0, n, 3).to(dtype), (normal(1, m, 3) + 0.5).to(dtype)
    rtol = 1e-9 if dtype == torch.float64 else 2e-4
    result = two_sample_test(x, y, method="energy", n_resamples=50, rng=0)
    assert result.statistic == pytest.approx(energy_distance(x, y).item(), rel=rtol)
    between = torch.cdist(x.double(), y.double()).mean().item()
    expected = max(0.0, energy_distance(x.double(), y.double()).item() / (2 * between))
    assert result.effect_size == pytest.approx(expected, rel=1e-6)
    result = two_sample_test(x, y, method="mmd", bandwidth=1.3, n_resamples=50, rng=0)
    assert result.statistic == pytest.approx(mmd2(x, y, bandwidth=1.3).item(), rel=rtol)
    assert (result.n, result.m, result.d) == (n, m, 3)


def statistics(z: Tensor, n: int, statistic: Callable[[Tensor, Tensor], float]) -> list[float]:
    """Of every split of z into n and the rest, the given one first."""
    found = []
    for rows in itertools.combinations(range(len(z)), n):
        mask = torch.zeros(len(z), dtype=torch.bool)
        mask[list(rows)] = True
        found.append(statistic(z[mask], z[~mask]))
    return found


LOSSES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "energy": lambda x, y: energy_distance(x, y).item(),
    "mmd": lambda x, y: mmd2(x, y, kernel=Gaussian([0.5, 2.0]) + Linear()).item(),
}


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("method", LOSSES)
def test_every_split(method: Any, columns: int) -> None:
    """Few enough to be listed: the null distribution is the loss of every split, and p a count."""
    x, y = normal(0, 4, columns), normal(1, 5, columns) + 1.0
    y[0] = x[0]  # a tie
    kernel = Gaussian([0.5, 2.0]) + Linear() if method == "mmd" else None
    result = two_sample_test(x, y, method=method, kernel=kernel, rng=0)
    expected = statistics(torch.cat([x, y]), 4, LOSSES[method])
    assert result.enumerated
    np.testing.assert_allclose(np.sort(result.null_distribution), np.sort(expected), atol=1e-12)
    reached = np.array(expected) >= expected[0] - 1e-11
    assert result.pvalue == reached.mean()
    drawn = two_sample_test(x, y, method=method, kernel=kernel, rng=0, n_resamples=100)
    assert not drawn.enumerated
    error = np.sqrt(result.pvalue * (1 - result.pvalue) / 100)
    assert abs(drawn.pvalue - result.pvalue) < 4 * error + 1 / 101


@pytest.mark.parametrize("products", ["wide", "narrow"])
def test_statistics_of_relabellings(products: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each against the loss of the rows it relabels; fp32 products within 1e-3 null deviations."""
    monkeypatch.setattr("divergences.two_sample.WIDE_WORK", 0 if products == "narrow" else 2**40)
    x, y = normal(0, 70, 3), normal(1, 50, 3)
    result = two_sample_test(x, y, method="mmd", bandwidth=1.0, n_resamples=40, rng=9)
    generator = np.random.default_rng(9)
    generator.permutation(120)  # the rows whose median distance would be the bandwidth
    z = torch.cat([x, y])
    (labels,) = Relabellings((70, 50), 40, generator).batches(1000)
    expected = [
        mmd2(z[g == 0], z[g == 1], bandwidth=1.0).item() for g in torch.from_numpy(labels).T
    ]
    error = np.abs(result.null_distribution - expected[1:]).max()
    assert error < (1e-14 if products == "wide" else 1e-3 * np.std(expected))
    assert products == "wide" or error > 0


CASES: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "continuous": lambda r, k: r.normal(size=(k, 2)),
    "binary": lambda r, k: r.integers(0, 2, size=(k, 2)).astype(float),
    "cauchy": lambda r, k: r.standard_cauchy(size=(k, 1)),
}
METHODS = [m for m in get_args(Method) if m != "classifier"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_level(case: str, method: Any) -> None:
    """Under P = Q, P(p ≤ α) ≤ α: one-sided 1 − 1e-4 binomial bounds (at length: bench)."""
    generator = np.random.default_rng(7)
    draw = CASES[case]
    pvalues = np.array(
        [
            two_sample_test(
                draw(generator, 5),
                draw(generator, 7),
                method=method,
                n_resamples=39,
                rng=generator,
            ).pvalue
            for _ in range(150)
        ]
    )
    for alpha in (0.05, 0.1, 0.25):
        assert (pvalues <= alpha).sum() <= stats.binom.ppf(1 - 1e-4, 150, alpha)
    assert pvalues.min() >= 1 / 40


@pytest.mark.parametrize("method", METHODS)
def test_power(method: Any) -> None:
    x, y = normal(0, 120, 2), normal(1, 150, 2) + 1.0
    result = two_sample_test(x, y, method=method, n_resamples=99, rng=0)
    assert result.pvalue == 0.01
    assert result.effect_size is not None
    assert 0.02 < result.effect_size < 0.9
    null = two_sample_test(x, y - 1.0, method=method, n_resamples=99, rng=0)
    assert null.pvalue > 0.01
    assert null.method == method


def test_strata_remove_what_they_explain() -> None:
    """Two sites with different means and different shares of x and y: pooled, P and Q differ;
    within either site they do not."""
    generator = np.random.default_rng(3)
    site = np.concatenate([np.repeat([0, 1], [80, 20]), np.repeat([0, 1], [20, 80])])
    values = generator.normal(size=200) + 2.0 * site
    x, y = values[:100], values[100:]
    assert two_sample_test(x, y, rng=0, n_resamples=199).pvalue == 1 / 200
    names = np.where(site == 0, "north", "south")
    assert two_sample_test(x, y, rng=0, n_resamples=199, strata=names).pvalue > 0.05
    shifted = two_sample_test(x, y + 1.5, rng=0, n_resamples=199, strata=torch.from_numpy(site))
    assert shifted.pvalue == 1 / 200


def test_strata_of_matched_pairs() -> None:
    """n strata of two: the labels of a pair swap or stay."""
    x = normal(0, 40, 1) * 10.0
    y = x + 0.1 + 0.05 * normal(1, 40, 1)
    pairs = np.tile(np.arange(40), 2)
    assert two_sample_test(x, y, method="energy", rng=0).pvalue > 0.2
    linear = two_sample_test(x, y, method="mmd", kernel="linear", strata=pairs, rng=0)
    assert linear.pvalue == 0.001


def test_batches_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(0, 30, 2), normal(1, 20, 2)
    whole = two_sample_test(x, y, n_resamples=100, rng=0)
    monkeypatch.setitem(evaluation.LABEL_BYTES, "cpu", 50 * 4 * 7)  # 7 labellings at a time
    parts = two_sample_test(x, y, n_resamples=100, rng=0)
    np.testing.assert_allclose(parts.null_distribution, whole.null_distribution, rtol=1e-9)
    assert parts.pvalue == whole.pvalue


def test_kernels_are_described() -> None:
    x, y = normal(0, 60, 2), normal(1, 60, 2) + 1.0
    result = two_sample_test(x, y, n_resamples=99, rng=0)
    assert len(result.kernels) == 20
    widths = [row.bandwidth for row in result.kernels[:10]]
    assert widths == sorted(widths)  # type: ignore[type-var]
    assert {row.kernel.split("(")[0] for row in result.kernels} == {"Gaussian", "Laplace"}
    mixture = two_sample_test(x, y, method="mmd", bandwidth=[0.5, 2.0], n_resamples=99, rng=0)
    for row in mixture.kernels:
        alone = mmd2(x, y, bandwidth=row.bandwidth).item()
        assert row.statistic == pytest.approx(alone, rel=1e-9)


def test_result_prints_and_serialises() -> None:
    x, y = normal(0, 30, 2), normal(1, 20, 2)
    result = two_sample_test(x, y, n_resamples=60, rng=4)
    text = str(result)
    for part in (
        "two-sample test",
        "n = 30, m = 20, d = 2",
        "60 permutations",
        "seed 4",
        "p-value",
    ):
        assert part in text
    again = json.loads(result.to_json())
    assert again["pvalue"] == result.pvalue
    assert again["null_distribution"] == result.null_distribution.tolist()
    assert again["n_resamples"] == 60
    assert len(again["kernels"]) == 20
    assert "_samples" not in again
    assert "null_distribution" not in result.to_dict(null_distribution=False)
    assert two_sample_test(x, y, n_resamples=60, rng=again["seed"]).pvalue == result.pvalue


def test_the_seed_of_fresh_entropy_repeats_the_test() -> None:
    x, y = normal(0, 30, 2), normal(1, 20, 2)
    result = two_sample_test(x, y, n_resamples=60)
    again = two_sample_test(x, y, n_resamples=60, rng=result.seed)
    assert np.array_equal(again.null_distribution, result.null_distribution)
    assert two_sample_test(x, y, n_resamples=60).seed != result.seed
    assert two_sample_test(x, y, n_resamples=60, rng=np.random.default_rng(0)).seed is None


class ByDlpack:
    """A tensor of another library."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


def test_tensors_of_other_libraries() -> None:
    x, y = normal(0, 30, 2), normal(1, 20, 2)
    result = two_sample_test(ByDlpack(x), ByDlpack(y), n_resamples=60, rng=4)
    assert result.pvalue == two_sample_test(x, y, n_resamples=60, rng=4).pvalue


@pytest.mark.parametrize("products", ["wide", "narrow"])
@pytest.mark.parametrize(("n", "m"), [(10, 1500), (40, 1470), (700, 800)])
def test_ties_stay_ties(n: int, m: int, products: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Binary rows: the statistic is a function of counts. Labellings of equal counts are ties, to
    be counted as such however unequal the groups."""
    monkeypatch.setattr("divergences.two_sample.WIDE_WORK", 0 if products == "narrow" else 2**60)
    generator = np.random.default_rng(n)
    z = generator.integers(0, 2, size=(n + m, 2)).astype(float)
    options: dict[str, Any] = {"method": "energy", "n_resamples": 300}
    result = two_sample_test(z[:n], z[n:], rng=np.random.default_rng(5), **options)
    replay = np.random.default_rng(5)
    replay.permutation(n + m)
    (labels,) = Relabellings((n, m), 300, replay).batches(1000)
    kinds = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    of_kind = (z[:, None] == kinds).all(2).astype(float)  # [N, 4]
    distance = np.linalg.norm(kinds[:, None] - kinds, axis=2)
    x, y = of_kind.T @ (labels == 0), of_kind.T @ (labels == 1)  # counts [4, B]
    within = [np.einsum("kb,kl,lb->b", c, distance, c) for c in (x, y)]
    between = np.einsum("kb,kl,lb->b", x, distance, y)
    values = 2 * between / (n * m) - within[0] / (n * (n - 1)) - within[1] / (m * (m - 1))
    reached = values[1:] >= values[0] - 1e-13
    assert len(np.unique(values.round(12))) < 301  # there are ties
    assert result.pvalue == (1 + reached.sum()) / 301


def test_random_generators() -> None:
    x, y = normal(0, 20, 2), normal(1, 20, 2)
    first = two_sample_test(x, y, n_resamples=50, rng=3)
    assert np.array_equal(
        first.null_distribution, two_sample_test(x, y, n_resamples=50, rng=3).null_distribution
    )
    assert not np.array_equal(
        first.null_distribution, two_sample_test(x, y, n_resamples=50, rng=4).null_distribution
    )
    same = two_sample_test(x, y, n_resamples=50, rng=np.random.default_rng(3))
    assert np.array_equal(first.null_distribution, same.null_distribution)
    by_torch = [
        two_sample_test(x, y, n_resamples=50, rng=torch.Generator().manual_seed(1)).pvalue
        for _ in range(2)
    ]
    assert by_torch[0] == by_torch[1]


def test_arrays_integers_and_vectors() -> None:
    x, y = np.arange(20), np.arange(10, 30)
    result = two_sample_test(x, y, n_resamples=99, rng=0)
    assert (result.n, result.m) == (20, 20)
    assert isinstance(result.statistic, float)
    assert result == result
    assert not result.null_distribution.flags.writeable
    assert len(repr(result)) < 300
    near = two_sample_test(np.arange(100) + 10**9, np.arange(100, 200) + 10**9, rng=0)
    assert near.statistic == pytest.approx(
        two_sample_test(np.arange(100.0), np.arange(100.0, 200.0), rng=0).statistic
    )


def test_overflow_is_refused_and_never_a_verdict() -> None:
    x, y = normal(0, 30, 2), normal(1, 30, 2)
    for method in ("energy", "fuse"):
        with pytest.raises(ValueError, match=r"overflow.* rescale"):
            two_sample_test(x * 1e160, y * 1e160, method=method, n_resamples=19, rng=0)
        plain = two_sample_test(x.float(), y.float(), method=method, rng=0)
        big = two_sample_test(x.float() * 1e20, y.float() * 1e20, method=method, rng=0)
        assert big.pvalue == plain.pvalue


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_tie_tolerance_swallows_no_effect(offset: float) -> None:
    """A kernel whose values are huge against the statistic, and an outlier in the energy test."""
    x, y = normal(0, 100, 2) + offset, normal(1, 100, 2) + offset + 1.0
    assert two_sample_test(x, y, method="mmd", kernel="linear", rng=0).pvalue == 0.001
    y[0] = 1e8
    assert two_sample_test(x, y, method="energy", rng=0).pvalue <= 0.01


def test_any_real_numpy_array() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 30, 3))
    expected = two_sample_test(x, y, n_resamples=50, rng=0)
    frozen = x.copy()
    frozen.flags.writeable = False
    for variant in (
        x.astype(">f8"),
        np.asfortranarray(x),
        x.astype(np.longdouble),
        frozen,
        x.tolist(),
    ):
        same = two_sample_test(variant, y, n_resamples=np.int64(50), rng=0)  # type: ignore[arg-type]
        assert same.pvalue == expected.pvalue
    for method in ("energy", "mmd"):
        there, back = (two_sample_test(z, y, method=method, rng=0) for z in (x, x[::-1]))
        assert back.statistic == pytest.approx(
            there.statistic, rel=1e-2 if method == "mmd" else 1e-9
        )
    masked = np.ma.masked_array(x, mask=x > 1)
    with pytest.raises(TypeError, match="masked array; drop"):
        two_sample_test(masked, y)
    with pytest.raises(TypeError, match="not a real number"):
        two_sample_test(np.array([["a"]]), y)


def test_constant_data() -> None:
    with pytest.warns(UserWarning, match="all rows of x and y are equal"):
        result = two_sample_test(np.ones((5, 2)), np.ones((6, 2)), n_resamples=19, rng=0)
    assert result.pvalue == 1.0


@pytest.mark.parametrize(
    ("x", "y", "arguments", "message"),
    [
        (np.zeros((5, 2)), np.zeros((5, 3)), {}, "share d"),
        (np.zeros((1, 2)), np.zeros((5, 2)), {}, "x has 1 row"),
        (np.zeros((0, 2)), np.zeros((5, 2)), {}, "x is empty"),
        (np.full((5, 2), np.nan), np.zeros((5, 2)), {}, "5 rows of 5 with NaN"),
        (np.zeros((5, 2)), np.zeros((5, 2)), dict(n_resamples=0), "positive integer; got 0"),
        (np.eye(5), np.eye(5), dict(method="t"), "unknown method 't'; known are 'fuse', 'fuse-or"),
        (np.eye(5), np.eye(5), dict(bandwidth=1.0), "'fuse' has its own kernels; use method='mmd'"),
        (np.eye(5), np.eye(5), dict(n_features=10), "n_features is an option of 'mmd-fourier' and"),
        (np.eye(5), np.eye(5), dict(method="mmd-block", block_size=2), "an integer ≥ 4; got 2"),
        (np.eye(5), np.eye(5), dict(strata=[0, 1]), r"shape \[10\]; got \[2\]"),
        (np.eye(5), np.eye(5), dict(rng=-1), "must not be negative"),
        (np.eye(5), np.eye(5), dict(method="mmd-fourier", kernel="linear"), "random Fourier feat"),
        (np.eye(5), np.eye(5), dict(method="mmd-nystrom", kernel="energy"), "positive definite"),
        (np.zeros((5, 2, 2)), np.zeros((5, 2)), {}, r"\[n, d\] or \[n\]"),
    ],
)
def test_bad_input(x: object, y: object, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two_sample_test(x, y, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rng", ["seed", True, (0, np.random.default_rng(0))], ids=["text", "flag", "two"]
)
def test_one_source_of_randomness(rng: Any) -> None:
    """Neither what is no seed, nor a seed and a Generator together."""
    with pytest.raises(TypeError, match="rng must be one of: a seed, a numpy Generator, a torch"):
        two_sample_test(np.arange(5.0), np.arange(4.0), rng=rng)


def test_classifier_by_name() -> None:
    x, y = normal(0, 60, 2), normal(1, 60, 2) + 2.0
    result = two_sample_test(x, y, method="classifier", n_resamples=99, rng=0)
    alone = classifier_test(x, y, n_resamples=99, rng=0)
    assert (result.statistic, result.pvalue) == (alone.statistic, alone.pvalue)
    with pytest.raises(ValueError, match="does not take strata"):
        two_sample_test(x, y, method="classifier", strata=np.zeros(120))


class Frame:
    """A data frame, as far as its columns go."""

    def __init__(self, values: Any, columns: list[str]) -> None:
        self.values, self.columns = np.asarray(values, dtype=float), columns

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[np.float64]:
        return np.asarray(self.values, dtype=dtype)


def test_data_frames_are_compared_column_by_column() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal([40, 20], 1, (2, 60, 2))
    same = two_sample_test(Frame(x, ["age", "bmi"]), Frame(y, ["age", "bmi"]), rng=0)
    assert same.pvalue == two_sample_test(x, y, rng=0).pvalue
    with pytest.raises(ValueError, match="columns differ: x has age, bmi; y has bmi, age; choose"):
        two_sample_test(Frame(x, ["age", "bmi"]), Frame(y[:, ::-1], ["bmi", "age"]), rng=0)


@pytest.mark.parametrize("labels", [[None] * 40, [np.nan] * 20 + [1.0] * 20], ids=["None", "NaN"])
def test_rows_without_a_stratum(labels: Any) -> None:
    with pytest.raises(ValueError, match="of 40 rows have no stratum"):
        two_sample_test(normal(0, 20, 1), normal(1, 20, 1), strata=labels)


def test_rows_left_out_of_blocks_are_told() -> None:
    result = two_sample_test(normal(0, 60, 1), normal(1, 40, 1), method="mmd-block", rng=0)
    (note,) = result.notes
    assert f"{100 - result.n - result.m} of 100 rows" in note
    assert note in str(result)


@pytest.mark.parametrize("method", ["mmd-fourier", "mmd-nystrom"])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_features_do_not_mind_an_offset(method: Any, offset: float) -> None:
    x, y = normal(0, 150, 2) + offset, normal(1, 150, 2) + offset + 0.7
    assert two_sample_test(x, y, method=method, n_resamples=199, rng=0).pvalue == 1 / 200


def test_features_of_a_kernel_with_a_large_constant() -> None:
    x, y = normal(0, 300, 1) + 1000.0, normal(1, 300, 1) + 1000.5
    options: dict[str, Any] = {"kernel": "linear", "n_resamples": 199, "rng": 0}
    assert two_sample_test(x, y, method="mmd-nystrom", **options).pvalue == 1 / 200


def test_bandwidths_do_not_see_which_sample_is_which() -> None:
    """Swapped samples, with the order of pooled rows swapped alike: the same bandwidths."""
    x, y = normal(0, 900, 1), 50.0 * normal(1, 400, 1)
    order = np.random.default_rng(0).permutation(1300)
    there = fuse_kernel(torch.cat([x, y]), torch.from_numpy(order), "log")
    back = fuse_kernel(torch.cat([y, x]), torch.from_numpy((order + 400) % 1300), "log")
    assert [t.scale for t in there.terms] == [t.scale for t in back.terms]
    head = fuse_kernel(torch.cat([x, y]), torch.arange(1300), "log")  # which has few rows of y
    assert head.terms[9].scale < 0.8 * there.terms[9].scale  # type: ignore[operator]


def test_samples_without_numbers() -> None:
    with pytest.raises(ValueError, match="y is on the device 'meta', which holds no numbers"):
        two_sample_test(torch.zeros(9, 2), torch.zeros(9, 2, device="meta"))
