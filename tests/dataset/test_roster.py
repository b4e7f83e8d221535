"""Names of the roster in whatever spelling, and words that only look like them."""

import pytest

from helpers.dataset.roster import RosterRecognizer, ValueRecognizer, roster_words

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


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("file AX 204.1187, ax2041187; AX204-1187", ["AX 204.1187", "ax2041187", "AX204-1187"]),
        ("NP 417 and np-417", ["NP 417", "np-417"]),
        ("lives at 12, rue de la Paix 75002 PARIS now", ["12, rue de la Paix 75002 PARIS"]),
        ("patient no. 93 took 93 mg", ["93"]),  # a short number: beside a cue only
        ("204 1187", []),
        ("AX is 204 mg and 1187", []),
    ],
)
def test_values_with_other_separators(text: str, spans: list[str]) -> None:
    recognizer = ValueRecognizer(["AX-204-1187", "NP417", "12 rue de la Paix, 75002 Paris", "93"])
    assert [text[result.start : result.end] for result in recognizer.analyze(text, [])] == spans


def test_a_particle_that_is_all_of_a_name_is_one() -> None:
    recognizer = RosterRecognizer(roster_words(["Ben", "Mac", "Anne de la Tour"]), keep=set())
    texts = ["Ben came", "ask Ben Smith", "a mac and a van", "Mac: itchy"]
    found = [[text[result.start : result.end] for result in recognizer.analyze(text, [])] for text in texts]
    assert found == [["Ben"], ["Ben"], [], ["Mac"]]


def test_two_people_are_two_spans() -> None:
    assert found("Anne and Jean-Luc; Querombel too. Arvel came") == ["Anne", "Jean-Luc", "Querombel", "Arvel"]
