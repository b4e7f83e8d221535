"""What the cards of all sources share: counts in which nothing is lost, and Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from helpers.data.example import GENERAL, Example

SPLITS = ("train", "validation", "test")
GENERAL_BUCKET = {
    GENERAL: {"title": "General knowledge", "meaning": "Common knowledge that fine-tuning should leave alone."}
}
"""What the report says about general knowledge, beside any source's own buckets."""


def counted(what: str, given: int, kept: int, left_out: Mapping[str, int]) -> dict[str, Any]:
    """Say where everything given went.

    Args:
        what: is counted, in plural.
        given: how many there were.
        kept: how many are used.
        left_out: reason to number.

    Returns:
        `{"given", "kept", "left_out"}`, the most frequent reason first.

    Raises:
        AssertionError: the sums do not agree.
    """
    why = Counter(left_out)
    if given != kept + why.total():
        raise AssertionError(f"{what} were lost: {given} given, {kept} kept, {why.total()} left out")
    return {"given": given, "kept": kept, "left_out": {reason: times for reason, times in why.most_common() if times}}


def buckets_of(splits: Mapping[str, Sequence[Example]]) -> dict[str, dict[str, int]]:
    """For each split the number of examples of each bucket."""
    return {name: dict(Counter(example.bucket for example in examples)) for name, examples in splits.items()}


def splits_table(card: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """The counts of `buckets_of` in a card, as Markdown; `titles`: bucket to the head of its column."""
    rows = [[name, *(card[name].get(bucket, 0) for bucket in titles)] for name in SPLITS]
    return markdown_table(["split", *titles.values()], rows)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; empty where it would have no rows."""
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) if len(lines) > 2 else ""


def markdown_page(*parts: str) -> str:
    """The dataset card of these paragraphs and tables; empty ones are left out."""
    return "\n\n".join(filter(None, ("# Dataset card", *parts))) + "\n"
