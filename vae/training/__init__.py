"""Training: the loop and exact resume are ours; devices, precision and processes are Fabric's."""

from vae.processes import first_process as on_first_process
from vae.training.checkpoints import load_weights, read_checkpoint
from vae.training.fit import fit
from vae.training.loop import History
from vae.training.means import TrainingDiverged
from vae.training.metrics import read_metrics

__all__ = [
    "History",
    "TrainingDiverged",
    "fit",
    "load_weights",
    "on_first_process",
    "read_checkpoint",
    "read_metrics",
]
