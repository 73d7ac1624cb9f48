"""Splits: disjoint and complete for any cohort, balanced, repeatable, and proof against leaks."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemaseg.cohorts.split import (
    Fold,
    Split,
    check_leakage,
    parts,
    read_split,
    split_folds,
    split_holdout,
    split_site,
    split_slices,
    write_split,
)
from hemaseg.cohorts.table import CaseImage, Cohort
from hemaseg.errors import SplitError


def image(subject: str, number: int, lesion_pixels: int | None, site: str = "") -> CaseImage:
    return CaseImage(
        subject=subject,
        scan="ct",
        site=site,
        modality="CT",
        slice=number,
        image=Path(f"/data/{subject}_{number}.png"),
        mask=None if lesion_pixels is None else Path(f"/data/{subject}_{number}_mask.png"),
        num_rows=256,
        num_columns=256,
        num_slices=1,
        spacing_mm=None,
        lesion_pixels=lesion_pixels,
        lesion_ml=math.nan,
        sha256=f"{subject}{number}".encode().hex().zfill(64),
    )


def cohort_of(sizes: list[int], sites: str = "") -> Cohort:
    """One subject for each size of lesion, with a marked and an unmarked slice."""
    images = []
    for index, size in enumerate(sizes):
        site = sites[index % len(sites)] if sites else ""
        images += [image(f"P{index}", 1, size, site), image(f"P{index}", 2, None, site)]
    return Cohort(tuple(images))


def sizes_of(fold: Fold) -> tuple[int, int, int]:
    return len(fold.train), len(fold.validation), len(fold.test)


def check_partition(fold: Fold, names: tuple[str, ...]) -> None:
    """Every name is in one part, in natural order, and no part is empty."""
    assert sorted(fold.train + fold.validation + fold.test) == sorted(names)
    assert min(sizes_of(fold)) > 0
    for part in (fold.train, fold.validation, fold.test):
        assert part == tuple(name for name in names if name in part)


cohorts = st.builds(
    cohort_of, st.lists(st.integers(0, 99), min_size=3, max_size=30), st.sampled_from(["", "AB"])
)


@given(cohorts, st.integers(0, 2**40))
def test_holdout_is_a_partition_that_only_the_seed_decides(cohort: Cohort, seed: int) -> None:
    split = split_holdout(cohort, seed=seed)
    check_partition(split.folds[0], cohort.subjects)
    turned = Cohort(tuple(reversed(cohort.images)))
    assert split_holdout(turned, seed=seed) == split
    assert split.warning is None
    assert (split.method, split.unit, split.seed) == ("holdout", "subject", seed)


@given(cohorts, st.integers(0, 9), st.data())
def test_folds_test_every_subject_once(cohort: Cohort, seed: int, data: st.DataObject) -> None:
    num_folds = data.draw(st.integers(2, len(cohort.subjects)))
    # Two folds of three subjects leave one for both training and validation.
    if len(cohort.subjects) == 3 and num_folds == 2:
        num_folds = 3
    split = split_folds(cohort, num_folds=num_folds, seed=seed)
    for fold in split.folds:
        check_partition(fold, cohort.subjects)
    tested = [name for fold in split.folds for name in fold.test]
    assert sorted(tested) == sorted(cohort.subjects)
    counts = {len(fold.test) for fold in split.folds}
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("num_subjects", "validation", "test", "expected"),
    [(20, 0.15, 0.15, (14, 3, 3)), (10, 0.25, 0.5, (2, 3, 5)), (3, 0.01, 0.01, (1, 1, 1))],
)
def test_shares_are_rounded_to_the_nearest_number(
    num_subjects: int, validation: float, test: float, expected: tuple[int, int, int]
) -> None:
    cohort = cohort_of(list(range(num_subjects)))
    split = split_holdout(cohort, validation=validation, test=test, seed=0)
    assert sizes_of(split.folds[0]) == expected
    slices = split_slices(cohort_of([1] * num_subjects), validation=validation, test=test, seed=0)
    assert sizes_of(slices.folds[0]) == expected


def test_validation_is_a_share_of_what_is_not_tested() -> None:
    cohort = cohort_of(list(range(40)), "AABC")
    fold = split_folds(cohort, num_folds=2, validation=0.25, seed=0).folds[1]
    assert sizes_of(fold) == (15, 5, 20)
    assert sizes_of(split_site(cohort, site="A", validation=0.25, seed=0).folds[0]) == (15, 5, 20)


@pytest.mark.parametrize("seed", range(5))
def test_parts_have_their_share_of_sites_and_sizes(seed: int) -> None:
    # 2 sites x 4 strata (none, small, medium, large) of 10 subjects each.
    sizes = [0] * 20 + list(range(1, 21)) + list(range(100, 120)) + list(range(1000, 1020))
    stratum = {f"P{index}": (index // 20, "AB"[index % 2]) for index in range(80)}
    cohort = cohort_of(sizes, "AB")
    for fold in split_folds(cohort, num_folds=5, seed=seed).folds:
        assert set(Counter(stratum[name] for name in fold.test).values()) == {2}
        assert {stratum[name] for name in fold.validation} == set(stratum.values())
    fold = split_holdout(cohort, validation=0.1, test=0.1, seed=seed).folds[0]
    assert sorted(stratum[name] for name in fold.test) == sorted(set(stratum.values()))


def test_each_stratum_is_dealt_out_evenly() -> None:
    cohort = cohort_of([0] * 5 + [1] * 5 + [50] * 5 + [900] * 5)
    stratum = {f"P{index}": index // 5 for index in range(20)}
    for seed in range(10):
        for fold in split_folds(cohort, num_folds=5, seed=seed).folds:
            assert sorted(stratum[name] for name in fold.test) == [0, 1, 2, 3]
        tested = split_holdout(cohort, test=0.2, seed=seed).folds[0].test
        assert sorted(stratum[name] for name in tested) == [0, 1, 2, 3]


def test_seeds_differ_and_repeat() -> None:
    cohort = cohort_of(list(range(30)))
    first = split_holdout(cohort, seed=1)
    assert split_holdout(cohort, seed=1).sha256 == first.sha256
    assert split_holdout(cohort, seed=2).folds != first.folds
    # Stays so on every platform and with every release; changing it changes published splits.
    assert first.folds[0].test == ("P5", "P7", "P11", "P13", "P29")


def test_subjects_without_marked_images_are_in_no_part() -> None:
    cohort = Cohort((*cohort_of([1, 2, 3]).images, image("unmarked", 1, None)))
    check_partition(split_holdout(cohort, seed=0).folds[0], ("P0", "P1", "P2"))


def test_site_is_tested_as_a_whole() -> None:
    cohort = cohort_of(list(range(9)), "ABC")
    fold = split_site(cohort, site="B", seed=0).folds[0]
    assert fold.test == ("P1", "P4", "P7")
    check_partition(fold, cohort.subjects)


def test_slices_are_those_with_lesion() -> None:
    subjects = [(f"P{index}", number) for index in range(4) for number in range(5)]
    cohort = Cohort(tuple(image(name, number, number) for name, number in subjects))
    split = split_slices(cohort, seed=3)
    check_partition(
        split.folds[0], tuple(one.id for one in cohort.images if one.slice not in (None, 0))
    )
    assert split.unit == "slice"
    assert split.warning is not None
    assert "10.1038/s41598-021-01681-w" in split.warning
    found = parts(split, cohort, 0)
    assert [len(part.images) for part in (found.train, found.validation, found.test)] == [12, 2, 2]
    assert set(found.train.subjects) & set(found.test.subjects)


def test_slices_of_volumes_are_refused() -> None:
    volume = replace(image("P0", 1, 7), num_slices=30)
    with pytest.raises(SplitError, match=r"1 volumes \(P0/ct/1\), expected single slices"):
        split_slices(Cohort((volume,)), seed=0)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, math.nan])
def test_shares_outside_0_to_1_are_refused(share: float) -> None:
    cohort = cohort_of([1, 2, 3])
    with pytest.raises(SplitError, match=f"test share {share}, expected between 0 and 1"):
        split_holdout(cohort, test=share, seed=0)
    with pytest.raises(SplitError, match=f"validation share {share}, expected between 0 and 1"):
        split_folds(cohort, num_folds=3, validation=share, seed=0)


def test_too_few_subjects_are_refused() -> None:
    two = cohort_of([1, 2])
    with pytest.raises(SplitError, match="0 for training, 1 for validation, 1 for test"):
        split_holdout(two, seed=0)
    with pytest.raises(SplitError, match="0 for training, 1 for validation, 1 for test"):
        split_slices(two, seed=0)
    with pytest.raises(SplitError, match="0 for training, 0 for validation, 2 for test"):
        split_site(cohort_of([1, 2], "A"), site="A", seed=0)
    with pytest.raises(SplitError, match="0 for training, 1 for validation, 19 for test"):
        split_holdout(cohort_of([1] * 20), test=0.95, seed=0)
    with pytest.raises(SplitError, match="3 folds, expected 2 to 2, the number of subjects"):
        split_folds(two, num_folds=3, seed=0)
    with pytest.raises(SplitError, match="1 folds, expected 2 to 2"):
        split_folds(two, num_folds=1, seed=0)
    with pytest.raises(SplitError, match="0 for training, 0 for validation, 0 for test"):
        split_holdout(Cohort((image("P", 1, None),)), seed=0)
    with pytest.raises(SplitError, match="seed -1, expected a whole number from 0"):
        split_holdout(two, seed=-1)


@pytest.mark.parametrize("site", ["D", ""])
def test_unknown_sites_are_refused(site: str) -> None:
    with pytest.raises(SplitError, match=f"site '{site}' has 0 subjects, expected .* A, B, C"):
        split_site(cohort_of([1] * 6, "ABC"), site=site, seed=0)
    with pytest.raises(SplitError, match=r"expected one of the sites \(none known\)"):
        split_site(cohort_of([1] * 6), site=site, seed=0)


@given(cohorts)
@settings(max_examples=20)
def test_parts_are_the_images_of_the_subjects(cohort: Cohort) -> None:
    split = split_holdout(cohort, seed=0)
    found = parts(split, cohort, 0)
    for part, names in zip(
        (found.train, found.validation, found.test),
        (split.folds[0].train, split.folds[0].validation, split.folds[0].test),
        strict=True,
    ):
        assert part.subjects == names
        assert len(part.images) == 2 * len(names)


def test_split_of_another_cohort_or_fold_is_refused() -> None:
    cohort, other = cohort_of([1, 2, 3]), cohort_of([1, 2, 4])
    split = split_holdout(cohort, seed=0)
    with pytest.raises(SplitError, match=f"cohort {cohort.sha256}, found {other.sha256}"):
        parts(split, other, 0)
    for index in (-1, 1):
        with pytest.raises(SplitError, match=f"fold {index}, expected 0 to 0"):
            parts(split, cohort, index)


def test_leaks_are_named() -> None:
    cohort = cohort_of([1] * 4)
    check_leakage(Fold(("P0", "P1"), ("P2",), ("P3",)), cohort, unit="subject")
    with pytest.raises(SplitError, match="the subject P1 in test and train; P2 in test and valid"):
        check_leakage(Fold(("P0", "P1"), ("P2",), ("P1", "P2")), cohort, unit="subject")
    with pytest.raises(SplitError, match="the slice P0/ct/1 in test and train, expected each"):
        check_leakage(Fold(("P0/ct/1",), ("P1/ct/1",), ("P0/ct/1",)), cohort, unit="slice")
    names = tuple(f"P{index}" for index in range(7))
    with pytest.raises(SplitError, match="P4 in test and train and 2 more, expected"):
        check_leakage(Fold(names, (), names), cohort, unit="subject")


def test_equal_pixels_leak_if_they_show_a_lesion() -> None:
    cohort = cohort_of([1] * 4)
    twin = replace(cohort.images[0], subject="P3", slice=5)
    fold = Fold(("P0", "P1"), ("P2",), ("P3",))
    with pytest.raises(SplitError, match="equal pixels P0/ct/1 = P3/ct/5 in test and train"):
        check_leakage(fold, Cohort((*cohort.images, twin)), unit="subject")
    slices = Fold(("P0/ct/1",), ("P1/ct/1",), ("P3/ct/5",))
    with pytest.raises(SplitError, match="equal pixels P0/ct/1 = P3/ct/5 in test and train"):
        check_leakage(slices, Cohort((*cohort.images, twin)), unit="slice")
    same_side = replace(twin, subject="P1")
    check_leakage(fold, Cohort((*cohort.images, same_side)), unit="subject")
    blank = replace(twin, lesion_pixels=0)
    check_leakage(fold, Cohort((*cohort.images, blank)), unit="subject")


def test_parts_refuse_leaks() -> None:
    cohort = cohort_of([1] * 4)
    fold = Fold(("P0", "P1"), ("P2",), ("P3", "P0"))
    split = Split("holdout", "subject", 0, cohort.sha256, (fold,))
    with pytest.raises(SplitError, match="the subject P0 in test and train"):
        parts(split, cohort, 0)


def test_file_and_back(tmp_path: Path) -> None:
    cohort = cohort_of(list(range(9)), "ABC")
    path = tmp_path / "split.json"
    for split in (
        split_holdout(cohort, seed=1),
        split_folds(cohort, num_folds=4, seed=2),
        split_site(cohort, site="B", seed=3),
        split_slices(cohort, seed=4),
    ):
        write_split(split, path)
        assert read_split(path) == split
        content = json.loads(path.read_text())
        assert content["sha256"] == split.sha256
        path.write_text(path.read_text("utf-8"), "utf-8-sig")
        assert read_split(path) == split
        assert content["warning"] == split.warning


def test_edited_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    split = split_holdout(cohort_of(list(range(9))), seed=1)
    write_split(split, path)
    text = path.read_text()
    path.write_text(text.replace('"seed": 1', '"seed": 2'))
    with pytest.raises(
        SplitError, match=rf"split\.json: hash .* expected {split.sha256} as stored"
    ):
        read_split(path)
    content = json.loads(text)
    content["folds"][0]["train"].append(content["folds"][0]["test"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(SplitError, match="it was edited"):
        read_split(path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", r"not a split \(JSONDecodeError"),
        ("[]", r"not a split \(ValueError: keys \[\], expected \['cohort_sha256'"),
        ("3", r"not a split \(TypeError"),
        ("[" * 100_000, r"not a split \(RecursionError"),
        (
            '{"method": 1, "unit": 1, "seed": 1, "cohort_sha256": 1, "folds": [{}], '
            '"warning": null, "sha256": ""}',
            r"not a split \(KeyError: 'train'",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(SplitError, match=rf"split\.json: {found}"):
        read_split(tmp_path / "split.json")


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match=r"gone\.json: cannot be read .*No such file"):
        read_split(tmp_path / "gone.json")
