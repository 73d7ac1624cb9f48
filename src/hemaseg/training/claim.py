"""A folder of a run, or of predictions, is worked in by one process at a time."""

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hemaseg.errors import HemasegError, TrainingError

LOCK = "run.lock"
"""In the run folder; it stays there, and only the operating system knows whether it is held."""

WAIT_S = 2.0
"""Far longer than `holder` holds the lock that it asks about."""


@contextmanager
def claim(
    folder: Path,
    *,
    name: str = LOCK,
    error: type[HemasegError] = TrainingError,
    is_strict: bool = True,
) -> Iterator[None]:
    """Hold a folder within the block; the claim ends with the process, however that ends.

    Args:
        folder: Made if needed.
        name: Of the lock in it.
        error: What is raised.
        is_strict: Whether a file system without locks is refused, and the lock stays. If not,
            nothing is held there, and the lock is removed.

    Raises:
        HemasegError: Another process holds it, it cannot be written to, or its file system has no
            locks; of the class `error`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder / name)
    try:
        lock.acquire(timeout=WAIT_S)
    except Timeout:
        raise error(
            f"{folder}: {_name_in(folder / name)} works in it, expected nobody. Wait until it has "
            "ended, or end it; or choose another output folder."
        ) from None
    except OSError as problem:
        if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise error(
                f"{folder}: cannot be written to ({problem.strerror}). Allow it, or choose another "
                "output folder."
            ) from problem
        if is_strict:
            raise error(
                f"{folder / name}: cannot be locked ({problem.strerror}), so two processes could "
                "work in one folder. Choose an output folder on a file system with locks."
            ) from problem
    try:
        # Windows lets nobody write into a locked file; the holder has no name there.
        with suppress(OSError):
            (folder / name).write_text(f"process {os.getpid()} on {platform.node()}", "utf-8")
        yield
    finally:
        if not is_strict:
            # Whoever waits for it meanwhile sees that it is gone, and makes a new one.
            with suppress(OSError):
                (folder / name).unlink()
        lock.release()


def holder(folder: Path) -> str | None:
    """Who works on a run folder, such as "process 123 on node4"; None if nobody does.

    Raises:
        OSError: The file system has no locks.
    """
    if not (folder / LOCK).exists():
        return None
    try:
        with _lock(folder / LOCK).acquire(timeout=WAIT_S / 10):  # another may be asking now
            return None
    except Timeout:
        return _name_in(folder / LOCK)


def _lock(path: Path) -> FileLock:
    # The fallback is a file that outlives a process that was killed.
    return FileLock(path, fallback_to_soft=False)


def _name_in(path: Path) -> str:
    with suppress(OSError):
        return path.read_text("utf-8") or "another process"
    return "another process"
