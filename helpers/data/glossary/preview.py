"""What conversations about a few entries look like, and what the whole glossary would take."""

from collections import Counter
from collections.abc import Iterable, Sequence

from helpers.config import Prices
from helpers.data.glossary.entries import Entry
from helpers.files import Record

SHOWN = 2
"""Conversations of a kind that are shown for each entry."""


def a_few(entries: Sequence[Entry], count: int) -> list[Entry]:
    """`count` entries spread over the glossary, from the first to the last."""
    if len(entries) <= count:
        return list(entries)
    return [entries[round(number * (len(entries) - 1) / max(1, count - 1))] for number in range(count)]


def in_words(conversations: Sequence[Record], planned: int) -> str:
    """The first conversations of each entry and kind, and `summary`."""
    lines: list[str] = []
    seen: Counter[tuple[str, str]] = Counter()
    for record in conversations:
        seen[record["entry"], record["kind"]] += 1
        if record["origin"] == "model" and seen[record["entry"], record["kind"]] <= SHOWN:
            turns = [turn["content"] for turn in record.get("earlier", ())] + [record["question"], record["answer"]]
            lines += ["", f"{record['entry']}, {record['kind']}", *(f"  - {turn}" for turn in turns)]
    return "\n".join([*lines, "", summary(conversations, planned)])


def summary(conversations: Iterable[Record], planned: int) -> str:
    """How many conversations are the model's, of how many `planned` for it, and why attempts were rejected."""
    origins, reasons = Counter[str](), Counter[str]()
    for record in conversations:
        origins[record["origin"]] += 1
        reasons.update(attempt["reason"] for attempt in record["rejected"])
    lines = [
        f"{origins['model']} of the {planned} conversations planned for the model are worded by it; {origins['bank']} "
        f"by the phrasing bank ({origins.total() - planned} planned). Rejected attempts: {reasons.total()}."
    ]
    lines += [f"  {times} times: {reason}" for reason, times in reasons.most_common()]
    return "\n".join(lines)


def forecast(shown: int, whole: int, seconds: float, usage: Counter[str], prices: Prices | None) -> str:
    """What a glossary of `whole` entries takes, after `shown` of them took `seconds` and `usage`."""
    times = whole / shown
    tokens = {name: round(usage[name] * times) for name in ("prompt_tokens", "completion_tokens")}
    parts = [f"{round(usage['requests'] * times):,} requests", f"{max(1, round(seconds * times / 60)):,} min"]
    if any(tokens.values()):
        parts.append(f"{tokens['prompt_tokens']:,} tokens read and {tokens['completion_tokens']:,} written")
        if prices:
            money = tokens["prompt_tokens"] * prices.prompt + tokens["completion_tokens"] * prices.completion
            parts.append(f"{money / 1e6:.2f} of the currency of endpoint.prices")
    return f"All {whole:,} entries: about {', '.join(parts)}."
