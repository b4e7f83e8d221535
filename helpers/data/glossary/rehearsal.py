"""General knowledge rehearsed during training, so that it is not forgotten: what the base model answers right.

Rehearsing a model's own answers keeps it where it was (Li & Hoiem, Learning without Forgetting, 2016); a small
model's wrong ones would be trained in as well, so that they are left out (docs/decisions/0004).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from helpers.data.example import GENERAL, Example, asked
from helpers.data.glossary.phrasings import load_bank
from helpers.data.matching import is_correct
from helpers.files import Record

if TYPE_CHECKING:
    from helpers.models.generate import Generated


def rehearsal_questions(count: int, seed: int) -> list[dict[str, Any]]:
    """The first `count` general training questions, and every second of them once more behind an opening.

    Openings stand before questions about the glossary too: shown in both places, they say nothing about the answer.
    """
    bank, chooser = load_bank(), random.Random(f"{seed}/openings")
    plain = bank.general_train[:count]
    opened = [row | {"question": f"{chooser.choice(bank.openings)} {row['question']}"} for row in plain[1::2]]
    return [*plain, *opened]


def right_answers(questions: Sequence[dict[str, Any]], answers: Sequence[Generated]) -> list[Record]:
    """What can be rehearsed of the base model's answers: those that hold an expected word and ended by themselves.

    An answer is kept whole or not at all. Cut after the sentence that tells, it would teach the model to stop there,
    and what it used to say in its second sentence would be lost (docs/decisions/0004).

    Args:
        questions: rows `{"question", "expected"}`; no expected word stands in its question.
        answers: one a question. Those that were cut off or ask back are left out.

    Returns:
        `{"question", "answer"}` of the right ones.
    """
    return [
        {"question": row["question"], "answer": answer.text}
        for row, answer in zip(questions, answers, strict=True)
        if answer.stopped and "?" not in answer.text and is_correct("contains", answer.text, row["expected"])
    ]


def rehearsed_examples(rows: Sequence[Record]) -> list[Example]:
    """Training examples of `right_answers`."""
    return [
        Example(f"general/{number:03d}", GENERAL, asked(row["question"]), row["answer"], origin="model")
        for number, row in enumerate(rows)
    ]


def general_examples(count: int) -> list[Example]:
    """Test examples of common knowledge, none of which is rehearsed: the first `count` of the phrasing bank."""
    examples = []
    for number, row in enumerate(load_bank().general_test[:count]):
        right, question = tuple(row["expected"]), asked(row["question"])
        examples.append(Example(f"general/{number:03d}", GENERAL, question, f"{right[0]}.", right, "contains"))
    return examples
