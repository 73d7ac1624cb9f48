"""Several child processes at a time; whatever ends this process ends them too."""

import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hemaseg.interruption import stop_requests

GRACE_S = 20.0
"""Between asking a child to end and ending it: time to leave its files in order."""

_POLL_S = 0.1


@dataclass(frozen=True)
class Job:
    """A command that runs as a process of its own.

    Attributes:
        name: In words; what progress and failures are told by.
        command: Program and arguments.
        log: Where its output goes; replaced.
    """

    name: str
    command: tuple[str, ...]
    log: Path


Progress = Callable[[int, Sequence[str]], None]
"""Called often with how many jobs ended, and the names of those that run."""


def run_jobs(
    jobs: Sequence[Job],
    *,
    limit: int,
    environment: Mapping[str, str],
    progress: Progress | None = None,
) -> dict[str, str]:
    """Run them in their order, so many at a time; a job that fails stops no other.

    Args:
        jobs: With different names.
        limit: How many may run at the same time.
        environment: Of all of them.
        progress: See `Progress`.

    Returns:
        Name and last words of each job that failed.

    Raises:
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP came. All children have ended, by themselves
            when they were asked to, or by force after `GRACE_S` or at a second Ctrl-C.
    """
    waiting, running = deque(jobs), dict[Job, subprocess.Popen[bytes]]()
    failed: dict[str, str] = {}
    with stop_requests() as request:
        try:
            while (waiting or running) and request.kind is None:
                while waiting and len(running) < limit:
                    job = waiting.popleft()
                    running[job] = _start(job, environment)
                time.sleep(_POLL_S)
                for job, process in list(running.items()):
                    if process.poll() is not None:
                        del running[job]
                        if process.returncode:
                            failed[job.name] = _last_words(job.log, process.returncode)
                if progress is not None:
                    ended = len(jobs) - len(waiting) - len(running)
                    progress(ended, [job.name for job in running])
        finally:
            _end(list(running.values()))
    if request.kind is not None:
        raise request.kind
    return failed


def _start(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("wb") as log:
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        process.terminate()
    until = time.monotonic() + GRACE_S
    with suppress(KeyboardInterrupt):  # A second Ctrl-C: by force, and now.
        while time.monotonic() < until:
            if all(process.poll() is not None for process in processes):
                return
            time.sleep(_POLL_S)
    for process in processes:
        process.kill()
        process.wait()


def _last_words(log: Path, status: int) -> str:
    """The last line of a log, or how the process ended if it was ended."""
    if status < 0:
        with suppress(ValueError):
            return f"ended by {signal.Signals(-status).name}"
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("hemaseg: ") if lines else f"ended with status {status}"
