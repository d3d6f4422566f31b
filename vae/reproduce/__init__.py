"""Small, named experiments with a known outcome: measured against expected.

Each takes at most two minutes of one core and is the same in every run on one machine.
"""

from vae.reproduce.experiments import EXPERIMENTS, Experiment, reproduce
from vae.reproduce.finding import Finding

__all__ = ["EXPERIMENTS", "Experiment", "Finding", "reproduce"]
