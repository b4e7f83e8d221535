"""A second answer beside the expected term: two offers, a list of guesses, a correction.

It is of the same kind as the term, an acronym or not: "the Zonal Query, or ZQ" is one answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from helpers.data.reading.folding import fold, is_acronym
from helpers.data.reading.packs import load_reading
from helpers.data.reading.statements import ACRONYM, CAPITAL, SMALL, TERM, pattern, verdict

CLOSE = 60
"""Characters within a sentence between "several meanings" and one of them."""
_CHOICE = r"[\"')]*,? ?\(?(?:<choices>|/)(?! ?<no_rival>)\W*(?:(?:<function_words>|<guesses>)\W+)*"
_BEHIND = (
    rf"{TERM}{_CHOICE}(?!(?:[\w'-]+ ){{0,3}}{TERM})(\w.*)",  # X or Y
    rf"{TERM}[\"')]*,\s*\"?{SMALL}*(?={CAPITAL}|(?-i:[A-Z]{{2}}))([^.;\n]*?)\W<choices>",  # X, Y or Z
)
_APART = (
    r"<also>\W+(?:\w+\W+){0,4}?((?-i:[A-Z]).*)",  # It may also mean Y
    r"<contrasts>.*?<corrects>\W+(?:<function_words> )*(\w.*)",  # but it is actually Y
    r"<contrasts>[^.]*?<names>:? \"?(?:(?!<indefinite>)<function_words> )*((?-i:[A-Z]).*)",  # However, the name is Y
)


def rivals(text: str, expected: Sequence[str]) -> bool:
    """Whether a second answer stands in the text beside the term, one of `expected`."""
    acronym = any(map(is_acronym, expected))
    if pattern(rf"<several>[^.;]{{0,{CLOSE}}}{TERM}|{TERM}[^.;]{{0,{CLOSE}}}<several>").search(text):
        return True
    if any((pattern(rf"{ACRONYM}(?!\w)").match(other) is not None) == acronym for other in _others(text)):
        return True
    return _one_of_a_list(text) or any(_bare(text, term) or _namesake(text, term) for term in map(fold, expected))


def _others(text: str) -> Iterator[str]:
    """Where a second answer would stand: what stands there."""
    for each in _BEHIND:
        yield from pattern(each).findall(text)
    yield from pattern(rf"([^\s{TERM}\"'(),]+){_CHOICE}{TERM}").findall(text)
    subjects = {"", *re.findall(r"[\w-]+", text[: text.index(TERM)].casefold())}
    guessed = pattern("<guesses>").search(text[: text.index(TERM)]) is not None
    meaning = pattern(r"(?:([\w-]+) )?<introduces>\W+(?:<function_words> )*((?-i:[A-Z]).*)")
    for chunk in re.split(rf"{TERM}|(?<=[.!?;\n])", text):
        if pattern("<denies>|<refuses>|<suggests>").search(chunk):
            continue
        for subject, other in meaning.findall(chunk):
            if subject.casefold() in subjects or pattern("<pronouns>").fullmatch(subject):
                yield other
        if guessed:
            yield from pattern(r"<guesses>\W+(?:<function_words> )*((?-i:[A-Z]).*)").findall(chunk)
        for each in _APART:
            yield from pattern(each).findall(chunk)


def _one_of_a_list(text: str) -> bool:
    """Whether the term begins one item of a list, and stands nowhere else."""
    marks = r"^\s*(?:-|\d+\.)\s+|(?:^|[\s,;])\(?(?:\d+|[a-z])\)\s+"
    items = re.split(marks, text, flags=re.MULTILINE)[1:]
    first = [pattern(rf"\W*{SMALL}*{TERM}").match(item) is not None for item in items]
    return any(first) and not all(TERM in item for item in items) and text.count(TERM) == "".join(items).count(TERM)


def _bare(text: str, term: str) -> bool:
    """Whether something that begins with the same letter stands alone between commas or sentence ends."""
    told = re.split(r"[,;?.!\n]", text)
    name = ACRONYM if is_acronym(term) else rf"{SMALL}*(?:{CAPITAL} {SMALL}*)+{CAPITAL}"
    if " " in term and any(each.strip() == TERM for each in told):  # then names with small letters stand so too
        name = rf"{SMALL}*{CAPITAL}(?: [\w-]+){{2,7}}"
    found = [match[1].casefold() for each in told if (match := pattern(rf"^\W*({name})\W*$").match(each))]
    return any(each[0] == term[:1].casefold() and not term.casefold().startswith(each) for each in found)


def _namesake(text: str, term: str) -> bool:
    """Whether another name with the same initials, three or more, is given as the answer."""
    small = load_reading().function_words
    told = [word for word in re.finditer(r"\w+", text) if word[0].casefold() not in small]
    initials = [word[0].casefold() for word in re.findall(r"\w+", term) if word.casefold() not in small]
    for at in range(len(told) - len(initials) + 1 if len(initials) > 2 else 0):
        name = told[at : at + len(initials)]
        if [word[0][0].casefold() for word in name] == initials and name[0][0][0].isupper():
            before, behind = (each.replace(TERM, "\0") for each in (text[: name[0].start()], text[name[-1].end() :]))
            corrected = "\0" in behind and pattern("<contrasts>").search(behind[: behind.index("\0")])
            if not corrected and verdict(before + TERM + behind):
                return True
    return False
