import time
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemaseg.errors import ScanError
from hemaseg.scans.inflation import BOMB_BYTES, BOMB_RATIO, inflated, is_bomb


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@given(data=st.binary(max_size=300), repeat=st.sampled_from([1, 500]), padding=st.integers(0, 3))
def test_bytes_come_back(data: bytes, repeat: int, padding: int) -> None:
    assert inflated(deflated(data * repeat) + bytes(padding), 2**20) == data * repeat


@pytest.mark.parametrize("padding", [0, 1, 70_000])
@pytest.mark.parametrize("num_bytes", [65_535, 65_536, 65_537, 131_072, 524_288, 1_000_003])
def test_what_is_longer_than_a_piece_comes_back(num_bytes: int, padding: int) -> None:
    """DICOM pads odd streams by a byte: an inflater that has ended must not be asked again."""
    data = np.random.default_rng(0).integers(0, 3, num_bytes, dtype=np.uint8).tobytes()
    assert inflated(deflated(data) + bytes(padding), 2**20) == data


def test_limit_is_exact() -> None:
    data = bytes(range(256)) * 1000
    assert inflated(deflated(data), len(data)) == data
    with pytest.raises(ScanError, match=r"grow beyond 256,000.*255,999 in all") as caught:
        inflated(deflated(data), len(data) - 1)
    assert caught.value.kind == "dicom-bomb"


def test_a_bomb_is_known_before_it_is_kept() -> None:
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    bomb = block * 1024 + packer.flush()
    with pytest.raises(ScanError, match=f"at most {BOMB_RATIO} times") as caught:
        inflated(bomb, 2**34)
    assert caught.value.kind == "dicom-bomb"


def test_ratio_counts_for_large_results_only() -> None:
    assert not is_bomb(BOMB_BYTES, 1)
    assert is_bomb(BOMB_BYTES + 1, 1)
    assert not is_bomb(BOMB_RATIO * BOMB_BYTES, BOMB_BYTES)
    assert inflated(deflated(bytes(BOMB_BYTES)), 2**30) == bytes(BOMB_BYTES)


@pytest.mark.parametrize("change", ["cut", "flipped", "followed", "empty"])
def test_damage_is_refused(change: str) -> None:
    data = deflated(bytes(range(256)) * 10)
    changed = {
        "cut": data[:-1],
        "flipped": b"\xff" + data[1:],
        "followed": data + b"\0a",
        "empty": b"",
    }[change]
    with pytest.raises(ScanError, match=f"{len(changed):,} deflated bytes") as caught:
        inflated(changed, 2**20)
    assert caught.value.kind == "dicom-damaged"


def test_time_grows_with_size_alone() -> None:
    # Bytes that do not deflate: in and out are read in as many chunks.
    stored = zlib.compressobj(0, wbits=-15)
    data = stored.compress(bytes(2**25)) + stored.flush()
    start = time.perf_counter()
    assert len(inflated(data, 2**26)) == 2**25
    assert time.perf_counter() - start < 5
