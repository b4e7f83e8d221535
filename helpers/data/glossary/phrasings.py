"""The phrasing bank: ways to ask, to answer and to decline, and general questions for rehearsal and test.

General knowledge is rehearsed during training, so that it is not forgotten. Rehearsing a model's own answers keeps it
where it was (Li & Hoiem, Learning without Forgetting, 2016); a small model's wrong ones would be trained in as well, so
that they are left out (docs/decisions/0004).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from rapidfuzz import fuzz, utils

from helpers.data.example import GENERAL, Example, asked
from helpers.data.glossary.entries import Entry
from helpers.data.matching import is_correct
from helpers.files import Record

HERE = Path(__file__).parent
LEAK_RATIO = 80.0
"""From this rapidfuzz ratio on (0 to 100, slots removed), two phrasings count as the same one reworded slightly."""


@dataclass(frozen=True)
class Bank:
    """The contents of phrasings.yaml and general.yaml; slots are {acronym}, {definition} and {where}.

    `train`, `test`: kind (`forward`, `reverse`) to questions. `answers`: kind, or `unknown`, to answers. `examples`:
    kind to what the writing model is shown: a scene, an invented entry and the question about it.
    """

    train: dict[str, list[str]]
    test: dict[str, list[str]]
    answers: dict[str, list[str]]
    examples: dict[str, list[tuple[str, Entry, str]]]
    openings: list[str]
    scenes: list[str]
    general_train: list[Record]
    general_test: list[Record]


@cache
def load_bank() -> Bank:
    """Read the two YAML files that ship beside this module."""
    phrasings, general = (yaml.safe_load((HERE / name).read_bytes()) for name in ("phrasings.yaml", "general.yaml"))
    for rows in phrasings["examples"].values():
        rows[:] = [(scene, Entry("", acronym, meaning), question) for scene, acronym, meaning, question in rows]
    return Bank(**phrasings, general_train=general["train"], general_test=general["test"])


def fill(phrasing: str, *, acronym: str = "", definition: str = "", where: str = "") -> str:
    """Fill the slots in one pass, so that braces inside a definition stay as they are."""
    values = {"acronym": acronym, "definition": definition, "where": where}
    return re.sub(r"\{(acronym|definition|where)\}", lambda slot: values[slot[1]], phrasing)


def fill_entry(phrasing: str, entry: Entry) -> str:
    """Fill the slots with an entry's own values."""
    return fill(phrasing, acronym=entry.acronym, definition=entry.definition, where=entry.where)


def skeleton(question: str, entry: Entry) -> str:
    """The question with the entry's own words taken out: what is left is its phrasing."""
    for words in (entry.definition, entry.acronym, entry.where.strip()):
        if words:  # whole words: the acronym IS does not stand in "this"
            question = re.sub(rf"(?<!\w){re.escape(words)}(?!\w)", " ", question, flags=re.IGNORECASE)
    return _plain(question)


def held_out_overlap(question: str, entry: Entry, held_out: list[str]) -> float:
    """Highest similarity (0 to 100) between a question's phrasing and the held-out phrasings."""
    phrasing = skeleton(question, entry)
    return max((fuzz.ratio(phrasing, _plain(fill(text))) for text in held_out), default=0.0)


def rehearsal_questions(count: int, seed: int) -> list[Record]:
    """The first `count` general training questions, and every second of them once more behind an opening.

    Openings stand before questions about the glossary too: shown in both places, they say nothing about the answer.
    """
    bank, chooser = load_bank(), random.Random(f"{seed}/openings")
    plain = bank.general_train[:count]
    opened = [row | {"question": f"{chooser.choice(bank.openings)} {row['question']}"} for row in plain[1::2]]
    return [*plain, *opened]


def right_answers(questions: Sequence[Record], answers: Sequence[tuple[str, int, bool]]) -> list[Record]:
    """Keep answers of the base model that are right, ended by themselves and ask nothing: `{"question", "answer"}`.

    `questions` are rows `{"question", "expected"}`, `answers` one for each, of `helpers.models.generate`: text, number
    of tokens, and whether the model stopped by itself.

    An answer is kept whole or not at all. Cut after the sentence with the fact, it would teach the model to stop there,
    and what it used to say in its second sentence would be lost (docs/decisions/0004).
    """
    return [
        {"question": row["question"], "answer": text}
        for row, (text, _, stopped) in zip(questions, answers, strict=True)
        if stopped and "?" not in text and is_correct("contains", text, row["expected"])
    ]


def rehearsed_examples(rows: Sequence[Record]) -> list[Example]:
    """Training examples of `right_answers`."""
    return [
        Example(f"general/{number:03d}", GENERAL, asked(row["question"]), row["answer"], origin="model")
        for number, row in enumerate(rows)
    ]


def general_examples(count: int) -> list[Example]:
    """Test examples of common knowledge, none of which is rehearsed: the first `count` of the bank."""
    examples = []
    for number, row in enumerate(load_bank().general_test[:count]):
        right, question = tuple(row["expected"]), asked(row["question"])
        examples.append(Example(f"general/{number:03d}", GENERAL, question, f"{right[0]}.", right, "contains"))
    return examples


def _plain(text: str) -> str:
    return " ".join(utils.default_process(text).split())
