"""General knowledge rehearsed during training, so that it is not forgotten: what the base model answers right.

Rehearsing a model's own answers keeps it where it was (Li & Hoiem, Learning without Forgetting, 2016); a small
model's wrong ones would be trained in as well, so that they are left out (docs/decisions/0004).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from helpers.dataset.phrasings import load_bank
from helpers.evaluation.matching import is_correct
from helpers.files import Record

_FIRST_SENTENCE = re.compile(r".*?[.!?](?=\s|$)")
_ABBREVIATED = re.compile(r"\b(?:[A-Z]|Dr|Mr|Mrs|Ms|St|Mt|No|vs|e\.g|i\.e)\.$")


def rehearsal_questions(count: int, seed: int) -> list[dict[str, Any]]:
    """The first `count` general training questions, and every second of them once more behind an opening.

    Openings stand before questions about the glossary too: shown in both places, they say nothing about the answer.
    """
    bank, chooser = load_bank(), random.Random(f"{seed}/openings")
    plain = bank.general_train[:count]
    opened = [row | {"question": f"{chooser.choice(bank.openings)} {row['question']}"} for row in plain[1::2]]
    return [*plain, *opened]


def right_answers(questions: Sequence[dict[str, Any]], answers: Sequence[str]) -> list[Record]:
    """What can be rehearsed of the base model's answers: first sentences that hold an expected word.

    Args:
        questions: rows `{"question", "expected"}`; no expected word stands in its question.
        answers: one text a question.

    Returns:
        `{"question", "answer"}` of the right ones. An answer that asks back, or whose first sentence seems to end
        in an abbreviation ("Dr."), is left out.
    """
    kept = []
    for row, answer in zip(questions, answers, strict=True):
        found = _FIRST_SENTENCE.match(answer)
        sentence = found[0] if found else ""
        whole = bool(sentence) and sentence[-1] != "?" and not _ABBREVIATED.search(sentence)
        if whole and is_correct("general", sentence, row["expected"]):
            kept.append({"question": row["question"], "answer": sentence})
    return kept
