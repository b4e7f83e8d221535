"""Score answers one by one, and gather what every table and plot of the report is drawn from.

Everything is matched by id, never by position, and ids that do not match are refused by name.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from helpers.data.example import GENERAL, Example, read_examples
from helpers.data.matching import is_correct
from helpers.errors import EvaluationError
from helpers.evaluation.intervals import rate_with_interval, separation
from helpers.evaluation.judge import summarise_judge

MAX_UNRATED = 12
"""Items shown of those whose answers can only be compared with a reference."""
METRICS = ("rouge_l", "static", "sentence", "cross_encoder")
Metric = Callable[[Sequence[str], Sequence[str]], list[float]]


def score_answers(
    test_path: Path,
    predictions_path: Path,
    *,
    metrics: Mapping[str, Metric],
    verdicts: Iterable[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Score one model's answers.

    Args:
        test_path: `test.jsonl`.
        predictions_path: `predictions/<model>.jsonl`, in any order.
        metrics: for any of `METRICS`, a function of answers and references; the others become None.
        verdicts: what `judge_answers` returned, for some or all of the items.

    Returns:
        A row of `scores/<model>.jsonl` for each test item, in the order of the test.

    Raises:
        EvaluationError: a file is broken, or predictions and test hold different ids.
    """
    test = {example.id: example for example in read_examples(test_path)}
    predictions = read_by_id(predictions_path)
    _refuse_mismatch(test, predictions, predictions_path)
    judged = {row["id"]: row for row in verdicts}
    answers = [predictions[i]["answer"] for i in test]
    references = [example.answer for example in test.values()]
    values = {name: metric(answers, references) for name, metric in metrics.items()}
    return [
        {
            "id": i,
            "bucket": example.bucket,
            "correct": is_correct(example.check, answers[position], example.expected),
            **{name: values[name][position] if name in values else None for name in METRICS},
            "judge": judged.get(i, {}).get("verdict"),
            "judge_reason": judged.get(i, {}).get("reason"),
        }
        for position, (i, example) in enumerate(test.items())
    ]


def collect_results(
    test_path: Path,
    predictions_dir: Path,
    scores_dir: Path,
    costs: Mapping[str, Mapping[str, float]],
    *,
    max_disagreements: int = 40,
    **extra: Any,
) -> dict[str, Any]:
    """Gather the scores of all models.

    Args:
        test_path: `test.jsonl`.
        predictions_dir: `<model>.jsonl` for each model.
        scores_dir: `<model>.jsonl` for each model.
        costs: `{"seconds", "peak_memory_mb"}` of answering, for each model; their order is the report's.
        max_disagreements: most items to show side by side.
        **extra: further facts for the report, stored as they are: `run`, `dataset`, `training`, `judge`,
            `cross_encoder`.

    Returns:
        What `results.json` holds: `models` with a rate for each bucket, means of the metrics, and these means
        again (`likeness`) for each bucket that holds answers of which only likeness can be measured;
        `forgetting`, general knowledge less that of `base`; `separation`, the area under the ROC curve with
        which each metric tells right from wrong answers about facts, all models together;
        `similarity`, the sentence cosines of these answers; `disagreements`, of `disagreeing` in all;
        `unrated`, some items that have no rate; and `extra`.

    Raises:
        EvaluationError: a file is missing or broken, or its ids are not those of the test.
    """
    test = {example.id: example for example in read_examples(test_path)}
    facts = {i for i, example in test.items() if example.expected and example.bucket != GENERAL}
    scores: dict[str, dict[str, Any]] = {}
    predictions: dict[str, dict[str, Any]] = {}
    for model in costs:
        for folder, rows in ((scores_dir, scores), (predictions_dir, predictions)):
            rows[model] = read_by_id(folder / f"{model}.jsonl")
            _refuse_mismatch(test, rows[model], folder / f"{model}.jsonl")
    models = {
        name: {
            "buckets": _rates(scores[name].values()),
            "likeness": _likeness(scores[name].values()),
            "metrics": _metrics(list(scores[name].values()), facts),
            **costs[name],
        }
        for name in costs
    }
    about_facts = [row for rows in scores.values() for row in rows.values() if row["id"] in facts]
    with_cosine = [row for row in about_facts if row["sentence"] is not None]
    return {
        **extra,
        "models": models,
        "forgetting": _forgetting(models),
        "separation": _separation(about_facts),
        "similarity": {
            word: sorted(round(row["sentence"], 3) for row in with_cosine if row["correct"] == correct)
            for word, correct in (("correct", True), ("wrong", False))
        },
        "disagreements": _disagreements(test, predictions, scores, max_disagreements),
        "unrated": [
            _side_by_side(test[i], predictions, scores)
            for i in [i for i in test if all(rows[i]["correct"] is None for rows in scores.values())][:MAX_UNRATED]
        ],
        "disagreeing": sum(len({rows[i]["correct"] for rows in scores.values()}) > 1 for i in test),
    }


def read_by_id(path: Path) -> dict[str, dict[str, Any]]:
    """Read a JSON Lines file into `{id: row}`.

    Raises:
        EvaluationError: the file is missing, a line is no JSON object with an `id`, or an id comes twice.
    """
    if not path.is_file():
        raise EvaluationError(f"{path} does not exist; run the notebook that writes it first.")
    rows: dict[str, dict[str, Any]] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                identity = row["id"]
            except (ValueError, TypeError, KeyError):
                problem = f"{path}, line {number}: expected a JSON object with an id, received {line[:60]!r}"
                raise EvaluationError(f"{problem}. Write the file anew.") from None
            if identity in rows:
                raise EvaluationError(f"{path}, line {number}: the id {identity!r} comes twice. Write the file anew.")
            rows[identity] = row
    return rows


def _refuse_mismatch(test: Mapping[str, Any], rows: Mapping[str, Any], path: Path) -> None:
    missing, foreign = [i for i in test if i not in rows], [i for i in rows if i not in test]
    for ids, fault in (
        (missing, "the test's items that it lacks"),
        (foreign, "items that the test does not hold"),
    ):
        if ids:
            shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
            raise EvaluationError(f"{path}: {fault}: {len(ids)} ({shown}). Answer this test set anew.")


def _rates(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    correct: defaultdict[str, list[bool]] = defaultdict(list)
    for row in rows:
        if row["correct"] is not None:
            correct[row["bucket"]].append(row["correct"])
    return {bucket: rate_with_interval(sum(found), len(found)) for bucket, found in correct.items()}


def _likeness(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of the metrics in each bucket where some answers can only be compared with their reference."""
    buckets: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        buckets[row["bucket"]].append(row)
    found: dict[str, Any] = {}
    for bucket, own in buckets.items():
        if any(row["correct"] is None for row in own):
            values = {name: [row[name] for row in own if row[name] is not None] for name in METRICS}
            found[bucket] = {"n": len(own), **{name: fmean(of) if of else None for name, of in values.items()}}
    return found


def _metrics(rows: Sequence[Mapping[str, Any]], facts: set[str]) -> dict[str, Any]:
    values = {name: [row[name] for row in rows if row[name] is not None] for name in METRICS}
    return {
        **{name: fmean(found) if found else None for name, found in values.items()},
        "separation": _separation([row for row in rows if row["id"] in facts]),
        "judge": summarise_judge(rows),
    }


def _separation(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    found = {name: [row for row in rows if row[name] is not None] for name in METRICS}
    return {name: separation([r[name] for r in kept], [r["correct"] for r in kept]) for name, kept in found.items()}


def _forgetting(models: Mapping[str, Any]) -> dict[str, float | None]:
    rates = {name: model["buckets"].get(GENERAL, {}).get("rate") for name, model in models.items()}
    base = rates.pop("base", None)
    return {name: None if rate is None or base is None else rate - base for name, rate in rates.items()}


def _disagreements(
    test: Mapping[str, Example], predictions: Mapping[str, Any], scores: Mapping[str, Any], limit: int
) -> list[dict[str, Any]]:
    buckets: defaultdict[str, list[str]] = defaultdict(list)
    for i, example in test.items():
        if len({rows[i]["correct"] for rows in scores.values()}) > 1:
            buckets[example.bucket].append(i)
    order = list(dict.fromkeys(example.bucket for example in test.values()))
    # Turn by turn, so that a bucket with few disagreements is not crowded out.
    turns = sorted((turn, order.index(b), i) for b, ids in buckets.items() for turn, i in enumerate(ids))[:limit]
    chosen = sorted(turns, key=lambda turn: (turn[1], turn[0]))
    return [_side_by_side(test[i], predictions, scores) for _, _, i in chosen]


def _side_by_side(item: Example, predictions: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": item.id,
        "bucket": item.bucket,
        "question": item.question,
        "expected": list(item.expected),
        "reference": item.answer,
        "answers": {
            model: {
                "answer": rows[item.id]["answer"],
                **{key: scores[model][item.id][key] for key in ("correct", "sentence", "judge")},
            }
            for model, rows in predictions.items()
        },
    }
