# mypy: allow-untyped-calls
# (nibabel's functions have no types.)
"""Thousands of damaged NIfTI files: each is refused in one way, or read as what its bytes say.

The oracle of what bytes say is nibabel, and Python's gzip for packed files. Where nibabel refuses a
file that is read, only fields without meaning for voxels and places may have changed.
"""

import gzip
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from hemaseg.errors import ScanError
from hemaseg.scans.images import read_scan
from hemaseg.scans.scan import Scan, to_stored
from hemaseg.scans.screening import KINDS

MAX_SECONDS, MAX_RISE_MIB = 10, 300
NUMBERS = (0, 1, -1, 2, 7, 32767, -32768, 1e30, -1e30, np.nan, np.inf)


def original(number: int) -> bytes:
    """A small oblique scan: NIfTI-1 or -2, whole, real or scaled numbers, one or both forms."""
    rng = np.random.default_rng(number)
    kind, dtype = (
        (nib.Nifti1Image, np.int16),
        (nib.Nifti2Image, np.float32),
        (nib.Nifti1Image, np.uint8),
    )[number]
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * [0.7, 0.9, 4], (-60, -70, 20)
    image = kind(rng.integers(0, 99, (6, 5, 4)).astype(dtype), None)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1 if number == 0 else 0)
    image.header.set_xyzt_units("mm")
    data = bytearray(image.to_bytes())
    if number == 2:
        header = np.frombuffer(data, image.header.template_dtype, count=1)
        header["scl_slope"], header["scl_inter"] = 8.5, -1024
    return bytes(data)


ORIGINALS = [original(number) for number in range(3)]


def header_size(data: bytes) -> int:
    return 540 if data[4:7] == b"n+2" else 348


def mutant(rng: np.random.Generator) -> tuple[str, bytes, bytes]:
    """Name of a file, its damaged bytes, and the whole file (unpacked) that they were."""
    whole = ORIGINALS[rng.integers(3)]
    data = bytearray(whole)
    is_packed = bool(rng.integers(2))
    is_stream = is_packed and bool(rng.integers(2))
    if is_stream:  # Damage what was packed, and not what is to be packed.
        data = bytearray(gzip.compress(whole, mtime=0))
    end = len(data) if is_stream or rng.random() < 0.1 else header_size(whole)
    match rng.choice(["bytes", "bytes", "bits", "field", "cut", "zeros", "splice", "repeat"]):
        case "bytes":
            for place in rng.integers(0, end, rng.integers(1, 5)):
                data[place] = rng.integers(256)
        case "bits":
            data[rng.integers(end)] ^= 1 << int(rng.integers(8))
        case "field" if not is_stream:
            kind = nib.Nifti2Header if header_size(whole) == 540 else nib.Nifti1Header
            header = np.frombuffer(data, kind.template_dtype, count=1)[0]
            field = header[str(rng.choice(header.dtype.names))]
            if isinstance(field, np.ndarray):
                with np.errstate(all="ignore"):
                    field[rng.integers(len(field))] = np.float64(rng.choice(NUMBERS)).astype(
                        field.dtype
                    )
        case "cut":
            del data[rng.integers(len(data)) :]
        case "zeros":
            start = int(rng.integers(end))
            stop = min(start + int(rng.integers(1, 40)), len(data))
            data[start:stop] = bytes(stop - start)
        case "splice":
            other = ORIGINALS[rng.integers(3)]
            place = int(rng.integers(end))
            data[place:] = (gzip.compress(other, mtime=0) if is_stream else other)[place:]
        case _:
            start = int(rng.integers(len(data)))
            data[start:start] = data[start : start + int(rng.integers(1, 40))]
    if is_packed and not is_stream:
        data = bytearray(gzip.compress(data, 1, mtime=0))
    return ("a.nii.gz" if is_packed else "a.nii"), bytes(data), whole


def expected(data: bytes) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Voxels and affine by nibabel."""
    kind = nib.Nifti2Image if header_size(data) == 540 else nib.Nifti1Image
    with nib.imageglobals.LoggingOutputSuppressor(), np.errstate(all="ignore"):
        image = kind.from_bytes(data)
        # Axes of length 1 beyond the third are none.
        return np.asarray(image.dataobj).reshape(image.shape[:3], order="F"), image.affine


def check_says(scan: Scan, data: bytes, whole: bytes) -> None:
    """A scan that was read from damaged bytes holds what they say."""
    try:
        voxels, affine = expected(data)
    except Exception:  # nibabel has many kinds.
        voxels, affine = expected(whole)
    stored = to_stored(scan.voxels, scan.stored_axes)
    # Scaled to float32, as nibabel does not.
    np.testing.assert_allclose(stored, voxels, rtol=1e-6, atol=1e-6 * abs(voxels).max())
    assert scan.affine is not None
    assert scan.stored_axes is not None
    found = scan.affine @ np.linalg.inv(
        nib.orientations.inv_ornt_aff(scan.stored_axes, stored.shape)
    )
    np.testing.assert_allclose(found, affine, rtol=1e-5, atol=1e-4 * abs(affine).max())


def read(path: Path, data: bytes) -> tuple[Scan | None, str, float]:
    """The scan, or the kind of its refusal, and the seconds it took."""
    path.write_bytes(data)
    start = time.perf_counter()
    try:
        return read_scan(path), "", time.perf_counter() - start
    except ScanError as error:
        kind = error.kind if str(error).startswith(f"{path}: ") else ""
    elapsed_s = time.perf_counter() - start
    assert KINDS[kind].action == "refused"
    return None, kind, elapsed_s


def peak_mib() -> float:
    """Most memory that this process had since `forget_peak`; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def fuzz(folder: Path, *, num_mutants: int, seed: int) -> Counter[str]:
    """How often each kind was found; the empty one stands for scans that were read."""
    rng = np.random.default_rng(seed)
    found: Counter[str] = Counter()
    forget_peak()
    before_mib, slowest_s = peak_mib(), 0.0
    for _ in range(num_mutants):
        name, data, whole = mutant(rng)
        scan, kind, elapsed_s = read(folder / name, data)
        slowest_s = max(slowest_s, elapsed_s)
        found[kind] += 1
        if scan is not None:
            # Python's gzip checks length and checksum of each stream.
            check_says(scan, gzip.decompress(data) if name.endswith(".gz") else data, whole)
    assert slowest_s < MAX_SECONDS
    assert peak_mib() - before_mib < MAX_RISE_MIB
    return found


def test_a_thousand_mutants(tmp_path: Path) -> None:
    found = fuzz(tmp_path, num_mutants=1000, seed=1)
    assert found.total() == 1000
    assert found["unreadable"] == 0  # Everything has a kind of its own.
    assert 100 < found[""] < 500  # Most bytes of a header mean nothing for voxels and places.
    assert len(found) > 12


@pytest.mark.slow
def test_ten_thousand_mutants(tmp_path: Path) -> None:
    found = fuzz(tmp_path, num_mutants=10_000, seed=2)
    assert found.total() == 10_000
    assert found["unreadable"] == 0


@pytest.mark.parametrize("flip", [0x01, 0xFF])
def test_no_single_byte_of_a_header_moves_a_scan_with_two_forms(tmp_path: Path, flip: int) -> None:
    """Either form alone could be damaged unseen; together they show it."""
    whole = ORIGINALS[0]
    _, affine = expected(whole)
    corners = np.c_[np.array([*np.ndindex(2, 2, 2)]) * [5, 4, 3], np.ones(8)]
    num_read = 0
    for place in range(348):
        data = bytearray(whole)
        data[place] ^= flip
        scan, _, _ = read(tmp_path / "a.nii", bytes(data))
        if scan is None:
            continue
        num_read += 1
        check_says(scan, bytes(data), whole)
        if not scan.findings:
            moved_mm = np.linalg.norm(corners @ (expected(bytes(data))[1] - affine).T, axis=1)
            assert moved_mm.max() < 0.7 / 2
    assert 100 < num_read < 300
