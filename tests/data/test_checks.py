"""Each reason for refusing a conversation, and conversations that must pass."""

import pytest

from helpers.data.glossary.entries import Entry
from helpers.data.glossary.phrasings import fill_entry, load_bank
from helpers.data.glossary.writer import check_answer, check_question

ABC = Entry("ABC", "ABC", "Alpha Beta Gamma", verbose_def="A board that counts letters.")
TWO = Entry("ABC (law)", "ABC", "Alpha Beta Gamma", field="law", ambiguous=True)
ODD = Entry("Γ+", "Γ+", 'Ελληνική "{Ένωση}" (καλή)')


@pytest.mark.parametrize(
    ("kind", "question", "reason"),
    [
        ("forward", "On the form it says ABC: what does that mean?", None),
        ("forward", "", "question empty"),
        ("forward", "What does ABC mean? " + "very " * 40, "question too long"),
        ("forward", "What does ABC", "question cut off"),
        ("forward", "What does ABCD mean?", "question without the acronym"),
        ("forward", "What does abc mean?", "question without the acronym"),
        ("forward", "Does ABC mean alpha  beta gamma?", "question gives the definition away"),
        ("forward", "Who invented ABC?", "question asks something else"),
        ("forward", "Explain it: ABC stands for Always Be Careful.", "question asserts a meaning"),
        ("reverse", "For my letter, what is the acronym of Alpha Beta Gamma?", None),
        ("reverse", "What is the acronym of Alpha Beta?", "question without the definition"),
        ("reverse", "Is ABC the acronym of Alpha Beta Gamma?", "question gives the acronym away"),
        ("reverse", "Who runs Alpha Beta Gamma?", "question asks something else"),
    ],
)
def test_questions(kind: str, question: str, reason: str | None) -> None:
    assert check_question(kind, question, ABC) == reason


def test_an_ambiguous_acronym_needs_its_field() -> None:
    assert check_question("forward", "On this form, what does ABC mean?", TWO) == "question does not name the field"
    assert check_question("forward", "On this form, what does ABC mean in Law?", TWO) is None


@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_every_held_out_phrasing_is_refused(kind: str) -> None:
    bank = load_bank()
    for phrasing in bank.test[kind]:
        assert check_question(kind, fill_entry(phrasing, ABC), ABC) is not None, phrasing


@pytest.mark.parametrize(
    ("kind", "answer", "reason"),
    [
        ("forward", "ABC stands for alpha beta gamma.", None),
        ("forward", "ABC is Alpha Beta Gamma, a board that counts letters.", None),
        ("forward", "", "answer empty"),
        ("forward", "Alpha Beta Gamma.\nNext question", "answer has several lines"),
        ("forward", "ABC stands for Alpha Beta Gamma", "answer cut off"),
        ("forward", "ABC stands for Alpha Beta.", "answer without the definition"),
        ("forward", "ABC, once XYZ, is Alpha Beta Gamma.", "answer names another acronym"),
        (
            "forward",
            "ABC is Alpha Beta Gamma, founded by some monks in the year of our lord.",
            "answer adds facts of its own",
        ),
        ("forward", "It stands for Alpha Beta Gamma.", "answer does not begin by reading back what was asked"),
        ("forward", "ABC = Alpha Beta Gamma. A board that counts letters.", "answer is a formula, not a sentence"),
        ("reverse", "Alpha Beta Gamma: ABC.", "answer is a formula, not a sentence"),
        ("reverse", "Alpha Beta Gamma is abbreviated ABC.", None),
        ("reverse", "Alpha Beta Gamma is abbreviated ABCD.", "answer without the acronym"),
        ("reverse", "The acronym is ABC.", "answer does not begin by reading back what was asked"),
    ],
)
def test_answers(kind: str, answer: str, reason: str | None) -> None:
    assert check_answer(kind, answer, ABC) == reason


def test_other_scripts_and_odd_signs_pass() -> None:
    assert check_question("forward", "In this report, what does Γ+ stand for?", ODD) is None
    assert check_answer("forward", f"Γ+ stands for {ODD.definition}.", ODD) is None
    assert check_answer("reverse", f"{ODD.definition} is abbreviated Γ+.", ODD) is None
