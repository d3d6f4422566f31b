"""The result of an evaluation: a frozen record that prints tables and turns into strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from divergences.files import replacing
from divergences.results import Record, TwoSampleResult
from vae.evaluation.codes import CodeMeasures, PriorTests
from vae.evaluation.disentanglement import Disentanglement
from vae.evaluation.probes import ClassShares, Probe
from vae.evaluation.samples import GeneratedTests, what_samples_are
from vae.evaluation.tables import aligned

NONE = "n/a"
EFFECT = "effect: share of the mean squared distance between two samples that is due to P ≠ Q"


@dataclass(frozen=True, eq=False, kw_only=True)
class ImportanceSummary(Record):
    """The IWAE-K bound of n held-out rows: its mean in nats, and the mean and the least effective
    number of the ``k`` draws. ``gap``: what it is above the ELBO, a lower bound in expectation of
    the mean KL(q(z|x)‖p(z|x)), since log p(x) − ELBO is that KL."""

    k: int
    n: int
    bound: float
    standard_error: float
    gap: float
    gap_standard_error: float
    mean_ess: float
    least_ess: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation(Record):
    """The result of ``evaluate``, in nats per row.

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
        return _report(self)


# --- As text -------------------------------------------------------------------------------------


def _report(found: Evaluation) -> str:
    """Tables of the rows, the tests and what labels and factors tell; then why what is n/a is."""
    lines = [f"{found.data}: {found.weights}", ""]
    lines += aligned([*_measures(found)])
    lines += ["", *aligned([*_tests(found)]), EFFECT]
    known = [*_known(found)]
    if known:
        lines += ["", *aligned(known)]
    lines += _footnotes(found)
    return "\n".join(lines)


def _number(value: float | None, error: float | None = None) -> str:
    if value is None:
        return NONE
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def _measures(found: Evaluation) -> Iterator[Sequence[str]]:
    both = (found.train, found.heldout)
    yield ("nats per row", "training", "held out")
    yield ("rows", *(str(part.n) for part in both))
    yield (
        "distortion −log p(x|z)",
        *(_number(part.distortion, part.distortion_standard_error) for part in both),
    )
    yield ("  squared error, units of x", *(_number(part.squared_error) for part in both))
    yield ("rate KL(q(z|x)‖p)", *(_number(part.kl) for part in both))
    yield ("ELBO", *(_number(part.elbo, part.elbo_standard_error) for part in both))
    iwae = found.importance
    if iwae is None:
        yield ("IWAE bound", "", NONE)
    else:
        yield (f"IWAE-{iwae.k} bound", "", _number(iwae.bound, iwae.standard_error))
        gap = _number(iwae.gap, iwae.gap_standard_error)
        yield ("  above the ELBO, at most KL(q(z|x)‖p(z|x))", "", gap)
        ess = f"{iwae.mean_ess:.1f} (least {iwae.least_ess:.1f})"
        yield ("  effective sample size", "", ess)
    m = found.heldout.aggregate_n
    yield ("rows in the aggregate q(z)", *(str(part.aggregate_n) for part in both))
    for name, key in (
        (
            f"  mutual information I(z; row), at most log n = {math.log(m):.2f}",
            "mutual_information",
        ),
        ("  total correlation", "total_correlation"),
        ("  dimension-wise KL", "dimension_wise_kl"),
        ("  KL(q(z)‖p)", "aggregate_kl"),
        ("log det Cov q(z)", "log_det_covariance"),
        (f"active units of {found.heldout.d}", "active_units"),
    ):
        yield (name, *(_number(getattr(part, key)) for part in both))


def _tests(found: Evaluation) -> Iterator[Sequence[str]]:
    yield ("permutation tests, held out", "n", "m", "statistic", "effect", "p")
    prior, generated = found.prior, found.generated
    samples = f"samples ({what_samples_are(generated.pixel_noise)}) against data"
    yield _test("codes against the prior, MMD", prior.mmd)
    yield _test("codes against the prior, energy", prior.energy)
    # the effect of fuse is that of the energy distance
    yield _test(f"{samples}, fuse", generated.fuse, effect=False)
    yield _test("  control: data against data", generated.fuse_control, effect=False)
    yield _test(f"{samples}, energy", generated.energy)
    yield _test("  control: data against data", generated.energy_control)


def _test(name: str, result: TwoSampleResult, *, effect: bool = True) -> Sequence[str]:
    size = NONE if result.effect_size is None else f"{result.effect_size:.2%}"
    numbers = (f"{result.statistic:.4g}", size if effect else "", f"{result.pvalue:.3g}")
    return (name, str(result.n), str(result.m), *numbers)


def _known(found: Evaluation) -> Iterator[Sequence[str]]:
    """Rows of the probes, class shares and disentanglement scores."""
    probe, classes, factors = found.probe, found.classes, found.disentanglement
    if probe is not None:
        yield ("linear probe of codes, accuracy", f"{probe.codes:.2%}")
        yield ("  of the data themselves", f"{probe.pixels:.2%}")
        yield ("  of the commonest class", f"{probe.majority:.2%}")
    if classes is not None:
        samples = f"samples ({what_samples_are(found.generated.pixel_noise)})"
        yield (f"classes of {samples}, total variation", f"{classes.total_variation:.2%}")
        yield ("  of held-out rows", f"{classes.total_variation_control:.2%}")
    if factors is not None:
        yield ("mutual information gap", _number(factors.mig))
        yield ("DCI disentanglement", _number(factors.dci.disentanglement))
        yield ("DCI completeness", _number(factors.dci.completeness))
        yield ("DCI informativeness", _number(factors.dci.informativeness))
        yield ("FactorVAE score", _number(factors.factor_vae))


def _footnotes(found: Evaluation) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for path, reason in found.not_available.items():
        if not path.startswith("train."):  # the same as of the held-out rows
            by_reason.setdefault(reason, []).append(path.removeprefix("heldout."))
    absent = [f"n/a: {', '.join(paths)}: {reason}" for reason, paths in by_reason.items()]
    notes = [f"note: {note}" for note in found.notes]
    return ["", *absent, *notes] if absent or notes else []
