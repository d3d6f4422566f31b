"""Signals that end a training after the current step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Within, a first Ctrl-C or SIGTERM only sets ``interrupted`` or ``terminated``; a second
    Ctrl-C is obeyed at once. Handlers are restored afterwards, and a signal that the process
    ignores (SIGINT in a shell's background job) stays ignored."""

    def __init__(self) -> None:
        self.interrupted = self.terminated = False
        self._previous: dict[int, Any] = {}

    @property
    def received(self) -> bool:
        return self.interrupted or self.terminated

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                previous = signal.getsignal(number)
                if previous not in (signal.SIG_IGN, None):  # None: not installed by Python
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self.terminated = True
        else:
            self.interrupted = True
            signal.signal(number, self._previous[number])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
