"""What a user is told while it goes wrong, and what is left on the disk."""

import math
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vae import VAE, BernoulliLikelihood, GaussianLikelihood, Objective, StandardNormal, WeightedKL
from vae.diagnostics import collapsed, off_prior
from vae.forward_output import ForwardOutput
from vae.objectives.divergences import mmd
from vae.training import TrainingDiverged, fit, read_metrics
from vae.training.alarms import STREAK, WARM_UP_STEPS, Alarms
from vae.training.checkpoints import read_checkpoint
from vae.training.means import RunningMeans
from vae.training.metrics import append_metrics, write_metrics


def rows(n: int = 20) -> Tensor:
    return torch.rand(n, 5, generator=torch.Generator().manual_seed(0))


def build(beta: float = 1.0, weight: float = 0.0) -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VAE(
            nn.Linear(5, 4), nn.Linear(2, 5), GaussianLikelihood(),
            Objective(WeightedKL(beta), mmd, weight), StandardNormal(2),
        )  # fmt: skip


def train(model: VAE, **options: object) -> list[dict[str, float]]:
    settings = {"epochs": 4, "batch_size": 5, "accelerator": "cpu", "progress": False}
    return fit(model, rows(), **(settings | options))


def terms_of(mean: Tensor, log_variance: Tensor) -> ForwardOutput:
    """Of given codes [B, M]."""
    encoder = nn.Identity()
    model = VAE(
        encoder, nn.Linear(mean.shape[1], 1), BernoulliLikelihood(), Objective(WeightedKL(1.0)),
        StandardNormal(mean.shape[1]),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    noise, prior = (torch.randn(mean.shape, generator=generator) for _ in range(2))
    model.likelihood.log_prob = lambda x, _: x.new_zeros(len(x))
    return model.terms(torch.cat([mean, log_variance], 1), noise, prior)


# --- Alarms ---------------------------------------------------------------------------------------


def collapse_of(terms: ForwardOutput) -> str | None:
    return collapsed(terms.kl, terms.kl_per_dimension)


def off_of(terms: ForwardOutput) -> str | None:
    return off_prior(terms.z, terms.prior_sample)


def test_a_collapsed_posterior_is_recognised() -> None:
    """μ = 0 and σ = 1 for all x is KL 0; μ = ±1 in one of eight dimensions is ½ nat in it."""
    zero = torch.zeros(500, 8)
    said = collapse_of(terms_of(zero, zero))
    assert said is not None
    assert said.startswith("the posterior has collapsed: KL(q(z|x)‖p(z)) = 0 nats; lower β")
    some = zero.clone()
    some[:, 3] = torch.tensor([1.0, -1.0]).repeat(250)
    said = collapse_of(terms_of(some, zero))
    assert said is not None
    assert said.startswith("7 of 8 latent dimensions carry less than 0.01 nats (KL 0.5 in all)")
    some[:, :3] = some[:, 3:4]
    assert collapse_of(terms_of(some, zero)) is None


def test_codes_off_the_prior_are_recognised() -> None:
    """KL of Gaussians ½(r + d² − 1 − log r): d = 2 is 2 nats, r = e⁻² is ½(e⁻² + 1) = .57."""
    zero, small = torch.zeros(4000, 3), torch.full((4000, 3), -9.0)
    on = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1))
    assert off_of(terms_of(on, small)) is None
    assert off_of(terms_of(zero, zero)) is None
    said = off_of(terms_of(on + torch.tensor([0.0, 2.0, 0.0]), small))
    assert said is not None
    assert said.startswith("q(z) is off the prior by 0.6")  # two nats over three dimensions
    assert "dimension 1: mean 2 against" in said
    assert off_of(terms_of(on / math.e, small)) is not None
    assert off_of(terms_of(on * 0.6, small)) is None
    assert off_of(terms_of(on[:40] / math.e, small[:40])) is None  # too few to tell


def test_an_alarm_waits_and_is_said_once() -> None:
    said: list[str] = []
    zero = torch.zeros(50, 2)
    bad, good = terms_of(zero, zero), terms_of(zero + torch.tensor([1.0, -1.0]), zero)
    alarms = Alarms(said.append, n_steps=100, schedule_steps=300)
    for step in range(0, 301, 50):  # a schedule is still on its way
        alarms.check(bad, step)
    assert said == []
    for step in range(301, 301 + STREAK - 1):
        alarms.check(bad, step)
    alarms.check(good, 400)  # it came back
    for step in range(500, 500 + 3 * STREAK):
        alarms.check(bad, step)
    assert len(said) == 1
    assert said[0].startswith(f"step {500 + STREAK - 1}: the posterior has collapsed")
    again = Alarms(said.append, n_steps=100, schedule_steps=0)
    again.load_state_dict(alarms.state_dict())  # a resumed run does not repeat it
    again.check(bad, 600)
    assert len(said) == 1


def test_what_the_last_check_found_is_said_at_the_end() -> None:
    """However short the run was, unless it has been said, or was good again."""
    zero = torch.zeros(50, 2)
    bad, good = terms_of(zero, zero), terms_of(zero + torch.tensor([1.0, -1.0]), zero)
    for checks, expected in (((bad,), 1), ((good, bad), 1), ((bad, good), 0), ((), 0)):
        said: list[str] = []
        alarms = Alarms(said.append, n_steps=10, schedule_steps=0)
        for step, terms in enumerate(checks):
            alarms.check(terms, step)
        assert said == []
        alarms.finish()
        assert len(said) == expected
        alarms.finish()
        assert len(said) == expected
    long = Alarms(said.append, n_steps=10, schedule_steps=0)
    for step in range(1000, 1000 + STREAK):
        long.check(bad, step)
    long.finish()
    assert len(said) == 1


@pytest.mark.parametrize("patience", [None, 1])
def test_a_short_training_says_that_its_codes_are_off_the_prior(
    patience: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build(beta=0.0)
    with torch.no_grad():
        model.encoder.bias[:2] += 2
    train(model, heldout=rows(60), learning_rate=1e-9, epochs=3, patience=patience)
    (line,) = capsys.readouterr().err.splitlines()
    last = 12 if patience is None else 8
    assert line.startswith(f"warning: step {last}: q(z) is off the prior by ")


def test_an_autoencoder_without_a_prior_is_not_warned_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = build(beta=0.0)
    model.objective = Objective(WeightedKL(0.0))
    with torch.no_grad():
        model.encoder.bias[:2] += 2
    train(model, heldout=rows(60), learning_rate=1e-9, epochs=3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("heldout", [None, rows(9)], ids=["batch", "heldout"])
def test_a_training_says_that_it_collapsed(
    heldout: Tensor | None, capsys: pytest.CaptureFixture[str]
) -> None:
    train(build(beta=100.0), epochs=80, learning_rate=0.05, heldout=heldout)
    lines = capsys.readouterr().err.splitlines()
    step = WARM_UP_STEPS + 4 * STREAK  # a check every four steps
    assert [line for line in lines if line.startswith(f"warning: step {step}: the posterior")]
    assert len(lines) == 1


# --- Divergence -----------------------------------------------------------------------------------


def spoil(model: VAE, step: int, part: str) -> None:
    """From a step (numbered from 1) on, codes or reconstructions are NaN in training."""
    calls = 0

    def nan(module: nn.Module, _: object, output: Tensor) -> Tensor:
        nonlocal calls
        calls += module.training
        return output * math.nan if module.training and calls >= step else output

    getattr(model, part).register_forward_hook(nan)


@pytest.mark.parametrize(
    ("part", "named"),
    [("decoder", "distortion is not finite in step 6 .epoch 2; .*kl 0"), ("encoder", "kl nan")],
)
def test_nan_is_named_with_its_step_and_the_checkpoint_stays(
    part: str, named: str, tmp_path: Path
) -> None:
    model = build(weight=3.0)
    spoil(model, 6, part)
    with pytest.raises(TrainingDiverged, match=named) as caught:
        train(model, folder=tmp_path, heldout=rows(9))
    assert "divergence" in str(caught.value)
    assert "try a smaller λ or learning rate" in str(caught.value)
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert checkpoint["vae_training"]["step"] == 4
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv")] == [4]


def test_a_gradient_that_is_not_finite_in_the_last_step(tmp_path: Path) -> None:
    model, calls = build(), 0

    def nan(gradient: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return gradient * math.nan if calls == 16 else gradient

    model.decoder.weight.register_hook(nan)
    message = r"the parameter decoder.weight is not finite after step 16 \(epoch 4\)"
    with pytest.raises(TrainingDiverged, match=message):
        train(model, folder=tmp_path)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["vae_training"]["step"] == 12


def test_a_held_out_loss_that_is_not_finite(tmp_path: Path) -> None:
    model = build()
    model.encoder.register_forward_hook(
        lambda module, _, output: output if module.training else output * math.nan
    )
    with pytest.raises(TrainingDiverged, match="heldout_loss is nan after step 4"):
        train(model, folder=tmp_path, heldout=rows(9))
    assert not (tmp_path / "checkpoints").exists()


def test_a_watch_averages_and_survives_saving() -> None:
    watch = RunningMeans()
    for step in range(3):
        watch.add({"loss": torch.tensor(float(step)), "kl": torch.tensor(2.0)}, step)
    loaded = RunningMeans()
    loaded.load_state_dict(watch.state_dict())
    for each in (watch, loaded):
        each.add({"loss": torch.tensor(9.0), "kl": torch.tensor(2.0)}, 3)
        assert each.means().tolist() == [3.0, 2.0]
        assert not each.bad
    watch.add({"loss": torch.tensor(math.inf), "kl": torch.tensor(math.inf)}, 4)
    watch.add({"loss": torch.tensor(math.nan), "kl": torch.tensor(1.0)}, 5)
    assert watch.bad
    assert "kl is not finite in step 5 (epoch 3; loss inf: kl inf)" in str(watch.diverged(2))


# --- Files, signals -------------------------------------------------------------------------------


def test_metrics_without_their_torn_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = [{"step": 4.0, "loss": 0.1 + 0.2}, {"step": 8.0, "loss": -1e-30}]
    assert read_metrics(path) == []
    for row in table:
        append_metrics(path, row)
    assert path.read_text() == "step,loss\n4,0.30000000000000004\n8,-1e-30\n"
    for torn in ("1", "12", "12,", "12,0.25,7"):
        path.write_text(f"step,loss\n4,0.30000000000000004\n8,-1e-30\n{torn}")
        assert read_metrics(path) == table
    assert read_metrics(path, up_to=7) == table[:1]
    write_metrics(path, table[:1])
    append_metrics(path, table[1])
    assert read_metrics(path) == table


def test_metrics_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot write the metrics \(.*m.csv'"):
        append_metrics(tmp_path / "nowhere" / "m.csv", {"step": 1.0})


def test_sigterm_saves_and_exits(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    model, calls = build(), 0

    def terminate(*_: object) -> None:
        nonlocal calls
        calls += model.training
        if calls == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    model.encoder.register_forward_pre_hook(terminate)
    with pytest.raises(SystemExit) as caught:
        train(model, folder=tmp_path)
    assert caught.value.code == 143
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["vae_training"]["step"] == 6
    assert signal.getsignal(signal.SIGTERM) is handler


def test_live_plots_are_drawn(tmp_path: Path) -> None:
    train(build(weight=1.0), folder=tmp_path, heldout=rows(9), live_plots=True)
    picture = (tmp_path / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock", "checkpoints", "curves.png", "metrics.csv",
    ]  # fmt: skip


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / ".last.ckpt.a1b2").touch()
    train(build(), folder=tmp_path)
    assert [path.name for path in checkpoints.iterdir()] == ["last.ckpt"]
