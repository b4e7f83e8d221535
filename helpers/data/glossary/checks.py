"""What a written conversation must fulfil; every refusal has a reason that is counted in the dataset card."""

from __future__ import annotations

import re

from helpers.data.glossary.entries import Entry
from helpers.data.glossary.phrasings import LEAK_RATIO, held_out_overlap, load_bank

NAMES = {"forward": ("acronym", "definition"), "reverse": ("definition", "acronym")}
"""What a question of each kind names, and what its answer tells."""
ASKS = {
    "forward": re.compile(
        r"\b(mean|means|meant|meaning|stand|stands|short for|full name|full form|long form|what is|what's|what are|"
        r"explain|abbreviat\w*|definition|define|letters|spell|acronym|expand|refers?)\b",
        re.IGNORECASE,
    ),
    "reverse": re.compile(r"\b(acronym|abbreviat\w*|short|shorten\w*|letters|initials|code|call)\b", re.IGNORECASE),
}
MAX_QUESTION_WORDS = 32
MAX_OTHER_WORDS = 8
"""Words of an answer that are neither the definition's nor the entry's: past these the writer invents facts."""


def check_question(kind: str, question: str, entry: Entry) -> str | None:
    """Why a question about an entry cannot be used, or None; `kind`: `forward` or `reverse`."""
    if not question:
        return "question empty"
    if len(question.split()) > MAX_QUESTION_WORDS + len(entry.definition.split()):
        return "question too long"
    if "\n" in question or question[-1] not in "?.!":
        return "question cut off"
    (named, told), found = NAMES[kind], _found(entry, question)
    if not found[named]:
        return f"question without the {named}"
    if found[told]:
        return f"question gives the {told} away"
    if not ASKS[kind].search(question):
        return "question asks something else"
    asserts = rf"{re.escape(entry.acronym)}\W+(stands for|means|refers to) \w+ \w+"
    if kind == "forward" and re.search(asserts, question):
        return "question asserts a meaning"
    if entry.ambiguous and entry.field.casefold() not in question.casefold():
        return "question does not name the field"
    if held_out_overlap(question, entry, load_bank().test[kind]) >= LEAK_RATIO:
        return "question is a held-out phrasing"
    return None


def check_answer(kind: str, answer: str, entry: Entry) -> str | None:
    """Why an answer cannot be used, or None."""
    if not answer or "\n" in answer:
        return "answer empty" if not answer else "answer has several lines"
    if answer[-1] not in ".!":
        return "answer cut off"
    told = NAMES[kind][1]
    if not _found(entry, answer)[told]:
        return f"answer without the {told}"
    said_first = entry.acronym if kind == "forward" else entry.definition
    if not answer.casefold().startswith(said_first.casefold()):
        return "answer does not begin by reading back what was asked"
    if re.match(r"\W*[=:]", answer[len(said_first) :]):
        return "answer is a formula, not a sentence"
    own = {entry.acronym, *re.findall(r"[\w/-]+", f"{entry.acronym} {entry.definition}")}
    if any(token not in own for token in re.findall(r"\b[A-Z][A-Z0-9/-]+\b", answer)):
        return "answer names another acronym"
    rest = re.sub(re.escape(entry.definition), " ", answer, flags=re.IGNORECASE)
    known = set(re.findall(r"\w+", f"{entry.acronym} {entry.definition} {entry.verbose_def}".casefold()))
    if sum(word not in known for word in re.findall(r"\w+", rest.casefold())) > MAX_OTHER_WORDS:
        return "answer adds facts of its own"
    return None


def _found(entry: Entry, text: str) -> dict[str, bool]:
    """Whether a text holds the acronym, as a whole word and in its case, and the definition, in any case."""
    return {
        "acronym": re.search(rf"(?<!\w){re.escape(entry.acronym)}(?!\w)", text) is not None,
        "definition": " ".join(entry.definition.casefold().split()) in " ".join(text.casefold().split()),
    }
