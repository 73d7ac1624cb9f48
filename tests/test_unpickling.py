"""What the reader of foreign files makes of them; its process and limits are in `conversion`."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from foreign_files import Command, deflated, saved
from hemaseg.training.conversion import REASONS
from hemaseg.training.unpickling import convert_weights

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return dict(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).state_dict())


def checkpoint(state: State, key: str) -> dict[str, Any]:
    """What training scripts keep, beside the weights."""
    optimiser = torch.optim.Adam([nn.Parameter(torch.ones(1))])
    return {"epoch": 7, key: state, "optimizer": optimiser.state_dict(), "note": "best"}


def changed(state: State, change: Callable[[Tensor], Tensor]) -> State:
    return {key: change(value) for key, value in state.items()}


def of_4_axes(value: Tensor) -> Tensor:
    return value.to(memory_format=torch.channels_last) if value.dim() == 4 else value


GOOD: dict[str, tuple[Callable[[State], object], str]] = {
    "alone": (lambda state: state, ""),
    "state_dict": (lambda state: checkpoint(state, "state_dict"), "state_dict"),
    "model_state_dict": (lambda state: checkpoint(state, "model_state_dict"), "model_state_dict"),
    "model": (lambda state: checkpoint(state, "model"), "model"),
    "parameters": (lambda s: changed(s, lambda v: nn.Parameter(v, requires_grad=False)), ""),
    "channels last": (lambda state: changed(state, of_4_axes), ""),
    "views of one": (lambda state: changed(state, lambda v: torch.stack([v, v])[1]), ""),
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_state_dict_is_found_in_each_wrapping(
    state: State, tmp_path: Path, name: str, is_zip: bool
) -> None:
    wrapped, place = GOOD[name]
    (tmp_path / "theirs.pt").write_bytes(saved(wrapped(state), is_zip=is_zip))
    target = tmp_path / "weights.safetensors"
    assert convert_weights(tmp_path / "theirs.pt", target) == ("weights", place)
    found = load_file(target)
    assert found.keys() == state.keys()
    for key, value in state.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)


def test_a_deflated_archive_within_reason_is_read(state: State, tmp_path: Path) -> None:
    (tmp_path / "theirs.pt").write_bytes(deflated(saved(state)))
    assert convert_weights(tmp_path / "theirs.pt", tmp_path / "w.safetensors") == ("weights", "")


def test_weights_that_changed_since_they_were_saved_are_refused(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, name = saved(state), next(iter(state))
    place = stored.index(state[name].numpy().tobytes())
    flipped = stored[:place] + bytes([stored[place] ^ 1]) + stored[place + 1 :]
    file, target = tmp_path / "theirs.pt", tmp_path / "weights.safetensors"
    file.write_bytes(flipped)
    # PyTorch itself does not see it.
    assert not torch.equal(torch.load(file, weights_only=True)[name], state[name])
    assert convert_weights(file, target) == ("damaged", "BadZipFile")
    assert not target.exists()
    monkeypatch.setattr(torch.serialization, "get_crc32_options", lambda: False)
    file.write_bytes(saved(state))
    assert convert_weights(file, target) == ("weights", "")


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("is_beside_weights", [True, False])
def test_code_is_named_and_not_run(
    state: State, tmp_path: Path, is_zip: bool, is_beside_weights: bool
) -> None:
    evil = Command(f"touch {tmp_path / 'marker'}")
    content = {"state_dict": state, "extra": evil} if is_beside_weights else evil
    (tmp_path / "evil.pt").write_bytes(saved(content, is_zip=is_zip))
    kind, found = convert_weights(tmp_path / "evil.pt", tmp_path / "weights.safetensors")
    assert (kind, found.partition(".")[2]) == ("code", "system")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


def script() -> bytes:
    """The outside of a program of TorchScript, which PyTorch tells by the name of a member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("constants.pkl", "version"):
            archive.writestr(f"net/{name}", saved({})[:0] + b"3\n")
    return buffer.getvalue()


BAD: dict[str, tuple[Callable[[State], bytes], str, str]] = {
    "whole network": (
        lambda _: saved(nn.Conv2d(1, 2, 3)),
        *("code", "torch.nn.modules.conv.Conv2d"),
    ),
    "script": (lambda _: script(), "program", ""),
    "random": (lambda _: np.random.default_rng(0).bytes(5000), "damaged", "UnpicklingError"),
    "text": (lambda _: b"hello world\n" * 10, "damaged", "KeyError"),
    "truncated": (lambda state: saved(state)[:-500], "damaged", "RuntimeError"),
    "empty": (lambda _: b"", "damaged", "EOFError"),
    "unfolding": (
        lambda _: saved({"w": torch.ones(1).expand(10**6, 10**6)}),
        *("bomb", "4,000,000,000,000 bytes"),
    ),
    "bomb": (
        lambda _: deflated(saved({"w": torch.zeros(5 * 10**6)})),
        *("bomb", "20,000,000 bytes"),
    ),
    "list": (lambda state: saved(list(state.values())), "other", "an object of type list"),
    "other dict": (
        lambda _: saved({"epoch": 1, "\x1b[31m": 2}),
        *("other", r"a dict with the keys 'epoch', '\x1b[31m'"),
    ),
    "empty dict": (lambda _: saved({}), "other", "a dict with the keys (none)"),
    "two": (
        lambda state: saved({"model": state, "state_dict": state}),
        *("other", "several of them (state_dict, model)"),
    ),
    "sparse": (
        lambda _: saved({"w": torch.eye(4).to_sparse()}),
        *("other", "a dict with the keys 'w'"),
    ),
    "no numbers": (
        lambda _: saved({"w": torch.ones(4, device="meta")}),
        *("other", "a dict with the keys 'w'"),
    ),
    "no names": (lambda _: saved({1: torch.ones(4)}), "other", "a dict with the keys 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_state_dict_is_named(state: State, tmp_path: Path, name: str) -> None:
    make, *expected = BAD[name]
    (tmp_path / "theirs.pt").write_bytes(make(state))
    target = tmp_path / "weights.safetensors"
    assert list(convert_weights(tmp_path / "theirs.pt", target)) == expected
    assert not target.exists()
    assert expected[0] in REASONS


def test_a_target_that_cannot_be_written_is_told_of(state: State, tmp_path: Path) -> None:
    (tmp_path / "theirs.pt").write_bytes(saved(state))
    kind, found = convert_weights(tmp_path / "theirs.pt", tmp_path / "none" / "w.safetensors")
    assert kind == "unwritten"
    assert "No such file" in found


def test_every_answer_has_its_words() -> None:
    from hemaseg.training.conversion import _Answer

    kinds = set(get_args(_Answer.model_fields["kind"].annotation))
    assert kinds == {"weights", *REASONS}
