"""Training: reproducible, tolerant of short batches, quiet, and interruptible."""

import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from vae import VAE, GaussianLikelihood, InfoVAE, StandardNormal, mlp
from vae.forward_output import ForwardOutput
from vae.training import fit


def build() -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VAE(mlp(5, 4), mlp(2, 5), GaussianLikelihood(), InfoVAE(), StandardNormal(2))


def data(rows: int) -> torch.Tensor:
    return torch.rand(rows, 5, generator=torch.Generator().manual_seed(0))


def trained(rows: int = 50, *, seed: int = 0, epochs: int = 2) -> list[torch.Tensor]:
    model = build()
    fit(
        model, data(rows), epochs=epochs, batch_size=20, seed=seed, accelerator="cpu",
        progress=False,
    )  # fmt: skip
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_same_seed_same_bits_other_seed_other_weights() -> None:
    first, again, other = trained(), trained(), trained(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_global_state_is_left_alone() -> None:
    state = torch.get_rng_state()
    trained()
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("on", [False, True])
@pytest.mark.parametrize("warn_only", [False, True])
def test_deterministic_algorithms_stay_as_they_were(on: bool, warn_only: bool) -> None:
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    torch.use_deterministic_algorithms(on, warn_only=warn_only)
    try:
        trained()
        assert torch.are_deterministic_algorithms_enabled() is on
        assert torch.is_deterministic_algorithms_warn_only_enabled() is warn_only
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == workspace


def test_the_loss_falls_and_every_epoch_is_recorded() -> None:
    history = fit(
        build(), data(200), epochs=15, batch_size=50, learning_rate=1e-2, progress=False,
        accelerator="cpu",
    )  # fmt: skip
    assert len(history) == 15
    assert [row["epoch"] for row in history] == list(range(1, 16))
    terms = {"loss", "distortion", "kl", "divergence"}
    assert set(history[0]) == terms | {"step", "epoch", "learning_rate", "schedule", "seconds"}
    assert history[-1]["distortion"] < history[0]["distortion"] - 0.1


@pytest.mark.parametrize(("rows", "sizes"), [(2, [2]), (41, [20, 20]), (59, [20, 20])])
def test_no_batch_is_short(rows: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fill a batch waits for another epoch; all rows may be one batch."""
    seen: list[int] = []
    terms = VAE.terms

    def spy(self: VAE, x: torch.Tensor, *draws: torch.Tensor) -> ForwardOutput:
        seen.append(len(x))
        return terms(self, x, *draws)

    monkeypatch.setattr(VAE, "terms", spy)
    weights = trained(rows, epochs=2)
    assert seen == 2 * sizes
    assert all(parameter.isfinite().all() for parameter in weights)


@pytest.mark.parametrize(
    ("rows", "epochs", "batch_size"), [(1, 1, 20), (10, 0, 20), (10, 1, 1), (0, 1, 20)]
)
def test_refuses_what_cannot_be_trained(rows: int, epochs: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match="training needs"):
        fit(build(), data(rows), epochs=epochs, batch_size=batch_size)


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_refuses_a_seed_that_would_collide(seed: int) -> None:
    with pytest.raises(ValueError, match="between 0 and 2\\^31 - 1"):
        fit(build(), data(10), epochs=1, seed=seed)


def test_counts_non_finite_rows() -> None:
    x = data(10)
    x[3, 1] = torch.nan
    x[7] = torch.inf
    with pytest.raises(ValueError, match="2 of 10 rows are not finite"):
        fit(build(), x, epochs=1)


def test_the_terminal_shows_the_weights_and_one_bar() -> None:
    """In a fresh process, where Lightning logs to the real stderr, with cores to advise about."""
    code = """
import os
os.sched_getaffinity = lambda _: set(range(16))
import torch
from vae import VAE, GaussianLikelihood, InfoVAE, StandardNormal, mlp
from vae.training import fit
model = VAE(mlp(5, 4), mlp(2, 5), GaussianLikelihood(), InfoVAE(), StandardNormal(2))
rows = 3 * torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 5)
fit(model, rows, epochs=3, batch_size=20, accelerator="cpu")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == build().weights() + "\n"
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]
    bar = re.compile(r"training: +\d+%\|[^|]*\| \d/3 \[[^\]]*\] *")
    assert [line for line in lines if not bar.fullmatch(line)] == []
    assert "3/3" in lines[-1]


def test_ctrl_c_says_how_far_it_got(monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job may ignore it
    steps = 0
    terms = VAE.terms

    def interrupted(self: VAE, x: torch.Tensor, *draws: torch.Tensor) -> ForwardOutput:
        nonlocal steps
        steps += 1
        if steps == 5:  # three steps to an epoch
            os.kill(os.getpid(), signal.SIGINT)
        return terms(self, x, *draws)

    monkeypatch.setattr(VAE, "terms", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt, match=r"after 1 of 5 epochs \(step 5 of 15\)$"):
            trained(60, epochs=5)
        assert steps == 5
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, inherited)


def test_a_diverged_training_says_so() -> None:
    model = VAE(
        mlp(4, 4), mlp(2, 4), GaussianLikelihood(1e-300), InfoVAE(), prior=StandardNormal(2)
    )
    with pytest.raises(
        ValueError, match=r"diverged: distortion is not finite in step 1 \(epoch 1; .*try"
    ):
        fit(model, torch.rand(20, 4), epochs=2, progress=False, accelerator="cpu")
