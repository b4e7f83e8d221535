"""Decide whether an answer is right by reading it: what it says of the expected term, and whether it declines.

Rules agree better with people than small language models used as judges do, and never change their mind. What they
cannot decide is told apart from right and wrong (docs/decisions/0017).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from helpers.data.example import Check
from helpers.data.reading.folding import fold, is_acronym, pattern_of
from helpers.data.reading.rivals import rivals
from helpers.data.reading.statements import TERM, pattern, plainly, refuses, verdict


def contains(answer: str, expected: str, *, keep_case: bool = False) -> bool:
    """Whether the expected words stand whole and in order in the answer; `keep_case`: IT is not it."""
    return pattern_of(expected, cased=keep_case).search(fold(answer)) is not None


def declines(answer: str) -> bool:
    """Whether the answer says that it does not know; going on to guess does not count."""
    return refuses(plainly(fold(answer)))


def is_correct(check: Check, answer: str, expected: Sequence[str]) -> bool | None:
    """Whether an answer passes the check of an `Example` with these expected wordings; to decline, each is one way.

    None where that is undecided, and always for the check `none`.
    """
    if check == "none":
        return None
    if check == "declines":
        return declines(answer) or any(contains(answer, words) for words in expected)
    text = fold(answer)
    for wording in expected:
        text = _marked(text, wording, cased=check == "contains_cased")
    text = pattern("<retracts>").split(plainly(text))[-1]
    if TERM not in text or (second := rivals(text, expected)):
        return False
    said = verdict(text)
    return None if said and second is None else said


def _marked(text: str, wording: str, *, cased: bool) -> str:
    """The text with `TERM` in place of a wording.

    Letters of an acronym have to be meant as one, by their capitals or their place: CARE is not "take care".
    """
    wanted = pattern_of(wording, cased=cased)
    if cased or not (is_acronym(wording) and fold(wording).isalpha()):
        return wanted.sub(TERM, text)
    shouted = text.isupper() and " " in text

    def mark(found: re.Match[str]) -> str:
        before, behind = text[: found.start()], text[found.end() :]
        named = pattern(r'(?:^|<names>|[:"])[ "]*$').search(before) and re.match(r'"?(?:$|[.!?,;:\n)])', behind)
        in_capitals = sum(map(str.isupper, found[0])) > 1 and not shouted
        small = pattern("<pronouns>|<function_words>|<no_meaning>").fullmatch(found[0])
        return TERM if in_capitals or (named and not small) else found[0]

    return wanted.sub(mark, text)
