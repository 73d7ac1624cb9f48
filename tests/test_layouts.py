"""Layouts of folders: which mask belongs to which image, by names; no file is opened."""

import json
from pathlib import Path

import pytest

from hemaseg.cohorts.layouts import Layout, find_layout, modality_of, place_of
from hemaseg.errors import CohortError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def pairs(layout: Layout, folder: Path) -> list[tuple[str, str, str | None]]:
    """Key, image and mask, with names relative to the folder."""
    return [
        (
            pair.key,
            pair.image.relative_to(folder).as_posix(),
            None if pair.mask is None else pair.mask.relative_to(folder).as_posix(),
        )
        for pair in layout.pairs
    ]


def nnunet(folder: Path, **content: object) -> Path:
    touch(folder, "imagesTr/c_1_0000.nii.gz", "labelsTr/c_1.nii.gz", "imagesTs/c_2_0000.nii.gz")
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("ending", ["_mask", "_seg", "_label", "_MASK"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpeg", ".nii.gz", ".nii"])
def test_folder_per_patient(tmp_path: Path, ending: str, suffix: str) -> None:
    names = [f"{patient}/a_{number}" for patient in ("P9", "P10") for number in (2, 10)]
    touch(tmp_path, *(name + suffix for name in names), f"P9/a_2{ending}{suffix}", "P9/notes.txt")
    layout = find_layout(tmp_path)
    masks = [f"P9/a_2{ending}{suffix}", None, None, None]
    assert pairs(layout, tmp_path) == [
        (name, name + suffix, mask) for name, mask in zip(names, masks, strict=True)
    ]
    assert layout.problems == ()
    assert layout.modality == ""


def test_one_folder_with_masks_of_another_format(tmp_path: Path) -> None:
    touch(tmp_path, "a_1.jpg", "a_1_mask.png", "b.nii.gz", "b_mask.nii")
    assert pairs(find_layout(tmp_path), tmp_path) == [
        ("a_1", "a_1.jpg", "a_1_mask.png"),
        ("b", "b.nii.gz", "b_mask.nii"),
    ]


@pytest.mark.parametrize("masks", ["lesion", "_lesion", "LESION"])
def test_masks_with_an_ending_of_their_own(tmp_path: Path, masks: str) -> None:
    touch(tmp_path, "a_1.png", "a_1_lesion.png", "a_1_mask.png", "a_2.png")
    assert pairs(find_layout(tmp_path, masks=masks), tmp_path) == [
        ("a_1", "a_1.png", "a_1_lesion.png"),
        ("a_2", "a_2.png", None),
    ]


def test_masks_that_end_otherwise_are_offered(tmp_path: Path) -> None:
    masks = [f"P/a_ct_rater{rater}_mask.nii.gz" for rater in (1, 2)]
    touch(tmp_path, "P/a.nii.gz", "P/a_ct.nii.gz", *masks)
    layout = find_layout(tmp_path)
    assert layout.problems[1] == (
        f"{tmp_path / masks[1]}: mask without image, expected an image named P/a_ct_rater2; or "
        "choose masks of P/a_ct that end so: --masks rater2_mask"
    )
    layout = find_layout(tmp_path, masks="rater2_mask")
    assert pairs(layout, tmp_path)[1][1:] == ("P/a_ct.nii.gz", masks[1])
    assert layout.problems == ()


def test_the_longest_ending_counts(tmp_path: Path) -> None:
    touch(tmp_path, "a_1.png", "a_1_brain_mask.png")
    layout = find_layout(tmp_path, masks="brain_mask")
    assert pairs(layout, tmp_path) == [("a_1", "a_1.png", "a_1_brain_mask.png")]


def test_images_beside_masks(tmp_path: Path) -> None:
    touch(tmp_path, "images/1_10.png", "images/1_9.png", "images/P/3.png", "boxes.csv")
    touch(tmp_path, "blood/1_9.tif", "blood/P/3_mask.png")
    assert pairs(find_layout(tmp_path), tmp_path) == [
        ("1_9", "images/1_9.png", "blood/1_9.tif"),
        ("1_10", "images/1_10.png", None),
        ("P/3", "images/P/3.png", "blood/P/3_mask.png"),
    ]


def test_images_whose_own_names_end_as_masks_do(tmp_path: Path) -> None:
    touch(tmp_path, "images/a_mask.png", "masks/a_mask.png")
    layout = find_layout(tmp_path)
    assert pairs(layout, tmp_path) == [("a_mask", "images/a_mask.png", "masks/a_mask.png")]


@pytest.mark.parametrize("masks", ["edema", "edema/"])
def test_one_of_several_folders_of_masks(tmp_path: Path, masks: str) -> None:
    touch(tmp_path, "images/1_1.png", "blood/1_1.png", "edema/1_1.png", "edema/1_2.png")
    layout = find_layout(tmp_path, masks=masks)
    assert pairs(layout, tmp_path) == [("1_1", "images/1_1.png", "edema/1_1.png")]
    assert layout.problems == (
        f"{tmp_path / 'edema/1_2.png'}: mask without image, expected an image named 1_2",
    )
    with pytest.raises(CohortError, match=r"2 kinds found: blood \(1 files\), edema \(2 files\);"):
        find_layout(tmp_path)
    with pytest.raises(CohortError, match="masks 'clot' asked for, masks of 2 kinds found: blood"):
        find_layout(tmp_path, masks="clot")


def test_a_single_images_folder_is_like_any_other(tmp_path: Path) -> None:
    touch(tmp_path, "images/a_1.png", "images/a_1_mask.png")
    assert pairs(find_layout(tmp_path), tmp_path) == [
        ("images/a_1", "images/a_1.png", "images/a_1_mask.png")
    ]


@pytest.mark.parametrize(
    ("channels", "modality"),
    [({"0": "CT"}, "CT"), ({"0": "FLAIR"}, "MRI"), ({"0": "rescale_to_0_1"}, "")],
)
def test_nnunet(tmp_path: Path, channels: dict[str, str], modality: str) -> None:
    nnunet(tmp_path, channel_names=channels, labels={"background": 0, "lesion": 1})
    layout = find_layout(tmp_path)
    assert pairs(layout, tmp_path) == [("c_1", "imagesTr/c_1_0000.nii.gz", "labelsTr/c_1.nii.gz")]
    assert layout.modality == modality


def test_a_byte_order_mark_is_no_part_of_the_description(tmp_path: Path) -> None:
    nnunet(tmp_path, channel_names={"0": "CT"}, labels={"background": 0, "lesion": 1})
    description = tmp_path / "dataset.json"
    description.write_text(description.read_text("utf-8"), "utf-8-sig")
    assert find_layout(tmp_path).modality == "CT"


def test_nnunet_of_the_first_version(tmp_path: Path) -> None:
    nnunet(tmp_path, modality={"0": "CT"}, labels={"0": "background", "1": "lesion"})
    assert find_layout(tmp_path).modality == "CT"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (
            {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "lesion": 1}},
            "channels T1, T2 and labels background, lesion, expected 1 channel",
        ),
        (
            {"channel_names": {"0": "CT"}, "labels": {"background": 0, "ich": 1, "ivh": 2}},
            "channels CT and labels background, ich, ivh, expected 1 channel and 2 labels",
        ),
        ({"channel_names": {"0": "CT"}}, "KeyError: 'labels', expected a JSON file"),
        ({"labels": {}}, "KeyError: 'modality', expected a JSON file"),
        ({"channel_names": ["CT"], "labels": {}}, "AttributeError: .*, expected a JSON file"),
    ],
)
def test_other_nnunet_data_are_refused(
    tmp_path: Path, content: dict[str, object], found: str
) -> None:
    with pytest.raises(CohortError, match=rf"dataset\.json: {found}"):
        find_layout(nnunet(tmp_path, **content))


def test_an_nnunet_description_nested_beyond_any_use(tmp_path: Path) -> None:
    nnunet(tmp_path, channel_names={"0": "CT"}, labels={"background": 0, "lesion": 1})
    (tmp_path / "dataset.json").write_text("[" * 100_000)
    with pytest.raises(CohortError, match=r"dataset\.json: RecursionError.*, expected a JSON file"):
        find_layout(tmp_path)


def test_nnunet_of_several_classes_if_one_is_chosen(tmp_path: Path) -> None:
    labels = {"background": 0, "ich": 1, "ivh": 2}
    folder = nnunet(tmp_path, channel_names={"0": "CT"}, labels=labels)
    assert len(find_layout(folder, one_class=False).pairs) == 1
    nnunet(tmp_path, channel_names={"0": "T1", "1": "T2"}, labels=labels)
    with pytest.raises(CohortError, match="channels T1, T2"):
        find_layout(folder, one_class=False)


def test_nnunet_without_description_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/c_0000.nii.gz", "labelsTr/c.nii.gz")
    with pytest.raises(CohortError, match=r"dataset\.json: FileNotFoundError"):
        find_layout(tmp_path)


def test_bids(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "participants.tsv",
        "sub-1/anat/sub-1_FLAIR.nii.gz",
        "sub-1/anat/sub-1_FLAIR_mask.nii.gz",
        "sub-2/ses-a/ct/sub-2_ses-a_ct.nii.gz",
        "sub-2/ses-b/ct/sub-2_ses-b_ct.nii.gz",
        "sub-2/ses-b/func/sub-2_ses-b_bold.nii.gz",
        "sub-3/sub-3_T1w.nii.gz",
        "sub-3/sub-3_FLAIR.nii.gz",
        "derivatives/x/sub-2/ses-b/anat/sub-2_ses-b_mask.nii.gz",
        "derivatives/x/sub-3/anat/sub-3_space-FLAIR_mask.nii.gz",
        "derivatives/x/sub-3/anat/sub-3_desc-preproc_T1w.nii.gz",
        "derivatives/x/group_mask.nii.gz",
    )
    found = [(image, mask) for _, image, mask in pairs(find_layout(tmp_path), tmp_path)]
    assert found == [
        ("sub-1/anat/sub-1_FLAIR.nii.gz", "sub-1/anat/sub-1_FLAIR_mask.nii.gz"),
        ("sub-2/ses-a/ct/sub-2_ses-a_ct.nii.gz", None),
        (
            "sub-2/ses-b/ct/sub-2_ses-b_ct.nii.gz",
            "derivatives/x/sub-2/ses-b/anat/sub-2_ses-b_mask.nii.gz",
        ),
        ("sub-3/sub-3_FLAIR.nii.gz", "derivatives/x/sub-3/anat/sub-3_space-FLAIR_mask.nii.gz"),
        ("sub-3/sub-3_T1w.nii.gz", None),
    ]


@pytest.mark.parametrize(
    ("images", "mask", "found"),
    [
        (["run-1_ct", "run-2_ct"], "run-2_label-ICH_mask", ["run-2_ct"]),
        (["run-1_ct", "run-2_ct"], "label-ICH_mask", ["run-1_ct", "run-2_ct"]),
        (["ct", "run-2_ct"], "run-2_label-ICH_mask", ["run-2_ct"]),
        (["run-1_ct"], "run-2_label-ICH_mask", []),
        (["ct", "rec-bone_ct"], "label-ICH_mask", ["ct"]),
        (["ct", "rec-bone_ct"], "rec-bone_label-ICH_mask", ["rec-bone_ct"]),
        (["acq-x_T1w", "FLAIR"], "space-T1w_label-ICH_mask", ["acq-x_T1w"]),
        (["run-1_FLAIR", "run-2_FLAIR"], "run-1_space-FLAIR_mask", ["run-1_FLAIR"]),
        (["acq-x_ct"], "label-ICH_mask", ["acq-x_ct"]),
    ],
)
def test_bids_entities_tell_images_apart(
    tmp_path: Path, images: list[str], mask: str, found: list[str]
) -> None:
    touch(tmp_path, *(f"sub-1/ct/sub-1_{name}.nii.gz" for name in images))
    touch(tmp_path, f"derivatives/x/sub-1/ct/sub-1_{mask}.nii.gz")
    touch(tmp_path, "sub-2/ct/sub-2_ct.nii.gz", "sub-1/ses-9/ct/sub-1_ses-9_ct.nii.gz")
    layout = find_layout(tmp_path)
    fitting = [pair.key for pair in layout.pairs if pair.mask]
    if len(found) == 1:
        assert (fitting, layout.problems) == ([f"sub-1/sub-1_{found[0]}"], ())
    else:
        why = f"{len(found)} images fit" if found else "mask without image"
        assert (fitting, len(layout.problems), why in layout.problems[0]) == ([], 1, True)


def test_bids_masks_of_several_kinds(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "sub-1/anat/sub-1_T1w.nii.gz",
        "derivatives/x/sub-1/anat/sub-1_space-MNI_desc-brain_mask.nii.gz",
        "derivatives/x/sub-1/anat/sub-1_label-lesion_mask.nii.gz",
    )
    found = r"derivatives/x/desc-brain_mask \(1 files\), derivatives/x/label-lesion_mask \(1"
    with pytest.raises(CohortError, match=found):
        find_layout(tmp_path)
    layout = find_layout(tmp_path, masks="label-lesion_mask")
    assert [pair.mask and pair.mask.name for pair in layout.pairs] == [
        "sub-1_label-lesion_mask.nii.gz"
    ]


@pytest.mark.parametrize(
    "masks", ["rater2", "derivatives/rater2/", "Rater2/label-ICH_mask", "rater1"]
)
def test_bids_masks_of_several_raters(tmp_path: Path, masks: str) -> None:
    images = [f"sub-{number}/ct/sub-{number}_ct.nii.gz" for number in (1, 2)]
    marked = [f"derivatives/rater{rater}/sub-1/ct/sub-1_label-ICH_mask.nii.gz" for rater in (1, 2)]
    touch(tmp_path, *images, *marked)
    rater = masks.lower().partition("rater")[2][0]
    assert [mask for _, _, mask in pairs(find_layout(tmp_path, masks=masks), tmp_path)] == [
        marked[int(rater) - 1],
        None,
    ]
    found = r"rater1/label-ICH_mask \(1 files\), derivatives/rater2/label-ICH_mask \(1 files\)"
    for unclear in (None, "label-ICH_mask", "rater3"):
        with pytest.raises(CohortError, match=found):
            find_layout(tmp_path, masks=unclear)
    # Raters who share the subjects are one kind.
    (tmp_path / marked[1]).unlink()
    touch(tmp_path, marked[1].replace("sub-1", "sub-2"))
    assert all(pair.mask for pair in find_layout(tmp_path).pairs)


def test_bids_mask_of_an_unclear_image_is_a_problem(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "sub-1/anat/sub-1_T1w.nii.gz",
        "sub-1/anat/sub-1_T2w.nii.gz",
        "sub-1/anat/sub-1_label-lesion_mask.nii.gz",
        "sub-1/anat/sub-9_T1w_mask.nii.gz",
    )
    layout = find_layout(tmp_path, masks="label-lesion_mask")
    assert [pair.mask for pair in layout.pairs] == [None, None]
    (problem,) = layout.problems
    assert problem.endswith(
        "label-lesion_mask.nii.gz: 2 images fit (sub-1_T1w, sub-1_T2w), expected a name that says "
        "which"
    )


def test_files_that_are_there_twice_are_problems(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a.tif", "b.png", "b_mask.png", "b_mask.tif", "c.png")
    layout = find_layout(tmp_path)
    assert [pair.key for pair in layout.pairs] == ["c"]
    assert [text.rpartition(": ")[2] for text in layout.problems] == [
        "2 images, 0 masks, expected one each",
        "1 images, 2 masks, expected one each",
    ]
    assert f"{tmp_path / 'a.png'}, {tmp_path / 'a.tif'}: " in layout.problems[0]


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    touch(tmp_path, "P1/a_1.png", "P1/a_1_mask.png", "P1/._a_2.png", ".cache/b.png", ".DS_Store")
    assert [pair.key for pair in find_layout(tmp_path).pairs] == ["P1/a_1"]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], r"no image among 0 files \(empty\), expected some ending in \.png"),
        (["a.dcm", "b.dcm", "LICENSE"], r"among 3 files \(\.dcm: 2, no ending: 1\)"),
        (["a.png", "b.png"], "2 images and masks none, expected both. Understood are"),
        (["a_mask.png"], r"0 images and masks mask \(1 files\), expected both"),
        (["images/a.png", "x.png"], "2 images and masks none, expected both"),
        (
            ["train/images/a.png", "train/masks/a.png"],
            "'images' found within 'train'.*Index .*train",
        ),
        (["x/imagesTr/a_0000.nii", "x/labelsTr/a.nii"], "'imagesTr' found within 'x'"),
    ],
)
def test_folders_that_are_not_understood(tmp_path: Path, names: list[str], found: str) -> None:
    with pytest.raises(CohortError, match=f"{tmp_path.name}: .*{found}"):
        find_layout(touch(tmp_path, *names))


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="gone: no such folder"):
        find_layout(tmp_path / "gone")


@pytest.mark.parametrize(
    ("key", "is_stack", "expected"),
    [
        ("0001_12", True, ("", "0001", "0001", 12)),
        ("P7/ct_03", True, ("P7", "P7", "ct", 3)),
        ("P7/3", True, ("P7", "P7", "P7", 3)),
        ("A/P7/ct-slice-003", True, ("A/P7", "P7", "ct-slice", 3)),
        ("P7/flair", True, ("P7", "P7", "flair", None)),
        ("3", True, ("", "", "", 3)),
        ("case_03", False, ("", "case_03", "case_03", None)),
        ("P7/ct_03", False, ("P7", "P7", "ct_03", None)),
    ],
)
def test_what_a_key_says(
    key: str, is_stack: bool, expected: tuple[str, str, str, int | None]
) -> None:
    place = place_of(key, is_stack=is_stack)
    assert (place.folder, place.subject, place.scan, place.slice) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("P1_ct", "CT"),
        ("NCCT", "CT"),
        ("P1/mri", "MRI"),
        ("P1_ct/12", ""),
        ("sub-1_T2w", "MRI"),
        ("mr", "MRI"),
        ("PD12", ""),
        ("", ""),
    ],
)
def test_modality_of_a_name(name: str, expected: str) -> None:
    assert modality_of(name) == expected
