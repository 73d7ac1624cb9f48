"""Signals to the tests' own process."""

import signal
from collections.abc import Callable


def deliver(number: int) -> None:
    """Call the handler of a signal, as Python does after the system has delivered it.

    Not by the system: libraries of other tests in this process can have left it a stack for
    signals that is gone. Signals by the system, to processes of their own, are in test_cli.
    """
    handler = signal.getsignal(number)
    assert callable(handler)
    handler(number, None)


def stopped_after(number: int, kind: int = signal.SIGTERM) -> Callable[[object], None]:
    """A progress that brings a signal while the step of this number is shown."""
    steps: list[object] = []

    def show(step: object) -> None:
        steps.append(step)
        if len(steps) == number:
            deliver(kind)

    return show
