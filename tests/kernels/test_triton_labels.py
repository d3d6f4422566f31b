"""Quadratic forms of the Triton backend against dense fp64, in units of the standard deviation of
their null distribution; interpreted without a GPU."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import oracle
import pytest
import torch
from test_triton_precision import clusters, far_rows, one_hot, scaled
from torch import Tensor

from divergences.kernels import Energy, Gaussian, Kernel, Laplace, Linear, Polynomial
from divergences.kernels.functions import REGISTRY
from divergences.kernels.problem import Component, QuadraticSums
from divergences.kernels.statistics.quadratic_forms import QuadraticForms
from divergences.kernels.triton_backend import compat, launcher, quadratic_forms

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDING = 2.0**-11  # of fp16, relative
Spec = tuple[str, float, float, float]  # function, rate, shape, offset
PROBES = [
    pytest.param((f.name, *probe), id=f"{f.name}-{probe[1]:g}")
    for f in REGISTRY.values()
    for probe in f.probe
]
GAUSSIAN: Spec = ("gaussian", 0.7, 0.0, 0.0)
ENERGY: Spec = ("energy", 1.0, 1.0, 0.0)
LAPLACE_L1: Spec = ("laplace_l1", 0.7, 0.0, 0.0)
CUBIC: Spec = ("polynomial", 0.25, 3.0, 1.0)


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Gram form, several panels, chunks and products for samples the interpreter can take."""
    monkeypatch.setattr(launcher, "SMALL", 0)
    monkeypatch.setattr(quadratic_forms, "PANEL_ROWS", 128)
    monkeypatch.setattr(quadratic_forms, "CHAIN", 64)
    monkeypatch.setattr(quadratic_forms, "PANEL_BYTES", 2 * 128 * 192)
    monkeypatch.setattr(quadratic_forms, "PRODUCT_BYTES", 2 * 4 * 128 * 128)


class Problem:
    """A sample with duplicates, labels, and the k̂ they should meet, in fp64."""

    def __init__(
        self, n: int, d: int, specs: list[Spec], columns: int = 24, offset: float = 0.0
    ) -> None:
        self.generator = torch.Generator().manual_seed(1000 * n + d)
        self.z = torch.randn(n, d, generator=self.generator) / math.sqrt(d)
        self.z = (self.z * 256).round() / 256 + offset  # on a grid: no offset rounds it
        if n > 8:
            self.z[n // 2] = self.z[0]
            self.z[5:8] = self.z[4]
        self.specs = specs
        signs = torch.randint(0, 2, (n, columns), generator=self.generator) * 2 - 1
        self.v = signs.to(torch.int8)
        self.v[:, 0] = 1
        self.measure()

    def measure(self, centred: bool = True) -> None:
        self.k = torch.stack([oracle.gram(f, self.z, self.z, a, s, o) for f, a, s, o in self.specs])
        self.k.diagonal(dim1=1, dim2=2).zero_()
        means = self.k.sum(2) / (len(self.z) - 1)
        self.centres = (means - 0.5 * means.mean(1, keepdim=True)) * float(centred)
        self.expected = self.k - self.centres[:, :, None] - self.centres[:, None]
        self.expected.diagonal(dim1=1, dim2=2).zero_()

    def sweep(self, v: Tensor | None = None) -> QuadraticSums:
        components = tuple(Component(REGISTRY[f], s, o) for f, _, s, o in self.specs)
        rates = [rate for _, rate, _, _ in self.specs]
        v = self.v if v is None else v
        z, centres = self.z.to(DEVICE), self.centres.to(DEVICE)
        sums = quadratic_forms.label_sweep(z, components, rates, centres, v.to(DEVICE))
        assert all(t.dtype == torch.float64 for t in sums)
        return QuadraticSums(*(t.cpu() for t in sums))

    def deviations(self) -> Tensor:
        """[C, 1]: the standard deviation of vᵀKv over relabellings, √(2 Σ k̃²)."""
        tilde = self.k - self.k.mean(1, keepdim=True) - self.k.mean(2, keepdim=True)
        tilde += self.k.mean((1, 2), keepdim=True)
        return (2.0 * tilde.square().sum((1, 2))).sqrt().unsqueeze(1)

    def forms(self) -> Tensor:
        v = self.v.double()
        return (v * (self.expected @ v)).sum(1)

    def check(self, sums: QuadraticSums | None = None, limit: float = 1e-3) -> None:
        sums = self.sweep() if sums is None else sums
        errors = (sums.forms - self.forms()) / self.deviations()
        assert errors.shape == (len(self.specs), self.v.shape[1])
        assert errors.abs().max() < limit
        assert errors.square().mean().sqrt() < 0.5 * limit
        sizes = self.expected.abs()
        rounding = ROUNDING * sizes.sum(2) + 1e-6 * self.centred_from().sum(2)
        assert ((sums.row_sums - self.expected.sum(2)).abs() <= rounding).all()
        squares = self.expected.square().sum((1, 2))
        assert ((sums.squares - squares).abs() <= 2.0 * ROUNDING * squares).all()

    def centred_from(self) -> Tensor:
        return self.k.abs() + self.centres.abs()[:, :, None] + self.centres.abs()[:, None]


@pytest.mark.parametrize("spec", PROBES)
@pytest.mark.parametrize("d", [2, 33])
def test_every_function(spec: Spec, d: int) -> None:
    Problem(95, d, [spec]).check()


@pytest.mark.parametrize("rate", [0.05, 0.7, 10.0])
@pytest.mark.parametrize(("n", "d"), [(211, 2), (129, 10), (301, 64), (161, 130)])
def test_bandwidths_and_shapes(n: int, d: int, rate: float) -> None:
    Problem(n, d, [("gaussian", rate, 0.0, 0.0)]).check()


@pytest.mark.parametrize("spec", [GAUSSIAN, ENERGY, LAPLACE_L1], ids=lambda s: s[0])
@pytest.mark.parametrize("d", [2, 20])
def test_an_offset_changes_nothing(spec: Spec, d: int) -> None:
    plain, moved = Problem(97, d, [spec]).sweep(), Problem(97, d, [spec], offset=1e3)
    moved.check()
    sums = moved.sweep()
    scale = moved.expected.square().sum().sqrt()
    assert ((sums.forms - plain.forms).abs() < 1e-3 * scale).all()


@pytest.mark.parametrize("n", [2, 3, 17, 63, 128, 129])
def test_odd_sizes(n: int) -> None:
    Problem(n, 3, [ENERGY]).check(limit=2e-3)  # a handful of entries, and no averaging
    Problem(n, 20, [ENERGY]).check(limit=2e-3)


def test_large_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quadratic_forms, "PANEL_ROWS", 384)
    monkeypatch.setattr(quadratic_forms, "CHAIN", 256)
    monkeypatch.setattr(quadratic_forms, "PANEL_BYTES", 2 * 384 * 512)
    Problem(701, 10, [ENERGY], columns=100).check()


def test_several_components_share_the_distances() -> None:
    specs: list[Spec] = [GAUSSIAN, ENERGY, ("matern", 1.2, 2.5, 0.0), ("energy", 1.0, 0.5, 0.0)]
    Problem(100, 3, specs).check()
    Problem(140, 20, [CUBIC, ("polynomial", 0.5, 1.0, 0.0)]).check()


def test_many_components_are_taken_a_few_at_a_time() -> None:
    specs: list[Spec] = [
        ("gaussian", 0.3 * 1.5**c, 0.0, 0.0) for c in range(quadratic_forms.TOGETHER + 2)
    ]
    Problem(90, 3, specs).check()


def test_all_ones_give_the_row_sums() -> None:
    """The forms and the row sums see the same rounded values."""
    for d in (3, 20):
        problem = Problem(150, d, [GAUSSIAN, ENERGY])
        sums = problem.sweep()
        difference = (sums.forms[:, 0] - sums.row_sums.sum(1)).abs()
        assert (difference < 1e-7 * problem.expected.abs().sum((1, 2))).all()


def test_without_centres() -> None:
    """A constant in the kernel is rounded with it: the error is that of its size."""
    problem = Problem(150, 20, [GAUSSIAN])
    problem.measure(centred=False)
    size = (2.0 * problem.expected.square().sum()).sqrt()
    problem.check(limit=1e-3 * float(size / problem.deviations()))


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_any_scale(factor: float) -> None:
    """Values far outside of fp16 on both sides."""
    for spec in (ENERGY, ("polynomial", 0.5, 1.0, 0.0)):
        problem = Problem(90, 20, [spec])
        problem.z *= factor
        problem.measure()
        problem.check()


def test_an_outlier() -> None:
    problem = Problem(90, 20, [ENERGY])
    problem.z[3] += 1e5
    problem.measure()
    problem.check()


class TestLabels:
    def test_a_form_does_not_depend_on_its_neighbours(self) -> None:
        problem = Problem(130, 20, [GAUSSIAN], columns=140)
        together = problem.sweep()
        for column in (0, 127, 139):
            alone = problem.sweep(problem.v[:, column : column + 1])
            scale = problem.deviations()
            assert ((alone.forms - together.forms[:, column, None]).abs() < 1e-6 * scale).all()
            assert torch.equal(alone.row_sums, together.row_sums)
            assert torch.equal(alone.squares, together.squares)

    def test_a_swap_of_the_samples_changes_nothing(self) -> None:
        problem = Problem(150, 20, [GAUSSIAN])
        assert torch.equal(problem.sweep().forms, problem.sweep(-problem.v).forms)

    def test_batches_of_bounded_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        problem = Problem(130, 3, [GAUSSIAN, ENERGY], columns=140)
        expected = problem.sweep()
        monkeypatch.setattr(quadratic_forms, "LABEL_BYTES", 1)
        monkeypatch.setattr(quadratic_forms, "PRODUCT_BYTES", 1)
        sums = problem.sweep()
        problem.check(sums)
        assert torch.equal(sums.row_sums, expected.row_sums)
        assert torch.equal(sums.squares, expected.squares)

    def test_any_strides(self) -> None:
        problem = Problem(60, 20, [GAUSSIAN])
        expected = problem.sweep()
        problem.z = problem.z.mT.contiguous().mT
        sums = problem.sweep(problem.v.repeat_interleave(2, 1)[:, ::2])
        for ours, theirs in zip(sums, expected, strict=True):
            assert torch.equal(ours, theirs)


def test_repeats_are_bit_equal() -> None:
    problem = Problem(150, 20, [GAUSSIAN, ENERGY])
    for ours, again in zip(problem.sweep(), problem.sweep(), strict=True):
        assert torch.equal(ours, again)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("d", [2, 20])
@pytest.mark.parametrize("spec", [GAUSSIAN, ENERGY, CUBIC, LAPLACE_L1], ids=lambda s: s[0])
def test_what_is_not_finite_comes_out_as_nan(spec: Spec, d: int, bad: float) -> None:
    problem = Problem(70, d, [spec], columns=3)
    for row in (0, 69):
        z = problem.z.clone()
        z[row, 1] = bad
        problem.z, kept = z, problem.z
        for tensor in problem.sweep():
            assert tensor.isnan().all()
        problem.z = kept


def test_centres_that_are_not_finite() -> None:
    problem = Problem(70, 2, [GAUSSIAN], columns=3)
    problem.centres[0, 7] = math.nan
    for tensor in problem.sweep():
        assert tensor.isnan().all()


def test_sums_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not again with every batch of labels."""
    panels: list[tuple[int, int]] = []
    summed: list[tuple[int, int]] = []
    launch = launcher.launch

    def counted(kernel: Any, grid: object, config: object, **arguments: Any) -> None:
        if kernel.__name__ == "panel_kernel":
            panels.append((arguments["first_row"], arguments["first_column"]))
            summed.extend(panels[-1:] * arguments["SUMMED"])
        launch(kernel, grid, config, **arguments)

    monkeypatch.setattr(launcher, "launch", counted)
    monkeypatch.setattr(quadratic_forms, "LABEL_BYTES", 1)
    Problem(130, 3, [GAUSSIAN], columns=140).check()
    assert sorted(summed) == sorted(set(panels))
    assert len(panels) == 2 * len(summed)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest product and panel are what the constants say, in rows of whole units."""
    monkeypatch.setattr(quadratic_forms, "PANEL_BYTES", 2 * 128 * 128)
    monkeypatch.setattr(quadratic_forms, "PRODUCT_BYTES", 4 * 128 * 128)
    sizes: list[tuple[int, int, int]] = []
    product = compat.half_product

    def counted(a: Tensor, b: Tensor) -> Tensor:
        out = product(a, b)
        sizes.append((a.untyped_storage().nbytes(), out.nbytes, a.shape[2]))
        return out

    monkeypatch.setattr(compat, "half_product", counted)
    problem = Problem(200, 2, [GAUSSIAN], columns=200)
    problem.check()
    assert max(panel for panel, _, _ in sizes) <= quadratic_forms.PANEL_BYTES
    assert max(products for _, products, _ in sizes) <= quadratic_forms.PRODUCT_BYTES
    assert max(chain for _, _, chain in sizes) <= quadratic_forms.CHAIN


class TestMoments:
    """Σv, Σav and Σav², of labels of any value and strides."""

    @pytest.mark.parametrize(("n", "columns"), [(1, 1), (70, 129), (200, 3)])
    def test_against_fp64(self, n: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quadratic_forms, "MOMENT_ROWS", 64)
        v = torch.randint(-3, 4, (columns, n), dtype=torch.int8).T
        a = torch.randn(2, n, dtype=torch.float64)
        found = quadratic_forms.moments(v.to(DEVICE), a.to(DEVICE))
        wide = v.double()
        for ours, truth in zip(found, (wide.sum(0), a @ wide, a @ wide.square()), strict=True):
            torch.testing.assert_close(ours.cpu(), truth, rtol=1e-14, atol=1e-13)

    def test_centres_that_are_not_finite(self) -> None:
        a = torch.tensor([[1.0, math.inf]], dtype=torch.float64, device=DEVICE)
        found = quadratic_forms.moments(torch.zeros(2, 1, dtype=torch.int8, device=DEVICE), a)
        assert found.linear.isnan().all()
        assert found.square.isnan().all()


class TestLandmarkMeans:
    @pytest.mark.parametrize("spec", PROBES)
    @pytest.mark.parametrize("d", [2, 20])
    def test_against_fp64(self, spec: Spec, d: int) -> None:
        """Over the landmarks that differ from the row (rows 0 and 40, and 4 to 7, are equal),
        without the eighth at either end."""
        problem, (name, rate, shape, offset) = Problem(81, d, [spec]), spec
        marks = problem.z[[0, 4, *range(20, 60)]]
        components = (Component(REGISTRY[name], shape, offset),)
        found = quadratic_forms.landmark_means(
            problem.z.to(DEVICE), marks.to(DEVICE), components, [rate]
        )
        k = oracle.gram(name, problem.z, marks, rate, shape, offset)
        differ = (problem.z[:, None] != marks).any(-1) | (name == "polynomial")
        others = [row[kept].sort().values for row, kept in zip(k, differ, strict=True)]
        truth = torch.stack([v[len(v) // 8 : len(v) - len(v) // 8].mean() for v in others])
        assert ((found[0].cpu() - truth).abs() <= 1e-6 * truth.abs().max()).all()
        for one, other in ((0, 40), (4, 5), (4, 7)):
            assert found[0, one] == found[0, other]

    def test_many_components_and_no_other_landmark(self) -> None:
        z = torch.ones(3, 2, device=DEVICE)
        z[2] = 2.0
        components = (Component(REGISTRY["gaussian"]),) * (quadratic_forms.TOGETHER + 1)
        rates = [0.1 * (c + 1) for c in range(len(components))]
        found = quadratic_forms.landmark_means(z, z[:1], components, rates).cpu()
        assert (found[:, :2] == 0.0).all()
        torch.testing.assert_close(found[:, 2], torch.tensor(rates).double().mul(-2.0).exp())

    @pytest.mark.parametrize("spec", [GAUSSIAN, CUBIC], ids=lambda s: s[0])
    def test_what_is_not_finite_comes_out_as_nan(self, spec: Spec) -> None:
        name, rate, shape, offset = spec
        z = torch.randn(5, 3, device=DEVICE)
        z[1, 2] = math.nan
        components = (Component(REGISTRY[name], shape, offset),)
        found = quadratic_forms.landmark_means(z, z[:1], components, [rate])
        assert found[0].isnan().tolist() == [False, True, False, False, False]


HOSTILE: dict[str, tuple[Callable[[int], Tensor], list[Kernel]]] = {
    "clusters 1e-3": (clusters(1e-3), [Energy(0.5), Laplace(3.0), Gaussian(1e-3) + Gaussian(3.0)]),
    "clusters 1e-4": (clusters(1e-4), [Energy(0.5)]),
    "one-hot": (one_hot, [Energy()]),
    "far rows": (far_rows, [Energy(), Linear()]),
    "offset": (scaled(1.0, 1e4), [Linear()]),
    "units 1e25": (scaled(1e25), [Energy()]),
    "units 1e18": (scaled(1e18), [Laplace(3e18)]),
    "units 1e-18": (scaled(1e-18), [Energy()]),
}


class TestHostileData:
    """What products of halves do not resolve is formed again, by differences in fp64."""

    def check(self, z: Tensor, kernel: Kernel) -> None:
        """Forms of balanced signs, by their standard deviation. Rounding of the few values that k̂
        has here may add up: four units of fp16 at most."""
        v = torch.stack([torch.randperm(len(z)) % 2 for _ in range(60)], 1).mul(2).sub(1)
        forms = QuadraticForms(z.to(DEVICE), kernel, backend="triton")
        found = forms(v.to(DEVICE, torch.int8)).cpu()
        for c, k in enumerate(oracle.pair_matrices(z.double(), kernel)):
            truth = (v * (k @ v.double())).sum(0)
            assert ((found[c] - truth).abs() <= 4 * ROUNDING * truth.std()).all()
            sizes = (k - forms.centres[c].cpu() - forms.centres[c].cpu().T).abs().sum(1)
            error = (forms.row_sums[c].cpu() - k.sum(1)).abs()
            assert (error <= ROUNDING * sizes + 1e-6 * k.abs().sum(1)).all()

    @pytest.mark.parametrize(
        ("name", "kernel"),
        [(n, k) for n, (_, kernels) in HOSTILE.items() for k in kernels],
        ids=str,
    )
    def test_forms_and_row_sums(self, name: str, kernel: Kernel) -> None:
        self.check(HOSTILE[name][0](90)[0], kernel)

    def test_small_problems(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(launcher, "SMALL", 2048)
        self.check(far_rows(90)[0], Energy())

    def test_only_what_needs_it_is_formed_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of 10 tiles of columns, which one program visits, those that a near pair is in."""
        monkeypatch.setattr(quadratic_forms, "PROGRAMS_PER_PROCESSOR", 1)
        monkeypatch.setattr(quadratic_forms, "CHAIN", 512)
        monkeypatch.setattr(quadratic_forms, "PANEL_BYTES", 2 * 128 * 512)
        flags: list[Tensor] = []
        launch = launcher.launch

        def kept(kernel: Any, grid: Any, config: Any, **arguments: Any) -> None:
            launch(kernel, grid, config, **arguments)
            if kernel.__name__ == "redo_panel_kernel":
                flags.append(arguments["flags"].clone())

        monkeypatch.setattr(launcher, "launch", kept)
        z = scaled(1.0)(300)[0]
        self.check(z, Energy(0.5))
        assert flags and not any(word.any() for word in flags)
        flags.clear()
        z[290], z[200] = z[3] + 1e-4 * torch.randn(len(z[0])), z[140] + 1e-5
        self.check(z, Energy(0.5))
        assert sum(int(word).bit_count() for words in flags for word in words) == 2

    @pytest.mark.parametrize("kernel", [Energy(), Polynomial(3, gamma=1.0)], ids=repr)
    def test_right_or_nan(self, kernel: Kernel) -> None:
        """Values that fp32 does not hold."""
        z = scaled(1.0)(90)[0].to(DEVICE)
        for scale in (1e30, 1e-30):
            forms = QuadraticForms(scale * z, kernel, backend="triton")
            found = forms(torch.ones(90, 1, dtype=torch.int8, device=DEVICE))
            (k,) = oracle.pair_matrices((scale * z).double().cpu(), kernel)
            right = (found.cpu() - k.sum()).abs() <= 1e-3 * k.abs().sum()
            assert (found.isnan().cpu() | right).all()


class TestHalfProduct:
    """As on CUDA, whose setting may be read but never written."""

    class Settings:
        allow_fp16_accumulation = property(lambda settings: settings.allowed)

        def __init__(self, allowed: bool) -> None:
            self.allowed = allowed

    @pytest.mark.parametrize("allowed", [False, True])
    def test_it_accumulates_in_fp32_and_writes_no_setting(
        self, allowed: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[torch.dtype] = []
        bmm = torch.bmm

        def product(a: Tensor, b: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
            asked.append(a.dtype)
            assert (out_dtype is torch.float32) == (a.dtype is torch.float16)
            return bmm(a.float(), b.float())

        monkeypatch.setattr(torch.backends.cuda, "matmul", self.Settings(allowed))
        monkeypatch.setattr(torch, "bmm", product)
        monkeypatch.setattr(Tensor, "is_cuda", property(lambda _: True))
        a, b = torch.full((1, 2, 4096), 1.0).half(), torch.full((1, 4096, 2), 1.0).half()
        assert torch.equal(compat.half_product(a, b), torch.full((1, 2, 2), 4096.0))
        assert asked == [torch.float32 if allowed else torch.float16]


@pytest.mark.parametrize("components", [1, 2, 5])
@pytest.mark.parametrize("count", [2, 2048, 2049, 70001])
def test_panels_cover_the_triangle(
    count: int, components: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the constants that are shipped, and little in vain."""
    monkeypatch.undo()
    panels = list(quadratic_forms._panels(count, components, 64))
    for panel in panels:
        assert panel.rows <= quadratic_forms.PANEL_ROWS
        assert panel.width <= quadratic_forms.CHAIN
        assert panel.width % 64 == 0
        size = 2 * components * panel.rows * panel.chunks * panel.width
        assert size <= quadratic_forms.PANEL_BYTES
    for row in range(0, count, quadratic_forms.PANEL_ROWS):
        ours = [p for p in panels if p.row == row]
        assert ours[0].column == row
        for before, after in itertools.pairwise(ours):
            assert before.end == after.column
        assert ours[-1].end >= count
        assert ours[-1].row + ours[-1].rows >= min(count, row + quadratic_forms.PANEL_ROWS)
    if count > 65536:
        area = sum(p.rows * p.chunks * p.width for p in panels)
        assert area < 1.06 * count**2 / 2


def test_what_cannot_be_computed() -> None:
    problem = Problem(5, 2, [GAUSSIAN])
    with pytest.raises(ValueError, match=r"a label vector; got z \[5, 2\], v \[5, 0\]"):
        problem.sweep(problem.v[:, :0])
