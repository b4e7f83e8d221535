"""Requests to one server: sent, repeated where that may help, and slowed down where the server asks for it."""

import os
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import tenacity

from helpers.config import Endpoint
from helpers.endpoint.accepted import Accepted, Messages
from helpers.endpoint.failures import Failures, Refusal
from helpers.endpoint.replies import decoded
from helpers.errors import ConfigError, EndpointError
from helpers.progress import tqdm
from helpers.server import Server

Answer = dict[str, Any] | Refusal | EndpointError
"""A JSON object, or why none came."""
UP_AFTER = 20
"""Requests that end well, after a slow-down, before one more is under way at once."""
UNREACHED = 4
"""Tries of a request at most, where the connection fails: the address may be wrong, and a reader waits."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_BACK_OFF = tenacity.wait_exponential_jitter(multiplier=0.5, max=8, jitter=0.25)


class Lanes:
    """At most `most` requests at once; half as many after a server asks to slow down, then slowly more again."""

    def __init__(self, most: int) -> None:
        self.open = self._most = most
        self._busy = self._well = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._busy < self.open)
            self._busy += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._changed:
            self._busy -= 1
            self._well += kind is None
            if self._well >= UP_AFTER and self.open < self._most:
                self.open, self._well = self.open + 1, 0
            self._changed.notify_all()

    def slow_down(self) -> None:
        """The server has refused a request because there were too many."""
        with self._changed:
            self.open, self._well = max(1, self.open // 2), 0


class Transport:
    """One server. `accepted`: what it is known to accept; `failures`: words its failures; `lanes`: requests at once.

    `client.base_url` is the address below which requests are sent. `comes_back`: whether a server that has answered is
    waited for when it is down, as it may be restarting.

    Raises:
        ConfigError: the address, the key, or a proxy's address cannot be used.
    """

    def __init__(self, server: Server, settings: Endpoint, *, comes_back: bool = True) -> None:
        import openai  # whose import takes two seconds

        try:
            address = urlsplit(str(server.base_url))
            host = address.hostname if address.scheme in ("http", "https") and address.port != 0 else None
        except ValueError:  # brackets that do not close, or a port that is no number
            host = None
        if host is None:
            raise ConfigError(
                f"The endpoint's address is {server.place!r}; expected one such as http://127.0.0.1:8080/v1. Correct "
                "endpoint.base_url, or OPENAI_BASE_URL or OWUI_URL in .env."
            )
        key = server.api_key.get_secret_value() if server.api_key else ""
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError("The endpoint's API key holds spaces or odd characters; copy it into .env again.")
        self.name, self.settings, self._comes_back, self._has_answered = server.name(), settings, comes_back, False
        self._told, self._telling = set[str](), threading.Lock()
        self.accepted = Accepted(settings.extra, self.tell)
        self.failures, self.lanes = Failures(server.place, key, settings), Lanes(settings.parallel_requests)
        try:
            base_url, _, query = str(server.base_url).partition("?")
            self.client = openai.OpenAI(
                base_url=base_url,
                default_query=dict(parse_qsl(query)),
                default_headers={"api-key": key} if key and host.endswith(".azure.com") else None,
                api_key=key or "none",  # The library insists on one.
                timeout=openai.Timeout(settings.timeout_s, connect=min(settings.timeout_s, 10)),
                max_retries=0,
                # A proxy cannot reach this machine's loopback.
                http_client=openai.DefaultHttpxClient(
                    trust_env=host not in _LOOPBACK, verify=_trusted(), follow_redirects=False
                ),
            )
        except Exception as error:  # of several libraries; their texts may hold a proxy's password
            fault = type(error).__name__
        else:
            return
        raise ConfigError(
            f"The environment's proxy or certificates cannot be used: {fault}. Write ALL_PROXY=socks5://... or "
            "HTTPS_PROXY=http://..., and SSL_CERT_FILE=<a .pem file>, or remove these variables."
        )

    def tell(self, news: str) -> None:
        """Say once what was found out about the server, above any progress bar."""
        with self._telling:
            if news not in self._told:
                self._told.add(news)
                tqdm.write(f"{self.name}: {news}.")

    def models(self) -> Answer:
        """The list of models. Raises EndpointError where the server cannot be reached."""
        return self._sent(self.client.models.with_raw_response.list)

    def chat(self, messages: Messages, wanted: Mapping[str, Any], model: str) -> Answer:
        """A chat completion, after as many requests as it takes to learn which of their fields the server accepts.

        Raises EndpointError where the server cannot be reached.
        """
        while True:
            room = self.accepted.room
            sent = self.accepted.fields(messages, wanted, room) | {"model": model}
            body = self._sent(self.client.chat.completions.with_raw_response.create, **sent)
            if not isinstance(body, Refusal) or not self.accepted.learn(body, sent, room):
                return body

    def _sent(self, method: Callable[..., Any], /, **fields: Any) -> Answer:
        import openai

        def attempt() -> Answer:
            try:
                text = method(**fields).content.decode("utf-8", "replace")  # JSON is UTF-8, whatever a header says
            except openai.APIStatusError as error:
                refusal = Refusal(error.status_code, error.response.text, error.response.headers)
            else:
                body = decoded(text)
                if not isinstance(body, dict):
                    return self.failures.not_json(text)
                self._has_answered = True
                told = None if body.get("choices") else body.get("error")
                if not told:
                    return body
                code = told.get("code") if isinstance(told, dict) else None
                refusal = Refusal(code if isinstance(code, int) and code >= 400 else 500, text)
            if refusal.status == 429:
                self.lanes.slow_down()
            raise refusal

        def may_pass(error: BaseException) -> bool:
            if isinstance(error, Refusal):
                return error.may_pass and not (fields and self.accepted.refused_field(error, fields))
            return isinstance(error, openai.APIConnectionError)  # a timeout is one too

        retry = tenacity.retry_if_exception(may_pass)
        stop = partial(self._given_up, Counter[str]())
        retrying = tenacity.Retrying(retry=retry, wait=_wait_s, stop=stop, reraise=True)
        # Failures are raised outside `except`, so that they carry no link to an exception that knows the key.
        try:
            with self.lanes:
                return retrying(attempt)
        except Refusal as refusal:
            return refusal
        except Exception as error:  # an odd address or header ends in errors of other libraries too
            failure = self.failures.explain(error)
        raise failure

    def _given_up(self, counts: Counter[str], state: tenacity.RetryCallState) -> bool:
        """Whether a request is not sent again. Tries while it is waited for are not counted; all waiting is."""
        import openai

        error = state.outcome.exception() if state.outcome else None
        passed_s = float(state.seconds_since_start or 0) + float(state.upcoming_sleep)
        if isinstance(error, Refusal) and error.loading:
            self.tell(f"it loads its model; waiting for up to {self.settings.loading_s:g} s")
            counts["waited"] += 1
            return passed_s >= self.settings.loading_s
        # By name, as httpx is a dependency of openai, not of the course.
        unreached = type(getattr(error, "__cause__", None)).__name__ in ("ConnectError", "ConnectTimeout")
        if unreached and self._has_answered and self._comes_back:
            self.tell(f"it is down; waiting for up to {self.settings.max_wait_s:g} s")
            counts["waited"] += 1
            return passed_s >= self.settings.max_wait_s
        most = self.settings.max_attempts
        if isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
            most = min(most, UNREACHED)
        return state.attempt_number - counts["waited"] >= most or passed_s >= self.settings.max_wait_s


def _wait_s(state: tenacity.RetryCallState) -> float:
    """Seconds until the next attempt: what the server asks for, and no less than the usual back-off."""
    error = state.outcome.exception() if state.outcome else None
    return max(_BACK_OFF(state), error.wait_s if isinstance(error, Refusal) else 0.0)


def _trusted() -> ssl.SSLContext | bool:
    """Certificates that the environment names, which the library would not read for this machine's loopback."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    return ssl.create_default_context(cafile=file, capath=folder) if file or folder else True
