"""The steps against plain loops of PyTorch, the draws, the rows, the held-out loss."""

import copy
import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.loggers import CSVLogger
from torch import Tensor, nn

from vae import (
    VAE,
    AdversarialKL,
    BernoulliLikelihood,
    CodeCritic,
    GaussianLikelihood,
    LearnedGaussian,
    Objective,
    StandardNormal,
    TotalCorrelation,
    WassersteinCritic,
    WeightedKL,
)
from vae.data import Data
from vae.objectives import Anneal
from vae.objectives.divergences import mmd, sliced
from vae.training import fit
from vae.training.arguments import check_networks
from vae.training.batches import Batches, Plan, Rows
from vae.training.heldout import MOST_ROWS, HeldOut, most_rows
from vae.training.losses import Losses
from vae.training.rng import Stream, generator, seed_of

N, BATCH, EPOCHS, RATE = 17, 5, 2, 1e-2


def rows(n: int = N) -> Tensor:
    return torch.rand(n, 5, generator=torch.Generator().manual_seed(0))


def build(objective: Objective, **parts: nn.Module) -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        defaults: dict[str, nn.Module] = {
            "encoder": nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)),
            "decoder": nn.Linear(2, 5),
            "likelihood": GaussianLikelihood(learned=True),
            "prior": LearnedGaussian(2),
        }
        return VAE(objective=objective, **(defaults | parts))


def train(model: VAE, **options: object) -> list[dict[str, float]]:
    settings = {
        "epochs": EPOCHS, "batch_size": BATCH, "learning_rate": RATE, "seed": 7,
        "accelerator": "cpu", "progress": False,
    }  # fmt: skip
    return fit(model, rows(), **(settings | options))


def assert_same(model: VAE, expected: VAE) -> None:
    for (name, a), b in zip(
        model.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


def batches() -> list[Tensor]:
    return list(Batches(Rows.of(rows(), None), Plan(N, BATCH, EPOCHS), seed=7))


def draws(model: VAE, step: int, part: int = 0) -> tuple[Tensor, Tensor]:
    source = generator("cpu", seed_of(7, Stream.NOISE, step, part))
    noise = torch.randn(BATCH, 2, generator=source)
    return noise, model.prior.sample(BATCH, generator=source, like=noise)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("nadam", torch.optim.NAdam),
        ("radam", torch.optim.RAdam),
    ],
)
def test_optimizers_and_clipping_without_decay(
    name: str, make: Callable[..., torch.optim.Optimizer]
) -> None:
    model = build(Objective(WeightedKL(1.0), mmd, 5.0))
    expected = copy.deepcopy(model)
    history = train(model, optimizer=name, decay="none", clip_norm=0.1)
    optimizer = make(expected.parameters(), lr=RATE)
    for step, x in enumerate(batches()):
        optimizer.zero_grad()
        expected.objective(expected.terms(x, *draws(expected, step)), step).total.backward()
        assert nn.utils.clip_grad_norm_(expected.parameters(), 0.1) > 0.1
        optimizer.step()
    assert_same(model, expected)
    assert [row["learning_rate"] for row in history] == [RATE, RATE]


def test_loggers_and_callbacks_see_every_check(tmp_path: Path) -> None:
    seen: list[object] = []

    class Callback:
        def on_check(self, model: VAE, row: dict[str, float]) -> None:
            seen.append((model, row))

        def on_train_end(self, model: VAE) -> None:
            seen.append(model)

    model = build(Objective(WeightedKL(1.0), mmd, 5.0))
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    history = train(model, loggers=[logger], callbacks=[Callback()])
    assert seen == [(model, history[0]), (model, history[1]), model]
    with next(tmp_path.rglob("metrics.csv")).open(newline="") as file:
        logged = [
            {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)
        ]
    assert logged == [pytest.approx(row) for row in history]


def test_a_training_is_adam_with_a_cosine_on_the_loss() -> None:
    model = build(Objective(WeightedKL(Anneal(0.0, 1.0, 4)), mmd, 5.0))
    expected = copy.deepcopy(model)
    history = train(model)
    optimizer = torch.optim.Adam(expected.parameters(), lr=RATE)
    steps = EPOCHS * (N // BATCH)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for step, x in enumerate(batches()):
        loss = expected.objective(expected.terms(x, *draws(expected, step)), step).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(loss.item())
    assert_same(model, expected)
    for row, first in zip(history, (0, 3), strict=True):
        assert row["loss"] == pytest.approx(sum(losses[first : first + 3]) / 3, rel=1e-6)
        assert row["schedule"] == min(row["step"] / 4, 1)
    assert history[0]["learning_rate"] == pytest.approx(RATE / 2)
    assert history[1]["learning_rate"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "objective",
    [
        lambda: Objective(WeightedKL(0.1), CodeCritic(2), 2.0),
        lambda: Objective(WeightedKL(0.1), WassersteinCritic(2, "clip", (8,)), 2.0),
        lambda: Objective(WeightedKL(0.1), WassersteinCritic(2, hidden=(8,)), 2.0),
        lambda: Objective(AdversarialKL(5, 2)),
    ],
    ids=["code", "clip", "penalty", "avb"],
)
def test_critics_step_after_the_autoencoder_on_draws_of_their_own(
    objective: Callable[[], Objective],
) -> None:
    model = build(objective())
    expected = copy.deepcopy(model)
    history = train(model, critic_steps=2, critic_learning_rate=3e-3)
    critics = {id(p) for p in expected.objective.parameters()}
    assert critics
    ours = [p for p in expected.parameters() if id(p) not in critics]
    theirs = list(expected.objective.parameters())
    first = torch.optim.Adam(ours, lr=RATE)
    second = torch.optim.Adam(theirs, lr=3e-3, betas=(0.5, 0.999))
    steps = EPOCHS * (N // BATCH)
    losses = []
    state = torch.get_rng_state()
    for step, x in enumerate(batches()):
        first.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
        loss = expected.objective(expected.terms(x, *draws(expected, step)), step).total
        gradients = torch.autograd.grad(loss, ours, allow_unused=True)
        for p, g in zip(ours, gradients, strict=True):
            p.grad = g
        first.step()
        for part in (1, 2):
            terms = expected.terms(x, *draws(expected, step, part))
            torch.manual_seed(seed_of(7, Stream.OBJECTIVE, step, part))  # of points in between
            critic_loss = expected.objective.critic_loss(terms)
            gradients = torch.autograd.grad(critic_loss, theirs, allow_unused=True)
            for p, g in zip(theirs, gradients, strict=True):
                p.grad = g
            second.step()
            expected.objective.after_critic_step()
        losses.append(critic_loss.item())
    torch.set_rng_state(state)
    assert_same(model, expected)
    assert history[-1]["critic_loss"] == pytest.approx(sum(losses[3:]) / 3, rel=1e-5)


def test_clipped_weights_leave_a_training_clipped() -> None:
    critic = WassersteinCritic(2, "clip", (8,))
    assert max(float(p.detach().abs().max()) for p in critic.parameters()) > critic.CLIP
    train(build(Objective(WeightedKL(0.1), critic, 2.0)))
    assert max(float(p.detach().abs().max()) for p in critic.parameters()) <= critic.CLIP


def dropout_masks(model: VAE, run: Callable[[], object]) -> list[Tensor]:
    """Of every pass of the encoder in training mode."""
    masks: list[Tensor] = []

    def keep(module: nn.Module, _: object, output: Tensor) -> None:
        if module.training:
            masks.append(output != 0)

    hook = model.encoder[1].register_forward_hook(keep)
    run()
    hook.remove()
    return masks


def test_dropout_differs_from_step_to_step() -> None:
    encoder = nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.5), nn.Linear(40, 4))
    model = build(Objective(WeightedKL(1.0), CodeCritic(2)), encoder=encoder)
    masks = dropout_masks(model, lambda: train(model))
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == len(masks) == 2 * 6


def test_dropout_differs_from_process_to_process() -> None:
    """With two shards of a batch, one after the other, in the place of two processes."""
    encoder = nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.5), nn.Linear(40, 4))
    model = build(Objective(WeightedKL(1.0)), encoder=encoder)
    masks = []
    for rank in (0, 1, 0):
        losses = Losses(model, batch_size=4, seed=7, rank=rank)
        with torch.random.fork_rng():
            masks += dropout_masks(model, lambda losses=losses: losses(rows(2), 0))
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], masks[1])


def test_every_epoch_is_a_permutation_and_processes_share_each_batch() -> None:
    data = Rows.of(torch.arange(23.0).reshape(-1, 1), None)
    plan = Plan(23, 6, 2)
    whole = list(Batches(data, plan, seed=1))
    assert [len(x) for x in whole] == 6 * [6]
    first, second = (torch.cat(whole[i : i + 3]).flatten().tolist() for i in (0, 3))
    assert len(set(first)) == len(set(second)) == 18
    assert first != second
    late = list(Batches(data, plan, seed=1, start=4))
    assert all(torch.equal(a, b) for a, b in zip(late, whole[4:], strict=True))
    shards = [Batches(data, plan, seed=1, rank=rank, world_size=2) for rank in (0, 1)]
    for x, *parts in zip(whole, *shards, strict=True):
        assert torch.equal(torch.cat(parts), x)
    other = list(Batches(data, plan, seed=2))
    assert not torch.equal(other[0], whole[0])


def test_bytes_are_binarised_anew_at_every_step_and_the_same_again() -> None:
    grey = torch.full((8, 4), 128, dtype=torch.uint8)
    binary = (grey > 0).to(torch.uint8) * 255
    data = Data("grey", grey, binary, (4,), binarise="dynamic")
    plan = Plan(8, 8, 3)
    once, twice = (list(Batches(Rows.of(data, None), plan, seed=1)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    assert set(torch.cat(once).unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(once[0].sum(0), once[1].sum(0))
    model = build(
        Objective(WeightedKL(1.0)), likelihood=BernoulliLikelihood(),
        encoder=nn.Linear(4, 4), decoder=nn.Linear(2, 4),
    )  # fmt: skip
    state = torch.get_rng_state()
    history = fit(model, data, epochs=2, batch_size=4, accelerator="cpu", progress=False)
    assert history[-1]["heldout_distortion"] > 0
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("other", [{"step": 1}, {"part": 1}, {"rank": 1}, {"seed": 1}])
def test_seeds_of_different_uses_differ(other: dict[str, int]) -> None:
    base = {"seed": 0, "step": 0, "part": 0, "rank": 0}
    seeds = {seed_of(stream=stream, **base) for stream in Stream}
    assert len(seeds) == len(Stream)
    assert seed_of(stream=Stream.NOISE, **(base | other)) not in seeds


def test_the_heldout_loss_does_not_depend_on_the_schedule() -> None:
    """At every check it has the weights of the schedule's end, and it is always the same draws."""
    model = build(Objective(WeightedKL(Anneal(5.0, 0.5, 6))))
    history = train(model, heldout=rows(9), check_every=2)
    assert len(history) == 3
    for row in history:
        expected = row["heldout_distortion"] + 0.5 * row["heldout_kl"]
        assert row["heldout_loss"] == pytest.approx(expected, rel=1e-6)


def test_the_heldout_loss_has_the_same_draws_at_every_check() -> None:
    """Also those that a divergence takes from torch's global generator."""
    model = build(Objective(WeightedKL(1.0), sliced, 5.0))
    frozen = train(model, heldout=rows(9), learning_rate=1e-12, epochs=3)
    assert len({row["heldout_loss"] for row in frozen}) == 1
    assert len({row["divergence"] for row in frozen}) == 3


def test_heldout_rows_are_one_batch_in_evaluation_mode() -> None:
    model = build(
        Objective(WeightedKL(0.0), mmd, 5.0),
        encoder=nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5)),
        prior=StandardNormal(2),
    )
    model.encoder[0].eval()  # one mode by hand
    modes = [module.training for module in model.modules()]
    look = HeldOut(rows(MOST_ROWS + 50), batch_size=64, seed=3)
    settings = {"device": torch.device("cpu"), "dtype": torch.float32}
    terms, loss = look(model, **settings, context=torch.no_grad())
    assert modes == [module.training for module in model.modules()]
    assert len(terms.z) == MOST_ROWS
    assert len(terms.x.unique(dim=0)) == MOST_ROWS
    model.eval()
    again = model.terms(
        terms.x, (terms.z - terms.mean) / (0.5 * terms.log_variance).exp(), terms.prior_sample
    )
    torch.testing.assert_close(again.distortion, terms.distortion, rtol=1e-4, atol=1e-4)
    expected = terms.distortion.mean() + 5 * mmd(terms.z, terms.prior_sample)
    torch.testing.assert_close(loss.total, expected)


def test_the_total_correlation_looks_at_fewer_rows() -> None:
    """Its matrices [B, B, M] stay below 10⁷ numbers."""
    wide = build(
        Objective(TotalCorrelation()), encoder=nn.Linear(5, 128), decoder=nn.Linear(64, 5),
        prior=StandardNormal(64),
    )  # fmt: skip
    assert most_rows(wide) ** 2 * 64 <= 10**7 < (most_rows(wide) + 1) ** 2 * 64
    assert most_rows(build(Objective(WeightedKL(1.0)))) == 2000


def test_modes_and_generators_are_left_alone() -> None:
    model = build(
        Objective(WeightedKL(1.0)), encoder=nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5))
    )
    model.encoder[1].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    train(model, heldout=rows(9))
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("given", [None, 40])
def test_the_total_correlation_takes_the_size_of_each_data_set(given: int | None) -> None:
    """Unless it was given one; and it forgets it, so that no other data inherit it."""
    rate = TotalCorrelation(n_data=given)
    model = build(Objective(rate))
    for n in (N, 30):
        seen: list[int | None] = []
        hook = rate.register_forward_pre_hook(lambda *_, seen=seen: seen.append(rate.n_data))
        fit(model, rows(n), epochs=1, batch_size=BATCH, accelerator="cpu", progress=False)
        hook.remove()
        assert set(seen) == {given or n}
        assert rate.n_data == given


def test_a_schedule_that_cannot_finish_is_said() -> None:
    message = r"2 → 1 in 10 steps \(linear\) ends 4 steps after .* takes 6: .* for 4 epochs"
    with pytest.warns(UserWarning, match=message):
        train(build(Objective(WeightedKL(Anneal(2.0, 1.0, 10)))))


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train(precision: str) -> None:
    weights = []
    for chosen in ("32-true", precision):
        model = build(Objective(WeightedKL(0.5), mmd, 5.0))
        history = train(model, precision=chosen, heldout=rows(9))
        weights.append(model.encoder[0].weight.detach().double())
        assert math.isfinite(history[-1]["heldout_loss"])
    start = build(Objective(WeightedKL(0.5))).encoder[0].weight.detach().double()
    if precision == "bf16-mixed":  # the draws are the same, so is the way
        assert float((weights[1] - weights[0]).norm() / (weights[0] - start).norm()) < 0.1
    else:
        assert model.encoder[0].weight.dtype == torch.float64


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch's own
def test_compiled_terms_train_the_same(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters

    model = build(Objective(WeightedKL(0.5), CodeCritic(2), 3.0))
    expected = copy.deepcopy(model)
    train(expected)
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compile_(f, backend=backend, fullgraph=True))
    torch._dynamo.reset()
    counters.clear()
    train(model, compile=True)
    assert counters["stats"]["unique_graphs"] >= 1
    assert_same(model, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0, "heldout": rows(4)}, "patience must be at least 1, got 0"),
        ({"patience": 2}, "patience needs held-out rows"),
        ({"check_every": 0}, "check_every must be at least 1, got 0"),
        ({"critic_steps": 0}, "critic_steps must be at least 1, got 0"),
        ({"resume": True}, "need a folder"),
        ({"heldout": torch.zeros(4, 6)}, r"2 or more of shape \[5\] each, got \[4, 6\]"),
        ({"heldout": torch.full((4, 5), math.nan)}, "4 of 4 rows are not finite"),
        ({"accelerator": "abacus"}, "abacus"),
    ],
    ids=["patience", "heldout", "checks", "critics", "folder", "shape", "finite", "device"],
)
def test_arguments_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(build(Objective(WeightedKL(1.0))), **options)


@pytest.mark.parametrize(
    "bad", [torch.zeros(9, 5, dtype=torch.uint8), torch.zeros(9)], ids=["bytes", "flat"]
)
def test_rows_that_are_no_rows_of_floats(bad: Tensor) -> None:
    with pytest.raises(ValueError, match=r"rows must be floats \[N, …\]"):
        fit(build(Objective(WeightedKL(1.0))), bad, epochs=1)


# --- What rows come as ---


@pytest.mark.parametrize("width", [torch.float16, torch.bfloat16, torch.float64])
def test_rows_of_any_width_train_a_model_in_its_own(width: torch.dtype) -> None:
    given = rows().to(width)
    options = {"epochs": 1, "batch_size": BATCH, "accelerator": "cpu", "progress": False}
    model, expected = (build(Objective(WeightedKL(1.0))) for _ in range(2))
    found = fit(model, given, heldout=given[:4], **options)
    wanted = fit(expected, given.float(), heldout=given[:4].float(), **options)
    assert all(map(torch.equal, model.parameters(), expected.parameters()))
    assert found[-1]["heldout_loss"] == wanted[-1]["heldout_loss"]


@pytest.mark.parametrize("width", [torch.float32, torch.float64])
def test_a_model_in_fp64_trains_in_fp64(width: torch.dtype) -> None:
    model = build(Objective(WeightedKL(1.0))).double()
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    history = fit(
        model, rows().to(width), heldout=rows(4), epochs=1, batch_size=BATCH, accelerator="cpu",
        progress=False,
    )  # fmt: skip
    assert set(seen) == {torch.float64}
    assert math.isfinite(history[-1]["heldout_loss"])


def test_a_training_in_fp64_sees_rows_in_fp64() -> None:
    """In full: 1 + 10⁻¹² is 1 in fp32."""
    seen: list[Tensor] = []
    model = build(Objective(WeightedKL(1.0)))
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    fine = torch.full((4, 5), 1 + 1e-12, dtype=torch.float64)
    fit(
        model, fine, heldout=fine, epochs=1, batch_size=2, precision="64-true", accelerator="cpu",
        progress=False,
    )  # fmt: skip
    assert all(torch.equal(x, fine[: len(x)]) for x in seen[1:])  # after the look at two rows
    assert len(seen) > 3


def test_numpy_arrays_are_rows(tmp_path: Path) -> None:
    """Also read-only, reversed and wide ones."""
    array = rows().double().numpy()[::-1]
    array.flags.writeable = False
    folder = str(tmp_path / "run")
    options = {"epochs": 1, "batch_size": BATCH, "accelerator": "cpu", "progress": False}
    model, expected = (build(Objective(WeightedKL(1.0))) for _ in range(2))
    fit(model, array, heldout=np.ascontiguousarray(array[:4]), folder=folder, **options)
    fit(expected, rows().flip(0), **options)
    assert all(map(torch.equal, model.parameters(), expected.parameters()))
    assert (tmp_path / "run" / "metrics.csv").exists()


def test_a_training_within_inference_mode() -> None:
    model, expected = (build(Objective(WeightedKL(1.0), mmd)) for _ in range(2))
    train(expected, heldout=rows(9))
    with torch.inference_mode():
        train(model, heldout=rows(9))
        assert torch.is_inference_mode_enabled()
        frozen = build(Objective(WeightedKL(1.0)))
    assert all(map(torch.equal, model.parameters(), expected.parameters()))
    with pytest.raises(ValueError, match=r"made within torch.inference_mode\(\)"):
        train(frozen)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"encoder": nn.Linear(6, 4)}, r"encoder cannot take rows of shape \[5\]: mat1 and mat2"),
        (
            {"decoder": nn.Linear(3, 5)},
            r"decoder cannot take codes of shape \[2\] for rows of shape \[5\]: mat1 and mat2",
        ),
    ],
    ids=["encoder", "decoder"],
)
def test_networks_of_other_widths_are_named(
    parts: dict[str, nn.Module], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        train(build(Objective(WeightedKL(1.0)), **parts), folder=tmp_path / "run")
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert not (tmp_path / "run").exists()


def test_the_look_at_two_rows_changes_nothing() -> None:
    encoder = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 4))
    model = build(Objective(WeightedKL(1.0)), encoder=encoder)
    encoder[1].eval()
    modes = [module.training for module in model.modules()]
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    check_networks(model, Rows.of(rows(), None))
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(state, torch.get_rng_state())


def test_fewer_rows_than_a_batch_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    train(build(Objective(WeightedKL(1.0))), batch_size=100)
    assert capsys.readouterr().err.count("warning: batch_size 100 > 17 rows: 17 are used\n") == 1
    train(build(Objective(WeightedKL(1.0))), batch_size=17)
    assert "batch_size" not in capsys.readouterr().err


def test_rows_outside_the_support(tmp_path: Path) -> None:
    model = build(Objective(WeightedKL(1.0)), likelihood=BernoulliLikelihood())
    with pytest.raises(ValueError, match=r"Bernoulli likelihood needs values in \[0, 1\]"):
        fit(model, 2 * rows(), epochs=1, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
