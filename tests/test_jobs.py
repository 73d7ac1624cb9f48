import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from hemaseg.studies.jobs import Job, run_jobs


def job(name: str, code: str, folder: Path) -> Job:
    return Job(name, (sys.executable, "-c", code), folder / name / "log.txt")


def is_alive(pid: int) -> bool:
    """Whether there is such a process that has not ended; one that nobody waits for has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("limit", [1, 2, 9])
def test_as_many_run_at_a_time_as_may(tmp_path: Path, limit: int) -> None:
    code = "import time; print(time.time()); time.sleep(0.5); print(time.time())"
    jobs = [job(f"job{number}", code, tmp_path) for number in range(4)]
    seen: list[tuple[int, int]] = []

    def progress(num_ended: int, running: Sequence[str]) -> None:
        seen.append((num_ended, len(running)))

    assert run_jobs(jobs, limit=limit, environment=os.environ, progress=progress) == {}
    spans = [tuple(map(float, one.log.read_text().split())) for one in jobs]
    beside = [sum(start <= moment < end for start, end in spans) for moment, _ in spans]
    assert max(beside) == min(limit, 4)
    assert seen[-1] == (4, 0)
    assert [ended for ended, _ in seen] == sorted(ended for ended, _ in seen)
    assert all(ended + running <= 4 and running <= limit for ended, running in seen)


def test_a_job_that_fails_stops_no_other_and_is_quoted(tmp_path: Path) -> None:
    done = tmp_path / "done"
    jobs = [
        job("says", "import sys; print('begins'); sys.exit('hemaseg: no memory')", tmp_path),
        job("mute", "import sys; sys.exit(3)", tmp_path),
        job("dies", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path),
        job("good", f"import pathlib; pathlib.Path({str(done)!r}).touch()", tmp_path),
    ]
    failed = run_jobs(jobs, limit=1, environment=os.environ)
    assert failed == {
        "says": "no memory",
        "mute": "ended with status 3",
        "dies": "ended by SIGKILL",
    }
    assert done.exists()
    assert "begins" in jobs[0].log.read_text()


def test_a_log_is_of_the_last_attempt(tmp_path: Path) -> None:
    run_jobs([job("a", "print('first' * 9)", tmp_path)], limit=1, environment=os.environ)
    run_jobs([job("a", "print('second')", tmp_path)], limit=1, environment=os.environ)
    assert (tmp_path / "a" / "log.txt").read_text() == "second\n"


def test_children_get_the_environment(tmp_path: Path) -> None:
    asked = job("a", "import os; print(os.environ['OMP_NUM_THREADS'])", tmp_path)
    run_jobs([asked], limit=1, environment=os.environ | {"OMP_NUM_THREADS": "7"})
    assert asked.log.read_text() == "7\n"


STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
CHILD = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
PARENT = """
import os, signal, sys
from pathlib import Path
from hemaseg.studies import jobs
signal.signal(signal.SIGINT, signal.default_int_handler)
jobs.GRACE_S = float(sys.argv[2])
folder, codes = Path(sys.argv[1]), sys.argv[3:]
made = [
    jobs.Job(str(k), (sys.executable, "-c", code), folder / f"{k}.txt")
    for k, code in enumerate(codes)
]
try:
    jobs.run_jobs(made, limit=2, environment=os.environ)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks Linux about processes")
@pytest.mark.parametrize(
    ("signals", "grace_s", "second"),
    [
        ([signal.SIGINT], 60, CHILD),
        ([signal.SIGTERM], 60, CHILD),
        ([signal.SIGHUP], 60, CHILD),
        ([signal.SIGTERM], 0.5, STUBBORN + CHILD),
        ([signal.SIGINT, signal.SIGINT], 60, STUBBORN + CHILD),
    ],
)
def test_no_child_outlives_its_parent(
    tmp_path: Path, signals: list[signal.Signals], grace_s: float, second: str
) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path), str(grace_s), CHILD, second, CHILD]
    with subprocess.Popen(command) as parent:
        logs = [tmp_path / "0.txt", tmp_path / "1.txt"]
        until = time.monotonic() + 60
        while not all(log.exists() and re.fullmatch(r"\d+\n", log.read_text()) for log in logs):
            assert time.monotonic() < until
            time.sleep(0.05)
        pids = [int(log.read_text()) for log in logs]
        assert all(map(is_alive, pids))
        start = time.monotonic()
        for number in signals:
            parent.send_signal(number)
            time.sleep(0.5)
        assert parent.wait(timeout=30) == 130
    assert time.monotonic() - start < 20
    assert not any(map(is_alive, pids))
    assert not (tmp_path / "2.txt").exists()  # what waited was not begun


def test_handlers_of_signals_come_back(tmp_path: Path) -> None:
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = [signal.getsignal(number) for number in numbers]
    run_jobs([job("a", "", tmp_path)], limit=1, environment=os.environ)
    assert [signal.getsignal(number) for number in numbers] == before
