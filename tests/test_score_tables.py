"""Reading score tables of other tools, and every reason to refuse scores."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hemaseg.comparison.score_tables import read_score_tables, score_cells
from hemaseg.errors import ComparisonError


def scores(**changes: object) -> pd.DataFrame:
    """Two arms, two subjects, one run."""
    columns: dict[str, object] = {
        "arm": ["unet", "unet", "dr", "dr"],
        "subject": ["s1", "s2", "s1", "s2"],
        "fold": 0,
        "seed": 0,
        "dice": [0.8, 0.7, 0.9, math.nan],
    }
    return pd.DataFrame(columns | changes)


def write(folder: Path, **texts: str) -> dict[str, Path]:
    paths = {name: folder / f"{name}.csv" for name in texts}
    for name, text in texts.items():
        paths[name].write_text(text, encoding="utf-8")
    return paths


def test_tables_are_joined_with_undefined_infinite_and_text_columns(tmp_path: Path) -> None:
    paths = write(
        tmp_path,
        a="subject,site,dice,hd95_mm\n007,x,0.5,inf\n08,y,,3\n",
        b="subject,seed,dice,hd95_mm\n007,4,n/a,1\n08,4,0.25,2.5\n",
    )
    table = read_score_tables(paths)
    assert table["arm"].tolist() == ["a", "a", "b", "b"]
    assert table["subject"].tolist() == ["007", "08", "007", "08"]
    assert table["seed"].tolist() == [0, 0, 4, 4]
    assert table["fold"].tolist() == [0] * 4
    assert table["site"].tolist()[:2] == ["x", "y"]
    np.testing.assert_equal(table["dice"].to_numpy(), [0.5, math.nan, math.nan, 0.25])
    np.testing.assert_equal(table["hd95_mm"].to_numpy(), [math.inf, 3, 1, 2.5])


def test_read_tables_can_be_compared_cell_by_cell(tmp_path: Path) -> None:
    paths = write(tmp_path, a="subject,hd95_mm\nNA,0.5\nx,0.75\n", b="subject,hd95_mm\nx,\nNA,1\n")
    cells = score_cells(read_score_tables(paths), "hd95_mm")
    assert cells.columns.tolist() == ["a", "b"]
    assert cells.index.tolist() == [("NA", "0", "0"), ("x", "0", "0")]
    np.testing.assert_equal(cells.to_numpy(), [[0.5, 1.0], [0.75, math.nan]])


def test_a_subject_may_be_called_na(tmp_path: Path) -> None:
    table = read_score_tables(write(tmp_path, a="subject,dice\nNA,NA\nnan,0.5\n"))
    assert table["subject"].tolist() == ["NA", "nan"]
    np.testing.assert_equal(table["dice"].to_numpy(), [math.nan, 0.5])


def test_byte_order_mark_and_blank_lines_are_no_data(tmp_path: Path) -> None:
    table = read_score_tables(write(tmp_path, a="\ufeffsubject,dice\n\ns1,0.5\n\n"))
    assert table[["subject", "dice"]].to_numpy().tolist() == [["s1", 0.5]]


def test_a_column_without_any_value_is_undefined_not_text(tmp_path: Path) -> None:
    paths = write(tmp_path, a="subject,dice\ns1,\n", b="subject,dice\ns1,nan\n")
    assert np.isnan(score_cells(read_score_tables(paths), "dice").to_numpy()).all()
    assert np.isnan(score_cells(scores(iou=None), "iou").to_numpy()).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a\.csv: found columns \[\] and 0 rows"),
        ("subject,dice\n", r"found columns \['subject', 'dice'\] and 0 rows, .* decimal mark\.$"),
        ("case,dice\ns1,0.5\n", r"found columns \['case', 'dice'\] and 1 rows"),
        ("subject,dice,dice\ns1,1,1\n", r"found columns \['subject', 'dice', 'dice'\]"),
        ("subject,dice\ns1,0.5\n\ns2\n", r"line 4 has 1 fields \(s2\), expected 2 as in"),
        ('subject,dice\n"a\nb",1\ns2,\ns3\n', r"line 5 has 1 fields \(s3\), expected 2"),
        ("subject,dice\ns1,0.5,0.6\n", r"line 2 has 3 fields \(s1,0\.5,0\.6\), expected 2"),
        ("subject;dice\ns1;0,5\n", r"subject, separated by commas, with a point as decimal mark\."),
        ("Subject,dice\ns1,0.5\n", r'expected a column subject, .* Rename "Subject" to "subject"'),
        ("subject,dice\ns1,0.5\nMean,0.5\nSD,\n", "found subject Mean, SD, expected .* Take the"),
        ('subject,dice\ns1,"0.5\n', r"a\.csv: cannot be read as a CSV table"),
        ("subject,arm,dice\ns1,x,0.5\n", r"has a column arm, expected the scores of one arm, a\."),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ComparisonError, match=message):
        read_score_tables(write(tmp_path, a=text))


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match=r"absent\.csv: cannot be read"):
        read_score_tables({"a": tmp_path / "absent.csv"})
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ComparisonError, match=r"binary\.csv: cannot be read"):
        read_score_tables({"a": tmp_path / "binary.csv"})


def test_numbers_that_are_none_are_refused_by_value(tmp_path: Path) -> None:
    paths = write(tmp_path, a='subject,dice\ns1,"0,8"\n', b="subject,dice\ns1,0.5\n")
    with pytest.raises(ComparisonError, match="with a point as decimal mark, found '0,8'"):
        score_cells(read_score_tables(paths), "dice")


def test_zeros_that_a_spreadsheet_took_away_are_told(tmp_path: Path) -> None:
    one, other = "subject,dice\n01,0.5\n10,0.5\n", "subject,dice\n1,0.5\n10,0.5\n"
    with pytest.raises(ComparisonError, match=r"01 0 0 not in b.* may have taken 001 for 1\."):
        score_cells(read_score_tables(write(tmp_path, a=one, b=other)), "dice")
    for strange in (other.replace("1,", "2,"), other + "01,0.5\n"):
        with pytest.raises(ComparisonError) as caught:
            score_cells(read_score_tables(write(tmp_path, a=one + "3,1\n", b=strange)), "dice")
        assert "spreadsheet" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "metric", "message"),
    [
        ({"IoU": 0.5}, "iou", r'are missing, .* Rename "IoU" to "iou"'),
        ({}, "iou", r"columns \['iou'\] are missing, found \['arm', 'subject'"),
        ({"subject": ["s1", "s2", None, "s2"]}, "dice", "1 rows lack .* the first is row 3"),
        ({"arm": "unet", "subject": list("abcd")}, "dice", r"found the arms \['unet'\]"),
        ({"subject": ["s1", "s1", "s1", "s2"]}, "dice", "1 rows repeat .* unet s1 0 0"),
        ({"subject": ["s1", "s2", "s1", "s3"]}, "dice", "2 of 3 .*: s2 0 0 not in dr; s3 0 0 not"),
        ({"seed": [0, 0, 0, 1]}, "dice", "2 of 3 .*: s2 0 0 not in dr; s2 0 1 not in unet"),
        ({"dice": [0.8, 0.7, 83.6, 0.1]}, "dice", "arm dr, subject s1 is 83.6, expected 0 to 1"),
        ({"dice": [0.8, -0.1, 0.6, 0.1]}, "dice", "arm unet, subject s2 is -0.1"),
        (
            {"hd95_mm": [1, 2, 3, -1]},
            "hd95_mm",
            r"s2 is -1, expected 0 or more\. Correct it \(empty if undefined, inf if missed",
        ),
        ({"assd_mm": [1, -2, 3, 4]}, "assd_mm", "arm unet, subject s2 is -2, expected 0 or more"),
        ({"absolute_volume_error_ml": -9}, "absolute_volume_error_ml", "-9, expected 0 or more"),
        ({"kappa": [1, 2, 3, -math.inf]}, "kappa", "subject s2 is -inf, expected a number or inf"),
        ({"dice": [0.8, "x", 0.6, 0.1]}, "dice", "dice must hold numbers, .* found 'x'"),
        ({"dice": [True, False, True, True]}, "dice", "found values of type bool"),
    ],
)
def test_unsound_scores_are_refused(changes: dict[str, object], metric: str, message: str) -> None:
    with pytest.raises(ComparisonError, match=message):
        score_cells(scores(**changes), metric)


def test_subjects_without_lesion_have_no_score_by_metrics_of_lesions() -> None:
    """Else a false alarm counts 0, a correct empty mask nothing, and arms have other subjects."""
    dice = [0.8, 0.0, 0.9, math.nan]
    table = scores(dice=dice, volume_error_ml=[1.0, 4.0, 2.0, 0.0], reference_pixels=[9, 0, 9, 0])
    np.testing.assert_equal(score_cells(table, "dice").to_numpy(), [[0.8, 0.9], [math.nan] * 2])
    np.testing.assert_equal(score_cells(table, "volume_error_ml").to_numpy(), [[1, 2], [4, 0]])
    # Where nobody knows, for want of a column or of a number in it, scores are taken as they are.
    for text in ("", "?"):
        blank = table.assign(reference_pixels=["9", text, "9", text])
        np.testing.assert_equal(
            score_cells(blank, "dice").to_numpy(), [[0.8, 0.9], [0.0, math.nan]]
        )
    np.testing.assert_equal(
        score_cells(table.drop(columns="reference_pixels"), "dice").to_numpy(),
        [[0.8, 0.9], [0.0, math.nan]],
    )


def test_only_scores_against_the_same_reference_are_compared() -> None:
    table = scores(dice=0.5)
    for column, values, words in (
        ("reference_pixels", [100, 90, 100, 91], "is 90 in arm unet and 91 in arm dr, .* 1 of 2 "),
        ("reference_ml", [10, 9.0, 10, 8.9], "is 8.9 in arm dr and 9 in arm unet, expected the"),
    ):
        with pytest.raises(ComparisonError, match=f"{column} of subject s2 {words}"):
            score_cells(table.assign(**{column: values}), "dice")
    score_cells(table.assign(reference_ml=[10.004, 9, 10, math.nan]), "dice")  # as tools round
    # Subjects may have another reference in each fold, as after a split by slices.
    folds = pd.concat([table.assign(fold=fold, reference_pixels=fold) for fold in (1, 2)])
    assert len(score_cells(folds, "dice")) == 4


def test_an_arm_without_score_where_another_found_the_lesion_is_refused() -> None:
    """Else a tool gains by failing: the subjects on which it failed are left out."""
    table = scores(dice=[0.8, 0.7, 0.9, math.nan], precision=[0.5, 0.5, 0.5, math.nan])
    for metric in ("dice", "iou", "sensitivity", "surface_dice"):
        found = table.rename(columns={"dice": metric})
        with pytest.raises(
            ComparisonError, match=f"{metric} of subject s2 is 0.7 in arm unet and "
        ):
            score_cells(found, metric)
    with pytest.raises(ComparisonError, match=r"undefined in arm dr, .* 1 of 2 .* Give 0 if noth"):
        score_cells(table, "dice")
    score_cells(table, "precision")  # undefined where nothing was marked
    # Nobody knows whether this reference is empty: 0 may be a false alarm, undefined then right.
    score_cells(scores(dice=[0.8, 0.0, 0.9, math.nan]), "dice")
    score_cells(table.assign(reference_pixels=[9, 0, 9, 0]), "dice")
    # Scored against references of which one file knows the spacing and the other does not.
    score_cells(scores(dice=0.5, surface_dice=[0.8, 0.7, 0.9, math.nan]), "surface_dice")


def test_only_surface_dice_of_one_tolerance_is_compared() -> None:
    table = scores(dice=0.5, surface_dice=0.5, surface_tolerance_mm=[1.0, 1.0, 2.5, 2.5])
    with pytest.raises(ComparisonError, match=r"s1 is 1 in arm unet and 2\.5 in arm dr"):
        score_cells(table, "surface_dice")
    score_cells(table, "dice")
    score_cells(table.assign(surface_tolerance_mm=[1, 1, math.nan, math.nan]), "surface_dice")


def test_one_arm_can_tell_which_subjects_have_no_lesion() -> None:
    table = scores(dice=[0.8, math.nan, 0.9, 0.0], reference_pixels=[9, 0, math.nan, math.nan])
    expected = [[0.8, 0.9], [math.nan, math.nan]]
    np.testing.assert_equal(score_cells(table, "dice").to_numpy(), expected)


def test_long_lists_are_cut() -> None:
    table = pd.concat(
        [scores(), pd.DataFrame({"arm": "dr", "subject": range(9), "fold": 0, "seed": 0})]
    )
    with pytest.raises(ComparisonError, match=r"9 of 11 .*0 0 0 not in unet; .* and 4 more"):
        score_cells(table, "dice")
