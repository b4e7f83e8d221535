"""One chat client for any OpenAI-compatible server: OpenAI, Open WebUI, vLLM, Ollama or the embedded one.

The `openai` library does the requests and the retries. This module adds what it leaves open: a bound on the
whole wait, JSON from servers that do not all support it, and errors that a reader can act on. No error holds
the API key, nor a link to an exception of the library, whose request headers do.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlsplit

import openai
from pydantic import SecretStr

from helpers.endpoint.embedded_server import embedded_server
from helpers.endpoint.failures import Failures
from helpers.endpoint.json_reply import find_object
from helpers.errors import ConfigError, RequestRejected, UnreadableReply
from helpers.installed import embedded_gguf
from helpers.server import Server, resolve_endpoint

if TYPE_CHECKING:
    import httpx2

    from helpers.config import Endpoint

Messages = Sequence[Mapping[str, str]]
JsonFormat = Literal["json_schema", "json_object", "prompt"]

_JSON_FORMATS: tuple[JsonFormat, ...] = ("json_schema", "json_object", "prompt")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Reply:
    """What the model wrote.

    Attributes:
        text: the reply, as sent.
        finish_reason: `stop`, `length` when it was cut off at `max_tokens`, or another word of the server.
        completion_tokens: its length in tokens; None where the server does not say.
    """

    text: str
    finish_reason: str
    completion_tokens: int | None


class ChatEndpoint:
    """A chat model behind an OpenAI-compatible address. Safe to share between threads.

    Args:
        base_url: address up to the part before `/chat/completions`, such as `http://127.0.0.1:8080/v1`.
        model: name the server lists; None takes the first one it offers.
        api_key: sent as bearer token; None for servers that want none.
        timeout_s: seconds of silence after which one attempt is given up.
        max_attempts: attempts for each request, 1 or more.
        max_wait_s: seconds after the start of a request from which no further attempt is made.
        parallel_requests: how many requests callers should send at a time.

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
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.name = server.name()
        self.max_wait_s = max_wait_s
        self.parallel_requests = parallel_requests
        self._failures = Failures(server.place, key, timeout_s, max_attempts, max_wait_s)
        self._request = threading.local()  # .give_up_at: when the request of this thread runs out of time
        self._probing = threading.Lock()
        self._json_format: JsonFormat | None = None
        self._client = openai.OpenAI(
            base_url=self.base_url,
            api_key=key or "none",  # The library insists on one.
            timeout=openai.Timeout(timeout_s, connect=min(timeout_s, 10)),
            max_retries=max_attempts - 1,
            http_client=openai.DefaultHttpxClient(
                event_hooks={"request": [self._before_attempt], "response": [self._after_attempt]},
                trust_env=host not in _LOOPBACK,  # A proxy cannot reach this machine's loopback.
            ),
        )

    def check(self) -> str:
        """Settle on the configured model, else on the first one the server offers; return its name.

        Raises:
            EndpointError: the server cannot be used, or does not offer the model.
        """
        body = self._fetch(self._client.models.with_raw_response.list)
        data = body.get("data")
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

    def complete(
        self,
        messages: Messages,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str] | None = None,
    ) -> Reply:
        """Ask for one reply.

        Args:
            messages: the conversation, `{"role", "content"}` each.
            max_tokens: longest reply, in tokens.
            temperature: 0 for the likeliest words; servers take up to 2.
            seed: for servers that honour it.
            stop: strings that end the reply.

        Raises:
            EndpointError: the server cannot be used, or every attempt failed.
            UnreadableReply: the server answered, but with no text.
        """
        extra: dict[str, Any] = {"stop": list(stop)} if stop else {}
        return self._complete(messages, max_tokens=max_tokens, temperature=temperature, seed=seed, **extra)

    def complete_json(
        self, messages: Messages, *, schema: dict[str, Any], max_tokens: int, temperature: float, seed: int
    ) -> dict[str, Any]:
        """Ask for one JSON object that fits a schema, in the strictest way this server supports.

        The first request finds that way out: a JSON schema, else JSON mode, else words in the prompt. Some
        servers reject a format they do not know, others silently ignore it; both lead to the next one.
        The arguments are those of `complete`, and `schema`, the JSON Schema of the object.

        Raises:
            EndpointError: the server cannot be used, or every attempt failed.
            UnreadableReply: the reply holds no object that fits the schema.
        """
        ask = partial(self._ask_json, messages, schema, max_tokens=max_tokens, temperature=temperature, seed=seed)
        with self._probing:  # The first caller finds the format out, the others wait for it.
            if self._json_format is None:
                return self._read_json(self._probe_json(ask, schema), schema)
        return self._read_json(ask(self._json_format), schema)

    def _probe_json(self, ask: Callable[[JsonFormat], Reply], schema: dict[str, Any]) -> Reply:
        for json_format in _JSON_FORMATS[:-1]:
            try:
                reply = ask(json_format)
            except RequestRejected:
                continue
            # Left free to choose, a model adds words around the object: the server ignored the format.
            text, strict = reply.text.strip(), schema if json_format == "json_schema" else {}
            is_whole = text.endswith("}") and find_object(text, strict)[0] is not None
            if text.startswith("{") and (is_whole or reply.finish_reason == "length"):
                break
        else:
            json_format = _JSON_FORMATS[-1]
            reply = ask(json_format)
        self._json_format = json_format
        return reply

    def _ask_json(self, messages: Messages, schema: dict[str, Any], json_format: JsonFormat, **options: Any) -> Reply:
        if json_format == "json_schema":
            described = {"name": "reply", "schema": schema, "strict": True}
            options["response_format"] = {"type": json_format, "json_schema": described}
            return self._complete(messages, **options)
        wish = f"Reply with one JSON object and nothing else. It fits this JSON schema:\n{json.dumps(schema)}"
        *earlier, last = messages
        if json_format == "json_object":
            options["response_format"] = {"type": json_format}
        return self._complete([*earlier, {**last, "content": f"{last['content']}\n\n{wish}"}], **options)

    def _read_json(self, reply: Reply, schema: dict[str, Any]) -> dict[str, Any]:
        found, fault = find_object(reply.text, schema)
        if found is None:
            cut = ", and was cut off at max_tokens" if reply.finish_reason == "length" else ""
            fault, start = self._failures.shorten(fault), self._failures.shorten(reply.text)
            raise UnreadableReply(f"The reply holds {fault}{cut}; it starts: {start!r}.")
        return found

    def _complete(self, messages: Messages, **options: Any) -> Reply:
        model = self.model or self.check()
        create = self._client.chat.completions.with_raw_response.create
        body = self._fetch(lambda: create(model=model, messages=cast(Any, messages), **options))
        match body:
            case {"choices": [{"message": {"content": str(text)}} as choice, *_]}:
                usage = body.get("usage") or {}
                return Reply(text, str(choice.get("finish_reason")), usage.get("completion_tokens"))
            case {"choices": [{"message": {}} as choice, *_]}:
                reason = choice.get("finish_reason")
                raise UnreadableReply(f"The model sent no text; the server's reason is {reason!r}.")
        start = self._failures.shorten(json.dumps(body))
        raise self._failures.error(f"answered with JSON that is no chat completion ({start}); check its address")

    def _fetch(self, send: Callable[[], Any]) -> dict[str, Any]:
        """Send a request with the library's retries; return the decoded JSON object."""
        self._request.give_up_at = time.monotonic() + self.max_wait_s
        # Failures are raised outside `except`, so that they carry no link to an exception that knows the key.
        body: Any = None
        try:
            text = send().text
        except openai.OpenAIError as error:
            failure = self._failures.explain(error)
        else:
            failure = self._failures.not_json(text)
            with suppress(ValueError, RecursionError):
                body = json.loads(text)
        if isinstance(body, dict):
            return body
        raise failure

    def _before_attempt(self, request: "httpx2.Request") -> None:
        # The library retries after a timeout without looking at the clock; its own errors stop it.
        is_retry = request.headers.get("x-stainless-retry-count", "0") != "0"
        if is_retry and time.monotonic() > self._request.give_up_at:
            raise openai.APITimeoutError(request=request)

    def _after_attempt(self, response: "httpx2.Response") -> None:
        # The library obeys a Retry-After of up to 120 s each time. `x-should-retry` is its own way to be told
        # not to try again: when the next attempt would come too late, or (501) could not do better.
        if response.is_success:
            return
        retries = int(response.request.headers.get("x-stainless-retry-count", "0"))
        wait_s = min(0.5 * 2**retries, 8)  # The library's own back-off.
        response.headers.pop("retry-after-ms", None)
        try:
            wait_s = max(wait_s, float(response.headers.get("retry-after", 0)))
        except ValueError:
            del response.headers["retry-after"]  # A date; back off as usual instead.
        if response.status_code == 501 or time.monotonic() + wait_s > self._request.give_up_at:
            response.headers["x-should-retry"] = "false"


@contextmanager
def open_endpoint(settings: "Endpoint", env: Mapping[str, str] | None = None) -> Iterator[ChatEndpoint]:
    """Yield a checked endpoint, started first when it is the embedded one.

    Args:
        settings: the section `endpoint` of the configuration; the embedded server answers `parallel_requests` at a
            time.
        env: environment variables; None for those of this process.

    Raises:
        ConfigError: settings or environment variables are missing or wrong.
        EndpointError: the endpoint cannot be used.
        ModelError: the embedded model is not installed.
    """
    env, parallel = os.environ if env is None else env, settings.parallel_requests
    server = resolve_endpoint(settings.provider, settings.base_url, settings.model, env)
    url, model, key = server
    with ExitStack() as stack:
        if url is None:
            gguf, model = Path(model).expanduser() if model else None, None
            # Each slot remembers one prompt; with two a request, questions and answers do not push each other out.
            url = stack.enter_context(embedded_server(gguf, 2 * parallel))
            server = server._replace(model=str(gguf or embedded_gguf()))
        limits = (settings.timeout_s, settings.max_attempts, settings.max_wait_s)
        endpoint = ChatEndpoint(url, model, key, *limits, parallel)
        offered = endpoint.check()
        endpoint.name = server.name(server.model or offered)
        yield endpoint
