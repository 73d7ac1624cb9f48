import pytest

from hemaseg.dicom.identity import identifies, without_words

UMLAUT = "M\u00fc\u00dfigbrodt"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/data/MUSSIGBRODT/ct", [UMLAUT]),
        ("/data/muessigbrodt_w/ct", [UMLAUT]),
        ("/data/Mu\u0308\u00dfigbrodt/ct", [UMLAUT]),  # as macOS spells names of files
        ("/data/dubois/ct", ["Dub\u00f4is"]),
        ("/data/x4711xq", ["4711XQ"]),
        ("/data/7/ct", ["7"]),
    ],
)
def test_paths_that_identify(text: str, words: list[str]) -> None:
    assert identifies(text, words)


@pytest.mark.parametrize("words", [[], [""], ["7"], ["ct9"], ["li"]])
def test_paths_that_do_not(words: list[str]) -> None:
    assert not identifies("/data/p17/client/ct", words)


def test_words_are_masked_in_any_spelling() -> None:
    text = f"{UMLAUT}/MUESSIGBRODT/7.dcm: row 7"
    assert without_words(text, [UMLAUT, "7"]) == "[...]/[...]/7.dcm: row 7"
    assert without_words(f"Mu\u0308{UMLAUT[2:]}/1", [UMLAUT]) == "[...]/1"


def test_short_words_are_masked_where_they_stand_alone() -> None:
    words = ["Ann", "Lee", "4711", "Spital 7"]
    text = "ANN_x/leeann/4711-spital 7: a plane cannot be"
    assert without_words(text, words) == "[...]_x/[...]/[...]-[...]: a plane cannot be"
