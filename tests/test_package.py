"""The package as installed: what imports what, and what importing costs."""

from __future__ import annotations

import ast
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, timeout=120
    )


def imported_modules(path: pathlib.Path) -> set[str]:
    """Absolute names of everything a file imports, relative imports resolved, at any depth."""
    package = list(path.relative_to(ROOT).parts[:-1])
    if package[0] == "kernels":
        package = ["divergences", *package]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def files(folder: str) -> list[pathlib.Path]:
    """Of the package and its subpackages, but not of those it links to."""
    found = (ROOT / folder).rglob("*.py")
    return sorted(p for p in found if (ROOT / folder / "kernels") not in p.parents)


def offends(modules: set[str], *prefixes: str) -> set[str]:
    return {m for m in modules for p in prefixes if m == p or m.startswith(p + ".")}


@pytest.mark.parametrize("path", files("divergences"), ids=lambda p: p.name)
def test_divergences_imports(path: pathlib.Path) -> None:
    optional = () if path.stem == "callbacks" else ("lightning",)
    assert not offends(imported_modules(path), "triton", *optional, "vae", "kernels")


@pytest.mark.parametrize("path", files("vae"), ids=lambda p: p.name)
def test_vae_imports(path: pathlib.Path) -> None:
    """vae -> divergences, and never around it to Triton or the backends."""
    forbidden = ("triton", "kernels", "divergences.kernels.reference")
    assert not offends(
        imported_modules(path), *forbidden, "divergences.kernels.triton_backend.sweeps"
    )


LAYERS = {  # a file imports those of earlier layers of its package, also within functions
    "kernels": [
        "_torch functions subsample validation statistics.sharing",
        "problem",
        "reference.tiles",
        "reference.pooled reference.small second_order",
        "reference.blocked reference.inner reference.traced",
        "triton_backend.configs triton_backend.compat",
        "triton_backend.differences",
        "triton_backend.gradients triton_backend.gram",
        "triton_backend.launcher triton_backend.panels",
        "triton_backend.median triton_backend.redo triton_backend.small",
        "triton_backend.quadratic_forms triton_backend.sweeps",
        "backends",
        "bandwidth operations",
        "kernel",
        "api statistics.quadratic_forms statistics.stein",  # what ``divergences`` imports
        "statistics.permuted",
    ],
    "divergences": [
        "command command.columns critic distributed expected_distance files forms fuse kl "
        "naive random_keys samples scores",
        "checkpoint chunks command.delimited dependence encoding estimators kernel_matrix "
        "plots.style resampling",
        "command.models command.tables density_ratio designs energy features mmd "
        "plots.sequential plots.witness sharded wasserstein",
        "command.processes gaussian_models plots.results",
        "plots plots.columns scaling",
        "results",
        "classifier evaluation goodness_of_fit independence information kl_decomposition",
        "conditional effect feature_test relative streams",
        "two_sample",
        "drift k_sample localization metrics power sequential",
        "callbacks command.running",
        "command.line",
        "__main__",
    ],
    "vae": [
        "_extras command data.data diagnostics evaluation.tables likelihoods networks "
        "objectives.divergences objectives.schedules priors processes training.means "
        "training.metrics training.rng training.signals",
        "data.binarise data.split evaluation.probes figures.charts figures.latent forward_output",
        "data.arrays data.bundled data.idx data.images data.shapes data.text "
        "objectives.rates training.alarms training.distributed",
        "data objectives.critics",
        "figures.look objectives.objective",
        "model objectives.lambda_heuristic",
        "config evaluation.passes objectives training.checkpoints training.devices "
        "training.fingerprint training.heldout training.losses",
        "build evaluation.bounds figures.pictures presets training.batches",
        "evaluation.codes training.arguments",
        "evaluation.disentanglement evaluation.samples training.loop",
        "evaluation.result figures.views training.fit",
        "evaluation.evaluate figures.page training",
        "evaluation figures runs",
        "command.running",
        "command.line",
        "__main__",
    ],
}


def module_of(path: pathlib.Path) -> str:
    """The name within its package; "" of the package itself, which shows what users import."""
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def own_modules(path: pathlib.Path) -> set[str]:
    """Names of what a file imports of its own package."""
    package = path.relative_to(ROOT).parts[0]
    prefix = "divergences.kernels." if package == "kernels" else f"{package}."
    known = {module_of(p) for p in files(package)}
    found = set()
    for module in imported_modules(path):
        name = module.removeprefix(prefix) if module.startswith(prefix) else ""
        while name not in known:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {"", module_of(path)}


@pytest.mark.parametrize("package", LAYERS)
def test_every_file_has_a_layer_and_imports_from_earlier_ones(package: str) -> None:
    rank = {name: at for at, names in enumerate(LAYERS[package]) for name in names.split()}
    modules = {module_of(path): path for path in files(package)}
    assert rank.keys() <= modules.keys()
    for name in modules.keys() - rank.keys() - {""}:
        assert modules[name].stem == "__init__", f"{package}/{name} has no layer"
        assert not own_modules(modules[name])
    for name, at in rank.items():
        late = {other for other in own_modules(modules[name]) if rank.get(other, -1) >= at}
        assert not late, f"{package}/{name} imports {late}"


@pytest.mark.parametrize("path", files("kernels"), ids=lambda p: p.name)
def test_kernels_imports(path: pathlib.Path) -> None:
    """The engine knows nothing above it."""
    modules = imported_modules(path)
    above = {f"divergences.{p.stem}" for p in files("divergences") if p.stem != "__init__"}
    assert not offends(modules, "vae", "kernels", *above)
    if path.parent.name != "triton_backend":
        assert not offends(modules, "triton")


def test_the_rules_above_can_fail() -> None:
    assert offends(
        {"divergences.kernels.triton_backend.sweeps"}, "divergences.kernels.triton_backend.sweeps"
    )
    assert not offends({"tritonish"}, "triton")
    assert "divergences.kernels.problem" in imported_modules(
        ROOT / "kernels" / "reference" / "blocked.py"
    )
    assert "divergences.energy" in imported_modules(ROOT / "divergences" / "__init__.py")


@pytest.mark.parametrize("package", ["divergences", "vae"])
def test_import_is_light(package: str) -> None:
    """No triton, lightning, torchmetrics, matplotlib or sklearn, and no CUDA context."""
    heavy = ["triton", "lightning", "torchmetrics", "matplotlib", "sklearn"]
    code = (
        f"import sys, torch\nbefore = set(sys.modules)\nimport {package}\n"
        f"print([m for m in {heavy} if m in set(sys.modules) - before])\n"
        "print(torch.cuda.is_initialized())"
    )
    result = run(code)
    assert result.stdout.split("\n")[:2] == ["[]", "False"], result.stdout + result.stderr


def test_import_takes_little_more_than_torch() -> None:
    code = (
        "import time, torch, numpy\nstart = time.process_time()\nimport divergences\n"
        "print(time.process_time() - start)"
    )
    assert any(float(run(code).stdout) < 1.0 for _ in range(3))


def test_works_where_triton_is_absent() -> None:
    """Everything runs on the reference; asking for Triton by name says what is missing."""
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "triton" else real(name, *a)
import torch
from divergences import mmd2
x, y = torch.randn(9, 2), torch.randn(8, 2)
assert torch.isfinite(mmd2(x, y))
try:
    mmd2(x, y, backend="triton")
except RuntimeError as error:
    print(error)
"""
    result = run(code)
    assert "the package triton is not installed" in result.stdout, result.stderr
    assert "backend='reference'" in result.stdout


def test_triton_on_the_cpu_says_why_not() -> None:
    code = (
        "import torch\nfrom divergences import mmd2\n"
        "try:\n    mmd2(torch.randn(9, 2), torch.randn(8, 2), backend='triton')\n"
        "except RuntimeError as error:\n    print(error)"
    )
    result = run(code)
    assert "backend 'triton' cannot run here" in result.stdout, result.stderr


def test_environment_variable_chooses_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from divergences.kernels.backends import choose

    x = torch.zeros(2, 2)
    assert choose(x, None) == "reference"
    monkeypatch.setenv("DIVERGENCES_BACKEND", "nonsense")
    with pytest.raises(ValueError, match="unknown DIVERGENCES_BACKEND 'nonsense'"):
        choose(x, None)
    monkeypatch.setenv("DIVERGENCES_BACKEND", "reference")
    assert choose(x, None) == "reference"
    with pytest.raises(ValueError, match="unknown backend 'cuda'"):
        choose(x, "cuda")


def test_symlink_is_relative() -> None:
    link = ROOT / "divergences" / "kernels"
    assert link.is_symlink()
    assert os.readlink(link) == "../kernels"


def test_modules_are_there_and_say_what_to_call() -> None:
    code = (
        "import sys, divergences\n"
        "print('divergences.wasserstein' in sys.modules, 'naive' in dir(divergences))\n"
        "print(divergences.kl.gaussian_kl.__name__)\n"
        "for name in ('wasserstein', 'mmd'):\n"
        "    try:\n        getattr(divergences, name)(1)\n"
        "    except TypeError as error:\n        print(error)\n"
        "try:\n    divergences.nonsense\nexcept AttributeError as error:\n    print(error)"
    )
    result = run(code)
    loaded, function, sliced, mmd, missing = result.stdout.splitlines()
    assert loaded == "False True", result.stderr
    assert function == "gaussian_kl"
    assert "call divergences.wasserstein.wasserstein_1d" in sliced
    assert "call divergences.mmd2, divergences.witness" in mmd
    assert "no attribute 'nonsense'" in missing


def test_a_clone_without_links_says_what_to_do(tmp_path: pathlib.Path) -> None:
    package = tmp_path / "divergences"
    package.mkdir()
    shutil.copy(ROOT / "divergences" / "__init__.py", package)
    (package / "kernels").write_text("../kernels")  # what git writes in place of a link
    result = subprocess.run(
        [sys.executable, "-c", "import divergences"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "git config core.symlinks true" in result.stderr


def test_sums_of_kernels_pass_strict_type_checking(tmp_path: pathlib.Path) -> None:
    user = tmp_path / "user.py"
    user.write_text(
        "import torch\nimport divergences\nfrom divergences.kernels import Gaussian\n\n"
        "x = torch.randn(5, 2)\n"
        "kernel = sum([Gaussian(s) for s in (1.0, 2.0)])\n"
        "loss: torch.Tensor = divergences.mmd2(x, x + 1.0, kernel=kernel)\n"
        "divergences.MMDLoss(kernel=kernel)\n"
        "kl: torch.Tensor = divergences.kl.gaussian_kl(x, x)\n"
        "divergences.nonsense\n"
    )
    pytest.importorskip("mypy")
    result = subprocess.run(  # with the options of `make types`, whose cache then serves
        [sys.executable, "-m", "mypy", str(user)], cwd=ROOT, capture_output=True, text=True
    )
    *errors, _ = result.stdout.splitlines()
    assert len(errors) == 1, result.stdout
    assert 'Module has no attribute "nonsense"' in errors[0]
