from pathlib import Path

import pytest
from capable_writer import CapableWriter
from chat_client import endpoint

from helpers.config import PROJECT_ROOT, load_config
from helpers.data.card import coverage
from helpers.data.glossary.entries import load_glossary
from helpers.data.glossary.splits import test_records as held_out
from helpers.data.glossary.splits import training_records
from helpers.data.glossary.writer import write_conversations


def test_what_was_planned_is_found_again_in_every_column(tmp_path: Path) -> None:
    settings, entries = load_config("cpu").dataset, load_glossary(PROJECT_ROOT / "example_data/acronyms.json", 5)
    with CapableWriter(spoilt=5) as server:
        chat = endpoint(server.url)
        made = [*write_conversations(entries, chat, settings, path=tmp_path / "c.jsonl", seed=0, way="structured")]
    test = held_out(entries, settings, seed=0)
    train, validation = training_records(made, entries, settings, general=[], test=test, seed=0)
    splits = {"train": train, "validation": validation, "test": test}
    rows = coverage(made, splits)
    by_model = sum(record["origin"] == "model" for record in made)
    attempts = sum(len(record["rejected"]) for record in made) + by_model
    assert sum(row["attempts"] for row in rows) == attempts > by_model
    assert sum(row["train"] + row["validation"] for row in rows) == len(made)
    assert sum(row["test"] for row in rows) == 5 * (settings.test_new_phrasings + settings.test_reverse)
    assert {row["form"] for row in rows} >= {"in_use", "wrong_guess", "fields", "held out", ""}

    twice = next(example for example in train if example.bucket == "forward")
    for wrong in ({**splits, "train": []}, {**splits, "validation": [*validation, twice]}):
        with pytest.raises(AssertionError, match="in no split or in two"):
            coverage([record for record in made if record["id"] == twice.id], wrong)
