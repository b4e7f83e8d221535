"""What the sentences of a folded answer say: of a term in it, of other answers beside it, and of not knowing.

`TERM` stands in the text where the expected term stood, so that its own words are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

from helpers.data.folding import fold, is_acronym
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
    each_part = [part for each in told for part in parts(each)]
    return any(map(pattern("<refuses>").search, each_part)) and not any(map(_guesses, [*told, *each_part]))


def _guesses(text: str) -> bool:
    """Whether a sentence, or a part of one, offers a meaning."""
    if (found := pattern(r"<introduces>\W+(?!<no_meaning>)\w").search(text)) is not None:
        return pattern("<denies>|<asks>|<refuses>").search(text[: found.start()]) is None
    named = (
        rf'<guesses>\W+(?:[\w-]+ ){{0,3}}?(?:"|{_NAME})|^\W*(?:\w+ )?<names> {_SMALL}*{_NAME}'  # perhaps Zonal Query
        rf'|^\W*(?-i:[\w.-]*[A-Z][\w.-]*[A-Z][\w.-]*) ?[:-] ?"?{_NAME}'  # ZZXQ: Zonal Query
        rf"|^\W*{_SMALL}*(?:{_CAPITAL} {_SMALL}*)+{_CAPITAL}\W*$|(?:^|, ?){_SMALL}*{_NAME}[\w -]*\?"  # Zonal Query?
    )
    return pattern("<refuses>").search(text) is None and pattern(named).search(text) is not None


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


def rivals(text: str, expected: Sequence[str]) -> bool:
    """Whether a second answer stands beside the term, one of `expected`; it is of the same kind, acronym or not."""
    acronym = any(map(is_acronym, expected))
    if _one_of_a_list(text) or any((_ACRONYM.match(other) is not None) == acronym for other in _seconds(text)):
        return True
    # A bare name that begins with the same letter is another reading of the same acronym.
    name = _ACRONYM.pattern if acronym else rf"{_SMALL}*(?:{_CAPITAL} {_SMALL}*)+{_CAPITAL}"
    bare = [found[1] for part in re.split(r"[,;?.!\n]", text) if (found := pattern(rf"^\W*((?-i:{name}))\W*$").match(part))]
    initials = {fold(each)[:1].upper() for each in expected}
    return any(TERM not in each and each[0] in initials for each in bare)


def _one_of_a_list(text: str) -> bool:
    items = re.findall(r"^\s*(?:-|\d+[.)]|[a-z][.)])\s+(.*)$", text, re.MULTILINE)
    first = [pattern(rf"\W*{_SMALL}*{TERM}").match(item) is not None for item in items]
    return any(first) and any(TERM not in item for item in items) and text.count(TERM) == "".join(items).count(TERM)


def _seconds(text: str) -> Iterator[str]:
    """Where a second answer would stand: what stands there."""
    choice = rf'["\')]*,? ?\(?(?:<choices>|/)(?! ?<no_rival>)\W*(?:(?:<function_words>|<guesses>)\W+)*'
    behind = (
        rf"{TERM}{choice}(?!(?:[\w'-]+ ){{0,3}}{TERM})(\w.*)",
        rf'{TERM}["\')]*,\s*"?{_SMALL}*(?={_CAPITAL}|(?-i:[A-Z]{{2}}))(?!{TERM})([^.;\n]*?)\W<choices>',
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
        if pattern("<guesses>").search(text[: text.index(TERM)]):
            yield from pattern(r"<guesses>\W+(?:<function_words> )*((?-i:[A-Z]).*)").findall(chunk)
        yield from pattern(rf'<also>\W+(?:\w+\W+){{0,4}}?((?-i:[A-Z]).*)').findall(chunk)
        yield from pattern(rf"<contrasts>.*?<corrects>\W+(?:<function_words> )*(\w.*)").findall(chunk)
        yield from pattern(rf'<contrasts>[^.]*?<names>:? "?(?:(?!<indefinite>)<function_words> )*((?-i:[A-Z]).*)').findall(chunk)
