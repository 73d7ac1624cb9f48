"""Starts `python -m hemaseg` with some arguments, waits for it, and says what it took.

    python -m hemaseg.benchmark.launcher ARGUMENT...

It prints a line of JSON: status, seconds from the start of the process to its end, and its peak
memory in MiB (null where that is unknown). It imports next to nothing: Linux counts the memory of
the process that starts another one for the new one's own peak, so a large one would hide it.
"""

import json
import subprocess
import sys
import time


def main(arguments: list[str]) -> None:
    """Start, wait and say."""
    start = time.perf_counter()
    ended = subprocess.run([sys.executable, "-m", "hemaseg", *arguments], stdout=subprocess.DEVNULL)
    taken_s = time.perf_counter() - start
    answer = {"status": ended.returncode, "taken_s": taken_s, "peak_mib": _peak_mib()}
    sys.stdout.write(json.dumps(answer) + "\n")


def _peak_mib() -> float | None:
    """Of the only process that this one has started."""
    if sys.platform != "linux":
        return None
    from resource import RUSAGE_CHILDREN, getrusage

    return getrusage(RUSAGE_CHILDREN).ru_maxrss / 1024


if __name__ == "__main__":
    main(sys.argv[1:])
