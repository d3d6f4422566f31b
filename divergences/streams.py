"""Tests of streams, whose rows are seen once: sums of features by bins, which can be saved, merged
and tested later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .chunks import held_rows, rows_of
from .evaluation import evaluate_spans, split
from .features import FeatureForms, FourierFeatures, fourier_features
from .kernels import Bandwidth, Kernel
from .kernels.kernel import as_kernel
from .mmd import DEFAULT_BANDWIDTH
from .resampling import Relabellings, permutation_pvalue
from .results import KernelRow, TwoSampleResult
from .samples import Rng, as_sample, check_resamples, generator_of
from .scaling import Scale, check_scale, fitted, without_units

__all__ = ["FeatureSums"]

Array = NDArray[np.float64]
SETTINGS = (
    *("frequencies", "amplitudes", "offset", "spread"),
    *("bins", "kernel", "bandwidth", "scale"),
)


class FeatureSums:
    """Sums of random Fourier features of the rows of two streams, x and y, for a test of P = Q.

    Rows are added up in bins of 2ᵏ rows each, one after the other. Where a stream has more than
    ``bins`` of them, neighbours are added up and k grows by one, so that a state has bounded size,
    and states of parts of a stream merge into one of the whole.

    Args:
        pilot: [k, d], rows that are not tested; the bandwidth and the spread of columns are theirs.
        kernel, bandwidth, n_features: as for method "mmd-fourier" of ``two_sample_test``.
        scale: "auto", "robust", "std" or None, as there.
        bins: the most of each stream: memory is 32·bins·n_features bytes (8 MB).
        rng: of the frequencies.

    Raises:
        ValueError, TypeError: as ``two_sample_test``.

    >>> import numpy as np
    >>> from divergences.streams import FeatureSums
    >>> draw = np.random.default_rng(0).normal
    >>> sums = FeatureSums(draw(0.0, 1.0, (200, 2)), rng=0)
    >>> for day in range(10):
    ...     sums.update(x=draw(0.0, 1.0, (500, 2)), y=draw(0.1, 1.0, (300, 2)))
    >>> sums.test(rng=0).pvalue
    0.001
    """

    def __init__(
        self,
        pilot: Any,
        *,
        kernel: Kernel | str = "gaussian",
        bandwidth: Bandwidth | None = None,
        scale: Scale | None = "auto",
        n_features: int = 256,
        bins: int = 1024,
        rng: Rng = None,
    ) -> None:
        check_scale(scale)
        if scale in ("rank", "whiten"):
            raise ValueError(f"scale={scale!r} needs all rows at once; take 'robust' or 'std'")
        for name, value, least in (("n_features", n_features, 1), ("bins", bins, 4)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer ≥ {least}; got {value!r}")
        rows = as_sample(pilot, "pilot").cpu().double()
        auto = without_units(kernel, bandwidth)
        columns = fitted(rows, scale, auto=auto, where="the pilot sample")
        rows = columns.scaled(rows)
        chosen = as_kernel(kernel, bandwidth, DEFAULT_BANDWIDTH).resolve(rows)
        generator, _ = generator_of(rng)
        features = fourier_features(chosen, rows.shape[1], n_features, generator)
        middle, spread = torch.zeros_like(rows[0]), torch.ones_like(rows[0])
        if columns.spread is not None:
            middle, spread = columns.middle, columns.spread
        self._start(
            {
                "frequencies": features.frequencies,
                "amplitudes": features.amplitudes,
                "offset": (middle + spread * rows.median(0).values).numpy(),
                "spread": spread.numpy(),
                "bins": np.array(bins),
                "kernel": np.array(" + ".join(t.label for t in chosen.terms)),
                "bandwidth": np.array([t.scale for t in chosen.terms], dtype=np.float64),
                "scale": np.array(columns.done or ""),
            }
        )

    def _start(self, settings: dict[str, NDArray[Any]]) -> None:
        self._settings = settings
        self._features = FourierFeatures(settings["frequencies"], settings["amplitudes"])
        width, most = 2 * len(settings["amplitudes"]), int(settings["bins"])
        self._bins = {name: _Bins(width, most) for name in "xy"}

    @property
    def n(self) -> int:
        """Rows of x so far."""
        return self._bins["x"].rows

    @property
    def m(self) -> int:
        """Rows of y so far."""
        return self._bins["y"].rows

    def update(self, x: Any = None, y: Any = None) -> None:
        """Add the next rows [k, d] of x, of y, or of both, of any kind that ``two_sample_test``
        takes. Raises ValueError or TypeError for other shapes, and rows that are not finite; the
        sums are then as they were."""
        given = {name: rows_of(z, name) for name, z in (("x", x), ("y", y)) if z is not None}
        if not given:
            raise ValueError("update needs rows of x, of y or of both; got neither")
        offset, spread = (torch.from_numpy(self._settings[name]) for name in ("offset", "spread"))
        for name, rows in given.items():
            if rows.d != len(offset):
                raise ValueError(f"{name} has {rows.d} columns; the pilot sample has {len(offset)}")
        found = {name: self._bins[name].copy() for name in given}
        for name, rows in given.items():
            for chunk in rows.chunks():
                phi = self._features((chunk.cpu().double() - offset) / spread)
                found[name].add(0, phi.numpy())
        self._bins |= found

    def merge(self, other: FeatureSums) -> None:
        """Add the rows that another has seen. Raises ValueError where its features are others, and
        for the same object, whose rows would count twice."""
        if other is self:
            raise ValueError("sums do not merge with themselves: their rows would count twice")
        for name, own in self._settings.items():
            if not np.array_equal(own, other._settings[name]):
                raise ValueError(
                    f"sums of other features do not merge ({name} differs): make one FeatureSums, "
                    "and the others from its state_dict"
                )
        for name, bins in self._bins.items():
            for k, sums in enumerate(other._bins[name].levels):
                bins.add(k, sums)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """The state as plain arrays, for ``np.savez``."""
        found = dict(self._settings)
        for name, bins in self._bins.items():
            found |= {f"{name}{k}": sums for k, sums in enumerate(bins.levels)}
        return found

    @classmethod
    def from_state_dict(cls, state: Mapping[str, NDArray[Any]]) -> FeatureSums:
        """Sums in the ``state`` that ``state_dict`` gave, or that ``np.load`` opens. Raises
        ValueError for what is no such state."""
        found = cls.__new__(cls)
        try:
            found._start({name: np.array(state[name]) for name in SETTINGS})
            for name, bins in found._bins.items():
                for k in range(sum(key[0] == name for key in state)):
                    bins.add(k, np.array(state[f"{name}{k}"]))
        except KeyError as error:
            raise ValueError(f"the state of a FeatureSums has {error}, and this has not") from None
        return found

    def test(
        self, *, n_resamples: int = 999, rng: Rng = None, show_progress: bool | None = None
    ) -> TwoSampleResult:
        """The test of P = Q of the rows so far; they can be tested again later.

        The statistic is the unbiased squared MMD of the features, without the pairs of rows that
        share a bin. Bins, which are of one size for both streams, are relabelled, and those rows
        that do not fill one are left out. Bins are formed by the numbers of rows and not by their
        values: where all rows are independent, and under P = Q, sums of as many of them are
        exchangeable, and the p-value is exact for any n and m. Rows in a series of which each
        depends on few before it are nearly so, as blocks of consecutive rows (``blocks=`` of
        ``two_sample_test``). The longer stream sets the size of bins: one more than ``bins``/4
        times as long as the other may leave that fewer than two.

        Raises ValueError where a stream has fewer than two bins.
        """
        check_resamples(n_resamples)
        top = max(len(bins.levels) - 1 for bins in self._bins.values())
        size = 2**top
        x, y = (self._bins[name].at(top) / size for name in "xy")
        told = f"{len(x):,} bins of x and {len(y):,} of y, of {size:,} rows each"
        if min(len(x), len(y)) < 2:
            raise ValueError(
                f"two bins of x and of y are needed; there are {told}: add rows to the shorter "
                "stream, or make sums of more bins"
            )
        left = self.n + self.m - size * (len(x) + len(y))
        notes = (told + (f"; {left:,} rows do not fill one and are left out" if left else ""),)
        generator, seed = generator_of(rng)
        plan = Relabellings((len(x), len(y)), n_resamples, generator)
        z = torch.from_numpy(np.concatenate([x, y]))
        source = FeatureForms(held_rows(z), lambda rows: rows, z)
        found = evaluate_spans(source, plan, z.device, show_progress)
        statistics, tolerance = found.weighted()
        observed, null = split(statistics, plan.exact)
        pvalue = permutation_pvalue(observed, null, tolerance, exact=plan.exact)
        widths = self._settings["bandwidth"].tolist()
        of_kernel = KernelRow(
            kernel=str(self._settings["kernel"]),
            bandwidth=widths[0] if len(widths) == 1 else None,
            statistic=observed,
            pvalue=pvalue,
        )
        return TwoSampleResult(
            statistic=observed,
            pvalue=pvalue,
            null_distribution=null,
            method="mmd-fourier",
            n=size * len(x),
            m=size * len(y),
            d=len(self._settings["offset"]),
            effect_size=found.effect_over(2.0 * float((self._settings["amplitudes"] ** 2).sum())),
            enumerated=plan.exact,
            seed=seed,
            scale=str(self._settings["scale"]) or None,
            kernels=(of_kernel,),
            notes=notes,
        )


class _Bins:
    """Sums [c, F] of 2ᵏ rows each, ``levels[k]``: at the last level as many as ``most``, at those
    before at most one."""

    def __init__(self, width: int, most: int) -> None:
        self._most, self._none = most, np.empty((0, width))
        self.levels = [self._none]

    @property
    def rows(self) -> int:
        return sum(len(sums) << k for k, sums in enumerate(self.levels))

    def copy(self) -> _Bins:
        """Bins that further sums leave as they are: the arrays at each level are never written."""
        found = _Bins(self._none.shape[1], self._most)
        found.levels = [*self.levels]
        return found

    def add(self, k: int, sums: Array) -> None:
        """Further sums of 2ᵏ rows each."""
        while len(self.levels) <= k:
            self._grow()
        held = np.concatenate([self.levels[k], sums])
        last = k == len(self.levels) - 1
        self.levels[k] = held
        if last and len(held) > self._most:
            self._grow()
        elif not last:
            self._carry(k)

    def _grow(self) -> None:
        """A further level, to which the sums of the last one go in pairs."""
        self.levels.append(self._none)
        self._carry(len(self.levels) - 2)

    def _carry(self, k: int) -> None:
        """Adds up pairs of neighbours at a level, which go to the next."""
        held = self.levels[k]
        even = len(held) // 2 * 2
        self.levels[k] = held[even:]
        if even:
            self.add(k + 1, held[:even:2] + held[1:even:2])

    def at(self, k: int) -> Array:
        """The sums of 2ᵏ rows, where k is the last level or beyond."""
        found = self.copy()
        found.add(k, self._none)
        return found.levels[k]
