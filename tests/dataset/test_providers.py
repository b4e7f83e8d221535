"""Reading tables in several formats, and rows that no display and no error shows."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter

from helpers.dataset.pipeline import Holder
from helpers.dataset.providers import KEY, PrivateTable, read_holder
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


@pytest.mark.parametrize("arguments", [{"path": "json", "data_files": "rows.json"}, {"path": "{folder}"}])
def test_a_loaded_set_leaves_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, str]
) -> None:
    import datasets

    home, place = tmp_path / "home", tmp_path / "rows"
    place.mkdir()
    (place / "rows.json").write_text(json.dumps({"who": "A", "note": "Quistine", "n": 1}), encoding="utf-8")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home)
    given = {key: value.format(folder=place) for key, value in arguments.items()}
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
    [("csv", b"who,n,note\nZorbel,1,x,y,z\n"), ("csv", b"who,n,note\nZorb\xe9l,1,x\n"), ("parquet", b"Zorbel")],
)
def test_an_unreadable_file(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / f"x.{kind}").write_bytes(content)
    assert "cannot be read as" in refused(holder(file=f"x.{kind}", format=kind), tmp_path)


@pytest.mark.parametrize("arguments", [{"path": "json", "data_files": "absent.json"}, {"path": "nobody/nothing-here"}])
def test_a_set_that_cannot_be_loaded(tmp_path: Path, arguments: dict[str, str]) -> None:
    message = refused(holder(file=None, format=None, load_dataset=arguments), tmp_path)
    assert "datasets.load_dataset could not load it" in message
