"""People's ratings of answers, given without knowing which model wrote them: what judges are measured against."""

import random
from collections.abc import Iterable
from pathlib import Path

from helpers.errors import RunError
from helpers.files import Record, clear_disk_errors, read_jsonl, write_jsonl

KEYS = {"r": "right", "w": "wrong", "u": "unsure"}
FIELDS = ("id", "question", "reference", "answer")


class Ratings:
    """Ratings of some answers, in a file that is written at each of them.

    Attributes:
        path: JSON Lines, for each rated answer what the rater saw (`FIELDS`) and the `rating`, a value of `KEYS`.
            No model is named: a rating is about these words, whoever wrote them.
        items: `FIELDS` of the answers to rate, in their order; those that were rated before come first.
        rated: the lines of the file, one for each of the first so many items.
        note: a sentence for the rater about an older file, or an empty text.
    """

    def __init__(self, path: Path, answers: Iterable[Record], *, count: int = 20, seed: int = 0) -> None:
        """Draw answers and take up the ratings in the file. Raises RunError where the file has a broken line.

        A file with ratings of other answers is kept under another name, and rating begins anew.

        Args:
            path: of the file, which need not exist yet.
            answers: `FIELDS` each, and `judged`, whether a judge has read it: these are drawn first. An answer that
                several models gave to a question is drawn once.
            count: answers to rate, fewer where there are fewer; of an older file all count.
            seed: of the draw.
        """
        judged: dict[tuple[str, ...], bool] = {}
        for answer in answers:
            judged[_shown(answer)] = judged.get(_shown(answer), False) or bool(answer.get("judged"))
        drawn = random.Random(seed).sample(sorted(judged), len(judged))
        drawn.sort(key=lambda shown: not judged[shown])  # in random order among equals
        self.path, self.note = path, ""
        self.rated = read_jsonl(path) if path.exists() else []
        if not all(_shown(row) in judged and row.get("rating") in KEYS.values() for row in self.rated):
            kept = next(name for n in range(1, 10_000) if not (name := path.with_stem(f"{path.stem}-{n}")).exists())
            with clear_disk_errors(path):
                path.rename(kept)
            self.rated = []
            self.note = f"{path.name} has ratings of other answers. It is kept as {kept.name}, and you begin anew."
        before = list(map(_shown, self.rated))
        order = [*before, *(shown for shown in drawn if shown not in before)][: max(count, len(before))]
        self.items = [dict(zip(FIELDS, shown, strict=True)) for shown in order]

    @property
    def text(self) -> str:
        """One letter of `KEYS` for each rated answer."""
        letters = {word: key for key, word in KEYS.items()}
        return "".join(letters[row["rating"]] for row in self.rated)

    @property
    def complete(self) -> bool:
        """Whether all answers are rated: only then may the models be named."""
        return len(self.rated) == len(self.items)

    def enter(self, text: str) -> None:
        """Take the letters typed so far, one an answer, and save what they say; other characters are ignored.

        Letters may be added, and the last one taken back. A text that changes anything else changes nothing: a slip of
        the hand must not move the ratings of all answers behind it.

        Raises RunError where the file cannot be written, or holds ratings of another form: then nothing is saved.
        """
        letters = "".join(key for key in text.casefold() if key in KEYS)[: len(self.items)]
        if letters != self.text and (letters.startswith(self.text) or letters == self.text[:-1]):
            pairs = zip(self.items, letters, strict=False)  # the rest is not rated yet
            rated = [{**item, "rating": KEYS[letter]} for item, letter in pairs]
            there = read_jsonl(self.path) if self.path.exists() else []
            if there != self.rated[: len(there)]:
                raise RunError(
                    f"{self.path.name} was changed elsewhere. Run this cell again to go on from what it holds."
                )
            write_jsonl(self.path, rated)
            self.rated = rated


def _shown(row: Record) -> tuple[str, ...]:
    return tuple(str(row.get(field)) for field in FIELDS)
