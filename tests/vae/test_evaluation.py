"""`evaluate` from end to end: the numbers of a known model, n/a, JSON, seeds, refusals."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

from vae import (
    VAE,
    BernoulliLikelihood,
    CategoricalLikelihood,
    GaussianLikelihood,
    InfoVAE,
    Objective,
    StandardNormal,
    WeightedKL,
    mlp,
)
from vae.data import Data, binarised, shapes
from vae.evaluation import Evaluation, disentanglement, evaluate, passes, samples
from vae.evaluation.evaluate import renderer
from vae.evaluation.passes import encode
from vae.evaluation.probes import class_shares, linear_classifier, majority_accuracy
from vae.evaluation.samples import compare_generated, generate

D, M, VARIANCE = 5, 2, 0.25
FEW: dict[str, Any] = {"n_importance": 8, "n_resamples": 49, "progress": False}


def linear_data(n: int = 600) -> tuple[Data, VAE, Tensor]:
    """x = Wz + σε with labels z_0 > 0; the true model; log p(x) of the held-out rows."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.linalg.qr(torch.randn(D, M, generator=generator))[0] * torch.tensor([3.0, 2.0])
    z = torch.randn(n, M, generator=generator)
    x = z @ weight.T + VARIANCE**0.5 * torch.randn(n, D, generator=generator)
    labels = (z[:, 0] > 0).long()
    half = n // 2
    data = Data("linear", x[1:half], x[half:], (D,), labels[1:half], labels[half:])
    variance = 1 / (1 + weight.square().sum(0) / VARIANCE)
    encoder, decoder = nn.Linear(D, 2 * M), nn.Linear(M, D)
    with torch.no_grad():
        gain = variance.unsqueeze(1) * weight.T / VARIANCE
        encoder.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
        encoder.bias.copy_(torch.cat([torch.zeros(M), variance.log()]))
        decoder.weight.copy_(weight)
        decoder.bias.zero_()
    model = VAE(encoder, decoder, GaussianLikelihood(VARIANCE), InfoVAE(0, 1), StandardNormal(M))
    covariance = (weight @ weight.T + VARIANCE * torch.eye(D)).double()
    law = torch.distributions.MultivariateNormal(torch.zeros(D).double(), covariance)
    return data, model, law.log_prob(data.heldout.double())


@pytest.fixture(scope="module")
def known() -> tuple[Evaluation, Tensor]:
    data, model, log_density = linear_data()
    return evaluate(model, data, **FEW), log_density


def strict(text: str) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return found


def test_the_true_model_of_linear_data(known: tuple[Evaluation, Tensor]) -> None:
    found, log_density = known
    exact = float(log_density.mean())
    assert found.importance is not None and found.heldout.elbo is not None
    assert found.importance.bound == pytest.approx(exact, abs=1e-4)
    assert found.importance.mean_ess == pytest.approx(8, abs=1e-3)
    assert found.importance.least_ess == pytest.approx(8, abs=1e-2)
    assert found.importance.standard_error == pytest.approx(
        float(log_density.std()) / math.sqrt(len(log_density)), rel=1e-3
    )
    # q(z|x) is p(z|x): the gap is the noise of one draw of z
    assert found.importance.gap == pytest.approx(exact - found.heldout.elbo, abs=1e-4)
    assert abs(found.importance.gap) < 3 * found.importance.gap_standard_error < 0.25
    assert abs(found.heldout.elbo - exact) < 0.2  # sd of the noise of z: √(M/2)/√300 = .06
    assert found.heldout.elbo == pytest.approx(-found.heldout.distortion - found.heldout.kl)
    assert found.heldout.aggregate_kl < 0.2  # of 300 rows: some nats of them are chance
    assert found.prior.energy.pvalue > 0.02
    # samples are means, which lack the pixel noise, and a test on 5 columns may see it
    assert found.generated.energy_control.pvalue > 0.02
    assert found.heldout.active_units == 2
    # (x, z) with z from the true posterior follow the model: E‖x − Wz‖² = Dσ²
    error = 4 * VARIANCE * (2 * D / 300) ** 0.5
    assert found.heldout.squared_error == pytest.approx(D * VARIANCE, abs=error)
    normaliser = 0.5 * D * math.log(2 * math.pi * VARIANCE)
    assert found.heldout.distortion == pytest.approx(
        found.heldout.squared_error / (2 * VARIANCE) + normaliser, abs=1e-6
    )
    # held-out rows are what is compared with the prior and with samples
    assert (found.train.n, found.heldout.n, found.prior.mmd.n) == (299, 300, 300)


def test_what_labels_tell(known: tuple[Evaluation, Tensor]) -> None:
    found, _ = known
    assert found.probe is not None and found.classes is not None
    assert found.probe.codes > 0.93
    assert found.probe.pixels > 0.93
    assert 0.4 < found.probe.majority < 0.6
    assert found.classes.total_variation < 0.1
    assert sum(found.classes.generated.values()) == pytest.approx(1)
    assert found.not_available == {"disentanglement": "the data have no known factors, or only one"}


def test_json_is_strict_and_the_table_aligned(
    known: tuple[Evaluation, Tensor], tmp_path: Path
) -> None:
    found, _ = known
    content = strict(found.to_json())
    assert content["heldout"]["elbo"] == found.heldout.elbo
    assert content["disentanglement"] is None
    assert "not_available" not in content["heldout"]
    assert content["prior"]["mmd"]["pvalue"] == found.prior.mmd.pvalue
    assert len(content["heldout"]["kl_per_dimension"]) == M
    found.save(tmp_path / "evaluation.json")
    assert strict((tmp_path / "evaluation.json").read_text(encoding="utf-8")) == content
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]
    lines = str(found).splitlines()
    assert lines[0].startswith("linear: β = 1−α = 1 on KL")
    (elbo,) = [line for line in lines if line.startswith("ELBO")]
    assert f"{found.heldout.elbo:.3f} ± {found.heldout.elbo_standard_error:.3f}" in elbo
    blank = lines.index("", 2)
    assert len({len(line) for line in lines[3:blank]}) == 1
    assert "n/a: disentanglement: the data have no known factors, or only one" in lines


def line_of(text: str, start: str, after: int = 0) -> str:
    """The only line that starts so, or one some lines after it."""
    lines = text.splitlines()
    (place,) = [i for i, line in enumerate(lines) if line.startswith(start)]
    return lines[place + after]


def test_the_table_says_what_was_compared(known: tuple[Evaluation, Tensor]) -> None:
    found, _ = known
    text = str(found)
    assert "effect: share of the mean squared distance" in text
    effect = f"{found.generated.energy.effect_size:.2%}"
    assert found.generated.fuse.effect_size == pytest.approx(found.generated.energy.effect_size)
    energy = line_of(text, "samples (means of p(x|z)) against data, energy")
    assert effect in energy
    fuse = line_of(text, "samples (means of p(x|z)) against data, fuse")
    control = line_of(text, "samples (means of p(x|z)) against data, fuse", after=1)
    assert "control" in control
    for line in (fuse, control):  # what the energy distance shows is not repeated
        assert "%" not in line
        assert len(line) == len(energy)
    assert "classes of samples (means of p(x|z)), total variation" in text
    binary = replace(found, generated=replace(found.generated, pixel_noise=True))
    assert "samples (draws from p(x|z)) against data, energy" in str(binary)


def test_parts_of_the_kl_are_of_equally_many_rows() -> None:
    """More training than held-out rows: log n, a ceiling, is the same for both columns."""
    data, model, _ = linear_data(160)
    more = Data("more", data.train, data.heldout[:30], (D,))
    found = evaluate(model, more, **FEW)
    assert (found.train.n, found.heldout.n) == (79, 30)
    assert found.train.aggregate_n == found.heldout.aggregate_n == 30
    text = str(found)
    assert line_of(text, "rows in the aggregate q(z)").split()[-2:] == ["30", "30"]
    assert "I(z; row), at most log n = 3.40" in text
    with torch.no_grad():
        model.encoder.bias[M:] -= 20  # every row is told from every other
    certain = evaluate(model, more, **FEW)
    for part in (certain.train, certain.heldout):
        assert part.mutual_information == pytest.approx(math.log(30))
    assert any("I(z; row) is at its ceiling, log 30 = 3.40" in note for note in certain.notes)
    assert not any("ceiling" in note for note in found.notes)


def test_codes_off_the_prior_and_loose_bounds_are_noted() -> None:
    data, model, _ = linear_data()
    assert evaluate(model, data, **FEW).notes == ()
    with torch.no_grad():
        model.encoder.bias[:M] += 1.5  # 1.5²/2 = 1.13 nats per dimension
    found = evaluate(model, data, **FEW | {"n_importance": 200})
    off, loose = found.notes
    assert re.match(r"q\(z\) is off the prior by 1\.[01]\d? nats per dimension", off)
    assert found.importance.mean_ess < 4
    assert loose.startswith(f"of the 200 draws of the IWAE bound {found.importance.mean_ess:.1f} c")
    assert f"note: {loose}" in str(found)
    model.objective = Objective(WeightedKL(0.0))  # no prior to be off
    assert not any("off the prior" in note for note in evaluate(model, data, **FEW).notes)
    with torch.no_grad():
        model.encoder.weight.zero_()
        model.encoder.bias.zero_()
    (collapse,) = evaluate(model, data, **FEW).notes
    assert collapse.startswith("the posterior has collapsed: KL(q(z|x)‖p(z)) = 0 nats")


def test_a_seed_is_all_there_is_to_a_number() -> None:
    data, model, _ = linear_data(120)
    model.train()
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = evaluate(model, data, **FEW)
    assert torch.equal(state, torch.get_rng_state())
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert evaluate(model, data, **FEW).to_json() == first.to_json()
    more = evaluate(model, data, **FEW | {"n_importance": 9})
    assert more.prior.to_dict() == first.prior.to_dict()
    assert more.heldout.to_dict() == first.heldout.to_dict()
    other = evaluate(model, data, **FEW, seed=1)
    assert other.heldout.elbo != first.heldout.elbo


def test_only_some_rows_are_looked_at() -> None:
    data, model, _ = linear_data(200)
    found = evaluate(model, data, **FEW, max_rows=40)
    assert found.train.n == found.heldout.n == found.prior.mmd.n == 40
    assert found.generated.fuse.n == found.generated.fuse.m == found.generated.fuse_control.n == 20


@pytest.mark.parametrize("posterior", ["deterministic", "implicit"])
def test_what_is_undefined_is_null_with_its_reason(posterior: Any) -> None:
    class Implicit(nn.Linear):
        def forward(self, x: Tensor, noise: Tensor) -> Tensor:
            return super().forward(x) + 0.1 * noise

    data, _, _ = linear_data(100)
    encoder = Implicit(D, M) if posterior == "implicit" else nn.Linear(D, M)
    model = VAE(
        encoder, nn.Linear(M, D), GaussianLikelihood(), InfoVAE(), StandardNormal(M), posterior
    )
    found = evaluate(model, data, **FEW)
    content = strict(found.to_json())
    assert content["importance"] is None
    assert content["train"]["elbo"] is None
    reason = f"q(z|x) of a {posterior} encoder has no density"
    for path in ("importance", "heldout.kl", "train.elbo", "heldout.mutual_information"):
        assert content["not_available"][path] == reason
    text = str(found)
    assert f"aggregate_kl, importance: {reason}" in text
    (elbo,) = [line for line in text.splitlines() if line.startswith("ELBO")]
    assert elbo.split() == ["ELBO", "n/a", "n/a"]
    assert ("active_units" in text) == (posterior == "implicit")


def test_rows_without_labels() -> None:
    data, model, _ = linear_data(80)
    bare = Data("bare", data.train, data.heldout, (D,))
    found = evaluate(model, bare, **FEW)
    assert found.probe is None and found.classes is None
    assert found.not_available["probe"] == "the data have no labels"
    single = Data(
        "one", data.train, data.heldout, (D,), data.train_labels * 0, data.heldout_labels * 0
    )
    reasons = evaluate(model, single, **FEW).not_available
    assert reasons["probe"] == "all training rows have one label"


def test_known_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disentanglement, "VOTES", 20)
    monkeypatch.setattr(disentanglement, "CHECKED", 10)
    data = shapes(train=200, heldout=100, size=8)
    torch.manual_seed(0)
    model = VAE(mlp(64, 6), mlp(3, 64), GaussianLikelihood(), InfoVAE(0, 1), StandardNormal(3))
    found = evaluate(model, data, **FEW)
    scores = found.disentanglement
    assert scores is not None and scores.factor_vae is not None
    assert scores.mutual_information.shape == (3, 5)
    assert 0 <= scores.mig < 0.3
    assert 0 < scores.factor_vae <= 1
    assert "FactorVAE score" in str(found)
    content = strict(found.to_json())["disentanglement"]
    assert content["dci"].keys() == {"disentanglement", "completeness", "informativeness"}
    assert len(content["mutual_information"]) == 3
    assert found.notes[-1].startswith("the classifier is right about")
    other = Data(
        "sprites", data.train, data.heldout, (1, 8, 8), None, None,
        data.train_factors, data.heldout_factors, data.factor_names,
    )  # fmt: skip
    unrendered = evaluate(model, other, **FEW)
    assert unrendered.disentanglement.factor_vae is None
    assert unrendered.disentanglement.mig == scores.mig
    assert unrendered.not_available["disentanglement.factor_vae"] == (
        "there is no renderer of sprites"
    )


def test_the_renderer_gives_the_rows_back() -> None:
    for kind, coloured in (("none", False), ("none", True), ("fixed", False)):
        data = shapes(train=10, heldout=5, size=16, coloured=coloured)
        render = renderer(binarised(data, kind, seed=0))
        rendered = render(data.train_factors)
        expected = data.rows("train") if kind == "none" else data.rows("train").round()
        torch.testing.assert_close(rendered, expected)


def test_generated_rows_are_like_the_data() -> None:
    """Within [0, 1] where the data are, black and white where they are binarised."""
    grey = Data("grey", torch.rand(50, 4), torch.rand(50, 4), (4,))
    model = VAE(mlp(4, 4), nn.Linear(2, 4), GaussianLikelihood(), InfoVAE(), StandardNormal(2))
    with torch.no_grad():
        model.decoder.weight.mul_(10)
    rows = generate(model, grey, 300)
    assert float(rows.min()) == 0
    assert float(rows.max()) == 1
    assert torch.equal(rows, generate(model, grey, 300))
    model.likelihood = BernoulliLikelihood()
    assert float(((generate(model, grey, 300) > 0.01) & (rows < 0.99)).double().mean()) > 0
    binary = binarised(grey, "dynamic", seed=0)
    assert set(generate(model, binary, 300).unique().tolist()) == {0.0, 1.0}
    means = generate(model, binary, 300, pixel_noise=False)
    assert torch.equal(means, generate(model, grey, 300))
    assert set(generate(model, grey, 300, pixel_noise=True).unique().tolist()) == {0.0, 1.0}
    assert compare_generated(model, binary, binary.rows("heldout"), n_resamples=9).pixel_noise


def test_samples_are_clipped_unless_told() -> None:
    grey = Data("grey", torch.rand(50, 2), torch.rand(50, 2), (2,))
    model = identity_decoder()
    free = generate(model, grey, 500, clip=False)
    assert float(free.min()) < 0
    assert float(free.max()) > 1
    assert torch.equal(generate(model, grey, 500), free.clamp(0, 1))
    noisy = generate(model, grey, 4000, clip=False, pixel_noise=True)
    assert float(noisy.var()) == pytest.approx(2, rel=0.1)  # N(0, 1) and a noise of variance 1


def identity_decoder() -> VAE:
    """Whose samples are standard normal."""
    decoder = nn.Linear(2, 2)
    with torch.no_grad():
        decoder.weight.copy_(torch.eye(2))
        decoder.bias.zero_()
    return VAE(mlp(2, 4), decoder, GaussianLikelihood(), InfoVAE(), StandardNormal(2))


def test_level_of_the_tests_of_samples_and_of_their_control() -> None:
    """Samples that follow the law of the data are rejected as often as α says."""
    model, repetitions = identity_decoder(), 40
    rejected = np.zeros(4)
    for seed in range(repetitions):
        x = torch.randn(80, 2, generator=torch.Generator().manual_seed(1000 + seed))
        data = Data("normal", x[:20], x[20:], (2,))
        found = compare_generated(model, data, data.heldout, n_resamples=19, seed=seed)
        tests = (found.fuse, found.energy, found.fuse_control, found.energy_control)
        rejected += [test.pvalue <= 0.05 for test in tests]
    assert rejected.max() <= binom.ppf(1 - 1e-4, repetitions, 0.05)


def test_samples_of_another_law_are_found_out() -> None:
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    data = Data("normal", x[:100], x[100:], (2,))
    model = identity_decoder()
    with torch.no_grad():
        model.decoder.bias.fill_(1.0)
    found = compare_generated(model, data, data.heldout, n_resamples=99)
    assert found.fuse.pvalue == found.energy.pvalue == 0.01
    assert found.energy_control.pvalue > 0.05
    assert found.energy.effect_size > 0.1
    assert found.fuse.n == found.fuse.m == found.fuse_control.n == found.fuse_control.m == 150


def test_class_shares_by_hand() -> None:
    class Sign:
        classes_ = np.array([0, 1])

        def predict(self, rows: Any) -> Any:
            return (rows[:, 0] > 0).astype(int)

    labels = torch.tensor([0, 0, 0, 1])
    heldout = torch.tensor([[-1.0], [1.0]])
    generated = torch.tensor([[1.0], [1.0], [1.0], [-1.0]])
    found = class_shares(Sign(), labels, heldout, generated)
    assert found.data == {"0": 0.75, "1": 0.25}
    assert found.generated == {"0": 0.25, "1": 0.75}
    assert found.total_variation == 0.5
    assert found.total_variation_control == 0.25
    assert majority_accuracy(labels, torch.tensor([0, 1, 1])) == pytest.approx(1 / 3)


def test_the_probe_does_not_mind_the_scale_of_columns() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 2, generator=generator)
    labels = (x[:, 1] > 0).long()
    scaled = x * torch.tensor([1e4, 1e-4])
    assert linear_classifier(scaled, labels).score(scaled.numpy(), labels.numpy()) > 0.97


def test_refusals() -> None:
    data, model, _ = linear_data(80)
    few = Data("few", data.train, data.heldout[:3], (D,))
    with pytest.raises(ValueError, match="4 held out and max_rows >= 4, got 39, 3 and 10000"):
        evaluate(model, few)
    with pytest.raises(ValueError, match="got 39, 40 and 3"):
        evaluate(model, data, max_rows=3)
    model.likelihood = BernoulliLikelihood()
    with pytest.raises(ValueError, match="needs values in \\[0, 1\\]"):
        evaluate(model, data)
    _, broken, _ = linear_data(80)
    with torch.no_grad():
        broken.encoder.bias.fill_(math.nan)
    with pytest.raises(ValueError, match="39 of 39 rows are not finite: the training diverged"):
        evaluate(broken, data)


def test_grey_pixels_under_a_bernoulli_are_noted() -> None:
    rows = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    data = Data("grey", rows[:20], rows[20:], (3,))
    model = VAE(mlp(3, 4), mlp(2, 3), BernoulliLikelihood(), InfoVAE(0, 1), StandardNormal(2))
    notes = evaluate(model, data, **FEW).notes  # an untrained model may earn others
    (note,) = (note for note in notes if "cross entropy, no likelihood" in note)
    assert f"note: {note}" in str(evaluate(model, data, **FEW))


def test_factors_that_do_not_vary_leave_the_rest_alone() -> None:
    data = shapes(train=60, heldout=40, size=8)
    assert data.heldout_factors is not None
    fixed = replace(data, heldout_factors=data.heldout_factors[:1].expand(40, -1))
    model = VAE(mlp(64, 6), mlp(3, 64), GaussianLikelihood(), InfoVAE(0, 1), StandardNormal(3))
    found = evaluate(model, fixed, **FEW)
    assert found.disentanglement is None
    assert found.not_available["disentanglement"] == "no factor varies among the held-out rows"
    assert found.heldout.elbo is not None


def test_many_levels_are_decoded_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "NUMBERS_CPU", 6000)
    monkeypatch.setattr(samples, "GENERATED", 300)
    decoder, sizes = mlp(2, 100 * 6), []
    decoder.register_forward_hook(lambda *call: sizes.append(call[2].numel()))
    likelihood = CategoricalLikelihood(100)
    model = VAE(mlp(6, 4), decoder, likelihood, InfoVAE(0, 1), StandardNormal(2))
    rows = torch.rand(40, 6)
    data = Data("levels", rows[:20], rows[20:], (6,))
    encode(model, rows)
    generate(model, data, 50)
    assert max(sizes) <= 6000
    assert sum(sizes) == (40 + 50) * 600
