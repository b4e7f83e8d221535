"""Score answers one by one, and gather what every table and plot of the report is drawn from.

Everything is matched by id, never by position, and ids that do not match are refused by name.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from sklearn.metrics import roc_auc_score

from helpers.data.example import Example, is_general
from helpers.data.matching import is_right
from helpers.errors import EvaluationError
from helpers.evaluation.intervals import cohens_kappa, rate_with_interval
from helpers.files import Record, read_jsonl

MAX_DISAGREEMENTS, MAX_UNRATED = 40, 12
"""Items shown of those that models answer differently, and of those that can only be compared with a reference."""
METRICS = ("rouge_l", "static", "sentence", "cross_encoder")
Metric = Callable[[Sequence[str], Sequence[str]], list[float]]
Item = TypeVar("Item")


def read_answers(path: Path, test: Sequence[Example]) -> dict[str, str]:
    """Read `predictions/<model>.jsonl` into `{id: answer}`.

    Raises:
        EvaluationError: its ids are not those of the test, each once.
        RunError: a line is no JSON object.
    """
    rows = read_jsonl(path)
    found = Counter(row.get("id", "no id") for row in rows)
    found.subtract(example.id for example in test)
    missing = [f"{key} is missing" for key, times in found.items() if times < 0]
    if wrong := missing + [f"{key} comes twice or is not in the test" for key, times in found.items() if times > 0]:
        shown = ", ".join(wrong[:5]) + (", ..." if len(wrong) > 5 else "")
        raise EvaluationError(f"{path} does not hold each item of the test once: {shown}. Answer this test set anew.")
    return {row["id"]: row["answer"] for row in rows}


def undecided(example: Example, answer: str) -> bool:
    """Whether the words of an answer should tell if it is right, and do not."""
    return example.check != "none" and is_right(example, answer) is None


def score_answers(
    test: Sequence[Example],
    answers: Mapping[str, str],
    *,
    metrics: Mapping[str, Metric],
    verdicts: Iterable[Record] = (),
) -> list[Record]:
    """Score one model's answers, given by id.

    `metrics` are those of `METRICS` to measure; the others become None. `verdicts` are what `judge_answers` returned,
    for some or all of the items.

    Returns:
        A row of `scores/<model>.jsonl` for each test item, in their order; `correct` is None where only likeness can be
        measured, and where `undecided`.
    """
    judged = {row["id"]: row for row in verdicts}
    given, references = [answers[example.id] for example in test], [example.answer for example in test]
    values = {name: metric(given, references) for name, metric in metrics.items()}
    return [
        {
            "id": example.id,
            "bucket": example.bucket,
            "correct": is_right(example, answers[example.id]),
            **{name: values[name][position] if name in values else None for name in METRICS},
            "judge": judged.get(example.id, {}).get("verdict"),
            "judge_reason": judged.get(example.id, {}).get("reason"),
        }
        for position, example in enumerate(test)
    ]


def collect_results(
    test: Sequence[Example],
    answers: Mapping[str, Mapping[str, str]],
    scores: Mapping[str, Collection[Record]],
    costs: Mapping[str, Mapping[str, float]],
    **extra: Any,
) -> dict[str, Any]:
    """Gather the scores of all models.

    Args:
        test: the test set.
        answers: for each model, id to answer.
        scores: for each model, what `score_answers` returned; their order is the report's.
        costs: `{"seconds", "peak_memory_mb"}` of answering, for each model.
        **extra: further facts for the report, stored as they are: `run`, `dataset`, `training`, `cross_encoder`.

    Returns:
        What `results.json` holds: `models` with a rate for each bucket, means of the metrics, and these means
        again (`likeness`) for each bucket that holds answers of which only likeness can be measured; a rate leaves out
        answers that are undecided, whose number (`undecided`) stands beside it, and how many of them the judge calls
        right (`undecided_judged_right`);
        `separation`, the area under the ROC curve with which each metric tells right from wrong answers about facts,
        all models together: 0.5 where it cannot, 1 where it always can, None without both kinds;
        `similarity`, the sentence cosines of these answers; `disagreements`, of `disagreeing` in all;
        `unrated`, some items that have no rate, or are of a bucket in which all models are right or wrong
        alike; and `extra`.
    """
    checked = {example.id for example in test if example.check != "none"}
    known = [example for example in test if example.check != "declines" and not is_general(example.bucket)]
    facts = {example.id for example in known if example.expected}
    about_facts = {
        name: [row for row in rows if row["id"] in facts and row["correct"] is not None]
        for name, rows in scores.items()
    }
    all_facts = [row for rows in about_facts.values() for row in rows]
    models: dict[str, Any] = {}
    for name, rows in scores.items():
        buckets = by_bucket((row["bucket"], row) for row in rows)
        rated = by_bucket((row["bucket"], row) for row in rows if row["id"] in checked)
        models[name] = {
            "buckets": {bucket: _rate(own) for bucket, own in rated.items()},
            "likeness": {
                bucket: {"n": len(own), **_means(own)}
                for bucket, own in buckets.items()
                if len(rated.get(bucket, [])) < len(own)
            },
            "metrics": {**_means(rows), "separation": _separation(about_facts[name]), "judge": summarise_judge(rows)},
            **costs[name],
        }
    by_id = {name: {row["id"]: row for row in rows} for name, rows in scores.items()}
    verdicts = {example.id: {rows[example.id]["correct"] for rows in by_id.values()} for example in test}
    items = by_bucket((example.bucket, example) for example in test)
    apart = [[example for example in own if len(verdicts[example.id]) > 1] for own in items.values()]
    same = {bucket for bucket, different in zip(items, apart, strict=True) if not different}
    silent = {bucket for bucket in same if not is_general(bucket)}
    unrated = [example for example in test if verdicts[example.id] == {None} or example.bucket in silent]
    cosines = [(row["sentence"], row["correct"]) for row in all_facts if row["sentence"] is not None]

    def side_by_side(item: Example) -> dict[str, Any]:
        return {
            "id": item.id,
            "bucket": item.bucket,
            "question": item.question,
            "expected": list(item.expected),
            "reference": item.answer,
            "answers": {
                name: {"answer": answers[name][item.id], "correct": rows[item.id]["correct"]}
                for name, rows in by_id.items()
            },
        }

    return {
        **extra,
        "models": models,
        "separation": _separation(all_facts),
        "similarity": {
            word: sorted(round(cosine, 3) for cosine, right in cosines if right == correct)
            for word, correct in (("correct", True), ("wrong", False))
        },
        "disagreements": [side_by_side(example) for example in spread(apart, MAX_DISAGREEMENTS)],
        "unrated": [side_by_side(example) for example in unrated[:MAX_UNRATED]],
        "disagreeing": sum(map(len, apart)),
    }


def by_bucket(pairs: Iterable[tuple[str, Item]]) -> dict[str, list[Item]]:
    """What belongs to each bucket, from pairs of a bucket and one of its items."""
    buckets: dict[str, list[Item]] = {}
    for bucket, item in pairs:
        buckets.setdefault(bucket, []).append(item)
    return buckets


def spread(groups: Sequence[Sequence[Item]], limit: int) -> list[Item]:
    """Items of all groups, `limit` at most: taken turn by turn, so that small groups are represented."""
    turns = sorted((turn, number) for number, group in enumerate(groups) for turn in range(len(group)))
    taken = Counter(number for _, number in turns[:limit])
    return [item for number, group in enumerate(groups) for item in group[: taken[number]]]


def _rate(rows: Collection[Record]) -> dict[str, Any]:
    decided = [row["correct"] for row in rows if row["correct"] is not None]
    rate = rate_with_interval(sum(decided), len(decided))
    judged = [row["judge"] == "correct" for row in rows if row["correct"] is None]
    return rate | ({"undecided": len(judged), "undecided_judged_right": sum(judged)} if judged else {})


def _means(rows: Collection[Record]) -> dict[str, float | None]:
    values = {name: [row[name] for row in rows if row[name] is not None] for name in METRICS}
    return {name: fmean(found) if found else None for name, found in values.items()}


def _separation(rows: Collection[Record]) -> dict[str, float | None]:
    found = {name: [(row["correct"], row[name]) for row in rows if row[name] is not None] for name in METRICS}
    return {
        name: float(roc_auc_score(*zip(*pairs, strict=True))) if len({correct for correct, _ in pairs}) == 2 else None
        for name, pairs in found.items()
    }


def summarise_judge(scores: Iterable[Record]) -> dict[str, Any]:
    """Count a judge's verdicts in rows of `scores/<model>.jsonl`, and compare them with those of the rules.

    Returns:
        `{"n", "unscored", "rate", "kappa_with_rules"}`: items judged, those whose reply could not be
        read, the share called correct of the rest, and Cohen's kappa; the last two may be None.
    """
    judged = [row for row in scores if row["judge_reason"] is not None]
    scored = [(row["judge"] == "correct", row["correct"]) for row in judged if row["judge"] is not None]
    both = [verdicts for verdicts in scored if verdicts[1] is not None]
    return {
        "n": len(judged),
        "unscored": len(judged) - len(scored),
        "rate": rate_with_interval(sum(called for called, _ in scored), len(scored))["rate"],
        "kappa_with_rules": cohens_kappa([called for called, _ in both], [right for _, right in both]),
    }
