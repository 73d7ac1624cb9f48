import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hemaseg.errors import ConfigError
from hemaseg.intake.sources import Source
from hemaseg.prediction.places import case_places, describe_dataset, sidecar_json
from hemaseg.scans.scan import Scan

OUT = Path("out")
VOLUME = Scan(np.zeros((3, 2, 2)), np.eye(4), Path("a.nii"))


def source(path: str, name: str = "") -> Source:
    return Source(name or Path(path).name.partition(".")[0], path, Path(path), (Path(path),))


def bids_stems(*sources: Source) -> list[str]:
    return [
        places.stem.relative_to(OUT).as_posix() for places in case_places(sources, OUT, bids=True)
    ]


def test_a_case_has_a_folder() -> None:
    (places,) = case_places([source("x/ct.nii.gz")], OUT, bids=False)
    assert places.mask(VOLUME) == OUT / "ct/ct_mask.nii.gz"
    assert places.probability(VOLUME) == OUT / "ct/ct_probability.nii.gz"
    assert places.own("seg.dcm") == OUT / "ct/ct_seg.dcm"
    assert places.record == OUT / "ct/ct.json"


def test_pictures_have_pictures_as_masks() -> None:
    (places,) = case_places([source("p")], OUT, bids=False)
    stack = replace(VOLUME, affine=None, pictures=(Path("1.png"),) * 3)
    assert places.mask(replace(VOLUME, affine=None)) == OUT / "p/p_mask.tif"
    assert places.mask(stack) == OUT / "p/p_mask"
    assert places.mask(Scan(np.zeros((1, 2, 2)), None, Path())) == OUT / "p/p_mask.png"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("sub-01_ct.nii.gz", "sub-01/anat/sub-01_label-ICH"),
        ("in/sub-01/ct/sub-01_ct.nii.gz", "sub-01/ct/sub-01_label-ICH"),
        ("sub-01_ses-2_run-1_T1w.nii", "sub-01/ses-2/anat/sub-01_ses-2_run-1_label-ICH"),
        ("sub-01_desc-x_ct.nii", "sub-01/anat/sub-01_label-ICH_desc-x"),
        ("sub-01_label-y_ct.nii", "sub-01/anat/sub-01_label-ICH"),
        ("patient_07-b.nii", "sub-patient07b/anat/sub-patient07b_label-ICH"),
        ("sub-01.nii", "sub-sub01/anat/sub-sub01_label-ICH"),
    ],
)
def test_names_of_bids_derivatives(name: str, stem: str) -> None:
    (places,) = case_places([source(name)], OUT, bids=True)
    assert places.stem == OUT / stem
    assert places.mask(VOLUME) == OUT / f"{stem}_mask.nii.gz"
    assert places.probability(VOLUME) == OUT / f"{stem}_probseg.nii.gz"
    assert places.sidecar(places.mask(VOLUME)) == OUT / f"{stem}_mask.json"
    assert places.record == OUT / "cases" / places.name / f"{places.name}.json"


def test_a_name_without_latin_letters_is_a_subject_too() -> None:
    (stem,) = bids_stems(source("\u5934.nii"))
    assert len(stem.split("/")[0]) == len("sub-") + 8


def test_two_scans_never_share_a_bids_name() -> None:
    stems = bids_stems(
        source("sub-01_T1w.nii"), source("sub-01_FLAIR.nii"), source("a_1.nii"), source("a1.nii")
    )
    assert len(set(stems)) == 4
    assert all("_label-ICH_desc-" in stem for stem in stems)
    assert stems[0] == bids_stems(source("sub-01_T1w.nii"), source("sub-01_ct.nii", "x"))[0]


@pytest.mark.parametrize("bids", [False, True])
def test_all_that_a_case_can_have_is_removed_and_nothing_else(tmp_path: Path, bids: bool) -> None:
    first, second = case_places([source("a.nii"), source("ab.nii")], tmp_path, bids=bids)
    stack = replace(VOLUME, affine=None, pictures=(Path("1.png"),))
    own = [first.mask(VOLUME), first.probability(VOLUME), first.mask(stack) / "1.png"]
    own += [first.own(end) for end in ("seg.dcm", "sr.dcm", "overview.png")]
    own += [first.record, first.sidecar(first.mask(VOLUME))]
    others = [second.mask(VOLUME), second.record]
    for path in own + others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert {*own[:2], *own[3:], first.mask(stack)} <= {*first.possible()}
    first.remove()
    assert not any(path.exists() for path in own)
    assert not first.folder.exists()
    assert all(path.exists() for path in others)


def test_a_users_own_file_stays_in_the_folder(tmp_path: Path) -> None:
    (places,) = case_places([source("a.nii")], tmp_path, bids=False)
    places.folder.mkdir()
    (places.folder / "notes.txt").write_text("x")
    assert not any(path.exists() for path in places.possible())
    places.remove()
    assert (places.folder / "notes.txt").exists()


def test_a_dataset_is_described_with_what_it_is_from(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "derivatives" / "hemaseg"
    (raw / "sub-1/anat").mkdir(parents=True)
    (raw / "dataset_description.json").write_text("{}")
    scan = source(str(raw / "sub-1/anat/sub-1_ct.nii"))
    describe_dataset(out, [scan, source(str(tmp_path / "b.nii"))], force=False)
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "hemaseg"
    assert description["SourceDatasets"] == [{"URL": "../../raw"}]
    ((link, url),) = description["DatasetLinks"].items()
    assert url == "../../raw"
    sidecar = json.loads(sidecar_json(scan, out))
    assert sidecar["Sources"] == [f"bids:{link}:sub-1/anat/sub-1_ct.nii"]
    assert "Sources" not in json.loads(sidecar_json(source(str(tmp_path / "b.nii")), out))
    # A later command adds to it.
    describe_dataset(out, [source(str(tmp_path / "b.nii"))], force=False)
    assert json.loads((out / "dataset_description.json").read_text()) == description


@pytest.mark.parametrize(
    "text", ["{}", "no json", "[" * 100_000, '{"GeneratedBy": [{"Name": "fMRIPrep"}]}']
)
def test_another_dataset_is_not_described_anew_unasked(tmp_path: Path, text: str) -> None:
    path = tmp_path / "dataset_description.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="describes another dataset"):
        describe_dataset(tmp_path, [], force=False)
    assert path.read_text() == text
    describe_dataset(tmp_path, [], force=True)
    assert "hemaseg" in path.read_text()
