"""Shapes, refusals and draws of the model; what importing it costs."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from vae import VAE, GaussianLikelihood, InfoVAE, StandardNormal, mlp


def build(dim: int = 3) -> VAE:
    return VAE(mlp(5, 6), mlp(dim, 5), GaussianLikelihood(), InfoVAE(), StandardNormal(dim))


def test_output_shapes() -> None:
    output = build()(torch.rand(4, 5))
    assert output.mean.shape == output.log_variance.shape == output.z.shape == (4, 3)
    assert output.decoded.shape == (4, 5)
    assert output.distortion.shape == output.kl.shape == output.elbo.shape == (4,)
    assert output.loss.shape == output.divergence.shape == ()


def test_images_keep_their_shape() -> None:
    encoder = nn.Sequential(nn.Flatten(), mlp(12, 4))
    decoder = nn.Sequential(mlp(2, 12), nn.Unflatten(1, (1, 3, 4)))
    model = VAE(encoder, decoder, GaussianLikelihood(), InfoVAE(), StandardNormal(2))
    output = model(torch.rand(6, 1, 3, 4))
    assert output.decoded.shape == (6, 1, 3, 4)
    assert output.distortion.shape == (6,)
    assert model.sample(9).shape == (9, 1, 3, 4)


def test_output_is_frozen() -> None:
    output = build()(torch.rand(4, 5))
    with pytest.raises(AttributeError):
        output.loss = None


def test_draws_come_from_the_generator() -> None:
    model, x = build(), torch.rand(4, 5)

    @torch.no_grad()
    def losses(seed: int) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(seed)
        loss = float(model(x, generator=generator).loss)
        return loss, float(model.sample(2, generator=generator).sum())

    state = torch.get_rng_state()
    assert losses(0) == losses(0)
    assert losses(0) != losses(1)
    assert torch.equal(state, torch.get_rng_state())


def test_encoder_of_the_wrong_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"side by side, \[4, 4\], got \[4, 6\]"):
        build(dim=2)(torch.rand(4, 5))


def test_decoder_of_another_shape_is_refused() -> None:
    model = VAE(mlp(5, 6), mlp(3, 1), GaussianLikelihood(), InfoVAE(), StandardNormal(3))
    with pytest.raises(ValueError, match=r"one shape, got \[4, 5\] and \[4, 1\]"):
        model(torch.rand(4, 5))


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan"), float("inf")])
def test_variance_must_be_positive(variance: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        GaussianLikelihood(variance)


def test_import_brings_in_neither_lightning_nor_matplotlib() -> None:
    code = (
        "import sys, vae; "
        "print(*{'lightning', 'matplotlib', 'sklearn', 'triton'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("missing", ["lightning", "matplotlib", "sklearn"])
def test_a_missing_extra_is_named(missing: str, tmp_path: object) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from vae.__main__ import main; "
        f"sys.exit(main(['demo', '--epochs', '1', '--out', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f'vae demo: {missing} is not installed: pip install "divergences[vae]"\n'
    )
