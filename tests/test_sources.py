import hashlib
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bad_inputs import head_bytes, write
from dicom_files import phantom_series
from hemaseg.errors import ConfigError, ScanError
from hemaseg.files import file_sha256
from hemaseg.intake.sources import Sources, find_sources, read_source
from hemaseg.scans.screening import ReadOptions, kinds_of
from small_heads import small_head

HEAD = small_head(1)
CT = ReadOptions(modality="CT")


def nifti(path: Path, voxels: NDArray[Any] = HEAD.voxels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, HEAD.affine), path)
    return path


def pictures(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.interp(HEAD.voxels[number + 4], (0, 80), (0, 255)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return [folder / name for name in names]


def find(*paths: Path, **options: Any) -> Sources:
    return find_sources(paths, ReadOptions(), **options)


def names(found: Sources) -> list[str]:
    return [source.name for source in found.sources]


def test_a_file_is_a_scan_named_after_it(tmp_path: Path) -> None:
    path = nifti(tmp_path / "p1" / "ct head.nii.gz")
    (source,) = find(path).sources
    assert (source.name, source.shown, source.files) == ("ct_head", str(path), (path,))
    scan = read_source(source, CT)
    np.testing.assert_array_equal(scan.voxels, HEAD.voxels)
    assert (scan.modality, scan.findings) == ("CT", ())


def test_a_folder_holds_scans_in_natural_order(tmp_path: Path) -> None:
    for name in ("p10/ct.nii", "p9/ct.nii.gz", "p9/t1.nii", "p9/.hidden.nii", "p9/notes.txt"):
        nifti(tmp_path / name) if name.endswith("ct.nii") or "t1" in name else None
    nifti(tmp_path / "p9/ct.nii.gz")
    nifti(tmp_path / "p9/.hidden.nii")
    (tmp_path / "p9/notes.txt").write_text("x")
    assert names(find(tmp_path)) == ["p9_ct", "t1", "p10_ct"]


def test_masks_in_folders_are_left_out_and_named(tmp_path: Path) -> None:
    masks = [nifti(tmp_path / f"a{end}.nii.gz") for end in ("_label-ICH_mask", "_seg", "-roi")]
    nifti(tmp_path / "a.nii.gz")
    found = find(tmp_path)
    assert names(found) == ["a"]
    assert sorted(found.left_out) == sorted(masks)
    assert names(find(*masks)) == ["a_label-ICH_mask", "a_seg", "a-roi"]


def test_numbered_pictures_are_a_stack(tmp_path: Path) -> None:
    paths = pictures(tmp_path / "p1", "slice_2.png", "slice_10.png", "slice_1.png")
    (source,) = find(tmp_path / "p1").sources
    assert source.name == "p1"
    assert source.files == (paths[2], paths[0], paths[1])
    scan = read_source(source, ReadOptions())
    np.testing.assert_array_equal(scan.voxels[1], np.asarray(Image.open(paths[0])))
    assert scan.affine is None


def test_each_folder_and_beginning_is_a_stack_of_its_own(tmp_path: Path) -> None:
    pictures(tmp_path / "p1", "0001_1.png", "0001_2.png", "0002_1.png", "0002_2.png", "view.png")
    pictures(tmp_path / "p2", "1.png", "2.png")
    assert names(find(tmp_path)) == ["0001", "0002", "view", "p2"]


def test_a_tiff_of_several_pages_is_one_scan(tmp_path: Path) -> None:
    pages = [Image.fromarray(slice_.astype(np.int32)) for slice_ in HEAD.voxels]
    pages[0].save(tmp_path / "head.tif", save_all=True, append_images=pages[1:])
    (source,) = find(tmp_path / "head.tif").sources
    np.testing.assert_array_equal(read_source(source, ReadOptions()).voxels, HEAD.voxels)


def test_a_list_says_name_modality_and_path(tmp_path: Path) -> None:
    nifti(tmp_path / "scans/a.nii")
    nifti(tmp_path / "scans/b.nii")
    (tmp_path / "list.csv").write_text(
        "image,name,modality\nscans/a.nii,First one,MRI\nscans/b.nii,,\nscans/c.nii,,\n"
    )
    found = find(tmp_path / "list.csv")
    assert names(found) == ["First_one", "b"]
    assert [source.modality for source in found.sources] == ["MRI", ""]
    assert [(source.name, source.problem is None) for source in found.failed] == [("c", False)]
    # What the list says of one scan counts more than what is said of all.
    assert read_source(found.sources[0], CT).modality == "MRI"


def test_what_is_wrong_does_not_stop_the_others(tmp_path: Path) -> None:
    good = nifti(tmp_path / "good.nii")
    (tmp_path / "empty").mkdir()
    (tmp_path / "void.nii").touch()
    (tmp_path / "bad.csv").write_text("file\nx\n")
    found = find(
        *(tmp_path / name for name in ("none.nii", "none", "empty", "void.nii", "bad.csv")), good
    )
    assert names(found) == ["good"]
    kinds = [error.kind for error in found.failures]
    assert kinds == ["missing", "missing", "empty-folder", "empty-file", "scan-list"]
    assert [source.name for source in found.failed] == ["none", "none-2", "empty", "void", "bad"]
    with pytest.raises(ScanError, match=r"void\.nii: 0 bytes"):
        read_source(found.failed[3], CT)


def test_a_name_that_no_record_can_hold_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.nii", head_bytes())
    write(tmp_path / os.fsdecode(b"M\xfcller.nii"), head_bytes())
    found = find(tmp_path)
    assert names(found) == ["a"]
    (failure,) = found.failures
    assert failure.kind == "name-not-utf8"
    assert str(failure) == f"{tmp_path}/M?ller.nii: not UTF-8. Rename this file or folder."


def test_a_scan_named_twice_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nifti(tmp_path / "a.nii")
    monkeypatch.chdir(tmp_path)
    assert names(find(Path("a.nii"), tmp_path / "a.nii", Path())) == ["a"]
    assert find(Path("a.nii"), tmp_path).sources[0].shown == "a.nii"


def test_the_output_folder_is_not_searched(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii")
    nifti(tmp_path / "out" / "a" / "a_result.nii")
    assert names(find(tmp_path, leave_out=tmp_path / "out")) == ["a"]
    assert names(find(tmp_path)) == ["a", "a_result"]


def test_the_output_folder_may_not_hold_a_folder_of_scans(tmp_path: Path) -> None:
    path = nifti(tmp_path / "data" / "scans" / "a.nii")
    for output in (path.parent, path.parent.parent):
        with pytest.raises(ConfigError, match="scans, which is searched for scans; results"):
            find(path.parent, leave_out=output)
        assert names(find(path, leave_out=output)) == ["a"]


def test_links_to_folders_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    nifti(tmp_path / "elsewhere" / "a.nii")
    (tmp_path / "scans" / "sub").mkdir(parents=True)
    (tmp_path / "scans" / "link").symlink_to(tmp_path / "elsewhere")
    assert names(find(tmp_path / "scans")) == ["a"]
    (tmp_path / "scans" / "sub" / "up").symlink_to(tmp_path / "scans")
    found = find(tmp_path / "scans")
    assert not found.sources
    assert found.failures[0].kind == "folder-loop"
    assert "sub/up leads back to a folder above it" in str(found.failures[0])


def test_folders_of_unlimited_depth_are_refused(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 70)
    nifti(deep / "a.nii")
    assert find(tmp_path).failures[0].kind == "folder-loop"
    assert names(find(deep)) == ["a"]


def test_the_hash_is_of_the_bytes_in_their_order(tmp_path: Path) -> None:
    first, second = pictures(tmp_path / "p1", "1.png", "2.png")
    (source,) = find(tmp_path / "p1").sources
    before = source.sha256()
    assert find(tmp_path / "p1").sources[0].sha256() == before
    assert replace(source, files=(second, first)).sha256() != before
    second.write_bytes(first.read_bytes())
    assert source.sha256() != before
    (single,) = find(first).sources
    assert single.sha256() != file_sha256(first)  # of the list of hashes, which has one
    first.unlink()
    with pytest.raises(ScanError, match=r"p1: cannot be read \(No such file"):
        source.sha256()


@pytest.mark.parametrize(
    ("declared", "network", "modality", "kinds"),
    [
        ("", "", "CT", ("modality-guessed",)),
        ("CT", "", "CT", ()),
        ("", "CT", "CT", ("modality-guessed",)),
        ("CT", "CT", "CT", ()),
    ],
)
def test_modality_is_declared_or_that_of_the_values(
    tmp_path: Path, declared: str, network: str, modality: str, kinds: tuple[str, ...]
) -> None:
    (source,) = find(nifti(tmp_path / "a.nii")).sources
    scan = read_source(source, ReadOptions(modality=declared), network_modality=network)
    assert (scan.modality, kinds_of(scan.findings)) == (modality, kinds)


@pytest.mark.parametrize(
    ("declared", "network", "modality", "kinds"),
    [
        ("", "", "", ()),
        ("CT", "", "CT", ()),
        ("", "CT", "CT", ("modality-assumed",)),
    ],
)
def test_where_values_say_nothing_it_is_declared_or_the_networks(
    tmp_path: Path, declared: str, network: str, modality: str, kinds: tuple[str, ...]
) -> None:
    (source,) = find(nifti(tmp_path / "a.nii", HEAD.voxels.clip(0, 100))).sources
    scan = read_source(source, ReadOptions(modality=declared), network_modality=network)
    assert (scan.modality, kinds_of(scan.findings)) == (modality, kinds)


def test_a_scan_of_another_modality_is_refused_unless_accepted(tmp_path: Path) -> None:
    (source,) = find(nifti(tmp_path / "a.nii")).sources
    with pytest.raises(ScanError, match="CT, expected MRI, which the network") as caught:
        read_source(source, CT, network_modality="MRI")
    assert caught.value.kind == "wrong-modality"
    accepted = ReadOptions(modality="CT", accept=frozenset({"wrong-modality"}))
    scan = read_source(source, accepted, network_modality="MRI")
    assert (scan.modality, kinds_of(scan.findings)) == ("CT", ("wrong-modality",))
    words = r"CT by its values, expected MRI, .* for CT, or say --modality MRI if it is one\."
    with pytest.raises(ScanError, match=words) as caught:
        read_source(source, ReadOptions(), network_modality="MRI")
    assert caught.value.kind == "wrong-modality"
    declared = read_source(source, ReadOptions(modality="MRI"), network_modality="MRI")
    assert (declared.modality, declared.findings) == ("MRI", ())


def test_pictures_are_not_asked_for_their_modality(tmp_path: Path) -> None:
    for number in range(3):
        pixels = (HEAD.voxels[number + 6] * 3).clip(0).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (source,) = find(tmp_path).sources
    scan = read_source(source, ReadOptions())
    assert scan.voxels.dtype == np.uint16
    assert (scan.modality, scan.findings) == ("", ())


def test_a_scan_is_screened(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(np.zeros(HEAD.voxels.shape, np.int16), HEAD.affine), path)
    (source,) = find(path).sources
    with pytest.raises(ScanError, match="all 65,536 voxels are 0") as caught:
        read_source(source, CT)
    assert caught.value.kind == "constant"


STUDY_2 = "1.2.826.0.1.3680043.8.498.2"


def head_series(folder: Path, **options: Any) -> None:
    phantom_series(folder, num_slices=14, spacing_mm=10.0, **options)


def test_a_folder_of_dicom_nifti_and_zip_files(tmp_path: Path) -> None:
    head_series(tmp_path / "p1" / "deep")
    head_series(tmp_path / "p2", study_uid=STUDY_2)
    head_series(tmp_path / "packed", study_uid=f"{STUDY_2}.3")
    with zipfile.ZipFile(tmp_path / "p3.zip", "w") as archive:
        for path in sorted((tmp_path / "packed").iterdir()):
            archive.write(path, path.name)
            path.unlink()
    (tmp_path / "p4.zip").write_bytes(b"PK\x03\x04")
    nifti(tmp_path / "p5.nii.gz")
    (tmp_path / "README").write_text("read me")
    found = find(tmp_path)
    assert names(found) == ["deep", "p2", "p3", "p5"]
    assert [source.name for source in found.failed] == ["p4"]
    for source in found.sources:
        assert read_source(source, CT).modality == "CT"
    assert len({source.sha256() for source in found.sources}) == 4


def test_studies_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    head_series(tmp_path / "both", series_number=1)
    head_series(tmp_path / "both", series_number=2, study_uid=STUDY_2)
    assert names(find(tmp_path / "both")) == ["both", "both-2"]


def test_a_study_of_several_series_needs_a_choice(tmp_path: Path) -> None:
    head_series(tmp_path / "study", series_number=1)
    head_series(tmp_path / "study", series_number=2, series_uid=f"{STUDY_2}.7")
    found = find(tmp_path / "study")
    assert not found.sources
    assert found.failures[0].kind == "mixed-series"
    for choice in ("2", f"{STUDY_2}.7"):
        (source,) = find(tmp_path / "study", series=choice).sources
        assert source.series is not None
        assert source.series.uid == f"{STUDY_2}.7"
    (tmp_path / "list.csv").write_text("image,series\nstudy,1\n")
    (source,) = find(tmp_path / "list.csv", series="2").sources
    assert source.series is not None
    assert source.series.number == 1


def test_the_uid_of_a_series_takes_it_from_many_studies(tmp_path: Path) -> None:
    head_series(tmp_path / "a", series_uid=f"{STUDY_2}.7")
    head_series(tmp_path / "b", study_uid=STUDY_2)
    found = find(tmp_path, series=f"{STUDY_2}.7")
    assert (names(found), found.failed) == (["a"], ())


@pytest.mark.parametrize("place", ["DOE_JOHN", "p/4711XQ", "p/john-2024"])
def test_a_path_that_identifies_is_not_shown(tmp_path: Path, place: str) -> None:
    options = {"patient_name": "Doe^John", "patient_id": "4711XQ"}
    head_series(tmp_path / place, **options)
    (source,) = find(tmp_path / place).sources
    assert source.series is not None
    digits = hashlib.sha256(source.series.uid.encode()).hexdigest()[:8]
    assert (source.name, source.shown) == (f"series-{digits}", f"series-{digits}")
    assert read_source(source, CT).path == Path(f"series-{digits}")
    (kept,) = find(tmp_path / place, keep_identity=True).sources
    assert (kept.name, kept.shown) == (Path(place).name, str(tmp_path / place))


def test_a_name_of_a_list_holds_where_its_path_identifies(tmp_path: Path) -> None:
    head_series(tmp_path / "DOE_JOHN", patient_name="Doe^John")
    (tmp_path / "list.csv").write_text("image,name\nDOE_JOHN,ICH-001\n")
    (source,) = find(tmp_path / "list.csv").sources
    assert (source.name, source.shown, source.is_renamed) == ("ICH-001", "ICH-001", False)
    (tmp_path / "list.csv").write_text("image,name\nDOE_JOHN,doe\n")
    (source,) = find(tmp_path / "list.csv").sources
    assert source.name.startswith("series-")
    assert source.is_renamed


def test_pseudonyms_are_names(tmp_path: Path) -> None:
    pseudonym = {"patient_name": "ICH-0123", "patient_id": "ICH-0123"}
    head_series(tmp_path / "ICH-0123", **pseudonym, PatientIdentityRemoved="YES")
    (source,) = find(tmp_path / "ICH-0123").sources
    assert (source.name, source.shown) == ("ICH-0123", str(tmp_path / "ICH-0123"))


def test_a_path_that_does_not_identify_is_shown(tmp_path: Path) -> None:
    head_series(tmp_path / "p17", patient_name="Quxley^Zebedee", patient_id="17")
    (source,) = find(tmp_path / "p17").sources
    assert (source.name, source.shown) == ("p17", str(tmp_path / "p17"))


def test_a_refusal_does_not_identify(tmp_path: Path) -> None:
    for number in (1, 2):
        head_series(tmp_path / "DOE" / "x", series_number=number, patient_name="Doe^John")
    (failure,) = find(tmp_path / "DOE").failures
    assert failure.kind == "mixed-series"
    assert "DOE" not in str(failure)
    assert str(failure).startswith("series-")
    phantom_series(tmp_path / "DOE2", num_slices=2, patient_name="Doe^John")
    (source,) = find(tmp_path / "DOE2").sources
    with pytest.raises(ScanError) as caught:
        read_source(source, CT)
    assert "DOE" not in str(caught.value)


def test_a_header_that_contradicts_the_declaration(tmp_path: Path) -> None:
    head_series(tmp_path / "p1")
    (source,) = find(tmp_path / "p1").sources
    with pytest.raises(ScanError, match="CT by its header, expected MRI as declared") as caught:
        read_source(source, ReadOptions(modality="MRI"))
    assert caught.value.kind == "wrong-modality"
