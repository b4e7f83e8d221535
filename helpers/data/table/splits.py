"""Training, validation and test rows of a table, with whatever belongs together on one side."""

import html
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from helpers.config import DataSplit
from helpers.data.example import SPLITS
from helpers.data.table.examples import Row
from helpers.data.table.files import usual
from helpers.errors import DataError
from helpers.progress import tqdm

_STRAIGHT = str.maketrans("‘’ʼ“”«»–—", '\'\'\'""""--')
AT_ONCE = 500
"""Questions compared with all others at once."""
COMMON = 0.2
"""A question or context that more than this share of the rows have, such as "Summarise this:", makes no rows alike."""


@dataclass(frozen=True)
class Parts:
    """Rows of each split, in an order that the seed shuffled."""

    rows: dict[str, list[Row]]
    alike: int
    """How many rows are kept with another one."""
    across: int
    """How many rows of a test that the table gives belong with rows of its training set."""


def split_rows(rows: Sequence[Row], settings: DataSplit, *, seed: int) -> Parts:
    """Share rows out. Raises DataError where nothing is left to learn from, or to test.

    Rows of one group, with one conversation's beginning, or with questions that are nearly the same, go to one side.
    A split that the table gives is kept; where it gives no test or validation rows, training rows become those.
    """
    together = _components(rows, settings.similar)
    order = list(dict.fromkeys(together))
    random.Random(f"{seed}/table").shuffle(order)
    chosen = {name: [at for at, row in enumerate(rows) if row.split == name] for name in SPLITS}
    free: dict[int, list[int]] = defaultdict(list)
    for at, row in enumerate(rows):
        if row.split in ("", "train"):
            free[together[at]].append(at)
    for name, share in (("test", settings.test), ("validation", settings.validation)):
        wanted = max(round(share * len(rows)), int(name == "test"))
        if not chosen[name]:
            for component in order:
                if free[component] and len(chosen[name]) + len(free[component]) <= wanted:
                    chosen[name] += free.pop(component)
    chosen["train"] = [at for component in order for at in free[component]]
    sizes = Counter(together)
    if not chosen["train"] or not chosen["test"]:
        raise DataError(
            f"The {len(rows)} rows cannot be split: {len(chosen['train'])} would be for training and "
            f"{len(chosen['test'])} for the test. Groups and questions that are nearly the same stay on one side (the "
            f"largest has {max(sizes.values())} rows), and a split that the table gives is kept. Look at data.split "
            "and data.columns."
        )
    learnt = {together[at] for at in chosen["train"]}
    return Parts(
        {name: [rows[at] for at in places] for name, places in chosen.items()},
        alike=sum(size for size in sizes.values() if size > 1),
        across=sum(together[at] in learnt for at in chosen["test"]),
    )


def _components(rows: Sequence[Row], similar: float) -> list[int]:
    """For each row the number of one row that stands for its component: equal for rows that belong together."""
    from scipy.cluster.hierarchy import DisjointSet

    texts = [_folded(told) for told in _telling(rows)]
    keys: list[Sequence[Hashable]] = [
        [row.example.subject for row in rows],  # its group
        [tuple(map(_folded, (*_questions(row), row.example.answer))) for row in rows],
        [tuple(map(_folded, _beginning(row))) for row in rows],  # a conversation that grows from row to row
        texts,
    ]
    together = DisjointSet(range(len(rows)))
    for values in keys:
        first: dict[Hashable, int] = {}
        for at, value in enumerate(values):
            if value:
                together.merge(first.setdefault(value, at), at)
    different = {told: at for at, told in enumerate(texts) if told}
    places = [*different.values()]
    for one, other in _similar([*different], similar):
        together.merge(places[one], places[other])
    return [together[at] for at in range(len(rows))]


def _questions(row: Row) -> list[str]:
    return [turn["content"] for turn in row.asked.prompt if turn["role"] == "user"]


def _folded(told: str) -> str:
    """A text without differences that nobody sees, such as kinds of apostrophes, HTML's names of letters and spaces."""
    return unicodedata.normalize("NFKC", usual(html.unescape(told))).translate(_STRAIGHT).casefold()


def _beginning(row: Row) -> tuple[str, str]:
    """The first question of a conversation with its answer, which for a single turn is all of it."""
    turns = [turn["content"] for turn in row.asked.prompt if turn["role"] != "system"]
    return (turns[0], turns[1] if len(turns) > 1 else row.example.answer)


def _telling(rows: Sequence[Row]) -> list[str]:
    """What each row asks and about what, without what a large share of all rows have in common."""
    parts = [_questions(row) + row.asked.contexts for row in rows]
    times = Counter(part for of_row in parts for part in {*of_row})
    return [" ".join(part for part in of_row if times[part] <= max(2, COMMON * len(rows))) for of_row in parts]


def _similar(texts: Sequence[str], similar: float) -> Iterator[tuple[int, int]]:
    """Pairs of texts whose cosine is `similar` or more.

    Of character trigrams and fourgrams, weighted by rarity (tf-idf): what all questions of a table share, such as "What
    are the symptoms of", hardly counts, and a typing error neither.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if len(texts) < 2:
        return
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4)).fit_transform([f" {told} " for told in texts])
    for start in tqdm(range(0, len(texts), AT_ONCE), desc="compare questions", disable=len(texts) < 5 * AT_ONCE):
        alike = (vectors[start : start + AT_ONCE] @ vectors.T).tocoo()
        close = alike.data >= similar - 1e-9
        yield from zip((alike.row[close] + start).tolist(), alike.col[close].tolist(), strict=True)
