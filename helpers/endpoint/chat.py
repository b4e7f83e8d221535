"""One chat client for any OpenAI-compatible server: OpenAI, Open WebUI, vLLM, Ollama or the embedded one.

It finds out what the server offers and accepts, and raises errors that a reader can act on. No error holds the API key,
or a link to an exception of the library that sends requests: its request headers hold the key.
"""

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.config import Endpoint
from helpers.endpoint.accepted import Messages
from helpers.endpoint.embedded_server import embedded_server
from helpers.endpoint.failures import Refusal
from helpers.endpoint.offered import find_model
from helpers.endpoint.replies import Reply, find_object, read_reply
from helpers.endpoint.transport import Transport
from helpers.errors import EndpointError, RequestRejected, UnreadableReply
from helpers.files import Record
from helpers.installed import embedded_gguf
from helpers.server import Server, resolve_endpoint


class ChatEndpoint:
    """A chat model behind an address such as `http://127.0.0.1:8080/v1`. Safe to share between threads.

    Without a model the first chat model offered is used. An attempt is given up after `timeout_s` seconds of silence;
    no further one is made when `max_attempts` or `max_wait_s` since the start of a request are used up, or `loading_s`
    while the server loads its model. Callers should send `parallel_requests` at a time; fewer are under way where the
    server asks to slow down.

    Raises:
        ConfigError: the address, the key or a proxy's address cannot be used.
    """

    def __init__(self, server: Server, settings: Endpoint, *, embedded: bool = False) -> None:
        self.model, self.name, self.embedded = server.model, server.name(), embedded
        self.parallel_requests = settings.parallel_requests
        self._transport = Transport(server, settings, comes_back=not embedded)
        self.accepted, self._failures = self._transport.accepted, self._transport.failures
        self._probing, self._counting = threading.Lock(), threading.Lock()
        self._json_format: str | None = None
        self._context: int | None = None
        self.usage = Counter[str]()  # requests, prompt_tokens, completion_tokens, as far as the server tells

    def check(self) -> str:
        """Find the address below which the server lists its models, and settle on one; return its name.

        The configured model may be listed with a tag or a prefix, or not at all if the server answers for it.

        Raises:
            EndpointError: the server cannot be used, or does not offer the model.
        """
        self.model, self._context = find_model(self._transport, self.model)
        return self.model

    def probe(self) -> Record:
        """Ask for a word and for a JSON object, so that what the server refuses is known before many requests are sent.

        Returns:
            `{"model", "context", "thinks", "refused", "json", "parallel_requests"}`; `context` in tokens, None where
            the server does not say; `json` is the format of `complete_json`, None where no object came.
        """
        told = [{"role": "system", "content": "You answer in one word."}]
        told.append({"role": "user", "content": "Which colour is the sky on a clear day?"})
        schema = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
        options: dict[str, Any] = {"max_tokens": 24, "temperature": 0.2, "seed": 1}
        with suppress(UnreadableReply):
            self.complete(told, **options, stop=["\n"])
        with suppress(UnreadableReply):
            self.complete_json(told, schema=schema, **options)
        return self.record()

    def record(self) -> Record:
        """What is known of the server; see `probe`."""
        return {
            "model": self.model,
            "context": self._context,
            "thinks": self.accepted.thinks,
            "refused": list(self.accepted.refused),
            "json": self._json_format,
            "parallel_requests": self._transport.lanes.open,
        }

    def complete(
        self, messages: Messages, *, max_tokens: int, temperature: float, seed: int, stop: list[str] | None = None
    ) -> Reply:
        """Ask for one reply.

        Args:
            messages: the conversation, `{"role", "content"}` each.
            max_tokens: longest reply, thoughts apart.
            temperature: 0 for the likeliest words; servers take up to 2.
            seed: for servers that honour it.
            stop: strings that end the reply.

        Raises:
            EndpointError: the server cannot be used, or every attempt failed.
            UnreadableReply: the server answered, but with no text.
        """
        wanted = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed} | ({"stop": stop} if stop else {})
        return self._complete(messages, wanted)

    def complete_json(
        self, messages: Messages, *, schema: dict[str, Any], accept: dict[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        """Ask for one JSON object that fits a JSON schema, in the strictest way this server supports.

        The first request determines the way: a JSON schema, else JSON mode, else words in the prompt. Some
        servers reject a format they do not know, others silently ignore it; both lead to the next one.
        The options are those of `complete`. `accept`: a looser schema that the reply has to fit; null = the same.

        Raises:
            EndpointError: as in `complete`.
            UnreadableReply: the reply holds no object that fits the schema.
        """

        def ask(json_format: str) -> Reply:
            if json_format == "json_schema":
                form = {"type": json_format, "json_schema": {"name": "reply", "schema": schema, "strict": True}}
                return self._complete(messages, {**options, "response_format": form})
            wish = f"Reply with one JSON object and nothing else. It fits this JSON schema:\n{json.dumps(schema)}"
            *earlier, last = messages
            further: dict[str, Any] = {"response_format": {"type": json_format}} if json_format == "json_object" else {}
            asked = [*earlier, {**last, "content": f"{last['content']}\n\n{wish}"}]
            return self._complete(asked, {**options, **further})

        with self._probing:  # The first caller finds the format out, the others wait for it.
            known = self._json_format
            reply = None if known else self._probe_json(ask, schema)
        reply = reply or ask(str(known))
        found, fault = find_object(reply.text, accept or schema)
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
            is_whole = text.endswith("}") and find_object(text, strict)[0] is not None
            if text.startswith("{") and (is_whole or reply.finish_reason == "length"):
                break
        else:
            json_format = "prompt"
            reply = ask(json_format)
        self._json_format = json_format
        return reply

    def _complete(self, messages: Messages, wanted: Mapping[str, Any]) -> Reply:
        reply = self._reply(messages, wanted)
        if not reply.text and "stop" in wanted and "stop" not in self.accepted.refused:
            again = self._reply(messages, {name: value for name, value in wanted.items() if name != "stop"})
            if again.late:
                self.accepted.refuse("stop", "replies begin with blank lines or thoughts, which it would cut off")
            reply = again
        if reply.thinks and not self.accepted.thinks:
            self.accepted.leave_room()
            if not reply.text:
                reply = self._reply(messages, wanted)
        if reply.fault:
            raise UnreadableReply(reply.fault)
        return reply.cut_at(wanted.get("stop", ()))

    def _reply(self, messages: Messages, wanted: Mapping[str, Any]) -> Reply:
        body = self._transport.chat(messages, wanted, self.model or self.check())
        if isinstance(body, Refusal):
            failure = self._failures.explain(body)
            if body.status >= 500 and "response_format" in wanted and not self._json_format:  # it fails at the format
                failure = RequestRejected(str(failure))
            raise failure
        if isinstance(body, EndpointError):
            raise body
        told = body.get("usage")
        counts = told if isinstance(told, dict) else {}
        with self._counting:
            for name, count in {**counts, "requests": 1}.items():
                self.usage[name] += count if isinstance(count, int) else 0
        if (reply := read_reply(body)) is not None:
            return replace(reply, text=self._failures.redact(reply.text))
        start = self._failures.shorten(json.dumps(body))
        raise self._failures.error(
            f"answered with JSON that is no chat completion ({start}); check its address", UnreadableReply
        )


@contextmanager
def open_endpoint(settings: Endpoint) -> Iterator[ChatEndpoint]:
    """Yield a checked endpoint, started first when it is the embedded one, which answers `parallel_requests` at a time.

    Raises:
        ConfigError: settings or environment variables are missing or wrong.
        EndpointError: the endpoint cannot be used.
        ModelError: the embedded model is not installed.
    """
    server = resolve_endpoint(settings.provider, settings.base_url, settings.model, os.environ)
    with ExitStack() as stack:
        asked = server
        if server.base_url is None:
            gguf = Path(server.model).expanduser() if server.model else embedded_gguf()
            # Each slot remembers one prompt; with two a request, questions and answers do not push each other out.
            url = stack.enter_context(embedded_server(gguf, 2 * settings.parallel_requests))
            server, asked = server._replace(model=str(gguf)), Server(url, None, None)
        endpoint = ChatEndpoint(asked, settings, embedded=server.base_url is None)
        offered = endpoint.check()
        endpoint.name = server.name(server.model or offered)
        yield endpoint
