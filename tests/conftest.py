"""Fixtures that several test modules share."""

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from command_line import Ended, Verb

# Before anything loads PyTorch, and for child processes too: on a busy machine, threads that wait
# for each other make small networks several times slower than one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# nohup, and a shell for its background jobs, have signals ignored: here and by all child processes.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _name in ("SIGTERM", "SIGHUP"):
    if hasattr(signal, _name):  # Windows has no SIGHUP.
        signal.signal(getattr(signal, _name), signal.SIG_DFL)

# A deadline would fail tests on a busy machine; without random seeds a failure can be replayed.
settings.register_profile("hemaseg", deadline=None, derandomize=True)
settings.load_profile("hemaseg")

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real scans (see CONTRIBUTING.md); skips where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"real scans not found at {REAL_DATA}")
    return REAL_DATA


@pytest.fixture
def hemaseg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verb:
    """The entry point, called with arguments as a shell would."""
    from hemaseg.cli import main

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["hemaseg", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = capsys.readouterr()
        return Ended(status, captured.out, captured.err)

    return run
