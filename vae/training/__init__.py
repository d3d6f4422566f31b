"""Training by Lightning: devices, precision and processes are its business, the draws are ours."""

from vae.training.checkpoints import load_weights, read_checkpoint
from vae.training.errors import TrainingDiverged
from vae.training.fit import History, fit
from vae.training.metrics import read_metrics
from vae.training.trainer import on_first_process

__all__ = [
    "History",
    "TrainingDiverged",
    "fit",
    "load_weights",
    "on_first_process",
    "read_checkpoint",
    "read_metrics",
]
