"""The phrasing bank: complete, fillable, and with test phrasings that training never shows."""

import re
from itertools import product

import pytest
from rapidfuzz import fuzz

from helpers.data.glossary.entries import Entry
from helpers.data.glossary.phrasings import LEAK_RATIO, fill, held_out_overlap, load_bank, skeleton

BANK = load_bank()
ENTRY = Entry("QZX", "QZX", "Quarterly Zone Exchange")


@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_no_training_phrasing_resembles_a_held_out_one(kind: str) -> None:
    train, test = BANK.train[kind], BANK.test[kind]
    close = {
        (one, other): ratio
        for one, other in product(train, test)
        if (ratio := held_out_overlap(fill(one, acronym="QZX", definition=ENTRY.definition), ENTRY, [other]))
        >= LEAK_RATIO
    }
    assert not close


@pytest.mark.parametrize("kind", ["forward", "reverse"])
@pytest.mark.parametrize("bank", [BANK.train, BANK.test], ids=["train", "test"])
def test_questions_are_distinct_and_have_their_slots(bank: dict[str, list[str]], kind: str) -> None:
    phrasings = bank[kind]
    assert len({text.casefold() for text in phrasings}) == len(phrasings)
    needed, other = ("acronym", "definition") if kind == "forward" else ("definition", "acronym")
    for text in phrasings:
        assert text.count(f"{{{needed}}}") == 1 and f"{{{other}}}" not in text, text
        assert text.count("{where}") == 1, text
        assert set(re.findall(r"\{(\w*)\}", text)) <= {needed, "where"}, text


def test_answers_hold_what_is_asked() -> None:
    assert all("{definition}" in text for text in BANK.answers["forward"])
    assert all("{acronym}" in text for text in BANK.answers["reverse"])
    assert all("{definition}" not in text for text in BANK.answers["unknown"])


def test_general_questions_are_apart() -> None:
    train, test = ([row["question"] for row in rows] for rows in (BANK.general_train, BANK.general_test))
    assert len(set(train)) == len(train) and len(set(test)) == len(test)
    close = {(one, other) for one, other in product(train, test) if fuzz.ratio(one, other) >= LEAK_RATIO}
    assert not close
    assert all(row["expected"] and all(row["expected"]) for row in [*BANK.general_train, *BANK.general_test])


def test_fill_leaves_braces_of_a_definition_alone() -> None:
    filled = fill(
        "{acronym}{where}: {definition}", acronym="A", definition='say "{acronym}" {x} \\1', where=" in {definition}"
    )
    assert filled == 'A in {definition}: say "{acronym}" {x} \\1'


def test_skeleton_takes_out_whole_words_alone() -> None:
    entry = Entry("IS (law)", "IS", "Internal {State}", field="law", ambiguous=True)
    assert skeleton("Is this what IS in law means? (internal {state})", entry) == "this what means"
