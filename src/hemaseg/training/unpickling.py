"""A process that reads one foreign file of PyTorch, and writes the numbers in it as safetensors.

    python -P -m hemaseg.training.unpickling FILE FOLDER MAX_BYTES MAX_S

The only place that opens a pickle, by PyTorch's reader of weights alone, which runs no code that
the file names. Should that reader have a fault, the process has little to lose: `conversion` starts
it without the user's environment, with limits, and reads nothing of it but

FOLDER/weights.safetensors   the state dict, if there is one
FOLDER/answer.json           `kind` ("weights", or what is wrong) and `found` (where, or what)
"""

import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hemaseg.scans.inflation import is_bomb

WRAPPINGS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the state dict among other things."""


def main(arguments: list[str]) -> None:
    """Read, and answer."""
    file, folder = Path(arguments[0]), Path(arguments[1])
    _limit(max_bytes=int(arguments[2]), max_s=int(arguments[3]))
    kind, found = convert_weights(file, folder / "weights.safetensors")
    answer = json.dumps({"kind": kind, "found": found})
    (folder / "answer.json").write_text(answer, encoding="ascii")


def _limit(*, max_bytes: int, max_s: int) -> None:
    """Limit what this process may take from now on, as far as the system offers it."""
    if sys.platform == "win32":
        return
    import resource

    # Not RLIMIT_AS, which counts the libraries too: gigabytes in PyTorch's builds for CUDA.
    limits = {
        resource.RLIMIT_DATA: max_bytes,
        resource.RLIMIT_FSIZE: max_bytes,
        resource.RLIMIT_CPU: max_s,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for name, limit in limits.items():
        _, most = resource.getrlimit(name)
        value = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(name, (value, value))


def convert_weights(file: Path, target: Path) -> tuple[str, str]:
    """Write the state dict of a file as safetensors.

    Args:
        file: What `torch.save` writes, in either of its formats.
        target: The file to write.

    Returns:
        "weights" and the key that they were under, empty if nothing else is in the file; or what is
        wrong, a key of `conversion.REASONS`, and what was found.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        _check_sums(file)
    except Exception as error:
        return _reason(error)
    weights, place = _state_dict(content)
    if weights is None:
        return "other", place
    num_bytes = sum(value.numel() * value.element_size() for value in weights.values())
    if is_bomb(num_bytes, file.stat().st_size):
        return "bomb", f"{num_bytes:,} bytes"
    try:
        # A copy of each, since safetensors refuses tensors that share memory or have gaps.
        layout = torch.contiguous_format
        copies = {key: value.detach().clone(memory_format=layout) for key, value in weights.items()}
        save_file(copies, target)
    except Exception as error:
        return "unwritten", str(error)
    return "weights", place


def _check_sums(file: Path) -> None:
    """Raise an error where a zip file is not of its CRC-32, which PyTorch does not compare.

    The older format has none, and neither have files for which PyTorch was told to leave it out:
    it is 0 there.
    """
    with file.open("rb") as start:
        if start.read(4) != b"PK\3\4":
            return
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.CRC:
                with archive.open(member) as content:
                    while content.read(2**20):
                        pass


def _reason(error: Exception) -> tuple[str, str]:
    """Why PyTorch does not read a file: what it names, never what it says."""
    words = str(error)
    if named := re.search(r"GLOBAL ([\w.]+)", words, re.ASCII):
        return "code", named[1]
    if "TorchScript" in words:
        return "program", ""
    if isinstance(error, MemoryError) or "can't allocate memory" in words:
        return "memory", ""
    return "damaged", type(error).__name__


def _state_dict(content: Any) -> tuple[dict[str, Tensor] | None, str]:
    """The state dict in what a file holds, and its key; or None, and what there is."""
    if _is_state_dict(content):
        return content, ""
    if not isinstance(content, dict):
        return None, f"an object of type {type(content).__name__}"
    places = [key for key in WRAPPINGS if _is_state_dict(content.get(key))]
    if len(places) == 1:
        return content[places[0]], places[0]
    if places:
        return None, f"several of them ({', '.join(places)})"
    return None, f"a dict with the keys {', '.join(map(ascii, list(content)[:8])) or '(none)'}"


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    )


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor with its numbers in memory, as safetensors has them."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


if __name__ == "__main__":
    main(sys.argv[1:])
