"""Data sets that come with the installation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vae._extras import needs_extra


@dataclass(frozen=True)
class Split:
    """Training and held-out rows of one data set; [N, D] values and [N] integer labels."""

    train: Tensor
    train_labels: Tensor
    heldout: Tensor
    heldout_labels: Tensor


def _split(values: Tensor, labels: Tensor, heldout: int, generator: torch.Generator) -> Split:
    order = torch.randperm(len(values), generator=generator)
    values, labels = values[order], labels[order]
    return Split(values[heldout:], labels[heldout:], values[:heldout], labels[:heldout])


def digits(*, heldout: int = 600, seed: int = 0) -> Split:
    """scikit-learn's bundled 8×8 digits, 1797 rows of 64 pixels scaled from 0…16 to [0, 1].

    The split is uniformly random: the original order is by writer, and halves of it differ.

    Args:
        heldout: number of rows kept from training.
        seed: of the split.

    Raises:
        ModuleNotFoundError: scikit-learn is missing.
        ValueError: `heldout` is not between 1 and 1796.
    """
    with needs_extra():
        from sklearn.datasets import load_digits
    values, labels = load_digits(return_X_y=True)
    if not 0 < heldout < len(values):
        raise ValueError(f"heldout must be between 1 and {len(values) - 1}, got {heldout}")
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.as_tensor(values, dtype=torch.float32) / 16
    return _split(pixels, torch.as_tensor(labels), heldout, generator)


def gaussian_mixture(n: int = 2000, *, heldout: int = 1000, seed: int = 0) -> Split:
    """Four unit Gaussians in the plane with means (±5, ±5), standardised by the exact moments.

    Each coordinate has mean 0 and variance 1 + 5² = 26, so the modes land at ±.98 with a standard
    deviation of .20. The label is the number of the mode.

    Args:
        n: number of training rows.
        heldout: number of further rows, independent of the first.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    means = 5.0 * torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    labels = torch.randint(4, (n + heldout,), generator=generator)
    values = means[labels] + torch.randn(n + heldout, 2, generator=generator)
    return _split(values / 26**0.5, labels, heldout, generator)
