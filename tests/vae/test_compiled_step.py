"""A whole training step under torch.compile: one graph, the same numbers."""

import pytest
import torch

from vae import DIVERGENCES, VAE, GaussianLikelihood, InfoVAE, StandardNormal, mlp


@pytest.mark.parametrize("name", ["mmd", "energy", "mmd-normal", "imq"])
def test_a_step_is_one_graph(name: str) -> None:
    torch.manual_seed(0)
    model = VAE(
        mlp(12, 6), mlp(3, 12), GaussianLikelihood(), InfoVAE(0.5, 5, DIVERGENCES[name]),
        StandardNormal(3),
    )  # fmt: skip
    x = torch.rand(16, 12)

    def losses(x: torch.Tensor, noise: torch.Tensor, prior_sample: torch.Tensor) -> torch.Tensor:
        return model.objective(model.terms(x, noise, prior_sample)).total

    noise, prior_sample = torch.randn(16, 3), torch.randn(16, 3)
    parameters = list(model.parameters())
    eager = losses(x, noise, prior_sample)
    expected = torch.autograd.grad(eager, parameters)
    compiled = torch.compile(losses, fullgraph=True, backend="aot_eager")
    loss = compiled(x, noise, prior_sample)
    torch.testing.assert_close(loss, eager)
    for ours, theirs in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.skipif(torch.__version__ < (2, 7), reason="the tracer of torch 2.6 has no vars()")
def test_the_draws_are_in_the_graph_too() -> None:
    """`torch.compile(model)(x)`: ε and the prior's draws from torch's generator, and no break."""
    model = VAE(mlp(12, 6), mlp(3, 12), GaussianLikelihood(), InfoVAE(), StandardNormal(3))
    compiled = torch.compile(lambda x: model(x).loss, fullgraph=True, backend="aot_eager")
    first, second = compiled(torch.rand(16, 12)), compiled(torch.rand(16, 12))
    assert first.isfinite()
    assert first != second
