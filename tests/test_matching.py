"""Pairs of mask files by their names and by a cohort."""

from pathlib import Path

import pytest

from hemaseg.cohorts.table import CaseImage, Cohort
from hemaseg.errors import ConfigError, EvaluationError
from hemaseg.evaluation.matching import MaskPair, match_cohort, match_folders

SEG, CT = (
    bytes(128) + b"DICM" + bytes(30) + b"1.2.840.10008.5.1.4.1.1." + kind
    for kind in (b"66.4", b"2")
)
"""How DICOM files begin, of which no more is read while matching."""


def touch(folder: Path, *names: str) -> Path:
    """Files that are not read while matching."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def match(
    tmp_path: Path, predictions: list[str], references: list[str]
) -> list[tuple[str, str, int | None, str, str]]:
    ours = touch(tmp_path / "predictions", *predictions)
    theirs = touch(tmp_path / "references", *references)
    return [
        (
            pair.subject,
            pair.scan,
            pair.slice,
            pair.prediction.relative_to(ours).as_posix(),
            "" if pair.reference is None else pair.reference.relative_to(theirs).as_posix(),
        )
        for pair in match_folders(ours, theirs)
    ]


@pytest.mark.parametrize(
    ("name", "subject", "scan", "number"),
    [
        ("0001_12.png", "0001", "0001", 12),
        ("A_B-3.tif", "A_B", "A_B", 3),
        ("P/T1_07.png", "P", "T1", 7),
        ("P/12.png", "P", "P", 12),
        ("P/head.png", "P", "head", None),
        ("single.png", "single", "single", None),
        ("case_12.nii.gz", "case_12", "case_12", None),
        ("P/case_12.nii", "P", "case_12", None),
    ],
)
def test_subject_and_slice_in_names(
    tmp_path: Path, name: str, subject: str, scan: str, number: int | None
) -> None:
    assert match(tmp_path, [name], [name]) == [(subject, scan, number, name, name)]


def test_a_pattern_names_the_subject(tmp_path: Path) -> None:
    names = ["A/p1_bl_mask.nii.gz", "A/p1_fu_mask.nii.gz", "B/p1_fu_mask.nii.gz", "B/q_9.png"]
    folder = touch(tmp_path, *names[:3], "B/q_9_mask.png")
    pairs = match_folders(folder, folder, subject_pattern="([^/]+)_")
    assert [(pair.subject, pair.scan, pair.slice) for pair in pairs] == [
        ("p1", "A-p1_bl", None),
        ("p1", "A-p1_fu", None),
        ("p1", "B-p1_fu", None),
        ("q", "B-q", 9),
    ]
    with pytest.raises(EvaluationError, match=r"p1_bl_mask\.nii\.gz: no subject in its name"):
        match_folders(folder, folder, subject_pattern="(nobody)")
    with pytest.raises(ConfigError, match="0 groups, expected 1"):
        match_folders(folder, folder, subject_pattern="p1")


def test_mask_endings_do_not_count_and_images_are_left_aside(tmp_path: Path) -> None:
    references = ["P/P_2.png", "P/P_2_Mask.png", "P/P_10.png", "P/P_10_mask.png", "notes.txt"]
    pairs = match(tmp_path, ["P/P_10.png", "P/P_2.png", ".DS_Store", ".old/P_3.png"], references)
    assert pairs == [
        ("P", "P", 2, "P/P_2.png", "P/P_2_Mask.png"),
        ("P", "P", 10, "P/P_10.png", "P/P_10_mask.png"),
    ]


def test_a_flat_folder_matches_by_name(tmp_path: Path) -> None:
    nested, flat = ["0002/0002_1.png", "0010/0010_1.png"], ["0002_1.tif", "0010_1.tif"]
    subjects = [pair[:3] for pair in match(tmp_path, nested, flat)]
    assert subjects == [("0002", "0002", 1), ("0010", "0010", 1)]


def test_two_nested_folders_match_by_path_only(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"B/1\.png: no prediction"):
        match(tmp_path, ["A/1.png"], ["B/1.png"])


def test_lists_all_that_has_no_counterpart(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="3 predictions and 2 references") as caught:
        match(tmp_path, ["a_1.png", "a_2.png", "a_3.png"], ["a_1.png", "a_4.png"])
    lines = str(caught.value).splitlines()[1:]
    assert [line.rpartition("/")[2] for line in lines] == [
        "a_4.png: no prediction",
        "a_2.png: no reference",
        "a_3.png: no reference",
    ]


def test_a_long_list_is_cut_and_counted(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"and 11 more$"):
        match(tmp_path, ["a_0.png"], [f"a_{number}.png" for number in range(62)])


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a_1.png", "a_1.tif"], r"a_1\.tif: same name as .*a_1\.png"),
        (["a_1_mask.png", "a_1_seg.png"], r"a_1_seg\.png: same name as .*a_1_mask\.png"),
        (["a_1.png", "a_01.png"], r"slice 1 of subject a, as "),
        (["12.png"], r"12\.png: no subject in its name"),
        (["s1/anat/x.nii.gz", "s2/anat/y.nii.gz"], r"subject anat: masks in 2 folders .*s1/anat"),
    ],
)
def test_refuses_names_that_are_not_clear(tmp_path: Path, names: list[str], found: str) -> None:
    with pytest.raises(EvaluationError, match=found):
        match(tmp_path, names, names)


def test_names_that_only_one_flat_folder_makes_equal(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"B/1\.png: same name as .*A/1\.png"):
        match(tmp_path, ["1.png"], ["A/1.png", "B/1.png"])


def test_refuses_what_is_no_folder_of_masks(tmp_path: Path) -> None:
    folder = touch(tmp_path, "full/a_1.png", "notes/a.txt", "notes/b.csv")
    full = folder / "full"
    with pytest.raises(EvaluationError, match="gone: found nothing, expected a folder"):
        match_folders(folder / "gone", full)
    with pytest.raises(EvaluationError, match=r"a_1\.png: found a file, expected a folder"):
        match_folders(full, full / "a_1.png")
    words = "notes: 0 masks among 2 files, expected PNG, TIFF, NIfTI or DICOM SEG files"
    with pytest.raises(EvaluationError, match=words):
        match_folders(full, folder / "notes")


def dicom(folder: Path, *names: str, content: bytes = SEG) -> Path:
    for name in names:
        touch(folder, name).joinpath(name).write_bytes(content)
    return folder


def test_a_dicom_seg_is_a_volume_whatever_its_name(tmp_path: Path) -> None:
    dicom(tmp_path / "predictions", "p/p_2_seg.dcm", "q/head_SEG.DCM")
    dicom(tmp_path / "references", "p_2", "ct.dcm", content=CT)
    dicom(tmp_path / "references", "p_2.seg.dcm", content=CT)
    dicom(tmp_path / "references", "head.dcm")
    dicom(tmp_path / "references", "p_2")
    assert match(tmp_path, [], []) == [
        ("head", "head", None, "q/head_SEG.DCM", "head.dcm"),
        ("p_2", "p_2", None, "p/p_2_seg.dcm", "p_2"),
    ]


def test_what_predict_writes_of_dicom_counts_once(tmp_path: Path) -> None:
    """An even series has its mask twice, an uneven one as SEG alone."""
    ours = touch(tmp_path / "predictions", "even/even_mask.nii.gz", "even/even_overview.png")
    touch(ours, "uneven/uneven_overview.png", "uneven/uneven.json", "predictions.csv")
    dicom(ours, "even/even_seg.dcm", "uneven/uneven_seg.dcm")
    dicom(ours, "even/even_sr.dcm", "uneven/uneven_sr.dcm", content=CT)
    assert match(tmp_path, [], ["even.nii.gz", "uneven.nii"]) == [
        ("even", "even", None, "even/even_mask.nii.gz", "even.nii.gz"),
        ("uneven", "uneven", None, "uneven/uneven_seg.dcm", "uneven.nii"),
    ]


def test_a_seg_beside_another_mask_of_its_name_is_not_left_aside(tmp_path: Path) -> None:
    for name in ("p_mask.dcm", "p_label.dcm"):
        folder = dicom(touch(tmp_path / name, "p_mask.nii.gz"), name)
        with pytest.raises(EvaluationError, match=f"{name}: same name as|as .*/{name}"):
            match_folders(folder, folder)


def test_of_bids_derivatives_the_masks_count(tmp_path: Path) -> None:
    names = [f"sub-1/ses-{day}/sub-1_ses-{day}_label-ICH_mask.nii.gz" for day in "12"]
    ours = touch(tmp_path / "predictions", "dataset_description.json", *names)
    dicom(ours, "cases/one/one_seg.dcm")
    found = match_folders(ours, touch(tmp_path / "references", *names), subject_pattern="sub-(.)")
    assert [pair.prediction.relative_to(ours).as_posix() for pair in found] == names
    (ours / "dataset_description.json").unlink()
    with pytest.raises(EvaluationError, match=r"cases/one/one_seg\.dcm: no reference"):
        match_folders(ours, tmp_path / "references")


def case(number: int, *, lesion_pixels: int | None) -> CaseImage:
    mask = Path(f"masks/p_{number}.png") if lesion_pixels else None
    return CaseImage(
        subject="p",
        scan="p",
        site="HT",
        modality="MRI",
        slice=number,
        image=Path(f"images/p_{number}.jpg"),
        mask=mask,
        num_rows=4,
        num_columns=4,
        num_slices=1,
        spacing_mm=None,
        lesion_pixels=lesion_pixels,
        lesion_ml=float("nan"),
        sha256="0" * 64,
    )


def test_a_cohort_decides_what_is_scored(tmp_path: Path) -> None:
    cases = [
        case(10, lesion_pixels=3),
        case(2, lesion_pixels=0),
        case(3, lesion_pixels=None),
    ]
    folder = touch(tmp_path, "p/p_10.png", "p/p_2.png", "p/p_77.png", "other.png")
    assert match_cohort(folder, Cohort(tuple(cases))) == (
        MaskPair("p", "p", 2, folder / "p" / "p_2.png", None, cases[1]),
        MaskPair("p", "p", 10, folder / "p" / "p_10.png", Path("masks/p_10.png"), cases[0]),
    )


def test_lists_all_predictions_that_a_cohort_lacks(tmp_path: Path) -> None:
    cohort = Cohort(tuple(case(number, lesion_pixels=1) for number in range(4)))
    folder = touch(tmp_path, "p/p_1.png", "p/p_2.png")
    with pytest.raises(EvaluationError, match="2 predictions, expected 4") as caught:
        match_cohort(folder, cohort)
    assert [line.rpartition("/")[2] for line in str(caught.value).splitlines()[1:]] == [
        "p_0.png: no such file",
        "p_3.png: no such file",
    ]


def test_refuses_a_cohort_without_references(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="0 of 1 images have a reference mask"):
        match_cohort(tmp_path, Cohort((case(1, lesion_pixels=None),)))
