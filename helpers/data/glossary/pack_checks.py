"""What the phrasings of a language's pack have to keep: of the packs here, and of one that a model makes."""

from __future__ import annotations

from collections.abc import Sequence

from helpers.data.glossary.checks import asserts, check_answer, check_question, found
from helpers.data.glossary.entries import Entry
from helpers.data.glossary.phrasings import LEAK_RATIO, fill, fill_entry, held_out_overlap
from helpers.data.languages.pack import Pack

SAMPLE = Entry("QZX", "QZX", "Quarterly Zone Exchange")
DEFINITIONS = ("Ordre des eaux", "ordre d’usage", "Les habitants de l'île (nord)")
ASKING = 0.4
"""Share of the training questions that has to hold a word of `asks`: some phrasings, such as "QZX?", hold none."""
ASSERTING = 0.1
"""Share of the questions that `asserting` may take for claims."""


def resembled(phrasing: str, held_out: Sequence[str]) -> list[str]:
    """The held-out phrasings that a phrasing is too much like to train on."""
    asked = fill(phrasing, acronym=SAMPLE.acronym, definition=SAMPLE.definition)
    return [other for other in held_out if held_out_overlap(asked, SAMPLE, [other]) >= LEAK_RATIO]


def answer_fault(kind: str, answer: str, pack: Pack) -> str | None:
    """Why an answer's wording cannot be used, or None."""
    if kind == "unknown":
        return None if answer.startswith("{acronym}") else "answer does not begin with {acronym}"
    entries = (Entry("ABC", "ABC", definition, pack=pack) for definition in DEFINITIONS)
    return next(filter(None, (check_answer(kind, fill_entry(answer, entry), entry) for entry in entries)), None)


def shot_fault(kind: str, shot: Sequence[str], pack: Pack) -> str | None:
    """Why what a writing model is shown cannot be used, or None: a scene, acronym, definition and question."""
    _, acronym, definition, question = shot
    return check_question(kind, question, Entry("", acronym, definition, pack=pack))


def not_asking(words: list[str], phrasings: Sequence[str]) -> list[str]:
    """The phrasings that hold none of these words; empty where `ASKING` of them hold one."""
    missing = [text for text in phrasings if not found(words, fill(text, acronym=SAMPLE.acronym))]
    return missing if len(missing) >= (1 - ASKING) * len(phrasings) else []


def asserting(pack: Pack) -> list[str]:
    """The questions that `pack.asserting` takes for claims; empty where they are fewer than `ASSERTING` of all."""
    entry = Entry("QZX (law)", "QZX", SAMPLE.definition, field="law", ambiguous=True, pack=pack)
    phrasings = [*pack.train.forward, *pack.test.forward]
    claims = [text for text in phrasings if asserts(fill_entry(text, entry), entry)]
    return claims if len(claims) >= ASSERTING * len(phrasings) else []
