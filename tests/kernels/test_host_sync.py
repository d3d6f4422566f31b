"""Losses on a GPU never wait for it: the host reads no tensor and, once the constants of a loss are
there, sends none.

Without a GPU, tensors without content (of the device "meta") stand for those on one: they say that
they are CUDA tensors, and Triton launches are noted instead of run. What an operator of torch does
inside only a GPU can show.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import synchronisation
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench import offline
from divergences.energy import EnergyLoss
from divergences.kernels import Gaussian, InverseMultiquadric, Laplace, Polynomial, backends
from divergences.kernels.functions import GAUSSIAN
from divergences.kernels.problem import Component
from divergences.kernels.reference import tiles
from divergences.kernels.triton_backend import quadratic_forms
from divergences.mmd import MMDLoss, mmd2, mmd2_to_gaussian_mixture, mmd2_to_normal, witness
from vae import DIVERGENCES, VAE, GaussianLikelihood, InfoVAE, StandardNormal, mlp
from vae.training.means import RunningMeans

READING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")
SENDING = ("aten::_to_copy", "aten::copy_")  # others take a number from a CPU tensor as it is


# Kernels of torch and launches of ours: what is counted today, no target.
MIDDLE = (1, 8)  # flags are zeroed; two to prepare, two and what they leave out, two for sums
PERMUTATIONS = (424, 146)


class WaitsError(AssertionError):
    pass


class Guard(TorchDispatchMode):
    """Also where torch's own code calls operators, and in the backward pass."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = function.name().split(".")[0]
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        on_device = any(t.is_meta for t in tensors)
        masks = [t for t in tensors[1:] if t.dtype == torch.bool] if name == "aten::index" else []
        if on_device and (name in READING or masks):
            raise WaitsError(f"{name} reads a tensor")
        target = torch.device(kwargs.get("device") or "meta").type
        if on_device and target != "meta":
            raise WaitsError(f"{name} brings a tensor to the host")
        on_host = [t for t in tensors if not t.is_meta and (t.dim() > 0 or name in SENDING)]
        if on_host and (on_device or (name in SENDING and kwargs.get("device") is not None)):
            raise WaitsError(f"{name} sends a tensor to the device")
        return function(*args, **kwargs)


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """What runs inside the contexts it makes must not wait; their values are lists of launches."""
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda tensor: tensor.is_meta))
    monkeypatch.setattr(backends, "_reasons", {torch.device("meta"): None})
    monkeypatch.setattr(tiles, "is_lowered", lambda _: False)  # "meta" has no such settings
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    made = torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor

    def refusing(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapped(*args: Any, **kwargs: Any) -> Tensor:
            found = make(*args, **kwargs)
            if found.is_meta and not any(found is given for given in args):
                raise WaitsError(f"{make.__name__} sends numbers to the device")
            return found

        return wrapped

    @contextlib.contextmanager
    def watched() -> Iterator[list[offline.Launch]]:
        with offline.recorded(90) as launches, Guard(), pytest.MonkeyPatch.context() as patch:
            for make in made:
                patch.setattr(Tensor if make is made[-1] else torch, make.__name__, refusing(make))
            yield launches

    return watched


def device_tensor(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def weighted(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    weights = [t.detach()[..., 0].square().requires_grad_() for t in (x, y)]
    return mmd2(x, y, weights_x=weights[0], weights_y=weights[1], **options)


def to_mixture(x: Tensor, _: Tensor) -> Tensor:
    means, scales = x.detach()[:4].requires_grad_(), x.detach()[:4, 0].exp().requires_grad_()
    return mmd2_to_gaussian_mixture(x, means, scales, scales)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "MMDLoss": MMDLoss(),
    "median": lambda x, y: mmd2(x, y, bandwidth="median"),
    "fixed": lambda x, y: mmd2(x, y, bandwidth=1.0),
    "biased": lambda x, y: mmd2(x, y, bandwidth=1.0, estimator="biased"),
    "tensor": lambda x, y: mmd2(x, y, bandwidth=x.detach().square().mean().float()),
    "five": MMDLoss(kernel=Gaussian([0.5, 1.0, 2.0, 4.0, 8.0])),
    "L1": MMDLoss(kernel=Laplace("median", norm="l1")),
    "polynomial": MMDLoss(kernel=Polynomial(), estimator="biased"),
    "IMQ": lambda x, y: mmd2(x, y, kernel=InverseMultiquadric(1.0) + InverseMultiquadric(9.0)),
    "energy": EnergyLoss(),
    "energy on a line": lambda x, y: EnergyLoss()(x[:, :1], y[:, :1]),
    "weights": lambda x, y: weighted(x, y, bandwidth=1.0),
    "weights, biased": lambda x, y: weighted(x, y, estimator="biased"),
    "normal": lambda x, _: mmd2_to_normal(x),
    "mixture": to_mixture,
    "witness": lambda x, y: witness(x, x, y).sum(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(("n", "d"), [(256, 16), (3000, 64), (2500, 300)])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_do_not_wait(
    name: str, n: int, d: int, dtype: torch.dtype, on_device: Callable[[], Any]
) -> None:
    x, y = (device_tensor(n, d, dtype=dtype).requires_grad_() for _ in range(2))
    loss = LOSSES[name]
    with offline.recorded(90):  # constants are sent once
        loss(x, y)
    with on_device() as launches:
        value = loss(x, y)
        (gradient,) = torch.autograd.grad(value, x)
    assert gradient.shape == x.shape
    assert bool(launches) == (dtype != torch.float64 and name != "energy on a line")


@pytest.mark.parametrize("name", ["MMDLoss", "L1", "polynomial", "energy", "weights"])
def test_second_derivatives_do_not_wait(name: str, on_device: Callable[[], Any]) -> None:
    x, y = (device_tensor(300, 5, dtype=torch.float32).requires_grad_() for _ in range(2))

    def penalty() -> Tensor:
        (gradient,) = torch.autograd.grad(LOSSES[name](x, y), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    with offline.recorded(90):  # constants are sent once
        penalty()
    with on_device():
        assert penalty().shape == x.shape


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_step_of_training_does_not_wait(name: str, on_device: Callable[[], Any]) -> None:
    """Forward, backward, Adam, and the means that are kept of the losses."""
    objective = InfoVAE(0.5, 5.0, DIVERGENCES[name])
    model = VAE(mlp(12, 6), mlp(3, 12), GaussianLikelihood(), objective, StandardNormal(3))
    model = model.to("meta")
    optimizer, watch = torch.optim.Adam(model.parameters()), RunningMeans()

    def step(number: int) -> None:
        terms = model.terms(device_tensor(64, 12), device_tensor(64, 3), device_tensor(64, 3))
        loss = model.objective(terms, number)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        watch.add({"loss": loss.total, **loss.parts}, number)

    with offline.recorded(90):
        step(0)
    with on_device() as launches:
        step(1)
    assert bool(launches) == (name in {"mmd", "energy", "imq", "mmd-normal", "energy-normal"})


class Counter(TorchDispatchMode):
    """Counts operators of torch that run a kernel on the device: all but views and empty memory."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **kwargs or {})
        view = any(r.alias_info and not r.alias_info.is_write for r in function._schema.returns)
        name = function.name().split(".")[0]
        on_device = any(isinstance(t, Tensor) and t.is_meta for t in tree_leaves(made))
        if on_device and not view and "empty" not in name:
            self.found.append(name)
        return made


class Counted(NamedTuple):
    """Kernels of torch and launches of ours, forward and backward, that a loss may take."""

    loss: Callable[[Tensor, Tensor], Tensor]
    n: int
    d: int
    forward: tuple[int, int]
    backward: tuple[int, int]


COUNTED = {  # of 256 rows with one input that needs a gradient 4 in all, and 8 by default
    "fixed": Counted(MMDLoss(bandwidth=1.0), 256, 16, (0, 2), (2, 0)),
    "default": Counted(MMDLoss(), 256, 16, (0, 4), (2, 0)),
    "biased": Counted(MMDLoss(bandwidth=1.0, estimator="biased"), 256, 16, (0, 2), (2, 0)),
    "energy": Counted(EnergyLoss(), 256, 16, (0, 2), (2, 0)),
    "middle": Counted(MMDLoss(bandwidth=1.0), 4096, 64, MIDDLE, (2, 0)),
    "large": Counted(MMDLoss(bandwidth=1.0), 32_768, 64, MIDDLE, (2, 0)),
}


@pytest.mark.parametrize("name", COUNTED)
def test_what_a_loss_launches(name: str, on_device: Callable[[], Any]) -> None:
    """The backward pass fills its first gradient with one and multiplies."""
    case = COUNTED[name]
    x, y = device_tensor(case.n, case.d).requires_grad_(), device_tensor(case.n, case.d)
    with offline.recorded(90):  # constants are sent once
        case.loss(x, y)
    with on_device() as launches, Counter() as forward:
        value = case.loss(x, y)
    assert len(forward.found) <= case.forward[0], forward.found
    assert len(launches) <= case.forward[1], [launch.kernel.__name__ for launch in launches]
    with on_device() as launches, Counter() as backward:
        value.backward()  # type: ignore[no-untyped-call]
    assert len(backward.found) <= case.backward[0], backward.found
    assert len(launches) <= case.backward[1]


def test_what_a_batch_of_permutations_launches(on_device: Callable[[], Any]) -> None:
    """65,536 rows, 1,024 label vectors, the second batch: row sums are known."""
    z, labels = device_tensor(65_536, 64), device_tensor(65_536, 1024, dtype=torch.int8)
    components = (Component(GAUSSIAN),)
    centres = device_tensor(1, 65_536, dtype=torch.float64)
    with offline.recorded(90):
        quadratic_forms.label_sweep(z, components, [1.0], centres, labels)
    with on_device() as launches, Counter() as counter:
        quadratic_forms.label_sweep(z, components, [1.0], centres, labels)
    assert len(counter.found) <= PERMUTATIONS[0], counter.found
    assert len(launches) <= PERMUTATIONS[1]


class Reads(torch.autograd.Function):
    """Looks at its gradient."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x * 2.0

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Any:
        return grad if grad.sum() > 0 else -grad


SINS: dict[str, Callable[[Tensor], object]] = {
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool((x > 0).all()),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(force=True),
    "cpu": lambda x: x.cpu(),
    "mask": lambda x: x[x > 0],
    "where": lambda x: torch.where(x > 0),
    "backward": lambda x: torch.autograd.grad(Reads.apply(x.requires_grad_()).sum(), x),
    "tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "to": lambda x: torch.ones(3).to(x.device),
    "copy": lambda x: x.copy_(torch.ones_like(x, device="cpu")),
}


@pytest.mark.parametrize("name", SINS)
def test_waiting_is_seen(name: str, on_device: Callable[[], Any]) -> None:
    """Also by code that takes a RuntimeError for a trace."""
    with pytest.raises(WaitsError), on_device(), contextlib.suppress(RuntimeError):
        SINS[name](device_tensor(4, 3))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("n", "d"), [(256, 16), (3000, 64)])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_do_not_wait_on_a_gpu(name: str, n: int, d: int, dtype: torch.dtype) -> None:
    x, y = (torch.randn(n, d, device="cuda", dtype=dtype).requires_grad_() for _ in range(2))

    def step() -> Tensor:
        return torch.autograd.grad(LOSSES[name](x, y), x)[0]

    step()
    with synchronisation.refused():
        gradient = step()
    assert gradient.isfinite().all()
