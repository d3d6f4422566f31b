"""The experiments: closed forms against independent ones, the table, and, slow, whole runs."""

import math
import runpy
import sys
from pathlib import Path

import correlation
import linear
import mixture
import overfit
import pytest
import torch
from experiments import EXPERIMENTS, reproduce
from finding import Finding
from shrinkage import C, D, N, best_scale, fitted_scale
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from uninformative import ENTROPY, LENGTH, Autoregressive, chains

from divergences.kernels import Gaussian
from divergences.mmd import mmd2
from vae import BernoulliLikelihood


def finding(measured: float, relation: str = "within") -> Finding:
    return Finding("it", measured, 2.0, 0.5, "a book", relation)  # type: ignore[arg-type]


# --- Findings and their table --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("relation", "good", "bad"),
    [
        ("within", [1.5, 2.0, 2.5], [1.49, 2.51, math.nan, math.inf]),
        ("below", [-9.0, 2.5, -math.inf], [2.51, math.nan]),
        ("above", [1.5, 9.0], [1.49, math.nan]),
    ],
)
def test_when_a_finding_is_as_expected(relation: str, good: list[float], bad: list[float]) -> None:
    assert [finding(value, relation).ok for value in good] == [True] * len(good)
    assert [finding(value, relation).ok for value in bad] == [False] * len(bad)


def test_a_finding_needs_a_tolerance() -> None:
    with pytest.raises(ValueError, match="finite and at least 0, got nan"):
        Finding("it", 1.0, 1.0, math.nan, "a book")


def test_the_table_counts_what_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[bool] = []

    def run(progress: bool) -> list[Finding]:
        ran.append(progress)
        return [finding(2.1), finding(3.0), finding(1.0, "below")]

    fake = type(EXPERIMENTS["linear"])("it", run, 0.1)
    monkeypatch.setattr("experiments.EXPERIMENTS", {"fake": fake, "faker": fake})
    text = reproduce(["fake", "fake"], progress=False)
    assert ran == [False]
    rows = text.splitlines()
    assert [row.split()[-3] for row in rows[2:5]] == ["ok", "OFF", "ok"]
    assert "2 ± 0.5" in rows[2]
    assert "≤ 2 ± 0.5" in rows[4]
    assert rows[-1] == "2 of 3 as expected"
    with pytest.raises(ValueError, match="no experiment 'fakes': did you mean 'fake"):
        reproduce(["fake", "fakes"])
    with pytest.raises(ValueError, match="no experiment 'x': choose of fake, faker"):
        reproduce(["x"])
    with pytest.raises(ValueError, match="at least one experiment of fake, faker"):
        reproduce([])
    assert ran == [False]


def test_experiments_take_at_most_two_minutes() -> None:
    assert set(EXPERIMENTS) == {
        "linear", "mixture", "overfit", "uninformative", "tc", "shrinkage",
    }  # fmt: skip
    assert all(0 < experiment.minutes <= 2 for experiment in EXPERIMENTS.values())


def test_the_program_lists_its_experiments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(Path(__file__).parents[2] / "examples" / "reproduce")
    monkeypatch.setattr(sys, "argv", [folder])
    runpy.run_path(folder, run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(EXPERIMENTS)]] == [*EXPERIMENTS]


# --- Closed forms --------------------------------------------------------------------------------


def test_a_linear_vae_holds_probabilistic_pca() -> None:
    """Tipping & Bishop 1999: W = U(Λ − σ²)^½, q(z|x) = N(M⁻¹Wᵀ(x − b), σ²M⁻¹), M = Λ here. The
    bound is then the likelihood of every digit, log p(x, z) − log q(z|x) the same at every z."""
    pixels = load_digits().data / 16
    pca = PCA(linear.K).fit(pixels)
    basis, eigenvalues = (
        torch.as_tensor(values) for values in (pca.components_.T.copy(), pca.explained_variance_)
    )
    noise = float(pca.noise_variance_)
    weight = basis * (eigenvalues - noise).sqrt()
    bias = torch.as_tensor(pca.mean_)
    model = linear.build(64).double()
    with torch.no_grad():
        model.decoder.weight.copy_(weight)
        model.decoder.bias.copy_(bias)
        model.encoder.weight.zero_()
        model.encoder.weight[: linear.K] = weight.mT / eigenvalues[:, None]
        model.encoder.bias[: linear.K] = -(weight.mT @ bias) / eigenvalues
        model.encoder.bias[linear.K :] = (noise / eigenvalues).log()
        model.likelihood.log_variance.fill_(math.log(noise))
    x = torch.as_tensor(pixels[:200])
    scores = torch.as_tensor(pca.score_samples(pixels[:200]))
    torch.testing.assert_close(linear.log_likelihood(model, x), scores, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(linear.elbo(model, x), scores, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        code = model.encode(x, generator=torch.Generator().manual_seed(0))
        joint = model.likelihood.log_prob(x, model.decoder(code.z)) + model.prior.log_prob(code.z)
    torch.testing.assert_close(joint - code.log_density(code.z), scores, rtol=1e-9, atol=1e-9)


def test_the_bound_of_a_short_training_lies_below_the_likelihood() -> None:
    bound, likelihood, variance = linear.linear_vae(progress=False, steps=600)
    assert bound.measured < likelihood.measured < bound.expected + 1e-3
    assert bound.measured > bound.expected - 1
    assert variance.measured > variance.expected
    assert bound.expected == pytest.approx(8.9076, abs=1e-4)


def test_the_best_scale_is_that_of_the_expected_statistic() -> None:
    """E V at two scales by Monte Carlo, against the formula that is minimised."""
    assert best_scale(1 / N) == pytest.approx(0.15, abs=0.001)
    assert best_scale(0.0) == pytest.approx(1, abs=1e-3)
    generator = torch.Generator().manual_seed(0)
    noise, p = (torch.randn(300, N, D, generator=generator, dtype=torch.float64) for _ in "zp")
    kernel = Gaussian(math.sqrt(C / 2))
    narrow, wide = (mmd2(s * noise, p, kernel=kernel, estimator="biased") for s in (0.15, 1.0))
    difference = narrow - wide  # the same draws on both sides
    error = float(difference.std()) / math.sqrt(300)

    def formula(s: float) -> float:
        within, between = (1 + 4 * s**2 / C) ** (-D / 2), (1 + 2 * (1 + s**2) / C) ** (-D / 2)
        return 1 / N + (1 - 1 / N) * within - 2 * between

    expected = formula(0.15) - formula(1.0)
    assert expected < -20 * error
    assert abs(float(difference.mean()) - expected) < 4.5 * error


def test_the_scale_falls_under_v_and_stays_under_u() -> None:
    assert fitted_scale("biased", 150, progress=False) < 0.7
    assert 0.8 < fitted_scale("unbiased", 150, progress=False) < 1.25


def test_the_flexible_decoder_is_the_chain_and_sees_no_later_bit() -> None:
    decoder = Autoregressive()
    x = chains(20_000, torch.Generator().manual_seed(0))
    z = torch.randn(len(x), 2)
    with torch.no_grad():
        nats = -BernoulliLikelihood().log_prob(x, decoder(z, x))
    assert abs(float(nats.mean()) - ENTROPY) < 4.5 * float(nats.std()) / math.sqrt(len(x))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_()
    jacobian = torch.autograd.functional.jacobian(lambda row: decoder(z[:1], row), x[:1])[0, :, 0]
    assert (jacobian.triu() == 0).all()
    assert (jacobian.tril(-1) != 0).sum() == LENGTH * (LENGTH - 1) / 2


def test_shares_of_the_modes_by_hand() -> None:
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0], [0.1, 0.1]])
    assert mixture.least_share(x) == 0.2
    assert mixture.least_share(x[:3]) == 0
    assert mixture.within(x) == 0.8


# --- Runs ----------------------------------------------------------------------------------------


def test_training_experiments_run_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps: the structure, not the outcome. The global state is left alone."""
    monkeypatch.setattr(correlation, "ROWS", 200)
    monkeypatch.setattr(correlation, "HELDOUT", 100)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    for run in (mixture.mixture_latent, overfit.kl_overfits, correlation.tc_against_beta):
        findings = run(progress=False, steps=10)
        assert all(math.isfinite(f.measured) for f in findings)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_come_out_as_expected(name: str) -> None:
    off = [f for f in EXPERIMENTS[name].run(False) if not f.ok]
    assert off == []
