"""Pairs, strata and whole groups: what may be relabelled, and statistics that respect it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import lfilter
from scipy.spatial.distance import cdist

from divergences.designs import design_of
from divergences.independence import independence_test
from divergences.k_sample import k_sample_test
from divergences.kernels import Gaussian, Linear
from divergences.resampling import Permutations, Relabellings
from divergences.two_sample import two_sample_test

Array = NDArray[np.float64]
STRATA = np.array([0, 0, 1, 2, 2, 0, 1, 1, 2, 3])  # of 5 rows of x and 5 of y; the last is alone


def dense_kernel(z: Array, method: str) -> Array:
    k = -cdist(z, z) if method == "energy" else np.exp(-0.5 * cdist(z, z) ** 2) + z @ z.T
    np.fill_diagonal(k, 0.0)
    return k


def stratified(z: Array, method: str) -> list[float]:
    """T of every labelling of x within STRATA, by its definition."""
    k, values = dense_kernel(z, method), []
    n, size = np.bincount(STRATA[:5], minlength=4), np.bincount(STRATA)
    w = n * (size - n) / size
    for rows in itertools.combinations(range(10), 5):
        v = np.zeros(10)
        v[list(rows)] = 1.0
        if (np.bincount(STRATA, v) == n).all():
            a = v - (n / size)[STRATA]
            values.append((tuple(rows), float(a @ k @ a)))
    norm = w.sum() ** 2 - (w[:3] ** 2 / (size[:3] - 1)).sum()
    mean = np.mean([value for _, value in values])
    return [(value - mean) / norm for _, value in sorted(values)]  # (0, …, 4) comes first


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("method", ["energy", "mmd"])
def test_statistic_within_strata(method: Any, columns: int) -> None:
    r = np.random.default_rng(0)
    z = r.normal(size=(10, columns)) + 3.0 * STRATA[:, None]
    kernel = Gaussian(1.0) + Linear() if method == "mmd" else None
    result = two_sample_test(z[:5], z[5:], method=method, kernel=kernel, strata=STRATA, rng=0)
    expected = stratified(z, method)
    assert result.enumerated and result.design == "4 strata"
    assert result.statistic == pytest.approx(expected[0], abs=1e-12)
    np.testing.assert_allclose(np.sort(result.null_distribution), np.sort(expected), atol=1e-12)
    assert result.pvalue == np.mean(np.array(expected) >= expected[0] - 1e-12)
    k = dense_kernel(z, method)
    own = np.zeros(10) if method == "energy" else 1.0 + (z**2).sum(1)
    weights, distances = [], []
    for s in (0, 1, 2):
        x, y = (np.flatnonzero(s == STRATA), np.arange(10) < 5)
        x, y = x[y[x]], x[~y[x]]
        weights.append(len(x) * len(y) / (len(x) + len(y)))
        distances.append(own[x].mean() + own[y].mean() - 2.0 * k[np.ix_(x, y)].mean())
    effect = max(0.0, expected[0] / np.average(distances, weights=weights))
    assert result.effect_size == pytest.approx(min(1.0, effect), abs=1e-12)


def test_one_balanced_stratum_is_none() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 30, 2))
    options: dict[str, Any] = {"method": "mmd", "bandwidth": 1.0, "n_resamples": 99, "rng": 0}
    plain, one = (two_sample_test(x, y, strata=s, **options) for s in (None, np.zeros(60)))
    assert one.statistic == pytest.approx(plain.statistic, rel=1e-9)
    assert one.effect_size == pytest.approx(plain.effect_size, rel=1e-9)


def test_strata_without_both_samples_tell_nothing() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 8, 2))
    result = two_sample_test(x, y, strata=np.repeat([0, 1], 8), method="energy", rng=0)
    assert (result.pvalue, result.statistic, result.effect_size) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("size", [40, 1300])
def test_large_strata_of_numbers_are_sorted(size: int) -> None:
    r = np.random.default_rng(2)
    x, y, strata = r.normal(size=size), r.normal(size=size), r.integers(0, 2, 2 * size)
    options: dict[str, Any] = {"strata": strata, "method": "energy", "n_resamples": 3, "rng": 0}
    fast = two_sample_test(x, y, **options)
    slow = two_sample_test(x, y, backend="reference", **options)
    np.testing.assert_allclose(fast.null_distribution, slow.null_distribution, atol=1e-12)
    assert fast.effect_size == pytest.approx(slow.effect_size, abs=1e-12)


def subjects(n: int, shift: float, seed: int, spread: float = 1.0) -> tuple[Array, Array]:
    """n pairs of rows that share what is ten times as large as the rest."""
    r = np.random.default_rng(seed)
    own = 10.0 * r.normal(size=(n, 1))
    return own + r.normal(size=(n, 1)), own + shift + spread * r.normal(size=(n, 1))


def test_paired_statistic_and_effect() -> None:
    """The energy distance of d = x − y from −d without the pairs (dᵢ, −dᵢ), under sign flips."""
    x, y = subjects(8, 1.0, 3)
    result = two_sample_test(x, y, paired=True, method="energy", rng=0)
    d, pairs = x - y, ~np.eye(8, dtype=bool)
    signs = np.array(list(itertools.product([1, -1], repeat=8)))
    gaps = 2.0 * (cdist(d, -d) - cdist(d, d))[pairs].reshape(8, 7).sum()
    assert result.enumerated and result.n_resamples == 256 and result.design == "paired"
    assert result.statistic == pytest.approx(gaps / 56, rel=1e-12)
    h = 2.0 * (cdist(d, -d) - cdist(d, d)) * pairs
    expected = np.einsum("bi,ij,bj->b", signs, h, signs) / 56
    np.testing.assert_allclose(np.sort(result.null_distribution), np.sort(expected), atol=1e-12)
    assert result.effect_size == pytest.approx(gaps / 56 / (4.0 * np.abs(d).mean()), rel=1e-12)
    fused = two_sample_test(x, y, paired=True, rng=0)
    assert fused.effect_size == pytest.approx(result.effect_size, rel=1e-12)
    assert fused.kernels[-1].kernel == "Energy(1) of x − y"
    assert fused.kernels[-1].pvalue == result.pvalue
    fused.plot()


def test_pairs_gain_power() -> None:
    """Subjects vary ten times as much as their rows: unpaired nothing is seen, paired it is; the
    default sees differences of spread as well, where subjects do not vary."""
    found = {"unpaired": 0, "energy": 0, "fuse": 0, "spread": 0}
    for seed in range(8):
        x, y = subjects(25, 1.5, seed)
        options: dict[str, Any] = {"n_resamples": 99, "rng": seed}
        found["unpaired"] += two_sample_test(x, y, method="energy", **options).pvalue <= 0.05
        options["paired"] = True
        found["energy"] += two_sample_test(x, y, method="energy", **options).pvalue <= 0.05
        found["fuse"] += two_sample_test(x, y, **options).pvalue <= 0.05
        r = np.random.default_rng(seed)
        x, y = r.normal(size=(60, 1)), 3.0 * r.normal(size=(60, 1))
        found["spread"] += two_sample_test(x, y, **options).pvalue <= 0.05
    assert found["unpaired"] <= 2
    assert found["energy"] == 8 and found["fuse"] == 8 and found["spread"] >= 6


def test_unbalanced_sites_have_no_effect() -> None:
    """The treatment does nothing; sites differ, and so do the shares of the treated."""
    effects = []
    for seed in range(30):
        r = np.random.default_rng(seed)
        site = r.integers(0, 3, 100)
        values = r.normal(2.0 * site, 1.0)
        treated = r.random(100) < np.array([0.3, 0.5, 0.7])[site]
        strata = np.concatenate([site[treated], site[~treated]])
        result = two_sample_test(
            values[treated], values[~treated], strata=strata, method="energy", n_resamples=1, rng=0
        )
        effects.append(result.effect_size)
    assert float(np.mean(effects)) < 0.01  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["energy", "mmd"])
def test_whole_groups(method: Any) -> None:
    """Statistics are means over pairs of rows in different groups, whatever the labelling makes of
    n and m."""
    groups = np.array([0, 0, 0, 1, 2, 2, 3, 3, 4, 4, 4, 4])
    z = np.random.default_rng(4).normal(size=(12, 2)) + groups[:, None]
    kernel = Gaussian(1.0) + Linear() if method == "mmd" else None
    result = two_sample_test(z[:4], z[4:], method=method, kernel=kernel, groups=groups, rng=0)
    k, apart = dense_kernel(z, method), groups[:, None] != groups
    expected = []
    for chosen in itertools.combinations(range(5), 2):
        v = np.isin(groups, chosen)
        means = [k[a][:, b][apart[a][:, b]].mean() for a, b in ((v, v), (~v, ~v), (v, ~v))]
        expected.append(means[0] + means[1] - 2.0 * means[2])
    assert result.enumerated and result.design == "5 groups that move as a whole"
    assert result.statistic == pytest.approx(expected[0], abs=1e-12)
    np.testing.assert_allclose(np.sort(result.null_distribution), np.sort(expected), atol=1e-12)


@pytest.mark.parametrize("method", ["energy", "mmd"])
def test_k_samples_within_strata(method: Any) -> None:
    """S, T and F of rows that are centred within strata, with the features of a linear kernel or
    the doubly centred distances in place of φ."""
    r = np.random.default_rng(7)
    strata = np.array([0, 0, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 1])
    group = np.repeat([0, 1, 2], [4, 5, 4])
    z = r.normal(size=(13, 2)) + 4.0 * strata[:, None]
    rho = cdist(z, z) if method == "energy" else 0.5 * cdist(z, z) ** 2
    kernel = Linear() if method == "mmd" else None
    result = k_sample_test(*np.split(z, [4, 9]), method=method, kernel=kernel, strata=strata,
                           n_resamples=9, rng=0)  # fmt: skip
    centring = np.eye(13) - (strata[:, None] == strata) / np.bincount(strata)[strata]
    k = -centring @ rho @ centring  # ½⟨φ, φ′⟩ within strata is half of it
    one_of = np.eye(3)[group]
    between = 0.5 * np.trace(one_of.T @ k @ one_of / np.bincount(group))
    total = 0.5 * np.trace(k)
    assert result.effect_size == pytest.approx(between / total, rel=1e-9)
    expected = (between / 2) / ((total - between) / (13 - 3 - 1))
    assert result.statistic == pytest.approx(expected, rel=1e-9)
    assert result.design == "2 strata" and len(result.pairs) == 3
    pair = two_sample_test(z[:4], z[4:9], method=method, kernel=kernel, strata=strata[:9],
                           n_resamples=9, rng=0)  # fmt: skip
    assert result.pairs[0].statistic == pytest.approx(pair.statistic, rel=1e-9)


def test_k_samples_in_strata_of_one_row_each() -> None:
    z = np.random.default_rng(3).normal(size=(6, 1))
    strata = [0, 1, 2, 0, 1, 2]
    with pytest.raises(ValueError, match="6 rows in 3 samples and 4 strata leave no rows"):
        k_sample_test(z[:2], z[2:4], z[4:], strata=[*strata[:5], 3])
    k_sample_test(z[:3], z[3:], strata=strata, n_resamples=9, pairwise=False)  # 6 − 2 − 2 = 2


def test_k_samples_of_whole_groups() -> None:
    """Every labelling of the groups, with the F of the rows that it makes."""
    groups = np.array([0, 0, 1, 2, 2, 2, 3, 3])
    z = np.random.default_rng(8).normal(size=(8, 1))
    result = k_sample_test(*np.split(z, [3, 6]), groups=groups, pairwise=False, rng=0)
    expected = []
    for labels in set(itertools.permutations([0, 0, 1, 2])):
        v = np.array(labels)[groups]
        w = sum(cdist(z[v == g], z[v == g]).sum() / (2 * (v == g).sum()) for g in range(3))
        total = cdist(z, z).sum() / 16
        expected.append((total - w) / 2 / (w / 5))
    assert result.enumerated and result.n_resamples == 12
    np.testing.assert_allclose(np.sort(result.null_distribution), np.sort(expected), rtol=1e-9)


@pytest.mark.parametrize("sizes", [(20,), (7, 9, 4), (2, 8, 1, 9)])
def test_dependence_within_strata(sizes: tuple[int, ...]) -> None:
    """Distances centred within strata (U-centred in the blocks of one stratum), dense; one stratum
    is no stratum; the mean over permutations within strata is 0."""
    r = np.random.default_rng(9)
    strata = r.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x, y = (r.normal(size=(20, 1)) + 5.0 * strata[:, None] for _ in range(2))
    found = independence_test(x, y, method="dcov", strata=strata, n_resamples=4000, rng=0)
    k = -cdist(x, x)
    centred = k.copy()
    for s, n in enumerate(sizes):
        for t, m in enumerate(sizes):
            block = np.ix_(strata == s, strata == t)
            if s != t:
                centring = (np.eye(z) - 1.0 / z for z in (n, m))
                centred[block] = next(centring) @ k[block] @ next(centring)
            elif n < 3:
                centred[block] = 0.0
            else:
                rows, total = k[block].sum(1), k[block].sum()
                centred[block] -= (rows + rows[:, None]) / (n - 2) - total / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0.0)
    pairs = sum(n * (n - 3) for n in sizes if n > 2) + sum(
        (n - 1) * (m - 1) for i, n in enumerate(sizes) for j, m in enumerate(sizes) if i != j
    )
    assert found.statistic == pytest.approx((centred * -cdist(y, y)).sum() / pairs, rel=1e-9)
    null = found.null_distribution
    assert abs(null.mean()) < 4 * null.std() / np.sqrt(len(null))
    if len(sizes) == 1:
        plain = independence_test(x, y, method="dcov", n_resamples=9, rng=0)
        assert found.statistic == pytest.approx(plain.statistic, rel=1e-9)
        assert found.effect_size == pytest.approx(plain.effect_size, rel=1e-9)


def test_what_differs_between_strata_is_no_dependence() -> None:
    r = np.random.default_rng(10)
    strata = np.repeat(np.arange(8), 20)
    x, y = r.normal(size=(2, 160)) + 3.0 * strata
    for method, coefficient in (("hsic", "cka"), ("hsic-aggregated", "distance_correlation")):
        options: dict[str, Any] = {"method": method, "strata": strata, "n_resamples": 99, "rng": 0}
        found = independence_test(x, y, **options)
        assert abs(found.coefficients[coefficient]) < 0.05 and found.pvalue > 0.01
        assert independence_test(x, y + x, **options).pvalue == 0.01
        assert independence_test(x, y, method=method, n_resamples=9, rng=0).effect_size > 0.2  # type: ignore[arg-type, operator]


def level_of(pvalues: list[float]) -> None:
    for alpha in (0.05, 0.1, 0.25):
        bound = stats.binom.ppf(1 - 1e-4, len(pvalues), alpha)
        assert (np.array(pvalues) <= alpha).sum() <= bound


@pytest.mark.parametrize("method", ["fuse", "energy", "mmd-fourier"])
@pytest.mark.parametrize("design", ["paired", "strata", "groups"])
def test_level(design: str, method: Any) -> None:
    """Under the null hypothesis of each design P(p ≤ α) ≤ α, whatever pairs, strata or the rows of
    a group have in common."""
    r, pvalues = np.random.default_rng(5), []
    labels = {"strata": np.array([0, 0, 1, 1, 1, 0, 0, 0, 1]), "groups": np.arange(9) // 2}
    n = {"paired": 5, "strata": 5, "groups": 4}[design]
    for _ in range(40 if method == "fuse" else 80):
        if design == "paired":
            x, y = subjects(n, 0.0, int(r.integers(2**31)))
            options: dict[str, Any] = {"paired": True}
        else:
            z = 3.0 * r.normal(size=(5, 1))[labels[design]] + r.normal(size=(9, 1))
            x, y = z[:n], z[n:]
            options = {design: labels[design]}
        options |= {"method": method, "n_resamples": 39, "rng": r}
        pvalues.append(two_sample_test(x, y, **options).pvalue)
    level_of(pvalues)


def series(phi: float, n: int, r: np.random.Generator) -> Array:
    return np.asarray(lfilter([1.0], [1.0, -phi], r.normal(size=n + 200))[200:])


def test_series_keep_their_level_in_blocks() -> None:
    """AR(1) with φ = .8: approximate, so that .1 bounds what .05 should be; without blocks it is
    near .6. A note says so, for rows in order only."""
    r, options = np.random.default_rng(11), {"method": "energy", "n_resamples": 99, "rng": 0}
    found: dict[Any, int] = {None: 0, 40: 0, "shift": 0, "independence": 0, "shifted": 0}
    for _ in range(60):
        x, y = series(0.8, 300, r), series(0.8, 300, r)
        for blocks in (None, 40, "shift"):
            found[blocks] += two_sample_test(x, y, blocks=blocks, **options).pvalue <= 0.05  # type: ignore[arg-type]
        short: dict[str, Any] = {"method": "dcov", "n_resamples": 39, "rng": 0}
        short_x, short_y = x[:100], y[:100]
        found["independence"] += independence_test(short_x, short_y, **short).pvalue <= 0.05
        shifted = independence_test(short_x, short_y, blocks="shift", **short)
        found["shifted"] += shifted.pvalue <= 0.05
    most = stats.binom.ppf(1 - 1e-4, 60, 0.1)
    assert found[None] > most and found["independence"] > most
    assert max(found[40], found["shift"], found["shifted"]) <= most


def test_power_in_blocks() -> None:
    r = np.random.default_rng(12)
    x, y = series(0.5, 400, r), series(0.5, 400, r)
    options: dict[str, Any] = {"n_resamples": 99, "rng": 0}
    found = two_sample_test(x, y + 1.0, method="energy", blocks=20, **options)
    assert (found.pvalue, found.design) == (0.01, "blocks of 20 rows")
    assert found.notes == (
        "approximate: the series is taken for stationary, and independent beyond about 20 rows",
    )
    told = independence_test(x, x + y, method="dcov", blocks="shift", **options)
    assert (told.pvalue, told.design) == (0.01, "circular shifts")
    assert k_sample_test(x, y + 1.0, x, blocks=20, **options).pvalue == 0.01


def test_serial_dependence_is_noted() -> None:
    r = np.random.default_rng(13)
    x, y = series(0.8, 100, r), series(0.8, 100, r)
    options: dict[str, Any] = {"n_resamples": 9, "rng": 0}
    (first, second) = two_sample_test(x, y, method="energy", **options).notes
    assert first.startswith("consecutive rows of x are nearer than others (lag-1 distance")
    assert "rows of y" in second
    assert (
        two_sample_test(x, y, method="energy", blocks=20, **options).notes[0][:11] == "approximate"
    )
    for sample in (x, y):
        r.shuffle(sample)
    assert two_sample_test(x, y, method="energy", **options).notes == ()
    x = series(0.8, 100, r)  # permuting y is exact, whatever x is
    assert independence_test(x, y, method="dcov", **options).notes == ()
    assert len(independence_test(x, x, method="dcov", **options).notes) == 2


def test_blocks_of_rows() -> None:
    """The last block of a sample takes what does not fill one."""
    units = design_of((7, 4), blocks=2).restriction.units
    assert units is not None
    assert units.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]


def test_units_and_shifts() -> None:
    """Rows of a unit have one label; permutations move them in their order, among units of one
    size; shifts are all there are."""
    units = np.array([0, 0, 1, 1, 1, 2, 2, 3, 3, 3])
    plan = Relabellings((5, 5), 99, np.random.default_rng(0), units=units)
    (labels,) = plan.batches(99)
    assert plan.exact and labels.shape == (10, 6) == (10, plan.columns)
    assert (labels[:, 0] == plan.observed).all() and len({tuple(c) for c in labels.T}) == 6
    assert all(len(set(labels[units == u, b])) == 1 for u in range(4) for b in range(6))
    drawn = Relabellings((5, 5), 4, np.random.default_rng(0), units=units)
    (labels,) = drawn.batches(99)
    assert not drawn.exact and labels.shape == (10, 5) and set(labels.sum(0)) <= {4, 5, 6}
    permutations = Permutations(10, 99, np.random.default_rng(0), units=units)
    (rows,) = permutations.batches(99)
    assert permutations.exact and {tuple(p) for p in rows} == {
        (*a, *b, *c, *d)
        for a, c in (((0, 1), (5, 6)), ((5, 6), (0, 1)))
        for b, d in (((2, 3, 4), (7, 8, 9)), ((7, 8, 9), (2, 3, 4)))
    }
    shifted = Relabellings((2, 3), 99, np.random.default_rng(0), shifts=True)
    (labels,) = shifted.batches(99)
    assert shifted.exact and sorted(map(tuple, labels.T)) == sorted(
        tuple(np.roll([0, 0, 1, 1, 1], k)) for k in range(5)
    )
    turned = Permutations(6, 3, np.random.default_rng(0), shifts=True)
    (rows,) = turned.batches(99)
    assert not turned.exact and rows.shape == (4, 6) and (rows[0] == np.arange(6)).all()
    assert ((rows - rows[:, :1]) % 6 == np.arange(6)).all() and len(set(rows[:, 0])) == 4


def test_bad_input() -> None:
    x, y = np.random.default_rng(6).normal(size=(2, 6, 1))
    cases: list[tuple[str, dict[str, Any]]] = [
        ("as many rows in y as in x.* got 6 and 5", dict(y=y[:5], paired=True)),
        ("paired and strata do not go together", dict(paired=True, strata=np.arange(12))),
        ("strata and groups do not go", dict(groups=np.arange(12), strata=np.arange(12))),
        (r"groups must hold a label for each of the 12 rows, shape \[12\]; got \[6\]",
         dict(groups=np.arange(6))),
        ("group 3 has rows in several samples", dict(groups=[0, 0, 0, 1, 1, 3, 3, 3, 4, 4, 4, 4])),
        ("1 of 12 rows have no stratum", dict(strata=[None, *range(11)])),
        ("6 of 12 rows have no stratum", dict(strata=["a", float("nan")] * 6)),  # no label "nan"
        ("strata must be a flat list of labels", dict(strata=[[1], [1, 2]])),
        ("group 'b' has rows in several", dict(groups=np.array(["b", "a"] * 6, dtype=object))),
        ("'mmd-block' does not go with a design; got one of paired",
         dict(method="mmd-block", paired=True)),
        ("'fuse-original' does not go with a design", dict(method="fuse-original", paired=True)),
        ("'classifier' does not take groups", dict(method="classifier", groups=np.arange(12))),
    ]  # fmt: skip
    cases += [
        ("blocks must be a number of rows ≥ 1 or 'shift'; got 'week'", dict(blocks="week")),
        ("blocks must be a number of rows ≥ 1 or 'shift'; got 0", dict(blocks=0)),
        (r"blocks of 4 rows need samples of at least 8; got \(6, 6\)", dict(blocks=4)),
        ("paired and blocks do not go together", dict(blocks=2, paired=True)),
    ]
    for message, options in cases:
        with pytest.raises(ValueError, match=message):
            two_sample_test(**({"x": x, "y": y} | options))
    with pytest.raises(TypeError, match="paired must be True or False; got 'yes'"):
        two_sample_test(x, y, paired="yes")  # type: ignore[arg-type]


def test_labels_of_any_kind() -> None:
    x, y = np.random.default_rng(6).normal(size=(2, 6, 1))
    options: dict[str, Any] = dict(method="energy", rng=0)
    expected = two_sample_test(x, y, strata=[0, 1] * 6, **options)
    labels: list[Any] = [
        np.array(["a", 1] * 6, dtype=object),
        ["a", "b"] * 6,
        torch.tensor([0.0, 1.0] * 6, dtype=torch.bfloat16),
    ]
    for strata in labels:
        assert two_sample_test(x, y, strata=strata, **options).pvalue == expected.pvalue
    count: Any = np.int64(2)
    found = two_sample_test(x, y, blocks=count, **options)
    assert found.pvalue == two_sample_test(x, y, blocks=2, **options).pvalue
    with pytest.raises(TypeError, match="paired must be True or False"):
        two_sample_test(x, y, paired=np.ones(2))  # type: ignore[arg-type]


def test_a_sample_of_one_group_has_no_effect_size() -> None:
    """No pair of rows within it is left to compare with those of the other sample."""
    x, y = np.random.default_rng(6).normal(size=(2, 6, 1))
    for method in ("energy", "fuse"):
        options: dict[str, Any] = dict(method=method, n_resamples=9, rng=0)
        one = two_sample_test(x, y, groups=[0] * 6 + [1, 1, 2, 2, 3, 3], **options)
        assert one.effect_size is None and one.notes[-1].startswith("a sample is one group")
        assert one.pvalue >= 0.25  # of four groups
        two = two_sample_test(x, y, groups=[0] * 3 + [4] * 3 + [1, 1, 2, 2, 3, 3], **options)
        assert two.effect_size is not None and not two.notes
