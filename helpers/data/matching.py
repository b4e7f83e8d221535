"""Decide whether an answer is right by reading it: what it says of the expected term, and whether it declines.

Rules agree better with people than small language models used as judges do, and never change their mind. What they
cannot decide is told apart from right and wrong (docs/decisions/0017).
"""

import re
from collections.abc import Sequence
from itertools import takewhile

from helpers.data.example import Check, Example
from helpers.data.reading.folding import fold, is_acronym, pattern_of
from helpers.data.reading.rivals import rivals
from helpers.data.reading.statements import ASKED, TERM, pattern, plainly, refuses, verdict

_DENIALS = "<denies>|<unlike>|<refuses>|<behind>|<retracts>"
_WORD = re.compile(r"\w[\w/-]*")


def contains(answer: str, expected: str) -> bool:
    """Whether the expected words stand whole and in order in the answer."""
    return pattern_of(expected).search(fold(answer)) is not None


def declines(answer: str, question: str = "") -> bool:
    """Whether the answer says that it does not know; going on to guess does not count."""
    return refuses(plainly(fold(answer)), fold(question))


def is_correct(check: Check, answer: str, expected: Sequence[str], question: str = "") -> bool | None:
    """Whether an answer passes the check of an `Example` with these expected wordings; to decline, each is one way.

    What an answer repeats of the `question` denies nothing: DNR is Do Not Resuscitate.

    None where that is undecided, and always for the check `none`.
    """
    if check == "none":
        return None
    if check == "declines":
        return declines(answer, question) or any(contains(answer, words) for words in expected)
    text = fold(answer)
    for wording in expected:
        text = _marked(text, wording, cased=check == "contains_cased")
    text = pattern("<retracts>").split(_without_echo(plainly(text), question))[-1]
    if TERM not in text or (second := rivals(text, expected)):
        return False
    said = verdict(text)
    return None if said and second is None else said


def is_right(example: Example, answer: str) -> bool | None:
    """Whether an answer passes the check of an example; as `is_correct`."""
    return is_correct(example.check, answer, example.expected, example.question)


def _marked(text: str, wording: str, *, cased: bool) -> str:
    """The text with `TERM` in place of a wording.

    Letters of an acronym have to be meant as one, by their capitals or their place: CARE is not "take care". So has a
    no: it is not in "I have no idea".
    """
    wanted, word = pattern_of(wording, cased=cased), fold(wording)
    if pattern("<says_no>").fullmatch(word) and not (cased or word.isupper()):
        return wanted.sub(lambda found: TERM if _says_no(found) else found[0], text)
    if cased or not (is_acronym(wording) and word.isalpha()):
        return wanted.sub(TERM, text)
    shouted = text.isupper() and re.search(r"[^\W\d]", wanted.sub("", text))

    def mark(found: re.Match[str]) -> str:
        before, behind = text[: found.start()], text[found.end() :]
        named = pattern(r'(?:^|<names>|[:"])[ "]*$').search(before) and re.match(r'\s*"?\s*(?:$|[.!?,;:\n()])', behind)
        in_capitals = sum(map(str.isupper, found[0])) > 1 and not shouted
        small = pattern("<pronouns>|<function_words>|<no_meaning>").fullmatch(found[0])
        return TERM if in_capitals or (named and not small) else found[0]

    return wanted.sub(mark, text)


def _says_no(found: re.Match[str]) -> bool:
    """Whether a no begins the text or ends a statement, and belongs to no phrase such as "no problem"."""
    ends = re.match(r"\W*(?:$|[.!?,;:\n)])", found.string[found.end() :]) is not None
    phrases = pattern("<no_denial>|<refuses>").finditer(found.string)
    inside = any(phrase.start() <= found.start() < phrase.end() for phrase in phrases)
    return (ends or not re.search(r"\w", found.string[: found.start()])) and not inside


def _without_echo(text: str, question: str) -> str:
    """The text with `ASKED` in place of names in the question that would be read as a denial: Do Not Resuscitate."""
    asked = _WORD.findall(plainly(fold(question)))
    names = [asked[at:] for at, word in enumerate(asked) if word[0].isupper()]
    told, parts, end, at = [*_WORD.finditer(text)], [], 0, 0
    while names and at < len(told):
        words = [found[0] for found in told[at:]]
        length = max(_begin_alike(name, words) for name in names)
        run = text[told[at].start() : told[at + length - 1].end()] if length else ""
        if (length > 1 or (len(run) > 1 and run.isupper())) and pattern(_DENIALS).search(run):
            parts += [text[end : told[at].start()], ASKED]
            end = told[at + length - 1].end()
        at += length or 1
    return "".join([*parts, text[end:]])


def _begin_alike(asked: Sequence[str], told: Sequence[str]) -> int:
    """With how many equal words two texts begin; an acronym that was asked about has to be in its capitals."""
    same = (
        one == other or (one.casefold() == other.casefold() and not one.isupper())
        for one, other in zip(asked, told, strict=False)
    )
    return sum(1 for _ in takewhile(bool, same))
