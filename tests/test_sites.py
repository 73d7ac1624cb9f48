"""Means by site by hand; which tables have sites at all."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hemaseg.comparison.score_tables import read_score_tables
from hemaseg.comparison.sites import describe_sites
from hemaseg.errors import ComparisonError

NAN = math.nan


def table(sites: list[object]) -> pd.DataFrame:
    """Arms b and a; subjects s0 to s3 (s0 in two runs) with the sites of these five rows."""
    return pd.DataFrame(
        {
            "arm": ["b"] * 5 + ["a"] * 5,
            "subject": ["s0", "s0", "s1", "s2", "s3"] * 2,
            "fold": 0,
            "seed": [0, 1, 0, 0, 0] * 2,
            "site": sites * 2,
            "precision": [0.2, 0.4, 0.5, 0.7, 0.9, 0.3, 0.3, NAN, 0.5, 0.6],
        }
    )


def test_each_arm_is_described_in_each_site() -> None:
    found = describe_sites(table(["Y", "Y", "Y", "X", ""]), "precision")
    assert found[["site", "arm"]].to_numpy().tolist() == [
        *(["X", "b"], ["X", "a"], ["Y", "b"], ["Y", "a"], ["unknown", "b"], ["unknown", "a"]),
    ]
    assert found["metric"].unique().tolist() == ["precision"]
    assert found["num_subjects"].tolist() == [1, 1, 2, 1, 1, 1]
    assert found["num_undefined"].tolist() == [0, 0, 0, 1, 0, 0]
    np.testing.assert_allclose(found["mean"], [0.7, 0.5, 0.4, 0.3, 0.9, 0.6])
    np.testing.assert_allclose(found["sd"], [NAN, NAN, math.sqrt(0.02), NAN, NAN, NAN])


@pytest.mark.parametrize("sites", [["X"] * 5, [""] * 5, [NAN] * 5, ["X", "X", "", "", NAN]])
def test_fewer_than_two_sites_are_no_table(sites: list[object]) -> None:
    found = describe_sites(table(sites), "precision")
    assert found.empty
    assert list(found)[:3] == ["metric", "site", "arm"]
    assert describe_sites(table(sites).drop(columns="site"), "precision").empty


def test_numbers_of_sites_are_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        lines = ["subject,site,dice", "s0,1,0.5", "s1,12,0.6"]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines), encoding="utf-8")
    scores = read_score_tables({name: tmp_path / f"{name}.csv" for name in ("a", "b")})
    assert describe_sites(scores, "dice")["site"].tolist() == ["1", "1", "12", "12"]


def test_numbers_of_sites_stay_whole_beside_an_unknown_site() -> None:
    found = describe_sites(table([1.0, 1.0, 12.0, 1.0, NAN]), "precision")
    assert found["site"].unique().tolist() == ["1", "12", "unknown"]


def test_a_subject_with_two_sites_is_refused() -> None:
    with pytest.raises(ComparisonError, match="subject s0 has sites Y and X, expected one"):
        describe_sites(table(["Y", "X", "Y", "X", "X"]), "precision")
