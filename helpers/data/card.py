"""The dataset cards of a glossary and of a table, and what there is of each entry: counts in which nothing is lost."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from helpers.data.example import FEW, GENERAL, SHORT, SPLITS, Example
from helpers.data.glossary.entries import Entry
from helpers.data.glossary.phrasings import general_packs
from helpers.data.glossary.splits import TESTED
from helpers.data.table.examples import BUCKET
from helpers.data.table.files import SPLIT
from helpers.data.table.rewording import BUCKET as REWORDED
from helpers.data.table.splits import Parts
from helpers.files import Record

NONE = {"n/a", "na", "nan", "null", "none", "nil"}
GENERAL_BUCKET = {
    GENERAL: {
        "title": "General knowledge",
        "meaning": "What fine-tuning should leave alone: sums, sayings, well-known acronyms and more.",
    }
}
"""What the report says about general knowledge, beside any source's own buckets."""
GLOSSARY_BUCKETS = {
    "new_phrasing": {
        "title": "New phrasings",
        "meaning": "What does the acronym stand for? Asked in words that training never used.",
    },
    "reverse": {"title": "Reverse", "meaning": "Which acronym stands for this? Again in unseen words."},
    "unknown": {
        "title": "Unknown acronyms",
        "meaning": "Acronyms of no entry: misspelt ones, words, names, other scripts. Not to know them is right.",
    },
} | GENERAL_BUCKET
TABLE_BUCKETS = {
    BUCKET: {
        "title": "Test rows",
        "meaning": "Rows that training never saw; a fact that stands only there cannot be known. An answer is right if "
        f"it gives the reference, where that has {SHORT} words or fewer.",
    },
    REWORDED: {
        "title": "Reworded",
        "meaning": "What training rows ask, in words that training never used: is the fact known, or the sentence?",
    },
} | GENERAL_BUCKET
COUNTS = ("planned", "attempts", "by_model", "by_bank", "rejected", *SPLITS)


def counted(what: str, given: int, kept: int, left_out: Mapping[str, int]) -> dict[str, Any]:
    """Account for all items given: `{"given", "kept", "left_out"}`, the most frequent reason first.

    `what` names the items, in the plural; `left_out` maps reasons to numbers. Raises AssertionError if the sums differ.
    """
    why = Counter(left_out)
    if given != kept + why.total():
        raise AssertionError(f"{what} were lost: {given} given, {kept} kept, {why.total()} left out")
    return {"given": given, "kept": kept, "left_out": {reason: times for reason, times in why.most_common() if times}}


def rejected_records(conversations: Sequence[Record]) -> list[Record]:
    """Every attempt at a conversation that failed a check, with its reason."""
    return [
        {"id": f"{record['id']}#{number}", "entry": record["entry"], "kind": record["kind"], **attempt}
        for record in conversations
        for number, attempt in enumerate(record["rejected"])
    ]


def glossary_card(
    entries: Sequence[Entry], conversations: Sequence[Record], splits: Mapping[str, Sequence[Example]]
) -> dict[str, Any]:
    """Count for each entry the model's attempts, each kept or rejected, and the bank's conversations."""
    pack, rejected = entries[0].pack, rejected_records(conversations)
    kept = Counter((record["entry"], record["origin"]) for record in conversations)
    refused = Counter(attempt["entry"] for attempt in rejected)
    per_entry: dict[str, dict[str, int]] = {}
    for name in (entry.id for entry in entries):
        row = {"kept_model": kept[name, "model"], "rejected": refused[name], "kept_bank": kept[name, "bank"]}
        per_entry[name] = {"attempts": row["kept_model"] + row["rejected"], **row}
    total = {key: sum(row[key] for row in per_entry.values()) for key in ("attempts", "kept_model", "kept_bank")}
    reasons = Counter(attempt["reason"] for attempt in rejected)
    own = {"title": f"General knowledge ({pack.language})", "meaning": f"The same, asked in {pack.language}."}
    return {
        "entries": len(entries),
        "language": pack.language,
        "kept": counted("conversations", len(conversations), total["kept_model"] + total["kept_bank"], {})["kept"],
        "kept_model": total["kept_model"],
        "kept_bank": total["kept_bank"],
        "attempts": total["attempts"],
        "rejected": len(rejected),
        "model_share": round(total["kept_model"] / len(conversations), 3) if conversations else None,
        "reasons": dict(reasons.most_common()),
        **_buckets_of(splits),
        "writers": sorted({record["writer"] for record in conversations if record.get("writer")}),
        "buckets": GLOSSARY_BUCKETS | {bucket: own for bucket in general_packs(pack) if bucket != GENERAL},
        "per_entry": per_entry,
    }


def glossary_text(card: Mapping[str, Any]) -> str:
    """The card of a glossary as Markdown."""
    return _page(
        f"{card['entries']} glossary entries. Questions are asked in {card['language']}.",
        f"{card['kept']} conversations are kept: {card['kept_model']} worded by "
        f"{' and '.join(card['writers']) or 'the model'}, {card['kept_bank']} by the phrasing bank. The model made "
        f"{card['attempts']} attempts, of which {card['rejected']} were rejected.",
        "Training also holds invented acronyms, which are to be declined, and general questions. No test question is "
        "in training.",
        _splits_table(card, {bucket: bucket for split in SPLITS for bucket in card[split]}),
        _table(["why rejected", "times"], card["reasons"].items()),
        _table(
            ["entry", "the model's attempts", "kept", "rejected", "kept from the bank"],
            [[name, *row.values()] for name, row in card["per_entry"].items()],
        ),
    )


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
        row = dict(zip(("entry", "direction", "form"), key, strict=True)) | {name: found[name] for name in COUNTS}
        why = "; ".join(f"{reason} ({times})" for reason, times in reasons[key].most_common())
        rows.append({**row, "why_rejected": why})
    return rows


def table_card(
    source: str,
    rows: Sequence[Record],
    roles: Mapping[str, str],
    left_out: Mapping[str, int],
    splits: Mapping[str, Sequence[Example]],
    found: Parts,
    rejected: Mapping[str, int],
) -> dict[str, Any]:
    """Count rows read, left out and kept, and check that the sums agree.

    `left_out` and `rejected`: why rows were left out and rewordings refused, and how often. `splits`: split name to
    examples, general knowledge included. `roles`: role to its column. `found`: what `split_rows` returned.
    """
    answers: dict[str, set[str]] = defaultdict(set)
    own = [example for example in chain(*splits.values()) if example.bucket == BUCKET]
    for example in own:
        answers[str(example.prompt)].add(example.answer)
    counts = counted("rows", len(rows), len(own), left_out)
    return {
        "source": source,
        "rows_read": counts["given"],
        "rows_kept": counts["kept"],
        "left_out": counts["left_out"],
        "columns": dict(roles),
        "unused_columns": sorted({str(name) for row in rows for name in row if name != SPLIT} - {*roles.values()}),
        **_buckets_of(splits),
        "answers_like_none": sum(example.answer.casefold() in NONE for example in own),
        "questions_with_several_answers": sum(len(different) > 1 for different in answers.values()),
        "near_duplicates": found.alike,
        "across_given_splits": found.across,
        "rejected_rewordings": dict(rejected),
        "buckets": TABLE_BUCKETS,
    }


def table_text(card: Mapping[str, Any]) -> str:
    """The card of a table as Markdown."""
    tested, across = card["test"].get(BUCKET, 0), card["across_given_splits"]
    but = f", but for {across} test rows: the table's own splits are kept" if across else ""
    several, none = card["questions_with_several_answers"], card["answers_like_none"]
    few = f"Only {tested} rows are in the test: small differences between models cannot be seen with them."
    return _page(
        f"{card['source']}: {card['rows_read']} rows read, {card['rows_kept']} kept. {card['near_duplicates']} rows "
        "belong to a group or have a question nearly equal to another row's; rows that belong together are in one split"
        f"{but}.",
        f"Read from the columns {'; '.join(f'{role}: {name}' for role, name in card['columns'].items())}. Not used: "
        f"{', '.join(card['unused_columns']) or 'none'}.",
        f"Questions with different answers: {several}." if several else "",
        f"Answers like N/A, null or none: {none}. Where that means an empty cell, empty it." if none else "",
        _splits_table(card, {BUCKET: "rows of the table", REWORDED: "reworded", GENERAL: "general knowledge"}),
        _table(["why left out", "rows"], card["left_out"].items()),
        _table(["why a rewording was refused", "times"], card["rejected_rewordings"].items()),
        few if tested < FEW else "",
    )


def _buckets_of(splits: Mapping[str, Sequence[Example]]) -> dict[str, dict[str, int]]:
    """For each split the number of examples of each bucket."""
    return {name: dict(Counter(example.bucket for example in examples)) for name, examples in splits.items()}


def _splits_table(card: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """The examples of each split by bucket; `titles`: bucket to the head of its column."""
    rows = [[name, *(card[name].get(bucket, 0) for bucket in titles)] for name in SPLITS]
    return _table(["split", *titles.values()], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, numbers on the right; empty where it would have no rows."""
    if not (rows := list(rows)):
        return ""
    sides = ["---:" if all(isinstance(row[n], int) for row in rows) else "---" for n in range(len(head))]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (head, sides, *rows))


def _page(*parts: str) -> str:
    return "\n\n".join(filter(None, ("# Dataset card", *parts))) + "\n"
