"""Ctrl-C, and the SIGTERM by which schedulers and systems ask a process to end.

Both are a `KeyboardInterrupt`, so that whatever leaves things in order after the one does so after
the other. Work that must not stop at any point asks for `stop_requests` instead.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def raise_terminated(number: int, frame: FrameType | None) -> None:
    """Handler of SIGTERM, for programs."""
    raise Terminated


@dataclass
class StopRequest:
    """Whether this process was asked to stop.

    Attributes:
        kind: What to raise once things are in order; None as long as nobody asked.
    """

    kind: type[KeyboardInterrupt] | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block SIGINT and SIGTERM only note that they came; a second one ends at once.

    Handlers belong to the main thread of a process: elsewhere, nothing is noted.

    Raises:
        KeyboardInterrupt: At the second signal, wherever the program is.
    """
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        kind = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if request.kind is not None:
            raise kind
        request.kind = kind

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
