"""How often answers that were read and labelled by hand, one by one, are misread. See docs/decisions/0017."""

import re
from collections import Counter
from pathlib import Path

import pytest

from helpers.config import PROJECT_ROOT
from helpers.data.matching import is_correct
from helpers.files import Record, read_jsonl

LABELLED = {path.stem: read_jsonl(path) for path in sorted(Path(__file__).with_name("answers").glob("*.jsonl"))}
VERDICTS = {True: "right", False: "wrong", None: "undecided"}


def read(row: Record) -> str:
    return VERDICTS[is_correct(row["check"], row["answer"], row["expected"], row["question"])]


@pytest.mark.parametrize("language", LABELLED)
def test_few_answers_of_the_held_out_half_are_misread(language: str) -> None:
    rows = [row for row in LABELLED[language] if row["half"] == "held out"]
    undecided = [row["id"] for row in rows if read(row) == "undecided"]
    misread = [row["id"] for row in rows if read(row) not in ("undecided", row["label"])]
    assert len(misread) <= 0.02 * len(rows), misread
    assert len(undecided) <= 0.05 * len(rows), undecided


def test_the_page_says_how_many_there_are() -> None:
    page = (PROJECT_ROOT / "docs" / "decisions" / "0017-answers-read.md").read_text("utf-8")
    for language, rows in LABELLED.items():
        halves = Counter(row["half"] for row in rows)
        assert len({row["id"] for row in rows}) == len(rows)
        assert len({(row["question"], *row["expected"], row["answer"]) for row in rows}) == len(rows)
        assert {row["label"] for row in rows} == {"right", "wrong"}
        found = re.search(rf"(?m)^\| {language} \| (\d+) \| (\d+) \|$", page)
        assert found and [int(count) for count in found.groups()] == [halves["build"], halves["held out"]]
