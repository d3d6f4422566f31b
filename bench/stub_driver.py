"""A driver for Triton where there is no GPU: kernels are compiled as for one, and not run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import triton
from triton.backends.compiler import GPUTarget


class StubDriver:
    """What ``triton.runtime.driver.active`` is asked for. ``launches``: what reached the driver,
    if it is to be kept, as (grid, stream, function, arguments)."""

    def __init__(self, capability: int, shared_bytes: int, keep: bool) -> None:
        self.capability, self.shared_bytes, self.keep = capability, shared_bytes, keep
        self.device, self.stream = 0, 0
        self.launches: list[tuple[Any, ...]] = []
        self.utils, self.launcher_cls = self, self._launcher

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, _: int) -> int:
        return self.stream

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_device_properties(self, _: int) -> dict[str, int]:
        return {"max_shared_mem": self.shared_bytes}

    def load_binary(self, name: str, *_: object) -> tuple[object, str, int, int, int]:
        return object(), name, 32, 0, 1024

    def _launcher(self, source: Any, _: object) -> Any:
        taken = [kind != "constexpr" for kind in source.signature.values()]

        def run(x: int, y: int, z: int, stream: int, function: str, *rest: Any) -> None:
            if self.keep:
                given = [value for value, kept in zip(rest[4:], taken, strict=True) if kept]
                self.launches.append(((x, y, z), stream, function, given))

        return run


@contextmanager
def stub_driver(
    capability: int = 90, shared_bytes: int = 227 * 1024, *, keep: bool = False
) -> Iterator[StubDriver]:
    """Inside, Triton launches on a GPU that is not there."""
    stub = StubDriver(capability, shared_bytes, keep)
    driver = triton.runtime.driver
    before = driver._active
    driver.set_active(stub)
    try:
        yield stub
    finally:
        driver._active = before
