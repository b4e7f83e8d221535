"""Glossaries that must load, and those that must be refused with one message."""

import json
import re
import time
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fixture_types import GlossaryFile

from helpers.config import PROJECT_ROOT
from helpers.data.glossary.entries import is_glossary, load_glossary
from helpers.data.languages.pack import recognise
from helpers.errors import GlossaryError

ABC = {"acronym": "ABC", "definition": "Alpha Beta Gamma"}


def mistake(glossary_file: GlossaryFile, content: Any) -> str:
    with pytest.raises(GlossaryError) as caught:
        load_glossary(glossary_file(content))
    return str(caught.value)


def test_bom_and_white_space(glossary_file: GlossaryFile) -> None:
    text = json.dumps([{"acronym": " ABC ", "definition": "Alpha\n  Beta\tGamma", "verbose_def": None}])
    (entry,) = load_glossary(glossary_file(b"\xef\xbb\xbf" + text.encode()))
    assert (entry.id, entry.acronym, entry.definition, entry.verbose_def) == ("ABC", "ABC", "Alpha Beta Gamma", "")
    assert not entry.ambiguous and entry.where == ""


def test_one_acronym_in_two_fields(glossary_file: GlossaryFile) -> None:
    rows = [
        ABC | {"field": "health"},
        {"acronym": "ABC", "definition": "Another", "field": "law"},
        {**ABC, "acronym": "D"},
    ]
    health, law, other = load_glossary(glossary_file(rows))
    assert (health.id, health.where, law.id) == ("ABC (health)", " in health", "ABC (law)")
    assert (other.id, other.where) == ("D", "")
    (alone,) = load_glossary(glossary_file(rows), max_entries=1)
    assert (alone.id, alone.ambiguous) == ("ABC", False)


def test_a_repeated_row_is_read_once(glossary_file: GlossaryFile) -> None:
    assert len(load_glossary(glossary_file([ABC, ABC, {**ABC, "definition": "ALPHA beta Gamma"}]))) == 1


def test_ten_thousand_entries_in_seconds(glossary_file: GlossaryFile) -> None:
    rows = [{"acronym": f"A{number}", "definition": f"Definition {number}"} for number in range(10_000)]
    path = glossary_file(rows)
    started = time.process_time()
    assert len(load_glossary(path)) == 10_000
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[{", "is not JSON: .* line 1 column"),
        (f"[{'9' * 5000}]", "is not JSON: .* digits"),
        ("", "is not JSON"),
        ("{}", "holds a dict; expected a list"),
        ("7", "holds a int; expected a list"),
        ("[]", "is empty"),
        ("[" * 100_000, "nested too deeply"),
        (b"\x80\x81[", "neither UTF-8 nor plain cp1252"),
        (["ABC"], "entry 1: expected an object, received 'ABC'"),
        ([{"term": "ABC", "definition": "x"}], r"entry 1: unknown key\(s\) term; allowed are acronym"),
        ([{"acronym": "ABC"}], "entry 1: 'definition' of 'ABC' must be a text that is not empty, received None"),
        ([{"acronym": " ", "definition": "x"}], "entry 1: 'acronym' must be a text that is not empty, received ' '"),
        ([{"acronym": 7, "definition": "x"}], "entry 1: 'acronym' must be a text"),
        ([ABC | {"field": ["x"]}], "entry 1: 'field' of 'ABC' must be a text"),
        ([{"sigle": "A", "Acronyme": "A", "definition": "x"}], "'sigle' and 'Acronyme' could both be the acronym"),
        ('[{"acronym": "A\\ud800", "definition": "x"}]', "entry 1: 'acronym' holds half a character"),
        ([ABC, {**ABC, "definition": "Other"}], "entry 2: 'ABC' means 'Other' here but 'Alpha Beta Gamma' in entry 1"),
        ([ABC, {**ABC, "definition": "Other", "field": "law"}], "'ABC' has 2 meanings and one lacks a 'field'"),
    ],
)
def test_refused(glossary_file: GlossaryFile, content: Any, expected: str) -> None:
    assert re.search(expected, mistake(glossary_file, content))


FRENCH = [("TÉOM", "Taxe d’enlèvement des ordures ménagères", ""), ("AT", "Accident du travail", "paie"),
          ("AT", "Autorisation de travaux", "urbanisme")]  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_a_table_is_a_glossary_too(encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f'"{definition}";{acronym};{field};3' for acronym, definition, field in FRENCH]
    path = tmp_path / "sigles.csv"
    path.write_bytes("\r\n".join(["Définition;Sigle ;Service;Page", *rows, ";;;", ""]).encode(encoding))
    entries = load_glossary(path)
    assert [(entry.acronym, entry.definition, entry.field) for entry in entries] == FRENCH
    assert entries[0].pack.name == "fr" and entries[1].ambiguous and is_glossary(str(path))
    assert "sigles.csv: columns that are not read: Page." in capsys.readouterr().out


def test_formats_of_a_glossary(tmp_path: Path) -> None:
    rows = pd.DataFrame(FRENCH, columns=["acronym", "definition", "field"]).assign(verbose_def=[None, "x", None])
    for form in ("xlsx", "jsonl", "parquet", "tsv", "json"):
        path = tmp_path / f"glossary.{form}"
        match form:
            case "xlsx":
                rows.to_excel(path, index=False)
            case "parquet":
                rows.to_parquet(path)
            case "tsv":
                rows.to_csv(path, sep="\t", index=False)
            case _:
                rows.to_json(path, orient="records", lines=form == "jsonl", force_ascii=False)
        entries = load_glossary(path)
        assert [(entry.acronym, entry.definition, entry.field) for entry in entries] == FRENCH, form
        assert [entry.verbose_def for entry in entries] == ["", "x", ""]
    questions = tmp_path / "faq.csv"
    questions.write_text("question,answer\na,b\nc,d\n")
    assert not is_glossary(str(questions))
    with pytest.raises(GlossaryError, match="has the columns question, answer; a glossary needs"):
        load_glossary(questions)
    questions.write_text('acronym,definition\nA,"x\nB,y\n')
    with pytest.raises(GlossaryError, match="cannot be read as csv"):
        load_glossary(questions)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("MAR1", pd.Timestamp("2024-03-01"))], "entry 1: 'definition' of 'MAR1' must be a text"),
        ([("AB", True)], "'definition' of 'AB' must be a text"),
        ([("AB", "#REF!"), ("CD", "x")], "entry 1: 'definition' of 'AB' must be a text that is not empty"),
        ([("AB", 1.5)], "'definition' of 'AB' must be a text"),
    ],
)
def test_cells_that_are_no_texts_are_refused(rows: list[tuple[str, Any]], expected: str, tmp_path: Path) -> None:
    path = tmp_path / "g.xlsx"
    pd.DataFrame(rows, columns=["acronym", "definition"]).to_excel(path, index=False)
    with pytest.raises(GlossaryError, match=expected):
        load_glossary(path)


def test_of_several_names_the_exact_or_first_one_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "g.csv"
    path.write_text("Acronym;Definition;Description;Explanation;Service;field\n112;Call;first;second;x;y\n")
    (entry,) = load_glossary(path)
    assert (entry.acronym, entry.verbose_def, entry.field) == ("112", "first", "y")
    assert "columns that are not read: Explanation, Service" in capsys.readouterr().out
    path.write_text("Acronym;Definition;Notes, remarks, other, more\nAB;Alpha;z\n")
    assert [entry.acronym for entry in load_glossary(path)] == ["AB"]


def test_tables_that_cannot_be_used_say_what_to_do(tmp_path: Path) -> None:
    lines = [{"acronym": "RSA", "definition": "Revenu"}, {"abbrev": "SMIC", "def": "Salaire"}]
    path = tmp_path / "g.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(GlossaryError, match="entry 2: 'acronym' must be a text"):
        load_glossary(path)
    path.write_text(json.dumps({"acronym": "RSA", "definition": {"fr": "Revenu"}}))
    with pytest.raises(GlossaryError, match="'definition' of 'RSA' must be a text"):
        load_glossary(path)
    book = tmp_path / "g.xlsx"
    with pd.ExcelWriter(book) as writer:
        for sheet in ("A", "B"):
            pd.DataFrame([("X", "y")] * 2, columns=["acronym", "definition"]).to_excel(writer, sheet_name=sheet)
    with pytest.raises(GlossaryError, match=r"has 2 sheets: 'A', 'B'. Save it alone as a csv"):
        load_glossary(book)
    old = tmp_path / "g.xls"
    old.write_bytes(b"\xd0\xcf\x11\xe0")
    with pytest.raises(GlossaryError, match="Save it as xlsx or csv"):
        load_glossary(old)


def test_a_json_glossary_in_cp1252_with_french_keys(tmp_path: Path) -> None:
    path = tmp_path / "sigles.json"
    rows = [{"Sigle": "TÉOM", "Signification": "Taxe d’enlèvement", "Explication": None}]
    path.write_bytes(json.dumps(rows, ensure_ascii=False).encode("cp1252"))
    (entry,) = load_glossary(path)
    assert (entry.acronym, entry.definition, entry.verbose_def) == ("TÉOM", "Taxe d’enlèvement", "")


def test_all_mistakes_in_one_message(glossary_file: GlossaryFile) -> None:
    message = mistake(glossary_file, [{"acronym": "A"}] * 12)
    assert "has 12 mistake(s)" in message
    assert "entry 10:" in message and "entry 11:" not in message
    assert "and 2 more" in message


def test_missing_and_folder(glossary_file: GlossaryFile) -> None:
    path = glossary_file("[]")
    for wrong, expected in ((path.with_name("none.json"), "There is no glossary at"), (path.parent, "cannot be read")):
        with pytest.raises(GlossaryError, match=expected):
            load_glossary(wrong)


@pytest.mark.parametrize(
    ("definitions", "language"),
    [
        (["Conseil municipal des jeunes"], "fr"),
        (["Plan local d’urbanisme", "Ressources humaines"], "fr"),
        (["Board of Health", "Road Maintenance"], "en"),
        (["Consejo de la Administración Local", "Oficina para la gestión del agua y los residuos"], None),
        (["Amt für Umwelt und Schutz des Bodens"], None),
        (["Δημόσια Επιχείρηση Ηλεκτρισμού"], None),
        (["中国人民银行"], None),
        (["Central Processing Unit"], None),
    ],
)
def test_the_language_is_that_of_the_definitions(
    glossary_file: GlossaryFile, definitions: list[str], language: str | None
) -> None:
    assert recognise(definitions) == language
    rows = [{"acronym": f"A{number}", "definition": text} for number, text in enumerate(definitions)]
    path = glossary_file(rows)
    assert {entry.pack.name for entry in load_glossary(path)} == {language or "en"}
    assert {entry.pack.name for entry in load_glossary(path, language="fr")} == {"fr"}


def test_the_example_of_a_town_hall_is_french() -> None:
    entries = load_glossary(PROJECT_ROOT / "example_data" / "glossaire_mairie.json")
    assert len(entries) == 24
    assert {entry.pack.name for entry in entries} == {"fr"}
    assert [entry.where for entry in entries if entry.acronym == "OCLET"] == [
        " dans le domaine « culture »", " dans le domaine « urbanisme »"
    ]  # fmt: skip


def test_one_text_in_two_unicode_forms_is_read_once(glossary_file: GlossaryFile) -> None:
    row = {"acronym": "CIPRÉ", "definition": "Comité d'îlot"}
    typed = {key: unicodedata.normalize("NFD", text).replace("'", "’") for key, text in row.items()}
    (entry,) = load_glossary(glossary_file([row, typed]))
    assert (entry.acronym, entry.definition, entry.ambiguous) == (*row.values(), False)


def test_differences_that_nobody_sees_make_no_second_entry(glossary_file: GlossaryFile) -> None:
    rows = [
        {"acronym": "DHAB", "definition": "Drug Handling Advisory Board", "field": "health"},
        {"acronym": "DH\u200bAB", "definition": "Drug Handling\x07 Advisory Board", "field": "Health"},
    ]
    [entry] = load_glossary(glossary_file(rows))
    assert (entry.acronym, entry.definition) == ("DHAB", "Drug Handling Advisory Board")
