"""Names and numbers on the holders' rosters, found in free text in whatever spelling."""

import re
from collections.abc import Collection, Iterable, Sequence

from presidio_analyzer import LocalRecognizer, RecognizerResult

from helpers.data.holders.pseudonyms import letters_and_digits

WORD = re.compile(r"[^\W\d_]+")
PARTICLES = set(WORD.findall("al ben d da de del den der di du el la le les mac van von"))
GIVEN = {"ben", "del", "mac"}
"""Particles that are given names too. They are looked for where they begin with a capital."""
GROUP = re.compile(r"[^\W_]+")
PIECE = re.compile(r"\d+|[^\W\d_]+")
SHORT = 4
"""A number of fewer letters and digits is masked beside a word of `CUE` only: alone it may be a dose or an age."""
CUE = re.compile(r"(?i)\b(?:patient|case|chart|file|record|mrn|nr|no|n(?=°)|number|id|ref)[ :#.°()-]{0,3}$")
GAP = 3
"""Most characters between two groups of one number: AX - 204."""
LIGATURES = (("œ", "oe"), ("æ", "ae"), ("ß", "ss"))


def roster_words(cells: Iterable[str]) -> set[str]:
    """The single words of folded names, lower case: `Anne de la Tour-Vallin` gives anne, tour, vallin."""
    names = (cell for cell in cells if not re.search(r"[\d@]", cell))  # as numbers and addresses have
    found = [[word.lower() for word in WORD.findall(cell)] for cell in names]
    plain = {word for words in found for word in words if len(words) == 1 or word not in PARTICLES - GIVEN}
    one, other = ({word.replace(*pair[::way]) for word in plain for pair in LIGATURES} for way in (1, -1))
    return plain | one | other


def with_plain_names(column: Sequence[str]) -> list[str]:
    """Cells of a roster column; of names, also without the words that hold digits: `Dupont Marie (2)`, Dupont Marie.

    A column holds names where fewer than half of its filled cells have digits or @: those of addresses do.
    """
    marked = [cell for cell in column if re.search(r"[\d@]", cell)]
    names = len(marked) * 2 < sum(map(bool, column))
    return [*column, *(re.sub(r"\S*[\d@]\S*", " ", cell) for cell in marked if names)]


class RosterRecognizer(LocalRecognizer):
    """Names in any case, with the initials and particles next to them. The cost does not grow with the roster.

    Names of one or two letters, and words of `keep` written exactly so (iris), count only beside another name.
    """

    def __init__(self, words: Collection[str], keep: Collection[str]) -> None:
        super().__init__(supported_entities=["PERSON"], supported_language="en", name="roster")
        self.words = frozenset(words)
        self.keep = frozenset(keep)

    def load(self) -> None:
        """Nothing to load: the words are given."""

    def analyze(self, text: str, entities: Sequence[str], nlp_artifacts: object = None) -> list[RecognizerResult]:
        """Spans of names, each with its initials and particles."""
        runs: list[list[re.Match[str]]] = [[]]
        for word in WORD.finditer(text):
            if not (word[0].lower() in self.words or word[0].lower() in PARTICLES or _initial(word[0])):
                runs.append([])
            elif runs[-1] and _adjacent(runs[-1][-1], word, text):
                runs[-1].append(word)
            else:
                runs.append([word])
        return [span for run in runs if (span := self._name(run, text))]

    def _name(self, run: list[re.Match[str]], text: str) -> RecognizerResult | None:
        """The run up to its last name and the initials or short names that follow it."""
        words = [word[0] for word in run]
        sure = [
            number
            for number, word in enumerate(words)
            if word.lower() in self.words
            and word not in self.keep
            and len(word) > 2
            and (word[0].isupper() or word.lower() not in PARTICLES)  # Ben is a name, van and del in a sentence are not
        ]
        if not sure:
            return None
        last = sure[-1]
        while last + 1 < len(run) and (_initial(words[last + 1]) or words[last + 1].lower() in self.words):
            last += 1
        end = run[last].end()
        if _initial(words[last]) and text[end : end + 1] == ".":
            end += 1
        return RecognizerResult("PERSON", run[0].start(), end, 1.0)


class ValueRecognizer(LocalRecognizer):
    """Numbers, addresses and other exact values: `AX-204-118` is found as `ax 204.118` and `AX204118` too."""

    def __init__(self, values: Iterable[str]) -> None:
        super().__init__(supported_entities=["ID"], supported_language="en", name="roster values")
        pieces = {value: len(PIECE.findall(value)) for value in values}
        self.values = {letters_and_digits(value) for value in pieces} - {""}
        self.groups = max(pieces.values(), default=0)
        several = {letters_and_digits(value) for value, count in pieces.items() if count > 1}
        self.whole = self.values - several  # 12080 is not 120/80

    def load(self) -> None:
        """Nothing to load: the values are given."""

    def analyze(self, text: str, entities: Sequence[str], nlp_artifacts: object = None) -> list[RecognizerResult]:
        """Spans of values, the longest that begins at each place."""
        groups = list(GROUP.finditer(text))
        results: list[RecognizerResult] = []
        for number, first in enumerate(groups):
            joined, end = "", 0
            for before, group in zip([first, *groups[number:]], groups[number : number + self.groups], strict=False):
                if joined and group.start() - before.end() > GAP:
                    break
                joined += letters_and_digits(group[0])
                if joined not in self.values or (group is not first and joined in self.whole):
                    continue
                if len(joined) >= SHORT or CUE.search(text[: first.start()]):
                    end = group.end()
            if end:
                results.append(RecognizerResult("ID", first.start(), end, 1.0))
        return results


def _initial(word: str) -> bool:
    return len(word) == 1 and word.isupper()


def _adjacent(left: re.Match[str], right: re.Match[str], text: str) -> bool:
    """Whether two words may be parts of one name: Anne Arvel; Jean-Luc; d'Arvel; J. Arvel; J.-L.; Arvel, Anne."""
    gap = text[left.end() : right.start()]
    if gap == ", ":
        return right[0][0].isupper()
    return gap in {" ", "-", "'"} or (_initial(left[0]) and gap in {".", ". ", ".-"})
