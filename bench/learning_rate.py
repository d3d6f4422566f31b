"""Held-out losses by learning rate and decay, over presets: what the default rests on.

python -m bench.learning_rate digits                          five minutes on one core
python -m bench.learning_rate fashion-mnist --root FOLDER     the same; FOLDER holds the IDX files

Rows go to bench/results/learning_rate.csv: nats per row, of the best and of the last step.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from vae.build import build_model, load_data, resolve
from vae.presets import PRESETS, configure
from vae.training import fit

from . import measure

SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 100},
    "fashion-mnist": {"epochs": 5, "limit": 20_000},
}
RATES = ((1e-3, "cosine"), (2e-3, "cosine"), (1e-3, "none"), (4e-3, "cosine"))
CHOSEN = ("vae", "infovae", "mmd-vae", "wae-mmd")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", choices=list(SETTINGS))
    parser.add_argument("--root", help="folder of the IDX files")
    parser.add_argument("--presets", nargs="*", default=list(CHOSEN), choices=list(PRESETS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for preset in given.presets:
        for rate, decay in RATES:
            config = configure(
                preset, data=given.data, root=given.root, accelerator="cpu", learning_rate=rate,
                decay=decay, **SETTINGS[given.data],
            )  # fmt: skip
            data = load_data(config)
            config = resolve(config, data)
            history = fit(build_model(config, data), data, **config.training(), progress=False)
            losses = [row["heldout_loss"] for row in history]
            row = {
                "commit": measure.commit(), "data": given.data, "preset": preset, "rate": rate,
                "decay": decay, "best": round(min(losses), 2), "last": round(losses[-1], 2),
            }  # fmt: skip
            print(*row.values())
            measure.append("learning_rate", [row])


if __name__ == "__main__":
    main()
