"""What a test returns: a frozen record that prints a report, turns into JSON and draws itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .kernels import Kernel


@dataclass(frozen=True, kw_only=True)
class KernelRow:
    """One kernel of a test. ``pvalue`` is the kernel's own, not corrected for the others: it tells
    at which scale there is a difference, not whether there is one."""

    kernel: str
    bandwidth: float | None
    statistic: float
    pvalue: float


class Record:
    """Of a dataclass: its fields as plain Python values, and as JSON. Names that begin with an
    underscore are left out."""

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON; NaN and infinity as None."""
        names = (f.name for f in fields(self) if not f.name.startswith("_"))  # type: ignore[arg-type]
        return {name: _plain(getattr(self, name)) for name in names}

    def to_json(self, *, indent: int | None = None) -> str:
        return json.dumps(self.to_dict(), indent=indent)


def p_in_words(pvalue: float, digits: int) -> str:
    """A p-value in a report: none is 0, though fp64 may round it to that."""
    return f"{pvalue:.{digits}g}" if pvalue >= 1e-300 else "< 1e-300"


R = TypeVar("R", bound="HypothesisResult")


@dataclass(frozen=True, eq=False, kw_only=True)
class HypothesisResult(Record):
    """The outcome of a test.

    ``pvalue`` = (1 + #{T_b ≥ T})/(B + 1) over the ``null_distribution`` T_b [B], read-only; where
    every relabelling could be listed (``enumerated``) it is #{T_b ≥ T}/B. ``statistic, pvalue =
    result`` unpacks it. ``seed`` repeats the test when passed as ``rng`` (None: a numpy Generator
    was passed). ``scale`` tells how columns were scaled (None: they were not); statistic, effect
    size and kernels are then those of the scaled sample; ``design`` tells what relabellings were
    restricted to. ``effect_size`` does not grow with the sample size; docs/choosing-a-test.md
    defines it for each method. ``kernels`` describes each kernel, with its bandwidth; ``notes``
    says what a reader of the p-value should know.
    """

    statistic: float
    pvalue: float
    null_distribution: NDArray[np.float64] = field(repr=False)
    method: str
    n: int
    d: int
    effect_size: float | None = None
    enumerated: bool = False
    seed: int | None = None
    scale: str | None = None
    design: str | None = None
    kernels: tuple[KernelRow, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    question: ClassVar[str] = ""  # what a subclass tests, as in "two-sample test of P = Q"
    resample: ClassVar[str] = "permutations"

    def __post_init__(self) -> None:
        null = np.array(self.null_distribution, dtype=np.float64)
        null.flags.writeable = False
        object.__setattr__(self, "null_distribution", null)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: all but the samples, which ``with_samples`` keeps."""
        state = dict(self.__dict__)
        if state.get("_samples") is not None and not state.get("_pickles_samples"):
            state["_samples"] = None
        return state

    def __copy__(self: R) -> R:
        return self

    def __deepcopy__(self: R, _: object) -> R:
        return self

    def with_samples(self: R) -> R:
        """The same result, which keeps its samples where it is pickled; figures draw them."""
        kept = replace(self)
        object.__setattr__(kept, "_pickles_samples", True)
        return kept

    def __iter__(self) -> Iterator[float]:
        """``statistic, pvalue = result``, as in SciPy."""
        return iter((self.statistic, self.pvalue))

    @property
    def n_resamples(self) -> int:
        return len(self.null_distribution)

    @property
    def sizes(self) -> str:
        """The sample sizes, for a report."""
        return f"n = {self.n}, d = {self.d}"

    def __str__(self) -> str:
        designed = f"{self.design}; " if self.design else ""
        drawn = f"all {self.n_resamples}" if self.enumerated else str(self.n_resamples)
        null = self.null_distribution[np.isfinite(self.null_distribution)]  # F may be infinite
        spread = f" (null: {null.mean():.2g} ± {null.std():.2g})" if len(null) else ""
        lines = [
            f"{self.method}: {self.question}",
            f"  {self.sizes}; {designed}{drawn} {self.resample}"
            + ("" if self.seed is None else f", seed {self.seed}"),
            f"  statistic    {self.statistic:.6g}{spread}",
        ]
        if self.effect_size is not None:
            lines.append(f"  effect size  {self.effect_size:.3g}")
        lines.append(f"  p-value      {self.pvalue:.4g}")
        if self.kernels:
            lines.append(f"  kernel       {self._kernel_in_words()}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _kernel_in_words(self) -> str:
        rows = self.kernels
        if len(rows) == 1:
            return rows[0].kernel
        if "fuse" in self.method or "aggregated" in self.method:
            best = min(rows, key=lambda row: (row.pvalue, -row.statistic))
            ties = sum(row.pvalue == best.pvalue for row in rows)
            rest = f", as {ties - 1} others" if ties > 1 else ""
            return f"{best.kernel} (of {len(rows)}, smallest p alone: {best.pvalue:.4g}{rest})"
        return f"mixture of {', '.join(row.kernel for row in rows)}"

    def to_dict(self, *, null_distribution: bool = True) -> dict[str, Any]:
        """Plain Python values, ready for JSON; NaN and infinity as None."""
        found = super().to_dict() | {"n_resamples": self.n_resamples}
        if not null_distribution:
            del found["null_distribution"]
        return found

    def to_json(self, *, null_distribution: bool = True, indent: int | None = None) -> str:
        return json.dumps(self.to_dict(null_distribution=null_distribution), indent=indent)

    def plot(self) -> Figure:
        """A figure: the null distribution with the observed value, and for samples in hand where
        they differ. Needs matplotlib: pip install "divergences[plot]"."""
        from .plots import plot_result

        return plot_result(self)


@dataclass(frozen=True, eq=False, kw_only=True)
class TwoSampleResult(HypothesisResult):
    """The outcome of ``two_sample_test``; see ``HypothesisResult``.

    ``statistic`` is the unbiased estimate, that of ``energy_distance`` or ``mmd2``; for "fuse" the
    aggregate of them, which has no unit. ``effect_size``, in [0, 1], is the share of the mean
    squared distance between a row of x and one of y, in the kernel's feature space, that is due to
    P ≠ Q: MMD²/E‖φ(x) − φ(y)‖². For the energy distance, and "fuse", that is E/2E‖x − y‖ (Székely &
    Rizzo 2013).
    """

    m: int
    _samples: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    _kernel: Kernel | None = field(default=None, repr=False)

    question: ClassVar[str] = "two-sample test of P = Q"

    @property
    def sizes(self) -> str:
        return f"n = {self.n}, m = {self.m}, d = {self.d}"

    def plot(self, *, names: tuple[str, str] = ("x", "y")) -> Figure:
        """As of every test; `names` are what to call the two samples in the figure."""
        from .plots import plot_result

        if self.design == "paired" and self.method != "fuse":  # samples are differences of pairs
            names = (f"{names[0]} − {names[1]}", f"{names[1]} − {names[0]}")
        return plot_result(self, names=names)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Record):
        return value.to_dict()
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
