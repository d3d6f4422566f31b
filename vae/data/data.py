"""`Data`: training and held-out rows in memory, turned into floats a batch at a time."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

Part = Literal["train", "heldout"]
Binarise = Literal["none", "dynamic", "fixed"]


@dataclass(frozen=True, eq=False)
class Data:
    """One data set in two parts. Everything is checked when it is made.

    Args:
        name: of the data set, for messages and figures.
        train: [N, D], float32, or uint8 0…255, which `rows` scales to [0, 1].
        heldout: [H, D] of the same dtype.
        shape: of one row: (C, H, W) for images, otherwise (D,).
        train_labels: [N] int64 classes.
        heldout_labels: [H] int64.
        train_factors: [N, F] int64, levels of known generative factors.
        heldout_factors: [H, F] int64.
        factor_names: F names.
        binarise: "none"; "dynamic" draws the training rows anew each time they are read, with the
            values as probabilities, and "fixed" says that they are 0 and 1 already. In both cases
            the held-out rows are 0 and 1 already: `vae.data.binarised` makes them so.
        text: rows are bytes of UTF-8 text, filled with zeros (`vae.data.text`).

    Raises:
        ValueError: anything above does not hold; values are not finite (with the number of rows).

    Examples:
        >>> import torch
        >>> from vae import Data
        >>> rows = torch.rand(100, 64)
        >>> data = Data("mine", train=rows[:80], heldout=rows[80:], shape=(1, 8, 8))
        >>> data.rows("heldout").shape, data.is_image
        (torch.Size([20, 64]), True)
    """

    name: str
    train: Tensor
    heldout: Tensor
    shape: tuple[int, ...]
    train_labels: Tensor | None = None
    heldout_labels: Tensor | None = None
    train_factors: Tensor | None = None
    heldout_factors: Tensor | None = None
    factor_names: tuple[str, ...] = ()
    binarise: Binarise = "none"
    text: bool = False

    def __post_init__(self) -> None:
        check_binarise(self.binarise)
        if len(self.shape) not in (1, 3):
            raise ValueError(f"{self.name}: shape must be (D,) or (C, H, W), got {self.shape}")
        if self.train.dtype != self.heldout.dtype:
            raise ValueError(
                f"{self.name}: train and heldout must have one dtype, got {self.train.dtype} and "
                f"{self.heldout.dtype}"
            )
        for part in get_args(Part):
            self._check_values(part)
            self._check_known(part)
        if self.binarise != "none":
            self._check_binary("heldout")
        if self.binarise == "fixed":
            self._check_binary("train")

    @property
    def n_pixels(self) -> int:
        """D, the number of values in a row, whether or not they are pixels."""
        return math.prod(self.shape)

    @property
    def is_image(self) -> bool:
        """Whether rows are images, of `shape` (C, H, W)."""
        return len(self.shape) == 3

    @cached_property
    def unit(self) -> bool:
        """Whether all rows lie within [0, 1], as a Bernoulli likelihood needs."""
        return all(_within_unit(self._values(part)) for part in get_args(Part))

    def rows(
        self,
        split: Part,
        indices: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The rows of one part, [n, D] float32; bytes become [0, 1].

        Args:
            split: "train" or "heldout".
            indices: [n] int64, in any order; None for all.
            generator: of the draws, where the training rows are binarised dynamically; None for
                torch's own.

        Raises:
            ValueError: `split` is neither "train" nor "heldout".
            IndexError: an index is out of range.
        """
        if split not in get_args(Part):
            raise ValueError(f'split must be "train" or "heldout", got {split!r}')
        values = self._values(split)
        chosen = values if indices is None else values[indices.to(values.device)]
        rows = chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen
        if self.binarise == "dynamic" and split == "train":
            return torch.bernoulli(rows, generator=generator)
        return rows

    def _values(self, part: Part) -> Tensor:
        return self.train if part == "train" else self.heldout

    def _check_values(self, part: Part) -> None:
        values, what = self._values(part), f"{self.name}: {part}"
        if values.dtype not in (torch.float32, torch.uint8):
            raise ValueError(f"{what} must be float32 or uint8, got {values.dtype}")
        if values.dim() != 2 or values.numel() == 0:
            raise ValueError(
                f"{what} must have shape [N, D] with at least one row and one column, got "
                f"{list(values.shape)}"
            )
        if values.shape[1] != self.n_pixels:
            raise ValueError(
                f"{what} has {values.shape[1]} columns, but a row of shape {self.shape} has "
                f"{self.n_pixels}"
            )
        refuse_nonfinite(values, what)

    def _check_known(self, part: Part) -> None:
        """Labels and factors."""
        count = len(self._values(part))
        labels: Tensor | None = getattr(self, f"{part}_labels")
        factors: Tensor | None = getattr(self, f"{part}_factors")
        for what, known, shape in (
            ("labels", labels, [count]),
            ("factors", factors, [count, len(self.factor_names)]),
        ):
            if known is None:
                continue
            if known.dtype != torch.int64 or list(known.shape) != shape:
                raise ValueError(
                    f"{self.name}: {part}_{what} must be int64 of shape {shape}, got {known.dtype} "
                    f"of shape {list(known.shape)}"
                )

    def _check_binary(self, part: Part) -> None:
        values = self._values(part)
        one = 255 if values.dtype == torch.uint8 else 1
        if not bool(((values == 0) | (values == one)).all()):
            raise ValueError(
                f"{self.name}: with binarise={self.binarise!r} the {part} rows must be 0 and 1 "
                f"already; make them so with vae.data.binarised(data, {self.binarise!r})"
            )


def check_binarise(how: str) -> None:
    """Raises ValueError unless `how` is one of `Binarise`."""
    if how not in get_args(Binarise):
        raise ValueError(f"binarise must be one of {', '.join(get_args(Binarise))}; got {how!r}")


def refuse_nonfinite(values: Tensor, what: str) -> None:
    """Raises ValueError with the number of rows of [N, …] that hold NaN or infinite values."""
    if not values.is_floating_point():
        return
    bad = int((~values.flatten(1).isfinite().all(1)).sum())
    if bad:
        raise ValueError(
            f"{what} has {bad} of {len(values)} rows with NaN or infinite values; remove or fill "
            "them"
        )


def _within_unit(values: Tensor) -> bool:
    if values.dtype == torch.uint8:
        return True
    return bool((values >= 0).all() and (values <= 1).all())
