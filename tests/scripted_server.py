"""A real HTTP server on the loopback interface that answers, or misbehaves, as a script tells it to."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

MODEL = "scripted-model"


@dataclass(frozen=True)
class Response:
    """What the server sends: after `delay_s`; with `truncate`, half the body it announced."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    body: str = "{}"
    delay_s: float = 0.0
    truncate: bool = False


@dataclass(frozen=True)
class Request:
    """What the client sent; names of headers are in small letters."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


Script = Callable[[int, str, dict[str, Any]], Response]


def completion(text: str | None, finish_reason: str = "stop") -> Response:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 1, "completion_tokens": 7, "total_tokens": 8}
    return Response(body=json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}))


def models(*names: str) -> Response:
    return Response(body=json.dumps({"object": "list", "data": [{"id": name} for name in names or (MODEL,)]}))


def failure(status: int, message: str = "scripted failure", **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, {"Content-Type": "application/json", **named}, json.dumps({"error": {"message": message}}))


def web_page(status: int = 200) -> Response:
    return Response(status, {"Content-Type": "text/html"}, "<!DOCTYPE html><html><body>Hello</body></html>")


class ScriptedServer:
    """Serve `script(request_number, path, body)`, counted from 0, and record the requests.

    A fixed `Response` may stand for the script. GET of a path that ends in `/models` lists `MODEL` without
    asking the script, unless `script_models` is set; it is then neither numbered nor recorded.
    """

    def __init__(self, script: Script | Response, *, script_models: bool = False, port: int = 0) -> None:
        self.requests: list[Request] = []
        self._script = script
        self._script_models = script_models
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner._answer(self)

            def do_HEAD(self) -> None:
                owner._answer(self)

            def do_POST(self) -> None:
                owner._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        body = json.loads(raw) if raw else {}
        response = models()
        if self._script_models or not handler.path.endswith("/models"):
            with self._lock:
                headers = {name.lower(): value for name, value in handler.headers.items()}
                number = len(self.requests)
                self.requests.append(Request(handler.path, headers, body))
            script = self._script
            response = script if isinstance(script, Response) else script(number, handler.path, body)
        self._stopping.wait(response.delay_s)
        data = response.body.encode()
        try:
            handler.send_response(response.status)
            for name, value in response.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            if handler.command != "HEAD":
                handler.wfile.write(data[: len(data) // 2] if response.truncate else data)
        except OSError:
            pass  # The client has hung up, as one that timed out does.

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
