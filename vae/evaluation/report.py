"""An evaluation as aligned text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from divergences.results import TwoSampleResult
from vae.evaluation.samples import what_samples_are

if TYPE_CHECKING:
    from vae.evaluation.result import Evaluation

NONE = "n/a"
EFFECT = "effect: share of the mean squared distance between two samples that is due to P ≠ Q"


def report(found: Evaluation) -> str:
    """Tables of the rows, the tests and what labels and factors tell; then why what is n/a is."""
    lines = [f"{found.data}: {found.weights}", ""]
    lines += aligned([*_measures(found)])
    lines += ["", *aligned([*_tests(found)]), EFFECT]
    known = [*_known(found)]
    if known:
        lines += ["", *aligned(known)]
    lines += _footnotes(found)
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


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
    """What needs labels or factors."""
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
