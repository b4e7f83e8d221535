"""What the sentences of a folded answer say: of a term in it, of other answers beside it, and of not knowing.

`TERM` stands in the text where the expected term stood, so that its own words are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from helpers.data.reading import any_of, load_reading

TERM = "ꙮ"
NEAR = 7
"""Words up to which a denial reaches within its part of a sentence; whether it reaches further nobody can tell."""
_CAPITAL = r"(?-i:[A-Z][a-z]\w*)"
_SMALL = r"(?:<function_words> )"
_NAME = rf"(?:{_CAPITAL} {_SMALL}*{_CAPITAL}|{_CAPITAL} {_SMALL}+\w)"
"""A name of several words: Zonal Query, Zone de transit."""
_ACRONYM = re.compile(r"[\w.-]*[A-Z][\w.-]*[A-Z\d][\w.-]*(?!\w)")


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


def sentences(text: str) -> list[str]:
    """Sentences and lines, with what ends them."""
    return re.findall(r"(?:[^.!?;\n]|\.(?=\w))+[.!?;\n]*", text)


def parts(sentence: str) -> list[str]:
    """What stands between commas, or begins a new statement."""
    return pattern(r"[,:()]|\s-\s|(?=<turns>)").split(sentence)


def refuses(text: str) -> bool:
    """Whether a text says that its speaker does not know, and goes on to no guess."""
    told = [each for each in sentences(text) if not pattern("<suggests>").search(each)]
    refusing, others = [], []
    for part in (part for each in told for part in parts(each)):
        (refusing if pattern("<refuses>").search(part) else others).append(part)
    return bool(refusing) and not any(map(_guesses, others)) and not any(map(_entry, told))


def _entry(sentence: str) -> bool:
    return pattern(rf'^\W*(?-i:[\w.-]*[A-Z][\w.-]*[A-Z][\w.-]*) ?[:-] ?"?{_NAME}').search(sentence) is not None


def _guesses(part: str) -> bool:
    """Whether a part of a sentence offers a meaning."""
    if (found := pattern(r"<introduces>\W+(?!<no_meaning>)\w").search(part)) is not None:
        return pattern("<denies>|<asks>").search(part[: found.start()]) is None
    named = rf'<guesses>\W+(?:[\w-]+ ){{0,3}}?(?:"|{_NAME})|^\W*(?:\w+ )?<names> (?:{_SMALL})*{_NAME}'
    return pattern(named).search(part) is not None


def says(part: str, sentence: str) -> bool | None:
    """Whether a part of a sentence gives its term as the answer, or denies it; None where that is undecided."""
    before, behind = part[: part.index(TERM)], part[part.rindex(TERM) + 1 :]
    if pattern("<refuses>").search(part) or pattern("<behind>").search(behind):
        return False
    if pattern(r"<unlike>(?:\W+\w+){0,3}\W*$").search(before):
        return False
    if denials := [found.end() for found in pattern("<denies>").finditer(before)]:
        return False if len(re.findall(r"\w+", before[denials[-1] :])) <= NEAR else None
    return None if sentence.rstrip(' \n"').endswith("?") else True


def rivals(text: str, *, acronym: bool) -> bool:
    """Whether a second answer stands beside the term; `acronym`: whether the term is one, and so would be the second."""
    return _one_of_a_list(text) or any((_ACRONYM.match(other) is not None) == acronym for other in _seconds(text))


def _one_of_a_list(text: str) -> bool:
    items = re.findall(r"^\s*(?:-|\d+[.)]|[a-z][.)])\s+(.*)$", text, re.MULTILINE)
    first = [pattern(rf"\W*{_SMALL}*{TERM}").match(item) is not None for item in items]
    return any(first) and any(TERM not in item for item in items) and text.count(TERM) == "".join(items).count(TERM)


def _seconds(text: str) -> Iterator[str]:
    """Where a second answer would stand: what stands there."""
    choice = rf'["\')]*,? ?\(?(?:<choices>|/)(?! ?<no_rival>)\W*(?:(?:<function_words>|<guesses>)\W+)*'
    behind = (
        rf"{TERM}{choice}(?!{TERM})(\w.*)",
        rf'{TERM}["\')]*,\s*"?(?={_CAPITAL}|(?-i:[A-Z]{{2}}))(?!{TERM})([^.;\n]*?)\W<choices>',
        rf'<several>[^.;]{{0,60}}{TERM}\W+(?:<function_words>\W+)*(?!{TERM})((?-i:[A-Z]).*)',
    )
    for each in behind:
        yield from pattern(each).findall(text)
    yield from pattern(rf"([^\s{TERM}\"'(),]+){choice}{TERM}").findall(text)
    subjects = {"", *re.findall(r"[\w-]+", text[: text.index(TERM)].casefold())}
    for chunk in re.split(rf"{TERM}|(?<=[.!?;\n])", text):
        if pattern("<denies>|<refuses>|<suggests>").search(chunk):
            continue
        for subject, second in pattern(rf'(?:([\w-]+) )?<introduces>\W+(?:<function_words> )*((?-i:[A-Z]).*)').findall(chunk):
            if subject.casefold() in subjects or pattern("<pronouns>").fullmatch(subject):
                yield second
        yield from pattern(rf'<also>\W+(?:\w+\W+){{0,4}}?((?-i:[A-Z]).*)').findall(chunk)
        yield from pattern(rf"<contrasts>.*?<corrects>\W+(?:<function_words> )*(\w.*)").findall(chunk)
        yield from pattern(rf'<contrasts>[^.]*?<names>:? "?((?-i:[A-Z]).*)').findall(chunk)
