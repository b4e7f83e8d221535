"""Synthetic rows: labelled, made without the holders' files, and sharing no value with them."""

import re
import shutil
from pathlib import Path

from helpers.data.holders.candidates import lookalike_examples, lookalike_tables
from helpers.data.holders.pipeline import load_pipeline
from helpers.data.holders.tables import read_holder
from helpers.run import EXAMPLES

EXAMPLE = EXAMPLES / "providers" / "pipeline.yaml"


def test_no_holders_file_is_read(tmp_path: Path) -> None:
    alone = load_pipeline(shutil.copy(EXAMPLE, tmp_path / "pipeline.yaml"))
    beside = load_pipeline(EXAMPLE)
    assert lookalike_examples(alone, 30, seed=3) == lookalike_examples(beside, 30, seed=3)
    assert lookalike_examples(alone, 30, seed=3) != lookalike_examples(alone, 30, seed=4)


def test_tables_look_alike_and_are_labelled() -> None:
    pipeline = load_pipeline(EXAMPLE)
    tables = lookalike_tables(pipeline, 40, seed=3)
    for holder in pipeline.holders:
        table = tables[holder.name]
        assert list(table.columns) == holder.names
        assert len(table) == 40
        assert repr(table.head(3)).count("synthetic") >= 3
        assert "synthetic" in table.to_html()
    row = {name: table.iloc[0] for name, table in tables.items()}
    assert row["pharmacy"]["drug"] in row["hospital"]["note"]  # rows of one number belong together


def test_no_value_is_a_real_one() -> None:
    pipeline = load_pipeline(EXAMPLE)
    tables = lookalike_tables(pipeline, 300, seed=3)
    words: set[str] = set()
    for holder in pipeline.holders:
        real = read_holder(holder, pipeline.path.parent).get_secret_value()
        for column in holder.names:
            assert set(tables[holder.name][column]).isdisjoint(real[column]), column
        words |= {word for column in real for cell in real[column] for word in re.findall(r"\w{4,}", cell.lower())}
    invented = {*pipeline.lookalike.vocabulary["drug"], *pipeline.lookalike.vocabulary["person"]}
    assert words.isdisjoint(word for name in invented for word in re.findall(r"\w{4,}", name.lower()))


def test_records_have_the_shape_of_joined_ones() -> None:
    made = lookalike_examples(load_pipeline(EXAMPLE), 40, seed=3)
    assert len({each.id for each in made}) == 40
    assert all(each.unit.startswith("synthetic/") and each.expected == (each.answer,) for each in made)
    assert {each.question.rsplit(" ", 1)[1] for each in made} == {"suspected?", "reported?"}


def test_a_column_without_words_shows_its_name(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8").split("\nlookalike:")[0]
    (tmp_path / "pipeline.yaml").write_text(text, encoding="utf-8")
    tables = lookalike_tables(load_pipeline(tmp_path / "pipeline.yaml"), 2, seed=3)
    assert list(tables["pharmacy"]["drug"]) == ["(synthetic pharmacy.drug)"] * 2
