"""Linear probes of codes, and the classes of generated rows, for data with labels.

Needs scikit-learn: pip install "divergences[vae]".
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from divergences.results import Record
from vae._extras import needs_extra

with needs_extra():
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

ITERATIONS = 500  # a fit that has not converged by then is used as it is


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe(Record):
    """Held-out accuracies of logistic regressions fitted to the training rows: on E[z|x] (z where
    the encoder gives no mean), on the pixels, and of always saying the commonest class."""

    codes: float
    pixels: float
    majority: float
    n_train: int
    n_heldout: int


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassShares(Record):
    """Class shares of generated rows by the classifier of pixels. The total variation ½ Σ|p − q|
    is that to the shares of the classes in the training data; the control is that of held-out
    rows, which chance and the classifier's mistakes keep from 0."""

    data: Mapping[str, float]
    generated: Mapping[str, float]
    total_variation: float
    total_variation_control: float


def linear_classifier(rows: Tensor, labels: Tensor) -> Any:
    """Logistic regression on standardised columns, fitted to [n, d] and [n]."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=ITERATIONS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return classifier.fit(rows.numpy(), labels.numpy())


def majority_accuracy(train_labels: Tensor, heldout_labels: Tensor) -> float:
    """Held-out accuracy of the class that is commonest in training."""
    commonest = train_labels.mode().values
    return float((heldout_labels == commonest).double().mean())


def class_shares(
    classifier: Any, train_labels: Tensor, heldout: Tensor, generated: Tensor
) -> ClassShares:
    """Shares of the classes by a classifier of rows, see ``ClassShares``."""
    classes = classifier.classes_
    data = np.array([(train_labels.numpy() == c).mean() for c in classes])

    def shares(rows: Tensor) -> Any:
        predicted = classifier.predict(rows.numpy())
        return np.array([(predicted == c).mean() for c in classes])

    of_generated = shares(generated)
    names = [str(c) for c in classes]
    return ClassShares(
        data=dict(zip(names, data.tolist(), strict=True)),
        generated=dict(zip(names, of_generated.tolist(), strict=True)),
        total_variation=total_variation(of_generated, data),
        total_variation_control=total_variation(shares(heldout), data),
    )


def total_variation(p: Any, q: Any) -> float:
    """½ Σ|p − q| of two arrays of shares."""
    return float(0.5 * np.abs(p - q).sum())
