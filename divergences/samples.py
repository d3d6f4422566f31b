"""What users hand to a test: samples of any kind, seeds, numbers of resamples, strata."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .kernels.validation import check_rows

Rng = int | np.random.Generator | torch.Generator | None
"""A seed, a ``numpy.random.Generator`` (which is advanced), a ``torch.Generator`` (from which a
seed is drawn), or None for fresh entropy."""


def as_sample(x: Any, name: str, *, missing: bool = False) -> Tensor:
    """A finite tensor [n, d], from a torch tensor, anything with ``__dlpack__``, or anything numpy
    can convert. fp32 on CUDA stays so; all else becomes fp64. A vector [n] is one column.
    ``missing``: NaN is let through.

    Raises TypeError or ValueError; rows with NaN or infinite entries are counted in the message,
    with the columns that have them.
    """
    sample = _as_tensor(x, name)
    if sample.is_complex():
        raise TypeError(f"{name} must be real; got {sample.dtype}")
    keep = sample.is_cuda and sample.dtype == torch.float32
    sample = sample.detach() if keep else sample.detach().double()
    sample = sample.unsqueeze(-1) if sample.dim() == 1 else sample
    if sample.dim() != 2:
        raise ValueError(f"{name} must have shape [n, d] or [n]; got {list(sample.shape)}")
    if sample.shape[1] == 0:
        raise ValueError(f"{name} has no columns; got {list(sample.shape)}")
    refused = sample.isinf() if missing else ~sample.isfinite()
    if refused.any():
        found, names = torch.nonzero(refused.any(0)).flatten().tolist(), column_names(x)
        where = ", ".join(column_title(column, names) for column in found[:3])
        where += ", …" if len(found) > 3 else ""
        raise ValueError(
            f"{name} has {int(refused.any(1).sum())} rows of {len(sample)} with "
            f"{'' if missing else 'NaN or '}infinite entries, in {where}"
        )
    return sample


def column_names(x: Any) -> list[str] | None:
    """Of a data frame, an Arrow table or a file; None for other samples."""
    names = getattr(x, "column_names", None)
    names = getattr(x, "columns", None) if names is None else names
    return None if names is None or callable(names) else [str(name) for name in names]


def column_title(position: int, names: list[str] | None) -> str:
    return f"column {position + 1}" + (f" ({names[position]!r})" if names else "")


class Complete(NamedTuple):
    """Samples without their rows that have NaN, labels of the rows that are left, and a note."""

    samples: list[Tensor]
    labels: list[ArrayLike | None]
    notes: tuple[str, ...]


def complete_rows(
    samples: Sequence[Any],
    names: Sequence[str],
    labels: dict[str, ArrayLike | Tensor | None] | None = None,
    *,
    together: bool = False,
) -> Complete:
    """What ``drop_nan`` leaves. ``labels``, by name: [N] of all rows in turn, or [n] where row i of
    all samples belongs ``together`` and is left out as one. Raises ValueError where no row is left,
    and where samples that belong together, or labels, do not have as many rows."""
    for other, name in zip(samples[1:], names[1:], strict=True):
        if not together:
            check_columns(samples[0], other, (names[0], name))
    tensors = [as_sample(x, name, missing=True) for x, name in zip(samples, names, strict=True)]
    keeps = [~t.isnan().any(1) for t in tensors]
    if together:
        sizes = [len(keep) for keep in keeps]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"row i of {' and '.join(names)} belong together, so that they need as many rows; "
                f"got {' and '.join(map(str, sizes))}"
            )
        common = torch.stack([keep.cpu() for keep in keeps]).all(0)
        keeps = [common.to(keep.device) for keep in keeps]
    notes = []
    for keep, name in zip(keeps, names, strict=True):
        left = len(keep) - int(keep.sum())
        if left == len(keep):
            raise ValueError(f"every row of {name} has missing entries")
        if left:
            notes.append(f"left out {left} of {len(keep)} rows of {name}, which have NaN")
    rows = (keeps[0] if together else torch.cat([k.cpu() for k in keeps])).cpu().numpy()
    kept: list[ArrayLike | None] = []
    for name, label in (labels or {}).items():
        kept.append(None if label is None else as_labels(label, len(rows), name)[rows])
    return Complete([t[keep] for t, keep in zip(tensors, keeps, strict=True)], kept, tuple(notes))


def as_samples(x: Any, y: Any, *, names: tuple[str, str] = ("x", "y")) -> tuple[Tensor, Tensor]:
    """Two samples [n, d] and [m, d] of one dtype and device, with at least two rows each."""
    check_columns(x, y, names)
    a, b = as_sample(x, names[0]), as_sample(y, names[1])
    check_alike(a, b, names)
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)


def check_alike(a: Any, b: Any, names: tuple[str, str] = ("x", "y")) -> None:
    """Two samples with shapes [n, d] and [m, d] on one device, with at least two rows each."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{names[0]} and {names[1]} must share d; got {names[0]} {list(a.shape)}, "
            f"{names[1]} {list(b.shape)}"
        )
    if a.device != b.device:
        raise ValueError(
            f"{names[0]} and {names[1]} must be on one device; got {a.device} and {b.device}"
        )
    for sample, name in ((a, names[0]), (b, names[1])):
        check_rows(sample, name, 2, "a test needs at least two rows of each sample")


def check_columns(x: Any, y: Any, names: tuple[str, str]) -> None:
    """Data frames are compared column by column: in another order they would differ for nothing."""
    first, second = column_names(x), column_names(y)
    if first is None or second is None or first == second:
        return
    raise ValueError(
        f"the columns differ: {names[0]} has {', '.join(first)}; {names[1]} has "
        f"{', '.join(second)}; choose those to compare, in one order"
    )


def is_constant(pooled: Tensor) -> bool:
    return bool((pooled == pooled[0]).all())


def fits_narrow(z: Tensor) -> bool:
    """Whether fp32 holds powers of the distances between these rows, and products of such."""
    return 1e-9 < float((z.amax(0) - z.amin(0)).max()) < 1e9


def warn_constant(what: str) -> None:
    warnings.warn(f"all rows of {what} are equal: p = 1", stacklevel=4)


def _as_tensor(x: Any, name: str) -> Tensor:
    if isinstance(x, Tensor):
        if x.layout != torch.strided:
            raise TypeError(f"{name} must be dense; got {x.layout} (use {name}.to_dense())")
        if x.is_meta:
            raise ValueError(f"{name} is on the device 'meta', which holds no numbers")
    try:
        if isinstance(x, Tensor):
            if not (x.is_floating_point() or x.is_complex()):
                check_integers(x.cpu().numpy(), x.double().cpu().numpy())
            return x
        if not hasattr(x, "__array__") and hasattr(x, "__dlpack__"):
            return torch.utils.dlpack.from_dlpack(x)
        return torch.from_numpy(_native(x))
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise TypeError(f"{name} cannot be converted to a tensor: {error}") from None


def _native(x: Any) -> NDArray[np.float64]:
    """A writable contiguous fp64 copy, whatever the byte order, strides and width."""
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise TypeError("a masked array; drop its masked rows first, or fill them")
    given = np.asarray(x)
    array = _numbers(given, column_names(x)) if given.dtype == object else given
    if array.dtype.kind not in "fiub":
        raise TypeError(f"dtype {array.dtype} is not a real number")
    found = np.array(array, dtype=np.float64, order="C")
    if given.dtype.kind in "iuO":
        check_integers(given, found)
    return found


def check_integers(given: NDArray[Any], found: NDArray[np.float64]) -> None:
    """Raises ValueError for integers that are not what they were, in fp64."""
    large = np.abs(found) >= 2.0**53
    for value, number in zip(given[large].tolist(), found[large].tolist(), strict=True):
        if isinstance(value, int) and value != number:
            raise ValueError(
                f"fp64 does not hold {value}, nor other integers beyond 2⁵³; take off an offset "
                "first, or leave out columns that only number the rows"
            )


def _numbers(array: NDArray[Any], names: list[str] | None) -> NDArray[np.float64]:
    """Objects as numbers. Raises TypeError that names the first column with one that is none."""
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError):
        for row, column in np.ndindex(*array.reshape(len(array), -1).shape):
            value = array.reshape(len(array), -1)[row, column]
            try:
                float(value)
            except (TypeError, ValueError):
                raise TypeError(
                    f"{column_title(column, names)} has {value!r} in row {row + 1}, which is not a "
                    "number; choose the columns of numbers"
                ) from None
        raise


def generator_of(rng: Rng) -> tuple[np.random.Generator, int | None]:
    """The generator, and the seed that makes it anew (None for a Generator that was passed)."""
    if isinstance(rng, np.random.Generator):
        return rng, None
    if isinstance(rng, torch.Generator):
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
    elif rng is None:
        seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0]) >> 1
    elif isinstance(rng, int | np.integer) and not isinstance(rng, bool):
        seed = int(rng)
        if seed < 0:
            raise ValueError(f"a seed must not be negative; got {seed}")
    else:
        raise TypeError(
            "rng must be one of: a seed, a numpy Generator, a torch Generator or None; "
            f"got {type(rng).__name__}"
        )
    return np.random.default_rng(seed), seed


def check_resamples(n_resamples: int) -> int:
    """B ≥ 1 as an int. Raises ValueError."""
    if isinstance(n_resamples, np.integer):
        n_resamples = int(n_resamples)
    if isinstance(n_resamples, bool) or not isinstance(n_resamples, int) or n_resamples < 1:
        raise ValueError(f"n_resamples must be a positive integer; got {n_resamples!r}")
    return n_resamples


def as_labels(labels: ArrayLike | Tensor, count: int, name: str) -> NDArray[Any]:
    """Labels of any kind [count], one for each row. Raises ValueError."""
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
        labels = labels.double() if labels.is_floating_point() else labels  # numpy has no bfloat16
    try:
        found = np.asarray(labels)
    except ValueError as error:
        raise ValueError(f"{name} must be a flat list of labels: {error}") from None
    if found.dtype.kind in "US":
        found = np.asarray(labels, dtype=object)  # NaN stays NaN, and is no label "nan"
    if found.shape != (count,):
        raise ValueError(
            f"{name} must hold a label for each of the {count} rows, shape [{count}]; got "
            f"{list(found.shape)}"
        )
    return found


def as_strata(
    strata: ArrayLike | Tensor | None, count: int, name: str = "strata"
) -> NDArray[np.int64] | None:
    """Stratum numbers 0 … S−1 of ``count`` rows, from labels of any kind [count]."""
    if strata is None:
        return None
    labels = as_labels(strata, count, name)
    listed = labels.tolist()
    missing = sum(is_missing(label) for label in listed)
    if missing:
        one = {"strata": "stratum", "groups": "group"}[name]
        raise ValueError(f"{missing} of {count} rows have no {one}")
    try:
        return np.asarray(np.unique(labels, return_inverse=True)[1], dtype=np.int64)
    except TypeError:  # labels of several types have no order
        numbers = {label: number for number, label in enumerate(dict.fromkeys(listed))}
        return np.array([numbers[label] for label in listed], dtype=np.int64)


def is_missing(label: Any) -> bool:
    """None, NaN, NaT, or the NA of pandas, which is not equal, nor unequal, to anything."""
    return label is None or type(label).__name__ == "NAType" or bool(label != label)
