"""What an evaluation returns: a frozen record that prints a table and turns into strict JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from divergences.files import replacing
from divergences.results import Record
from vae.evaluation.codes import CodeMeasures, PriorTests
from vae.evaluation.disentanglement import Disentanglement
from vae.evaluation.probes import ClassShares, Probe
from vae.evaluation.report import report
from vae.evaluation.samples import GeneratedTests


@dataclass(frozen=True, eq=False, kw_only=True)
class ImportanceSummary(Record):
    """The IWAE-K bound of n held-out rows: its mean in nats, and the mean and the least effective
    number of the ``k`` draws."""

    k: int
    n: int
    bound: float
    standard_error: float
    mean_ess: float
    least_ess: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation(Record):
    """What ``evaluate`` found, in nats per row.

    What is not defined is None, and ``not_available`` says why, by the path of the field, such as
    "heldout.elbo". ``prior`` and ``generated`` compare held-out rows.
    """

    data: str
    weights: str  # effective, of the objective
    seed: int
    train: CodeMeasures
    heldout: CodeMeasures
    importance: ImportanceSummary | None
    prior: PriorTests
    generated: GeneratedTests
    probe: Probe | None
    classes: ClassShares | None
    disentanglement: Disentanglement | None
    not_available: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self, *, indent: int | None = 2) -> str:
        """Strict JSON: null for what is None, no NaN or infinity."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False, ensure_ascii=False)

    def save(self, path: Path) -> None:
        """Write the JSON; `path` holds the old file or the whole new one, never a part."""
        with replacing(path) as file:
            file.write(f"{self.to_json()}\n".encode())

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON; the reasons are all in ``not_available``."""
        found = super().to_dict()
        for part in ("train", "heldout"):
            del found[part]["not_available"]
        return found

    def __str__(self) -> str:
        return report(self)
