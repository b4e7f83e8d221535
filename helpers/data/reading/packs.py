"""The words by which answers are read, from the packs of all languages together.

An answer is read without knowing its language: models answer French questions in English, and terms of both stand in
one sentence. Few words mean different things in two languages, and those stand in longer patterns, or are left out.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator

from helpers.config import Section

_LETTERS = str.maketrans(
    {"œ": "oe", "Œ": "Oe", "æ": "ae", "Æ": "Ae", "ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}
)


def unaccented(text: str) -> str:
    """Latin letters without accents and ligatures; marks of other scripts carry the word and stay."""
    text = re.sub(r"(?<=[A-Za-z])[\u0300-\u036f]+", "", unicodedata.normalize("NFD", text.translate(_LETTERS)))
    return unicodedata.normalize("NFC", text)


def regular(text: str) -> str:
    """The text, if it is a regular expression; else ValueError."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


def _folded(entry: str) -> str:
    """An entry as it meets folded text; ~ stands for up to three words."""
    return regular(unaccented(entry).replace("~", r"(?:[\w-]+ ){0,3}?"))


Patterns = list[Annotated[str, AfterValidator(_folded)]]


class Reading(Section):
    """The key `reading` of a pack, or of all of them.

    Of words: `function_words` may be missing between two words of a term; `elided` stand before an apostrophe;
    `numbers` are words of numbers, with `links` between them, and `not_alone` are those that by themselves may mean
    something else; `signs` are pairs of a word and its sign; `endings`
    are pairs of a singular and a plural ending, `spellings` pairs of letters that are written either way; `spells`
    stand between a letter and its word.

    Of sentences: `contractions` are pairs of a pattern and what it stands for; `refuses` say that one does not know;
    `denies` deny what follows, `unlike` what follows at once, `behind` what stands before; `no_denial` only look like
    it; `turns` begin a new statement; `retracts` take back all before; `corrects`, `contrasts` and `also` bring a
    second answer, `concedes` one that is not meant; `several` and `choices` join two, unless `no_rival` follows;
    `introduces` stand between a term and its meaning, if `no_meaning` does not follow; `names` stand before an acronym
    or a name, `pronouns` for it; `guesses` introduce a guess, `suggests` and `asks` a question; `indefinite` articles
    begin a description, no name; `describes` stand between what is asked about and a claim of what it is;
    `says_no` are the words of an answer that says no.
    """

    function_words: Patterns
    elided: Patterns
    links: Patterns
    numbers: dict[Annotated[str, AfterValidator(unaccented)], int]
    not_alone: Patterns
    signs: list[tuple[str, str]]
    endings: list[tuple[str, str]]
    spellings: list[tuple[str, str]]
    contractions: list[tuple[str, str]]
    refuses: Patterns
    denies: Patterns
    unlike: Patterns
    no_denial: Patterns
    behind: Patterns
    turns: Patterns
    retracts: Patterns
    corrects: Patterns
    contrasts: Patterns
    concedes: Patterns
    also: Patterns
    several: Patterns
    choices: Patterns
    no_rival: Patterns
    introduces: Patterns
    no_meaning: Patterns
    names: Patterns
    guesses: Patterns
    suggests: Patterns
    asks: Patterns
    pronouns: Patterns
    spells: Patterns
    indefinite: Patterns
    describes: Patterns
    says_no: Patterns


def any_of(entries: Iterable[str]) -> str:
    """A pattern for whole words, of which the first that fits is taken; `-` is part of a word."""
    return rf"(?<![\w-])(?:{'|'.join(entries)})(?![\w-])"
