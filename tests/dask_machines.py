"""A Dask scheduler and workers as a user starts them by hand, each a process of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from distributed import Client

START_S = 60.0
"""Within which a process is there, on a busy machine."""


class Machines:
    """A context manager, at whose end all processes end.

    Attributes:
        scheduler_file: As `--scheduler-file` wrote it.
        client: Looks at the cluster from outside.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        """Start a scheduler.

        Args:
            folder: For its file.
            **settings: Environment variables.
        """
        self._folder = folder
        self.scheduler_file = folder / "scheduler.json"
        self._processes = [self._start("scheduler", "--port", "0", "--no-dashboard", **settings)]
        until = time.monotonic() + START_S
        while not self.scheduler_file.exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        self.client = Client(scheduler_file=str(self.scheduler_file), set_as_default=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.client.close()
        for process in reversed(self._processes):
            process.kill()
            process.wait()

    def add_worker(self, *options: str, **settings: str) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it has joined."""
        before = set(self.client.nthreads())
        options = (*options, "--no-dashboard", "--local-directory", str(self._folder))
        options = (*options, "--memory-limit", "0")
        self._processes.append(self._start("worker", *options, **settings))
        until = time.monotonic() + START_S
        while set(self.client.nthreads()) <= before:
            assert time.monotonic() < until
            time.sleep(0.05)
        return self._processes[-1]

    def end(self, process: subprocess.Popen[bytes] | None = None) -> None:
        """Kill a worker and wait until it is missed; or the scheduler."""
        process = process or self._processes[0]
        before = len(self.client.nthreads())
        process.kill()
        process.wait()
        while process is not self._processes[0] and len(self.client.nthreads()) == before:
            time.sleep(0.05)

    def _start(self, what: str, *options: str, **settings: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "dask", what),
                *("--scheduler-file", str(self.scheduler_file), *options),
            ],
            cwd=self._folder,
            env=os.environ | settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
