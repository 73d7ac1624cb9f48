"""A run folder is worked on by one process at a time."""

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hemaseg.errors import TrainingError

LOCK = "run.lock"
"""In the run folder; it stays there, and only the operating system knows whether it is held."""

WAIT_S = 2.0
"""Far longer than `holder` holds the lock that it asks about."""


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold a run folder within the block; the claim ends with the process, however that ends.

    Args:
        folder: Made if needed.

    Raises:
        TrainingError: Another process holds it, or its file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    try:
        lock.acquire(timeout=WAIT_S)
    except Timeout:
        raise TrainingError(
            f"{folder}: {_name_in(folder)} works on this run, expected nobody. Wait until it has "
            "ended, or end it."
        ) from None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise TrainingError(
                f"{folder}: cannot be written to ({error.strerror}). Allow it, or choose another "
                "output folder."
            ) from error
        raise TrainingError(
            f"{folder / LOCK}: cannot be locked ({error.strerror}), so two processes could train "
            "into one folder. Choose an output folder on a file system with locks."
        ) from error
    try:
        # Windows lets nobody write into a locked file; the holder has no name there.
        with suppress(OSError):
            (folder / LOCK).write_text(f"process {os.getpid()} on {platform.node()}", "utf-8")
        yield
    finally:
        lock.release()


def holder(folder: Path) -> str | None:
    """Who works on a run folder, such as "process 123 on node4"; None if nobody does.

    Raises:
        OSError: The file system has no locks.
    """
    if not (folder / LOCK).exists():
        return None
    try:
        with _lock(folder).acquire(timeout=WAIT_S / 10):  # another may be asking now
            return None
    except Timeout:
        return _name_in(folder)


def _lock(folder: Path) -> FileLock:
    # The fallback is a file that outlives a process that was killed.
    return FileLock(folder / LOCK, fallback_to_soft=False)


def _name_in(folder: Path) -> str:
    with suppress(OSError):
        return (folder / LOCK).read_text("utf-8") or "another process"
    return "another process"
