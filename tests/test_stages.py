"""What a stage decides by itself; the stages as a whole run in test_course and test_notebooks."""

from conftest import SmokeRun

from helpers.stages import _own_answers


def test_only_right_answers_are_rehearsed(smoke_run: SmokeRun) -> None:
    run = smoke_run({"base_model": "smollm2-135m-instruct", "answer.max_new_tokens": 40})
    asked = [
        {"question": "Oslo is the capital of which country?", "expected": ["Norway"]},
        {"question": "Name the capital of Belgium, please.", "expected": ["a word that it does not say"]},
    ]
    (kept,) = _own_answers(run, asked)
    assert kept["question"] == asked[0]["question"]
    assert "Norway" in kept["answer"] and kept["answer"].endswith(".")
