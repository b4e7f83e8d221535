"""A language model as judge, and how far it agrees with reading by rule.

A judge must show its agreement before it is believed: its verdicts stand beside the rates of right answers and never
change them, also where an answer's words left it undecided. A reply that cannot be read leaves its item unscored, with
the reason; it never counts as wrong.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.data.example import Example
from helpers.endpoint.chat import ChatEndpoint
from helpers.endpoint.tally import Tally
from helpers.evaluation.results import by_bucket, spread, undecided
from helpers.files import Record
from helpers.resumable import resumable_map

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
    """Ids of at most `max_items` test items for the judge, as evenly over the buckets as they allow.

    The choice depends on the test set and the seed alone, so every model is judged on the same items.
    """
    buckets = by_bucket((item.bucket, item.id) for item in items)
    rng = random.Random(seed)
    return spread([rng.sample(sorted(ids), len(ids))[::-1] for _, ids in sorted(buckets.items())], max_items)


def judge_sample(
    test: Sequence[Example],
    answers: Mapping[str, Mapping[str, str]],
    endpoint: ChatEndpoint,
    *,
    count: int,
    folder: Path,
    seed: int,
) -> dict[str, list[Record]]:
    """Let the endpoint's model judge the same test items for every model; returns what `judge_answers` does for each.

    They are a sample of `count`, which depends on the `seed`, and all items on which the answer of some model is
    undecided. `answers` holds id to answer for each model; `folder` keeps the verdicts, a file a model.
    """
    chosen = set(choose_items(test, count, seed))
    chosen |= {item.id for item in test for given in answers.values() if undecided(item, given[item.id])}
    sample = [item for item in test if item.id in chosen]
    verdicts = {}
    for name, given in answers.items():
        items = [{"id": i.id, "question": i.question, "reference": i.answer, "answer": given[i.id]} for i in sample]
        verdicts[name] = judge_answers(items, endpoint, path=folder / f"{name}.jsonl", seed=seed)
    return verdicts


def judge_answers(items: Sequence[Mapping[str, str]], endpoint: ChatEndpoint, *, path: Path, seed: int) -> list[Record]:
    """Have a model judge answers at temperature 0, and keep each verdict as soon as it is there.

    A call with the same path goes on where a killed one stopped: an item is asked again only if what the judge reads or
    the judge has changed, or its reply could not be read.

    Args:
        items: `{"id", "question", "reference", "answer"}` each.
        endpoint: the judge.
        path: JSON Lines file of verdicts.
        seed: for servers that honour it.

    Returns:
        `{"id", "case", "answer", "judge", "verdict", "reason"}` for each item, in their order; `case` is a digest of
        what was read; `verdict` is `correct`, `incorrect`, or None where the judge's reply could not be read.

    Raises:
        EndpointError: the server failed; finished verdicts stay in the file.
        RunError: the file holds a broken line before its last.
    """
    tally = Tally(endpoint.name, "Choose another model in endpoint.model as judge, or set score.judge_items to 0.")

    def case(item: Mapping[str, str]) -> tuple[str, str]:
        return item["id"], _digest(item)

    found = resumable_map(
        items,
        lambda item, _: [_judge_one(item, endpoint, seed, tally)],
        path=path,
        fields=("id", "verdict", "reason"),
        keys=lambda item: [case(item)],
        key=lambda row: (row["id"], row.get("case")),
        parallel=endpoint.parallel_requests,
        title=f"judge {path.stem}",
        keep=lambda row: row["verdict"] is not None and row.get("judge") == endpoint.name,
    )
    return [found[case(item)] for item in items]


def _case(item: Mapping[str, str]) -> str:
    return f"Question: {item['question']}\nReference: {item['reference']}\nAnswer: {item['answer'] or '(empty)'}"


def _digest(item: Mapping[str, str]) -> str:
    """Of everything that the judge reads, so that a verdict on something else is not taken for one on this."""
    return hashlib.sha256(f"{RUBRIC}\n{_case(item)}".encode()).hexdigest()[:12]


def _judge_one(item: Mapping[str, str], endpoint: ChatEndpoint, seed: int, tally: Tally) -> dict[str, Any]:
    tally.stop()
    messages = [{"role": "system", "content": RUBRIC}, {"role": "user", "content": _case(item)}]
    told = {"id": item["id"], "case": _digest(item), "answer": item["answer"], "judge": endpoint.name}
    reply: Record = {"verdict": None}
    with tally.attempt(item["id"]) as attempt:
        reply = endpoint.complete_json(messages, schema=SCHEMA, max_tokens=_MAX_TOKENS, temperature=0.0, seed=seed)
    return {**told, "verdict": reply["verdict"], "reason": reply.get("reason", attempt.reason)}
