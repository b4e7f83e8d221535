"""Reading tables in several formats, and rows that no display and no error shows."""

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from IPython.core.formatters import DisplayFormatter

from helpers.data.holders.pipeline import Holder
from helpers.data.holders.tables import KEY, ROSTER, PrivateTable, read_holder
from helpers.errors import DataError

ROWS = [{"who": "Zorbel Quistine", "n": 1, "note": "Sécrète, 54"}, {"who": "Vandelor", "n": 2.0, "note": None}]


def holder(**changes: Any) -> Holder:
    declared = {
        "name": "clinic",
        "fictitious": True,
        "file": "x.jsonl",
        "format": "jsonl",
        "key": {"column": "who"},
        "columns": {"note": "note", "number": "n"},
        "roster": ["who"],
    }
    return Holder.model_validate(declared | changes)


def write_jsonl(folder: Path, rows: list[Any]) -> None:
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def opened(table: PrivateTable) -> dict[str, list[str]]:
    return {str(name): list(column) for name, column in table.get_secret_value().items()}


def test_no_display_shows_a_row(tmp_path: Path) -> None:
    write_jsonl(tmp_path, ROWS)
    table = read_holder(holder(), tmp_path)
    shown = [
        str(table),
        repr(table),
        f"{table} {table!r}",
        repr([table]) + repr({"a": (table,)}),
        repr(pd.Series([table])) + repr(pd.DataFrame({"t": [table]})),
        pd.DataFrame({"t": [table]}).to_html(),
        repr(DisplayFormatter().format(table)),
    ]
    for display in shown:
        for private in ("Zorbel", "Quistine", "Sécrète", "Vandelor"):
            assert private not in display
    assert "clinic: 2 rows, columns note, number; raw rows are not shown" in repr(table)
    with pytest.raises((TypeError, ValueError)):
        pd.DataFrame(table)
    with pytest.raises(TypeError):
        list(table)  # type: ignore[call-overload]
    assert opened(table)["note"] == ["Sécrète, 54", ""]


def test_cells_become_text_in_one_form(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path, [{"who": " A ", "n": 1, "note": "Se\u0301cr\u00ade\u200bte"}, {"who": "B", "n": 2.0, "note": None}]
    )
    table = opened(read_holder(holder(), tmp_path))
    assert table == {KEY: ["A", "B"], "note": ["Sécrete", ""], "number": ["1", "2"], "#roster/0": ["A", "B"]}


@pytest.mark.parametrize("kind", ["csv", "parquet", "load_dataset"])
def test_formats_agree(tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame([{"who": "A", "n": 7, "note": "NA"}, {"who": "B", "n": 8, "note": "x, y"}])
    if kind == "csv":
        frame.to_csv(tmp_path / "x.csv", index=False)
        declared = holder(file="x.csv", format="csv")
    elif kind == "parquet":
        frame.to_parquet(tmp_path / "x.parquet")
        declared = holder(file="x.parquet", format="parquet")
    else:
        frame.to_json(tmp_path / "x.json", orient="records", lines=True)
        declared = holder(file=None, format=None, load_dataset={"path": "json", "data_files": "x.json"})
    table = opened(read_holder(declared, tmp_path))
    assert (table[KEY], table["note"], table["number"]) == (["A", "B"], ["NA", "x, y"], ["7", "8"])


@pytest.mark.parametrize("form", ["json", "parquet"])
@pytest.mark.parametrize("arguments", [{"path": "{form}", "data_files": "rows.{form}"}, {"path": "{folder}"}])
def test_a_loaded_set_leaves_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, str], form: str
) -> None:
    import datasets

    home, place = tmp_path / "home", tmp_path / "rows"
    place.mkdir()
    rows = pd.DataFrame([{"who": "A", "note": "Quistine", "n": 1}])
    if form == "json":
        rows.to_json(place / "rows.json", orient="records", lines=True)
    else:
        rows.to_parquet(place / "rows.parquet")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home)
    given = {key: value.format(folder=place, form=form) for key, value in arguments.items()}
    assert opened(read_holder(holder(file=None, format=None, load_dataset=given), place))["note"] == ["Quistine"]
    assert not [path for path in home.rglob("*") if path.is_file() and b"Quistine" in path.read_bytes()]


@pytest.mark.parametrize("nested", [True, False])
def test_text_inside_a_json_column(tmp_path: Path, nested: bool) -> None:
    claims = [{"claim": {"story": "one", "n": 3}}, {"claim": {"n": 4.0}}, {"claim": None}]
    write_jsonl(tmp_path, [{"who": "A", "payload": claim if nested else json.dumps(claim)} for claim in claims])
    declared = holder(columns={}, json_column={"column": "payload", "fields": {"story": "claim.story", "n": "claim.n"}})
    table = opened(read_holder(declared, tmp_path))
    assert (table["story"], table["n"]) == (["one", "", ""], ["3", "4", ""])


def refused(declared: Holder, folder: Path) -> str:
    with pytest.raises(DataError) as raised:
        read_holder(declared, folder)
    assert raised.value.__context__ is None or raised.value.__suppress_context__
    message = str(raised.value)
    assert "'clinic'" in message
    assert not any(private in message for private in ("Zorbel", "Quistine", "54"))
    return message


def test_a_nested_key_and_a_workbook_are_read(tmp_path: Path) -> None:
    lines = [{"insured": {"id": "a", "names": {"last": "Arvel"}}, "x.y": "gout", "day": "2024-01-05"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    declared: dict[str, Any] = {
        "name": "a", "fictitious": True, "file": "a.jsonl", "format": "jsonl", "key": {"column": "insured.id"},
        "columns": {"note": "x.y", "day": "day"}, "roster": ["insured.names.last"],
    }  # fmt: skip
    nested = read_holder(Holder.model_validate(declared), tmp_path).get_secret_value()
    lines[0] |= {"insured.id": None}  # a flat cell without a value hides no nested one
    (tmp_path / "a.jsonl").write_text(json.dumps(lines[0]), encoding="utf-8")
    assert read_holder(Holder.model_validate(declared), tmp_path).get_secret_value().equals(nested)
    lines[0] |= {"insured": {"id": "a", "names": [{"last": "Arvel"}]}}
    (tmp_path / "b.jsonl").write_text(json.dumps(lines[0]), encoding="utf-8")
    with pytest.raises(DataError, match=r"'insured.names.last' leads through a list") as caught:
        read_holder(Holder.model_validate(declared | {"file": "b.jsonl"}), tmp_path)
    assert "Arvel" not in str(caught.value)
    assert nested.to_dict("records") == [{"note": "gout", "day": "2024-01-05", ROSTER + "0": "Arvel", KEY: "a"}]
    pd.DataFrame({"id": ["a"], "x.y": ["gout"], "last": ["Arvel"], "day": [datetime(2024, 1, 5)]}).to_excel(
        tmp_path / "a.xlsx", index=False
    )
    book = declared | {"file": "a.xlsx", "format": "xlsx", "key": {"column": "id"}, "roster": ["last"]}
    assert read_holder(Holder.model_validate(book), tmp_path).get_secret_value().equals(nested)
    with pd.ExcelWriter(tmp_path / "a.xlsx", mode="a") as writer:
        pd.DataFrame({"x": [1]}).to_excel(writer, sheet_name="Notes")
    with pytest.raises(DataError, match=r"has 2 sheets: .* sheet: Sheet1 for a holder"):
        read_holder(Holder.model_validate(book), tmp_path)
    assert read_holder(Holder.model_validate(book | {"sheet": "Sheet1"}), tmp_path).get_secret_value().equals(nested)


def test_a_missing_file(tmp_path: Path) -> None:
    assert "no file x.jsonl" in refused(holder(), tmp_path)


@pytest.mark.parametrize(("name", "content"), [("csv", ""), ("csv", "who,n,note\n"), ("jsonl", ""), ("jsonl", "\n\n")])
def test_an_empty_holder(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / f"x.{name}").write_text(content)
    assert "has no rows" in refused(holder(file=f"x.{name}", format=name), tmp_path)


def test_missing_columns_are_named_and_a_headless_file_shows_no_row(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("Zorbel Quistine,1,gout\nVandelor,2,scurvy\n")
    message = refused(holder(file="x.csv", format="csv"), tmp_path)
    assert "lacks the columns n, note, who; its table has 3 columns" in message


@pytest.mark.parametrize("damage", ['{"claim": {"story": "Zorbel', "Zorbel", "[54]", "", None])
def test_a_damaged_json_column(tmp_path: Path, damage: str | None) -> None:
    whole = json.dumps({"claim": {"story": "x"}})
    write_jsonl(tmp_path, [{"who": "A", "payload": value} for value in (whole, damage, whole, damage)])
    declared = holder(columns={}, json_column={"column": "payload", "fields": {"story": "claim.story"}})
    assert "column payload holds no JSON object in 2 of 4 rows, the first of them row 2" in refused(declared, tmp_path)


def test_a_json_path_that_leads_nowhere(tmp_path: Path) -> None:
    write_jsonl(tmp_path, [{"who": "A", "payload": {"claim": {"text": "Zorbel"}}}])
    declared = holder(columns={}, json_column={"column": "payload", "fields": {"story": "claim.story"}})
    assert "nothing at 'claim.story' in any row" in refused(declared, tmp_path)


def test_a_damaged_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"who": "A", "n": 1, "note": "x"}\n{"who": "Zorbel", "n":')
    assert "no JSON object in 1 of 2 rows" in refused(holder(), tmp_path)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("csv", b"who,n,note\nZorbel,1,x,y,z\n"),
        ("csv", b"who,n,note\nA,1,x\nZorbel,1\n"),
        ("csv", b'who,n,note\nZorbel,1,"x" y\n'),
        ("csv", b'who,n,note\nZorbel,1,"x\n'),
        ("csv", b"who,n,note\nZorb\xc3\xa9l,1,x\nQuistin\xe9,2,y\n"),  # UTF-8 beside another encoding
        ("csv", b"who,n,note\nZorb\x8el,1,x\n"),  # of a Mac
        ("csv", b"who,n,note\nZorb\x82l,1,x\n"),  # of DOS
        ("csv", "who,n,note\nZorbel,1,x\n".encode("utf-16-le")),
        ("jsonl", b'[{"who": "Zorbel"}'),
        ("parquet", b"Zorbel"),
    ],
)
def test_an_unreadable_file(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / f"x.{kind}").write_bytes(content)
    assert "cannot be read as" in refused(holder(file=f"x.{kind}", format=kind), tmp_path)


@pytest.mark.parametrize("arguments", [{"path": "json", "data_files": "absent.json"}, {"path": "nobody/nothing-here"}])
def test_a_set_that_cannot_be_loaded(tmp_path: Path, arguments: dict[str, str]) -> None:
    message = refused(holder(file=None, format=None, load_dataset=arguments), tmp_path)
    assert "datasets.load_dataset could not load it" in message


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separator_and_encoding_of_a_csv_are_found(tmp_path: Path, separator: str, encoding: str, end: str) -> None:
    rows = [
        ["who", "n", "note"],
        ["A", "0012", f'"Sécrète{separator}l’œil"'],
        ["B", "1.50", '"two ""x""\nlines"'],
        [""],
    ]
    (tmp_path / "x.csv").write_bytes(end.join(separator.join(row) for row in rows).encode(encoding))
    table = opened(read_holder(holder(file="x.csv", format="csv"), tmp_path))
    notes = [f"Sécrète{separator}l’œil".replace("\t", " "), 'two "x" lines']
    assert (table[KEY], table["number"], table["note"]) == (["A", "B"], ["0012", "1.50"], notes)


@pytest.mark.parametrize("note", ["38°5", "5 µg", "« stable »", "Sécrète", "l’œil"])
def test_one_row_in_another_encoding_does_not_change_the_others(tmp_path: Path, note: str) -> None:
    (tmp_path / "x.csv").write_bytes(f"who,n,note\nA,1,{note}\n".encode() + "B,2,fièvre\n".encode("cp1252"))
    assert "give its encoding" in refused(holder(file="x.csv", format="csv"), tmp_path)


def test_separator_and_encoding_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("who^n^note\nA^1^Sécrète\n".encode("mac-roman"))
    declared = holder(file="x.csv", format="csv", separator="^", encoding="mac-roman")
    assert opened(read_holder(declared, tmp_path))["note"] == ["Sécrète"]
    assert "give its encoding" in refused(holder(file="x.csv", format="csv", separator="^"), tmp_path)
    assert "give the separator" in refused(holder(file="x.csv", format="csv", encoding="mac-roman"), tmp_path)
    unknown = holder(file="x.csv", format="csv", separator="^", encoding="5ecre7")
    assert "not in the encoding that was given" in refused(unknown, tmp_path)
    given = {"path": "csv", "data_files": "x.csv"}
    loaded = {"file": None, "format": None, "separator": "^", "encoding": "mac-roman", "load_dataset": given}
    (tmp_path / "x.csv").write_bytes("who^n^note\nA^1^Sécrète\n".encode("mac-roman"))
    assert opened(read_holder(holder(**loaded), tmp_path))["note"] == ["Sécrète"]
    for unread in ({"skiprows": 1}, {"sep": "^"}):
        assert "load it (ValueError)" in refused(holder(**loaded | {"load_dataset": given | unread}), tmp_path)
    part = given | {"split": "train[:1]"}
    assert "and a whole split" in refused(holder(**loaded | {"load_dataset": part}), tmp_path)


@pytest.mark.parametrize("swallowed", [1, 20])
@pytest.mark.parametrize("key", ["{}", "NP-{}", "06 39 98 00 {}"])
def test_rows_that_a_quotation_mark_swallows_are_missed(tmp_path: Path, swallowed: int, key: str) -> None:
    rows = [f"{key.format(n)},{n},seen" for n in range(10, 60)]
    rows[5] = f'{key.format(15)},15,"Zorbel said'
    rows[5 + swallowed] = f'{key.format(15 + swallowed)},1,Quistine said"'
    (tmp_path / "x.csv").write_text("who,n,note\n" + "\n".join(rows))
    message = refused(holder(file="x.csv", format="csv"), tmp_path)
    assert f"of {50 - swallowed} rows {swallowed} hold lines that look like rows" in message and "row 6" in message
    notes = "\"Day 1, well, home\nDay 2, worse, back\nsays, 'no', twice\""
    (tmp_path / "x.csv").write_text("who,n,note\n" + "\n".join([*rows[:5], f"{key.format(15)},1,{notes}"]))
    assert len(opened(read_holder(holder(file="x.csv", format="csv"), tmp_path))[KEY]) == 6


LOADED = {"file": None, "format": None}
KINDS: dict[str, dict[str, Any]] = {
    "csv": {"file": "x.csv", "format": "csv"},
    "jsonl": {"file": "x.jsonl", "format": "jsonl"},
    "parquet": {"file": "x.parquet", "format": "parquet"},
    "a set of csv": LOADED | {"load_dataset": {"path": "csv", "data_files": "x.csv"}},
    "a set of json": LOADED | {"load_dataset": {"path": "json", "data_files": "x.json*"}},
    "a set of parquet": LOADED | {"load_dataset": {"path": "parquet", "data_files": "x.parquet"}},
    "a JSON column": {
        "file": "y.jsonl",
        "format": "jsonl",
        "columns": {},
        "json_column": {"column": "payload", "fields": {"number": "n", "note": "note"}},
    },
}


def write_all(folder: Path, values: list[Any]) -> None:
    """Rows with these values of `n` in every format; a column of parquet is text where one value is."""
    rows = [{"who": f"P{n}", "n": value, "note": "x"} for n, value in enumerate(values)]
    write_jsonl(folder, rows)
    nested = [json.dumps({"who": row["who"], "payload": json.dumps(row)}) for row in rows]
    (folder / "y.jsonl").write_text("\n".join(nested), encoding="utf-8")
    cells = ["" if value is None else str(value) for value in values]
    (folder / "x.csv").write_text("who,n,note\n" + "".join(f"P{n},{cell},x\n" for n, cell in enumerate(cells)))
    text = any(isinstance(value, str) for value in values)
    column = pa.array(cells if text else values)
    table = pa.table({"who": [row["who"] for row in rows], "n": column, "note": ["x"] * len(rows)})
    pq.write_table(table, folder / "x.parquet")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "values",
    [
        ["0012", "12", "1.50"],
        ["2024-05-03", "NA", "True"],
        [9100000000000000001, 9100000000000000002, 7],
        [100001, 12, 7],
    ],
)
def test_one_patient_changes_no_other_patients_cell(tmp_path: Path, kind: str, values: list[Any]) -> None:
    for odd in ([], [None], ["unknown"], ["0.5" if isinstance(values[0], str) else None]):
        write_all(tmp_path, values + odd)
        table = opened(read_holder(holder(**KINDS[kind]), tmp_path))
        assert table["number"][:3] == [str(value) for value in values]


@pytest.mark.parametrize("kind", ["parquet", "a set of parquet"])
def test_a_float_that_has_lost_digits_is_written_so_that_no_key_is_read_from_it(tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame({"who": [7.0, 2.0**53], "n": [7.0, 2.0**24], "note": [Decimal("12.00"), Decimal(2**60)]})
    frame.astype({"n": "float32"}).to_parquet(tmp_path / "x.parquet")
    table = opened(read_holder(holder(**KINDS[kind]), tmp_path))
    assert table == {
        **{name: ["7", "9.007199e+15"] for name in (KEY, "#roster/0")},
        "note": ["12", str(2**60)],
        "number": ["7", "1.677722e+07"],
    }


def test_a_json_number_with_an_exponent_stays_so(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"who": 1.85058E+14, "n": 12.0, "note": ""}')
    assert opened(read_holder(holder(), tmp_path)) == {
        **{name: ["1.85058E+14"] for name in (KEY, "#roster/0")},
        "number": ["12"],
        "note": [""],
    }


@pytest.mark.parametrize("kind", ["jsonl", "a set of json"])
def test_the_only_row_is_a_row_even_if_it_holds_a_list(tmp_path: Path, kind: str) -> None:
    write_jsonl(tmp_path, [{"who": "A", "n": 1, "note": [{"who": "Zorbel", "n": 2, "note": "x"}]}])
    assert opened(read_holder(holder(**KINDS[kind]), tmp_path))[KEY] == ["A"]


def test_lines_of_text_are_read_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("0012;one\n12;two\n", encoding="utf-8")
    load = {"path": "text", "data_files": "x.txt"}
    declared = holder(**LOADED, load_dataset=load, key={"column": "text"}, columns={"note": "text"}, roster=[])
    assert opened(read_holder(declared, tmp_path))["note"] == ["0012;one", "12;two"]


def test_an_index_that_pandas_stored_is_a_column(tmp_path: Path) -> None:
    pd.DataFrame(ROWS[:1]).set_index("who").to_parquet(tmp_path / "x.parquet")
    assert opened(read_holder(holder(file="x.parquet", format="parquet"), tmp_path))[KEY] == ["Zorbel Quistine"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("who,n,note,n\nZorbel,1,x,2\n")
    assert "has several columns of one name" in refused(holder(file="x.csv", format="csv"), tmp_path)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("06\u00a039\u202f98 \u2009 12", "06 39 98 12"),
        ("０６ ３９ ＮＩＲ", "06 39 NIR"),
        ("Griﬃn \U0001d400nna", "Griffin Anna"),
        ("3-Ⅴ-1954", "3-V-1954"),
        ("l\u00adung\u200b one\r\ntwo\u2028three", "lung one two three"),
        ("m² µg ½ 10⁹ …", "m² µg ½ 10⁹ …"),
    ],
)
def test_blanks_and_forms_are_folded_when_a_cell_is_read(tmp_path: Path, raw: str, text: str) -> None:
    write_jsonl(tmp_path, [{"who": "A", "n": 1, "note": raw}])
    assert opened(read_holder(holder(), tmp_path))["note"] == [text]
