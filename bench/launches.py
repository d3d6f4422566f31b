"""The launches of a workload, planned but not run, the work in each, and how long a GPU takes for
it at its peak rates."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from bench import offline
from bench.offline import Launch
from divergences.kernels.functions import REGISTRY
from divergences.kernels.plan import Component, Wanted
from divergences.kernels.triton_problem import cdiv

from .generated_code import PROCESSORS

PRODUCTS = 3  # of the fp16 split, for each exact product
MEASURED_TENSOR = 790e12  # fp16, the library's products on an H200
L2_BYTES = 5120  # per cycle: the A100 white paper; for Hopper not published, taken as the same


class Work(NamedTuple):
    """Counted work of one launch. ``visits`` are tiles met, ``programs`` the blocks that share
    them; ``launch`` is None for products of the library."""

    name: str
    launch: Launch | None
    programs: int = 1
    visits: int = 0
    tensor: float = 0.0  # flop
    special: float = 0.0  # exponentials
    fma: float = 0.0  # fp32 operations of the difference form, whatever follows not counted
    bytes: float = 0.0  # each tensor once
    l2_bytes: float = 0.0  # each time it is loaded


def triangle(tiles: int) -> int:
    """Tiles of a triangle: for an even number half of the farthest ones."""
    return tiles * (tiles // 2 + 1) - (tiles // 2 if tiles % 2 == 0 else 0)


def value_visits(given: dict[str, Any]) -> int:
    rows, per = given["BM"], given["BM"] // given["BN"]
    tx, ty = cdiv(given["n"], rows), cdiv(given["m"], rows)
    xx, yy = given["programs_xx"], given["programs_yy"]
    visits = (triangle(tx) if xx else 0) + (triangle(ty) if yy else 0)
    visits += tx * ty if given["programs"] > xx + yy else 0
    return int(visits * per)


def gradient_visits(given: dict[str, Any]) -> int:
    across = {"x": cdiv(given["n"], given["BN"]), "y": cdiv(given["m"], given["BN"])}
    return sum(
        given[f"tiles_{pair[0]}"] * across[pair[1]]
        for pair in ("xx", "xy", "yx", "yy")
        if given[f"splits_{pair}"]
    )


def panel_visits(given: dict[str, Any]) -> int:
    """Tiles of columns at or behind the diagonal."""
    across = given["chunk"] * given["chunks"]
    end = min(across, cdiv(given["n"] - given["first_column"], given["BN"]))
    gap = given["first_row"] - given["first_column"]
    begins = (max(gap + tile * given["BM"], 0) // given["BN"] for tile in range(given["tiles"]))
    return sum(max(0, end - begin) for begin in begins)


def product_visits(given: dict[str, Any]) -> int:
    """The product of a panel of weights with the points."""
    tiles = cdiv(given["rows_x"] + given["rows_y"], given["BM"]) * cdiv(given["d"], given["BD"])
    columns = {"xx": ("n",), "xy": ("m" if given["rows_x"] else "n",), "all": ("n", "m")}
    return tiles * sum(cdiv(given[c], given["BN"]) for c in columns[given["BLOCKS"]])


def _bytes(launch: Launch) -> float:
    found = {}
    for given in launch.arguments.values():
        if isinstance(given, Tensor):
            size = min(given.numel() * given.element_size(), given.untyped_storage().nbytes())
            found[given.untyped_storage()._cdata, given.storage_offset()] = float(size)
    return sum(found.values())


def work_of(launch: Launch, specials: int) -> Work:
    """``specials``: exponentials of a pair."""
    given, name = launch.arguments, launch.kernel.__name__
    size = _bytes(launch)
    pairs = {"value_kernel": value_visits, "gradient_kernel": gradient_visits,
             "panel_kernel": panel_visits}  # fmt: skip
    if name in pairs:
        visits = pairs[name](given)
        specials -= given.get("POWERS", ()).count(3)
        tile = given["BM"] * given["BN"]
        fused = bool(given.get("GRADIENT")) and not given["PANEL"]
        width = given["D"] if given["GRAM"] else given["d"]
        products = (2 if fused else 1) * 2.0 * width * visits * tile
        rows = given["BM"] if given["GRAM"] and given["D"] > given["BK"] else 0
        # The second product has the columns already if one slice is all of their coordinates.
        again = fused and given["GRAM"] and given["D"] > given["BK"]
        columns = given["BN"] * (2 if again else 1)
        programs = given["tiles"] * cdiv(given["chunk"] * given["chunks"], given["each"]) if (
            name == "panel_kernel") else given["programs"]  # fmt: skip
        return Work(
            name, launch, programs, visits,
            tensor=PRODUCTS * products if given["GRAM"] else 0.0,
            special=float(specials * visits * tile),
            fma=0.0 if given["GRAM"] else products,
            bytes=size, l2_bytes=4.0 * visits * (rows + columns) * width,
        )  # fmt: skip
    if name == "finish_kernel" and given["PANEL"]:
        visits = product_visits(given)
        products = 2.0 * visits * given["BM"] * given["BN"] * given["BD"]
        loads = 4.0 * visits * given["BN"] * (given["BM"] + given["BD"])
        tensor = PRODUCTS * products if given["GRAM"] else 0.0
        return Work(name, launch, given["programs"], visits, tensor, bytes=size, l2_bytes=loads)
    if name == "fold_kernel":
        return Work(name, launch, l2_bytes=size)  # what the product before it has left there
    return Work(name, launch, bytes=size)


def memory(works: Sequence[Work]) -> int:
    """Bytes of all tensors that the launches name: no less than what is held at once."""
    tensors = [
        given
        for work in works if work.launch is not None
        for given in work.launch.arguments.values() if isinstance(given, Tensor)
    ]  # fmt: skip
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def loss(
    arch: int, processors: int, n: int, d: int, count: int = 1, gradient: bool = False
) -> list[Work]:
    """A Gaussian MMD² of two samples [n, d] with ``count`` bandwidths, each twice as large as the
    one before, and the gradient of x."""
    from divergences.kernels import triton_backend

    x, y = (torch.empty(1, n, d, device="meta") for _ in range(2))
    components = (Component(REGISTRY["gaussian"], 0.0, 0.0),) * count
    wanted = Wanted(sums=True, grad_x=gradient)
    with offline.recorded(arch, processors) as found:
        triton_backend.sweep(
            x, y, None, None, components, [4.0**-c for c in range(count)], [1.0] * 3 * count,
            "all", wanted,
        )  # fmt: skip
    return [work_of(launch, count) for launch in found]


def labels(
    arch: int, processors: int, n: int, d: int, kernels: dict[str, int], count: int
) -> list[Work]:
    """Label forms of one sample [n, d] for so many label vectors; ``kernels``: components of each
    function, a sweep for each."""
    from divergences.kernels import _compat, triton_labels

    products: list[Work] = []
    specials = 0

    def product(a: Tensor, b: Tensor) -> Tensor:
        groups, rows, inner = a.shape
        flop = 2.0 * groups * rows * inner * b.shape[2]
        out = a.new_empty((groups, rows, b.shape[2]), dtype=torch.float32)
        size = 2.0 * (a.numel() + b.numel())
        products.append(Work("product", None, tensor=flop, bytes=size, l2_bytes=4.0 * out.numel()))
        return out

    z = torch.empty(n, d, device="meta")
    v = torch.empty(n, count, device="meta", dtype=torch.int8)
    works: list[Work] = []
    for name, specials in kernels.items():
        components = (Component(REGISTRY[name], 0.0, 0.0),) * specials
        centres = torch.empty(specials, n, device="meta", dtype=torch.float64)
        with (
            offline.recorded(arch, processors) as found,
            mock.patch.object(_compat, "half_product", product),
            mock.patch.object(triton_labels, "full_precision", contextlib.nullcontext),
        ):
            triton_labels.label_sweep(z, components, [1.0] * specials, centres, v)
        works += [work_of(launch, specials) for launch in found]
    return works + products


class GPU(NamedTuple):
    """Peak rates per second of NVIDIA's data sheets (A100 80 GB SXM, H100 SXM, H200 SXM; dense).
    The clock is the one that the fp32 rate implies. ``tensor`` of the H200 was measured."""

    name: str
    arch: int
    processors: int
    tensor: float
    fp32: float
    memory: float

    @property
    def clock(self) -> float:
        return self.fp32 / (2 * PROCESSORS[self.arch].fma * self.processors)


A100 = GPU("A100", 80, 108, 312e12, 19.5e12, 2.039e12)
H100 = GPU("H100", 90, 132, 989.4e12, 67e12, 3.35e12)
H200 = GPU("H200", 90, 132, MEASURED_TENSOR, 67e12, 4.8e12)


def unit_seconds(work: Work, gpu: GPU) -> dict[str, float]:
    """Seconds that counted work takes of each unit at its peak rate."""
    special = PROCESSORS[gpu.arch].special * gpu.processors * gpu.clock
    return {
        "tensor": work.tensor / gpu.tensor,
        "exp2": work.special / special,
        "fma": 2.0 * work.fma / gpu.fp32,
        "memory": work.bytes / gpu.memory,
        "L2": work.l2_bytes / (L2_BYTES * gpu.clock),
    }
