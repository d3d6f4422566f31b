"""Random cases against ``divergences.naive``: python -m tests.fuzz --cases 50000 --seed 0

A case is five lines of Python, which are what is run: the failing one is printed as they stand,
after Hypothesis has made it small. Cases come in chunks, each with a seed of its own; a run that
was stopped goes on where it was, and one that failed begins with the chunk that failed.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

from divergences import energy_distance, mmd2, mmd2_to_normal, naive, witness
from divergences.kernels import Energy, Kernel, pair_sums, potential

CHUNK = 500
# Relative to the same total of absolute values: what ``reference.tiles`` allows an exponent.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5}
SECOND = 1e-7  # of second derivatives, to the largest entry and |∇|³/|k|, in fp64

# --- What is compared ----------------------------------------------------------------------------

Loss = Callable[..., Tensor]


def compare(
    mode: str,
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    estimator: str = "unbiased",
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
) -> None:
    """Raises AssertionError unless what ``mode`` computes is that of the dense formulas in fp64 at
    the same numbers. x [..., n, d], y [..., m, d]; a batch is compared item by item."""
    options = {"estimator": estimator, "weights_x": weights_x, "weights_y": weights_y}
    if mode in ("vmap", "vmap of grad"):
        options = {"estimator": estimator}  # weights cannot be looked at there

    def ours(a: Tensor, b: Tensor) -> Tensor:
        return mmd2(a, b, kernel=kernel, **options)

    items = list(_items(x, y, options))
    resolved = [kernel.resolve(_wide(a), _wide(b)) for a, b, _ in items]
    values = [naive.mmd2(a, b, k, **each) for (a, b, each), k in zip(items, resolved, strict=True)]
    scales = [_value_scale(a, b, k) for (a, b, _), k in zip(items, resolved, strict=True)]
    dtype = _wide(x + 0 * y[..., :1, :]).dtype
    if mode in ("value", "vmap", "compile"):
        through = {"vmap": torch.func.vmap, "compile": _compiled}.get(mode, lambda f: f)(ours)
        found = through(x, y)
        assert found.dtype == dtype, f"{found.dtype} for {dtype}"
        _close(found.flatten(), torch.stack(values), torch.stack(scales), TOLERANCE[dtype])
    elif mode == "energy":
        found = energy_distance(x, y, **options)
        truth = [naive.energy_distance(a, b, **each) for a, b, each in items]
        scale = [_value_scale(a, b, Energy()) for a, b, _ in items]
        _close(found.flatten(), torch.stack(truth), torch.stack(scale), TOLERANCE[dtype])
    elif mode == "witness":
        found = witness(y, x, y, kernel=kernel)
        for each, (a, b, _), k in zip(_flat(found, 1), items, resolved, strict=True):
            one = naive.kernel_matrix(k, b, torch.cat([a, b])).abs().mean(-1)
            _close(each, naive.witness(b, a, b, k), one.max(), TOLERANCE[dtype])
    elif mode == "normal":
        sigma = math.sqrt(x.shape[-1] / 2)
        found = mmd2_to_normal(x, estimator=estimator)
        for each, (a, _, _) in zip(found.flatten(), items, strict=True):
            truth = naive.mmd2_to_normal(a, sigma, estimator)
            _close(each, truth, torch.ones(()), TOLERANCE[_wide(x).dtype])
    elif mode == "sums":
        found = torch.stack(list(pair_sums(x, y, kernel=kernel)), -1)
        for each, (a, b, _), k in zip(_flat(found, 2), items, resolved, strict=True):
            for column, t in enumerate(k.terms):
                arguments = t.function.name, a, b, float(t.rate), t.shape, t.offset
                most = (
                    naive.gram(*arguments).abs().max()
                    + naive.gram(
                        t.function.name, torch.cat([a, b]), torch.cat([a, b]), *arguments[3:]
                    )
                    .abs()
                    .max()
                )
                scale = most * max(len(a), len(b)) ** 2
                _close(each[column], naive.sums(*arguments), scale, TOLERANCE[dtype])
    elif mode == "potential":
        found = potential(x, y, kernel=kernel, weights=weights_y)
        for each, (a, b, own), k in zip(_flat(found, 1), items, resolved, strict=True):
            w = own["weights_y"]
            w = torch.ones(len(b)).double() if w is None else w.double()
            scale = naive.kernel_matrix(k, a, torch.cat([a, b])).abs().max() * w.sum()
            _close(each, naive.kernel_matrix(k, a, b) @ w, scale, TOLERANCE[dtype])
    elif mode in ("gradient", "func.grad", "vmap of grad"):
        _compare_gradients(mode, ours, x, y, items, resolved)
    elif mode == "penalty":
        found = _penalty_gradient(ours, x, y)
        for each, (a, b, own), k in zip(_flat(found, 2), items, resolved, strict=True):
            truth = _penalty_gradient(lambda u, v, k=k, own=own: naive.mmd2(u, v, k, **own), a, b)
            slope, most = _gradient_scales(a, b, k, own)[0], _value_scale(a, b, k)
            # The second: rounding of a gradient that cancels, times what bends at distance 0.
            spread = torch.cat([a, b]).double().var(0).sum() + 1e-300
            unit = slope**3 / (most + 1e-300) + 1e-6 * slope * most / spread
            _close(each, truth, truth.abs().max() + unit, SECOND)
    else:
        raise ValueError(f"unknown mode {mode!r}")


def _compare_gradients(
    mode: str, ours: Loss, x: Tensor, y: Tensor, items: list[Any], resolved: list[Kernel]
) -> None:
    if mode == "gradient":
        a, b = x.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()
        found = torch.autograd.grad(ours(a, b).sum(), (a, b))
    elif mode == "func.grad":
        found = torch.func.grad(lambda u, v: ours(u, v).sum(), argnums=(0, 1))(x, y)
    else:
        found = torch.func.vmap(torch.func.grad(ours, argnums=(0, 1)))(x, y)
    parts = zip(*(_flat(g, 2) for g in found), items, resolved, strict=True)
    for gx, gy, (a, b, own), k in parts:
        u, v = a.double().requires_grad_(), b.double().requires_grad_()
        truth = torch.autograd.grad(naive.mmd2(u, v, k, **own), (u, v))
        limits = torch.finfo(gx.dtype)
        tolerance = TOLERANCE[_wide(gx).dtype] + limits.eps
        for g, t, scale in zip((gx, gy), truth, _gradient_scales(a, b, k, own), strict=True):
            # Below tiny/eps the parts of a gradient have fewer digits than others.
            _close(g, t, scale.clamp_min(limits.tiny / limits.eps), tolerance)


def _penalty_gradient(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x, y.double()).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    return second


def _compiled(function: Loss) -> Loss:
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _flat(t: Tensor, keep: int) -> Tensor:
    return t.reshape(-1, *t.shape[t.dim() - keep :])


def _items(x: Tensor, y: Tensor, options: dict[str, Any]) -> Any:
    """The problems of a batch, each with its weights."""
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x, y = x.expand(*batch, *x.shape[-2:]), y.expand(*batch, *y.shape[-2:])
    weights = [
        (name, w if w is None else _flat(w.expand(*batch, w.shape[-1]), 1))
        for name in ("weights_x", "weights_y")
        for w in [options.get(name)]
    ]
    for k, (a, b) in enumerate(zip(_flat(x, 2), _flat(y, 2), strict=True)):
        own = {name: None if w is None else w[k] for name, w in weights}
        yield a, b, {"estimator": options["estimator"], **own}


def _value_scale(x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """The largest |k|, a bound of what is added up and subtracted."""
    z = torch.cat([x, y]).double()
    return 4.0 * naive.kernel_matrix(kernel, z, z).abs().max()


def _gradient_scales(
    x: Tensor, y: Tensor, kernel: Kernel, options: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The largest Σⱼ |wᵢwⱼ∇k(xᵢ, zⱼ)| of each sample."""
    scales = []
    for a, b, wa, wb in (
        (x, y, options["weights_x"], options["weights_y"]),
        (y, x, options["weights_y"], options["weights_x"]),
    ):
        own, other = (
            torch.full((len(z),), 1.0 / len(z)).double() if w is None else w.double() / w.sum()
            for z, w in ((a, wa), (b, wb))
        )
        left = 1.0 - own.square().sum() if options["estimator"] == "unbiased" else 1.0
        z, w = torch.cat([a, b]).double(), torch.cat([own / left, other])
        first = a.double().unsqueeze(1).repeat(1, len(z), 1).unsqueeze(-2).requires_grad_()
        k = naive.kernel_matrix(kernel, first, z.unsqueeze(0).unsqueeze(-2))
        (each,) = torch.autograd.grad(k.sum(), first)
        terms = 2.0 * own.view(-1, 1, 1) * w.view(1, -1, 1) * each.squeeze(-2)
        scales.append(terms.abs().sum(1).max())
    return scales[0], scales[1]


def _close(found: Tensor, truth: Tensor, scale: Tensor, tolerance: float) -> None:
    """What the dtype of the result does not hold has to be infinite."""
    limits, truth = torch.finfo(found.dtype), truth.detach()
    beyond = truth.abs() > limits.max
    assert bool(found[beyond].isinf().all()), "a result beyond its dtype's range is finite"
    error = (found.detach().double() - truth).abs() - limits.tiny * limits.eps
    error = torch.where(beyond, 0.0, error)
    worst = (error / (scale.detach().double() + 1e-300)).max()
    assert worst <= tolerance, f"error {float(worst):.3g} of the scale, allowed {tolerance:.3g}"


# --- What a case is ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Expressions: ``draw(n, d)`` are standard normal numbers in fp64."""

    seed: int
    x: str
    y: str
    call: str

    def __str__(self) -> str:
        return "\n".join(
            (
                "import torch; from tests.fuzz import compare; from divergences.kernels import *",
                f"g = torch.Generator().manual_seed({self.seed}); "
                "draw = lambda *s: torch.randn(s, generator=g, dtype=torch.float64)",
                f"x = {self.x}",
                f"y = {self.y}",
                self.call,
            )
        )

    def run(self) -> None:
        exec(str(self), {})


SIZES = (1, 2, 3, 5, 8, 17, 40, 63, 129)
COLUMNS = (1, 2, 3, 4, 8, 16, 17, 33, 64)
DTYPES = ("float64", "float32", "float32", "float16", "bfloat16")
MODES = (
    *("value", "energy", "witness", "normal", "sums", "potential", "penalty") * 15,
    *("gradient", "func.grad", "vmap", "vmap of grad") * 30,
    "compile",  # a second each
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def pick(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    mode = pick(*MODES)
    dtype = "float64" if mode == "penalty" else pick(*DTYPES)
    estimator = pick("unbiased", "biased")
    batch = (2,) if mode.startswith("vmap") else pick((), (), (), (2,), (2, 3))
    sizes = [n for n in SIZES if n > 1 or estimator == "biased"]
    n, m, d = pick(*sizes), pick(*sizes), pick(*COLUMNS)
    if batch == () and d <= 3 and mode in ("value", "energy") and pick(*[False] * 9, True):
        n, m = 700, 500  # several tiles
    half = dtype in ("float16", "bfloat16")
    scale = pick(0.1, 1.0, 10.0) if half else 10.0 ** pick(0, 0, -1, 1, -3, 3, -8, 8)
    offset = scale * (pick(0.0, 1.0) if half else pick(0.0, 1.0, 100.0))
    x = _sample(pick, batch, n, d, scale, offset)
    y_batch = batch
    if mode in ("value", "energy", "sums", "penalty"):
        y_batch = pick(batch, (), batch[-1:])  # one sample for all of a batch
    y = _sample(pick, y_batch, m, d, scale * pick(1.0, 0.5, 2.0), offset)
    shared = pick(False, False, True) and n <= m and y_batch == batch  # rows of x among those of y
    mixed = "float64" if dtype == "float32" and pick(*[False] * 5, True) else dtype
    y = f"torch.cat([x, {y}[..., {n}:, :].to(x)], -2)" if shared else f"{y}.to(torch.{mixed})"
    x = f"{x}.to(torch.{dtype})"
    names = ["Gaussian", "Laplace", "Energy", "InverseMultiquadric", "RationalQuadratic", "L1"]
    names += ["Polynomial", "Linear"] + (["Matern"] if mode != "penalty" else [])
    kernel = _kernel(pick, pick(*names), scale * math.sqrt(d), scale)
    if pick(*[False] * 5, True):
        kernel = f"{kernel} + 0.5 * {_kernel(pick, pick(*names), scale * math.sqrt(d), scale)}"
    call = f"compare({mode!r}, x, y, {kernel}, {estimator!r}"
    if not mode.startswith("vmap"):
        signed = estimator == "biased" and mode in ("value", "gradient", "energy", "penalty")
        wx, wy = (_weights(pick, *each, dtype, signed) for each in ((batch, n), (y_batch, m)))
        call += f", {wx}, {wy}"
    return Case(draw(st.integers(0, 10**6)), x, y, f"{call})")


def _sample(
    pick: Callable[..., Any], batch: tuple[int, ...], n: int, d: int, scale: float, offset: float
) -> str:
    """[*batch, n, d]: plain or with strides of its own, with or without repeated rows."""
    shape = ", ".join(map(str, (*batch, n, d)))
    layout = pick(
        *("plain", "plain", "columns", "every second", "expanded", "repeated", "one-hot"),
        *("clusters", "clusters", "far row", "slice", "backwards"),
    )
    if layout == "every second":
        shape = ", ".join(map(str, (*batch, 2 * n, d)))
    if layout == "slice":
        shape = ", ".join(map(str, (*batch, n, d + 3)))
    if layout == "expanded" and batch:
        shape = ", ".join(map(str, (*(1 for _ in batch), n, d)))
    numbers = f"(draw({shape}) * {scale!r} + {offset!r})"
    match layout:
        case "columns":
            return f"{numbers}.mT.contiguous().mT"
        case "every second":
            return f"{numbers}[..., ::2, :]"
        case "expanded" if batch:
            return f"{numbers}.expand({', '.join(map(str, (*batch, n, d)))})"
        case "clusters":  # two, as wide as rounding allows; a gradient in fp32 may keep few digits
            width = pick(0.1, 1e-2) * scale
            centres = f"(torch.arange({n}) % 2 * {scale!r})[:, None]"
            return f"(draw({shape}) * {width!r} + {centres} + {offset!r})"
        case "far row":
            return f"({numbers} * torch.where(torch.arange({n}) == 0, 30.0, 1.0)[:, None])"
        case "slice":
            return f"{numbers}[..., 1:-2]"
        case "backwards":
            return f"{numbers}.flip(-2).mT.contiguous().mT"
        case "repeated":
            return f"{numbers}[..., torch.arange({n}) // 3, :]"
        case "one-hot":
            hot = f"torch.nn.functional.one_hot(draw({shape}).argmax(-1), {d})"
            return f"({hot} * {scale!r}).double()"
    return numbers


def _kernel(pick: Callable[..., Any], name: str, typical: float, scale: float) -> str:
    """``typical``: a distance between rows, by which bandwidths are measured."""
    match name:
        case "Energy":
            return f"Energy({pick(1.0, 0.5, 1.5)})"
        case "Linear":
            return "Linear()"
        case "Polynomial":
            return f"Polynomial({pick(2, 3)}, gamma={float(f'{scale**-2:.4g}')!r})"
    one = float(f"{typical * pick(1.0, 0.3, 3.0):.4g}")
    bandwidth = pick(repr(one), repr(one), "'median'", repr([one, 2.0 * one, 4.0 * one]))
    extra = {
        "L1": ", norm='l1'",
        "Matern": f", nu={pick(1.5, 2.5)}",
        "InverseMultiquadric": f", exponent={pick(0.5, 1.0)}",
        "RationalQuadratic": f", alpha={pick(1.0, 2.0)}",
    }.get(name, "")
    return f"{'Laplace' if name == 'L1' else name}({bandwidth}{extra})"


def _weights(
    pick: Callable[..., Any], batch: tuple[int, ...], n: int, dtype: str, signed: bool
) -> str:
    kind = pick("none", "none", "positive", "zeros", "signed" if signed else "positive")
    if kind == "none" or n < 3:
        return "None"
    shape = ", ".join(map(str, (*batch, n)))
    if kind == "signed":
        return f"torch.where(torch.arange({n}) == 0, -0.5, 1.0).expand({shape}).to(torch.{dtype})"
    zeros = "" if kind == "positive" else f" * (torch.arange({n}) > 0)"
    size = "" if dtype in ("float16", "bfloat16") else pick("", "", " * 1e-20", " * 1e20")
    return f"((0.1 + draw({shape}).abs()){zeros}{size}).to(torch.{dtype})"


# --- Running -------------------------------------------------------------------------------------


class Failure(AssertionError):
    """Of the smallest case found: its five lines, and what went wrong."""


def fuzz(count: int, number: int) -> None:
    """``count`` cases, the same for the same ``number``; raises Failure."""
    failed: list[Case] = []

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    def run(case: Case) -> None:
        try:
            case.run()
        except Exception:
            failed.append(case)
            raise

    try:
        given(cases())(run)()
    except BaseException as error:
        if not failed or isinstance(error, KeyboardInterrupt):
            raise
        raise Failure(f"{failed[-1]}\n# {type(error).__name__}: {error}") from error


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=pathlib.Path, default=pathlib.Path("build/fuzz.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    done: dict[str, int] = json.loads(options.state.read_text()) if options.state.exists() else {}
    key, chunks = str(options.seed), math.ceil(options.cases / CHUNK)
    for chunk in range(done.get(key, 0), chunks):
        try:
            fuzz(CHUNK, 10**6 * options.seed + chunk)
        except Failure as failure:
            print(f"\nseed {options.seed}, chunk {chunk}:\n{failure}", file=sys.stderr)
            return 1
        done[key] = chunk + 1
        options.state.parent.mkdir(parents=True, exist_ok=True)
        options.state.write_text(json.dumps(done))
        print(f"{(chunk + 1) * CHUNK} of {chunks * CHUNK} cases", flush=True)
    print("no failure; to begin anew remove", options.state)
    return 0


if __name__ == "__main__":
    sys.exit(main())
