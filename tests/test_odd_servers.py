"""Conversations and verdicts from servers that answer in odd ways: kept, or refused with a reason and a remedy."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from chat_client import ASK, KEY, OPTIONS, SCHEMA, VERDICT, endpoint, message_of
from odd_servers import USABLE, USELESS, Oddity, good, listing, mixed, said
from scripted_server import MODEL, Response, Script, ScriptedServer, completion, failure, models

from helpers.config import load_config
from helpers.data.glossary.entries import Entry
from helpers.data.glossary.writer import write_conversations
from helpers.errors import EndpointError
from helpers.files import read_jsonl

SETTINGS = load_config("smoke").dataset.model_copy(
    update={"forward_by_model": 2, "forward_by_bank": 1, "reverse_by_model": 1, "reverse_by_bank": 1, "attempts": 4}
)
TWELVE = [Entry(name, name, f"{name[0]}lpha {name[1]}eta {name[2]}amma") for name in map("".join, zip(
    "ABCDEFGHIJKL", "BCDEFGHIJKLM", "CDEFGHIJKLMN", strict=True))]  # fmt: skip


def chat_only(oddity: Oddity) -> Script:
    return lambda number, path, body: oddity(number, body)


def write(server: ScriptedServer, path: Path, entries: list[Entry], **settings: Any) -> list[dict[str, Any]]:
    chat = endpoint(server.url, max_wait_s=20, max_attempts=5, **settings)
    chat.probe()
    return list(write_conversations(entries, chat, SETTINGS, path=path, seed=0))


@pytest.mark.parametrize("name", USABLE)
def test_usable_replies_are_used(name: str, tmp_path: Path) -> None:
    with ScriptedServer(chat_only(USABLE[name])) as server:
        made = write(server, tmp_path / "c.jsonl", TWELVE)
    assert len(made) == len({row["id"] for row in made}) == 12 * 5
    assert sorted(read_jsonl(tmp_path / "c.jsonl"), key=str) == sorted(made, key=str)
    by_model = [row for row in made if row["origin"] == "model"]
    assert len(by_model) >= 30 - 3 * (name == "a filter"), [row["rejected"] for row in made if row["rejected"]][:3]
    assert all(attempt["reason"] for row in made for attempt in row["rejected"])
    assert len(server.requests) < 2 * 36 + 60


@pytest.mark.parametrize("name", USELESS)
def test_useless_replies_stop_after_a_dozen(name: str, tmp_path: Path) -> None:
    with ScriptedServer(chat_only(USELESS[name])) as server:
        message = message_of(lambda: write(server, tmp_path / "c.jsonl", TWELVE), within_s=20)
    assert "12" in message and "endpoint.model" in message and len(server.requests) < 60
    kept = read_jsonl(tmp_path / "c.jsonl") if (tmp_path / "c.jsonl").exists() else []
    assert all(len(row["rejected"]) == SETTINGS.attempts for row in kept)  # the bank fills in after all attempts alone


def test_a_mix_of_everything_loses_nothing(tmp_path: Path) -> None:
    with ScriptedServer(chat_only(mixed(0))) as server:
        made = write(server, tmp_path / "c.jsonl", [Entry(f"{e.id}{n}", f"{e.acronym}{n}", f"{e.definition} {n}")
                                                    for n in range(5) for e in TWELVE])  # fmt: skip
    assert len(made) == len({row["id"] for row in made}) == 60 * 5
    assert all(row["question"] and row["answer"] for row in made)


def test_what_was_found_out_is_told_once_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(chat_only(USABLE["no tokens, temperature, stop"])) as server:
        chat = endpoint(server.url)
        found = chat.probe()
        for _ in range(2):
            chat.complete(ASK, **OPTIONS, stop=["\n"])
    assert found["refused"] == ["max_tokens", "temperature", "stop"] and not found["thinks"]
    assert set(server.requests[-1].body) == {"messages", "model", "max_completion_tokens", "seed", "stream"}
    assert capsys.readouterr().out.count("go without temperature") == 1


def test_a_prompt_that_is_too_long_costs_no_field() -> None:
    with ScriptedServer(failure(400, "max_tokens is too large: the context length is 1024 tokens")) as server:
        chat = endpoint(server.url)
        message_of(lambda: chat.complete(ASK, **OPTIONS))
    assert not chat.record()["refused"] and len(server.requests) == 1


def test_further_fields_are_sent() -> None:
    with ScriptedServer(lambda number, path, body: said("yes", body)) as server:
        endpoint(server.url, extra={"reasoning_effort": "low"}).complete(ASK, **OPTIONS)
    assert server.requests[0].body["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    ("script", "wanted", "found"),
    [
        (listing(), MODEL, MODEL),
        (listing("text-embedding-small", MODEL), None, MODEL),
        (listing("models/fake", only="models/fake"), "fake", "models/fake"),
        (listing("fake:latest", only="fake:latest"), "fake", "fake:latest"),
        (listing("others", only="unlisted"), "unlisted", "unlisted"),
    ],
)
def test_the_model_is_found(script: Script, wanted: str | None, found: str) -> None:
    with ScriptedServer(script, script_models=True) as server:
        for address in (server.url, f"{server.url}/v1/chat/completions"):
            chat = endpoint(server.url, model=wanted, address=address)
            assert chat.check() == found and chat.complete(ASK, **OPTIONS).text == "hello"


def test_requests_slow_down_where_a_server_asks_for_it() -> None:
    def script(number: int, path: str, body: dict[str, Any]) -> Response:
        return failure(429, Retry_After="0") if number == 0 else said("yes", body)

    with ScriptedServer(script) as server:
        chat = endpoint(server.url, parallel_requests=4)
        chat.complete(ASK, **OPTIONS)
        assert chat.record()["parallel_requests"] == 2
        for _ in range(45):
            chat.complete(ASK, **OPTIONS)
        assert chat.record()["parallel_requests"] == 4


@pytest.mark.parametrize(
    "text",
    [
        '{"verdict": "CORRECT", "reason": "' + "because " * 40 + '"}',
        '{"verdict": "incorrect", "reason": "a draft"} No, wait. {"verdict": "Correct", "reason": "the same"}',
        r'{"verdict": "correct", "reason": "the path C:\users agrees"}',
        '<think>{"verdict": "incorrect", "reason": ""}</think>\n{"verdict": "correct",\n"reason": "two\nlines"}',
    ],
)
def test_odd_verdicts_are_read(text: str) -> None:
    with ScriptedServer(lambda number, path, body: said(text, {})) as server:
        assert endpoint(server.url).complete_json(ASK, schema=SCHEMA, **OPTIONS)["verdict"] == "correct"


def test_a_server_that_fails_at_formats_is_asked_in_words() -> None:
    def script(number: int, path: str, body: dict[str, Any]) -> Response:
        return failure(500, "failed to parse grammar") if "response_format" in body else said(json.dumps(VERDICT), {})

    with ScriptedServer(script) as server:
        assert endpoint(server.url).complete_json(ASK, schema=SCHEMA, **OPTIONS) == VERDICT


@pytest.mark.parametrize(
    ("status", "detail", "remedy"),
    [
        (403, "Use of API key is not enabled in the environment.", "takes no API keys"),
        (403, "API key not allowed to access this endpoint", "restricted to other paths"),
        (403, "You do not have permission to access this resource.", "may not use this"),
        (
            401,
            "Your session has expired or the token is invalid.",
            "has expired, or the server takes no API keys; set OPENAI_API_KEY or OWUI_TOKEN",
        ),
        (500, "Open WebUI: Server Connection Error", "the model server behind it does not answer"),
    ],
)
def test_each_refusal_has_its_own_remedy(status: int, detail: str, remedy: str) -> None:
    with ScriptedServer(Response(status, body=json.dumps({"detail": detail})), script_models=True) as server:
        assert remedy in message_of(endpoint(server.url).check, within_s=6, kind=EndpointError)


@pytest.mark.parametrize(
    "later",
    [
        failure(400, "Your credit balance is too low"),
        failure(400, "No models loaded"),
        Response(headers={"Content-Type": "text/html"}, body="<html>Sign in</html>"),
        completion(""),
    ],
)
def test_a_server_that_turns_useless_half_way_is_left(later: Response, tmp_path: Path) -> None:
    with ScriptedServer(lambda number, path, body: said(good(body), body) if number < 25 else later) as server:
        message = message_of(lambda: write(server, tmp_path / "c.jsonl", TWELVE), within_s=20)
    assert "None of the last" in message and len(server.requests) < 25 + 60
    kept = read_jsonl(tmp_path / "c.jsonl")
    assert sum(row["origin"] == "model" for row in kept) >= 5


@pytest.mark.parametrize(
    ("status", "detail", "field"),
    [
        (503, "GPU temperature too high", ""),
        (500, "stream error: stream ID 5", ""),
        (401, "came to a stop", ""),
        (400, "Bad. Received params={'max_tokens': 60, 'seed': 1}", ""),
        (422, [{"type": "extra_forbidden", "loc": ["body", "seed"], "input": {"temperature": 0}}], "seed"),
        (400, "Temperature must be 1", "temperature"),
        (500, "unsupported parameter: seed", "seed"),
    ],
)
def test_a_word_in_another_sense_costs_no_field(status: int, detail: Any, field: str) -> None:
    def script(number: int, path: str, body: dict[str, Any]) -> Response:
        return Response(status, body=json.dumps({"detail": detail})) if number == 0 else said("yes", body)

    with ScriptedServer(script) as server:
        chat = endpoint(server.url)
        with suppress(EndpointError):
            chat.complete(ASK, **OPTIONS)
    assert chat.record()["refused"] == ([field] if field else [])


def test_thoughts_get_no_more_room_than_there_is() -> None:
    def script(number: int, path: str, body: dict[str, Any]) -> Response:
        if body["max_tokens"] > 1000:
            return failure(400, "'max_tokens' is too large: 2108. This model's maximum context length is 1024 tokens")
        return said("yes", body, reasoning_content="Hm.")

    with ScriptedServer(script) as server:
        chat = endpoint(server.url)
        assert [chat.complete(ASK, **OPTIONS).text for _ in range(2)] == ["yes", "yes"]
    assert server.requests[-1].body["max_tokens"] == 60 + 512


def test_requests_refused_together_halve_the_room_once() -> None:
    together = Barrier(4)

    def script(number: int, path: str, body: dict[str, Any]) -> Response:
        if number > 0 and body["max_tokens"] > 2000:
            together.wait(5)
            return failure(400, "'max_tokens' is too large: 2108. This model's maximum context length is 2000 tokens")
        return said("yes", body, reasoning_content="Hm.")

    with ScriptedServer(script) as server, ThreadPoolExecutor(4) as pool:
        chat = endpoint(server.url, parallel_requests=4)
        chat.complete(ASK, **OPTIONS)
        assert [reply.text for reply in pool.map(lambda _: chat.complete(ASK, **OPTIONS), range(4))] == ["yes"] * 4
    assert [request.body["max_tokens"] for request in server.requests[-4:]] == [60 + 1024] * 4


@pytest.mark.parametrize(
    "response",
    [
        said("cut \ud83d", {}),
        Response(body=json.dumps({"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": "12"}})),
        Response(body="\ufeff" + said("a", {}).body),
        *(
            Response(headers={"Content-Type": "text/event-stream"}, body=f"data: {event}\n\ndata: [DONE]\n\n")
            for event in ('{"choices":[null]}', '{"choices":{"a":1}}', '{"choices":[{"delta":"Hi"}]}', "1")
        ),
        Response(headers={"Content-Type": "application/json; charset=hex"}, body=said("a", {}).body),
        failure(429, Retry_After="Fri, 31 Dec 9999 23:59:59 -1200"),
    ],
)
def test_odd_bodies_and_headers_end_in_a_reply_or_one_sentence(response: Response, tmp_path: Path) -> None:
    with ScriptedServer(response) as server:
        chat = endpoint(server.url, max_attempts=1)
        try:
            text = chat.complete(ASK, **OPTIONS).text
        except EndpointError as error:
            text = str(error)
    assert text and chat.usage["prompt_tokens"] == 0
    (tmp_path / "text").write_text(text, "utf-8")


def test_a_stream_without_its_end_is_cut() -> None:
    event = json.dumps({"choices": [{"delta": {"content": "Could you\u2028spell"}}]}, ensure_ascii=False)
    with ScriptedServer(Response(headers={"Content-Type": "text/event-stream"}, body=f"data: {event}\n\n")) as server:
        reply = endpoint(server.url).complete(ASK, **OPTIONS)
    assert (reply.text, reply.finish_reason) == ("Could you\u2028spell", "length")


def test_a_key_in_a_reply_is_not_kept() -> None:
    with ScriptedServer(lambda number, path, body: said(f"Incorrect API key {KEY}.", body)) as server:
        assert endpoint(server.url).complete(ASK, **OPTIONS).text == "Incorrect API key [API key]."


def listing_only(names: list[str], refusal: Response | None) -> Script:
    def script(number: int, path: str, body: dict[str, Any]) -> Response:
        if path == "/v1/models":
            return models(*names) if names else failure(403, "Missing scopes: api.model.read")
        return refusal or said("hello", body)

    return script


@pytest.mark.parametrize(
    ("script", "model", "expected"),
    [
        (listing_only(["llama3:70b", "llama3:latest"], None), "llama3", "llama3:latest"),
        (
            listing_only(["evil/gpt", "openai/gpt"], failure(404, "model gpt not found")),
            "gpt",
            "such as evil/gpt, openai",
        ),
        (listing_only([], None), MODEL, MODEL),
        (listing_only(["other"], failure(402, "Insufficient credits")), "auto", "no credit left"),
        (listing_only(["other"], failure(401, "wrong key")), "auto", "refuses the API key"),
    ],
)
def test_what_stands_in_the_way_of_a_model_is_named(script: Script, model: str, expected: str) -> None:
    with ScriptedServer(script, script_models=True) as server:
        chat = endpoint(server.url, model=model)
        try:
            found = chat.check()
        except EndpointError as error:
            found = str(error)
    assert expected in found


def test_an_address_with_a_query_and_a_redirect() -> None:
    def script(number: int, path: str, body: dict[str, Any]) -> Response:
        if path.startswith("/old"):
            return Response(301, {"Location": "https://new.example/v1/models?key=s"}, "")
        return models() if path.startswith("/v1/models?") else said("hello", body)

    with ScriptedServer(script, script_models=True) as server:
        chat = endpoint(server.url, address=f"{server.url}/v1?api-version=1")
        assert chat.check() == MODEL and chat.complete(ASK, **OPTIONS).text == "hello"
        assert server.requests[-1].path == "/v1/chat/completions?api-version=1"
        moved = endpoint(server.url, address=f"{server.url}/old", model=None)
        assert "moved to https://new.example/v1/models; write that address" in message_of(moved.check)


@pytest.mark.parametrize(
    ("response", "told"),
    [
        (Response(302, {"Location": "https://sso.example/login"}, ""), "wants a login in a browser"),
        (Response(301, {}, ""), "moved to an address that it does not name"),
        (failure(400, "API key not valid. Please pass a valid API key."), "refuses the API key"),
        (Response(400, {}, '[{"error": {"code": 400, "message": "API key not valid."}}]'), "refuses the API key"),
        (
            Response(403, {}, "<!DOCTYPE html><title>Attention Required! | Cloudflare</title>"),
            "a firewall or proxy in front",
        ),
        (failure(404, "The model tiny has been deprecated."), "does not offer the model any more"),
        (failure(400, "The parameter max_tokens of your request is deprecated."), "it rejects the request"),
        (Response(301, {"Location": "https://h.example/auth/v1"}, ""), "moved to https://h.example/auth/v1"),
        (failure(402, "Insufficient credits."), "no credit left"),
        (failure(402, "Payment required. Please try again after adding credit."), "no credit left"),
        (failure(403, "You have insufficient permissions for this operation."), "the account may not use this"),
    ],
)
def test_a_refusal_comes_with_its_own_remedy(response: Response, told: str) -> None:
    with ScriptedServer(lambda number, path, body: response) as server:
        assert told in message_of(lambda: endpoint(server.url).complete(ASK, **OPTIONS))


@pytest.mark.parametrize("told", ["Resource has been exhausted (e.g. check quota).", "Insufficient capacity."])
def test_a_limit_that_passes_is_waited_for(told: str) -> None:
    busy = failure(429, told, Retry_After="0")
    with ScriptedServer(lambda number, path, body: said("there", body) if number else busy) as server:
        assert endpoint(server.url).complete(ASK, **OPTIONS).text == "there"


def test_json_is_utf_8_whatever_a_header_says() -> None:
    def script(number: int, path: str, body: dict[str, Any]) -> Response:
        reply = said("Le dossier nº 3 évoque DOVAP.", body)
        return Response(reply.status, {"Content-Type": "application/json; charset=iso-8859-1"}, reply.body)

    with ScriptedServer(script) as server:
        assert endpoint(server.url).complete(ASK, **OPTIONS).text == "Le dossier nº 3 évoque DOVAP."
