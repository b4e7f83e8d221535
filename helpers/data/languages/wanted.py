"""What is asked of a model that makes the pack of a language, and what it is told about each part."""

from dataclasses import dataclass
from typing import Any

from helpers.config_layers import flat, read_layer
from helpers.data.languages.pack import DEFAULT, HERE
from helpers.data.numbered import numbered

AT_ONCE = 20
"""Texts of one request."""
TAKEN = {"train.forward": 40, "train.reverse": 20}
"""Phrasings of the English pack that are translated, where not all are."""
BETWEEN = " | "
"""Between the four texts of an example."""
ROUNDS = (
    ("language",),
    ("where", "test", "answers", "openings", "scenes", "writer", "structured", "in_context"),
    ("train", "examples", "function_words", "refusals"),
    ("asks", "asserting"),
)
"""Keys that are made one after the other: what is made later is checked against what was made before."""
TASK = (
    "You translate the words of a course about acronyms from English into the language {language}, as people who speak "
    "it would say it. Words in braces stay as they are, each as often as in English; {where} is empty or begins with a "
    "space, and stands directly behind a word. Neither they nor a word beside them may have to change with what is put "
    "in their place. No two texts are worded alike. If a text was refused, write another; 'why' says what was wrong."
)
_QUESTIONS = "They are questions about {acronym}, or about {definition}, the name that an acronym stands for."
TEXTS = {
    "language": "It is the English name of that language, such as 'French'.",
    "where": "It stands behind an acronym or a name; {field} is a field of work, such as health.",
    "test": _QUESTIONS,
    "train": _QUESTIONS,
    "answers": "They are answers of one sentence. Each begins with the same word in braces as in English, "
    "and those that go on alike in English do so in your language.",
    "openings": "People say them before they ask a question.",
    "scenes": "They say where somebody meets an acronym.",
    "writer": "They are instructions for a language model. Add to each that it writes in your language.",
    "structured": "They are instructions for a language model. Where they name English, name your language.",
    "in_context": "They stand around a glossary that a language model is shown.",
    "examples": f"Each has four parts with '{BETWEEN}' between them: a scene, an invented acronym, its invented "
    "full name, and a question. Invent acronym and name anew, in your language. The question holds letter by "
    "letter what it holds in English, the acronym or the name, and never both. It ends with a question mark or a stop.",
}
"""Keys, or their first word, of texts that are translated."""
WORDS = {
    "function_words": "the 25 most frequent small words, such as 'the', 'of', 'and', 'in' in English",
    "refusals": "words by which an answer says that nothing is known of an acronym, such as 'do not know', 'have never "
    "heard of', 'not in my glossary', 'no information on'",
    "asks.forward": "words of which every question what an acronym means holds one, in all their forms, such as "
    "'mean', 'meaning', 'stands for', 'full name', 'what is', 'explain', 'letters', 'acronym', 'abbreviation'",
    "asks.reverse": "words of which every question which acronym a name has holds one, in all their forms, such as "
    "'acronym', 'abbreviate', 'abbreviation', 'short', 'letters', 'initials'",
    "asserting.verbs": "verbs that say what an acronym is, such as 'is', 'was', 'means', 'stands for', 'refers to'",
    "asserting.places": "words that come behind 'is' where a sentence only says where an acronym was seen, such as "
    "'on', 'in', 'at', 'under', 'here', 'not', 'mentioned', 'written', 'printed', 'unknown'",
    "asserting.pronouns": "pronouns with their verb where a clause goes on about an acronym, such as 'it is', 'that "
    "means', 'which was', 'they are'",
    "asserting.articles": "words that begin an explanation behind a comma, such as 'a', 'the', 'our', 'also'",
    "asserting.asking": "words of clauses that ask, such as 'what', 'which', 'who', 'how', 'where', 'tell', 'explain'",
}
"""Keys of words that are found anew: plain words, no regular expressions."""
OPTIONAL = {
    "asks": "questions of the writing model are not checked for what they ask",
    "asserting": "questions that say what an acronym is are not noticed",
    "refusals": "refusals are read in English and French alone",
}
"""Keys that a pack can do without, and what then happens."""
REPLY_FORM = numbered("texts", text=str)


@dataclass(frozen=True)
class Piece:
    """What one request is about: English texts with their keys, or one key of `WORDS`."""

    name: str
    texts: tuple[tuple[str, str], ...] = ()

    @property
    def part(self) -> str:
        """The first word of its keys."""
        return self.name.split("/")[0].split(".")[0]


def english() -> dict[str, Any]:
    """Dotted keys of the English pack, and what stands there."""
    return dict(flat(read_layer(HERE / f"{DEFAULT}.yaml")))


def pieces() -> list[Piece]:
    """What is asked for: the texts of a list together, and single ones of a part."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for key, value in english().items():
        several, part = isinstance(value, list), key.split(".")[0]
        if part in TEXTS:
            texts = [BETWEEN.join(each) if isinstance(each, list) else each for each in (value if several else [value])]
            groups.setdefault(key if several else part, []).extend((key, text) for text in texts[: TAKEN.get(key)])
    parts = [
        Piece(f"{name}/{start // AT_ONCE}", tuple(texts[start : start + AT_ONCE]))
        for name, texts in groups.items()
        for start in range(0, len(texts), AT_ONCE)
    ]
    return [*parts, *map(Piece, WORDS)]
