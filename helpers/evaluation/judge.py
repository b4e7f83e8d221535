"""A language model as judge, and how far it agrees with plain containment.

A judge must show its agreement before it is believed. A reply that cannot be read leaves its item unscored,
with the reason; it never counts as wrong.
"""

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.data.example import Example
from helpers.errors import UnreadableReply
from helpers.evaluation.intervals import cohens_kappa
from helpers.resumable import resumable_map

if TYPE_CHECKING:
    from helpers.endpoint.chat import ChatEndpoint

RUBRIC = (
    "You grade answers. Compare the answer with the reference.\n"
    "correct: it gives the same fact; other words, or more words, are fine.\n"
    "incorrect: the fact is different, missing, or hidden in a list of guesses.\n"
    "If the reference says that it does not know, only an answer that does not know either is correct.\n"
    "Give the verdict and a reason of at most 12 words."
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "verdict": {"type": "string", "enum": ["correct", "incorrect"]},
        "reason": {"type": "string", "maxLength": 120},
    },
    "required": ["verdict", "reason"],
    "additionalProperties": False,
}
_MAX_TOKENS = 56  # Room for the longest reason that the schema allows.


def choose_items(items: Sequence[Example], max_items: int, seed: int) -> list[str]:
    """Choose test items for the judge, as evenly over the buckets as they allow.

    The choice depends on the test set and the seed alone, so every model is judged on the same items.

    Args:
        items: the test set.
        max_items: most items to choose; 0 chooses none.
        seed: of the choice.

    Returns:
        The ids, in the order of the items.
    """
    buckets: defaultdict[str, list[str]] = defaultdict(list)
    for item in items:
        buckets[item.bucket].append(item.id)
    rng = random.Random(seed)
    queues = [rng.sample(sorted(ids), len(ids)) for _, ids in sorted(buckets.items())]
    chosen: set[str] = set()
    while any(queues) and len(chosen) < max_items:
        for queue in queues:
            if queue and len(chosen) < max_items:
                chosen.add(queue.pop())
    return [item.id for item in items if item.id in chosen]


def judge_answers(
    items: Sequence[Mapping[str, str]], endpoint: "ChatEndpoint", *, path: Path, seed: int
) -> list[dict[str, Any]]:
    """Have a model judge answers, and keep each verdict as soon as it is there.

    A call with the same path goes on where a killed one stopped: an item is asked again only if what the judge reads or
    the judge has changed, or its reply could not be read.

    Args:
        items: `{"id", "question", "reference", "answer"}` each.
        endpoint: the judge; asked at temperature 0.
        path: JSON Lines file of verdicts; one line is appended for each finished item.
        seed: for servers that honour it.

    Returns:
        `{"id", "case", "answer", "judge", "verdict", "reason"}` for each item, in their order; `case` is a digest of
        what was read; `verdict` is `correct`, `incorrect`, or None where the judge's reply could not be read, which
        the reason explains.

    Raises:
        EndpointError: the server failed; finished verdicts stay in the file.
        RunError: the file holds a broken line before its last.
    """
    return resumable_map(
        items,
        lambda item, _: [_judge_one(item, endpoint, seed)],
        path=path,
        keys=lambda item: [(item["id"], _digest(item))],
        key=lambda row: (row["id"], row.get("case")),
        parallel=endpoint.parallel_requests,
        title=f"judge {path.stem}",
        keep=lambda row: row["verdict"] is not None and row.get("judge") == endpoint.name,
    )


def _case(item: Mapping[str, str]) -> str:
    return f"Question: {item['question']}\nReference: {item['reference']}\nAnswer: {item['answer'] or '(empty)'}"


def _digest(item: Mapping[str, str]) -> str:
    """Of everything that the judge reads, so that a verdict on something else is not taken for one on this."""
    return hashlib.sha256(f"{RUBRIC}\n{_case(item)}".encode()).hexdigest()[:12]


def _judge_one(item: Mapping[str, str], endpoint: "ChatEndpoint", seed: int) -> dict[str, Any]:
    messages = [{"role": "system", "content": RUBRIC}, {"role": "user", "content": _case(item)}]
    try:
        reply = endpoint.complete_json(messages, schema=SCHEMA, max_tokens=_MAX_TOKENS, temperature=0.0, seed=seed)
    except UnreadableReply as error:
        reply = {"verdict": None, "reason": str(error)}
    told = {"id": item["id"], "case": _digest(item), "answer": item["answer"], "judge": endpoint.name}
    return {**told, "verdict": reply["verdict"], "reason": reply["reason"]}


def summarise_judge(scores: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Count a judge's verdicts and compare them with containment.

    Args:
        scores: rows of `scores/<model>.jsonl`; one without `judge_reason` was not judged.

    Returns:
        `{"n", "unscored", "rate", "kappa_with_containment"}`: items judged, those whose reply could not be
        read, the share called correct of the rest, and Cohen's kappa; the last two may be None.
    """
    judged = [row for row in scores if row["judge_reason"] is not None]
    scored = [row for row in judged if row["judge"] is not None]
    verdicts = [row["judge"] == "correct" for row in scored]
    both = [(row["judge"] == "correct", row["correct"]) for row in scored if row["correct"] is not None]
    return {
        "n": len(judged),
        "unscored": len(judged) - len(scored),
        "rate": sum(verdicts) / len(verdicts) if verdicts else None,
        "kappa_with_containment": cohens_kappa(*map(list, zip(*both, strict=True))) if both else None,
    }
