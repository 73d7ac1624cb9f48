"""Damaged DICOM files: refused with one family of errors, or read as what their headers say.

What is accepted is compared with pydicom, which reads the same bytes leniently and shares neither
the walk nor the decoders nor the geometry with our reader.
"""

import resource
import time
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_files import write_enhanced, write_series
from hemaseg.dicom.attributes import quiet_pydicom
from hemaseg.dicom.reading import choose_series, find_series, read_series
from hemaseg.errors import ScanError
from hemaseg.scans.scan import Scan
from hemaseg.scans.screening import KINDS, ReadOptions

SYNTAXES = (
    *(ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian),
    *(DeflatedExplicitVRLittleEndian, RLELossless, JPEGLosslessSV1, JPEGLSLossless),
    JPEG2000Lossless,
)
NUM_SLICES = 4
MAX_SECONDS = 10.0
MAX_RISE_KIB = 300 * 1024
OPTIONS = ReadOptions(max_bytes=2**24)


Slices = dict[tuple[str, int], tuple[NDArray[Any], NDArray[Any]]]
"""Values and RAS position of each slice, by its instance and frame number."""


def head(seed: int) -> NDArray[np.int16]:
    """(slice, row, column) smooth values with noise, so that codecs have something to do."""
    random = np.random.default_rng(seed)
    z, y, x = np.indices((NUM_SLICES, 16, 16))
    smooth = 400 * np.sin(x / 3) + 300 * np.cos(y / 4) + 60 * z
    voxels: NDArray[np.int16] = (smooth + random.normal(0, 20, smooth.shape)).astype(np.int16)
    return voxels


def read(path: Path) -> Scan:
    return read_series(choose_series(find_series(path, OPTIONS), None), OPTIONS)


CUT_KINDS = ("dicom-damaged", "dicom-truncated", "not-an-image", "missing-attribute")
WORDS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\xfe\xff\x00\xe0")


def mutant(data: bytes, random: np.random.Generator) -> bytes:
    """The bytes of a file with one to four changes, most of them in its header."""
    changed = bytearray(data)
    for _ in range(random.integers(1, 5)):
        limit = len(changed) if random.random() < 0.3 else min(len(changed), 1800)
        place = int(random.integers(128 if random.random() < 0.95 else 0, limit))
        match random.integers(8):
            case 0 | 1 | 2:
                changed[place] = int(random.integers(256))
            case 3:
                changed[place] ^= 1 << int(random.integers(8))
            case 4:
                changed[place : place + 4] = WORDS[random.integers(len(WORDS))]
            case 5:
                del changed[place : place + int(random.integers(1, 40))]
            case 6:
                other = int(random.integers(len(changed)))
                changed[place:place] = changed[other : other + int(random.integers(1, 60))]
            case _:
                del changed[place:]
        if len(changed) < 200:
            break
    return bytes(changed)


def expected_slices(path: Path) -> Slices:
    """The slices of a file as pydicom reads them."""
    data_set = dcmread(path, force=True)
    frames = data_set.pixel_array.reshape(-1, data_set.Rows, data_set.Columns)
    if data_set.PhotometricInterpretation == "MONOCHROME1":
        span = 2**data_set.BitsStored
        frames = (-1 if data_set.PixelRepresentation else span - 1) - frames
    found: Slices = {}
    for number, frame in enumerate(frames, start=1):
        place = scale = data_set
        if "PerFrameFunctionalGroupsSequence" in data_set:
            group = data_set.PerFrameFunctionalGroupsSequence[number - 1]
            place = group.PlanePositionSequence[0]
            scale = group.PixelValueTransformationSequence[0]
        values = frame * float(scale.RescaleSlope) + float(scale.RescaleIntercept)
        position = np.array(place.ImagePositionPatient, float) * (-1, -1, 1)
        found[str(data_set.SOPInstanceUID), number] = values, position
    return found


def found_slices(scan: Scan) -> Slices:
    """Those of a scan whose display order is its stored order."""
    assert scan.dicom is not None
    assert scan.affine is not None
    coordinates = scan.slice_coordinates
    places = np.arange(len(scan.voxels)) if coordinates is None else coordinates
    return {
        (str(scan.dicom.headers[index].SOPInstanceUID), number): (
            scan.voxels[k],
            (scan.affine @ (places[k], 0, 0, 1))[:3],
        )
        for k, (index, number) in enumerate(scan.dicom.frames)
    }


def assert_reads_as_pydicom(scan: Scan, paths: list[Path]) -> None:
    """Every slice has the values and the place that pydicom finds in the same files.

    Padding is what pydicom leaves alone. What it cannot decode is not compared.
    """
    with quiet_pydicom():
        expected: Slices = {}
        for path in paths:
            try:
                expected |= expected_slices(path)
            except RuntimeError:
                return
    found = found_slices(scan)
    assert set(found) <= set(expected)
    for key, (values, position) in found.items():
        is_padding = values == -1000
        np.testing.assert_allclose(values[~is_padding], expected[key][0][~is_padding], rtol=1e-6)
        np.testing.assert_allclose(position, expected[key][1], atol=0.25)


@dataclass
class Target:
    """A good series, one file of which is damaged."""

    folder: Path
    path: Path
    data: bytes


@dataclass
class Outcome:
    """What became of the mutants."""

    kinds: Counter[str] = field(default_factory=Counter)
    num_read: int = 0
    longest_s: float = 0.0


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> list[Target]:
    """Four single-frame files and one multi-frame file in each transfer syntax."""
    found: list[Target] = []
    for syntax in SYNTAXES:
        folder = tmp_path_factory.mktemp("series")
        uid = f"1.2.3.{len(found) + 1}"
        paths = write_series(folder, head(1), transfer_syntax=syntax, series_uid=uid)
        found.append(Target(folder, paths[1], paths[1].read_bytes()))
        folder = tmp_path_factory.mktemp("enhanced")
        path = write_enhanced(
            folder / "all.dcm", head(1), transfer_syntax=syntax, SOPInstanceUID=f"{uid}.1"
        )
        found.append(Target(folder, path, path.read_bytes()))
    return found


def fuzz(targets: list[Target], num_mutants: int, seed: int) -> Outcome:
    """Read mutants, one after the other, and check each that is read."""
    random = np.random.default_rng(seed)
    outcome = Outcome()
    for index in range(num_mutants):
        target = targets[index % len(targets)]
        target.path.write_bytes(mutant(target.data, random))
        start = time.perf_counter()
        try:
            scan = read(target.folder)
        except ScanError as error:
            outcome.kinds[error.kind] += 1
        else:
            assert_reads_as_pydicom(scan, sorted(target.folder.iterdir()))
            outcome.num_read += 1
        finally:
            outcome.longest_s = max(outcome.longest_s, time.perf_counter() - start)
            target.path.write_bytes(target.data)
    return outcome


def check(targets: list[Target], num_mutants: int, seed: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = fuzz(targets, num_mutants, seed)
    risen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert risen < MAX_RISE_KIB
    assert outcome.longest_s < MAX_SECONDS
    # Whatever is refused is refused for a reason that was looked for.
    assert set(outcome.kinds) <= set(KINDS) - {"unreadable"}
    # Neither everything nor nothing is refused, and for many reasons.
    assert 0.02 * num_mutants < outcome.num_read < 0.5 * num_mutants
    assert len(outcome.kinds) >= 8


def test_1000_mutants(targets: list[Target]) -> None:
    check(targets, 1000, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_10000_mutants(targets: list[Target], seed: int) -> None:
    check(targets, 1000, seed)


@pytest.mark.parametrize("index", range(2 * len(SYNTAXES)))
def test_truncation_is_always_refused(targets: list[Target], index: int) -> None:
    target = targets[index]
    try:
        # The last byte may be one that only makes the length of a deflated stream even.
        for size in range(1, len(target.data) - 1, 61):
            target.path.write_bytes(target.data[:size])
            with pytest.raises(ScanError) as caught:
                read(target.folder)
            assert caught.value.kind in (
                *("dicom-damaged", "dicom-truncated", "not-an-image", "missing-attribute"),
                *("missing-slices", "empty-folder"),
            )
    finally:
        target.path.write_bytes(target.data)


def test_mutants_of_archives(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "series", head(1))
    whole = tmp_path / "scan.zip"
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.write(path, path.name)
    good, data = read(whole), whole.read_bytes()
    random = np.random.default_rng(4)
    kinds: Counter[str] = Counter()
    for _ in range(200):
        changed = bytearray(data)
        for place in random.integers(0, len(data), random.integers(1, 4)):
            changed[place] = random.integers(256)
        whole.write_bytes(changed)
        try:
            scan = read(whole)
        except ScanError as error:
            kinds[error.kind] += 1
        else:
            # Checksums leave nothing but names and times to change without notice.
            np.testing.assert_array_equal(scan.voxels, good.voxels)
            kinds["read"] += 1
    assert kinds["archive-damaged"] > 60
    assert set(kinds) <= {"read", *KINDS} - {"unreadable"}
