"""The choice between the backends, on GPUs that Triton cannot serve. CPU tensors that say they are
CUDA tensors stand for those on a GPU."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator

import pytest
import torch
import triton
from tolerances import RELATIVE, assert_close
from torch import Tensor

from divergences import mmd2
from divergences.kernels import api, backends
from divergences.kernels.triton_backend import compat, sweeps

CAUSES = {
    "capability": r"compute capability 7\.5; the kernels need 8\.0",
    "ROCm": "runs under ROCm",
    "compiler": r"cannot run a kernel on .* \(RuntimeError: Failed to find C compiler\)",
    "import": r"cannot be imported \(ModuleNotFoundError",
    "version": r"Triton is 3\.2\.0; the kernels need 3\.6",
}


failure = compat.failure


@pytest.fixture(autouse=True)
def _on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda _: True))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(compat, "failure", lambda _: None)
    monkeypatch.setattr(backends, "_reasons", {})
    monkeypatch.delenv(backends.ENVIRONMENT, raising=False)
    yield
    torch.compiler.reset()


@pytest.fixture(params=CAUSES)
def cause(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A GPU that Triton cannot serve, and what is to be said about it."""

    def fail(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler")

    match request.param:
        case "capability":
            monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
        case "ROCm":
            monkeypatch.setattr(torch.version, "hip", "6.4")
        case "compiler":
            monkeypatch.setattr(compat, "failure", failure.__wrapped__)
            monkeypatch.setattr(torch.cuda, "device", fail)
        case "import":
            monkeypatch.setitem(sys.modules, "divergences.kernels.triton_backend.sweeps", None)
            monkeypatch.delattr("divergences.kernels.triton_backend.sweeps")
        case "version":
            install(monkeypatch, "3.2.0")
    return CAUSES[request.param]


def install(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """A Triton of that version, which nothing has imported yet."""
    monkeypatch.setattr(triton, "__version__", version)
    for name in ("triton_backend.compat", "triton_backend.sweeps"):
        monkeypatch.delitem(sys.modules, f"divergences.kernels.{name}")
        monkeypatch.delattr(f"divergences.kernels.{name}")


def samples() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 3), torch.randn(9, 3)


def test_automatic_choice_is_silent_where_triton_runs() -> None:
    assert backends.choose(torch.zeros(2, 2), None) == "triton"
    assert backends.choose(torch.zeros(2, 2).double(), None) == "reference"


def test_automatic_choice_falls_back_with_one_warning(cause: str) -> None:
    x, y = samples()
    expected = mmd2(x, y, bandwidth=1.0, backend="reference")
    with pytest.warns(RuntimeWarning, match=cause) as seen:
        values = [mmd2(x, y, bandwidth=1.0) for _ in range(3)]
    assert len(seen) == 1
    assert "DIVERGENCES_BACKEND=reference" in str(seen[0].message)
    assert all(torch.equal(value, expected) for value in values)


def test_a_reason_of_all_devices_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "3.5.1")
    with pytest.warns(RuntimeWarning, match=r"Triton is 3\.5\.1"):
        assert backends.choose(torch.zeros(2, 2), None) == "reference"
    assert backends.choose(torch.zeros(2, 2, device="meta"), None) == "reference"


def test_a_warning_that_is_an_error_comes_once_too(cause: str) -> None:
    x, y = samples()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match=cause):
            mmd2(x, y, bandwidth=1.0)
        mmd2(x, y, bandwidth=1.0)


def test_a_compiled_graph_chooses_where_it_runs(
    cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tracer asks the device of a tensor itself, hence the choice is put in its mouth."""
    x, y = samples()
    with monkeypatch.context() as tracing:
        tracing.setattr(torch.compiler, "is_compiling", lambda: True)
        assert backends.choose(x, None) == backends.AUTOMATIC
    monkeypatch.setattr(api, "choose", lambda _, backend: backend or backends.AUTOMATIC)
    expected = mmd2(x, y, bandwidth=1.0, backend="reference")
    loss = torch.compile(
        lambda a, b: mmd2(a, b, bandwidth=1.0), fullgraph=True, backend="aot_eager"
    )
    with pytest.warns(RuntimeWarning, match=cause) as seen:
        values = [loss(x, y) for _ in range(2)]
    assert len([item for item in seen if item.category is RuntimeWarning]) == 1
    for value in values:
        assert_close(value, expected, RELATIVE[torch.float32])


def test_asked_for_by_name_it_raises_with_cause_and_remedy(cause: str) -> None:
    x, y = samples()
    with pytest.raises(RuntimeError, match=cause) as raised:
        mmd2(x, y, bandwidth=1.0, backend="triton")
    assert "backend=None" in str(raised.value)


def test_a_device_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    unavailable = sweeps.unavailable

    def counted(x: Tensor) -> str | None:
        asked.append(x.device)
        return unavailable(x)

    monkeypatch.setattr(sweeps, "unavailable", counted)
    for device in ("cpu", "meta", "cpu"):
        assert backends.choose(torch.zeros(2, 2, device=device), None) == "triton"
    assert [device.type for device in asked] == ["cpu", "meta"]


@pytest.mark.gpu
def test_a_kernel_is_compiled_and_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert compat.failure(torch.device("cuda", 0)) is None
