"""Heads to files and tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from command_line import files
from dicom_files import read
from hemaseg.cohorts.index import index_folder, index_table
from hemaseg.errors import ConfigError
from hemaseg.evaluation.measuring import measure_files
from hemaseg.phantoms.heads import HeadOptions, synthesise
from hemaseg.phantoms.writing import FileFormat, describe, refuse_heads, write_heads, write_nifti
from hemaseg.scans.images import read_mask, read_scan
from hemaseg.scans.screening import ReadOptions

SMALL = HeadOptions(num_slices=10, image_size=40, slice_mm=11.0, pixel_mm=5.0, tilt_deg=15.0)
SEEDS = range(3, 7)


def options_of(seed: int) -> HeadOptions:
    """Volumes so large that coarse masks have them, and a head without blood."""
    return replace(SMALL, num_hematomas=int(seed != 4), volume_ml=30.0 + seed)


def write(folder: Path, file_format: FileFormat = "nifti", force: bool = False) -> pd.DataFrame:
    def of_format(seed: int) -> HeadOptions:
        return replace(options_of(seed), is_export=file_format == "png")

    rows = write_heads(folder, SEEDS, of_format, file_format=file_format, force=force)
    table = pd.read_csv(folder / "phantoms.csv")
    pd.testing.assert_frame_equal(table, pd.DataFrame(rows).fillna(np.nan), check_dtype=False)
    return table


@pytest.mark.parametrize("file_format", ["nifti", "dicom"])
def test_files_read_back_as_the_heads(tmp_path: Path, file_format: FileFormat) -> None:
    write(tmp_path, file_format)
    for seed in SEEDS:
        head = synthesise(seed, options_of(seed))
        name = f"head_{seed:05}"
        scan = (
            read(tmp_path / "images" / name)
            if file_format == "dicom"
            else read_scan(tmp_path / f"images/{name}.nii.gz")
        )
        mask = read_mask(tmp_path / f"masks/{name}_mask.nii.gz")
        np.testing.assert_array_equal(scan.voxels, head.voxels)
        np.testing.assert_array_equal(mask.voxels, head.mask)
        for found in (scan.affine, mask.affine):
            assert found is not None
            np.testing.assert_allclose(found, head.affine, atol=2e-5)


@pytest.mark.parametrize("file_format", ["nifti", "dicom", "png"])
def test_volumes_of_the_tables_are_those_of_the_masks(
    tmp_path: Path, file_format: FileFormat
) -> None:
    table = write(tmp_path, file_format).set_index("subject")
    if file_format == "png":
        cohort = index_table(tmp_path / "heads.csv")
        for subject, mask_ml in zip(table.index, table["mask_ml"], strict=True):
            measured_ml = sum(image.lesion_ml for image in cohort.select([str(subject)]).images)
            assert measured_ml == pytest.approx(mask_ml, abs=2e-4)
        return
    measured = measure_files([tmp_path / "masks"], ReadOptions())
    found = {row["name"]: row["volume_ml"] for row in measured.rows}
    assert len(found) == len(table) == len(SEEDS)
    for subject, mask_ml in zip(table.index, table["mask_ml"], strict=True):
        assert found[f"{subject}_mask"] == pytest.approx(mask_ml, abs=2e-4)


def test_known_of_each(tmp_path: Path) -> None:
    table = write(tmp_path).set_index("seed")
    assert not table.loc[[4], ["num_hematomas", "hematoma_ml", "mask_ml"]].to_numpy().any()
    assert table.loc[[4], ["sites", "age_of_blood"]].isna().to_numpy().all()
    assert table.loc[5, "hematoma_ml"] == pytest.approx(35.0, abs=0.1)
    assert table["gantry_tilt_deg"].tolist() == [15.0] * 4
    assert table["scan_sequence"].isna().all()
    mri = describe(synthesise(2, replace(SMALL, modality="MRI", sequence="T2*", tilt_deg=None)))
    assert (mri["scan_sequence"], mri["gantry_tilt_deg"]) == ("T2*", None)


def test_cohort_by_the_table_and_by_the_folder(tmp_path: Path) -> None:
    table = write(tmp_path)
    cohort = index_table(tmp_path / "heads.csv")
    assert list(cohort.subjects) == table["subject"].tolist()
    assert {image.modality for image in cohort.images} == {"CT"}
    by_folder = index_folder(tmp_path, masks="masks", modality="CT")
    assert by_folder.sha256 == cohort.sha256


def test_pictures_are_a_stack_of_the_public_kind(tmp_path: Path) -> None:
    write(tmp_path, "png")
    names = {path.name for path in (tmp_path / "images").iterdir()}
    assert names == {f"head_{seed:05}_{k:03}.png" for seed in SEEDS for k in range(1, 11)}
    masks = {path.name for path in (tmp_path / "masks").iterdir()}
    assert masks == {name.replace(".png", "_mask.png") for name in names}
    head = synthesise(5, replace(options_of(5), is_export=True))
    k = int(head.mask.sum(axis=(1, 2)).argmax())
    for place, end, expected in (("images", "", head.voxels[k]), ("masks", "_mask", head.mask[k])):
        picture = read_scan(tmp_path / place / f"head_00005_{k + 1:03}{end}.png").voxels[0]
        np.testing.assert_array_equal(picture > 0, expected > 0)
    cohort = index_table(tmp_path / "heads.csv")
    assert cohort.images[0].spacing_mm == pytest.approx((11.0, 5.0, 5.0))


def test_blood_in_the_ventricles_has_masks_of_its_own(tmp_path: Path) -> None:
    options = replace(SMALL, num_hematomas=1, volume_ml=40.0)
    seeds = [seed for seed in range(12) if synthesise(seed, options).ventricular_mask.any()]
    assert seeds
    write_heads(tmp_path, range(12), lambda _: options)
    found = sorted(path.name for path in (tmp_path / "ventricular_masks").iterdir())
    assert found == [f"head_{seed:05}_mask.nii.gz" for seed in seeds]
    head = synthesise(seeds[0], options)
    mask = read_mask(tmp_path / "ventricular_masks" / found[0])
    np.testing.assert_array_equal(mask.voxels, head.ventricular_mask)


@pytest.mark.parametrize("file_format", ["nifti", "dicom", "png"])
def test_equal_seeds_give_equal_files(tmp_path: Path, file_format: FileFormat) -> None:
    write(tmp_path / "a", file_format)
    write(tmp_path / "b", file_format)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_what_is_there_is_not_replaced_unless_asked_to(tmp_path: Path) -> None:
    write(tmp_path)
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=r"phantoms\.csv: exists, expected an empty place"):
        write(tmp_path)
    assert files(tmp_path) == before
    write(tmp_path, "png", force=True)
    assert not list(tmp_path.rglob("*.nii.gz"))
    write(tmp_path, force=True)
    assert files(tmp_path) == before


def test_force_deletes_heads_alone(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path, force=True)
    (tmp_path / "images/patient.nii.gz").write_bytes(b"mine")
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=r"patient\.nii\.gz: no synthetic head by its name"):
        write(tmp_path, force=True)
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["images/head_00005/notes.txt", "images/head_00005/more/0001.dcm"])
def test_force_deletes_nothing_else_within_a_series(tmp_path: Path, name: str) -> None:
    write(tmp_path, "dicom")
    (tmp_path / "images/.partial-abc").mkdir()  # of a run that was killed
    (tmp_path / "images/.partial-abc/0001.dcm").write_bytes(b"half")
    write(tmp_path, "dicom", force=True)
    assert not (tmp_path / "images/.partial-abc").exists()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=r"head_00005/(notes|more).*: no synthetic head by its"):
        write(tmp_path, "dicom", force=True)
    assert files(tmp_path) == before


def test_force_follows_no_link(tmp_path: Path) -> None:
    write(tmp_path / "heads", "dicom")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/0001.dcm").write_text("mine")
    (tmp_path / "heads/images/head_00009").symlink_to(tmp_path / "mine")
    with pytest.raises(ConfigError, match="head_00009: no synthetic head by its name"):
        write(tmp_path / "heads", "dicom", force=True)
    assert (tmp_path / "mine/0001.dcm").read_text() == "mine"
    assert (tmp_path / "heads/phantoms.csv").exists()


def test_an_interrupted_run_has_no_tables_and_is_refused_then(tmp_path: Path) -> None:
    def progress(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_heads(tmp_path, SEEDS, options_of, progress=progress)
    found = {path for path in files(tmp_path) if not path.startswith("ventricular")}
    assert found == {
        *(f"images/head_0000{seed}.nii.gz" for seed in (3, 4)),
        *(f"masks/head_0000{seed}_mask.nii.gz" for seed in (3, 4)),
    }
    with pytest.raises(ConfigError, match=r"holds images, masks.* of a run that did not end"):
        refuse_heads(tmp_path)
    write(tmp_path, force=True)


def test_pictures_need_exports(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="voxels are int16, expected an 8-bit export"):
        write_heads(tmp_path, range(1), lambda _: SMALL, file_format="png")


def test_nifti_bytes_depend_on_nothing_but_the_voxels(tmp_path: Path) -> None:
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.array([[0, 0, -2.0, 1], [0, -2, 0, 2], [5, 0, 0, 3], [0, 0, 0, 1]])
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(voxels, affine, tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    scan = read_scan(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(scan.voxels, voxels)
    np.testing.assert_array_equal(scan.affine, affine)
