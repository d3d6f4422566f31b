"""Settings: refusals, round trips, and what is filled in from the data."""

import dataclasses

import pytest
import torch

from vae import ConvCritic
from vae.build import build_model, build_objective, resolve
from vae.config import Config
from vae.data import Data
from vae.presets import PRESETS, configure

ROWS = torch.rand(60, 12, generator=torch.Generator().manual_seed(0))
FLAT = Data(name="rows", train=ROWS[:50], heldout=ROWS[50:], shape=(12,))
IMAGES = Data(
    name="images", train=ROWS[:50, :].repeat(1, 3), heldout=ROWS[50:].repeat(1, 3), shape=(1, 6, 6)
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent": 0}, "latent must be at least 1, got 0"),
        ({"batch_size": 1}, "batch-size must be at least 2, got 1"),
        ({"variance": 0.0}, "variance must be positive and finite, got 0.0"),
        ({"seed": 2**31}, "seed must be between 0 and 2\\^31 - 1"),
        ({"divergence": "mdm"}, "divergence must be one of none, mmd, .* got 'mdm'"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"beta": float("nan")}, "beta must be finite, got nan"),
        ({"latent": "ten"}, "latent must be an integer, got 'ten'"),
        ({"latent": 2.5}, "latent must be an integer, got 2.5"),
        ({"latent": True}, "latent must be an integer, got True"),
        ({"compile": 1}, "compile must be true or false, got 1"),
        ({"width": 3}, "unknown settings: width"),
        ({"alpha": 0.5, "beta": 0.5}, "alpha or beta"),
        ({"lambda_": 5.0}, "lambda has no effect here: it needs a divergence"),
        ({"gamma": 5.0}, "gamma has no effect here: it needs rate capacity"),
        ({"levels": 4}, "levels has no effect here: it needs likelihood categorical"),
        ({"divergence": "critic", "lambda_": 2.0, "patience": 3}, "a critic's do not"),
        ({"conv_critics": True}, "conv-critics has no effect here: it needs a critic of the data"),
        ({"cycles": 3}, "cycles has no effect here: it needs schedule cyclical"),
        (
            {"critic_steps": 3},
            "critic-steps has no effect here: it needs an objective with critics",
        ),
        ({"likelihood": "bernoulli", "variance": 0.5}, "variance has no effect .* a Gaussian"),
    ],
)
def test_refusals(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure("vae", **changes)


def test_an_unknown_preset_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown preset 'mmdvae'; did you mean mmd-vae"):
        configure("mmdvae")


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_survive_a_round_trip(preset: str) -> None:
    config = configure(preset, learning_rate=0.25, latent=3).replace(lambda_=12.5)
    values = config.to_dict()
    assert values["lambda"] == 12.5
    assert values["learning_rate"] == 0.25
    assert Config.from_dict(values) == config
    assert config.preset == preset


def test_every_setting_of_a_preset_can_be_overridden() -> None:
    for name, preset in PRESETS.items():
        for setting in preset.settings:
            default = getattr(Config(), setting)
            assert getattr(configure(name, **{setting: default}), setting) == default


def test_every_setting_has_a_help_text() -> None:
    assert all(field.metadata["help"] for field in dataclasses.fields(Config))


def test_several_hidden_layers() -> None:
    model = build_model(resolve(configure(layers="7-5", latent=2), FLAT), FLAT)
    widths = [[m.out_features for m in net if hasattr(m, "out_features")] for net in
              (model.encoder, model.decoder)]  # fmt: skip
    assert widths == [[7, 5, 4], [5, 7, 12]]
    with pytest.raises(ValueError, match="layers must be widths such as 500-300, got '5-'"):
        configure(layers="5-")
    with pytest.raises(ValueError, match="hidden has no effect here: it needs no layers"):
        configure(layers="5", hidden=4)
    with pytest.raises(ValueError, match="layers has no effect here: it needs network mlp"):
        configure(layers="5", network="conv")


def test_alpha_sets_beta() -> None:
    assert configure("infovae", alpha=0.25).beta == 0.75
    assert configure("infovae").alpha == 0


@pytest.mark.parametrize(
    ("preset", "changes", "expected"),
    [
        ("mmd-vae", {}, 12 / 2),  # D/2σ²
        ("mmd-vae", {"variance": 0.5}, 12.0),
        ("mmd-vae", {"divergence": "mmd-normal"}, 12 / 2),
        ("mmd-vae", {"divergence": "energy"}, 12 / 8),
        ("infovae", {"variance": 1.0}, 1 + 12 / 2),  # α+λ−1 = D/2σ²
        ("wae-mmd", {"variance": 0.5}, 200.0),
        ("mmd-vae", {"likelihood": "bernoulli"}, 12.0),  # D: a mean cross entropy
        ("mmd-vae", {"likelihood": "laplace", "scale": 0.5}, 24.0),  # D/b
        ("wae-mmd", {"likelihood": "bernoulli"}, 200.0),
        ("aae", {}, 1.0),
        ("wae-critic", {}, 12 / 8),
        ("mmd-vae", {"lambda_": 7.0}, 7.0),
    ],
)
def test_lambda_is_filled_in(preset: str, changes: dict[str, object], expected: float) -> None:
    assert resolve(configure(preset, **changes), FLAT).lambda_ == pytest.approx(expected)


def test_schedules_take_half_of_the_run() -> None:
    config = configure("beta-anneal", epochs=9, batch_size=20)  # two batches of 20 in 50 rows
    assert resolve(config, FLAT).schedule_steps == 9
    given = configure("beta-anneal", schedule_steps=4)
    assert resolve(given, FLAT).schedule_steps == 4


def test_beta_falls() -> None:
    config = resolve(configure("beta-falling", epochs=9, batch_size=20), FLAT)
    schedule = build_objective(config, FLAT.shape).rate.schedule
    values = [schedule(step) for step in range(10)]
    assert values[0] == 100 and values[-1] == 1
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("data", [FLAT, IMAGES], ids=["flat", "images"])
def test_every_preset_builds_and_has_a_loss(preset: str, data: Data) -> None:
    text = preset == "sentence-vae"
    conv = data is IMAGES and preset != "avb"
    data = dataclasses.replace(FLAT, text=True) if text else data
    network = "gru" if text else "conv" if conv else "mlp"
    config = resolve(configure(preset, latent=2, network=network), data)
    model = build_model(config, data)
    if preset == "beta-tcvae":
        model.objective.rate.n_data = len(data.train)
    loss = model(data.rows("train")[:20], step=0).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None for p in model.autoencoder_parameters())


@pytest.mark.parametrize(
    ("preset", "changes"), [("alpha-gan", {}), ("avb", {"posterior": "gaussian"})]
)
def test_critics_of_images_are_convolutional_where_the_networks_are(
    preset: str, changes: dict[str, object]
) -> None:
    def critic(data: Data, **given: object) -> torch.nn.Module:
        objective = build_model(
            resolve(configure(preset, **changes, **given), data), data
        ).objective
        return (objective.data_critic or objective.rate).critic

    assert isinstance(critic(IMAGES, network="conv"), ConvCritic)
    assert isinstance(critic(IMAGES, conv_critics=True), ConvCritic)
    assert not isinstance(critic(IMAGES), ConvCritic)
    assert not isinstance(critic(IMAGES, network="conv", conv_critics=False), ConvCritic)
    with pytest.raises(ValueError, match="convolutions need images"):
        critic(FLAT, conv_critics=True)
    # runs of before, whose settings do not say it, were trained with mlps
    old = configure(preset, **changes, network="conv")
    objective = build_model(old.replace(lambda_=1.0), IMAGES).objective
    assert not isinstance((objective.data_critic or objective.rate).critic, ConvCritic)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    def first(seed: int) -> torch.Tensor:
        return next(build_model(resolve(configure(seed=seed), FLAT), FLAT).parameters())

    state = torch.get_rng_state()
    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "conv"}, "convolutions need images, .* shape \\(12,\\)"),
        ({"posterior": "deterministic", "beta": 1.0}, "needs the density of q"),
        ({"prior": "mixture", "divergence": "mmd-normal"}, "distance to N\\(0, I\\)"),
        ({"lambda_": -1.0}, "alpha \\+ lambda - 1 must be at least 0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(resolve(configure("mmd-vae", **changes), FLAT), FLAT)


@pytest.mark.parametrize(
    ("changes", "channels"),
    [
        ({"likelihood": "gaussian-pixel"}, 2),
        ({"likelihood": "bernoulli"}, 1),
        ({"likelihood": "categorical", "levels": 5}, 5),
        ({"likelihood": "laplace"}, 1),
    ],
)
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_decoders_return_what_the_likelihood_needs(
    changes: dict[str, object], channels: int, network: str
) -> None:
    config = resolve(configure("vae", network=network, **changes), IMAGES)
    model = build_model(config, IMAGES)
    assert model.likelihood.channels == channels
    x = IMAGES.rows("train")[:4]
    assert model(x).decoded.shape == x.shape
