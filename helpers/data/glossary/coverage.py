"""Which conversations there are of each entry: direction, form, where they came from and in which split they are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from helpers.data.example import SPLITS, Example
from helpers.files import Record

TESTED = {"new_phrasing": "forward", "reverse": "reverse"}
"""Bucket of the test to its direction."""


def coverage(conversations: Sequence[Record], splits: Mapping[str, Sequence[Example]]) -> list[Record]:
    """A row for each entry, direction and form: what was planned, asked, kept and rejected, and the split it is in.

    `form` is empty for questions in the way of two requests, and `held out` for those of the test. `attempts` counts
    what the model wrote, kept or rejected. Raises AssertionError where a conversation is in no split or in two.
    """
    counts: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    reasons: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    placed = [(example.id, name) for name in ("train", "validation") for example in splits[name]]
    places, times = dict(placed), Counter(identity for identity, _ in placed)
    if wrong := [record["id"] for record in conversations if times[record["id"]] != 1]:
        raise AssertionError(f"conversations are in no split or in two: {wrong[:3]}")
    for record in conversations:
        key = record["entry"], record["kind"], record.get("form", "")
        rejected = [attempt["reason"] for attempt in record["rejected"]]
        attempts = len(rejected) + (record["origin"] == "model")
        counts[key].update({"planned": 1, "attempts": attempts, "rejected": len(rejected)})
        counts[key].update([f"by_{record['origin']}", places[record["id"]]])
        reasons[key].update(rejected)
    for example in splits["test"]:
        if example.bucket in TESTED:
            counts[example.subject, TESTED[example.bucket], "held out"].update({"planned": 1, "by_bank": 1, "test": 1})
    rows = []
    for key, found in counts.items():
        row = dict(zip(("entry", "direction", "form"), key, strict=True)) | {name: found[name] for name in _COUNTS}
        why = "; ".join(f"{reason} ({times})" for reason, times in reasons[key].most_common())
        rows.append({**row, "why_rejected": why})
    return rows


_COUNTS = ("planned", "attempts", "by_model", "by_bank", "rejected", *SPLITS)
