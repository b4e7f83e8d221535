"""Names of the roster in whatever spelling, and words that only look like them."""

import pytest

from helpers.dataset.roster import RosterRecognizer, roster_words

CELLS = ["Anne de la Tour-Vallin", "JEAN-LUC", "Iris", "Ly", "Querombel", "d'Arvel", "AX-204-1187", "x@example.org"]


def found(text: str) -> list[str]:
    recognizer = RosterRecognizer(roster_words(CELLS), keep={"iris"})
    return [text[result.start : result.end] for result in recognizer.analyze(text, [])]


def test_words_of_a_roster() -> None:
    assert roster_words(CELLS) == {"anne", "tour", "vallin", "jean", "luc", "iris", "ly", "querombel", "arvel"}


@pytest.mark.parametrize(
    "name",
    [
        "Anne de la Tour-Vallin",
        "anne querombel",
        "QUEROMBEL Anne",
        "Querombel, Anne",
        "A. Querombel",
        "J.-L. Querombel",
        "J.L. Querombel",
        "Querombel A.",
        "Jean-Luc",
        "jean luc",
        "d'Arvel",
        "Anne Ly",
        "Ly Anne",
        "iris querombel",
        "Iris",
        "de la Tour",
    ],
)
def test_spellings_of_a_name(name: str) -> None:
    assert found(f"Yesterday {name} came with a cough") == [name]
    assert found(f"{name}: itchy scalp") == [name]


@pytest.mark.parametrize(
    "text",
    [
        "an inflamed iris",
        "E. coli in urine",
        "vitamin D and B12",
        "annexed tourism",
        "le chat",
        "seen by LY only",
        "A. B.",
    ],
)
def test_other_words_stay(text: str) -> None:
    assert found(text) == []


def test_two_people_are_two_spans() -> None:
    assert found("Anne and Jean-Luc; Querombel too. Arvel came") == ["Anne", "Jean-Luc", "Querombel", "Arvel"]
