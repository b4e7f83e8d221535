"""The dataset card: what was asked for, kept and rejected, for each entry and by whom it was worded."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from helpers.data.glossary.entries import Entry
from helpers.files import Record


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
    train: Sequence[Record],
    validation: Sequence[Record],
    test: Sequence[Record],
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
        "train": dict(Counter(record["kind"] for record in train)),
        "validation": dict(Counter(record["kind"] for record in validation)),
        "test": dict(Counter(item["bucket"] for item in test)),
        "train_by_origin": dict(Counter(record["origin"] for record in train)),
        "per_entry": per_entry,
    }
    if card["asked"] != card["kept"] + card["rejected"]:
        raise AssertionError(f"conversations were lost: {card['asked']} asked, {card['kept']} + {card['rejected']}")
    return card


def card_text(card: dict[str, Any]) -> str:
    """The card as Markdown."""
    lines = [
        "# Dataset card",
        "",
        f"{card['entries']} glossary entries. {card['asked']} conversations were asked for: {card['kept']} kept "
        f"({card['kept_model']} worded by the model, {card['kept_bank']} by the phrasing bank), "
        f"{card['rejected']} rejected.",
        "",
        "| split | " + " | ".join(("forward", "reverse", "unknown", "general")) + " |",
        "|---|---|---|---|---|",
    ]
    for split in ("train", "validation"):
        counts = card[split]
        lines.append(f"| {split} | " + " | ".join(str(counts.get(k, 0)) for k in KINDS) + " |")
    buckets = ("new_phrasing", "reverse", "unknown", "general")
    lines.append("| test | " + " | ".join(str(card["test"].get(bucket, 0)) for bucket in buckets) + " |")
    lines += ["", "| why rejected | times |", "|---|---|"]
    lines += [f"| {reason} | {times} |" for reason, times in card["reasons"].items()]
    lines += ["", "| entry | asked | kept: model | kept: bank | rejected |", "|---|---|---|---|---|"]
    for name, row in card["per_entry"].items():
        lines.append(f"| {name} | {row['asked']} | {row['kept_model']} | {row['kept_bank']} | {row['rejected']} |")
    return "\n".join(lines) + "\n"


KINDS = ("forward", "reverse", "unknown", "general")
