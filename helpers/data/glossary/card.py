"""The dataset card: what was asked for, kept and rejected, for each entry and by whom it was worded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from helpers.data.card import GENERAL_BUCKET, SPLITS, buckets_of, counted, markdown_page, markdown_table, splits_table
from helpers.data.example import Example
from helpers.data.glossary.entries import Entry
from helpers.files import Record

BUCKETS = {
    "new_phrasing": {
        "title": "New phrasings",
        "meaning": "What does the acronym stand for? Asked in words that training never used.",
    },
    "reverse": {"title": "Reverse", "meaning": "Which acronym stands for this? Again in unseen words."},
    "unknown": {
        "title": "Unknown acronyms",
        "meaning": "Acronyms that do not exist, half of them one letter from a real one. To say so is right.",
    },
} | GENERAL_BUCKET
"""What the report says about each bucket of the test."""


def rejected_records(conversations: Sequence[Record]) -> list[Record]:
    """Every attempt that failed a check, with its reason."""
    return [
        {"id": f"{record['id']}#{number}", "entry": record["entry"], "kind": record["kind"], **attempt}
        for record in conversations
        for number, attempt in enumerate(record["rejected"])
    ]


def make_card(
    entries: Sequence[Entry], conversations: Sequence[Record], splits: Mapping[str, Sequence[Example]]
) -> dict[str, Any]:
    """Count what was asked, kept and rejected, and check that the sums agree.

    `asked` counts the model's attempts and the bank's fillings; each is kept or rejected, never lost.

    Args:
        entries: the glossary.
        conversations: what `write_conversations` returned.
        splits: split name to examples.
    """
    rejected = rejected_records(conversations)
    kept = Counter((record["entry"], record["origin"]) for record in conversations)
    refused = Counter(attempt["entry"] for attempt in rejected)
    per_entry: dict[str, dict[str, int]] = {}
    for name in (entry.id for entry in entries):
        row = {"kept_model": kept[name, "model"], "kept_bank": kept[name, "bank"], "rejected": refused[name]}
        per_entry[name] = {"asked": sum(row.values()), **row}
    total = {key: sum(row[key] for row in per_entry.values()) for key in ("asked", "kept_model", "kept_bank")}
    reasons = Counter(attempt["reason"] for attempt in rejected)
    counts = counted("conversations", total["asked"], len(conversations), reasons)
    return {
        "entries": len(entries),
        "asked": counts["given"],
        "kept": counts["kept"],
        "kept_model": total["kept_model"],
        "kept_bank": total["kept_bank"],
        "rejected": len(rejected),
        "model_share": round(total["kept_model"] / len(conversations), 3) if conversations else None,
        "reasons": counts["left_out"],
        **buckets_of(splits),
        "writers": sorted({record["writer"] for record in conversations if record.get("writer")}),
        "train_by_origin": dict(Counter(example.origin for example in splits["train"])),
        "buckets": BUCKETS,
        "per_entry": per_entry,
    }


def card_text(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    return markdown_page(
        f"{card['entries']} glossary entries. {card['asked']} conversations were asked for: {card['kept']} kept "
        f"({card['kept_model']} worded by {' and '.join(card['writers']) or 'the model'}, {card['kept_bank']} by the "
        f"phrasing bank), {card['rejected']} rejected.",
        splits_table(card, {bucket: bucket for split in SPLITS for bucket in card[split]}),
        markdown_table(["why rejected", "times"], card["reasons"].items()),
        markdown_table(
            ["entry", "asked", "kept: model", "kept: bank", "rejected"],
            [[name, *row.values()] for name, row in card["per_entry"].items()],
        ),
    )
