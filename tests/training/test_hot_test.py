from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_sft import SETTINGS, SHAPE, config_of, record

from helpers.data.example import Check, Example, asked
from helpers.files import read_jsonl, write_jsonl
from helpers.models.hot_test import due
from helpers.stages.models import hot_questions
from helpers.training.sft import train_adapter

KINDS: list[Check] = ["contains", "none", "contains", "contains"]
QUESTIONS = [
    Example(f"new/X{n}", "new", asked(f"What is X{n} short for?"), f"X{n} is Board.", ("Board",), kind)
    for n, kind in enumerate(KINDS, start=1)
]


class Killed(Exception):
    pass


def train(folder: Path, points: int, quantisation: Any = "none", die_at: int = 0) -> list[dict[str, Any]]:
    """The answers on the way of eight steps with dropout, a checkpoint every second; dies at a step."""

    def watch(log: list[Any]) -> None:
        if log[-1]["step"] == die_at:
            raise Killed

    settings = SETTINGS.model_copy(update={"hot_test": points})
    config = config_of(settings, lora=SHAPE.model_copy(update={"dropout": 0.1}))
    rows: dict[str, Any] = {"train": [record(n) for n in range(16)], "validation": [], "questions": QUESTIONS}
    train_adapter(folder, config, quantisation, **rows, watch=watch if die_at else None)
    path = folder / "hot_test.jsonl"
    return read_jsonl(path) if path.exists() else []


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(str(folder / "adapter_model.safetensors"))


def equal(one: Path, other: Path) -> bool:
    found, expected = weights(one), weights(other)
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_it_is_asked_first_before_and_last_after_and_more_often_early() -> None:
    steps = [step for step in range(202) if due(step, 201, 6)]
    assert steps == [0, 8, 32, 72, 129, 201]
    assert [step for step in range(9) if due(step, 8, 2)] == [0, 8]
    assert not any(due(step, 8, 0) for step in range(9))
    assert due(0, 1, 6) and due(1, 1, 6)  # fewer steps than points: each once
    assert all(due(step, 8, 10**15) for step in range(9))  # at once


@pytest.mark.parametrize("quantisation", ["none", "nf4"])
def test_asking_changes_no_bit_of_the_training(tiny: str, tmp_path: Path, quantisation: str) -> None:
    rows = train(tmp_path / "asked", 4, quantisation)
    assert train(tmp_path / "silent", 0, quantisation) == []
    assert equal(tmp_path / "asked", tmp_path / "silent")
    assert Counter(row["step"] for row in rows) == {0: 4, 1: 4, 4: 4, 8: 4}
    assert [row["id"] for row in rows[:4]] == [each.id for each in QUESTIONS]
    assert [row["correct"] for row in rows[:4]] == [False, None, False, False]


def test_a_killed_training_ends_with_the_same_answers(tiny: str, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 4)
    for die_at in (3, 5):  # after the answers of steps 1 and 4, and checkpoints 2 and 4
        with pytest.raises(Killed):
            train(tmp_path / "killed", 4, die_at=die_at)
    found = tmp_path / "killed" / "hot_test.jsonl"
    later = {**whole[0], "step": 7}  # as if it had been killed later, without a checkpoint
    write_jsonl(found, [*read_jsonl(found), later])
    assert train(tmp_path / "killed", 4) == whole
    assert equal(tmp_path / "killed", tmp_path / "whole")


def test_answers_of_an_earlier_training_go(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_jsonl(tmp_path / "a" / "hot_test.jsonl", [{"step": 0, "id": "of another one"}])
    assert {row["id"] for row in train(tmp_path / "a", 2)} == {each.id for each in QUESTIONS}
    assert train(tmp_path / "a", 0) == []


def test_questions_come_from_all_buckets_but_common_knowledge() -> None:
    test = [
        Example(f"{bucket}/{n}", bucket, asked(f"{bucket} {n}?"), "x")
        for bucket in ("new_phrasing", "reverse", "unknown", "general")
        for n in range(20)
    ]
    chosen = hot_questions(test)
    assert [each.bucket for each in chosen] == ["new_phrasing", "new_phrasing", "reverse", "unknown"]
    assert chosen == hot_questions(sorted(test, key=lambda each: (each.bucket, each.question)))  # whatever their order
    assert hot_questions([each for each in test if each.bucket == "general"]) == []
    assert len(hot_questions(test[:20])) == 4  # a table has one bucket
