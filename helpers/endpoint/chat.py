"""One chat client for any OpenAI-compatible server: OpenAI, Open WebUI, vLLM, Ollama or the embedded one.

The `openai` library sends the requests, tenacity repeats them. This module adds JSON from servers that do not all
support it, and errors that a reader can act on. No error holds the API key, or a link to an exception of the
library: its request headers hold the key.
"""

import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema  # type: ignore[import-untyped]
import openai
import tenacity
from pydantic import SecretStr

from helpers.config import Endpoint
from helpers.endpoint.embedded_server import embedded_server
from helpers.endpoint.failures import Failures
from helpers.errors import ConfigError, RequestRejected, UnreadableReply
from helpers.installed import embedded_gguf
from helpers.server import Server, resolve_endpoint

Messages = Sequence[Mapping[str, str]]

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_BACK_OFF = tenacity.wait_exponential_jitter(multiplier=0.5, max=8, jitter=0.25)


@dataclass(frozen=True)
class Reply:
    """What the model wrote.

    `finish_reason` is `stop`, `length` when it was cut off at `max_tokens`, or another word of the server;
    `completion_tokens` is None where the server does not say.
    """

    text: str
    finish_reason: str
    completion_tokens: int | None


class ChatEndpoint:
    """A chat model behind an address such as `http://127.0.0.1:8080/v1`. Safe to share between threads.

    Without `model` the first one offered is used. An attempt is given up after `timeout_s` seconds of silence;
    no further one is made when `max_attempts` or `max_wait_s` since the start of a request are used up. Callers should
    send `parallel_requests` at a time.

    Raises:
        ConfigError: the address or the key cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        api_key: SecretStr | None = None,
        timeout_s: float = 120,
        max_attempts: int = 4,
        max_wait_s: float = 60,
        parallel_requests: int = 8,
    ) -> None:
        server = Server(base_url, model, api_key)
        host = None
        with suppress(ValueError):  # brackets that do not close, or a port that is no number
            address = urlsplit(base_url)
            host = address.hostname if address.scheme in ("http", "https") and address.port != 0 else None
        if host is None:
            raise ConfigError(
                f"The endpoint's address is {server.place!r}; expected one such as http://127.0.0.1:8080/v1."
            )
        key = api_key.get_secret_value() if api_key else ""
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError("The endpoint's API key holds blanks or odd characters; copy it again.")
        self.model = model
        self.name = server.name()
        self.parallel_requests = parallel_requests
        self._failures = Failures(server.place, key, timeout_s, max_attempts, max_wait_s)
        self._probing = threading.Lock()
        self._json_format: str | None = None
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            wait=_wait_s,
            stop=tenacity.stop_after_attempt(max_attempts) | tenacity.stop_before_delay(max_wait_s),
            reraise=True,
        )
        self._client = openai.OpenAI(
            base_url=base_url.rstrip("/"),
            api_key=key or "none",  # The library insists on one.
            timeout=openai.Timeout(timeout_s, connect=min(timeout_s, 10)),
            max_retries=0,
            # A proxy cannot reach this machine's loopback.
            http_client=openai.DefaultHttpxClient(trust_env=host not in _LOOPBACK),
        )

    def check(self) -> str:
        """Settle on the configured model, else on the first one the server offers; return its name.

        Raises:
            EndpointError: the server cannot be used, or does not offer the model.
        """
        data = self._fetch(self._client.models.with_raw_response.list).get("data")
        models = data if isinstance(data, list) else []
        offered = [str(item["id"]) for item in models if isinstance(item, dict) and "id" in item]
        if not offered:
            raise self._failures.error("lists no model; load one on the server, or check the address")
        if self.model is None:
            self.model = offered[0]
        elif self.model not in offered:
            raise self._failures.error(
                f"does not offer the model {self.model!r}; set endpoint.model to one it offers, "
                f"such as {', '.join(offered[:5])}"
            )
        return self.model

    def complete(self, messages: Messages, *, max_tokens: int, temperature: float, seed: int, **further: Any) -> Reply:
        """Ask for one reply.

        Args:
            messages: the conversation, `{"role", "content"}` each.
            max_tokens: longest reply.
            temperature: 0 for the likeliest words; servers take up to 2.
            seed: for servers that honour it.
            further: arguments of the interface, such as `stop`: strings that end the reply.

        Raises:
            EndpointError: the server cannot be used, or every attempt failed.
            UnreadableReply: the server answered, but with no text.
        """
        further |= {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        further |= {"model": self.model or self.check(), "messages": messages}
        body = self._fetch(partial(self._client.chat.completions.with_raw_response.create, **further))
        match body:
            case {"choices": [{"message": {"content": str(text)}} as choice, *_]}:
                usage = body.get("usage") or {}
                return Reply(text, str(choice.get("finish_reason")), usage.get("completion_tokens"))
            case {"choices": [{"message": {}} as choice, *_]}:
                reason = choice.get("finish_reason")
                raise UnreadableReply(f"The model sent no text; the server's reason is {reason!r}.")
        start = self._failures.shorten(json.dumps(body))
        raise self._failures.error(f"answered with JSON that is no chat completion ({start}); check its address")

    def complete_json(self, messages: Messages, *, schema: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Ask for one JSON object that fits a JSON schema, in the strictest way this server supports.

        The first request finds that way out: a JSON schema, else JSON mode, else words in the prompt. Some
        servers reject a format they do not know, others silently ignore it; both lead to the next one.
        The options are those of `complete`.

        Raises:
            EndpointError: the server cannot be used, or every attempt failed.
            UnreadableReply: the reply holds no object that fits the schema.
        """

        def ask(json_format: str) -> Reply:
            if json_format == "json_schema":
                form = {"type": json_format, "json_schema": {"name": "reply", "schema": schema, "strict": True}}
                return self.complete(messages, response_format=form, **options)
            wish = f"Reply with one JSON object and nothing else. It fits this JSON schema:\n{json.dumps(schema)}"
            *earlier, last = messages
            further: dict[str, Any] = {"response_format": {"type": json_format}} if json_format == "json_object" else {}
            asked = [*earlier, {**last, "content": f"{last['content']}\n\n{wish}"}]
            return self.complete(asked, **further, **options)

        with self._probing:  # The first caller finds the format out, the others wait for it.
            known = self._json_format
            reply = None if known else self._probe_json(ask, schema)
        reply = reply or ask(str(known))
        found, fault = _find_object(reply.text, schema)
        if found is None:
            cut = ", and was cut off at max_tokens" if reply.finish_reason == "length" else ""
            fault, start = self._failures.shorten(fault), self._failures.shorten(reply.text)
            raise UnreadableReply(f"The reply holds {fault}{cut}; it starts: {start!r}.")
        return found

    def _probe_json(self, ask: Callable[[str], Reply], schema: dict[str, Any]) -> Reply:
        for json_format in ("json_schema", "json_object"):
            try:
                reply = ask(json_format)
            except RequestRejected:
                continue
            # Left free to choose, a model adds words around the object: the server ignored the format.
            text, strict = reply.text.strip(), schema if json_format == "json_schema" else {}
            is_whole = text.endswith("}") and _find_object(text, strict)[0] is not None
            if text.startswith("{") and (is_whole or reply.finish_reason == "length"):
                break
        else:
            json_format = "prompt"
            reply = ask(json_format)
        self._json_format = json_format
        return reply

    def _fetch(self, send: Callable[[], Any]) -> dict[str, Any]:
        """Send a request, again where that may help; return the decoded JSON object."""
        # Failures are raised outside `except`, so that they carry no link to an exception that knows the key.
        body: Any = None
        try:
            text = self._retrying(send).text
        except openai.OpenAIError as error:
            failure = self._failures.explain(error)
        else:
            failure = self._failures.not_json(text)
            with suppress(ValueError, RecursionError):
                body = json.loads(text)
        if isinstance(body, dict):
            return body
        raise failure


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later; a format that is not implemented (501) will not."""
    if not isinstance(error, openai.APIStatusError):
        return isinstance(error, openai.APIConnectionError)  # a timeout is one too
    told, status = error.response.headers.get("x-should-retry"), error.status_code  # what OpenAI's servers know of it
    return status != 501 and (told == "true" or (told != "false" and (status in (408, 409, 429) or status >= 500)))


def _wait_s(state: tenacity.RetryCallState) -> float:
    """Seconds until the next attempt: what the server asks for, and no less than the usual back-off."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.response.headers.get("retry-after", 0) if isinstance(error, openai.APIStatusError) else 0
    wait_s = _BACK_OFF(state)
    with suppress(ValueError):  # a date
        wait_s = max(wait_s, float(asked))
    return wait_s


def _find_object(text: str, schema: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """The first of the outermost JSON objects in a text that fits a schema, else None and what was wrong.

    Around it may be words, a code fence or a reasoning model's thoughts.
    """
    text, end, fault = text.rpartition("</think>")[2], 0, "no JSON object"
    for brace in re.finditer(r"\{", text):
        if brace.start() < end:
            continue
        try:
            found, end = json.JSONDecoder().raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(found))
        if error is None:
            return found, ""
        fault = f"no JSON object that fits the schema ({error.message[:200]})"
    return None, fault


@contextmanager
def open_endpoint(settings: Endpoint) -> Iterator[ChatEndpoint]:
    """Yield a checked endpoint, started first when it is the embedded one, which answers `parallel_requests` at a time.

    Raises:
        ConfigError: settings or environment variables are missing or wrong.
        EndpointError: the endpoint cannot be used.
        ModelError: the embedded model is not installed.
    """
    parallel = settings.parallel_requests
    server = resolve_endpoint(settings.provider, settings.base_url, settings.model, os.environ)
    url, model, key = server
    with ExitStack() as stack:
        if url is None:
            gguf, model = Path(model).expanduser() if model else embedded_gguf(), None
            # Each slot remembers one prompt; with two a request, questions and answers do not push each other out.
            url = stack.enter_context(embedded_server(gguf, 2 * parallel))
            server = server._replace(model=str(gguf))
        endpoint = ChatEndpoint(
            url, model, key, settings.timeout_s, settings.max_attempts, settings.max_wait_s, parallel
        )
        offered = endpoint.check()
        endpoint.name = server.name(server.model or offered)
        yield endpoint
