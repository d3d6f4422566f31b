"""MMD-FUSE against a dense implementation of its definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from divergences.fuse import fuse_kernel, quantile
from divergences.two_sample import two_sample_test


def dense_fuse(
    z: np.ndarray, n: int, widths: list[tuple[str, float]], published: bool
) -> np.ndarray:
    """T of every split of z into n rows and the rest, the given split first; kernels as published:
    exp(−r²/2λ²) and exp(−√2·r₁/λ)."""
    count = len(z)
    squared, absolute = cdist(z, z, "sqeuclidean"), cdist(z, z, "cityblock")
    kernels = []
    for family, width in widths:
        if family == "gaussian":
            k = np.exp(-squared / (2 * width**2))
        else:
            k = np.exp(-math.sqrt(2) * absolute / width)
        np.fill_diagonal(k, 0.0)
        kernels.append(k)
    m, smaller = count - n, min(n, count - n)
    found = []
    for rows in itertools.combinations(range(count), n):
        x, y = list(rows), [i for i in range(count) if i not in rows]
        terms = []
        for k in kernels:
            u = (
                k[np.ix_(x, x)].sum() / (n * (n - 1))
                + k[np.ix_(y, y)].sum() / (m * (m - 1))
                - 2 * k[np.ix_(x, y)].mean()
            )
            pairs = smaller * (smaller - 1)
            terms.append(pairs * u / math.sqrt((k**2).sum() / pairs) if published else u)
        found.append(terms)
    each = np.array(found)  # [B, C]
    if not published:
        each = 2 * (each - each.mean(0)) / each.std(0)
    return np.log(np.mean(np.exp(each), axis=1))


@pytest.mark.parametrize(("method", "spacing"), [("fuse", "log"), ("fuse-original", "linear")])
def test_against_dense(method: str, spacing: str) -> None:
    generator = np.random.default_rng(0)
    z = generator.normal(size=(9, 2))
    z[4:] += 0.7
    widths: list[tuple[str, float]] = []
    for family, metric in (("gaussian", "euclidean"), ("laplace", "cityblock")):
        distance = cdist(z, z, metric)[np.triu_indices(9, 1)]
        low, high = np.quantile(distance, [0.05, 0.95])
        space = np.geomspace if spacing == "log" else np.linspace
        widths += [(family, w) for w in space(low / 2, 2 * high, 10)]
    expected = dense_fuse(z, 4, widths, published=method == "fuse-original")
    result = two_sample_test(z[:4], z[4:], method=method, rng=0)  # type: ignore[arg-type]
    assert result.enumerated
    assert result.statistic == pytest.approx(expected[0], rel=1e-9)
    np.testing.assert_allclose(np.sort(result.null_distribution), np.sort(expected), rtol=1e-8)
    assert result.pvalue == np.mean(expected >= expected[0] - 1e-9)


def test_bandwidths_see_positive_distances_of_pooled_rows_only() -> None:
    """Binary data: half of the distances are 0, which would make the smallest bandwidth 0."""
    z = torch.randint(0, 2, (300, 3), generator=torch.Generator().manual_seed(0)).double()
    kernel = fuse_kernel(z, torch.arange(300), "log")
    widths = [t.scale for t in kernel.terms]
    assert min(widths[:10]) == pytest.approx(0.5)  # type: ignore[type-var]
    assert max(widths[:10]) == pytest.approx(2 * 3**0.5, rel=0.2)  # type: ignore[type-var]
    swapped = fuse_kernel(z.flip(0), torch.arange(299, -1, -1), "log")
    assert [t.scale for t in swapped.terms] == widths


def test_sees_more_than_one_scale() -> None:
    """A fine comb against the uniform: a median bandwidth is blind to it."""
    generator = np.random.default_rng(1)
    x = generator.uniform(size=(400, 1))
    y = (np.floor(generator.uniform(size=(400, 1)) * 12) + generator.beta(8, 8, (400, 1))) / 12
    assert two_sample_test(x, y, n_resamples=199, rng=0).pvalue == 1 / 200
    median = two_sample_test(x, y, method="mmd", bandwidth="median", n_resamples=199, rng=0)
    assert median.pvalue > 0.05


def test_narrow_kernels_do_not_rule() -> None:
    """A shift that wide kernels see: nearly the power of the energy distance, which the published
    normaliser halves (60 samples, standard error .06)."""
    generator = np.random.default_rng(0)
    rejected = dict.fromkeys(("fuse", "fuse-original", "energy"), 0)
    for _ in range(60):
        x, y = generator.normal(size=(80, 3)), generator.normal(0.3, 1.0, (70, 3))
        for method in rejected:
            result = two_sample_test(x, y, method=method, n_resamples=199, rng=0)  # type: ignore[arg-type]
            rejected[method] += result.pvalue <= 0.05
    assert rejected["fuse"] >= rejected["energy"] - 11  # three standard errors
    assert rejected["fuse"] >= rejected["fuse-original"] + 6


@pytest.mark.parametrize("count", [1, 2, 3, 21, 1000])
def test_quantiles_are_those_of_numpy(count: int) -> None:
    values = np.random.default_rng(count).exponential(size=count)
    for q in (0.05, 0.5, 0.95):
        assert quantile(values, q) == pytest.approx(np.quantile(values, q), rel=1e-14)
