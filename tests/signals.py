"""Signals to the tests' own process."""

import signal


def deliver(number: int) -> None:
    """Call the handler of a signal, as Python does after the system has delivered it.

    Not by the system: libraries of other tests in this process can have left it a stack for
    signals that is gone. Signals by the system, to processes of their own, are in test_cli.
    """
    handler = signal.getsignal(number)
    assert callable(handler)
    handler(number, None)
