"""An estimator for scikit-learn that tests new data for drift from a reference. Needs scikit-learn:
pip install "divergences[sklearn]"."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .results import TwoSampleResult
from .samples import as_sample, column_names
from .scaling import Scale
from .two_sample import Method, two_sample_test

try:
    from sklearn.base import BaseEstimator
    from sklearn.utils.validation import check_is_fitted
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'{error.name} is not installed: pip install "divergences[sklearn]"', name=error.name
    ) from None

__all__ = ["DriftDetector"]


class DriftDetector(BaseEstimator):  # type: ignore[misc]
    """Tests batches X [m, d] for drift from the reference [n, d] it was fitted to, by
    ``two_sample_test``.

    ``score(X)`` is the p-value, ``predict(X)`` 1 for every row of a batch whose p-value is at most
    ``alpha`` and else 0: the test is of the batch as a whole. ``test(X)`` is the whole result.
    Each batch has a false alarm with probability ``alpha`` at most. ``method``, ``scale``,
    ``n_resamples``: of ``two_sample_test``; ``random_state``: its ``rng``.

    After ``fit``: ``reference_``, ``n_features_in_``, and ``feature_names_in_`` of data frames.

    Examples:
        >>> import numpy as np
        >>> from divergences.drift import DriftDetector
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(100, 2)), rng.normal(size=(80, 2)) + 0.5
        >>> detector = DriftDetector(random_state=0).fit(x)
        >>> print(f"{detector.score(y):.3f} {detector.predict(y)[:3]}")
        0.003 [1 1 1]
    """

    def __init__(
        self,
        method: Method = "fuse",
        *,
        alpha: float = 0.05,
        scale: Scale | None = "auto",
        n_resamples: int | None = None,
        random_state: int | None = None,
    ) -> None:
        self.method = method
        self.alpha = alpha
        self.scale = scale
        self.n_resamples = n_resamples
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> DriftDetector:  # noqa: ARG002
        """Keep the reference X [n, d]. Raises ValueError or TypeError as ``two_sample_test``."""
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha must lie in (0, 1); got {self.alpha!r}")
        sample = as_sample(X, "the reference")
        if len(sample) < 2:
            raise ValueError(f"the reference needs at least two rows; got {len(sample)}")
        self.reference_ = X.copy() if hasattr(X, "copy") else sample
        self.n_features_in_ = sample.shape[1]
        names = column_names(X)
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        return self

    def test(self, X: Any) -> TwoSampleResult:
        """The test of the reference and X [m, d]."""
        check_is_fitted(self)
        return two_sample_test(
            self.reference_,
            X,
            method=self.method,
            scale=self.scale,
            n_resamples=self.n_resamples,
            rng=self.random_state,
            show_progress=False,
        )

    def score(self, X: Any, y: Any = None) -> float:  # noqa: ARG002
        """The p-value of X [m, d]: small where it drifted."""
        return self.test(X).pvalue

    def predict(self, X: Any) -> NDArray[np.int64]:
        """1 [m] if X [m, d] drifted, else 0."""
        result = self.test(X)
        return np.full(result.m, int(result.pvalue <= self.alpha), dtype=np.int64)
