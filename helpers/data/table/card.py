"""The card of a table's dataset: where each row went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from helpers.data.example import GENERAL, SHORT, Example
from helpers.data.table.examples import BUCKET
from helpers.data.table.rewording import BUCKET as REWORDED

FEW = 30
"""Test items below which a card says how little they can show."""
BUCKETS = {
    BUCKET: {
        "title": "Test rows",
        "meaning": "Rows that training never saw. An answer is right that contains the reference, where that has "
        f"{SHORT} words or fewer.",
    },
    REWORDED: {
        "title": "Reworded",
        "meaning": "What training rows ask, in words that training never used: is the fact known, or the sentence?",
    },
    GENERAL: {"title": "General knowledge", "meaning": "Common knowledge that fine-tuning should leave alone."},
}


def make_card(
    source: str,
    read: int,
    left_out: Mapping[str, int],
    splits: Mapping[str, Sequence[Example]],
    *,
    near_duplicates: int,
    across: int,
    rejected: Mapping[str, int],
) -> dict[str, Any]:
    """Count rows read, left out and kept, and check that the sums agree.

    Args:
        source: name of the table.
        read: rows of the table.
        left_out: reason to number of rows.
        splits: split name to examples, general knowledge included.
        near_duplicates: rows that belong with another.
        across: test rows, given as such, that belong with training rows.
        rejected: why rewordings were refused, and how often.
    """
    kept = sum(example.bucket == BUCKET for examples in splits.values() for example in examples)
    if read != kept + sum(left_out.values()):
        raise AssertionError(f"rows were lost: {read} read, {kept} kept, {dict(left_out)} left out")
    return {
        "source": source,
        "rows_read": read,
        "rows_kept": kept,
        "left_out": {reason: times for reason, times in left_out.items() if times},
        **{name: dict(Counter(example.bucket for example in examples)) for name, examples in splits.items()},
        "near_duplicates": near_duplicates,
        "across_given_splits": across,
        "rejected_rewordings": dict(rejected),
        "buckets": BUCKETS,
    }


def card_text(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    tested = card["test"].get(BUCKET, 0)
    across = card["across_given_splits"]
    but = f", but for {across} test rows: the table's own splits are kept" if across else ""
    lines = [
        "# Dataset card",
        "",
        f"{card['source']}: {card['rows_read']} rows read, {card['rows_kept']} kept. {card['near_duplicates']} rows "
        "belong to a group or have a question nearly equal to another row's; rows that belong together are in one split"
        f"{but}.",
        "",
        "| split | rows of the table | reworded | general knowledge |",
        "|---|---|---|---|",
        *(
            f"| {name} | {' | '.join(str(card[name].get(bucket, 0)) for bucket in BUCKETS)} |"
            for name in ("train", "validation", "test")
        ),
    ]
    if card["left_out"]:
        lines += ["", "| why left out | rows |", "|---|---|"]
        lines += [f"| {reason} | {times} |" for reason, times in card["left_out"].items()]
    if card["rejected_rewordings"]:
        lines += ["", "| why a rewording was refused | times |", "|---|---|"]
        lines += [f"| {reason} | {times} |" for reason, times in card["rejected_rewordings"].items()]
    if tested < FEW:
        lines += ["", f"Only {tested} rows are in the test: small differences between models cannot be seen with them."]
    return "\n".join(lines) + "\n"
