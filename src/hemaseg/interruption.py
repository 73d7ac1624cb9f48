"""Ctrl-C, and the signals by which schedulers, systems and terminals ask a process to end.

All of them are a `KeyboardInterrupt`, so that whatever leaves things in order after the one does so
after the others. Work that must not stop at any point asks for `stop_requests` instead. Signals
that were set to be ignored, as by nohup, stay ignored.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP.
]


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _interruption(number: int) -> KeyboardInterrupt:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP stop the program as Ctrl-C does: its files in order.

    The first of the three counts: a cluster sends several, and so does a terminal with its shell.
    A second Ctrl-C ends at once.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            if signal.getsignal(each) is stop:
                again = signal.default_int_handler if each == signal.SIGINT else signal.SIG_IGN
                signal.signal(each, again)
        raise _interruption(number)

    with _handled_by(stop):
        yield


@dataclass
class StopRequest:
    """Whether this process was asked to stop.

    Attributes:
        kind: What to raise once things are in order; None as long as nobody asked.
    """

    kind: KeyboardInterrupt | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block, signals to stop only note that they came; a second Ctrl-C ends at once.

    Other signals come twice without anybody's meaning it: a terminal that closes sends SIGHUP
    itself and by its shell, and a parent sends SIGTERM to children that Ctrl-C has reached already.

    Raises:
        KeyboardInterrupt: At the second SIGINT, wherever the program is.
    """
    request = StopRequest()
    num_interrupts = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal num_interrupts
        num_interrupts += number == signal.SIGINT
        if num_interrupts > 1:
            raise _interruption(number)
        request.kind = request.kind or _interruption(number)

    with _handled_by(note):
        yield request


@contextmanager
def not_handled() -> Iterator[None]:
    """Within the block signals end the process at once, also where it waits outside of Python."""
    with _handled_by(signal.SIG_DFL):
        yield


@contextmanager
def _handled_by(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers,
) -> Iterator[None]:
    # Handlers belong to the main thread of a process.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, old in before.items():
        if old is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            # None stands for a handler that was not set from Python.
            signal.signal(number, signal.SIG_DFL if old is None else old)
