"""A table is read from everywhere, and its columns are told."""

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import datasets
import openpyxl
import pandas as pd
import pytest
from small_tables import ROWS, data, examples

from helpers.data.table.examples import recognise
from helpers.data.table.files import SPLIT
from helpers.data.table.source import read_table
from helpers.errors import ConfigError, DataError


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
        ("a.json", lambda path: path.write_text('[{"a": 1},\n{"a" 2}]'), "cannot be read as json .no JSON at line 2"),
        ("a.jsonl", lambda path: path.write_text('{"a": 1}\n{"a" 2}\n'), "no JSON object in 1 of 2 rows.* row 2"),
        ("a.json", lambda path: path.write_text('["a", "b"]'), "no JSON object in 2 of 2 rows"),
        ("a.parquet", lambda path: path.write_text("x"), "cannot be read as parquet"),
        (
            "a.csv",
            lambda path: path.write_bytes(b"question\n\x8e\n"),
            "neither UTF-8 nor plain cp1252",
        ),
        ("a.xlsx", lambda path: path.write_text("x"), "cannot be read as xlsx .damaged, protected by a password"),
        ("a.csv", lambda path: path.write_bytes(b"PK\x03\x04abc"), "is a workbook or a zip file. Call it .xlsx"),
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
    with pytest.raises(DataError, match=r"gs://bucket/faq\.csv cannot be read \(.*install"):
        read_table(data(source="gs://bucket/faq.csv"))


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


def test_files_as_people_have_them(tmp_path: Path) -> None:
    lines = [f"{row['question']};{row['answer']}" for row in ROWS]
    (tmp_path / "a.csv").write_text("sep=;\nquestion;answer\n" + "\n".join(lines), "utf-8")
    (tmp_path / "b.CSV").write_text("question;answer (yes, no)\n" + "\n".join(lines).replace(",", ""), "utf-8")
    assert read_table(data(source=str(tmp_path / "a.csv"))) == ROWS
    assert [*read_table(data(source=str(tmp_path / "b.CSV")))[0]] == ["question", "answer (yes, no)"]
    titled = f"Export du 12/03/2026 ;\n\nquestion;answer\n{chr(10).join(lines)}\n"
    (tmp_path / "t.csv").write_text(titled, "utf-8")
    assert read_table(data(source=str(tmp_path / "t.csv"))) == ROWS
    (tmp_path / "one.csv").write_text("question\nasked\nand answered\n", "utf-8")  # no title: it has one column
    assert [*read_table(data(source=str(tmp_path / "one.csv")))[0]] == ["question"]
    marks = {3: ('"', ""), 8: ("", '"')}
    cells = [marks.get(n, ("", ""))[0] + f"asked {n}" + marks.get(n, ("", ""))[1] for n in range(20)]
    swallowed = "question,answer\n" + "".join(f"{cell},a{n}\n" for n, cell in enumerate(cells))
    (tmp_path / "c.csv").write_text(swallowed, "utf-8")
    with pytest.raises(DataError, match="hold lines that look like rows of their own"):
        read_table(data(source=str(tmp_path / "c.csv")))
    (tmp_path / "d.csv").write_text("question,answer,question,answer\na,b,c,d\n", "utf-8")
    with pytest.raises(DataError, match="several columns of one name: columns 1 and 3"):
        read_table(data(source=str(tmp_path / "d.csv")))
    columns = {key: [row[key] for row in ROWS] for key in ROWS[0]}
    (tmp_path / "e.json").write_text(json.dumps(columns), "utf-8")
    assert read_table(data(source=str(tmp_path / "e.json"))) == ROWS
    (tmp_path / "f.json").write_text(json.dumps({"train": ROWS, "test": ROWS[:3]}), "utf-8")
    assert [row[SPLIT] for row in read_table(data(source=str(tmp_path / "f.json")))] == ["train"] * 20 + ["test"] * 3
    (tmp_path / "h.jsonl").write_text('{"question": "a", "answer": 1.85E+14}', "utf-8")
    assert read_table(data(source=str(tmp_path / "h.jsonl"))) == [{"question": "a", "answer": "1.85E+14"}]
    for content in ("5", "null", "[" * 100_000):
        (tmp_path / "g.json").write_text(content, "utf-8")
        with pytest.raises(DataError, match=r"g\.json (holds no JSON object in 1 of 1|.* .RecursionError)"):
            read_table(data(source=str(tmp_path / "g.json")))
    labelled = datasets.Dataset.from_dict({"question": ["a", "b"], "answer": [1, 0]})
    labelled = labelled.cast_column("answer", datasets.ClassLabel(names=["no", "yes"]))
    labelled.save_to_disk(str(tmp_path / "labels"))
    assert [r["answer"] for r in read_table(data(source={"load_from_disk": str(tmp_path / "labels")}))] == ["yes", "no"]


def test_a_sheet_is_read_as_it_shows_itself(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for cells in (
        ["question", "answer"],
        ["How much?", 0.155],
        ["Which code?", 1000],
        ["Where?", "here_x000D_\nor there"],
    ):
        book.active.append(cells)
    book.active["B2"].number_format, book.active["B3"].number_format = "0.0%", "00000"
    book.save(tmp_path / "a.xlsx")
    shown = [row["answer"] for row in read_table(data(source=str(tmp_path / "a.xlsx")))]
    assert shown == ["15.5%", "01000", "here\nor there"]
    book.active["B3"] = -5
    book.active["B3"].number_format = "000"
    book.active["B2"] = "=1+1"
    book.save(tmp_path / "b.xlsx")
    computed = tmp_path / "computed.xlsx"
    with ZipFile(tmp_path / "b.xlsx") as old, ZipFile(computed, "w") as new:
        for name in old.namelist():  # as a spreadsheet saves a formula whose result is an empty text
            told = re.sub(rb'<c r="B2"([^>]*)>(<f>.*?</f>)<v ?/>', rb'<c r="B2"\1 t="str">\2<v></v>', old.read(name))
            new.writestr(name, told)
    assert [row["answer"] for row in read_table(data(source=str(computed)))][:2] == [None, "-005"]
    with pytest.raises(DataError, match="formulas without results"):
        read_table(data(source=str(tmp_path / "b.xlsx")))
    with pytest.raises(DataError, match="only a workbook has sheets"):
        as_lines(tmp_path / "c.jsonl")
        read_table(data(source=str(tmp_path / "c.jsonl"), sheet="x"))


@pytest.mark.parametrize("orient", ["columns", "index", "split", "records", "table"])
def test_json_as_pandas_writes_it(orient: Any, tmp_path: Path) -> None:
    pd.DataFrame(ROWS).to_json(tmp_path / "a.json", orient=orient)
    read = read_table(data(source=str(tmp_path / "a.json")))
    assert [{key: row[key] for key in ROWS[0]} for row in read] == ROWS


def test_narrow_numbers_keep_their_shortest_form(tmp_path: Path) -> None:
    pd.DataFrame({"answer": [3.14, None]}, dtype="float32").to_parquet(tmp_path / "a.parquet")
    assert [row["answer"] for row in read_table(data(source=str(tmp_path / "a.parquet")))] == [3.14, None]


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
    titled = openpyxl.Workbook()
    for cells in (["FAQ export 2026"], [], ["case", "question", "answer"], ["case 0", ROWS[0]["question"], "None"]):
        titled.active.append(cells)
    titled.active.merge_cells("A1:C1")
    titled.save(tmp_path / "titled.xlsx")
    assert read_table(data(source=str(tmp_path / "titled.xlsx"))) == rows[:1]
    assert not left and kept[0].example.answer == "None" and kept[-1].example.answer == "2024-01-05"
    with pytest.raises(DataError, match="4 of 20 rows have no case"):
        examples([{**row, "case": "" if n < 4 else "x"} for n, row in enumerate(ROWS)], columns={"group": "case"})
