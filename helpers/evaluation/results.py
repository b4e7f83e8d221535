"""Score answers one by one, and gather what every table and plot of the report is drawn from.

Everything is matched by id, never by position, and ids that do not match are refused by name.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any

from helpers.data.example import GENERAL, Example, read_examples
from helpers.data.matching import is_correct
from helpers.errors import EvaluationError
from helpers.evaluation.intervals import cohens_kappa, rate_with_interval, separation
from helpers.files import Record, read_jsonl

MAX_UNRATED = 12
"""Items shown of those whose answers can only be compared with a reference."""
METRICS = ("rouge_l", "static", "sentence", "cross_encoder")
Metric = Callable[[Sequence[str], Sequence[str]], list[float]]


def score_answers(
    test_path: Path,
    predictions_path: Path,
    *,
    metrics: Mapping[str, Metric],
    verdicts: Iterable[Record] = (),
) -> list[Record]:
    """Score one model's answers.

    Args:
        test_path: `test.jsonl`.
        predictions_path: `predictions/<model>.jsonl`, in any order.
        metrics: for any of `METRICS`, a function of answers and references; the others become None.
        verdicts: what `judge_answers` returned, for some or all of the items.

    Returns:
        A row of `scores/<model>.jsonl` for each test item, in the order of the test.

    Raises:
        EvaluationError: a file is missing, or predictions and test hold different ids.
        RunError: a line of a file is no JSON object.
    """
    test = {example.id: example for example in read_examples(test_path)}
    predictions = _read_answers(predictions_path, test)
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
        EvaluationError: a file is missing, or its ids are not those of the test.
        RunError: a line of a file is no JSON object.
    """
    test = {example.id: example for example in read_examples(test_path)}
    facts = {i for i, example in test.items() if example.expected and example.bucket != GENERAL}
    scores: dict[str, dict[str, Any]] = {}
    predictions: dict[str, dict[str, Any]] = {}
    for model in costs:
        for folder, kept in ((scores_dir, scores), (predictions_dir, predictions)):
            kept[model] = _read_answers(folder / f"{model}.jsonl", test)
    models: dict[str, Any] = {}
    for name, cost in costs.items():
        rows = scores[name].values()
        separated = _separation([row for row in rows if row["id"] in facts])
        metrics = {**_means(rows), "separation": separated, "judge": summarise_judge(rows)}
        models[name] = {"buckets": _rates(rows), "likeness": _likeness(rows), "metrics": metrics, **cost}
    about_facts = [row for rows in scores.values() for row in rows.values() if row["id"] in facts]
    with_cosine = [row for row in about_facts if row["sentence"] is not None]
    verdicts = {i: {rows[i]["correct"] for rows in scores.values()} for i in test}
    apart: dict[str, list[str]] = {example.bucket: [] for example in test.values()}
    for i, example in test.items():
        if len(verdicts[i]) > 1:
            apart[example.bucket].append(i)
    shown = spread(apart.values(), max_disagreements)
    disagreements = [i for bucket in apart.values() for i in bucket if i in shown]
    unrated = [i for i in test if verdicts[i] == {None}][:MAX_UNRATED]
    return {
        **extra,
        "models": models,
        "forgetting": _forgetting(models),
        "separation": _separation(about_facts),
        "similarity": {
            word: sorted(round(row["sentence"], 3) for row in with_cosine if row["correct"] == correct)
            for word, correct in (("correct", True), ("wrong", False))
        },
        "disagreements": [_side_by_side(test[i], predictions, scores) for i in disagreements],
        "unrated": [_side_by_side(test[i], predictions, scores) for i in unrated],
        "disagreeing": sum(map(len, apart.values())),
    }


def read_by_id(path: Path) -> dict[str, Record]:
    """Read a JSON Lines file into `{id: row}`; a last line cut off by a kill is left out.

    Raises:
        EvaluationError: the file is missing, a row has no `id`, or an id comes twice.
        RunError: another line is not a JSON object.
    """
    if not path.is_file():
        raise EvaluationError(f"{path} does not exist; run the notebook that writes it first.")
    rows: dict[str, Record] = {}
    for row in read_jsonl(path):
        identity = row.get("id")
        if identity is None or identity in rows:
            fault = "a row has no id" if identity is None else f"the id {identity!r} comes twice"
            raise EvaluationError(f"{path}: {fault}. Write the file anew.")
        rows[identity] = row
    return rows


def _read_answers(path: Path, test: Mapping[str, Any]) -> dict[str, Record]:
    """As `read_by_id`; refuses a file whose ids are not those of the test."""
    rows = read_by_id(path)
    missing, foreign = [i for i in test if i not in rows], [i for i in rows if i not in test]
    for ids, fault in ((missing, "the test's items that it lacks"), (foreign, "items that the test does not hold")):
        if ids:
            shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
            raise EvaluationError(f"{path}: {fault}: {len(ids)} ({shown}). Answer this test set anew.")
    return rows


def _by_bucket(rows: Iterable[Record]) -> dict[str, list[Record]]:
    buckets: dict[str, list[Record]] = {}
    for row in rows:
        buckets.setdefault(row["bucket"], []).append(row)
    return buckets


def _rates(rows: Collection[Record]) -> dict[str, Any]:
    rated = _by_bucket(row for row in rows if row["correct"] is not None)
    return {bucket: rate_with_interval(sum(row["correct"] for row in own), len(own)) for bucket, own in rated.items()}


def _likeness(rows: Collection[Record]) -> dict[str, Any]:
    """Means of the metrics in each bucket where some answers can only be compared with their reference."""
    return {
        bucket: {"n": len(own), **_means(own)}
        for bucket, own in _by_bucket(rows).items()
        if any(row["correct"] is None for row in own)
    }


def _means(rows: Collection[Record]) -> dict[str, float | None]:
    values = {name: [row[name] for row in rows if row[name] is not None] for name in METRICS}
    return {name: fmean(found) if found else None for name, found in values.items()}


def _separation(rows: Collection[Record]) -> dict[str, float | None]:
    found = {name: [row for row in rows if row[name] is not None] for name in METRICS}
    return {name: separation([r[name] for r in kept], [r["correct"] for r in kept]) for name, kept in found.items()}


def summarise_judge(scores: Iterable[Record]) -> dict[str, Any]:
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


def _forgetting(models: Mapping[str, Any]) -> dict[str, float | None]:
    rates = {name: model["buckets"].get(GENERAL, {}).get("rate") for name, model in models.items()}
    base = rates.pop("base", None)
    return {name: None if rate is None or base is None else rate - base for name, rate in rates.items()}


def spread(groups: Iterable[Sequence[str]], limit: int) -> set[str]:
    """Items of all groups, `limit` at most: taken turn by turn, so that small groups are represented."""
    turns = chain.from_iterable(zip_longest(*groups))
    return set([item for item in turns if item is not None][:limit])


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
