"""Names of the roster in whatever spelling, and words that only look like them."""

import pytest

from helpers.data.holders.roster import RosterRecognizer, ValueRecognizer, roster_words, with_plain_names

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
        ("AX - 204 - 1187 or AX / 204 / 1187", ["AX - 204 - 1187", "AX / 204 / 1187"]),
        ("na-00-12 is NA 0012", ["na-00-12", "NA 0012"]),
        ("no 12080 is not BP 120/80, nor 1-20-80", ["12080"]),  # an id of digits alone is one group
        ("The patient, 93, had patient n° 93", ["93"]),
    ],
)
def test_values_with_other_separators(text: str, spans: list[str]) -> None:
    recognizer = ValueRecognizer(["AX-204-1187", "NP417", "12 rue de la Paix, 75002 Paris", "93", "12080", "NA0012"])
    assert [text[result.start : result.end] for result in recognizer.analyze(text, [])] == spans


def test_particles_that_are_given_names_are_found_with_a_capital() -> None:
    recognizer = RosterRecognizer(roster_words(["Ben Arvel", "Mac", "Anne de la Tour"]), keep=set())
    texts = ["Ben came", "ask Ben Smith", "a mac and a van", "Mac: itchy"]
    found = [[text[result.start : result.end] for result in recognizer.analyze(text, [])] for text in texts]
    assert found == [["Ben"], ["Ben"], [], ["Mac"]]


def test_two_people_are_two_spans() -> None:
    assert found("Anne and Jean-Luc; Querombel too. Arvel came") == ["Anne", "Jean-Luc", "Querombel", "Arvel"]


@pytest.mark.parametrize(
    ("cell", "text"), [("Lecœur", "LECOEUR"), ("LECOEUR", "Lecœur"), ("Strauß", "STRAUSS"), ("Strauss", "Strauß")]
)
def test_ligatures_and_their_letters_are_one(cell: str, text: str) -> None:
    [span] = RosterRecognizer(roster_words([cell]), keep=set()).analyze(f"Then {text} left", [])
    assert (span.start, span.end) == (5, 5 + len(text))


def test_a_number_beside_a_name_does_not_hide_the_name() -> None:
    cells = with_plain_names(["Dupont Marie (2)", "LEROY Jean 12/03/1950", "Anne Arvel", "Jean Arvel", "Iris Arvel"])
    assert {"dupont", "marie", "leroy", "jean"} < roster_words(cells)
    streets = ["12 rue des Lilas", "3 Harbour Lane", "anne@example.org", "Valbrune"]
    assert with_plain_names(streets) == streets  # words of addresses are no names
