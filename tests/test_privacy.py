"""Names are planted in headers and folders; then every byte that comes out is searched for them."""

import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydicom import Dataset, Sequence, dcmread
from pydicom.datadict import tag_for_keyword

from bad_files import write_zip
from bad_inputs import head_bytes, write
from command_line import Verb
from dicom_files import phantom_series
from hemaseg.config import IntensityConfig, ModelConfig
from hemaseg.models.catalogue import build_model
from hemaseg.training.checkpoint import save_model

NAME = "M\u00fc\u00dfigbrodt^Wilhelmine"
PLANTED = {
    "PatientName": NAME,
    "PatientID": "PID4711XQ",
    "PatientBirthDate": "19310417",
    "OtherPatientIDs": "OTHER8822",
    "OtherPatientNames": "Zwetschkenbaum^Ida",
    "PatientBirthName": "Quellmalz",
    "PatientMotherBirthName": "Oxenfurth",
    "PatientAddress": "Rabenauerweg 12",
    "PatientTelephoneNumbers": "0815473311",
    "PatientComments": "Sister of Zwetschkenbaum",
    "MilitaryRank": "Rittmeisterin",
    "MedicalRecordLocator": "MRL55019",
    "AccessionNumber": "ACC99123Z",
    "StudyID": "STUDY7316",
    "AdmissionID": "ADM20557",
    "ReferringPhysicianName": "Doktorhaus^Emil",
    "PerformingPhysicianName": "Knochenhauer^Rosa",
    "OperatorsName": "Lichtbildner^Max",
    "RequestingPhysician": "Auftragswalter^Jo",
    "PhysiciansOfRecord": "Aktenf\u00fchrer^Ann",
    "InstitutionName": "Spital Krummnussbaum",
    "InstitutionAddress": "Krummnussbaum, Hauptplatz",
    "InstitutionalDepartmentName": "Strahlenkellerei",
    "StationName": "GERAET77Q",
    "StudyDescription": "Head of Wilhelmine",
    "RequestedProcedureDescription": "Asked by Auftragswalter",
    "ImageComments": "M\u00fc\u00dfigbrodt, born 17.04.1931",
    "SeriesDescription": "CT Wilhelmine 4711XQ",
    "ProtocolName": "Kopf M\u00fc\u00dfigbrodt",
}
WORDS = tuple(
    sorted(
        {
            *(
                "M\u00fc\u00dfigbrodt",
                "Muessigbrodt",
                "Wilhelmine",
                "4711XQ",
                "19310417",
                "17.04.1931",
            ),
            *("1931-04-17", "OTHER8822", "Zwetschkenbaum", "Quellmalz", "Oxenfurth", "Rabenauer"),
            *("0815473311", "Rittmeister", "MRL55019", "ACC99123Z", "STUDY7316", "ADM20557"),
            *("Doktorhaus", "Knochenhauer", "Lichtbildner", "Auftragswalter", "Aktenf\u00fchrer"),
            *("Krummnussbaum", "Strahlenkeller", "GERAET77Q", "Geheimnis"),
        }
    )
)
"""Parts of what is planted, none of which may come out."""

NOT_IN_HEADERS = {"Muessigbrodt", "1931-04-17"}
"""Of these, what only names of folders have."""

KEPT = {
    "M\u00fc\u00dfigbrodt",
    "Wilhelmine",
    "4711XQ",
    "19310417",
    "ACC99123Z",
    "STUDY7316",
    "Doktorhaus",
}
"""What `--keep-identity` lets into SEG and report, and nothing else."""

MODEL = ModelConfig(name="unet", options={"base_width": 4})


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    network = build_model(MODEL.name, MODEL.options)
    save_model(folder, network, MODEL, image_size=32, intensity=IntensityConfig(), threshold=0.5)
    return folder


def planted_series(folder: Path) -> list[Path]:
    """A good CT series whose headers name the patient wherever they can."""
    attributes: dict[str, Any] = {
        **PLANTED,
        "SpecificCharacterSet": "ISO_IR 100",
        "OtherPatientIDsSequence": lambda _: Sequence([_item(PatientID="OTHER8822")]),
        "RequestAttributesSequence": lambda _: Sequence([_item(RequestedProcedureID="ACC99123Z")]),
    }
    series = phantom_series(folder, num_slices=5, spacing_mm=10.0, **attributes)
    for path in series.paths:
        data_set = dcmread(path)
        block = data_set.private_block(0x0011, "HEMASEG TEST", create=True)
        block.add_new(0x01, "LO", "Geheimnis of Wilhelmine")
        data_set.preamble = b"Geheimnis".ljust(128, b"\0")
        data_set.save_as(path)
    return series.paths


def _item(**attributes: str) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def planted_nifti(path: Path) -> Path:
    return write(
        path,
        head_bytes(
            descrip="M\u00fc\u00dfigbrodt Wilhelmine 19310417".encode(),
            aux_file=b"PID4711XQ",
            intent_name=b"ACC99123Z",
            db_name=b"Wilhelmine",
        ),
    )


def overwrite(path: Path, keyword: str, value: bytes) -> None:
    """Replace the bytes of an element (explicit VR, short form), whatever its VR allows."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    data = path.read_bytes()
    place = data.index(start, 132)
    length = int.from_bytes(data[place + 6 : place + 8], "little")
    value += b" " * (len(value) % 2)
    new = data[: place + 6] + struct.pack("<H", len(value)) + value
    path.write_bytes(new + data[place + 8 + length :])


BAD_VALUES = {
    "SpecificCharacterSet": b"Wilhelmine",
    "ImageType": b"ORIGINAL\\PRIMARY\\WILHELMINE",
    "SOPClassUID": b"Wilhelmine",
    "SOPInstanceUID": b"Wilhelmine",
    "StudyDate": b"Wilhelmine",
    "Modality": b"WILHELMINE",
    "PatientName": b"Wilhelmine" * 8,
    "PatientID": b"4711XQ\\4711XQ" * 9,
    "PatientBirthDate": b"Wilhelmine",
    "PatientSex": b"Wilhelmine",
    "SliceThickness": b"Wilhelmine",
    "StudyInstanceUID": b"Wilhelmine",
    "SeriesInstanceUID": b"4711XQ Wilhelmine",
    "SeriesNumber": b"Wilhelmine",
    "InstanceNumber": b"Wilhelmine",
    "ImagePositionPatient": b"Wilhelmine\\0\\0",
    "ImageOrientationPatient": b"Wilhelmine\\0\\0\\0\\1\\0",
    "FrameOfReferenceUID": b"Wilhelmine",
    "PhotometricInterpretation": b"WILHELMINE",
    "PixelSpacing": b"Wilhelmine\\3.2",
    "BitsAllocated": b"Wilhelmine",
    "PixelRepresentation": b"4711XQ",
    "RescaleIntercept": b"Wilhelmine",
    "RescaleSlope": b"4711XQ",
}
"""What may stand in a wrong field; pydicom quotes such values when it complains of them."""


def damaged_copies(good: list[Path], folder: Path) -> list[Path]:
    """Series with a name in a wrong field, in all slices or in one; and one cut within an id."""
    folders = []
    for keyword, value in BAD_VALUES.items():
        for which, wrong in (("all", slice(None)), ("one", slice(2, 3))):
            folders.append(folder / f"{keyword}-{which}")
            for path in copied(good, folders[-1])[wrong]:
                overwrite(path, keyword, value)
    folders.append(folder / "cut")
    cut = copied(good, folders[-1])[2]
    data = cut.read_bytes()
    cut.write_bytes(data[: data.index(b"4711XQ") + 4])
    return folders


def copied(paths: list[Path], folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    return [Path(shutil.copy(path, folder)) for path in paths]


def leaks(printed: str, folder: Path | None = None) -> list[str]:
    """Planted words in what was printed, and in the names and bytes of all files of a folder."""
    found = [f"printed: {word}" for word in words_in(printed.encode())]
    for path in sorted(folder.rglob("*")) if folder else ():
        name = path.relative_to(folder or path).as_posix()
        found += [f"name {name}: {word}" for word in words_in(name.encode())]
        words = set().union(*map(words_in, readings(path))) if path.is_file() else ()
        found += [f"{name}: {word}" for word in words]
    return found


def readings(path: Path) -> Iterator[bytes]:
    """The bytes of a file as they are, unpacked, and as the libraries show them."""
    data = path.read_bytes()
    yield data
    if data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    elif data.startswith(b"\x89PNG"):
        with Image.open(path) as picture:
            yield repr(picture.info).encode()
    elif data[128:132] == b"DICM":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield str(dcmread(path)).encode()


def words_in(data: bytes) -> set[str]:
    """Planted words in bytes, in any usual encoding, escaped or not, whatever the case."""
    texts = [data.decode(code, "replace") for code in ("utf-8", "latin-1", "utf-16-le")]
    texts.append(re.sub(r"\\u([0-9a-f]{4})", lambda m: chr(int(m[1], 16)), texts[0]))
    texts = [text.casefold() for text in texts]
    return {word for word in WORDS if any(word.casefold() in text for text in texts)}


@dataclass(frozen=True)
class Planted:
    """Scans that name their patient: in the header, in the folder, and where they are damaged.

    Attributes:
        good: A DICOM folder, the same in a zip file, and a NIfTI file.
        damaged: DICOM folders.
    """

    good: tuple[Path, ...]
    damaged: tuple[Path, ...]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    folder = tmp_path_factory.mktemp("scans")
    series = planted_series(folder / "M\u00fc\u00dfigbrodt_Wilhelmine/4711XQ")
    archive = write_zip(
        folder / "MUESSIGBRODT-1931-04-17.zip",
        [(f"Wilhelmine/{path.name}", path.read_bytes()) for path in series],
    )
    nifti = planted_nifti(folder / "p17/head.nii")
    named = copied(series, folder / "Wilhelmine-19310417/a")
    named[2].write_bytes(named[2].read_bytes()[:-1000])
    damaged = damaged_copies(series, folder / "damaged")
    return Planted((series[0].parent, archive, nifti), (folder / "Wilhelmine-19310417", *damaged))


def test_the_search_finds_what_is_there(planted: Planted, tmp_path: Path) -> None:
    for path in planted.good[0].iterdir():
        shutil.copy(path, tmp_path)
    assert {leak.split(": ")[1] for leak in leaks("", tmp_path)} == set(WORDS) - NOT_IN_HEADERS
    (tmp_path / "WILHELMINE").write_bytes(gzip.compress("M\u00fc\u00dfigbrodt".encode()))
    (tmp_path / "record.json").write_text(json.dumps("Aktenf\u00fchrer"))
    assert {"name WILHELMINE: Wilhelmine", "WILHELMINE: M\u00fc\u00dfigbrodt"} <= {
        *leaks("", tmp_path)
    }
    assert "record.json: Aktenf\u00fchrer" in leaks("", tmp_path)
    assert leaks("PID4711XQ") == ["printed: 4711XQ"]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_check(planted: Planted, options: tuple[str, ...]) -> None:
    """In a process of its own, so that warnings and logs go where users see them."""
    ended = subprocess.run(
        [sys.executable, "-m", "hemaseg", "check", *planted.good, *planted.damaged, *options],
        capture_output=True,
        timeout=120,
        env=os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "default"},
    )
    printed = (ended.stdout + ended.stderr).decode()
    assert (ended.returncode, leaks(printed)) == (1, [])
    assert printed.count("refused") > 30


def test_predict_and_measure(
    hemaseg: Verb,
    planted: Planted,
    run_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    masks, table = tmp_path / "masks", tmp_path / "measures.csv"
    arguments = ("--model", run_folder, "-o", masks, "--modality", "CT", "--probability")
    # One wrong slice among right ones brings nothing new into the output, and takes as long.
    damaged = [path for path in planted.damaged if not path.name.endswith("-one")]
    ended = hemaseg("predict", *planted.good, *damaged, *arguments)
    assert ended.status == 1
    assert len([*masks.rglob("*_probability.nii.gz")]) > 9
    assert len([*masks.rglob("*_sr.dcm")]) > 9
    assert leaks(ended.out + ended.err + caplog.text, masks) == []
    measured = hemaseg("measure", masks, "-o", table)
    assert leaks(measured.out + measured.err + caplog.text) == []
    assert words_in(table.read_bytes()) == set()


def test_predict_for_bids(
    hemaseg: Verb, planted: Planted, run_folder: Path, tmp_path: Path
) -> None:
    arguments = ("--model", run_folder, "-o", tmp_path, "--modality", "CT", "--bids")
    ended = hemaseg("predict", *planted.good, *arguments)
    assert ended.status == 0
    assert len([*tmp_path.rglob("*.json")]) > 3
    assert leaks(ended.out + ended.err, tmp_path) == []


def test_identity_is_kept_where_it_is_asked_for(
    hemaseg: Verb, planted: Planted, run_folder: Path, tmp_path: Path
) -> None:
    arguments = ("--model", run_folder, "-o", tmp_path, "--keep-identity")
    assert hemaseg("predict", planted.good[0], *arguments).status == 0
    (segmentation,) = tmp_path.rglob("*_seg.dcm")
    (report,) = tmp_path.rglob("*_sr.dcm")
    for path in (segmentation, report):
        data_set = dcmread(path)
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber"):
            assert data_set[keyword].value == PLANTED[keyword]
        found = set().union(*map(words_in, readings(path)))
        assert found <= KEPT
    # Measuring it does not say more than its name does.
    measured = hemaseg("measure", shutil.copy(segmentation, tmp_path / "mask.dcm"))
    assert (measured.status, leaks(measured.out + measured.err)) == (0, [])
