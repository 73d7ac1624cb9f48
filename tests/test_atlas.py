import tomllib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from hemaseg.phantoms.atlas import Part, _twice, atlas

FOLDER = files("hemaseg.phantoms")


def test_file_is_small_and_needs_no_pickle() -> None:
    assert len(FOLDER.joinpath("atlas.npz").read_bytes()) < 2 * 2**20
    with FOLDER.joinpath("atlas.npz").open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        assert {stored[name].dtype.kind for name in stored.files} <= {"i", "u"}


def test_notice_of_the_template_ships_with_it() -> None:
    notice = " ".join(FOLDER.joinpath("ATLAS-LICENCE.txt").read_text(encoding="utf-8").split())
    for words in (
        "Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre",
        "provided that the above copyright notice appear in all copies",
    ):
        assert words in notice
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    listed = tomllib.loads(text)["project"]["license-files"]
    assert "src/hemaseg/phantoms/ATLAS-LICENCE.txt" in listed


def test_maps_are_of_one_grid_and_read_once() -> None:
    found = atlas()
    assert atlas() is found
    maps = (found.grey, found.white, found.parts, found.hull_half_mm, found.ventricle_half_mm)
    assert len({values.shape for values in maps}) == 1
    assert set(np.unique(found.parts)) == set(map(int, Part))
    assert max(found.grey.max(), found.white.max()) <= 15


def test_axes_run_toward_superior_posterior_left() -> None:
    found = atlas()
    middle = {
        part: np.argwhere(found.parts == part).mean(axis=0) + found.low_mm
        for part in (Part.EYE, Part.PETROUS, Part.FALX, Part.SINUS)
    }
    assert middle[Part.EYE][1] < -50  # in front
    assert middle[Part.PETROUS][0] < -30  # below
    assert middle[Part.FALX][0] > 10
    assert middle[Part.SINUS][1] > 20  # behind
    for center in middle.values():
        assert abs(center[2]) < 1  # both sides alike


def test_distances_have_the_sign_of_inside() -> None:
    found = atlas()
    is_brain = found.grey + found.white >= 8
    assert (found.hull_half_mm[is_brain] < 0).mean() > 0.999
    assert (found.ventricle_half_mm[found.white >= 12] > 0).mean() > 0.99
    assert (found.ventricle_half_mm <= 0).sum() / 1000 == pytest.approx(25, abs=15)  # mL


def test_values_between_are_means_of_neighbours() -> None:
    coarse = (
        4 * np.arange(4)[:, None, None] - 6 * np.arange(3)[:, None] + 2 * np.arange(5)
    ).astype(np.int8)
    fine = _twice(coarse, (7, 5, 9))
    expected = 2 * np.arange(7)[:, None, None] - 3 * np.arange(5)[:, None] + np.arange(9)
    np.testing.assert_array_equal(fine, expected)
