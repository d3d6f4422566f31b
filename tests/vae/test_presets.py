"""The presets as they are documented, and the λ that their sources state."""

from pathlib import Path

import pytest
import torch

from bench.report import presets as presets_report
from vae.build import build_objective, resolve
from vae.data import Data
from vae.presets import PRESETS, configure

DOCS = Path(__file__).parents[2] / "docs" / "vae.md"


@pytest.mark.parametrize("name", PRESETS)
def test_the_documented_table_is_that_of_the_code(name: str) -> None:
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    table = rows[0].replace("\\|", "|")
    preset = PRESETS[name]
    for text in (preset.formula, preset.source, preset.weights.rstrip("."), preset.differs):
        assert text in table


def test_the_family_is_complete() -> None:
    assert set(PRESETS) == {
        "autoencoder", "vae", "beta-vae", "beta-anneal", "beta-falling", "beta-capacity",
        "beta-tcvae", "infovae",
        "infovae-energy", "mmd-vae", "wae-mmd", "aae", "avb", "wae-critic", "wae-sliced",
        "alpha-gan", "sentence-vae",
    }  # fmt: skip


def test_the_documented_results_are_those_of_the_benchmark() -> None:
    printed = presets_report()
    assert printed in DOCS.read_text()
    measured = [name for name, preset in PRESETS.items() if preset.settings.get("network") != "gru"]
    assert all(printed.count(f"| `{name}` |") == 2 for name in measured)


@pytest.mark.parametrize(("pixels", "expected"), [(784, 392.0), (64, 32.0)])
def test_mmd_vae_has_the_weight_of_its_authors_code(pixels: int, expected: float) -> None:
    rows = torch.rand(20, pixels)
    data = Data(name="rows", train=rows[:10], heldout=rows[10:], shape=(pixels,))
    config = resolve(configure("mmd-vae"), data)
    objective = build_objective(config, data.shape)
    assert config.lambda_ == expected
    assert objective.divergence_weight == expected
    assert f"λ = {expected:g}" in objective.describe()
