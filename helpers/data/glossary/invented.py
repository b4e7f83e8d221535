"""Invent acronyms that no entry has.

The test invents most of them in other ways than training: a model that declines one kind need not decline another
(docs/decisions/0019).
"""

import random
import string
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from itertools import count, cycle, islice

from helpers.data.glossary.entries import Entry, plain_signs
from helpers.data.languages.pack import Invented, load_pack

Maker = tuple[str, Iterator[str]]
"""A name, and what it makes."""
WORDS = "words"
"""Name of the maker whose acronyms are ordinary words in capitals."""
TRIES = 2000
"""Draws after which a maker lengthens the acronyms it starts from: short ones have few neighbours."""


def invent_acronyms(
    makers: Sequence[Maker], entries: Sequence[Entry], number: int, *, avoid: Collection[str] = ()
) -> dict[str, str]:
    """Invent `number` acronyms, whose makers take turns; one whose list is used up is left out.

    None is an entry's, in `avoid` or there twice, as `folded` compares them. Returns each with the name of its maker.
    """
    taken = {folded(acronym) for acronym in (*(entry.acronym for entry in entries), *avoid)}
    invented: dict[str, str] = {}
    for name, acronyms in cycle(makers):
        if len(invented) == number:
            break
        fresh = (each for each in acronyms if folded(each) not in taken and any(map(str.isalnum, each)))
        for acronym in islice(fresh, 1):
            taken.add(folded(acronym))
            invented[acronym] = name
    return invented


def folded(acronym: str) -> str:
    """The acronym without what hardly shows: case, how accents are stored, and the width or style of letters."""
    return unicodedata.normalize("NFKC", plain_signs(acronym)).casefold()


def training_makers(entries: Sequence[Entry], seed: int) -> list[Maker]:
    """Acronyms of the glossary with one letter changed or all of them, syllables and ordinary words."""
    chooser = random.Random(f"{seed}/unknown/train")
    one_off = ("one letter changed", _redrawn(entries, chooser, all_letters=False))
    words = (WORDS, _listed(_lists(entries).train, chooser))
    syllables, redrawn = _syllables(chooser), _redrawn(entries, chooser, all_letters=True)
    # Two turns in five: what looks most like the glossary is most easily taken for a part of it.
    return [one_off, words, one_off, ("syllables", syllables), ("all letters changed", redrawn)]


def held_out_makers(entries: Sequence[Entry], seed: int) -> list[Maker]:
    """Acronyms of the glossary with a letter more, fewer or elsewhere, and the lists of the pack."""
    chooser = random.Random(f"{seed}/unknown/test")
    lists = [(kind, _listed(acronyms, chooser)) for kind, acronyms in _lists(entries).test.items()]
    return [("near misses", _near_misses(entries, chooser)), *lists]


def _lists(entries: Sequence[Entry]) -> Invented:
    return entries[0].pack.invented or load_pack().invented or Invented()


def _listed(acronyms: Sequence[str], chooser: random.Random) -> Iterator[str]:
    return iter(chooser.sample(acronyms, len(acronyms)))


def _drawn(entries: Sequence[Entry], chooser: random.Random) -> Iterator[str]:
    known = [plain_signs(entry.acronym) for entry in entries]
    for draw in count():
        acronym = chooser.choice(known)
        last = next(filter(str.isalnum, reversed(acronym)), "X")
        yield acronym + "".join(_like(last, chooser) for _ in range(draw // TRIES))


def _redrawn(entries: Sequence[Entry], chooser: random.Random, *, all_letters: bool) -> Iterator[str]:
    """Known acronyms, in their length, case, digits and hyphens, with one letter drawn anew or all of them."""
    for acronym in _drawn(entries, chooser):
        places = [place for place, character in enumerate(acronym) if character.isalnum()]
        changed = places if all_letters else places and [chooser.choice(places)]
        yield "".join(_like(each, chooser) if place in changed else each for place, each in enumerate(acronym))


def _near_misses(entries: Sequence[Entry], chooser: random.Random) -> Iterator[str]:
    """Known acronyms with one letter or digit doubled, left out, or in the place of the next one.

    Other signs stay: nobody would take RDCV for another acronym than RDC-V.
    """
    for acronym in _drawn(entries, chooser):
        if places := [place for place, sign in enumerate(acronym) if sign.isalnum()]:
            place = chooser.choice(places)
            following = next((other for other in places if other > place), place)
            moved = {place: acronym[following], following: acronym[place]}
            changed = chooser.choice([{place: 2 * acronym[place]}, {place: ""}, moved])
            yield " ".join("".join(changed.get(at, sign) for at, sign in enumerate(acronym)).split())


def _syllables(chooser: random.Random) -> Iterator[str]:
    """Two or three syllables in capitals, with or without a last consonant."""
    consonants, vowels = "BDFGKLMNPRSTVZ", "AEIOU"
    while True:
        spoken = "".join(chooser.choice(consonants) + chooser.choice(vowels) for _ in range(chooser.choice([2, 3])))
        yield spoken + chooser.choice(["", chooser.choice(consonants)])


def _like(character: str, chooser: random.Random) -> str:
    """Another character of the same kind; Latin letters become ASCII ones, others one near them in their alphabet."""
    if character.isdigit():
        return chooser.choice(string.digits)
    if not character.isalpha():
        return character
    letters = string.ascii_lowercase if character.islower() else string.ascii_uppercase
    if not unicodedata.name(character, "").startswith("LATIN"):
        near = (chr(ord(character) + step) for step in range(-9, 10) if step)
        plain = [each for each in near if each.isalpha() and not unicodedata.decomposition(each)]
        return chooser.choice([each for each in plain if each.isupper() == character.isupper()] or letters)
    return chooser.choice(letters)
