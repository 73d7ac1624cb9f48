"""A training that is ended at any point goes on to the bits of an unbroken one."""

import hashlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from devices import DEVICES, as_for_large_trainings
from hemaseg.config import RunConfig
from hemaseg.errors import CheckpointError, ConfigError, TrainingError
from hemaseg.interruption import Terminated, stoppable
from hemaseg.training import epochs, loop, resumption
from hemaseg.training.checkpoint import (
    MODEL,
    RUN,
    WEIGHTS,
    RunRecord,
    load_model,
    load_start,
    read_record,
)
from hemaseg.training.progress import Progress
from hemaseg.training.resumption import (
    CHECKPOINTS,
    RunIdentity,
    TrainingState,
    newest_checkpoint,
)
from signals import deliver, stopped_after
from test_loop import ORIGIN, config, discs, run

BITS = ["epoch", "training_loss", "validation_loss", "validation_dice", "learning_rate"]
"""Columns of `training.csv` that are no times and no memory."""


class Killed(BaseException):
    """Like a kill, it is caught by nobody."""


def settings(name: str = "plateau", device: str = "cpu", **training: object) -> RunConfig:
    """Everything random is on; rates change by step or by epoch."""
    return config(
        device=device,
        augmentation={"rotation_deg": 20, "noise_sd": 0.1, "flip_probability": 0.5},
        slices={"negative_share": 0.25},
        schedule={"name": name, "patience": 0},
        optimiser={"name": "adamw", "weight_decay": 0.01, "learning_rate": 0.003},
        training={"num_epochs": 3, **training},
    )


def go(
    folder: Path,
    config: RunConfig,
    *,
    progress: Callable[[Progress], None] | None = None,
    resumes: bool = True,
) -> RunRecord:
    return loop.train(
        *(config, discs(6, 1), discs(3, 2), folder),
        origin=ORIGIN,
        resumes=resumes,
        checkpoint_every_s=0,
        progress=progress,
    )


def assert_same(folder: Path, unbroken: Path) -> None:
    assert (folder / WEIGHTS).read_bytes() == (unbroken / WEIGHTS).read_bytes()
    assert (folder / MODEL).read_bytes() == (unbroken / MODEL).read_bytes()
    one, other = (pd.read_csv(path / "training.csv") for path in (folder, unbroken))
    pd.testing.assert_frame_equal(one[BITS], other[BITS], check_exact=True)
    found, expected = (read_record(path / RUN, RunRecord) for path in (folder, unbroken))
    assert found.best_epoch == expected.best_epoch
    assert found.best_validation_dice == expected.best_validation_dice
    assert found.calibration == expected.calibration
    assert found.status == "complete"
    assert not (folder / CHECKPOINTS).exists()
    assert not list(folder.glob(".*"))  # what a kill left half written


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["plateau", "cosine"])
def test_killed_after_every_step_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, device: str
) -> None:
    """15 kills: each process does one step, and the last ones what remains."""
    as_for_large_trainings(monkeypatch)
    go(tmp_path / "unbroken", settings(name, device))

    num_kills = 0
    for number in range(40):
        steps: list[Progress] = []

        def second(step: Progress, steps: list[Progress] = steps) -> None:
            steps.append(step)
            if len(steps) == 2:
                raise Killed

        try:
            go(tmp_path / "broken", settings(name, device), progress=second)
        except Killed:
            num_kills += 1
            continue
        assert number > 10
        break
    assert num_kills >= 14
    assert_same(tmp_path / "broken", tmp_path / "unbroken")
    record = read_record(tmp_path / "broken" / RUN, RunRecord)
    assert len(record.resumptions) == num_kills
    assert record.resumptions[0] == "went on from epoch 1, step 1"


@pytest.mark.parametrize("at", ["validate", "augment", "save_model", "epoch_order"])
def test_killed_within_a_step_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """In data loading, in validation, and before the best weights are written."""
    go(tmp_path / "unbroken", settings())
    with monkeypatch.context() as patch:
        calls, before = [], getattr(epochs, at)

        def killed(*args: object, **options: object) -> object:
            calls.append(1)
            if len(calls) == (1 if at == "save_model" else 2):
                raise Killed
            return before(*args, **options)

        patch.setattr(epochs, at, killed)
        with pytest.raises(Killed):
            go(tmp_path / "broken", settings())
    go(tmp_path / "broken", settings())
    assert_same(tmp_path / "broken", tmp_path / "unbroken")


def test_killed_while_doubt_is_added_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(tmp_path / "unbroken", settings())

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop, "add_doubt", killed)
        with pytest.raises(Killed):
            go(tmp_path / "broken", settings())
    go(tmp_path / "broken", settings())
    assert_same(tmp_path / "broken", tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("kind", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_ends_the_step_and_keeps_it(
    tmp_path: Path, kind: int, error: type[BaseException]
) -> None:
    run(tmp_path / "unbroken", settings())
    with pytest.raises(KeyboardInterrupt) as caught:
        # Checkpoints are five minutes apart: this one is written because of the signal.
        loop.train(
            *(settings(), discs(6, 1), discs(3, 2), tmp_path / "broken"),
            origin=ORIGIN,
            progress=stopped_after(7, kind),
        )
    assert caught.type is error
    record = read_record(tmp_path / "broken" / RUN, RunRecord)
    assert (record.status, record.num_epochs_done) == ("interrupted", 1)
    load_model(tmp_path / "broken")
    record = go(tmp_path / "broken", settings())
    assert record.resumptions == ("went on from epoch 2, step 2",)
    assert_same(tmp_path / "broken", tmp_path / "unbroken")


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    def send(step: Progress) -> None:
        deliver(signal.SIGINT)
        deliver(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_with(tmp_path, send)
    assert newest_checkpoint(tmp_path) is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def run_with(folder: Path, progress: Callable[[Progress], None]) -> RunRecord:
    return loop.train(config(), discs(6, 1), discs(3, 2), folder, origin=ORIGIN, progress=progress)


def interrupted(folder: Path) -> list[Path]:
    """A run with two checkpoints, the newer one first."""
    with pytest.raises(Terminated):
        go(folder, settings(), progress=stopped_after(7))
    files = sorted((folder / CHECKPOINTS).iterdir(), reverse=True)
    assert len(files) == 2
    return files


def test_a_damaged_checkpoint_is_seen_and_the_one_before_it_taken(tmp_path: Path) -> None:
    run(tmp_path / "unbroken", settings())
    newer, _ = interrupted(tmp_path / "broken")
    content = bytearray(newer.read_bytes())
    content[-100] ^= 1
    newer.write_bytes(content)
    record = go(tmp_path / "broken", settings())
    assert record.resumptions == ("went on from epoch 2, step 1; 1 newer checkpoints were damaged",)
    assert_same(tmp_path / "broken", tmp_path / "unbroken")


def test_only_damaged_checkpoints_are_refused_and_kept(tmp_path: Path) -> None:
    for file in interrupted(tmp_path):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged"):
        go(tmp_path, settings())
    assert len(list((tmp_path / CHECKPOINTS).iterdir())) == 2


def test_a_file_that_is_no_checkpoint_though_its_hash_is_right(tmp_path: Path) -> None:
    for file in interrupted(tmp_path):
        file.unlink()
    content = b"x" * 100
    name = f"00000009-{hashlib.sha256(content).hexdigest()}.safetensors"
    (tmp_path / CHECKPOINTS / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint of this version"):
        go(tmp_path, settings())


def test_another_run_does_not_go_on(tmp_path: Path) -> None:
    interrupted(tmp_path)
    other = settings(batch_size=2)
    with pytest.raises(ConfigError, match=r"config.recipe.training.batch_size 4, asked for now 2"):
        go(tmp_path, other)
    for origin, words in (
        (loop.DataOrigin("d", "s", 1), "cohort_sha256 c, asked for now d"),
        (loop.DataOrigin("c", "t", 1), "split_sha256 s, asked for now t"),
        (loop.DataOrigin("c", "s", 2), "fold 1, asked for now 2"),
    ):
        with pytest.raises(ConfigError, match=words):
            loop.train(
                *(settings(), discs(6, 1), discs(3, 2), tmp_path), origin=origin, resumes=True
            )
    run(tmp_path / "start", settings())
    with pytest.raises(ConfigError, match="start_weights_sha256 None, asked for now"):
        loop.train(
            *(settings(), discs(6, 1), discs(3, 2), tmp_path),
            origin=ORIGIN,
            start=load_start(tmp_path / "start", tmp_path),
            resumes=True,
        )


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path / "one")
    with pytest.raises(Terminated):
        go(tmp_path / "other", settings("cosine"), progress=stopped_after(7))
    for file in (tmp_path / "other" / CHECKPOINTS).iterdir():
        file.unlink()
    for file in (tmp_path / "one" / CHECKPOINTS).iterdir():
        file.rename(tmp_path / "other" / CHECKPOINTS / file.name)
    with pytest.raises(CheckpointError, match="of another run than the others"):
        go(tmp_path / "other", settings("cosine"))


def test_a_complete_run_is_left_as_it_is(tmp_path: Path) -> None:
    record = go(tmp_path, settings())
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert go(tmp_path, settings()) == record
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == times


def test_without_resuming_the_run_begins_anew(tmp_path: Path) -> None:
    interrupted(tmp_path)
    record = go(tmp_path, settings(), resumes=False)
    assert record.resumptions == ()
    assert record.status == "complete"


def test_what_changed_since_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(tmp_path)
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    (sentence,) = go(tmp_path, settings()).resumptions
    assert "the last bits may not be those of an unbroken run: torch 2" in sentence
    assert "now 2.99.0" in sentence


@pytest.mark.parametrize("damage", ["weights gone", "weights damaged", "model gone", "mismatch"])
def test_best_weights_come_back_from_the_checkpoint(tmp_path: Path, damage: str) -> None:
    """A kill between two renames, or within a later epoch, leaves other ones in the folder."""
    run(tmp_path / "unbroken", settings())
    interrupted(tmp_path / "broken")
    before = (tmp_path / "broken" / WEIGHTS).read_bytes()
    record = tmp_path / "broken" / MODEL
    if damage == "weights gone":
        (tmp_path / "broken" / WEIGHTS).unlink()
    elif damage == "weights damaged":
        (tmp_path / "broken" / WEIGHTS).write_bytes(before[:-1] + b"x")
    elif damage == "model gone":
        record.unlink()
    else:
        record.write_text(record.read_text().replace('"weights_sha256": "', '"weights_sha256": "0'))

    with pytest.raises(Terminated):
        go(tmp_path / "broken", settings(), progress=stopped_after(1))
    # As they were: the epoch that was the best one is still the best one that is done.
    assert (tmp_path / "broken" / WEIGHTS).read_bytes() == before
    load_model(tmp_path / "broken")
    go(tmp_path / "broken", settings())
    assert_same(tmp_path / "broken", tmp_path / "unbroken")


def test_weights_of_epochs_that_a_kill_has_undone_do_not_stay(tmp_path: Path) -> None:
    """Stopped again before these epochs are done anew, the record speaks of the weights there."""
    interrupted(tmp_path)
    before = load_model(tmp_path)[1].weights_sha256
    unbroken = tmp_path / "unbroken"
    go(unbroken, settings())
    for name in (WEIGHTS, MODEL):
        (tmp_path / name).write_bytes((unbroken / name).read_bytes())
    with pytest.raises(Terminated):
        go(tmp_path, settings(), progress=stopped_after(1))
    assert load_model(tmp_path)[1].weights_sha256 == before


@pytest.mark.parametrize("at", ["save_model", "add_doubt"])
def test_a_signal_after_the_last_step_is_heeded_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """While the last epoch's weights are written, and while they are calibrated."""
    settings_ = settings(num_epochs=1)
    run(tmp_path / "unbroken", settings_)
    module = epochs if at == "save_model" else loop
    with monkeypatch.context() as patch, stoppable():
        before = getattr(module, at)

        def signalled(*args: object, **options: object) -> object:
            deliver(signal.SIGTERM)
            return before(*args, **options)

        patch.setattr(module, at, signalled)
        with pytest.raises(Terminated):
            run(tmp_path / "broken", settings_)
    assert read_record(tmp_path / "broken" / RUN, RunRecord).status == "interrupted"
    assert newest_checkpoint(tmp_path / "broken") is not None
    record = go(tmp_path / "broken", settings_)
    assert record.resumptions == ("went on from epoch 2, step 0",)
    assert_same(tmp_path / "broken", tmp_path / "unbroken")


def test_signals_that_come_twice_without_being_meant_keep_the_step(tmp_path: Path) -> None:
    """Ctrl-C of a terminal and then the parent's SIGTERM; SIGHUP of a terminal and of its shell."""

    def send(step: Progress) -> None:
        for kind in (signal.SIGHUP, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            deliver(kind)

    with pytest.raises(Terminated):
        run_with(tmp_path, send)
    assert newest_checkpoint(tmp_path) is not None


def test_a_signal_while_the_end_is_written_down_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C has ended the step; then the parent's SIGTERM comes, as `run.json` is written."""
    before = epochs.Epochs.finish

    def signalled(*args: Any) -> RunRecord:
        deliver(signal.SIGTERM)
        return before(*args)

    monkeypatch.setattr(epochs.Epochs, "finish", signalled)
    with stoppable(), pytest.raises(KeyboardInterrupt):
        run_with(tmp_path, stopped_after(2, signal.SIGINT))
    assert read_record(tmp_path / RUN, RunRecord).status == "interrupted"


def test_checkpoints_without_their_record_are_not_begun_anew(tmp_path: Path) -> None:
    interrupted(tmp_path)
    record = (tmp_path / RUN).read_bytes()
    for name in (RUN, "config.toml"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        with pytest.raises(CheckpointError, match=f"{name}: no such file, expected beside check"):
            go(tmp_path, settings())
        (tmp_path / name).write_bytes(content)
    assert len(list((tmp_path / CHECKPOINTS).iterdir())) == 2
    assert (tmp_path / RUN).read_bytes() == record


def test_a_full_disk_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file is written before the disk is full; a limit by the system is in test_cli."""
    run(tmp_path / "unbroken", settings())
    num_written = 0
    before = save_file

    def full(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        nonlocal num_written
        num_written += 1
        before(tensors, path, metadata)
        if num_written > 6:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(resumption, "save_file", full)
        with pytest.raises(TrainingError, match=r"checkpoint of .* \(No space left .*is kept"):
            go(tmp_path / "broken", settings())
    assert read_record(tmp_path / "broken" / RUN, RunRecord).status == "failed"
    checkpoints = list((tmp_path / "broken" / CHECKPOINTS).iterdir())
    assert len(checkpoints) == 2  # and no half-written file
    go(tmp_path / "broken", settings())
    assert_same(tmp_path / "broken", tmp_path / "unbroken")


TRAIN = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_resumption import go, settings
go(Path({folder!r}), settings({schedule!r}, {device!r}, num_epochs=4))
"""


def killed_at_random(
    folder: Path, num_kills: int, schedule: str, seed: int, device: str = "cpu"
) -> int:
    """Train in processes that are killed; how many were, while they trained."""
    chance = random.Random(seed)
    code = TRAIN.format(
        tests=str(Path(__file__).parent), folder=str(folder), schedule=schedule, device=device
    )
    num_done = 0
    while num_done < num_kills:
        process = subprocess.Popen([sys.executable, "-c", code])
        before = set(folder.glob(f"{CHECKPOINTS}/0*"))
        while process.poll() is None and set(folder.glob(f"{CHECKPOINTS}/0*")) == before:
            time.sleep(0.002)  # It is importing.
        # From here on it computes, validates and writes all the time.
        time.sleep(chance.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            num_done += 1
        else:
            assert process.returncode == 0
            break
    finished = subprocess.run([sys.executable, "-c", code], check=False)
    assert finished.returncode == 0
    return num_done


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("device", DEVICES)
def test_twenty_kills_at_random_moments_change_no_bit(tmp_path: Path, device: str) -> None:
    """Real kills of real processes; runs are begun until 20 have been hit."""
    num_killed = 0
    for number in range(20):
        schedule = ("plateau", "cosine")[number % 2]
        if not (tmp_path / schedule).exists():
            go(tmp_path / schedule, settings(schedule, device, num_epochs=4))
        folder = tmp_path / f"broken-{number}"
        num_killed += killed_at_random(folder, min(4, 20 - num_killed), schedule, number, device)
        assert_same(folder, tmp_path / schedule)
        if num_killed >= 20:
            break
    assert num_killed >= 20


def test_two_kills_at_random_moments_change_no_bit(tmp_path: Path) -> None:
    go(tmp_path / "unbroken", settings(num_epochs=4))
    assert killed_at_random(tmp_path / "broken", 2, "plateau", 1) == 2
    assert_same(tmp_path / "broken", tmp_path / "unbroken")


WRITE = """
import os, sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
from test_resumption import writing_state
from hemaseg.training.resumption import write_checkpoint
state, identity = writing_state()
while True:
    state.step += 1
    write_checkpoint(Path({folder!r}), state, identity, torch.device("cpu"))
"""


def writing_state() -> tuple[TrainingState, RunIdentity]:
    """A state of about 3 MB, which takes a while to write."""
    network = torch.nn.Linear(500, 500)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 500)).sum().backward()
    optimiser.step()
    state = TrainingState(network, optimiser, None, None, torch.Generator())
    identity = RunIdentity(
        config=config(),
        cohort_sha256="c",
        split_sha256="s",
        fold=0,
        start_weights_sha256=None,
        precision="fp32",
    )
    return state, identity


def kills_while_writing(folder: Path, num_kills: int) -> None:
    chance = random.Random(1)
    code = WRITE.format(tests=str(Path(__file__).parent), folder=str(folder))
    last = 0
    for _ in range(num_kills):
        process = subprocess.Popen([sys.executable, "-c", code])
        before = set(folder.glob(f"{CHECKPOINTS}/0*.safetensors"))
        while set(folder.glob(f"{CHECKPOINTS}/0*.safetensors")) == before:
            assert process.poll() is None
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.wait()
        found = newest_checkpoint(folder)
        assert found is not None
        assert not found.damaged
        number = int(found.file.name.partition("-")[0])
        assert number > last
        last = number


def test_kills_while_writing_never_lose_the_last_good_one(tmp_path: Path) -> None:
    kills_while_writing(tmp_path, 3)


@pytest.mark.slow
def test_fifty_kills_while_writing_never_lose_the_last_good_one(tmp_path: Path) -> None:
    kills_while_writing(tmp_path, 50)
