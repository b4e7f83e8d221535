"""What a written conversation must fulfil; every refusal has a reason that is counted in the dataset card."""

from __future__ import annotations

import re

from helpers.data.glossary.entries import Entry
from helpers.data.glossary.phrasings import LEAK_RATIO, held_out_overlap, load_bank

ASKS_MEANING = re.compile(
    r"\b(mean|means|meant|meaning|stand|stands|short for|full name|full form|long form|what is|what's|what are|"
    r"explain|abbreviat\w*|definition|define|letters|spell|acronym|expand|refers?)\b",
    re.IGNORECASE,
)
ASKS_ACRONYM = re.compile(r"\b(acronym|abbreviat\w*|short|shorten\w*|letters|initials|code|call)\b", re.IGNORECASE)
MAX_QUESTION_WORDS = 32
MAX_OTHER_WORDS = 8
"""Words of an answer that are neither the definition's nor the entry's: past these the writer invents facts."""


def check_question(kind: str, question: str, entry: Entry) -> str | None:
    """Why a question cannot be used, or None.

    Args:
        kind: `forward` (asks what the acronym means) or `reverse` (asks for the acronym).
        question: the model's wording.
        entry: what it should ask about.
    """
    if not question:
        return "question empty"
    if len(question.split()) > MAX_QUESTION_WORDS + len(entry.definition.split()):
        return "question too long"
    if "\n" in question or question[-1] not in "?.!":
        return "question cut off"
    names, defines = _mentions(entry.acronym, question), _holds(entry.definition, question)
    if kind == "forward":
        if not names:
            return "question without the acronym"
        if defines:
            return "question gives the definition away"
        if not ASKS_MEANING.search(question):
            return "question asks something else"
        if re.search(rf"{re.escape(entry.acronym)}\W+(stands for|means|refers to) \w+ \w+", question):
            return "question asserts a meaning"
    else:
        if not defines:
            return "question without the definition"
        if names:
            return "question gives the acronym away"
        if not ASKS_ACRONYM.search(question):
            return "question asks something else"
    if entry.ambiguous and entry.field.casefold() not in question.casefold():
        return "question does not name the field"
    bank = load_bank()
    held_out = bank.forward_test if kind == "forward" else bank.reverse_test
    if held_out_overlap(question, entry, held_out) >= LEAK_RATIO:
        return "question is a held-out phrasing"
    return None


def check_answer(kind: str, answer: str, entry: Entry) -> str | None:
    """Why an answer cannot be used, or None; arguments as for `check_question`."""
    if not answer or "\n" in answer:
        return "answer empty" if not answer else "answer has several lines"
    if answer[-1] not in ".!":
        return "answer cut off"
    if kind == "forward" and not _holds(entry.definition, answer):
        return "answer without the definition"
    if kind == "reverse" and not _mentions(entry.acronym, answer):
        return "answer without the acronym"
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


def _mentions(acronym: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(acronym)}(?!\w)", text) is not None


def _holds(definition: str, text: str) -> bool:
    return " ".join(definition.casefold().split()) in " ".join(text.casefold().split())
