from pathlib import Path

import pytest

from helpers.data.example import Example, asked, write_examples
from helpers.errors import EvaluationError, ModelError
from helpers.evaluation.cross_encoder import (
    cross_encoder_similarity,
    load_cross_encoder,
    make_pairs,
    train_cross_encoder,
)

FACTS = {"AAX": "Annual Audit", "eBBY": 'Basic {Budget}\n"Bill"', "CCZ": "Ευρωπαϊκή Ένωση", "DDW": "Daily Draft"}


def row(number: int, bucket: str, entry: str, question: str, answer: str) -> Example:
    told = {"forward": (FACTS.get(entry, ""),), "reverse": (entry,)}.get(bucket, ())
    return Example(str(number), bucket, asked(question), answer, told, subject=entry, origin="bank")


@pytest.fixture
def train_path(tmp_path: Path) -> Path:
    rows = []
    for acronym, definition in FACTS.items():
        about = [
            ("forward", f"What does {acronym} stand for?", f"{acronym} stands for {definition}."),
            ("forward", f"Define {acronym}.", f"{acronym} means {definition}."),
            ("reverse", f"Abbreviate {definition}.", f"The acronym is {acronym}."),
        ]
        rows += [row(len(rows) + i, kind, acronym, *texts) for i, (kind, *texts) in enumerate(about)]
    rows.append(row(98, "unknown", "QQX", "What is QQX?", "I do not know the acronym QQX."))
    rows.append(row(99, "general", "", "What is the capital of Spain?", "It is Madrid."))
    path = tmp_path / "train.jsonl"
    write_examples(path, rows)
    return path


def test_pairs_are_balanced_and_true(train_path: Path) -> None:
    train, held_out, entries = make_pairs(train_path, seed=0, max_pairs=60)
    assert (len(train), entries) == (60, 1)
    assert sum(p.label for p in train) == 30
    assert sum(p.label for p in held_out) * 2 == len(held_out)
    right = {f"{a} {verb} {d}." for a, d in FACTS.items() for verb in ("stands for", "means")}
    for pair in (*train, *held_out):
        if pair.label and "acronym" not in pair.answer:
            assert pair.answer in right
            assert pair.reference in right
        if not pair.label:
            assert pair.answer != pair.reference
    invented = [p.answer for p in train if not p.label and p.answer not in right and p.answer.split()[0] in FACTS]
    assert invented, "no definition was put under another acronym"


def test_held_out_entries_are_not_trained_on(train_path: Path) -> None:
    train, held_out, _ = make_pairs(train_path, seed=1, max_pairs=60)
    (held,) = {a for a in FACTS if any(p.reference.startswith(f"{a} ") for p in held_out)}
    assert not any(held in p.reference for p in train)


def test_pairs_depend_on_the_seed_alone(train_path: Path) -> None:
    assert make_pairs(train_path, seed=3, max_pairs=20) == make_pairs(train_path, seed=3, max_pairs=20)
    assert make_pairs(train_path, seed=3, max_pairs=20) != make_pairs(train_path, seed=4, max_pairs=20)


def test_too_few_entries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    write_examples(path, [row(1, "forward", "A", "What is AAX?", "AAX means Annual Audit.")])
    with pytest.raises(EvaluationError, match="found 1"):
        make_pairs(path, seed=0, max_pairs=10)


def test_training_is_kept_and_stores_its_accuracy(train_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cross_encoder"
    quality = train_cross_encoder(train_path, folder, seed=0, max_pairs=16)
    assert 0 <= quality["accuracy"] <= 1
    assert quality["train_pairs"] == 16
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert train_cross_encoder(train_path, folder, seed=0, max_pairs=16) == quality
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    model = load_cross_encoder(str(folder))
    scores = cross_encoder_similarity(["AAX means Annual Audit.", ""], ["AAX stands for Annual Audit."] * 2, model)
    assert len(scores) == 2
    assert all(0 <= score <= 1 for score in scores)
    assert cross_encoder_similarity([], [], model) == []


def test_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"score\.cross_encoder: .*nowhere"):
        load_cross_encoder(str(tmp_path / "nowhere"))
