"""The perturbed uniform is what the papers sample from, and the benchmark counts right."""

from __future__ import annotations

import itertools
import math
import pathlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from divergences.__main__ import main
from divergences.power import (
    PUBLISHED,
    SCALES,
    benchmark_power,
    perturbed_uniform,
    perturbed_uniform_density,
    power_of,
)


def bump(x: float) -> float:
    """G as the papers print it."""
    if -1.0 < x < -0.5:
        return math.exp(-1.0 / (1.0 - (4.0 * x + 3.0) ** 2))
    if -0.5 < x < 0.0:
        return -math.exp(-1.0 / (1.0 - (4.0 * x + 1.0) ** 2))
    return 0.0


@pytest.mark.parametrize("signs", list(itertools.product([1.0, -1.0], repeat=2)))
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_density(scale: float, signs: tuple[float, float]) -> None:
    points = np.linspace(-0.1, 1.1, 1001)
    density = perturbed_uniform_density(points, scale, signs)
    expected = [
        1.0 + math.e * scale * sum(s * bump(2.0 * x - j) for j, s in enumerate(signs, start=1))
        if 0.0 <= x <= 1.0
        else 0.0
        for x in points
    ]
    np.testing.assert_allclose(density, expected, rtol=1e-12, atol=1e-15)
    assert density.min() >= 0.0
    total = integrate.quad(
        lambda x: float(perturbed_uniform_density(x, scale, signs)),
        0.0,
        1.0,
        points=[0.25, 0.5, 0.75],
    )[0]
    assert total == pytest.approx(1.0, abs=1e-9)


def test_the_largest_scale_touches_zero() -> None:
    """… so that c = e·scale makes scale = 1 the strongest perturbation."""
    peaks = perturbed_uniform_density([0.125, 0.375, 0.625, 0.875], 1.0, [1.0, -1.0])
    np.testing.assert_allclose(peaks, [2.0, 0.0, 0.0, 2.0], atol=1e-12)


@pytest.mark.parametrize(("scale", "signs"), [(0.0, [1, 1]), (0.6, [1, -1]), (1.0, [-1, 1, 1])])
def test_sampler_follows_the_density(scale: float, signs: list[float]) -> None:
    sample = perturbed_uniform(20_000, scale, signs=signs, rng=1)
    assert sample.shape == (20_000, 1)

    def pvalue(theta: list[float]) -> float:
        grid = np.linspace(0.0, 1.0, 4001)
        density = perturbed_uniform_density(grid, scale, theta)
        cdf = integrate.cumulative_simpson(density, x=grid, initial=0.0)
        return float(stats.kstest(sample[:, 0], lambda x: np.interp(x, grid, cdf)).pvalue)

    assert pvalue(signs) > 1e-3
    if scale > 0.0:  # and the comparison can fail
        assert pvalue([-sign for sign in signs]) < 1e-6


def test_signs_are_drawn_anew() -> None:
    means = {
        tuple(np.sign(np.histogram(perturbed_uniform(4000, 1.0, rng=seed), 4)[0][[0, 2]] - 1000))
        for seed in range(20)
    }
    assert len(means) == 4


def test_rows() -> None:
    """Power rises with the scale; a row is the same alone as among others."""
    settings = dict(repetitions=12, n=200, n_resamples=99, rng=3)
    rows = list(benchmark_power(("energy", "mmd"), scales=(0.0, 1.0), **settings))  # type: ignore[arg-type]
    assert [(row.method, row.scale) for row in rows] == [
        (method, scale) for method in ("energy", "mmd") for scale in (0.0, 1.0)
    ]
    for row in rows:
        assert row.error == pytest.approx(math.sqrt(row.power * (1 - row.power) / 12))
        assert row.published is None  # n is not that of the papers
    assert rows[2].power <= stats.binom.ppf(1 - 1e-4, 12, 0.05) / 12
    assert rows[3].power > 0.6
    assert list(benchmark_power(("mmd",), scales=(1.0,), **settings)) == [rows[3]]  # type: ignore[arg-type]


def test_methods_see_the_same_data(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[np.ndarray]] = {"energy": [], "mmd": []}

    def recorded(x: np.ndarray, y: np.ndarray, *, method: str, **_: object) -> SimpleNamespace:
        seen[method] += [x, y]
        return SimpleNamespace(pvalue=1.0)

    monkeypatch.setattr("divergences.power.two_sample_test", recorded)
    list(benchmark_power(("energy", "mmd"), scales=(0.5,), repetitions=3, rng=0))
    np.testing.assert_array_equal(seen["energy"], seen["mmd"])
    assert len({sample.tobytes() for sample in seen["mmd"]}) == 6  # and never twice


def test_published_values_belong_to_their_setting() -> None:
    row = next(benchmark_power(("mmd",), scales=(0.3,), repetitions=1, n_resamples=9, rng=0))
    assert row.published == 0.29
    assert {len(values) for values in PUBLISHED.values()} == {len(SCALES)}
    other = dict(scales=(0.3,), repetitions=1, n_resamples=9, rng=0)
    assert next(benchmark_power(("mmd",), bandwidth=0.1, **other)).published is None  # type: ignore[arg-type]
    assert next(benchmark_power(("energy",), **other)).published is None  # type: ignore[arg-type]


def test_mistakes_are_found_before_the_first_row() -> None:
    with pytest.raises(ValueError, match="unknown method 'energie'"):
        benchmark_power(("energie",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"scale must be in \[0, 1\]"):
        benchmark_power(scales=(1.5,))
    with pytest.raises(ValueError, match="n is too small; got 1"):
        benchmark_power(n=1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fuse-original", "mmd"])
@pytest.mark.parametrize("scale", [0.3, 0.4])
def test_published_power(method: str, scale: float) -> None:
    """Within three standard errors of a difference of two binomials."""
    repetitions = 200
    row = next(
        benchmark_power((method,), scales=(scale,), repetitions=repetitions, rng=0)  # type: ignore[arg-type]
    )
    assert row.published is not None
    mean = 0.5 * (row.power + row.published)
    assert abs(row.power - row.published) < 3 * math.sqrt(2 * mean * (1 - mean) / repetitions)


def test_power_of_pilots_that_are_equal_is_the_level() -> None:
    """Resampled from one sample, x and y have one distribution."""
    x = np.random.default_rng(0).normal(size=40)
    (row,) = power_of(x, x, n=30, repetitions=150, n_resamples=39, method="energy", rng=1)
    assert row.power <= stats.binom.ppf(1 - 1e-4, 150, 0.05) / 150
    assert (row.n, row.m, row.repetitions) == (30, 30, 150)


def test_power_of_a_shift() -> None:
    """Near that of the t test, which is known; pilots are moved to differ by the shift exactly."""
    r = np.random.default_rng(1)
    x, y = r.normal(size=600), r.normal(0.5, 1.0, 300)
    y += 0.5 + x.mean() - y.mean()
    options: dict[str, Any] = {"repetitions": 100, "n_resamples": 99, "method": "energy", "rng": 0}
    few, many = power_of(x, y, n=[30, 120], **options)
    assert (few.m, many.m) == (15, 60)
    for row, m in ((few, 15), (many, 60)):
        centre = 0.5 / math.sqrt(1 / row.n + 1 / m)
        freedom = row.n + m - 2
        exact = 1.0 - stats.nct.cdf(stats.t.ppf(0.975, freedom), freedom, centre)
        assert abs(row.power - exact) < 4.0 * math.sqrt(0.25 / 100)
        assert row.by_chance < 0.2
    assert power_of(x, y, n=[30, 120], **options) == [few, many]


def test_power_of_pairs() -> None:
    r = np.random.default_rng(2)
    subject = 10.0 * r.normal(size=60)
    x, y = subject + r.normal(size=60), subject + r.normal(1.0, 1.0, 60)
    options: dict[str, Any] = {"n": 25, "repetitions": 20, "n_resamples": 99, "rng": 0}
    (paired,) = power_of(x, y, paired=True, method="energy", **options)
    (plain,) = power_of(x, y, method="energy", **options)
    assert paired.power > 0.6 > 0.3 > plain.power and paired.m == 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 1}, "n must be integers ≥ 2; got 1"),
        ({"n": []}, r"n must be integers ≥ 2; got \[\]"),
        ({"n": [10, 2.5]}, "n must be integers ≥ 2; got 2.5"),
        ({"n": 10, "level": 5}, r"level must lie in \(0, 1\); got 5"),
        ({"n": 10, "repetitions": 0}, "repetitions is too small; got 0"),
        ({"n": 10, "strata": [0, 1]}, "takes no strata: resampled rows do not keep them"),
        ({"n": 10, "paired": True}, "paired=True needs as many rows in y as in x; got 6 and 5"),
    ],
)
def test_power_of_refuses(options: dict[str, Any], message: str) -> None:
    r = np.random.default_rng(0)
    with pytest.raises(ValueError, match=message):
        power_of(r.normal(size=6), r.normal(size=5), **options)


def test_power_of_files(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    r = np.random.default_rng(3)
    files = [str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    for file, shift in zip(files, (0.0, 3.0), strict=True):
        np.save(file, r.normal(shift, 1.0, 30))
    options = ["--rows", "10", "20", "--repetitions", "3", "--seed", "0", "--n-resamples", "19"]
    options += ["--method", "energy"]
    assert main(["power", *files, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["10", "10", "1.000"],
        ["20", "20", "1.000"],
    ]
