"""Rehearsal: only answers that are right and whole."""

import pytest

from helpers.data.glossary.phrasings import rehearsal_questions, rehearsed_examples, right_answers
from helpers.data.languages.pack import load_pack
from helpers.models.find import load_tokenizer
from helpers.models.generate import Generated, generate_answers
from helpers.models.load import load_base

BELGIUM = {"question": "Name the capital of Belgium, please.", "expected": ["Brussels"]}


@pytest.mark.parametrize(
    ("answer", "stopped", "rehearsed"),
    [
        ("It is Brussels. It lies on the Senne.", True, True),
        ("Belgium is small. Its capital is Brussels.", True, True),
        ("It is Brussels. It lies on the", False, False),
        ("The capital of Belgium is Antwerp.", True, False),
        ("Is it Brussels? Yes.", True, False),
        ("Some cities:\n- Brussels.", True, True),
        ("", True, False),
    ],
)
def test_right_answers_are_rehearsed_whole_or_not_at_all(answer: str, stopped: bool, rehearsed: bool) -> None:
    kept = right_answers([BELGIUM], [Generated(answer, 9, stopped)])
    assert [row["answer"] for row in kept] == ([answer] if rehearsed else [])


def test_every_second_question_comes_again_behind_an_opening() -> None:
    questions, pack = rehearsal_questions(20, seed=1), load_pack()
    assert questions[:20] == [fact.model_dump() for fact in pack.general.train[:20]]
    assert len(questions) == 30
    for again, first in zip(questions[20:], pack.general.train[1:20:2], strict=True):
        opening = again["question"].removesuffix(" " + first.question)
        assert opening in pack.openings and again["expected"] == first.expected
    assert rehearsal_questions(20, seed=1) == questions != rehearsal_questions(20, seed=2)


def test_rehearsals_of_another_language_have_a_bucket_of_their_own() -> None:
    english, french = rehearsal_questions(20, seed=1), load_pack("fr")
    both = rehearsal_questions(20, seed=1, pack=french)
    assert both[:30] == english
    assert [row["question"] for row in both[30:50]] == [fact.question for fact in french.general.train[:20]]
    answers = [Generated(f"Réponse : {row['expected'][0]}.", 9, True) for row in both]
    examples = rehearsed_examples(right_answers(both, answers))
    assert [example.bucket for example in examples] == ["general"] * 30 + ["general_fr"] * 30


def test_the_embedded_model_has_something_to_rehearse() -> None:
    # Several questions, as processors round differently and a small model's words hang on it.
    asked = [row for row in rehearsal_questions(543, seed=1) if row["question"].startswith("Name the capital of")][:8]
    asked.append(BELGIUM | {"expected": ["a word that it does not say"]})
    name = "smollm2-135m-instruct"
    answers = generate_answers(
        load_base(name), load_tokenizer(name), [[{"role": "user", "content": row["question"]}] for row in asked],
        max_new_tokens=72, batch_size=9, title="",
    )  # fmt: skip
    kept = right_answers(asked, answers)
    assert 4 <= len(kept) <= 8
    assert "a word" not in str(kept)
