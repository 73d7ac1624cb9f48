import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hemaseg.errors import TrainingError
from hemaseg.training.claim import claim, holder


@contextmanager
def claimed_elsewhere(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process holds the folder until its input ends."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom hemaseg.training.claim import claim\n"
        "with claim(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.communicate()


def test_a_claim_lasts_as_long_as_its_block(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    assert holder(folder) is None
    assert not folder.exists()
    with claim(folder):
        assert str(holder(folder)).startswith(f"process {os.getpid()} on ")
    assert holder(folder) is None
    with claim(folder):
        pass


def test_an_error_in_the_block_ends_the_claim(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), claim(tmp_path):
        raise KeyboardInterrupt
    assert holder(tmp_path) is None


def test_the_second_process_is_told_who_the_first_is(tmp_path: Path) -> None:
    with claimed_elsewhere(tmp_path) as process:
        words = f"{tmp_path}: process {process.pid} on "
        with pytest.raises(TrainingError, match=re.escape(words)), claim(tmp_path):
            raise AssertionError
        assert holder(tmp_path) == f"process {process.pid} on {os.uname().nodename}"
    with claim(tmp_path):
        pass


def test_a_claim_dies_with_a_process_that_is_killed(tmp_path: Path) -> None:
    with claimed_elsewhere(tmp_path) as process:
        process.kill()
        process.wait()
        assert holder(tmp_path) is None
        with claim(tmp_path):
            assert str(holder(tmp_path)).startswith(f"process {os.getpid()} ")
