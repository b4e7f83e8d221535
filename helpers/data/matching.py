"""Decide whether an answer is right by looking for the expected words in it.

Plain containment agrees better with people than small language models used as judges do, and never changes
its mind. Its weak side, an answer that lists everything, is met by the cap on the length of answers.
"""

import re
import unicodedata
from collections.abc import Sequence

from helpers.data.example import Check

_STRAIGHT = str.maketrans("‘’‚‛ʼ`´“”„‟«»‐‑‒–—−", "'''''''\"\"\"\"\"\"------", "\u00ad\u200b\u200c\u200d\u2060\ufeff")
# Scripts written without spaces between words, and Hangul, whose particles are attached to the word: every
# character counts as a word there, so that a term is found inside a sentence.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_CARRIES_MEANING = "+#%€$£"  # C++ is not C, and 5 % is not 5.

_DECLINES = re.compile(
    r"""\b(?:
      (?:do|does|did|could|can|would)(?:\ not|n't|nt)\ (?:\w+\ )?(?:know|recogni[sz]e|identify|find)
    | (?:do|does|did)(?:\ not|n't|nt)\ have\ (?:\w+\ ){0,3}?(?:definition|information|meaning|record|entry)
    | cannot\ (?:\w+\ )?(?:find|identify|recogni[sz]e|say\ what|tell)
    | (?:am|is|i'm)\ not\ (?:sure|certain|aware|able\ to)
    | (?:not|un)\ ?familiar
    | unable\ to\ (?:\w+\ )?(?:find|identify|recogni[sz]e|determine)
    | no\ (?:\w+\ )?(?:definition|information|idea|record|entry|meaning)
    | never\ heard
    | unknown\ (?:acronym|abbreviation|term|to\ me)
    | (?:acronym|abbreviation|term)\ is\ (?:unknown|not\ known)
    | not\ (?:\w+\ ){0,3}?(?:known|recogni[sz]ed|valid)\ (?:acronym|abbreviation|term)
    | (?:not|isn't)\ (?:\w+\ ){0,2}?in\ (?:my|the|our|this)\ (?:glossary|list|dictionary)
    )\b""",
    re.VERBOSE,
)
_GUESSES_ALL_THE_SAME = re.compile(r"\b(?:but|however)\b.*\b(?:stands? for|means?|short for|refers? to)\b")


def normalise(text: str, *, keep_case: bool = False) -> str:
    """Fold what does not change a term: case, typographic variants, punctuation and runs of blanks.

    Letters, digits and marks of every script stay, and so do apostrophes and decimal points inside words; `H₂O` becomes
    `h2o` (Unicode NFKC).
    """
    text = unicodedata.normalize("NFKC", text)
    if not keep_case:
        text = unicodedata.normalize("NFKC", text.casefold())
    text = text.translate(_STRAIGHT).replace("&", " and ")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)  # 100,000 does not contain the number 100.
    kept = (c if unicodedata.category(c)[0] in "LNM" or c in _CARRIES_MEANING + "'." else " " for c in text)
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", " ", "".join(kept))
    return " ".join(re.sub(r"(?<!\w)'|'(?!\w)", " ", text).split())


def words(text: str, *, keep_case: bool = False) -> list[str]:
    """Split a text into comparable words; scripts without spaces give one word a character."""
    return _UNSPACED.sub(r" \g<0> ", normalise(text, keep_case=keep_case)).replace("'", " ").split()


def contains(answer: str, expected: str, *, keep_case: bool = False) -> bool:
    """Whether the expected words, one or more, stand whole and in order in the answer; `keep_case`: IT is not it."""
    needle = words(expected, keep_case=keep_case)
    return bool(needle) and f" {' '.join(needle)} " in f" {' '.join(words(answer, keep_case=keep_case))} "


def declines(answer: str) -> bool:
    """Whether the answer says, in English, that it does not know; going on to guess does not count."""
    text = normalise(answer)
    found = _DECLINES.search(text)
    return found is not None and _GUESSES_ALL_THE_SAME.search(text, found.end()) is None


def is_correct(check: Check, answer: str, expected: Sequence[str]) -> bool | None:
    """Whether an answer passes the check of an `Example` with these expected wordings; None for the check `none`."""
    if check == "none":
        return None
    if check == "declines" or declines(answer):
        return check == "declines" and declines(answer)
    return any(contains(answer, wording, keep_case=check == "contains_cased") for wording in expected)
