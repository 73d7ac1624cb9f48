"""Folders and tables to cohorts: what is recorded, and that all that is wrong is named at once."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hemaseg.cohorts.index import index_folder, index_table
from hemaseg.cohorts.split import parts, split_folds
from hemaseg.cohorts.table import read_case, read_cohort, write_cohort
from hemaseg.errors import CohortError, ConfigError
from hemaseg.scans.images import read_scan
from hemaseg.scans.scan import content_sha256

MASK = np.array([[0, 0, 0], [0, 255, 255]], dtype=np.uint8)


def picture(path: Path, value: int | NDArray[Any]) -> Path:
    """A picture of 2 x 3 pixels with a corner of that value, or of these pixels."""
    pixels = value if isinstance(value, np.ndarray) else np.diag([value, 1, 1])[:2].astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def volume(path: Path, voxels: NDArray[Any], affine: NDArray[np.float64] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([0.5, 0.5, 5, 1]) if affine is None else affine
    image: Any = nib.Nifti1Image(voxels, affine)
    image.to_filename(path)
    return path


def ramp(first: int) -> NDArray[np.int16]:
    """(2, 3, 4) voxels that are all different."""
    return np.arange(first, first + 24, dtype=np.int16).reshape(2, 3, 4)


def refusal(folder: Path, **options: Any) -> list[str]:
    """The lines of the error that indexing gives, without the first."""
    with pytest.raises(CohortError) as error:
        index_folder(folder, **options)
    first, *lines = str(error.value).split("\n  ")
    assert first.startswith(f"{folder}: {len(lines)} problem")
    assert first.endswith("Correct these, or leave the files out, and index again.")
    return lines


def test_folder_per_patient_of_pictures(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        picture(tmp_path / f"TCGA_HT_7_1999/a_{number}.png", number + 1)
        picture(tmp_path / f"TCGA_HT_7_1999/a_{number}_mask.png", MASK * (number > 1))
    calls: list[tuple[int, int]] = []
    cohort = index_folder(tmp_path, progress=lambda *counts: calls.append(counts))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert [image.slice for image in cohort.images] == [1, 2, 10]
    assert [image.lesion_pixels for image in cohort.images] == [0, 2, 2]
    last = cohort.images[-1]
    assert (last.subject, last.scan, last.site, last.modality) == ("TCGA_HT_7_1999", "a", "HT", "")
    assert last.image == (tmp_path / "TCGA_HT_7_1999/a_10.png").absolute()
    assert last.mask == (tmp_path / "TCGA_HT_7_1999/a_10_mask.png").absolute()
    assert (last.num_slices, last.num_rows, last.num_columns) == (1, 2, 3)
    assert last.spacing_mm is None
    assert math.isnan(last.lesion_ml)
    assert last.sha256 == content_sha256(read_scan(last.image))


def test_relative_folders_give_absolute_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "data/P/1.png", 7)
    picture(tmp_path / "data/P/1_mask.png", MASK)
    monkeypatch.chdir(tmp_path)
    assert index_folder(Path("data")).images[0].image == tmp_path / "data/P/1.png"


@pytest.mark.parametrize("unmarked_as_negative", [False, True])
def test_slices_without_mask_are_unmarked_unless_declared(
    tmp_path: Path, unmarked_as_negative: bool
) -> None:
    for number in (1, 2):
        picture(tmp_path / f"images/0007_{number}.png", number + 1)
    picture(tmp_path / "blood/0007_2.png", MASK)
    cohort = index_folder(
        tmp_path, modality="CT", unmarked_as_negative=unmarked_as_negative, masks="blood"
    )
    assert cohort.subjects == ("0007",)
    first, second = cohort.images
    assert first.mask is None
    assert first.lesion_pixels == (0 if unmarked_as_negative else None)
    assert first.is_marked == unmarked_as_negative
    assert (second.lesion_pixels, second.modality) == (2, "CT")


def test_volumes_have_spacing_and_volume(tmp_path: Path) -> None:
    shear = np.array([[0.5, 0, 0, 3], [0, 0.5, 3, 2], [0, 0, 4, 1], [0, 0, 0, 1.0]])
    volume(tmp_path / "P1_ct.nii.gz", ramp(0), shear)
    volume(tmp_path / "P1_ct_mask.nii.gz", (ramp(0) < 6).astype(np.uint8), shear)
    volume(tmp_path / "P2_ct.nii.gz", ramp(5), shear)
    first, second = index_folder(tmp_path).images
    assert (first.subject, first.scan, first.slice) == ("P1_ct", "P1_ct", None)
    assert (first.num_slices, first.num_rows, first.num_columns) == (4, 3, 2)
    assert first.spacing_mm == pytest.approx((5, 0.5, 0.5))
    assert first.lesion_ml == pytest.approx(6 * 0.5 * 0.5 * 4 / 1000)
    assert first.modality == "CT"
    assert second.lesion_pixels is None
    assert math.isnan(second.lesion_ml)


def test_declared_negative_volumes_have_0_ml(tmp_path: Path) -> None:
    volume(tmp_path / "a.nii", ramp(0))
    volume(tmp_path / "a_mask.nii", (ramp(0) < 6).astype(np.uint8))
    volume(tmp_path / "b.nii", ramp(1))
    second = index_folder(tmp_path, unmarked_as_negative=True).images[1]
    assert (second.lesion_pixels, second.lesion_ml) == (0, 0.0)


def test_mask_in_another_axis_order_is_on_the_same_grid(tmp_path: Path) -> None:
    affine = np.diag([0.5, 0.5, 5, 1])
    mask = (ramp(0) < 1).astype(np.uint8)
    turned = np.array([[0, -0.5, 0, 0.5], [0.5, 0, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1]])
    volume(tmp_path / "a.nii", ramp(0), affine)
    volume(tmp_path / "a_mask.nii", mask.transpose(1, 0, 2)[:, ::-1], turned)
    image = index_folder(tmp_path).images[0]
    scan, reference = read_case(image)
    np.testing.assert_array_equal(scan.voxels[reference], [0])


def test_bids_and_nnunet_names(tmp_path: Path) -> None:
    volume(tmp_path / "bids/sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz", ramp(0))
    volume(
        tmp_path / "bids/derivatives/sub-01/sub-01_ses-1_label-lesion_mask.nii.gz",
        (ramp(0) < 6).astype(np.uint8),
    )
    image = index_folder(tmp_path / "bids").images[0]
    assert (image.subject, image.scan, image.modality) == ("sub-01", "sub-01_ses-1_FLAIR", "MRI")
    volume(tmp_path / "nn/imagesTr/c_001_0000.nii.gz", ramp(0))
    volume(tmp_path / "nn/labelsTr/c_001.nii.gz", (ramp(0) < 6).astype(np.uint8))
    (tmp_path / "nn/dataset.json").write_text(
        '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "blood": 1}}'
    )
    image = index_folder(tmp_path / "nn").images[0]
    assert (image.subject, image.scan, image.modality) == ("c_001", "c_001", "CT")
    assert image.lesion_pixels == 6


def test_patterns_find_subject_and_site(tmp_path: Path) -> None:
    for value, visit in enumerate(("x-P1/v1", "x-P1/v2", "y-P2/v1"), 2):
        picture(tmp_path / visit / "1.png", value)
        picture(tmp_path / visit / "1_mask.png", MASK)
    assert refusal(tmp_path)[0] == (
        "subject v1: 2 folders of that name (x-P1/v1, y-P2/v1), expected one. "
        "Give a subject pattern, which may take in several folders: '(site./[0-9]+)'"
    )
    cohort = index_folder(tmp_path, subject_pattern="-(P.)/", site_pattern="^(.)-")
    assert [(image.id, image.site) for image in cohort.images] == [
        ("P1/x-P1-v1/1", "x"),
        ("P1/x-P1-v2/1", "x"),
        ("P2/y-P2-v1/1", "y"),
    ]
    # The subject's name is looked at before the path.
    cohort = index_folder(tmp_path, subject_pattern="-(P.)/", site_pattern="^(P|x|y)")
    assert {image.site for image in cohort.images} == {"P"}


def test_a_pattern_may_take_in_several_folders(tmp_path: Path) -> None:
    for value, place in enumerate(("siteA/000", "siteA/001", "siteB/000"), 2):
        picture(tmp_path / place / "1.png", value)
        picture(tmp_path / place / "1_mask.png", MASK)
    cohort = index_folder(tmp_path, subject_pattern="(site./[0-9]+)", site_pattern="site(.)")
    found = [(image.subject, image.site) for image in cohort.images]
    assert found == [("siteA_000", "A"), ("siteA_001", "A"), ("siteB_000", "B")]


def test_images_without_subject_or_site_are_refused(tmp_path: Path) -> None:
    one = picture(tmp_path / "1.png", 2)
    picture(tmp_path / "1_mask.png", MASK)
    assert refusal(tmp_path) == [f"{one}: no subject in 1.png, expected a name. Give a pattern"]
    found = refusal(tmp_path, subject_pattern="([0-9])", site_pattern="(x)")
    assert found == [f"{one}: no site in 1.png, expected a name. Give a pattern"]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"modality": "PET"}, "modality 'PET', expected CT or MRI"),
        ({"site_pattern": "("}, r"pattern '\(': missing \).*expected a regular expression"),
        ({"site_pattern": "x"}, "pattern 'x': 0 groups, expected 1"),
        ({"subject_pattern": "(a)(b)"}, r"pattern '\(a\)\(b\)': 2 groups, expected 1"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, str], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        index_folder(tmp_path, **options)  # type: ignore[arg-type]


def test_everything_wrong_is_listed(tmp_path: Path) -> None:
    masks = {number: picture(tmp_path / f"P/a_{number}_mask.png", MASK) for number in range(1, 8)}
    images = {number: picture(tmp_path / f"P/a_{number}.png", number + 1) for number in range(1, 8)}
    images[2].write_bytes(b"")
    picture(masks[3], np.ones((3, 2), np.uint8))
    picture(masks[4], np.array([[0, 1, 2], [0, 0, 0]], np.uint8))
    picture(masks[5], np.full((2, 3), 255, np.uint8))
    images[6].unlink()
    picture(images[7].with_name("a_07.png"), 9)
    lines = refusal(tmp_path)
    assert len(lines) == 6
    text = "\n".join(sorted(lines))
    for found in (
        f"{images[2]}: 0 bytes, expected an image",
        f"{masks[3]}: mask grid 1x3x2 (without geometry), expected 1x2x3 (without geometry) as ",
        f"{masks[4]}: 3 different values (0, 1, 2), expected two",
        f"{masks[5]}: all 6 pixels are lesion, expected some background",
        f"{masks[6]}: mask without image, expected an image named P/a_6",
        f"{tmp_path}/P/a_07.png, {images[7]}: 2 files for the image P/a/7, expected one for each",
    ):
        assert found in text


def test_slices_of_several_sizes_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "P/a_1.png", 3)
    picture(tmp_path / "P/a_1_mask.png", MASK)
    odd = picture(tmp_path / "P/a_2.png", np.eye(4, dtype=np.uint8))
    (line,) = refusal(tmp_path)
    assert line.startswith(f"{odd}: grid (1, 4, 4), expected (1, 2, 3) as ")


def test_same_pixels_under_two_subjects_are_refused(tmp_path: Path) -> None:
    blank = np.zeros((2, 3), np.uint8)
    first = picture(tmp_path / "P1/a_1.png", 7)
    again = picture(tmp_path / "P1/a_2.png", 7)
    copy = picture(tmp_path / "P2/b_9.png", 7)
    picture(tmp_path / "P1/a_3.png", blank)
    picture(tmp_path / "P2/b_3.png", blank)
    picture(tmp_path / "P1/a_1_mask.png", MASK)
    assert refusal(tmp_path) == [
        f"{copy}: the same pixels as {first}, expected other pixels of subject P2 than of P1. "
        "Correct the names, or leave one out"
    ]
    copy.unlink()
    cohort = index_folder(tmp_path)
    assert cohort.images[0].sha256 == cohort.images[1].sha256
    assert again == cohort.images[1].image


def test_masks_that_mark_with_several_values_are_refused(tmp_path: Path) -> None:
    for number, value in enumerate((1, 1, 2), 1):
        picture(tmp_path / f"P/a_{number}.png", number + 1)
        picture(tmp_path / f"P/a_{number}_mask.png", MASK // 255 * np.uint8(value))
    (line,) = refusal(tmp_path)
    assert "a_3_mask.png: marks with the value 2, expected 1 as " in line


def test_one_label_of_maps_is_kept_with_the_cohort(tmp_path: Path) -> None:
    marked = {"a": (1, 2, 2, 3), "b": (2, 0, 0, 0)}
    for value, (name, labels) in enumerate(marked.items()):
        mask = np.zeros((2, 3, 4), np.uint8)
        mask[0, 0] = labels
        volume(tmp_path / f"{name}.nii", ramp(value))
        volume(tmp_path / f"{name}_mask.nii", mask)
    volume(tmp_path / "c.nii", ramp(9))
    (line,) = refusal(tmp_path)
    assert "a_mask.nii: 4 different values" in line
    assert line.endswith("Or choose one label: --label NUMBER.")
    (line,) = refusal(tmp_path, label=4)
    assert line == "label 4 in none of the masks, expected it in some. Check its number"
    for label, expected in ((1, [1, 0, None]), (2, [2, 1, None]), (3, [1, 0, None])):
        write_cohort(index_folder(tmp_path, label=label), tmp_path / "cohort.csv")
        cohort = read_cohort(tmp_path / "cohort.csv")
        assert [image.lesion_pixels for image in cohort.images] == expected
        assert [image.label for image in cohort.images] == [label, label, None]
        for image, num in zip(cohort.images, expected, strict=True):
            _, reference = read_case(image)
            assert (None if reference is None else int(reference.sum())) == num
    # Without its label, a map of one other label would be taken for a mask.
    with pytest.raises(CohortError, match=r"b_mask\.nii: 1 lesion pixels .* expected 0"):
        read_case(replace(cohort.images[1], label=None))
    (tmp_path / "files.csv").write_text("image,mask\na.nii,a_mask.nii\n")
    assert index_table(tmp_path / "files.csv", label=2).images[0].lesion_pixels == 2


@pytest.mark.parametrize(
    ("affine", "found"),
    [
        (np.diag([0.5, 0.5, 6, 1.0]), "mask lies 6 voxels off the image"),
        (np.diag([-0.5, 0.5, 5, 1.0]), "mask lies 1 voxels off the image"),
        (np.diag([0.5, 0.5, 5.02, 1.0]), "mask lies 0.12 voxels off the image"),
    ],
)
def test_masks_elsewhere_are_refused(
    tmp_path: Path, affine: NDArray[np.float64], found: str
) -> None:
    volume(tmp_path / "a.nii", ramp(0))
    volume(tmp_path / "a_mask.nii", (ramp(0) < 6).astype(np.uint8), affine)
    (line,) = refusal(tmp_path)
    assert f"a_mask.nii: {found}" in line


def test_masks_on_another_grid_are_refused(tmp_path: Path) -> None:
    volume(tmp_path / "a.nii", ramp(0)[..., :1])
    volume(tmp_path / "a_mask.nii", np.zeros((2, 3, 2), np.uint8))
    volume(tmp_path / "b.nii", ramp(0)[:2, :, :1])
    picture(tmp_path / "b_mask.png", np.zeros((3, 2), np.uint8))
    first, second = refusal(tmp_path)
    assert "a_mask.nii: mask grid 2x3x2, expected 1x3x2 as " in first
    assert "b_mask.png: mask grid 1x3x2 (without geometry), expected 1x3x2 as " in second


def test_inverted_masks_of_heads_are_refused(tmp_path: Path) -> None:
    for name, edge_mm, num_rows in (("small", 15, 2), ("large", 35, 2), ("half", 35, 1)):
        mask = np.zeros((2, 3, 4), np.uint8)
        mask[:num_rows] = 1
        mask[0, 0, 0] = num_rows - 1
        affine = np.diag([edge_mm, edge_mm, edge_mm, 1.0])
        volume(tmp_path / f"{name}.nii", ramp(edge_mm + num_rows), affine)
        mask[1, 0] = 0
        volume(tmp_path / f"{name}_mask.nii", mask, affine)
    # 20 of 24 voxels of 42.875 mL; those of 3.375 mL may be a cropped lesion.
    (line,) = refusal(tmp_path)
    assert "large_mask.nii: 83 % of the voxels and 858 mL are lesion, expected less" in line


def test_table_of_files(tmp_path: Path) -> None:
    picture(tmp_path / "x/P1_1.png", 5)
    picture(tmp_path / "x/P1_1_m.png", MASK)
    picture(tmp_path / "x/other.png", 6)
    volume(tmp_path / "v.nii", ramp(0))
    (tmp_path / "files.csv").write_text(
        "image,mask,subject,scan,site,modality,slice,"
        "row_spacing_mm,column_spacing_mm,slice_spacing_mm\n"
        "x/P1_1.png,x/P1_1_m.png,,,A,CT,,0.5,0.25,5\n"
        "x/other.png,,P2,s,B,MRI,4,,,\n"
        "v.nii,,,,,,,,,\n"
    )
    first, second, third = index_table(tmp_path / "files.csv").images
    assert (first.id, first.site, first.modality) == ("P1/P1/1", "A", "CT")
    assert first.spacing_mm == (5, 0.5, 0.25)
    assert first.lesion_ml == pytest.approx(2 * 5 * 0.5 * 0.25 / 1000)
    assert (second.id, second.is_marked, second.modality) == ("P2/s/4", False, "MRI")
    assert (third.id, third.spacing_mm) == ("v/v/", (5, 0.5, 0.5))


def test_table_with_images_alone(tmp_path: Path) -> None:
    picture(tmp_path / "TCGA-CS-1_4.png", 5)
    (tmp_path / "files.csv").write_text("image\nTCGA-CS-1_4.png\n")
    image = index_table(tmp_path / "files.csv", unmarked_as_negative=True).images[0]
    assert (image.id, image.site, image.lesion_pixels) == ("TCGA-CS-1/TCGA-CS-1/4", "CS", 0)


def test_wrong_tables_are_refused(tmp_path: Path) -> None:
    volume(tmp_path / "v.nii", ramp(0))
    picture(tmp_path / "a_1.png", 5)
    (tmp_path / "files.csv").write_text(
        "image,slice,row_spacing_mm\nv.nii,3,\n,1,\na_1.png,,2\ngone.png,,\na_1.png,x,\n"
    )
    with pytest.raises(CohortError) as error:
        index_table(tmp_path / "files.csv")
    lines = str(error.value).split("\n  ")
    for line, found in zip(
        lines,
        [
            "files.csv: 5 problems",
            f"row 2: {tmp_path / 'v.nii'}: slice or spacing given, expected none",
            "row 3: image is empty",
            "row 6: slice 'x', expected a whole number",
            "slice, row and column spacing (nan, 2.0, nan), expected 3 positive",
            f"{tmp_path / 'gone.png'}: no such file",
        ],
        strict=True,
    ):
        assert found in line


@pytest.mark.real_data
def test_real_mri(real_data: Path) -> None:
    cohort = index_folder(real_data / "mri-lgg-flair")
    assert len(cohort.subjects) == 64
    assert len(cohort.images) == 2027
    assert sum(image.has_lesion for image in cohort.images) == 743
    assert all(image.is_marked for image in cohort.images)
    assert {image.site for image in cohort.images} == {"CS", "FG", "HT"}
    # Blank slices, which are equal in several subjects, are no leak; sites and sizes are balanced.
    num_pixels = sum(image.lesion_pixels or 0 for image in cohort.images)
    split = split_folds(cohort, num_folds=5, seed=0)
    for index in range(5):
        test = parts(split, cohort, index).test
        assert {image.site for image in test.images} == {"CS", "FG", "HT"}
        assert 0.1 < sum(image.lesion_pixels or 0 for image in test.images) / num_pixels < 0.3


@pytest.mark.real_data
def test_real_ct(real_data: Path) -> None:
    folder = real_data / "ct-phe-sich"
    with pytest.raises(CohortError, match=r"edema \(535 files\), hematoma_silver \(570 files\)"):
        index_folder(folder)
    cohort = index_folder(folder, masks="hematoma_silver", modality="CT")
    assert len(cohort.subjects) == 95
    assert len(cohort.images) == 2772
    assert len(cohort.marked().images) == sum(image.has_lesion for image in cohort.images) == 570


def test_pictures_of_several_pages_are_refused(tmp_path: Path) -> None:
    path = picture(tmp_path / "P/a_1.tif", 2)
    page = Image.fromarray(MASK)
    page.save(path, save_all=True, append_images=[page, page])
    picture(tmp_path / "P/a_1_mask.png", MASK)
    (line,) = refusal(tmp_path)
    assert line.startswith(f"{path}: 3 pages, expected 1 picture for each row of a cohort. ")
