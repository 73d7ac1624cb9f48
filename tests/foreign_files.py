"""Files of PyTorch as others make them, good and evil."""

import io
import os
import zipfile
from collections.abc import Callable

import torch


class Command:
    """Runs a command of the system when a pickle of it is read."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.words,)


def saved(content: object, *, is_zip: bool = True) -> bytes:
    """What `torch.save` writes; `is_zip` false for its format before version 1.6."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


def deflated(stored: bytes) -> bytes:
    """The same archive with its members deflated, as PyTorch never writes it but reads it."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(stored)) as source,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return buffer.getvalue()
