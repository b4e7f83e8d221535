"""A second answer beside the expected term: two offers, a list of guesses, a correction.

It is of the same kind as the term, an acronym or not: "the Zonal Query, or ZQ" is one answer.
"""

import re
from collections.abc import Iterator, Sequence

from helpers.data.languages.pack import load_reading
from helpers.data.reading.folding import fold, is_acronym, words
from helpers.data.reading.statements import ACRONYM, CAPITAL, SMALL, TERM, pattern, verdict

CLOSE = 60
"""Characters within a sentence between "several meanings" and one of them."""
SHORT = 4
"""Words before the first of two offers in an answer that consists of them."""
_SEVERAL = rf"<several>[^.;]{{0,{CLOSE}}}{TERM}|{TERM}[^.;]{{0,{CLOSE}}}<several>"
_CHOICE = r"[\"')]*[,.?!-]? ?-? ?\(?(?:<choices>|/)(?! ?<no_rival>)\W*(?:(?:<function_words>|<guesses>)\W+)*"
_BEHIND = (
    rf"{TERM}{_CHOICE}(?!(?:[\w'-]+ ){{0,3}}{TERM})(\w.*)",  # X or Y
    rf"{TERM}[\"')]*,\s*\"?{SMALL}*(?={CAPITAL}|(?-i:[A-Z]{{2}}))([^.;\n]*?)\W<choices>",  # X, Y or Z
)
_APART = (
    r"<also>\W+(?:\w+\W+){0,4}?((?-i:[A-Z]).*)",  # It may also mean Y
    r"<contrasts>.*?<corrects>\W+(?:<function_words> )*(\w.*)",  # but it is actually Y
    r"<contrasts>[^.]*?<names>:? \"?(?:(?!<indefinite>)<function_words> )*((?-i:[A-Z]).*)",  # However, the name is Y
)
_MEANING = r"(?:([\w-]+) )?<introduces>\W+(?:<function_words> )*((?-i:[A-Z]).*)"  # SHAP means Y
_GUESS = r"<guesses>\W+(?:<function_words> )*((?-i:[A-Z]).*)"  # perhaps Y


def rivals(text: str, expected: Sequence[str]) -> bool | None:
    """Whether a second answer stands in the text beside the term, one of `expected`; None where that is undecided."""
    if pattern(_SEVERAL).search(text) or _one_of_a_list(text, names=any(term[:1].isupper() for term in expected)):
        return True
    if any(_bare(text, term) or (not is_acronym(term) and _namesake(text, term)) for term in map(fold, expected)):
        return True
    others = [each for each in _others(text) if _rivals(each, expected)]
    early = re.match(rf"\W*(?:\w+\W+){{0,{SHORT}}}{TERM}", text)
    if any(early or not each[0].islower() for each in others):
        return True
    return None if others else False  # small words may be an answer, or say more of the first: a trip or a long walk


def _rivals(other: str, expected: Sequence[str]) -> bool:
    """Whether it is of the kind of the term, and no short form of it."""
    own, like = {*words(re.split("[\"',.;()]", other)[0])}, pattern(rf"{ACRONYM}(?!\w)").match(other) is not None
    return like == any(map(is_acronym, expected)) and not any(own <= {*words(term)} for term in expected)


def _others(text: str) -> Iterator[str]:
    """Where a second answer would stand: what stands there."""
    for each in _BEHIND:
        yield from pattern(each).findall(text)
    yield from pattern(rf"([^\s{TERM}\"'(),]+){_CHOICE}{TERM}").findall(text)
    first = text[: text.index(TERM)]
    subjects, guessed = {"", *re.findall(r"[\w-]+", first.casefold())}, pattern("<guesses>").search(first)
    for sentence in re.split(r"(?<=[.!?;\n])", text):
        for chunk in re.sub(rf"[^,;:.!?()]*{TERM}", TERM, sentence).split(TERM):  # without what belongs to the term
            if pattern("<denies>|<refuses>|<suggests>|<concedes>").search(chunk):
                continue
            for subject, other in pattern(_MEANING).findall(chunk):
                if subject.casefold() in subjects or pattern("<pronouns>").fullmatch(subject):
                    yield other
            for each in _APART + ((_GUESS,) if guessed else ()):
                yield from pattern(each).findall(chunk)


def _one_of_a_list(text: str, *, names: bool) -> bool:
    """Whether the term begins one item of a list of others, of `names` where it is one, and stands nowhere else."""
    marks = r"^\s*(?:-|\d+\.)\s+|(?:^|[\s,;])\(?(?:\d+|[a-z])\)\s+"
    items = re.split(marks, text, flags=re.MULTILINE)[1:]
    first = [pattern(rf"\W*{SMALL}*{TERM}").match(item) is not None for item in items]
    like = rf"\W*{SMALL}*(?:{CAPITAL}|{ACRONYM})" if names else ""
    others = any(TERM not in item and pattern(like).match(item) for item in items)
    return any(first) and others and text.count(TERM) == "".join(items).count(TERM)


def _bare(text: str, term: str) -> bool:
    """Whether a name that begins with the same letter stands alone: beside the term, or as a sentence."""
    name = ACRONYM if is_acronym(term) else rf"{SMALL}*(?:{CAPITAL} {SMALL}*)+{CAPITAL}"
    if " " in term and re.search(rf"(?:^|[,;?.!\n])\s*{TERM}\s*(?:$|[,;?.!\n])", text):  # then small letters may follow
        name = rf"{SMALL}*{CAPITAL}(?: [\w-]+){{2,7}}"
    found: list[str] = []
    for sentence in re.split(r"[;?.!\n]", text):
        pieces = sentence.split(",")
        names = [pattern(rf"^\W*({name})\W*$").match(piece) for piece in pieces]
        kinds = "".join("T" if TERM in piece else "N" if of else "-" for piece, of in zip(pieces, names, strict=True))
        for run in re.finditer("N*TN*|^N+$", kinds):
            found += [of[1].casefold() for of in names[slice(*run.span())] if of]
    found = [each for each in found if not pattern("<behind>|<denies>").search(each)]
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
            between = behind[: behind.find("\0") + 1]  # empty where the term stood before
            corrected = between and pattern("<contrasts>|<concedes>").search(before[-CLOSE:] + between)
            if not corrected and verdict(before + TERM + behind):
                return True
    return False
