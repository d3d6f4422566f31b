"""Figures of test results. They need matplotlib: pip install "divergences[plot]"."""

from .results import plot_result

__all__ = ["plot_result"]
