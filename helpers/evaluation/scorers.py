"""The scorers that a configuration names, loaded; and a judge's verdicts on a sample of every model's answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from helpers.data.example import read_examples
from helpers.endpoint.chat import ChatEndpoint
from helpers.errors import EvaluationError
from helpers.evaluation import cross_encoder as cross
from helpers.evaluation import similarity
from helpers.evaluation.judge import choose_items, judge_answers
from helpers.evaluation.results import read_by_id
from helpers.files import Record
from helpers.models.find import CACHE


def load_metrics(
    static_model: str, sentence_model: str, cross_encoder: str, *, train: Path, cross_encoder_folder: Path, seed: int
) -> tuple[dict[str, Callable[..., Any]], dict[str, Any] | None]:
    """Load every similarity score; the embedded cross-encoder is trained first.

    Args:
        static_model: `embedded`, a folder or a hub id.
        sentence_model: the same.
        cross_encoder: the same; `embedded` is trained on `train`.
        train: training records of this run.
        cross_encoder_folder: where the trained cross-encoder is kept.
        seed: of its training.

    Returns:
        Name to a function of (answers, references), and the cross-encoder's quality on held-out pairs. With too
        few conversations to train one it is left out, and that is printed.

    Raises:
        EvaluationError: a named model cannot be loaded.
    """
    metrics: dict[str, Callable[..., Any]] = {
        "rouge_l": similarity.rouge_l,
        "static": partial(
            similarity.static_similarity,
            model=similarity.load_static_model(static_model, cache=CACHE / "static-minilm"),
        ),
        "sentence": partial(similarity.sentence_similarity, model=similarity.load_sentence_model(sentence_model)),
    }
    quality = None
    try:
        if cross_encoder == "embedded":
            quality = cross.train_cross_encoder(train, cross_encoder_folder, seed=seed)
        model = cross.load_cross_encoder(cross_encoder, folder=cross_encoder_folder)
        metrics["cross_encoder"] = partial(cross.cross_encoder_similarity, model=model)
    except EvaluationError as error:
        if cross_encoder != "embedded":
            raise
        print(f"No cross-encoder score: {error}")
    return metrics, quality


def judge_sample(
    test: Path,
    predictions: dict[str, Path],
    endpoint: ChatEndpoint,
    *,
    count: int,
    folder: Path,
    seed: int,
) -> dict[str, list[Record]]:
    """Let the endpoint's model judge the same sample of test items for every model.

    Args:
        test: test items.
        predictions: model name to its answers.
        endpoint: an open chat endpoint.
        count: items of the sample.
        folder: verdicts are kept here as they come, so that a killed judge goes on.
        seed: of the sample.

    Returns:
        Model name to verdicts; see `helpers.evaluation.judge.judge_answers`.
    """
    items = read_examples(test)
    chosen = {*choose_items(items, count, seed)}
    verdicts = {}
    for name, path in predictions.items():
        answers = read_by_id(path)
        to_judge = [
            {"id": i.id, "question": i.question, "reference": i.answer, "answer": answers[i.id]["answer"]}
            for i in items
            if i.id in chosen and i.id in answers
        ]
        verdicts[name] = judge_answers(to_judge, endpoint, path=folder / f"{name}.jsonl", seed=seed)
    return verdicts
