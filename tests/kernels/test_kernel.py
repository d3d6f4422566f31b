"""Kernel objects: what they say, how they combine, and how bandwidth rules are applied."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from tolerances import GRADIENT, RELATIVE, assert_close
from torch import Tensor

from divergences.kernels import (
    Energy,
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplace,
    Linear,
    Matern,
    Polynomial,
    RationalQuadratic,
    pair_sums,
    potential,
)
from divergences.kernels import kernel as kernel_module
from divergences.kernels.bandwidth import MEDIAN_ROWS, median_distance
from divergences.kernels.functions import REGISTRY, Metric
from divergences.kernels.subsample import hashed_rows, pooled_rows
from divergences.mmd import MMDLoss, mmd2


def normal(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def squared(x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1)


FORMULAS = [
    (Gaussian(1.3), lambda x, y: (-squared(x, y) / (2 * 1.3**2)).exp()),
    (Gaussian("dimension"), lambda x, y: (-squared(x, y) / x.shape[-1]).exp()),
    (Laplace(1.3), lambda x, y: (-squared(x, y).sqrt() / 1.3).exp()),
    (
        Laplace(1.3, norm="l1"),
        lambda x, y: (-(x.unsqueeze(-2) - y.unsqueeze(-3)).abs().sum(-1) / 1.3).exp(),
    ),
    (Energy(), lambda x, y: -squared(x, y).sqrt()),
    (Energy(1.5), lambda x, y: -(squared(x, y) ** 0.75)),
    (InverseMultiquadric(1.3), lambda x, y: (1 + squared(x, y) / 1.3**2) ** -0.5),
    (InverseMultiquadric(2.0, exponent=1.0), lambda x, y: 4 / (4 + squared(x, y))),
    (RationalQuadratic(1.3, alpha=2.0), lambda x, y: (1 + squared(x, y) / (4 * 1.3**2)) ** -2),
    (Matern(1.3, nu=0.5), lambda x, y: (-squared(x, y).sqrt() / 1.3).exp()),
    (
        Matern(1.3, nu=1.5),
        lambda x, y: (
            (1 + math.sqrt(3) * squared(x, y).sqrt() / 1.3)
            * (-math.sqrt(3) * squared(x, y).sqrt() / 1.3).exp()
        ),
    ),
    (
        Matern(1.3, nu=2.5),
        lambda x, y: (
            (1 + math.sqrt(5) * squared(x, y).sqrt() / 1.3 + 5 * squared(x, y) / (3 * 1.3**2))
            * (-math.sqrt(5) * squared(x, y).sqrt() / 1.3).exp()
        ),
    ),
    (Polynomial(), lambda x, y: (x @ y.mT / x.shape[-1] + 1) ** 3),
    (Polynomial(2, gamma=0.5, offset=0.0), lambda x, y: (0.5 * x @ y.mT) ** 2),
    (Linear(), lambda x, y: x @ y.mT),
]


@pytest.mark.parametrize(("kernel", "formula"), FORMULAS, ids=[repr(k) for k, _ in FORMULAS])
def test_textbook_formulas(kernel: Kernel, formula: object) -> None:
    x, y, w = normal(0, 9, 4), normal(1, 7, 4), normal(2, 7)
    truth = formula(x, y) @ w  # type: ignore[operator]
    assert_close(potential(x, y, kernel=kernel, weights=w), truth, 1e-11)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_sums_of_kernels_are_one_value_per_term(backend: str) -> None:
    """Also through the Triton backend (interpreted where there is no GPU)."""
    x, y = normal(0, 20, 3).float(), normal(1, 25, 3).float()
    kernel = Gaussian([0.5, 2.0]) + Laplace(1.0, norm="l1") + 2.0 * Linear()
    if backend == "triton" and torch.cuda.is_available():
        x, y = x.cuda(), y.cuda()
    sums = pair_sums(x, y, kernel=kernel, backend=backend)
    assert sums.xx.shape == (4,)
    for c, (name, rate, shape) in enumerate(
        [
            ("gaussian", 2.0, 0.0),
            ("gaussian", 0.125, 0.0),
            ("laplace_l1", 1.0, 0.0),
            ("polynomial", 1.0, 1.0),
        ]
    ):
        truth = oracle.sums(name, x.cpu(), y.cpu(), rate, shape)
        for part, expected in zip(sums, truth, strict=True):
            assert abs(float(part[c]) - float(expected)) <= 1e-5 * float(truth.abs().max())


def test_algebra_and_repr() -> None:
    kernel = 0.5 * (Gaussian(1.0) + Laplace("median")) + Energy()
    assert repr(kernel) == "0.5 * (Gaussian(1.0) + Laplace('median')) + Energy(1.0)"
    assert [t.coefficient for t in kernel.terms] == [0.5, 0.5, 1.0]
    assert len(sum([Gaussian(1.0), Gaussian(2.0)]).terms) == 2  # type: ignore[union-attr]
    assert [t.coefficient for t in Gaussian([1.0, 2.0]).terms] == [0.5, 0.5]
    with pytest.raises(ValueError, match=r"positive number only; got -1.0"):
        -1.0 * Gaussian(1.0)
    with pytest.raises(TypeError):
        Gaussian(1.0) + 1.0
    with pytest.raises(TypeError):
        Gaussian(1.0) * "2"  # type: ignore[operator]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Gaussian(-1.0), ValueError, "positive and finite; got -1.0"),
        (lambda: Gaussian(math.nan), ValueError, "positive and finite; got nan"),
        (lambda: Gaussian("scott"), ValueError, "unknown bandwidth rule 'scott'"),
        (lambda: Gaussian(None), TypeError, "must be a number; got None"),  # type: ignore[arg-type]
        (lambda: Laplace(1.0, norm="l3"), ValueError, "'l1' or 'l2'; got 'l3'"),
        (lambda: Energy(2.0), ValueError, r"lie in \(0, 2\); got 2.0"),
        (lambda: Matern(1.0, nu=2.0), ValueError, "0.5, 1.5 or 2.5; got 2.0"),
        (lambda: InverseMultiquadric(1.0, exponent=0.0), ValueError, "exponent must be positive"),
        (lambda: RationalQuadratic(1.0, alpha=-1.0), ValueError, "alpha must be positive"),
        (lambda: Polynomial(0), ValueError, "degree must be a positive integer; got 0"),
        (lambda: Polynomial(2, gamma=0.0), ValueError, "gamma must be positive"),
        (lambda: Polynomial(2, offset=-1.0), ValueError, "offset must be finite and not negative"),
    ],
)
def test_bad_kernels(build: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize("name", REGISTRY)
def test_definiteness_is_what_the_registry_says(name: str) -> None:
    """Positive: no negative eigenvalue. Conditional: none on weights that sum to zero, but some."""
    function = REGISTRY[name]
    x = normal(0, 60, 3)
    for rate, shape, offset in function.probe:
        k = oracle.gram(name, x, x, rate, shape, offset)
        centre = torch.eye(60, dtype=torch.float64) - 1 / 60
        assert torch.linalg.eigvalsh(centre @ k @ centre.T).min() > -1e-10
        smallest = torch.linalg.eigvalsh(k).min()
        assert smallest > -1e-10 if function.definiteness == "positive" else smallest < -1e-3


# --- Bandwidth rules -----------------------------------------------------------------------------


def test_median_is_of_the_positive_pooled_distances() -> None:
    x, y = normal(0, 40, 3), normal(1, 61, 3) + 1.0
    distances = torch.pdist(torch.cat([x, y]))
    assert_close(median_distance(x, y, "sqeuclidean"), distances.median(), 1e-7)
    l1 = torch.pdist(torch.cat([x, y]), p=1.0)
    assert_close(median_distance(x, y, "l1"), l1.median(), 1e-7)


def test_median_of_ties_is_not_zero() -> None:
    """Binary data, mostly one value: the plain median distance is 0."""
    x = (normal(0, 200, 2) > 1.5).double()
    distances = torch.pdist(x)
    assert distances.median() == 0
    expected = distances[distances > 0].median()
    assert_close(median_distance(x[:90], x[90:], "sqeuclidean"), expected, 1e-7)
    constant = torch.ones(10, 2)
    assert median_distance(constant, constant, "sqeuclidean") == 1.0


@pytest.mark.parametrize("row", [0, 50])
@pytest.mark.parametrize("outlier", [1e3, 1e6])
def test_median_does_not_follow_an_outlier(row: int, outlier: float) -> None:
    x, y = normal(0, 100, 2).float(), normal(1, 100, 2).float() + 1.0
    x[row] = outlier
    expected = torch.pdist(torch.cat([x, y]).double()).median()
    assert_close(median_distance(x, y, "sqeuclidean"), expected, 1e-7)


@pytest.mark.parametrize("metric", ["sqeuclidean", "l1"])
@pytest.mark.parametrize("n", [1, 2, 40, 101])
def test_median_of_one_problem_is_that_of_a_batch(metric: Metric, n: int) -> None:
    """Two ways to one number: on the host for one problem on a CPU, in torch for several."""
    x, y = (normal(0, n, 2) * 3.0).round(), (normal(1, 30, 2) * 3.0).round()  # with ties
    one = median_distance(x, y, metric)
    batch = median_distance(x.expand(2, n, 2), y.expand(2, 30, 2), metric)
    assert torch.equal(one.expand(2), batch)


def test_median_does_not_move_with_the_data() -> None:
    x, y = normal(0, 50, 3), normal(1, 50, 3)
    shifted = median_distance(x + 1e8, y + 1e8, "sqeuclidean")
    assert_close(shifted, median_distance(x, y, "sqeuclidean"), 1e-6)


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("d", [2, 20])
@pytest.mark.parametrize("width", [1e-6, 1e-9, 1e-13])
def test_narrow_clusters_are_no_ties(width: float, d: int, batch: tuple[int, ...]) -> None:
    """Half of the pairs are within a cluster, whatever its width; rows that are equal are not."""
    x = torch.zeros(20, d, dtype=torch.float64)
    x[:8] = 1.0
    y = x.clone()
    y[:10] += width * normal(0, 10, d)
    pairs = torch.pdist(torch.cat([x, y]))
    expected = pairs[pairs > 0].median()
    found = median_distance(x.expand(*batch, 20, d), y.expand(*batch, 20, d), "sqeuclidean")
    assert_close(found, expected.expand(batch), 1e-12)


def test_median_of_a_large_sample_is_from_a_fixed_scattered_subsample() -> None:
    x, y = normal(0, 30_000, 4), normal(1, 10_000, 4)
    found = median_distance(x, y, "sqeuclidean")
    assert torch.equal(found, median_distance(x, y, "sqeuclidean"))
    truth = torch.pdist(torch.cat([x[:1500], y[:500]])).median()
    assert abs(float(found / truth) - 1) < 0.1


def test_subsample_is_uniform_and_spread() -> None:
    rows = hashed_rows(4096, 1000, torch.device("cpu"))
    counts = torch.bincount(rows, minlength=1000)
    assert rows.min() >= 0
    assert len(counts) == 1000
    assert counts.max() < 20  # of 4 expected
    steps = rows.diff().unique()
    assert len(steps) > 1000  # neither a head nor a stride
    x, y = torch.zeros(300, 1), torch.ones(700, 1)
    share = pooled_rows(x, y, 512).mean()
    assert abs(float(share) - 0.7) < 0.08


def test_median_carries_no_gradient_and_needs_no_host() -> None:
    x, y = normal(0, 30, 3).requires_grad_(), normal(1, 30, 3)
    assert not median_distance(x, y, "sqeuclidean").requires_grad
    meta = median_distance(x.to("meta"), y.to("meta"), "sqeuclidean")  # no number can be read there
    assert meta.shape == ()
    assert MEDIAN_ROWS >= 2


def test_resolve_fixes_a_rule() -> None:
    x, y = normal(0, 30, 3), normal(1, 40, 3)
    kernel = Gaussian("median")
    fixed = kernel.resolve(x, y)
    assert repr(fixed) == repr(kernel)
    assert fixed.terms[0].bandwidth == float(median_distance(x, y, "sqeuclidean"))
    batched = kernel.resolve(x.unsqueeze(0), y.unsqueeze(0)).terms[0].bandwidth
    assert isinstance(batched, Tensor) and batched.shape == (1,)
    once = pair_sums(10.0 * x, 10.0 * y, kernel=fixed)
    again = pair_sums(10.0 * x, 10.0 * y, kernel=kernel)
    assert_close(again.xy, pair_sums(x, y, kernel=kernel).xy, 1e-6)
    assert (once.xy < 0.5 * again.xy).all()
    assert Gaussian("dimension").resolve(x).terms[0].bandwidth == math.sqrt(1.5)


@pytest.mark.parametrize(
    ("bandwidth", "error", "message"),
    [
        (torch.tensor(math.inf), ValueError, "positive and finite"),
        (torch.ones(3), ValueError, r"0-d or of the batch shape \[\]; got shape \[3\]"),
        (1e-200, ValueError, "positive and finite; got 1e-200"),
    ],
)
def test_bad_bandwidths(bandwidth: Tensor | float, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pair_sums(torch.zeros(4, 2), torch.zeros(4, 2), kernel=Gaussian(bandwidth))
    with pytest.raises(TypeError, match="kernel object such as Gaussian"):
        potential(torch.zeros(4, 2), torch.zeros(4, 2), kernel="gaussian")  # type: ignore[arg-type]


def test_half_precision_bandwidth_keeps_its_value() -> None:
    x, y = normal(0, 10, 2) * 0.003, normal(1, 12, 2) * 0.003
    sigma = torch.tensor(0.003, dtype=torch.float16)
    sums = pair_sums(x, y, kernel=Gaussian(sigma))
    assert_close(sums.xy, pair_sums(x, y, kernel=Gaussian(float(sigma))).xy, 1e-12)
    assert Gaussian(np.float32(2.0)).terms[0].bandwidth == 2.0  # type: ignore[arg-type]


def test_bandwidth_tensor_per_batch_item() -> None:
    x, y = normal(0, 3, 10, 2), normal(1, 3, 12, 2)
    sigma = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    sums = pair_sums(x, y, kernel=Gaussian(sigma))
    for b in range(3):
        single = pair_sums(x[b], y[b], kernel=Gaussian(float(sigma[b])))
        assert_close(sums.xy[b], single.xy, 1e-12)


@pytest.mark.parametrize("alpha", [6.0, 1e3, 1e6, 1e9, 1e18, 1e40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rational_quadratic_of_a_large_alpha(alpha: float, dtype: torch.dtype) -> None:
    """Its limit is the Gaussian: log k = −α·log1p(s/2ασ²) in fp64, by the math library."""
    x, y = (normal(k, 20, 5).to(dtype).requires_grad_() for k in (0, 1))
    ours = pair_sums(x, y, kernel=RationalQuadratic(1.5, alpha=alpha)).xy.sum()
    u, v = (t.detach().double().requires_grad_() for t in (x, y))
    s = (u[:, None] - v).square().sum(-1)
    truth = torch.exp(-alpha * torch.log1p(s / (2.0 * alpha * 1.5**2))).sum()
    assert_close(ours, truth, RELATIVE[dtype])
    for a, b in zip(
        torch.autograd.grad(ours, (x, y)), torch.autograd.grad(truth, (u, v)), strict=True
    ):
        assert_close(a, b, GRADIENT[dtype])


def test_a_rational_quadratic_is_as_steep_as_its_gaussian() -> None:
    """So fp32 distances are not enough for the one where they are not for the other."""
    x, y = normal(0, 40, 8).float() + 100.0, normal(1, 40, 8).float()
    x[20:] -= 100.0
    kernels = Gaussian(0.05), RationalQuadratic(0.05, alpha=1e7)
    sums = [pair_sums(x, x[:20] + 0.01 * y[:20], kernel=k).xy for k in kernels]
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize("bad", [-1.0, 0.0, torch.nan, torch.inf])
@pytest.mark.parametrize("make", [Gaussian, Laplace, Matern], ids=lambda m: m.__name__)
def test_a_bandwidth_changed_in_place(make: type, bad: float, monkeypatch: Any) -> None:
    """Refused where looking costs nothing, NaN elsewhere; a good one is followed."""
    sigma = torch.tensor(1.0)
    kernel, x = make(sigma), normal(0, 9, 4)
    sigma.fill_(2.0)
    assert_close(pair_sums(x, x, kernel=kernel).xx, pair_sums(x, x, kernel=make(2.0)).xx, 1e-12)
    sigma.fill_(bad)
    with pytest.raises(ValueError, match="bandwidth must be positive and finite"):
        pair_sums(x, x, kernel=kernel)
    monkeypatch.setattr(kernel_module, "count_on_host", lambda _: 0)
    assert pair_sums(x, x, kernel=kernel).xx.isnan().all()


def test_equal_kernels_compare_equal() -> None:
    sigma = torch.tensor(1.0)
    pairs = [
        (Gaussian(1.0), Gaussian(1.0)),
        (Gaussian(1.0) + Energy(), Energy() + Gaussian(1.0)),
        (Gaussian(sigma), Gaussian(sigma)),
        (Gaussian("median"), MMDLoss(bandwidth="median").kernel),
    ]
    for a, b in pairs:
        assert a == b
        assert hash(a) == hash(b)
    others = [Gaussian(2.0), 2.0 * Gaussian(1.0), Laplace(1.0), Gaussian(sigma), "gaussian"]
    assert all(Gaussian(1.0) != other for other in others)


@pytest.mark.parametrize(
    ("name", "right"),
    [("rbf", "gaussian"), ("IMQ", "inverse_multiquadric"), ("poly", "polynomial")],
)
def test_other_names_of_kernels_suggest_ours(name: str, right: str) -> None:
    x = torch.randn(4, 2)
    with pytest.raises(ValueError, match=rf"did you mean '{right}'\?"):
        mmd2(x, x, kernel=name)
    with pytest.raises(TypeError, match="got int"):
        mmd2(x, x, kernel=0)
