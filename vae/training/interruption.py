"""The first Ctrl-C stops after the current step, the second at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interruption:
    """While it is entered, a first SIGINT only sets ``requested``; handlers are restored after.

    A process that ignores SIGINT (a shell's background job) goes on ignoring it.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: object = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.getsignal(signal.SIGINT)
            if self._previous is not signal.SIG_IGN:
                signal.signal(signal.SIGINT, self._handle)
        return self

    def _handle(self, _: int, __: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        # None stands for a handler that Python did not install
        if callable(self._previous) or isinstance(self._previous, int):
            signal.signal(signal.SIGINT, self._previous)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()
