"""What the sentences of a folded answer say: of a term in it, and of not knowing.

`TERM` stands in the text where the expected term stood, so that its own words are not read.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import chain

from helpers.data.languages.pack import load_reading
from helpers.data.reading.packs import any_of

TERM = "ꙮ"
ASKED = "ꙗ"
"""Stands for what an answer repeats of the question."""
NEAR = 7
"""Words up to which a denial reaches within its part of a sentence; whether it reaches further nobody can tell."""
CAPITAL = r"(?-i:[A-Z][a-z]\w*)"
SMALL = r"(?:<function_words> )"
ACRONYM = r"(?-i:(?!(?:\w+-)+[A-Z][a-z])[\w.-]*[A-Z][\w.-]*[A-Z\d][\w.-]*)"
SUBJECT = rf"\W*{SMALL}?(?:(?!<no_meaning>)([\w./+-]+) )?"
NAME = rf"(?:{CAPITAL} {SMALL}*{CAPITAL}|{CAPITAL} {SMALL}+\w)"
"""The beginning of a name of several words: Zonal Query, Zone de transit."""
GUESSES = (
    rf'<guesses>\W+(?:[\w-]+ ){{0,3}}?(?:"|{NAME})',  # it is perhaps a Zonal Query
    rf"^\W*(?:[\w-]+ ){{0,3}}?<names> {SMALL}*{NAME}",  # it is the Zonal Query
    rf'^\W*{ACRONYM} ?[:-] ?"?{NAME}',  # ZZXQ: Zonal Query
    rf"^\W*{SMALL}*(?:{CAPITAL} {SMALL}*)+{CAPITAL}\W*$",  # Zonal Query
    rf"(?:^|,)\W*{SMALL}*{NAME}[\w -]*(?:\?|<guesses>\W*$)",  # Zone de transit?
)


@cache
def pattern(text: str) -> re.Pattern[str]:
    """A pattern in which <key> stands for the words of a key of the packs."""
    filled = re.sub("<([a-z_]+)>", lambda key: any_of(getattr(load_reading(), key[1])), text)
    return re.compile(filled, re.IGNORECASE | re.MULTILINE)


def plainly(text: str) -> str:
    """Without contractions and without words that only look like a denial."""
    for short, full in load_reading().contractions:
        text = re.sub(short, full, text, flags=re.IGNORECASE)
    return pattern("(<introduces>) ?: ?").sub(r"\1 ", pattern("<no_denial>").sub(" ", text))


def parts(text: str) -> Iterator[tuple[str, str]]:
    """Each sentence or line with each of its parts: what stands between commas, or begins a new statement."""
    for sentence in re.findall(r"(?:[^.!?;\n]|\.(?=\w))+[.!?;\n]*", text):
        for part in pattern(r"[,:()]|\s-\s|(?=<turns>)").split(sentence):
            yield sentence, part


def refuses(text: str, question: str = "") -> bool:
    """Whether a text says that its speaker does not know, and goes on to no guess at what the question asks about."""
    parts_of: defaultdict[str, set[str]] = defaultdict(set)
    for sentence, part in parts(text):
        parts_of[sentence].add(part)
    told = {sentence: of for sentence, of in parts_of.items() if not pattern("<suggests>").search(sentence)}
    own = {sentence: of for sentence, of in told.items() if not _of_others(sentence, question)}
    offered = {*own, *(part for of in own.values() for part in of if not _of_others(part, question))}
    return any(map(pattern("<refuses>").search, chain(*told.values()))) and not any(
        _guesses(each, question) for each in offered
    )


def _of_others(text: str, question: str) -> bool:
    """Whether all acronyms in a text are others than the question's."""
    named = {each.casefold() for each in pattern(rf"(?<![\w-]){ACRONYM}(?![\w-])").findall(text)}
    return bool(question and named) and named.isdisjoint(re.findall(r"[\w.-]+", question.casefold()))


def _guesses(text: str, question: str) -> bool:
    """Whether a sentence, or a part of one, offers a meaning, or a description of what is asked about."""
    if (found := pattern(rf"{SUBJECT}<describes>").match(text)) is not None:
        own = not found[1] or found[1].casefold() in re.findall(r"[\w./+-]+", question.casefold())
        if own or not question or pattern("<pronouns>").fullmatch(found[1]):
            return True
    if (found := pattern(r"<introduces>\W+(?!<no_meaning>)\w").search(text)) is not None:
        return pattern("<denies>|<asks>|<refuses>").search(text[: found.start()]) is None
    return pattern("<refuses>").search(text) is None and pattern("|".join(GUESSES)).search(text) is not None


def verdict(text: str) -> bool | None:
    """Whether a text gives its term as the answer or denies it, and what it says last; None where that is undecided."""
    said = [_says(part, sentence) for sentence, part in parts(text) if TERM in part]
    return next((each for each in reversed(said) if each is not None), None)


def _says(part: str, sentence: str) -> bool | None:
    before, behind = part[: part.index(TERM)], part[part.rindex(TERM) + 1 :]
    if pattern("<refuses>").search(part) or pattern("<behind>").search(behind):
        return False
    if pattern(r"<unlike>(?:\W+\w+){0,3}\W*$").search(before):
        return False
    if denials := [found.end() for found in pattern("<denies>").finditer(before)]:
        return False if len(re.findall(r"\w+", before[denials[-1] :])) <= NEAR else None
    return None if sentence.rstrip(' \n"').endswith("?") else True
