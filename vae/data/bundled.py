"""Data sets that come with the installation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vae._extras import needs_extra
from vae.data.data import Data
from vae.data.split import Split, at_least_one, divided


@dataclass(frozen=True, eq=False)
class LabelledData(Data):
    """`Data` whose rows all have a label."""

    train_labels: Tensor
    heldout_labels: Tensor


def digits(*, heldout: int = 600, seed: int = 0, limit: int | None = None) -> LabelledData:
    """scikit-learn's bundled 8×8 digits, 1797 rows of 64 pixels scaled from 0…16 to [0, 1].

    The split is uniformly random: the original order is by writer, and halves of it differ.

    Args:
        heldout: number of rows kept from training.
        seed: of the split.
        limit: at most how many rows to train on.

    Raises:
        ModuleNotFoundError: scikit-learn is missing.
        ValueError: `heldout` is not between 1 and 1796, or `limit` below 1.
    """
    with needs_extra():
        from sklearn.datasets import load_digits
    values, classes = load_digits(return_X_y=True)
    pixels = torch.as_tensor(values, dtype=torch.float32) / 16
    labels = torch.as_tensor(classes, dtype=torch.int64)
    chosen = Split(heldout, limit, seed).of(len(pixels))
    return divided(LabelledData, chosen, pixels, labels, name="digits", shape=(1, 8, 8))


def gaussian_mixture(n: int = 2000, *, heldout: int = 1000, seed: int = 0) -> LabelledData:
    """Four unit Gaussians in the plane with means (±5, ±5), standardised by the exact moments.

    Each coordinate has mean 0 and variance 1 + 5² = 26, so the modes land at ±.98 with a standard
    deviation of .20. The label is the number of the mode.

    Args:
        n: number of training rows.
        heldout: number of further rows, independent of the first.
        seed: of the draw.

    Raises:
        ValueError: `n` or `heldout` is below 1.
    """
    at_least_one(n, "n")
    at_least_one(heldout, "heldout")
    generator = torch.Generator().manual_seed(seed)
    means = 5.0 * torch.tensor([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    labels = torch.randint(4, (n + heldout,), generator=generator)
    values = (means[labels] + torch.randn(n + heldout, 2, generator=generator)) / 26**0.5
    # the rows are independent already; the order is kept for the sake of results printed elsewhere
    order = torch.randperm(n + heldout, generator=generator)
    chosen = (order[heldout:], order[:heldout])
    return divided(LabelledData, chosen, values, labels, name="gaussian-mixture", shape=(2,))
