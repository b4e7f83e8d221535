"""The phrasing bank: ways to ask, to answer and to decline, and the general questions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from rapidfuzz import fuzz, utils

from helpers.data.glossary.entries import Entry

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
    general_train: list[dict[str, Any]]
    general_test: list[dict[str, Any]]


@cache
def load_bank() -> Bank:
    """Read the two YAML files that ship beside this module."""
    phrasings = yaml.safe_load((HERE / "phrasings.yaml").read_text(encoding="utf-8"))
    general = yaml.safe_load((HERE / "general.yaml").read_text(encoding="utf-8"))
    for rows in phrasings["examples"].values():
        rows[:] = [(scene, Entry("", acronym, meaning), asked) for scene, acronym, meaning, asked in rows]
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
    return " ".join(utils.default_process(question).split())


def held_out_overlap(question: str, entry: Entry, held_out: list[str]) -> float:
    """Highest similarity (0 to 100) between a question's phrasing and the held-out phrasings."""
    phrasing = skeleton(question, entry)
    blanks = [" ".join(utils.default_process(fill(text)).split()) for text in held_out]
    return max((fuzz.ratio(phrasing, blank) for blank in blanks), default=0.0)
