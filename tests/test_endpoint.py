"""The real client against a real server that misbehaves."""

import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from chat_client import ASK, KEY, OPTIONS, SCHEMA, VERDICT, configured, endpoint, message_of
from pydantic import SecretStr
from scripted_server import (
    MODEL,
    Response,
    Script,
    ScriptedServer,
    completion,
    failure,
    models,
    web_page,
)

from helpers.endpoint.chat import ChatEndpoint, open_endpoint
from helpers.errors import ConfigError, EndpointError, UnreadableReply
from helpers.server import Server


def failing(script: Script | Response, within_s: float = 3, **settings: Any) -> tuple[str, int]:
    """Complete once against a script; return the message and how many requests were made."""
    with ScriptedServer(script) as server:
        chat = endpoint(server.url, **settings)
        message = message_of(lambda: chat.complete(ASK, **OPTIONS), within_s)
        assert server.url in message
        return message, len(server.requests)


def test_a_good_reply_is_passed_on_whole() -> None:
    with ScriptedServer(completion(" WHO is ... ", "length")) as server:
        chat = endpoint(server.url)
        reply = chat.complete(ASK, **OPTIONS, stop=["\n"])
    assert (reply.text, reply.finish_reason, chat.usage["completion_tokens"]) == ("WHO is ... ", "length", 7)
    request = server.requests[0]
    assert request.path == "/v1/chat/completions" and request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {"model": MODEL, "messages": ASK, "stop": ["\n"], "stream": False, **OPTIONS}


def test_a_server_that_is_down_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        message = message_of(endpoint(url).check)
    assert url in message and "cannot be reached" in message and "refused" in message


def test_a_server_that_was_there_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(completion("before")) as server:
        chat = endpoint(server.url, max_wait_s=60)
        assert chat.complete(ASK, **OPTIONS).text == "before"
    port, later = int(server.url.rpartition(":")[2]), list[ScriptedServer]()

    def answers(number: int, path: str, body: dict[str, Any]) -> Response:
        return completion("after") if number else failure(502)  # its tries begin when it is back

    back = threading.Timer(8, lambda: later.append(ScriptedServer(answers, port=port).__enter__()))
    back.start()  # later than four tries take
    assert chat.complete(ASK, **OPTIONS).text == "after"
    later[0].__exit__(None, None, None)
    assert capsys.readouterr().out.count("it is down; waiting for up to 60 s") == 1
    chat = endpoint(server.url, max_wait_s=60)
    assert "cannot be reached" in message_of(chat.check, within_s=8)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_retried_and_an_echoed_one_is_redacted(status: int) -> None:
    # The echo lies across the place where long details are cut, where half a key would remain.
    message, requests = failing(failure(status, "x" * 180 + f" Incorrect API key: {KEY}"))
    assert str(status) in message and "OPENAI_API_KEY or OWUI_TOKEN" in message and requests == 1
    assert "sk-very" not in message


def test_a_key_echoed_in_a_reply_is_redacted() -> None:
    with ScriptedServer(completion(f"Your key is {KEY}")) as server:
        chat = endpoint(server.url)
        message = message_of(lambda: chat.complete_json(ASK, schema=SCHEMA, **OPTIONS), kind=UnreadableReply)
    assert "[API key]" in message


@pytest.mark.parametrize("status", [400, 404])
def test_an_unknown_model_is_told_from_an_unknown_path(status: int) -> None:
    message, requests = failing(failure(status, "The model `gpt-9` does not exist"))
    assert "set endpoint.model" in message and requests == 1
    message, _ = failing(failure(404, "Not Found"))
    assert "nothing is served at this path" in message and "/v1" in message


def test_check_lists_what_is_offered() -> None:
    def script(number: int, path: str, body: dict[str, Any]) -> Response:
        return models(*"abcdefg") if path.endswith("/models") else failure(404, f"model {body['model']} not found")

    with ScriptedServer(script, script_models=True) as server:
        message = message_of(endpoint(server.url, model="mine").check)
        assert "'mine'" in message and "such as a, b, c, d, e." in message
        assert endpoint(server.url, model="g").check() == "g"
        assert endpoint(server.url, model=None).check() == "a"
    with ScriptedServer(Response(body='{"data": []}'), script_models=True) as server:
        assert "lists no model" in message_of(endpoint(server.url, model=None).check)


def test_a_rate_limit_is_waited_out() -> None:
    def script(number: int, path: str, body: dict[str, Any]) -> Response:
        return failure(429, "slow down", Retry_After="1") if number == 0 else completion("there")

    start = time.monotonic()
    with ScriptedServer(script) as server:
        assert endpoint(server.url).complete(ASK, **OPTIONS).text == "there"
    assert 1 <= time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("retry_after", "expected_requests"),
    [("1", 3), ("60", 1), ("100000", 1), ("inf", 1), ("Fri, 01 Jan 2100 00:00:00 GMT", 1), ("nonsense", 3)],
)
def test_an_endless_rate_limit_ends_within_the_time_allowed(retry_after: str, expected_requests: int) -> None:
    message, requests = failing(
        failure(429, "slow down", Retry_After=retry_after), within_s=4, max_attempts=50, max_wait_s=2.5
    )
    assert "429 (slow down)" in message and "run again later" in message and requests == expected_requests


def test_an_endless_rate_limit_ends_after_the_attempts_allowed() -> None:
    message, requests = failing(failure(429, Retry_After_ms="50"), max_attempts=2)
    assert "2 attempts" in message and requests == 2


def test_a_failing_server_is_retried_then_given_up() -> None:
    message, requests = failing(failure(503, "overloaded"))
    assert "503 (overloaded)" in message and "look at its log" in message and requests == 2


def test_a_server_that_loads_its_model_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    def script(number: int, path: str, body: dict[str, Any]) -> Response:
        return failure(503, "Loading model") if number < 3 else completion("there")

    with ScriptedServer(script) as server:
        assert endpoint(server.url, max_attempts=1, max_wait_s=0).complete(ASK, **OPTIONS).text == "there"
    assert "it loads its model; waiting for up to 5 s" in capsys.readouterr().out
    message, requests = failing(failure(503, "Model is loading"), loading_s=1.2, max_wait_s=0)
    assert "not loaded after 1.2 s" in message and "endpoint.loading_s" in message and requests > 1


def test_a_hang_ends_at_the_timeout_and_is_not_retried_past_the_time_allowed() -> None:
    hang = Response(delay_s=30)
    message, requests = failing(hang, timeout_s=0.4, max_attempts=2)
    assert "did not answer within 0.4 s" in message and "endpoint.timeout_s" in message and requests == 2
    _, requests = failing(hang, timeout_s=0.6, max_attempts=50, max_wait_s=0.5)
    assert requests == 1


def test_a_broken_off_body_is_no_reply() -> None:
    message, requests = failing(Response(body=completion("half").body, truncate=True))
    assert "broke off its answer" in message and requests == 2


@pytest.mark.parametrize("body", [completion("half").body[:40], "", "[]", "null", "[" * 100_000])
def test_a_body_that_is_no_json_object_is_no_reply(body: str) -> None:
    message, _ = failing(Response(body=body))
    assert "no whole JSON object" in message


def test_an_error_sent_as_success_is_no_reply() -> None:
    message, _ = failing(Response(body='{"detail": "the model crashed"}'))
    assert "no chat completion" in message and "the model crashed" in message


@pytest.mark.parametrize("status", [200, 404, 405])
def test_a_web_page_names_the_paths_to_try(status: int) -> None:
    with ScriptedServer(web_page(status), script_models=True) as server:
        message = message_of(endpoint(server.url).check)
    tried = [f"{server.url}{end}" for end in ("/api", "/api/v1", "/openai/v1")]
    assert "web page" in message and f"No other address answers either ({', '.join(tried)}); copy it again" in message
    assert "<" not in message


def test_a_reply_without_text_can_be_marked_unscored() -> None:
    with ScriptedServer(completion(None, "content_filter")) as server:
        chat = endpoint(server.url)
        assert "filter blocked the text" in message_of(lambda: chat.complete(ASK, **OPTIONS), kind=UnreadableReply)


def formats_asked(server: ScriptedServer) -> list[str]:
    return [request.body.get("response_format", {}).get("type", "prompt") for request in server.requests]


def json_script(supported: str, rejected: int | None, otherwise: str = "Well, yes.") -> Script:
    """A server that knows one format, and rejects the others (with a status) or ignores them."""

    def script(number: int, path: str, body: dict[str, Any]) -> Response:
        asked = body.get("response_format", {}).get("type", "prompt")
        if asked == supported:
            noise = "" if supported != "prompt" else "<think>{}</think> I {think} so:\n```json\n"
            return completion(f"{noise}{json.dumps(VERDICT)}{noise and ' Done. {}'}")
        return failure(rejected, "unknown format") if rejected else completion(otherwise)

    return script


@pytest.mark.parametrize("rejected", [None, 400, 422, 501])
@pytest.mark.parametrize("supported", ["json_schema", "json_object", "prompt"])
def test_json_falls_back_once_and_remembers(supported: str, rejected: int | None) -> None:
    with ScriptedServer(json_script(supported, rejected)) as server:
        chat = endpoint(server.url)
        for _ in range(2):
            assert chat.complete_json(ASK, schema=SCHEMA, **OPTIONS) == VERDICT
    order = ["json_schema", "json_object", "prompt"]
    assert formats_asked(server) == [*order[: order.index(supported) + 1], supported]
    prompt = server.requests[-1].body["messages"][-1]["content"]
    assert ('"enum": ["correct", "incorrect"]' in prompt) == (supported != "json_schema")
    assert ASK[-1]["content"] == "Is WHO the World Health Organization?"  # The caller's messages stay.


def test_json_is_probed_by_one_thread_while_others_wait() -> None:
    with ScriptedServer(json_script("prompt", 400)) as server, ThreadPoolExecutor(6) as pool:
        chat = endpoint(server.url)
        found = list(pool.map(lambda _: chat.complete_json(ASK, schema=SCHEMA, **OPTIONS), range(6)))
    assert found == [VERDICT] * 6
    assert sorted(formats_asked(server)) == ["json_object", "json_schema"] + ["prompt"] * 6


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("It is correct, I would say.", "no JSON object; it starts: 'It is correct"),
        ('{"verdict": "maybe", "reason": ""}', "reply.verdict must be one of"),
        ('{"verdict": "correct"}', "reply must contain ['reason']"),
        ('{"verdict": "correct", "rea', "no JSON object"),
        ("{" * 5000, "no JSON object"),
        ("[" * 5 + '{"a":' * 3000, "no JSON object"),
    ],
)
def test_an_unreadable_reply_says_why_and_how_it_starts(text: str, reason: str) -> None:
    with ScriptedServer(completion(text)) as server:
        chat = endpoint(server.url)
        message = message_of(lambda: chat.complete_json(ASK, schema=SCHEMA, **OPTIONS), kind=UnreadableReply)
    assert reason in message and text[:10] in message and len(message) < 600


def test_a_reply_cut_off_does_not_cost_the_server_its_format() -> None:
    def script(number: int, path: str, body: dict[str, Any]) -> Response:
        return completion('{"verdict": "corr', "length") if number == 0 else completion(json.dumps(VERDICT))

    with ScriptedServer(script) as server:
        chat = endpoint(server.url)
        message = message_of(lambda: chat.complete_json(ASK, schema=SCHEMA, **OPTIONS), kind=UnreadableReply)
        assert "cut off at max_tokens" in message
        assert chat.complete_json(ASK, schema=SCHEMA, **OPTIONS) == VERDICT
    assert formats_asked(server) == ["json_schema", "json_schema"]


def test_open_webui_is_reached_under_its_own_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(number: int, path: str, body: dict[str, Any]) -> Response:
        known = {"/api/models": models("llama", MODEL), "/api/chat/completions": completion("hello")}
        return known.get(path, web_page())

    with ScriptedServer(script, script_models=True) as server:
        for name, value in {"URL": f"{server.url}/", "TOKEN": KEY, "FAV_MODEL": MODEL}.items():
            monkeypatch.setenv(f"OWUI_{name}", value)
        with open_endpoint(configured()) as chat:
            assert chat.complete(ASK, **OPTIONS).text == "hello"
        paths = [request.path for request in server.requests]
        assert paths == ["/api/models", "/api/chat/completions"]
        assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in server.requests)
        # The commonest mistake: the address of the page a browser shows.
        with open_endpoint(configured(provider="openai", base_url=f"{server.url}/c/0a1b")) as chat:
            assert chat.complete(ASK, **OPTIONS).text == "hello"


def test_an_address_or_key_that_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="expected one such as http"):
        ChatEndpoint(Server("ftp://localhost:8080/v1", None, None), configured())
    with pytest.raises(ConfigError, match="copy it into") as caught:
        ChatEndpoint(Server("http://localhost/v1", None, SecretStr(f"{KEY}\u201d")), configured())
    assert KEY not in str(caught.value)


def test_a_loopback_server_is_reached_in_spite_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with ScriptedServer(completion("direct")) as server:
        assert endpoint(server.url).complete(ASK, **OPTIONS).text == "direct"


@pytest.mark.parametrize(
    "address",
    [
        "http://me:hunter2@host:1/v1",
        "http://me:hun/t@r2@host:1/v1",
        "me:hunter2@host:1/v1",
        "http://host:1/v1?key=hunter2",
    ],
)
def test_a_secret_in_the_address_is_not_shown(address: str) -> None:
    server = Server(address, "m", None)
    assert server.name() in ("m at http://host:1/v1", "m at host:1/v1") and server.is_called(server.name())
    with pytest.raises((ConfigError, EndpointError)) as caught:
        ChatEndpoint(server, configured(max_attempts=1, timeout_s=0.2)).check()
    assert not re.search("hun|t@r2", str(caught.value))


@pytest.mark.parametrize("scheme", ["socks", "http"])
def test_a_proxy_is_used_or_refused_in_one_sentence(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    with ScriptedServer(completion("through the proxy")) as proxy:
        monkeypatch.setenv("all_proxy", proxy.url.replace("http:", f"{scheme}:"))
        settings, server = configured(max_attempts=1), Server("http://chat.example/v1", MODEL, None)
        if scheme == "socks":
            with pytest.raises(ConfigError, match="ALL_PROXY=socks5://"):
                ChatEndpoint(server, settings)
        else:
            assert ChatEndpoint(server, settings).complete(ASK, **OPTIONS).text == "through the proxy"
            assert proxy.requests[0].path == "http://chat.example/v1/chat/completions"
