"""Any table of examples: read from everywhere, columns told, rows counted, splits kept apart."""

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import datasets
import openpyxl
import pandas as pd
import pytest

from helpers.config import Data, DataPrompt, DataSplit, load_config
from helpers.data.table.columns import recognise
from helpers.data.table.conversations import worded
from helpers.data.table.examples import Limits, Row, make_examples
from helpers.data.table.rewording import check_wording
from helpers.data.table.source import SPLIT, read_table
from helpers.data.table.splits import split_rows
from helpers.errors import ConfigError, DataError

TOWNS = (
    "Ain Brest Calais Dax Evian Foix Gap Hyères Issoire Jarnac Kehl Lens Metz Nice Orange Pau Quimper Rodez Sète Toul"
)
ROWS = [
    {"question": f"What is made in {town}, and since when?", "answer": f"Cheese since {n}."}
    for n, town in enumerate(TOWNS.split())
]
LIMITS = Limits(lambda messages: sum(len(turn["content"].split()) for turn in messages), 60, ["<|end|>"])


def data(**own: Any) -> Data:
    return load_config("smoke", {f"data.{key}": value for key, value in own.items()}).data


def examples(rows: list[dict[str, Any]], **own: Any) -> tuple[list[Row], dict[str, int]]:
    kept, left = make_examples(rows, data(**own), LIMITS)
    assert len(kept) + sum(left.values()) == len(rows)
    return kept, {reason: times for reason, times in left.items() if times}


def as_csv(path: Path) -> None:
    pd.DataFrame(ROWS).to_csv(path, index=False)


def as_cp1252(path: Path) -> None:
    pd.DataFrame(ROWS).to_csv(path, index=False, sep=";", encoding="cp1252")


def as_utf16(path: Path) -> None:
    pd.DataFrame(ROWS).to_csv(path, index=False, sep="\t", encoding="utf-16")


def as_lines(path: Path) -> None:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n\n", "utf-8")


def wrapped(path: Path) -> None:
    path.write_text(json.dumps({"version": "1.0", "data": ROWS}), "utf-8")


FILES: dict[str, Callable[[Path], Any]] = {
    "a.csv": as_csv,
    "b.csv": as_cp1252,
    "c.tsv": as_utf16,
    "d.json": lambda path: path.write_text(json.dumps(ROWS), "utf-8"),
    "e.json": wrapped,
    "f.jsonl": as_lines,
    "g.json": as_lines,  # lines under the other name
    "h.parquet": lambda path: pd.DataFrame(ROWS).to_parquet(path),
    "i.xlsx": lambda path: pd.DataFrame(ROWS).to_excel(path, index=False),
}


@pytest.mark.parametrize("name", FILES)
def test_a_table_is_the_same_from_every_file(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path / name)
    assert read_table(data(source=str(tmp_path / name))) == ROWS
    assert read_table(data(source=(tmp_path / name).as_uri())) == ROWS  # an address


def test_other_sources(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(str(tmp_path / "disk"))
    assert read_table(data(source={"load_from_disk": str(tmp_path / "disk")})) == ROWS
    as_lines(tmp_path / "rows.jsonl")
    given = {"path": "json", "data_files": str(tmp_path / "rows.jsonl"), "split": "train", "cache_dir": str(tmp_path)}
    assert read_table(data(source={"load_dataset": given})) == ROWS
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "splits"))
    rows = read_table(data(source={"load_from_disk": {"dataset_path": str(tmp_path / "splits")}}))
    assert [row[SPLIT] for row in rows] == ["train"] * 20 + ["test"] * 20


def made() -> pd.DataFrame:
    return pd.DataFrame(ROWS)


def broken() -> None:
    raise KeyError("no such week")


def test_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_table(data(source={"function": f"{__name__}:made"})) == ROWS
    with pytest.raises(DataError, match=r"the function .*:broken raised KeyError: 'no such week'"):
        read_table(data(source={"function": f"{__name__}:broken"}))
    with pytest.raises(DataError, match="raised ModuleNotFoundError"):
        read_table(data(source={"function": "no_such_package:rows"}))


def two_sheets(path: Path) -> None:
    with pd.ExcelWriter(path) as book:
        for name in ("faq", "old"):
            pd.DataFrame(ROWS).to_excel(book, sheet_name=name, index=False)


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("none.csv", lambda path: None, "there is no such file"),
        ("a.docx", lambda path: path.write_text("x"), "has no ending that is known"),
        ("a.csv", lambda path: path.write_text("question,answer\n"), "a.csv has no rows"),
        ("a.csv", lambda path: path.write_text('question,answer\n"a,b\n'), "a quotation mark is not closed"),
        ("a.csv", lambda path: path.write_text("question,answer\na,b,c\n"), "of 1 rows 1 have more or fewer cells"),
        ("a.json", lambda path: path.write_text('[{"a": 1},\n{"a" 2}]'), "neither JSON nor JSON lines: .* line 2"),
        ("a.jsonl", lambda path: path.write_text('{"a": 1}\n{"a" 2}\n'), "neither JSON nor JSON lines: .*at line 2"),
        ("a.json", lambda path: path.write_text('["a", "b"]'), "2 of 2 rows are no objects"),
        ("a.parquet", lambda path: path.write_text("x"), "cannot be read as parquet"),
        ("a.xlsx", lambda path: path.write_text("x"), "cannot be read as xlsx"),
        ("a.xlsx", two_sheets, "has 2 sheets: 'faq', 'old'. Say which, for example data.sheet: faq"),
    ],
)
def test_a_source_that_cannot_be_read(name: str, write: Callable[[Path], Any], says: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match=says):
        read_table(data(source=str(tmp_path / name)))


def test_a_sheet_is_chosen(tmp_path: Path) -> None:
    two_sheets(tmp_path / "a.xlsx")
    assert read_table(data(source=str(tmp_path / "a.xlsx"), sheet="old")) == ROWS


def test_an_address_without_its_package() -> None:
    with pytest.raises(DataError, match=r"s3://bucket/faq\.csv cannot be read \(.*install"):
        read_table(data(source="s3://bucket/faq.csv"))


@pytest.mark.parametrize(
    ("columns", "roles"),
    [
        ("question answer", {"question": "question", "answer": "answer"}),
        ("Question Réponse", {"question": "Question", "answer": "Réponse"}),
        ("prompt completion", {"question": "prompt", "answer": "completion"}),
        ("instruction input output", {"question": "instruction", "contexts": "input", "answer": "output"}),
        ("input contexts response", {"question": "input", "contexts": "contexts", "answer": "response"}),
        ("input context response", {"question": "input", "contexts": "context", "answer": "response"}),
        ("id title context question answers", {"question": "question", "contexts": "context", "answer": "answers"}),
        ("messages", {"messages": "messages"}),
        ("id conversations", {"messages": "conversations"}),
        ("prompt prompt_id messages", {"messages": "messages"}),
        ("system question response", {"system": "system", "question": "question", "answer": "response"}),
    ],
)
def test_usual_names(columns: str, roles: dict[str, str]) -> None:
    assert recognise(columns.split(), {}) == roles


@pytest.mark.parametrize(
    ("columns", "given", "says"),
    [
        (
            "frage antwort",
            {},
            r"the question and the answer\. The table has frage, antwort\. Write:\ndata:\n  columns: ",
        ),
        ("question antwort", {}, r"the answer\..*\ndata:\n  columns: \{question: question, answer: NAME\}"),
        ("prompt query answer", {}, r"The columns prompt, query could all be the question"),
        ("question response output", {}, r"The columns response, output could all be the answer"),
        ("frage antwort", {"question": "Frage"}, r"data\.columns\.question: there is no column 'Frage'"),
    ],
)
def test_columns_that_cannot_be_told(columns: str, given: dict[str, str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        recognise(columns.split(), given)
    with pytest.raises(ConfigError, match="'frage' is no role"):
        data(columns={"frage": "question"})


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
    asked = worded([{"role": "user", "content": "{context}?"}], ["a {question}"], DataPrompt(**prompt))
    assert asked[-1]["content"] == "<a {question}>\n\nQ: {context}?"  # braces in cells are text


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
    with pytest.raises(DataError, match="row 1: the split 'holdout' is unknown"):
        parts([row | {"part": "holdout"} for row in ROWS], {"split": "part"})
    with pytest.raises(DataError, match=r"cannot be split: .*the largest has 20 rows"):
        parts([row | {"case": "same"} for row in ROWS], {"group": "case"})


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


def test_files_as_people_have_them(tmp_path: Path) -> None:
    lines = [f"{row['question']};{row['answer']}" for row in ROWS]
    (tmp_path / "a.csv").write_text("sep=;\nquestion;answer\n" + "\n".join(lines), "utf-8")
    (tmp_path / "b.CSV").write_text("question;answer (yes, no)\n" + "\n".join(lines).replace(",", ""), "utf-8")
    assert read_table(data(source=str(tmp_path / "a.csv"))) == ROWS
    assert [*read_table(data(source=str(tmp_path / "b.CSV")))[0]] == ["question", "answer (yes, no)"]
    marks = {3: ('"', ""), 8: ("", '"')}
    cells = [marks.get(n, ("", ""))[0] + f"asked {n}" + marks.get(n, ("", ""))[1] for n in range(20)]
    swallowed = "question,answer\n" + "".join(f"{cell},a{n}\n" for n, cell in enumerate(cells))
    (tmp_path / "c.csv").write_text(swallowed, "utf-8")
    with pytest.raises(DataError, match="hold lines that look like rows of their own"):
        read_table(data(source=str(tmp_path / "c.csv")))
    (tmp_path / "d.csv").write_text("question,answer,answer\na,b,c\n", "utf-8")
    with pytest.raises(DataError, match="has 2 columns called 'answer'"):
        read_table(data(source=str(tmp_path / "d.csv")))
    columns = {key: [row[key] for row in ROWS] for key in ROWS[0]}
    (tmp_path / "e.json").write_text(json.dumps(columns), "utf-8")
    assert read_table(data(source=str(tmp_path / "e.json"))) == ROWS
    (tmp_path / "f.json").write_text(json.dumps({"train": ROWS, "test": ROWS[:3]}), "utf-8")
    assert [row[SPLIT] for row in read_table(data(source=str(tmp_path / "f.json")))] == ["train"] * 20 + ["test"] * 3
    for content in ("5", "null", "[" * 100_000):
        (tmp_path / "g.json").write_text(content, "utf-8")
        with pytest.raises(DataError, match=r"g\.json (holds a|is neither JSON)"):
            read_table(data(source=str(tmp_path / "g.json")))
    labelled = datasets.Dataset.from_dict({"question": ["a", "b"], "answer": [1, 0]})
    labelled = labelled.cast_column("answer", datasets.ClassLabel(names=["no", "yes"]))
    labelled.save_to_disk(str(tmp_path / "labels"))
    assert [r["answer"] for r in read_table(data(source={"load_from_disk": str(tmp_path / "labels")}))] == ["yes", "no"]


def test_a_sheet_with_merged_cells_dates_and_words_like_none(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["case", "question", "answer"])
    for number, row in enumerate(ROWS):
        book.active.append([f"case {number // 4}" if number % 4 == 0 else None, row["question"], "None"])
    for first in range(2, 22, 4):
        book.active.merge_cells(f"A{first}:A{first + 3}")
    book.active.append(["last", "When?", datetime(2024, 1, 5)])
    book.save(tmp_path / "a.xlsx")
    rows = read_table(data(source=str(tmp_path / "a.xlsx")))
    assert [row["case"] for row in rows[:-1]] == [f"case {n // 4}" for n in range(20)]
    kept, left = examples(rows, columns={"group": "case"})
    assert not left and kept[0].example.answer == "None" and kept[-1].example.answer == "2024-01-05"
    with pytest.raises(DataError, match="4 of 20 rows have no case"):
        examples([{**row, "case": "" if n < 4 else "x"} for n, row in enumerate(ROWS)], columns={"group": "case"})
