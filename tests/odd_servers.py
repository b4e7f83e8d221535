"""Chat servers that answer well, each in its own odd way, or not at all; the ways were seen in public reports."""

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from scripted_server import MODEL, Response, completion, failure, models, web_page
from talker import reply

Body = dict[str, Any]
Oddity = Callable[[int, Body], Response]


def said(text: str, body: Body, **message: Any) -> Response:
    """A completion that heeds `stop` and the longest reply, four characters a token."""
    reason = "stop"
    for stop in body.get("stop") or []:
        text = text.partition(stop)[0]
    room = 4 * (body.get("max_tokens") or body.get("max_completion_tokens") or 1000)
    if len(text) > room:
        text, reason = text[:room], "length"
    choice = {"index": 0, "message": {"role": "assistant", "content": text} | message, "finish_reason": reason}
    return Response(body=json.dumps({"object": "chat.completion", "choices": [choice], "usage": None}))


def without(message: dict[str, Any], reason: str | None = "length") -> Response:
    return Response(
        body=json.dumps({"choices": [{"message": {"role": "assistant"} | message, "finish_reason": reason}]})
    )


def good(body: Body) -> str:
    """The talker's words; without a seed the request itself makes them differ."""
    return reply({"seed": abs(hash(str(body["messages"]))) % 10_000, **body})


def refusing(status: int, *fields: str, nested: bool = False) -> Oddity:
    """Refuses the first of `fields` that a request holds; `nested`, as Mistral and pydantic word it."""

    def script(number: int, body: Body) -> Response:
        found = next((name for name in fields if name in body), None)
        if found is None:
            return said(good(body), body)
        told: Any = f"Unsupported parameter: '{found}' is not supported with this model."
        if nested:
            told = {
                "detail": [{"type": "extra_forbidden", "loc": ["body", found], "msg": "Extra inputs not permitted"}]
            }
        return failure(status, told)

    return script


def no_system(status: int) -> Oddity:
    def script(number: int, body: Body) -> Response:
        if body["messages"][0]["role"] == "system":
            return failure(status, "System role not supported")
        whole = body["messages"][0]["content"]  # the talker looks for the system message's words
        told, _, first = whole.partition("\n\n")
        messages = [{"role": "system", "content": told}, {"role": "user", "content": first}, *body["messages"][1:]]
        return said(good(body | {"messages": messages}), body)

    return script


def streamed(number: int, body: Body) -> Response:
    pieces = [good(body)[:9], good(body)[9:]]
    events = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    lines = [": keep-alive", *(f"data: {json.dumps(event)}" for event in events), "data: [DONE]"]
    return Response(headers={"Content-Type": "text/event-stream"}, body="\n\n".join(lines) + "\n\n")


def each_fifth(response: Response) -> Oddity:
    return lambda number, body: response if number % 5 == 4 else said(good(body), body)


def filtered(number: int, body: Body) -> Response:
    if "BCD" in json.dumps(body["messages"]):
        return failure(400, "The prompt triggered the content management policy.", code="content_filter")
    return said(good(body), body)


def until_third(response: Callable[[], Response]) -> Oddity:
    return lambda number, body: response() if number < 3 else said(good(body), body)


def thinking(number: int, body: Body) -> Response:
    return said(f"<think>\n{'Let me think about this. ' * 20}\n</think>\n\n{good(body)}", body)


def apart(number: int, body: Body) -> Response:
    """Thoughts in a field of their own, which count as tokens too."""
    if body.get("max_tokens", 0) < 500:
        return without({"content": None, "reasoning_content": "Okay, the user wants"})
    return said(good(body), body, reasoning_content="Okay, the user wants")


def parts(number: int, body: Body) -> Response:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    return without({"content": [thought, {"type": "text", "text": good(body)}]}, "stop")


USABLE: dict[str, Oddity] = {
    "as it should": lambda number, body: said(good(body), body),
    "thoughts inline": thinking,
    "thoughts apart": apart,
    "thoughts opened by the template": lambda number, body: said(f"Hm.</think>{good(body)}", body),
    "blank lines first": lambda number, body: said(f"\n\n{good(body)}", body),
    "parts": parts,
    "no tokens, temperature, stop": refusing(400, "max_tokens", "temperature", "stop"),
    "no seed": refusing(422, "seed", nested=True),
    "no stream": refusing(400, "stream"),
    "no system message, 400": no_system(400),
    "no system message, 500": no_system(500),
    "a stream": streamed,
    "errors as success": each_fifth(Response(body='{"error": {"message": "Provider returned error", "code": 429}}')),
    "choices null at times": each_fifth(Response(body='{"object": "chat.completion", "choices": null}')),
    "no choice at times": each_fifth(Response(body='{"object": "chat.completion", "choices": []}')),
    "a web page at times": each_fifth(web_page()),
    "half a body at times": each_fifth(Response(body=completion("half").body[:30])),
    "a tool at times": each_fifth(without({"content": None, "tool_calls": [{"id": "a"}]}, "tool_calls")),
    "empty at times": each_fifth(completion("")),
    "null at times": each_fifth(completion(None, "content_filter")),
    "a filter": filtered,
    "loading": until_third(lambda: failure(503, "Loading model")),
    "too many, with a date": until_third(
        lambda: failure(429, "slow down", Retry_After=format_datetime(datetime.now(UTC) + timedelta(seconds=1), True))
    ),
    "eos_token": lambda number, body: without({"content": good(body)}, "eos_token"),
    "no reason": lambda number, body: without({"content": good(body)}, None),
    "blanks before the JSON": lambda number, body: Response(body="\n" * 30 + said(good(body), body).body),
}  # fmt: skip

USELESS: dict[str, Oddity] = {
    "content null": lambda number, body: without({"content": None, "reasoning_content": "Okay, the user wants"}),
    "content empty": lambda number, body: without({"content": "", "reasoning": "Okay, the user wants"}),
    "endless thoughts": lambda number, body: said("<think>" + "hm " * 9000, body),
    "tools": lambda number, body: without({"content": None, "tool_calls": [{"id": "a"}]}, "tool_calls"),
    "choices null": lambda number, body: Response(body='{"choices": null}'),
    "choices empty": lambda number, body: Response(body='{"choices": []}'),
    "other JSON": lambda number, body: Response(body='{"detail": "hello"}'),
    "everything is filtered": lambda number, body: failure(400, "Blocked by the content filter"),
    "web pages": lambda number, body: web_page(),
    "a refusal that names nothing": lambda number, body: failure(400, "Bad request"),
    "something else": lambda number, body: said("I am a teapot.", body),
}


def mixed(seed: int) -> Oddity:
    """Any of the usable ways, and now and then a useless one."""
    chooser = random.Random(seed)
    usable = [way for name, way in USABLE.items() if name not in ("loading", "too many, with a date")]
    return lambda number, body: chooser.choice(usable + list(USELESS.values())[:4])(number, body)


def listing(*names: str, only: str = MODEL) -> Callable[[int, str, Body], Response]:
    """Lists models, and knows only one of them."""

    def script(number: int, path: str, body: Body) -> Response:
        if path == "/v1/models" and names:
            return models(*names)
        if path != "/v1/chat/completions":
            return failure(404, "Not Found")
        return said("hello", body) if body["model"] == only else failure(404, f"model {body['model']} not found")

    return script
