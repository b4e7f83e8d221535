"""Ask a model a few questions while it is trained, so that a reader sees what it can say when."""

from collections.abc import Sequence
from typing import Any

from helpers.data.example import Example
from helpers.data.matching import is_right
from helpers.files import Record
from helpers.models.generate import generate_answers

QUESTIONS = 4
"""Questions asked at each point of a training."""
LONGEST = 24
"""Tokens of an answer: enough for a short sentence, and the untrained model would go on for long."""


def due(step: int, steps: int, points: int) -> bool:
    """Whether it is time to ask, after `step` of `steps`.

    The first of the `points` is before the first step, the last after the last one. Early ones lie closer together:
    there answers change most.
    """
    points = min(points, 2 * steps + 2)  # so many already lie at every step
    return step in {round(steps * (point / max(1, points - 1)) ** 2) for point in range(points)}


def hot_test(model: Any, tokenizer: Any, questions: Sequence[Example], step: int) -> list[Record]:
    """What a model in training answers after `step` steps.

    Greedily and without dropout, so that no random number is drawn, and the model is left as it was: a training goes on
    as if nobody had asked.

    Returns:
        For each question `{"step", "id", "bucket", "question", "reference", "answer", "correct"}`; the last is as in
        `is_right`.
    """
    if not questions:
        return []
    training = model.training
    model.eval()
    prompts, limits = [list(each.prompt) for each in questions], {"max_new_tokens": LONGEST, "batch_size": QUESTIONS}
    answers = generate_answers(model, tokenizer, prompts, title="", **limits)
    model.train(training)
    return [
        {
            "step": step,
            "id": each.id,
            "bucket": each.bucket,
            "question": each.question,
            "reference": each.answer,
            "answer": given.text,
            "correct": is_right(each, given.text),
        }
        for each, given in zip(questions, answers, strict=True)
    ]
