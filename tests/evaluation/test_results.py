import json
import random
from pathlib import Path
from typing import Any

import pytest

from helpers.data.example import Example, asked, read_examples
from helpers.errors import EvaluationError, HelpersError
from helpers.evaluation.results import collect_results, read_answers, score_answers
from helpers.evaluation.similarity import rouge_l
from helpers.files import read_jsonl

ODD = 'Basic {Budget}\n"Bill" Ένωση'
TEST = [
    Example("n1", "new_phrasing", asked("Unpack BBY."), f"BBY means {ODD}.", (ODD,), "contains"),
    Example("n2", "new_phrasing", asked("Unpack AAX."), "AAX means Annual Audit.", ("Annual Audit",), "contains"),
    Example("u1", "unknown", asked("Unpack QQX."), "I do not know QQX.", check="declines"),
    Example("g1", "general", asked("Capital of Spain?"), "It is Madrid.", ("Madrid",), "contains"),
]
RIGHT = {example.id: example.answer for example in TEST}


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def answer(tmp_path: Path, model: str, answers: dict[str, Any]) -> Path:
    rows = [{"id": i, "answer": a, "new_tokens": 5, "stopped": True} for i, a in answers.items()]
    random.Random(0).shuffle(rows)
    path = write(tmp_path / "predictions" / f"{model}.jsonl", rows)
    write(tmp_path / "test.jsonl", [example.row() for example in TEST])
    scores = score_answers(TEST, read_answers(path, TEST), metrics={"rouge_l": rouge_l})
    write(tmp_path / "scores" / f"{model}.jsonl", scores[::-1])
    return path


def collect(tmp_path: Path, *models: str, **extra: Any) -> dict[str, Any]:
    costs = {model: {"seconds": 1.5, "peak_memory_mb": 100.0} for model in models}
    test = read_examples(tmp_path / "test.jsonl")
    answers = {model: read_answers(tmp_path / "predictions" / f"{model}.jsonl", test) for model in models}
    scores = {model: read_jsonl(tmp_path / "scores" / f"{model}.jsonl") for model in models}
    return collect_results(test, answers, scores, costs, **extra)


def test_scores_are_matched_by_id(tmp_path: Path) -> None:
    path = answer(tmp_path, "lora", {**RIGHT, "g1": "It is Rome."})
    verdicts = [{"id": "g1", "verdict": "incorrect", "reason": "other city"}]
    rows = score_answers(TEST, read_answers(path, TEST), metrics={"rouge_l": rouge_l}, verdicts=verdicts)
    assert {r["id"]: r["correct"] for r in rows} == {"n1": True, "n2": True, "u1": True, "g1": False}
    assert rows[0] == {
        "id": "n1", "bucket": "new_phrasing", "correct": True, "rouge_l": 1.0, "static": None, "sentence": None,
        "cross_encoder": None, "judge": None, "judge_reason": None,
    }  # fmt: skip
    assert (rows[3]["judge"], rows[3]["judge_reason"]) == ("incorrect", "other city")


def test_chatty_answers_count(tmp_path: Path) -> None:
    answer(tmp_path, "base", {i: f"Sure! Here is what I found:\n{a}" for i, a in RIGHT.items()})
    rates = collect(tmp_path, "base")["models"]["base"]["buckets"]
    assert {bucket: rate["rate"] for bucket, rate in rates.items()} == {"new_phrasing": 1, "unknown": 1, "general": 1}


def test_results_compare_models(tmp_path: Path) -> None:
    answer(tmp_path, "base", dict.fromkeys(RIGHT, "something else") | {"g1": "Madrid"})
    answer(tmp_path, "lora", {**RIGHT, "g1": "Rome"})
    results = collect(tmp_path, "base", "lora", run={"id": "r1"})
    assert results["models"]["lora"]["buckets"]["new_phrasing"]["correct"] == 2
    assert results["models"]["lora"]["seconds"] == 1.5
    assert results["run"] == {"id": "r1"}
    assert results["separation"] == {"rouge_l": 1.0, "static": None, "sentence": None, "cross_encoder": None}
    shown = {d["id"]: {m: a["correct"] for m, a in d["answers"].items()} for d in results["disagreements"]}
    assert shown == {i: {"base": i == "g1", "lora": i != "g1"} for i in RIGHT}
    json.dumps(results, allow_nan=False)


def test_general_knowledge_in_another_language_is_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    french = Example("f1", "general_fr", asked("Capitale du Japon ?"), "Tokyo.", ("Tokyo",), "contains")
    monkeypatch.setattr("test_results.TEST", [*TEST, french])
    right = {**RIGHT, "f1": "Tokyo"}
    answer(tmp_path, "base", right)
    answer(tmp_path, "lora", right | {"f1": "Oslo"})
    results = collect(tmp_path, "base", "lora")
    assert results["models"]["lora"]["buckets"]["general_fr"]["rate"] == 0
    assert results["separation"]["rouge_l"] is None  # no fact was answered wrong


def test_a_model_has_a_separation_of_its_own(tmp_path: Path) -> None:
    answer(tmp_path, "lora", {**RIGHT, "n1": "no clue"})
    metrics = collect(tmp_path, "lora")["models"]["lora"]["metrics"]
    assert metrics["separation"] == {"rouge_l": 1.0, "static": None, "sentence": None, "cross_encoder": None}
    assert metrics["rouge_l"] == 0.75


def test_disagreements_are_capped_over_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.evaluation.results.MAX_DISAGREEMENTS", 3)
    answer(tmp_path, "base", dict.fromkeys(RIGHT, ""))
    answer(tmp_path, "lora", RIGHT)
    shown = collect(tmp_path, "base", "lora")["disagreements"]
    assert [d["bucket"] for d in shown] == ["new_phrasing", "unknown", "general"]


def test_undecided_answers_are_counted_apart(tmp_path: Path) -> None:
    answer(tmp_path, "lora", {**RIGHT, "n2": "Annual Audit?"})
    verdicts = [{"id": "n2", "verdict": "correct", "reason": "it is named"}]
    path = tmp_path / "predictions" / "lora.jsonl"
    scores = score_answers(TEST, read_answers(path, TEST), metrics={}, verdicts=verdicts)
    assert {row["id"]: row["correct"] for row in scores} == {"n1": True, "n2": None, "u1": True, "g1": True}
    write(tmp_path / "scores" / "lora.jsonl", scores)
    results = collect(tmp_path, "lora")
    buckets = results["models"]["lora"]["buckets"]
    assert {key: buckets["new_phrasing"][key] for key in ("n", "correct", "undecided", "undecided_judged_right")} == {
        "n": 1, "correct": 1, "undecided": 1, "undecided_judged_right": 1,
    }  # fmt: skip
    assert "undecided" not in buckets["unknown"]
    assert results["models"]["lora"]["likeness"] == {}
    assert "n2" in [item["id"] for item in results["unrated"]]


def test_all_wrong(tmp_path: Path) -> None:
    answer(tmp_path, "lora", dict.fromkeys(RIGHT, ""))
    results = collect(tmp_path, "lora")
    assert all(rate["rate"] == 0 for rate in results["models"]["lora"]["buckets"].values())
    assert results["separation"]["rouge_l"] is None
    assert results["disagreements"] == []
    assert [item["id"] for item in results["unrated"]] == ["n1", "n2", "u1"]  # still there to be read


def test_zero_items(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", [])
    for folder in ("predictions", "scores"):
        write(tmp_path / folder / "base.jsonl", [])
    results = collect(tmp_path, "base")
    assert results["models"]["base"]["buckets"] == {}
    assert results["models"]["base"]["metrics"]["rouge_l"] is None


def test_missing_and_foreign_ids_are_named(tmp_path: Path) -> None:
    path = answer(tmp_path, "lora", RIGHT)
    rows = read_jsonl(path)
    write(path, [r for r in rows if r["id"] != "u1"])
    with pytest.raises(EvaluationError, match=r"lora\.jsonl .*: u1 is missing\."):
        collect(tmp_path, "lora")
    path.write_text(path.read_text("utf-8").rstrip()[:-9], "utf-8")  # a kill in the middle of the last line
    with pytest.raises(EvaluationError, match=r"missing, .* is missing\."):
        collect(tmp_path, "lora")
    write(path, [*rows, {"id": "zz", "answer": ""}])
    with pytest.raises(EvaluationError, match="zz comes twice or is not"):
        collect(tmp_path, "lora")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('{"id": "a"\n{"id": "b"}\n', "line 1"),
        ('{"id": "n1"}\n{"id": "n1"}\n', ": n1 comes twice"),
        ("[1]\n", "line 1"),
        ('{"answer": "a"}\n', "no id"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: str, fault: str) -> None:
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(HelpersError, match=fault):
        read_answers(tmp_path / "x.jsonl", TEST[:1])
