"""The card of a table's dataset: where each row went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from helpers.data.card import GENERAL_BUCKET, buckets_of, counted, markdown_page, markdown_table, splits_table
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
} | GENERAL_BUCKET


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
    buckets = buckets_of(splits)
    counts = counted("rows", read, sum(of_split.get(BUCKET, 0) for of_split in buckets.values()), left_out)
    return {
        "source": source,
        "rows_read": counts["given"],
        "rows_kept": counts["kept"],
        "left_out": counts["left_out"],
        **buckets,
        "near_duplicates": near_duplicates,
        "across_given_splits": across,
        "rejected_rewordings": dict(rejected),
        "buckets": BUCKETS,
    }


def card_text(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    tested, across = card["test"].get(BUCKET, 0), card["across_given_splits"]
    but = f", but for {across} test rows: the table's own splits are kept" if across else ""
    few = f"Only {tested} rows are in the test: small differences between models cannot be seen with them."
    return markdown_page(
        f"{card['source']}: {card['rows_read']} rows read, {card['rows_kept']} kept. {card['near_duplicates']} rows "
        "belong to a group or have a question nearly equal to another row's; rows that belong together are in one split"
        f"{but}.",
        splits_table(card, {BUCKET: "rows of the table", REWORDED: "reworded", GENERAL: "general knowledge"}),
        markdown_table(["why left out", "rows"], card["left_out"].items()),
        markdown_table(["why a rewording was refused", "times"], card["rejected_rewordings"].items()),
        few if tested < FEW else "",
    )
