"""MMD losses against dense fp64, their conventions, and how they live inside torch programs."""

from __future__ import annotations

import math

import oracle
import pytest
import torch
from tolerances import RELATIVE, assert_close
from torch import Tensor, nn

from divergences import estimators
from divergences.energy import energy_distance
from divergences.kernels import (
    Gaussian,
    InverseMultiquadric,
    Laplace,
    Linear,
    Polynomial,
    validation,
)
from divergences.mmd import MMDLoss, mmd2, witness


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense_mmd2(
    x: Tensor,
    y: Tensor,
    sigma: float,
    estimator: str,
    wx: Tensor | None = None,
    wy: Tensor | None = None,
) -> Tensor:
    """Textbook estimators of a Gaussian kernel, dense."""

    def gram(a: Tensor, b: Tensor) -> Tensor:
        return oracle.gram("gaussian", a, b, 0.5 / sigma**2, 0.0, 0.0)

    n, m = len(x), len(y)
    u = torch.full((n,), 1.0 / n, dtype=torch.float64) if wx is None else wx / wx.sum()
    v = torch.full((m,), 1.0 / m, dtype=torch.float64) if wy is None else wy / wy.sum()
    if estimator == "biased":
        w = torch.cat([u, -v])
        z = torch.cat([x, y])
        return w @ gram(z, z) @ w
    off_x, off_y = 1 - torch.eye(n), 1 - torch.eye(m)
    xx = u @ (gram(x, x) * off_x) @ u / (1 - (u * u).sum())
    yy = v @ (gram(y, y) * off_y) @ v / (1 - (v * v).sum())
    return xx + yy - 2 * u @ gram(x, y) @ v


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_value_and_gradients(estimator: str, weighted: bool) -> None:
    x, y = normal(0, 23, 4), normal(1, 31, 4) + 0.3
    wx, wy = (normal(2, 23).abs(), normal(3, 31).abs()) if weighted else (None, None)
    inputs = [t.requires_grad_() for t in (x, y, wx, wy) if t is not None]
    ours = mmd2(x, y, bandwidth=1.5, estimator=estimator, weights_x=wx, weights_y=wy)  # type: ignore[arg-type]
    truth = dense_mmd2(x, y, 1.5, estimator, wx, wy)
    assert_close(ours, truth, 1e-11)
    for a, b in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(truth, inputs), strict=True
    ):
        assert_close(a, b, 1e-10)


def test_biased_is_not_negative_and_zero_on_equal_samples() -> None:
    x = normal(0, 50, 3)
    assert mmd2(x, x.clone(), bandwidth=1.0, estimator="biased").abs() < 1e-15
    assert mmd2(x, x.clone(), bandwidth=1.0) < 0.0  # the U-statistic may be, and says so


@pytest.mark.parametrize(
    "kernel", [Linear(), Polynomial(), Gaussian(1.0) + 3.0 * Linear()], ids=repr
)
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_inner_product_kernels(kernel: object, estimator: str) -> None:
    """Their k(x, x) is not constant: the biased form has it in."""
    x, y = normal(0, 20, 5), normal(1, 25, 5) + 0.5
    if repr(kernel) == "Linear()" and estimator == "biased":
        ours = mmd2(x, y, kernel=Linear(), estimator="biased")
        assert_close(ours, (x.mean(0) - y.mean(0)).square().sum(), 1e-12)
    total = torch.zeros((), dtype=torch.float64)
    for t in kernel.resolve(x, y).terms:  # type: ignore[attr-defined]
        arguments = (float(t.rate), t.shape, t.offset)
        grams = [
            oracle.gram(t.function.name, a, b, *arguments) for a, b in ((x, x), (y, y), (x, y))
        ]
        if estimator == "biased":
            means = [g.mean() for g in grams]
        else:
            means = [(g.sum() - g.trace()) / (len(g) * (len(g) - 1)) for g in grams[:2]]
            means.append(grams[2].mean())
        total = total + t.coefficient * (means[0] + means[1] - 2 * means[2])
    assert_close(mmd2(x, y, kernel=kernel, estimator=estimator), total, 1e-11)  # type: ignore[arg-type]


def test_unbiased_is_unbiased() -> None:
    """Its mean over draws of P = Q is 0 within its own standard error; the biased one's is not."""
    x, y = normal(0, 4000, 8, 2), normal(1, 4000, 8, 2)
    unbiased = mmd2(x, y, bandwidth=1.0)
    biased = mmd2(x, y, bandwidth=1.0, estimator="biased")
    error = unbiased.std() / math.sqrt(len(unbiased))
    assert unbiased.mean().abs() < 4 * error
    assert biased.mean() > 20 * error


def test_batches_are_independent_problems() -> None:
    x, y = normal(0, 2, 3, 20, 4), normal(1, 3, 25, 4)
    batch = mmd2(x, y, bandwidth="median")
    assert batch.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            assert_close(batch[i, j], mmd2(x[i, j], y[j], bandwidth="median"), 1e-12)


# --- Conventions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "bandwidth"), [(6, "dimension"), (36, 6 / 2**0.5)], ids=["dim", "dim squared"]
)
def test_kernels_of_mmd_vae(scale: int, bandwidth: float | str) -> None:
    """exp(−‖z − z′‖²/dim), and exp(−mean_j(z_j − z_j′)²/dim) of its authors' code."""
    x, y = normal(0, 40, 6), normal(1, 50, 6)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-(a[:, None] - b[None]).square().sum(-1) / scale)

    published = kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()
    assert_close(mmd2(x, y, bandwidth=bandwidth, estimator="biased"), published, 1e-12)


def test_wasserstein_autoencoder_kernel() -> None:
    """Σ_C C/(C + r²) with C = 2dσ²·s, summed over s, is a sum of inverse multiquadrics."""
    d, scales = 8, (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    x, y = normal(0, 40, d), normal(1, 40, d)

    def published(a: Tensor, b: Tensor) -> Tensor:
        s = (a[:, None] - b[None]).square().sum(-1)
        return torch.stack([2 * d * c / (2 * d * c + s) for c in scales]).sum(0)

    n = len(x)
    xx, yy = ((published(z, z).sum() - n * len(scales)) / (n * (n - 1)) for z in (x, y))
    kernel = sum(InverseMultiquadric(math.sqrt(2 * d * s), exponent=1.0) for s in scales)
    assert_close(mmd2(x, y, kernel=kernel), xx + yy - 2 * published(x, y).mean(), 1e-11)  # type: ignore[arg-type]


def test_geomloss_gaussian() -> None:
    """SamplesLoss("gaussian", blur=σ) is half the biased squared MMD."""
    geomloss = pytest.importorskip("geomloss")
    x, y = normal(0, 40, 3, dtype=torch.float32), normal(1, 30, 3, dtype=torch.float32)
    theirs = geomloss.SamplesLoss("gaussian", blur=0.7, backend="tensorized")(x, y)
    assert_close(0.5 * mmd2(x, y, bandwidth=0.7, estimator="biased"), theirs, 1e-5)


def test_a_sequence_is_averaged_and_plus_sums() -> None:
    x, y = normal(0, 20, 3), normal(1, 20, 3)
    single = [mmd2(x, y, bandwidth=s) for s in (0.5, 1.0, 2.0)]
    assert_close(mmd2(x, y, bandwidth=[0.5, 1.0, 2.0]), torch.stack(single).mean(), 1e-11)
    summed = mmd2(x, y, kernel=Gaussian(0.5) + Gaussian(1.0) + Gaussian(2.0))
    assert_close(summed, torch.stack(single).sum(), 1e-11)


def test_default_is_five_scales_around_the_pooled_median() -> None:
    x, y = normal(0, 60, 3), normal(1, 70, 3) + 1.0
    z = torch.cat([x, y])
    median = torch.pdist(z).median()
    values = [mmd2(x, y, bandwidth=float(median * s)) for s in (0.25, 0.5, 1.0, 2.0, 4.0)]
    assert_close(mmd2(x, y), torch.stack(values).mean(), 1e-7)
    assert_close(mmd2(x, y, kernel="laplace"), mmd2(x, y, kernel=Laplace("multiscale")), 1e-12)


# --- The witness ---------------------------------------------------------------------------------


def test_witness_and_its_gradient() -> None:
    x, y = normal(0, 30, 2), normal(1, 20, 2) + 1.0
    points = normal(2, 15, 2).requires_grad_()
    rate = 0.5 / 0.8**2
    truth = oracle.gram("gaussian", points, x, rate, 0, 0).mean(1) - oracle.gram(
        "gaussian", points, y, rate, 0, 0
    ).mean(1)
    ours = witness(points, x, y, bandwidth=0.8)
    assert_close(ours, truth, 1e-12)
    a, b = (torch.autograd.grad(v.square().sum(), points)[0] for v in (ours, truth))
    assert_close(a, b, 1e-11)


def test_mmd2_is_the_witness_contrast() -> None:
    """MMD²_V = mean f(x) − mean f(y), with one pooled bandwidth."""
    x, y = normal(0, 30, 2), normal(1, 20, 2) + 1.0
    contrast = witness(x, x, y).mean() - witness(y, x, y).mean()
    assert_close(contrast, mmd2(x, y, estimator="biased"), 1e-11)


# --- As a module ---------------------------------------------------------------------------------


def test_module_is_clean_and_speaks() -> None:
    loss = MMDLoss(kernel="laplace", bandwidth=[1.0, 2.0], estimator="biased")
    assert not loss.state_dict()
    assert not list(loss.parameters())
    assert repr(loss) == "MMDLoss(kernel=Laplace([1.0, 2.0]), estimator='biased')"
    x, y = normal(0, 20, 3), normal(1, 20, 3)
    assert loss(x, y) == mmd2(x, y, kernel="laplace", bandwidth=[1.0, 2.0], estimator="biased")


def test_autocast_gives_an_fp32_loss_and_gradients_of_the_inputs() -> None:
    model = nn.Linear(6, 4)
    data, prior = normal(0, 32, 6, dtype=torch.float32), normal(1, 32, 4, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = model(data)
        assert z.dtype == torch.bfloat16
        loss = MMDLoss()(z, prior)
    assert loss.dtype == torch.float32
    loss.backward()
    assert model.weight.grad is not None
    assert torch.isfinite(model.weight.grad).all()
    exact = mmd2(z.detach().double(), prior.double())
    assert_close(loss, exact, 1e-4)


def test_whole_training_step_compiles_without_graph_breaks() -> None:
    torch.manual_seed(0)
    model, loss = nn.Linear(6, 4), MMDLoss()
    data, prior = normal(0, 32, 6, dtype=torch.float32), normal(1, 32, 4, dtype=torch.float32)

    def step(data: Tensor, prior: Tensor) -> Tensor:
        value: Tensor = loss(model(data), prior)
        return value

    step(data, prior).backward()
    assert model.weight.grad is not None
    expected = model.weight.grad.clone()
    model.weight.grad = None
    torch.compile(step, fullgraph=True, backend="aot_eager")(data, prior).backward()
    assert_close(model.weight.grad, expected, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_mixed_dtypes_promote(dtype: torch.dtype) -> None:
    x, y = normal(0, 30, 4).to(dtype).requires_grad_(), normal(1, 20, 4).requires_grad_()
    value = mmd2(x, y, bandwidth=1.0)
    assert value.dtype == torch.float64
    value.backward()
    assert x.grad is not None and x.grad.dtype == dtype
    assert y.grad is not None and y.grad.dtype == torch.float64
    assert_close(value, mmd2(x.detach().double(), y.detach(), bandwidth=1.0), RELATIVE[dtype])


# --- Bad input -----------------------------------------------------------------------------------

X = torch.zeros(5, 3)
BAD = [
    (dict(x=X, y=torch.zeros(5, 4)), ValueError, r"share d; got x \[5, 3\], y \[5, 4\]"),
    (dict(x=torch.zeros(5), y=X), ValueError, r"shape \[..., n, d\]; got \[5\]"),
    (dict(x=X.int(), y=X), TypeError, "floating point; got torch.int32"),
    (dict(x=X.numpy(), y=X), TypeError, "torch tensor; got ndarray"),
    (dict(x=X, y=X.to("meta")), ValueError, "one device; got cpu and meta"),
    (dict(x=X[:0], y=X), ValueError, r"x is empty \(shape \[0, 3\]\)"),
    (dict(x=X, y=X[:1]), ValueError, "y has 1 row .* at least two rows"),
    (dict(x=X[:0], y=X, estimator="biased"), ValueError, "x is empty"),
    (dict(x=X[:, :0], y=X[:, :0]), ValueError, "no columns"),
    (dict(x=torch.zeros(2, 5, 3), y=torch.zeros(3, 5, 3)), ValueError, "do not broadcast"),
    (dict(x=X, y=X, bandwidth=-1.0), ValueError, "positive and finite; got -1.0"),
    (dict(x=X, y=X, bandwidth=0.0), ValueError, "positive and finite; got 0.0"),
    (dict(x=X, y=X, bandwidth=[]), ValueError, "empty sequence"),
    (dict(x=X, y=X, bandwidth="average"), ValueError, "unknown bandwidth rule 'average'"),
    (dict(x=X, y=X, bandwidth=torch.tensor(-1.0)), ValueError, "must be positive"),
    (dict(x=X, y=X, bandwidth=torch.tensor(1)), TypeError, "floating point"),
    (
        dict(x=X, y=X, bandwidth=torch.tensor(1.0, requires_grad=True)),
        ValueError,
        "scale the samples",
    ),
    (dict(x=X, y=X, bandwidth="median", kernel=Gaussian(1.0)), ValueError, "pass one of the two"),
    (dict(x=X, y=X, kernel="rbf"), ValueError, "unknown kernel 'rbf' .did you mean 'gaussian'"),
    (dict(x=X, y=X, kernel="energy", bandwidth=1.0), ValueError, "has no bandwidth"),
    (dict(x=X, y=X, estimator="u"), ValueError, "'unbiased' or 'biased'; got 'u'"),
    (dict(x=X, y=X, backend="cuda"), ValueError, "unknown backend 'cuda'"),
    (dict(x=X, y=X, weights_x=torch.ones(4)), ValueError, r"shape \[5\]; got \[4\]"),
    (dict(x=X, y=X, weights_x=torch.ones(5).long()), TypeError, "floating point"),
    (dict(x=X, y=X, weights_x=X[:, 0] + torch.nan), ValueError, "5 non-finite entries of 5"),
    (dict(x=X, y=X, weights_y=torch.zeros(5)), ValueError, "sums to zero"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_input_is_refused_with_a_remedy(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments = dict(arguments)
    with pytest.raises(error, match=message):
        mmd2(arguments.pop("x"), arguments.pop("y"), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [20, 700])
@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("kernel", ["gaussian", "energy"])
@pytest.mark.parametrize("entry", [0.5, torch.inf])
def test_samples_are_left_as_they_are(entry: float, kernel: str, d: int, n: int) -> None:
    """Not even written to with what they hold, which autograd would take for a change."""
    x, y = torch.randn(n, d), torch.randn(n + 1, d)
    x[3, 0] = entry
    before = x.clone(), y.clone(), x._version, y._version
    assert mmd2(x, y, kernel=kernel).isnan() == (entry == torch.inf)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])
    assert (x._version, y._version) == before[2:]


# --- Weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize("d", [1, 3])
def test_weights_whose_sum_leaves_fp32(estimator: str, d: int) -> None:
    """Only their ratios count: their sum is finite in fp64 alone, or not even there."""
    x, y = normal(0, 20, d).float(), normal(1, 15, d).float() + 0.5
    w = torch.linspace(80.0, 88.5, 20, dtype=torch.float64).exp()
    modest = (w / w.sum()).float()
    for losses in (
        lambda w: mmd2(x, y, bandwidth=1.0, weights_x=w, estimator=estimator),  # type: ignore[arg-type]
        lambda w: energy_distance(x, y, weights_x=w, estimator=estimator),  # type: ignore[arg-type]
    ):
        truth = losses(modest)
        for given in (w.float(), w * 1e260, w * 1e-300):
            torch.testing.assert_close(losses(given), truth, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("d", [1, 3])
def test_weights_that_a_u_statistic_cannot_divide_by(d: int) -> None:
    x, y = normal(0, 6, d), normal(1, 5, d)
    signed = torch.tensor([2 / 3, 2 / 3, -1 / 3, 0, 0, 0])  # Σw² = 1
    nearly = torch.tensor([1.0, 1e-8, 0, 0, 0, 0])
    for loss in (mmd2, energy_distance):
        with pytest.raises(ValueError, match=r"weights_x must be ≥ 0; got 1 negative of 6"):
            loss(x, y, weights_x=signed)
        with pytest.raises(ValueError, match=r"all weight on one row: 1 − Σw² = 2e-08"):
            loss(x, y, weights_x=nearly)
        assert loss(x, y, weights_x=signed, estimator="biased").isfinite()
        assert loss(x, y, weights_x=nearly, estimator="biased").isfinite()


@pytest.mark.parametrize(
    "weights",
    [(1, 1, -0.5, 0), (1, 0, 0, 0), (0, 0, 0, 0), (1, 1, math.inf, 0), (1, math.nan, 0, 0)],
)
def test_weights_that_cannot_be_looked_at_give_nan(
    weights: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA, where a look would synchronise."""
    for module in (estimators, validation):
        monkeypatch.setattr(module, "count_on_host", lambda _: 0)
    x, y = normal(0, 4, 3), normal(1, 5, 3)
    assert mmd2(x, y, weights_x=torch.tensor(weights, dtype=torch.float64)).isnan()


def test_few_rows_with_weight_keep_their_digits() -> None:
    """The divisor is formed of the very weights that the sums have."""
    x, y = normal(0, 30, 3), normal(1, 20, 3)
    w = torch.full((30,), 1e-6, dtype=torch.float64)
    w[4] = 1.0
    ours = mmd2(x.float(), y.float(), bandwidth=1.0, weights_x=w.float())
    truth = dense_mmd2(x.float().double(), y.float().double(), 1.0, "unbiased", w)
    torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=0)
