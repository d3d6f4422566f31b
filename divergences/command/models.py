"""Models by name: families, and what a Python module holds."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

from ..encoding import NamedColumns

FAMILIES = (
    "normal, which is N(0, I); gaussian or gaussian:K, one or a mixture of K Gaussians fitted to "
    "the rows of --fit; or MODULE:NAME in Python, a torch.distributions.Distribution, an object "
    "with a method log_prob or score, or a function from rows [n, d] to scores [n, d]"
)


def load_model(text: str, fit: NamedColumns | None) -> Any:
    """A model as `goodness_of_fit_test` takes it.

    Args:
        text: what ``FAMILIES`` lists.
        fit: [n, d] rows to fit families to.

    Raises:
        ValueError: no such model or module, one that ends the program when it is imported, or no
            rows to fit it to, or too few.
        ModuleNotFoundError: no scikit-learn, which fits mixtures, or another module.
    """
    family, _, rest = text.partition(":")
    if family == "gaussian" and (not rest or rest.isdecimal()):
        return _fitted(text, int(rest or 1), fit)
    if not rest:
        if text != "normal":
            known = "normal, gaussian, gaussian:K and MODULE:NAME"
            raise ValueError(f"unknown model {text!r}; known are {known}")
        return text
    try:
        with _current_folder_on_path():
            module = importlib.import_module(family)
    except ModuleNotFoundError as error:
        if error.name is None or not family.startswith(error.name):
            raise  # of a module that this one imports
        raise ValueError(
            f"--model {text}: {error}; MODULE is a name as Python imports it, models for models.py "
            "in this folder"
        ) from None
    except SystemExit as error:  # its status would read as one of ours
        raise ValueError(
            f"--model {text}: {family} ends the program when it is imported (exit {error}); put "
            'what it runs under if __name__ == "__main__"'
        ) from None
    if not hasattr(module, rest):
        raise ValueError(f"--model {text}: {module.__file__} has no {rest}")
    return getattr(module, rest)


@contextmanager
def _current_folder_on_path() -> Iterator[None]:
    """Where `python -m` looks, and an installed command does not."""
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path.remove(os.getcwd())


def _fitted(text: str, k: int, rows: NamedColumns | None) -> Distribution:
    """The maximum of the likelihood over means and full covariances, by EM if there are several."""
    if rows is None:
        raise ValueError(f"--model {text} is fitted to other rows than x: give them by --fit FILE")
    n, d = rows.shape
    if k < 1 or n <= k * d:
        raise ValueError(f"--model {text} needs 1 ≤ K < n/d, got {n} rows of {d} columns to fit to")
    if k == 1:
        mean, covariance = np.asarray(rows.mean(0)), np.atleast_2d(np.cov(rows.T, ddof=0))
        if np.linalg.matrix_rank(covariance) < d:
            raise ValueError(f"--model {text}: of the columns to fit to one is a sum of others")
        return MultivariateNormal(torch.from_numpy(mean), torch.from_numpy(covariance))
    try:
        from sklearn.mixture import GaussianMixture
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{error.name} is not installed: pip install "divergences[sklearn]"', name=error.name
        ) from None
    found = GaussianMixture(k, random_state=0).fit(rows)
    parts = map(torch.from_numpy, (found.weights_, found.means_, found.covariances_))
    weights, means, covariances = parts
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances))
