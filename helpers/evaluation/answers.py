"""Prompts of the in-context baseline: the nearest glossary lines or training rows, then the question."""

import re
from collections.abc import Sequence

from rapidfuzz import fuzz, process, utils

from helpers.data.example import Example, Message
from helpers.data.glossary.entries import Entry


def glossary_messages(test: Sequence[Example], entries: Sequence[Entry], count: int) -> list[list[Message]]:
    """Each question behind the `count` glossary lines nearest to it: what retrieval gives without any training.

    Lines are ranked by the words they share with the question, never by the answer, so that an unknown acronym
    is shown its neighbours and a general question whatever is nearest.
    """
    words, asked = entries[0].pack.in_context, []
    for example in test:
        question = example.question
        nearest = sorted(entries, key=lambda entry: -_closeness(question, entry))[:count]
        lines = [f"{e.acronym}{f' ({e.field})' if e.field else ''}: {e.definition}" for e in nearest]
        told = [words.glossary, *lines, "", words.unknown, "", words.question.replace("{question}", question)]
        asked.append([{"role": "user", "content": "\n".join(told)}])
    return asked


def nearest_rows_messages(test: Sequence[Example], train: Sequence[Example], count: int) -> list[list[Message]]:
    """Each question behind the `count` training questions nearest to it, with their answers."""
    questions = [example.question for example in train]
    asked = []
    for example in test:
        close = process.extract(example.question, questions, scorer=fuzz.token_set_ratio, limit=count)
        shown = [f"Question: {question}\nAnswer: {train[place].answer}" for question, _, place in close]
        told = "\n\n".join(["Questions with their answers:", *shown, f"Answer this question: {example.question}"])
        asked.append([*example.prompt[:-1], {"role": "user", "content": told}])
    return asked


def _closeness(question: str, entry: Entry) -> float:
    words = re.findall(r"[\w/-]+", question)
    acronym = max((fuzz.ratio(word, entry.acronym) for word in words), default=0.0)
    definition = fuzz.partial_ratio(entry.definition, question, processor=utils.default_process)
    field = 5.0 if entry.field and entry.field.casefold() in question.casefold() else 0.0
    return max(acronym, definition) + field
