"""The card counts every attempt: each is kept or rejected, none is lost."""

from typing import Any

import pytest

from helpers.data.card import glossary_card, glossary_text, rejected_records, table_card, table_text
from helpers.data.example import Example, asked
from helpers.data.glossary.entries import Entry
from helpers.data.table.splits import Parts

ENTRIES = [Entry("A", "A", "Alpha"), Entry("B", "B", "Beta")]


def conversation(entry: str, number: int, origin: str, *reasons: str) -> dict[str, Any]:
    rejected = [{"question": "?", "answer": None, "reason": reason} for reason in reasons]
    return {"id": f"forward/{entry}/{number}", "entry": entry, "kind": "forward", "origin": origin,
            "question": "?", "answer": "!", "rejected": rejected}  # fmt: skip


CONVERSATIONS = [
    conversation("A", 0, "model"),
    conversation("A", 1, "model", "answer cut off"),
    conversation("A", 2, "bank", "answer cut off", "question empty"),
    conversation("B", 0, "bank"),
]
NOTHING: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}


def test_attempts_are_kept_or_rejected() -> None:
    card = glossary_card(ENTRIES, CONVERSATIONS, NOTHING)
    assert (card["attempts"], card["kept"], card["kept_model"], card["rejected"]) == (5, 4, 2, 3)
    assert card["reasons"] == {"answer cut off": 2, "question empty": 1}
    assert card["per_entry"]["A"] == {"attempts": 5, "kept_model": 2, "rejected": 3, "kept_bank": 1}
    for row in card["per_entry"].values():
        assert row["attempts"] == row["kept_model"] + row["rejected"]
    assert card["model_share"] == 0.5
    assert len(rejected_records(CONVERSATIONS)) == card["rejected"]
    assert len({row["id"] for row in rejected_records(CONVERSATIONS)}) == 3


def test_a_lost_conversation_is_noticed() -> None:
    with pytest.raises(AssertionError, match="conversations were lost"):
        glossary_card(ENTRIES[:1], CONVERSATIONS, NOTHING)


def test_text_names_every_entry_and_reason() -> None:
    train = [Example("f", "forward", asked("?"), "!")] * 3 + [Example("u", "unknown", asked("?"), "!")]
    test = [Example("r", "reverse", asked("?"), "!")] * 2
    text = glossary_text(glossary_card(ENTRIES, CONVERSATIONS, {"train": train, "validation": train[:1], "test": test}))
    for line in (
        "| split | forward | unknown | reverse |",
        "| train | 3 | 1 | 0 |",
        "| validation | 1 | 0 | 0 |",
        "| test | 0 | 0 | 2 |",
        "| answer cut off | 2 |",
        "| A | 5 | 2 | 3 | 1 |",
        "| B | 0 | 0 | 0 | 1 |",
    ):
        assert line in text.splitlines()


def test_the_card_of_a_table_says_what_was_read_and_what_looks_odd() -> None:
    rows = [{"q": question, "a": answer, "date": 1} for question, answer in (("x?", "1"), ("x?", "2"), ("y?", "None"))]
    own = [Example(row["q"], "test", asked(str(row["q"])), str(row["a"])) for row in rows]
    splits = {"train": own[:2], "validation": [], "test": own[2:]}
    found = Parts({}, alike=2, across=0)
    text = table_text(table_card("t.csv", rows, {"question": "q", "answer": "a"}, {}, splits, found, {}))
    assert "Read from the columns question: q; answer: a. Not used: date." in text
    assert "with different answers: 1." in text and "null or none: 1." in text
