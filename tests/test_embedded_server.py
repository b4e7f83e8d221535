"""The real client against the embedded server."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from chat_client import ASK, KEY, OPTIONS, SCHEMA, configured, message_of

from helpers.endpoint.chat import open_endpoint
from helpers.endpoint.embedded_server import embedded_server
from helpers.errors import EndpointError, ModelError
from helpers.installed import embedded_gguf


def server_process() -> psutil.Process:
    (child,) = (child for child in psutil.Process().children() if "helpers.endpoint.embedded_server" in child.cmdline())
    return child


def test_the_embedded_server_answers_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with open_endpoint(configured(provider="embedded", parallel_requests=2)) as chat:
        assert chat.model and "/" not in chat.model
        child = server_process()
        reply = chat.complete(ASK, max_tokens=8, temperature=0.0, seed=1)
        assert chat.usage["completion_tokens"] == 8 and reply.finish_reason == "length" and reply.text
        found = chat.complete_json(ASK, schema=SCHEMA, max_tokens=100, temperature=0.0, seed=1)
        assert found["verdict"] in ("correct", "incorrect") and chat._json_format == "json_schema"
        message = message_of(lambda: chat.complete([{"role": "user", "content": "a b " * 2000}], **OPTIONS))
        assert "400" in message and "context" in message
    assert not child.is_running()


def test_the_embedded_server_dies_with_its_parent() -> None:
    code = (
        "import time; from helpers.endpoint.embedded_server import embedded_server\n"
        "from helpers.installed import embedded_gguf\n"
        "with embedded_server(embedded_gguf(), 1) as url: print(url, flush=True); time.sleep(60)"
    )
    root = Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root) as parent:
        assert parent.stdout is not None and parent.stdout.readline().startswith(b"http://127.0.0.1:")
        (child,) = psutil.Process(parent.pid).children()
        os.kill(parent.pid, signal.SIGKILL)
        child.wait(timeout=5)


@pytest.mark.parametrize(
    ("chosen", "spins"), [({}, "500"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, None)]
)
def test_the_servers_threads_soon_sleep_while_they_wait(
    monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], spins: str | None
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    with embedded_server(embedded_gguf(), 1):
        told = server_process().environ()
    assert told.get("GOMP_SPINCOUNT") == spins and told.get("OMP_WAIT_POLICY") == chosen.get("OMP_WAIT_POLICY")


def test_a_gguf_file_that_cannot_be_served_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no GGUF file"), embedded_server(tmp_path / "absent.gguf", 1):
        pass
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    with pytest.raises(EndpointError, match="stopped with exit code"), embedded_server(broken, 1):
        pass
