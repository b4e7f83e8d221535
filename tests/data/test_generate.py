"""Conversations written by a real client and a scripted server: rejections, resumes, failures, orders of arrival."""

import json
import random
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from chat_client import endpoint
from scripted_server import Response, ScriptedServer, completion, failure
from talker import Talker, reply

from helpers.config import load_config
from helpers.data.glossary.entries import Entry
from helpers.data.glossary.phrasings import fill_entry, skeleton
from helpers.data.glossary.writer import write_conversations
from helpers.data.languages.pack import load_pack
from helpers.errors import EndpointError
from helpers.files import read_jsonl

ENTRIES = [
    Entry("ABC", "ABC", "Alpha Beta Gamma"),
    Entry("XY (law)", "XY", "Xenial Yard", field="law", ambiguous=True),
    Entry("XY (health)", "XY", "Xylem Yield", field="health", ambiguous=True),
]
SETTINGS = load_config("smoke").dataset.model_copy(
    update={
        "forward_by_model": 3,
        "forward_by_bank": 2,
        "reverse_by_model": 2,
        "reverse_by_bank": 1,
        "attempts": 2,
        "temperature": 0.7,
    }
)


NOTHING = {"forward_by_model": 0, "forward_by_bank": 0, "reverse_by_model": 0, "reverse_by_bank": 0}


def without_writer(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two servers have two addresses."""
    return [{**record, "writer": ""} for record in records]


def write(
    path: Path, url: str, entries: list[Entry] = ENTRIES, parallel: int = 3, seed: int = 0, **settings: Any
) -> list[dict[str, Any]]:
    chat = endpoint(url, max_attempts=1, max_wait_s=1, parallel_requests=parallel)
    return list(write_conversations(entries, chat, SETTINGS.model_copy(update=settings), path=path, seed=seed))


def test_every_slot_is_filled_in_order(talker: Talker, tmp_path: Path) -> None:
    records = write(tmp_path / "c.jsonl", talker.url)
    assert len(records) == len({record["id"] for record in records}) == 3 * 8
    assert [record["entry"] for record in records] == [entry.id for entry in ENTRIES for _ in range(8)]
    assert Counter((r["kind"], r["origin"]) for r in records) == {
        ("forward", "model"): 9, ("forward", "bank"): 6, ("reverse", "model"): 6, ("reverse", "bank"): 3,
    }  # fmt: skip
    for entry in ENTRIES:
        questions = [record["question"] for record in records if record["entry"] == entry.id]
        assert len(set(questions)) == 8
        assert all(entry.field in question for question in questions)
    assert sorted(read_jsonl(tmp_path / "c.jsonl"), key=str) == sorted(records, key=str)
    named = f"scripted-model at {talker.url}/v1"
    assert all(record["writer"] == (named if record["origin"] == "model" else "") for record in records)


def test_questions_have_room_for_long_names_and_for_question_marks(tmp_path: Path) -> None:
    entries = [Entry("ABC", "ABC", "word " * 60 + "end"), Entry("WHY?", "WHY?", "What Have You?")]
    asked: list[dict[str, Any]] = []

    def script(_: int, __: str, body: dict[str, Any]) -> Response:
        asked.append(body)
        return completion(reply(body))

    with ScriptedServer(script) as server:
        records = write(tmp_path / "c.jsonl", server.url, entries)
    for body in asked:
        last = body["messages"][-1]["content"]
        assert body["max_tokens"] >= (40 + 150 if "word word" in last else 40)
        assert ("?" in body["stop"]) == ("?" not in last)
    assert not any(record["rejected"] for record in records)


def test_rejections_are_kept_and_the_bank_fills_in(tmp_path: Path) -> None:
    def script(_: int, __: str, body: dict[str, Any]) -> Response:
        return completion(reply(body) if body["seed"] % 3 else "Something else?")

    with ScriptedServer(script) as server:
        records = write(tmp_path / "c.jsonl", server.url)
    rejected = [attempt for record in records for attempt in record["rejected"]]
    filled = [r for r in records if r["origin"] == "bank" and r["rejected"]]
    assert filled and all(len(record["rejected"]) == 2 for record in filled)
    assert {attempt["reason"] for attempt in rejected} == {
        "question without the acronym",
        "question without the definition",
    }
    assert len(records) == 24


def test_a_question_asked_before_is_refused(tmp_path: Path) -> None:
    def script(_: int, __: str, body: dict[str, Any]) -> Response:
        return completion(reply(body | {"seed": "seven"}))

    with ScriptedServer(script) as server:
        records = write(tmp_path / "c.jsonl", server.url, ENTRIES[:1])
    assert sum(record["origin"] == "model" for record in records) == 2  # one of each kind
    assert {a["reason"] for record in records for a in record["rejected"]} == {"question asked before"}


def test_a_failing_endpoint_keeps_what_was_written_and_is_not_asked_again(talker: Talker, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    talker.fail_from, talker.fails_with = 11, failure(500, "worn out")
    with pytest.raises(EndpointError, match="worn out"):
        write(path, talker.url, parallel=1)
    kept = path.read_bytes()
    assert len(read_jsonl(path)) == 5 + 2  # all of the first entry, two of the second; a pair needs two requests
    path.write_bytes(kept + b'{"id": "forward/XY')  # as a kill leaves it
    talker.fail_from, asked = None, len(talker.requests)
    records = without_writer(write(path, talker.url))
    assert path.read_bytes().startswith(kept)
    assert len(talker.requests) - asked == 2 * (15 - 5)
    with Talker() as fresh:
        assert without_writer(write(tmp_path / "whole.jsonl", fresh.url)) == records
        assert without_writer(write(tmp_path / "whole.jsonl", fresh.url)) == records
        assert len(fresh.requests) == 2 * 15


def test_the_order_of_arrival_changes_nothing(tmp_path: Path) -> None:
    chooser = random.Random(1)

    def script(_: int, __: str, body: dict[str, Any]) -> Response:
        said = completion(reply(body))
        return Response(body=said.body, delay_s=chooser.random() / 20)

    results = []
    for parallel in (1, 2, 3):
        with ScriptedServer(script) as server:
            records = write(tmp_path / f"{parallel}.jsonl", server.url, parallel=parallel)
        results.append(json.dumps(without_writer(records)))
    assert len(set(results)) == 1


def test_a_bank_that_runs_out_starts_over(tmp_path: Path) -> None:
    records = write(tmp_path / "c.jsonl", "http://127.0.0.1:9", ENTRIES[:1], **{**NOTHING, "reverse_by_bank": 200})
    assert len(records) == 200
    assert all(record["question"] and record["answer"] for record in records)


def test_half_of_the_banks_questions_have_an_opening_and_none_comes_twice(tmp_path: Path) -> None:
    bank = load_pack()
    count = len(bank.train.forward)
    records = write(tmp_path / "c.jsonl", "http://127.0.0.1:9", ENTRIES[:1], **{**NOTHING, "forward_by_bank": count})
    opened = [r for r in records if r["question"].startswith(tuple(bank.openings))]
    assert 0.35 * count < len(opened) < 0.65 * count
    asked = [skeleton(re.sub("|".join(map(re.escape, bank.openings)), "", r["question"]), ENTRIES[0]) for r in records]
    assert len(set(asked)) > 0.95 * len({skeleton(fill_entry(p, ENTRIES[0]), ENTRIES[0]) for p in bank.train.forward})


@pytest.mark.parametrize(("finish_reason", "kept"), [("stop", True), ("length", False)])
def test_a_question_ended_by_the_server_gets_its_mark_back(tmp_path: Path, finish_reason: str, kept: bool) -> None:
    def script(_: int, __: str, body: dict[str, Any]) -> Response:
        said = reply(body)
        if "?" not in body.get("stop", []):
            return completion(said)
        return completion(said.partition("?")[0], finish_reason)  # a server that heeds `stop` leaves it out

    with ScriptedServer(script) as server:
        records = write(tmp_path / "c.jsonl", server.url, ENTRIES[:1])
    questions = [record["question"] for record in records if record["origin"] == "model"]
    assert bool(questions) == kept and all(question.endswith("?") for question in questions)
    if not kept:
        assert {a["reason"] for record in records for a in record["rejected"]} == {"question cut off"}


def test_a_french_glossary_is_asked_about_in_french(tmp_path: Path) -> None:
    pack = load_pack("fr")
    entries = [
        Entry("OCLET (culture)", "OCLET", "Office communal des lectures", field="culture", ambiguous=True, pack=pack),
        Entry("DOVÉ", "DOVÉ", "Délégation aux objets volés et égarés", pack=pack),
    ]
    prompts: list[list[dict[str, str]]] = []

    def script(_: int, __: str, body: dict[str, Any]) -> Response:
        prompts.append(body["messages"])
        last = body["messages"][-1]["content"]
        if " = " in last:
            asked, _, told = last.rpartition("\n")[2].removesuffix(".").partition(" = ")
            verb = "signifie" if "signifie" in body["messages"][2]["content"] else "s'abrège en"
            return completion(unicodedata.normalize("NFD", f"{asked} {verb} {told}."))
        kind = "sens" if "signifient" in body["messages"][0]["content"] else "sigle"
        return completion(f"Ticket {body['seed']}, quel est le {kind} : {last.partition(',')[0]} ?")

    with ScriptedServer(script) as server:
        records = write(tmp_path / "c.jsonl", server.url, entries)
    assert {message[0]["content"] for message in prompts} == {
        pack.writer.forward,
        pack.writer.reverse,
        pack.writer.answer,
    }
    assert Counter(r["origin"] for r in records) == {"model": 10, "bank": 6}
    own = {entry.id: entry for entry in entries}
    for record in records:
        entry = own[record["entry"]]
        right = entry.definition if record["kind"] == "forward" else entry.acronym
        assert right in record["answer"]  # NFC, as in the glossary
        assert entry.where in record["question"]
