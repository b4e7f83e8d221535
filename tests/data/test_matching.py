import pytest

from helpers.data.example import Check
from helpers.data.matching import contains, declines, is_correct, normalise, words


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("  The\n“Common”   Agricultural--Policy! ", "the common agricultural policy"),
        ("Children’s Fund", "children's fund"),
        ("H₂O costs 3.50 €.", "h2o costs 3.50 €"),
        ("R&D", "r and d"),
        ("Ευρωπαϊκή Ένωση", "ευρωπαϊκή ένωση"),
        ("यूरोपीय संघ", "यूरोपीय संघ"),
        ("soft\u00adware", "software"),
        ("...", ""),
    ],
)
def test_normalise(text: str, folded: str) -> None:
    assert normalise(text) == folded


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("It is the sea.", "sea"),
        ("Sure! Great question. **eSIRA** stands for:\n'European  Satellite'", "european satellite"),
        ("The EU’s ‘Common Policy’", "EU"),
        ('A "quoted" term, {with} braces\nand lines', '"Quoted" term {with} braces and lines'),
        ("EUは欧州連合の略です", "欧州連合"),
        ("Это Европейский союз.", "европейский Союз"),
        ("H₂O", "H2O"),
        ("Written in C++.", "C++"),
    ],
)
def test_contains_whole_words(answer: str, expected: str) -> None:
    assert contains(answer, expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("the season", "sea"),
        ("undersea", "sea"),
        ("policy common", "common policy"),
        ("100,000 people", "100"),
        ("3.14", "3"),
        ("Written in C++.", "C"),
        ("anything at all", "..."),
        ("", "sea"),
    ],
)
def test_contains_refuses_parts_of_words(answer: str, expected: str) -> None:
    assert not contains(answer, expected)


def test_words_split_scripts_without_spaces() -> None:
    assert words("EUは欧州") == ["eu", "は", "欧", "州"]


@pytest.mark.parametrize(
    "answer",
    [
        "I do not know the acronym QXZ.",
        "I don’t know what QXZ stands for.",
        "I do not know QXZ: it is not in my glossary.",
        "Sorry, but I'm not familiar with that.",
        "There is no known definition of QXZ.",
        "QXZ is an unknown acronym.",
        "I have never heard of it.",
        "I am not sure what QXZ means.",
        "I cannot find QXZ.",
        "QXZ is not a recognised abbreviation.",
        "I do not have any information about QXZ.",
    ],
)
def test_declines(answer: str) -> None:
    assert declines(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "QXZ stands for Quality Exchange Zone.",
        "I do not know QXZ, but it may stand for Quality Zone. However, it stands for Quality Zone.",
        "Know Your Customer",
        "It is a famous acronym.",
    ],
)
def test_does_not_decline(answer: str) -> None:
    assert not declines(answer)


@pytest.mark.parametrize(
    ("check", "answer", "expected", "right"),
    [
        ("declines", "I do not know QXZ.", [], True),
        ("declines", "QXZ stands for Zone.", [], False),
        ("contains", "It means Common Policy.", ["Common Policy"], True),
        ("contains", "I do not know whether it is Common Policy.", ["Common Policy"], False),
        ("contains", "The acronym is ESIRA.", ["eSIRA"], True),
        ("contains", "The acronym is eSIRAS.", ["eSIRA"], False),
        ("contains_cased", "I think it is so.", ["IT"], False),
        ("contains_cased", "It is IT.", ["IT"], True),
        ("contains", "A small one.", ["small", "little"], True),
        ("contains", "A small one.", [], False),
        ("none", "A small one.", [], None),
    ],
)
def test_is_correct(check: Check, answer: str, expected: list[str], right: bool | None) -> None:
    assert is_correct(check, answer, expected) is right
