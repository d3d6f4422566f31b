"""Figures hold what the result says: values, labels, finite limits. Their looks are looked at."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from divergences.independence import independence_test
from divergences.k_sample import k_sample_test
from divergences.mmd import witness
from divergences.plots.style import BLUE, ORANGE, save_figure
from divergences.plots.witness import DRAWN
from divergences.results import HypothesisResult
from divergences.two_sample import two_sample_test


def normal(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def texts(figure: Figure) -> str:
    """Every word in the figure, after drawing it, which must not warn."""
    figure.canvas.draw()
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
        found += [text.get_text() for text in axes.texts]
        legend = axes.get_legend()
        found += [text.get_text() for text in legend.get_texts()] if legend else []
    return "\n".join(found)


def panel(figure: Figure, title: str) -> Any:
    (axes,) = [a for a in figure.axes if a.get_title(loc="left").startswith(title)]
    return axes


def check_limits(figure: Figure) -> None:
    for axes in figure.axes:
        assert np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()
        assert axes.get_xlim()[0] < axes.get_xlim()[1]


@pytest.mark.parametrize("shift", [0.0, 9.0])
def test_null_distribution(shift: float) -> None:
    result = k_sample_test(normal(0, 20, 1), normal(1, 30, 1) + shift, n_resamples=99, rng=0)
    assert (result.statistic > 2 * result.null_distribution.max()) == (shift > 0)
    figure = result.plot()
    axes = panel(figure, "Null distribution")
    assert sum(patch.get_height() for patch in axes.patches) == 99
    (line,) = axes.lines
    assert line.get_xdata()[0] == result.statistic
    low, high = axes.get_xlim()
    assert low < result.statistic < high
    words = texts(figure)
    assert f"$p$ = {result.pvalue:.3g}, effect size {result.effect_size:.3g}" in words
    assert "observed" in words
    assert "99 permutations" in words
    check_limits(figure)


def test_one_dimension() -> None:
    """The line is the witness of the kernel tested with, and the mark is where it is largest."""
    x, y = normal(0, 200, 1), normal(1, 300, 1) + 4.0
    result = two_sample_test(x, y, method="mmd", bandwidth=0.7, n_resamples=19, rng=0)
    figure = result.plot()
    above = panel(figure, "Witness of Gaussian(0.7)")
    (below,) = [axes for axes in figure.axes if axes.get_ylabel() == "witness"]
    curve, _, _, mark = below.lines
    points = torch.from_numpy(curve.get_xdata())[:, None]
    expected = witness(points, x, y, bandwidth=0.7).numpy()
    np.testing.assert_allclose(curve.get_ydata(), expected, atol=1e-9)
    top = np.abs(expected).argmax()
    np.testing.assert_allclose(mark.get_xydata()[0], [points[top].item(), expected[top]], atol=1e-9)
    for patch, sample in zip(above.patches[1::2], (x, y), strict=True):
        density, edges, _ = patch.get_data()
        assert (density * np.diff(edges)).sum() == pytest.approx(1.0)
        centre = (density * np.diff(edges) * (edges[1:] + edges[:-1]) / 2).sum()
        assert centre == pytest.approx(sample.mean().item(), abs=0.2)
    assert [to_hex(patch.get_edgecolor()) for patch in above.patches[1::2]] == [
        BLUE.lower(),
        ORANGE.lower(),
    ]
    assert "x, n = 200" in texts(figure)
    check_limits(figure)


def test_two_dimensions() -> None:
    """x about (0, 0), y about (3, 1): the crosses stand near these."""
    x, y = normal(0, 150, 2), normal(1, 100, 2) + torch.tensor([3.0, 1.0])
    result = two_sample_test(x, y, n_resamples=39, rng=0)
    figure = result.plot()
    best = min(result.kernels, key=lambda row: (row.pvalue, -row.statistic))
    axes = panel(figure, f"Witness of {best.kernel}")
    crosses = [line.get_xydata()[0] for line in axes.lines]
    assert np.linalg.norm(crosses[0] - [0.0, 0.0]) < 1.5
    assert np.linalg.norm(crosses[1] - [3.0, 1.0]) < 1.5
    assert len(axes.collections[1].get_offsets()) == 250
    words = texts(figure)
    for expected in ("most x", "most y", "column 1", "column 2", "more y  ←  witness  →  more x"):
        assert expected in words
    check_limits(figure)


def test_more_dimensions() -> None:
    """Most variance lies along column 2, so the first component is that column, up to its sign; a
    point is as dark as the witness there, itself left out."""
    x, y = normal(0, 60, 4), normal(1, 50, 4)
    x[:, 1] *= 9.0
    y[:, 1] = 9.0 * y[:, 1] + 6.0
    result = two_sample_test(x, y, method="mmd", bandwidth=3.0, n_resamples=19, rng=0)
    figure = result.plot()
    axes = panel(figure, "Witness of Gaussian(3)")
    words = texts(figure)
    assert "principal component 1 of the pooled sample (9" in words
    of_x, of_y = axes.collections
    first = np.concatenate([of_x.get_offsets(), of_y.get_offsets()])[:, 0]
    column = torch.cat([x, y])[:, 1].numpy()
    np.testing.assert_allclose(
        np.sort(np.abs(first)), np.sort(np.abs(column - column.mean())), atol=1.0
    )
    gram = torch.exp(-torch.cdist(x, torch.cat([x, y])).square() / 18.0)
    expected = (gram[:, :60].sum(1) - 1.0) / 59 - gram[:, 60:].mean(1)
    np.testing.assert_allclose(np.sort(of_x.get_array()), np.sort(expected.numpy()), atol=1e-9)
    check_limits(figure)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_samples_have_names(d: int) -> None:
    """x is much the more about 0, y about 5."""
    x, y = normal(0, 60, d), normal(1, 50, d) + 5.0
    result = two_sample_test(x, y, method="mmd", bandwidth=2.0, n_resamples=19, rng=0)
    figure = result.plot(names=("generated", "held out"))
    words = texts(figure)
    if d == 1:
        assert "generated, n = 60" in words
        assert "held out, n = 50" in words
        assert re.search("; most of (generated at -?[012]|held out at [3-7])", words)
    else:
        assert "more held out  ←  witness  →  more generated" in words
        legend = figure.axes[0].get_legend().get_texts()
        assert [text.get_text() for text in legend] == ["generated", "held out"]
        assert not re.search(r"more [xy]\b", words)
    if d == 2:
        places = {text.get_text(): text.xy for text in figure.axes[0].texts}
        assert places["most generated"][0] < 2.5 < places["most held out"][0]
    check_limits(figure)


def test_differences_of_pairs_are_named() -> None:
    x, y = normal(0, 20, 2), normal(1, 20, 2)
    for method, shown in (("energy", ["x − y", "y − x"]), ("fuse", ["x", "y"])):
        options: dict[str, Any] = dict(method=method, paired=True, n_resamples=9, rng=0)
        figure = two_sample_test(x, y, **options).plot()
        legend = figure.axes[0].get_legend().get_texts()
        assert [text.get_text() for text in legend] == shown


def test_large_samples_are_thinned_and_say_so() -> None:
    x, y = normal(0, 2000, 2), normal(1, 5500, 2)
    result = two_sample_test(x, y, method="mmd-fourier", n_resamples=9, rng=0)
    figure = result.plot()
    words = texts(figure)
    assert "x (1,000 of 2,000 rows)" in words
    assert "y (1,000 of 5,500 rows)" in words
    assert "(at most 5,000 rows of each)" in words
    scatter = panel(figure, "Witness").collections[1]
    assert len(scatter.get_offsets()) == 2 * DRAWN


def test_outliers_leave_room() -> None:
    x, y = normal(0, 100, 1), normal(1, 100, 1)
    x[0] = 1e9
    figure = two_sample_test(x, y, method="energy", n_resamples=9, rng=0).plot()
    assert "value (the central 95 %)" in texts(figure)
    (below,) = [axes for axes in figure.axes if axes.get_ylabel() == "witness"]
    assert np.abs(below.get_xlim()).max() < 10
    check_limits(figure)


def test_kernels() -> None:
    """A line for each family, with the p-values of the table."""
    result = two_sample_test(normal(0, 40, 3), normal(1, 40, 3) + 0.5, n_resamples=99, rng=0)
    axes = panel(result.plot(), "Each kernel alone")
    gaussian, laplace, level = axes.lines
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "Gaussian",
        "Laplace, norm='l1'",
    ]
    for line, rows in ((gaussian, result.kernels[:10]), (laplace, result.kernels[10:])):
        np.testing.assert_array_equal(line.get_xdata(), [row.bandwidth for row in rows])
        np.testing.assert_array_equal(line.get_ydata(), [row.pvalue for row in rows])
    assert level.get_ydata()[0] == 0.05


def test_pairs_of_kernels() -> None:
    x = normal(0, 30, 1)
    result = independence_test(x, x.square(), n_resamples=19, rng=0)
    figure = result.plot()
    axes = panel(figure, "$p$ of each pair")
    assert axes.images[0].get_array().shape == (5, 5)
    assert sorted(text.get_text() for text in axes.texts) == sorted(
        f"{row.pvalue:.2g}" for row in result.kernels
    )
    check_limits(figure)


CASES: dict[str, tuple[torch.Tensor, torch.Tensor, dict[str, Any]]] = {
    "constant": (torch.zeros(5, 1), torch.zeros(4, 1), {}),
    "constant column": (torch.zeros(6, 2), torch.ones(6, 2), {}),
    "two rows": (normal(0, 2, 3), normal(1, 2, 3), {}),
    "far offset": (normal(0, 30, 2) * 1e-6 + 1e5, normal(1, 30, 2) * 1e-6 + 1e5, {}),
    "float32": (normal(0, 30, 5).float(), normal(1, 30, 5).float(), {}),
    "classifier": (normal(0, 60, 2), normal(1, 60, 2), {"method": "classifier"}),
    "median tensor": (normal(0, 20, 1), normal(1, 20, 1), {"method": "mmd", "bandwidth": "median"}),
    "features": (normal(0, 60, 2), normal(1, 60, 2), {"method": "mmd-nystrom"}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:all rows of")
def test_nothing_warns_and_limits_are_finite(case: str) -> None:
    x, y, options = CASES[case]
    figure = two_sample_test(x, y, n_resamples=19, rng=0, **options).plot()
    assert ("Witness" in texts(figure)) == (case != "classifier")  # which keeps no samples
    check_limits(figure)


def test_equal_samples_differ_nowhere() -> None:
    """What rounding leaves of a witness that is 0 is not drawn."""
    x = normal(0, 50, 1)
    figure = two_sample_test(x, x.flip(0), method="mmd", bandwidth=1.0, n_resamples=9, rng=0).plot()
    assert "Witness of Gaussian(1) (0 throughout)" in texts(figure)


def test_infinite_ratios() -> None:
    """Samples that do not vary have F = ∞."""
    figure = k_sample_test(torch.zeros(3, 1), torch.ones(3, 1), rng=0).plot()
    texts(figure)
    check_limits(figure)


def test_a_result_without_samples() -> None:
    class Plain(HypothesisResult):
        question = "test of something"

    null = np.arange(20.0)
    result = Plain(statistic=3.0, pvalue=0.8, null_distribution=null, method="own", n=4, d=1)
    assert "own: test of something\n$p$ = 0.8" in texts(result.plot())


def test_files(tmp_path: Path) -> None:
    result = k_sample_test(normal(0, 5, 1), normal(1, 5, 1), rng=0)
    for suffix, start in ((".svg", b"<?xml"), (".PNG", b"\x89PNG")):
        path = tmp_path / f"a{suffix}"
        save_figure(result.plot(), path)
        assert path.read_bytes().startswith(start)
    with pytest.raises(ValueError, match="its suffix is none of"):
        save_figure(result.plot(), tmp_path / "a.docx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.PNG", "a.svg"]


def test_pyplot_is_left_alone_and_missing_matplotlib_is_named() -> None:
    code = """
import sys
from divergences import two_sample_test
result = two_sample_test([1.0, 2.0, 3.0], [2.0, 3.0, 5.0], rng=0)
assert "matplotlib" not in sys.modules
sys.modules["matplotlib"] = None
try:
    result.plot()
except ModuleNotFoundError as error:
    print(error)
del sys.modules["matplotlib"]
result.plot()
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'matplotlib is not installed: pip install "divergences[plot]"\n'
