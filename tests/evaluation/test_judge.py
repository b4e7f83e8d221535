import json
from pathlib import Path
from typing import Any

from chat_client import endpoint
from scripted_server import Response, ScriptedServer, completion

from helpers.data.example import Example, asked
from helpers.evaluation.judge import choose_items, judge_answers, judge_sample
from helpers.evaluation.results import summarise_judge

ODD = 'Line one\n{"braces"} and “quotes” Ένωση'


def item(number: int, answer: str = "right") -> dict[str, str]:
    return {"id": f"i{number}", "question": "What is X?", "reference": ODD, "answer": answer}


def verdict(number: int, path: str, body: dict[str, Any]) -> Response:
    asked = body["messages"][-1]["content"]
    says = "correct" if "Answer: right" in asked else "incorrect"
    return completion(json.dumps({"verdict": says, "reason": "same fact"}))


def judge(items: list[dict[str, str]], server: ScriptedServer, path: Path, parallel: int = 2) -> list[dict[str, Any]]:
    chat = endpoint(server.url, max_attempts=1, parallel_requests=parallel)
    return judge_answers(items, chat, path=path, seed=0)


def test_verdicts_follow_the_order_of_items(tmp_path: Path) -> None:
    items = [item(i, "right" if i % 2 else "wrong") for i in range(8)]
    with ScriptedServer(verdict) as server:
        rows = judge(items, server, tmp_path / "v.jsonl", parallel=4)
    assert [r["id"] for r in rows] == [i["id"] for i in items]
    assert [r["verdict"] for r in rows] == ["incorrect", "correct"] * 4
    assert ODD in server.requests[0].body["messages"][-1]["content"]
    assert all(r.body["temperature"] == 0 for r in server.requests)


def test_resume_asks_only_what_is_open(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    with ScriptedServer(verdict) as server:
        judge([item(0), item(1), item(2)], server, path)
        path.write_bytes(path.read_bytes()[:-9])  # A kill in the middle of the last line.
        kept = len(path.read_bytes().splitlines()) - 1
        before = len(server.requests)
        rows = judge([item(0), item(1), item(2)], server, path)
        assert len(server.requests) - before == 3 - kept == 1
        assert [r["verdict"] for r in rows] == ["correct"] * 3
        assert len([json.loads(line) for line in path.read_text("utf-8").splitlines()]) == 3
        changed = judge([item(0, "wrong")], server, path)
    assert changed[0]["verdict"] == "incorrect"
    with ScriptedServer(verdict) as other:  # another judge's verdicts are not mixed with these
        again = judge([item(0), item(1)], other, path)
        assert len(other.requests) == 2
    assert {row["judge"] for row in again} == {f"scripted-model at {other.url}/v1"}


def test_chatty_preamble_is_read_and_nonsense_is_unscored(tmp_path: Path) -> None:
    def script(number: int, path: str, body: dict[str, Any]) -> Response:
        if "Answer: odd" in body["messages"][-1]["content"]:
            return completion("I think that it is rather good!")
        return completion('Sure! Here it is:\n```json\n{"verdict": "correct", "reason": "same"}\n```')

    with ScriptedServer(script) as server:
        good, odd = judge([item(0), item(1, "odd")], server, tmp_path / "v.jsonl")
    assert good["verdict"] == "correct"
    assert odd["verdict"] is None
    assert "rather good" in odd["reason"]
    with ScriptedServer(verdict) as server:  # another time, of a judge that may be another one
        again = judge([item(0), item(1, "odd")], server, tmp_path / "v.jsonl")
        assert ["Answer: odd" in request.body["messages"][-1]["content"] for request in server.requests[-1:]] == [True]
    assert [row["verdict"] for row in again] == ["correct", "incorrect"]


def test_no_items_ask_nothing(tmp_path: Path) -> None:
    with ScriptedServer(verdict) as server:
        assert judge([], server, tmp_path / "v.jsonl") == []
    assert server.requests == []


def test_choice_is_even_and_repeatable() -> None:
    sizes = {"new_phrasing": 50, "reverse": 30, "unknown": 2, "general": 30}
    items = [Example(f"{b}{i}", b, asked("?"), "") for b, n in sizes.items() for i in range(n)]
    chosen = choose_items(items, 20, seed=0)
    assert {b: sum(c.startswith(b) for c in chosen) for b in sizes} == {
        "new_phrasing": 6, "reverse": 6, "unknown": 2, "general": 6,
    }  # fmt: skip
    assert sorted(choose_items(items[::-1], 20, seed=0)) == sorted(chosen)
    assert choose_items(items, 20, seed=1) != chosen
    assert choose_items(items, 0, seed=0) == []
    assert len(choose_items(items, 999, seed=0)) == len(items)


def test_what_one_model_leaves_undecided_is_judged_for_all(tmp_path: Path) -> None:
    test = [Example(f"i{n}", "facts", asked("?"), "Paris.", ("Paris",), "contains") for n in range(5)]
    answers = {
        "base": {item.id: "Paris" for item in test},
        "lora": {item.id: "Paris" for item in test} | {"i3": "Paris?"},
    }
    with ScriptedServer(verdict) as server:
        chat = endpoint(server.url, max_attempts=1, parallel_requests=1)
        rows = judge_sample(test, answers, chat, count=0, folder=tmp_path, seed=0)
    assert {name: [row["id"] for row in own] for name, own in rows.items()} == {"base": ["i3"], "lora": ["i3"]}


def test_summary_counts_unscored_apart() -> None:
    rows = [
        {"correct": True, "judge": "correct", "judge_reason": "same"},
        {"correct": False, "judge": "incorrect", "judge_reason": "other"},
        {"correct": True, "judge": None, "judge_reason": "unreadable"},
        {"correct": True, "judge": None, "judge_reason": None},
    ]
    assert summarise_judge(rows) == {"n": 3, "unscored": 1, "rate": 0.5, "kappa_with_rules": 1.0}
    assert summarise_judge([]) == {"n": 0, "unscored": 0, "rate": None, "kappa_with_rules": None}
