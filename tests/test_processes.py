"""Two processes with gloo give what one gives, stop together, and survive that one is killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from hemaseg.config import LossConfig, RunConfig
from hemaseg.errors import ConfigError
from hemaseg.models.catalogue import build_model
from hemaseg.training import loop
from hemaseg.training.checkpoint import RUN, RunRecord, read_record
from hemaseg.training.losses import loss
from hemaseg.training.processes import ALONE, Processes, processes
from hemaseg.training.resumption import CHECKPOINTS, newest_checkpoint
from hemaseg.training.validation import validate
from signals import stopped_after
from test_loop import ORIGIN, config, discs, run

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this PyTorch has no gloo",
)
TESTS = str(Path(__file__).parent)


def start(code: str, num: int = 2, *, port: int | None = None) -> list[subprocess.Popen[str]]:
    """Processes as torchrun starts them, each running some code."""
    port = port or free_port()
    prefix = f"import sys; sys.path.insert(0, {TESTS!r})\n"
    return [
        subprocess.Popen(
            [sys.executable, "-c", prefix + code],
            env=os.environ
            | {
                "RANK": str(rank),
                "WORLD_SIZE": str(num),
                "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num)
    ]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def finish(started: list[subprocess.Popen[str]]) -> None:
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_are_even_and_make_the_whole(num_slices: int, num: int) -> None:
    shares = [range(num_slices)[Processes(rank, num).share(num_slices)] for rank in range(num)]
    assert [index for share in shares for index in share] == list(range(num_slices))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_alone_nothing_is_changed_nor_waited_for() -> None:
    network = torch.nn.BatchNorm2d(2)
    values = torch.ones(3)
    assert ALONE.join(network) is network
    assert type(network) is torch.nn.BatchNorm2d
    assert ALONE.total(values) is values
    assert ALONE.any(True)
    assert not ALONE.any(False)
    ALONE.wait()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
            monkeypatch.delenv(name)
    return monkeypatch


def test_who_started_it(environment: pytest.MonkeyPatch) -> None:
    with processes("cpu") as found:
        assert found is ALONE
    # A batch script of two tasks, outside srun: there is one process.
    environment.setenv("SLURM_PROCID", "0")
    environment.setenv("SLURM_NTASKS", "2")
    with processes("cpu") as found:
        assert found is ALONE
    environment.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(ConfigError, match=r"2 processes .* MASTER_ADDR is not set"):
        processes("cpu").__enter__()
    with pytest.raises(ConfigError, match="device cuda:1 for each of 2 processes"):
        processes("cuda:1").__enter__()
    environment.setenv("RANK", "5")
    environment.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="process 5 of 2, expected 0 to 1"):
        processes("cpu").__enter__()
    environment.setenv("RANK", "0")
    environment.setenv("WORLD_SIZE", "1")
    with processes("cpu") as found:
        assert found.num == 1


STEP = """
from hemaseg.training.processes import processes
from safetensors.torch import save_file
from test_processes import step
with processes("cpu") as joined:
    found = step(joined, {model!r}, {num_slices})
    if joined.is_first:
        save_file(found, {file!r})
"""


def step(joined: Processes, model: str, num_slices: int) -> dict[str, torch.Tensor]:
    """Loss, gradients and running statistics of one step in double precision."""
    torch.manual_seed(0)
    network = build_model(model, {"base_width": 8}).double()
    images = torch.rand(num_slices, 1, 64, 64, dtype=torch.float64)
    masks = (torch.rand(num_slices, 1, 64, 64) > 0.8).double()
    share = joined.share(num_slices)
    ddp = joined.join(network)
    logits = ddp(images[share])
    value = loss(logits, masks[share], LossConfig(name="dice_cross_entropy"), joined)
    value.backward()
    gradients = {
        f"gradient.{name}": weight.grad
        for name, weight in network.named_parameters()
        if weight.grad is not None
    }
    buffers = dict(network.named_buffers())
    # By subject, over batches that the processes divide among them: 12 slices in 3 batches.
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=False)
    validated = validate(network.float(), discs(3, 2), config(), autocast, processes=joined)
    return {
        "loss": value.detach(),
        **gradients,
        **buffers,
        "validation": torch.tensor(validated, dtype=torch.float64),
    }


@pytest.mark.parametrize(
    # 3 slices make uneven shares, and of 1 slice one process gets none.
    ("model", "num_slices"),
    [("dr_unet", 3), ("unet", 1), ("dense_unet", 2)],
)
def test_a_step_of_two_is_a_step_of_one(tmp_path: Path, model: str, num_slices: int) -> None:
    """Loss, every gradient and every running statistic; apart from rounding (float32 loss)."""
    finish(start(STEP.format(model=model, num_slices=num_slices, file=str(tmp_path / "two"))))
    found, expected = load_file(tmp_path / "two"), step(ALONE, model, num_slices)
    assert found.keys() == expected.keys()
    # Biases before a batch norm have gradients of 0 but for rounding: the scale is that of all.
    scale = max(float(value.abs().max()) for name, value in expected.items() if "gradient" in name)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7 * scale, msg=name)


TRAIN = """
from pathlib import Path
from test_processes import ORIGIN, config, discs, loop, processes, settings
with processes("cpu") as joined:
    loop.train(
        *(settings({num_epochs}, **{training}), discs(6, 1), discs(3, 2), Path({folder!r})),
        origin=ORIGIN, resumes=True, checkpoint_every_s={every_s}, processes=joined,
    )
"""


def settings(num_epochs: int = 3, **training: Any) -> RunConfig:
    """5 steps per epoch, the last one of 2 slices; validation in 3 batches."""
    return config(
        augmentation={"rotation_deg": 20, "noise_sd": 0.1},
        loss={"name": "dice_cross_entropy"},
        training={"num_epochs": num_epochs, **training},
    )


def train(folder: Path, num_epochs: int = 3, every_s: float = 0, **training: Any) -> str:
    return TRAIN.format(
        folder=str(folder), num_epochs=num_epochs, every_s=every_s, training=training
    )


THREADS = """
from glob import glob
names = [open(path).read() for path in glob("/proc/self/task/*/comm")]
assert not [name for name in names if "gloo" in name], names
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are listed in /proc")
def test_no_thread_of_the_group_is_left(tmp_path: Path) -> None:
    """One that wants Python's lock while the process ends would abort it, after all is done."""
    finish(start(train(tmp_path, num_epochs=1) + THREADS))


@pytest.mark.parametrize(
    ("training", "tolerance"),
    [
        ({}, 1e-3),
        ({"micro_batch_size": 2, "recomputes_activations": True}, 1e-3),
        # Numbers of 8 binary digits.
        pytest.param({"precision": "bf16"}, 2e-2, marks=pytest.mark.slow),
    ],
)
def test_a_run_of_two_is_a_run_of_one_but_for_rounding(
    tmp_path: Path, training: dict[str, Any], tolerance: float
) -> None:
    """The tolerance stated in docs/guarantees.md: 1e-3 of the losses of the first epoch."""
    finish(start(train(tmp_path / "two", **training)))
    run(tmp_path / "one", settings(**training))
    one, two = (pd.read_csv(tmp_path / name / "training.csv") for name in ("one", "two"))
    losses = ["training_loss", "validation_loss"]
    pd.testing.assert_frame_equal(one.loc[:0, losses], two.loc[:0, losses], rtol=tolerance)
    record = read_record(tmp_path / "two" / RUN, RunRecord)
    assert (record.num_processes, record.status) == (2, "complete")
    assert record.calibration is not None


def test_killing_one_ends_all_and_the_run_goes_on_with_one(tmp_path: Path) -> None:
    started = start(train(tmp_path, num_epochs=400))
    wait_for_checkpoint(tmp_path, started)
    started[1].kill()
    _, errors = started[0].communicate(timeout=60)
    assert started[0].returncode not in (0, None)
    assert "lost the others" in errors
    started[1].communicate()
    assert read_record(tmp_path / RUN, RunRecord).status == "failed"
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert not found.damaged
    # Alone, to an end that comes soon.
    files = list((tmp_path / CHECKPOINTS).iterdir())
    assert len(files) == 2
    with pytest.raises(KeyboardInterrupt):
        loop.train(
            *(settings(400), discs(6, 1), discs(3, 2), tmp_path),
            origin=ORIGIN,
            resumes=True,
            progress=stopped_after(3),
        )
    record = read_record(tmp_path / RUN, RunRecord)
    assert record.num_processes == 1
    assert record.resumptions[0].startswith(f"went on from {found.describe()}")
    assert "num_processes 2, now 1" in record.resumptions[0]


def test_two_go_on_from_one_and_end_as_one_does(tmp_path: Path) -> None:
    """From the same checkpoint, so that the rest of the run must agree but for rounding."""
    with pytest.raises(KeyboardInterrupt):
        loop.train(
            *(settings(), discs(6, 1), discs(3, 2), tmp_path / "two"),
            origin=ORIGIN,
            progress=stopped_after(12),
        )
    run(tmp_path / "one", settings())
    finish(start(train(tmp_path / "two")))
    one, two = (pd.read_csv(tmp_path / name / "training.csv") for name in ("one", "two"))
    losses = ["training_loss", "validation_loss"]
    pd.testing.assert_frame_equal(one.loc[:1, losses], two.loc[:1, losses], check_exact=True)
    pd.testing.assert_frame_equal(one[losses], two[losses], rtol=1e-2)


def test_a_signal_to_one_stops_both_at_the_same_step(tmp_path: Path) -> None:
    started = start(train(tmp_path, num_epochs=400, every_s=300))
    wait_for_table(tmp_path, started)
    started[1].send_signal(signal.SIGTERM)
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert process.returncode not in (0, None)
        assert "KeyboardInterrupt" in errors or "Terminated" in errors
    assert read_record(tmp_path / RUN, RunRecord).status == "interrupted"
    assert newest_checkpoint(tmp_path) is not None


def wait_for_checkpoint(folder: Path, started: list[subprocess.Popen[str]]) -> None:
    wait_for(lambda: len(list(folder.glob(f"{CHECKPOINTS}/0*.safetensors"))) == 2, started)


def wait_for_table(folder: Path, started: list[subprocess.Popen[str]]) -> None:
    table = folder / "training.csv"
    wait_for(lambda: table.exists() and len(table.read_text().splitlines()) > 2, started)


def wait_for(condition: Callable[[], bool], started: list[subprocess.Popen[str]]) -> None:
    end_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end_s
        for process in started:
            assert process.poll() is None, process.communicate()
        time.sleep(0.01)
