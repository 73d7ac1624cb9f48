"""Descriptions of series: what a user needs to choose is shown, and nothing that could identify."""

import pytest

from hemaseg.dicom.descriptions import known_words


@pytest.mark.parametrize(
    ("description", "shown"),
    [
        ("", ""),
        ("Ax T2* GRE FS", "Ax T2* GRE FS"),
        ("t1_fl2d_sag", "t1 fl2d sag"),
        ("HEAD W/O CONTRAST", "HEAD W/O CONTRAST"),
        ("CTA Head 0.625 thin 1,5mm", "CTA Head 0.625 thin 1,5mm"),
        ("Sch\u00e4del nativ 4.8 mm", "Sch\u00e4del nativ 4.8 mm"),
        ("Frau Schmidt-Hansen geb 12.03.1941 Kontrolle", "[...]"),
        ("Head, Dr Berg, 12.03. 1941, Stroke", "Head [...] Stroke"),
        ("Head 47110815 5 mm 4711mm", "Head [...] 5 mm [...]"),
        ("Kopf 1.2.1941 1,2, 3.4 1941", "Kopf [...]"),
    ],
)
def test_only_words_of_radiology_and_thicknesses_are_shown(description: str, shown: str) -> None:
    assert known_words(description) == shown
