"""Read what a chat server sent: the words meant for the reader, or why there are none."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Self

import fastjsonschema

_OPENS = re.compile(r"\s*(?:<(?:think|thinking|thought|reasoning)>|\[THINK\]|<\|channel\|>analysis)")
_CLOSES = re.compile(r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]|<\|channel\|>final<\|message\|>")
_ESCAPE = re.compile(r"\\(?:([\"\\/bfnrt]|u[0-9a-fA-F]{4}))?")
_AT_LENGTH = ("length", "max_tokens", "model_length", "max_output_tokens")
_OTHER_ENDS = ("content_filter", "tool_calls", "function_call", "error")


@dataclass(frozen=True)
class Reply:
    """What the model wrote, without its thoughts.

    `finish_reason` is `length` when the reply was cut off at `max_tokens`, `stop` when it ended by itself, or why there
    is no text. `thinks`: thoughts came first. `late`: blank lines or thoughts did, so that a `stop` may end the reply
    before its first word. `fault`: why there is no text, in a sentence.
    """

    text: str
    finish_reason: str
    thinks: bool = False
    late: bool = False
    fault: str = ""

    def cut_at(self, stops: Sequence[str]) -> Self:
        """The reply up to the first of `stops`, as a server cuts it that heeds them."""
        if not stops:
            return self
        text, *rest = re.split("|".join(map(re.escape, stops)), self.text.lstrip(), maxsplit=1)
        return replace(self, text=text, finish_reason="stop" if rest else self.finish_reason)


def decoded(text: str) -> Any:
    """The JSON of a response, or what a stream of events amounts to; None where it is neither."""
    text = text.lstrip("\ufeff")
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    lines = [line.removeprefix("data:").strip() for line in text.split("\n") if line.startswith("data:")]
    events = [event for event in map(decoded, lines) if isinstance(event, dict)]
    return _gathered(events, "[DONE]" in lines) if events else None


def _gathered(events: Sequence[dict[str, Any]], whole: bool) -> dict[str, Any]:
    """One completion out of the pieces of a stream; without its end it counts as cut off."""
    text, reason = "", None
    for event in events:
        if event.get("error"):
            return event
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        piece = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
        text += _text(piece.get("content")) if isinstance(piece, dict) else ""
        reason = choice.get("finish_reason") or reason
    return {"choices": [{"message": {"content": text}, "finish_reason": reason or ("stop" if whole else "length")}]}


def read_reply(body: Mapping[str, Any]) -> Reply | None:
    """The reply in the body of a chat completion; None where the body is none."""
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return Reply("", "stop", fault="The reply has no choices.") if "choices" in body else None
    choice: dict[str, Any] = choices[0]
    message = choice.get("message")
    message = message if isinstance(message, dict) else {"content": choice.get("text")}
    said = str(choice.get("finish_reason") or "stop")
    reason = "length" if said.lower() in _AT_LENGTH else said.lower() if said.lower() in _OTHER_ENDS else "stop"
    raw = _text(message.get("content"))
    apart = any(message.get(name) for name in ("reasoning_content", "reasoning", "thinking"))
    *thoughts, text = _CLOSES.split(raw)
    opened = not thoughts and _OPENS.match(raw) is not None
    reply = Reply(
        "" if opened else text.lstrip() if thoughts else text,
        reason,
        thinks=bool(apart or thoughts or opened),
        late=bool(thoughts or opened or raw[:1].isspace()),
    )
    if reply.text.strip():
        return reply
    if message.get("tool_calls"):
        fault = "The model called a tool in place of writing."
    elif reason == "content_filter" or message.get("refusal"):
        fault = "The server's filter blocked the text."
    elif reply.thinks and reason == "length":
        fault = "The model was still thinking when it was cut off at max_tokens."
    else:
        fault = f"The model sent no text; the server's reason is {said!r}."
    return replace(reply, text="", fault=fault)


def _text(content: Any) -> str:
    """A message's text, which some servers send in parts; those of a thought are no text."""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return _whole("".join(text for text in texts if isinstance(text, str)))


def _whole(text: str) -> str:
    """Half a character, as of an emoji that was cut off, cannot be written into a file."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def find_object(text: str, schema: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The last of the outermost JSON objects in a text that fits a schema, else None and what was wrong.

    Around it may be words, a code fence or a draft. Capitals in a word of an `enum` do not count, texts are cut at
    their `maxLength`, and a backslash that begins no escape stands for itself.
    """
    text = _ESCAPE.sub(lambda found: found[0] if found[1] else r"\\", text)
    fitting, end, fault = None, 0, "no JSON object"
    for brace in re.finditer(r"\{", text):
        if brace.start() < end:
            continue
        try:
            found, end = json.JSONDecoder(strict=False).raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        found = json.loads(_whole(json.dumps(found, ensure_ascii=False)))
        for name, rule in schema.get("properties", {}).items():
            if isinstance(found.get(name), str):
                words = {word.casefold(): word for word in rule.get("enum", ())}
                found[name] = words.get(found[name].strip().casefold(), found[name][: rule.get("maxLength")])
        try:
            fitting = _validator(json.dumps(schema))(found, name_prefix="reply")
        except fastjsonschema.JsonSchemaValueException as error:
            fault = f"no JSON object that fits the schema ({error.message[:200]})"
    return fitting, fault


@cache
def _validator(schema: str) -> Callable[..., dict[str, Any]]:
    """Returns what fits the schema, else raises JsonSchemaValueException."""
    validate: Callable[..., dict[str, Any]] = fastjsonschema.compile(json.loads(schema), use_default=False)
    return validate
