"""How well identifying words are found: recall and precision against spans that are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from helpers.data.holders.deidentify import Span


def score_spans(
    texts: Sequence[str], planted: Sequence[Sequence[Span]], found: Sequence[Sequence[Span]]
) -> dict[str, Any]:
    """Compare spans text by text, by their letters and digits.

    A planted span is found if every letter and digit of it is masked, under whatever kind. A found span is right if
    every letter and digit of it is planted.

    Args:
        texts: the raw texts.
        planted: for each text, the spans that give someone away, all within it.
        found: for each text, the spans that would be masked.

    Returns:
        `planted`, `found`: counts; `recall`, `precision`: 0 to 1, None of nothing; `missed`, `wrong`: counts by kind.
    """
    missed: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for text, true, masked in zip(texts, planted, found, strict=True):
        identifying, hidden = _characters(text, true), _characters(text, masked)
        missed.update(span.kind for span in true if not _characters(text, [span]) <= hidden)
        wrong.update(span.kind for span in masked if not _characters(text, [span]) <= identifying)
    n_planted, n_found = sum(map(len, planted)), sum(map(len, found))
    return {
        "planted": n_planted,
        "found": n_found,
        "recall": 1 - missed.total() / n_planted if n_planted else None,
        "precision": 1 - wrong.total() / n_found if n_found else None,
        "missed": dict(missed.most_common()),
        "wrong": dict(wrong.most_common()),
    }


def _characters(text: str, spans: Sequence[Span]) -> set[int]:
    return {place for span in spans for place in range(span.start, span.end) if text[place].isalnum()}
