"""Rows of a table: counted, worded, and kept on one side of the split."""

import json
import re
from itertools import chain
from typing import Any

import pytest
from small_tables import ROWS, data, examples

from helpers.config import DataPrompt, DataSplit
from helpers.data.example import asked
from helpers.data.table.conversations import worded
from helpers.data.table.files import SPLIT
from helpers.data.table.rewording import check_wording
from helpers.data.table.splits import split_rows
from helpers.errors import ConfigError, DataError


def test_every_row_is_kept_or_left_out_for_a_reason() -> None:
    odd = [
        {"question": None, "answer": "b"},
        {"question": "a?", "answer": float("nan")},
        {"question": " ", "answer": 3.0},
    ]
    rows = [*ROWS, *odd, ROWS[4], {"question": "How many?", "answer": 3.0}, {"question": "long " * 70, "answer": "b"}]
    with pytest.raises(
        DataError, match=r"1 of 26 rows are longer .*\(the first: row 26\).*data\.too_long to leave_out"
    ):
        examples(rows, most_empty=0.2)
    with pytest.raises(
        DataError, match=r"3 of 26 rows have an empty question or answer, more than data\.most_empty = 0\.1"
    ):
        examples(rows, most_empty=0.1, too_long="leave_out")
    kept, left = examples(rows, most_empty=0.2, too_long="leave_out")
    assert left == {
        "empty question or answer": 3, "the same as another row": 1, "longer than training.max_length_tokens": 1,
    }  # fmt: skip
    assert (kept[-1].example.answer, kept[-1].example.check) == ("3", "contains")
    assert len({row.example.id for row in kept}) == len(kept)


def test_too_few_rows() -> None:
    with pytest.raises(DataError, match="3 rows can be used, and at least 10 are needed"):
        examples(ROWS[:3])
    with pytest.raises(DataError, match=r"1 rows can be used.*left out: 29 the same as another row"):
        examples(ROWS[:1] * 30)


def test_contexts_and_wording() -> None:
    prompt = {
        "system": "Be brief.",
        "examples": [{"question": "q", "answer": "a"}],
        "question": "Q: {question}",
        "context": "<{context}>",
    }
    rows = [row | {"contexts": ["one two", "three " * 60]} for row in ROWS]
    kept, _ = examples(rows, too_long="cut_contexts", prompt=prompt)
    system, shot, answer, last = kept[0].example.prompt
    assert [turn["role"] for turn in kept[0].example.prompt] == ["system", "user", "assistant", "user"]
    assert (system["content"], shot["content"], answer["content"]) == ("Be brief.", "Q: q", "a")
    assert last["content"] == f"<one two>\n\nQ: {ROWS[0]['question']}"  # the second was too long
    with pytest.raises(ConfigError, match=r"question must hold \{question\}"):
        data(prompt={"system": None, "examples": [], "question": "Q", "context": "{context}"})
    wording = worded([{"role": "user", "content": "{context}?"}], ["a {question}"], DataPrompt(**prompt))
    assert wording[-1]["content"] == "<a {question}>\n\nQ: {context}?"  # braces in cells are text


def test_conversations() -> None:
    shared = [
        {"conversations": [
            {"from": "system", "value": "Be kind."}, {"from": "human", "value": f"Hello {n}"},
            {"from": "gpt", "value": "Hello"}, {"from": "human", "value": row["question"]},
            {"from": "gpt", "value": row["answer"]},
        ]}
        for n, row in enumerate(ROWS)
    ]  # fmt: skip
    kept, left = examples(shared)
    assert not left
    assert [turn["role"] for turn in kept[3].example.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert kept[3].example.question == ROWS[3]["question"]
    assert kept[3].example.also_learnt == (-2,)
    shown = {
        "examples": [{"question": "q", "answer": "a"}],
        "system": None,
        "question": "{question}",
        "context": "{context}",
    }
    kept, _ = examples(shared, prompt=shown)  # examples shown to the model are not learnt
    prompt = kept[3].example.prompt
    assert len(prompt) == 6 and [prompt[place]["content"] for place in kept[3].example.also_learnt] == ["Hello"]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for wrong, says in [
        (turns[:1], "row 21: a conversation ends with the assistant's answer to a user; this one has the roles user"),
        ([{"role": "tool", "content": "a"}, turns[1]], "row 21: the role 'tool' is unknown"),
        (["a", "b"], "row 21: a turn of a conversation has the keys role and content"),
    ]:
        with pytest.raises(DataError, match=re.escape(says)):
            examples([{"messages": turns}] * 20 + [{"messages": wrong}])
    kept, left = examples([*({"messages": each["conversations"]} for each in shared), {"messages": []}])
    assert left == {"empty question or answer": 1}


@pytest.mark.parametrize(
    ("weights", "learnt"), [((None, 1), (-4, -2)), ((0, 1), (-2,)), ((1.0, 0), (-4,)), ((0, 0), ())]
)
def test_the_weight_of_an_earlier_answer(weights: tuple[Any, ...], learnt: tuple[int, ...]) -> None:
    def rows(last: Any = None) -> list[dict[str, Any]]:
        said = [{"role": "assistant", "content": "b", "weight": weight} for weight in (*weights, last)]
        questions = [["a", "b", row["question"]] for row in ROWS]
        return [{"messages": [*chain(*zip(chain(*map(asked, of)), said, strict=True))]} for of in questions]

    kept, _ = examples(rows())
    assert {row.example.also_learnt for row in kept} == {learnt}
    with pytest.raises(DataError, match="row 1: the last answer has weight 0"):
        examples(rows(0))
    with pytest.raises(DataError, match=r"row 1: the weight of a turn is 0\.5; expected 1 \(learnt\) or 0"):
        examples(rows(0.5))


def test_of_a_prompt_and_its_completion_the_completion_is_learnt() -> None:
    answer = {"role": "assistant", "content": "b"}
    rows = [{"prompt": [*asked("a"), answer, *asked(row["question"])], "completion": [answer]} for row in ROWS]
    more = [row | {"completion": [answer, *asked("c"), answer]} for row in rows]
    for of, learnt in ((rows, ()), (more, (-2,))):
        kept, _ = examples(of)
        assert {row.example.also_learnt for row in kept} == {learnt}


@pytest.mark.parametrize("cell", ["", " - ", "..."])
def test_an_earlier_answer_that_says_nothing_is_not_learnt(cell: str) -> None:
    turns = [*asked("a"), {"role": "assistant", "content": cell}]
    rows = [{"messages": [*turns, *asked(row["question"]), {"role": "assistant", "content": "b"}]} for row in ROWS]
    kept, left = examples(rows)
    assert not left and {row.example.also_learnt for row in kept} == {()}


def test_a_greeting_is_no_answer() -> None:
    greeting = {"role": "assistant", "content": "Good morning!"}
    kept, _ = examples([{"messages": [greeting, *asked(row["question"]), greeting]} for row in ROWS])
    assert {row.example.also_learnt for row in kept} == {()}


def parts(rows: list[dict[str, Any]], columns: dict[str, str] | None = None, **own: Any) -> dict[str, list[str]]:
    kept, _ = examples(rows, columns=columns or {})
    found = split_rows(kept, DataSplit(**{"test": 0.2, "validation": 0.1, "similar": 0.8} | own), seed=0).rows
    assert sum(map(len, found.values())) == len(kept)
    return {name: [row.asked.question for row in of] for name, of in found.items()}


def test_alike_questions_are_on_one_side() -> None:
    twice = [*ROWS, *({**row, "question": row["question"].replace("made", "mades")} for row in ROWS)]
    found = parts(twice)
    assert {name: len(of) for name, of in found.items()} == {"train": 28, "validation": 4, "test": 8}
    for of in found.values():
        assert {question.replace("mades", "made") for question in of} <= {*of}
    assert parts(twice) == found != parts(twice, similar=1)


@pytest.mark.parametrize("cell", ["-", " — ", "\u00a0", "#N/A", "..."])
def test_cells_that_say_nothing_are_empty(cell: str) -> None:
    rows = [*ROWS, {"question": "What?", "answer": cell}, {"question": cell, "answer": "That."}]
    assert examples(rows, most_empty=0.1)[1] == {"empty question or answer": 2}
    assert not examples([*ROWS, {"question": "What is left?", "answer": "None"}, {"question": "+", "answer": "add -"}])[
        1
    ]


def test_groups_and_given_splits() -> None:
    grouped = [row | {"case": n // 4} for n, row in enumerate(ROWS)]
    found = parts(grouped, {"group": "case"}, test=0.25, similar=1)
    sides = [
        {(next(n for n, row in enumerate(ROWS) if row["question"] == q)) // 4 for q in of} for of in found.values()
    ]
    assert not sides[0] & sides[2] and not sides[1] & sides[2] and found["test"]
    given = [row | {"part": "dev" if n < 3 else "Test" if n < 8 else "train"} for n, row in enumerate(ROWS)]
    found = parts(given, {"split": "part"})
    assert found["validation"] == [row["question"] for row in ROWS[:3]]
    assert found["test"] == [row["question"] for row in ROWS[3:8]]
    unmapped = parts([{("Split" if name == "part" else name): cell for name, cell in row.items()} for row in given])
    assert unmapped == found  # a column of that name needs no line of configuration
    assert len(parts([row | {"split": "a"} for row in ROWS])["test"]) == 4  # and may hold something else
    french = [row | {"Split": "essai" if n % 4 == 0 else "Apprentissage"} for n, row in enumerate(ROWS)]
    with pytest.raises(DataError, match="The column 'Split' holds 'essai'; expected train, validation or test"):
        parts(french)
    with pytest.raises(DataError, match="cannot be split"):  # as the group that it is said to be
        parts(french, {"group": "Split"})
    assert len(parts([row | {"Split": row["Split"].replace("essai", "test")} for row in french])["test"]) == 5
    with pytest.raises(DataError, match="row 1: the split 'holdout' is unknown"):
        parts([row | {"part": "holdout"} for row in ROWS], {"split": "part"})
    with pytest.raises(DataError, match=r"cannot be split: .*the largest has 20 rows"):
        parts([row | {"case": "same"} for row in ROWS], {"group": "case"})


def test_a_column_and_its_source_may_not_name_different_splits() -> None:
    of_source = [row | {SPLIT: "test" if n < 5 else "train"} for n, row in enumerate(ROWS)]
    assert len(parts([row | {"split": row[SPLIT]} for row in of_source])["test"]) == 5
    with pytest.raises(DataError, match="row 1: it lies in the split 'test' of the source, and its column 'split'"):
        parts([row | {"split": "train"} for row in of_source])
    one_split = [row | {SPLIT: "train", "split": "test" if n < 5 else "train"} for n, row in enumerate(ROWS)]
    assert len(parts(one_split)["test"]) == 5
    late = [row | ({"split": "test" if n < 5 else "train"} if n else {}) for n, row in enumerate(ROWS)]
    with pytest.raises(DataError, match="The column 'split' holds"):  # not left out of sight
        parts(late)


@pytest.mark.parametrize(
    ("one", "other"),
    [("é", "e\u0301"), ("l'été", "l’été"), ("R&D", "R&amp;D"), ("work", "wo\u00adrk"), ("now", "n\u200bow")],
)
def test_differences_that_nobody_sees_keep_no_twins_apart(one: str, other: str) -> None:
    rows = [
        {"question": f"{row['question'][:-1]}, and {word}?", "answer": f"{row['answer']} {n}"}
        for row in ROWS
        for n, word in enumerate((one, other))
    ]
    found = parts(rows, similar=1)
    sides = [{question[:24] for question in of} for of in found.values()]
    assert not sides[0] & sides[2] and found["test"]


def test_given_columns_come_before_usual_names() -> None:
    rows = [{"prompt": row["question"], "best": row["answer"], "messages": "an id"} for row in ROWS]
    kept, _ = examples(rows, columns={"question": "prompt", "answer": "best"})
    assert kept[0].example.answer == ROWS[0]["answer"]


def test_a_list_of_contexts_in_a_csv() -> None:
    rows = [row | {"contexts": '["One.", "Two."]'} for row in ROWS]
    assert examples(rows)[0][0].asked.contexts == ["One.", "Two."]


def test_an_answer_inside_an_object_is_refused_and_an_invisible_one_is_empty() -> None:
    with pytest.raises(DataError, match="row 1: a cell holds a dict"):
        examples([row | {"answer": {"value": row["answer"]}} for row in ROWS])
    _, left = examples([*ROWS, {"question": "What?", "answer": "\u200b"}])
    assert left == {"empty question or answer": 1}


@pytest.mark.parametrize(
    ("wording", "reason"),
    [
        ("At what hour can one swim in Arlen's 2 pools?", None),
        ("When do the 2 pools in Arlen open ?", "worded as before"),
        ("Tell me when Arlen's 2 pools open.", "no question"),
        ("At what hour do the pools of Arlen open?", "other numbers"),
        ("At what hour can one swim in the 2 pools?", "a name is missing"),
        ("Do the 2 pools in Arlen open at 7 in the morning?", "other numbers"),
        ("Arlen 2?", "much shorter or longer"),
        ("", "no words"),
        ("In Arlen, do the 2 pools open at dawn?", "it tells the answer"),
    ],
)
def test_what_a_rewording_must_keep(wording: str, reason: str | None) -> None:
    assert check_wording(wording, "When do the 2 pools in Arlen open?", "At dawn.", []) == reason


def test_rows_that_must_not_be_learnt_as_they_are() -> None:
    odd = [
        ({"question": {"a": 1}, "answer": "b"}, "a cell holds a dict; expected text"),
        ({"question": "a", "answer": b"b"}, "a cell holds a bytes; expected text"),
        ({"question": "a \ud83d", "answer": "b"}, "a cell holds half a character"),
        ({"question": ["a", "b"], "answer": "b"}, "a cell holds a list; expected text"),
    ]
    for row, says in odd:
        with pytest.raises(DataError, match=f"row 21: {says}"):
            examples([*ROWS, row])
    called = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]
    with pytest.raises(DataError, match="row 1: a turn has tool_calls"):
        examples([{"messages": called}] * 12)
    _, left = examples([*ROWS, {"question": "Hello<|end|>you", "answer": "b"}])
    assert left == {"holds a control token of the model": 1}


def test_other_shapes_of_a_conversation() -> None:
    told = [row["question"] for row in ROWS]
    in_parts = [{"role": "user", "content": [{"type": "text", "text": q}]} for q in told]
    answer = {"role": "assistant", "content": "b"}
    for rows in (
        [{"messages": [turn, answer]} for turn in in_parts],
        [{"messages": json.dumps([turn, answer])} for turn in in_parts],
        [{"prompt": [turn], "completion": [answer]} for turn in in_parts],
        [{"prompt": [turn], "completion": "b"} for turn in in_parts],
        [{"conversations": [{"from": "human", "value": q, "role": None}, {"from": "gpt", "value": "b"}]} for q in told],
        [{"question": q, "answers": {"text": ["b", "c"], "answer_start": [1, 2]}} for q in told],
    ):
        kept, left = examples(rows)
        assert not left and [row.asked.question for row in kept] == told
        assert {row.example.answer for row in kept} == {"b"}


def test_one_task_for_many_contexts_and_one_context_for_many_questions() -> None:
    contexts = [f"{row['question']} {'and on ' * n}" for n, row in enumerate(ROWS)]
    summaries = [{"instruction": "Summarise.", "input": told, "output": told[:30]} for told in contexts]
    assert len(parts(summaries)["test"]) == 4
    shared = [row | {"context": "All of this is told in the handbook of cheese. " * 3} for row in ROWS]
    assert len(parts(shared)["test"]) == 4
    same_fact = [{"question": q, "answer": "b", "context": f"{c} {q}"} for q in "abcdefghij" for c in ("Once", "Twice")]
    assert not {*parts(same_fact)["test"]} & {*parts(same_fact)["train"]}


def test_a_conversation_that_grows_is_on_one_side() -> None:
    turns = [
        [{"role": "user", "content": f"{row['question']}"}, {"role": "assistant", "content": "So."}] for row in ROWS
    ]
    more = [{"role": "user", "content": "continue"}, {"role": "assistant", "content": "And so."}]
    found = parts([{"messages": of + more * times} for of in turns for times in range(3)])
    kept, _ = examples([{"messages": of + more * times} for of in turns for times in range(3)])
    beginnings = [
        {row.asked.prompt[0]["content"] for row in of}
        for of in split_rows(kept, DataSplit(test=0.2, validation=0.1, similar=0.8), seed=0).rows.values()
    ]
    assert found["test"] and not beginnings[0] & beginnings[2] and not beginnings[0] & beginnings[1]


def test_what_is_in_two_given_splits_is_tested_and_not_learnt() -> None:
    rows = [row | {SPLIT: "train_sft"} for row in ROWS] + [row | {SPLIT: "test_sft"} for row in ROWS[:4]]
    kept, left = examples(rows)
    assert left == {"the same as another row": 4}
    found = split_rows(kept, DataSplit(test=0.2, validation=0.1, similar=0.8), seed=0)
    assert [row.asked.question for row in found.rows["test"]] == [row["question"] for row in ROWS[:4]]
    alike = [row | {SPLIT: "test"} for row in ({**ROWS[5], "answer": "Wine."}, {**ROWS[6], "answer": "Wine."})]
    kept, _ = examples([*({**row, SPLIT: "train"} for row in ROWS), *alike])
    assert split_rows(kept, DataSplit(test=0.2, validation=0.1, similar=0.8), seed=0).across == 2
