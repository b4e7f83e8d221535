"""The dataset card: what was asked for, kept and rejected, for each entry and by whom it was worded."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from helpers.data.example import Example
from helpers.data.glossary.entries import Entry
from helpers.files import Record

SPLITS = ("train", "validation", "test")
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
    "general": {"title": "General knowledge", "meaning": "Common knowledge that fine-tuning should leave alone."},
}
"""What the report says about each bucket of the test."""


def rejected_records(conversations: Sequence[Record]) -> list[Record]:
    """Every attempt that failed a check, with its reason."""
    return [
        {"id": f"{record['id']}#{number}", "entry": record["entry"], "kind": record["kind"], **attempt}
        for record in conversations
        for number, attempt in enumerate(record["rejected"])
    ]


def make_card(
    entries: Sequence[Entry],
    conversations: Sequence[Record],
    train: Sequence[Example],
    validation: Sequence[Example],
    test: Sequence[Example],
) -> dict[str, Any]:
    """Count what was asked, kept and rejected, and check that the sums agree.

    `asked` counts the model's attempts and the bank's fillings; each is kept or rejected, never lost.
    """
    kept = Counter(record["origin"] for record in conversations)
    reasons = Counter(attempt["reason"] for record in conversations for attempt in record["rejected"])
    per_entry: dict[str, dict[str, int]] = {}
    by_entry: dict[str, list[Record]] = defaultdict(list)
    for record in conversations:
        by_entry[record["entry"]].append(record)
    for entry in entries:
        own = by_entry[entry.id]
        rejected = sum(len(record["rejected"]) for record in own)
        per_entry[entry.id] = {
            "asked": len(own) + rejected,
            "kept_model": sum(record["origin"] == "model" for record in own),
            "kept_bank": sum(record["origin"] == "bank" for record in own),
            "rejected": rejected,
        }
    card: dict[str, Any] = {
        "entries": len(entries),
        "asked": sum(row["asked"] for row in per_entry.values()),
        "kept": len(conversations),
        "kept_model": kept["model"],
        "kept_bank": kept["bank"],
        "rejected": sum(reasons.values()),
        "model_share": round(kept["model"] / len(conversations), 3) if conversations else None,
        "reasons": dict(reasons.most_common()),
        **{
            name: dict(Counter(example.bucket for example in examples))
            for name, examples in (("train", train), ("validation", validation), ("test", test))
        },
        "writers": sorted({record["writer"] for record in conversations if record.get("writer")}),
        "train_by_origin": dict(Counter(example.origin for example in train)),
        "buckets": BUCKETS,
        "per_entry": per_entry,
    }
    if card["asked"] != card["kept"] + card["rejected"]:
        raise AssertionError(f"conversations were lost: {card['asked']} asked, {card['kept']} + {card['rejected']}")
    return card


def card_text(card: dict[str, Any]) -> str:
    """The card as Markdown."""
    buckets = list(dict.fromkeys(bucket for split in SPLITS for bucket in card[split]))
    lines = [
        "# Dataset card",
        "",
        f"{card['entries']} glossary entries. {card['asked']} conversations were asked for: {card['kept']} kept "
        f"({card['kept_model']} worded by {' and '.join(card['writers']) or 'the model'}, {card['kept_bank']} by the "
        "phrasing bank), "
        f"{card['rejected']} rejected.",
        "",
        f"| split | {' | '.join(buckets)} |",
        f"|---{'|---' * len(buckets)}|",
    ]
    for split in SPLITS:
        lines.append(f"| {split} | {' | '.join(str(card[split].get(bucket, 0)) for bucket in buckets)} |")
    lines += ["", "| why rejected | times |", "|---|---|"]
    lines += [f"| {reason} | {times} |" for reason, times in card["reasons"].items()]
    lines += ["", "| entry | asked | kept: model | kept: bank | rejected |", "|---|---|---|---|---|"]
    for name, row in card["per_entry"].items():
        lines.append(f"| {name} | {row['asked']} | {row['kept_model']} | {row['kept_bank']} | {row['rejected']} |")
    return "\n".join(lines) + "\n"
