"""`evaluate`: all measures of a model on its data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from divergences.resampling import progress as bar
from vae.data import Data, render_shapes
from vae.data.shapes import factor_sizes
from vae.diagnostics import collapsed, off_prior
from vae.evaluation.bounds import importance_weighted_bound, no_density
from vae.evaluation.codes import CodeMeasures, against_prior, measure_codes, standard_error
from vae.evaluation.disentanglement import (
    Disentanglement,
    dci,
    factor_vae_score,
    gap,
    mutual_information_table,
)
from vae.evaluation.passes import encode, features, generator_for, like
from vae.evaluation.probes import (
    ClassShares,
    Probe,
    class_shares,
    linear_classifier,
    majority_accuracy,
)
from vae.evaluation.result import Evaluation, ImportanceSummary
from vae.evaluation.samples import TESTED, compare_generated, generate
from vae.likelihoods import BernoulliLikelihood
from vae.model import VAE

LEAST_ROWS = 4  # held out: two in each half
CLASSIFIED = 2000  # generated rows whose classes are counted
TRUSTED = 0.8  # accuracy of a classifier below which a note says so
LOOSE = 0.02  # of the draws of a bound: mean effective number below which it is loose
CEILING = 0.1  # nats below log n from which the mutual information is no more than that
PRIOR_DRAWS = 10_000  # for the prior's moments


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

    Examples:
        >>> import torch
        >>> from vae import VAE, Data, GaussianLikelihood, InfoVAE, StandardNormal, evaluate, mlp
        >>> rows = torch.randn(80, 8, generator=torch.Generator().manual_seed(0))
        >>> data = Data("mine", rows[:50], rows[50:], shape=(8,))
        >>> model = VAE(mlp(8, 4), mlp(2, 8), GaussianLikelihood(), InfoVAE(), StandardNormal(2))
        >>> found = evaluate(model, data, n_importance=10, n_resamples=99, progress=False)
        >>> found.importance.bound > found.heldout.elbo  # print(found) has it all
        True
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
        task = _Task(model, data, train, heldout, seed, show, {})
        measures, fewer = {}, min(len(train.rows), len(heldout.rows))
        for name, part in (("train", train), ("heldout", heldout)):
            measures[name] = measure_codes(model, part.encoded, aggregate_n=fewer)
            for key, reason in measures[name].not_available.items():
                task.absent[f"{name}.{key}"] = reason
            tick()
        importance = _importance(task, n_importance)
        tick()
        shared: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed, "show_progress": show}
        prior = against_prior(model, heldout.encoded.z[:TESTED], **shared)
        tick()
        generated = compare_generated(model, data, heldout.rows, **shared)
        tick()
        probe, classes = _labels(task)
        factors = _factors(task)
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
        not_available=task.absent,
        notes=tuple(_notes(task, measures["heldout"], importance, probe)),
    )


class _Task(NamedTuple):
    """What is measured; ``absent`` collects what is not available, and why."""

    model: VAE
    data: Data
    train: _Part
    heldout: _Part
    seed: int
    show: bool | None
    absent: dict[str, str]


def _importance(task: _Task, k: int) -> ImportanceSummary | None:
    model, encoded = task.model, task.heldout.encoded
    if encoded.kl is None:
        task.absent["importance"] = no_density(model)
        return None
    generator = generator_for(model, task.seed, "importance")
    bound, ess = importance_weighted_bound(
        model, task.heldout.rows, k=k, generator=generator, show_progress=task.show
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


def _labels(task: _Task) -> tuple[Probe | None, ClassShares | None]:
    train, heldout, absent = task.train, task.heldout, task.absent
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
    samples = generate(task.model, task.data, CLASSIFIED, seed=task.seed)
    return probe, class_shares(of_pixels, train.labels, heldout.rows, samples)


def _factors(task: _Task) -> Disentanglement | None:
    model, data, absent = task.model, task.data, task.absent
    train, heldout = task.train, task.heldout
    if train.factors is None or heldout.factors is None or len(data.factor_names) < 2:
        absent["disentanglement"] = "the data have no known factors, or only one"
        return None
    if bool((heldout.factors == heldout.factors[0]).all()):
        absent["disentanglement"] = "no factor varies among the held-out rows"
        return None
    codes = heldout.encoded.features
    table, score = mutual_information_table(codes, heldout.factors), None
    sizes, render = factor_sizes(data), renderer(data)
    if sizes is None or render is None:
        absent["disentanglement.factor_vae"] = f"there is no renderer of {data.name}"
    else:
        noise = generator_for(model, task.seed, "factors")
        score = factor_vae_score(
            lambda levels: features(model, render(levels), generator=noise),
            tuple(sizes.values()),
            codes.std(0),
            generator=torch.Generator().manual_seed(task.seed),
            show_progress=task.show,
        )
    return Disentanglement(
        mig=gap(table, heldout.factors),
        dci=dci(train.encoded.features, train.factors, codes, heldout.factors, seed=task.seed),
        factor_vae=score,
        factors=data.factor_names,
        mutual_information=np.asarray(table),
    )


def _notes(
    task: _Task, measured: CodeMeasures, importance: ImportanceSummary | None, probe: Probe | None
) -> Iterator[str]:
    """Limits of the numbers of the held-out rows, where they apply."""
    model, rows, encoded = task.model, task.heldout.rows, task.heldout.encoded
    text = collapsed(encoded.kl, encoded.kl_per_dimension)
    if text is not None:
        yield text
    if model.objective.matches_prior:
        with torch.no_grad():
            generator = generator_for(model, task.seed, "moments")
            prior = model.prior.sample(PRIOR_DRAWS, generator=generator, like=like(model))
        text = off_prior(encoded.z, prior)
        if text is not None:
            yield text
    most, information = math.log(measured.aggregate_n), measured.mutual_information
    if information is not None and information > most - CEILING:
        yield (
            f"I(z; row) is at its ceiling, log {measured.aggregate_n} = {most:.2f}: the total "
            "correlation and KL(q(z)‖p) of so few rows are usually too large"
        )
    if importance is not None and importance.mean_ess < LOOSE * importance.k:
        yield (
            f"of the {importance.k} draws of the IWAE bound {importance.mean_ess:.1f} count (mean "
            "effective sample size): it is loose, and log p(x) may lie well above it"
        )
    if isinstance(model.likelihood, BernoulliLikelihood) and bool(((rows > 0) & (rows < 1)).any()):
        yield "between 0 and 1 a Bernoulli's −log p(x|z) is a cross entropy, no likelihood"
    if probe is not None and probe.pixels < TRUSTED:
        yield (
            f"the classifier is right about {probe.pixels:.0%} of held-out rows only: what it says "
            "of the classes of samples means little"
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
