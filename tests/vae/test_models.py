"""Shapes, refusals, dtypes and draws of the model; what importing it costs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from vae import (
    DIVERGENCES,
    VAE,
    Capacity,
    GaussianLikelihood,
    InfoVAE,
    LaplaceLikelihood,
    Objective,
    PixelGaussianLikelihood,
    StandardNormal,
    TotalCorrelation,
    WeightedKL,
    mlp,
)

OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "vae": lambda: Objective(WeightedKL()),
    "capacity": lambda: Objective(Capacity(10.0, 2.0)),
    "tc": lambda: Objective(TotalCorrelation(n_data=100)),
    "mmd": InfoVAE,
    "energy": lambda: InfoVAE(1, 8, DIVERGENCES["energy"]),
    "mmd-normal": lambda: InfoVAE(1, 8, DIVERGENCES["mmd-normal"]),
}


def build(dim: int = 3, objective: Objective | None = None) -> VAE:
    torch.manual_seed(0)
    return VAE(
        mlp(5, 2 * dim),
        mlp(dim, 5),
        GaussianLikelihood(),
        InfoVAE() if objective is None else objective,
        StandardNormal(dim),
    )


def data(rows: int = 4) -> torch.Tensor:
    return torch.rand(rows, 5, generator=torch.Generator().manual_seed(1))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(2)


def test_output_shapes() -> None:
    output = build()(data())
    assert output.mean.shape == output.log_variance.shape == output.z.shape == (4, 3)
    assert output.prior_sample.shape == output.kl_per_dimension.shape == (4, 3)
    assert output.decoded.shape == (4, 5)
    assert output.distortion.shape == output.kl.shape == output.elbo.shape == (4,)
    assert output.loss.shape == output.divergence.shape == ()
    assert set(output.parts) == {"distortion", "kl", "divergence"}


def test_images_keep_their_shape() -> None:
    encoder = nn.Sequential(nn.Flatten(), mlp(12, 4))
    decoder = nn.Sequential(mlp(2, 12), nn.Unflatten(1, (1, 3, 4)))
    model = VAE(encoder, decoder, GaussianLikelihood(), InfoVAE(), StandardNormal(2))
    output = model(torch.rand(6, 1, 3, 4))
    assert output.decoded.shape == (6, 1, 3, 4)
    assert output.distortion.shape == (6,)
    assert model.sample(9).shape == (9, 1, 3, 4)


def test_output_is_frozen() -> None:
    output = build()(data())
    with pytest.raises(AttributeError):
        output.loss = None


def test_draws_come_from_the_generator() -> None:
    model, x = build(), data()

    @torch.no_grad()
    def losses(seed: int) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(seed)
        loss = float(model(x, generator=generator).loss)
        return loss, float(model.sample(2, generator=generator, pixel_noise=True).sum())

    state = torch.get_rng_state()
    assert losses(0) == losses(0)
    assert losses(0) != losses(1)
    assert torch.equal(state, torch.get_rng_state())


def test_the_code_is_a_draw_from_its_density() -> None:
    model, noise = build(), torch.randn(4, 3)
    code = model.encode(data(), noise=noise)
    encoded = model.encoder(data())
    mean, deviation = encoded[:, :3], (encoded[:, 3:] / 2).exp()
    torch.testing.assert_close(code.z, mean + deviation * noise)
    log_density = Normal(mean, deviation).log_prob(code.z).sum(1)
    torch.testing.assert_close(code.log_density(code.z), log_density)
    many = torch.stack([code.z, code.z + 1])
    torch.testing.assert_close(code.log_density(many)[0], log_density)


def test_pixel_noise_has_the_variance_of_the_likelihood() -> None:
    torch.manual_seed(0)
    model = VAE(mlp(5, 4), mlp(2, 5), GaussianLikelihood(0.04), InfoVAE(), StandardNormal(2))
    with torch.no_grad():
        plain = model.sample(4000, generator=seeded())
        noisy = model.sample(4000, generator=seeded(), pixel_noise=True)
    assert float((noisy - plain).var()) == pytest.approx(0.04, rel=0.05)  # 4.5 of √(2/20000)


# --- Encoders without a density ------------------------------------------------------------------


def autoencoder(objective: Objective) -> VAE:
    torch.manual_seed(0)
    return VAE(
        mlp(5, 3), mlp(3, 5), LaplaceLikelihood(), objective, StandardNormal(3), "deterministic"
    )  # fmt: skip


def test_an_autoencoder_takes_a_batch_of_one() -> None:
    model = autoencoder(Objective(WeightedKL(0)))
    output = model(data(1))
    torch.testing.assert_close(output.z, model.encoder(data(1)))
    torch.testing.assert_close(output.loss, output.distortion.mean())
    assert output.kl is output.log_variance is output.divergence is None
    assert set(output.parts) == {"distortion"}
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(ValueError, match="no density and no ELBO"):
        _ = output.elbo
    with pytest.raises(ValueError, match="no density q"):
        model.encode(data(1)).log_density(output.z)


def test_a_deterministic_encoder_under_a_divergence() -> None:
    output = autoencoder(InfoVAE())(data())
    torch.testing.assert_close(output.loss, output.distortion.mean() + 32 * output.divergence)


# --- Dtypes, strides, compilation ----------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
def test_double_precision_throughout(name: str) -> None:
    model = build(objective=OBJECTIVES[name]()).double()
    output = model(data().double(), generator=seeded())
    for value in (output.z, output.prior_sample, output.distortion, output.kl, output.loss):
        assert value.dtype == torch.float64
    single = build(objective=OBJECTIVES[name]())
    terms = single.terms(data(), output.z.new_zeros(4, 3).float(), output.prior_sample.float())
    double = model.terms(data().double(), output.z.new_zeros(4, 3), output.prior_sample)
    ours, truth = single.objective(terms).total, model.objective(double).total
    torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_codes_and_sums_are_fp32_under_autocast(name: str) -> None:
    """bf16 networks have three digits; what is made of their output must not lose more."""
    model, x = build(objective=OBJECTIVES[name]()), data(64)
    noise, p = (torch.randn(64, 3, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = model.terms(x, noise, p)
        encoded = model.encoder(x)
        loss = model.objective(terms)
    assert encoded.dtype == torch.bfloat16
    for value in (terms.z, terms.mean, terms.kl, terms.distortion, loss.total):
        assert value.dtype == torch.float32
    mean, log_variance = encoded.double().chunk(2, 1)
    z = mean + (0.5 * log_variance).exp() * noise
    torch.testing.assert_close(terms.z.double(), z, rtol=1e-6, atol=1e-6)
    loss.total.backward()
    assert all(q.grad.isfinite().all() for q in model.parameters())


def test_a_model_in_bf16() -> None:
    model = build().bfloat16()
    output = model(data().bfloat16())
    assert output.z.dtype == torch.bfloat16
    assert output.distortion.dtype == torch.float32
    output.loss.backward()
    assert all(q.grad.isfinite().all() for q in model.parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_strides_do_not_matter(name: str) -> None:
    model, x = build(objective=OBJECTIVES[name]()).double(), data(6).double()
    strided = x.repeat_interleave(2, 1)[:, ::2]
    assert not strided.is_contiguous()
    a, b = (model(rows, generator=seeded()).loss for rows in (x, strided))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_compiles_in_one_graph(name: str) -> None:
    model, x = build(objective=OBJECTIVES[name]()), data(6)

    def loss(rows: torch.Tensor, noise: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return model.objective(model.terms(rows, noise, p)).total

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    draws = (torch.randn(6, 3, generator=seeded()), torch.randn(6, 3, generator=seeded()))
    results = []
    for function in (loss, compiled):
        value = function(x, *draws)
        results.append((value, torch.autograd.grad(value, list(model.parameters()))))
    torch.testing.assert_close(results[0], results[1])


def test_a_whole_pass_compiles_with_its_draws() -> None:
    model, x = build(), data(6)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    outputs = []
    for function in (model, compiled):
        torch.manual_seed(3)
        outputs.append(function(x))
    torch.testing.assert_close(outputs[0].z, outputs[1].z)
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss)
    torch.testing.assert_close(outputs[0].elbo, outputs[1].elbo)


# --- Refusals ------------------------------------------------------------------------------------


def test_encoder_of_the_wrong_width_is_refused() -> None:
    parts = (mlp(3, 5), GaussianLikelihood(), InfoVAE(), StandardNormal(3))
    with pytest.raises(ValueError, match=r"side by side, \[4, 6\], got \[4, 5\]"):
        VAE(mlp(5, 5), *parts)(data())
    with pytest.raises(ValueError, match=r"deterministic posterior, \[4, 3\], got \[4, 6\]"):
        VAE(mlp(5, 6), *parts, "deterministic")(data())


def test_decoder_of_another_shape_is_refused() -> None:
    model = VAE(mlp(5, 6), mlp(3, 1), GaussianLikelihood(), InfoVAE(), StandardNormal(3))
    with pytest.raises(ValueError, match=r"must return \[4, 5\] for data \[4, 5\] .* got \[4, 1\]"):
        model(data())
    model = VAE(mlp(5, 6), mlp(3, 5), PixelGaussianLikelihood(), InfoVAE(), StandardNormal(3))
    with pytest.raises(ValueError, match=r"must return \[4, 10\] .*Pixel.* got \[4, 5\]"):
        model(data())


def test_an_unknown_posterior_is_refused() -> None:
    with pytest.raises(ValueError, match="gaussian, deterministic, implicit, got 'flow'"):
        VAE(
            mlp(5, 6), mlp(3, 5), GaussianLikelihood(), InfoVAE(), StandardNormal(3),
            "flow",  # type: ignore[arg-type]
        )  # fmt: skip


# --- Imports -------------------------------------------------------------------------------------


def test_import_brings_in_neither_lightning_nor_matplotlib() -> None:
    code = (
        "import sys, vae; "
        "print(*{'lightning', 'matplotlib', 'sklearn', 'triton'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    """Each in a process of its own, forked where none of them is imported."""
    extras = ["lightning", "matplotlib", "sklearn"]
    code = f"""
import os, sys
from vae.__main__ import main
for missing in {extras}:
    if (child := os.fork()) == 0:
        sys.modules[missing] = None
        os._exit(main(["fit", "--epochs", "1", "--live-plots", "--out", {str(tmp_path / "run")!r}]))
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"] * len(extras)
    assert done.stderr.splitlines() == [
        f'vae fit: {missing} is not installed: pip install "divergences[vae]"' for missing in extras
    ]
