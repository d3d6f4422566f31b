"""`evaluate`: all measures of a model on its data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from divergences.resampling import progress as bar
from vae.data import Data, render_shapes
from vae.data.shapes import factor_sizes
from vae.evaluation.bounds import importance_weighted_bound, no_density
from vae.evaluation.codes import against_prior, measure_codes, standard_error
from vae.evaluation.disentanglement import (
    Disentanglement,
    dci,
    factor_vae_score,
    gap,
    mutual_information_table,
)
from vae.evaluation.notes import notes
from vae.evaluation.passes import encode, features, generator_for
from vae.evaluation.probes import (
    ClassShares,
    Probe,
    class_shares,
    linear_classifier,
    majority_accuracy,
)
from vae.evaluation.result import Evaluation, ImportanceSummary
from vae.evaluation.samples import TESTED, compare_generated, generate
from vae.model import VAE

LEAST_ROWS = 4  # held out: two in each half
CLASSIFIED = 2000  # generated rows whose classes are counted


class _Part:
    """Rows of one part of the data in random order, with what is known about them."""

    def __init__(self, model: VAE, data: Data, name: str, max_rows: int, seed: int) -> None:
        heldout = name == "heldout"
        count = len(data.heldout if heldout else data.train)
        generator = torch.Generator().manual_seed(seed + heldout)
        order = torch.randperm(count, generator=generator)[:max_rows]
        self.rows = data.rows("heldout" if heldout else "train", order, generator=generator)
        labels = data.heldout_labels if heldout else data.train_labels
        factors = data.heldout_factors if heldout else data.train_factors
        self.labels = None if labels is None else labels[order]
        self.factors = None if factors is None else factors[order]
        model.likelihood.check(self.rows)
        self.encoded = encode(model, self.rows, generator=generator_for(model, seed, name))


def evaluate(
    model: VAE,
    data: Data,
    *,
    n_importance: int = 500,
    n_resamples: int = 999,
    seed: int = 0,
    max_rows: int = 10_000,
    progress: bool = True,
) -> Evaluation:
    """ELBO and IWAE bound, the codes and q(z), tests against the prior and of generated rows, and
    what labels and factors tell, in evaluation mode. The model and torch's global state are left
    alone; the same seed gives the same numbers on the same device.

    Args:
        model: on any device.
        data: with at least 2 rows to train on and 4 held out.
        n_importance: K of the IWAE bound.
        n_resamples: B of the permutation tests.
        seed: of every draw.
        max_rows: rows of each part, those trained on and those held out, that are looked at, at
            most, drawn at random. Time grows with their square; tests see
            ``vae.evaluation.samples.TESTED`` of them. The parts of the KL, which depend on the
            number of rows, are of as many training as held-out rows.
        progress: bars on a terminal for what takes more than some seconds.

    Raises:
        ValueError: too few rows, data outside the support of the likelihood, a model whose codes
            are not finite.
        ModuleNotFoundError: scikit-learn is missing.
    """
    if len(data.train) < 2 or len(data.heldout) < LEAST_ROWS or max_rows < LEAST_ROWS:
        raise ValueError(
            f"an evaluation needs 2 rows to train on, {LEAST_ROWS} held out and max_rows >= "
            f"{LEAST_ROWS}, got {len(data.train)}, {len(data.heldout)} and {max_rows}"
        )
    show = None if progress else False
    with bar(7, "evaluation", show) as tick:
        train = _Part(model, data, "train", max_rows, seed)
        heldout = _Part(model, data, "heldout", max_rows, seed)
        tick()
        measures, fewer = {}, min(len(train.rows), len(heldout.rows))
        for name, part in (("train", train), ("heldout", heldout)):
            measures[name] = measure_codes(model, part.encoded, aggregate_n=fewer)
            tick()
        absent = {
            f"{name}.{key}": reason
            for name, measured in measures.items()
            for key, reason in measured.not_available.items()
        }
        importance = _importance(model, heldout, n_importance, seed, show, absent)
        tick()
        prior = against_prior(
            model,
            heldout.encoded.z[:TESTED],
            n_resamples=n_resamples,
            seed=seed,
            show_progress=show,
        )
        tick()
        generated = compare_generated(
            model, data, heldout.rows, n_resamples=n_resamples, seed=seed, show_progress=show
        )
        tick()
        probe, classes = _labels(model, data, train, heldout, seed, absent)
        factors = _factors(model, data, train, heldout, seed, show, absent)
        tick()
    return Evaluation(
        data=data.name,
        weights=model.weights(),
        seed=seed,
        train=measures["train"],
        heldout=measures["heldout"],
        importance=importance,
        prior=prior,
        generated=generated,
        probe=probe,
        classes=classes,
        disentanglement=factors,
        not_available=absent,
        notes=tuple(
            notes(
                model,
                heldout.rows,
                heldout.encoded,
                measures["heldout"],
                importance,
                probe,
                seed=seed,
            )
        ),
    )


def _importance(
    model: VAE, heldout: _Part, k: int, seed: int, show: bool | None, absent: dict[str, str]
) -> ImportanceSummary | None:
    encoded = heldout.encoded
    if encoded.kl is None:
        absent["importance"] = no_density(model)
        return None
    generator = generator_for(model, seed, "importance")
    bound, ess = importance_weighted_bound(
        model, heldout.rows, k=k, generator=generator, show_progress=show
    )
    gap = bound + encoded.distortion + encoded.kl
    return ImportanceSummary(
        k=k,
        n=len(bound),
        bound=float(bound.mean()),
        standard_error=standard_error(bound),
        gap=float(gap.mean()),
        gap_standard_error=standard_error(gap),
        mean_ess=float(ess.mean()),
        least_ess=float(ess.min()),
    )


def _labels(
    model: VAE, data: Data, train: _Part, heldout: _Part, seed: int, absent: dict[str, str]
) -> tuple[Probe | None, ClassShares | None]:
    if train.labels is None or heldout.labels is None:
        absent["probe"] = absent["classes"] = "the data have no labels"
        return None, None
    if bool((train.labels == train.labels[0]).all()):
        absent["probe"] = absent["classes"] = "all training rows have one label"
        return None, None
    of_codes = linear_classifier(train.encoded.features, train.labels)
    of_pixels = linear_classifier(train.rows, train.labels)
    truth = heldout.labels.numpy()
    probe = Probe(
        codes=float(of_codes.score(heldout.encoded.features.numpy(), truth)),
        pixels=float(of_pixels.score(heldout.rows.numpy(), truth)),
        majority=majority_accuracy(train.labels, heldout.labels),
        n_train=len(train.labels),
        n_heldout=len(heldout.labels),
    )
    samples = generate(model, data, CLASSIFIED, seed=seed)
    return probe, class_shares(of_pixels, train.labels, heldout.rows, samples)


def _factors(
    model: VAE,
    data: Data,
    train: _Part,
    heldout: _Part,
    seed: int,
    show: bool | None,
    absent: dict[str, str],
) -> Disentanglement | None:
    if train.factors is None or heldout.factors is None or len(data.factor_names) < 2:
        absent["disentanglement"] = "the data have no known factors, or only one"
        return None
    if bool((heldout.factors == heldout.factors[0]).all()):
        absent["disentanglement"] = "no factor varies among the held-out rows"
        return None
    table = mutual_information_table(heldout.encoded.features, heldout.factors)
    score = None
    sizes, render = factor_sizes(data), renderer(data)
    noise = generator_for(model, seed, "factors")
    if sizes is None or render is None:
        absent["disentanglement.factor_vae"] = f"there is no renderer of {data.name}"
    else:
        score = factor_vae_score(
            lambda levels: features(model, render(levels), generator=noise),
            tuple(sizes.values()),
            heldout.encoded.features.std(0),
            generator=torch.Generator().manual_seed(seed),
            show_progress=show,
        )
    return Disentanglement(
        mig=gap(table, heldout.factors),
        dci=dci(
            train.encoded.features,
            train.factors,
            heldout.encoded.features,
            heldout.factors,
            seed=seed,
        ),
        factor_vae=score,
        factors=data.factor_names,
        mutual_information=np.asarray(table),
    )


def renderer(data: Data) -> Callable[[Tensor], Tensor] | None:
    """Factors [n, F] to rows [n, D] like those of the data; None where that is not known."""
    if factor_sizes(data) is None:
        return None
    size, binary = data.shape[-1], data.binarise != "none"

    def render(factors: Tensor) -> Tensor:
        rows = render_shapes(factors, size)
        return rows.round() if binary else rows

    return render
