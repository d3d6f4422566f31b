"""The experiments by name: measured against expected, each at most two minutes of one core."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from correlation import tc_against_beta
from finding import Finding, table
from linear import linear_vae
from mixture import mixture_latent
from overfit import kl_overfits
from shrinkage import v_statistic_shrinks
from uninformative import uninformative_code


@dataclass(frozen=True)
class Experiment:
    """What it shows, how to run it (with or without bars), and minutes of one core."""

    summary: str
    run: Callable[[bool], list[Finding]]
    minutes: float


EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {
        "linear": Experiment(
            "a linear VAE with a learned σ reaches the likelihood of probabilistic PCA",
            linear_vae,
            0.3,
        ),
        "mixture": Experiment(
            "four Gaussians in the plane through two codes that match the prior",
            mixture_latent,
            0.3,
        ),
        "overfit": Experiment(
            "few data: the KL lets q(z) leave the prior, the MMD does not", kl_overfits, 0.4
        ),
        "uninformative": Experiment(
            "a decoder that needs no code: the KL gives it up, the MMD-VAE does not",
            uninformative_code,
            0.3,
        ),
        "tc": Experiment(
            "β on the total correlation alone costs less information than β on the KL",
            tc_against_beta,
            0.8,
        ),
        "shrinkage": Experiment(
            "the V-statistic's optimum is narrower than the prior, the U-statistic's is not",
            v_statistic_shrinks,
            0.1,
        ),
    }
)


def reproduce(names: Sequence[str], *, progress: bool = True) -> str:
    """Run experiments one after the other.

    Args:
        names: of ``EXPERIMENTS``.
        progress: show what is running.

    Returns:
        The table of all findings and a line with how many are as expected.

    Raises:
        ValueError: no or an unknown name (with the nearest), before anything has run.
    """
    if not names:
        raise ValueError(f"name at least one experiment of {', '.join(EXPERIMENTS)}")
    for name in names:
        if name not in EXPERIMENTS:
            near = difflib.get_close_matches(name, EXPERIMENTS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose of {', '.join(EXPERIMENTS)}"
            raise ValueError(f"there is no experiment {name!r}: {hint}")
    findings = [
        (name, finding)
        for name in dict.fromkeys(names)
        for finding in EXPERIMENTS[name].run(progress)
    ]
    agreed = sum(finding.ok for _, finding in findings)
    return f"{table(findings)}\n{agreed} of {len(findings)} as expected"
