import time

import pytest

from hemaseg.training import progress
from hemaseg.training.progress import Epoch, Progress, Reading


def test_reading_that_waits_is_told_from_reading_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "SLOW_S", 0.3)
    reading = Reading("reading")
    assert reading.describe() == "reading"
    time.sleep(0.4)
    assert reading.describe() == "reading, slow disk or network: 100% of the time waiting"
    # With other work on this machine, this process may wait for a core too: 4 times as long.
    end_s = time.process_time() + 1.6
    while time.process_time() < end_s:
        pass
    if time.monotonic() - reading._wall_s < 3.1:
        assert reading.describe() == "reading"


def test_a_slow_checkpoint_is_worth_a_word() -> None:
    last = Epoch(1, 0.5, 0.5, 0.25, 0.001, 9, 9, 9, 9)
    quick, slow = (Progress(2, 3, 1, 9, last, 100.0, seconds) for seconds in (4.9, 12.0))
    assert quick.describe() == "training, epoch 2/3, Dice 0.250"
    assert slow.describe() == "training, epoch 2/3, slow disk: 12 s for a checkpoint, Dice 0.250"
