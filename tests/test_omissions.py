import pandas as pd

from hemaseg.comparison.description import subject_means
from hemaseg.comparison.omissions import why_undefined, words_on_misses
from hemaseg.comparison.score_tables import score_cells

NAN = float("nan")


def reasons(metric: str, rows: list[tuple[str, float, int, int]]) -> pd.DataFrame:
    """Of one run of the arms a and b, which score alike: subject, score, pixels."""
    columns = ["subject", metric, "reference_pixels", "prediction_pixels"]
    one = pd.DataFrame(rows, columns=columns).assign(fold=0, seed=0)
    scores = pd.concat([one.assign(arm="a"), one.assign(arm="b")])
    cells = score_cells(scores, metric)
    subjects = cells.groupby(level="subject").mean()
    return why_undefined(scores, cells, subjects, metric)


def test_each_reason_is_counted_once() -> None:
    found = reasons(
        "precision",
        [
            ("scored", 0.5, 9, 9),
            ("healthy", NAN, 0, 0),
            ("missed", NAN, 9, 0),
            ("missed too", NAN, 4, 0),
        ],
    )
    counts = {"without_lesion": 1, "missed": 2, "unknown": 0}
    assert found.to_dict("index") == {"a": counts, "b": counts}
    said = words_on_misses(found, "precision")
    assert "Misses do not count here" in said
    assert said.endswith("(a: 2, b: 2).")


def test_what_the_tables_do_not_tell_is_called_unknown() -> None:
    found = reasons("hd95_mm", [("scored", 3.0, 9, 9), ("no spacing", NAN, 9, 8)])
    assert found.to_dict("index")["a"] == {"without_lesion": 0, "missed": 0, "unknown": 1}
    assert words_on_misses(found, "hd95_mm") == ""


def test_missed_in_one_run_is_missed() -> None:
    names = ["arm", "seed", "precision", "prediction_pixels"]
    rows = [(arm, *run) for arm in "ab" for run in ((0, NAN, 0), (1, 0.5, 9))]
    scores = pd.DataFrame(rows, columns=names).assign(subject="s", fold=0, reference_pixels=9)
    cells = score_cells(scores, "precision")
    found = why_undefined(scores, cells, subject_means(cells), "precision")
    assert found.to_dict("index")["a"] == {"without_lesion": 0, "missed": 1, "unknown": 0}
