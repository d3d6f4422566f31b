"""Batches of any size are served by a few compiled graphs, the short last one of an epoch too."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from divergences import density_ratio, energy, kl, kl_decomposition, mmd, wasserstein
from divergences.kernels import Energy, Laplace

SIZES = (128, 100, 160, 131, 37)
Loss = Callable[[Tensor, Tensor], Tensor]


def shares(x: Tensor) -> Tensor:
    return x.detach()[:, 0].square() + 0.1


LOSSES: dict[str, Loss] = {
    "mmd2": lambda x, y: mmd.mmd2(x, y),
    "mmd2 fixed": lambda x, y: mmd.mmd2(x, y, bandwidth=1.0, estimator="biased"),
    "mmd2 weighted": lambda x, y: mmd.mmd2(x, y, bandwidth=1.0, weights_x=shares(x)),
    "mmd2 inner": lambda x, y: mmd.mmd2(x, y, kernel="polynomial", estimator="biased"),
    "mmd2 two metrics": lambda x, y: mmd.mmd2(x, y, kernel=Energy() + Laplace(1.0, norm="l1")),
    "mmd2_to_normal": lambda x, _: mmd.mmd2_to_normal(x),
    "mmd2_to_gaussian_mixture": lambda x, _: mmd.mmd2_to_gaussian_mixture(
        x, torch.zeros(3, x.shape[1]), torch.ones(3)
    ),
    "witness": lambda x, y: mmd.witness(x, x, y, bandwidth=1.0).sum(),
    "energy_distance": lambda x, y: energy.energy_distance(x, y),
    "energy_distance of numbers": lambda x, y: energy.energy_distance(x[:, :1], y[:, :1]),
    "energy_distance weighted": lambda x, y: energy.energy_distance(
        x[:, :1], y[:, :1], weights_x=shares(x)
    ),
    "energy_distance_to_normal": lambda x, _: energy.energy_distance_to_normal(x),
    "wasserstein_1d": lambda x, y: wasserstein.wasserstein_1d(x[:, 0], y[:-1, 0]),
    "sliced_wasserstein": lambda x, y: wasserstein.sliced_wasserstein(x, y),
    "gaussian_kl": lambda x, y: kl.gaussian_kl(x, y).mean(),
    "monte_carlo_kl": lambda x, y: kl.monte_carlo_kl(x, y).kl.sum(),
    "decompose_kl_minibatch": lambda x, y: (
        kl_decomposition.decompose_kl_minibatch(x, x, y, 1000).total_correlation
    ),
    "decompose_kl_minibatch weighted": lambda x, y: (
        kl_decomposition.decompose_kl_minibatch(
            x, x, y, 1000, estimator="weighted"
        ).total_correlation
    ),
    "critic_loss": lambda x, y: density_ratio.critic_loss(x[:, 0], y[:, 0], shares(x)),
    "kl_from_logits": lambda x, _: density_ratio.kl_from_logits(x[:, 0]),
    "kl_lower_bound": lambda x, y: density_ratio.kl_lower_bound(x[:, 0], y[:, 0]),
    "js_from_logits": lambda x, y: density_ratio.js_from_logits(x[:, 0], y[:, 0]),
}
NO_LOSSES = {  # of tensors and not of batches, or no functions of torch
    "mixture_embedding",
    "gaussian_log_density",
    "promoted",
    "shapes",
    "aggregate_log_density",
    "decompose_kl",
    "minibatch_log_weights",
    "train_critic",
    "fit_critic",
    "fit_density_ratio",
    "folds",
}


def public(module: ModuleType) -> set[str]:
    functions = inspect.getmembers(module, inspect.isfunction)
    return {n for n, f in functions if f.__module__ == module.__name__ and not n.startswith("_")}


def test_every_loss_is_here() -> None:
    modules = mmd, energy, wasserstein, kl, kl_decomposition, density_ratio
    known = set.union(*map(public, modules))
    assert known - NO_LOSSES == {name.split()[0] for name in LOSSES}


@pytest.mark.parametrize("name", LOSSES)
def test_sizes_share_graphs(name: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(LOSSES[name], backend=counter, fullgraph=True)
    for n in SIZES:
        x, y = torch.randn(n, 5, requires_grad=True), torch.randn(n, 5)
        torch.manual_seed(0)
        found = compiled(x, y)
        torch.manual_seed(0)
        torch.testing.assert_close(found, LOSSES[name](x, y), rtol=1e-4, atol=1e-6)
    assert counter.frame_count <= 3
